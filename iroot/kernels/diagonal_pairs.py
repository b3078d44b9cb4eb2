"""Tiles of 64 x 64 on the diagonal in pairs: one program for two of them, which reads what one tile does.

The program of a tile reads two strips of rows. One for a pair of tiles on the diagonal of M M^T reads two as well, and
multiplies each with itself. So n = 1024 takes 128 programs instead of 136: one for every multiprocessor of an H100.

Where N is not M no two tiles on the diagonal have an operand in common. Each has one of its left neighbour's, but the
two read 1.5 times what a tile does: a wave less was no gain (n = 1024, two addends: 7.9 us, and 6.6 with a program for
every tile; experiment, H100, 2026-11-23).
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from iroot.kernels.tiling import Program, schedule

SIDE = 64


@lru_cache(maxsize=256)
def paired_schedule(n: int, batches: int) -> tuple[Program, ...]:
    """Matrix by matrix, pairs first: the rows of their tiles are `row` and `col`, and `wide` is 1."""
    blocks = -(-n // SIDE)
    pairs = [Program(0, low, low + SIDE, 1) for low in range(0, blocks // 2 * 2 * SIDE, 2 * SIDE)]
    paired = {row for pair in pairs for row in (pair.row, pair.col)}
    others = [tile for tile in schedule(n, 1, SIDE, 0) if tile.row != tile.col or tile.row not in paired]
    return tuple(tile._replace(batch=batch) for batch in range(batches) for tile in (*pairs, *others))


def saves_a_wave(n: int, batches: int, *, processors: int) -> bool:
    """Whether the busiest multiprocessor has fewer programs with pairs than with a program for every tile."""
    tiles = len(schedule(n, batches, SIDE, 0))
    return -(-len(paired_schedule(n, batches)) // processors) < -(-tiles // processors)


@lru_cache(maxsize=256)
def device_pairs(n: int, batches: int, device: torch.device) -> Tensor:
    """`paired_schedule` on `device`, (programs, 4) int32; not for the first time inside a graph capture."""
    return torch.tensor(paired_schedule(n, batches), dtype=torch.int32, device=device)
