"""Polar factor by the graded iteration on the Gram matrix: U = (G G^T)^(-1/2) G with 16-bit products.

R = G G^T squares the condition number, and a 16-bit iteration on it needs restarts. With the linear term of the Y
update kept exact (`iroot/methods/_graded.py`) noise stays relative to the small eigenvalues, so none is needed: 17
units of 2 r^3 FLOP at aspect 4, half a unit of it for the bound, against 19 with a restart and 32.5 for the iteration
on G.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from iroot.errors import InvalidInputError
from iroot.graded_steps import word_steps
from iroot.methods._constant import host_constant
from iroot.methods._graded import Graded, check_promotion, step_products
from iroot.methods._operands import require_matrix
from iroot.methods._polar import Recipe, composition_error, normalise, polar_bytes
from iroot.odd_steps import odd_step
from iroot.ops import Ops
from iroot.precision import get_precision
from iroot.registry import MethodSpec, Operands, Workload, register
from iroot.schedules import Design, Schedule, compose_steps

# bfloat16 needs a bound on the growth that float16 does not: 256 x 256, condition number 1e2: error 0.21 with 0.1, 0.08
# with 0.3; 1e4: 1.25 and 0.57 (CPU emulation, 2026-11).
_COARSE = 2.0**-8
_COARSE_CUSHION = 0.3


@dataclass(frozen=True, kw_only=True)
class GradedGramOptions:
    """Options of `graded_gram`.

    Attributes:
        steps: number of quintics.
        lower: smallest singular value the composition is made for; the largest is at most 1 after normalisation.
        cushion: smallest ratio of interval ends, in singular values, a step is designed for; at least 0.3 is used in
            bfloat16.
        promote_k: as in `GradedOptions`.
    """

    steps: int = 5
    lower: float = 5e-3
    cushion: float = 0.1
    promote_k: int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.steps, int) or not 1 <= self.steps <= 30:
            raise InvalidInputError(f"steps must be an integer from 1 to 30, got {self.steps!r}")
        if not 1e-6 <= self.lower < 1.0:
            raise InvalidInputError(f"lower must be in [1e-6, 1), got {self.lower}")
        if not 0.0 <= self.cushion <= 0.7:
            raise InvalidInputError(f"cushion must be in [0, 0.7], got {self.cushion}")
        check_promotion(self.promote_k)

    def schedule(self, unit_roundoff: float) -> Schedule:
        """The steps on the eigenvalues of R."""
        cushion = max(self.cushion, _COARSE_CUSHION) if unit_roundoff >= _COARSE else self.cushion
        return _schedule(self.lower, self.steps, cushion)


@host_constant
def _schedule(lower: float, steps: int, cushion: float) -> Schedule:
    return compose_steps(Design(p=2, lower=lower**2, cushion=cushion**2), steps=steps)


def graded_gram(operands: Operands, ops: Ops, options: GradedGramOptions) -> Tensor:
    """Polar factor of operands.A (..., m, n) as R^(-1/2) X, R = X X^T (r x r) in float32 from X in 16 bits.

    R is divided by min(||R||_F, ||R||_inf, ||R^2||_F^(1/2), ||R^2||_inf^(1/2)), an upper bound 1.0 to 1.6 times
    sigma_max^2 on most input. Error in float16 with 5 steps: 0.002 on Gaussian 128 x 512, 0.005 on spiked input, 0.03
    at condition number 1e2, log-spaced (CPU emulation, 2026-11). A zero matrix gives zero.

    Raises:
        InvalidInputError: operands.A is not a floating-point matrix.
    """
    G = require_matrix(operands)
    tall = G.shape[-2] > G.shape[-1]
    X = G.mT if tall else G
    # ||X||_F = r^(1/2) keeps X in float16's range at any size.
    X = normalise(X, Recipe(steps=(), margin=X.shape[-2] ** -0.5), ops)
    R = ops.matmul_wide(X, X.mT)
    graded, schedule = Graded(ops, options.promote_k), options.schedule(ops.precision.unit_roundoff)
    Q = _fused_root(R, ops, schedule, options)
    if Q is not None:
        U = graded.apply_matrix(Q, X.to(R.dtype))
    else:
        bound = _upper_bound(R, graded) * (1.0 + 4.0 * ops.precision.unit_roundoff)
        Q, taken_off = graded.inverse_root((0.5 * (R + R.mT)) / bound, schedule)
        U = graded.apply(graded.split(Q), X.to(R.dtype)) / (bound.sqrt() * taken_off)
    return ops.cast(U.mT if tall else U).to(G.dtype)


def _fused_root(R: Tensor, ops: Ops, schedule: Schedule, options: GradedGramOptions) -> Tensor | None:
    """R^(-1/2) by fused kernels, or None. ||R^2||^(1/2) <= ||R|| in both norms, so the square alone bounds R."""
    bound = None if options.promote_k == 0 else ops.square_bound(R, eps=0.0)
    steps = word_steps(schedule, promote_k=options.promote_k)
    return None if bound is None else ops.graded_root(R, bound, steps, p=2, eps=0.0)


def _upper_bound(R: Tensor, graded: Graded) -> Tensor:
    """min(||R||_F, ||R||_inf, ||R^2||_F^(1/2), ||R^2||_inf^(1/2)) >= lambda_max, (..., 1, 1); 1 where R is zero."""
    word = graded.split(R)
    square = graded.product(word, word)
    norms = [torch.minimum(_frobenius(M), M.abs().sum(-1).amax(-1)[..., None, None]) for M in (R, square)]
    bound = torch.minimum(norms[0], norms[1].sqrt())
    return torch.where(bound == 0.0, torch.ones_like(bound), bound)


def _frobenius(M: Tensor) -> Tensor:
    norm: Tensor = torch.linalg.matrix_norm(M, keepdim=True)
    return norm


def flops(workload: Workload, options: GradedGramOptions) -> float:
    """s r^2 (Gram, half), 2 s r^2 (Q X), and the graded iteration for p = 2 with X and the bound's square."""
    r, s = sorted((workload.m, workload.n))
    small = step_products(options.steps, 2, last=True) + (options.steps - 1) + 1
    return float(workload.batch * (3 * s * r**2 + small * r**3))


