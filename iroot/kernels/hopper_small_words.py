# Device functions carry no Python types, and Triton has no type information:
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, disallow-untyped-calls=False
# mypy: disallow-untyped-decorators=False
"""The products of `iroot.kernels.words` in tiles of 64 x 64 for Hopper GPUs, in Gluon: for small roots.

`iroot.kernels.hopper_words` beside it has a program per multiprocessor and 64 rows of a tile for each group of warps. A
small tile has as many rows, so here two groups share the depth: of M N + N M each has one product, of one product each
has every other block of 64 columns. Their float32 sums are added once, in the epilogue, of which each has 32 columns
(`iroot/kernels/hopper_small_tile.py`). So words are Triton's up to the order of these sums, which rounds differently.

Gluon has no interpreter: this module is imported where its kernel is launched, and checked against Triton's kernel.
"""

from __future__ import annotations

import triton
from torch import Tensor
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import fence_async_shared, mbarrier, tma
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor
from triton.language.extra.cuda import gdc_wait

from iroot.kernels.device_tiles import device_programs
from iroot.kernels.hopper_blocks import WHOLE, blocks_of
from iroot.kernels.hopper_small_tile import fetch, finish, leave_sums, multiply
from iroot.kernels.hopper_word_epilogue import HALF_ROWS
from iroot.kernels.hopper_words import scalars
from iroot.kernels.rehearsal import on_grid
from iroot.kernels.tiling import Tiling
from iroot.kernels.word_launch import Call, Inputs, Outputs
from iroot.kernels.words import PRODUCT, QUADRATIC, UPDATE

_STEP = 64
"""Columns of a factor in a stage."""

# Two programs on a multiprocessor: the 136 tiles of n = 1024 are one wave, and another product can run beside.
_STAGES = gl.constexpr(6)
_REGISTERS = 80
"""Of a thread at launch, of twelve warps (the copying warp counts as four)."""

_GROUP_REGISTERS = gl.constexpr(104)
_PRODUCER_REGISTERS = gl.constexpr(24)
_GROUP_WARPS = 4

_EXCHANGE = gl.constexpr(gl.SwizzledSharedLayout(vec=1, per_phase=1, max_phase=1, order=[1, 0]))


@gluon.jit
def _consume(
    out, mirror, rest_out, stages, staging, exchange, full, empty, others, shifts, trace_sums, left_errors, errors,
    tile_sums, scale, slot, batch, row, col, steps, tiles, terms, blocks, n, coefficients,
    KIND: gl.constexpr, BOTH: gl.constexpr, FINAL: gl.constexpr, HAS_Q: gl.constexpr, HAS_V: gl.constexpr,
    HAS_TRACE: gl.constexpr, HAS_E: gl.constexpr, ADDENDS: gl.constexpr, COUNT: gl.constexpr, BLOCKS: gl.constexpr,
    PROMOTE_K: gl.constexpr, OVERLAP: gl.constexpr, GROUP: gl.constexpr,
):  # fmt: skip
    """A group's part of a program: every other step, and columns 32 GROUP to 32 GROUP + 31 of the result."""
    if OVERLAP:
        gdc_wait()
    # Their loads arrive no later than the first stages.
    factors, mean, shift = scalars(
        shifts, trace_sums, left_errors, scale, batch, terms, blocks, n, coefficients,
        KIND, BOTH, FINAL, HAS_Q, HAS_TRACE, COUNT, BLOCKS,
    )  # fmt: skip
    total = (2 if BOTH else 1) * steps
    acc = multiply(stages, full, empty, total, GROUP, PROMOTE_K)
    if ADDENDS > 0:
        mbarrier.wait(others.index(0), 0)
    sums = finish(
        acc, stages, staging, full, others.index(1), others.index(2), out, mirror, rest_out, batch, row, col, total, n,
        factors, mean, KIND, FINAL, HAS_Q, HAS_V, HAS_E, GROUP,
    )  # fmt: skip
    if not FINAL:
        leave_sums(
            sums, exchange, others.index(3), errors, tile_sums, slot, batch, row, blocks, row == col,
            KIND, HAS_V, GROUP,
        )  # fmt: skip
        if GROUP == 0 and slot % tiles == 0:
            gl.store(shifts[2] + batch, shift)
    # Shared memory must last as long as anything is read from it.
    tma.store_wait(0)


