"""The largest eigenvalue that five moments allow: a bound from one product of a symmetric matrix with itself.

Of S, n x n, n, tr S, <S, S>, <S, S^2> and <S^2, S^2> are m_0 ... m_4, sums of powers of its eigenvalues x_i. With
v(x) = (1, x, x^2) and M = sum_i v(x_i) v(x_i)^T, the Hankel matrix of the moments, v(x_i) v(x_i)^T <= M, so that

    f(x) = v(x)^T M^(-1) v(x) <= 1 at every eigenvalue (the reciprocal of Christoffel's function).

No eigenvalue is beyond the largest x where f(x) <= 1. Of n eigenvalues in [0, 1], 1 among them, it is the furthest off
for Hoel and Levine's design for extrapolation (Ann. Math. Statist. 35, 1964), where f = T_2(2 x - 1)^2 / n: at most
`looseness`, 2.5 at n = 1024; 1.7 on log-spaced spectra, 1.0 where the eigenvalues are two values.

`iroot.kernels.words.square_bound_kernel` computes what `largest` does, in the same order.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

POINTS = 1024
"""Of each of two passes over where f rises."""

_ROUNDING = 5e-6
_ROUNDING_PER_COLUMN = 1e-8
"""Tensor cores cut up to 4e-9 of a sum off it per column."""


def regularisation(n: int) -> float:
    """What M's diagonal is raised by, relative to it: M is then no smaller than the exact one, and f no larger."""
    return max(_ROUNDING, _ROUNDING_PER_COLUMN * n)


def looseness(n: int) -> float:
    """The largest ratio of the bound to lambda_max of a semidefinite matrix, and 1 % for M's raised diagonal."""
    return 1.01 * (0.5 + 0.5 * math.sqrt(0.5 + 0.5 * math.sqrt(n)))


@dataclass(frozen=True, kw_only=True)
class Moments:
    """Sums of the first four powers of n eigenvalues, (...) each."""

    n: int
    m1: Tensor
    m2: Tensor
    m3: Tensor
    m4: Tensor


def largest(moments: Moments, highest: Tensor, relative: float) -> Tensor:
    """The largest x in [0, highest] with f(x) <= 1, rounded up by 1e-6 of `highest`.

    f = 1 / m_0 + g_1^2 + g_2^2, g_1 and g_2 the orthonormal polynomials of degree 1 and 2. The larger root of g_2 is a
    node of Gauss's quadrature, so no eigenvalue but smaller ones lie to its left alone, f is at most 1 there, and from
    there on it rises: nothing between two points that are looked at can be missed, however steep f is.

    Args:
        moments: of a symmetric matrix S whose trace is about 0, S no smaller than -I.
        highest: (...), no eigenvalue is above it.
        relative: `regularisation`.

    Returns:
        (...) float64.
    """
    m1, m2, m3, m4 = (each.double() for each in (moments.m1, moments.m2, moments.m3, moments.m4))
    raised = 1.0 + relative
    # Of a multiple of I only rounding is left.
    m2 = m2.clamp_min(1e-30)
    m4 = torch.maximum(m4, m2 * m2 / moments.n)
    d0 = moments.n * raised
    l1, l2 = m1 / d0, m2 / d0
    d1 = m2 * raised - l1 * m1
    l3 = (m3 - l2 * m1) / d1
    d2 = torch.maximum(m4 * raised - l2 * m2 - l3 * l3 * d1, 1e-12 * m4)
    # m_4^(1/4) is a bound too, and of the size of the eigenvalues where these are small.
    high = torch.minimum(highest.double(), 1.001 * m4.sqrt().sqrt()).clamp_min(0.0)
    # From the larger root of the quadratic on, each of f's terms rises.
    low = torch.minimum(high, 0.5 * (l3 + (l3 * l3 + 4.0 * (l2 - l3 * l1)).clamp_min(0.0).sqrt()))
    points = torch.arange(POINTS, device=m1.device, dtype=torch.float64)
    for _ in range(2):
        step = (high - low) / POINTS
        x = high[..., None] - step[..., None] * points
        linear = x - l1[..., None]
        quadratic = x * x - l2[..., None] - l3[..., None] * linear
        f = 1.0 / d0 + linear * linear / d1[..., None] + quadratic * quadratic / d2[..., None]
        # The first point that may be an eigenvalue; the one above it may not.
        first = torch.where(f <= 1.0, points, float(POINTS)).amin(-1)
        high = high - step * (first - 1.0).clamp_min(0.0)
        low = torch.maximum(low, high - step)
    return high
