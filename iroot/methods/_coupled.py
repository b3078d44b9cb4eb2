"""The coupled iteration X <- X B, Y <- Y B^p with B = q(Y), shared by the methods that differ in q."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from iroot.factored import Factored
from iroot.ops import Ops
from iroot.schedules import Schedule, Step

Multiplier = Callable[[Ops, Tensor], Tensor]
"""(ops, Y) -> B."""


@dataclass(frozen=True, kw_only=True)
class Iteration:
    """Everything that decides a coupled iteration on one posed matrix.

    Attributes:
        Y: the first iterate, (A + eps I) / scale in the storage format.
        scale: (..., 1, 1).
        degrees: of the polynomials that `multipliers` evaluate.
    """

    Y: Tensor
    scale: Tensor
    p: int
    multipliers: tuple[Multiplier, ...]
    degrees: tuple[int, ...]


def factors(ops: Ops, Y: Tensor, p: int, multipliers: Sequence[Multiplier]) -> Iterator[Tensor]:
    """B_1, B_2, ..., B_T, whose product is about Y^(-1/p); the last Y is not formed."""
    for t, multiplier in enumerate(multipliers):
        B = multiplier(ops, Y)
        yield B
        if t < len(multipliers) - 1:
            Y = next_iterate(ops, Y, B, p)


def next_iterate(ops: Ops, Y: Tensor, B: Tensor, p: int) -> Tensor:
    """Y B^p."""
    return ops.symmetric_matmul(Y, power(ops, B, p))


def iterates(ops: Ops, Y: Tensor, p: int, multipliers: Sequence[Multiplier]) -> Iterator[Tensor]:
    """Y_0, Y_1, ..., Y_T, with the last one, which no method forms."""
    yield Y
    for multiplier in multipliers:
        Y = next_iterate(ops, Y, multiplier(ops, Y), p)
        yield Y


def iterate(ops: Ops, Y: Tensor, p: int, multipliers: Sequence[Multiplier]) -> Tensor:
    """X = B_1 B_2 ... B_T, about Y^(-1/p)."""
    return functools.reduce(ops.symmetric_matmul, factors(ops, Y, p, multipliers))


def multipliers(schedule: Schedule) -> tuple[Multiplier, ...]:
    """One multiplier B = q(Y) per step of the schedule."""
    return tuple(_multiplier(step) for step in schedule.steps)


def affine(factor: float, identity: float) -> Multiplier:
    """B = factor Y + identity I."""
    return lambda ops, Y: combine(ops, (Y,), (factor,), identity)


def _multiplier(step: Step) -> Multiplier:
    if step.degree == 2:
        a, b, c = step.monomial
        return lambda ops, Y: ops.symmetric_quadratic(Y, a, b, c)
    return lambda ops, Y: evaluate(ops, Y, step)


def power(ops: Ops, B: Tensor, p: int) -> Tensor:
    """B^p by binary exponentiation: floor(log2 p) squares and one product per further set bit of p."""
    result = None
    square = B
    while True:
        if p & 1:
            result = square if result is None else ops.symmetric_matmul(result, square)
        p >>= 1
        if p == 0:
            assert result is not None
            return result
        square = ops.symmetric_matmul(square, square)


def evaluate(ops: Ops, Y: Tensor, step: Step) -> Tensor:
    """q(Y) in the shifted variable Z = (2 Y - u - l) / (u - l), with `schedules.evaluation_products(degree)` products.

    With m = ceil(degree / 2), at least 2, T_(m+j) = 2 T_m T_j - T_(m-j) splits q into T_m (sum_j 2 c_(m+j) T_j) plus
    terms of degree at most m (Paterson and Stockmeyer's scheme in the Chebyshev basis). Degree 8 has a form of its own
    with a product less (`iroot.factored`).
    """
    c, degree = step.chebyshev, step.degree
    radius = 0.5 * (step.upper - step.lower)
    Z = combine(ops, (Y,), (1.0 / radius,), -0.5 * (step.upper + step.lower) / radius)
    if degree == 1:
        return combine(ops, (Z,), (c[1],), c[0])
    if degree == 8:
        if step.factored is not None:
            return _evaluate_factored(ops, Z, step.factored)
        degree = 6  # the coefficients beyond are rounding noise
    m = max(2, (degree + 1) // 2)
    T = _chebyshev_polynomials(ops, Z, m)
    if degree == 2:
        return combine(ops, T, c[1:], c[0])
    low = list(c[: m + 1])
    for j in range(1, degree - m + 1):
        low[m - j] -= c[m + j]
    high = [2.0 * value for value in c[m + 1 : degree + 1]]
    return ops.matmul_add(T[m - 1], combine(ops, T, high, 0.0), combine(ops, T, low[1:], low[0]))


def _evaluate_factored(ops: Ops, Z: Tensor, form: Factored) -> Tensor:
    """Degree 8 in three products: Z^2, w_4 and the product of two factors (`iroot.factored`)."""
    c6, b2, b1, b0 = form.rest
    square = ops.symmetric_quadratic(Z, 0.0, 0.0, 1.0)
    w4 = ops.symmetric_matmul(square, combine(ops, (square, Z), form.inner, 0.0))
    left = combine(ops, (w4, square, Z), (1.0, *form.left), 0.0)
    right = combine(ops, (w4, square), (1.0, form.right), 0.0)
    return ops.matmul_add(left, right, combine(ops, (w4, square, Z), (c6, b2, b1), b0), alpha=form.sign)


def _chebyshev_polynomials(ops: Ops, Z: Tensor, m: int) -> tuple[Tensor, ...]:
    """T_1(Z) ... T_m(Z) for m <= 4."""
    T = [Z, ops.symmetric_quadratic(Z, -1.0, 0.0, 2.0)]
    if m >= 3:
        T.append(ops.matmul_add(Z, T[1], Z, alpha=2.0, beta=-1.0))
    if m >= 4:
        T.append(ops.symmetric_quadratic(T[1], -1.0, 0.0, 2.0))
    return tuple(T)


def combine(ops: Ops, terms: Sequence[Tensor], factors: Sequence[float], identity: float) -> Tensor:
    """identity I + sum_i factors_i terms_i, summed in float32 (float64) and rounded once."""
    wide = torch.promote_types(terms[0].dtype, torch.float32)
    total = terms[0].to(wide) * factors[0]
    for term, factor in zip(terms[1:], factors[1:], strict=False):
        total.add_(term, alpha=factor)
    if identity != 0.0:
        total.diagonal(dim1=-2, dim2=-1).add_(identity)
    return ops.cast(total)
