"""A^(-1/p) B by the coupled iteration on minimax polynomials."""

from __future__ import annotations

import functools

from torch import Tensor

from iroot.methods import _coupled, _spd
from iroot.methods.coupled_pe import accuracy, find_schedule, planned_schedule
from iroot.ops import Ops
from iroot.options import ScheduleOptions
from iroot.precision import FLOATING, SPLIT
from iroot.registry import MethodSpec, Operands, Workload, register
from iroot.scaling import get_scaling


def apply_coupled_pe(operands: Operands, ops: Ops, options: ScheduleOptions) -> Tensor:
    """Z = (A + eps I)^(-1/p) B with the iteration of `coupled_pe`, in the cheaper of two ways.

    X = B_1 B_2 ... B_T is formed and applied (n^3 per step but one, then 2 n^2 k), or every factor is applied to the
    block as it comes (2 n^2 k per step) and X is not formed: that is cheaper below about k = n / 2.

    The error grows as unit roundoff * kappa, like that of `coupled_pe`.
    """
    p = _spd.root(operands)
    columns = _spd.normalise_columns(operands, ops)
    start = _spd.normalise(operands, ops, options.scaling)
    schedule = find_schedule(start.interval, p, ops.precision.name, options)
    multipliers = _coupled.multipliers(schedule)
    if applies_factors(len(multipliers), operands.A.shape[-1], columns.Z.shape[-1]):
        factors = _coupled.factors(ops, start.Y, p, multipliers)
        Z = functools.reduce(lambda block, B: ops.matmul(B, block), factors, columns.Z)
    else:
        Z = ops.matmul(_coupled.iterate(ops, start.Y, p, multipliers), columns.Z)
    return _spd.restore_columns(Z, start.scale, columns, p, operands.A.dtype)


def applies_factors(steps: int, n: int, k: int) -> bool:
    """Whether `steps` products n x n x k cost less than steps - 1 symmetric ones n x n x n and one n x n x k."""
    return 2 * k * steps <= n * (steps - 1) + 2 * k


def flops(workload: Workload, options: ScheduleOptions) -> float:
    """The iteration without X, and the cheaper way to the block."""
    assert workload.k is not None
    n, k = workload.n, workload.k
    schedule = planned_schedule(workload, options)
    steps = len(schedule.steps)
    products = schedule.products + get_scaling(options.scaling).products
    if applies_factors(steps, n, k):
        products -= steps - 1
        blocks = steps
    else:
        blocks = 1
    return _spd.symmetric_products(workload, products) + _spd.block_products(workload, blocks)


register(
    MethodSpec(
        name="coupled_pe",
        task="inverse_apply",
        function=apply_coupled_pe,
        options=ScheduleOptions,
        precisions=FLOATING + SPLIT,
        flops=flops,
        bytes_moved=_spd.apply_bytes,
        accuracy=accuracy,
        steps=lambda workload, options: len(planned_schedule(workload, options).steps),
        summary="coupled iteration on minimax (Polar Express) polynomials, its factors applied to B",
        citation="Amsel et al., The Polar Express, 2025, arXiv 2505.16932 (p = 2); minimax for any p: iroot.minimax",
    )
)
