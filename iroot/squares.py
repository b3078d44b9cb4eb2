"""Odd polynomials of degree 33 in four squares: X <- X q(X X^T), q of degree 16.

With Z = 2 X X^T - I, the largest singular value 1,

    T = t_S Z^2 + t_Z Z + t_I I
    L = T^2 + l_T T + l_Z Z + l_I I
    M = L^2 + m_T T + m_Z Z + m_I I
    B = M^2 + b_L L + b_Z Z,  X' = a X + B X,

four squares between the Gram product and the last product. A polynomial of degree 16 takes 15 products by Horner's rule
and 6 by Paterson and Stockmeyer (1973); a step of degree 17 (`iroot.odd_steps`) takes 3 for degree 8. No square has
more than two addends beside the identity. Of the 12 numbers 11 are free: t_I moves into the others (L, as a polynomial
in T, may be shifted) and is there for rounding alone. A polynomial of degree 16 has 17 coefficients, yet where the step
is for wide ranges the form loses little: over [0.003, 1] its smallest max |1 - s q(s^2)| found is 0.8499, where that of
all polynomials of degree 16 is 0.8489 (`iroot.minimax`); over [0.1, 1] it is 0.0275 for 0.0145.

The numbers are no formula's: `ci/fit_squares.py` fits them at each ratio of a table, by sequential quadratic
programming, to a small error at a small amplification of rounding. The error of 0.8499 comes with an amplification of
227; with the weight of the table it is 0.8544 with 125, 3 % less of the smallest singular value.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np

from iroot.errors import InvalidInputError
from iroot.file_values import FileValues, is_finite, open_table
from iroot.minimax import Array

SCHEMA = "iroot-squares/1"
SHIPPED_FILE = Path(__file__).parent / "shipped" / "squares.toml"
SMALLEST_RATIO = 0.001
"""Of the shipped table; a test compares."""

PAIR_FILE = SHIPPED_FILE.with_name("squares_pair.toml")
PAIR_MARGIN = 1.005
"""What the bound on the largest singular value is multiplied by before the first step of `pair`."""
PAIR_PUSHED = 1.015
"""The first step of `pair` keeps below 1 / PAIR_PUSHED: its rounding may raise the largest value so much."""
PAIR_LOWER = 0.0036
PAIR_BULK = 0.06
PAIR_DELTA = 0.14
"""f = p2(p1(s)) of `pair` is within PAIR_DELTA of 1 from PAIR_LOWER on."""
PAIR_ERROR = 0.021
"""f of `pair` is within PAIR_ERROR of 1 from PAIR_BULK on."""
PAIR_SLOPE = 396.0
"""f'(0) of `pair` is at least this."""

Two = tuple[float, float]
Three = tuple[float, float, float]
_MAX_ENTRIES = 1000


@dataclass(frozen=True, kw_only=True)
class Squares:
    """One step X <- a X + B X in the form above, for singular values in [ratio, 1].

    Attributes:
        ratio: smallest over largest singular value that it was fitted for.
        error: max |1 - s q(s^2)| over [ratio, 1]; singular values end in [1 - error, 1 + error].
        amplification: of rounding to first order, in units of the largest singular value after the step. An error of
            matrix V in {Z, T, L, M, B}, of 2-norm u max |V|, adds to B its entries times the two-point derivative K_V,
            and to B X at most s_j of that: (sum over V of (max |V| max_ij |K_V(s_i, s_j)| max(s_i, s_j))^2)^(1/2) /
            (1 + error), the maxima over [0, 1]. For unit roundoff u the largest error expected is u times it.
        inner: t_S, t_Z, t_I.
        left: l_T, l_Z, l_I, of L.
        right: m_T, m_Z, m_I, of M.
        last: b_L, b_Z.
        constant: a.
    """

    ratio: float
    error: float
    amplification: float
    inner: Three
    left: Three
    right: Three
    last: Two
    constant: float

    def at(self, s: Array) -> Array:
        """s q(s^2), evaluated as the matrices are."""
        return s * self._factor(s * s)

    @property
    def slope(self) -> float:
        """q(0): what small singular values, and rounding in their directions, are multiplied by."""
        return float(self._factor(np.zeros(1))[0])

    def scaled(self, factor: float) -> Squares:
        """The numbers of factor q: T takes the eighth root of it, L the fourth and M the square root."""
        root = factor**0.125
        S, Z, identity = self.inner
        T_left, Z_left, I_left = self.left
        T_right, Z_right, I_right = self.right
        L_last, Z_last = self.last
        return replace(
            self, inner=(root * S, root * Z, root * identity),
            left=(root * T_left, root**2 * Z_left, root**2 * I_left),
            right=(root**3 * T_right, root**4 * Z_right, root**4 * I_right),
            last=(root**6 * L_last, factor * Z_last), constant=factor * self.constant,
        )  # fmt: skip

    def _factor(self, y: Array) -> Array:
        """q(y)."""
        Z: Array = 2.0 * y - 1.0
        T: Array = self.inner[0] * Z * Z + self.inner[1] * Z + self.inner[2]
        L: Array = T * T + self.left[0] * T + self.left[1] * Z + self.left[2]
        M: Array = L * L + self.right[0] * T + self.right[1] * Z + self.right[2]
        total: Array = M * M + self.last[0] * L + self.last[1] * Z + self.constant
        return total


