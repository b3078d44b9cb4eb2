"""Products of one 16-bit word with an exact linear term: the step that `graded_pe` and its relatives share.

A coupled iteration in 16 bits fails because the linear term of the Y update goes through a rounded operand, whose
noise, relative to lambda_max, is then amplified by kappa. Here Y and X are held in float32, a^p Y is elementwise in
float32, and every operand of a product is (exact scalar) I + one 16-bit word, so the noise that reaches a small
eigenvalue is relative to it:

    B = q_t(Y),  X <- X B,  Y <- a^p Y + sym(Y W),  W = B^p - a^p I,  a = q_t(0).

It takes a cushioned schedule (bounded growth of the small end), the product Y W symmetrised as a full product, and the
mean diagonal taken off before rounding.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor

from iroot.errors import InvalidInputError
from iroot.graded_steps import LARGEST_X
from iroot.methods import _spd
from iroot.methods._constant import host_constant
from iroot.ops import Ops
from iroot.options import check_target
from iroot.scaling import get_scaling
from iroot.schedules import Design, Schedule, Step, power_products, schedule_for

# A loose bound leaves the top of the spectrum where q turns; 16-bit noise that pushes an eigenvalue past the upper edge
# then diverges (diagonal, fp16, p = 2, n = 128: NaN; logspace_1e4, bf16, p = 1, n = 512: error 55). Deflated by 0.5 %
# neither does, and no shipped problem takes a step more (CPU emulation, 2026-11).
_SAFETY = 1.005
# An 8-bit word pushes further: 1.28 and 3.2 unit roundoffs, which change nothing in 16 bits. With 1.005 and 0.03 and a
# target of 7e-3, E4M3 diverges at kappa 1e3, n = 128, with half of the eigenvalues small (p = 1) and on a diagonal
# matrix (p = 2); with these the errors are 0.33 and 0.033 (CPU emulation, 2026-11).
_SAFETY_ROUNDOFFS = 1.28
_CUSHION_ROUNDOFFS = 3.2
_PROMOTE_K = 256
"""Columns of Y W in each of the library's products, where the caller does not say."""


@dataclass(frozen=True, kw_only=True)
class GradedOptions:
    """The schedule, the normalisation and the sums.

    Attributes:
        target: error of the schedule in exact arithmetic.
        min_cushion: steps are added until the cushion is at least this, in [0, 0.5]; None: `default_cushion`. At p = 2,
            kappa 1e5 and n = 2048 the step that 0.03 adds takes the error from 1e-2 to 8e-4. 8-bit words take at least
            0.2.
        scaling: name of the normalisation (`iroot.scaling`).
        promote_k: columns of Y W after which a tensor core's sum is added to a float32 one, 0 for never, else at
            least 16; None: 32 to 512 in fused kernels, as each step needs (`iroot.graded_steps.sum_for`), and 256
            without them. Fused kernels also restore the trace; 0 does without them.
    """

    target: float = 2e-4
    min_cushion: float | None = None
    scaling: str = "square"
    promote_k: int | None = None

    def __post_init__(self) -> None:
        check_target(self.target)
        if self.min_cushion is not None and not 0.0 <= self.min_cushion <= 0.5:
            raise InvalidInputError(f"min_cushion must be in [0, 0.5], got {self.min_cushion}")
        check_promotion(self.promote_k)
        get_scaling(self.scaling)


def check_promotion(promote_k: int | None) -> None:
    """Raises InvalidInputError for columns per sum that no kernel takes."""
    if promote_k is not None and promote_k != 0 and promote_k < 16:
        raise InvalidInputError(f"promote_k must be 0 or at least 16, got {promote_k}")


def default_cushion(p: int) -> float:
    """Smallest cushion of a schedule where the caller names none.

    At p = 1 no root tames the noise of a step: kappa 1e4, its bound unknown (1e-6), n = 512 to 2048, float16: 1.5e-3
    with 0.03 (H100, fused kernels; 1.5e-3 emulated with the mirrored triangle of X B), 6.5e-4 emulated with 0.1, which
    adds a step (2026-11-23).
    """
    return 0.1 if p == 1 else 0.03


