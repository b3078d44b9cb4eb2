"""X = Y^(-1/p) by graded steps, three kernels a step: the host side of `iroot/kernels/words.py`.

    B = q_t(Y),  X <- X B,  Y <- a Y + sym(Y W),  W = B^p - a I,  a = q_t(0)^p

in words (an exact scalar and one 16-bit matrix), with Y also in float32 (`iroot/methods/_graded.py`). X B is off the
critical path B, W, Y and runs on a second stream beside W and Y.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
import triton
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from iroot.errors import InvalidInputError
from iroot.graded_steps import WordStep
from iroot.kernels.operands import OPERAND_DTYPES, TRITON_DTYPES, descriptor, empty_aligned, processors
from iroot.kernels.symmetric import device_programs
from iroot.kernels.tiling import GRADED_TILINGS, Tiling, choose_tiling, schedule
from iroot.kernels.words import (
    PRODUCT,
    QUADRATIC,
    UPDATE,
    begin_kernel,
    square_bound_kernel,
    square_norms_kernel,
    word_kernel,
)


@dataclass(frozen=True, kw_only=True)
class GradedPlan:
    """How `graded_root` cuts its products.

    Attributes:
        tiling: of the products with one accumulator.
        update: of Y W, whose accumulator is promoted.
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


PROMOTE_K = 512
"""Columns of depth of Y W per accumulator."""


def choose_plan(n: int, batches: int, *, processors: int) -> GradedPlan:
    """The tilings with the shortest makespan."""
    tiling = choose_tiling(n, batches, processors=processors, choices=GRADED_TILINGS)
    # A second accumulator takes as many registers as the first: eight warps for tiles of 128 x 128.
    return GradedPlan(tiling=tiling, update=replace(tiling, promote_k=PROMOTE_K, warps=8 if tiling.block == 128 else 4))


@dataclass(frozen=True, kw_only=True)
class _Sums:
    """Sums left by the kernel that wrote a word, tile by tile: with itself, with its right factor and one more word."""

    norm: Tensor
    with_p: Tensor
    with_v: Tensor


@dataclass(frozen=True, kw_only=True)
class _Word:
    """shift I + word on the device, (batches, n, n), and the sums that later products take their traces from."""

    word: Tensor
    shift: Tensor
    sums: _Sums
    rest: Tensor | None = None
    errors: Tensor | None = None

    @property
    def n(self) -> int:
        return self.word.shape[-1]


@dataclass(frozen=True, kw_only=True)
class _Call:
    """The scalars of one launch of `word_kernel`."""

    kind: int
    chebyshev: tuple[float, float, float] = (0.0, 0.0, 0.0)
    mid: float = 0.0
    radius: float = 1.0
    factor: float = 1.0
    linear: float = 0.0
    both: bool = False


_SQUARE = _Call(kind=PRODUCT.value)


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
    matrix = _matrices(A, dtype)
    batches, n, _ = matrix.shape
    tiling = replace(choose_tiling(n, batches, processors=processors(A.device)), tail=0)
    S, unit = _begin(matrix, None, eps, dtype)
    programs = device_programs(n, batches, tiling.block, 0, A.device)
    tiles, blocks = programs.shape[0] // batches, triton.cdiv(n, tiling.block)
    frobenius = torch.empty(batches, tiles, dtype=torch.float32, device=A.device)
    row_sums = torch.empty(batches, blocks, n, dtype=torch.float32, device=A.device)
    overlap = A.device.type == "cuda"
    square_norms_kernel[(programs.shape[0],)](
        programs, descriptor(S.word, tiling.block, tiling.block_k),
        descriptor(S.word, tiling.block, tiling.block), frobenius, row_sums, tiles, blocks, n,
        BLOCK=tiling.block, BLOCK_K=tiling.block_k, OVERLAP=overlap,
        num_warps=tiling.warps, num_stages=tiling.stages, launch_pdl=overlap,
    )  # fmt: skip
    bound = torch.empty(batches, dtype=torch.float32, device=A.device)
    square_bound_kernel[(batches,)](
        frobenius, row_sums, unit, bound, tiles, blocks, n, slack,
        COUNT=triton.next_power_of_2(tiles), BLOCKS=triton.next_power_of_2(blocks), COLUMNS=1024, OVERLAP=overlap,
        num_warps=16, launch_pdl=overlap,
    )  # fmt: skip
    return bound.reshape(*A.shape[:-2], 1, 1)


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
        A: (..., n, n) float32, symmetric positive definite.
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
    matrix = _matrices(A, dtype)
    batches, n, _ = matrix.shape
    if p < 1 or not steps:
        raise InvalidInputError(f"p must be at least 1 and steps not empty, got p = {p} and {len(steps)} steps")
    if scale.numel() != batches or scale.dtype is not torch.float32:
        raise InvalidInputError(f"scale must hold {batches} float32 values, got {scale.numel()} of {scale.dtype}")
    plan = plan or choose_plan(n, batches, processors=processors(A.device))
    scale = scale.reshape(batches).contiguous()
    Y, _ = _begin(matrix, scale, eps, dtype, tiling=plan.update)
    X = _Iteration(p, plan, A.device).run(Y, steps, scale)
    return X.reshape(A.shape)


