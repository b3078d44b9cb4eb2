"""Quality rules: limits over the seeds, the rounding floor, and what must not be passed over."""

from __future__ import annotations

import pytest

from harness.quality import FLOOR_FLOAT32, Accuracy, QualityVerdict, compare_quality, error_floor
from harness.records import CaseSummary, Outcome, Quality
from harness.tests.factories import make_case, make_planned


def side(*quality: Quality, precision: str = "bf16") -> CaseSummary:
    """A case that ended well with these figures."""
    return CaseSummary(planned=make_planned(make_case(precision=precision)), outcome=Outcome.OK, quality=quality)


def errors(*values: float, precision: str = "bf16") -> CaseSummary:
    """Relative errors of seeds 0, 1, ..."""
    return side(*(Quality(seed=i, relative_error=value) for i, value in enumerate(values)), precision=precision)


def judged(candidate: CaseSummary, reference: CaseSummary) -> QualityVerdict:
    return compare_quality(candidate, reference)


@pytest.mark.parametrize(
    ("growth", "accuracy"),
    [
        ((1.09, 1.09, 1.09, 1.09, 1.09), Accuracy.SAME),
        ((1.11, 1.11, 1.11, 1.11, 1.11), Accuracy.LESS),
        ((1.0, 1.0, 1.0, 1.0, 1.9), Accuracy.LESS),  # p90 1.47 (on the log scale, between 1.0 and 1.9)
        ((1.0, 1.0, 1.0, 1.0, 1.3), Accuracy.SAME),  # p90 1.17
        ((0.90, 0.90, 0.90, 0.90, 0.90), Accuracy.MORE),
        ((0.92, 0.92, 0.92, 0.92, 0.92), Accuracy.SAME),
        ((0.5, 0.5, 0.5, 1.3, 1.3), Accuracy.LESS),  # better in the median, worse at p90
    ],
)
def test_limits_over_the_seeds(growth: tuple[float, ...], accuracy: Accuracy) -> None:
    base = (1e-3, 2e-3, 3e-3, 4e-3, 5e-3)
    candidate = errors(*(error * factor for error, factor in zip(base, growth, strict=True)))
    verdict = judged(candidate, errors(*base))
    assert verdict.accuracy is accuracy
    assert verdict.error_ratio == pytest.approx(sorted(growth)[2])
    assert (verdict.reason is None) == (accuracy is Accuracy.SAME)


@pytest.mark.parametrize("figure", ["relative_error", "residual", "orthogonality", "symmetry"])
def test_every_figure_counts(figure: str) -> None:
    candidate, reference = (side(Quality.model_validate({"seed": 0, figure: value})) for value in (2e-3, 1e-3))
    verdict = judged(candidate, reference)
    assert verdict.accuracy is Accuracy.LESS
    name = figure.replace("_", " ")
    assert verdict.reason == f"{name} 1.00e-03 → 2.00e-03 (×2.00 in the median, ×2.00 at p90)"
    assert verdict.notes == (verdict.reason,)


def test_one_figure_worse_outweighs_another_better() -> None:
    candidate = side(Quality(seed=0, relative_error=5e-4, residual=2e-3))
    verdict = judged(candidate, side(Quality(seed=0, relative_error=1e-3, residual=1e-3)))
    assert verdict.accuracy is Accuracy.LESS
    assert verdict.error_ratio == pytest.approx(0.5)
    assert [note.split()[0] for note in verdict.notes] == ["residual", "relative"]


@pytest.mark.parametrize(
    ("precision", "before", "after", "accuracy"),
    [
        ("fp32", 1e-8, 5e-8, Accuracy.SAME),
        ("fp32", 0.0, 5e-8, Accuracy.SAME),
        ("fp32", 0.0, 1e-6, Accuracy.LESS),
        ("fp32", 6e-8, 1.2e-7, Accuracy.LESS),
        ("fp64", 1e-15, 9e-13, Accuracy.SAME),
        ("fp64", 1e-15, 1e-10, Accuracy.LESS),
        ("fp64", 1e-9, 5e-8, Accuracy.LESS),
    ],
)
def test_rounding_does_not_flap(precision: str, before: float, after: float, accuracy: Accuracy) -> None:
    verdict = judged(errors(after, precision=precision), errors(before, precision=precision))
    assert verdict.accuracy is accuracy


def test_a_rise_from_below_the_floor_is_measured_from_the_floor() -> None:
    assert error_floor(errors(1.0)) == FLOOR_FLOAT32
    assert judged(errors(1e-6), errors(0.0)).error_ratio == pytest.approx(1e-6 * 2**24)


def test_only_common_seeds_are_compared() -> None:
    verdict = judged(errors(1e-3, 1e-3), errors(1e-3, 1e-3, 9e-3))
    assert verdict.accuracy is Accuracy.SAME
    assert verdict.notes == ("compared on 2 of the reference's 3 problem seeds",)


def test_new_nonfinite_results() -> None:
    bad = side(Quality(seed=0, relative_error=1e-3), Quality(seed=1, relative_error=float("nan")))
    good = errors(1e-3, 1e-3)
    assert judged(bad, good).accuracy is Accuracy.NONFINITE
    assert judged(good, bad).notes == ("no longer non-finite on seed 1",)
    assert judged(bad, bad).accuracy is Accuracy.SAME


def test_missing_figures_are_named() -> None:
    reference = side(Quality(seed=0, relative_error=1e-3, residual=1e-3))
    assert judged(errors(1e-3), reference).reason == "the candidate has no residual"
    assert judged(side(), reference).accuracy is Accuracy.UNMEASURED
    assert judged(reference, side()) == QualityVerdict(accuracy=Accuracy.SAME)
    assert judged(reference, errors(1e-3)).accuracy is Accuracy.SAME
