"""Reference: the polar factor by singular value decomposition, G = W S V^T, U = W V^T (Higham 2008, section 8.1)."""

from __future__ import annotations

import torch
from torch import Tensor

from iroot.methods._operands import require_matrix
from iroot.methods._polar import polar_bytes
from iroot.ops import Ops
from iroot.precision import get_precision
from iroot.registry import MethodSpec, NoOptions, Operands, Workload, register


def svd(operands: Operands, ops: Ops, options: NoOptions) -> Tensor:
    """Polar factor of operands.A (..., m, n); orthogonal to rounding level for any input, a zero matrix included.

    Raises:
        InvalidInputError: operands.A is not a floating-point matrix.
    """
    G = require_matrix(operands)
    W, _, Vh = torch.linalg.svd(ops.cast(G), full_matrices=False)
    return ops.matmul(W, Vh).to(G.dtype)


def _flops(workload: Workload, options: NoOptions) -> float:
    """6 s r^2 + 20 r^3 for the thin SVD (Golub and Van Loan 2013, figure 8.6.1, R-SVD) and 2 s r^2 for the product."""
    r, s = sorted((workload.m, workload.n))
    return float(workload.batch * (8 * s * r**2 + 20 * r**3))


def _accuracy(workload: Workload, options: NoOptions) -> float | None:
    """4 sqrt(s) u / lower, where that is below 1/2.

    The SVD is that of G + E with ||E||_F = O(u) ||G||_F, and the polar factor moves by at most 2 / (sigma_min +
    sigma_min') ||E||_F (Li 1995, SIAM J. Matrix Anal. Appl. 16:327). Measured in float32, up to 512 x 512, logspace
    spectra to 1e4: at most a fifth of this.
    """
    if workload.lower is None:
        return None
    longer = max(workload.m, workload.n)
    error = 4.0 * longer**0.5 * get_precision(workload.precision).unit_roundoff / workload.lower
    return error if error < 0.5 else None


register(
    MethodSpec(
        name="svd",
        task="polar",
        function=svd,
        precisions=("fp64", "fp32"),
        flops=_flops,
        bytes_moved=lambda workload, options: polar_bytes(workload),
        accuracy=_accuracy,
        summary="W V^T of the thin SVD",
        citation="Higham 2008, Functions of Matrices, section 8.1; Golub and Van Loan 2013, section 8.6",
        capturable=False,
        role="reference",
    )
)
