"""Candidate against reference -> one verdict per case. Times are judged in `time_verdict`, errors in `quality`.

Order of the rules for a case present on both sides:

1. Outcome. Failed on the candidate's side only: `broken`; on the reference's side only: `fixed`. On both sides there is
   no time to compare: `unchanged` where that is known (the manifest expects it, or neither machine has the unit), else
   `inconclusive`. A manifest's `expect` excuses no failure of a case that worked in the reference.
2. A throttled side, or sides timed by different policies: the time is `inconclusive`.
3. Time and quality together: slower but more accurate, or faster but less accurate, is a `trade`; slower and less
   accurate is `regressed`; otherwise whichever of the two moved. An undecided time is never hidden by better accuracy,
   and quality that the candidate did not measure is never passed over.

Peak memory and first-call time have verdicts of their own beside this one (`resource_verdict`), and the kernels of the
two sides are compared (`kernel_change`).

A row's `gates` says whether its verdict may fail a check. Only time can be advisory: a case that broke, is missing or
lost accuracy fails the check in eager mode too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from harness.errors import ExitCode, UnlikeMachinesError
from harness.estimates import CasePair, Launches
from harness.kernel_change import kernel_change
from harness.launch_blocks import MIN_BLOCKS, blocks_between
from harness.qualification import MOST_TAU, RAISED, Qualification
from harness.quality import Accuracy, QualityVerdict, compare_quality
from harness.records import CaseSummary, CaseVerdict, Comparison, Design, Mode, Outcome, RunStatus, RunSummary, Verdict
from harness.resource_verdict import first_call_verdict, memory_verdict, resources_of
from harness.time_verdict import TimeRules, TimeVerdict, control_shift, percent, time_verdicts

FAILING = frozenset({Verdict.REGRESSED, Verdict.BROKEN, Verdict.LESS_ACCURATE, Verdict.TRADE, Verdict.MISSING})
"""Verdicts that fail a check where the row gates."""

_LIMIT = f"{RAISED:g} times the threshold and at most {percent(MOST_TAU)}"

_SOUND = (Outcome.OK, Outcome.THROTTLED)
"""Outcomes that say nothing against the code."""


@dataclass(frozen=True, kw_only=True)
class _Ruling:
    """Verdict, its reason, and whether it may fail a check."""

    verdict: Verdict
    reason: str | None = None
    gates: bool = True


def compare(
    candidate: RunSummary,
    reference: RunSummary,
    *,
    kind: Literal["baseline", "previous_run", "run", "paired"],
    force: bool = False,
    qualification: Qualification | None = None,
    suspects: frozenset[str] = frozenset(),
) -> Comparison:
    """Judge every case of either side.

    Args:
        candidate: the run to judge.
        reference: what it is judged by.
        kind: `paired` for launches that were interleaved (equal numbers are pairs); the others are blocked by the order
            of the launches, or unpaired, with tau widened by the spread between runs and ratios corrected by the
            control kernels.
        force: compare unlike machines; the comparison is marked.
        qualification: of the candidate's machine; tau is then at least the 99th percentile of a case's A/A mean, and
            a case in which that is above `qualification.noise_limit` cannot pass.
        suspects: ids of cases to be tested for a slowdown before the others (`stages.holm_in_turn`), chosen without
            these launches.

    Raises:
        UnlikeMachinesError: the hardware differs and `force` is not given.
    """
    hardware = candidate.run.machine.differences(reference.run.machine)
    if hardware and not force:
        raise UnlikeMachinesError(
            f"runs {candidate.run.run_id} and {reference.run.run_id} must come from like machines, but differ in "
            f"{'; '.join(hardware)}. Compare with a run of this machine, or force it and read every ratio as a "
            "difference between machines"
        )
    noise = qualification.noise() if qualification else {}
    rules = replace(_rules(candidate, reference, kind), noise=noise, suspects=suspects)
    verdicts = _rows(candidate, reference, rules)
    return Comparison(
        candidate=candidate.run.run_id,
        reference=reference.run.run_id,
        kind=kind,
        design=_design(verdicts, rules),
        manifest=candidate.run.manifest,
        machine_class=candidate.run.machine.machine_class,
        forced=bool(hardware),
        hardware_differences=hardware,
        software_differences=candidate.run.software.differences(reference.run.software),
        another_unit=_another_unit(candidate, reference),
        control_ratios=rules.shift.ratios if rules.shift else {},
        control_correction=rules.shift.ratio if rules.shift else 1.0,
        qualification=qualification.qualification_id if qualification else None,
        notes=(
            *_notes(rules),
            *_design_notes(verdicts, rules),
            *_qualification_notes(candidate, verdicts, qualification),
        ),
        verdicts=verdicts,
    )


def exit_code_for(comparison: Comparison) -> ExitCode:
    """FAILED_CHECK if a gating case got worse or is missing; UNDECIDED if one is inconclusive, or there is none; OK.

    Peak memory and first calls count likewise where their rules say that they fail.
    """
    gating = {row.verdict for row in comparison.verdicts if row.gates}
    gating |= {each.verdict for row in comparison.verdicts for each in resources_of(row) if each.fails}
    if gating & FAILING:
        return ExitCode.FAILED_CHECK
    if Verdict.INCONCLUSIVE in gating or not comparison.verdicts:
        return ExitCode.UNDECIDED
    return ExitCode.OK


def surely_not_slower(row: CaseVerdict) -> bool:
    """Whether the upper bound of the ratio is below 1 + tau, a tau within its limit: what a gate asks of the time."""
    return not row.too_noisy and row.high is not None and row.tau is not None and row.high < 1 + row.tau


def _rules(candidate: RunSummary, reference: RunSummary, kind: str) -> TimeRules:
    if kind == "paired":
        return TimeRules(launches=Launches(design="paired"))
    blocks = blocks_between(candidate, reference)
    launches = Launches(design="unpaired" if blocks.why_not else "blocked", blocks=blocks)
    return TimeRules(
        launches=launches,
        runs=blocks.runs,
        another_unit=_another_unit(candidate, reference),
        shift=control_shift(candidate, reference, launches),
    )


def _design(verdicts: Sequence[CaseVerdict], rules: TimeRules) -> Design:
    """`blocked` if it is for at least one case."""
    if rules.launches.design == "blocked" and not any(row.design == "blocked" for row in verdicts):
        return "unpaired"
    return rules.launches.design


def _another_unit(candidate: RunSummary, reference: RunSummary) -> bool:
    mine, theirs = candidate.run.machine.uuid, reference.run.machine.uuid
    return mine is not None and theirs is not None and mine != theirs


def _rows(candidate: RunSummary, reference: RunSummary, rules: TimeRules) -> tuple[CaseVerdict, ...]:
    """Rows in the candidate's order, then the missing cases in the reference's."""
    pairs = {
        case_id: CasePair(candidate=mine, reference=reference.cases[case_id])
        for case_id, mine in candidate.cases.items()
        if case_id in reference.cases
    }
    timed = {case_id: pair for case_id, pair in pairs.items() if _why_not_timed(pair) is None}
    times = dict(zip(timed, time_verdicts(list(timed.values()), rules), strict=True))
    rows = [
        _both(case_id, pairs[case_id], times.get(case_id)) if case_id in pairs else _new(case_id, mine)
        for case_id, mine in candidate.cases.items()
    ]
    rows += [
        _missing(case_id, theirs, candidate)
        for case_id, theirs in reference.cases.items()
        if case_id not in candidate.cases
    ]
    return tuple(rows)


def _both(case_id: str, pair: CasePair, time: TimeVerdict | None) -> CaseVerdict:
    if time is None:
        time = TimeVerdict(verdict=Verdict.INCONCLUSIVE, reason=_why_not_timed(pair))
    sound = pair.candidate.outcome in _SOUND and pair.reference.outcome in _SOUND
    quality = compare_quality(pair.candidate, pair.reference) if sound else QualityVerdict(accuracy=Accuracy.SAME)
    ruling = _combined(time, quality, pair.gates) if sound else _outcome_ruling(pair)
    return CaseVerdict(
        case_id=case_id,
        case=pair.candidate.planned.case,
        verdict=ruling.verdict,
        gates=ruling.gates,
        reason=ruling.reason,
        design=time.design,
        ratio=time.ratio,
        low=time.low,
        high=time.high,
        p_value=time.p_value,
        mde=time.mde,
        pairs_needed=time.pairs_needed,
        tau=time.tau,
        too_noisy=time.too_noisy,
        launches=time.launches,
        reference_launches=time.reference_launches,
        time_s=time.time_s,
        reference_time_s=time.reference_time_s,
        raw_ratio=time.raw_ratio,
        error_ratio=quality.error_ratio,
        quality_notes=quality.notes,
        memory=memory_verdict(pair.candidate, pair.reference),
        first_call=first_call_verdict(pair.candidate, pair.reference),
        kernels=kernel_change(pair.candidate, pair.reference),
    )


def _new(case_id: str, mine: CaseSummary) -> CaseVerdict:
    """A case without reference; one that fails although nothing announced it is broken from the start."""
    excused = mine.outcome in (*_SOUND, Outcome.UNSUPPORTED) or mine.outcome is Outcome(mine.planned.expect)
    reason = None if mine.outcome is Outcome.OK else _failure(mine)
    return CaseVerdict(
        case_id=case_id,
        case=mine.planned.case,
        verdict=Verdict.NEW if excused else Verdict.BROKEN,
        reason=reason if excused else f"new case, {reason}",
        launches=len(mine.launch_medians_s),
    )


def _missing(case_id: str, theirs: CaseSummary, candidate: RunSummary) -> CaseVerdict:
    planned = any(each.case.case_id == case_id for each in candidate.run.cases)
    state = "" if candidate.run.status is RunStatus.COMPLETE else f"; the run is {candidate.run.status}"
    return CaseVerdict(
        case_id=case_id,
        case=theirs.planned.case,
        verdict=Verdict.MISSING,
        reason=f"planned but not measured{state}" if planned else "not among the candidate's planned cases",
        reference_launches=len(theirs.launch_medians_s),
    )


def _why_not_timed(pair: CasePair) -> str | None:
    """Why the times of the two sides cannot be compared, or None."""
    mine, theirs = pair.candidate, pair.reference
    for side, summary in (("candidate", mine), ("reference", theirs)):
        if summary.outcome is not Outcome.OK:
            return f"{side}: {_failure(summary)}"
    policies = mine.planned.timing, theirs.planned.timing
    names = ("cold", "input_sets", "min_graph_s") if _short_in_a_graph(pair) else ("cold", "input_sets")
    for name in names:
        ours, others = (getattr(policy, name) for policy in policies)
        if ours != others:
            return f"timed differently: {name} {ours} != {others}; measure both sides by one manifest"
    return None


def _short_in_a_graph(pair: CasePair) -> bool:
    """Whether calls of either side are so short that `min_graph_s` of either has them share a CUDA graph."""
    sides = pair.candidate, pair.reference
    limit = max(side.planned.timing.min_graph_s for side in sides)
    graph = pair.candidate.planned.case.mode is Mode.GRAPH and not pair.candidate.planned.timing.cold
    return graph and any(min(side.launch_medians_s.values(), default=0.0) < limit for side in sides)


def _outcome_ruling(pair: CasePair) -> _Ruling:
    """Rule on a case that failed on at least one side."""
    mine, theirs = pair.candidate, pair.reference
    if theirs.outcome in _SOUND:
        return _Ruling(verdict=Verdict.BROKEN, reason=_failure(mine))
    if mine.outcome is Outcome.OK:
        return _Ruling(verdict=Verdict.FIXED, reason=f"no longer {theirs.outcome}")
    if mine.outcome is Outcome(mine.planned.expect):
        return _Ruling(verdict=Verdict.UNCHANGED, reason=f"{mine.outcome}, as expected; no time to compare")
    if mine.outcome is theirs.outcome is Outcome.UNSUPPORTED:
        return _Ruling(verdict=Verdict.UNCHANGED, reason=f"on both sides {_failure(mine)}")
    return _Ruling(
        verdict=Verdict.INCONCLUSIVE,
        reason=f"candidate {_failure(mine)}; reference {theirs.outcome}: nothing to compare",
        gates=pair.gates,
    )


def _combined(time: TimeVerdict, quality: QualityVerdict, gates: bool) -> _Ruling:
    """Rule on time and quality together; `gates` is the time's."""
    alone = _Ruling(verdict=time.verdict, reason=time.reason, gates=gates)
    match quality.accuracy, time.verdict:
        case Accuracy.NONFINITE, _:
            return _Ruling(verdict=Verdict.BROKEN, reason=quality.reason)
        case Accuracy.LESS, Verdict.IMPROVED:
            return _Ruling(verdict=Verdict.TRADE, reason=f"faster but less accurate: {quality.reason}")
        case Accuracy.LESS, Verdict.REGRESSED:
            return _Ruling(verdict=Verdict.REGRESSED, reason=f"slower and less accurate: {quality.reason}")
        case Accuracy.LESS, _:
            undecided = f"; time undecided: {time.reason}" if time.verdict is Verdict.INCONCLUSIVE else ""
            return _Ruling(verdict=Verdict.LESS_ACCURATE, reason=f"{quality.reason}{undecided}")
        case Accuracy.MORE, Verdict.REGRESSED:
            reason = f"slower but more accurate: {quality.reason}"
            return _Ruling(verdict=Verdict.TRADE, reason=reason, gates=gates)
        case Accuracy.MORE, Verdict.UNCHANGED:
            return _Ruling(verdict=Verdict.MORE_ACCURATE, reason=quality.reason, gates=gates)
        case Accuracy.UNMEASURED, Verdict.IMPROVED | Verdict.UNCHANGED:
            return _Ruling(verdict=Verdict.INCONCLUSIVE, reason=quality.reason)
        case _:
            return alone


