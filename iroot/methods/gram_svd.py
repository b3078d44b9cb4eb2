"""Reference: (G^T G + eps I)^(-1/p) B by a singular value decomposition of G."""

from __future__ import annotations

import torch
from torch import Tensor

from iroot.errors import InvalidInputError
from iroot.methods import _gram, _spd
from iroot.ops import Ops
from iroot.precision import get_precision
from iroot.registry import MethodSpec, NoOptions, Operands, Workload, register

SVD_FLOPS = 14.0
"""FLOP of a thin singular value decomposition with vectors, in l s^2, s <= l (Golub and Van Loan, section 8.6.3)."""


def gram_svd(operands: Operands, ops: Ops, options: NoOptions) -> Tensor:
    """Z = V diag(f(sigma^2)) V^T B + f(0) (B - V V^T B), G = U diag(sigma) V^T, f(x) = (x + eps)^(-1/p).

    No Gram matrix is formed: the error grows as unit roundoff times the condition number of G, the square root of that
    of G^T G.

    Raises:
        InvalidInputError: eps = 0 and G has fewer rows than columns; or the operands do not fit.
    """
    G, B = _gram.gram_operands(operands)
    p, eps = _spd.root(operands), operands.eps
    if eps <= 0.0 and G.shape[-2] < G.shape[-1]:
        raise InvalidInputError(
            f"eps must be > 0 where G has fewer rows than columns, got eps={eps} with G {tuple(G.shape)}: G^T G is "
            "singular; damp it"
        )
    _, sigma, Vh = torch.linalg.svd(G.to(ops.storage), full_matrices=False)
    B = B.to(ops.storage)
    inner = Vh @ B
    # A computed singular value at 0 is rounding of at most a few u sigma_max.
    floor = torch.finfo(sigma.dtype).eps * sigma[..., :1]
    weights = (torch.maximum(sigma, floor).square() + eps) ** (-1.0 / p)
    Z: Tensor = Vh.mT @ (weights[..., None] * inner)
    if G.shape[-2] < G.shape[-1]:
        at_zero: float = eps ** (-1.0 / p)
        Z = Z + at_zero * (B - Vh.mT @ inner)
    return Z.to(operands.A.dtype)


def flops(workload: Workload, options: NoOptions) -> float:
    """14 l s^2 for the factors, s = min(m, n), l = max(m, n), and two products s x n x k."""
    small, large = sorted((workload.m, workload.n))
    columns = 4.0 * small * workload.n * (workload.k or 0)
    return workload.batch * (SVD_FLOPS * large * float(small) ** 2 + columns)


def accuracy(workload: Workload, options: NoOptions) -> float | None:
    """u (300 + 20 kappa^(1/2) / p) max(1, max(m, n) / 256)^(1/2), kappa of G^T G + eps I, plus 2^-53 kappa.

    The last is what a float64 Gram matrix, by which it is judged, resolves itself: half of it seen.
    """
    if workload.lower is None:
        return None
    assert workload.p is not None
    u = get_precision(workload.precision).unit_roundoff
    size = max(1.0, max(workload.m, workload.n) / 256.0) ** 0.5
    error = u * (300.0 + 20.0 * workload.lower**-0.5 / workload.p) * size
    error += 2.0**-53 / workload.lower
    return error if error <= 0.3 else None


register(
    MethodSpec(
        name="svd",
        task="gram_apply",
        function=gram_svd,
        precisions=("fp64", "fp32"),
        flops=flops,
        bytes_moved=_gram.gram_bytes,
        accuracy=accuracy,
        capturable=False,
        role="reference",
        summary="singular value decomposition of G, applied factor by factor",
        citation="Golub and Van Loan, Matrix Computations, 4th ed., 2013, section 8.6 (LAPACK and cuSOLVER gesdd)",
    )
)