class _Iteration:
    """The steps of one call, and the second stream with what it still reads."""

    def __init__(self, p: int, plan: GradedPlan, device: torch.device) -> None:
        self._p = p
        self._plan = plan
        # One stream, or a graph of one chain, lets every kernel overlap its predecessor's end.
        beside = device.type == "cuda" and plan.streams == 2
        self._side = _side_stream(device) if beside else None
        self._read: list[_Word] = []

    def run(self, Y: _Word, steps: Sequence[WordStep], scale: Tensor) -> Tensor:
        """scale^(-1/p) Y^(-1/p)."""
        X = None
        for step in steps[:-1]:
            B = self._product(_quadratic_call(step), Y, Y, Y.sums.norm)
            X = B if X is None else self._times(step, X, B)
            Y = self._update(step, Y, B)
        step = steps[-1]
        if X is None:
            return self._final(_quadratic_call(step), Y, Y, Y.sums.norm, scale)
        B = self._product(_quadratic_call(step), Y, Y, Y.sums.norm)
        if self._side is not None:
            torch.cuda.current_stream(self._side.device).wait_stream(self._side)
        return self._final(self._append(step), X, B, None, scale)

    def _times(self, step: WordStep, X: _Word, B: _Word) -> _Word:
        """X B, beside what follows. Its scalar is the product of the two.

        The mean diagonal of the words' own product stays in the word: rounding it is an error relative to the largest
        eigenvalues of X, which are those that count.
        """
        result = _new_word(X.word, self._plan.tiling)
        inputs, outputs = _Inputs(M=X, N=B, trace=None), _Outputs(word=result)
        if self._side is None:
            _launch(self._append(step), inputs, outputs, self._plan.tiling)
            return result
        # The allocator knows the first stream only: nothing that the second one reads may be freed before they meet.
        self._read += [X, B]
        self._side.wait_stream(torch.cuda.current_stream(self._side.device))
        with torch.cuda.stream(self._side):
            _launch(self._append(step), inputs, outputs, self._plan.tiling, chained=False)
        return result

    def _append(self, step: WordStep) -> _Call:
        """X B, or (X B + B X) / 2."""
        return _Call(kind=PRODUCT.value, factor=step.factor, both=self._plan.symmetrised)

    def _update(self, step: WordStep, Y: _Word, B: _Word) -> _Word:
        """a Y + sym(Y W)."""
        call = _Call(kind=UPDATE.value, linear=step.at_zero**self._p, both=True)
        W, trace = self._power(B, Y)
        result = _new_word(Y.word, self._plan.update, rest=True)
        _launch(call, _Inputs(M=Y, N=W, trace=trace), _Outputs(word=result), self._plan.update)
        return result

    def _power(self, B: _Word, Y: _Word) -> tuple[_Word, Tensor]:
        """B^p by binary exponentiation, and its sums with Y."""
        if self._p == 1:
            return B, B.sums.with_p  # P is Y where B is written
        result, square = (B if self._p & 1 else None), B
        bits = self._p >> 1
        while True:
            ends = bits == 1 and result is None
            square = self._product(_SQUARE, square, square, square.sums.norm, partner=Y if ends else result)
            if ends:
                return square, square.sums.with_v
            if bits & 1:
                if result is None:
                    result = square
                else:
                    result = self._product(_SQUARE, result, square, square.sums.with_v, partner=Y)
                if bits == 1:
                    return result, result.sums.with_v
            bits >>= 1

    def _product(self, call: _Call, M: _Word, N: _Word, trace: Tensor, *, partner: _Word | None = None) -> _Word:
        """The product, and its sums with `partner`."""
        result = _new_word(M.word, self._plan.tiling)
        inputs = _Inputs(M=M, N=N, trace=trace, partner=partner)
        _launch(call, inputs, _Outputs(word=result), self._plan.tiling)
        return result

    def _final(self, call: _Call, M: _Word, N: _Word, trace: Tensor | None, scale: Tensor) -> Tensor:
        batches, n, _ = M.word.shape
        X = empty_aligned((batches, n, n), torch.float32, M.word.device)
        outputs = _Outputs(final=X, scale=scale, p=self._p)
        # After two streams have met, the last kernel waits for more than the one before it.
        chained = call.kind == QUADRATIC.value or self._side is None
        _launch(call, _Inputs(M=M, N=N, trace=trace), outputs, self._plan.tiling, chained=chained)
        return X


