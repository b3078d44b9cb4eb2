"""Launch medians of two sides -> time verdict per case, with the control-kernel correction and the widened tau.

Three designs. `paired`: launches of equal number were neighbours in an interleaved measurement; the machine's state
cancels in the pairs, so nothing is corrected or widened. Otherwise the reference is another run or a baseline:
`blocked` where launches of both went through their cases in the same order, compared launch by launch; else `unpaired`.
Blocks take out what the order does to a case, and nothing that is common to all launches of a run: whatever is said
below of unpaired times holds for blocked ones.

Unpaired times carry the machine's own change since the reference (clocks, power, temperature, another unit). Control
kernels, code that the project does not own, are measured in every launch of both sides: their weighted mean log ratio
estimates that change and is subtracted. What the correction can and cannot do:

- It applies to cases executed like the controls: graph replays where a control is replayed as a graph, else the mode of
  the controls. The time of an eager, launch-bound call is the host's; two H100s of one kind differ by 0.76-1.04 there
  and by -1 to +3 % on GPU-bound kernels (2026-11), so a GPU control says nothing about it.
- Clocks move a compute-bound kernel and leave a copy alone. A case's own response lies between those of the controls,
  so the correction by their mean may leave as much as the controls disagree; tau is widened by that.
- The correction's variance is added as if it were independent of the case's. Both come from the same launches and are
  positively correlated, so intervals are rather too wide than too narrow.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from harness import stats
from harness.estimates import CasePair, Launches, estimates
from harness.qualification import CaseNoise, noise_limit
from harness.records import CaseSummary, Design, Mode, Outcome, RunSummary, Verdict
from harness.stages import holm_in_turn

RUN_SPREAD = 0.006
"""Between-process spread of log time taken where a reference holds no spread of its own (a single run): the upper end
of the 0.2-0.6 % measured for graph replays and GPU-bound kernels on an H100 over 8 processes, 2026-11."""

HOST_SPREAD = 0.17
"""The same for launch-bound eager calls on a GPU, whose time is the host's: 15-19 % (as above). Three runs of identical
code gave ratios of 0.64 to 1.0 for an eager polar factor of 1024 x 1024 (H100, 2026-11-22)."""

UNIT_MARGIN = 0.02
"""Widening against another unit of the same model: units of one H100 model differ by -1 to +3 % on GPU-bound kernels,
2 % to either side once the common part is corrected (two units, 2026-11)."""


@dataclass(frozen=True, kw_only=True)
class ControlShift:
    """The machine's own change between two runs, by the control kernels.

    Attributes:
        ratios: candidate / reference per control.
        mode: the execution mode whose cases are corrected.
        change: mean over the controls.
        disagreement: what the correction may leave in a case, log scale.
    """

    ratios: dict[str, float]
    mode: Mode
    change: stats.Estimate
    disagreement: float

    @property
    def ratio(self) -> float:
        """What raw ratios are divided by."""
        return math.exp(float(self.change.log_ratio))


@dataclass(frozen=True, kw_only=True)
class TimeRules:
    """How the times of one comparison are judged.

    Attributes:
        launches: how those of the two sides belong together.
        runs: runs behind the reference, 1 if it is a single run.
        another_unit: the two sides were measured on different units of one model.
        shift: control correction, or None where there is none.
        noise: what the machine's qualification says of the cases; empty: unqualified.
        suspects: ids of cases that are tested for a slowdown before the others.
    """

    launches: Launches
    runs: int = 1
    another_unit: bool = False
    shift: ControlShift | None = None
    noise: Mapping[str, CaseNoise] = field(default_factory=dict)
    suspects: frozenset[str] = frozenset()

    def corrects(self, pair: CasePair) -> bool:
        """Whether the control correction applies to a case."""
        planned = pair.candidate.planned
        return self.shift is not None and not planned.control and planned.case.mode is self.shift.mode

    def tau(self, pair: CasePair) -> float:
        """Minimum effect: the planned threshold, widened by what an unpaired comparison cannot resolve.

        Run to run: t(0.95, m-1) s sqrt(1 + 1/m) for a spread s stored with m >= 2 runs, else 1.64 sqrt(1 + 1/m) times
        RUN_SPREAD (1.4 % for a single run), or HOST_SPREAD (40 %) for a case executed unlike the controls. Machine: the
        larger of the controls' disagreement and UNIT_MARGIN. On a qualified machine the threshold is at least the 99th
        percentile of the case's A/A mean, however large that is: what identical code does must not be called a
        difference. Beyond `noise_limit` that nothing changed cannot be said.
        """
        threshold = max(pair.candidate.planned.threshold, self.null_percentile(pair))
        if self.launches.design == "paired":
            return threshold
        machine = UNIT_MARGIN if self.another_unit else 0.0
        if self.shift is not None and self.corrects(pair):
            machine = max(machine, self.shift.disagreement)
        host_bound = self.shift is not None and not pair.candidate.planned.control and not self.corrects(pair)
        spread = HOST_SPREAD if host_bound and pair.reference.run_spread is None else pair.reference.run_spread
        return threshold + self.run_margin(spread, pair.reference.runs) + machine

    def null_percentile(self, pair: CasePair) -> float:
        """What the machine's qualification says of the case's noise over these launches; 0 where it is unknown."""
        known = self.noise.get(pair.candidate.planned.case.case_id)
        launches = self.launches.common(pair)
        return known.null_percentile(launches) if known and launches else 0.0

    def run_margin(self, spread: float | None, runs: int | None = None) -> float:
        """Part of tau that covers the spread between runs; `runs`: behind the case, if not all of the reference's."""
        runs = self.runs if runs is None else runs
        if spread is not None and runs >= 2:
            return stats.prediction_margin(spread, runs)
        return stats.normal_quantile(1 - stats.ALPHA) * (spread or RUN_SPREAD) * math.sqrt(1 + 1 / runs)


