# Device functions carry no Python types, and Triton has no type information:
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, disallow-untyped-calls=False
# mypy: disallow-untyped-decorators=False
"""sqrt(u) (alpha A B + beta C) in tiles of 128 x 64 or 64 x 64 for Hopper GPUs, in Gluon: one tile per program.

As `iroot.kernels.hopper_small_sum`: at n = 1024 there is a tile for every multiprocessor, and latency counts. One warp
fetches, four or six stages ahead, and the addend's tile into a place of its own, from where the result leaves. Where B
and C are older than the last kernel's result, A, they are asked for while that one finishes.

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
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from iroot.kernels.hopper_blocks import WHOLE, blocks_of, place
from iroot.kernels.hopper_small_fetch import BEYOND
from iroot.kernels.mainloop import place_in_strips
from iroot.kernels.rehearsal import on_grid

COLUMNS, STEP, WARPS = 64, 64, 4
"""Columns of a tile, and of A in a stage."""

STAGES = {128: 4, 64: 6}
"""By rows of a tile: with the addend's tile at most 112 of the 113 KB with which two programs fit a multiprocessor."""

STRIP = 8
"""Rows of tiles in a strip, as in Triton's kernel."""

_PRODUCER_REGISTERS, _REGISTERS = 24, 128
_COLUMNS, _STEP = gl.constexpr(COLUMNS), gl.constexpr(STEP)

_ACCUMULATOR = gl.constexpr(
    gl.NVMMADistributedLayout(version=[3, 0], warps_per_cta=[WARPS, 1], instr_shape=[16, COLUMNS, 16])
)

_place_in_strips = gluon.jit(place_in_strips.fn)


@gluon.jit
def _tile(row_blocks, column_blocks, ROWS: gl.constexpr, STRIP: gl.constexpr):
    """Batch, first row and first column of this program's tile."""
    batch, row, col = _place_in_strips(gl.program_id(0), row_blocks, column_blocks, STRIP)
    return batch, ROWS * row, _COLUMNS * col


@gluon.jit
def _begin(right, addend, b, staging, full, fetched, batch, row, col, lead):
    """Ask for the addend's tile, and for B's blocks in the first `lead` stages."""
    ROWS: gl.constexpr = staging.shape[0]
    for stage in range(lead):
        bar = full.index(stage)
        mbarrier.expect(bar, 2 * _STEP * (ROWS + _COLUMNS))
        tma.async_copy_global_to_shared(right, [batch, _STEP * stage, col], bar, place(b.index(stage), right))
    mbarrier.expect(fetched, 2 * ROWS * _COLUMNS)
    tma.async_copy_global_to_shared(addend, [batch, row, col], fetched, place(staging, addend))


