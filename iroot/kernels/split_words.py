# Device functions carry no Python types, and Triton has no type information:
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, disallow-untyped-calls=False
# mypy: disallow-untyped-decorators=False
"""Two 16-bit words of a float32 matrix in one pass, after one for its largest entry (`iroot/split_ops.py`: why)."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
import triton
import triton.language as tl
from torch import Tensor

from iroot.errors import InvalidInputError
from iroot.kernels.operands import OPERAND_DTYPES, TRITON_DTYPES, empty_aligned
from iroot.split_ops import SMALLEST, Words

_SMALLEST_EXPONENT = tl.constexpr(126 + math.frexp(SMALLEST)[1])  # biased
_ROWS, _COLUMNS = 16, 128


@triton.jit
def largest_exponent(largest, count, batch, COUNT: tl.constexpr):
    """Biased by 127, of the power of two above a matrix's largest entry."""
    i = tl.arange(0, COUNT)
    # Bits of floats that are not negative are in the order of the floats, NaN above infinity.
    size = tl.load(largest + batch * count + i, mask=i < count, other=0.0).to(tl.int32, bitcast=True)
    return tl.maximum(tl.max(size, 0) >> 23, _SMALLEST_EXPONENT)


@triton.jit
def store_inverse(inverse, exponent, batch):
    """1 / scale, a power of two: a quotient of floats need not be one."""
    tl.store(inverse + batch, ((exponent - 14) << 23).to(tl.float32, bitcast=True))


@triton.jit
def store_words(value, exponent, hi, lo, place, inside, DTYPE: tl.constexpr):
    """Both words of 2^14 / 2^e times `value`; `exponent` None: of itself."""
    if exponent is not None:
        value *= ((268 - exponent) << 23).to(tl.float32, bitcast=True)
    head = value.to(DTYPE)
    tl.store(hi + place, head, mask=inside)
    tl.store(lo + place, (value - head.to(tl.float32)).to(DTYPE), mask=inside)


@triton.jit(do_not_specialize=["count", "m", "column_blocks"])
def _split_kernel(
    matrix, stride_batch, stride_row,  # (batches, m, n) float32 with contiguous rows
    largest, count,  # (batches, count) absolute entries, the largest among them; None for words without a scale
    hi, lo, pitch,  # (batches, m, n) in rows of `pitch`
    inverse,  # (batches,): 1 / scale
    m, n, column_blocks,
    COUNT: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """ROWS x COLUMNS entries per program."""
    block = tl.program_id(0)
    batch = tl.program_id(1).to(tl.int64)
    row = (block // column_blocks * ROWS + tl.arange(0, ROWS)[:, None]).to(tl.int64)
    col = block % column_blocks * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    inside = (row < m) & (col < n)
    value = tl.load(matrix + batch * stride_batch + row * stride_row + col, mask=inside, other=0.0)
    exponent = None
    if largest is not None:
        exponent = largest_exponent(largest, count, batch, COUNT)
        if block == 0:
            store_inverse(inverse, exponent, batch)
    store_words(value, exponent, hi, lo, (batch * m + row) * pitch + col, inside, DTYPE)


def largest_entries(A: Tensor) -> Tensor:
    """(batches, 1): the largest absolute entry of each matrix of A (batches, m, n)."""
    found: Tensor = torch.linalg.vector_norm(A, ord=float("inf"), dim=(-2, -1))
    return found[:, None]


def split(A: Tensor, dtype: torch.dtype, largest: Tensor | None = None) -> Words:
    """The two words of each matrix of A (..., m, n) float32, those of float16 with a scale.

    Args:
        A: any strides; a matrix with neither contiguous rows nor contiguous columns is copied first.
        dtype: bfloat16 or float16.
        largest: (batches, any) absolute entries of A, the largest of each matrix among them, if they are known.

    Raises:
        InvalidInputError: A is not float32, or `dtype` is another.
    """
    if A.dtype != torch.float32 or dtype not in OPERAND_DTYPES:
        raise InvalidInputError(f"A must be float32 and its words bfloat16 or float16, got {A.dtype} and {dtype}")
    if A.stride(-1) != 1 and A.stride(-2) == 1:
        return replace(split(A.mT, dtype, largest).mT, matrix=A)
    *batch, m, n = A.shape
    flat = A.reshape(-1, m, n)
    flat = flat if flat.stride(-1) == 1 else flat.contiguous()
    hi, lo = (empty_aligned((flat.shape[0], m, n), dtype, A.device) for _ in range(2))
    inverse = None
    if dtype is torch.bfloat16:
        largest = None
    else:
        if largest is None:
            largest = largest_entries(flat)
        inverse = torch.empty_like(largest[:, 0])
    count = 1 if largest is None else largest.shape[1]
    column_blocks = triton.cdiv(n, _COLUMNS)
    _split_kernel[(triton.cdiv(m, _ROWS) * column_blocks, flat.shape[0])](
        flat, flat.stride(0), flat.stride(1), largest, count, hi, lo, hi.stride(1), inverse, m, n, column_blocks,
        COUNT=triton.next_power_of_2(count), ROWS=_ROWS, COLUMNS=_COLUMNS, DTYPE=TRITON_DTYPES[dtype], num_warps=4,
    )  # fmt: skip
    if len(batch) != 1:
        hi, lo = hi.reshape(*batch, m, n), lo.reshape(*batch, m, n)
    return Words(hi=hi, lo=lo, inverse=None if inverse is None else inverse.reshape(*batch, 1, 1), matrix=A)