@dataclass(frozen=True, kw_only=True)
class TimeVerdict:
    """Regressed, improved, unchanged or inconclusive, with its figures; ratios are candidate / reference."""

    verdict: Verdict
    reason: str | None = None
    design: Design | None = None
    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    p_value: float | None = None
    mde: float | None = None
    pairs_needed: int | None = None
    tau: float | None = None
    too_noisy: bool = False
    launches: int = 0
    reference_launches: int = 0
    time_s: float | None = None
    reference_time_s: float | None = None
    raw_ratio: float | None = None


def control_shift(candidate: RunSummary, reference: RunSummary, launches: Launches) -> ControlShift | None:
    """The machine's own change, or None without a control that both sides timed in at least 3 launches.

    Controls replayed as graphs stand for the GPU; where there is none (a CPU), those of the mode with most of them do.
    """
    shared = [case_id for case_id in candidate.controls if case_id in reference.controls]
    pairs = {
        case_id: CasePair(candidate=candidate.cases[case_id], reference=reference.cases[case_id])
        for case_id in shared
        if _launches(candidate.cases[case_id]) >= stats.MIN_LAUNCHES
        and _launches(reference.cases[case_id]) >= stats.MIN_LAUNCHES
    }
    if not pairs:
        return None
    modes = [pair.candidate.planned.case.mode for pair in pairs.values()]
    mode = Mode.GRAPH if Mode.GRAPH in modes else max(sorted(set(modes)), key=modes.count)
    chosen = {case_id: pair for case_id, pair in pairs.items() if pair.candidate.planned.case.mode is mode}
    estimate = estimates(list(chosen.values()), launches).estimate
    ratios = np.exp(estimate.log_ratio).tolist()
    return ControlShift(
        ratios=dict(zip(chosen, ratios, strict=True)),
        mode=mode,
        change=stats.pool_controls(estimate),
        disagreement=stats.control_disagreement(estimate),
    )


def time_verdicts(pairs: Sequence[CasePair], rules: TimeRules) -> list[TimeVerdict]:
    """Judge every case, in order. p is Holm-adjusted over the gating cases (suspects first), apart over advisory ones.

    Advisory cases (eager calls, whose launches spread by 15 %, and controls) must not cost the gating ones their power.
    """
    if not pairs:
        return []
    return [_verdict(figures) for figures in _figures(pairs, rules)]


@dataclass(frozen=True, kw_only=True)
class _Figures:
    """The numbers of one case. `alone`: p before Holm's adjustment over `family` cases. log_*: log scale."""

    design: Design
    log_ratio: float
    log_low: float
    log_high: float
    log_mde: float
    log_se: float
    log_raw: float
    slower: float
    faster: float
    alone: float
    unchanged: bool
    family: int
    n: int
    n_ref: int
    time_s: float
    reference_time_s: float
    tau: float
    noise: float
    limit: float

    @property
    def too_noisy(self) -> bool:
        """Whether the machine's noise needs a tau above its limit: the case then is neither unchanged nor passed."""
        return self.noise > self.limit


def _figures(pairs: Sequence[CasePair], rules: TimeRules) -> list[_Figures]:
    found = estimates(pairs, rules.launches)
    raw = found.estimate
    estimate = _corrected(raw, pairs, rules)
    tau = np.array([rules.tau(pair) for pair in pairs])
    gates = np.array([pair.gates for pair in pairs])
    first = gates & np.array([pair.candidate.planned.case.case_id in rules.suspects for pair in pairs])
    slower, faster = stats.p_slower(estimate, tau), stats.p_faster(estimate, tau)
    columns: dict[str, npt.NDArray[Any]] = {
        "log_ratio": estimate.log_ratio,
        "log_low": estimate.low,
        "log_high": estimate.high,
        "log_mde": estimate.mde,
        "log_se": estimate.se,
        "log_raw": raw.log_ratio,
        "slower": _by_family(slower, gates, first),
        "faster": _by_family(faster, gates, np.zeros_like(first)),
        "alone": np.minimum(slower, faster),
        "unchanged": stats.is_unchanged(estimate, tau),
        "family": np.where(first, first.sum(), np.where(gates, gates.sum(), (~gates).sum())),
        "n": estimate.n,
        "n_ref": estimate.n_ref,
        "time_s": found.time_s,
        "reference_time_s": found.reference_time_s,
        "tau": tau,
        "noise": np.array([rules.null_percentile(pair) for pair in pairs]),
        "limit": np.array([noise_limit(pair.candidate.planned.threshold) for pair in pairs]),
    }
    rows = zip(*(column.tolist() for column in columns.values()), strict=True)
    return [
        _Figures(design=design, **dict(zip(columns, row, strict=True)))
        for design, row in zip(found.designs, rows, strict=True)
    ]


