# Device functions carry no Python types, and Triton has no type information:
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, disallow-untyped-calls=False
# mypy: disallow-untyped-decorators=False
"""The sums of `iroot.kernels.symmetric_sum` with M = N for Hopper GPUs, in one wave of equal shares, in Gluon.

A program has a share of `iroot.kernels.balanced_tiles`: four blocks of 64 x 64. One warp fetches. Two groups of four
warps have two blocks each and go through the loop on their own: 64 rows of a tile by 128 columns; of a tile on the
diagonal the second group its last 64 rows, and the first one the block above, and that of another tile on the diagonal
whose rows were fetched in place of a second operand. Addends' blocks follow the operands through the stages, those of a
group in one stage; its results leave from there, or from the next two, by the copy engine. One program is on a
multiprocessor, and has one share.

Gluon has no interpreter: this module is imported where its kernel is launched, and checked against Triton's kernel,
with which it agrees bit for bit, but for the order in which squares and norms are added.
"""

from __future__ import annotations

from collections.abc import Sequence

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
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from iroot.kernels.balanced_tiles import HALF, SIDE, shares_of
from iroot.kernels.hopper_blocks import WHOLE, blocks_of, place
from iroot.kernels.hopper_epilogue import weighted
from iroot.kernels.hopper_sum import KINDS, scaled
from iroot.kernels.rehearsal import on_grid
from iroot.kernels.symmetric_sum import UNSCALED, Matrices, Scaling, SumTerms, power_of_two
from iroot.kernels.tiling import Tiling

STAGES = 6
"""Seven fit a multiprocessor's shared memory; a second result needs four."""

_GROUP_WARPS = 4
_GROUP_REGISTERS = gl.constexpr(216)
_PRODUCER_REGISTERS = gl.constexpr(24)

_SIDE = gl.constexpr(SIDE)
_HALF = gl.constexpr(HALF)
_STEP = gl.constexpr(64)
"""Columns of an operand in a stage: a row of the widest swizzle."""

_ROWS = gl.constexpr(gl.NVMMADistributedLayout(version=[3, 0], warps_per_cta=[4, 1], instr_shape=[16, SIDE, 16]))
_BLOCK = gl.constexpr(gl.NVMMADistributedLayout(version=[3, 0], warps_per_cta=[4, 1], instr_shape=[16, HALF, 16]))
_I = gl.constexpr(gl.SliceLayout(1, _BLOCK.value))
_J = gl.constexpr(gl.SliceLayout(0, _BLOCK.value))


