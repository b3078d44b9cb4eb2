# Device functions carry no Python types, and Triton has no type information:
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, disallow-untyped-calls=False
# mypy: disallow-untyped-decorators=False
"""D = alpha A B + beta C of float32 matrices in two 16-bit words (`iroot.kernels.split_words`), in one kernel.

Unfused (`iroot/split_ops.py`, which says what the words are), such a product takes 61 launches in fp16x3 at 1024 x
1024, here two to four: one for each operand's largest entry where it is not known, one for the words of both and the
exact diagonal of a square result (`exact_diagonal.py`), one for the product. Words are read once for all three
products, sums are promoted in registers, and the scales are taken off, the diagonal put in, alpha and beta C applied,
in the epilogue. Of a Gram matrix only tiles that reach the diagonal or lie below it are computed, and each is stored
twice.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from iroot.errors import InvalidInputError
from iroot.kernels.exact_diagonal import PARTS, exact_diagonal
from iroot.kernels.hopper import lacks_gluon
from iroot.kernels.lower_tiles import place_below, store_twice
from iroot.kernels.mainloop import place_in_strips
from iroot.kernels.multiply_add import EARLY_AREA, Blocking
from iroot.kernels.operands import (
    Operand,
    descriptor,
    empty_aligned,
    load_block,
    operand,
    processors,
)
from iroot.kernels.rehearsal import on_grid
from iroot.split_ops import Words

_PARTS = tl.constexpr(PARTS)


@triton.jit
def _accumulate(
    small, large, a_hi, a_lo, b_hi, b_lo, batch, row, col, k,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, BLOCK_K: tl.constexpr, A_ALONG_K: tl.constexpr, B_ALONG_K: tl.constexpr,
):  # fmt: skip
    """small + A_l B_h + A_h B_l and large + A_h B_h over BLOCK_K columns, one tile."""
    left_hi = load_block(a_hi, batch, row, k, ROWS, BLOCK_K, A_ALONG_K)
    left_lo = load_block(a_lo, batch, row, k, ROWS, BLOCK_K, A_ALONG_K)
    right_hi = load_block(b_hi, batch, col, k, COLUMNS, BLOCK_K, B_ALONG_K)
    right_lo = load_block(b_lo, batch, col, k, COLUMNS, BLOCK_K, B_ALONG_K)
    small = tl.dot(left_lo, right_hi.T, small)
    small = tl.dot(left_hi, right_lo.T, small)
    return small, tl.dot(left_hi, right_hi.T, large)


@triton.jit(do_not_specialize=["m", "row_blocks", "column_blocks"])
def _split_product_kernel(
    a_hi, a_lo,  # (batches, m, depth)
    b_hi, b_lo,  # (batches, n, depth) or, where it is stored along n, (batches, depth, n)
    c,  # (batches, m, n) float32, or None
    d,  # (batches, m, n) float32
    d_mirror, entries, stride_batch, pitch,  # d in blocks of COLUMNS x ROWS and by address; None for all tiles
    a_inverse, b_inverse,  # (batches,), or None
    diagonal,  # (batches, PARTS, m): of A B, or None to keep the tensor cores' own
    largest,  # (batches, 2 tiles) float32: largest absolute entries of both halves of d's tiles, or None
    m, row_blocks, column_blocks, depth, alpha, beta, identity,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, BLOCK_K: tl.constexpr, PROMOTE_K: tl.constexpr, GROUP: tl.constexpr,
    A_ALONG_K: tl.constexpr, B_ALONG_K: tl.constexpr, OVERLAP: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """One tile per program."""
    if d_mirror is not None:
        batch, row, col = place_below(tl.program_id(0), row_blocks, column_blocks, ROWS // COLUMNS)
    else:
        batch, row, col = place_in_strips(tl.program_id(0), row_blocks, column_blocks, GROUP)
    row *= ROWS
    col *= COLUMNS
    if OVERLAP:
        # Everything above may run while the previous kernel finishes; everything below reads what it wrote.
        gdc_wait()
        if EARLY:
            gdc_launch_dependents()
    # Tensor cores truncate their running sum. The small products have one of their own, which loses nothing to speak
    # of; the large one is added to a float32 sum after every PROMOTE_K columns.
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    small = tl.zeros((ROWS, COLUMNS), tl.float32)
    if PROMOTE_K:
        for start in range(0, depth, PROMOTE_K):
            part = tl.zeros((ROWS, COLUMNS), tl.float32)
            for k in range(start, min(start + PROMOTE_K, depth), BLOCK_K):
                small, part = _accumulate(
                    small, part, a_hi, a_lo, b_hi, b_lo, batch, row, col, k, ROWS, COLUMNS, BLOCK_K, A_ALONG_K,
                    B_ALONG_K,
                )  # fmt: skip
            total += part
    else:
        for k in range(0, depth, BLOCK_K):
            small, total = _accumulate(
                small, total, a_hi, a_lo, b_hi, b_lo, batch, row, col, k, ROWS, COLUMNS, BLOCK_K, A_ALONG_K, B_ALONG_K
            )  # fmt: skip
    total += small
    factor = alpha
    if a_inverse is not None:
        factor = alpha * (tl.load(a_inverse + batch) * tl.load(b_inverse + batch))
    value = total * factor
    if diagonal is not None:
        i = row + tl.arange(0, ROWS)
        on_diagonal = i[:, None] == (col + tl.arange(0, COLUMNS))[None, :]
        exact = tl.zeros((ROWS,), tl.float32)
        for part in tl.static_range(_PARTS):
            exact += tl.load(diagonal + (batch.to(tl.int64) * _PARTS + part) * m + i, mask=i < m, other=0.0)
        value = tl.where(on_diagonal, (alpha * exact)[:, None], value)
    if c is not None:
        # One rounding, and the same one at every entry: left to itself, the compiler fuses either product.
        value = tl.fma(c.load([batch, row, col]).reshape(ROWS, COLUMNS), beta, value)
    if diagonal is not None:
        value = tl.where(on_diagonal & (i < m)[:, None], value + identity, value)
    if largest is not None:
        # As bits, which are in the order of the absolute values, NaN above infinity. Beyond the edge there are zeros.
        bits = tl.max(value.to(tl.int32, bitcast=True) & 0x7FFFFFFF, 1)
        halves = tl.max(tl.reshape(bits, (2, ROWS // 2)), 1).to(tl.float32, bitcast=True)
        tl.store(largest + 2 * tl.program_id(0).to(tl.int64) + tl.arange(0, 2), halves)
    if d_mirror is not None:
        store_twice(value, d, d_mirror, entries, stride_batch, pitch, m, batch, row, col, ROWS, COLUMNS)
    else:
        d.store([batch, row, col], value.reshape(1, ROWS, COLUMNS))


def split_product(
    A: Words,
    B: Words,
    C: Tensor | None = None,
    *,
    alpha: float = 1.0,
    beta: float = 1.0,
    promote_k: int = 128,
    blocking: Blocking | None = None,
) -> Tensor:
    """alpha A B + beta C in float32, A and B given by their words; the diagonal of a square A B is `exact_diagonal`'s.

    `product_of_words` has an identity term too, and says which entries are large.

    Args:
        A: (..., m, k).
        B: (..., k, n), with words of A's dtype.
        C: (..., m, n) float32, or None for alpha A B.
        alpha: factor on the product.
        beta: factor on C.
        promote_k: columns after which a tensor core's sum is added to a float32 one, 0 for never.
        blocking: kernel configuration; by default `choose_blocking`'s.

    Returns:
        (..., m, n). With n not a multiple of 4 it is a view into rows padded to one.

    Raises:
        InvalidInputError: shapes or dtypes do not match.
    """
    return _product(A, B, C, Factors(alpha=alpha, beta=beta), promote_k, blocking, "all").matrix


def product_of_words(
    A: Words, B: Words, C: Tensor | None, factors: Factors, *, promote_k: int = 128, measure: bool = False,
    diagonal: Tensor | None = None,
) -> Measured:  # fmt: skip
    """alpha A B + beta C + identity I as `split_product`, I of a square result; with its tiles' largest entries.

    `iroot.kernels.split_words.split` takes them for the result's scale: a pass over it less. `diagonal`: of A B, where
    `iroot.kernels.exact_diagonal.split_pair` has it.
    """
    return _product(A, B, C, factors, promote_k, None, "all", measure=measure, diagonal=diagonal)


def split_gram(A: Words, *, alpha: float = 1.0, promote_k: int = 128, blocking: Blocking | None = None) -> Tensor:
    """alpha A A^T in float32, exactly symmetric: what `split_product` gives on and below the diagonal, stored twice.

    Args:
        A: (..., n, k).
        alpha, promote_k: as for `split_product`.
        blocking: tiles as high as wide or a multiple of it; by default `choose_blocking`'s.

    Returns:
        (..., n, n). With n not a multiple of 4 it is a view into rows padded to one.

    Raises:
        InvalidInputError: A has no columns, or tiles do not fit.
    """
    if blocking is not None and blocking.rows % blocking.columns:
        raise InvalidInputError(f"tiles must be as high as wide or a multiple of it, got {blocking}")
    return _product(A, A.mT, None, Factors(alpha=alpha), promote_k, blocking, "lower").matrix


def _product(
    A: Words, B: Words, C: Tensor | None, factors: Factors, promote_k: int, blocking: Blocking | None, tiles: Tiles, *,
    measure: bool = False, diagonal: Tensor | None = None,
) -> Measured:  # fmt: skip
    *batch, m, depth = A.hi.shape
    n = B.hi.shape[-1]
    if A.hi.dtype != B.hi.dtype or depth == 0 or tuple(B.hi.shape) != (*batch, depth, n):
        raise InvalidInputError(
            f"A and B must be (..., m, k) and (..., k, n) in words of one dtype, k >= 1, got {tuple(A.hi.shape)} "
            f"{A.hi.dtype} and {tuple(B.hi.shape)} {B.hi.dtype}"
        )
    if C is not None and (tuple(C.shape) != (*batch, m, n) or C.dtype != torch.float32):
        raise InvalidInputError(f"C must be float32 {(*batch, m, n)}, got {C.dtype} {tuple(C.shape)}")
    D = empty_aligned((A.hi.shape[:-2].numel(), m, n), torch.float32, A.hi.device)
    largest = None
    if D.numel():
        step = 64 if blocking is None else blocking.block_k
        product = posed(A, B, C, D, factors, -(-promote_k // step) * step, diagonal=diagonal)
        blocking = blocking or _chosen(product, tiles)
        if measure:
            count = 2 * _count(m, n, blocking, tiles)
            largest = torch.empty(D.shape[0], count, dtype=torch.float32, device=D.device)
            product = replace(product, largest=largest)
        _launch(product, blocking, tiles)
    return Measured(matrix=D.reshape(*batch, m, n) if len(batch) != 1 else D, largest=largest)


@dataclass(frozen=True, kw_only=True)
class Factors:
    """alpha A B + beta C + identity I."""

    alpha: float = 1.0
    beta: float = 0.0
    identity: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A matrix and, (batches, any), absolute entries with the largest of each one among them, or None."""

    matrix: Tensor
    largest: Tensor | None


