# Device functions carry no Python types, and Triton has no type information:
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, disallow-untyped-calls=False
# mypy: disallow-untyped-decorators=False
"""sqrt(u) (alpha A B + beta C) for Hopper GPUs, in Gluon: `iroot.kernels.multiply_add`'s tiles, products and roundings.

Triton's kernel has a tile per program: each begins with an empty pipeline, awaits its addend after its loop and its
store after that, while no tensor core works. Here as many programs as multiprocessors take tile after tile
(`ci/adr/0027-gluon-on-hopper.md`):

    fetch      one warp: operands, stage by stage, into the next tile too; the addend during the loop
    multiply   two groups of four warps, 64 rows of the tile each; they do not wait for each other
    store      one warp: results leave from where the addend lay

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

STAGES = {256: 3, 128: 6}
"""By columns of a tile: with its addend they fill a multiprocessor's shared memory."""

FETCH_STEP = 6
"""Of the loop over the depth: when a tile's addend is asked for, as in `iroot.kernels.hopper_fetch`."""

LAG = 0
"""Steps that the second group of warps begins after the first; fewer than stages."""

STRIP = 8
"""Rows of tiles in a strip, as in Triton's kernel."""

_GROUP_WARPS = 4
_GROUP_REGISTERS = gl.constexpr(240)
_COPY_REGISTERS = gl.constexpr(24)

_PART = gl.constexpr(gl.NVMMADistributedLayout(version=[3, 0], warps_per_cta=[4, 1], instr_shape=[16, PANEL.value, 16]))

_place_in_strips = gluon.jit(place_in_strips.fn)


@gluon.jit
def _tile_at(turn, row_blocks, column_blocks, STRIP: gl.constexpr, COLUMNS: gl.constexpr):
    """Batch, first row and first column of this program's tile."""
    slot = gl.program_id(0) + turn * gl.num_programs(0)
    batch, row, col = _place_in_strips(slot, row_blocks, column_blocks, STRIP)
    return batch, 128 * row, COLUMNS * col


