"""What every method for a symmetric positive definite A shares: damping, normalisation, the way back, counts."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from iroot.errors import InvalidInputError
from iroot.ops import Ops
from iroot.options import target_for
from iroot.precision import get_precision
from iroot.registry import Operands, Workload
from iroot.scaling import get_scaling
from iroot.schedules import SMALLEST_LOWER

DEFAULT_LOWER = 1e-6
"""lambda_min / bound taken where the caller knows neither the ratio nor a damping."""

LARGEST_LOWER = 0.5
"""A spectrum known to be tighter than [0.5, 1] is treated as this one: rounding widens it, and no step is saved."""


@dataclass(frozen=True, kw_only=True)
class Interval:
    """[lower, 1 + headroom], where the spectrum of a normalised matrix lies."""

    lower: float
    headroom: float


@dataclass(frozen=True, kw_only=True)
class Normalised:
    """Y = (A + eps I) / scale in the storage format, and where its spectrum lies."""

    Y: Tensor
    scale: Tensor
    interval: Interval


def known_interval(lower: float | None, n: int, scaling: str) -> Interval:
    """The interval after `scaling`, from lambda_min / lambda_max as the caller knows it; None: `DEFAULT_LOWER`."""
    return limited(DEFAULT_LOWER if lower is None else lower / get_scaling(scaling).looseness(n), scaling)


def limited(lower: float, scaling: str) -> Interval:
    """[lower, 1 + headroom of the scaling], with `lower` kept where schedules exist."""
    return Interval(lower=min(max(lower, SMALLEST_LOWER), LARGEST_LOWER), headroom=get_scaling(scaling).headroom)


def root(operands: Operands) -> int:
    """p. Raises InvalidInputError where it is missing or below 1."""
    if operands.p is None or operands.p < 1:
        raise InvalidInputError(f"p must be an integer >= 1, got {operands.p}")
    return operands.p


def right_hand_side(operands: Operands) -> Tensor:
    """B. Raises InvalidInputError where it is missing or does not fit A."""
    A, B = operands.A, operands.B
    if B is None or B.shape[:-1] != A.shape[:-1]:
        raise InvalidInputError(
            f"B must be (..., n, k) for A {tuple(A.shape)}, got {None if B is None else tuple(B.shape)}"
        )
    return B


def damped(operands: Operands) -> Tensor:
    """A + eps I in float32, or float64 for float64 input; A itself where nothing changes."""
    A = operands.A
    if A.ndim < 2 or A.shape[-1] != A.shape[-2]:
        raise InvalidInputError(f"A must be square in its last two dimensions, got {tuple(A.shape)}")
    wide = A.to(torch.promote_types(A.dtype, torch.float32))
    if operands.eps == 0.0:
        return wide
    result = wide.clone() if wide is A else wide
    result.diagonal(dim1=-2, dim2=-1).add_(operands.eps)
    return result


def normalise(operands: Operands, ops: Ops, scaling: str) -> Normalised:
    """Divide A + eps I by a scalar computed on the device, in float32, then round to the storage format.

    Reads the scalar on the host only where `operands.lower` is None and eps > 0.
    """
    A = damped(operands)
    scale = get_scaling(scaling).function(A, ops)
    return Normalised(Y=ops.cast(A / scale), scale=scale, interval=interval_of(operands, scale, scaling))


def interval_of(operands: Operands, scale: Tensor, scaling: str) -> Interval:
    """Where the spectrum of (A + eps I) / scale lies; reads `scale` where only eps tells."""
    if operands.lower is None and operands.eps > 0.0:
        # The bound itself is at hand, so its looseness need not be assumed.
        return limited(_rounded_down(operands.eps / float(scale.amax())), scaling)
    return known_interval(operands.lower, operands.A.shape[-1], scaling)


def restore(X: Tensor, scale: Tensor, p: int, dtype: torch.dtype) -> Tensor:
    """scale^(-1/p) (X + X^T) / 2 in the dtype of the posed problem."""
    wide = X.to(scale.dtype)
    return (wide + wide.mT).mul_(0.5 * scale ** (-1.0 / p)).to(dtype)


@dataclass(frozen=True, kw_only=True)
class Columns:
    """B / scale, scale the largest column norm: A^(-1/p) B then fits where A^(-1/p) does."""

    Z: Tensor
    scale: Tensor


def normalise_columns(operands: Operands, ops: Ops) -> Columns:
    """B divided by a scalar per matrix, computed on the device, then rounded to the storage format."""
    columns = unrounded_columns(operands)
    return Columns(Z=ops.cast(columns.Z), scale=columns.scale)


def unrounded_columns(operands: Operands) -> Columns:
    """B divided by a scalar per matrix, computed on the device, in float32, or float64 for float64 input."""
    B = right_hand_side(operands)
    wide = B.to(torch.promote_types(B.dtype, torch.float32))
    scale = torch.linalg.vector_norm(wide, dim=-2, keepdim=True).amax(-1, keepdim=True)
    # A zero B stays zero: 0 / tiny.
    scale = scale.clamp_min(torch.finfo(wide.dtype).tiny)
    return Columns(Z=wide / scale, scale=scale)


def restore_columns(Z: Tensor, scale: Tensor, columns: Columns, p: int, dtype: torch.dtype) -> Tensor:
    """scale^(-1/p) times the columns' scale times Z, in the dtype of the posed problem."""
    return (Z.to(scale.dtype) * (scale ** (-1.0 / p) * columns.scale)).to(dtype)