@dataclass(frozen=True, kw_only=True)
class SplitProduct:
    """One launch: D = alpha A B + beta C of words, B's given as B^T; what a kernel has no use for is None.

    Attributes:
        inverses: 1 / scale of A and of B, (batches,).
        diagonal: (batches, PARTS, m), of A B; without it there is no identity term.
        largest: (batches, 2 tiles), written: see the kernel.
        promote_k: a multiple of a step's columns, or 0.
    """

    a_hi: Operand
    a_lo: Operand
    b_hi: Operand
    b_lo: Operand
    C: Tensor | None
    D: Tensor
    inverses: tuple[Tensor | None, Tensor | None]
    diagonal: Tensor | None
    largest: Tensor | None
    factors: Factors
    promote_k: int


def posed(
    A: Words, B: Words, C: Tensor | None, D: Tensor, factors: Factors, promote_k: int, *,
    diagonal: Tensor | None = None,
) -> SplitProduct:  # fmt: skip
    """D = alpha A B + beta C + identity I, its operands as the kernels read them, without its largest entries."""
    if diagonal is None and D.shape[-2] == D.shape[-1]:
        diagonal = exact_diagonal(A.matrix, B.matrix)
    a_hi, a_lo = _alike(A.hi, A.lo)
    b_hi, b_lo = _alike(B.hi.mT, B.lo.mT)
    addend = None if C is None else operand(C)
    if addend is not None and C is not None and not addend.along_k:
        addend = operand(C.contiguous())
    return SplitProduct(
        a_hi=a_hi, a_lo=a_lo, b_hi=b_hi, b_lo=b_lo, C=None if addend is None else addend.tensor, D=D,
        inverses=(A.inverse, B.inverse), diagonal=diagonal, largest=None, factors=factors, promote_k=promote_k,
    )  # fmt: skip


