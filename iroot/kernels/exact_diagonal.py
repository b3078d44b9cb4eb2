# Device functions carry no Python types, and Triton has no type information:
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, disallow-untyped-calls=False
# mypy: disallow-untyped-decorators=False
"""The diagonal of a product in float32, which no tensor core takes, and in the same pass the words of its operands.

Both are read for the diagonal in any case. Split on their own they are read once more, 16 MB each at n = 2048, in a
launch each (`iroot/split_ops.py`: why the diagonal, and what the words are).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from iroot.kernels.operands import TRITON_DTYPES, empty_aligned
from iroot.kernels.rehearsal import on_grid
from iroot.kernels.split_words import largest_entries, largest_exponent, split, store_inverse, store_words
from iroot.split_ops import Words

PARTS = 8
"""Of a diagonal's sums over k, added up, in order, by who reads it: programs enough without an atomic."""

_PARTS = tl.constexpr(PARTS)
# Full lines of 128 bytes of either operand; 64 registers a thread, so that all 512 programs at n = 2048 run together.
_ROWS, _BLOCK_K = 32, 64


@triton.jit(do_not_specialize=["steps", "a_count", "b_count"])
def _pair_kernel(
    a, a_batch, a_row, a_column,  # (batches, n, depth) float32
    b, b_batch, b_row, b_column,  # (batches, depth, n) float32
    diagonal,  # (batches, PARTS, n): sums of a[i, k] b[k, i] over steps BLOCK_K entries of k
    a_hi, a_lo, a_pitch, a_inverse, a_largest, a_count,  # as in `iroot.kernels.split_words`; None: has its words
    b_hi, b_lo, b_pitch, b_inverse, b_largest, b_count,
    n, depth, steps,
    A_COUNT: tl.constexpr, B_COUNT: tl.constexpr, ROWS: tl.constexpr, BLOCK_K: tl.constexpr, DTYPE: tl.constexpr,
    OVERLAP: tl.constexpr,
):  # fmt: skip
    """ROWS entries of the diagonal over one part of the depth; words of what is read meanwhile."""
    part = tl.program_id(1)
    batch = tl.program_id(2).to(tl.int64)
    i = (tl.program_id(0) * ROWS + tl.arange(0, ROWS)).to(tl.int64)
    first = (tl.program_id(0) == 0) & (part == 0)
    if OVERLAP:
        gdc_wait()
        gdc_launch_dependents()
    a_exponent = None
    if a_largest is not None:
        a_exponent = largest_exponent(a_largest, a_count, batch, A_COUNT)
        if first:
            store_inverse(a_inverse, a_exponent, batch)
    b_exponent = None
    if b_largest is not None:
        b_exponent = largest_exponent(b_largest, b_count, batch, B_COUNT)
        if first:
            store_inverse(b_inverse, b_exponent, batch)
    total = tl.zeros((ROWS, BLOCK_K), tl.float32)
    for step in range(part * steps, (part + 1) * steps):
        k = (step * BLOCK_K + tl.arange(0, BLOCK_K)).to(tl.int64)
        a_inside = (i[:, None] < n) & (k[None, :] < depth)
        left = tl.load(a + batch * a_batch + i[:, None] * a_row + k[None, :] * a_column, mask=a_inside, other=0.0)
        b_inside = (k[:, None] < depth) & (i[None, :] < n)
        right = tl.load(b + batch * b_batch + k[:, None] * b_row + i[None, :] * b_column, mask=b_inside, other=0.0)
        if a_hi is not None:
            place = (batch * n + i[:, None]) * a_pitch + k[None, :]
            store_words(left, a_exponent, a_hi, a_lo, place, a_inside, DTYPE)
        if b_hi is not None:
            place = (batch * depth + k[:, None]) * b_pitch + i[None, :]
            store_words(right, b_exponent, b_hi, b_lo, place, b_inside, DTYPE)
        total += left * tl.trans(right)
    tl.store(diagonal + (batch * _PARTS + part) * n + i, tl.sum(total, 1), mask=i < n)


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Both operands of a product in words, and the parts of its diagonal, (batches, PARTS, n)."""

    left: Words
    right: Words
    diagonal: Tensor


@dataclass(frozen=True, kw_only=True)
class _Unsplit:
    """Words to be written, of one operand; all None where it has them."""

    hi: Tensor | None = None
    lo: Tensor | None = None
    inverse: Tensor | None = None
    largest: Tensor | None = None


def exact_diagonal(A: Tensor, B: Tensor) -> Tensor:
    """The diagonal of A B in parts, (batches, PARTS, n), for A (..., n, k) and B (..., k, n) float32 of any strides."""
    return _launch(A, B, _Unsplit(), _Unsplit(), torch.float16)


def split_pair(
    A: Tensor, B: Tensor, dtype: torch.dtype, *, words: tuple[Words | None, Words | None],
    largest: tuple[Tensor | None, Tensor | None],
) -> Pair:  # fmt: skip
    """The words of both operands of A B and the product's diagonal, in one pass over both.

    Args:
        A: (..., n, k) float32, any strides.
        B: (..., k, n) float32; may be A.
        dtype: bfloat16 or float16.
        words: of A and of B, where they are known.
        largest: (batches, any) absolute entries of A and of B, as for `iroot.kernels.split_words.split`.

    The words are `iroot.kernels.split_words.split`'s, bit for bit.
    """
    known = list(words)
    for place, M in enumerate((A, B)):
        if known[place] is None and M.stride(-1) != 1:
            known[place] = split(M, dtype, largest[place])
    left = _Unsplit() if known[0] is not None else _unsplit(A, dtype, largest[0])
    right = _Unsplit() if known[1] is not None or A is B else _unsplit(B, dtype, largest[1])
    diagonal = _launch(A, B, left, right, dtype)
    ours = known[0] or _words(A, left)
    return Pair(left=ours, right=known[1] or (ours if A is B else _words(B, right)), diagonal=diagonal)


def _unsplit(M: Tensor, dtype: torch.dtype, largest: Tensor | None) -> _Unsplit:
    flat = M.reshape(-1, *M.shape[-2:])
    hi, lo = (empty_aligned((flat.shape[0], flat.shape[1], flat.shape[2]), dtype, M.device) for _ in range(2))
    if dtype is torch.bfloat16:
        return _Unsplit(hi=hi, lo=lo)
    largest = largest_entries(flat) if largest is None else largest
    return _Unsplit(hi=hi, lo=lo, inverse=torch.empty_like(largest[:, 0]), largest=largest)


def _words(M: Tensor, made: _Unsplit) -> Words:
    assert made.hi is not None
    assert made.lo is not None
    hi, lo = made.hi, made.lo
    if M.ndim != 3:
        hi, lo = hi.reshape(M.shape), lo.reshape(M.shape)
    inverse = None if made.inverse is None else made.inverse.reshape(*M.shape[:-2], 1, 1)
    return Words(hi=hi, lo=lo, inverse=inverse, matrix=M)


def _launch(A: Tensor, B: Tensor, left: _Unsplit, right: _Unsplit, dtype: torch.dtype) -> Tensor:
    A, B = (M.reshape(-1, *M.shape[-2:]) for M in (A, B))
    batches, n, depth = A.shape
    diagonal = torch.empty(batches, PARTS, n, dtype=torch.float32, device=A.device)
    counts = [1 if made.largest is None else made.largest.shape[1] for made in (left, right)]
    written = [
        (made.hi, made.lo, None if made.hi is None else made.hi.stride(1), made.inverse, made.largest, count)
        for made, count in zip((left, right), counts, strict=True)
    ]
    overlap = A.device.type == "cuda"
    on_grid(_pair_kernel, (triton.cdiv(n, _ROWS), PARTS, batches))(
        A, *A.stride(), B, *B.stride(), diagonal, *written[0], *written[1],
        n, depth, triton.cdiv(depth, PARTS * _BLOCK_K),
        A_COUNT=triton.next_power_of_2(counts[0]), B_COUNT=triton.next_power_of_2(counts[1]),
        ROWS=_ROWS, BLOCK_K=_BLOCK_K, DTYPE=TRITON_DTYPES[dtype], OVERLAP=overlap,
        num_warps=8, launch_pdl=overlap,
    )  # fmt: skip
    return diagonal
