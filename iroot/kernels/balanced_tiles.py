"""The lower triangle of a Gram matrix in equal shares: what one tile of 128 x 128 takes, for every program.

In blocks of 64 x 64, a tile below the diagonal has four; one on the diagonal has three that are needed. So three in
four tiles on the diagonal get, beside their own three, one of the three of a tile that has no program of its own. With
P tiles on the diagonal there are

    P (P - 1) / 2 + ceil(3 P / 4)

programs of four blocks: 132 at n = 2048, one for every multiprocessor of an H100, where plain tiles would be 136 and
tiles of 128 and 160 columns (`iroot.kernels.tiling`) are 118, the longest of 1.25 times the work.

Both operands of a block on the diagonal, and of the fourth block, are rows that a program reads in any case, or in
place of a tile's second operand: no program reads more than that of a tile.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from iroot.kernels.tiling import Tiling, makespan

SIDE = 128
HALF = SIDE // 2


class Share(NamedTuple):
    """One program: a tile of 128 x 128 at (row, col); on the diagonal its lower three blocks and that at (left, right).

    A fourth block that nobody needs begins below the matrix, where the copy engine reads zeros and writes nothing.
    """

    batch: int
    row: int
    col: int
    left: int
    right: int


def shares_of(n: int) -> int:
    """Programs of one matrix of n rows."""
    panels = -(-n // SIDE)
    return panels * (panels - 1) // 2 + -(-3 * panels // 4)


SHARE = 0.88
"""Time of a share over that of a plain tile of 128 x 128: 14.6 us and 16.6 at n = 1920 (H100, 2026-11-23)."""


@lru_cache(maxsize=1024)
def saves_work(n: int, batches: int, tiling: Tiling, *, processors: int) -> bool:
    """Whether equal shares are one wave, that takes less than the busiest multiprocessor with `tiling`."""
    if batches * shares_of(n) > processors or tiling.block not in (HALF, SIDE):
        return False
    return makespan(n, batches, tiling, processors=processors) > SHARE


def balanced_schedule(n: int, batches: int) -> tuple[Share, ...]:
    """The shares in the order of programs: matrix by matrix, those on the diagonal first, then row by row."""
    panels = -(-n // SIDE)
    alone = -(-3 * panels // 4)
    shared = range(alone * SIDE, panels * SIDE, SIDE)
    spare = [(tile + low, tile + right) for tile in shared for low in (0, HALF) for right in range(0, low + 1, HALF)]
    spare += [(panels * SIDE, panels * SIDE)] * (alone - len(spare))
    own = [Share(0, k * SIDE, k * SIDE, *block) for k, block in enumerate(spare)]
    below = [Share(0, r * SIDE, c * SIDE, 0, 0) for r in range(panels) for c in range(r)]
    return tuple(share._replace(batch=batch) for batch in range(batches) for share in (*own, *below))
