"""Symmetric sums by the kernel that is the fastest at them: Triton's of `iroot.kernels.symmetric_sum`, or one in Gluon.

Which one that is hangs on shapes and on the GPU alone. All of them give the same bits, but for the order in which sums
of squares are added.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from iroot.kernels.balanced_tiles import saves_work, shares_of
from iroot.kernels.hopper import lacks_gluon
from iroot.kernels.operands import empty_rows, processors
from iroot.kernels.symmetric_sum import UNSCALED, Matrices, Scaling, SumTerms, triton_sums
from iroot.kernels.tiling import Tiling, schedule
from iroot.kernels.wide_tiles import is_sooner, slots_of


def symmetric_sums(
    matrices: Matrices,
    sums: Sequence[SumTerms],
    tiling: Tiling,
    *,
    scaling: Scaling = UNSCALED,
    squares: Tensor | None = None,
) -> tuple[Tensor, ...]:
    """One launch: each of one or two `sums` with P = M N^T, (batches, n, n), exactly symmetric.

    Entries are float32 sums rounded once.

    Args:
        matrices: 16-bit, of one dtype, rows contiguous and in steps of 16 bytes; the result symmetric.
        sums: factors of the terms; those of an absent addend are not read.
        tiling: kernel configuration without promotion.
        scaling: scalars that only the device knows.
        squares: (batches, `square_sums`) float32, filled with those of the first result, which then has no term in I.
    """
    batches, n, _ = matrices.M.shape
    outputs = [empty_rows((batches, n, n), matrices.M.dtype, matrices.M.device) for _ in sums]
    launch = gluon_launch(matrices, tiling) or triton_sums
    launch(matrices, sums, tiling, outputs, scaling=scaling, squares=squares)
    return tuple(outputs)


def gluon_launch(matrices: Matrices, tiling: Tiling) -> Callable[..., None] | None:
    """What launches a Gluon kernel in `triton_sums`' place, where one is taken."""
    # Gluon is experimental: its names are looked up where they are known to be.
    if is_for_balanced(matrices, tiling):
        from iroot.kernels.hopper_balanced import hopper_balanced_sums as launch
    elif is_for_wide(matrices, tiling):
        from iroot.kernels.hopper_wide import hopper_wide_sums as launch
    elif is_for_gluon(matrices, tiling):
        from iroot.kernels.hopper_sum import hopper_sums as launch
    elif is_for_small_gluon(matrices, tiling):
        from iroot.kernels.hopper_small_sum import hopper_small_sums as launch
    else:
        return None
    return launch


def square_sums(matrices: Matrices, tiling: Tiling) -> int:
    """Sums of squares of each matrix that a launch leaves: one for every tile, or two for every equal share or slot."""
    n = matrices.M.shape[-2]
    if is_for_balanced(matrices, tiling):
        return 2 * shares_of(n)
    return 2 * slots_of(n) if is_for_wide(matrices, tiling) else len(schedule(n, 1, tiling.block, tiling.tail))


def is_for_balanced(matrices: Matrices, tiling: Tiling) -> bool:
    """Whether `iroot.kernels.hopper_balanced` is taken: it can run, and is the faster one."""
    batches, n, _ = matrices.M.shape
    device = matrices.M.device
    possible = matrices.M is matrices.N and not lacks_gluon(device)
    return possible and saves_work(n, batches, tiling, processors=processors(device))


def is_for_wide(matrices: Matrices, tiling: Tiling) -> bool:
    """Whether `iroot.kernels.hopper_wide` is taken, where equal shares are not: it can run, and is the faster one."""
    batches, n, depth = matrices.M.shape
    device = matrices.M.device
    possible = matrices.M is matrices.N and not lacks_gluon(device)
    return possible and is_sooner(n, depth, batches, tiling, processors=processors(device))


MOST_WAVES = 1
"""Tiles per multiprocessor up to which Gluon's kernel takes every launch: nothing hides a tile's epilogue there."""

LONG_DEPTH = 1024
"""Depth above which, in several waves, another program's loop hides Triton's epilogues well enough. With two addends
Gluon's kernel takes 0.90 (16 x 1024), 0.93 (8 x 1024), 1.00 (4 x 2048), 1.03 (3072) and 1.02 (4096) of Triton's time;
with one 0.95 (16 x 1024) and 1.02 (4096), without any 0.97, 1.03, 1.02, 1.05 and 1.08 (H100, float16, 2026-11-23)."""


def is_for_gluon(matrices: Matrices, tiling: Tiling) -> bool:
    """Whether `iroot.kernels.hopper_sum` is taken: it can run, and is the faster one."""
    batches, n, depth = matrices.M.shape
    device = matrices.M.device
    if tiling.block != 128 or tiling.tail not in (0, 32) or lacks_gluon(device):
        return False
    tiles = len(schedule(n, batches, tiling.block, tiling.tail))
    return tiles <= MOST_WAVES * processors(device) or (matrices.addends > 0 and depth <= LONG_DEPTH)


MOST_SMALL_WAVES = 1.05
"""Tiles of 64 x 64 per multiprocessor up to which Gluon's kernel takes a launch in them: 136 of n = 1024 on 132, which
are 128 programs where N is M. Polar steps of 2 x 1024, 272 tiles, take 144.4 us with it and in tiles of 128 alike, of
3 x 1024 225 to 242 instead of 175 (H100, float16, 2026-11-23)."""


def is_for_small_gluon(matrices: Matrices, tiling: Tiling) -> bool:
    """Whether `iroot.kernels.hopper_small_sum` is taken: it can run, and is the faster one."""
    batches, n, _ = matrices.M.shape
    if (tiling.block, tiling.tail) != (64, 0) or lacks_gluon(matrices.M.device):
        return False
    return len(schedule(n, batches, 64, 0)) <= MOST_SMALL_WAVES * processors(matrices.M.device)