def _failure(summary: CaseSummary) -> str:
    return f"{summary.outcome}: {summary.error}" if summary.error else str(summary.outcome)


def _qualification_notes(
    candidate: RunSummary, verdicts: Sequence[CaseVerdict], qualification: Qualification | None
) -> tuple[str, ...]:
    if qualification is None:
        return ()
    known = qualification.noise()
    lacking = sum(case_id not in known for case_id in candidate.cases)
    rest = f"; it does not know {lacking} of the cases" if lacking else ""
    raised = {
        row.case_id: noise
        for row in verdicts
        if row.gates
        and row.launches
        and row.case_id in known
        and (noise := known[row.case_id].null_percentile(row.launches)) > candidate.cases[row.case_id].planned.threshold
    }
    source = (
        "tau of each case is at least the 99th percentile of its A/A mean on this machine, by qualification "
        f"{qualification.qualification_id}{rest}"
    )
    if not raised:
        return (source,)
    most = max(raised, key=lambda case_id: raised[case_id])
    cases = f"{len(raised)} gating {'case' if len(raised) == 1 else 'cases'}"
    above = f"that noise is above the planned threshold in {cases}, most in {most}: {percent(raised[most])}"
    blind = sum(row.too_noisy for row in verdicts if row.case_id in raised)
    if not blind:
        return source, above
    return source, above, f"in {blind} of them it is above what tau may be raised to, {_LIMIT}: they cannot pass"


