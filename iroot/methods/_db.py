"""The Denman-Beavers product form: P -> Y^(1/2) and Q -> Y^(-1/2) together, with the multiplier B = q(Q P)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from iroot.methods._coupled import Multiplier
from iroot.ops import Ops


@dataclass(frozen=True, kw_only=True)
class SquareRoots:
    """P = Y^(1/2) and Q = Y^(-1/2)."""

    P: Tensor
    Q: Tensor


def square_roots(ops: Ops, Y: Tensor, multipliers: Sequence[Multiplier]) -> SquareRoots:
    """P <- P B, Q <- B Q with B = q(Q P), from P = Y, Q = I (Higham, Functions of Matrices, 2008, section 6.3).

    One product per update beside those of q; the first Q is B itself.
    """
    first, *rest = multipliers
    Q = first(ops, Y)
    P = ops.symmetric_matmul(Y, Q)
    for multiplier in rest:
        B = multiplier(ops, ops.symmetric_matmul(Q, P))
        P = ops.symmetric_matmul(P, B)
        Q = ops.symmetric_matmul(B, Q)
    return SquareRoots(P=P, Q=Q)


def count_products(evaluations: Sequence[int]) -> int:
    """Products of `square_roots`, given those of each q: Q P, P B and B Q per step, the first of them only P B."""
    return sum(evaluations) + 3 * len(evaluations) - 2
