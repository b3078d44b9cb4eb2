"""A^(-1/p) B by one minimax polynomial of A, evaluated on the block by Clenshaw's recurrence."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from torch import Tensor

from iroot.errors import InvalidInputError, UnsupportedError
from iroot.methods import _coupled, _spd
from iroot.methods._constant import host_constant
from iroot.minimax import Minimax, minimax
from iroot.ops import Ops
from iroot.options import check_target
from iroot.precision import FLOATING, SPLIT
from iroot.registry import MethodSpec, Operands, Workload, register
from iroot.scaling import get_scaling

_SPARE_DEGREES = 4.0
"""A degree this far above the least one is accepted: each further trial takes 8 ms at degree 300."""


@dataclass(frozen=True, kw_only=True)
class ChebyshevOptions:
    """The polynomial's error and the normalisation.

    Attributes:
        target: largest relative error of the polynomial over the spectrum; its degree follows.
        max_degree: a higher degree is refused, 1 to 2000.
        scaling: name of the normalisation (`iroot.scaling`).
    """

    target: float = 1e-3
    max_degree: int = 1000
    scaling: str = "square"

    def __post_init__(self) -> None:
        check_target(self.target)
        if not 1 <= self.max_degree <= 2000:
            raise InvalidInputError(f"max_degree must be from 1 to 2000, got {self.max_degree}")
        get_scaling(self.scaling)


def apply_chebyshev(operands: Operands, ops: Ops, options: ChebyshevOptions) -> Tensor:
    """Z = q(A + eps I) B, q the minimax polynomial of 1 - y^(1/p) q(y) over the spectrum.

    Clenshaw's recurrence on the block: D_k = c_k B + 2 M D_(k+1) - D_(k+2), Z = c_0 B + M D_1 - D_2, with M = (2 Y - u
    - l) / (u - l); one product n x n x k per degree, no product n x n x n but the bound's. The degree for 1e-3 is about
    2.9 kappa^(1/2) at p = 2 with exact bounds.

    The rounding of M, relative to lambda_max, reaches the smallest eigenvalue: errors grow as unit roundoff * kappa.

    Raises:
        UnsupportedError: the target needs a degree above `max_degree`.
    """
    p = _spd.root(operands)
    columns = _spd.normalise_columns(operands, ops)
    start = _spd.normalise(operands, ops, options.scaling)
    best = find_polynomial(p, start.interval, options)
    radius, midpoint = 0.5 * (best.upper - best.lower), 0.5 * (best.upper + best.lower)
    # From the unrounded A: rounding Y first and then M would count twice at the small end.
    wide = _spd.damped(operands) / (start.scale * radius)
    M = _coupled.combine(ops, (wide,), (1.0,), -midpoint / radius)
    Z = _clenshaw(ops, M, columns.Z, best.chebyshev)
    return _spd.restore_columns(Z, start.scale, columns, p, operands.A.dtype)


def _clenshaw(ops: Ops, M: Tensor, B: Tensor, coefficients: tuple[float, ...]) -> Tensor:
    """sum_k c_k T_k(M) B."""
    *inner, last = coefficients[1:]
    newer, older = _coupled.combine(ops, (B,), (last,), 0.0), None
    for c in reversed(inner):
        rest = _block(ops, B, c, older)
        newer, older = ops.matmul_add(M, newer, rest, alpha=2.0), newer
    return ops.matmul_add(M, newer, _block(ops, B, coefficients[0], older))


def _block(ops: Ops, B: Tensor, c: float, older: Tensor | None) -> Tensor:
    """c B - older."""
    return (
        _coupled.combine(ops, (B,), (c,), 0.0) if older is None else _coupled.combine(ops, (B, older), (c, -1.0), 0.0)
    )


def find_polynomial(p: int, interval: _spd.Interval, options: ChebyshevOptions) -> Minimax:
    """A minimax polynomial that reaches the target over `interval`, of the least degree or up to 4 more."""
    return _polynomial(p, interval.lower, 1.0 + interval.headroom, options)


@host_constant
def _polynomial(p: int, lower: float, upper: float, options: ChebyshevOptions) -> Minimax:
    return _find_polynomial(p, lower, upper, options.target, options.max_degree)


@lru_cache(maxsize=256)
def _find_polynomial(p: int, lower: float, upper: float, target: float, max_degree: int) -> Minimax:
    # The error falls by rate each degree, asymptotically (Bernstein): the ellipse through y = 0.
    root = math.sqrt(lower / upper)
    rate = math.log((1.0 + root) / (1.0 - root))
    # The factor 0.7 p^2 is fitted to p = 1, 2, 4 at kappa 1e2 to 1e4; it only saves trials.
    degree = max(1, math.ceil(-math.log(0.7 * p * p * target) / rate))
    while True:
        if degree > max_degree:
            raise UnsupportedError(
                f"target {target} for p={p} and lower={lower:.3g} needs degree {degree}, above max_degree="
                f"{max_degree}; raise target or max_degree, or use coupled_pe"
            )
        best = minimax(p, lower, upper, degree)
        excess = math.log(best.error / target) / rate
        if excess <= 0.0 and (degree == 1 or excess > -_SPARE_DEGREES):
            return best
        # Down by less than the rate says, so that the next one still reaches the target.
        degree = max(1, degree + (math.ceil(excess) if excess > 0.0 else math.ceil(0.9 * excess)))


def _planned(workload: Workload, options: ChebyshevOptions) -> Minimax:
    assert workload.p is not None
    return find_polynomial(workload.p, _spd.known_interval(workload.lower, workload.n, options.scaling), options)


def recurrence_accuracy(workload: Workload, polynomial_error: Callable[[], float]) -> float | None:
    """Amplified rounding of Clenshaw's recurrence plus the polynomial's error; None where rounding leaves nothing."""
    growth = _spd.rounding_growth(workload.precision, operands=1.0)
    rounding = _spd.amplified_rounding(workload, growth=growth)
    return None if rounding is None else rounding + polynomial_error()


def flops(workload: Workload, options: ChebyshevOptions) -> float:
    """One product n x n x k per degree, and the bound's."""
    blocks = _spd.block_products(workload, _planned(workload, options).degree)
    return blocks + _spd.symmetric_products(workload, get_scaling(options.scaling).products)


def accuracy(workload: Workload, options: ChebyshevOptions) -> float | None:
    """The polynomial's error plus amplified rounding, of the operands three times that of the coupled iterations."""
    return recurrence_accuracy(workload, lambda: _planned(workload, options).error)


register(
    MethodSpec(
        name="chebyshev",
        task="inverse_apply",
        function=apply_chebyshev,
        options=ChebyshevOptions,
        precisions=FLOATING + SPLIT,
        flops=flops,
        bytes_moved=_spd.apply_bytes,
        accuracy=accuracy,
        steps=lambda workload, options: _planned(workload, options).degree,
        summary="one minimax polynomial applied to B by Clenshaw's recurrence",
        citation="Clenshaw, Math. Comp. 9, 1955; minimax polynomials of y^(-1/p): iroot.minimax",
    )
)
