"""Scaling by an exact power of two, for numbers that float32 cannot hold; what a call undoes of it in its value."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

_LARGEST = 2.0**1000
"""Its reciprocal is no subnormal number, and neither is that of 2^-1000."""
SAFE_EPS = (1e-24, 1e20)
"""Damping of a Gram matrix that float32 holds: eigenvalues of 1e12 eps below 3e38, and what adds to eps above 1e-38."""


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """A scaled, its largest entry in [1, 2), in float32; `scale` (..., 1, 1) is a power of two in float64."""

    A: Tensor
    scale: Tensor


def fitted(A: Tensor) -> Fitted:
    """A (..., m, n), not empty, in float64, times a power of two for each matrix; nothing is read on the host."""
    largest = A.abs().amax((-2, -1), keepdim=True).clamp(1.0 / _LARGEST, _LARGEST)
    scale = torch.exp2(-largest.log2().floor())
    return Fitted(A=(A * scale).float(), scale=scale)


def eps_scale(eps: float) -> float:
    """The power of two s for (s G)^T (s G) + s^2 eps I, s^2 eps in [1, 4), where float32 needs one; else 1."""
    if eps == 0.0 or SAFE_EPS[0] <= eps <= SAFE_EPS[1]:
        return 1.0
    return 2.0 ** -math.floor(0.5 * math.log2(eps))
