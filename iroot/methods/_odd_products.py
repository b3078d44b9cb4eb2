"""Odd steps of any degree (`iroot.odd_steps`) composed of the products of `Ops`.

Sums of a product and its addends are taken in float32 at least and rounded once. The constant a stays outside the
rounded operand: a X + B X, not (a I + B) X.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from iroot.odd_steps import Addends, OddStep
from iroot.ops import Ops


def take_step(X: Tensor, A: Tensor, step: OddStep, ops: Ops) -> Tensor:
    """a X + B X for X (..., r, s); A = X X^T."""
    return ops.symmetric_apply(_multiplier(A, step, ops), X, beta=step.constant)


def further_steps(X: Tensor, steps: Sequence[OddStep], ops: Ops) -> Tensor:
    """Steps that form X X^T themselves."""
    for step in steps:
        X = take_step(X, ops.gram(X), step, ops)
    return X


def scaled_square(A: Tensor, norm: Tensor, ops: Ops) -> tuple[Tensor, Tensor]:
    """(tau A)^2 and tau (..., 1, 1), the power of two that brings `norm` = ||A||_F between 1/2 and 1 times 2 r^(1/2).

    Its entries then fit float16: those of A are of order 1 with ||A||_F = (2 r)^(1/2) for Gaussian input, and up to r
    for rank one, whose square ends float16 at r = 256.
    """
    # norm = mantissa 2^exponent, so that the quotient is a power of two to the last digit.
    target = 2.0 ** (1 + math.floor(0.5 * math.log2(A.shape[-1])))
    tau = target * torch.frexp(norm).mantissa / norm
    scaled = ops.cast(A * tau)
    return ops.symmetric_matmul(scaled, scaled), tau


def multiplier_of_scaled(A: Tensor, squared: Tensor, tau: Tensor, bound: Tensor, step: OddStep, ops: Ops) -> Tensor:
    """B at A / bound, where `squared` = (tau A)^2 takes the place of its first product."""
    by_squared = (tau * bound).square().reciprocal()
    wide = squared * (step.stretch**2 * by_squared)
    if step.degree == 5:
        return ops.cast((A * (step.inner.Z / bound)).add_(wide, alpha=step.inner.S))
    Z = _shifted(A * (step.stretch / bound), step.shift, ops)
    wide = wide.add_(A * (2.0 * step.stretch * step.shift / bound))
    wide.diagonal(dim1=-2, dim2=-1).add_(step.shift**2)
    return _upper(Z, wide, step, ops)


def _multiplier(A: Tensor, step: OddStep, ops: Ops) -> Tensor:
    """B = q(A) - a I."""
    if step.degree == 5:
        return ops.symmetric_quadratic(A, 0.0, step.inner.Z, step.inner.S)
    Z = _shifted(A.to(_sums(A)) * step.stretch, step.shift, ops)
    return _upper(Z, ops.symmetric_matmul(Z, Z), step, ops)


def _upper(Z: Tensor, S: Tensor, step: OddStep, ops: Ops) -> Tensor:
    """B of degree 9, 17 or 33 from Z and S = Z^2."""
    T = _shifted(_sum((S, step.inner.S), (Z, step.inner.Z)), step.inner.identity, ops)
    product = ops.matmul_wide(T, T)
    if step.degree == 9:
        return _with(product.mul_(step.sign), T, Z, step.last, ops)
    L = _with(product, T, Z, step.left, ops)
    if step.degree == 17:
        R = _with(product, T, Z, step.right, ops)
        return _with(ops.matmul_wide(L, R).mul_(step.sign), T, Z, step.last, ops)
    R = _with(ops.matmul_wide(L, L), T, Z, step.right, ops)
    return _with(ops.matmul_wide(R, R).mul_(step.sign), L, Z, step.last, ops)


def _with(product: Tensor, T: Tensor, Z: Tensor, addends: Addends, ops: Ops) -> Tensor:
    """The product and its addends, rounded."""
    return _shifted(product + _sum((T, addends.T), (Z, addends.Z)), addends.identity, ops)


def _sum(*terms: tuple[Tensor, float]) -> Tensor:
    """sum of factor times matrix, in float32 at least."""
    (first, factor), *others = terms
    total = first.to(_sums(first)) * factor
    for matrix, factor in others:
        total = total.add_(matrix, alpha=factor)
    return total


def _sums(A: Tensor) -> torch.dtype:
    return torch.promote_types(A.dtype, torch.float32)


def _shifted(wide: Tensor, shift: float, ops: Ops) -> Tensor:
    """wide + shift I, rounded; adds in place."""
    wide.diagonal(dim1=-2, dim2=-1).add_(shift)
    return ops.cast(wide)
