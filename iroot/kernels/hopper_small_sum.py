# Device functions carry no Python types, and Triton has no type information:
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, disallow-untyped-calls=False
# mypy: disallow-untyped-decorators=False
"""The sums of `iroot.kernels.symmetric_sum` in tiles of 64 x 64 for Hopper GPUs, in Gluon.

At n = 1024 there is a tile for every multiprocessor, and what counts is latency. One warp asks for 64 columns of both
operands, stage by stage, and for the tiles of the addends after the last; all six stages are under way when the first
arrives, and scalars are computed meanwhile. Four warps multiply. Results leave from stages that are done, by the copy
engine, and nobody waits for it before the end. Two programs fit a multiprocessor, so that the next kernel's are there,
with their barriers and descriptors, before this one ends. Tiles on the diagonal come in pairs
(`iroot.kernels.diagonal_pairs`) where that saves a wave.

Gluon has no interpreter: this module is imported where its kernel is launched, and checked against Triton's kernel,
with which it agrees bit for bit but for the order in which squares and norms are added.
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

from iroot.kernels.device_tiles import device_programs
from iroot.kernels.diagonal_pairs import SIDE, device_pairs, saves_a_wave
from iroot.kernels.hopper_blocks import WHOLE, blocks_of, place
from iroot.kernels.hopper_epilogue import weighted
from iroot.kernels.hopper_small_fetch import PAIR, fetch, tile_at
from iroot.kernels.hopper_sum import KINDS, scaled
from iroot.kernels.operands import processors
from iroot.kernels.rehearsal import on_grid
from iroot.kernels.symmetric_sum import UNSCALED, Matrices, Scaling, SumTerms, power_of_two
from iroot.kernels.tiling import Tiling

STAGES, WARPS = 6, 4
"""Two programs fit a multiprocessor with 7 too: polar steps take 0.882 of Triton's time then, instead of 0.877
(`ci/adr/0027-gluon-on-hopper.md`)."""

_PRODUCER_REGISTERS = 24

_REGISTERS = 128
"""Of a thread when two programs of four warps, and four more for the one that fetches, begin."""

_SIDE = gl.constexpr(SIDE)

_ACCUMULATOR = gl.constexpr(
    gl.NVMMADistributedLayout(version=[3, 0], warps_per_cta=[WARPS, 1], instr_shape=[16, _SIDE.value, 16])
)
_I = gl.constexpr(gl.SliceLayout(1, _ACCUMULATOR.value))
_J = gl.constexpr(gl.SliceLayout(0, _ACCUMULATOR.value))


@gluon.jit
def _accumulate(a, b, full, empty, steps, PAIR: gl.constexpr):
    """A tile's products in float32, or those of two tiles on the diagonal; all stages but the last are freed."""
    STAGES: gl.constexpr = a.shape[0]
    first = warpgroup_mma_init(gl.zeros([_SIDE, _SIDE], gl.float32, _ACCUMULATOR))
    second = first
    if PAIR:
        second = warpgroup_mma_init(gl.zeros([_SIDE, _SIDE], gl.float32, _ACCUMULATOR))
    for step in range(steps):
        stage = step % STAGES
        mbarrier.wait(full.index(stage), (step // STAGES) & 1)
        left, right = a.index(stage), b.index(stage)
        if PAIR:
            first = warpgroup_mma(left, left.permute((1, 0)), first, is_async=True)
            second = warpgroup_mma(right, right.permute((1, 0)), second, is_async=True)
            first, second = warpgroup_mma_wait(num_outstanding=2, deps=(first, second))
            first = warpgroup_mma_init(first)
            second = warpgroup_mma_init(second)
        else:
            first = warpgroup_mma(left, right.permute((1, 0)), first, is_async=True)
            first = warpgroup_mma_init(warpgroup_mma_wait(num_outstanding=1, deps=(first,)))
        # The products of the step before are done, and its stage is free once all warps are here.
        gl.thread_barrier()
        mbarrier.arrive(empty.index((step + STAGES - 1) % STAGES), count=1, pred=step > 0)
    if PAIR:
        first, second = warpgroup_mma_wait(num_outstanding=0, deps=(first, second))
    else:
        first = warpgroup_mma_wait(num_outstanding=0, deps=(first,))
        second = first
    # No warp multiplies any more: every stage but those of the addends is free.
    gl.thread_barrier()
    return first, second


@gluon.jit
def _send(value, on_diagonal, plain, turned, out, batch, row, col):
    """Begin the stores of out[row:, col:] = word and out[col:, row:] = word^T; the word.

    Of a tile on the diagonal the lower triangle, mirrored.
    """
    i = gl.arange(0, _SIDE, layout=_I)[:, None]
    j = gl.arange(0, _SIDE, layout=_J)[None, :]
    word = gl.where(row + i == col + j, value + on_diagonal, value).to(plain.dtype)
    turned.permute((1, 0)).store(word)
    if row == col:
        gl.thread_barrier()
        word = gl.where(i >= j, word, turned.load(_ACCUMULATOR))
    plain.store(word)
    fence_async_shared()
    gl.thread_barrier()
    if row != col:
        tma.async_copy_shared_to_global(out, [batch, col, row], place(turned, out))
    tma.async_copy_shared_to_global(out, [batch, row, col], place(plain, out))
    return word


@gluon.jit
def _finish(
    acc, a, b, full, out, out_2, squares, batch, row, col, terms, terms_2, addends_at, results_at,
    HAS_T: gl.constexpr, HAS_Z: gl.constexpr,
):  # fmt: skip
    """A tile's sums from its products: addends in one stage, results from others."""
    STAGES: gl.constexpr = a.shape[0]
    T = 0.0
    Z = 0.0
    stage = addends_at % STAGES
    if HAS_T or HAS_Z:
        mbarrier.wait(full.index(stage), (addends_at // STAGES) & 1)
    if HAS_T:
        T = a.index(stage).load(_ACCUMULATOR)
    if HAS_Z:
        Z = b.index(stage).load(_ACCUMULATOR)
    stage = results_at % STAGES
    value = weighted(acc, T, Z, terms, HAS_T, HAS_Z)
    word = _send(value, terms[3], a.index(stage), b.index(stage), out, batch, row, col)
    if out_2 is not None:
        stage = (results_at + 1) % STAGES
        value = weighted(acc, T, Z, terms_2, HAS_T, HAS_Z)
        _send(value, terms_2[3], a.index(stage), b.index(stage), out_2, batch, row, col)
    if squares is not None:
        wide = word.to(gl.float32)
        total = gl.sum(gl.sum(wide * wide, axis=1), axis=0)
        gl.store(squares, gl.where(row == col, total, 2.0 * total))


@gluon.jit
def _consume(
    programs, per_matrix, pairs, count, margin, steps, out, out_2, squares, norms, unit, a, b, full, empty,
    known, terms, terms_2,
    SCALING: gl.constexpr, COUNT: gl.constexpr, HAS_T: gl.constexpr, HAS_Z: gl.constexpr,
):  # fmt: skip
    """The multiplying warps' part of a program."""
    batch, row, col, kind = tile_at(programs)
    slot = gl.program_id(0)
    if squares is not None:
        # Two tiles of every pair, which come first.
        squares += slot + batch * pairs + gl.minimum(slot - batch * per_matrix, pairs)
    # What is above may run while the previous kernel finishes; what is below reads and writes what it did.
    gdc_wait()
    gdc_launch_dependents()
    terms, terms_2 = scaled(norms, unit, slot, per_matrix, count, margin, batch, terms, terms_2, SCALING, COUNT)
    RESULTS: gl.constexpr = 1 if out_2 is None else 2
    if kind == PAIR:
        first, second = _accumulate(a, b, full, empty, steps, True)
        # Nothing is under way to any stage.
        mbarrier.wait(known, 0)
        free = steps + (2 if HAS_T or HAS_Z else 0)
        _finish(
            first, a, b, full, out, out_2, squares, batch, row, row, terms, terms_2, steps, free, HAS_T, HAS_Z
        )  # fmt: skip
        if squares is not None:
            squares += 1
        _finish(
            second, a, b, full, out, out_2, squares, batch, col, col, terms, terms_2, steps + 1, free + RESULTS,
            HAS_T, HAS_Z,
        )  # fmt: skip
    else:
        first, second = _accumulate(a, b, full, empty, steps, False)
        mbarrier.wait(known, 0)
        free = steps + (1 if HAS_T or HAS_Z else 0)
        _finish(
            first, a, b, full, out, out_2, squares, batch, row, col, terms, terms_2, steps, free, HAS_T, HAS_Z
        )  # fmt: skip
    # Shared memory must last as long as anything is read from it.
    tma.store_wait(0)


@gluon.jit(do_not_specialize=["per_matrix", "pairs", "count", "steps"])
def hopper_small_sum_kernel(
    programs,  # (programs, 4) int32: tiling.Program, or as in diagonal_pairs
    left, right,  # (batches, n, depth) in blocks of (1, 64, 64); right is None for a square
    t, z,  # (batches, n, n) symmetric, in blocks of (1, 64, 64); or None
    out, out_2,  # the same; out_2 may be None
    squares,  # (batches, tiles) float32: sums of out's squares, or None; out has no term in I then
    norms,  # (batches, count) float32: sums of squares of A; limited and first
    unit,  # (batches,) float32: u; first writes it, later reads it
    per_matrix, pairs, count, margin, steps, p, of_t, of_z, of_i, p_2, of_t_2, of_z_2, of_i_2,
    SCALING: gl.constexpr, COUNT: gl.constexpr, STAGES: gl.constexpr, REGISTERS: gl.constexpr,
):  # fmt: skip
    """One tile per program, or a pair of them; `pairs` of the `per_matrix` programs of a matrix."""
    # Two tiles' addends and both results of each.
    gl.static_assert(STAGES >= 6)
    DTYPE: gl.constexpr = out.dtype
    HAS_T: gl.constexpr = t is not None
    HAS_Z: gl.constexpr = z is not None
    DESCRIPTORS: gl.constexpr = 2 + (right is not None) + (t is not None) + (z is not None) + (out_2 is not None)
    a = gl.allocate_shared_memory(DTYPE, [STAGES, _SIDE, _SIDE], WHOLE)
    b = gl.allocate_shared_memory(DTYPE, [STAGES, _SIDE, _SIDE], WHOLE)
    full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    empty = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    known = gl.allocate_shared_memory(gl.int64, [1], mbarrier.MBarrierLayout())
    for stage in gl.static_range(STAGES):
        mbarrier.init(full.index(stage), count=1)
        mbarrier.init(empty.index(stage), count=1)
    mbarrier.init(known, count=DESCRIPTORS)
    fence_async_shared()
    gl.thread_barrier()
    gl.warp_specialize(
        [
            (
                _consume,
                (
                    programs, per_matrix, pairs, count, margin, steps, out, out_2, squares, norms, unit,
                    a, b, full, empty, known, (p, of_t, of_z, of_i), (p_2, of_t_2, of_z_2, of_i_2),
                    SCALING, COUNT, HAS_T, HAS_Z,
                ),
            ),
            (fetch, (programs, steps, left, right, t, z, out, out_2, a, b, full, empty, known)),
        ],
        [1],
        [REGISTERS],
    )  # fmt: skip


def hopper_small_sums(
    matrices: Matrices,
    sums: Sequence[SumTerms],
    tiling: Tiling,
    outputs: Sequence[Tensor],
    *,
    scaling: Scaling = UNSCALED,
    squares: Tensor | None = None,
) -> None:
    """`iroot.kernels.symmetric_sum.triton_sums` for a `tiling` of 64 x 64, by this module's kernel."""
    M, N = matrices.M, matrices.N
    batches, n, depth = M.shape
    paired = M is N and saves_a_wave(n, batches, processors=processors(M.device))
    if paired:
        programs = device_pairs(n, batches, M.device)
    else:
        programs = device_programs(n, batches, tiling.block, tiling.tail, M.device)
    total = programs.shape[0]
    blocks = -(-n // SIDE)
    on_grid(hopper_small_sum_kernel, (total,))(
        programs, *(_blocks(A) for A in (M, None if M is N else N, matrices.T, matrices.Z)),
        _blocks(outputs[0]), _blocks(outputs[1] if len(sums) > 1 else None),
        squares, scaling.norms, scaling.unit, total // batches, blocks // 2 if paired else 0,
        scaling.count, scaling.margin, -(-depth // SIDE), *sums[0].values, *sums[-1].values,
        SCALING=KINDS[scaling.kind], COUNT=power_of_two(scaling.count), STAGES=STAGES,
        REGISTERS=_PRODUCER_REGISTERS,
        num_warps=WARPS, maxnreg=_REGISTERS, launch_pdl=True,
        # As in Triton's kernel, with which this one agrees bit for bit.
        enable_fp_fusion=False,
    )  # fmt: skip


def _blocks(A: Tensor | None) -> TensorDescriptor | None:
    return None if A is None else blocks_of(A, SIDE, SIDE)
