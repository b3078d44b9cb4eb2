# Device functions carry no Python types, and Triton has no type information:
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, disallow-untyped-calls=False
# mypy: disallow-untyped-decorators=False
"""The products of `iroot.kernels.words` for Hopper GPUs, in Gluon: the same tiles, products and roundings.

In Triton's kernel an epilogue's operands are awaited slice by slice, and so are its stores, while no tensor core works.
Here one warp fetches them during the loop; two groups of four warps have 64 rows of a tile each and go through the loop
on their own, so that one promotes its accumulator, or waits, under the other's tensor-core instructions; and the copy
engine takes results away (`ci/adr/0027-gluon-on-hopper.md`). One program is on a multiprocessor, and has one tile.

Gluon has no interpreter: this module is imported where its kernel is launched, and checked against Triton's kernel:
words, R and shifts agree bit for bit; sums of products over a tile are added in another order.
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
from iroot.kernels.hopper_blocks import WHOLE, blocks_of, total_of
from iroot.kernels.hopper_word_epilogue import finish
from iroot.kernels.hopper_word_fetch import fetch
from iroot.kernels.hopper_word_sums import multiply
from iroot.kernels.rehearsal import on_grid
from iroot.kernels.tiling import Tiling
from iroot.kernels.word_launch import Call, Inputs, Outputs
from iroot.kernels.words import PRODUCT, QUADRATIC, UPDATE

STAGES = 4
"""With the epilogue's operands they fill a multiprocessor's shared memory; a final result leaves from all of them."""

_STEP = 64
"""Columns of a factor in a stage."""

_GROUP_WARPS = 4
_GROUP_REGISTERS = gl.constexpr(240)
_PRODUCER_REGISTERS = gl.constexpr(24)

_HALF_ROWS = gl.constexpr(gl.NVMMASharedLayout(swizzle_byte_width=64, element_bitwidth=16, rank=2))
_EXCHANGE = gl.constexpr(gl.SwizzledSharedLayout(vec=1, per_phase=1, max_phase=1, order=[0]))
_LINE = gl.constexpr(gl.BlockedLayout([1], [32], [4], [0]))


@gluon.jit
def scalars(
    shifts, trace_sums, left_errors, scale, batch, terms, blocks, n, coefficients,
    KIND: gl.constexpr, BOTH: gl.constexpr, FINAL: gl.constexpr, HAS_Q: gl.constexpr, HAS_TRACE: gl.constexpr,
    COUNT: gl.constexpr, BLOCKS: gl.constexpr,
):  # fmt: skip
    """`iroot.kernels.words.word_kernel`'s, in its arithmetic: factors of an element's terms; mean; the new shift."""
    c0, c1, c2, mid, inverse_radius, factor, linear, inverse_p = coefficients
    left_scalar = gl.load(shifts[0] + batch)
    right_scalar = gl.load(shifts[1] + batch)
    if KIND != PRODUCT:
        left_error = total_of(left_errors, batch, blocks, BLOCKS) / n
    mean = 0.0
    if HAS_TRACE:
        mean = total_of(trace_sums, batch, terms, COUNT) / n
    gamma = 0.0
    eta = 0.0
    if KIND == QUADRATIC:
        distance = (left_scalar - mid + left_error) * inverse_radius
        alpha = 2.0 * c2 * inverse_radius * inverse_radius
        beta = (c1 + 4.0 * c2 * distance) * inverse_radius
        whole = c0 - c2 + (c1 + 2.0 * c2 * distance) * distance
        on_diagonal = -alpha * mean
        shift = whole - on_diagonal
    elif KIND == PRODUCT:
        alpha = factor
        beta = factor * left_scalar
        if not HAS_Q:
            beta += factor * left_scalar
        gamma = factor * right_scalar
        whole = factor * left_scalar * right_scalar
        on_diagonal = -factor * mean
        shift = whole - on_diagonal
    else:
        w = right_scalar.to(gl.float64) - linear
        y = left_scalar.to(gl.float64) + left_error
        alpha = 1.0
        beta = left_scalar
        gamma = w.to(gl.float32)
        eta = linear
        exact = y * linear + y * w
        shift = (exact + mean).to(gl.float32)
        on_diagonal = (exact - shift).to(gl.float32)
        whole = on_diagonal
    if BOTH:
        alpha *= 0.5
    outer = 1.0
    if FINAL:
        on_diagonal = whole
        outer = gl.exp2(-inverse_p * gl.log2(gl.load(scale + batch)))
    return (alpha, beta, gamma, eta, on_diagonal, outer), mean, shift


@gluon.jit
def _leave_sums(
    sums, exchange, meeting, errors, tile_sums, slot, batch, row, blocks, diagonal,
    KIND: gl.constexpr, HAS_V: gl.constexpr, GROUP: gl.constexpr,
):  # fmt: skip
    """Both groups' sums over the tile: the second hands its own to the first, which stores them."""
    norm, with_p, with_v, lost = sums
    norm_sums, p_sums, v_sums = tile_sums
    one = gl.arange(0, 32, layout=_LINE)
    sum_norm = gl.sum(norm, 0)
    sum_p = gl.sum(with_p, 0)
    nothing = gl.zeros([32], gl.float32, _LINE)
    if HAS_V:
        sum_v = gl.sum(with_v, 0)
    if KIND == UPDATE:
        sum_lost = gl.sum(lost, 0)
    if GROUP == 1:
        exchange.index(0).store(nothing + sum_norm)
        exchange.index(1).store(nothing + sum_p)
        if HAS_V:
            exchange.index(2).store(nothing + sum_v)
        if KIND == UPDATE:
            exchange.index(3).store(nothing + sum_lost)
        gl.thread_barrier()
        mbarrier.arrive(meeting, count=1)
    else:
        mbarrier.wait(meeting, 0)
        gl.store(norm_sums + slot + one, sum_norm + exchange.index(0).load(_LINE), mask=one < 1)
        gl.store(p_sums + slot + one, sum_p + exchange.index(1).load(_LINE), mask=one < 1)
        if HAS_V:
            gl.store(v_sums + slot + one, sum_v + exchange.index(2).load(_LINE), mask=one < 1)
        if KIND == UPDATE and diagonal:
            both = sum_lost + exchange.index(3).load(_LINE)
            gl.store(errors + batch * blocks + row // 128 + one, both, mask=one < 1)


@gluon.jit
def _consume(
    results, rests, stages, staging, exchange, full, empty, fetched, meeting, shifts, trace_sums, left_errors, errors,
    tile_sums, scale, slot, batch, row, col, wide, steps, tiles, terms, blocks, n, coefficients,
    KIND: gl.constexpr, BOTH: gl.constexpr, FINAL: gl.constexpr, HAS_Q: gl.constexpr, HAS_V: gl.constexpr,
    HAS_TRACE: gl.constexpr, HAS_E: gl.constexpr, ADDENDS: gl.constexpr, COUNT: gl.constexpr, BLOCKS: gl.constexpr,
    TAIL: gl.constexpr, PROMOTE_K: gl.constexpr, OVERLAP: gl.constexpr, GROUP: gl.constexpr,
):  # fmt: skip
    """A group's part of a program: rows 64 GROUP to 64 GROUP + 63 of its tile."""
    if OVERLAP:
        gdc_wait()
    factors, mean, shift = scalars(
        shifts, trace_sums, left_errors, scale, batch, terms, blocks, n, coefficients,
        KIND, BOTH, FINAL, HAS_Q, HAS_TRACE, COUNT, BLOCKS,
    )  # fmt: skip
    PASSES: gl.constexpr = 2 if BOTH else 1
    if TAIL > 0:
        if wide == 1:
            head, side = multiply(stages, full, empty, PASSES, steps, GROUP, PROMOTE_K, True)
        else:
            head, side = multiply(stages, full, empty, PASSES, steps, GROUP, PROMOTE_K, False)
    else:
        head, side = multiply(stages, full, empty, PASSES, steps, GROUP, PROMOTE_K, False)
    if FINAL:
        # The stages take results once neither group reads them.
        gl.thread_barrier()
        mbarrier.arrive(meeting, count=1)
        mbarrier.wait(meeting, 0)
    if ADDENDS > 0:
        mbarrier.wait(fetched, 0)
    diagonal = row == col
    row += 64 * GROUP
    sums = finish(
        head, side, stages, staging, full, results, rests, batch, row, col, wide, PASSES * steps, n, factors, mean,
        diagonal, KIND, FINAL, HAS_Q, HAS_V, HAS_E, TAIL, GROUP,
    )  # fmt: skip
    if not FINAL:
        _leave_sums(
            sums, exchange, meeting, errors, tile_sums, slot, batch, row, blocks, diagonal, KIND, HAS_V, GROUP
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
def hopper_word_kernel(
    programs,  # (number of tiles, 4) int32: see tiling.Program
    left, left_tail,  # M, (batches, n, n) 16-bit, in blocks of (1, 128, 64) and (1, 32, 64)
    right, right_tail,  # N in the same; the same object as left for a square
    p_tail,  # P in blocks of (1, 128, 32); P itself is N, in the blocks of right
    q_word, q_tail,  # Q = M, or V of a square, in blocks of (1, 128, 64) and (1, 128, 32)
    extra, extra_tail,  # E, float32 R of Y or 16-bit V beside Q, in blocks of (1, 64, 64) and (1, 64, 32)
    out, out_tail, mirror_tail,  # the result in blocks of (1, 64, 64), (1, 64, 32) and (1, 32, 64)
    rest_out, rest_out_tail,  # the result's R, float32, lower triangle, in blocks of (1, 64, 64) and (1, 64, 32)
    left_shift, right_shift, out_shift,  # (batches,) float32
    trace_sums,  # (batches, terms) float32: sums left * right
    left_errors, errors,  # (batches, blocks) float32: what the diagonals of Y, and of the update, lost
    norm_sums, p_sums, v_sums,  # (batches, tiles) float32: sums out * out, out * P, out * V
    scale,  # (batches,) float32: FINAL results are multiplied by scale^(-1/p)
    steps, tiles, terms, blocks, n, c0, c1, c2, mid, inverse_radius, factor, linear, inverse_p,
    KIND: gl.constexpr, BOTH: gl.constexpr, FINAL: gl.constexpr, HAS_Q: gl.constexpr, HAS_V: gl.constexpr,
    HAS_TRACE: gl.constexpr, COUNT: gl.constexpr, BLOCKS: gl.constexpr, TAIL: gl.constexpr, DEPTH: gl.constexpr,
    PROMOTE_K: gl.constexpr, OVERLAP: gl.constexpr, EARLY: gl.constexpr,
):  # fmt: skip
    """One tile per program; 64 columns of M and N in each of DEPTH stages, `steps` of them in n.

    KIND, HAS_Q, HAS_V and HAS_TRACE say what there is; another operand of the same kind stands in for an absent one.
    """
    DTYPE: gl.constexpr = left.dtype
    HAS_E: gl.constexpr = KIND != PRODUCT or (HAS_Q and HAS_V)
    ADDENDS: gl.constexpr = 0 if KIND == QUADRATIC else (2 if HAS_Q or HAS_V else 1)
    gl.static_assert(DEPTH == 4 or not FINAL)
    a = gl.allocate_shared_memory(DTYPE, [2 * DEPTH, 64, 64], WHOLE)
    b = gl.allocate_shared_memory(DTYPE, [DEPTH, 128, 64], WHOLE)
    first = gl.allocate_shared_memory(DTYPE, [4, 64, 64], WHOLE)
    second = gl.allocate_shared_memory(DTYPE, [4, 64, 64], WHOLE)
    # Without a tail what would hold it is never touched, but partitions take no None.
    b_tail = a
    first_tail = a
    second_tail = a
    if TAIL > 0:
        b_tail = gl.allocate_shared_memory(DTYPE, [DEPTH, 32, 64], WHOLE)
        first_tail = gl.allocate_shared_memory(DTYPE, [2, 64, 32], _HALF_ROWS)
        second_tail = gl.allocate_shared_memory(DTYPE, [2, 64, 32], _HALF_ROWS)
    exchange = gl.allocate_shared_memory(gl.float32, [4, 32], _EXCHANGE)
    full = gl.allocate_shared_memory(gl.int64, [DEPTH, 1], mbarrier.MBarrierLayout())
    empty = gl.allocate_shared_memory(gl.int64, [DEPTH, 1], mbarrier.MBarrierLayout())
    others = gl.allocate_shared_memory(gl.int64, [2, 1], mbarrier.MBarrierLayout())
    for stage in gl.static_range(DEPTH):
        mbarrier.init(full.index(stage), count=1)
        mbarrier.init(empty.index(stage), count=2)
    fetched = others.index(0)
    meeting = others.index(1)
    mbarrier.init(fetched, count=1)
    mbarrier.init(meeting, count=2 if FINAL else 1)
    fence_async_shared()
    gl.thread_barrier()
    slot = gl.program_id(0)
    batch = gl.load(programs + 4 * slot)
    row = gl.load(programs + 4 * slot + 1)
    col = gl.load(programs + 4 * slot + 2)
    wide = gl.load(programs + 4 * slot + 3)
    stages = (a, b, b_tail)
    staging = (first, second, first_tail, second_tail)
    results = (out, out_tail, mirror_tail)
    shifts = (left_shift, right_shift, out_shift)
    coefficients = (c0, c1, c2, mid, inverse_radius, factor, linear, inverse_p)
    gl.warp_specialize(
        [
            (
                _consume,
                (
                    results, (rest_out, rest_out_tail), stages, staging, exchange, full, empty, fetched, meeting,
                    shifts, trace_sums, left_errors, errors, (norm_sums, p_sums, v_sums), scale,
                    slot, batch, row, col, wide, steps, tiles, terms, blocks, n, coefficients,
                    KIND, BOTH, FINAL, HAS_Q, HAS_V, HAS_TRACE, HAS_E, ADDENDS, COUNT, BLOCKS,
                    TAIL, PROMOTE_K, OVERLAP, 0,
                ),
            ),
            (
                _consume,
                (
                    results, (rest_out, rest_out_tail), stages, staging, exchange, full, empty, fetched, meeting,
                    shifts, trace_sums, left_errors, errors, (norm_sums, p_sums, v_sums), scale,
                    slot, batch, row, col, wide, steps, tiles, terms, blocks, n, coefficients,
                    KIND, BOTH, FINAL, HAS_Q, HAS_V, HAS_TRACE, HAS_E, ADDENDS, COUNT, BLOCKS,
                    TAIL, PROMOTE_K, OVERLAP, 1,
                ),
            ),
            (
                fetch,
                (
                    (left, left_tail, right, right_tail), (p_tail, q_word, q_tail), (extra, extra_tail),
                    stages, staging, full, empty, fetched, batch, row, col, wide, steps,
                    BOTH, ADDENDS, HAS_E, TAIL, OVERLAP, EARLY,
                ),
            ),
        ],
        [4, 1],
        [_GROUP_REGISTERS, _PRODUCER_REGISTERS],
    )  # fmt: skip


def hopper_word(call: Call, inputs: Inputs, outputs: Outputs, tiling: Tiling, *, chained: bool = True) -> None:
    """`iroot.kernels.word_launch.triton_launch` by this module's kernel: of `tiling` it takes cut and promotion.

    Args:
        call: scalars and kind.
        inputs: factors as `iroot.kernels.word_launch.takes_gluon` admits them.
        outputs: a word, or the final result of a product.
        tiling: 128 rows; sums of 32 columns, or of a multiple of 64, or 0 for one sum.
        chained: the kernel before it in its stream is the only one it waits for.
    """
    M, N, word = inputs.M, inputs.N, outputs.word
    batches, n, _ = M.word.shape
    programs = device_programs(n, batches, tiling.block, tiling.tail, M.word.device)
    blocks, terms = triton.cdiv(n, tiling.block), 0 if inputs.trace is None else inputs.trace.shape[-1]
    written = M if word is None else word  # not written to where there is no word
    absent = M.shift
    on_grid(hopper_word_kernel, (programs.shape[0],))(
        programs, *_descriptors(call, inputs, outputs, tiling.tail), M.shift, N.shift, written.shift,
        absent if inputs.trace is None else inputs.trace,
        absent if M.errors is None else M.errors, absent if written.errors is None else written.errors,
        written.sums.norm, written.sums.with_p, written.sums.with_v,
        absent if outputs.scale is None else outputs.scale,
        triton.cdiv(n, _STEP), programs.shape[0] // batches, terms, blocks, n,
        *call.chebyshev, call.mid, 1.0 / call.radius, call.factor, call.linear, 1.0 / outputs.p,
        KIND=call.kind, BOTH=call.both, FINAL=word is None, HAS_Q=M.word is not N.word,
        HAS_V=inputs.partner is not None, HAS_TRACE=inputs.trace is not None,
        # Fewer kernels, the same sums.
        COUNT=triton.next_power_of_2(max(terms, 128)), BLOCKS=triton.next_power_of_2(max(blocks, 32)),
        TAIL=tiling.tail, DEPTH=STAGES, PROMOTE_K=tiling.promote_k, OVERLAP=chained, EARLY=tiling.lets_next_in,
        num_warps=_GROUP_WARPS, launch_pdl=chained,
        # As in Triton's kernel, with which this one agrees bit for bit.
        enable_fp_fusion=False,
    )  # fmt: skip


def _descriptors(call: Call, inputs: Inputs, outputs: Outputs, tail: int) -> tuple[TensorDescriptor, ...]:
    """The kernel's, in its order; of `tail` further columns in a wide tile, or none."""
    M, N, word = inputs.M, inputs.N, outputs.word
    is_square, is_product = M.word is N.word, call.kind == PRODUCT.value
    partner = None if inputs.partner is None else inputs.partner.word
    result = outputs.final if word is None else word.word
    assert result is not None
    left = blocks_of(M.word, 128, _STEP)

    def pair(A: Tensor | None, head: tuple[int, int], side: tuple[int, int]) -> tuple[TensorDescriptor, ...]:
        if A is None:
            return left, left
        whole = blocks_of(A, *head)
        return whole, blocks_of(A, *side) if tail else whole

    factors = pair(M.word, (128, _STEP), (32, _STEP))
    third = (None if is_square else partner) if is_product else M.rest
    return (
        *factors,
        *(factors if is_square else pair(N.word, (128, _STEP), (32, _STEP))),
        blocks_of(N.word, 128, 32) if tail and call.kind != QUADRATIC.value else left,
        *pair(partner if is_square else M.word, (128, 64), (128, 32)),
        *pair(third, (64, 64), (64, 32)),
        *pair(result, (64, 64), (64, 32)),
        blocks_of(result, 32, 64) if tail else left,
        *pair(word.rest if word is not None and call.kind == UPDATE.value else None, (64, 64), (64, 32)),
    )
