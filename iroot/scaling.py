"""Scalars that bring the largest eigenvalue of a symmetric positive definite matrix to about 1.

All of them are device tensors of shape (..., 1, 1), one per matrix of a batch; none synchronises with the host. A true
upper bound may be loose, and then the caller's lower / upper ratio shrinks by that looseness; an estimate from below
needs headroom in the schedule instead: lambda_max underestimated by 1 % without it is fatal.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from iroot.errors import UnknownNameError

if TYPE_CHECKING:
    from iroot.ops import Ops

POWER_ITERATIONS = 12


@dataclass(frozen=True, kw_only=True)
class Scaling:
    """One scalar normalisation.

    Attributes:
        function: (A, ops) -> (..., 1, 1) in A's dtype; A (..., n, n) symmetric positive semidefinite.
        upper_bound: the value is never below lambda_max, but for rounding, which the value includes.
        looseness: n -> the largest possible ratio of the value to lambda_max.
        headroom: lambda_max is at most (1 + headroom) times the value; 0 for upper bounds.
        products: matrix products it takes.
    """

    name: str
    function: Callable[[Tensor, Ops], Tensor]
    upper_bound: bool
    looseness: Callable[[int], float]
    headroom: float = 0.0
    products: int = 0
    summary: str


def frobenius(A: Tensor, ops: Ops) -> Tensor:
    """||A||_F >= lambda_max, of A over its largest diagonal entry: squares of float32 end at 1e38."""
    largest = _largest_diagonal(A)
    norm: Tensor = torch.linalg.matrix_norm(A / largest, keepdim=True)
    return largest * norm


def _largest_diagonal(A: Tensor) -> Tensor:
    """max_i a_ii; no entry of a positive definite A is larger."""
    return A.diagonal(dim1=-2, dim2=-1).amax(-1)[..., None, None].clamp_min(torch.finfo(A.dtype).tiny)


def trace(A: Tensor, ops: Ops) -> Tensor:
    """tr A >= lambda_max."""
    return A.diagonal(dim1=-2, dim2=-1).sum(-1)[..., None, None]


def gershgorin(A: Tensor, ops: Ops) -> Tensor:
    """max_i sum_j |a_ij| = ||A||_inf >= lambda_max."""
    return A.abs().sum(-1).amax(-1)[..., None, None]


def square(A: Tensor, ops: Ops) -> Tensor:
    """min(||A^2||_F^(1/2), ||A^2||_inf^(1/2)) >= lambda_max, with one product in the precision of `ops`.

    1.0-2.9 times lambda_max on Wishart, log-spaced, spiked and power-law spectra up to n = 2048, where ||A||_F is up to
    16 times. The largest diagonal entry is divided out first, so that A^2 stays below n, in the range of
    float16.
    """
    largest = _largest_diagonal(A)
    scaled = ops.cast(A / largest)
    squared = ops.symmetric_matmul(scaled, scaled).to(A.dtype)
    norm = torch.linalg.matrix_norm(squared, keepdim=True)
    bound = torch.minimum(norm, gershgorin(squared, ops)).sqrt()
    # Rounding A and A^2 to the storage format moves lambda_max by a few unit roundoffs.
    return largest * bound * (1.0 + 4.0 * ops.precision.unit_roundoff)


def power_iteration(A: Tensor, ops: Ops) -> Tensor:
    """The Rayleigh quotient after 12 power iterations from a fixed vector: an estimate from below.

    Within 5 % of lambda_max where the spectrum decays; a start vector orthogonal to the leading eigenvector, or a crowd
    of eigenvalues at the top, leaves it lower.
    """
    n = A.shape[-1]
    # Equidistributed entries (golden ratio), not a constant vector: a constant one is orthogonal to the leading
    # eigenvector of every matrix with zero row sums. The same on each call, so graph capture and repeats agree.
    steps = torch.arange(1, n + 1, device=A.device, dtype=A.dtype)
    v = torch.remainder(steps * 0.6180339887498949, 1.0).sub(0.5)[:, None].expand(*A.shape[:-1], 1)
    for _ in range(POWER_ITERATIONS):
        v = A @ v
        v = v / torch.linalg.vector_norm(v, dim=-2, keepdim=True)
    return (v.mT @ (A @ v)).contiguous()


SCALINGS: dict[str, Scaling] = {
    scaling.name: scaling
    for scaling in (
        Scaling(name="frobenius", function=frobenius, upper_bound=True, looseness=math.sqrt, summary="||A||_F"),
        Scaling(name="trace", function=trace, upper_bound=True, looseness=float, summary="tr A"),
        Scaling(name="gershgorin", function=gershgorin, upper_bound=True, looseness=math.sqrt,
                summary="largest absolute row sum"),
        Scaling(name="square", function=square, upper_bound=True, looseness=lambda n: n**0.25, products=1,
                summary="min(||A^2||_F, ||A^2||_inf)^(1/2)"),
        Scaling(name="power_iteration", function=power_iteration, upper_bound=False, looseness=lambda n: 1.0,
                headroom=0.05, summary="Rayleigh quotient after 12 power iterations, 5 % headroom"),
    )
}  # fmt: skip


def get_scaling(name: str) -> Scaling:
    """Return the scaling called `name`; raises UnknownNameError with the nearest valid name."""
    try:
        return SCALINGS[name]
    except KeyError:
        raise UnknownNameError("scaling", name, SCALINGS) from None
