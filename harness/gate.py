"""The gate's policy: comparisons -> pass, fail or undecided, case by case. Pure functions on records.

A gate asks less than a comparison: a case passes if it is surely not slower than 1 + tau, be it `unchanged`, near
`improved` or too noisy for either; and more: accuracy has ceilings, and cases may be required. Its measurement has two
parts, and the second decides alone:

1. all cases, either in interleaved pairs or as a plain run against the official baseline (a screen);
2. the cases that part 1 leaves open (`route`), in fresh interleaved pairs, Holm-adjusted over these cases.

Quality is deterministic and judged once, on part 1's figures. Peak memory and first calls are judged by the row that
decided; they fail a case, or leave it undecided, where the plan's rules say so, and are reported where they do not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from typing import TYPE_CHECKING, Literal

import numpy as np

from harness import stages, stats
from harness.compare import surely_not_slower
from harness.errors import ExitCode
from harness.filters import parse_filter
from harness.gate_findings import Finding, Ruling, exceeded, names, resource_findings, resource_notes, waived, worst
from harness.quality import Accuracy, compare_quality
from harness.records import CaseSummary, CaseVerdict, Comparison, Outcome, Record, RunSummary, Verdict
from harness.waivers import Waiver

if TYPE_CHECKING:
    from harness.manifest import GatePolicy

GateKind = Literal["paired", "screen"]

_SOUND = (Outcome.OK, Outcome.THROTTLED)


class GateCase(Record):
    """One case: the verdict that decided it, and what the gate makes of it."""

    row: CaseVerdict
    ruling: Ruling
    measured_again: bool = False
    """The fresh pairs of the second part decided."""
    about: str | None = None
    """What is ruled on, as waivers name it: a verdict, `peak_memory` or `first_call`; None: a ceiling."""
    reason: str | None = None
    waiver: Waiver | None = None


class GateResult(Record):
    """Everything a gate run found."""

    kind: GateKind
    base: str
    candidate: str
    comparison: Comparison
    """The rows that decided: part 1, replaced by part 2 where a case was measured again."""
    runs: tuple[str, ...]
    cases: tuple[GateCase, ...]
    failures: tuple[str, ...] = ()
    """What fails the gate beyond its cases."""
    expired_waivers: tuple[Waiver, ...] = ()
    """Waivers that name a verdict found here and no longer count."""
    unused_waivers: tuple[Waiver, ...] = ()
    """Waivers that count and found nothing to excuse."""
    notes: tuple[str, ...] = ()

    def of(self, ruling: Ruling) -> tuple[GateCase, ...]:
        """The cases of one ruling."""
        return tuple(case for case in self.cases if case.ruling is ruling)

    @property
    def exit_code(self) -> ExitCode:
        """FAILED_CHECK before UNDECIDED before OK; a gate in which no case gates has decided nothing."""
        if self.failures or self.of(Ruling.FAILED):
            return ExitCode.FAILED_CHECK
        decided = self.of(Ruling.PASSED) + self.of(Ruling.WAIVED)
        if self.of(Ruling.UNDECIDED) or not decided:
            return ExitCode.UNDECIDED
        return ExitCode.OK

    @property
    def headline(self) -> str:
        """The outcome in one line."""
        words = {ExitCode.OK: "passed", ExitCode.FAILED_CHECK: "failed", ExitCode.UNDECIDED: "undecided"}
        counts = [f"{len(self.of(ruling))} {ruling}" for ruling in Ruling if self.of(ruling)]
        more = [f"{len(self.failures)} required not measured"] if self.failures else []
        return f"Gate {words[self.exit_code]}: {', '.join([*counts, *more]) or 'no case'}"


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What one part of the gate measured, and its comparison."""

    candidate: RunSummary
    reference: RunSummary
    comparison: Comparison


