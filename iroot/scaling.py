"""Scalars that bring the largest eigenvalue of a symmetric positive definite matrix to about 1.

All of them are device tensors of shape (..., 1, 1), one per matrix of a batch; none synchronises with the host. A true
upper bound may be loose, and then the caller's lower / upper ratio shrinks by that looseness; an estimate from below
needs headroom in the schedule instead: lambda_max underestimated by 1 % without it is fatal.

Jacobi, Ruiz and AOL rescale rows and columns, and (D A D)^(-1/p) is not D^(-1) A^(-1/p) D^(-1) but for p = 1.
Here they only supply bounds, by lambda_max(A) <= max_i d_i^(-2) lambda_max(D A D), and A is divided by that scalar.
The scalings that `solve` undoes exactly are those of `iroot.equilibration`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from iroot import estimates
from iroot.errors import UnknownNameError

if TYPE_CHECKING:
    from iroot.ops import Ops

RUIZ_SWEEPS = 3


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
    float16. Where `ops` has kernels for it, it is one half product in 16 bits.
    """
    found = ops.square_bound(A, eps=0.0)
    if found is not None:
        return found
    largest = _largest_diagonal(A)
    scaled = ops.cast(A / largest)
    squared = ops.symmetric_matmul(scaled, scaled).to(A.dtype)
    norm = torch.linalg.matrix_norm(squared, keepdim=True)
    bound = torch.minimum(norm, gershgorin(squared, ops)).sqrt()
    # Rounding A and A^2 to the storage format moves lambda_max by a few unit roundoffs.
    return largest * bound * (1.0 + 4.0 * ops.precision.unit_roundoff)


def none(A: Tensor, ops: Ops) -> Tensor:
    """1: the caller vouches for lambda_max = 1, and counts `lower` from 1."""
    return torch.ones_like(A[..., :1, :1])


def jacobi(A: Tensor, ops: Ops) -> Tensor:
    """max_i a_ii min(||C||_F, ||C||_inf) >= lambda_max, C = D A D with d_i = a_ii^(-1/2), so of unit diagonal.

    x^T A x = y^T C y with y = D^(-1) x, and |y|^2 <= max_i a_ii |x|^2.
    """
    return _congruent_bound(A, _safe_rsqrt(A.diagonal(dim1=-2, dim2=-1)))


def ruiz(A: Tensor, ops: Ops) -> Tensor:
    """max_i d_i^(-2) min(||E||_F, ||E||_inf) >= lambda_max, E = D A D equilibrated in the largest entry of each row.

    d_i <- d_i / max_j |e_ij|^(1/2), three sweeps (Ruiz 2001, RAL-TR-2001-034). For a positive definite A the limit is
    Jacobi's scaling.
    """
    # The first sweep divides by no more than the largest entry; every later one makes the d_i larger.
    d = torch.ones_like(A[..., 0])
    for _ in range(RUIZ_SWEEPS):
        d = d * _safe_rsqrt((A.abs() * d[..., None, :]).mul_(d[..., None]).amax(-1))
    return _congruent_bound(A, d)


def aol(A: Tensor, ops: Ops) -> Tensor:
    """max_i s_i^2 sum_j |a_ij| s_j^(-2) >= lambda_max, s_i = (sum_j |a_ij|)^(-1/2) as in almost-orthogonal layers.

    Gershgorin's bound of the similar matrix S^2 A S^(-2) (Horn and Johnson, Matrix Analysis, 2nd ed., corollary 6.1.6);
    diag(s) as in Prach and Lampert 2022, arXiv 2208.03160, who show lambda_max(S A S) <= 1. Never above the largest row
    sum.
    """
    sums = A.abs().sum(-1)
    # Relative to the largest: products of row sums leave float32's range.
    weights = sums / sums.amax(-1, keepdim=True).clamp_min(torch.finfo(A.dtype).tiny)
    weighted = (A.abs() @ weights[..., None])[..., 0]
    quotient = torch.where(weights > 0.0, weighted / weights.clamp_min(torch.finfo(A.dtype).tiny), 0.0)
    return quotient.amax(-1)[..., None, None] * (1.0 + A.shape[-1] * torch.finfo(A.dtype).eps)


def _safe_rsqrt(values: Tensor) -> Tensor:
    """values^(-1/2), 1 where a value is 0: the row of a positive semidefinite matrix is then 0 too."""
    return torch.where(values > 0.0, values, 1.0).rsqrt()


