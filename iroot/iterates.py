"""The coupled iterates Y_0, Y_1, ..., Y_T of a method, made by its own arithmetic: what a convergence report looks at.

An inverse-root iteration with B = q_t(Y) maps each eigenvalue y of Y to y q_t(y)^p, and all of them to 1. What rounding
makes of that is in the eigenvalues of the matrices themselves; `Trajectory.exact` is the same map without rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from iroot.coefficients import OddQuintic
from iroot.errors import InvalidInputError, UnknownNameError
from iroot.methods import _coupled, _spd, coupled_newton, coupled_pe, inverse_newton_schulz
from iroot.methods._graded import Graded, GradedOptions, find_schedule, step_products
from iroot.ops import Ops, make_ops
from iroot.registry import Operands, get_method
from iroot.scaling import get_scaling
from iroot.schedules import Schedule, Step, count_products

BASELINE = "coupled_newton"
"""Inverse Newton, which every schedule is set against."""


@dataclass(frozen=True, kw_only=True)
class Trajectory:
    """One iteration on one matrix.

    Attributes:
        iterates: Y_0 ... Y_T (n, n); the last one is formed for the report alone.
        exact: the eigenvalues (n,) of the same iterates in float64 arithmetic, from those of A in float64.
        products: n^3 products (a symmetric result counts half of 2 n^3) of a call that ends after t = 0 ... T steps.
        scaling: the name of the normalisation.
    """

    iterates: tuple[Tensor, ...]
    exact: tuple[Tensor, ...]
    products: tuple[float, ...]
    scaling: str


def trace(method: str, operands: Operands, ops: Ops, options: Any = None) -> Trajectory:
    """Run the iteration of an inverse_root method on operands.A (n, n), keeping every Y.

    Args:
        options: of the method; None: its defaults.

    Raises:
        UnknownNameError: no such method, or one without a coupled iterate.
        InvalidInputError: the method does not serve the precision.
    """
    if method not in TRACED:
        raise UnknownNameError("method with a coupled iterate", method, TRACED)
    spec = get_method("inverse_root", method)
    if ops.precision.name not in spec.precisions:
        raise InvalidInputError(
            f"{method} must run in one of {', '.join(spec.precisions)}, got precision '{ops.precision.name}'"
        )
    with torch.no_grad(), ops.arithmetic():
        return TRACED[method](operands, ops, spec.options() if options is None else options)


def trace_quintics(quintics: tuple[OddQuintic, ...], operands: Operands, ops: Ops) -> Trajectory:
    """Run odd quintics of a polar table as the coupled iteration of p = 2: q(y) = a + b y + c y^2, y = sigma^2.

    Raises:
        InvalidInputError: p is not 2.
    """
    if operands.p != 2:
        raise InvalidInputError(f"a table of odd quintics must be run with p = 2, got p = {operands.p}")
    with torch.no_grad(), ops.arithmetic():
        start = _spd.normalise(operands, ops, "square")
        begun = _coupled.Iteration(
            Y=start.Y,
            scale=start.scale,
            p=2,
            multipliers=tuple(map(_quadratic, quintics)),
            degrees=(2,) * len(quintics),
        )
        return _coupled_trajectory(begun, operands, ops, "square")


def _quadratic(quintic: OddQuintic) -> _coupled.Multiplier:
    a, b, c = quintic
    return lambda ops, Y: ops.symmetric_quadratic(Y, a, b, c)


def _coupled_trajectory(begun: _coupled.Iteration, operands: Operands, ops: Ops, scaling: str) -> Trajectory:
    start = get_scaling(scaling).products
    return Trajectory(
        iterates=tuple(_coupled.iterates(ops, begun.Y, begun.p, begun.multipliers)),
        exact=tuple(_recurrence(operands, begun.scale, begun.multipliers)),
        products=tuple(
            float(start + count_products(begun.p, begun.degrees[:t]) if t else start)
            for t in range(len(begun.degrees) + 1)
        ),
        scaling=scaling,
    )


def _of(begin: Callable[[Operands, Ops, Any], _coupled.Iteration]) -> Callable[[Operands, Ops, Any], Trajectory]:
    return lambda operands, ops, options: _coupled_trajectory(
        begin(operands, ops, options), operands, ops, options.scaling
    )


def _graded_trajectory(operands: Operands, ops: Ops, options: GradedOptions) -> Trajectory:
    p, A = _spd.root(operands), _spd.damped(operands)
    scale = get_scaling(options.scaling).function(A, ops)
    schedule = find_schedule(
        _spd.interval_of(operands, scale, options.scaling), p, ops.precision.unit_roundoff, options
    )
    start, count = get_scaling(options.scaling).products, len(schedule.steps)
    return Trajectory(
        iterates=tuple(_graded_iterates(Graded(ops, options.promote_k), A / scale, schedule)),
        exact=tuple(_recurrence(operands, scale, _coupled.multipliers(schedule))),
        products=tuple(start + (step_products(t, p, last=True) + t - 1 if t else 0.0) for t in range(count + 1)),
        scaling=options.scaling,
    )


def _graded_iterates(graded: Graded, Y: Tensor, schedule: Schedule) -> Iterator[Tensor]:
    """Y_0 ... Y_T: the updates that `Graded.factors` makes, and the one after the last step."""
    steps: tuple[Step, ...] = schedule.steps
    yield Y
    for step in steps:
        Y = graded.next_iterate(Y, graded.multiplier(Y, step), step)
        yield Y


def _recurrence(operands: Operands, scale: Tensor, multipliers: tuple[_coupled.Multiplier, ...]) -> Iterator[Tensor]:
    """y <- y q_t(y)^p in float64, from the eigenvalues y of A / scale: the iteration on a stack of 1 x 1 matrices."""
    assert operands.p is not None
    A = operands.A.double()
    y = (torch.linalg.eigvalsh(A) + operands.eps) / scale.double().squeeze()
    ops = make_ops("fp64", A.device)
    return (Y[:, 0, 0] for Y in _coupled.iterates(ops, y[:, None, None], operands.p, multipliers))


TRACED: dict[str, Callable[[Operands, Ops, Any], Trajectory]] = {
    "coupled_pe": _of(coupled_pe.begin),
    "graded_pe": _graded_trajectory,
    "coupled_newton": _of(coupled_newton.begin),
    "newton_schulz": _of(inverse_newton_schulz.begin),
}
"""The methods that iterate on Y, by name."""
