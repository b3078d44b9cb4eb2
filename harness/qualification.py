"""What is known of the instrument itself: noise and false positives of A against A, power at planted slowdowns.

Under A/A the pairs d_i = log B_i - log A_i have mean 0 by construction, since launches alternate. The spread s of a
case is therefore the root mean square of d_i over all its n pairs, with n degrees of freedom, and the mean over L pairs
lies below its 99th percentile t(0.99, n) s / sqrt(L) in 99 of 100 measurements of identical code.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from harness import stats
from harness.records import (
    CaseSummary,
    Comparison,
    GrownRecord,
    MachineIdentity,
    Outcome,
    Record,
    RunSummary,
    SoftwareIdentity,
    Verdict,
)

LEVELS = (0.01, 0.02, 0.03, 0.05, 0.10)
"""Slowdowns that are planted."""

NULL_PERCENTILE = 0.99

RAISED = 3.0
"""Times its planned threshold that noise may raise a case's tau to: 2 % becomes 6 % at most. By the noise of identical
code alone tau grows without bound (130 % was seen on a busy CPU, 2026-11), and a pass at such a tau says nothing."""

MOST_TAU = 0.10
"""That noise may raise tau to, however large RAISED times the threshold is; a larger threshold stands as planned."""

Count = Annotated[int, Field(ge=0)]


def noise_limit(threshold: float) -> float:
    """The largest tau, raised by noise, at which a case may be called `unchanged` or surely not slower; fractions."""
    return max(threshold, min(RAISED * threshold, MOST_TAU))


def level_text(level: float) -> str:
    """A planted slowdown, with all its digits: `2.5 %`."""
    return f"{100 * level:g} %"


class CaseNoise(Record):
    """One case measured against itself.

    spread: root mean square of log B - log A over the pairs. gates: its time verdict may fail a check.
    """

    case_id: str
    pairs: Annotated[int, Field(ge=1)]
    spread: Annotated[float, Field(ge=0)]
    gates: bool

    def null_percentile(self, pairs: int) -> float:
        """The 99th percentile of the A/A mean over `pairs` pairs, as a fraction."""
        quantile = float(stats.t_quantile(NULL_PERCENTILE, float(self.pairs)))
        return math.expm1(quantile * self.spread / math.sqrt(pairs))

    def mde(self, pairs: int) -> float:
        """Minimum detectable effect of `pairs` pairs with this spread, as a fraction; tau + MDE is called with 80 %."""
        df = np.float64(pairs - 1)
        quantiles = stats.t_quantile(1 - stats.ALPHA, df) + stats.t_quantile(stats.POWER, df)
        return math.expm1(float(quantiles) * self.spread / math.sqrt(pairs))


class PowerPoint(Record):
    """How often a planted slowdown was called. `effect`: median over the cases of the measured one, a fraction."""

    planted: float
    effect: float
    cases: Count
    called: Count

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the share called (Clopper-Pearson)."""
        return stats.clopper_pearson(self.called, self.cases)


class NotMeasured(Record):
    """What a qualification was asked for and lacks: A/A measurements, and planted slowdowns in their order."""

    repeats: Count = 0
    levels: tuple[float, ...] = ()


