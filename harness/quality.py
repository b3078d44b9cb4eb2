"""Errors of two sides on the same problem seeds -> more, less or equally accurate. Pure functions on records.

The same seeds pose the same problems on both sides, so the comparison is deterministic and needs no test: per seed
log(candidate error / reference error), per figure (relative error, residual, orthogonality, symmetry) the median over
the seeds and their 90th percentile.

Errors at rounding level must not flap. An error is raised to a floor before the ratio is taken:

- 2^-24 where the result is held in float32 or a coarser format: its rounding alone moves a result by up to that;
- 1e-12 for `fp64`: u kappa at condition number 1e4, where another library's order of sums already moves a result.

Two errors below the floor are equal; one that rises from below it far above it still counts in full.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from statistics import median

from harness.records import CaseSummary, Quality

MEDIAN_LIMIT = 1.10
"""Largest median over seeds of candidate error / reference error that is not `less accurate`."""

P90_LIMIT = 1.20
"""Likewise for the 90th percentile."""

FLOOR_FLOAT32 = 2.0**-24
FLOOR_FLOAT64 = 1e-12

FIGURES = ("relative_error", "residual", "orthogonality", "symmetry")
"""In the order of importance: the first that both sides have stands for the case in tables."""


class Accuracy(StrEnum):
    """Outcome of the quality rules. `unmeasured`: the reference has figures and the candidate has none."""

    SAME = "same"
    LESS = "less"
    MORE = "more"
    NONFINITE = "nonfinite"
    UNMEASURED = "unmeasured"


@dataclass(frozen=True, kw_only=True)
class QualityVerdict:
    """What the quality rules say of one case.

    Attributes:
        accuracy: the verdict.
        reason: why, in a few words; None for `same`.
        error_ratio: exp(median over seeds of log(candidate / reference)) of the first figure both sides have.
        notes: one text per figure that moved beyond its rule, and what could not be compared.
    """

    accuracy: Accuracy
    reason: str | None = None
    error_ratio: float | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class _Change:
    """One figure over the common seeds: median and p90 of the error ratio."""

    figure: str
    median: float
    p90: float
    candidate: float
    reference: float

    @property
    def less(self) -> bool:
        return self.median > MEDIAN_LIMIT or self.p90 > P90_LIMIT

    @property
    def more(self) -> bool:
        return self.median < 1 / MEDIAN_LIMIT and not self.less

    @property
    def text(self) -> str:
        name = self.figure.replace("_", " ")
        moved = f"{self.reference:.2e} → {self.candidate:.2e}"
        return f"{name} {moved} (×{self.median:.2f} in the median, ×{self.p90:.2f} at p90)"


def compare_quality(candidate: CaseSummary, reference: CaseSummary) -> QualityVerdict:
    """Apply the quality rules to one case that ended `ok` on both sides."""
    theirs = {each.seed: each for each in reference.quality}
    pairs = [(each, theirs[each.seed]) for each in candidate.quality if each.seed in theirs]
    if not theirs:
        return QualityVerdict(accuracy=Accuracy.SAME)
    if not pairs:
        return QualityVerdict(
            accuracy=Accuracy.UNMEASURED, reason="the candidate has no quality figures on the reference's seeds"
        )
    spoiled = [mine.seed for mine, other in pairs if not _finite(mine) and _finite(other)]
    if spoiled:
        seeds = ", ".join(map(str, spoiled))
        return QualityVerdict(accuracy=Accuracy.NONFINITE, reason=f"new non-finite result on seed {seeds}")
    cured = [mine.seed for mine, other in pairs if _finite(mine) and not _finite(other)]
    finite = [(mine, other) for mine, other in pairs if _finite(mine) and _finite(other)]
    return _judge(finite, floor=error_floor(candidate), notes=_seed_notes(len(pairs), len(theirs), cured))


def error_floor(summary: CaseSummary) -> float:
    """Error below which two results of this case count as equally accurate."""
    return FLOOR_FLOAT64 if summary.planned.case.precision == "fp64" else FLOOR_FLOAT32


def _judge(pairs: Sequence[tuple[Quality, Quality]], *, floor: float, notes: tuple[str, ...]) -> QualityVerdict:
    changes, lost = [], []
    for figure in FIGURES:
        errors = [(getattr(mine, figure), getattr(other, figure)) for mine, other in pairs]
        both = [(mine, other) for mine, other in errors if mine is not None and other is not None]
        if both:
            changes.append(_change(figure, both, floor))
        elif any(other is not None for _, other in errors):
            lost.append(figure.replace("_", " "))
    if lost:
        return QualityVerdict(accuracy=Accuracy.UNMEASURED, reason=f"the candidate has no {' and no '.join(lost)}")
    less = [change.text for change in changes if change.less]
    more = [change.text for change in changes if change.more]
    accuracy = Accuracy.LESS if less else Accuracy.MORE if more else Accuracy.SAME
    return QualityVerdict(
        accuracy=accuracy,
        reason=next(iter(less or more), None),
        error_ratio=changes[0].median if changes else None,
        notes=(*less, *more, *notes),
    )


def _change(figure: str, errors: Sequence[tuple[float, float]], floor: float) -> _Change:
    logs = sorted(math.log(max(mine, floor) / max(other, floor)) for mine, other in errors)
    return _Change(
        figure=figure,
        median=math.exp(median(logs)),
        p90=math.exp(_quantile(logs, 0.9)),
        candidate=median(mine for mine, _ in errors),
        reference=median(other for _, other in errors),
    )


def _quantile(ordered: Sequence[float], probability: float) -> float:
    """Linear interpolation between order statistics, as numpy does by default; 5 values are not worth an array."""
    position = probability * (len(ordered) - 1)
    below = math.floor(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (position - below) * (ordered[above] - ordered[below])


def _finite(quality: Quality) -> bool:
    figures = (getattr(quality, figure) for figure in FIGURES)
    return quality.nonfinite == 0 and all(math.isfinite(value) for value in figures if value is not None)


def _seed_notes(common: int, reference: int, cured: Sequence[int]) -> tuple[str, ...]:
    notes = []
    if common < reference:
        notes.append(f"compared on {common} of the reference's {reference} problem seeds")
    if cured:
        notes.append(f"no longer non-finite on seed {', '.join(map(str, cured))}")
    return tuple(notes)
