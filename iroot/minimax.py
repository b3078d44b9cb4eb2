"""Best polynomial approximation of y^(-1/p) in relative error, by Remez exchange.

The error of a polynomial q on an interval is e(y) = 1 - y^(1/p) q(y). The functions {y^(1/p), y^(1/p + 1), ...} form a
Haar system, so the minimiser of max |e| over polynomials of degree d is unique and is the one whose error alternates in
sign, at full size, at d + 2 points (Chebyshev). For p = 2 and d = 2, with sigma = sqrt(y), it is the odd quintic of
Polar Express (Amsel, Persson, Musco, Gower 2025, arXiv 2505.16932).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
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
_LARGE = 16
# Extrema of an error this small are rounding noise.
_NOISE = 1e-13
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


def minimax(p: int, lower: float, upper: float, degree: int) -> Minimax:
    """Minimise max |1 - y^(1/p) q(y)| over [lower, upper] among polynomials q of the given degree.

    That of [lower / upper, 1], rescaled: q(y) = upper^(-1/p) r(y / upper).

    Args:
        p: the root, >= 1.
        lower, upper: the interval of y, 0 < lower < upper.
        degree: of q, >= 1.

    Raises:
        InvalidInputError: a requirement above does not hold.

    Equioscillation holds to 1e-10 of the error for p <= 8, degree <= 8 and lower / upper >= 1e-8 (tests).
    """
    _check(p, lower, upper, degree)
    unit = unit_minimax(p, lower / upper, degree)
    if upper == 1.0:
        return unit
    scale = upper ** (-1.0 / p)
    return replace(
        unit, lower=lower, upper=upper, chebyshev=tuple(scale * each for each in unit.chebyshev),
        extrema=(lower, *(upper * each for each in unit.extrema[1:-1]), upper),
    )  # fmt: skip


@lru_cache(maxsize=4096)
def unit_minimax(p: int, ratio: float, degree: int) -> Minimax:
    """`minimax` over [ratio, 1], 0 < ratio < 1.

    Remez exchange without a grid: e'(y) = 0 where s = q/p + y q' is, a polynomial of degree d. An error that alternates
    at d + 2 points has d interior extrema, so these roots and the two end points are all of its extrema and make the
    next reference. One exchange moves each point by one Newton step; the levelled error depends on them to second order
    only, so both converge quadratically. Two to four exchanges, 0.1 ms in all at degree 2, 0.3 ms up to degree 32, 8 ms
    at degree 300.
    """
    m = (1.0 + ratio) / (1.0 - ratio)
    gap = _RELATIVE_GAP if degree < _LARGE else _RELATIVE_GAP_LARGE
    absolute = _ABSOLUTE_GAP * max(1.0, degree / _LARGE)
    reference = _Reference(p, ratio, _first_angles(p, ratio, degree))
    for _ in range(MAX_ITERATIONS):
        less_one, level = reference.levelled()
        coefficients = less_one.copy()
        coefficients[0] += 1.0
        angles, moved = reference.extrema(coefficients, level, m)
        reference = _Reference(p, ratio, angles)
        error = max(_EPSILON, float(np.abs(reference.error(less_one)).max()))
        # A point that was d off is d^2 off after the step, which hides d^4 of the error.
        if error <= _NOISE or (moved**4 <= gap and error - abs(level) <= max(gap * error, absolute)):
            break
    return Minimax(
        p=p, degree=degree, lower=ratio, upper=1.0, chebyshev=tuple(coefficients.tolist()), error=error,
        extrema=(ratio, *reference.abscissa[1:-1].tolist(), 1.0),
    )  # fmt: skip


def relative_error(p: int, lower: float, upper: float, coefficients: Array, z: Array) -> Array:
    """1 - y^(1/p) q(y) at the points z of [-1, 1]."""
    # The ends are set exactly: at lower / upper = 1e-8 the sum m + h z would lose half of lower's digits.
    midpoint, radius = 0.5 * (upper + lower), 0.5 * (upper - lower)
    y = np.where(z <= -1.0, lower, np.where(z >= 1.0, upper, midpoint + radius * z))
    error: Array = 1.0 - y ** (1.0 / p) * chebyshev.chebval(z, coefficients)
    return error


def _check(p: int, lower: float, upper: float, degree: int) -> None:
    if p < 1:
        raise InvalidInputError(f"p must be an integer >= 1, got {p}")
    if not 0.0 < lower < upper:
        raise InvalidInputError(f"the interval must satisfy 0 < lower < upper, got lower={lower}, upper={upper}")
    if degree < 1:
        raise InvalidInputError(f"degree must be >= 1, got {degree}")


def _first_angles(p: int, ratio: float, degree: int) -> Array:
    """The reference as degree grows, in theta, z = cos theta, from pi to 0.

    There the error goes as the cosine of (d + 1) theta + 2 (1 - 1/p) arg(1 - b e^(-i theta)), b = -(1 - ratio^(1/2)) /
    (1 + ratio^(1/2)), the image of y = 0 inside the unit circle (Bernstein's construction for the weight y^(1/p));
    exactly so for p = 1, where it is T_(d+1) scaled. The phase is convex; one Newton step from beyond its roots.
    """
    root = math.sqrt(ratio)
    b, tail = (root - 1.0) / (root + 1.0), 2.0 * (1.0 - 1.0 / p)
    phase = math.pi * np.arange(degree + 1, -1, -1.0)
    theta: Array = phase / (degree + 1 + tail * b / (1.0 - b))
    if p > 1:
        cosine, sine = b * np.cos(theta), b * np.sin(theta)
        value = (degree + 1) * theta + tail * np.arctan2(sine, 1.0 - cosine) - phase
        slope = degree + 1 + tail * (cosine - b * b) / (1.0 - 2.0 * cosine + b * b)
        theta -= value / slope
    theta[0], theta[-1] = math.pi, 0.0
    return theta


def _short_of_one(p: int, ratio: float, theta: Array) -> Array:
    """1 - y^(1/p) with all digits where y is near 1, as after convergence: T_2's coefficient is 1e-10 then."""
    result: Array = -np.expm1(np.log1p((ratio - 1.0) * np.sin(0.5 * theta) ** 2) / p)
    return result


class _Reference:
    """d + 2 angles theta from pi to 0, with y, y^(1/p) and T_k(z) = cos(k theta) there."""

    def __init__(self, p: int, ratio: float, theta: Array) -> None:
        self._p, self._theta = p, theta
        # 1 + cos(theta) = 2 cos(theta / 2)^2 keeps the digits of a small y.
        self.abscissa: Array = ratio + (1.0 - ratio) * np.cos(0.5 * theta) ** 2
        self._weight: Array = self.abscissa ** (1.0 / p)
        self._short = _short_of_one(p, ratio, theta) if ratio > 0.5 else 1.0 - self._weight
        self._powers: Array = np.cos(np.multiply.outer(theta, np.arange(len(theta) - 1.0)))

    def levelled(self) -> tuple[Array, float]:
        """q - 1, q the polynomial whose error is +E, -E, +E, ... at the points, and E."""
        count = len(self._theta)
        system = np.empty((count, count))
        np.multiply(self._weight[:, None], self._powers, out=system[:, :-1])
        system[::2, -1], system[1::2, -1] = 1.0, -1.0
        solution: Array = np.linalg.solve(system, self._short)
        return solution[:-1], float(solution[-1])

    def error(self, less_one: Array) -> Array:
        """1 - y^(1/p) q(y), from q - 1."""
        result: Array = self._short - self._weight * (self._powers @ less_one)
        return result

    def extrema(self, coefficients: Array, level: float, m: float) -> tuple[Array, float]:
        """Angles nearer to the extrema of the error, and the longest way there in distances of the neighbours.

        Args:
            m: midpoint over radius of the interval, y = radius (z + m).
        """
        theta = self._theta
        if len(coefficients) <= 3:
            return np.array([math.pi, *_few_extrema(coefficients.tolist(), self._p, m), 0.0]), 0.0
        inner, powers = theta[1:-1], self._powers[1:-1]
        stationary = _stationary(coefficients, self._p, m)
        sine = np.sin(inner)
        value = powers @ stationary
        # S = sin(theta) s has the sign of e'(theta); towards larger |e| it is positive.
        outwards = np.where(np.arange(len(inner)) % 2 == 0, -level, level)
        climb = outwards * sine * value
        curvature = outwards * (np.cos(inner) * value - sine * sine * (powers @ _derivative(stationary)))
        concave = curvature < 0.0
        step = np.where(concave, -climb / np.where(concave, curvature, 1.0), np.copysign(math.pi, climb))
        step = np.clip(step, 0.45 * (theta[2:] - inner), 0.45 * (theta[:-2] - inner))
        moved = float((np.abs(step) / (theta[:-2] - theta[2:])).max())
        return np.concatenate([[math.pi], inner + step, [0.0]]), moved


def _few_extrema(coefficients: list[float], p: int, m: float) -> list[float]:
    """The angles of the roots of s for degree 1 or 2, in falling order: nearly all steps are of degree 2."""
    c0, c1, c2 = (*coefficients, 0.0)[:3]
    a, b, c = c2 * (2.0 / p + 4.0), c1 * (1.0 / p + 1.0) + 4.0 * m * c2, (c0 - c2) / p + m * c1
    half = -0.5 * (b + math.copysign(math.sqrt(max(0.0, b * b - 4.0 * a * c)), b))
    # Neither divisor is zero but in rounding noise.
    roots = (c / (half or _EPSILON), half / (a or _EPSILON))[: len(coefficients) - 1]
    return sorted((math.acos(min(1.0, max(-1.0, z))) for z in roots), reverse=True)


def _stationary(coefficients: Array, p: int, m: float) -> Array:
    """s = q/p + y q', y = radius (z + m), in Chebyshev polynomials of z."""
    slope = _derivative(coefficients)
    result: Array = coefficients / p + m * slope
    # z T_k = (T_(k-1) + T_(k+1)) / 2, z T_0 = T_1.
    result[:-1] += 0.5 * slope[1:]
    result[1:] += 0.5 * slope[:-1]
    result[1] += 0.5 * slope[0]
    return result


def _derivative(coefficients: Array) -> Array:
    """d/dz in Chebyshev polynomials, as long as `coefficients`: c'_k = 2 sum of j c_j over j = k + 1, k + 3, ..."""
    degree = len(coefficients) - 1
    terms = 2.0 * np.arange(degree + 1.0) * coefficients
    result = np.zeros(degree + 1)
    for top in (degree, degree - 1):
        sums = np.cumsum(terms[top:0:-2])
        result[top - 1 :: -2][: len(sums)] = sums
    result[0] *= 0.5
    return result