def _congruent_bound(A: Tensor, d: Tensor) -> Tensor:
    """max_i d_i^(-2) min(||D A D||_F, ||D A D||_inf), over the rows that are not zero; d (..., n)."""
    E = (A * d[..., None]) * d[..., None, :]
    norm: Tensor = torch.linalg.matrix_norm(E, keepdim=True)
    bound = torch.minimum(norm, E.abs().sum(-1).amax(-1)[..., None, None])
    filled = A.diagonal(dim1=-2, dim2=-1) > 0.0
    largest = torch.where(filled, d.square().reciprocal(), 0.0).amax(-1)[..., None, None]
    # The scaling and its way back round each entry four times.
    return largest * bound * (1.0 + 4.0 * torch.finfo(A.dtype).eps)


def power_iteration(A: Tensor, ops: Ops) -> Tensor:
    """The Rayleigh quotient after 12 power iterations from a fixed vector: an estimate from below.

    Within 1 % of lambda_max where the spectrum decays; a start vector orthogonal to the leading eigenvector, or a crowd
    of eigenvalues at the top, leaves it lower: 0.91 on Wishart matrices, n = 64 (2026-11; `estimates.power` has the
    bound).
    """
    return estimates.power(lambda v: A @ v, estimates.start_block(A, A.shape[-1], 1))


def block_power(A: Tensor, ops: Ops) -> Tensor:
    """The largest of eight Rayleigh quotients after 12 power iterations: an estimate from below.

    0.955 to 1 times lambda_max on log-spaced and uniform spectra, n = 64 to 4096, 100 starts each; 0.90 on a single
    eigenvalue 11 % above all others (CPU, 2026-11).
    """
    start = estimates.start_block(A, A.shape[-1], estimates.BLOCK_COLUMNS)
    return estimates.power(lambda v: A @ v, start)


def lanczos(A: Tensor, ops: Ops) -> Tensor:
    """The largest Ritz value of 20 Lanczos steps from a fixed vector: an estimate from below, the closest for its cost.

    0.982 to 1 times lambda_max on log-spaced, uniform and two-level spectra, n = 64 to 4096, 300 starts each; 12 steps
    fall to 0.929 (CPU, 2026-11).
    """
    return estimates.lanczos(lambda v: A @ v, estimates.start_block(A, A.shape[-1], 1))


SCALINGS: dict[str, Scaling] = {
    scaling.name: scaling
    for scaling in (
        Scaling(name="none", function=none, upper_bound=False, looseness=lambda n: 1.0,
                summary="1, the caller vouches for lambda_max = 1"),
        Scaling(name="frobenius", function=frobenius, upper_bound=True, looseness=math.sqrt, summary="||A||_F"),
        Scaling(name="trace", function=trace, upper_bound=True, looseness=float, summary="tr A"),
        Scaling(name="gershgorin", function=gershgorin, upper_bound=True, looseness=math.sqrt,
                summary="largest absolute row sum"),
        Scaling(name="square", function=square, upper_bound=True, looseness=lambda n: n**0.25, products=1,
                summary="min(||A^2||_F, ||A^2||_inf)^(1/2)"),
        Scaling(name="jacobi", function=jacobi, upper_bound=True, looseness=float,
                summary="largest diagonal entry times the norm of the matrix with unit diagonal"),
        Scaling(name="ruiz", function=ruiz, upper_bound=True, looseness=float,
                summary="largest scale times the norm of the equilibrated matrix"),
        Scaling(name="aol", function=aol, upper_bound=True, looseness=math.sqrt,
                summary="largest absolute row sum, columns weighted by row sums"),
        Scaling(name="power_iteration", function=power_iteration, upper_bound=False, looseness=lambda n: 1.0,
                headroom=0.15, summary="Rayleigh quotient after 12 power iterations, 15 % headroom"),
        Scaling(name="block_power", function=block_power, upper_bound=False, looseness=lambda n: 1.0,
                headroom=0.1, summary="largest of eight Rayleigh quotients after 12 power iterations, 10 % headroom"),
        Scaling(name="lanczos", function=lanczos, upper_bound=False, looseness=lambda n: 1.0,
                headroom=0.05, summary="largest Ritz value of 20 Lanczos steps, 5 % headroom"),
    )
}  # fmt: skip


def get_scaling(name: str) -> Scaling:
    """Return the scaling called `name`; raises UnknownNameError with the nearest valid name."""
    try:
        return SCALINGS[name]
    except KeyError:
        raise UnknownNameError("scaling", name, SCALINGS) from None