@dataclass(frozen=True, kw_only=True)
class GateRules:
    """What the gate goes by.

    Attributes:
        policy: the manifest's `[gate]` table.
        waivers: accepted deviations.
        today: the day by which waivers expire.
        stated: case_id -> largest relative error that the method itself states for the case.
    """

    policy: GatePolicy
    today: date
    waivers: tuple[Waiver, ...] = ()
    stated: Mapping[str, float] = field(default_factory=dict)


def route(evidence: Evidence) -> tuple[str, ...]:
    """Ids of the cases that must be measured in fresh pairs: those whose time gates and that part 1 leaves open.

    Pairs: `stages.route_stage1`. A screen: every case that is not surely slower by at most its planned threshold; its
    tau is wider by what a stored reference cannot resolve, and fresh pairs can. Throttled cases are open, and those too
    noisy for the launches of part 1; cases that failed, or that one side lacks, are decided without a time.
    """
    rows = [row for row in evidence.comparison.verdicts if _time_gates(row, evidence)]
    if evidence.comparison.kind != "paired":
        return tuple(row.case_id for row in rows if not _surely_within_threshold(row, evidence))
    known = _paired_rows(rows)
    unknown = {row.case_id for row in rows} - {row.case_id for row in known if not row.too_noisy}
    if known:
        open_ = stages.route_stage1(_estimate(known, evidence), np.array([row.tau for row in known]))
        unknown |= {row.case_id for row, flag in zip(known, open_.tolist(), strict=True) if flag}
    return tuple(row.case_id for row in rows if row.case_id in unknown)


def suspects(evidence: Evidence) -> frozenset[str]:
    """Ids of the cases that looked slower in the pairs of part 1; part 2 tests them first. None in a screen."""
    known = _paired_rows([row for row in evidence.comparison.verdicts if _time_gates(row, evidence)])
    if evidence.comparison.kind != "paired" or not known:
        return frozenset()
    slower = stages.looks_slower(_estimate(known, evidence), np.array([row.tau for row in known]))
    return frozenset(row.case_id for row, flag in zip(known, slower.tolist(), strict=True) if flag)


def _paired_rows(rows: Sequence[CaseVerdict]) -> list[CaseVerdict]:
    return [row for row in rows if row.ratio is not None and row.tau is not None]


def _surely_within_threshold(row: CaseVerdict, evidence: Evidence) -> bool:
    threshold = evidence.candidate.cases[row.case_id].planned.threshold
    return not row.too_noisy and row.high is not None and row.high < 1 + threshold


def with_quality_of(fresh: RunSummary, first: RunSummary) -> RunSummary:
    """`fresh` with the quality figures of `first`: the second part times only."""
    cases = {
        case_id: case.model_copy(update={"quality": first.cases[case_id].quality}) if case_id in first.cases else case
        for case_id, case in fresh.cases.items()
    }
    return fresh.model_copy(update={"cases": cases})


def judge(first: Evidence, fresh: Evidence | None, rules: GateRules, *, base: str, candidate: str) -> GateResult:
    """Rule on every case.

    Args:
        first: all cases, `paired` or against a baseline.
        fresh: the routed cases in fresh pairs, or None where none was routed or, after a screen, none was asked for.
        rules: policy, waivers and ceilings.
        base, candidate: what the user called the two sides.
    """
    again = {row.case_id: row for row in fresh.comparison.verdicts} if fresh else {}
    pending = frozenset(route(first)) - again.keys() if first.comparison.kind == "paired" else frozenset()
    rows = [again.get(row.case_id, row) for row in first.comparison.verdicts]
    found = [_findings(row, first, rules, pending=row.case_id in pending) for row in rows]
    cases = tuple(_ruled(row, each, again=row.case_id in again) for row, each in zip(rows, found, strict=True))
    used = {finding.waiver for each in found for finding in each}
    used |= {w for w in rules.waivers for row, each in zip(rows, found, strict=True) if exceeded(w, row, each)}
    expired = tuple(w for w in rules.waivers if w.expired(rules.today) and any(names(w, row) for row in rows))
    runs = [summary.run.run_id for part in (first, fresh) if part for summary in (part.reference, part.candidate)]
    return GateResult(
        kind="paired" if first.comparison.kind == "paired" else "screen",
        base=base,
        candidate=candidate,
        comparison=first.comparison.model_copy(update={"verdicts": tuple(rows), "notes": _notes(first, fresh)}),
        runs=tuple(runs),
        cases=cases,
        failures=_unmet(rules.policy.required, rows),
        expired_waivers=expired,
        unused_waivers=tuple(w for w in rules.waivers if w not in used and w not in expired),
        notes=(*_pairs_notes(cases), *_stated_notes(first, rules), *resource_notes(rows)),
    )