@gluon.jit
def _fetch(
    left, right, addend, stages, staging, full, empty, fetched, drained, turns, row_blocks, column_blocks, steps,
    STRIP: gl.constexpr, FETCH: gl.constexpr, OVERLAP: gl.constexpr,
):  # fmt: skip
    """The fetching warp's part: all tiles' operands, as far ahead as there is room, and addends on the way."""
    a, b = stages
    DTYPE: gl.constexpr = a.dtype
    DEPTH: gl.constexpr = b.shape[0]
    COLUMNS: gl.constexpr = b.shape[2]
    PANELS: gl.constexpr = COLUMNS // PANEL
    a_blocks = a._reinterpret(DTYPE, [DEPTH, 1, 2 * PANEL, PANEL], left.layout)
    b_blocks = b._reinterpret(DTYPE, [DEPTH * PANELS, 1, PANEL, PANEL], right.layout)
    addend_blocks = staging._reinterpret(DTYPE, [PANELS, 1, 2 * PANEL, PANEL], addend.layout)
    if OVERLAP:
        # What is above may run while the previous kernel finishes; what is below reads what it wrote.
        gdc_wait()
    fetch_at = gl.minimum(steps - 1, FETCH)
    for turn in range(turns):
        batch, row, col = _tile_at(turn, row_blocks, column_blocks, STRIP, COLUMNS)
        for k in range(steps):
            step = turn * steps + k
            stage = step % DEPTH
            mbarrier.wait(empty.index(stage), ((step // DEPTH) & 1) ^ 1)
            bar = full.index(stage)
            mbarrier.expect(bar, 2 * PANEL * (2 * PANEL + COLUMNS))
            tma.async_copy_global_to_shared(left, [batch, row, PANEL * k], bar, a_blocks.index(stage))
            for p in gl.static_range(PANELS):
                tma.async_copy_global_to_shared(
                    right, [batch, PANEL * k, col + PANEL * p], bar, b_blocks.index(stage * PANELS + p)
                )
            if k == fetch_at:
                # The last tile's results have left these places.
                mbarrier.wait(drained, (turn & 1) ^ 1)
                mbarrier.expect(fetched, 2 * 2 * PANEL * COLUMNS)
                for p in gl.static_range(PANELS):
                    tma.async_copy_global_to_shared(
                        addend, [batch, row, col + PANEL * p], fetched, addend_blocks.index(p)
                    )


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
def _leave(total, staging, written, alpha, beta, FIRST: gl.constexpr, GROUP: gl.constexpr):
    """alpha total + beta C, rounded, in C's place; panel by panel, so that the first stores begin early."""
    if total.shape[1] == PANEL:
        block = staging.index(2 * FIRST + GROUP)
        part = gl.convert_layout(total, _PART, assert_trivial=True)
        value = alpha * part + beta * block.load(_PART).to(gl.float32)
        block.store(value.to(block.dtype))
        fence_async_shared()
        gl.thread_barrier()
        mbarrier.arrive(written.index(2 * FIRST + GROUP), count=1)
    else:
        HALF: gl.constexpr = total.shape[1] // 2
        left, right = total.reshape([PANEL, 2, HALF]).permute((0, 2, 1)).split()
        _leave(left, staging, written, alpha, beta, FIRST, GROUP)
        _leave(right, staging, written, alpha, beta, FIRST + HALF // PANEL, GROUP)


@gluon.jit
def _unit_of(unit, turn, row_blocks, column_blocks, STRIP: gl.constexpr):
    """u of the tile's matrix."""
    batch, _, _ = _tile_at(turn, row_blocks, column_blocks, STRIP, 1)
    return gl.load(unit + batch)


@gluon.jit
def _multiply(
    unit, alpha, beta, stages, staging, full, empty, fetched, written, turns, row_blocks, column_blocks, steps,
    STRIP: gl.constexpr, LAG: gl.constexpr, OVERLAP: gl.constexpr, GROUP: gl.constexpr,
):  # fmt: skip
    """A group's part: rows 64 GROUP to 64 GROUP + 63 of every tile."""
    if OVERLAP:
        gdc_wait()
    if GROUP == 1 and LAG > 0 and steps > LAG:
        # So far behind the first group, its loop goes on during that one's epilogues.
        mbarrier.wait(full.index(LAG), 0)
    if unit is not None:
        scalar = _unit_of(unit, 0, row_blocks, column_blocks, STRIP)
    for turn in range(turns):
        total = _accumulate(stages, full, empty, turn * steps, steps, GROUP)
        of_product = alpha
        of_addend = beta
        if unit is not None:
            factor = gl.sqrt(scalar)
            of_product *= factor
            of_addend *= factor
            # The next tile's is here when it is needed.
            scalar = _unit_of(unit, gl.minimum(turn + 1, turns - 1), row_blocks, column_blocks, STRIP)
        mbarrier.wait(fetched, turn & 1)
        _leave(total, staging, written, of_product, of_addend, 0, GROUP)


@gluon.jit
def _store(
    out, staging, written, drained, turns, row_blocks, column_blocks, STRIP: gl.constexpr, OVERLAP: gl.constexpr
):
    """The storing warp's part: results as they are written; then their places are free."""
    PANELS: gl.constexpr = staging.shape[0] // 2
    blocks = staging._reinterpret(staging.dtype, [2 * PANELS, 1, PANEL, PANEL], out.layout)
    if OVERLAP:
        gdc_wait()
    for turn in range(turns):
        batch, row, col = _tile_at(turn, row_blocks, column_blocks, STRIP, PANELS * PANEL)
        for g in gl.static_range(2):
            for p in gl.static_range(PANELS):
                mbarrier.wait(written.index(2 * p + g), turn & 1)
                place = [batch, row + PANEL * g, col + PANEL * p]
                tma.async_copy_shared_to_global(out, place, blocks.index(2 * p + g))
        # Also, shared memory must last as long as anything is read from it.
        tma.store_wait(0)
        mbarrier.arrive(drained, count=1)


@gluon.jit(do_not_specialize=["row_blocks", "column_blocks", "tiles", "steps"])
def hopper_apply_kernel(
    left,  # A, (batches, m, depth) in blocks of (1, 128, 64)
    right,  # B, (batches, depth, n) in blocks of (1, 64, 64)
    addend,  # C, (batches, m, n) in blocks of (1, 128, 64)
    out,  # (batches, m, n) in blocks of (1, 64, 64)
    unit,  # (batches,) float32: u, or None for 1
    row_blocks, column_blocks, tiles, steps, alpha, beta,
    COLUMNS: gl.constexpr, DEPTH: gl.constexpr, STRIP: gl.constexpr, FETCH: gl.constexpr, LAG: gl.constexpr,
    OVERLAP: gl.constexpr,
):  # fmt: skip
    """Tiles slot, slot + programs, slot + 2 programs, ... of `tiles`; `steps` of 64 in the depth, DEPTH stages."""
    DTYPE: gl.constexpr = out.dtype
    PANELS: gl.constexpr = COLUMNS // PANEL
    a = gl.allocate_shared_memory(DTYPE, [2 * DEPTH, PANEL, PANEL], WHOLE)
    b = gl.allocate_shared_memory(DTYPE, [DEPTH, PANEL, COLUMNS], WHOLE)
    # Of panel p, group g's rows are block 2 p + g.
    staging = gl.allocate_shared_memory(DTYPE, [2 * PANELS, PANEL, PANEL], WHOLE)
    full = gl.allocate_shared_memory(gl.int64, [DEPTH, 1], mbarrier.MBarrierLayout())
    empty = gl.allocate_shared_memory(gl.int64, [DEPTH, 1], mbarrier.MBarrierLayout())
    written = gl.allocate_shared_memory(gl.int64, [2 * PANELS, 1], mbarrier.MBarrierLayout())
    fetched = gl.allocate_shared_memory(gl.int64, [1], mbarrier.MBarrierLayout())
    drained = gl.allocate_shared_memory(gl.int64, [1], mbarrier.MBarrierLayout())
    for stage in gl.static_range(DEPTH):
        mbarrier.init(full.index(stage), count=1)
        mbarrier.init(empty.index(stage), count=2)
    for block in gl.static_range(2 * PANELS):
        mbarrier.init(written.index(block), count=1)
    mbarrier.init(fetched, count=1)
    mbarrier.init(drained, count=1)
    fence_async_shared()
    gl.thread_barrier()
    stages = (a, b)
    turns = gl.cdiv(tiles - gl.program_id(0), gl.num_programs(0))
    gl.warp_specialize(
        [
            (
                _multiply,
                (
                    unit, alpha, beta, stages, staging, full, empty, fetched, written,
                    turns, row_blocks, column_blocks, steps, STRIP, LAG, OVERLAP, 0,
                ),
            ),
            (
                _multiply,
                (
                    unit, alpha, beta, stages, staging, full, empty, fetched, written,
                    turns, row_blocks, column_blocks, steps, STRIP, LAG, OVERLAP, 1,
                ),
            ),
            (
                _fetch,
                (
                    left, right, addend, stages, staging, full, empty, fetched, drained,
                    turns, row_blocks, column_blocks, steps, STRIP, FETCH, OVERLAP,
                ),
            ),
            (_store, (out, staging, written, drained, turns, row_blocks, column_blocks, STRIP, OVERLAP)),
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
    panel = PANEL.value
    on_grid(hopper_apply_kernel, (min(tiles, processors(out.device)),))(
        blocks_of(A, ROWS, STEP), blocks_of(B, STEP, panel), blocks_of(C, ROWS, panel), blocks_of(out, panel, panel),
        unit, row_blocks, column_blocks, tiles, triton.cdiv(A.shape[-1], STEP), *factors,
        COLUMNS=columns, DEPTH=STAGES[columns], STRIP=STRIP, FETCH=FETCH_STEP, LAG=LAG, OVERLAP=True,
        num_warps=_GROUP_WARPS, launch_pdl=True,
    )  # fmt: skip
