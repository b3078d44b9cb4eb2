# Device functions carry no Python types, and Triton has no type information:
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, disallow-untyped-calls=False
# mypy: disallow-untyped-decorators=False
"""sqrt(u) (alpha A B + beta C) for Hopper GPUs, in Gluon: `iroot.kernels.multiply_add`'s tiles, products and roundings.

Triton's kernel has a tile per program: each begins with an empty pipeline, awaits its addend after its loop and its
store after that, while no tensor core works. Here as many programs as multiprocessors take tile after tile
(`ci/adr/0027-gluon-on-hopper.md`):

    fetch      one warp: operands, stage by stage, then the addend in two stages, then the next tile
    multiply   two groups of four warps, 64 rows of the tile each; they do not wait for each other
    store      one warp: results leave from where the addend lay, which frees these stages

Gluon has no interpreter: this module is imported where its kernel is launched, and checked against Triton's kernel,
with which it agrees bit for bit.
"""

from __future__ import annotations

import triton
from torch import Tensor
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    fence_async_shared,
    mbarrier,
    tma,
    warpgroup_mma,
    warpgroup_mma_init,
    warpgroup_mma_wait,
)
from triton.language.extra.cuda import gdc_wait

from iroot.kernels.hopper_blocks import PANEL, WHOLE, blocks_of
from iroot.kernels.mainloop import place_in_strips
from iroot.kernels.operands import processors
from iroot.kernels.rehearsal import on_grid

ROWS, STEP = 128, 64
"""Rows of a tile, and columns of A in a stage."""

STAGES = {256: 4, 128: 7}
"""By columns of a tile: they fill a multiprocessor's shared memory. At 2048 x 8192 one less of 256 takes 117.3 us
instead of 112.8 (H100, float16, 2026-11-23)."""

_STRIP = gl.constexpr(8)
"""Rows of tiles in a strip, as in Triton's kernel."""

_GROUP_WARPS = 4
_GROUP_REGISTERS = gl.constexpr(240)
_COPY_REGISTERS = gl.constexpr(24)

_place_in_strips = gluon.jit(place_in_strips.fn)


@gluon.jit
def _tile_at(turn, row_blocks, column_blocks, COLUMNS: gl.constexpr):
    """Batch, first row and first column of this program's tile."""
    slot = gl.program_id(0) + turn * gl.num_programs(0)
    batch, row, col = _place_in_strips(slot, row_blocks, column_blocks, _STRIP)
    return batch, 128 * row, COLUMNS * col