def find_schedule(interval: _spd.Interval, p: int, unit_roundoff: float, options: GradedOptions) -> Schedule:
    """Quadratic steps with a cushion, for a spectrum in `interval`."""
    safety = max(_SAFETY, 1.0 + _SAFETY_ROUNDOFFS * unit_roundoff)
    asked = default_cushion(p) if options.min_cushion is None else options.min_cushion
    cushion = max(asked, _CUSHION_ROUNDOFFS * unit_roundoff)
    return _schedule(p, interval.lower, interval.headroom, safety, options.target, cushion)


@host_constant
def _schedule(p: int, lower: float, headroom: float, safety: float, target: float, min_cushion: float) -> Schedule:
    # Numbers, not records, as arguments: torch.compile takes the result for a constant of them.
    design = Design(p=p, lower=lower, headroom=headroom, safety=safety)
    return schedule_for(design, target=target, min_cushion=min_cushion)


def step_products(steps: int, p: int, *, last: bool) -> float:
    """Products n^3 of `steps` steps without X: Z^2 and the powers of B are symmetric, Y W is a full product, 2 n^3.

    Args:
        last: whether the Y after the last step is not formed.
    """
    return float(steps + (steps - int(last)) * (power_products(p) + 2))


@dataclass(frozen=True, kw_only=True)
class Word:
    """shift I + word: an exact scalar per matrix, (..., 1, 1), and one 16-bit matrix."""

    shift: Tensor
    word: Tensor


