"""X = Y^(-1/p) by graded steps, three kernels a step: the host side of `iroot/kernels/words.py`.

    B = q_t(Y),  X <- X B,  Y <- a Y + sym(Y W),  W = B^p - a I,  a = q_t(0)^p

in words (an exact scalar and one 16-bit matrix), with Y also in float32 (`iroot/methods/_graded.py`). X B is off the
critical path B, W, Y and runs on a second stream beside W and Y.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial

import torch
import triton
from torch import Tensor

from iroot.errors import InvalidInputError
from iroot.graded_steps import WordStep
from iroot.kernels.device_tiles import device_programs
from iroot.kernels.operands import descriptor, empty_aligned, processors
from iroot.kernels.rehearsal import on_grid, rehearse
from iroot.kernels.tiling import GRADED_TILINGS, Tiling, choose_tiling
from iroot.kernels.word_launch import (
    SQUARE,
    Call,
    Inputs,
    Outputs,
    Word,
    begin,
    launch,
    lets_in,
    matrices,
    new_word,
    quadratic_call,
)
from iroot.kernels.words import PRODUCT, QUADRATIC, UPDATE, square_bound_kernel, square_norms_kernel


@dataclass(frozen=True, kw_only=True)
class GradedPlan:
    """How `graded_root` cuts its products.

    Attributes:
        tiling: of the products with one accumulator.
        update: of Y W, whose accumulator is promoted as often as a step says.
        streams: 2 puts X B beside the other products.
        symmetrised: X B is taken as (X B + B X) / 2, at twice the work, and not as one triangle of X B.
    """

    tiling: Tiling
    update: Tiling
    streams: int = 2
    symmetrised: bool = False

    def __post_init__(self) -> None:
        if self.tiling.block != self.update.block:
            raise InvalidInputError(
                f"both tilings must have one block, since they share a triangle of tiles, got {self.tiling.block} and "
                f"{self.update.block}"
            )


SMALL_WORD_TILE = 0.41
"""`iroot.kernels.tiling.SMALL_TILE` of Gluon's products of words, two programs of which share a multiprocessor.