@dataclass(frozen=True, kw_only=True)
class _Inputs:
    """The factors M and N of one launch, the sums that give the trace of M N, if any, and a word to take sums with."""

    M: _Word
    N: _Word
    trace: Tensor | None
    partner: _Word | None = None


@dataclass(frozen=True, kw_only=True)
class _Outputs:
    """A word, or the final float32 result times scale^(-1/p)."""

    word: _Word | None = None
    final: Tensor | None = None
    scale: Tensor | None = None
    p: int = 1


def _quadratic_call(step: WordStep) -> _Call:
    return _Call(kind=QUADRATIC.value, chebyshev=step.chebyshev, mid=step.mid, radius=step.radius)


def _launch(call: _Call, inputs: _Inputs, outputs: _Outputs, tiling: Tiling, *, chained: bool = True) -> None:
    """One product; `chained`: the kernel before it in its stream is the only one it waits for."""
    M, N, word = inputs.M, inputs.N, outputs.word
    batches, n, _ = M.word.shape
    programs = device_programs(n, batches, tiling.block, tiling.tail, M.word.device)
    blocks, terms = triton.cdiv(n, tiling.block), 0 if inputs.trace is None else inputs.trace.shape[-1]
    is_update, is_square = call.kind == UPDATE.value, M.word is N.word
    left, left_tail = _strips(M.word, tiling)
    right, right_tail = (left, left_tail) if is_square else _strips(N.word, tiling)
    result = outputs.final if word is None else word.word
    assert result is not None
    written = M if word is None else word  # not written to where there is no word
    overlap = M.word.device.type == "cuda" and chained
    word_kernel[(programs.shape[0],)](
        programs, left, left_tail if call.both else None, right, right_tail,
        _slices(M.rest if call.kind == QUADRATIC.value else N.word, tiling),
        _slices(None if is_square else M.word, tiling),
        _slices(M.rest if is_update else None, tiling),
        _slices(None if inputs.partner is None else inputs.partner.word, tiling),
        _slices(result, tiling), descriptor(result, _slice(tiling), tiling.block),
        _slices(written.rest if is_update else None, tiling),
        M.shift, N.shift, written.shift, inputs.trace, M.errors, written.errors, blocks,
        written.sums.norm, written.sums.with_p, written.sums.with_v,
        outputs.scale, programs.shape[0] // batches, terms, n,
        *call.chebyshev, call.mid, 1.0 / call.radius, call.factor, call.linear, 1.0 / outputs.p,
        KIND=call.kind, BOTH=call.both, FINAL=word is None, COUNT=triton.next_power_of_2(max(terms, 1)),
        BLOCKS=triton.next_power_of_2(blocks),
        BLOCK=tiling.block, TAIL=tiling.tail, SLICE=_slice(tiling), BLOCK_K=tiling.block_k, PROMOTE_K=tiling.promote_k,
        DTYPE=TRITON_DTYPES[result.dtype], OVERLAP=overlap, EARLY=tiling.lets_next_in,
        num_warps=tiling.warps, num_stages=tiling.stages, launch_pdl=overlap,
        # Slices must round alike for tiles on the diagonal to stay symmetric to the last bit.
        enable_fp_fusion=False,
    )  # fmt: skip


