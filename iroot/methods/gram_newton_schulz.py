"""Newton-Schulz on the Gram matrix of the small side: a wide G is touched in the first and the last product only.

With R = X X^T (r x r) and B_t = a_t I + b_t R + c_t R^2, the quintic step X <- B_t X is R <- B_t R B_t, Q <- Q B_t;
every factor is a polynomial of one matrix, so all products of the loop commute and have symmetric results. U = Q X.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

from torch import Tensor

from iroot.coefficients import OddQuintic
from iroot.errors import InvalidInputError
from iroot.methods._operands import require_matrix
from iroot.methods._polar import (
    Recipe,
    composition_error,
    composition_range,
    normalise,
    normalise_by_gram,
    polar_bytes,
    rounding_level,
)
from iroot.odd_steps import quintics
from iroot.ops import Ops
from iroot.precision import FLOATING
from iroot.registry import MethodSpec, Operands, Workload, register
from iroot.table_files import find_table


@dataclass(frozen=True, kw_only=True)
class GramNewtonSchulzOptions:
    """Options of `gram_newton_schulz`.

    Attributes:
        coefficients: a table by name (`iroot.coefficients`, `iroot/shipped/`), or a file of `iroot tune polar`.
        steps: how many of its steps; None: all of them.
        restarts: steps (counted from 0) before which X <- Q X and R = X X^T are formed anew, ascending. Without one the
            rounding of R, relative to its largest eigenvalue, grows with the square of the slopes: bfloat16, 128 x 512,
            log-spaced spectrum, condition number 100: error 68 without, 0.035 with (2,) (CPU emulation, 2026-11).
    """

    coefficients: str = "jiacheng_you"
    steps: int | None = None
    restarts: tuple[int, ...] = (2,)

    def __post_init__(self) -> None:
        if self.steps is not None and not isinstance(self.steps, int):
            raise InvalidInputError(f"steps must be an integer, got {self.steps!r}")
        count = len(self._triples)  # validates, and spares torch.compile the file
        if list(self.restarts) != sorted({t for t in self.restarts if 0 < t < count}):
            raise InvalidInputError(f"restarts must ascend within 1 to {count - 1}, got {self.restarts}")

    def triples(self) -> tuple[OddQuintic, ...]:
        """(a, b, c) of every step."""
        return self._triples

    @cached_property
    def _triples(self) -> tuple[OddQuintic, ...]:
        return find_table(self.coefficients).take(self.steps)

    def segments(self) -> tuple[tuple[OddQuintic, ...], ...]:
        """The steps between restarts."""
        triples, cuts = self.triples(), (0, *self.restarts, len(self._triples))
        return tuple(triples[start:end] for start, end in pairwise(cuts))


def gram_newton_schulz(operands: Operands, ops: Ops, options: GramNewtonSchulzOptions) -> Tensor:
    """Polar factor of operands.A (..., m, n) by fixed quintics of the Gram matrix.

    In exact arithmetic the result of `newton_schulz`; 19 instead of 32.5 units of 2 r^3 FLOP at aspect 4, as many as
    that at aspect 1. Error in float16 and bfloat16 as `newton_schulz`: 0.016 on Gaussian, 0.021 and 0.028 on spiked
    input (128 x 512, CPU emulation, 2026-11). A zero matrix gives zero.

    Raises:
        InvalidInputError: operands.A is not a floating-point matrix.
    """
    G = require_matrix(operands)
    tall = G.shape[-2] > G.shape[-1]
    X = G.mT if tall else G
    # ||X||_F = r^(1/2) keeps the mean diagonal of R at 1, off float16's subnormal range at any size.
    X = normalise(X, Recipe(steps=(), margin=X.shape[-2] ** -0.5), ops)
    R = ops.gram(X)
    X, R = normalise_by_gram(X, R, 1.0 + ops.precision.unit_roundoff, ops)
    first, *others = options.segments()
    X = ops.matmul(_factor(R, first, ops), X)
    for segment in others:
        X = ops.matmul(_factor(ops.gram(X), segment, ops), X)
    return (X.mT if tall else X).to(G.dtype)


def _factor(R: Tensor, triples: tuple[OddQuintic, ...], ops: Ops) -> Tensor:
    """Q = B_1 B_2 ... of the segment; its last R is not formed."""
    Q = None
    for t, (a, b, c) in enumerate(triples):
        if t == len(triples) - 1 and Q is None:
            return ops.symmetric_quadratic(R, a, b, c)
        # a stays outside the rounded operand, and so do a R and a Q.
        Z = ops.symmetric_quadratic(R, 0.0, b, c)
        Q = _shifted(Z, a, ops) if Q is None else ops.symmetric_apply(Z, Q, beta=a)
        if t < len(triples) - 1:
            R = ops.symmetric_apply(Z, ops.symmetric_apply(Z, R, beta=a), beta=a)
    assert Q is not None
    return Q


def _shifted(Z: Tensor, a: float, ops: Ops) -> Tensor:
    """Z + a I in new memory."""
    Q = Z.clone()
    Q.diagonal(dim1=-2, dim2=-1).add_(a)
    return ops.cast(Q)


def flops(workload: Workload, options: GramNewtonSchulzOptions) -> float:
    """Per segment s r^2 (Gram, half) and 2 s r^2 (Q X); per step r^3 (R^2, half), and r^3 each for Q, R B and B R B.

    A segment's first Q and last R cost nothing.
    """
    r, s = sorted((workload.m, workload.n))
    segments = options.segments()
    small = sum(len(segment) + 3 * (len(segment) - 1) for segment in segments)
    return float(workload.batch * (3 * s * r**2 * len(segments) + small * r**3))


def accuracy(workload: Workload, options: GramNewtonSchulzOptions) -> float | None:
    """As `polar_accuracy`, plus an eighth of the rounding times the noise growth of the worst segment; None above 1/2.

    R carries noise relative to its largest eigenvalue. It grows by a_t^2 a step within a segment, and counts relative
    to the square of the smallest singular value that enters it. At most 45 % of this was measured beyond the
    composition's own error (log-spaced spectra to 1e4, up to 256 x 512, restarts (), (1,), (2,), (3,), (2, 4), CPU).
    """
    if workload.lower is None:
        return None
    smallest = min(1.0, workload.lower / min(workload.m, workload.n) ** 0.25)
    triples = options.triples()
    amplification = min(math.prod(a for a, _, _ in triples), 1.0 / smallest)
    growth = _noise_growth(options.segments(), smallest)
    error = composition_error(quintics(triples), smallest) + rounding_level(workload) * (amplification + growth / 8.0)
    return error if error < 0.5 else None


def _noise_growth(segments: tuple[tuple[OddQuintic, ...], ...], smallest: float) -> float:
    growth = 1.0
    done: tuple[OddQuintic, ...] = ()
    for segment in segments:
        entering = smallest if not done else composition_range(quintics(done), smallest)[0]
        slopes = math.prod(a * a for a, _, _ in segment[:-1])
        growth = max(growth, min(slopes, entering**-2.0) if entering > 0.0 else slopes)
        done += segment
    return growth


register(
    MethodSpec(
        name="gram_newton_schulz",
        task="polar",
        function=gram_newton_schulz,
        options=GramNewtonSchulzOptions,
        precisions=FLOATING,
        flops=flops,
        bytes_moved=lambda workload, options: polar_bytes(workload),
        accuracy=accuracy,
        steps=lambda workload, options: len(options.triples()),
        summary="quintic Newton-Schulz on the Gram matrix of the small side, with restarts",
        citation="Zhang, Amsel, Chen, Dao, Gram Newton-Schulz, 2026; coefficients: Jiacheng You 2025",
    )
)