# --- one case ---------------------------------------------------------------------------------------------------------


def _findings(row: CaseVerdict, first: Evidence, rules: GateRules, *, pending: bool) -> list[Finding]:
    """What is found of a case, waived where a waiver covers it."""
    found = [_finding(row, first, rules, pending=pending), *resource_findings(row)]
    return [waived(finding, row, rules.waivers, today=rules.today) for finding in found]


def _ruled(row: CaseVerdict, findings: Sequence[Finding], *, again: bool) -> GateCase:
    decisive = worst(findings)
    return GateCase(
        row=row,
        ruling=decisive.ruling,
        measured_again=again,
        about=decisive.what,
        reason=decisive.reason,
        waiver=decisive.waiver,
    )


def _finding(row: CaseVerdict, first: Evidence, rules: GateRules, *, pending: bool) -> Finding:
    ceiling = _above_ceiling(row, first, rules)
    if ceiling is not None:
        return Finding(ruling=Ruling.FAILED, reason=ceiling)
    if not row.gates:
        return Finding(ruling=Ruling.ADVISORY, reason=row.reason)
    judged = Finding(ruling=Ruling.PASSED, reason=row.reason, what=row.verdict.value, ratio=row.ratio)
    unmeasured = _quality_unmeasured(row, first)
    inconclusive = row.verdict is Verdict.INCONCLUSIVE
    open_ = inconclusive and (unmeasured is not None or not surely_not_slower(row))
    fails = row.verdict.value in rules.policy.fail and (open_ or not inconclusive)
    if fails and not (pending and (inconclusive or row.verdict is Verdict.REGRESSED)):
        return replace(judged, ruling=Ruling.FAILED, reason=unmeasured or row.reason or _slower(row))
    if pending:
        return replace(
            judged, ruling=Ruling.UNDECIDED, reason="open after the first pairs, and not measured in fresh ones"
        )
    if open_:
        return replace(judged, ruling=Ruling.UNDECIDED, reason=unmeasured or row.reason)
    return judged


def _slower(row: CaseVerdict) -> str | None:
    if row.ratio is None or row.tau is None or row.low is None or row.high is None:
        return None
    return f"ratio {row.ratio:.3f} ({row.low:.3f} … {row.high:.3f}) against a tolerated {1 + row.tau:.3f}"


def _quality_unmeasured(row: CaseVerdict, first: Evidence) -> str | None:
    sides = _sides(row, first)
    if sides is None or any(side.outcome not in _SOUND for side in sides):
        return None
    found = compare_quality(*sides)
    return found.reason if found.accuracy is Accuracy.UNMEASURED else None


def _above_ceiling(row: CaseVerdict, first: Evidence, rules: GateRules) -> str | None:
    """Why the candidate's error is beyond a ceiling, or None.

    The policy's ceiling is absolute. What a method states of itself binds a change only while the base keeps it: a
    statement that the base breaks already is noted, not blamed on the candidate.
    """
    error = _worst_error(first.candidate.cases.get(row.case_id))
    if error is None:
        return None
    limit = rules.policy.max_error(row.case)
    if limit is not None and not error <= limit:
        return f"relative error {error:.2e} is above the policy's ceiling {limit:.2e}"
    stated, before = rules.stated.get(row.case_id), _worst_error(first.reference.cases.get(row.case_id))
    if stated is not None and not error <= stated and (before is None or before <= stated):
        return f"relative error {error:.2e} is above what the method states, {stated:.2e}"
    return None


