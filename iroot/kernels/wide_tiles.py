"""The lower triangle of a Gram matrix in slots of 128 x 256: what one multiprocessor has of it at a time.

Of P panels of 128 rows and of columns, panels 2 J and 2 J + 1 of columns are pair J. It has whole tiles of 128 x 256 in
panels 2 J + 1 to P - 1 of rows, the first of them with the diagonal in its second half, and in panel 2 J a lone tile of
128 x 128 on the diagonal. Two of these make a slot. With K = ceil(P / 2) pairs of columns there are

    K (P - K) + ceil(K / 2)

slots: 264 at n = 4096, two for every multiprocessor of an H100, where plain tiles are 528. A slot reads at most 384
rows for its 32768 elements of the result; two plain tiles read 512.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from iroot.kernels.tiling import Tiling, makespan

SIDE = 128
WIDTH = 2 * SIDE


class Slot(NamedTuple):
    """Element offsets of a whole tile, rows from `row` by columns from `col`; or of two on the diagonal.

    Where `pair` is 1, these begin at `row` and at `col`. A second one that nobody needs begins below the matrix, where
    the copy engine reads zeros and writes nothing.
    """

    batch: int
    row: int
    col: int
    pair: int


def slots_of(n: int) -> int:
    """Slots of one matrix of n rows."""
    panels = -(-n // SIDE)
    pairs = -(-panels // 2)
    return pairs * (panels - pairs) + -(-pairs // 2)


STRIP = 6
"""Pairs of columns in a strip, which is gone through row by row: slots of one time share operands in L2. Of n = 8192 a
Gram product takes 757, 739, 739 and 761 us in strips of 2, 4, 6 and 8, of 4096 99, 99, 95 and 95, in one run (H100,
2026-11-23)."""


@lru_cache(maxsize=256)
def wide_schedule(n: int, batches: int) -> tuple[Slot, ...]:
    """The slots in the order in which they start: matrix by matrix, in each strip by strip, row by row, pairs last."""
    panels = -(-n // SIDE)
    pairs = -(-panels // 2)
    whole = [
        Slot(0, row * SIDE, J * WIDTH, 0)
        for first in range(0, pairs, STRIP)
        for row in range(2 * first + 1, panels)
        for J in range(first, min(first + STRIP, (row + 1) // 2))
    ]
    alone = [2 * J * SIDE for J in range(pairs)] + [panels * SIDE] * (pairs % 2)
    two = [Slot(0, row, col, 1) for row, col in zip(alone[::2], alone[1::2], strict=True)]
    return tuple(slot._replace(batch=batch) for batch in range(batches) for slot in (*whole, *two))


WIDE = 1.75
"""Time of a slot over that of a wave of plain tiles of 128 x 128. Of Gram products 1.71 (n = 3584), 1.72 (4096), 1.60
(4608), 1.59 (5120) and 1.48 (6144); at 4096 2.0, 1.9 and 1.70 with a depth of 512, 1024 and 2048; with two addends
1.69, and two results beside 1.96 (H100, 2026-11-23)."""

LEAST_DEPTH = 2048
"""Up to about half of this a slot's results, which nothing hides, take what it saves."""


@lru_cache(maxsize=1024)
def is_sooner(n: int, depth: int, batches: int, tiling: Tiling, *, processors: int) -> bool:
    """Whether the busiest multiprocessor takes no longer with slots than with a `tiling` of 128 rows."""
    if tiling.block != SIDE or depth < LEAST_DEPTH:
        return False
    most = -(-batches * slots_of(n) // processors)
    return most * WIDE <= makespan(n, batches, tiling, processors=processors)
