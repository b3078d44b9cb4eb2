"""Scalars that bring the largest eigenvalue of G^T G (and of G G^T, which has the same one) to about 1.

They read G alone, in O(m n) or by products with a few vectors: for methods that do not form the Gram matrix. As in
`iroot.scaling`, rescaled columns or rows supply a bound, and G is divided by a scalar.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from iroot import estimates
from iroot.errors import UnknownNameError
from iroot.scaling import Scaling

if TYPE_CHECKING:
    from iroot.ops import Ops


def none(G: Tensor, ops: Ops) -> Tensor:
    """1: the caller vouches for sigma_max = 1, and counts `lower` from 1."""
    return torch.ones_like(G[..., :1, :1])


def frobenius(G: Tensor, ops: Ops) -> Tensor:
    """||G||_F^2 = tr(G^T G) >= lambda_max."""
    return _sum_of_squares(G, (-2, -1))


def col_norm(G: Tensor, ops: Ops) -> Tensor:
    """max_j ||g_j||^2 min(n, ||H||_1 ||H||_inf) >= lambda_max, H = G with columns of norm 1.

    ||G x|| = ||H D x|| <= ||H||_2 max_j d_j ||x||, ||H||_2^2 <= ||H||_F^2 = n, and <= ||H||_1 ||H||_inf (Higham 2002,
    equation 6.19). Jacobi's bound of the Gram matrix, without the Gram matrix.
    """
    squares = _sum_of_squares(G, -2)
    H = G * torch.where(squares > 0.0, squares, 1.0).rsqrt()
    sums = H.abs().sum(-2).amax(-1) * H.abs().sum(-1).amax(-1)
    bound = sums.clamp_max(float(G.shape[-1]))[..., None, None]
    # The norms and the division round each entry of H by a few units.
    return squares.amax(-1, keepdim=True) * bound * (1.0 + 8.0 * torch.finfo(G.dtype).eps)


def row_norm(G: Tensor, ops: Ops) -> Tensor:
    """The bound of `col_norm` for G^T: rows of norm 1, and m for n."""
    return col_norm(G.mT, ops)


def power_iteration(G: Tensor, ops: Ops) -> Tensor:
    """The Rayleigh quotient of G^T G after 12 power iterations: an estimate from below."""
    return _estimated(G, 1, estimates.power)


def block_power(G: Tensor, ops: Ops) -> Tensor:
    """The largest of eight Rayleigh quotients of G^T G after 12 power iterations: an estimate from below."""
    return _estimated(G, estimates.BLOCK_COLUMNS, estimates.power)


def lanczos(G: Tensor, ops: Ops) -> Tensor:
    """The largest Ritz value of 20 Lanczos steps with G^T G: an estimate from below."""
    return _estimated(G, 1, estimates.lanczos)


def _estimated(G: Tensor, columns: int, estimate: Callable[[estimates.Operator, Tensor], Tensor]) -> Tensor:
    """Of G over its largest entry: norms of G^T G v square the square of sigma_max, and float32 ends at 1e38."""
    largest = G.abs().amax((-2, -1), keepdim=True)
    H = G / largest.clamp_min(torch.finfo(G.dtype).tiny)
    found = estimate(lambda V: H.mT @ (H @ V), estimates.start_block(G, G.shape[-1], columns))
    return found * largest.square()


def _sum_of_squares(G: Tensor, dims: int | tuple[int, int]) -> Tensor:
    """Of the entries over their largest, so that float32 squares stay in range; dimensions are kept."""
    largest = G.abs().amax((-2, -1), keepdim=True).clamp_min(torch.finfo(G.dtype).tiny)
    return (G / largest).square().sum(dims, keepdim=True) * largest.square()


GRAM_SCALINGS: dict[str, Scaling] = {
    scaling.name: scaling
    for scaling in (
        Scaling(name="none", function=none, upper_bound=False, looseness=lambda n: 1.0,
                summary="1, the caller vouches for sigma_max = 1"),
        Scaling(name="frobenius", function=frobenius, upper_bound=True, looseness=float, summary="||G||_F^2"),
        Scaling(name="col_norm", function=col_norm, upper_bound=True, looseness=float,
                summary="largest column times the norm of G with columns of norm 1"),
        Scaling(name="row_norm", function=row_norm, upper_bound=True, looseness=float,
                summary="largest row times the norm of G with rows of norm 1"),
        Scaling(name="power_iteration", function=power_iteration, upper_bound=False, looseness=lambda n: 1.0,
                headroom=0.15, summary="Rayleigh quotient of G^T G after 12 power iterations, 15 % headroom"),
        Scaling(name="block_power", function=block_power, upper_bound=False, looseness=lambda n: 1.0,
                headroom=0.1, summary="largest of eight Rayleigh quotients of G^T G, 10 % headroom"),
        Scaling(name="lanczos", function=lanczos, upper_bound=False, looseness=lambda n: 1.0,
                headroom=0.05, summary="largest Ritz value of 20 Lanczos steps with G^T G, 5 % headroom"),
    )
}  # fmt: skip
"""`looseness` takes the larger dimension of G."""


def get_gram_scaling(name: str) -> Scaling:
    """Return the scaling called `name`; raises UnknownNameError with the nearest valid name."""
    try:
        return GRAM_SCALINGS[name]
    except KeyError:
        raise UnknownNameError("scaling of a Gram matrix", name, GRAM_SCALINGS) from None