def squares_for(lower: float) -> Squares:
    """The shipped step of the largest ratio that is at most `lower`.

    Args:
        lower: smallest over largest singular value, in [SMALLEST_RATIO, 1). Beyond the table the last entry serves.

    Raises:
        InvalidInputError: `lower` is outside this range.
    """
    if not SMALLEST_RATIO <= lower < 1.0:
        raise InvalidInputError(
            f"lower must be in [{SMALLEST_RATIO}, 1) for a step of degree 33, got {lower}; "
            "take steps of degree 17 or lower below it"
        )
    entries = tabulated()
    return entries[bisect_right(entries, lower, key=lambda entry: entry.ratio) - 1]


@cache
def tabulated() -> tuple[Squares, ...]:
    """The shipped steps, by rising ratio."""
    return read_squares(SHIPPED_FILE)


@cache
def pair() -> tuple[Squares, Squares]:
    """Two steps p1, p2 fitted together by `ci/fit_pair.py`, for f = p2(p1(s)) of seven products.

    They are for the use of five quintics of Jiacheng You after G / ||G||_F, where the smallest singular values are left
    alone and the others need be near 1 only. Two steps of the table, of which the second does not know what the first
    left, leave 1.3 times that error in the bulk or too small a slope.

    Returns:
        First and second, as they are used: s is a singular value over PAIR_MARGIN times its upper bound, and nothing
        is divided between the steps. |1 - f| is at most PAIR_ERROR on [PAIR_BULK, 1] and PAIR_DELTA on [PAIR_LOWER,
        PAIR_BULK], f'(0) at least PAIR_SLOPE. The first's `ratio` is PAIR_LOWER, its amplification in units of its
        largest value, at most 1 / PAIR_PUSHED, in place of 1 + error; the second's `ratio` is the smallest value that
        the first takes on [PAIR_LOWER, 1].
    """
    first, second = read_squares(PAIR_FILE)
    return first, second


def read_squares(path: Path) -> tuple[Squares, ...]:
    """Read and check a table that `ci/fit_squares.py` or `ci/fit_pair.py` wrote.

    Raises:
        InvalidInputError: the file cannot be read, is not of this kind, or its values are out of range.
    """
    data = open_table(path, SCHEMA, writer="ci/fit_squares.py")
    entries = tuple(_read_entry(data.inner("entry", each)) for each in data.list("entry", most=_MAX_ENTRIES))
    ratios = [entry.ratio for entry in entries]
    if any(later <= earlier for earlier, later in pairwise(ratios)):
        raise data.defect("entry", "in order of rising ratio", ratios)
    return entries


def _read_entry(entry: FileValues) -> Squares:
    inner, left, right, last = (
        _numbers(entry, *each) for each in (("inner", 3), ("left", 3), ("right", 3), ("last", 2))
    )
    return Squares(
        ratio=entry.number("ratio", 1e-6, 1.0),
        error=entry.number("error", 0.0, 1.0),
        amplification=entry.number("amplification", 0.0, 1e6),
        inner=(inner[0], inner[1], inner[2]),
        left=(left[0], left[1], left[2]),
        right=(right[0], right[1], right[2]),
        last=(last[0], last[1]),
        constant=entry.number("constant", -1e6, 1e6),
    )


def _numbers(entry: FileValues, key: str, count: int) -> list[float]:
    values = entry.list(key, most=count)
    if len(values) != count or not all(is_finite(value) for value in values):
        raise entry.defect(key, f"{count} finite numbers", values)
    return [float(value) for value in values]
