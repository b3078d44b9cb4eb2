"""The honest notes of a report: everything that a reader should know before trusting a figure, one sentence each."""

from __future__ import annotations

from collections.abc import Iterable

from harness.records import EXTERNAL, Outcome, RunStatus, TimingPolicy
from harness.report.format import code, count, listing, percent, plain, seconds
from harness.report.verdicts import ComparisonView
from harness.report.view import ResultRow, RunView, grouped


def run_notes(view: RunView, comparison: ComparisonView | None) -> tuple[str, ...]:
    """Markdown sentences: the state of the run and its sources, odd cases, then what qualifies the comparison."""
    notes = [*_run_state(view), *_source(view), *_cases(view)]
    if comparison is not None:
        notes += comparison.notes
    return tuple(notes)


def _run_state(view: RunView) -> Iterable[str]:
    run = view.summary.run
    if run.status is not RunStatus.COMPLETE:
        yield f"The run is **{run.status}**, not complete: the figures below are those of the launches that finished."
    if run.filter is not None:
        yield f"The run was narrowed by the filter {code(run.filter)}: it does not cover its whole manifest."
    if view.unmeasured:
        names = ", ".join(code(planned.case.case_id) for planned in view.unmeasured[:3])
        more = ", …" if len(view.unmeasured) > 3 else ""
        planned = count(len(view.unmeasured), "planned case has", "planned cases have")
        yield f"{planned} no result: {names}{more}."
    if run.launches == 1:
        yield "There is one launch only: no spread between launches is known, and no difference can be tested."
    if run.machine.kind == "cpu":
        yield "Measured on a CPU: these times say nothing about a GPU."
    if run.arm is not None:
        yield f"The library measured is the arm {code(run.arm)} of an interleaved A/B."
    if run.imported_from is not None:
        yield f"The run was imported from {code(run.imported_from)}."
    if run.manifest == EXTERNAL:
        yield "Another program took the samples: what is said below of how times are taken does not apply to them."
    if run.note:
        yield f"Note of the run: {plain(run.note)}"


def _source(view: RunView) -> Iterable[str]:
    source = view.summary.run.source
    if source.revision is None:
        yield (
            "The revision is unknown (measured from a tree without git); the sources are identified by their hash "
            f"{code(source.source_hash[:12])}."
        )
    if source.dirty:
        yield (
            "The working tree was **dirty**: the revision alone does not reproduce these figures. A run or a baseline "
            f"with the same source hash, {code(source.source_hash[:12])}, measured the same code."
        )


def _cases(view: RunView) -> Iterable[str]:
    ok = [row for row in view.rows if row.outcome is Outcome.OK]
    surprising = [row for row in ok if row.planned.expect != "ok"]
    if surprising:
        names = listing([code(row.case.case_id) for row in surprising])
        yield f"Expected to fail, but measured without fault: {names}. The manifest's `expect` is out of date."
    yield from _few(ok, [row for row in ok if row.throttled], "lost a launch to a throttled clock")
    yield from _few(ok, [row for row in ok if row.time_s is None], "passed the quality pass but were never timed")
    short = [row for row in ok if 0 < row.launches < view.summary.run.launches]
    yield from _few(ok, short, f"were timed in fewer than the planned {view.summary.run.launches} launches")
    noisy = [row for row in ok if row.spread is not None and row.spread > 0.05 and row.planned.gates]
    yield from _few(ok, noisy, "moved by more than 5 % from launch to launch")
    unknown = sorted({f"{row.case.task}/{row.case.method}" for row in view.rows if row.facts is None})
    if unknown:
        yield f"Not registered in this version, so without FLOP count: {listing([code(name) for name in unknown])}."


def _few(ok: list[ResultRow], found: list[ResultRow], what: str) -> Iterable[str]:
    if found:
        names = ", ".join(code(row.case.case_id) for row in found[:3])
        more = ", …" if len(found) > 3 else ""
        yield f"{len(found)} of {count(len(ok), 'case')} {what}: {names}{more}."


def timing_contract(view: RunView) -> tuple[str, ...]:
    """How the times came about: one line per timing policy in use."""
    planned = [row.planned for row in view.rows]
    policies = grouped(planned, lambda case: case.timing)
    ordered = sorted(policies, key=lambda group: -len(group[1]))
    return tuple(f"{count(len(cases), 'case')}: {_policy(policy)}" for policy, cases in ordered)


def _policy(policy: TimingPolicy) -> str:
    sample = (
        "one call per sample with the L2 cache flushed before it"
        if policy.cold
        else f"calls grouped until a sample lasts {seconds(policy.min_sample_s)}"
    )
    sets = count(policy.input_sets, "input set in turn", "input sets in turn")
    shared = policy.min_graph_s and not policy.cold
    graph = f"; CUDA graphs of several calls where one is shorter than {seconds(policy.min_graph_s)}" if shared else ""
    return f"{policy.samples} samples per launch, {sample}, {seconds(policy.warmup_s)} of warm-up, {sets}{graph}."


def bottom_line(view: RunView, comparison: ComparisonView | None, reason: str | None) -> str:
    """What the run comes to, in a sentence or two."""
    status = view.summary.run.status
    partial = "" if status is RunStatus.COMPLETE else f"The run is {status}, not complete. "
    nothing = "No case gave a result; the notes name the reasons. " if view.rows and not view.ok else ""
    return partial + nothing + _compared(comparison, reason)


def _compared(comparison: ComparisonView | None, reason: str | None) -> str:
    if comparison is not None:
        return f"{plain(comparison.bottom_line)} Compared with {plain(comparison.label)}."
    return f"Not compared: {plain(reason)}" if reason else "There is no reference yet to compare with."


def outcome_line(view: RunView) -> str:
    """`120 cases: 110 ok, 10 unsupported (6 expected)`."""
    parts = []
    for outcome, number in view.outcomes.items():
        expected = sum(row.expected for row in view.rows if row.outcome is outcome)
        aside = f" ({expected} expected)" if expected and outcome is not Outcome.OK else ""
        parts.append(f"{number} {outcome}{aside}")
    return f"{count(len(view.rows), 'case')}: {', '.join(parts) or 'none measured'}"


def share_line(view: RunView) -> str:
    """How well the wall time was used; empty where nothing is known of it."""
    summary = view.summary
    parts = []
    if summary.launch_wall_s is not None:
        parts.append(f"a timed launch took {seconds(summary.launch_wall_s)} (median)")
    if summary.startup_s is not None:
        parts.append(f"a worker process took {seconds(summary.startup_s)} to start")
    if summary.timed_share is not None:
        parts.append(f"{percent(summary.timed_share)} of the wall time after start-up lay inside timed samples")
    return listing(parts)


def faults(view: RunView) -> tuple[ResultRow, ...]:
    """Cases that ended neither `ok` nor `unsupported`, unexpected ones first."""
    bad = [row for row in view.rows if row.outcome not in (Outcome.OK, Outcome.UNSUPPORTED)]
    return tuple(sorted(bad, key=lambda row: row.expected))


def unsupported(view: RunView) -> tuple[ResultRow, ...]:
    """Cases that could not be run here."""
    return tuple(row for row in view.rows if row.outcome is Outcome.UNSUPPORTED)
