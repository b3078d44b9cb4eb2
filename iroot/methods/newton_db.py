"""Inverse p-th root, p a power of two, by square roots in product form on minimax polynomials."""

from __future__ import annotations

from torch import Tensor

from iroot.methods import _coupled, _db, _spd
from iroot.methods._constant import host_constant
from iroot.methods.coupled_pe import find_schedule
from iroot.ops import Ops
from iroot.options import ScheduleOptions
from iroot.precision import FLOATING, SPLIT
from iroot.registry import MethodSpec, Operands, Workload, register
from iroot.scaling import get_scaling
from iroot.schedules import Schedule, evaluation_products


def newton_db(operands: Operands, ops: Ops, options: ScheduleOptions) -> Tensor:
    """X = (A + eps I)^(-1/p) for p = 2, 4, 8: log2(p) - 1 square roots, then one inverse square root.

    Each stage is the product form of the Denman-Beavers iteration, P <- P q(Q P), Q <- q(Q P) Q (Higham, Functions of
    Matrices, 2008, section 6.3), with the minimax quadratic of Polar Express for q where Newton has (3 I - Q P) / 2.
    Every stage starts from the square root of the previous condition number.

    The error grows as unit roundoff * kappa.
    """
    p = _spd.root(operands)
    start = _spd.normalise(operands, ops, options.scaling)
    Y = start.Y
    roots = None
    for schedule in _stages(p, start.interval.lower, start.interval.headroom, ops.precision.name, options):
        roots = _db.square_roots(ops, Y, _coupled.multipliers(schedule))
        Y = roots.P
    assert roots is not None
    return _spd.restore(roots.Q, start.scale, p, operands.A.dtype)


@host_constant
def _stages(p: int, lower: float, headroom: float, precision: str, options: ScheduleOptions) -> tuple[Schedule, ...]:
    """One schedule per stage, for [lower, 1 + headroom] and its square roots."""
    stages: list[Schedule] = []
    while p > 1:
        # Q P, P B and B Q per step.
        schedule = find_schedule(_spd.Interval(lower=lower, headroom=headroom), 2, precision, options, updates=(3.0,))
        stages.append(schedule)
        # The stage's own error widens the next spectrum at both ends.
        lower = min(lower**0.5 * (1.0 - schedule.error), _spd.LARGEST_LOWER)
        headroom = (1.0 + headroom) ** 0.5 * (1.0 + schedule.error) - 1.0
        p //= 2
    return tuple(stages)


def _planned_stages(workload: Workload, options: ScheduleOptions) -> tuple[Schedule, ...]:
    assert workload.p is not None
    interval = _spd.known_interval(workload.lower, workload.n, options.scaling)
    return _stages(workload.p, interval.lower, interval.headroom, workload.precision, options)


def flops(workload: Workload, options: ScheduleOptions) -> float:
    """Every product is of commuting symmetric matrices: n^3 each."""
    products = sum(
        _db.count_products([evaluation_products(step.degree) for step in stage.steps])
        for stage in _planned_stages(workload, options)
    )
    return _spd.symmetric_products(workload, products + get_scaling(options.scaling).products)


def accuracy(workload: Workload, options: ScheduleOptions) -> float | None:
    """The stages' schedule errors plus amplified rounding."""
    rounding = _spd.amplified_rounding(workload)
    if rounding is None:
        return None
    return rounding + sum(stage.error for stage in _planned_stages(workload, options))


register(
    MethodSpec(
        name="newton_db",
        task="inverse_root",
        function=newton_db,
        options=ScheduleOptions,
        roots=(2, 4, 8),
        precisions=FLOATING + SPLIT,
        flops=flops,
        bytes_moved=_spd.root_bytes,
        accuracy=accuracy,
        summary="Denman-Beavers product form on minimax polynomials, one stage per factor 2 of p",
        citation="Higham, Functions of Matrices, 2008, section 6.3; Amsel et al., 2025, arXiv 2505.16932",
    )
)