def _notes(rules: TimeRules) -> tuple[str, ...]:
    """How the times were judged, for people."""
    if rules.launches.design == "paired":
        return ("paired by launch number: nothing corrected, tau as planned",)
    notes = []
    if rules.runs == 1:
        notes.append(
            f"tau is widened by {percent(rules.run_margin(None))}: the reference is a single run, and runs differ by "
            "up to 0.6 % (standard deviation)"
        )
    else:
        notes.append(f"tau is widened by the spread between the reference's {rules.runs} runs")
    if rules.shift is not None:
        notes.append(
            f"ratios of {rules.shift.mode} cases are divided by {rules.shift.ratio:.4f}, the change of the control "
            f"kernels, and their tau is widened by {percent(rules.shift.disagreement)}, the controls' disagreement"
        )
    else:
        notes.append("no control kernel was timed on both sides: a change of the machine is not corrected")
    return tuple(notes)


def _design_notes(verdicts: Sequence[CaseVerdict], rules: TimeRules) -> tuple[str, ...]:
    """Which launches were compared with which, where the sides did not alternate."""
    launches = rules.launches
    if launches.design == "paired":
        return ()
    if launches.blocks.why_not is not None:
        return (f"unpaired, launches of either side count as independent: {launches.blocks.why_not}",)
    timed = [row for row in verdicts if row.design is not None]
    short = sum(row.design == "unpaired" for row in timed)
    rest = (
        f"; {short} of {len(timed)} cases have fewer than {MIN_BLOCKS} such launches and are unpaired" if short else ""
    )
    return (f"blocked: launches that measured in the same order are compared with each other{rest}",)