class Qualification(GrownRecord):
    """The outcome of `iroot bench qualify` for one machine and manifest. Counts are of gating cases.

    It is stored after every measurement: one that was interrupted lacks those named in `not_measured`.
    """

    LATER: ClassVar[tuple[str, ...]] = ("not_measured",)

    qualification_id: str
    created_at: str
    manifest: str
    manifest_hash: str
    machine: MachineIdentity
    software: SoftwareIdentity
    pairs: Annotated[int, Field(ge=3)]
    """Pairs of launches behind one verdict."""
    trials: Count
    """Verdicts of A against A."""
    called: Count
    """Those that said regressed or improved: false positives."""
    unchanged: Count
    cases: tuple[CaseNoise, ...]
    power: tuple[PowerPoint, ...]
    runs: tuple[str, ...]
    """Reference and candidate of every measurement, A/A first, then `power`."""
    not_measured: NotMeasured = NotMeasured()

    @property
    def finished(self) -> bool:
        """Whether everything asked for was measured."""
        return self.not_measured == NotMeasured()

    @property
    def measurements(self) -> int:
        """Measurements of A against A that are complete, with and without planted slowdowns."""
        return len(self.runs) // 2

    @property
    def repeats(self) -> int:
        """A/A measurements asked for."""
        return self.measurements - len(self.power) + self.not_measured.repeats

    @property
    def levels(self) -> tuple[float, ...]:
        """Planted slowdowns asked for."""
        return (*(point.planted for point in self.power), *self.not_measured.levels)

    @property
    def lacking(self) -> str:
        """`not_measured` in words; empty where it is finished."""
        missing, parts = self.not_measured, []
        if missing.repeats:
            parts.append(f"{missing.repeats} of {self.repeats} A/A measurements")
        if missing.levels:
            parts.append(f"planted slowdowns of {', '.join(map(level_text, missing.levels))}")
        return " and ".join(parts)

    @property
    def false_positive_interval(self) -> tuple[float, float]:
        """95 % interval of the false-positive rate (Clopper-Pearson)."""
        return stats.clopper_pearson(self.called, self.trials)

    def noise(self) -> Mapping[str, CaseNoise]:
        """The cases by their ids."""
        return {case.case_id: case for case in self.cases}

    @property
    def noisy(self) -> bool:
        """Whether most verdicts on identical code could not say `unchanged`: the thresholds are out of reach here."""
        return 2 * self.unchanged < self.trials

    @property
    def headline(self) -> str:
        """The outcome in one line. An A/A hit says that the machine is unfit, not that something regressed."""
        if self.trials == 0:
            return "Not qualified: no gating case was timed"
        low, high = self.false_positive_interval
        rate = f"{self.called} of {self.trials} A/A verdicts called a difference (95 %: {low:.1%} … {high:.1%})"
        state = "Unfit machine" if self.called else "Too noisy" if self.noisy else "Fit"
        rest = "" if self.finished else f"; unfinished, not measured: {self.lacking}"
        return f"{state}: {rate}, {self.unchanged} unchanged{rest}"


def case_noise(nulls: Sequence[tuple[RunSummary, RunSummary]]) -> tuple[CaseNoise, ...]:
    """Pool each case's pairs over several A/A measurements (candidate, reference); cases that failed are left out."""
    differences: dict[str, list[float]] = {}
    gates: dict[str, bool] = {}
    for candidate, reference in nulls:
        for case_id, mine in candidate.cases.items():
            theirs = reference.cases.get(case_id)
            if theirs is None or mine.outcome is not Outcome.OK or theirs.outcome is not Outcome.OK:
                continue
            gates[case_id] = mine.planned.gates and not mine.planned.control
            differences.setdefault(case_id, []).extend(_differences(mine, theirs))
    return tuple(
        CaseNoise(case_id=case_id, pairs=len(pairs), spread=_root_mean_square(pairs), gates=gates[case_id])
        for case_id, pairs in differences.items()
        if pairs
    )


def _root_mean_square(values: Sequence[float]) -> float:
    return math.sqrt(math.fsum(value * value for value in values) / len(values))


def _differences(mine: CaseSummary, theirs: CaseSummary) -> list[float]:
    ours, others = mine.launch_medians_s, theirs.launch_medians_s
    return [math.log(ours[launch] / others[launch]) for launch in sorted(ours.keys() & others.keys())]


def count(comparisons: Iterable[Comparison], *verdicts: Verdict) -> int:
    """Rows that were timed, whose time gates, and that got one of the verdicts; any verdict if none is named."""
    rows = [row for comparison in comparisons for row in comparison.verdicts if row.gates and row.ratio is not None]
    return sum(not verdicts or row.verdict in verdicts for row in rows)