def _launch(product: SplitProduct, blocking: Blocking, tiles: Tiles) -> None:
    if is_for_gluon(product, blocking, tiles):
        # Gluon is experimental: its names are looked up where they are known to be.
        from iroot.kernels.hopper_split import hopper_split

        hopper_split(product, blocking)
    else:
        triton_split(product, blocking, tiles)


def is_for_gluon(product: SplitProduct, blocking: Blocking, tiles: Tiles) -> bool:
    """Whether `iroot.kernels.hopper_split` is taken: wherever it has this form, and can run."""
    return takes_gluon(product, blocking, tiles) and not lacks_gluon(product.D.device)


def takes_gluon(product: SplitProduct, blocking: Blocking, tiles: Tiles) -> bool:
    """Whether `iroot.kernels.hopper_split` has this form: all tiles, of 128 rows, A along the depth, B either way."""
    if tiles != "all" or blocking.rows != 128 or blocking.columns not in (64, 128) or product.promote_k % 64:
        return False
    return product.a_hi.along_k


def triton_split(product: SplitProduct, blocking: Blocking, tiles: Tiles) -> None:
    """One product by this module's kernel."""
    rows, columns, block_k = blocking.rows, blocking.columns, blocking.block_k
    D, C, right = product.D, product.C, (product.b_hi, product.b_lo)
    batches, m, n = D.shape
    overlap, lower = D.device.type == "cuda", tiles == "lower"
    on_grid(_split_product_kernel, (_count(m, n, blocking, tiles) * batches,))(
        product.a_hi.descriptor(rows, block_k), product.a_lo.descriptor(rows, block_k),
        *(word.descriptor(columns, block_k) for word in right),
        None if C is None else descriptor(C, rows, columns), descriptor(D, rows, columns),
        descriptor(D, columns, rows) if lower else None, D if lower else None,
        *(D.stride()[:2] if lower else (None, None)), *product.inverses, product.diagonal, product.largest,
        m, triton.cdiv(m, rows), triton.cdiv(n, columns), product.a_hi.tensor.shape[-1],
        product.factors.alpha, product.factors.beta, product.factors.identity,
        ROWS=rows, COLUMNS=columns, BLOCK_K=block_k, PROMOTE_K=product.promote_k, GROUP=STRIP,
        A_ALONG_K=product.a_hi.along_k, B_ALONG_K=product.b_hi.along_k, OVERLAP=overlap,
        EARLY=rows * columns <= EARLY_AREA, num_warps=blocking.warps, num_stages=blocking.stages, launch_pdl=overlap,
        enable_fp_fusion=False,
    )  # fmt: skip


