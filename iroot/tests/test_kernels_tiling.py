"""The cut of a triangle into tiles, and the tiling chosen for the shapes that were measured."""

from __future__ import annotations

import numpy as np
import pytest

from iroot.kernels.tiling import PROMOTED, TILINGS, choose_tiling, makespan, schedule

H100 = 132


@pytest.mark.parametrize("n", [1, 15, 64, 65, 100, 128, 200, 333, 512])
@pytest.mark.parametrize(("block", "tail"), [(16, 0), (16, 16), (32, 16), (64, 16), (64, 64)])
def test_tiles_cover_the_lower_triangle_once(n: int, block: int, tail: int) -> None:
    side = -(-n // block) * block
    covered = np.zeros((side, side), dtype=int)
    for batch, row, col, wide in schedule(n, 1, block, tail):
        assert batch == 0
        assert col % 16 == 0
        covered[row : row + block, col : col + block + tail * wide] += 1
    blocks = np.arange(side) // block
    assert np.array_equal(covered, (blocks[:, None] >= blocks[None, :]).astype(int))


def test_every_matrix_of_a_batch_gets_the_same_tiles_one_after_the_other() -> None:
    one = schedule(100, 1, 32, 16)
    assert schedule(100, 3, 32, 16) == tuple(tile._replace(batch=b) for b in range(3) for tile in one)


@pytest.mark.parametrize(
    ("n", "block", "tail", "count"),
    [(2048, 128, 0, 136), (2048, 128, 32, 118), (1024, 64, 0, 136), (1024, 64, 16, 118), (4096, 128, 0, 528)],
)
def test_number_of_tiles(n: int, block: int, tail: int, count: int) -> None:
    assert len(schedule(n, 1, block, tail)) == count


def test_makespan_counts_whole_tiles_and_the_tails_of_wide_ones() -> None:
    plain, tail, *_ = TILINGS
    assert makespan(2048, 1, plain, processors=H100) == 2.0  # 136 tiles: four processors take a second one
    assert makespan(2048, 1, tail, processors=H100) == 1.25
    assert makespan(4096, 1, plain, processors=H100) == 4.0  # 528 = 4 x 132
    assert makespan(2048, 1, plain, processors=136) == 1.0


@pytest.mark.parametrize(
    ("n", "batches", "block", "tail"),
    [
        # The fastest of all tilings on an H100 with 132 processors, 2026-11-22 (at 3 x 1024 within 2 % of it).
        (512, 1, 64, 0), (768, 1, 64, 0), (1024, 1, 64, 16), (1536, 1, 64, 16), (2048, 1, 128, 32), (3000, 1, 128, 32),
        (4096, 1, 128, 0), (1024, 3, 128, 0), (1024, 7, 128, 0), (1024, 8, 128, 32), (1024, 16, 128, 32),
    ],
)  # fmt: skip
def test_the_measured_best_tiling_is_chosen(n: int, batches: int, block: int, tail: int) -> None:
    tiling = choose_tiling(n, batches, processors=H100)
    assert (tiling.block, tiling.tail, tiling.promote_k) == (block, tail, 0)


def test_a_promoted_accumulator_is_chosen_on_request() -> None:
    assert choose_tiling(2048, 1, processors=H100, choices=PROMOTED) == PROMOTED[1]
    assert choose_tiling(4096, 1, processors=H100, choices=PROMOTED) == PROMOTED[0]
    assert all(tiling.promote_k % tiling.block_k == 0 for tiling in PROMOTED)