@gluon.jit(
    do_not_specialize=[
        "steps", "tiles", "terms", "blocks", "n", "c0", "c1", "c2", "mid", "inverse_radius", "factor", "linear",
        "inverse_p",
    ],
    # Sums of one launch lie behind each other: one kernel for all shapes.
    do_not_specialize_on_alignment=[
        "programs", "left_shift", "right_shift", "out_shift", "trace_sums", "left_errors", "errors", "norm_sums",
        "p_sums", "v_sums", "scale",
    ],
)  # fmt: skip
def hopper_small_word_kernel(
    programs,  # (number of tiles, 4) int32: see tiling.Program
    left, right,  # M and N, (batches, n, n) 16-bit, in blocks of (1, 64, 64); one object for a square
    p_word, q_word,  # P = N, and Q = M or V of a square, in blocks of (1, 64, 32)
    extra,  # E, float32 R of Y or 16-bit V beside Q, in blocks of (1, 64, 32)
    out, mirror,  # the result in blocks of (1, 64, 32) and (1, 32, 64), or (1, 32, 32) in float32
    rest_out,  # the result's R, float32, lower triangle, in blocks of (1, 64, 32)
    left_shift, right_shift, out_shift,  # (batches,) float32
    trace_sums,  # (batches, terms) float32: sums left * right
    left_errors, errors,  # (batches, blocks) float32: what the diagonals of Y, and of the update, lost
    norm_sums, p_sums, v_sums,  # (batches, tiles) float32: sums out * out, out * P, out * V
    scale,  # (batches,) float32: FINAL results are multiplied by scale^(-1/p)
    steps, tiles, terms, blocks, n, c0, c1, c2, mid, inverse_radius, factor, linear, inverse_p,
    KIND: gl.constexpr, BOTH: gl.constexpr, FINAL: gl.constexpr, HAS_Q: gl.constexpr, HAS_V: gl.constexpr,
    HAS_TRACE: gl.constexpr, COUNT: gl.constexpr, BLOCKS: gl.constexpr, PROMOTE_K: gl.constexpr,
    OVERLAP: gl.constexpr, EARLY: gl.constexpr,
):  # fmt: skip
    """One tile per program; 64 columns of M and N in each of _STAGES stages, `steps` of them in n.

    KIND, HAS_Q, HAS_V and HAS_TRACE say what there is; another operand of the same kind stands in for an absent one.
    """
    DTYPE: gl.constexpr = left.dtype
    HAS_E: gl.constexpr = KIND != PRODUCT or (HAS_Q and HAS_V)
    ADDENDS: gl.constexpr = 0 if KIND == QUADRATIC else (2 if HAS_Q or HAS_V else 1)
    gl.static_assert(_STAGES % 2 == 0)
    gl.static_assert(_STAGES >= 4)
    a = gl.allocate_shared_memory(DTYPE, [_STAGES, 64, 64], WHOLE)
    b = gl.allocate_shared_memory(DTYPE, [_STAGES, 64, 64], WHOLE)
    first = gl.allocate_shared_memory(DTYPE, [2, 64, 32], HALF_ROWS)
    second = gl.allocate_shared_memory(DTYPE, [2, 64, 32], HALF_ROWS)
    exchange = gl.allocate_shared_memory(gl.float32, [2, 2], _EXCHANGE)
    full = gl.allocate_shared_memory(gl.int64, [_STAGES, 1], mbarrier.MBarrierLayout())
    empty = gl.allocate_shared_memory(gl.int64, [_STAGES, 1], mbarrier.MBarrierLayout())
    for stage in gl.static_range(_STAGES):
        mbarrier.init(full.index(stage), count=1)
        mbarrier.init(empty.index(stage), count=1)
    # P and Q are here; both groups' sums are handed over; a diagonal tile is; the second group's own sums are.
    others = gl.allocate_shared_memory(gl.int64, [4, 1], mbarrier.MBarrierLayout())
    mbarrier.init(others.index(0), count=1)
    mbarrier.init(others.index(1), count=2)
    mbarrier.init(others.index(2), count=2)
    mbarrier.init(others.index(3), count=1)
    fence_async_shared()
    gl.thread_barrier()
    slot = gl.program_id(0)
    batch = gl.load(programs + 4 * slot)
    row = gl.load(programs + 4 * slot + 1)
    col = gl.load(programs + 4 * slot + 2)
    stages = (a, b)
    staging = (first, second)
    shifts = (left_shift, right_shift, out_shift)
    coefficients = (c0, c1, c2, mid, inverse_radius, factor, linear, inverse_p)
    gl.warp_specialize(
        [
            (
                _consume,
                (
                    out, mirror, rest_out, stages, staging, exchange, full, empty, others, shifts, trace_sums,
                    left_errors, errors, (norm_sums, p_sums, v_sums), scale,
                    slot, batch, row, col, steps, tiles, terms, blocks, n, coefficients,
                    KIND, BOTH, FINAL, HAS_Q, HAS_V, HAS_TRACE, HAS_E, ADDENDS, COUNT, BLOCKS, PROMOTE_K, OVERLAP, 0,
                ),
            ),
            (
                _consume,
                (
                    out, mirror, rest_out, stages, staging, exchange, full, empty, others, shifts, trace_sums,
                    left_errors, errors, (norm_sums, p_sums, v_sums), scale,
                    slot, batch, row, col, steps, tiles, terms, blocks, n, coefficients,
                    KIND, BOTH, FINAL, HAS_Q, HAS_V, HAS_TRACE, HAS_E, ADDENDS, COUNT, BLOCKS, PROMOTE_K, OVERLAP, 1,
                ),
            ),
            (
                fetch,
                (
                    left, right, p_word, q_word, extra, stages, staging, full, empty,
                    others.index(0), batch, row, col, steps, BOTH, ADDENDS, HAS_E, OVERLAP, EARLY,
                ),
            ),
        ],
        [4, 1],
        [_GROUP_REGISTERS, _PRODUCER_REGISTERS],
    )  # fmt: skip


