"""Launches of the word kernels (`iroot/kernels/words.py`): words in memory, operands, results."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from iroot.errors import InvalidInputError
from iroot.graded_steps import WordStep
from iroot.kernels.device_tiles import device_programs
from iroot.kernels.hopper import lacks_gluon
from iroot.kernels.operands import OPERAND_DTYPES, TRITON_DTYPES, descriptor, empty_rows
from iroot.kernels.rehearsal import on_grid
from iroot.kernels.tiling import Tiling, schedule
from iroot.kernels.words import PRODUCT, QUADRATIC, UPDATE, begin_kernel, word_kernel


@dataclass(frozen=True, kw_only=True)
class Sums:
    """Sums left by the kernel that wrote a word, tile by tile: with itself, with its right factor and one more word."""

    norm: Tensor
    with_p: Tensor
    with_v: Tensor


@dataclass(frozen=True, kw_only=True)
class Word:
    """shift I + word on the device, (batches, n, n), and the sums that later products take their traces from."""

    word: Tensor
    shift: Tensor
    sums: Sums
    rest: Tensor | None = None
    errors: Tensor | None = None

    @property
    def n(self) -> int:
        return self.word.shape[-1]


@dataclass(frozen=True, kw_only=True)
class Call:
    """The scalars of one launch of `word_kernel`."""

    kind: int
    chebyshev: tuple[float, float, float] = (0.0, 0.0, 0.0)
    mid: float = 0.0
    radius: float = 1.0
    factor: float = 1.0
    linear: float = 0.0
    both: bool = False


SQUARE = Call(kind=PRODUCT.value)
"""M N as it is."""


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """The factors M and N of one launch, the sums that give the trace of M N, if any, and a word to take sums with."""

    M: Word
    N: Word
    trace: Tensor | None
    partner: Word | None = None


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """A word, or the final float32 result times scale^(-1/p)."""

    word: Word | None = None
    final: Tensor | None = None
    scale: Tensor | None = None
    p: int = 1


def quadratic_call(step: WordStep) -> Call:
    """B = q(Y) of one step."""
    return Call(kind=QUADRATIC.value, chebyshev=step.chebyshev, mid=step.mid, radius=step.radius)


def launch(call: Call, inputs: Inputs, outputs: Outputs, tiling: Tiling, *, chained: bool = True) -> None:
    """One product; `chained`: the kernel before it in its stream is the only one it waits for."""
    chosen = triton_launch
    if is_for_gluon(call, inputs, outputs, tiling):
        # Gluon is experimental: its names are looked up where they are known to be.
        from iroot.kernels.hopper_small_words import hopper_small_word
        from iroot.kernels.hopper_words import hopper_word

        chosen = hopper_small_word if tiling.block == 64 else hopper_word
    chosen(call, inputs, outputs, tiling, chained=chained)


def is_for_gluon(call: Call, inputs: Inputs, outputs: Outputs, tiling: Tiling) -> bool:
    """Whether one of Gluon's kernels is taken: wherever it can run.

    Whole roots, p = 2, five steps, by it and by Triton: n = 512 82 and 111 us, 768 114 and 141, 1024 159 and 188,
    4 x 512 128 and 148 in tiles of 64; n = 1536 282 and 413, 2048 460 and 699, 3072 1329 and 1631, 4096 2824 and 3265,
    8 x 1024 681 and 923, 16 x 1024 1248 and 1665 in tiles of 128 (H100, float16, 2026-11-23).
    """
    return takes_gluon(call, inputs, outputs, tiling) and not lacks_gluon(inputs.M.word.device)


def takes_gluon(call: Call, inputs: Inputs, outputs: Outputs, tiling: Tiling) -> bool:
    """Whether `iroot.kernels.hopper_words`, or `hopper_small_words` in tiles of 64, has this form of the product.

    There is none for a root of one step, an update of Y by its own square, a quadratic of two words, a partner of
    anything but a product, and two words beside a final result: all but the first are of no call of `graded_root`.
    """
    if tiling.tail not in {128: (0, 32), 64: (0,)}.get(tiling.block, ()):
        return False
    if tiling.promote_k != 32 and tiling.promote_k % 64:
        return False
    is_square, is_product, is_final = inputs.M.word is inputs.N.word, call.kind == PRODUCT.value, outputs.word is None
    if is_final and not is_product:
        return False
    if not is_product and is_square != (call.kind == QUADRATIC.value):
        return False
    return inputs.partner is None or (is_product and not is_final)


def triton_launch(call: Call, inputs: Inputs, outputs: Outputs, tiling: Tiling, *, chained: bool = True) -> None:
    """`launch` by `iroot.kernels.words`."""
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
    on_grid(word_kernel, (programs.shape[0],))(
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


def new_word(like: Tensor, tiling: Tiling, *, rest: bool = False) -> Word:
    """Memory for a result in the shape and dtype of `like`; `rest`: with a float32 part, for Y."""
    batches, n, _ = like.shape
    tiles = len(schedule(n, 1, tiling.block, tiling.tail))
    sums = torch.empty(3, batches, tiles, dtype=torch.float32, device=like.device)
    return Word(
        word=empty_rows((batches, n, n), like.dtype, like.device),
        shift=torch.empty(batches, dtype=torch.float32, device=like.device),
        sums=Sums(norm=sums[0], with_p=sums[1], with_v=sums[2]),
        rest=empty_rows((batches, n, n), torch.float32, like.device) if rest else None,
        errors=_new_errors(batches, n, tiling, like.device) if rest else None,
    )


def _new_errors(batches: int, n: int, tiling: Tiling, device: torch.device) -> Tensor:
    return torch.empty(batches, triton.cdiv(n, tiling.block), dtype=torch.float32, device=device)


def lets_in(batches: int, n: int) -> bool:
    """Whether a pass over `batches` matrices lets the next kernel in early: one that leaves room for its programs."""
    return batches * n * n <= 1024 * 1024


_ROWS = 4


def begin(
    matrix: Tensor,
    scale: Tensor | None,
    eps: float,
    dtype: torch.dtype,
    *,
    tiling: Tiling | None = None,
    ahead: bool = False,
) -> tuple[Word, Tensor]:
    """(matrix + eps I) / scale as a word, and the scale: `scale`, or the mean diagonal, when no rest is needed.

    `ahead`: the matrix was complete when the kernel launched last began, and is read while that one runs.
    """
    batches, n, _ = matrix.shape
    blocks = triton.cdiv(n, _ROWS)
    word = empty_rows((batches, n, n), dtype, matrix.device)
    rest = None if scale is None else empty_rows((batches, n, n), torch.float32, matrix.device)
    norm, shift, unit = (torch.empty(batches, k, dtype=torch.float32, device=matrix.device) for k in (blocks, 1, 1))
    errors = None if tiling is None else _new_errors(batches, n, tiling, matrix.device)
    width = 0 if errors is None else errors.shape[-1]
    overlap = matrix.device.type == "cuda"
    on_grid(begin_kernel, (blocks, batches))(
        matrix, matrix.stride(0), matrix.stride(1), scale, eps, word, word.stride(1),
        rest, 0 if rest is None else rest.stride(1), shift, norm, unit, errors, width, n,
        ROWS=_ROWS, COLUMNS=min(1024, triton.next_power_of_2(n)), DIAGONAL=1024,
        BLOCKS=triton.next_power_of_2(max(width, 1)), DTYPE=TRITON_DTYPES[dtype], OVERLAP=overlap,
        EARLY=lets_in(batches, n), AHEAD=ahead and overlap, num_warps=4, launch_pdl=overlap,
    )  # fmt: skip
    sums = Sums(norm=norm, with_p=norm, with_v=norm)
    return Word(word=word, shift=shift, sums=sums, rest=rest, errors=errors), unit


def matrices(A: Tensor, dtype: torch.dtype) -> Tensor:
    """A with one batch dimension and contiguous rows."""
    if A.ndim < 2 or A.shape[-1] != A.shape[-2] or A.shape[-1] == 0 or A.dtype is not torch.float32:
        raise InvalidInputError(f"A must be (..., n, n) float32 with n >= 1, got {tuple(A.shape)} {A.dtype}")
    if dtype not in OPERAND_DTYPES:
        raise InvalidInputError(f"words must be bfloat16 or float16, got {dtype}")
    matrix = A.reshape(-1, *A.shape[-2:])
    return matrix if matrix.stride(-1) == 1 else matrix.contiguous()
