"""Inverse p-th root by the unscaled affine iteration: the baseline without a schedule."""

from __future__ import annotations

from torch import Tensor

from iroot.methods import _coupled, _spd
from iroot.methods.coupled_newton import CoupledNewtonOptions, accuracy, newton_multipliers, newton_steps
from iroot.ops import Ops
from iroot.precision import FLOATING, SPLIT
from iroot.registry import MethodSpec, Operands, Workload, register
from iroot.scaling import get_scaling
from iroot.schedules import count_products


def inverse_newton_schulz(operands: Operands, ops: Ops, options: CoupledNewtonOptions) -> Tensor:
    """X = (A + eps I)^(-1/p) by B = ((p + 1) I - Y) / p, X <- X B, Y <- Y B^p, from Y = (A + eps I) / s and X = I.

    p = 1 is Schulz's iteration X <- X (2 I - A X) (Z. Angew. Math. Mech. 13, 1933), p = 2 the coupled Newton-Schulz
    iteration (Higham, Functions of Matrices, 2008, equation 6.35). It starts inside the unit interval, where
    `coupled_newton` scales Y by (p + 1) / 2 and saves up to two steps; each step multiplies a small eigenvalue by
    ((p + 1) / p)^p < e. The number of steps follows from (p, lower) by the scalar recursion.

    The error grows as unit roundoff * kappa, like that of `coupled_newton`.
    """
    begun = begin(operands, ops, options)
    X = _coupled.iterate(ops, begun.Y, begun.p, begun.multipliers)
    return _spd.restore(X, begun.scale, begun.p, operands.A.dtype)


def begin(operands: Operands, ops: Ops, options: CoupledNewtonOptions) -> _coupled.Iteration:
    """The normalised matrix, inside the unit interval, and as many affine steps as it takes."""
    p = _spd.root(operands)
    start = _spd.normalise(operands, ops, options.scaling)
    count = _steps_for(start.interval, p, ops.precision.name, options)
    Y, shrink = start.Y, 1.0 + start.interval.headroom
    if shrink != 1.0:
        # An estimate of lambda_max may leave eigenvalues above 1.
        Y = _coupled.combine(ops, (Y,), (1.0 / shrink,), 0.0)
    return _coupled.Iteration(
        Y=Y, scale=start.scale * shrink, p=p, multipliers=newton_multipliers(p, count), degrees=(1,) * count
    )


def _steps_for(interval: _spd.Interval, p: int, precision: str, options: CoupledNewtonOptions) -> int:
    lower = interval.lower / (1.0 + interval.headroom)
    return newton_steps(p, lower, _spd.target(options.target, precision), largest=1.0)


def planned_steps(workload: Workload, options: CoupledNewtonOptions) -> int:
    """The number of steps that a call with this workload takes."""
    assert workload.p is not None
    interval = _spd.known_interval(workload.lower, workload.n, options.scaling)
    return _steps_for(interval, workload.p, workload.precision, options)


def flops(workload: Workload, options: CoupledNewtonOptions) -> float:
    """Every product is of commuting symmetric matrices: n^3 each."""
    assert workload.p is not None
    products = count_products(workload.p, (1,) * planned_steps(workload, options))
    return _spd.symmetric_products(workload, products + get_scaling(options.scaling).products)


register(
    MethodSpec(
        name="newton_schulz",
        task="inverse_root",
        function=inverse_newton_schulz,
        options=CoupledNewtonOptions,
        precisions=FLOATING + SPLIT,
        flops=flops,
        bytes_moved=_spd.root_bytes,
        accuracy=accuracy,
        steps=planned_steps,
        summary="unscaled affine (Newton-Schulz) iteration, run to convergence",
        citation="Schulz, Z. Angew. Math. Mech. 13, 1933; Higham, Functions of Matrices, 2008, section 6.7",
    )
)