@gluon.jit
def _fetch(left, right, addend, stages, full, empty, turns, row_blocks, column_blocks, steps):
    """The fetching warp's part: a tile's operands and then its addend's halves, as far ahead as there is room."""
    a, b = stages
    DTYPE: gl.constexpr = a.dtype
    DEPTH: gl.constexpr = b.shape[0]
    COLUMNS: gl.constexpr = b.shape[2]
    PANELS: gl.constexpr = COLUMNS // PANEL
    HALF: gl.constexpr = PANELS // 2
    a_blocks = a._reinterpret(DTYPE, [DEPTH, 1, 2 * PANEL, PANEL], left.layout)
    b_blocks = b._reinterpret(DTYPE, [DEPTH * PANELS, 1, PANEL, PANEL], right.layout)
    # What is above may run while the previous kernel finishes; what is below reads what it wrote.
    gdc_wait()
    for turn in range(turns):
        batch, row, col = _tile_at(turn, row_blocks, column_blocks, COLUMNS)
        first = turn * (steps + 2)
        for k in range(steps):
            stage = (first + k) % DEPTH
            mbarrier.wait(empty.index(stage), (((first + k) // DEPTH) & 1) ^ 1)
            bar = full.index(stage)
            mbarrier.expect(bar, 2 * PANEL * (2 * PANEL + COLUMNS))
            tma.async_copy_global_to_shared(left, [batch, row, PANEL * k], bar, a_blocks.index(stage))
            for p in gl.static_range(PANELS):
                tma.async_copy_global_to_shared(
                    right, [batch, PANEL * k, col + PANEL * p], bar, b_blocks.index(stage * PANELS + p)
                )
        for half in gl.static_range(2):
            step = first + steps + half
            stage = step % DEPTH
            mbarrier.wait(empty.index(stage), ((step // DEPTH) & 1) ^ 1)
            bar = full.index(stage)
            mbarrier.expect(bar, 2 * PANEL * COLUMNS)
            for i in gl.static_range(PANELS):
                place = [batch, row + PANEL * (i // HALF), col + PANEL * (half * HALF + i % HALF)]
                tma.async_copy_global_to_shared(addend, place, bar, b_blocks.index(stage * PANELS + i))


@gluon.jit
def _accumulate(stages, full, empty, first, steps, GROUP: gl.constexpr):
    """A group's rows of the tile's products, in float32."""
    a, b = stages
    DEPTH: gl.constexpr = b.shape[0]
    COLUMNS: gl.constexpr = b.shape[2]
    LAYOUT: gl.constexpr = gl.NVMMADistributedLayout(
        version=[3, 0], warps_per_cta=[4, 1], instr_shape=[16, COLUMNS, 16]
    )
    acc = warpgroup_mma_init(gl.zeros([PANEL, COLUMNS], gl.float32, LAYOUT))
    for step in range(first, first + steps):
        stage = step % DEPTH
        mbarrier.wait(full.index(stage), (step // DEPTH) & 1)
        acc = warpgroup_mma(a.index(2 * stage + GROUP), b.index(stage), acc, is_async=True)
        # The products of the step before are done, and this group has no more use for its stage.
        acc = warpgroup_mma_init(warpgroup_mma_wait(num_outstanding=1, deps=(acc,)))
        mbarrier.arrive(empty.index((step + DEPTH - 1) % DEPTH), count=1, pred=step > first)
    total = warpgroup_mma_wait(num_outstanding=0, deps=(acc,))
    mbarrier.arrive(empty.index((first + steps - 1) % DEPTH), count=1)
    return total


@gluon.jit
def _leave(total, b, full, written, first, alpha, beta, GROUP: gl.constexpr):
    """alpha total + beta C, rounded, in C's place: half of the columns in step `first`'s stage, half in the next."""
    DEPTH: gl.constexpr = b.shape[0]
    WIDTH: gl.constexpr = total.shape[1] // 2
    LAYOUT: gl.constexpr = gl.NVMMADistributedLayout(version=[3, 0], warps_per_cta=[4, 1], instr_shape=[16, WIDTH, 16])
    blocks = b._reinterpret(b.dtype, [2 * DEPTH, PANEL, WIDTH], WHOLE)
    halves = total.reshape([PANEL, 2, WIDTH]).permute((0, 2, 1)).split()
    for half in gl.static_range(2):
        stage = (first + half) % DEPTH
        block = blocks.index(2 * stage + GROUP)
        part = gl.convert_layout(halves[half], LAYOUT, assert_trivial=True)
        mbarrier.wait(full.index(stage), ((first + half) // DEPTH) & 1)
        value = alpha * part + beta * block.load(LAYOUT).to(gl.float32)
        block.store(value.to(b.dtype))
        fence_async_shared()
        gl.thread_barrier()
        mbarrier.arrive(written.index(half), count=1)


@gluon.jit
def _unit_of(unit, turn, row_blocks, column_blocks):
    """u of the tile's matrix."""
    batch, _, _ = _tile_at(turn, row_blocks, column_blocks, 1)
    return gl.load(unit + batch)


@gluon.jit
def _multiply(
    unit, alpha, beta, stages, full, empty, written, turns, row_blocks, column_blocks, steps, GROUP: gl.constexpr
):  # fmt: skip
    """A group's part: rows 64 GROUP to 64 GROUP + 63 of every tile."""
    gdc_wait()
    if unit is not None:
        scalar = _unit_of(unit, 0, row_blocks, column_blocks)
    for turn in range(turns):
        first = turn * (steps + 2)
        total = _accumulate(stages, full, empty, first, steps, GROUP)
        of_product = alpha
        of_addend = beta
        if unit is not None:
            factor = gl.sqrt(scalar)
            of_product *= factor
            of_addend *= factor
            # The next tile's is here when it is needed.
            scalar = _unit_of(unit, gl.minimum(turn + 1, turns - 1), row_blocks, column_blocks)
        _leave(total, stages[1], full, written, first + steps, of_product, of_addend, GROUP)


@gluon.jit
def _store(out, b, written, empty, turns, row_blocks, column_blocks, steps):
    """The storing warp's part: halves of a tile's results once both groups have written them; then a stage is free."""
    DEPTH: gl.constexpr = b.shape[0]
    PANELS: gl.constexpr = b.shape[2] // PANEL
    HALF: gl.constexpr = PANELS // 2
    blocks = b._reinterpret(b.dtype, [DEPTH * PANELS, 1, PANEL, PANEL], out.layout)
    gdc_wait()
    for turn in range(turns):
        batch, row, col = _tile_at(turn, row_blocks, column_blocks, PANELS * PANEL)
        for half in gl.static_range(2):
            stage = (turn * (steps + 2) + steps + half) % DEPTH
            mbarrier.wait(written.index(half), turn & 1)
            for i in gl.static_range(PANELS):
                place = [batch, row + PANEL * (i // HALF), col + PANEL * (half * HALF + i % HALF)]
                tma.async_copy_shared_to_global(out, place, blocks.index(stage * PANELS + i))
            # Also, shared memory must last as long as anything is read from it.
            tma.store_wait(0)
            mbarrier.arrive(empty.index(stage), count=2)


@gluon.jit(do_not_specialize=["row_blocks", "column_blocks", "tiles", "steps"])
def hopper_apply_kernel(
    left,  # A, (batches, m, depth) in blocks of (1, 128, 64)
    right,  # B, (batches, depth, n) in blocks of (1, 64, 64)
    addend,  # C, (batches, m, n) in blocks of (1, 64, 64)
    out,  # (batches, m, n) in blocks of (1, 64, 64)
    unit,  # (batches,) float32: u, or None for 1
    row_blocks, column_blocks, tiles, steps, alpha, beta,
    COLUMNS: gl.constexpr, DEPTH: gl.constexpr,
):  # fmt: skip
    """Tiles slot, slot + programs, slot + 2 programs, ... of `tiles`; `steps` of 64 in the depth, DEPTH stages.

    `steps` is at least DEPTH - 2: then the next tile's half of an addend is not fetched before this tile's half has
    left, and `written` is not passed twice before it is waited for.
    """
    DTYPE: gl.constexpr = out.dtype
    a = gl.allocate_shared_memory(DTYPE, [2 * DEPTH, PANEL, PANEL], WHOLE)
    b = gl.allocate_shared_memory(DTYPE, [DEPTH, PANEL, COLUMNS], WHOLE)
    full = gl.allocate_shared_memory(gl.int64, [DEPTH, 1], mbarrier.MBarrierLayout())
    empty = gl.allocate_shared_memory(gl.int64, [DEPTH, 1], mbarrier.MBarrierLayout())
    written = gl.allocate_shared_memory(gl.int64, [2, 1], mbarrier.MBarrierLayout())
    for stage in gl.static_range(DEPTH):
        mbarrier.init(full.index(stage), count=1)
        mbarrier.init(empty.index(stage), count=2)
    for half in gl.static_range(2):
        mbarrier.init(written.index(half), count=2)
    fence_async_shared()
    gl.thread_barrier()
    stages = (a, b)
    turns = gl.cdiv(tiles - gl.program_id(0), gl.num_programs(0))
    gl.warp_specialize(
        [
            (
                _multiply,
                (unit, alpha, beta, stages, full, empty, written, turns, row_blocks, column_blocks, steps, 0),
            ),
            (
                _multiply,
                (unit, alpha, beta, stages, full, empty, written, turns, row_blocks, column_blocks, steps, 1),
            ),
            (_fetch, (left, right, addend, stages, full, empty, turns, row_blocks, column_blocks, steps)),
            (_store, (out, b, written, empty, turns, row_blocks, column_blocks, steps)),
        ],
        [4, 1, 1],
        [_GROUP_REGISTERS, _COPY_REGISTERS, _COPY_REGISTERS],
    )  # fmt: skip


def hopper_apply(
    operands: tuple[Tensor, Tensor, Tensor],
    out: Tensor,
    factors: tuple[float, float],
    *,
    columns: int,
    unit: Tensor | None = None,
) -> None:
    """`iroot.kernels.multiply_add`'s launch by this module's kernel.

    Args:
        operands: A (batches, m, depth), B (batches, depth, n) and C (batches, m, n) of one 16-bit dtype, whose rows the
            copy engine reads in place.
        out: (batches, m, n), as C.
        factors: alpha and beta.
        columns: of a tile, 256 or 128.
        unit: (batches,) float32, u; None for 1.
    """
    A, B, C = operands
    batches, m, n = out.shape
    row_blocks, column_blocks = triton.cdiv(m, ROWS), triton.cdiv(n, columns)
    tiles = row_blocks * column_blocks * batches
    panel, stages = PANEL.value, STAGES[columns]
    # Steps beyond the depth add zeros.
    steps = max(triton.cdiv(A.shape[-1], STEP), stages - 2)
    on_grid(hopper_apply_kernel, (min(tiles, processors(out.device)),))(
        blocks_of(A, ROWS, STEP), blocks_of(B, STEP, panel), blocks_of(C, panel, panel), blocks_of(out, panel, panel),
        unit, row_blocks, column_blocks, tiles, steps, *factors,
        COLUMNS=columns, DEPTH=stages, num_warps=_GROUP_WARPS, launch_pdl=True,
    )  # fmt: skip