Roots of p = 2 in tiles of 64 and of 128 columns, us: n = 1024 158 and 208, 1152 194 and 230, 1280 238 and 247, 1408 271
and 261, 1536 395 and 313, 2 x 1024 270 and 243, 4 x 1024 484 and 385 (128 + 32), 8 x 768 473 and 423, 16 x 512 370 and
361, 8 x 512 217 and 197, 16 x 256 113 and 138 (H100, float16, 2026-11-23). From 0.4 to 0.5 all are right but 1408.
"""


def choose_plan(n: int, batches: int, *, processors: int) -> GradedPlan:
    """The tilings with the shortest makespan."""
    tiling = choose_tiling(
        n, batches, processors=processors, choices=GRADED_TILINGS, small_tile=SMALL_WORD_TILE
    )  # fmt: skip
    # A second accumulator takes as many registers as the first: eight warps for tiles of 128 x 128.
    return GradedPlan(tiling=tiling, update=replace(tiling, warps=8 if tiling.block == 128 else 4))


def promoted(tiling: Tiling, promote_k: int) -> Tiling:
    """`tiling` with sums of `promote_k` columns, or up to a block of columns more; 0: of all columns.

    Blocks of columns are no longer than a sum, and a power of two.
    """
    if promote_k == 0:
        return replace(tiling, promote_k=0)
    block_k = min(tiling.block_k, 1 << (promote_k.bit_length() - 1))
    return replace(tiling, block_k=block_k, promote_k=-(-promote_k // block_k) * block_k)


def variants(steps: Sequence[WordStep]) -> tuple[int, ...]:
    """What kernels depend on: they differ between the first, middle and last steps, and for sums of other lengths."""
    return min(len(steps), 3), *(step.promote_k for step in steps[:1]), *sorted({s.promote_k for s in steps[1:-1]})


def square_bound(A: Tensor, *, eps: float = 0.0, dtype: torch.dtype = torch.float16, slack: float = 1.0) -> Tensor:
    """min(||M^2||_F, ||M^2||_inf)^(1/2) >= lambda_max of M = A + eps I, from a square in 16 bits.

    The mean diagonal t is divided out and taken off, M = t (I + S), so that S fits 16 bits (its entries stay below n)
    and M^2 = t^2 (S^2 + 2 S + I) loses no digits of the diagonal.

    Args:
        A: (..., n, n) float32, symmetric positive semidefinite, not zero.
        eps: added to the diagonal.
        dtype: of the product's operands, bfloat16 or float16.
        slack: factor on the result that covers the rounding of S.

    Returns:
        (..., 1, 1) float32.

    Raises:
        InvalidInputError: A is not square or not float32, or dtype is not a 16-bit one.
    """
    matrix = matrices(A, dtype)
    bound = partial(_square_bound, matrix, eps, dtype, slack)
    rehearse(("square_bound", matrix.shape, matrix.stride(), dtype), bound, A.device)
    return bound().reshape(*A.shape[:-2], 1, 1)


def _square_bound(matrix: Tensor, eps: float, dtype: torch.dtype, slack: float) -> Tensor:
    batches, n, _ = matrix.shape
    device = matrix.device
    tiling = replace(choose_tiling(n, batches, processors=processors(device)), tail=0)
    S, unit = begin(matrix, None, eps, dtype)
    programs = device_programs(n, batches, tiling.block, 0, device)
    tiles, blocks = programs.shape[0] // batches, triton.cdiv(n, tiling.block)
    frobenius = torch.empty(batches, tiles, dtype=torch.float32, device=device)
    row_sums = torch.empty(batches, blocks, n, dtype=torch.float32, device=device)
    overlap, early = device.type == "cuda", lets_in(batches, n)
    on_grid(square_norms_kernel, (programs.shape[0],))(
        programs, descriptor(S.word, tiling.block, tiling.block_k),
        descriptor(S.word, tiling.block, tiling.block), S.word, S.word.stride(1), frobenius, row_sums, tiles, blocks, n,
        BLOCK=tiling.block, BLOCK_K=tiling.block_k, OVERLAP=overlap, EARLY=early,
        num_warps=tiling.warps, num_stages=tiling.stages, launch_pdl=overlap,
    )  # fmt: skip
    bound = torch.empty(batches, dtype=torch.float32, device=device)
    on_grid(square_bound_kernel, (batches,))(
        frobenius, row_sums, unit, bound, tiles, blocks, n, slack,
        COUNT=triton.next_power_of_2(tiles), BLOCKS=triton.next_power_of_2(blocks), COLUMNS=1024, OVERLAP=overlap,
        EARLY=early, num_warps=16, launch_pdl=overlap,
    )  # fmt: skip
    return bound


def graded_root(
    A: Tensor,
    scale: Tensor,
    steps: Sequence[WordStep],
    *,
    p: int,
    eps: float = 0.0,
    dtype: torch.dtype = torch.float16,
    plan: GradedPlan | None = None,
) -> Tensor:
    """X = scale^(-1/p) Y^(-1/p) with Y = (A + eps I) / scale, by `steps`.

    Only the lower triangle of A decides the float32 part of the first Y. The first call of a shape must not be recorded
    in a CUDA graph: it compiles the kernels and uploads their tiles.

    Args:
        A: (..., n, n) float32, symmetric positive definite, complete when the kernel launched last began: the one
            that wrote `scale`, as `square_bound`'s does.
        scale: (..., 1, 1) float32, at least about lambda_max(A + eps I).
        steps: as designed for the spectrum of Y.
        p: root, at least 1.
        eps: added to the diagonal.
        dtype: of the words, bfloat16 or float16.
        plan: kernel configurations; by default `choose_plan`'s.

    Returns:
        (..., n, n) float32, exactly symmetric. Errors as `graded_pe` states them.

    Raises:
        InvalidInputError: shapes, dtypes or p out of range, or no steps.
    """
    matrix = matrices(A, dtype)
    batches, n, _ = matrix.shape
    if p < 1 or not steps:
        raise InvalidInputError(f"p must be at least 1 and steps not empty, got p = {p} and {len(steps)} steps")
    if scale.numel() != batches or scale.dtype is not torch.float32:
        raise InvalidInputError(f"scale must hold {batches} float32 values, got {scale.numel()} of {scale.dtype}")
    chosen = plan or choose_plan(n, batches, processors=processors(A.device))
    scales = scale.reshape(batches).contiguous()
    copied = matrix.data_ptr() != A.data_ptr() or scales.data_ptr() != scale.data_ptr()

    def root() -> Tensor:
        Y, _ = begin(matrix, scales, eps, dtype, tiling=chosen.update, ahead=not copied)
        return _Iteration(p, chosen, A.device).run(Y, steps, scales)

    rehearse(("graded_root", matrix.shape, matrix.stride(), p, variants(steps), dtype, chosen), root, A.device)
    return root().reshape(A.shape)


class _Iteration:
    """The steps of one call, and the second stream with what it still reads."""

    def __init__(self, p: int, plan: GradedPlan, device: torch.device) -> None:
        self._p = p
        self._plan = plan
        # One stream, or a graph of one chain, lets every kernel overlap its predecessor's end.
        beside = device.type == "cuda" and plan.streams == 2
        self._side = _side_stream(device) if beside else None
        self._read: list[Word] = []

    def run(self, Y: Word, steps: Sequence[WordStep], scale: Tensor) -> Tensor:
        """scale^(-1/p) Y^(-1/p)."""
        X = None
        for step in steps[:-1]:
            B = self._product(quadratic_call(step), Y, Y, Y.sums.norm)
            X = B if X is None else self._times(step, X, B)
            Y = self._update(step, Y, B)
        step = steps[-1]
        if X is None:
            return self._final(quadratic_call(step), Y, Y, Y.sums.norm, scale)
        B = self._product(quadratic_call(step), Y, Y, Y.sums.norm)
        if self._side is not None:
            torch.cuda.current_stream(self._side.device).wait_stream(self._side)
        return self._final(self._append(step), X, B, None, scale)

    def _times(self, step: WordStep, X: Word, B: Word) -> Word:
        """X B, beside what follows. Its scalar is the product of the two.

        The mean diagonal of the words' own product stays in the word: rounding it is an error relative to the largest
        eigenvalues of X, which are those that count.
        """
        result = new_word(X.word, self._plan.tiling)
        inputs, outputs = Inputs(M=X, N=B, trace=None), Outputs(word=result)
        if self._side is None:
            launch(self._append(step), inputs, outputs, self._plan.tiling)
            return result
        # The allocator knows the first stream only: nothing that the second one reads may be freed before they meet.
        self._read += [X, B]
        self._side.wait_stream(torch.cuda.current_stream(self._side.device))
        with torch.cuda.stream(self._side):
            launch(self._append(step), inputs, outputs, self._plan.tiling, chained=False)
        return result

    def _append(self, step: WordStep) -> Call:
        """X B, or (X B + B X) / 2."""
        return Call(kind=PRODUCT.value, factor=step.factor, both=self._plan.symmetrised)

    def _update(self, step: WordStep, Y: Word, B: Word) -> Word:
        """a Y + sym(Y W)."""
        call = Call(kind=UPDATE.value, linear=step.at_zero**self._p, both=True)
        W, trace = self._power(B, Y)
        tiling = promoted(self._plan.update, step.promote_k)
        result = new_word(Y.word, tiling, rest=True)
        launch(call, Inputs(M=Y, N=W, trace=trace), Outputs(word=result), tiling)
        return result

    def _power(self, B: Word, Y: Word) -> tuple[Word, Tensor]:
        """B^p by binary exponentiation, and its sums with Y."""
        if self._p == 1:
            return B, B.sums.with_p  # P is Y where B is written
        result, square = (B if self._p & 1 else None), B
        bits = self._p >> 1
        while True:
            ends = bits == 1 and result is None
            square = self._product(SQUARE, square, square, square.sums.norm, partner=Y if ends else result)
            if ends:
                return square, square.sums.with_v
            if bits & 1:
                if result is None:
                    result = square
                else:
                    result = self._product(SQUARE, result, square, square.sums.with_v, partner=Y)
                if bits == 1:
                    return result, result.sums.with_v
            bits >>= 1

    def _product(self, call: Call, M: Word, N: Word, trace: Tensor, *, partner: Word | None = None) -> Word:
        """The product, and its sums with `partner`."""
        result = new_word(M.word, self._plan.tiling)
        inputs = Inputs(M=M, N=N, trace=trace, partner=partner)
        launch(call, inputs, Outputs(word=result), self._plan.tiling)
        return result

    def _final(self, call: Call, M: Word, N: Word, trace: Tensor | None, scale: Tensor) -> Tensor:
        batches, n, _ = M.word.shape
        X = empty_aligned((batches, n, n), torch.float32, M.word.device)
        outputs = Outputs(final=X, scale=scale, p=self._p)
        # After two streams have met, the last kernel waits for more than the one before it.
        chained = call.kind == QUADRATIC.value or self._side is None
        launch(call, Inputs(M=M, N=N, trace=trace), outputs, self._plan.tiling, chained=chained)
        return X


@lru_cache(maxsize=8)
def _side_stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