@dataclass(frozen=True)
class Graded:
    """The products of such operands, and the steps made of them.

    Attributes:
        promote_k: as in `GradedOptions`.
    """

    ops: Ops
    promote_k: int | None

    def split(self, M: Tensor) -> Word:
        """M as its mean diagonal and the rest, rounded."""
        shift = M.diagonal(dim1=-2, dim2=-1).mean(-1)[..., None, None]
        rest = M.clone()
        rest.diagonal(dim1=-2, dim2=-1).sub_(shift[..., 0])
        return Word(shift=shift, word=self.ops.cast_word(rest))

    def promoted_matmul(self, A: Tensor, B: Tensor) -> Tensor:
        """A B in float32, A and B 16-bit; partial products over `promote_k` columns are added in float32.

        Tensor cores truncate their running sum, an error relative to the whole product. H100, n = 2048, kappa 1e4, p =
        2: 1.87e-3 with one sum over all of K, 7.4e-4 with 512 columns each, 6.6e-4 with exact sums. Only in Y W does it
        matter, elsewhere it is relative to the small eigenvalues too: sums truncated to 22 bits, n = 512, p = 1:
        9.2e-4, with 256 columns in every product 6.4e-4, in Y W alone 6.4e-4 (CPU model, 2026-11).
        """
        n = A.shape[-1]
        k = _PROMOTE_K if self.promote_k is None else self.promote_k or n
        total = self.ops.matmul_wide(A[..., :k], B[..., :k, :])
        for start in range(k, n, k):
            total = total.add_(self.ops.matmul_wide(A[..., start : start + k], B[..., start : start + k, :]))
        return total

    def product(self, A: Word, B: Word) -> Tensor:
        """(a I + A) (b I + B) = A B + a B + b A + a b I, only A B in 16 bits."""
        return _completed(self.ops.matmul_wide(A.word, B.word), A, B)

    def apply(self, B: Word, Z: Tensor) -> Tensor:
        """(b I + B) Z for a block Z (..., n, k) in float32, rounded over its largest entry."""
        size = Z.abs().amax((-2, -1), keepdim=True).clamp_min(1e-30)
        return self.ops.matmul_wide(B.word, self.ops.cast_word(Z / size)).to(Z.dtype).mul_(size).addcmul_(B.shift, Z)

    def apply_matrix(self, X: Tensor, Z: Tensor) -> Tensor:
        """X Z for X in float32 of any size, over its largest entry."""
        size = X.abs().amax((-2, -1), keepdim=True).clamp_min(1e-30)
        return self.apply(self.split(X / size), Z).mul_(size)

    def multiplier(self, Y: Tensor, step: Step) -> Word:
        """B = q(Y) = c_0 I + c_1 Z + c_2 (2 Z^2 - I), Z = (2 Y - u - l) / (u - l)."""
        c0, c1, c2 = step.chebyshev
        radius = 0.5 * (step.upper - step.lower)
        Z = Y / radius
        Z.diagonal(dim1=-2, dim2=-1).sub_(0.5 * (step.upper + step.lower) / radius)
        word = self.split(Z)
        result = self.product(word, word).mul_(2.0 * c2).add_(Z, alpha=c1)
        result.diagonal(dim1=-2, dim2=-1).add_(c0 - c2)
        return self.split(result)

    def next_iterate(self, Y: Tensor, B: Word, step: Step) -> Tensor:
        """a^p Y + sym(Y W), W = B^p - a^p I."""
        a = step.monomial[0]
        linear, W = self._power_less_linear(Word(shift=B.shift - a, word=B.word), a, step.p)
        word = self.split(Y)
        product = _completed(self.promoted_matmul(word.word, W.word), word, W)
        return (Y * linear).add_(product + product.mT, alpha=0.5)

    def factors(self, Y: Tensor, steps: Sequence[Step]) -> Iterator[Word]:
        """B_1, B_2, ..., whose product is about Y^(-1/p); the Y after the last step is not formed."""
        for t, step in enumerate(steps):
            B = self.multiplier(Y, step)
            yield B
            if t < len(steps) - 1:
                Y = self.next_iterate(Y, B, step)

    def inverse_root(self, Y: Tensor, schedule: Schedule) -> tuple[Tensor, float]:
        """c Y^(-1/p) and c, a power of `LARGEST_X` where float16 would otherwise overflow."""
        X, bound, taken_off = None, 1.0, 1.0
        for step, B in zip(schedule.steps, self.factors(Y, schedule.steps), strict=True):
            X = value(B) if X is None else self.product(self.split(X), B)
            # q_t(0) bounds q_t, so their product bounds X; float16 ends at 65504.
            bound *= step.monomial[0]
            if bound > LARGEST_X:
                X.mul_(LARGEST_X / bound)
                taken_off, bound = taken_off * LARGEST_X / bound, LARGEST_X
        assert X is not None
        return X, taken_off

    def _power_less_linear(self, M: Word, a: float, p: int) -> tuple[float, Word]:
        """a^p and (a I + M)^p - a^p I, by binary exponentiation of the pair: its M has the words of B, exactly."""
        square, square_a = M, a
        result: tuple[float, Word] | None = None
        while True:
            if p & 1:
                result = (square_a, square) if result is None else self._times(result, (square_a, square))
            p >>= 1
            if p == 0:
                assert result is not None
                return result
            square_a, square = self._times((square_a, square), (square_a, square))

    def _times(self, left: tuple[float, Word], right: tuple[float, Word]) -> tuple[float, Word]:
        """(a I + M) (b I + N) less a b I: a N + b M + M N."""
        (a, M), (b, N) = left, right
        total = self.product(M, N).add_(value(N), alpha=a).add_(value(M), alpha=b)
        return a * b, self.split(0.5 * (total + total.mT))


def value(A: Word) -> Tensor:
    """shift I + word in float32."""
    total = A.word.to(A.shift.dtype, copy=True)
    total.diagonal(dim1=-2, dim2=-1).add_(A.shift[..., 0])
    return total


def _completed(product: Tensor, A: Word, B: Word) -> Tensor:
    """(a I + A) (b I + B) from A B."""
    result = product.to(A.shift.dtype)
    result.addcmul_(A.shift, B.word.to(A.shift.dtype)).addcmul_(B.shift, A.word.to(A.shift.dtype))
    result.diagonal(dim1=-2, dim2=-1).add_((A.shift * B.shift)[..., 0])
    return result