def _alike(hi: Tensor, lo: Tensor) -> tuple[Operand, Operand]:
    """Both words as operands stored in one order."""
    first, second = operand(hi), operand(lo)
    if first.along_k != second.along_k:
        return operand(hi.contiguous()), operand(lo.contiguous())
    return first, second


Tiles = Literal["all", "lower"]
"""Which tiles of a result are computed; `lower`: those that reach the diagonal or lie below it, of a symmetric one."""

STRIP = 8
"""Rows of tiles in a strip."""

BLOCKINGS = (
    Blocking(rows=128, columns=128, block_k=64, warps=8, stages=3),
    Blocking(rows=128, columns=64, block_k=64, warps=4, stages=3),
    Blocking(rows=64, columns=64, block_k=64, warps=4, stages=3),
)

# Time of a tile in that of a 128 x 128 one, as `multiply_add`'s (H100, bfloat16, 2026-11-22). Three accumulators take
# 192 registers of a thread in each of them.
_TRITON_COSTS = dict(zip(BLOCKINGS, (1.0, 0.6, 0.39), strict=True))
# Gluon's: 0.63, 0.56 and 0.58 at n = 1024, 1536 and 2048 (H100, float16, 2026-11-23). Its 128 x 64 tiles also beat
# Triton's of 64 x 64, at n = 512 in 7.3 us instead of 8.5.
_GLUON_COSTS = dict(zip(BLOCKINGS[:2], (1.0, 0.58), strict=True))


Kernel = Literal["triton", "gluon"]


def choose_blocking(
    m: int, n: int, batches: int, *, processors: int, tiles: Tiles = "all", kernel: Kernel = "triton"
) -> Blocking:
    """The blocking whose busiest multiprocessor has least to do; the first listed of equals."""
    costs = _GLUON_COSTS if kernel == "gluon" else _TRITON_COSTS

    def load(blocking: Blocking) -> float:
        return costs[blocking] * -(-batches * _count(m, n, blocking, tiles) // processors)

    return min(costs, key=load)


def _chosen(product: SplitProduct, tiles: Tiles) -> Blocking:
    batches, m, n = product.D.shape
    kernel: Kernel = "gluon" if is_for_gluon(product, BLOCKINGS[0], tiles) else "triton"
    return choose_blocking(m, n, batches, processors=processors(product.D.device), tiles=tiles, kernel=kernel)


def _count(m: int, n: int, blocking: Blocking, tiles: Tiles) -> int:
    """Tiles of one result; below the diagonal row r of them has rows / columns (r + 1), the last one up to the edge."""
    row_blocks, column_blocks = -(-m // blocking.rows), -(-n // blocking.columns)
    if tiles == "all":
        return row_blocks * column_blocks
    return blocking.rows // blocking.columns * (row_blocks * (row_blocks - 1) // 2) + column_blocks
