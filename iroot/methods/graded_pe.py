"""Inverse p-th root with 16-bit products and float32-class answers: the linear term of the Y update kept exact."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from iroot.errors import InvalidInputError
from iroot.methods import _spd
from iroot.methods._constant import host_constant
from iroot.ops import Ops
from iroot.options import check_target
from iroot.precision import get_precision
from iroot.registry import MethodSpec, Operands, Workload, register
from iroot.scaling import get_scaling
from iroot.schedules import Design, Schedule, Step, power_products, schedule_for

LARGEST_X = 1024.0
"""X is scaled back to this norm where it could pass it, and the scalar is returned to it at the end."""


@dataclass(frozen=True, kw_only=True)
class GradedOptions:
    """The schedule and the normalisation.

    Attributes:
        target: error of the schedule in exact arithmetic.
        min_cushion: steps are added until the cushion is at least this, in [0, 0.5]: at p = 2, kappa 1e5 and n = 2048
            the step that 0.03 adds takes the error from 1e-2 to 8e-4.
        scaling: name of the normalisation (`iroot.scaling`).
    """

    target: float = 2e-4
    min_cushion: float = 0.03
    scaling: str = "square"

    def __post_init__(self) -> None:
        check_target(self.target)
        if not 0.0 <= self.min_cushion <= 0.5:
            raise InvalidInputError(f"min_cushion must be in [0, 0.5], got {self.min_cushion}")
        get_scaling(self.scaling)


@dataclass(frozen=True, kw_only=True)
class Word:
    """shift I + word: an exact scalar per matrix, (..., 1, 1), and one 16-bit matrix."""

    shift: Tensor
    word: Tensor


def graded_pe(operands: Operands, ops: Ops, options: GradedOptions) -> Tensor:
    """X = (A + eps I)^(-1/p) by B = q_t(Y), X <- X B, Y <- a^p Y + sym(Y W), W = B^p - a^p I, a = q_t(0).

    A coupled iteration in 16 bits fails because the linear term of the Y update goes through a rounded operand, whose
    noise, relative to lambda_max, is then amplified by kappa. Here Y and X are held in float32, a^p Y is elementwise in
    float32, and every operand of a product is (exact scalar) I + one 16-bit word, so the noise that reaches a small
    eigenvalue is relative to it. It takes a cushioned schedule (bounded growth of the small end), the product Y W
    symmetrised as a full product, and the mean diagonal taken off before rounding.

    Error in float16, p = 2: 1e-3 for kappa 1e2 to 1e5; the residual X^p A - I is larger than that suggests (up to 2).
    """
    p = _spd.root(operands)
    A = _spd.damped(operands)
    scale = get_scaling(options.scaling).function(A, ops)
    interval = _spd.interval_of(operands, scale, options.scaling)
    schedule = find_schedule(interval, p, options)
    Y, X, bound, taken_off = A / scale, None, 1.0, 1.0
    for t, step in enumerate(schedule.steps):
        B = split(ops, _quadratic(ops, Y, step))
        X = _value(B) if X is None else _product(ops, split(ops, X), B)
        # q_t(0) bounds q_t, so their product bounds X; float16 ends at 65504.
        bound *= step.monomial[0]
        if bound > LARGEST_X:
            X.mul_(LARGEST_X / bound)
            taken_off, bound = taken_off * LARGEST_X / bound, LARGEST_X
        if t < len(schedule.steps) - 1:
            Y = _next(ops, Y, B, step.monomial[0], p)
    assert X is not None
    return _spd.restore(X, scale * taken_off**p, p, operands.A.dtype)


def split(ops: Ops, M: Tensor) -> Word:
    """M as its mean diagonal and the rest, rounded."""
    shift = M.diagonal(dim1=-2, dim2=-1).mean(-1)[..., None, None]
    rest = M.clone()
    rest.diagonal(dim1=-2, dim2=-1).sub_(shift[..., 0])
    return Word(shift=shift, word=ops.cast(rest))


def _value(A: Word) -> Tensor:
    total = A.word.to(A.shift.dtype, copy=True)
    total.diagonal(dim1=-2, dim2=-1).add_(A.shift[..., 0])
    return total


def _product(ops: Ops, A: Word, B: Word) -> Tensor:
    """(a I + A) (b I + B) = A B + a B + b A + a b I, only A B in 16 bits."""
    result = ops.matmul_wide(A.word, B.word).to(A.shift.dtype)
    result.addcmul_(A.shift, B.word.to(A.shift.dtype)).addcmul_(B.shift, A.word.to(A.shift.dtype))
    result.diagonal(dim1=-2, dim2=-1).add_((A.shift * B.shift)[..., 0])
    return result


def _quadratic(ops: Ops, Y: Tensor, step: Step) -> Tensor:
    """q(Y) = c_0 I + c_1 Z + c_2 (2 Z^2 - I), Z = (2 Y - u - l) / (u - l)."""
    c0, c1, c2 = step.chebyshev
    radius = 0.5 * (step.upper - step.lower)
    Z = Y / radius
    Z.diagonal(dim1=-2, dim2=-1).sub_(0.5 * (step.upper + step.lower) / radius)
    word = split(ops, Z)
    result = _product(ops, word, word).mul_(2.0 * c2).add_(Z, alpha=c1)
    result.diagonal(dim1=-2, dim2=-1).add_(c0 - c2)
    return result


def _next(ops: Ops, Y: Tensor, B: Word, a: float, p: int) -> Tensor:
    """a^p Y + sym(Y W), W = B^p - a^p I."""
    linear, W = _power_less_linear(ops, Word(shift=B.shift - a, word=B.word), a, p)
    product = _product(ops, split(ops, Y), W)
    return (Y * linear).add_(product + product.mT, alpha=0.5)


def _power_less_linear(ops: Ops, M: Word, a: float, p: int) -> tuple[float, Word]:
    """a^p and (a I + M)^p - a^p I, by binary exponentiation of the pair: its M has the words of B, exactly."""
    square, square_a = M, a
    result: tuple[float, Word] | None = None
    while True:
        if p & 1:
            result = (square_a, square) if result is None else _times(ops, result, (square_a, square))
        p >>= 1
        if p == 0:
            assert result is not None
            return result
        square_a, square = _times(ops, (square_a, square), (square_a, square))


def _times(ops: Ops, left: tuple[float, Word], right: tuple[float, Word]) -> tuple[float, Word]:
    """(a I + M) (b I + N) less a b I: a N + b M + M N."""
    (a, M), (b, N) = left, right
    total = _product(ops, M, N).add_(_value(N), alpha=a).add_(_value(M), alpha=b)
    return a * b, split(ops, 0.5 * (total + total.mT))


def find_schedule(interval: _spd.Interval, p: int, options: GradedOptions) -> Schedule:
    """Quadratic steps with a cushion, for a spectrum in `interval`."""
    return _schedule(p, interval.lower, interval.headroom, options)


@host_constant
def _schedule(p: int, lower: float, headroom: float, options: GradedOptions) -> Schedule:
    design = Design(p=p, lower=lower, headroom=headroom)
    return schedule_for(design, target=options.target, min_cushion=options.min_cushion)


def _planned(workload: Workload, options: GradedOptions) -> Schedule:
    assert workload.p is not None
    interval = _spd.known_interval(workload.lower, workload.n, options.scaling)
    return find_schedule(interval, workload.p, options)


def flops(workload: Workload, options: GradedOptions) -> float:
    """Z^2, the powers of B and X B have symmetric results, n^3 each; Y W is a full product, 2 n^3."""
    assert workload.p is not None
    steps = len(_planned(workload, options).steps)
    symmetric = steps + (steps - 1) * (power_products(workload.p) + 1) + get_scaling(options.scaling).products
    return _spd.symmetric_products(workload, symmetric + 2.0 * (steps - 1))


def accuracy(workload: Workload, options: GradedOptions) -> float | None:
    """Schedule error plus u (4 + 0.006 kappa^(1/2)) + 0.015 u^2 kappa, u the unit roundoff; None above 0.3.

    About three times what is measured at n = 48 to 512 (CPU, p = 1, 2, 3, 4, 8): 1.5 u at kappa 1e4; 5 u in float16 and
    28 u in bfloat16 at kappa 1e6. A tensor core's sum over all of n loses further digits: times n / 512 above that.
    """
    if workload.lower is None:
        return None
    u, kappa = get_precision(workload.precision).unit_roundoff, 1.0 / workload.lower
    rounding = u * (4.0 + 0.006 * math.sqrt(kappa)) + 0.015 * u * u * kappa
    error = _planned(workload, options).error + rounding * max(1.0, workload.n / 512.0)
    return error if error <= 0.3 else None


register(
    MethodSpec(
        name="graded_pe",
        task="inverse_root",
        function=graded_pe,
        options=GradedOptions,
        precisions=("bf16", "fp16", "bf16_emulated", "fp16_emulated"),
        flops=flops,
        bytes_moved=_spd.root_bytes,
        accuracy=accuracy,
        summary="coupled minimax iteration with an exact linear term: 16-bit products, float32 iterates",
        citation="this project; minimax steps as in Amsel et al., The Polar Express, 2025, arXiv 2505.16932",
    )
)
