"""Inverse p-th root by the coupled inverse Newton iteration, the solver of Distributed Shampoo."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from iroot.errors import InvalidInputError
from iroot.methods import _coupled, _spd
from iroot.methods._constant import host_constant
from iroot.ops import Ops
from iroot.options import check_target
from iroot.precision import FLOATING, SPLIT
from iroot.registry import MethodSpec, Operands, Workload, register
from iroot.scaling import get_scaling
from iroot.schedules import count_products

MAX_STEPS = 200


@dataclass(frozen=True, kw_only=True)
class CoupledNewtonOptions:
    """Where the iteration ends, and its normalisation.

    Attributes:
        target: error in exact arithmetic at which the iteration ends; None: what the precision can show.
        scaling: name of the normalisation (`iroot.scaling`).
    """

    target: float | None = None
    scaling: str = "square"

    def __post_init__(self) -> None:
        check_target(self.target)
        get_scaling(self.scaling)


def coupled_newton(operands: Operands, ops: Ops, options: CoupledNewtonOptions) -> Tensor:
    """X = (A + eps I)^(-1/p) by B = ((p + 1) I - Y) / p, X <- X B, Y <- Y B^p.

    Y starts at z (A + eps I) / s with z = (p + 1) / 2 and X at z^(1/p) s^(-1/p) I (Iannazzo, SIAM J. Matrix Anal. Appl.
    28, 2006; Guo and Higham, ibid. 28, 2006; as in Anil et al. 2020, arXiv 2002.09018, and Distributed Shampoo, arXiv
    2309.06497). It runs to convergence: the number of steps follows from (p, lower) by the scalar recursion, so that
    the call can be recorded in a CUDA graph, where the published code compares a norm on the host after every step.

    The error grows as unit roundoff * kappa, like that of `coupled_pe`.
    """
    begun = begin(operands, ops, options)
    X = _coupled.iterate(ops, begun.Y, begun.p, begun.multipliers)
    return _spd.restore(X, begun.scale, begun.p, operands.A.dtype)


def begin(operands: Operands, ops: Ops, options: CoupledNewtonOptions) -> _coupled.Iteration:
    """z (A + eps I) / s, and as many affine steps as it takes."""
    p = _spd.root(operands)
    start = _spd.normalise(operands, ops, options.scaling)
    count = _steps_for(start.interval, p, ops.precision.name, options)
    z = _first_factor(p, start.interval)
    return _coupled.Iteration(
        Y=_coupled.combine(ops, (start.Y,), (z,), 0.0), scale=start.scale / z, p=p,
        multipliers=newton_multipliers(p, count), degrees=(1,) * count,
    )  # fmt: skip


def newton_multipliers(p: int, count: int) -> tuple[_coupled.Multiplier, ...]:
    """`count` times B = ((p + 1) I - Y) / p."""
    return (_coupled.affine(-1.0 / p, (p + 1.0) / p),) * count


@host_constant
def newton_steps(p: int, lower: float, target: float, *, largest: float | None = None) -> int:
    """Steps until |1 - y^(1/p)| <= target from y in largest * [lower, 1], `largest` (p + 1) / 2 by default.

    y -> y ((p + 1 - y) / p)^p is at most 1, and its smallest value over an interval is at one of the ends.

    Raises:
        InvalidInputError: not reached in 200 steps.
    """
    largest = 0.5 * (p + 1.0) if largest is None else largest
    smallest = largest * lower
    for count in range(1, MAX_STEPS + 1):
        smallest = min(y * ((p + 1.0 - y) / p) ** p for y in (smallest, largest))
        largest = 1.0
        if 1.0 - smallest ** (1.0 / p) <= target:
            return count
    raise InvalidInputError(f"target {target} needs more than {MAX_STEPS} steps for lower={lower}; raise one of them")


def _first_factor(p: int, interval: _spd.Interval) -> float:
    return 0.5 * (p + 1.0) / (1.0 + interval.headroom)


def _steps_for(interval: _spd.Interval, p: int, precision: str, options: CoupledNewtonOptions) -> int:
    lower = interval.lower / (1.0 + interval.headroom)
    return newton_steps(p, lower, _spd.target(options.target, precision))


def _planned_steps(workload: Workload, options: CoupledNewtonOptions) -> int:
    assert workload.p is not None
    interval = _spd.known_interval(workload.lower, workload.n, options.scaling)
    return _steps_for(interval, workload.p, workload.precision, options)


def flops(workload: Workload, options: CoupledNewtonOptions) -> float:
    """Every product is of commuting symmetric matrices: n^3 each."""
    assert workload.p is not None
    products = count_products(workload.p, (1,) * _planned_steps(workload, options))
    return _spd.symmetric_products(workload, products + get_scaling(options.scaling).products)


def accuracy(workload: Workload, options: CoupledNewtonOptions) -> float | None:
    """Target plus amplified rounding."""
    rounding = _spd.amplified_rounding(workload)
    return None if rounding is None else rounding + _spd.target(options.target, workload.precision)


register(
    MethodSpec(
        name="coupled_newton",
        task="inverse_root",
        function=coupled_newton,
        options=CoupledNewtonOptions,
        precisions=FLOATING + SPLIT,
        flops=flops,
        bytes_moved=_spd.root_bytes,
        accuracy=accuracy,
        steps=_planned_steps,
        summary="coupled inverse Newton iteration, run to convergence",
        citation="Guo and Higham, SIAM J. Matrix Anal. Appl. 28, 2006; Shi et al., 2023, arXiv 2309.06497",
    )
)
