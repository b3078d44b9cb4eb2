"""The Remez exchange: equioscillation, optimality and the ranges of its arguments."""

from __future__ import annotations

import numpy as np
import pytest

from iroot.errors import InvalidInputError
from iroot.minimax import _Reference, minimax, relative_error, unit_minimax

ROOTS = (1, 2, 3, 4, 8)
LOWER = (1e-8, 1e-6, 1e-4, 1e-2, 0.5)


def _errors(p: int, lower: float, degree: int, z: np.ndarray) -> np.ndarray:
    best = minimax(p, lower, 1.0, degree)
    return relative_error(p, lower, 1.0, np.array(best.chebyshev), z)


@pytest.mark.parametrize("p", ROOTS)
@pytest.mark.parametrize("lower", LOWER)
def test_error_alternates_at_full_size(p: int, lower: float) -> None:
    for degree in range(1, 9):
        best = minimax(p, lower, 1.0, degree)
        z = (2.0 * np.array(best.extrema) - 1.0 - lower) / (1.0 - lower)
        z[0], z[-1] = -1.0, 1.0
        errors = _errors(p, lower, degree, z)
        assert len(errors) == degree + 2
        if best.error < 1e-13:
            continue  # below this the signs are float64's own rounding
        assert np.all(errors[1:] * errors[:-1] < 0)
        assert np.ptp(np.abs(errors)) <= 1e-8 * best.error + 1e-14


@pytest.mark.parametrize("p", ROOTS)
@pytest.mark.parametrize("lower", LOWER)
def test_no_point_of_the_interval_exceeds_the_error(p: int, lower: float) -> None:
    y = np.concatenate([np.geomspace(lower, 1.0, 3000), np.linspace(lower, 1.0, 3000)])
    z = np.clip((2.0 * y - 1.0 - lower) / (1.0 - lower), -1.0, 1.0)
    for degree in range(1, 9):
        best = minimax(p, lower, 1.0, degree)
        assert np.max(np.abs(_errors(p, lower, degree, z))) <= best.error * (1 + 1e-8) + 1e-14


def test_degree_one_and_p_one_has_the_closed_form() -> None:
    # p = 1: 1 - y q(y) is the shifted Chebyshev polynomial T_2 scaled to 1 at y = 0, so the error is 1 / T_2(w).
    lower = 0.01
    w = (1.0 + lower) / (1.0 - lower)
    assert minimax(1, lower, 1.0, 1).error == pytest.approx(1.0 / (2.0 * w * w - 1.0), rel=1e-12)


def test_error_falls_with_degree_and_scales_with_the_interval() -> None:
    errors = [minimax(3, 1e-2, 1.0, degree).error for degree in range(1, 9)]
    assert errors == sorted(errors, reverse=True)
    assert minimax(3, 0.05, 5.0, 3).error == pytest.approx(minimax(3, 1e-2, 1.0, 3).error, rel=1e-10)


@pytest.mark.parametrize(
    ("p", "lower", "upper", "degree"),
    [(0, 0.1, 1.0, 2), (2, 0.0, 1.0, 2), (2, 1.0, 1.0, 2), (2, 0.1, 1.0, 0)],
)
def test_wrong_arguments_are_refused(p: int, lower: float, upper: float, degree: int) -> None:
    with pytest.raises(InvalidInputError, match="must"):
        minimax(p, lower, upper, degree)


@pytest.mark.parametrize(("p", "lower", "degree"), [(1, 1e-2, 16), (2, 1e-2, 40), (4, 1e-3, 60)])
def test_high_degrees_alternate_too(p: int, lower: float, degree: int) -> None:
    best = minimax(p, lower, 1.0, degree)
    z = (2.0 * np.array(best.extrema) - 1.0 - lower) / (1.0 - lower)
    errors = _errors(p, lower, degree, np.clip(z, -1.0, 1.0))
    assert len(errors) == degree + 2
    assert np.all(errors[1:] * errors[:-1] < 0)
    assert np.ptp(np.abs(errors)) <= 1e-5 * best.error


@pytest.mark.parametrize("p", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("ratio", [1e-8, 1e-6, 1e-4, 1e-2, 0.5, 1.0 - 2e-5])
def test_few_exchanges(monkeypatch: pytest.MonkeyPatch, p: int, ratio: float) -> None:
    """The first reference is the one of high degrees; degree 2, which nearly every step has, takes four at most."""
    exchanges: list[None] = []
    levelled = _Reference.levelled

    def counted(reference: _Reference) -> tuple[np.ndarray, float]:
        exchanges.append(None)
        return levelled(reference)

    monkeypatch.setattr(_Reference, "levelled", counted)
    for degree, most in ((1, 2), (2, 4), (4, 8), (8, 8), (32, 6)):
        exchanges.clear()
        unit_minimax.__wrapped__(p, ratio, degree)
        assert 0 < len(exchanges) <= most, degree


def test_narrow_intervals_keep_the_digits_of_the_highest_coefficient() -> None:
    """As the interval shrinks to 1, q goes to the Taylor polynomial of y^(-1/2), 3/8 y^2 at its top."""
    best = minimax(2, 1.0 - 2e-5, 1.0 + 2e-5, 2)
    radius = 0.5 * (best.upper - best.lower)
    assert 2.0 * best.chebyshev[2] / radius**2 == pytest.approx(3.0 / 8.0, rel=1e-8)