@gluon.jit
def _fetch(
    left, right, addend, out, a, b, staging, full, empty, fetched, known, row_blocks, column_blocks, steps,
    STRIP: gl.constexpr, AHEAD: gl.constexpr,
):  # fmt: skip
    """The copying warp's part of a program."""
    STAGES: gl.constexpr = a.shape[0]
    ROWS: gl.constexpr = a.shape[1]
    batch, row, col = _tile(row_blocks, column_blocks, ROWS, STRIP)
    # The copy engine reads descriptors that it will need, which takes as long as a block of a matrix does.
    mbarrier.expect(known, 2 * 2 * ROWS * _STEP)
    tma.async_copy_global_to_shared(left, [0, BEYOND, 0], known, place(a.index(STAGES - 1), left))
    tma.async_copy_global_to_shared(out, [0, BEYOND, 0], known, place(a.index(STAGES - 1), out))
    lead = gl.minimum(steps, STAGES)
    if AHEAD:
        _begin(right, addend, b, staging, full, fetched, batch, row, col, lead)
    # What is above may run while the previous kernel finishes; what is below reads what it wrote.
    gdc_wait()
    if not AHEAD:
        _begin(right, addend, b, staging, full, fetched, batch, row, col, lead)
    for stage in range(lead):
        if stage == STAGES - 1:
            mbarrier.wait(known, 0)
        tma.async_copy_global_to_shared(
            left, [batch, row, _STEP * stage], full.index(stage), place(a.index(stage), left)
        )
    for step in range(lead, steps):
        stage = step % STAGES
        mbarrier.wait(empty.index(stage), ((step // STAGES) & 1) ^ 1)
        bar = full.index(stage)
        k = _STEP * step
        mbarrier.expect(bar, 2 * _STEP * (ROWS + _COLUMNS))
        tma.async_copy_global_to_shared(left, [batch, row, k], bar, place(a.index(stage), left))
        tma.async_copy_global_to_shared(right, [batch, k, col], bar, place(b.index(stage), right))
    # Shared memory must last as long as anything is written to it.
    mbarrier.wait(known, 0)


@gluon.jit
def _accumulate(a, b, full, empty, steps):
    """The tile's products in float32."""
    STAGES: gl.constexpr = a.shape[0]
    ROWS: gl.constexpr = a.shape[1]
    acc = warpgroup_mma_init(gl.zeros([ROWS, _COLUMNS], gl.float32, _ACCUMULATOR))
    for step in range(steps):
        stage = step % STAGES
        mbarrier.wait(full.index(stage), (step // STAGES) & 1)
        acc = warpgroup_mma(a.index(stage), b.index(stage), acc, is_async=True)
        acc = warpgroup_mma_init(warpgroup_mma_wait(num_outstanding=1, deps=(acc,)))
        # The products of the step before are done, and its stage is free once all warps are here.
        gl.thread_barrier()
        mbarrier.arrive(empty.index((step + STAGES - 1) % STAGES), count=1, pred=step > 0)
    return warpgroup_mma_wait(num_outstanding=0, deps=(acc,))


@gluon.jit
def _multiply(
    out, unit, alpha, beta, a, b, staging, full, empty, fetched, row_blocks, column_blocks, steps,
    STRIP: gl.constexpr,
):  # fmt: skip
    """The multiplying warps' part of a program."""
    ROWS: gl.constexpr = a.shape[1]
    batch, row, col = _tile(row_blocks, column_blocks, ROWS, STRIP)
    gdc_wait()
    gdc_launch_dependents()
    if unit is not None:
        factor = gl.sqrt(gl.load(unit + batch))
        alpha *= factor
        beta *= factor
    product = _accumulate(a, b, full, empty, steps)
    mbarrier.wait(fetched, 0)
    C = staging.load(_ACCUMULATOR)
    # Every warp has read its part before another writes there.
    gl.thread_barrier()
    value = alpha * product + beta * C.to(gl.float32)
    staging.store(value.to(staging.dtype))
    fence_async_shared()
    gl.thread_barrier()
    tma.async_copy_shared_to_global(out, [batch, row, col], place(staging, out))
    # Shared memory must last as long as anything is read from it.
    tma.store_wait(0)


@gluon.jit(do_not_specialize=["row_blocks", "column_blocks", "steps"])
def hopper_small_apply_kernel(
    left,  # A, (batches, m, depth) in blocks of (1, ROWS, 64)
    right,  # B, (batches, depth, n) in blocks of (1, 64, 64)
    addend, out,  # C and the result, (batches, m, n) in blocks of (1, ROWS, 64)
    unit,  # (batches,) float32: u, or None for 1
    row_blocks, column_blocks, steps, alpha, beta,
    ROWS: gl.constexpr, STAGES: gl.constexpr, STRIP: gl.constexpr, AHEAD: gl.constexpr, REGISTERS: gl.constexpr,
):  # fmt: skip
    """One tile per program; `steps` of 64 in the depth. AHEAD: the last kernel wrote neither B nor C."""
    DTYPE: gl.constexpr = out.dtype
    a = gl.allocate_shared_memory(DTYPE, [STAGES, ROWS, _STEP], WHOLE)
    b = gl.allocate_shared_memory(DTYPE, [STAGES, _STEP, _COLUMNS], WHOLE)
    staging = gl.allocate_shared_memory(DTYPE, [ROWS, _COLUMNS], WHOLE)
    full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    empty = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    fetched = gl.allocate_shared_memory(gl.int64, [1], mbarrier.MBarrierLayout())
    known = gl.allocate_shared_memory(gl.int64, [1], mbarrier.MBarrierLayout())
    for stage in gl.static_range(STAGES):
        mbarrier.init(full.index(stage), count=1)
        mbarrier.init(empty.index(stage), count=1)
    mbarrier.init(fetched, count=1)
    mbarrier.init(known, count=1)
    fence_async_shared()
    gl.thread_barrier()
    gl.warp_specialize(
        [
            (
                _multiply,
                (
                    out, unit, alpha, beta, a, b, staging, full, empty, fetched, row_blocks, column_blocks, steps,
                    STRIP,
                ),
            ),
            (
                _fetch,
                (
                    left, right, addend, out, a, b, staging, full, empty, fetched, known, row_blocks,
                    column_blocks, steps, STRIP, AHEAD,
                ),
            ),
        ],
        [1],
        [REGISTERS],
    )  # fmt: skip


def hopper_small_apply(
    operands: tuple[Tensor, Tensor, Tensor],
    out: Tensor,
    factors: tuple[float, float],
    *,
    rows: int,
    unit: Tensor | None = None,
    ahead: bool = False,
) -> None:
    """`iroot.kernels.multiply_add`'s launch in tiles of 64 columns by this module's kernel.

    Args:
        operands: A (batches, m, depth), B (batches, depth, n) and C (batches, m, n) of one 16-bit dtype, whose rows the
            copy engine reads in place.
        out: (batches, m, n), as C.
        factors: alpha and beta.
        rows: of a tile, 128 or 64.
        unit: (batches,) float32, u; None for 1.
        ahead: B and C were complete before the last kernel of the stream began, and that kernel's programs all wait for
            the one before it (`gdc_wait`).
    """
    A, B, C = operands
    batches, m, n = out.shape
    row_blocks, column_blocks = triton.cdiv(m, rows), triton.cdiv(n, COLUMNS)
    on_grid(hopper_small_apply_kernel, (row_blocks * column_blocks * batches,))(
        blocks_of(A, rows, STEP), blocks_of(B, STEP, COLUMNS), blocks_of(C, rows, COLUMNS),
        blocks_of(out, rows, COLUMNS), unit, row_blocks, column_blocks, triton.cdiv(A.shape[-1], STEP), *factors,
        ROWS=rows, STAGES=STAGES[rows], STRIP=STRIP, AHEAD=ahead, REGISTERS=_PRODUCER_REGISTERS,
        num_warps=WARPS, maxnreg=_REGISTERS, launch_pdl=True,
    )  # fmt: skip
