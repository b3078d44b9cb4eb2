"""Steps of degree 33 in four squares: what each entry of the shipped table reaches, and how rounding grows in it."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from iroot.errors import InvalidInputError
from iroot.minimax import Array, unit_minimax
from iroot.squares import SHIPPED_FILE, SMALLEST_RATIO, Squares, read_squares, squares_for, tabulated

LARGEST_HALF = 100.0
"""Of a node's entries: float16 holds 65,504, and the square of one is accumulated in float32."""


def grid(ratio: float, count: int = 20_000) -> Array:
    """Points of [ratio, 1], even in s and in arccos(2 s^2 - 1), where a polynomial in s^2 oscillates."""
    turns = np.sqrt(0.5 + 0.5 * np.cos(np.linspace(0.0, np.pi, count)))
    s: Array = np.sort(np.concatenate([np.linspace(ratio, 1.0, count), np.maximum(turns, ratio)]))
    return s


def gained(error: float) -> float:
    """Smallest over largest singular value after a step."""
    return (1.0 - error) / (1.0 + error)


def best_error(ratio: float) -> float:
    """Of all polynomials of degree 16."""
    return unit_minimax(2, ratio**2, 16).error


@pytest.fixture(params=tabulated(), ids=lambda entry: f"{entry.ratio:g}")
def entry(request: pytest.FixtureRequest) -> Squares:
    found = request.param
    assert isinstance(found, Squares)
    return found


def test_an_entry_reaches_its_error_and_no_less(entry: Squares) -> None:
    reached = float(np.abs(1.0 - entry.at(grid(entry.ratio))).max())
    assert reached <= entry.error * (1.0 + 1e-9) + 1e-14
    assert reached >= entry.error * (1.0 - 1e-4)


def test_an_entry_is_an_odd_polynomial_of_degree_33(entry: Squares) -> None:
    # q interpolated at 17 Chebyshev points of y is q elsewhere, and its term of degree 16 is t_S^8 (2 y)^16.
    fit = np.polynomial.Chebyshev.interpolate(lambda y: entry.at(np.sqrt(y)) / np.sqrt(y), 16, domain=[0.0, 1.0])
    y = np.linspace(0.01, 1.0, 50)
    np.testing.assert_allclose(np.sqrt(y) * fit(y), entry.at(np.sqrt(y)), atol=1e-9)
    assert fit.coef[16] * 2.0**15 == pytest.approx(entry.inner[0] ** 8, rel=1e-3, abs=1e-6)
    assert entry.slope == pytest.approx(float(fit(0.0)), rel=1e-9)


def test_an_entry_is_no_better_than_all_polynomials_and_nearly_as_good_where_the_range_is_wide(entry: Squares) -> None:
    best = best_error(entry.ratio)
    assert entry.error > best
    assert entry.error <= 1.1 * best + 0.025
    if entry.error > 0.5:
        assert gained(entry.error) >= 0.85 * gained(best)


def test_errors_fall_and_ratios_rise() -> None:
    entries = tabulated()
    ratios = np.array([each.ratio for each in entries])
    assert ratios[0] == SMALLEST_RATIO
    assert ratios[-1] > 0.44
    assert np.all(ratios[1:] / ratios[:-1] < 1.12)
    assert np.all(np.diff(ratios) > 0.0)
    assert np.all(np.diff([each.error for each in entries]) < 0.0)


def nodes(entry: Squares, Z: Array, perturbed: str = "", by: float = 0.0) -> dict[str, Array]:
    """Z, T, L, M and B of matrices Z (..., 2, 2), with `by` off the diagonal of one of them."""
    unit, off = np.eye(2), np.array([[0.0, by], [by, 0.0]])

    def node(name: str, value: Array) -> Array:
        return value + off if name == perturbed else value

    Z = node("Z", Z)
    T = node("T", entry.inner[0] * Z @ Z + entry.inner[1] * Z + entry.inner[2] * unit)
    L = node("L", T @ T + entry.left[0] * T + entry.left[1] * Z + entry.left[2] * unit)
    M = node("M", L @ L + entry.right[0] * T + entry.right[1] * Z + entry.right[2] * unit)
    B = node("B", M @ M + entry.last[0] * L + entry.last[1] * Z)
    return {"Z": Z, "T": T, "L": L, "M": M, "B": B}


