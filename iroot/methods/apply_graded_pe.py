"""A^(-1/p) B with 16-bit products and float32-class answers: the factors of `graded_pe`, applied to the block."""

from __future__ import annotations

from torch import Tensor

from iroot.methods import _spd
from iroot.methods._graded import Graded, GradedOptions, find_schedule, step_products
from iroot.methods.apply_coupled_pe import applies_factors
from iroot.methods.graded_pe import WORDS, accuracy, fused_root, planned_schedule
from iroot.ops import Ops
from iroot.registry import MethodSpec, Operands, Workload, register
from iroot.scaling import get_scaling


def apply_graded_pe(operands: Operands, ops: Ops, options: GradedOptions) -> Tensor:
    """Z = (A + eps I)^(-1/p) B by the iteration of `graded_pe`, in the cheaper of two ways.

    Where `ops` forms X in fused kernels, X is formed and applied. Else every factor B_t is applied to the block as it
    comes, or, where the block is wider than about n / 2, X = B_1 B_2 ... is formed and applied once. The block is
    held in float32 and rounded, over its largest entry, for each product; the scalar part of a factor is applied
    exactly.

    Error in float16: 1e-3 for kappa 1e2 to 1e5 and columns that are not special to A. A column in the span of the
    largest eigenvectors alone is amplified little, the rounding of its block by up to kappa^(1/p).
    """
    p = _spd.root(operands)
    columns = _spd.unrounded_columns(operands)
    graded = Graded(ops, options.promote_k)
    fused = fused_root(operands, ops, options)
    if fused is not None:
        return graded.apply_matrix(fused, columns.Z).mul_(columns.scale).to(operands.A.dtype)
    A = _spd.damped(operands)
    scale = get_scaling(options.scaling).function(A, ops)
    schedule = find_schedule(
        _spd.interval_of(operands, scale, options.scaling), p, ops.precision.unit_roundoff, options
    )
    Y = A / scale
    taken_off = 1.0
    Z = columns.Z
    if applies_factors(len(schedule.steps), *Z.shape[-2:]):
        for B in graded.factors(Y, schedule.steps):
            Z = graded.apply(B, Z)
    else:
        X, taken_off = graded.inverse_root(Y, schedule)
        Z = graded.apply(graded.split(X), Z)
    return _spd.restore_columns(Z, scale * taken_off**p, columns, p, operands.A.dtype)


def flops(workload: Workload, options: GradedOptions) -> float:
    """Y W is a full product n x n x n, all others of that size are symmetric; then the cheaper way to the block."""
    assert workload.p is not None
    assert workload.k is not None
    n, k, steps = workload.n, workload.k, len(planned_schedule(workload, options).steps)
    products = step_products(steps, workload.p, last=True) + get_scaling(options.scaling).products
    blocks = steps
    if not applies_factors(steps, n, k):
        products, blocks = products + steps - 1, 1
    return _spd.symmetric_products(workload, products) + workload.batch * blocks * 2.0 * n * n * k


register(
    MethodSpec(
        name="graded_pe",
        task="inverse_apply",
        function=apply_graded_pe,
        options=GradedOptions,
        precisions=WORDS,
        flops=flops,
        bytes_moved=_spd.apply_bytes,
        accuracy=accuracy,
        steps=lambda workload, options: len(planned_schedule(workload, options).steps),
        summary="coupled minimax iteration with an exact linear term, its factors applied to B; 16-bit products",
        citation="this project; minimax steps as in Amsel et al., The Polar Express, 2025, arXiv 2505.16932",
    )
)
