# Device functions carry no Python types, and Triton has no type information:
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, disallow-untyped-calls=False
# mypy: disallow-untyped-decorators=False
"""float32 operands as TF32 tensor cores take them: rounded to 11 significant bits, contiguous along the depth.

The cores drop the 13 bits below instead of rounding them. A Gram product would then be off by 7.4e-4, every entry too
small by that much, instead of 2.1e-4 (Gaussian 1024 x 1024, exact sums on a CPU, 2026-11-23). Loads by Triton 3.6
cannot round. And the cores read 32-bit operands along the depth only: one pass serves both.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from iroot.errors import InvalidInputError
from iroot.kernels.operands import empty_aligned
from iroot.kernels.quantise import wait
from iroot.kernels.rehearsal import on_grid


@triton.jit
def _round_kernel(
    matrix, stride_batch, stride_row, stride_column,  # (batches, m, n) float32 as int32, any strides
    rounded, pitch,  # (batches, m, n), rows of `pitch` entries
    m, n, column_blocks,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    """One tile per program, to nearest, ties away from zero; an overflow is infinite, NaN stays NaN."""
    tile = tl.program_id(0)
    batch = tl.program_id(1).to(tl.int64)
    row = (tile // column_blocks * ROWS + tl.arange(0, ROWS)[:, None]).to(tl.int64)
    col = (tile % column_blocks * COLUMNS + tl.arange(0, COLUMNS)[None, :]).to(tl.int64)
    inside = (row < m) & (col < n)
    wait(OVERLAP)
    bits = tl.load(matrix + batch * stride_batch + row * stride_row + col * stride_column, mask=inside, other=0)
    is_nan = (bits & 0x7FFFFFFF) > 0x7F800000
    bits = tl.where(is_nan, 0x7FC00000, (bits + 0x1000) & -0x2000)
    tl.store(rounded + (batch * m + row) * pitch + col, bits, mask=inside)


def round_to_tf32(A: Tensor) -> Tensor:
    """A (batches, m, n) float32 of any strides, rounded to TF32; rows are contiguous, their length padded to 16 bytes.

    Raises:
        InvalidInputError: A is not float32, or not (batches, m, n).
    """
    if A.dtype != torch.float32 or A.ndim != 3:
        raise InvalidInputError(f"A must be float32 (batches, m, n), got {A.dtype} of shape {tuple(A.shape)}")
    batches, m, n = A.shape
    rounded = empty_aligned((batches, m, n), A.dtype, A.device)
    rows, columns = _TILE if A.stride(-1) == 1 else _TURNED_TILE
    column_blocks = -(-n // columns)
    overlap = A.device.type == "cuda"
    on_grid(_round_kernel, (-(-m // rows) * column_blocks, batches))(
        A.view(torch.int32), *A.stride(), rounded.view(torch.int32), rounded.stride(-2), m, n, column_blocks,
        ROWS=rows, COLUMNS=columns, OVERLAP=overlap, num_warps=8, launch_pdl=overlap,
    )  # fmt: skip
    return rounded


# Rows of 512 bytes are read and written; of 256 bytes on both sides where they are turned.
_TILE, _TURNED_TILE = (32, 128), (64, 64)
