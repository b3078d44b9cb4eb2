# Device functions carry no Python types, and Triton has no type information:
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, disallow-untyped-calls=False
# mypy: disallow-untyped-decorators=False
"""The product of `iroot.kernels.split_product` for Hopper GPUs, in Gluon: the same tiles, order of sums and roundings.

Triton's loop drains the tensor cores at every promotion. Here one warp fetches; two groups of four warps have 64 rows
of a tile each and go through the loop on their own, and within a step the product A_h B_h comes first, so that it is
promoted while the small ones run. A tile's addend follows its words through the stages, its result leaves from where
the addend lay, and the fetching warp runs ahead into the next tile meanwhile (`ci/adr/0029-split-triangles.md`).

Gluon has no interpreter: this module is imported where its kernel is launched, and checked against Triton's kernel,
with which it agrees bit for bit.
"""

from __future__ import annotations

import triton
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

from iroot.kernels.exact_diagonal import PARTS
from iroot.kernels.hopper_blocks import WHOLE, blocks_of, place
from iroot.kernels.mainloop import place_in_strips
from iroot.kernels.multiply_add import EARLY_AREA, Blocking
from iroot.kernels.operands import processors
from iroot.kernels.rehearsal import on_grid
from iroot.kernels.split_product import STRIP, SplitProduct

STAGES = {128: 3, 64: 4}
"""By a tile's columns: 192 of a multiprocessor's 227 KB; a fourth stage of 64 KB does not fit."""

_STEP = 64
"""Columns of both operands in a stage."""

_PARTS = gl.constexpr(PARTS)
_GROUP_WARPS = 4
_GROUP_REGISTERS = gl.constexpr(240)
_PRODUCER_REGISTERS = gl.constexpr(24)

_PANELS = gl.constexpr(gl.NVMMASharedLayout(swizzle_byte_width=128, element_bitwidth=16, rank=3))
_SINGLE = gl.constexpr(gl.NVMMASharedLayout(swizzle_byte_width=128, element_bitwidth=32, rank=2))
_PART = gl.constexpr(gl.NVMMADistributedLayout(version=[3, 0], warps_per_cta=[4, 1], instr_shape=[16, 64, 16]))
_ROWS_OF_PART = gl.constexpr(gl.SliceLayout(1, _PART.value))

_place_in_strips = gluon.jit(place_in_strips.fn)