def _slice(tiling: Tiling) -> int:
    """Columns of a tile that the epilogue handles at a time: 32 of 128 keep every kernel within its registers."""
    return tiling.tail or min(tiling.block, max(32, 64 * 64 // tiling.block))


def _slices(A: Tensor | None, tiling: Tiling) -> TensorDescriptor | None:
    return None if A is None else descriptor(A, tiling.block, _slice(tiling))


def _strips(A: Tensor, tiling: Tiling) -> tuple[TensorDescriptor, TensorDescriptor | None]:
    """Descriptors of A in the blocks of the loop over its columns, for rows of a tile and of its tail."""
    tail = descriptor(A, tiling.tail, tiling.block_k) if tiling.tail else None
    return descriptor(A, tiling.block, tiling.block_k), tail


def _new_word(like: Tensor, tiling: Tiling, *, rest: bool = False) -> _Word:
    batches, n, _ = like.shape
    tiles = len(schedule(n, 1, tiling.block, tiling.tail))
    sums = torch.empty(3, batches, tiles, dtype=torch.float32, device=like.device)
    return _Word(
        word=empty_aligned((batches, n, n), like.dtype, like.device),
        shift=torch.empty(batches, dtype=torch.float32, device=like.device),
        sums=_Sums(norm=sums[0], with_p=sums[1], with_v=sums[2]),
        rest=empty_aligned((batches, n, n), torch.float32, like.device) if rest else None,
        errors=_new_errors(batches, n, tiling, like.device) if rest else None,
    )


def _new_errors(batches: int, n: int, tiling: Tiling, device: torch.device) -> Tensor:
    return torch.empty(batches, triton.cdiv(n, tiling.block), dtype=torch.float32, device=device)


_ROWS = 4


def _begin(
    matrix: Tensor, scale: Tensor | None, eps: float, dtype: torch.dtype, *, tiling: Tiling | None = None
) -> tuple[_Word, Tensor]:
    """(matrix + eps I) / scale as a word, and the scale: `scale`, or the mean diagonal, when no rest is needed."""
    batches, n, _ = matrix.shape
    blocks = triton.cdiv(n, _ROWS)
    word = empty_aligned((batches, n, n), dtype, matrix.device)
    rest = None if scale is None else empty_aligned((batches, n, n), torch.float32, matrix.device)
    norm, shift, unit = (torch.empty(batches, k, dtype=torch.float32, device=matrix.device) for k in (blocks, 1, 1))
    errors = None if tiling is None else _new_errors(batches, n, tiling, matrix.device)
    width = 0 if errors is None else errors.shape[-1]
    overlap = matrix.device.type == "cuda"
    begin_kernel[(blocks, batches)](
        matrix, matrix.stride(0), matrix.stride(1), scale, eps, word, word.stride(1),
        rest, 0 if rest is None else rest.stride(1), shift, norm, unit, errors, width, n,
        ROWS=_ROWS, COLUMNS=min(1024, triton.next_power_of_2(n)), DIAGONAL=1024,
        BLOCKS=triton.next_power_of_2(max(width, 1)), DTYPE=TRITON_DTYPES[dtype], OVERLAP=overlap,
        num_warps=4, launch_pdl=overlap,
    )  # fmt: skip
    sums = _Sums(norm=norm, with_p=norm, with_v=norm)
    return _Word(word=word, shift=shift, sums=sums, rest=rest, errors=errors), unit


def _matrices(A: Tensor, dtype: torch.dtype) -> Tensor:
    """A with one batch dimension and contiguous rows."""
    if A.ndim < 2 or A.shape[-1] != A.shape[-2] or A.shape[-1] == 0 or A.dtype is not torch.float32:
        raise InvalidInputError(f"A must be (..., n, n) float32 with n >= 1, got {tuple(A.shape)} {A.dtype}")
    if dtype not in OPERAND_DTYPES:
        raise InvalidInputError(f"words must be bfloat16 or float16, got {dtype}")
    matrix = A.reshape(-1, *A.shape[-2:])
    return matrix if matrix.stride(-1) == 1 else matrix.contiguous()


@lru_cache(maxsize=8)
def _side_stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
