"""How the lower triangle of an n x n result is cut into tiles, and which cut fills a GPU's last wave.

Row r of blocks has r blocks left of the diagonal and one on it. Those r are shared out over tiles of `block + tail`
and of `block` columns, so that they are covered exactly:

    c_r = ceil(block r / (block + tail)) tiles, of which e_r = block (r - c_r) / tail are the wide ones.

A plain cut of n = 2048 into 128 x 128 tiles has 136 tiles: on the 132 multiprocessors of an H100 two waves, the time
of the full product. With a tail of 32 columns it has 118, in one wave of 1.25 times the work per tile.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import NamedTuple

from iroot.kernels.families import HOPPER, Family


@dataclass(frozen=True, kw_only=True)
class Tiling:
    """One configuration of the kernel.

    Attributes:
        block: rows and columns of a tile, a power of two.
        tail: further columns of a wide tile, a power of two that divides `block`, or 0.
        block_k: columns of an operand per pipeline stage.
        warps: warps per program.
        stages: pipeline depth.
        promote_k: columns after which the tensor-core accumulator is added to a float32 one, a multiple of `block_k`;
            0 for one accumulator over the whole depth.
        entry_bytes: of an operand.
    """

    block: int
    tail: int
    block_k: int
    warps: int
    stages: int
    promote_k: int = 0
    entry_bytes: int = 2

    @property
    def lets_next_in(self) -> bool:
        """Whether the next kernel's programs may take their places while this one runs.

        That saves 0.5 us a launch. With large tiles it costs more: once a kernel fills every multiprocessor, the next
        one's programs gather in pairs on those that become free first, while others stay empty.
        """
        return self.block <= 64

    @property
    def shared_bytes(self) -> int:
        """Shared memory of a program: blocks of a wide tile and a barrier for every stage."""
        return self.stages * (self.entry_bytes * self.block_k * (2 * self.block + self.tail) + 8)

    def __str__(self) -> str:
        """`128+32 k64 w4 s3`, and its promotion."""
        promotion = f" promote {self.promote_k}" if self.promote_k else ""
        return f"{self.block}+{self.tail} k{self.block_k} w{self.warps} s{self.stages}{promotion}"


class Program(NamedTuple):
    """One program of the kernel: element offsets of its tile, and 1 where the tile has `tail` columns more."""

    batch: int
    row: int
    col: int
    wide: int


@lru_cache(maxsize=256)
def schedule(n: int, batches: int, block: int, tail: int) -> tuple[Program, ...]:
    """Every tile of the lower triangles, in the order in which programs start: wide ones and long rows first.

    Matrix by matrix, because tiles of one matrix share operands in L2: 16 x 1024 x 1024 takes 43 us so, and 51 us with
    the matrices interleaved (H100, bfloat16, 2026-11-22).
    """
    wide: list[Program] = []
    narrow: list[Program] = []
    for r in reversed(range(-(-n // block))):
        count = -(-block * r // (block + tail))
        extended = block * (r - count) // tail if tail else 0
        col = 0
        for index in range(count):
            is_wide = index < extended
            (wide if is_wide else narrow).append(Program(0, r * block, col, int(is_wide)))
            col += block + tail * is_wide
        assert col == r * block
        narrow.append(Program(0, col, col, 0))
    return tuple(tile._replace(batch=batch) for batch in range(batches) for tile in (*wide, *narrow))


SMALL_TILE = 0.39
"""Time of a 64 x 64 tile in that of a 128 x 128 one: a quarter of the work at 64 % of the rate (H100, 2026-11-22)."""

_SMALL = Tiling(block=64, tail=0, block_k=128, warps=4, stages=3)
_SMALL_TAIL = Tiling(block=64, tail=16, block_k=128, warps=4, stages=3)
_PLAIN = Tiling(block=128, tail=0, block_k=64, warps=4, stages=3)
_TAIL = Tiling(block=128, tail=32, block_k=64, warps=4, stages=3)
TILINGS = (_PLAIN, _TAIL, _SMALL, _SMALL_TAIL)
GRADED_TILINGS = (_PLAIN, _TAIL, _SMALL)
"""For kernels with long epilogues: slices of 16 columns cost more than a narrow tail saves (n = 1024: 234 us against
215 for an inverse root, H100, 2026-11-22)."""

SEARCHED_TILINGS = (
    *TILINGS,
    *(Tiling(block=128, tail=tail, block_k=64, warps=8, stages=3) for tail in (0, 32, 64)),
    *(Tiling(block=128, tail=0, block_k=64, warps=warps, stages=4) for warps in (4, 8)),
    *(Tiling(block=64, tail=tail, block_k=64, warps=4, stages=4) for tail in (0, 16)),
)
"""What `iroot tune kernels` times. The model chooses among the first four, with which its costs were measured."""

TF32_TILINGS = tuple(replace(tiling, block_k=tiling.block_k // 2, entry_bytes=4) for tiling in TILINGS)
INT8_TILINGS = tuple(replace(tiling, block_k=tiling.block_k * 2, entry_bytes=1) for tiling in TILINGS)
"""Stages of as many bytes as in 16 bits."""

FP8_TILINGS = (
    Tiling(block=128, tail=0, block_k=128, warps=8, stages=6, promote_k=128, entry_bytes=1),
    replace(_SMALL, promote_k=128, entry_bytes=1),
)
"""Hopper's tensor cores keep about 14 bits of a sum of FP8 products (DeepSeek-V3, arXiv 2412.19437, section 3.3.2): a
float32 sum takes it over at every stage. One program of eight warps is on a multiprocessor at a time. Tails cost more
than they save (n = 2048: 16.3 us with 128 + 32 columns, 14.3 with 64 + 16, 13.1 with 64; H100, 2026-11-23)."""

# A second accumulator takes as many registers as the first: eight warps.
PROMOTED = tuple(Tiling(block=128, tail=tail, block_k=64, warps=8, stages=3, promote_k=512) for tail in (0, 32))


def makespan(
    n: int, batches: int, tiling: Tiling, *, processors: int, family: Family = HOPPER, small_tile: float = SMALL_TILE
) -> float:
    """Load of the busiest multiprocessor, in 128 x 128 tiles, when programs start in order as places come free.

    `small_tile`: that of a tile of 64 x 64.
    """
    cost = {64: small_tile, 128: 1.0}[tiling.block]
    places = [0.0] * (processors * family.resident(tiling.shared_bytes))
    for program in schedule(n, batches, tiling.block, tiling.tail):
        heapq.heapreplace(places, places[0] + cost * (1.0 + program.wide * tiling.tail / tiling.block))
    loads = sorted(places, reverse=True)
    # The places with most work are filled first, on different multiprocessors; the rest join them in that order.
    return max(sum(loads[first::processors]) for first in range(processors))


@lru_cache(maxsize=1024)
def choose_tiling(
    n: int,
    batches: int,
    *,
    processors: int,
    choices: tuple[Tiling, ...] = TILINGS,
    family: Family = HOPPER,
    small_tile: float = SMALL_TILE,
) -> Tiling:
    """The tiling among the `choices` that fit with the shortest makespan; the first listed of equals."""
    fitting = [tiling for tiling in choices if family.resident(tiling.shared_bytes)]

    def load(tiling: Tiling) -> float:
        return makespan(n, batches, tiling, processors=processors, family=family, small_tile=small_tile)

    return min(fitting, key=load)
