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
from harness.judge.pairs import add_product, pair

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
    """B - A X (..., n, k) in float64, to about 2^-80 of |A| |X|: summed as a pair, then rounded."""
    return add_product(pair(B), pair(-A), pair(X)).high
