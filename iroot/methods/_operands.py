"""Checks of the operands of rectangular tasks."""

from __future__ import annotations

from torch import Tensor

from iroot.errors import InvalidInputError
from iroot.registry import Operands


def require_matrix(operands: Operands) -> Tensor:
    """operands.A, a floating-point tensor (..., m, n); raises InvalidInputError otherwise."""
    A = operands.A
    if A.ndim < 2 or A.shape[-1] == 0 or A.shape[-2] == 0:
        raise InvalidInputError(f"A must have at least two dimensions, the last two not empty, got {tuple(A.shape)}")
    if not A.is_floating_point():
        raise InvalidInputError(f"A must be a real floating-point tensor, got {A.dtype}; convert it first")
    return A


def require_factors(operands: Operands) -> tuple[Tensor, Tensor]:
    """operands.A (..., m, n) and operands.B (..., n, k); raises InvalidInputError where they do not fit."""
    A, B = require_matrix(operands), operands.B
    if B is None:
        raise InvalidInputError("the product A B needs operands.B, got None")
    if B.ndim != A.ndim or B.shape[:-2] != A.shape[:-2] or B.shape[-2] != A.shape[-1]:
        raise InvalidInputError(
            f"B must be (..., n, k) for A (..., m, n) with equal batch dimensions, got A {tuple(A.shape)} and "
            f"B {tuple(B.shape)}"
        )
    if B.dtype != A.dtype:
        raise InvalidInputError(f"A and B must have one dtype, got {A.dtype} and {B.dtype}")
    return A, B