def hopper_small_word(call: Call, inputs: Inputs, outputs: Outputs, tiling: Tiling, *, chained: bool = True) -> None:
    """`iroot.kernels.word_launch.triton_launch` by this module's kernel: of `tiling` it takes the promotion.

    Words differ from Triton's by the order of float32 sums: a word's last bit now and then.

    Args:
        call: what `iroot.kernels.word_launch.takes_gluon` says it has a form for.
        inputs: the factors, the sums that give their trace, and a word to take sums with.
        outputs: a word, or the final result of a product.
        tiling: 64 rows; sums of 32 columns, or of a multiple of 64, or 0 for one sum.
        chained: the kernel before it in its stream is the only one it waits for.
    """
    M, N, word = inputs.M, inputs.N, outputs.word
    batches, n, _ = M.word.shape
    programs = device_programs(n, batches, tiling.block, tiling.tail, M.word.device)
    blocks, terms = triton.cdiv(n, tiling.block), 0 if inputs.trace is None else inputs.trace.shape[-1]
    written = M if word is None else word  # not written to where there is no word
    absent = M.shift
    on_grid(hopper_small_word_kernel, (programs.shape[0],))(
        programs, *_descriptors(call, inputs, outputs), M.shift, N.shift, written.shift,
        absent if inputs.trace is None else inputs.trace,
        absent if M.errors is None else M.errors, absent if written.errors is None else written.errors,
        written.sums.norm, written.sums.with_p, written.sums.with_v,
        absent if outputs.scale is None else outputs.scale,
        triton.cdiv(n, _STEP), programs.shape[0] // batches, terms, blocks, n,
        *call.chebyshev, call.mid, 1.0 / call.radius, call.factor, call.linear, 1.0 / outputs.p,
        KIND=call.kind, BOTH=call.both, FINAL=word is None, HAS_Q=M.word is not N.word,
        HAS_V=inputs.partner is not None, HAS_TRACE=inputs.trace is not None,
        # Fewer kernels, the same sums.
        COUNT=triton.next_power_of_2(max(terms, 256)), BLOCKS=triton.next_power_of_2(max(blocks, 32)),
        PROMOTE_K=tiling.promote_k, OVERLAP=chained, EARLY=tiling.lets_next_in,
        num_warps=_GROUP_WARPS, maxnreg=_REGISTERS, launch_pdl=chained,
        # As in Triton's kernel: slices round alike.
        enable_fp_fusion=False,
    )  # fmt: skip


def _descriptors(call: Call, inputs: Inputs, outputs: Outputs) -> tuple[TensorDescriptor, ...]:
    """The kernel's, in its order."""
    M, N, word = inputs.M, inputs.N, outputs.word
    is_square, is_product = M.word is N.word, call.kind == PRODUCT.value
    partner = None if inputs.partner is None else inputs.partner.word
    result = outputs.final if word is None else word.word
    assert result is not None
    left = blocks_of(M.word, 64, _STEP)

    def half(A: Tensor | None) -> TensorDescriptor:
        return left if A is None else blocks_of(A, 64, 32)

    return (
        left,
        left if is_square else blocks_of(N.word, 64, _STEP),
        half(N.word),
        half(partner if is_square else M.word),
        half((None if is_square else partner) if is_product else M.rest),
        half(result),
        blocks_of(result, 32, 32 if word is None else 64),
        half(word.rest if word is not None and call.kind == UPDATE.value else None),
    )
