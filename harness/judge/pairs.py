"""Matrices as unevaluated sums of two float64 matrices, and their products to at least 80 bits.

What float64 methods are judged by needs more digits than float64: a reference in the same arithmetic errs like them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

SLICES = 4
"""Of each factor of a product: 84 bits below the largest entry of a row (column) for an inner dimension of 2048."""


@dataclass(frozen=True, kw_only=True)
class Pair:
    """The matrix high + low, float64 each, |low| at most half a unit in the last place of high."""

    high: Tensor
    low: Tensor

    @property
    def mT(self) -> Pair:
        """Its transpose."""
        return Pair(high=self.high.mT, low=self.low.mT)

    def __neg__(self) -> Pair:
        return Pair(high=-self.high, low=-self.low)

    def plus(self, other: Tensor) -> Pair:
        """The pair + other, to about 2^-105."""
        high, rest = exact_sum(self.high, other)
        return _normalised(high, rest + self.low)


def pair(A: Tensor) -> Pair:
    """A (float64) as a pair."""
    return Pair(high=A, low=torch.zeros_like(A))


def identity_pair(like: Tensor) -> Pair:
    """The identity in the shape of `like` (..., n, n)."""
    return pair(torch.eye(like.shape[-1], dtype=like.dtype, device=like.device).expand(like.shape))


def difference(X: Tensor | Pair, Y: Tensor | Pair) -> Tensor:
    """X - Y in float64; the low parts count once the high ones have cancelled."""
    if isinstance(X, Tensor) and isinstance(Y, Tensor):
        return X - Y
    left, right = X if isinstance(X, Pair) else pair(X), Y if isinstance(Y, Pair) else pair(Y)
    return (left.high - right.high) + (left.low - right.low)


def product(A: Pair, B: Pair) -> Pair:
    """A B (..., m, k), to about 2^-80 of |A| |B|."""
    shape = (*A.high.shape[:-1], B.high.shape[-1])
    return add_product(pair(A.high.new_zeros(shape)), A, B)


def add_product(C: Pair, A: Pair, B: Pair) -> Pair:
    """C + A B (..., m, k), to about 2^-80 of |A| |B|: as if summed in twice the precision.

    Rows of A and columns of B are cut into slices so short that products of slices are exact in float64, whatever the
    order of their sums (Ozaki, Ogita, Oishi and Rump 2012); the products are added as unevaluated pairs of float64.
    """
    bits = (53 - math.ceil(math.log2(A.high.shape[-1]))) // 2
    left, right = _slices(A, bits, dim=-1), _slices(B, bits, dim=-2)
    high, low = C.high, C.low
    for order in range(SLICES):  # the largest products first: they cancel against C
        for i in range(order + 1):
            high, rest = exact_sum(high, torch.matmul(left[i], right[order - i]))
            low = low + rest
    return _normalised(high, low)


def exact_sum(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """The rounded sum and what the rounding lost: a + b = the two together (Knuth)."""
    total = a + b
    part = total - a
    return total, (a - (total - part)) + (b - part)


def _normalised(high: Tensor, low: Tensor) -> Pair:
    total, rest = exact_sum(high, low)
    return Pair(high=total, low=rest)


def _slices(A: Pair, bits: int, *, dim: int) -> list[Tensor]:
    """SLICES summands of A, each of whole multiples of 2^-bits of the power of two above its row's largest entry."""
    found, rest = [], A
    for _ in range(SLICES):
        exponent = torch.frexp(rest.high.abs().amax(dim=dim, keepdim=True)).exponent
        part = (rest.high * _power_of_two(bits - exponent)).round() * _power_of_two(exponent - bits)
        found.append(part)
        rest = _normalised(rest.high - part, rest.low)
    return found


def _power_of_two(exponent: Tensor) -> Tensor:
    """2^exponent exactly, by its bits: `torch.ldexp` takes 2^exponent from a float32 power function."""
    return ((exponent.to(torch.int64) + 1023) << 52).view(torch.float64)
