# Device functions carry no Python types, and Triton has no type information:
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, disallow-untyped-calls=False
# mypy: disallow-untyped-decorators=False
"""The sums of `iroot.kernels.symmetric_sum` with M = N for Hopper GPUs, in whole waves of 128 x 256, in Gluon.

Slots are `iroot.kernels.wide_tiles`': a tile of 128 x 256, or two of 128 x 128 on the diagonal. As many programs as
multiprocessors take slot after slot (`ci/adr/0033-wide-slots.md`):

    fetch      one warp: operands, stage by stage, then the addends' columns in four stages, then the next slot
    multiply   two groups of four warps, 64 rows of every tile each; they do not wait for each other
    store      one warp: results leave from where addends lay, as they are and transposed, which frees these stages

64 columns of a slot are a result step: blocks of 64 x 64 of T and Z, one of each for a group, and in their places the
group's result and its transpose. A second result has a step of its own.

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
    warpgroup_mma,
    warpgroup_mma_init,
    warpgroup_mma_wait,
)
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor
from triton.language.extra.cuda import gdc_wait

from iroot.kernels.device_tiles import device_slots
from iroot.kernels.hopper_blocks import PANEL, WHOLE, blocks_of
from iroot.kernels.hopper_epilogue import weighted
from iroot.kernels.hopper_fetch import program_at
from iroot.kernels.hopper_sum import KINDS, scaled
from iroot.kernels.hopper_wide_copies import blocks_in, fetch, store
from iroot.kernels.operands import processors
from iroot.kernels.rehearsal import on_grid
from iroot.kernels.symmetric_sum import UNSCALED, Matrices, Scaling, SumTerms, power_of_two
from iroot.kernels.tiling import Tiling
from iroot.kernels.wide_tiles import SIDE

STAGES = 4
"""Five do not fit a multiprocessor's shared memory; as many as a slot has result steps of one result."""

_GROUP_WARPS = 4
_GROUP_REGISTERS = gl.constexpr(240)
_COPY_REGISTERS = gl.constexpr(24)

_TILE = gl.constexpr(gl.NVMMADistributedLayout(version=[3, 0], warps_per_cta=[4, 1], instr_shape=[16, 2 * SIDE, 16]))
_LONE = gl.constexpr(gl.NVMMADistributedLayout(version=[3, 0], warps_per_cta=[4, 1], instr_shape=[16, SIDE, 16]))
_BLOCK = gl.constexpr(gl.NVMMADistributedLayout(version=[3, 0], warps_per_cta=[4, 1], instr_shape=[16, 64, 16]))
_I = gl.constexpr(gl.SliceLayout(1, _BLOCK.value))
_J = gl.constexpr(gl.SliceLayout(0, _BLOCK.value))


