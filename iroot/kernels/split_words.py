# Device functions carry no Python types, and Triton has no type information:
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, disallow-untyped-calls=False
# mypy: disallow-untyped-decorators=False
"""Two 16-bit words of a float32 matrix in one pass, after one for its largest entry (`iroot/split_ops.py`: why)."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from iroot.errors import InvalidInputError
from iroot.kernels.operands import OPERAND_DTYPES, TRITON_DTYPES, empty_aligned
from iroot.split_ops import SMALLEST, Words

_SMALLEST = tl.constexpr(SMALLEST)
_ROWS, _COLUMNS = 16, 128


@triton.jit(do_not_specialize=["m", "column_blocks"])
def _split_kernel(
    matrix, stride_batch, stride_row,  # (batches, m, n) float32 with contiguous rows
    largest,  # (batches,) largest absolute entries, or None for words without a scale
    hi, lo, pitch,  # (batches, m, n) in rows of `pitch`
    inverse,  # (batches,): 1 / scale
    m, n, column_blocks,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """ROWS x COLUMNS entries per program."""
    block = tl.program_id(0)
    batch = tl.program_id(1).to(tl.int64)
    row = (block // column_blocks * ROWS + tl.arange(0, ROWS)[:, None]).to(tl.int64)
    col = block % column_blocks * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    inside = (row < m) & (col < n)
    value = tl.load(matrix + batch * stride_batch + row * stride_row + col, mask=inside, other=0.0)
    if largest is not None:
        size = tl.load(largest + batch)
        size = tl.where(size < _SMALLEST, _SMALLEST, size)
        # Exponents, biased by 127: of 2^14 / 2^e and of its inverse. A quotient of floats need not be a power of two.
        exponent = (size.to(tl.int32, bitcast=True) >> 23) & 0xFF
        value *= ((268 - exponent) << 23).to(tl.float32, bitcast=True)
        if block == 0:
            tl.store(inverse + batch, ((exponent - 14) << 23).to(tl.float32, bitcast=True))
    head = value.to(DTYPE)
    place = (batch * m + row) * pitch + col
    tl.store(hi + place, head, mask=inside)
    tl.store(lo + place, (value - head.to(tl.float32)).to(DTYPE), mask=inside)


def split(A: Tensor, dtype: torch.dtype) -> Words:
    """The two words of each matrix of A (..., m, n) float32, those of float16 with a scale.

    Args:
        A: any strides; a matrix with neither contiguous rows nor contiguous columns is copied first.
        dtype: bfloat16 or float16.

    Raises:
        InvalidInputError: A is not float32, or `dtype` is another.
    """
    if A.dtype != torch.float32 or dtype not in OPERAND_DTYPES:
        raise InvalidInputError(f"A must be float32 and its words bfloat16 or float16, got {A.dtype} and {dtype}")
    if A.stride(-1) != 1 and A.stride(-2) == 1:
        return split(A.mT, dtype).mT
    *batch, m, n = A.shape
    flat = A.reshape(-1, m, n)
    flat = flat if flat.stride(-1) == 1 else flat.contiguous()
    hi, lo = (empty_aligned((flat.shape[0], m, n), dtype, A.device) for _ in range(2))
    largest = inverse = None
    if dtype is torch.float16:
        largest = torch.linalg.vector_norm(flat, ord=float("inf"), dim=(-2, -1))
        inverse = torch.empty_like(largest)
    column_blocks = triton.cdiv(n, _COLUMNS)
    _split_kernel[(triton.cdiv(m, _ROWS) * column_blocks, flat.shape[0])](
        flat, flat.stride(0), flat.stride(1), largest, hi, lo, hi.stride(1), inverse, m, n, column_blocks,
        ROWS=_ROWS, COLUMNS=_COLUMNS, DTYPE=TRITON_DTYPES[dtype], num_warps=4,
    )  # fmt: skip
    if len(batch) != 1:
        hi, lo = hi.reshape(*batch, m, n), lo.reshape(*batch, m, n)
    return Words(hi=hi, lo=lo, inverse=None if inverse is None else inverse.reshape(*batch, 1, 1), matrix=A)
