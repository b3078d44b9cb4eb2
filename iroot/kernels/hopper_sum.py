# Device functions carry no Python types, and Triton has no type information:
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, disallow-untyped-calls=False
# mypy: disallow-untyped-decorators=False
"""The sums of `iroot.kernels.symmetric_sum` for Hopper GPUs, in Gluon: the same tiles, products and roundings.

In Triton's kernel every addend is awaited where it is used, and every store where it is made. Here one warp fetches the
operands and, meanwhile, a tile's addends, and runs ahead into the next tile; eight warps multiply, and the copy engine
takes their results away while they go on (`ci/adr/0027-gluon-on-hopper.md`). One program is on a multiprocessor.

Gluon has no interpreter: this module is imported where its kernel is launched, and checked against Triton's kernel,
with which it agrees bit for bit.
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
from triton.language.extra.cuda import gdc_wait

from iroot.kernels.device_tiles import device_programs
from iroot.kernels.hopper_blocks import PANEL, WHOLE, blocks_of, total_of
from iroot.kernels.hopper_epilogue import begin, end, finish
from iroot.kernels.hopper_fetch import fetch, program_at
from iroot.kernels.operands import processors
from iroot.kernels.rehearsal import on_grid
from iroot.kernels.symmetric_sum import (
    UNSCALED,
    Matrices,
    Scaling,
    SumTerms,
    limit_of,
    power_of_two,
    unit_of,
)
from iroot.kernels.tiling import Tiling

BLOCK_K, STAGES, WARPS = 64, 4, 8
"""Of every launch: with both addends' tiles they fill a multiprocessor's shared memory."""

_PRODUCER_REGISTERS = 24

KINDS = {"unscaled": 0, "limited": 1, "first": 2, "later": 3}
_LIMITED = gl.constexpr(KINDS["limited"])
_FIRST = gl.constexpr(KINDS["first"])
_LATER = gl.constexpr(KINDS["later"])

_limit_of = gluon.jit(limit_of.fn)
_unit_of = gluon.jit(unit_of.fn)


@gluon.jit
def _accumulate(stages, full, empty, steps, turn, BLOCK: gl.constexpr, TAIL: gl.constexpr, WIDE: gl.constexpr):
    """A tile's products in float32, BLOCK columns and, of a wide one, TAIL more; all stages but the last are freed."""
    a, b, b_tail = stages
    DEPTH: gl.constexpr = a.shape[0]
    done = turn * steps
    HEAD: gl.constexpr = gl.NVMMADistributedLayout(
        version=[3, 0], warps_per_cta=[gl.num_warps(), 1], instr_shape=[16, BLOCK, 16]
    )
    head = warpgroup_mma_init(gl.zeros([BLOCK, BLOCK], gl.float32, HEAD))
    side = 0.0
    if WIDE:
        SIDE: gl.constexpr = gl.NVMMADistributedLayout(
            version=[3, 0], warps_per_cta=[gl.num_warps(), 1], instr_shape=[16, TAIL, 16]
        )
        side = warpgroup_mma_init(gl.zeros([BLOCK, TAIL], gl.float32, SIDE))
    for step in range(steps):
        stage = (done + step) % DEPTH
        mbarrier.wait(full.index(stage), ((done + step) // DEPTH) & 1)
        left = a.index(stage)
        head = warpgroup_mma(left, b.index(stage).permute((1, 0)), head, is_async=True)
        if WIDE:
            side = warpgroup_mma(left, b_tail.index(stage).permute((1, 0)), side, is_async=True)
            head, side = warpgroup_mma_wait(num_outstanding=2, deps=(head, side))
            head = warpgroup_mma_init(head)
            side = warpgroup_mma_init(side)
        else:
            head = warpgroup_mma_init(warpgroup_mma_wait(num_outstanding=1, deps=(head,)))
        # The products of the step before are done, and its stage is free once all warps are here.
        gl.thread_barrier()
        mbarrier.arrive(empty.index((done + step + DEPTH - 1) % DEPTH), count=1, pred=step > 0)
    if WIDE:
        head, side = warpgroup_mma_wait(num_outstanding=0, deps=(head, side))
    else:
        head = warpgroup_mma_wait(num_outstanding=0, deps=(head,))
    return head, side


@gluon.jit
def _consume_tile(
    results, results_2, stages, staging, full, empty, fetched, drained, batch, row, col, steps, turn,
    terms, terms_2,
    HAS_T: gl.constexpr, HAS_Z: gl.constexpr, RESULTS: gl.constexpr,
    BLOCK: gl.constexpr, TAIL: gl.constexpr, WIDE: gl.constexpr,
):  # fmt: skip
    """A tile's products and sums; the sum of its first result's squares."""
    ADDENDS: gl.constexpr = (1 if HAS_T else 0) + (1 if HAS_Z else 0)
    DEPTH: gl.constexpr = stages[0].shape[0]
    head, side = _accumulate(stages, full, empty, steps, turn, BLOCK, TAIL, WIDE)
    begin(empty.index(((turn + 1) * steps - 1) % DEPTH), fetched, turn, ADDENDS)
    total = finish(
        head, side, staging, stages, results, results_2, batch, row, col, terms, terms_2, HAS_T, HAS_Z, RESULTS, WIDE
    )
    if ADDENDS > 0 or RESULTS > 1:
        end(drained)
    return total


@gluon.jit
def scaled(
    norms, unit, slot, tiles, count, margin, batch, terms, terms_2, SCALING: gl.constexpr, COUNT: gl.constexpr
):  # fmt: skip
    """The factors of a tile's sums, with the scalars that only the device knows."""
    p, of_t, of_z, of_i = terms
    p_2, of_t_2, of_z_2, of_i_2 = terms_2
    if SCALING == _LIMITED:
        p *= _limit_of(total_of(norms, batch, count, COUNT))
    if SCALING == _FIRST:
        u = _unit_of(gl.sqrt(total_of(norms, batch, count, COUNT)), margin)
        p *= u * u
        p_2 *= u * u
        of_z *= u
        of_z_2 *= u
        if slot % tiles == 0:
            gl.store(unit + batch, u)
    if SCALING == _LATER:
        u = gl.load(unit + batch)
        of_z *= u
        of_z_2 *= u
    return (p, of_t, of_z, of_i), (p_2, of_t_2, of_z_2, of_i_2)


@gluon.jit
def _consume(
    programs, total, tiles, count, margin, steps, results, results_2, squares, norms, unit,
    stages, staging, full, empty, fetched, drained, terms, terms_2,
    SCALING: gl.constexpr, COUNT: gl.constexpr, HAS_T: gl.constexpr, HAS_Z: gl.constexpr, RESULTS: gl.constexpr,
    BLOCK: gl.constexpr, TAIL: gl.constexpr, OVERLAP: gl.constexpr,
):  # fmt: skip
    """The multiplying warps' part of a program."""
    first = gl.program_id(0)
    stride = gl.num_programs(0)
    tile = program_at(programs, first, total)
    if OVERLAP:
        # What is above may run while the previous kernel finishes; what is below reads and writes what it did.
        gdc_wait()
    for turn in range(gl.cdiv(total - first, stride)):
        slot = first + turn * stride
        batch, row, col, wide = tile
        tile = program_at(programs, slot + stride, total)
        factors, factors_2 = scaled(
            norms, unit, slot, tiles, count, margin, batch, terms, terms_2, SCALING, COUNT
        )  # fmt: skip
        if TAIL > 0:
            if wide == 1:
                square_sum = _consume_tile(
                    results, results_2, stages, staging, full, empty, fetched, drained, batch, row, col, steps,
                    turn, factors, factors_2, HAS_T, HAS_Z, RESULTS, BLOCK, TAIL, True,
                )  # fmt: skip
            else:
                square_sum = _consume_tile(
                    results, results_2, stages, staging, full, empty, fetched, drained, batch, row, col, steps,
                    turn, factors, factors_2, HAS_T, HAS_Z, RESULTS, BLOCK, TAIL, False,
                )  # fmt: skip
        else:
            square_sum = _consume_tile(
                results, results_2, stages, staging, full, empty, fetched, drained, batch, row, col, steps,
                turn, factors, factors_2, HAS_T, HAS_Z, RESULTS, BLOCK, TAIL, False,
            )  # fmt: skip
        if squares is not None:
            gl.store(squares + slot, square_sum)
    # Shared memory must last as long as anything is read from it.
    tma.store_wait(0)


@gluon.jit(do_not_specialize=["total", "tiles", "count", "steps"])
def hopper_sum_kernel(
    programs,  # (number of tiles, 4) int32: see tiling.Program
    left, right, right_tail,  # (batches, n, depth) in blocks of (1, BLOCK or TAIL, depth of a stage)
    t, t_tail, z, z_tail,  # (batches, n, n) symmetric, in blocks of (1, BLOCK, PANEL or TAIL); or None
    out, out_tail, mirror_tail,  # (batches, n, n) in blocks of (1, PANEL, PANEL), (1, BLOCK, TAIL) and (1, TAIL, BLOCK)
    out_2, out_2_tail, mirror_2_tail,  # the same for a second result, or None
    squares,  # (batches, tiles) float32: sums of out's squares, or None; out has no term in I then
    norms,  # (batches, count) float32: sums of squares of A; limited and first
    unit,  # (batches,) float32: u; first writes it, later reads it
    total, tiles, count, margin, steps, p, of_t, of_z, of_i, p_2, of_t_2, of_z_2, of_i_2,
    SCALING: gl.constexpr, COUNT: gl.constexpr, BLOCK: gl.constexpr, TAIL: gl.constexpr, STEP: gl.constexpr,
    DEPTH: gl.constexpr, REGISTERS: gl.constexpr, OVERLAP: gl.constexpr,
):  # fmt: skip
    """Tiles slot, slot + programs, slot + 2 programs, ... of `total`; STEP columns of the operands in each of DEPTH
    stages.
    """
    DTYPE: gl.constexpr = out.dtype
    HAS_T: gl.constexpr = t is not None
    HAS_Z: gl.constexpr = z is not None
    RESULTS: gl.constexpr = 1 if out_2 is None else 2
    a = gl.allocate_shared_memory(DTYPE, [DEPTH, BLOCK, STEP], WHOLE)
    b = gl.allocate_shared_memory(DTYPE, [DEPTH, BLOCK, STEP], WHOLE)
    # T and the first result; Z and the first result's transpose.
    first = gl.allocate_shared_memory(DTYPE, [BLOCK // PANEL, BLOCK, PANEL], WHOLE)
    second = gl.allocate_shared_memory(DTYPE, [BLOCK // PANEL, BLOCK, PANEL], WHOLE)
    # Without a tail what would hold it is never touched, but partitions take no None.
    b_tail = a
    first_tail = a
    second_tail = a
    if TAIL > 0:
        NARROW: gl.constexpr = gl.NVMMASharedLayout(swizzle_byte_width=2 * TAIL, element_bitwidth=16, rank=2)
        b_tail = gl.allocate_shared_memory(DTYPE, [DEPTH, TAIL, STEP], WHOLE)
        first_tail = gl.allocate_shared_memory(DTYPE, [BLOCK, TAIL], NARROW)
        second_tail = gl.allocate_shared_memory(DTYPE, [BLOCK, TAIL], NARROW)
    full = gl.allocate_shared_memory(gl.int64, [DEPTH, 1], mbarrier.MBarrierLayout())
    empty = gl.allocate_shared_memory(gl.int64, [DEPTH, 1], mbarrier.MBarrierLayout())
    fetched = gl.allocate_shared_memory(gl.int64, [1], mbarrier.MBarrierLayout())
    drained = gl.allocate_shared_memory(gl.int64, [1], mbarrier.MBarrierLayout())
    for stage in gl.static_range(DEPTH):
        mbarrier.init(full.index(stage), count=1)
        mbarrier.init(empty.index(stage), count=1)
    mbarrier.init(fetched, count=1)
    mbarrier.init(drained, count=1)
    fence_async_shared()
    gl.thread_barrier()
    stages = (a, b, b_tail)
    staging = (first, first_tail, second, second_tail)
    gl.warp_specialize(
        [
            (
                _consume,
                (
                    programs, total, tiles, count, margin, steps, (out, out_tail, mirror_tail),
                    (out_2, out_2_tail, mirror_2_tail), squares, norms, unit,
                    stages, staging, full, empty, fetched, drained,
                    (p, of_t, of_z, of_i), (p_2, of_t_2, of_z_2, of_i_2),
                    SCALING, COUNT, HAS_T, HAS_Z, RESULTS, BLOCK, TAIL, OVERLAP,
                ),
            ),
            (
                fetch,
                (
                    programs, total, steps, (left, right, right_tail), (t, t_tail, z, z_tail), stages, staging,
                    full, empty, fetched, drained, HAS_T, HAS_Z, RESULTS, BLOCK, TAIL, OVERLAP,
                ),
            ),
        ],
        [1],
        [REGISTERS],
    )  # fmt: skip


def hopper_sums(
    matrices: Matrices,
    sums: Sequence[SumTerms],
    tiling: Tiling,
    outputs: Sequence[Tensor],
    *,
    scaling: Scaling = UNSCALED,
    squares: Tensor | None = None,
) -> None:
    """`iroot.kernels.symmetric_sum.triton_sums` by this module's kernel: of `tiling` it takes the cut alone."""
    M, N = matrices.M, matrices.N
    batches, n, depth = M.shape
    block, tail = tiling.block, tiling.tail
    programs = device_programs(n, batches, block, tail, M.device)
    total = programs.shape[0]
    second = outputs[1] if len(sums) > 1 else None
    left = _blocks(M, block, BLOCK_K)
    panel = PANEL.value
    on_grid(hopper_sum_kernel, (min(total, processors(M.device)),))(
        programs, left, left if M is N else _blocks(N, block, BLOCK_K), _blocks(N, tail, BLOCK_K),
        *(_blocks(A, block, columns) for A in (matrices.T, matrices.Z) for columns in (panel, tail)),
        *(
            _blocks(A, *sides)
            for A in (outputs[0], second)
            for sides in ((panel, panel), (block, tail), (tail, block))
        ),
        squares, scaling.norms, scaling.unit, total, total // batches, scaling.count, scaling.margin,
        -(-depth // BLOCK_K), *sums[0].values, *sums[-1].values,
        SCALING=KINDS[scaling.kind], COUNT=power_of_two(scaling.count), BLOCK=block, TAIL=tail, STEP=BLOCK_K,
        DEPTH=STAGES, REGISTERS=_PRODUCER_REGISTERS, OVERLAP=True, num_warps=WARPS, launch_pdl=True,
        # As in Triton's kernel, with which this one agrees bit for bit.
        enable_fp_fusion=False,
    )  # fmt: skip


def _blocks(A: Tensor | None, rows: int, columns: int) -> TensorDescriptor | None:
    return None if A is None or rows * columns == 0 else blocks_of(A, rows, columns)
