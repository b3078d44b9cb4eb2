"""(G^T G + eps I)^(-1/p) B by one minimax polynomial and products with G and G^T: no Gram matrix is formed."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from iroot.errors import InvalidInputError
from iroot.gram_scaling import get_gram_scaling
from iroot.methods import _gram, _spd
from iroot.methods.apply_chebyshev import ChebyshevOptions, find_polynomial, recurrence_accuracy
from iroot.minimax import Minimax
from iroot.ops import Ops
from iroot.options import check_target
from iroot.precision import FLOATING, SPLIT, get_precision
from iroot.registry import MethodSpec, Operands, Workload, register
from iroot.scaling import Scaling
from iroot.schedules import SMALLEST_LOWER
from iroot.spectrum import rounded_down


@dataclass(frozen=True, kw_only=True)
class GramChebyshevOptions:
    """The polynomial's error and the normalisation.

    Attributes:
        target: largest relative error of the polynomial over the spectrum; its degree follows.
        max_degree: a higher degree is refused, 1 to 2000.
        scaling: name of the normalisation (`iroot.gram_scaling`); the degree grows as the root of its looseness.
    """

    target: float = 1e-3
    max_degree: int = 1000
    scaling: str = "lanczos"

    def __post_init__(self) -> None:
        check_target(self.target)
        if not 1 <= self.max_degree <= 2000:
            raise InvalidInputError(f"max_degree must be from 1 to 2000, got {self.max_degree}")
        get_gram_scaling(self.scaling)

    def polynomial(self) -> ChebyshevOptions:
        """What `find_polynomial` reads."""
        return ChebyshevOptions(target=self.target, max_degree=self.max_degree)


@dataclass(frozen=True, kw_only=True)
class _Affine:
    """M = factor H^T H + shift I, whose spectrum is in [-1, 1]."""

    H: Tensor
    factor: float
    shift: Tensor

    def times(self, ops: Ops, V: Tensor, rest: Tensor | None, alpha: float) -> Tensor:
        """alpha M V + rest."""
        wide = V.to(self.shift.dtype) * (alpha * self.shift)
        total = ops.cast(wide if rest is None else wide.add_(rest))
        return ops.matmul_add(self.H.mT, ops.matmul(self.H, V), total, alpha=alpha * self.factor)


def gram_chebyshev(operands: Operands, ops: Ops, options: GramChebyshevOptions) -> Tensor:
    """Z = q(G^T G + eps I) B, q the minimax polynomial of 1 - y^(1/p) q(y), by Clenshaw's recurrence on the block.

    Two products, m x n x k each, per degree; the degree for 1e-3 is about 2.9 kappa^(1/2) at p = 2. Cheaper than a Gram
    matrix where k is far below n: 4 m n k per degree against m n min(m, n).

    The rounding of G, relative to sigma_max, reaches the smallest eigenvalue: errors grow as unit roundoff * kappa.

    Raises:
        UnsupportedError: the target needs a degree above `max_degree`.
        InvalidInputError: the operands do not fit.
    """
    G, B = _gram.gram_operands(operands)
    p = _spd.root(operands)
    scaling = get_gram_scaling(options.scaling)
    # Of G^T G + eps I.
    scale = scaling.function(G, ops) + operands.eps
    columns = _spd.normalise_columns(Operands(A=B, B=B), ops)
    best = find_polynomial(p, _interval(operands, scale, options), options.polynomial())
    radius, midpoint = 0.5 * (best.upper - best.lower), 0.5 * (best.upper + best.lower)
    M = _Affine(H=ops.cast(G * scale.rsqrt()), factor=1.0 / radius,
                shift=(operands.eps / scale - midpoint) / radius)  # fmt: skip
    Z = _clenshaw(ops, M, columns.Z, best.chebyshev)
    return _spd.restore_columns(Z, scale, columns, p, operands.A.dtype)


def _clenshaw(ops: Ops, M: _Affine, B: Tensor, coefficients: tuple[float, ...]) -> Tensor:
    """sum_k c_k T_k(M) B."""
    wide = B.to(M.shift.dtype)
    first, *inner, last = coefficients
    newer, older = ops.cast(wide * last), None
    for c in reversed(inner):
        rest = wide * c if older is None else wide * c - older
        newer, older = M.times(ops, newer, rest, 2.0), newer
    return M.times(ops, newer, wide * first if older is None else wide * first - older, 1.0)


def _interval(operands: Operands, scale: Tensor, options: GramChebyshevOptions) -> _spd.Interval:
    """Where the spectrum of (G^T G + eps I) / scale lies; reads `scale` where only eps tells."""
    scaling = get_gram_scaling(options.scaling)
    if operands.lower is None and operands.eps > 0.0:
        return _limited(rounded_down(operands.eps / float(scale.amax())), scaling)
    return _known_interval(operands.lower, max(operands.A.shape[-2:]), options)


def _known_interval(lower: float | None, size: int, options: GramChebyshevOptions) -> _spd.Interval:
    scaling = get_gram_scaling(options.scaling)
    return _limited(_spd.DEFAULT_LOWER if lower is None else lower / scaling.looseness(size), scaling)


def _limited(lower: float, scaling: Scaling) -> _spd.Interval:
    return _spd.Interval(lower=min(max(lower, SMALLEST_LOWER), _spd.LARGEST_LOWER), headroom=scaling.headroom)


def _planned(workload: Workload, options: GramChebyshevOptions) -> Minimax:
    assert workload.p is not None
    interval = _known_interval(workload.lower, max(workload.m, workload.n), options)
    return find_polynomial(workload.p, interval, options.polynomial())


def flops(workload: Workload, options: GramChebyshevOptions) -> float:
    """Two products m x n x k per degree; those of the bound, with single vectors, are left out."""
    assert workload.k is not None
    products = workload.batch * get_precision(workload.precision).products * _planned(workload, options).degree
    return products * 4.0 * workload.m * workload.n * workload.k


def accuracy(workload: Workload, options: GramChebyshevOptions) -> float | None:
    """The polynomial's error plus amplified rounding, of the operands three times that of the coupled iterations."""
    return recurrence_accuracy(workload, lambda: _planned(workload, options).error)


register(
    MethodSpec(
        name="chebyshev",
        task="gram_apply",
        function=gram_chebyshev,
        options=GramChebyshevOptions,
        precisions=FLOATING + SPLIT,
        flops=flops,
        bytes_moved=_gram.gram_bytes,
        accuracy=accuracy,
        steps=lambda workload, options: _planned(workload, options).degree,
        summary="one minimax polynomial by Clenshaw's recurrence, products with G and G^T only",
        citation="Clenshaw, Math. Comp. 9, 1955; minimax polynomials of y^(-1/p): iroot.minimax",
    )
)