@pytest.mark.parametrize("entry", tabulated()[::9], ids=lambda entry: f"{entry.ratio:g}")
def test_the_amplification_is_what_perturbed_matrices_show(entry: Squares) -> None:
    """Of diag(s_i, s_j) a node is perturbed off its diagonal, by central differences; all pairs of 71 values."""
    s = np.cos(np.linspace(0.0, 0.5 * np.pi, 71))
    first, second = np.triu_indices(len(s))
    Z = np.zeros((len(first), 2, 2))
    Z[:, 0, 0], Z[:, 1, 1] = 2.0 * s[first] ** 2 - 1.0, 2.0 * s[second] ** 2 - 1.0
    larger = np.maximum(s[first], s[second])
    largest = {name: np.abs(value).max() for name, value in nodes(entry, Z).items()}
    terms = []
    for name, size in largest.items():
        up, down = (nodes(entry, Z, name, by)["B"][:, 0, 1] for by in (1e-6, -1e-6))
        terms.append(size * float((np.abs(up - down) / 2e-6 * larger).max()))
    found = float(np.linalg.norm(terms)) / (1.0 + entry.error)
    # The table's maxima are over a finer grid.
    assert 0.97 * entry.amplification <= found <= 1.001 * entry.amplification


def test_what_is_stored_fits_half_precision(entry: Squares) -> None:
    Z = np.zeros((2001, 2, 2))
    Z[:, 0, 0] = Z[:, 1, 1] = 2.0 * np.linspace(0.0, 1.0, 2001) ** 2 - 1.0
    assert max(float(np.abs(value).max()) for value in nodes(entry, Z).values()) < LARGEST_HALF
    # What small singular values are multiplied by is what the step is for: they rise together with all others.
    assert 1.0 < entry.slope < 33.0 * (1.0 + entry.error)


def test_the_entry_for_a_ratio_is_the_largest_not_above_it() -> None:
    entries = tabulated()
    for earlier, later in pairwise(entries):
        assert squares_for(earlier.ratio) is earlier
        assert squares_for(0.5 * (earlier.ratio + later.ratio)) is earlier
        assert squares_for(np.nextafter(later.ratio, 0.0)) is earlier
    assert squares_for(0.9) is entries[-1]


@pytest.mark.parametrize("lower", [0.0, 0.000999, 1.0, float("nan")])
def test_a_ratio_outside_the_table_is_refused(lower: float) -> None:
    with pytest.raises(InvalidInputError, match=r"lower must be in \[0.001, 1\).*got .*degree 17"):
        squares_for(lower)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('schema = "iroot-squares/1"', 'schema = "iroot-polar/1"', "schema must be 'iroot-squares/1'"),
        ("ratio = 0.001\n", "ratio = 0.5\n", "entry must be in order of rising ratio"),
        ("constant = ", "content = ", r"entry\.constant must be a number"),
        ("last = [", "last = [\n    1.0,", r"entry\.last must be a list of 1 to 2 values"),
        ("[[entry]]", "[[entry", "a table must be TOML"),
    ],
)
def test_a_damaged_table_is_refused_by_file_and_key(tmp_path: Path, old: str, new: str, message: str) -> None:
    text = SHIPPED_FILE.read_text(encoding="utf-8")
    assert old in text
    path = tmp_path / "mine.toml"
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(InvalidInputError, match=rf"mine\.toml: {message}"):
        read_squares(path)
    with pytest.raises(InvalidInputError, match="no table file"):
        read_squares(tmp_path / "none.toml")


def test_a_multiple_of_a_step_is_a_step() -> None:
    s, step = np.linspace(0.0, 1.0, 30), squares_for(0.01)
    np.testing.assert_allclose(step.scaled(0.7).at(s), 0.7 * step.at(s), rtol=1e-12)
