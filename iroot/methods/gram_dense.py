"""(G^T G + eps I)^(-1/p) B by forming G^T G."""

from __future__ import annotations

from torch import Tensor

from iroot.methods import _gram
from iroot.methods._gram import GramOptions
from iroot.ops import Ops
from iroot.precision import FLOATING, SPLIT
from iroot.registry import MethodSpec, Operands, Workload, register


def gram_dense(operands: Operands, ops: Ops, options: GramOptions) -> Tensor:
    """Z = (A + eps I)^(-1/p) B with A = G^T G formed in float32 (float64) and handed to a method of `inverse_apply`.

    The error is that of the inner method plus the rounding of A: about unit roundoff of float32 times kappa / p, with
    kappa the condition number of G^T G + eps I, the square of that of G where eps = 0.

    Raises:
        InvalidInputError: the operands do not fit, or the inner method does not serve the precision.
    """
    G, B = _gram.gram_operands(operands)
    posed = Operands(A=_gram.gram(G), B=B, p=operands.p, eps=operands.eps, lower=operands.lower)
    return _gram.run_inner("inverse_apply", posed, ops, options).to(operands.A.dtype)


def flops(workload: Workload, options: GramOptions) -> float:
    """m n^2 for the Gram matrix, then those of the inner method."""
    formed = float(workload.batch) * workload.m * float(workload.n) ** 2
    return formed + _planned(workload, options).flops


def accuracy(workload: Workload, options: GramOptions) -> float | None:
    """That of the inner method, and the rounding of the Gram matrix."""
    stated = _planned(workload, options).accuracy
    if stated is None:
        return None
    error = stated + _gram.gram_rounding(workload)
    return error if error <= 0.3 else None


def steps(workload: Workload, options: GramOptions) -> int:
    """Those of the inner method, 0 where it does not say."""
    return _planned(workload, options).steps


def _planned(workload: Workload, options: GramOptions) -> _gram.Plan:
    return _gram.inner_plan("inverse_apply", _gram.square(workload, workload.n), options)


register(
    MethodSpec(
        name="dense",
        task="gram_apply",
        function=gram_dense,
        options=GramOptions,
        precisions=FLOATING + SPLIT,
        flops=flops,
        bytes_moved=_gram.gram_bytes,
        accuracy=accuracy,
        steps=steps,
        summary="the Gram matrix formed, then graded_pe (16-bit products) or coupled_pe applied",
        citation="Amsel et al., The Polar Express, 2025, arXiv 2505.16932 (p = 2); minimax for any p: iroot.minimax",
    )
)