def _worst_error(case: CaseSummary | None) -> float | None:
    """Over the problem seeds; None for a case that failed: that is judged as such."""
    if case is None or case.outcome not in _SOUND:
        return None
    return max((q.relative_error for q in case.quality if q.relative_error is not None), default=None)


# --- the whole --------------------------------------------------------------------------------------------------------


def _unmet(required: Sequence[str], rows: Sequence[CaseVerdict]) -> tuple[str, ...]:
    measured = [row.case for row in rows if row.launches > 0]
    return tuple(
        f"required: the candidate measured no case that matches '{text}'"
        for text in required
        if not any(parse_filter(text)(case) for case in measured)
    )


def _notes(first: Evidence, fresh: Evidence | None) -> tuple[str, ...]:
    notes = first.comparison.notes
    if fresh is None:
        return notes
    turn = ", those that looked slower first" if suspects(first) else ""
    pairs = max((row.launches for row in fresh.comparison.verdicts), default=0)
    count = len(fresh.comparison.verdicts)
    again = f"{'1 case was' if count == 1 else f'{count} cases were'} open and measured again in {pairs} fresh pairs"
    return (*notes, f"{again}, which alone decide (Holm over these{turn})")


def _pairs_notes(cases: Sequence[GateCase]) -> tuple[str, ...]:
    """How many pairs would decide what is undecided, were the ratios and spreads seen the true ones."""
    needed = [case.row.pairs_needed for case in cases if case.ruling is Ruling.UNDECIDED]
    known = [pairs for pairs in needed if pairs is not None]
    if not known:
        return ()
    which = "all that are undecided" if len(known) == len(needed) else f"{len(known)} of {len(needed)} undecided cases"
    return (f"about {max(known)} pairs would decide {which}, at the ratios and spreads seen (gate.fresh_pairs)",)


def _stated_notes(first: Evidence, rules: GateRules) -> tuple[str, ...]:
    broken = [
        case_id
        for case_id, stated in rules.stated.items()
        if (before := _worst_error(first.reference.cases.get(case_id))) is not None and before > stated
    ]
    if not broken:
        return ()
    return (f"the base itself is less accurate than its method states in: {', '.join(broken)}",)


def _sides(row: CaseVerdict, evidence: Evidence) -> tuple[CaseSummary, CaseSummary] | None:
    mine, theirs = evidence.candidate.cases.get(row.case_id), evidence.reference.cases.get(row.case_id)
    return None if mine is None or theirs is None else (mine, theirs)


def _time_gates(row: CaseVerdict, evidence: Evidence) -> bool:
    """Whether the case has, or should have, a time on both sides that may fail the gate."""
    sides = _sides(row, evidence)
    if sides is None or any(side.outcome not in _SOUND for side in sides):
        return False
    planned = sides[0].planned
    return planned.gates and not planned.control


def _estimate(rows: Sequence[CaseVerdict], evidence: Evidence) -> stats.Estimate:
    """The paired estimates of rows that have a time on both sides."""
    pairs = [
        (evidence.candidate.cases[row.case_id].launch_medians_s, evidence.reference.cases[row.case_id].launch_medians_s)
        for row in rows
    ]
    launches = sorted({launch for mine, theirs in pairs for launch in mine.keys() & theirs.keys()})
    absent = float("nan")

    def matrix(pick: Callable[[dict[int, float], dict[int, float]], dict[int, float]]) -> stats.Floats:
        return np.array([[pick(*pair).get(n, absent) for n in launches] for pair in pairs], dtype=np.float64)

    return stats.paired(matrix(lambda mine, _: mine), matrix(lambda _, theirs: theirs))
