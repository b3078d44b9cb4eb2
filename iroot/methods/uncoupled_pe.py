"""Inverse p-th root on minimax polynomials, tracking X alone."""

from __future__ import annotations

from torch import Tensor

from iroot.methods import _coupled, _spd
from iroot.methods.coupled_pe import find_schedule
from iroot.ops import Ops
from iroot.options import ScheduleOptions
from iroot.plans import Costs
from iroot.precision import FLOATING, SPLIT, get_precision
from iroot.registry import MethodSpec, Operands, Workload, register
from iroot.scaling import get_scaling
from iroot.schedules import Schedule, power_products


def uncoupled_pe(operands: Operands, ops: Ops, options: ScheduleOptions) -> Tensor:
    """X = (A + eps I)^(-1/p) by Y = X^a A X^(p - a), X <- X q_t(Y): `coupled_pe` with Y recomputed from A.

    Near convergence an error E_ij of X between two eigenvectors becomes E_ij (1 - (r^-a + ... + r^(p-a-1)) / p) in one
    step, r = (lambda_i / lambda_j)^(1/p). For p = 1 that is 0 and for p = 3, a = 1 it grows by kappa^(1/3) / 3; for
    even p one side grows by about kappa^(1/2) / p, the lower or the upper triangle as a = p/2 or p/2 - 1. Alternating
    the two lets every error grow in one step and shrink in the next: float32, p = 2, kappa 1e4, n = 200: 6e-4 against
    3e-2 with a fixed and 1e5 with Y = X^p A (CPU). No product is symmetrised, which would undo the cancellation.

    At kappa 1e6 it diverges for p > 1 below float64. Use `coupled_pe`; this one is here for its memory and to compare.
    """
    p = _spd.root(operands)
    start = _spd.normalise(operands, ops, options.scaling)
    schedule = find_schedule(start.interval, p, ops.precision.name, options, updates=_updates(p))
    first, *rest = _coupled.multipliers(schedule)
    X = first(ops, start.Y)
    for t, multiplier in enumerate(rest):
        Y = _sandwich(ops, start.Y, X, p, _left_power(p, t))
        X = ops.matmul(X, multiplier(ops, Y))
    return _spd.restore(X, start.scale, p, operands.A.dtype)


def _left_power(p: int, t: int) -> int:
    """a: (p - 1) / 2 for odd p; p / 2 and p / 2 - 1 in turn for even p."""
    return (p - t % 2) // 2


def _sandwich(ops: Ops, A: Tensor, X: Tensor, p: int, a: int) -> Tensor:
    """X^a A X^(p - a)."""
    if a == 0:
        return ops.matmul(A, _coupled.power(ops, X, p))
    left = _coupled.power(ops, X, a)
    right = left if p == 2 * a else ops.matmul(left, _coupled.power(ops, X, p - 2 * a))
    return ops.matmul(left, ops.matmul(A, right))


def _updates(p: int) -> tuple[float, float]:
    """Products n^3 of an even and of an odd step: powers of X are symmetric, those around A and X q(Y) are full."""
    return _update(p, _left_power(p, 0)), _update(p, _left_power(p, 1))


def _update(p: int, a: int) -> float:
    if a == 0:
        return power_products(p) + 4.0
    rest = power_products(p - 2 * a) + 1 if p > 2 * a else 0
    return power_products(a) + rest + 6.0


def planned_schedule(workload: Workload, options: ScheduleOptions) -> Schedule:
    """The schedule that a call with this workload uses."""
    assert workload.p is not None
    interval = _spd.known_interval(workload.lower, workload.n, options.scaling)
    return find_schedule(interval, workload.p, workload.precision, options, updates=_updates(workload.p))


def flops(workload: Workload, options: ScheduleOptions) -> float:
    """Polynomials and powers have symmetric results, n^3 each; the products around A and X q(Y) are full, 2 n^3."""
    assert workload.p is not None
    degrees = tuple(step.degree for step in planned_schedule(workload, options).steps)
    symmetric = Costs(updates=_updates(workload.p)).of(degrees)
    return _spd.symmetric_products(workload, get_scaling(options.scaling).products + symmetric)


def accuracy(workload: Workload, options: ScheduleOptions) -> float | None:
    """Schedule error plus amplified rounding; nothing beyond kappa 1e5, 2e3 in two words, 1e3 in 16 bits or TF32.

    Half of the eigenvalues small, p = 2, fp16x3, n = 96: 3e-5 at kappa 1e3 and 5e-3 at 1e4 (CPU).
    """
    plan = get_precision(workload.precision)
    smallest = 5e-4 if plan.words == 2 else 1e-3 if plan.unit_roundoff > 1e-5 else 1e-5
    if workload.lower is None or workload.lower < smallest:
        return None
    growth = _spd.rounding_growth(workload.precision, operands=0.5, sums=12.0)
    rounding = _spd.amplified_rounding(workload, growth=growth)
    return None if rounding is None else rounding + planned_schedule(workload, options).error


register(
    MethodSpec(
        name="uncoupled_pe",
        task="inverse_root",
        function=uncoupled_pe,
        options=ScheduleOptions,
        precisions=FLOATING + SPLIT,
        flops=flops,
        bytes_moved=_spd.root_bytes,
        accuracy=accuracy,
        steps=lambda workload, options: len(planned_schedule(workload, options).steps),
        summary="minimax (Polar Express) polynomials of Y = X^a A X^b, a + b = p, tracking X alone",
        citation="Amsel et al., The Polar Express, 2025, arXiv 2505.16932 (p = 2); minimax for any p: iroot.minimax",
    )
)
