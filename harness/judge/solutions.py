"""Solutions of A X = B that owe their last digits to exactly summed residuals, not to the factors they began with.

LU in float64 errs by u kappa (1e-11 for kappa 1e5), and so would a reference by LU: measured against it, LU in float64
would be exact. Iterative refinement with residuals in a higher precision reaches X to its last digits as long as
u kappa < 1 (Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., 2002, theorem 12.1), whatever the factors.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from harness.errors import MeasurementError

SLICES = 4
"""Of each operand of a residual: 84 bits below the largest entry of a row (column) for n = 2048."""

REFINEMENTS = 20
"""A step gains a factor u kappa: two for kappa 1e6, twenty where a step gains 1 / 6."""

SETTLED = 4 * 2.0**-53
"""Relative size of the correction at which X is as good as float64 can hold it."""


def solution(A: Tensor, B: Tensor) -> Tensor:
    """X = A^(-1) B (..., n, k) in float64, accurate to about 1e-16 of each column's norm.

    Args:
        A: (..., n, n) float64.
        B: (..., n, k) float64.

    Raises:
        MeasurementError: A is singular, or so ill-conditioned that refinement does not settle.
    """
    factors, pivots, info = torch.linalg.lu_factor_ex(A)
    if not bool((info == 0).all()):
        raise MeasurementError("the matrix of a system must be regular, got one with a zero pivot")
    X: Tensor = torch.linalg.lu_solve(factors, pivots, B)
    relative = math.inf
    for _ in range(REFINEMENTS):
        correction = torch.linalg.lu_solve(factors, pivots, residual(A, X, B))
        X = X + correction
        sizes, norms = torch.linalg.vector_norm(correction, dim=-2), torch.linalg.vector_norm(X, dim=-2)
        relative = float((sizes / norms.clamp_min(torch.finfo(X.dtype).tiny)).max())
        if relative <= SETTLED:
            return X
    raise MeasurementError(
        f"a reference solution needs a condition number well below 1e16; after {REFINEMENTS} refinements the "
        f"correction is {relative:.1e} of the solution"
    )


def residual(A: Tensor, X: Tensor, B: Tensor) -> Tensor:
    """B - A X (..., n, k) in float64, to about 2^-80 of |A| |X|: as if summed in twice the precision, then rounded.

    Rows of A and columns of X are cut into slices so short that products of slices are exact in float64, whatever the
    order of their sums (Ozaki, Ogita, Oishi and Rump 2012); the products are added as unevaluated pairs of float64.
    """
    bits = (53 - math.ceil(math.log2(A.shape[-1]))) // 2
    left, right = _slices(A, bits, dim=-1), _slices(X, bits, dim=-2)
    high, low = B, torch.zeros_like(B)
    for order in range(SLICES):  # the largest products first: they cancel against B
        for i in range(order + 1):
            term = -torch.matmul(left[i], right[order - i])
            total = high + term
            part = total - high
            low = low + ((high - (total - part)) + (term - part))  # Knuth's exact sum: high + term = total + this
            high = total
    return high + low


def _slices(A: Tensor, bits: int, *, dim: int) -> list[Tensor]:
    """SLICES summands of A, each of whole multiples of 2^-bits of the power of two above its row's largest entry."""
    found, rest = [], A
    for _ in range(SLICES):
        exponent = torch.frexp(rest.abs().amax(dim=dim, keepdim=True)).exponent
        part = (rest * _power_of_two(bits - exponent)).round() * _power_of_two(exponent - bits)
        found.append(part)
        rest = rest - part
    return found


def _power_of_two(exponent: Tensor) -> Tensor:
    """2^exponent exactly, by its bits: `torch.ldexp` takes 2^exponent from a float32 power function."""
    return ((exponent.to(torch.int64) + 1023) << 52).view(torch.float64)
