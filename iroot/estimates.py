"""Estimates from below of the largest eigenvalue of a positive semidefinite operator, by products with few vectors.

Each is a Rayleigh quotient of some vector, so never above lambda_max but for rounding; how far below it can stay is
said with each. They take the operator as a function, so that G^T G need not be formed, and never wait for the device.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Operator = Callable[[Tensor], Tensor]
"""(..., n, b) -> (..., n, b), symmetric positive semidefinite and linear."""

POWER_ITERATIONS = 12
BLOCK_COLUMNS = 8
LANCZOS_STEPS = 20

_SQUARINGS = 8
_EXHAUSTED = 64.0
"""A new direction shorter than this many units of rounding is none."""
_GOLDEN = 0.6180339887498949


def start_block(like: Tensor, n: int, columns: int) -> Tensor:
    """(..., n, columns) fixed, well spread vectors with entries in [-0.5, 0.5), in the batch and dtype of `like`.

    Equidistributed entries (golden ratio), not constant ones: a constant vector is orthogonal to the leading
    eigenvector of every matrix with zero row sums. The same on each call, so graph capture and repeats agree.
    """
    steps = torch.arange(1, n * columns + 1, device=like.device, dtype=torch.float64)
    entries = torch.remainder(steps * _GOLDEN, 1.0).sub(0.5).to(like.dtype).reshape(columns, n).mT
    return entries.expand(*like.shape[:-2], n, columns)


def power(operator: Operator, start: Tensor, iterations: int = POWER_ITERATIONS) -> Tensor:
    """The largest Rayleigh quotient (..., 1, 1) of the columns of `start` after some power iterations.

    From a random vector the expected relative error after q steps is at most 0.871 ln(n) / (q - 1), whatever the
    spectrum (Kuczynski and Wozniakowski 1992, SIAM J. Matrix Anal. Appl. 13, theorem 3.1); several columns take the
    largest of as many trials.
    """
    v = start
    for _ in range(iterations):
        v = operator(v)
        v = v / torch.linalg.vector_norm(v, dim=-2, keepdim=True).clamp_min(torch.finfo(v.dtype).tiny)
    # Of the normalised vector; a zero operator leaves zero, whose quotient is zero.
    return (v * operator(v)).sum(-2, keepdim=True).amax(-1, keepdim=True)


def lanczos(operator: Operator, start: Tensor, steps: int = LANCZOS_STEPS) -> Tensor:
    """Nearly the largest Ritz value (..., 1, 1) of a Krylov space, fully reorthogonalised; `start` is (..., n, 1).

    From a random vector the expected relative error after q steps is at most 0.103 (ln(n (q - 1)^4) / (q - 1))^2,
    whatever the spectrum (Kuczynski and Wozniakowski 1992, theorem 3.2), quadratically better than the power method's.
    The projected matrix T (q x q) is squared eight times instead of decomposed, which would wait for the device:
    tr T^257 / tr T^256 is between q^(-1/256) and 1 times its largest eigenvalue.
    """
    n = start.shape[-2]
    basis = start / torch.linalg.vector_norm(start, dim=-2, keepdim=True)
    images = operator(basis)
    for _ in range(min(steps, n) - 1):
        vector = _next_direction(basis, images[..., -1:])
        basis = torch.cat([basis, vector], dim=-1)
        images = torch.cat([images, operator(vector)], dim=-1)
    return _largest(basis.mT @ images, basis.mT @ basis)


def _next_direction(basis: Tensor, image: Tensor) -> Tensor:
    """What `image` adds to the span of `basis`, of norm 1; 0 where that is rounding, the space being exhausted."""
    vector = image
    for _ in range(2):
        vector = vector - basis @ (basis.mT @ vector)
    norm = torch.linalg.vector_norm(vector, dim=-2, keepdim=True)
    floor = _EXHAUSTED * torch.finfo(image.dtype).eps * torch.linalg.vector_norm(image, dim=-2, keepdim=True)
    return torch.where(norm > floor, vector / norm.clamp_min(torch.finfo(image.dtype).tiny), 0.0)


def _largest(T: Tensor, overlap: Tensor) -> Tensor:
    """tr(T^(N+1)) / tr(T^N), N = 256, of a symmetric positive semidefinite T, over the largest row sum of `overlap`.

    The overlap is the identity but for rounding, which would let the quotient exceed the largest eigenvalue.
    """
    tiny = torch.finfo(T.dtype).tiny
    T = 0.5 * (T + T.mT)
    power = T
    for _ in range(_SQUARINGS):
        power = power / torch.linalg.matrix_norm(power, keepdim=True).clamp_min(tiny)
        power = power @ power
    trace = power.diagonal(dim1=-2, dim2=-1).sum(-1).clamp_min(tiny)
    quotient = (power * T).sum((-2, -1)) / trace
    return (quotient / overlap.abs().sum(-1).amax(-1).clamp_min(1.0))[..., None, None]
