"""Inverse p-th root by the coupled iteration on minimax polynomials (Polar Express for any p)."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from iroot.errors import InvalidInputError
from iroot.methods import _coupled, _spd
from iroot.methods._constant import host_constant
from iroot.ops import Ops
from iroot.options import ScheduleOptions
from iroot.plans import Costs, cheapest_schedule, coupled_costs
from iroot.precision import FLOATING, SPLIT
from iroot.registry import MethodSpec, Operands, Workload, register
from iroot.scaling import get_scaling
from iroot.schedules import Design, Schedule, schedule_for


def coupled_pe(operands: Operands, ops: Ops, options: ScheduleOptions) -> Tensor:
    """X = (A + eps I)^(-1/p) by B = q_t(Y), X <- X B, Y <- Y B^p, from Y = (A + eps I) / s, X = I.

    q_t is the minimax polynomial of 1 - y^(1/p) q(y) over the spectrum of Y at step t; for p = 2 it is Polar Express
    (Amsel et al. 2025, arXiv 2505.16932) in sigma = y^(1/2), coupled as in the Newton-Schulz iteration of
    Higham, Functions of Matrices (2008), section 6.7.

    The error grows as unit roundoff * kappa: 7e-5 in float32, 0.06 in float16 at kappa 1e4 and p = 2 (CPU, n = 256);
    bfloat16 diverges there.
    """
    begun = begin(operands, ops, options)
    X = _coupled.iterate(ops, begun.Y, begun.p, begun.multipliers)
    return _spd.restore(X, begun.scale, begun.p, operands.A.dtype)


def begin(operands: Operands, ops: Ops, options: ScheduleOptions) -> _coupled.Iteration:
    """The normalised matrix and its schedule."""
    p = _spd.root(operands)
    start = _spd.normalise(operands, ops, options.scaling)
    schedule = find_schedule(start.interval, p, ops.precision.name, options)
    return _coupled.Iteration(
        Y=start.Y, scale=start.scale, p=p, multipliers=_coupled.multipliers(schedule),
        degrees=tuple(step.degree for step in schedule.steps),
    )  # fmt: skip


def find_schedule(
    interval: _spd.Interval, p: int, precision: str, options: ScheduleOptions, *, updates: tuple[float, ...] = ()
) -> Schedule:
    """The schedule for a spectrum in `interval`.

    Args:
        updates: products beside the polynomials, as in `iroot.plans.Costs`; default: of the coupled iteration.
    """
    return _schedule(p, interval.lower, interval.headroom, precision, options, updates)


@host_constant
def _schedule(
    p: int, lower: float, headroom: float, precision: str, options: ScheduleOptions, updates: tuple[float, ...]
) -> Schedule:
    # Numbers, not records, as arguments: torch.compile takes the result for a constant of them.
    if options.schedule is not None:
        return _checked(options.schedule, p, lower, headroom)
    design = Design(p=p, lower=lower, headroom=headroom, safety=options.safety)
    target = _spd.target(options.target, precision)
    if options.degrees == "cheapest":
        costs = Costs(updates=updates) if updates else coupled_costs(p)
        return cheapest_schedule(design, target=target, costs=costs, min_cushion=options.min_cushion)
    design = replace(design, degrees=options.degrees)
    return schedule_for(design, target=target, min_cushion=options.min_cushion)


def _checked(schedule: Schedule, p: int, lower: float, headroom: float) -> Schedule:
    """`schedule` if it was made for this root and an interval that holds this one."""
    design = schedule.design
    if p != design.p:
        raise InvalidInputError(f"the schedule of `table` serves p = {design.p}, got p = {p}")
    if lower < design.lower or headroom > design.headroom:
        raise InvalidInputError(
            f"the schedule of `table` serves spectra in [{design.lower:g}, {1.0 + design.headroom:g}], "
            f"got [{lower:g}, {1.0 + headroom:g}]; tune one for it: iroot tune schedule --p {p} --lower {lower:.2g}"
        )
    return schedule


def planned_schedule(workload: Workload, options: ScheduleOptions) -> Schedule:
    """The schedule that a call with this workload uses."""
    assert workload.p is not None
    interval = _spd.known_interval(workload.lower, workload.n, options.scaling)
    return find_schedule(interval, workload.p, workload.precision, options)


def flops(workload: Workload, options: ScheduleOptions) -> float:
    """Every product is of commuting symmetric matrices: n^3 each."""
    products = planned_schedule(workload, options).products + get_scaling(options.scaling).products
    return _spd.symmetric_products(workload, products)


def accuracy(workload: Workload, options: ScheduleOptions) -> float | None:
    """Schedule error plus amplified rounding."""
    rounding = _spd.amplified_rounding(workload)
    return None if rounding is None else rounding + planned_schedule(workload, options).error


register(
    MethodSpec(
        name="coupled_pe",
        task="inverse_root",
        function=coupled_pe,
        options=ScheduleOptions,
        precisions=FLOATING + SPLIT,
        flops=flops,
        bytes_moved=_spd.root_bytes,
        accuracy=accuracy,
        steps=lambda workload, options: len(planned_schedule(workload, options).steps),
        summary="coupled iteration on minimax (Polar Express) polynomials, any p",
        citation="Amsel et al., The Polar Express, 2025, arXiv 2505.16932 (p = 2); minimax for any p: iroot.minimax",
    )
)