def accuracy(workload: Workload, options: GradedGramOptions) -> float | None:
    """Bound on the distance to the polar factor, where it says something (below 1/2), else None.

    The schedule's error over the singular values, which lie in [lower / r^(1/8), 1] after normalisation, plus
    u (8 + 1 / smallest): noise relative to the small eigenvalues of R but for what R inherits from X. Measured at most
    half of this beyond the schedule's error (log-spaced spectra to 1e4, up to 256 x 512, CPU emulation, 2026-11).
    """
    if workload.lower is None:
        return None
    u = get_precision(workload.precision).unit_roundoff
    steps = tuple(map(odd_step, options.schedule(u).steps))
    # ||R^2||_F^(1/2) is at most r^(1/4) lambda_max.
    smallest = min(1.0, workload.lower / min(workload.m, workload.n) ** 0.125)
    error = composition_error(steps, smallest) + u * (8.0 + 1.0 / smallest)
    return error if error < 0.5 else None


register(
    MethodSpec(
        name="graded_gram",
        task="polar",
        function=graded_gram,
        options=GradedGramOptions,
        precisions=("bf16", "fp16", "bf16_emulated", "fp16_emulated"),
        flops=flops,
        bytes_moved=lambda workload, options: polar_bytes(workload),
        accuracy=accuracy,
        steps=lambda workload, options: options.steps,
        summary="graded iteration on the Gram matrix: 16-bit products, float32-class answers, no restart",
        citation="this project; minimax steps as in Amsel et al., The Polar Express, 2025, arXiv 2505.16932",
    )
)