def _corrected(raw: stats.Estimate, pairs: Sequence[CasePair], rules: TimeRules) -> stats.Estimate:
    """Subtract the control shift from the cases it applies to; the others subtract an exact zero."""
    if rules.shift is None:
        return raw
    applies = np.array([rules.corrects(pair) for pair in pairs])
    change = rules.shift.change
    by = replace(
        change,
        log_ratio=np.where(applies, change.log_ratio, 0.0),
        se=np.where(applies, change.se, 0.0),
        df=np.where(applies, change.df, np.inf),
    )
    return stats.corrected(raw, by)


def _by_family(p: stats.Floats, gates: stats.Flags, first: stats.Flags) -> stats.Floats:
    gating, advisory = holm_in_turn(np.where(gates, p, np.nan), first), stats.holm(np.where(gates, np.nan, p))
    return np.where(gates, gating, advisory)


def _verdict(figures: _Figures) -> TimeVerdict:
    verdict, reason, needed = Verdict.INCONCLUSIVE, None, None
    if figures.slower < stats.ALPHA:
        verdict = Verdict.REGRESSED
    elif figures.faster < stats.ALPHA:
        verdict = Verdict.IMPROVED
    elif figures.unchanged and not figures.too_noisy:
        verdict = Verdict.UNCHANGED
    else:
        needed = _pairs_needed(figures)
        reason = _why_undecided(figures, needed)
    return TimeVerdict(
        verdict=verdict,
        reason=reason,
        design=figures.design,
        ratio=_known(math.exp(figures.log_ratio)),
        low=_known(math.exp(figures.log_low)),
        high=_known(math.exp(figures.log_high)),
        p_value=_known(figures.slower),
        mde=_known(math.expm1(figures.log_mde)),
        pairs_needed=needed,
        tau=figures.tau,
        too_noisy=figures.too_noisy,
        launches=figures.n,
        reference_launches=figures.n_ref,
        time_s=_known(figures.time_s),
        reference_time_s=_known(figures.reference_time_s),
        raw_ratio=_known(math.exp(figures.log_raw)),
    )


def _why_undecided(figures: _Figures, needed: int | None) -> str:
    fewest = min(figures.n, figures.n_ref)
    if fewest < stats.MIN_LAUNCHES:
        unit = "launch" if fewest == 1 else "launches"
        what = f"{'pair' if fewest == 1 else 'pairs'} of launches" if figures.design == "paired" else unit
        side = "" if figures.design == "paired" or figures.n == figures.n_ref else _fewer_side(figures)
        return f"{fewest} {what}{side}; at least {stats.MIN_LAUNCHES} are needed"
    if figures.too_noisy:
        return (
            f"this machine's noise needs tau {percent(figures.noise)}, above the {percent(figures.limit)} limit: it "
            "cannot judge this case; re-qualify on a quiet machine, measure more pairs or raise the case's threshold"
        )
    remedy = "more launches needed" if needed is None else f"about {needed} pairs would decide"
    if figures.alone < stats.ALPHA:
        adjusted = min(figures.slower, figures.faster)
        return f"p {figures.alone:.2g} alone, {adjusted:.2g} among {figures.family} cases (Holm); {remedy}"
    mde = math.expm1(figures.log_mde)
    if mde > figures.tau:
        return f"MDE {percent(mde)} > tau {percent(figures.tau)}; {remedy}"
    low, high = math.expm1(figures.log_low), math.expm1(figures.log_high)
    interval = f"{100 * low:+.1f} % .. {100 * high:+.1f} %"
    bound = "+" if figures.log_high >= math.log1p(figures.tau) else "-"
    return f"the interval {interval} reaches beyond {bound}{percent(figures.tau)} (tau); {remedy}"


def _pairs_needed(figures: _Figures) -> int | None:
    """Pairs that would decide; against a stored reference no number of the candidate's launches alone need do."""
    if figures.design != "paired" or figures.n < stats.MIN_LAUNCHES or figures.too_noisy:
        return None
    spread = figures.log_se * math.sqrt(figures.n)
    needed = stats.pairs_to_decide(figures.log_ratio, spread, figures.tau, family=figures.family)
    # Fewer than there are: what is undecided is another case, whose turn in Holm's adjustment is first.
    return needed if needed is not None and needed > figures.n else None


def _fewer_side(figures: _Figures) -> str:
    return " of the candidate" if figures.n < figures.n_ref else " of the reference"


def _launches(summary: CaseSummary) -> int:
    return len(summary.launch_medians_s) if summary.outcome is Outcome.OK else 0


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value


def percent(fraction: float) -> str:
    """`2.0 %`; beyond a factor of ten the digits say nothing any more."""
    return f"{100 * fraction:.1f} %" if fraction < 10 else "over 1000 %"
