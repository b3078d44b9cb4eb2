"""Best polynomial approximation of y^(-1/p) in relative error, by Remez exchange.

The error of a polynomial q on an interval is e(y) = 1 - y^(1/p) q(y). The functions {y^(1/p), y^(1/p + 1), ...} form a
Haar system, so the minimiser of max |e| over polynomials of degree d is unique and is the one whose error alternates in
sign, at full size, at d + 2 points (Chebyshev). For p = 2 and d = 2, with sigma = sqrt(y), it is the odd quintic of
Polar Express (Amsel, Persson, Musco, Gower 2025, arXiv 2505.16932).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.polynomial import chebyshev

from iroot.errors import InvalidInputError

Array = np.ndarray[Any, np.dtype[np.floating[Any]]]

MAX_ITERATIONS = 60
# Exchange ends when the largest error is this close to the levelled error, a lower bound of the optimum (relative), or
# when both are at the rounding noise of float64 (absolute). Rounding in a system of 300 unknowns hides the first gap.
_RELATIVE_GAP = 1e-11
_RELATIVE_GAP_LARGE = 1e-6
_ABSOLUTE_GAP = 4e-15
# Eigenvalues of the companion matrix up to degree 15; beyond, bisection costs less: 0.2 s against 2 s at degree 300. An
# extremum known to 2^-16 of its interval gives the error to 1e-9 of itself.
_LARGEST_COMPANION = 16
_EPSILON = float(np.finfo(np.float64).eps)


@dataclass(frozen=True, kw_only=True)
class Minimax:
    """The degree-d minimiser of max |1 - y^(1/p) q(y)| over [lower, upper].

    Attributes:
        chebyshev: coefficients of q in T_0(z) ... T_d(z), z = (2 y - upper - lower) / (upper - lower).
        error: the minimum, max |1 - y^(1/p) q(y)|; at least 2.2e-16.
        extrema: the d + 2 points y at which the error alternates.
    """

    p: int
    degree: int
    lower: float
    upper: float
    chebyshev: tuple[float, ...]
    error: float
    extrema: tuple[float, ...]


@lru_cache(maxsize=4096)
def minimax(p: int, lower: float, upper: float, degree: int) -> Minimax:
    """Minimise max |1 - y^(1/p) q(y)| over [lower, upper] among polynomials q of the given degree.

    Multiple-exchange Remez without a grid: e'(y) = 0 where q/p + y q' = 0, a polynomial of degree d. An error that
    alternates at d + 2 points has d interior extrema, so these roots and the two end points are all of its extrema and
    make the next reference.

    Args:
        p: the root, >= 1.
        lower, upper: the interval of y, 0 < lower < upper.
        degree: of q, >= 1.

    Raises:
        InvalidInputError: a requirement above does not hold.

    Equioscillation holds to 1e-10 of the error for p <= 8, degree <= 8 and lower / upper >= 1e-8 (tests).
    """
    _check(p, lower, upper, degree)
    z = -np.cos(np.pi * np.arange(degree + 2) / (degree + 1))
    gap = _RELATIVE_GAP if degree < _LARGEST_COMPANION else _RELATIVE_GAP_LARGE
    best: Minimax | None = None
    for _ in range(MAX_ITERATIONS):
        coefficients, level = _levelled(p, lower, upper, z)
        z = _extrema(p, lower, upper, coefficients, z)
        error = max(_EPSILON, float(np.max(np.abs(relative_error(p, lower, upper, coefficients, z)))))
        if best is None or error < best.error:
            best = Minimax(
                p=p, degree=degree, lower=lower, upper=upper, chebyshev=tuple(coefficients.tolist()), error=error,
                extrema=tuple(_abscissa(lower, upper, z).tolist()),
            )  # fmt: skip
        if error - level <= max(gap * error, _ABSOLUTE_GAP):
            break
    assert best is not None
    return best


def relative_error(p: int, lower: float, upper: float, coefficients: Array, z: Array) -> Array:
    """1 - y^(1/p) q(y) at the points z of [-1, 1]."""
    error: Array = 1.0 - _abscissa(lower, upper, z) ** (1.0 / p) * chebyshev.chebval(z, coefficients)
    return error


def _check(p: int, lower: float, upper: float, degree: int) -> None:
    if p < 1:
        raise InvalidInputError(f"p must be an integer >= 1, got {p}")
    if not 0.0 < lower < upper:
        raise InvalidInputError(f"the interval must satisfy 0 < lower < upper, got lower={lower}, upper={upper}")
    if degree < 1:
        raise InvalidInputError(f"degree must be >= 1, got {degree}")


def _abscissa(lower: float, upper: float, z: Array) -> Array:
    # The ends are set exactly: at lower / upper = 1e-8 the sum m + h z would lose half of lower's digits.
    midpoint, radius = 0.5 * (upper + lower), 0.5 * (upper - lower)
    y: Array = np.where(z <= -1.0, lower, np.where(z >= 1.0, upper, midpoint + radius * z))
    return y


def _levelled(p: int, lower: float, upper: float, z: Array) -> tuple[Array, float]:
    """The polynomial whose error is +E, -E, +E, ... at the points z, and E."""
    count = len(z)
    weight = _abscissa(lower, upper, z) ** (1.0 / p)
    system = np.empty((count, count))
    system[:, :-1] = weight[:, None] * chebyshev.chebvander(z, count - 2)
    system[:, -1] = (-1.0) ** np.arange(count)
    solution: Array = np.linalg.solve(system, np.ones(count))
    return solution[:-1], abs(float(solution[-1]))


def _extrema(p: int, lower: float, upper: float, coefficients: Array, reference: Array) -> Array:
    """The end points and the roots of q/p + y q', in z."""
    slope = chebyshev.chebder(coefficients)
    midpoint_over_radius = (upper + lower) / (upper - lower)
    stationary = chebyshev.chebadd(
        coefficients / p, chebyshev.chebadd(chebyshev.chebmulx(slope), midpoint_over_radius * slope)
    )
    if len(coefficients) <= _LARGEST_COMPANION:
        roots: Array = np.sort(np.real(chebyshev.chebroots(stationary)))
    else:
        # One zero of the error lies between two neighbours of the reference, one extremum between two zeros.
        zeros = _bisect(lambda z: relative_error(p, lower, upper, coefficients, z), reference, 10)
        roots = _bisect(lambda z: chebyshev.chebval(z, stationary), zeros, 16)
    return np.concatenate([[-1.0], np.clip(roots, -1.0, 1.0), [1.0]])


def _bisect(function: Callable[[Array], Array], points: Array, halvings: int) -> Array:
    """One root of `function` between each two neighbours of `points`, where its signs alternate."""
    left, right = points[:-1].copy(), points[1:].copy()
    sign = np.sign(function(left))
    for _ in range(halvings):
        middle = 0.5 * (left + right)
        same = np.sign(function(middle)) == sign
        left, right = np.where(same, middle, left), np.where(same, right, middle)
    roots: Array = 0.5 * (left + right)
    return roots