@gluon.jit
def _fetch(
    words, c, a, b, full, empty, tiles, row_blocks, column_blocks, steps,
    COLUMNS: gl.constexpr, STRIP: gl.constexpr, B_ALONG_K: gl.constexpr, HAS_C: gl.constexpr,
    OVERLAP: gl.constexpr, EARLY: gl.constexpr,
):  # fmt: skip
    """The copying warp's part of a program: of each tile `steps` slots of words, and one of the addend."""
    a_hi, a_lo, b_hi, b_lo = words
    DEPTH: gl.constexpr = a.shape[0] // 4
    a_stages = a._reinterpret(a.dtype, [2 * DEPTH, 1, 128, 64], _PANELS)
    if B_ALONG_K:
        b_stages = b._reinterpret(b.dtype, [2 * DEPTH, 1, COLUMNS, 64], _PANELS)
    else:
        b_stages = b._reinterpret(b.dtype, [2 * DEPTH, 1, 64, COLUMNS], _PANELS)
    if OVERLAP:
        gdc_wait()
        if EARLY:
            gdc_launch_dependents()
    first = gl.program_id(0)
    stride = gl.num_programs(0)
    for turn in range(gl.cdiv(tiles - first, stride)):
        batch, row, col = _place_in_strips(first + turn * stride, row_blocks, column_blocks, STRIP)
        row *= 128
        col *= COLUMNS
        begin = turn * (steps + 1)
        for step in range(steps):
            slot = begin + step
            stage = slot % DEPTH
            k = 64 * step
            mbarrier.wait(empty.index(stage), ((slot // DEPTH) & 1) ^ 1)
            bar = full.index(stage)
            mbarrier.expect(bar, 4 * 64 * (128 + COLUMNS))
            tma.async_copy_global_to_shared(a_hi, [batch, row, k], bar, a_stages.index(2 * stage))
            if B_ALONG_K:
                tma.async_copy_global_to_shared(b_hi, [batch, col, k], bar, b_stages.index(2 * stage))
            else:
                tma.async_copy_global_to_shared(b_hi, [batch, k, col], bar, b_stages.index(2 * stage))
            tma.async_copy_global_to_shared(a_lo, [batch, row, k], bar, a_stages.index(2 * stage + 1))
            if B_ALONG_K:
                tma.async_copy_global_to_shared(b_lo, [batch, col, k], bar, b_stages.index(2 * stage + 1))
            else:
                tma.async_copy_global_to_shared(b_lo, [batch, k, col], bar, b_stages.index(2 * stage + 1))
        slot = begin + steps
        stage = slot % DEPTH
        mbarrier.wait(empty.index(stage), ((slot // DEPTH) & 1) ^ 1)
        if HAS_C:
            mbarrier.expect(full.index(stage), 4 * 128 * COLUMNS)
            for group in gl.static_range(2):
                for half in gl.static_range(COLUMNS // 64):
                    block = _own_block(a, b, stage, group, half, COLUMNS)
                    tma.async_copy_global_to_shared(
                        c, [batch, row + 64 * group, col + 64 * half], full.index(stage), place(block, c)
                    )
        else:
            mbarrier.arrive(full.index(stage), count=1)


@gluon.jit
def _own_block(a, b, stage, GROUP: gl.constexpr, HALF: gl.constexpr, COLUMNS: gl.constexpr):
    """64 x 64 places in float32 for a group's rows: in the stage's words of A, or of B for the second of wide tiles."""
    DEPTH: gl.constexpr = a.shape[0] // 4
    if COLUMNS == 64:
        block = a._reinterpret(gl.float32, [2 * DEPTH, 64, 64], _SINGLE).index(2 * stage + GROUP)
    elif GROUP == 0:
        block = a._reinterpret(gl.float32, [2 * DEPTH, 64, 64], _SINGLE).index(2 * stage + HALF)
    else:
        block = b._reinterpret(gl.float32, [2 * DEPTH, 64, 64], _SINGLE).index(2 * stage + HALF)
    return block


@gluon.jit
def _step(a, b, full, empty, slot, part, small, going, GROUP: gl.constexpr, B_ALONG_K: gl.constexpr):
    """part + A_h B_h, done, and small + A_l B_h + A_h B_l, on its way; the slot before is freed."""
    DEPTH: gl.constexpr = a.shape[0] // 4
    stage = slot % DEPTH
    mbarrier.wait(full.index(stage), (slot // DEPTH) & 1)
    a_hi = a.index(4 * stage + GROUP)
    a_lo = a.index(4 * stage + 2 + GROUP)
    b_hi = b.index(2 * stage)
    b_lo = b.index(2 * stage + 1)
    if B_ALONG_K:
        b_hi = b_hi.permute((1, 0))
        b_lo = b_lo.permute((1, 0))
    part = warpgroup_mma(a_hi, b_hi, part, use_acc=going, is_async=True)
    small = warpgroup_mma(a_lo, b_hi, small, is_async=True)
    small = warpgroup_mma(a_hi, b_lo, small, is_async=True)
    # The small products stay in flight, under the promotion; all of the step before are done.
    part = warpgroup_mma_init(warpgroup_mma_wait(num_outstanding=2, deps=(part,)))
    mbarrier.arrive(empty.index((slot + DEPTH - 1) % DEPTH), count=1, pred=slot > 0)
    return part, small


@gluon.jit
def _multiply(
    a, b, full, empty, begin, steps, GROUP: gl.constexpr, COLUMNS: gl.constexpr, PROMOTE_K: gl.constexpr,
    B_ALONG_K: gl.constexpr,
):  # fmt: skip
    """This group's rows of a tile: its large sum, promoted every PROMOTE_K columns (0: never), plus its small one."""
    LAYOUT: gl.constexpr = gl.NVMMADistributedLayout(
        version=[3, 0], warps_per_cta=[4, 1], instr_shape=[16, COLUMNS, 16]
    )
    DEPTH: gl.constexpr = a.shape[0] // 4
    zero = gl.zeros([64, COLUMNS], gl.float32, LAYOUT)
    small = warpgroup_mma_init(zero)
    part = warpgroup_mma_init(zero)
    if PROMOTE_K == 0:
        for step in range(steps):
            part, small = _step(a, b, full, empty, begin + step, part, small, step > 0, GROUP, B_ALONG_K)
        total, rest = warpgroup_mma_wait(num_outstanding=0, deps=(part, small))
    else:
        CHUNK: gl.constexpr = PROMOTE_K // 64
        total = zero
        for start in range(0, steps, CHUNK):
            for step in range(start, gl.minimum(start + CHUNK, steps)):
                part, small = _step(a, b, full, empty, begin + step, part, small, step > start, GROUP, B_ALONG_K)
            done = warpgroup_mma_wait(num_outstanding=2, deps=(part,))
            total += done
            part = warpgroup_mma_init(done)
        rest = warpgroup_mma_wait(num_outstanding=0, deps=(small,))
    mbarrier.arrive(empty.index((begin + steps - 1) % DEPTH), count=1)
    return total + rest


@gluon.jit
def _leave(
    part, block, d, exact, factor, terms, batch, row, col, m, bits, HAS_C: gl.constexpr, HAS_DIAGONAL: gl.constexpr,
    MEASURES: gl.constexpr,
):  # fmt: skip
    """d[row:, col:] = factor part, with the exact diagonal, + beta C, which lies in `block`, on its way from there.

    Returns the larger of `bits` and what has the largest absolute value, by rows.
    """
    alpha, beta, identity = terms
    value = part * factor
    if HAS_DIAGONAL:
        i = row + gl.arange(0, 64, layout=_ROWS_OF_PART)
        on_diagonal = i[:, None] == (col + gl.arange(0, 64, layout=gl.SliceLayout(0, _PART)))[None, :]
        value = gl.where(on_diagonal, (alpha * exact)[:, None], value)
    if HAS_C:
        value = gl.fma(block.load(_PART), beta, value)
    if HAS_DIAGONAL:
        value = gl.where(on_diagonal & (i < m)[:, None], value + identity, value)
    if MEASURES:
        # In the order of the absolute values, NaN above infinity. Beyond the edge there are zeros.
        bits = gl.maximum(bits, gl.max(value.to(gl.int32, bitcast=True) & 0x7FFFFFFF, 1))
    block.store(value)
    fence_async_shared()
    gl.thread_barrier()
    tma.async_copy_shared_to_global(d, [batch, row, col], place(block, d))
    return bits


@gluon.jit
def _read_diagonal(diagonal, batch, row, col, m, exact, COLUMNS: gl.constexpr):
    """exact plus the parts of the diagonal in 64 rows, where the tile reaches it."""
    if (row < col + COLUMNS) & (col < row + 64):
        i = row + gl.arange(0, 64, layout=_ROWS_OF_PART)
        for part in gl.static_range(_PARTS):
            exact += gl.load(diagonal + (batch.to(gl.int64) * _PARTS + part) * m + i, mask=i < m, other=0.0)
    return exact


@gluon.jit
def _consume(
    d, a, b, full, empty, inverses, diagonal, largest, m, tiles, row_blocks, column_blocks, steps, terms,
    COLUMNS: gl.constexpr, STRIP: gl.constexpr, PROMOTE_K: gl.constexpr, B_ALONG_K: gl.constexpr, HAS_C: gl.constexpr,
    HAS_SCALES: gl.constexpr, HAS_DIAGONAL: gl.constexpr, MEASURES: gl.constexpr, OVERLAP: gl.constexpr,
    GROUP: gl.constexpr,
):  # fmt: skip
    """A group's part of a program: rows 64 GROUP to 64 GROUP + 63 of its tiles."""
    if OVERLAP:
        gdc_wait()
    DEPTH: gl.constexpr = a.shape[0] // 4
    first = gl.program_id(0)
    stride = gl.num_programs(0)
    for turn in range(gl.cdiv(tiles - first, stride)):
        batch, row, col = _place_in_strips(first + turn * stride, row_blocks, column_blocks, STRIP)
        row = 128 * row + 64 * GROUP
        col *= COLUMNS
        # Before the loop, under which they arrive.
        factor = terms[0]
        if HAS_SCALES:
            factor = terms[0] * (gl.load(inverses[0] + batch) * gl.load(inverses[1] + batch))
        exact = gl.zeros([64], gl.float32, _ROWS_OF_PART)
        if HAS_DIAGONAL:
            exact = _read_diagonal(diagonal, batch, row, col, m, exact, COLUMNS)
        begin = turn * (steps + 1)
        if turn > 0:
            # The last tile's result has left its stage, which the first step frees.
            tma.store_wait(0)
            gl.thread_barrier()
        total = _multiply(a, b, full, empty, begin, steps, GROUP, COLUMNS, PROMOTE_K, B_ALONG_K)
        slot = begin + steps
        stage = slot % DEPTH
        mbarrier.wait(full.index(stage), (slot // DEPTH) & 1)
        bits = gl.zeros([64], gl.int32, _ROWS_OF_PART)
        if COLUMNS == 64:
            block = _own_block(a, b, stage, GROUP, 0, COLUMNS)
            bits = _leave(
                total, block, d, exact, factor, terms, batch, row, col, m, bits, HAS_C, HAS_DIAGONAL, MEASURES
            )  # fmt: skip
        else:
            halves = total.reshape([64, 2, 64]).permute((0, 2, 1)).split()
            for half in gl.static_range(2):
                part = gl.convert_layout(halves[half], _PART, assert_trivial=True)
                block = _own_block(a, b, stage, GROUP, half, COLUMNS)
                bits = _leave(
                    part, block, d, exact, factor, terms, batch, row, col + 64 * half, m, bits,
                    HAS_C, HAS_DIAGONAL, MEASURES,
                )  # fmt: skip
        if MEASURES:
            slot_of_tile = 2 * (first + turn * stride) + GROUP
            gl.store(largest + slot_of_tile, gl.max(bits, 0).to(gl.float32, bitcast=True))
    # Shared memory must last as long as anything is read from it.
    tma.store_wait(0)


@gluon.jit(
    do_not_specialize=["m", "tiles", "row_blocks", "column_blocks", "steps"],
    do_not_specialize_on_alignment=["a_inverse", "b_inverse", "diagonal", "largest"],
)
def hopper_split_kernel(
    a_hi, a_lo,  # (batches, m, depth) in blocks of (1, 128, 64)
    b_hi, b_lo,  # (batches, n, depth) in blocks of (1, COLUMNS, 64), or (batches, depth, n) in (1, 64, COLUMNS)
    c, d,  # (batches, m, n) float32 in blocks of (1, 64, 64)
    a_inverse, b_inverse,  # (batches,)
    diagonal,  # (batches, PARTS, m): of A B
    largest,  # (batches, 2 tiles of a matrix) float32: largest absolute entries of both halves of d's tiles
    m, tiles, row_blocks, column_blocks, steps, alpha, beta, identity,
    COLUMNS: gl.constexpr, STRIP: gl.constexpr, PROMOTE_K: gl.constexpr, B_ALONG_K: gl.constexpr, HAS_C: gl.constexpr,
    HAS_SCALES: gl.constexpr, HAS_DIAGONAL: gl.constexpr, MEASURES: gl.constexpr, DEPTH: gl.constexpr,
    OVERLAP: gl.constexpr, EARLY: gl.constexpr,
):  # fmt: skip
    """Tiles of 128 x COLUMNS: program, program + programs, ... of `tiles`; 64 columns of the words in each of DEPTH
    stages, `steps` of them in the depth. What HAS_C, HAS_SCALES, HAS_DIAGONAL and MEASURES deny is not used.
    """
    DTYPE: gl.constexpr = a_hi.dtype
    # Of a stage: both groups' rows of A_h, of A_l; B_h, B_l.
    a = gl.allocate_shared_memory(DTYPE, [4 * DEPTH, 64, 64], WHOLE)
    if B_ALONG_K:
        b = gl.allocate_shared_memory(DTYPE, [2 * DEPTH, COLUMNS, 64], WHOLE)
    else:
        b = gl.allocate_shared_memory(DTYPE, [2 * DEPTH, 64, COLUMNS], WHOLE)
    full = gl.allocate_shared_memory(gl.int64, [DEPTH, 1], mbarrier.MBarrierLayout())
    empty = gl.allocate_shared_memory(gl.int64, [DEPTH, 1], mbarrier.MBarrierLayout())
    for stage in gl.static_range(DEPTH):
        mbarrier.init(full.index(stage), count=1)
        mbarrier.init(empty.index(stage), count=2)
    fence_async_shared()
    gl.thread_barrier()
    gl.warp_specialize(
        [
            (
                _consume,
                (
                    d, a, b, full, empty, (a_inverse, b_inverse), diagonal, largest, m, tiles, row_blocks,
                    column_blocks, steps, (alpha, beta, identity),
                    COLUMNS, STRIP, PROMOTE_K, B_ALONG_K, HAS_C, HAS_SCALES, HAS_DIAGONAL, MEASURES, OVERLAP, 0,
                ),
            ),
            (
                _consume,
                (
                    d, a, b, full, empty, (a_inverse, b_inverse), diagonal, largest, m, tiles, row_blocks,
                    column_blocks, steps, (alpha, beta, identity),
                    COLUMNS, STRIP, PROMOTE_K, B_ALONG_K, HAS_C, HAS_SCALES, HAS_DIAGONAL, MEASURES, OVERLAP, 1,
                ),
            ),
            (
                _fetch,
                (
                    (a_hi, a_lo, b_hi, b_lo), c, a, b, full, empty, tiles, row_blocks, column_blocks, steps,
                    COLUMNS, STRIP, B_ALONG_K, HAS_C, OVERLAP, EARLY,
                ),
            ),
        ],
        [4, 1],
        [_GROUP_REGISTERS, _PRODUCER_REGISTERS],
    )  # fmt: skip


def hopper_split(product: SplitProduct, blocking: Blocking) -> None:
    """`iroot.kernels.split_product.triton_split` by this module's kernel: of `blocking` it takes the tile alone.

    As many programs as multiprocessors, each with tile after tile: a program for each tile takes 75.9 us at n = 2048,
    these 74.2 (H100, float16, 2026-11-23).

    Args:
        product: as `iroot.kernels.split_product.takes_gluon` admits it.
        blocking: 128 rows, 128 or 64 columns.
    """
    D, C, columns = product.D, product.C, blocking.columns
    batches, m, n = D.shape
    depth = product.a_hi.tensor.shape[-1]
    row_blocks, column_blocks = triton.cdiv(m, blocking.rows), triton.cdiv(n, columns)
    tiles = batches * row_blocks * column_blocks
    result = blocks_of(D, 64, 64)
    right = (product.b_hi.tensor, product.b_lo.tensor)
    on_grid(hopper_split_kernel, (min(tiles, processors(D.device)),))(
        blocks_of(product.a_hi.tensor, blocking.rows, _STEP), blocks_of(product.a_lo.tensor, blocking.rows, _STEP),
        *(blocks_of(B, columns, _STEP) if product.b_hi.along_k else blocks_of(B.mT, _STEP, columns) for B in right),
        result if C is None else blocks_of(C, 64, 64), result,
        *(D if inverse is None else inverse for inverse in product.inverses),
        D if product.diagonal is None else product.diagonal, D if product.largest is None else product.largest,
        m, tiles, row_blocks, column_blocks, triton.cdiv(depth, _STEP),
        product.factors.alpha, product.factors.beta, product.factors.identity,
        COLUMNS=columns, STRIP=STRIP, PROMOTE_K=product.promote_k, B_ALONG_K=product.b_hi.along_k, HAS_C=C is not None,
        HAS_SCALES=product.inverses[0] is not None, HAS_DIAGONAL=product.diagonal is not None,
        MEASURES=product.largest is not None, DEPTH=STAGES[columns], OVERLAP=True,
        EARLY=blocking.rows * columns <= EARLY_AREA,
        num_warps=_GROUP_WARPS, launch_pdl=True,
        # What Triton's kernel fuses is written out.
        enable_fp_fusion=False,
    )  # fmt: skip