def target(requested: float | None, precision: str) -> float:
    """The requested schedule error, or the precision's own."""
    return requested if requested is not None else target_for(get_precision(precision).unit_roundoff)


def symmetric_products(workload: Workload, count: float) -> float:
    """FLOP of `count` products n x n with symmetric results: half of 2 n^3 each, times the precision's products."""
    return workload.batch * get_precision(workload.precision).products * count * float(workload.n) ** 3


def block_products(workload: Workload, count: float) -> float:
    """FLOP of `count` products of A with the block B, 2 n^2 k each, times the precision's products."""
    assert workload.k is not None
    products = workload.batch * get_precision(workload.precision).products * count
    return products * 2.0 * float(workload.n) ** 2 * workload.k


def root_bytes(workload: Workload, options: object) -> float:
    """A read once and X written once, in the dtype of the posed problem."""
    return 2.0 * workload.batch * float(workload.n) ** 2 * word_bytes(workload)


def apply_bytes(workload: Workload, options: object) -> float:
    """A and B read once and Z written once, in the dtype of the posed problem."""
    columns = workload.k or 0
    return workload.batch * workload.n * (workload.n + 2.0 * columns) * word_bytes(workload)


def word_bytes(workload: Workload) -> int:
    """Bytes of one posed entry: float64 for fp64, else float32."""
    return 8 if workload.precision == "fp64" else 4


def _rounded_down(value: float) -> float:
    """The next lower 10^(i/8): equal schedules for nearly equal data, so that they are found in the cache."""
    return float(10.0 ** (math.floor(8.0 * math.log10(value)) / 8.0))


def amplified_rounding(workload: Workload, *, base: float = 16.0, growth: float | None = None) -> float | None:
    """u (base + growth kappa / p) max(1, n / 256)^(1/2) with u the unit roundoff; None above 0.3 or for unknown kappa.

    Noise relative to the largest eigenvalue, seen from the smallest: the form that every iteration with rounded
    operands follows. Stated about three times above the largest error measured on Wishart + 1e-3 I, log-spaced,
    two-level and power-law spectra, kappa 1e2 to 1e6, p = 1, 2, 3, 4, 8, n = 48 to 384 (CPU, float32 and emulated
    products of one and two 16-bit words).

    Args:
        base: noise that does not grow, in u.
        growth: default: `rounding_growth` of coupled iterations.
    """
    if workload.lower is None:
        return None
    assert workload.p is not None
    u = get_precision(workload.precision).unit_roundoff
    if growth is None:
        growth = rounding_growth(workload.precision)
    error = u * (base + growth / (workload.lower * workload.p)) * math.sqrt(max(1.0, workload.n / 256.0))
    return error if error <= 0.3 else None


def rounding_growth(precision: str, *, operands: float = 0.3, sums: float = 3.0) -> float:
    """operands + sums u_s / u, u_s = min(u, 2^-24): what rounded operands and what float32 sums and iterates add, in u.

    The first is 0 where operands are not rounded. Coupled iterations measure 0.1 and, with u_s = u, 0.7 to 1.2.
    """
    u = get_precision(precision).unit_roundoff
    u_sums = min(u, 2.0**-24)
    return (operands if u > u_sums else 0.0) + sums * u_sums / u