@gluon.jit
def _tile(a, b, full, empty, first, steps, GROUP: gl.constexpr):
    """A group's 64 rows of a tile of 256 columns, in float32."""
    DEPTH: gl.constexpr = b.shape[0]
    acc = warpgroup_mma_init(gl.zeros([PANEL, 4 * PANEL], gl.float32, _TILE))
    for step in range(first, first + steps):
        stage = step % DEPTH
        mbarrier.wait(full.index(stage), (step // DEPTH) & 1)
        acc = warpgroup_mma(a.index(2 * stage + GROUP), b.index(stage).permute((1, 0)), acc, is_async=True)
        acc = warpgroup_mma_init(warpgroup_mma_wait(num_outstanding=1, deps=(acc,)))
        # The products of the step before are done, and its stage is free once all four warps are here.
        gl.thread_barrier()
        mbarrier.arrive(empty.index((step + DEPTH - 1) % DEPTH), count=1, pred=step > first)
    acc = warpgroup_mma_wait(num_outstanding=0, deps=(acc,))
    gl.thread_barrier()
    mbarrier.arrive(empty.index((first + steps - 1) % DEPTH), count=1)
    return acc.reshape([PANEL, 2, 2 * PANEL]).permute((0, 2, 1)).split()


@gluon.jit
def _two_lone(b, full, empty, first, steps, GROUP: gl.constexpr):
    """A group's 64 rows of both tiles of a pair."""
    DEPTH: gl.constexpr = b.shape[0]
    blocks = blocks_in(b)
    halves = b._reinterpret(b.dtype, [2 * DEPTH, 2 * PANEL, PANEL], WHOLE)
    one = warpgroup_mma_init(gl.zeros([PANEL, 2 * PANEL], gl.float32, _LONE))
    two = warpgroup_mma_init(gl.zeros([PANEL, 2 * PANEL], gl.float32, _LONE))
    for step in range(first, first + steps):
        stage = step % DEPTH
        mbarrier.wait(full.index(stage), (step // DEPTH) & 1)
        at = 4 * stage + GROUP
        one = warpgroup_mma(blocks.index(at), halves.index(2 * stage).permute((1, 0)), one, is_async=True)
        two = warpgroup_mma(blocks.index(at + 2), halves.index(2 * stage + 1).permute((1, 0)), two, is_async=True)
        one, two = warpgroup_mma_wait(num_outstanding=2, deps=(one, two))
        one = warpgroup_mma_init(one)
        two = warpgroup_mma_init(two)
        gl.thread_barrier()
        mbarrier.arrive(empty.index((step + DEPTH - 1) % DEPTH), count=1, pred=step > first)
    one, two = warpgroup_mma_wait(num_outstanding=0, deps=(one, two))
    gl.thread_barrier()
    mbarrier.arrive(empty.index((first + steps - 1) % DEPTH), count=1)
    return one, two


@gluon.jit
def _leave(value, on_diagonal, plain, turned, written, is_square, MEETS: gl.constexpr):
    """Round a block, and leave it and its transpose for the storing warp; the block.

    Of a square on the diagonal, which this may be where it MEETS, the lower triangle, mirrored.
    """
    word = value.to(plain.dtype)
    if MEETS:
        i = gl.arange(0, PANEL, layout=_I)[:, None]
        j = gl.arange(0, PANEL, layout=_J)[None, :]
        word = gl.where((i == j) & is_square, value + on_diagonal, value).to(plain.dtype)
    turned.permute((1, 0)).store(word)
    if MEETS and is_square:
        gl.thread_barrier()
        word = gl.where(i >= j, word, turned.load(_BLOCK))
    plain.store(word)
    fence_async_shared()
    gl.thread_barrier()
    mbarrier.arrive(written, count=1)
    return word


@gluon.jit
def _quarter(
    acc, b, full, written, total, first, crosses, terms, terms_2,
    HAS_T: gl.constexpr, HAS_Z: gl.constexpr, RESULTS: gl.constexpr, SQUARES: gl.constexpr,
    GROUP: gl.constexpr, QUARTER: gl.constexpr, PAIR: gl.constexpr,
):  # fmt: skip
    """Both sums of a group's 64 x 64 block; `total` and, row by row, the first one's squares over all it stands for.

    crosses: whether the tile's last 128 columns are on the diagonal.
    """
    DEPTH: gl.constexpr = b.shape[0]
    MEETS: gl.constexpr = (QUARTER % 2 == GROUP) and (PAIR or QUARTER > 1)
    blocks = blocks_in(b)
    step = first + QUARTER * RESULTS
    at = 4 * (step % DEPTH) + GROUP
    mbarrier.wait(full.index(step % DEPTH), (step // DEPTH) & 1)
    T = 0.0
    Z = 0.0
    if HAS_T:
        T = blocks.index(at).load(_BLOCK)
    if HAS_Z:
        Z = blocks.index(at + 2).load(_BLOCK)
    if HAS_T or HAS_Z:
        # Every warp has read its part before another writes there.
        gl.thread_barrier()
    value = weighted(acc, T, Z, terms, HAS_T, HAS_Z)
    done = written.index(QUARTER * RESULTS)
    word = _leave(value, terms[3], blocks.index(at), blocks.index(at + 2), done, crosses, MEETS)
    if SQUARES:
        weight = 2.0
        if PAIR or QUARTER > 1:
            # Below, on and above the diagonal.
            CROSSING: gl.constexpr = 2.0 if QUARTER % 2 < GROUP else (1.0 if QUARTER % 2 == GROUP else 0.0)
            weight = gl.where(crosses, CROSSING, 2.0)
        wide = word.to(gl.float32)
        total += weight * gl.sum(wide * wide, axis=1)
    if RESULTS > 1:
        step += 1
        at = 4 * (step % DEPTH) + GROUP
        mbarrier.wait(full.index(step % DEPTH), (step // DEPTH) & 1)
        value = weighted(acc, T, Z, terms_2, HAS_T, HAS_Z)
        done = written.index(QUARTER * RESULTS + 1)
        _leave(value, terms_2[3], blocks.index(at), blocks.index(at + 2), done, crosses, MEETS)
    return total


@gluon.jit
def _finish(
    halves, b, full, written, squares, slot, first, crosses, terms, terms_2,
    HAS_T: gl.constexpr, HAS_Z: gl.constexpr, RESULTS: gl.constexpr, GROUP: gl.constexpr, PAIR: gl.constexpr,
):  # fmt: skip
    """A group's rows of a slot, 64 columns at a time."""
    SQUARES: gl.constexpr = squares is not None
    total = gl.zeros([PANEL], gl.float32, _I)
    for half in gl.static_range(2):
        quarters = halves[half].reshape([PANEL, 2, PANEL]).permute((0, 2, 1)).split()
        for quarter in gl.static_range(2):
            acc = gl.convert_layout(quarters[quarter], _BLOCK, assert_trivial=True)
            total = _quarter(
                acc, b, full, written, total, first, crosses, terms, terms_2, HAS_T, HAS_Z, RESULTS, SQUARES,
                GROUP, 2 * half + quarter, PAIR,
            )  # fmt: skip
    if SQUARES:
        gl.store(squares + 2 * slot + GROUP, gl.sum(total, axis=0))


@gluon.jit
def _multiply(
    slots, total, per_matrix, squares, norms, unit, a, b, full, empty, written, turns, steps, count, margin,
    terms, terms_2,
    SCALING: gl.constexpr, COUNT: gl.constexpr, HAS_T: gl.constexpr, HAS_Z: gl.constexpr, RESULTS: gl.constexpr,
    GROUP: gl.constexpr,
):  # fmt: skip
    """A group's part: 64 of every tile's 128 rows."""
    following = program_at(slots, gl.program_id(0), total)
    gl.assume(steps > 0)
    gdc_wait()
    for turn in range(turns):
        batch, row, col, pair = following
        number = gl.program_id(0) + turn * gl.num_programs(0)
        following = program_at(slots, number + gl.num_programs(0), total)
        # Where u is written, both groups write the same.
        factors, factors_2 = scaled(
            norms, unit, number, per_matrix, count, margin, batch, terms, terms_2, SCALING, COUNT
        )  # fmt: skip
        first = turn * (steps + 4 * RESULTS)
        # Branches that met again before results are left would take ptxas too many registers (C7511).
        if pair == 1:
            lone = _two_lone(b, full, empty, first, steps, GROUP)
            _finish(
                lone, b, full, written, squares, number, first + steps, True, factors, factors_2,
                HAS_T, HAS_Z, RESULTS, GROUP, True,
            )  # fmt: skip
        else:
            halves = _tile(a, b, full, empty, first, steps, GROUP)
            _finish(
                halves, b, full, written, squares, number, first + steps, row == col + 2 * PANEL, factors, factors_2,
                HAS_T, HAS_Z, RESULTS, GROUP, False,
            )  # fmt: skip


@gluon.jit(do_not_specialize=["total", "per_matrix", "count", "steps"])
def hopper_wide_kernel(
    slots,  # (number of slots, 4) int32: see wide_tiles.Slot
    rows,  # M, (batches, n, depth), in blocks of (1, 128, 64)
    t, z,  # (batches, n, n) symmetric, in blocks of (1, 64, 64); or None
    out, out_2,  # the same; out_2 may be None
    squares,  # (batches, slots, 2) float32: sums of out's squares, or None; out has no term in I then
    norms,  # (batches, count) float32: sums of squares of A; limited and first
    unit,  # (batches,) float32: u; first writes it, later reads it
    total, per_matrix, count, margin, steps, p, of_t, of_z, of_i, p_2, of_t_2, of_z_2, of_i_2,
    SCALING: gl.constexpr, COUNT: gl.constexpr, DEPTH: gl.constexpr,
):  # fmt: skip
    """Slots number, number + programs, ... of `total`, `per_matrix` each; `steps` of 64 columns, DEPTH stages."""
    # Every stage is used again before a result step comes again: `written` is waited for before it is passed anew.
    gl.static_assert(DEPTH <= 4)
    DTYPE: gl.constexpr = out.dtype
    HAS_T: gl.constexpr = t is not None
    HAS_Z: gl.constexpr = z is not None
    RESULTS: gl.constexpr = 1 if out_2 is None else 2
    a = gl.allocate_shared_memory(DTYPE, [2 * DEPTH, PANEL, PANEL], WHOLE)
    b = gl.allocate_shared_memory(DTYPE, [DEPTH, 4 * PANEL, PANEL], WHOLE)
    full = gl.allocate_shared_memory(gl.int64, [DEPTH, 1], mbarrier.MBarrierLayout())
    empty = gl.allocate_shared_memory(gl.int64, [DEPTH, 1], mbarrier.MBarrierLayout())
    written = gl.allocate_shared_memory(gl.int64, [4 * RESULTS, 1], mbarrier.MBarrierLayout())
    for stage in gl.static_range(DEPTH):
        mbarrier.init(full.index(stage), count=1)
        mbarrier.init(empty.index(stage), count=2)
    for result in gl.static_range(4 * RESULTS):
        mbarrier.init(written.index(result), count=2)
    fence_async_shared()
    gl.thread_barrier()
    turns = gl.cdiv(total - gl.program_id(0), gl.num_programs(0))
    terms = (p, of_t, of_z, of_i)
    terms_2 = (p_2, of_t_2, of_z_2, of_i_2)
    gl.warp_specialize(
        [
            (
                _multiply,
                (
                    slots, total, per_matrix, squares, norms, unit, a, b, full, empty, written, turns, steps, count,
                    margin, terms, terms_2, SCALING, COUNT, HAS_T, HAS_Z, RESULTS, 0,
                ),
            ),
            (
                _multiply,
                (
                    slots, total, per_matrix, squares, norms, unit, a, b, full, empty, written, turns, steps, count,
                    margin, terms, terms_2, SCALING, COUNT, HAS_T, HAS_Z, RESULTS, 1,
                ),
            ),
            (fetch, (slots, total, rows, t, z, a, b, full, empty, turns, steps, RESULTS)),
            (store, (slots, total, out, out_2, b, written, empty, turns, steps)),
        ],
        [4, 1, 1],
        [_GROUP_REGISTERS, _COPY_REGISTERS, _COPY_REGISTERS],
    )  # fmt: skip


def hopper_wide_sums(
    matrices: Matrices,
    sums: Sequence[SumTerms],
    tiling: Tiling,
    outputs: Sequence[Tensor],
    *,
    scaling: Scaling = UNSCALED,
    squares: Tensor | None = None,
) -> None:
    """`iroot.kernels.symmetric_sum.triton_sums` by this module's kernel, where M is N; no `tiling` cuts it.

    squares: (batches, 2 slots of a matrix), beside `triton_sums`.
    """
    M = matrices.M
    batches, n, depth = M.shape
    slots = device_slots(n, batches, M.device)
    total = slots.shape[0]
    on_grid(hopper_wide_kernel, (min(total, processors(M.device)),))(
        slots, blocks_of(M, SIDE, PANEL.value),
        *(_blocks(A) for A in (matrices.T, matrices.Z, outputs[0], outputs[1] if len(sums) > 1 else None)),
        squares, scaling.norms, scaling.unit, total, total // batches, scaling.count, scaling.margin,
        -(-depth // PANEL.value), *sums[0].values, *sums[-1].values,
        SCALING=KINDS[scaling.kind], COUNT=power_of_two(scaling.count), DEPTH=STAGES,
        num_warps=_GROUP_WARPS, launch_pdl=True,
        # As in Triton's kernel, with which this one agrees bit for bit.
        enable_fp_fusion=False,
    )  # fmt: skip


def _blocks(A: Tensor | None) -> TensorDescriptor | None:
    return None if A is None else blocks_of(A, PANEL.value, PANEL.value)