@gluon.jit
def _share(panels, per_matrix):
    """This program's of `balanced_tiles.balanced_schedule`: batch, row, col, left, right.

    By arithmetic: read from a table, it costs 0.3 of 16.0 us at n = 2048 (experiment, H100, 2026-11-23).
    """
    program = gl.program_id(0) % per_matrix
    alone = (3 * panels + 3) // 4
    below = gl.maximum(program - alone, 0)
    row = ((gl.sqrt(8.0 * below.to(gl.float32) + 1.0) + 1.0) * 0.5).to(gl.int32)
    # The root is rounded: it may be on the wrong side of an integer.
    row = gl.where(row * (row + 1) // 2 <= below, row + 1, row)
    row = gl.where(row * (row - 1) // 2 > below, row - 1, row)
    col = below - row * (row - 1) // 2
    row = gl.where(program < alone, program, row)
    col = gl.where(program < alone, program, col)
    shared = alone + program // 3
    block = gl.where(shared < panels, program % 3, 0)
    left = _SIDE * gl.minimum(shared, panels) + gl.where(block > 0, _HALF, 0)
    right = _SIDE * gl.minimum(shared, panels) + gl.where(block > 1, _HALF, 0)
    return gl.program_id(0) // per_matrix, _SIDE * row, _SIDE * col, left, right


@gluon.jit
def _blocks_in(stages):
    """Four of 64 x 64 in every stage: the first operand's rows, and the second's."""
    return stages._reinterpret(stages.dtype, [2 * stages.shape[0], _HALF, _STEP], WHOLE)


@gluon.jit
def _is_free(empty, step, DEPTH: gl.constexpr):
    """Wait until both groups are done with the stage that `step` uses."""
    mbarrier.wait(empty.index(step % DEPTH), ((step // DEPTH) & 1) ^ 1)


@gluon.jit
def _addends(t, z, stages, full, empty, step, batch, row, col, last_row, last_col):
    """Ask for a group's two blocks of T and of Z."""
    DEPTH: gl.constexpr = stages.shape[0] // 2
    BYTES: gl.constexpr = ((t is not None) + (z is not None)) * 2 * 2 * _HALF * _HALF
    blocks = _blocks_in(stages)
    stage = step % DEPTH
    _is_free(empty, step, DEPTH)
    bar = full.index(stage)
    mbarrier.expect(bar, BYTES)
    if t is not None:
        tma.async_copy_global_to_shared(t, [batch, row, col], bar, place(blocks.index(4 * stage), t))
        tma.async_copy_global_to_shared(t, [batch, last_row, last_col], bar, place(blocks.index(4 * stage + 1), t))
    if z is not None:
        tma.async_copy_global_to_shared(z, [batch, row, col], bar, place(blocks.index(4 * stage + 2), z))
        tma.async_copy_global_to_shared(z, [batch, last_row, last_col], bar, place(blocks.index(4 * stage + 3), z))


@gluon.jit
def _fetch(panels, per_matrix, whole, half, t, z, stages, full, empty, steps):
    """The copying warp's part of a program: 128 rows, and 128, 64 or two times 64 more, 64 columns at a time."""
    DEPTH: gl.constexpr = stages.shape[0] // 2
    ROW_BYTES: gl.constexpr = 2 * _STEP
    blocks = _blocks_in(stages)
    batch, row, col, left, right = _share(panels, per_matrix)
    # What is above may run while the previous kernel finishes; what is below reads what it wrote.
    gdc_wait()
    for step in range(steps):
        stage = step % DEPTH
        _is_free(empty, step, DEPTH)
        bar = full.index(stage)
        k = step * _STEP
        if row == col:
            if left != right:
                mbarrier.expect(bar, 4 * _HALF * ROW_BYTES)
                tma.async_copy_global_to_shared(half, [batch, right, k], bar, place(blocks.index(4 * stage + 3), half))
            else:
                mbarrier.expect(bar, 3 * _HALF * ROW_BYTES)
            tma.async_copy_global_to_shared(whole, [batch, row, k], bar, place(stages.index(2 * stage), whole))
            tma.async_copy_global_to_shared(half, [batch, left, k], bar, place(blocks.index(4 * stage + 2), half))
        else:
            mbarrier.expect(bar, 4 * _HALF * ROW_BYTES)
            tma.async_copy_global_to_shared(whole, [batch, row, k], bar, place(stages.index(2 * stage), whole))
            tma.async_copy_global_to_shared(whole, [batch, col, k], bar, place(stages.index(2 * stage + 1), whole))
    if t is not None or z is not None:
        on_diagonal = row == col
        last_row = gl.where(on_diagonal, left, row)
        last_col = gl.where(on_diagonal, right, col + _HALF)
        _addends(t, z, stages, full, empty, steps, batch, row, col, last_row, last_col)
        _addends(t, z, stages, full, empty, steps + 1, batch, row + _HALF, col, row + _HALF, col + _HALF)


@gluon.jit
def _half_a_tile(stages, full, empty, steps, second, GROUP: gl.constexpr):
    """64 rows by 128: by the stage's second operand, or, where `second` is 0, by the first one."""
    DEPTH: gl.constexpr = stages.shape[0] // 2
    blocks = _blocks_in(stages)
    acc = warpgroup_mma_init(gl.zeros([_HALF, _SIDE], gl.float32, _ROWS))
    for step in range(steps):
        stage = step % DEPTH
        mbarrier.wait(full.index(stage), (step // DEPTH) & 1)
        rows = blocks.index(4 * stage + GROUP)
        acc = warpgroup_mma(rows, stages.index(2 * stage + second).permute((1, 0)), acc, is_async=True)
        acc = warpgroup_mma_init(warpgroup_mma_wait(num_outstanding=1, deps=(acc,)))
        # The products of the step before are done, and its stage is free once all four warps are here.
        gl.thread_barrier()
        mbarrier.arrive(empty.index((step + DEPTH - 1) % DEPTH), count=1, pred=step > 0)
    acc = warpgroup_mma_wait(num_outstanding=0, deps=(acc,))
    gl.thread_barrier()
    mbarrier.arrive(empty.index((steps - 1) % DEPTH), count=1)
    first, last = acc.reshape([_HALF, 2, _HALF]).permute((0, 2, 1)).split()
    first = gl.convert_layout(first, _BLOCK, assert_trivial=True)
    last = gl.convert_layout(last, _BLOCK, assert_trivial=True)
    return first, last


@gluon.jit
def _two_blocks(stages, full, empty, steps, differ):
    """The first operand's first 64 rows, and the second's, by themselves; or, where these `differ`, by the last 64."""
    DEPTH: gl.constexpr = stages.shape[0] // 2
    blocks = _blocks_in(stages)
    own = warpgroup_mma_init(gl.zeros([_HALF, _HALF], gl.float32, _BLOCK))
    other = warpgroup_mma_init(gl.zeros([_HALF, _HALF], gl.float32, _BLOCK))
    for step in range(steps):
        stage = step % DEPTH
        mbarrier.wait(full.index(stage), (step // DEPTH) & 1)
        rows = blocks.index(4 * stage)
        own = warpgroup_mma(rows, rows.permute((1, 0)), own, is_async=True)
        right = blocks.index(4 * stage + 2 + differ)
        other = warpgroup_mma(blocks.index(4 * stage + 2), right.permute((1, 0)), other, is_async=True)
        own, other = warpgroup_mma_wait(num_outstanding=2, deps=(own, other))
        own = warpgroup_mma_init(own)
        other = warpgroup_mma_init(other)
        gl.thread_barrier()
        mbarrier.arrive(empty.index((step + DEPTH - 1) % DEPTH), count=1, pred=step > 0)
    own, other = warpgroup_mma_wait(num_outstanding=0, deps=(own, other))
    gl.thread_barrier()
    mbarrier.arrive(empty.index((steps - 1) % DEPTH), count=1)
    return own, other


@gluon.jit
def _send(value, on_diagonal, plain, turned, out, batch, row, col, MEETS: gl.constexpr):
    """Begin the stores of out[row:, col:] = word and out[col:, row:] = word^T; the word.

    Of a block on the diagonal, which this may be where it MEETS, the lower triangle, mirrored.
    """
    word = value.to(plain.dtype)
    if MEETS:
        i = gl.arange(0, _HALF, layout=_I)[:, None]
        j = gl.arange(0, _HALF, layout=_J)[None, :]
        word = gl.where(row + i == col + j, value + on_diagonal, value).to(plain.dtype)
    turned.permute((1, 0)).store(word)
    if MEETS and row == col:
        gl.thread_barrier()
        word = gl.where(i >= j, word, turned.load(_BLOCK))
    plain.store(word)
    fence_async_shared()
    gl.thread_barrier()
    tma.async_copy_shared_to_global(out, [batch, row, col], place(plain, out))
    if (not MEETS) or row != col:
        tma.async_copy_shared_to_global(out, [batch, col, row], place(turned, out))
    return word


@gluon.jit
def _block(
    acc, out, out_2, blocks, place_1, place_2, batch, row, col, terms, terms_2,
    HAS_T: gl.constexpr, HAS_Z: gl.constexpr, SQUARES: gl.constexpr, MEETS: gl.constexpr,
):  # fmt: skip
    """Both sums of a block, whose addends lie where its first result leaves from; the sum of that one's squares."""
    plain, turned = blocks.index(place_1), blocks.index(place_1 + 2)
    T = 0.0
    Z = 0.0
    if HAS_T:
        T = plain.load(_BLOCK)
    if HAS_Z:
        Z = turned.load(_BLOCK)
    # Every warp has read its part before another writes there.
    gl.thread_barrier()
    value = weighted(acc, T, Z, terms, HAS_T, HAS_Z)
    word = _send(value, terms[3], plain, turned, out, batch, row, col, MEETS)
    if out_2 is not None:
        plain, turned = blocks.index(place_2), blocks.index(place_2 + 2)
        value = weighted(acc, T, Z, terms_2, HAS_T, HAS_Z)
        _send(value, terms_2[3], plain, turned, out_2, batch, row, col, MEETS)
    total = 0.0
    if SQUARES:
        wide = word.to(gl.float32)
        total = gl.where(row == col, 1.0, 2.0) * gl.sum(gl.sum(wide * wide, axis=1), axis=0)
    return total


@gluon.jit
def _finish(
    first, last, out, out_2, squares, stages, full, empty, steps, batch, places, terms, terms_2,
    HAS_T: gl.constexpr, HAS_Z: gl.constexpr, GROUP: gl.constexpr,
    FIRST_MEETS: gl.constexpr, LAST_MEETS: gl.constexpr,
):  # fmt: skip
    """A group's two blocks."""
    gdc_launch_dependents()
    DEPTH: gl.constexpr = stages.shape[0] // 2
    blocks = _blocks_in(stages)
    step = steps + GROUP
    if HAS_T or HAS_Z:
        mbarrier.wait(full.index(step % DEPTH), (step // DEPTH) & 1)
    else:
        _is_free(empty, step, DEPTH)
    if out_2 is not None:
        _is_free(empty, step + 2, DEPTH)
    at = 4 * (step % DEPTH)
    at_2 = 4 * ((step + 2) % DEPTH)
    row, col, last_row, last_col = places
    SQUARES: gl.constexpr = squares is not None
    total = _block(
        first, out, out_2, blocks, at, at_2, batch, row, col, terms, terms_2, HAS_T, HAS_Z, SQUARES,
        FIRST_MEETS,
    )  # fmt: skip
    total += _block(
        last, out, out_2, blocks, at + 1, at_2 + 1, batch, last_row, last_col, terms, terms_2, HAS_T, HAS_Z, SQUARES,
        LAST_MEETS,
    )  # fmt: skip
    if SQUARES:
        gl.store(squares + 2 * gl.program_id(0) + GROUP, total)


@gluon.jit
def _consume(
    panels, per_matrix, out, out_2, squares, norms, unit, stages, full, empty, steps, count, margin, terms, terms_2,
    SCALING: gl.constexpr, COUNT: gl.constexpr, HAS_T: gl.constexpr, HAS_Z: gl.constexpr, GROUP: gl.constexpr,
):  # fmt: skip
    """A group's part of a program: two blocks."""
    batch, row, col, left, right = _share(panels, per_matrix)
    gl.assume(steps > 0)
    # What is above may run while the previous kernel finishes; what is below reads and writes what it did.
    gdc_wait()
    # Where u is written, both groups write the same.
    terms, terms_2 = scaled(
        norms, unit, gl.program_id(0), per_matrix, count, margin, batch, terms, terms_2, SCALING, COUNT
    )  # fmt: skip
    below = row + _HALF * GROUP
    half_a_tile = (below, col, below, col + _HALF)
    # Branches that met again before results are stored would take ptxas too many registers (C7511).
    if GROUP == 0 and row == col:
        own, other = _two_blocks(stages, full, empty, steps, gl.where(left != right, 1, 0))
        _finish(
            own, other, out, out_2, squares, stages, full, empty, steps, batch, (row, col, left, right),
            terms, terms_2, HAS_T, HAS_Z, GROUP, True, True,
        )  # fmt: skip
    else:
        second = gl.where(row == col, 0, 1)
        first, last = _half_a_tile(stages, full, empty, steps, second, GROUP)
        _finish(
            first, last, out, out_2, squares, stages, full, empty, steps, batch, half_a_tile,
            terms, terms_2, HAS_T, HAS_Z, GROUP, False, GROUP == 1,
        )  # fmt: skip
    # Shared memory must last as long as anything is read from it.
    tma.store_wait(0)


@gluon.jit(do_not_specialize=["panels", "per_matrix", "count", "steps"])
def hopper_balanced_kernel(
    panels, per_matrix,  # of 128 rows, and programs, in one matrix
    whole, half,  # M, (batches, n, depth), in blocks of (1, 128, 64) and (1, 64, 64)
    t, z,  # (batches, n, n) symmetric, in blocks of (1, 64, 64); or None
    out, out_2,  # the same; out_2 may be None
    squares,  # (batches, programs, 2) float32: sums of out's squares, or None; out has no term in I then
    norms,  # (batches, count) float32: sums of squares of A; limited and first
    unit,  # (batches,) float32: u; first writes it, later reads it
    count, margin, steps, p, of_t, of_z, of_i, p_2, of_t_2, of_z_2, of_i_2,
    SCALING: gl.constexpr, COUNT: gl.constexpr, DEPTH: gl.constexpr,
):  # fmt: skip
    """One share per program; `steps` times 64 columns of M, through DEPTH stages."""
    # Both groups' results leave from stages of their own.
    gl.static_assert(DEPTH >= 4)
    HAS_T: gl.constexpr = t is not None
    HAS_Z: gl.constexpr = z is not None
    stages = gl.allocate_shared_memory(whole.dtype, [2 * DEPTH, _SIDE, _STEP], WHOLE)
    full = gl.allocate_shared_memory(gl.int64, [DEPTH, 1], mbarrier.MBarrierLayout())
    empty = gl.allocate_shared_memory(gl.int64, [DEPTH, 1], mbarrier.MBarrierLayout())
    for stage in gl.static_range(DEPTH):
        mbarrier.init(full.index(stage), count=1)
        mbarrier.init(empty.index(stage), count=2)
    fence_async_shared()
    gl.thread_barrier()
    terms = (p, of_t, of_z, of_i)
    terms_2 = (p_2, of_t_2, of_z_2, of_i_2)
    gl.warp_specialize(
        [
            (
                _consume,
                (
                    panels, per_matrix, out, out_2, squares, norms, unit, stages, full, empty, steps, count, margin,
                    terms, terms_2, SCALING, COUNT, HAS_T, HAS_Z, 0,
                ),
            ),
            (
                _consume,
                (
                    panels, per_matrix, out, out_2, squares, norms, unit, stages, full, empty, steps, count, margin,
                    terms, terms_2, SCALING, COUNT, HAS_T, HAS_Z, 1,
                ),
            ),
            (_fetch, (panels, per_matrix, whole, half, t, z, stages, full, empty, steps)),
        ],
        [4, 1],
        [_GROUP_REGISTERS, _PRODUCER_REGISTERS],
    )  # fmt: skip


def hopper_balanced_sums(
    matrices: Matrices,
    sums: Sequence[SumTerms],
    tiling: Tiling,
    outputs: Sequence[Tensor],
    *,
    scaling: Scaling = UNSCALED,
    squares: Tensor | None = None,
) -> None:
    """`iroot.kernels.symmetric_sum.triton_sums` by this module's kernel, where M is N; no `tiling` cuts it.

    squares: (batches, 2 programs of a matrix), beside `triton_sums`.
    """
    M = matrices.M
    batches, n, depth = M.shape
    per_matrix = shares_of(n)
    on_grid(hopper_balanced_kernel, (batches * per_matrix,))(
        -(-n // SIDE), per_matrix, blocks_of(M, SIDE, _STEP.value), blocks_of(M, HALF, _STEP.value),
        *(_blocks(A) for A in (matrices.T, matrices.Z, outputs[0], outputs[1] if len(sums) > 1 else None)),
        squares, scaling.norms, scaling.unit, scaling.count, scaling.margin,
        -(-depth // _STEP.value), *sums[0].values, *sums[-1].values,
        SCALING=KINDS[scaling.kind], COUNT=power_of_two(scaling.count), DEPTH=STAGES,
        num_warps=_GROUP_WARPS, launch_pdl=True,
        # As in Triton's kernel, with which this one agrees bit for bit.
        enable_fp_fusion=False,
    )  # fmt: skip


def _blocks(A: Tensor | None) -> TensorDescriptor | None:
    return None if A is None else blocks_of(A, HALF, HALF)
