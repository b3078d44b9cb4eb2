"""The two solvers of DASH (Modoranu et al. 2026, arXiv 2602.02016), from its description: a fixed number of steps."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from iroot.errors import InvalidInputError
from iroot.methods import _coupled, _db, _spd
from iroot.ops import Ops
from iroot.precision import FLOATING
from iroot.registry import MethodSpec, Operands, Workload, register
from iroot.scaling import power_iteration
from iroot.schedules import count_products


@dataclass(frozen=True, kw_only=True)
class DashOptions:
    """The length of the iteration and its normalisation.

    Attributes:
        steps: Newton steps (per stage), 1 to 100; DASH's default is 10.
        scale_factor: multiple of the power-iteration estimate that A is divided by, in [1, 10]. 1.2 gives the errors
            measured with the published code: 0.17 on Wishart + 1e-3 I, 0.33 at kappa 1e4 (Newton-DB, p = 2, n = 1024).
    """

    steps: int = 10
    scale_factor: float = 1.2

    def __post_init__(self) -> None:
        if not 1 <= self.steps <= 100:
            raise InvalidInputError(f"steps must be from 1 to 100, got {self.steps}")
        if not 1.0 <= self.scale_factor <= 10.0:
            raise InvalidInputError(f"scale_factor must be in [1, 10], got {self.scale_factor}")


def dash_newton_db(operands: Operands, ops: Ops, options: DashOptions) -> Tensor:
    """X = (A + eps I)^(-1/p), p = 2 or 4, by square roots: E = (3 I - Z Y) / 2, Y <- Y E, Z <- E Z.

    The fourth root takes a square root first and then the inverse square root of it. Ten steps do not converge for
    kappa 1e4: error 0.33 in TF32 (p = 2, n = 1024, H100).
    """
    p = _spd.root(operands)
    Y, exponent = _spd.damped(operands), p
    result_scale = None
    while True:
        scale = options.scale_factor * power_iteration(Y, ops)
        roots = _db.square_roots(ops, ops.cast(Y / scale), (_coupled.affine(-0.5, 1.5),) * options.steps)
        exponent //= 2
        if exponent == 1:
            result_scale = scale
            break
        Y = roots.P.to(Y.dtype) * scale.sqrt()
    return _spd.restore(roots.Q, result_scale, 2, operands.A.dtype)


def dash_coupled_newton(operands: Operands, ops: Ops, options: DashOptions) -> Tensor:
    """X = (A + eps I)^(-1/p) by `coupled_newton`'s iteration for a fixed number of steps.

    Ten steps do not converge for kappa 1e4: error 0.25 in TF32 (p = 2, n = 1024, H100).
    """
    p = _spd.root(operands)
    A = _spd.damped(operands)
    scale = options.scale_factor * power_iteration(A, ops) * (2.0 / (p + 1.0))
    multipliers = (_coupled.affine(-1.0 / p, (p + 1.0) / p),) * options.steps
    X = _coupled.iterate(ops, ops.cast(A / scale), p, multipliers)
    return _spd.restore(X, scale, p, operands.A.dtype)


def db_flops(workload: Workload, options: DashOptions) -> float:
    """log2(p) stages; every product is of commuting symmetric matrices: n^3 each."""
    assert workload.p is not None
    stages = workload.p.bit_length() - 1
    return _spd.symmetric_products(workload, stages * _db.count_products([0] * options.steps))


def coupled_flops(workload: Workload, options: DashOptions) -> float:
    """Every product is of commuting symmetric matrices: n^3 each."""
    assert workload.p is not None
    return _spd.symmetric_products(workload, count_products(workload.p, (1,) * options.steps))


def accuracy(workload: Workload, options: DashOptions) -> float | None:
    """None: ten steps reach no error that its source states."""
    return None


_CITATION = "Modoranu et al., DASH, 2026, arXiv 2602.02016"

register(
    MethodSpec(
        name="dash_newton_db",
        task="inverse_root",
        function=dash_newton_db,
        options=DashOptions,
        roots=(2, 4),
        precisions=FLOATING,
        flops=db_flops,
        bytes_moved=_spd.root_bytes,
        accuracy=accuracy,
        role="opponent",
        backend="torch",
        summary="DASH's Newton-DB: ten product-form Newton steps per square root",
        citation=_CITATION,
    )
)
register(
    MethodSpec(
        name="dash_coupled_newton",
        task="inverse_root",
        function=dash_coupled_newton,
        options=DashOptions,
        roots=(2, 4),
        precisions=FLOATING,
        flops=coupled_flops,
        bytes_moved=_spd.root_bytes,
        accuracy=accuracy,
        role="opponent",
        backend="torch",
        summary="DASH's coupled Newton: ten steps",
        citation=_CITATION,
    )
)
