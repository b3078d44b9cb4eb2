"""Two steps of degree 33 fitted together: their bounds, and that they are no farther from polar than five quintics."""

from __future__ import annotations

import numpy as np
import pytest

from iroot.coefficients import named_table
from iroot.minimax import Array
from iroot.odd_steps import quintic
from iroot.squares import (
    PAIR_BULK,
    PAIR_DELTA,
    PAIR_ERROR,
    PAIR_LOWER,
    PAIR_MARGIN,
    PAIR_PUSHED,
    PAIR_SLOPE,
    Squares,
    pair,
)
from iroot.table_files import shipped_tables

LARGEST_HALF = 100.0
"""Of a node's entries, as in `test_squares`."""


def grid(low: float, high: float = 1.0, count: int = 100_000) -> Array:
    return np.concatenate([np.linspace(low, high, count), np.geomspace(max(low, 1e-6), high, count)])


def composed(s: Array) -> Array:
    first, second = pair()
    return second.at(first.at(s))


def test_the_first_leaves_room_for_what_rounding_adds() -> None:
    first, _ = pair()
    values = first.at(grid(0.0))
    assert values.min() >= 0.0
    assert 0.999 / PAIR_PUSHED < values.max() <= 1.0 / PAIR_PUSHED


def test_the_polynomial_is_near_1_as_stated_and_no_nearer() -> None:
    bulk = np.abs(1.0 - composed(grid(PAIR_BULK))).max()
    assert 0.95 * PAIR_ERROR < bulk <= PAIR_ERROR
    tail = np.abs(1.0 - composed(grid(PAIR_LOWER, PAIR_BULK))).max()
    assert 0.95 * PAIR_DELTA < tail <= PAIR_DELTA


def test_small_values_rise_with_the_slope_and_none_passes_the_bound() -> None:
    first, second = pair()
    assert first.slope * second.slope >= PAIR_SLOPE
    s = np.linspace(0.0, PAIR_LOWER, 10_000)
    values = composed(s)
    assert np.all(np.diff(values[s < 0.4 * PAIR_LOWER]) > 0.0)
    assert values.min() >= 0.0
    assert values.max() <= 1.0 + PAIR_DELTA
    np.testing.assert_allclose(values[1] / s[1], first.slope * second.slope, rtol=1e-3)


def test_the_entries_say_what_each_step_does() -> None:
    first, second = pair()
    assert first.ratio == PAIR_LOWER
    values = first.at(grid(PAIR_LOWER))
    assert values.min() == pytest.approx(second.ratio, rel=1e-6)
    assert first.error == pytest.approx(np.abs(1.0 - values).max(), rel=1e-6)
    assert second.error == pytest.approx(np.abs(1.0 - second.at(grid(second.ratio))).max(), rel=1e-6)


@pytest.mark.parametrize("step", pair(), ids=["first", "second"])
def test_what_is_stored_fits_half_precision(step: Squares) -> None:
    Z = 2.0 * grid(0.0) ** 2 - 1.0
    T = step.inner[0] * Z * Z + step.inner[1] * Z + step.inner[2]
    L = T * T + step.left[0] * T + step.left[1] * Z + step.left[2]
    M = L * L + step.right[0] * T + step.right[1] * Z + step.right[2]
    B = M * M + step.last[0] * L + step.last[1] * Z
    assert max(float(np.abs(each).max()) for each in (T, L, M, B)) < LARGEST_HALF


def spectra() -> dict[str, Array]:
    """Singular values in closed form; the shipped spike's bulk is uniform in its squares."""
    found: dict[str, Array] = {"flat": np.ones(64), "uniform": np.linspace(0.33, 1.0, 1024)}
    found["half small"] = np.concatenate([np.ones(128), np.full(128, 1e-3)])
    for n in (256, 512, 1024, 2048, 4096):
        i = np.arange(1.0, n + 1.0)
        found[f"inverse {n}"], found[f"power_law {n}"] = 1.0 / i, np.sqrt(i**-2.0 + 1e-6)
        bulk = np.sqrt(np.linspace(1e-4, 2e-4, n - n // 64))
        found[f"spike {n}"] = np.concatenate([np.geomspace(1.0, 0.1**0.5, n // 64), bulk])
    for n in (256, 1024):
        for exponent in (1, 2, 3, 4, 6, 8):
            found[f"1e{exponent} {n}"] = np.geomspace(1.0, 10.0**-exponent, n)
    return found


def rms(values: Array) -> float:
    return float(np.sqrt(np.mean(values * values)))


@pytest.mark.parametrize("s", spectra().values(), ids=spectra())
def test_no_farther_from_polar_than_five_quintics(s: Array) -> None:
    """The bound is the Schatten norm of order 8. The largest ratio is 0.997, of i^-1 at 4096."""
    ours = composed(s / (PAIR_MARGIN * float(np.sum(s**8)) ** 0.125))
    theirs = s / np.linalg.norm(s)
    for triple in named_table("jiacheng_you").take(5):
        theirs = quintic(triple).at(theirs)
    ratios = rms(ours - 1.0) / rms(theirs - 1.0), rms(ours**2 - 1.0) / rms(theirs**2 - 1.0)
    assert max(ratios) <= 1.0


def test_the_pair_is_no_table_of_quintics() -> None:
    assert "squares_pair" not in shipped_tables()
