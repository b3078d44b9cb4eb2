# Device functions carry no Python types, and Triton has no type information:
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, disallow-untyped-calls=False
# mypy: disallow-untyped-decorators=False
"""The tiles of a symmetric result that reach the diagonal or lie below it: which they are, and how they are stored."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def place_below(program, row_blocks, column_blocks, PER: tl.constexpr):
    """Batch, row and column of a program's tile among those that reach the diagonal or lie below it.

    A tile is PER times as high as wide, so that row r of tiles has PER (r + 1) of them, the last row up to the edge.
    """
    last = row_blocks - 1
    tiles = PER * (last * row_blocks // 2) + column_blocks
    tile = program % tiles
    row = ((tl.sqrt(8.0 * (tile // PER) + 1.0) - 1.0) * 0.5).to(tl.int32)
    # The root is rounded: it may be on the wrong side of an integer.
    row = tl.where(PER * ((row + 1) * (row + 2) // 2) <= tile, row + 1, row)
    row = tl.where(PER * (row * (row + 1) // 2) > tile, row - 1, row)
    return program // tiles, row, tile - PER * (row * (row + 1) // 2)


@triton.jit
def store_twice(
    value, d, d_mirror, entries, stride_batch, pitch, n, batch, row, col, ROWS: tl.constexpr, COLUMNS: tl.constexpr
):  # fmt: skip
    """What lies on or below the diagonal, as it is and transposed: no entry is stored by two programs."""
    if row >= col + COLUMNS:
        d.store([batch, row, col], value.reshape(1, ROWS, COLUMNS))
        d_mirror.store([batch, col, row], value.T.reshape(1, COLUMNS, ROWS))
    else:
        i = (row + tl.arange(0, ROWS)).to(tl.int64)
        j = (col + tl.arange(0, COLUMNS)).to(tl.int64)
        entries += batch.to(tl.int64) * stride_batch
        below = (i[:, None] >= j[None, :]) & (i[:, None] < n)
        tl.store(entries + i[:, None] * pitch + j[None, :], value, mask=below)
        above = (i[None, :] > j[:, None]) & (i[None, :] < n)
        tl.store(entries + j[:, None] * pitch + i[None, :], value.T, mask=above)
