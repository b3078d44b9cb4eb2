"""What one host synchronisation tells of a damped matrix: whether it is zero or not finite, and its spectral bound."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from iroot.gram_scaling import lanczos
from iroot.scaling import power_iteration

if TYPE_CHECKING:
    from iroot.ops import Ops

POWER_MARGIN = 1.25
"""On the power iteration's estimate of lambda_max, which is from below; ||A||_F bounds it from above."""
LANCZOS_MARGIN = 1.05
"""On the Lanczos estimate of lambda_max(G^T G), which is from below (`scaling.lanczos`)."""
SMALLEST_USEFUL_LOWER = 1e-12
"""Below it damping says less than the assumption that is made where there is none."""


@dataclass(frozen=True, kw_only=True)
class Damping:
    """eps + eps_relative ||A||_F, added to the diagonal of each matrix."""

    eps: float = 0.0
    eps_relative: float = 0.0

    def __bool__(self) -> bool:
        return self.eps > 0.0 or self.eps_relative > 0.0

    def shift(self, A: Tensor) -> Tensor:
        """The damping of A (..., n, n), as (..., 1) in float64, on the device."""
        if self.eps_relative == 0.0:
            return A.new_full((*A.shape[:-2], 1), self.eps, dtype=torch.float64)
        return (self.eps + self.eps_relative * _frobenius(A))[..., None]

    def apply(self, A: Tensor, dtype: torch.dtype) -> Tensor:
        """A + shift I in `dtype`; A itself where nothing changes."""
        if not self:
            return A.to(dtype)
        result = A.to(dtype, copy=True)
        result.diagonal(dim1=-2, dim2=-1).add_(self.eps if self.eps_relative == 0.0 else self.shift(A))
        return result


def _frobenius(A: Tensor) -> Tensor:
    """||A||_F of A (..., m, n), as (...) in float64, whose squares stay in range for float32 and shorter formats."""
    if A.dtype != torch.float64:
        norm: Tensor = torch.linalg.vector_norm(A, dim=(-2, -1), dtype=torch.float64)
        return norm
    size = A.abs().amax((-2, -1), keepdim=True).clamp_min(torch.finfo(torch.float64).tiny)
    scaled: Tensor = torch.linalg.vector_norm(A / size, dim=(-2, -1))
    return scaled * size[..., 0, 0]


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Of a batch: the smallest of the matrices' largest entries, whether all is finite, and the spectral bound.

    Attributes:
        lower: smallest over largest eigenvalue of A + shift I is at least this for a positive semidefinite A; None
            where the damping says nothing.
    """

    smallest_matrix: float
    finite: bool
    lower: float | None


def measure(A: Tensor, B: Tensor | None, damping: Damping, ops: Ops) -> Measured:
    """Read one small tensor from the device.

    Args:
        A: (..., n, n), not empty.
        B: only checked for finite entries.
    """
    wide = A.to(torch.promote_types(A.dtype, torch.float32))
    largest = wide.abs().amax((-2, -1)).double()
    facts = [largest.amin(), largest.amax(), (largest if B is None else B.abs().double()).amax()]
    if damping:
        tiny = torch.finfo(wide.dtype).tiny
        size = largest.clamp_min(tiny).to(wide.dtype)[..., None, None]
        # abs: A may be indefinite, with its largest eigenvalue below zero.
        estimate = POWER_MARGIN * power_iteration(wide / size, ops)[..., 0, 0].double().abs() * largest
        # A zero matrix has no direction to iterate in, and no eigenvalue to miss.
        bound = torch.fmin(estimate, _frobenius(wide))
        shift = damping.shift(A)[..., 0]
        facts.append((shift / (bound + shift)).amin())
    smallest, greatest, greatest_of_b, *rest = torch.stack(facts).tolist()
    lower = rest[0] if rest and rest[0] >= SMALLEST_USEFUL_LOWER else None
    return Measured(
        smallest_matrix=smallest,
        finite=math.isfinite(greatest) and math.isfinite(greatest_of_b),
        lower=None if lower is None else rounded_down(lower),
    )


def measure_gram(G: Tensor, B: Tensor, eps: float, ops: Ops) -> Measured:
    """As `measure`, of G^T G + eps I, which is not formed; G (..., m, n), B (..., n, k), not empty.

    `smallest_matrix` is the smallest of the largest entries of G.
    """
    wide = G.to(torch.promote_types(G.dtype, torch.float32))
    largest = wide.abs().amax((-2, -1)).double()
    facts = [largest.amin(), largest.amax(), B.abs().double().amax()]
    if eps > 0.0:
        # Over the largest entry: the square of a float32 value may leave float32's range.
        size = largest.clamp_min(torch.finfo(wide.dtype).tiny)
        relative = lanczos(wide / size.to(wide.dtype)[..., None, None], ops)[..., 0, 0].double()
        bound = LANCZOS_MARGIN * relative * size.square()
        facts.append((eps / (bound + eps)).amin())
    smallest, greatest, greatest_of_b, *rest = torch.stack(facts).tolist()
    lower = rest[0] if rest and rest[0] >= SMALLEST_USEFUL_LOWER else None
    return Measured(
        smallest_matrix=smallest,
        finite=math.isfinite(greatest) and math.isfinite(greatest_of_b),
        lower=None if lower is None else rounded_down(lower),
    )


def rounded_down(value: float) -> float:
    """The next lower 10^(i/8): equal plans for nearly equal data."""
    return float(10.0 ** (math.floor(8.0 * math.log10(value)) / 8.0))


@dataclass(frozen=True, kw_only=True)
class SpectralState:
    """Where the eigenvalues of an iterate Y, which goes to I, are.

    Attributes:
        radius: rho(I - Y), the largest distance from 1.
        log_ratio: log(M / m), natural, M the largest and m the smallest eigenvalue; None where m <= 0.
        within_10, within_1: share of the eigenvalues within 10 % and 1 % of one.
    """

    smallest: float
    largest: float
    radius: float
    log_ratio: float | None
    within_10: float
    within_1: float


def spectral_state(Y: Tensor) -> SpectralState | None:
    """The eigenvalues of (Y + Y^T) / 2 in float64 for Y (n, n), or those given as Y (n,); None where one is not finite.

    Rounded products of commuting matrices are symmetric only to rounding; the other part is of second order here.
    """
    wide = Y.double()
    if not bool(wide.isfinite().all()):
        return None
    values = wide if Y.ndim == 1 else torch.linalg.eigvalsh(0.5 * (wide + wide.mT))
    distance = (values - 1.0).abs()
    smallest, largest = float(values.min()), float(values.max())
    return SpectralState(
        smallest=smallest,
        largest=largest,
        radius=float(distance.max()),
        log_ratio=math.log(largest / smallest) if smallest > 0.0 else None,
        within_10=float((distance <= 0.1).double().mean()),
        within_1=float((distance <= 0.01).double().mean()),
    )
