"""What speaks against promoting runs, and what is inconsistent in a baseline's content. Problems are lines of text."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from harness import stats
from harness.baseline_files import BaselineCase, BaselineContent
from harness.baseline_merge import run_spread
from harness.launch_blocks import MIN_BLOCKS
from harness.records import CaseSummary, Outcome, PlannedCase, RunStatus, RunSummary, SourceIdentity

OFFICIAL_RUNS, OFFICIAL_LAUNCHES = 3, 6
"""Of an official baseline, at least: with fewer runs the spread between runs is unknown or a guess."""

UNRESOLVED = "the launches spread too wide, or are too few, to resolve the threshold of"

SHOWN = 5
"""Cases named in one line; the rest is counted."""


def refusals(runs: Sequence[RunSummary], *, reason: str, checkout: SourceIdentity | None) -> list[str]:
    """Everything that speaks against promoting `runs` together; empty if nothing does."""
    found = [] if reason.strip() else ["a promotion needs a reason"]
    if not runs:
        return [*found, "a promotion needs at least one run"]
    for each in runs:
        problems = [*_run_problems(each), *_source_problems(each, checkout), *_case_problems(each)]
        found += [f"{each.run.run_id} {problem}" for problem in problems]
    for each in runs[1:]:
        found += [f"{each.run.run_id} {problem}" for problem in _unlike(each, runs[0])]
    ids = [each.run.run_id for each in runs]
    if not found:
        found += list(_listed(UNRESOLVED, list(_unresolved(runs).values())))
    found += [f"{run_id} is given {ids.count(run_id)} times" for run_id in sorted(set(ids)) if ids.count(run_id) > 1]
    return found


def refused_cases(runs: Sequence[RunSummary]) -> dict[str, str]:
    """Case -> why it cannot be promoted from these runs; the cases that can are not in it."""
    found = {
        case_id: f"{each.run.run_id} {fault} {text}"
        for each in runs
        for fault, faults in _case_faults(each).items()
        for case_id, text in faults.items()
    }
    not_in_all = {
        case_id for each in runs for case_id in each.cases if any(case_id not in other.cases for other in runs)
    }
    comparable = [without_cases(each, frozenset({*found, *not_in_all})) for each in runs]
    return found | {case_id: f"{UNRESOLVED} {text}" for case_id, text in _unresolved(comparable).items()}


def without_cases(summary: RunSummary, case_ids: frozenset[str]) -> RunSummary:
    """The run as if these cases had not been planned."""
    planned = tuple(each for each in summary.run.cases if each.case.case_id not in case_ids)
    return summary.model_copy(
        update={
            "run": summary.run.model_copy(update={"cases": planned}),
            "cases": {case_id: case for case_id, case in summary.cases.items() if case_id not in case_ids},
        }
    )


def unofficial(runs: Sequence[RunSummary]) -> list[str]:
    """What an official baseline holds and these runs lack; empty where they may be one."""
    few = (
        f"{len(runs)} run(s): an official baseline holds at least {OFFICIAL_RUNS}, so that comparisons know the spread "
        "between runs"
    )
    short = [f"{each.run.run_id} ({each.run.launches})" for each in runs if each.run.launches < OFFICIAL_LAUNCHES]
    lacking = f"fewer launches than the {OFFICIAL_LAUNCHES} of an official baseline in"
    return [*([few] if len(runs) < OFFICIAL_RUNS else []), *_listed(lacking, short)]


def _run_problems(summary: RunSummary) -> Iterator[str]:
    run = summary.run
    if run.status is not RunStatus.COMPLETE:
        yield f"is {run.status}, not complete; `iroot bench run --resume {run.run_id}` goes on with it"
    if run.arm is not None:
        yield f"is the arm {run.arm!r} of an A/B, whose sources need not be this repository's"


def _source_problems(summary: RunSummary, checkout: SourceIdentity | None) -> Iterator[str]:
    """A local run vouches for its own commit; an imported one must have the sources of the checkout.

    Those decide then, not what git said where it was measured: a copy of a commit's files on another machine is dirty
    to a repository there that lags behind.
    """
    source = summary.run.source
    if summary.run.imported_from is None:
        if source.dirty:
            yield "was measured on a dirty tree; commit and measure again"
        elif source.revision is None or source.dirty is None:
            yield "was measured at an unknown revision; measure in a git checkout, or export and import the run"
    elif checkout is None or checkout.revision is None:
        yield "is imported, and there is no git checkout to check its sources against"
    elif checkout.dirty is not False:
        yield "is imported, and the checkout to check it against is dirty; commit or remove the changes"
    elif checkout.source_hash != source.source_hash:
        yield (
            f"is imported with the source hash {source.source_hash[:12]}, but the checkout at "
            f"{checkout.revision[:12]} has {checkout.source_hash[:12]}; check out the commit that was measured"
        )


def _case_problems(summary: RunSummary) -> Iterator[str]:
    for fault, faults in _case_faults(summary).items():
        yield from _listed(fault, list(faults.values()))


def _case_faults(summary: RunSummary) -> dict[str, dict[str, str]]:
    """Kind of fault -> case -> its id, with what more is known."""
    run, cases = summary.run, summary.cases
    return {
        "did not measure": {
            each.case.case_id: each.case.case_id for each in run.cases if each.case.case_id not in cases
        },
        "was throttled in": {case_id: case_id for case_id, case in cases.items() if case.throttled},
        "has unexpected failures:": {
            case_id: f"{case_id} ({case.outcome}, expected {case.planned.expect}{_because(case)})"
            for case_id, case in cases.items()
            if _failed_unexpectedly(case)
        },
        "lacks launches of": {
            case_id: f"{case_id} ({len(case.launch_medians_s)} of {run.launches})"
            for case_id, case in cases.items()
            if case.outcome is Outcome.OK and not case.throttled and len(case.launch_medians_s) < run.launches
        },
    }


def _unresolved(runs: Sequence[RunSummary]) -> dict[str, str]:
    """Gating cases in which a further run like these, compared with all of them merged, could not be `unchanged`.

    Its MDE, by the test that a comparison uses, must not exceed the planned threshold. Advisory cases and controls are
    exempt: no verdict rests on them, and eager launches spread by 15 % (one H100, 2026-11).
    """
    newest = max(runs, key=lambda each: each.run.run_id)
    found = {}
    for case_id, case in newest.cases.items():
        planned = case.planned
        if case.outcome is not Outcome.OK or planned.control or not planned.gates:
            continue
        mde = math.expm1(_further_run(case_id, runs, newest).mde)
        if math.isnan(mde):
            few = f"{len(case.launch_medians_s)} launches, at least {stats.MIN_LAUNCHES} are needed"
            found[case_id] = f"{case_id} ({few})"
        elif mde > planned.threshold:
            found[case_id] = f"{case_id} (MDE {100 * mde:.1f} % > {100 * planned.threshold:.1f} %)"
    return found


def _further_run(case_id: str, runs: Sequence[RunSummary], newest: RunSummary) -> stats.Estimate:
    """Blocked where every run went through its launches in the same orders; else as the newest run, unpaired."""
    medians = [{each.launch_orders.get(n): s for n, s in _times(each, case_id).items()} for each in runs]
    common = [order for order in medians[0] if order is not None and all(order in each for each in medians)]
    if len(runs) >= 2 and len(common) >= MIN_BLOCKS:
        return stats.further_run([[each[order] for each in medians] for order in common])
    every = [median_s for each in runs for median_s in _times(each, case_id).values()]
    return stats.unpaired(list(_times(newest, case_id).values()), every)


def _times(summary: RunSummary, case_id: str) -> dict[int, float]:
    return summary.cases[case_id].launch_medians_s


def _because(case: CaseSummary) -> str:
    return f": {case.error.splitlines()[0]}" if case.error else ""


def _failed_unexpectedly(case: CaseSummary) -> bool:
    return case.outcome not in (Outcome.OK, Outcome.THROTTLED) and str(case.outcome) != case.planned.expect


def _listed(what: str, names: Sequence[str]) -> Iterator[str]:
    if names:
        more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        yield f"{what} {', '.join(names[:SHOWN])}{more}"


def _unlike(summary: RunSummary, first: RunSummary) -> Iterator[str]:
    run, other = summary.run, first.run
    for name in ("manifest", "manifest_hash", "filter"):
        mine, theirs = getattr(run, name), getattr(other, name)
        if mine != theirs:
            yield f"and {other.run_id} cannot merge: {name} {mine} != {theirs}"
    if run.source.source_hash != other.source.source_hash:
        yield (
            f"and {other.run_id} cannot merge: they measured different sources, "
            f"{run.source.source_hash[:12]} != {other.source.source_hash[:12]}"
        )
    for difference in run.machine.differences(other.machine):
        yield f"and {other.run_id} cannot merge: machines differ in {difference}"
    if _plan(run.cases) != _plan(other.cases):
        yield f"and {other.run_id} cannot merge: they plan different cases"


def _plan(cases: Sequence[PlannedCase]) -> dict[str, PlannedCase]:
    return {planned.case.case_id: planned for planned in cases}


def unlike_base(runs: Sequence[RunSummary], existing: BaselineContent) -> list[str]:
    """Why cases of `runs` cannot stand in one baseline with the existing ones; empty if nothing speaks against it."""
    base = existing.metadata.runs[0]
    return [
        f"{each.run.run_id} cannot amend the baseline: machines differ in {difference}"
        for each in runs
        for difference in each.run.machine.differences(base.machine)
    ]


def inconsistencies(content: BaselineContent) -> tuple[str, ...]:
    """Where a baseline with correct checksums contradicts itself; empty for a good one."""
    return (*_unknown_names(content), *(problem for case in content.metadata.cases for problem in _case(case, content)))


def _unknown_names(content: BaselineContent) -> Iterator[str]:
    names = [case.planned.case.case_id for case in content.metadata.cases]
    for case_id in sorted({name for name in names if names.count(name) > 1}):
        yield f"{case_id} is listed twice"
    for case_id in sorted({*content.medians_s, *content.quality} - set(names)):
        yield f"{case_id} has figures, but metadata.json does not list it"
    listed = tuple(run.run_id for run in content.metadata.runs)
    if not listed:
        yield "metadata.json names no run"
    elif not content.metadata.base_runs or listed[: len(content.metadata.base_runs)] != content.metadata.base_runs:
        yield "metadata.json must list the runs of the whole promotion first"
    for run_id in sorted(set(content.metadata.launch_orders) - set(listed)):
        yield f"metadata.json states the launch orders of {run_id}, which it does not list"


def _case(case: BaselineCase, content: BaselineContent) -> Iterator[str]:
    case_id = case.planned.case.case_id
    medians = content.medians_s.get(case_id, {})
    behind = [run for run in content.metadata.runs if run.run_id in case.runs]
    expected = {(run.run_id, launch) for run in behind for launch in range(1, run.launches + 1)}
    unknown = sorted(set(case.runs) - {run.run_id for run in behind})
    if unknown or not case.runs:
        yield (
            f"{case_id} is of the run {unknown[0]}, which metadata.json does not list"
            if unknown
            else (f"{case_id} names no run")
        )
    strange = sorted(set(medians) - expected)
    if strange:
        yield f"{case_id} has times of {strange[0][0]}, launch {strange[0][1]}, which metadata.json does not list"
    if case.outcome is Outcome.OK and expected - set(medians):
        run_id, launch = min(expected - set(medians))
        yield f"{case_id} is ok, but has no time of {run_id}, launch {launch}"
    if case.outcome is not Outcome.OK and str(case.outcome) != case.planned.expect:
        yield f"{case_id} is {case.outcome}, expected {case.planned.expect}"
    if not all(math.isfinite(median_s) and median_s > 0 for median_s in medians.values()):
        yield f"{case_id} has times that are not positive finite seconds"
        return
    spread = run_spread(medians)
    if (spread is None) != (case.run_spread is None) or not math.isclose(
        spread or 0.0, case.run_spread or 0.0, rel_tol=1e-9, abs_tol=1e-15
    ):
        yield f"{case_id} states the run spread {case.run_spread}, its times give {spread}"
