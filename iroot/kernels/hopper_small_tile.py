# Device functions carry no Python types, and Triton has no type information:
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, disallow-untyped-calls=False
# mypy: disallow-untyped-decorators=False
"""The parts of a program of `iroot.kernels.hopper_small_words`: what it fetches, multiplies and leaves.

Steps of 64 columns go through one ring of stages, and the two groups of warps take turns: the first has the even ones,
the second the odd ones. Where M N + N M is summed, an even step is one of M's rows by N's, the odd one after it the
same columns of N's rows by M's. So each group reads only stages of its own parity, of which DEPTH is a multiple.

A group's result is 32 columns of the tile. What it summed of the other 32 goes through a stage of its own.
"""

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

from iroot.kernels.hopper_blocks import WHOLE, place
from iroot.kernels.hopper_word_epilogue import HALF_ROWS, ROW_SUMS, SINGLE, add_sums, value_of
from iroot.kernels.hopper_word_sums import SIDE
from iroot.kernels.words import PRODUCT, QUADRATIC, UPDATE

_TILE = gl.constexpr(gl.NVMMADistributedLayout(version=[3, 0], warps_per_cta=[4, 1], instr_shape=[16, 64, 16]))
_STEP_BYTES = gl.constexpr(2 * 2 * 64 * 64)


@gluon.jit
def _halves(view, blocks, bar, batch, row, col):
    """Ask for a tile in two blocks of 32 columns."""
    for h in gl.static_range(2):
        tma.async_copy_global_to_shared(view, [batch, row, col + 32 * h], bar, place(blocks.index(h), view))


@gluon.jit
def _step(first, second, bar, a, b, batch, row, col, k):
    """Ask for 64 columns of two factors."""
    mbarrier.expect(bar, _STEP_BYTES)
    tma.async_copy_global_to_shared(first, [batch, row, k], bar, place(a, first))
    tma.async_copy_global_to_shared(second, [batch, col, k], bar, place(b, second))


@gluon.jit
def fetch(
    left, right, p_word, q_word, extra, stages, staging, full, empty, fetched, batch, row, col, steps,
    BOTH: gl.constexpr, ADDENDS: gl.constexpr, HAS_E: gl.constexpr, OVERLAP: gl.constexpr, EARLY: gl.constexpr,
):  # fmt: skip
    """The copying warp's part of a program: M and N as they are multiplied, P and Q, and E through one more stage."""
    a, b = stages
    DEPTH: gl.constexpr = b.shape[0]
    PASSES: gl.constexpr = 2 if BOTH else 1
    if OVERLAP:
        gdc_wait()
        if EARLY:
            gdc_launch_dependents()
    total = PASSES * steps
    # Behind the stages that are free at first.
    with_addends = gl.minimum(steps, DEPTH // PASSES) - 1
    for k in range(steps):
        for turn in gl.static_range(PASSES):
            step = PASSES * k + turn
            stage = step % DEPTH
            mbarrier.wait(empty.index(stage), ((step // DEPTH) & 1) ^ 1)
            if turn == 0:
                _step(left, right, full.index(stage), a.index(stage), b.index(stage), batch, row, col, 64 * k)
            else:
                _step(right, left, full.index(stage), a.index(stage), b.index(stage), batch, row, col, 64 * k)
        if ADDENDS > 0 and k == with_addends:
            mbarrier.expect(fetched, ADDENDS * 2 * 64 * 64)
            _halves(p_word, staging[0], fetched, batch, row, col)
            if ADDENDS > 1:
                _halves(q_word, staging[1], fetched, batch, row, col)
    if HAS_E:
        stage = total % DEPTH
        bar = full.index(stage)
        mbarrier.wait(empty.index(stage), ((total // DEPTH) & 1) ^ 1)
        mbarrier.expect(bar, 2 * 64 * 32 * (extra.dtype.primitive_bitwidth // 8))
        tma.async_copy_global_to_shared(extra, [batch, row, col], bar, _e_block(a, extra, stage))
        tma.async_copy_global_to_shared(extra, [batch, row, col + 32], bar, _e_block(b, extra, stage))


@gluon.jit
def _e_block(blocks, extra, stage):
    """Where a stage holds a half of E, as its descriptor takes it."""
    BYTES: gl.constexpr = extra.dtype.primitive_bitwidth // 8
    PER_STAGE: gl.constexpr = 4 // BYTES
    return blocks._reinterpret(extra.dtype, [PER_STAGE * blocks.shape[0], 1, 64, 32], extra.layout).index(
        PER_STAGE * stage
    )


@gluon.jit
def _parts_of_steps(stages, full, empty, count, GROUP: gl.constexpr, PROMOTE_K: gl.constexpr):
    """Sums of a step's 64 columns, or of a part of them."""
    a, b = stages
    DEPTH: gl.constexpr = b.shape[0]
    PARTS: gl.constexpr = 64 // PROMOTE_K
    zero = gl.zeros([64, 64], gl.float32, _TILE)
    acc = warpgroup_mma_init(zero)
    total = zero
    for own in range(count):
        step = 2 * own + GROUP
        stage = step % DEPTH
        mbarrier.wait(full.index(stage), (step // DEPTH) & 1)
        for of_step in gl.static_range(PARTS):
            mine = a.index(stage)
            theirs = b.index(stage)
            if PARTS > 1:
                mine = mine.slice(PROMOTE_K * of_step, PROMOTE_K, dim=1)
                theirs = theirs.slice(PROMOTE_K * of_step, PROMOTE_K, dim=1)
            acc = warpgroup_mma(mine, theirs.permute((1, 0)), acc, use_acc=False, is_async=True)
            part = warpgroup_mma_wait(num_outstanding=0, deps=(acc,))
            if of_step == PARTS - 1:
                mbarrier.arrive(empty.index(stage), count=1)
            total += part
            acc = warpgroup_mma_init(part)
    return total


@gluon.jit
def _runs_of_steps(stages, full, empty, count, length, GROUP: gl.constexpr):
    """Sums of `length` steps; the last one may be shorter."""
    a, b = stages
    DEPTH: gl.constexpr = b.shape[0]
    zero = gl.zeros([64, 64], gl.float32, _TILE)
    acc = warpgroup_mma_init(zero)
    total = zero
    for first in range(0, count, length):
        last = gl.minimum(first + length, count)
        for own in range(first, last):
            step = 2 * own + GROUP
            stage = step % DEPTH
            mbarrier.wait(full.index(stage), (step // DEPTH) & 1)
            going = own > first
            acc = warpgroup_mma(
                a.index(stage), b.index(stage).permute((1, 0)), acc, use_acc=going, is_async=True
            )  # fmt: skip
            acc = warpgroup_mma_init(warpgroup_mma_wait(num_outstanding=1, deps=(acc,)))
            mbarrier.arrive(empty.index((step + DEPTH - 2) % DEPTH), count=1, pred=going)
        part = warpgroup_mma_wait(num_outstanding=0, deps=(acc,))
        mbarrier.arrive(empty.index((2 * last - 2 + GROUP) % DEPTH), count=1)
        total += part
        acc = warpgroup_mma_init(part)
    return total


@gluon.jit
def multiply(stages, full, empty, steps, GROUP: gl.constexpr, PROMOTE_K: gl.constexpr):
    """This group's steps of `steps`, in float32 sums of PROMOTE_K columns of a pass each, or in one (0)."""
    count = (steps + 1 - GROUP) // 2
    if PROMOTE_K == 0:
        total = _runs_of_steps(stages, full, empty, count, gl.maximum(count, 1), GROUP)
    elif PROMOTE_K <= 64:
        total = _parts_of_steps(stages, full, empty, count, GROUP, PROMOTE_K)
    else:
        total = _runs_of_steps(stages, full, empty, count, PROMOTE_K // 64, GROUP)
    return total


@gluon.jit
def _joined(total, stages, meeting, steps, GROUP: gl.constexpr):
    """32 columns of both groups' sums; the other 32 of this one's are handed over."""
    a = stages[0]
    DEPTH: gl.constexpr = a.shape[0]
    # A stage of this group, but not the one that E comes through.
    shift = ((steps & 1) == GROUP).to(gl.int32) + 1
    halves = total.reshape([64, 2, 32]).permute((0, 2, 1)).split()
    blocks = a._reinterpret(gl.float32, [DEPTH, 64, 32], SINGLE)
    blocks.index((steps + shift) % DEPTH).store(gl.convert_layout(halves[1 - GROUP], SIDE, assert_trivial=True))
    gl.thread_barrier()
    mbarrier.arrive(meeting, count=1)
    mbarrier.wait(meeting, 0)
    handed = blocks.index((steps + 3 - shift) % DEPTH).load(SIDE)
    return gl.convert_layout(halves[GROUP], SIDE, assert_trivial=True) + handed


@gluon.jit
def _send(
    word, plain, turned, opposite, crossing, pieces, out, mirror, batch, row, col, i, j, diagonal,
    FINAL: gl.constexpr, GROUP: gl.constexpr,
):  # fmt: skip
    """Begin the stores of the tile's columns 32 GROUP to 32 GROUP + 31, as they are and transposed.

    On the diagonal the lower triangle is stored on both sides, once both groups have it in shared memory.
    """
    # All of the group have read what lies in the buffers.
    gl.thread_barrier()
    turned.permute((1, 0)).store(word)
    if diagonal:
        gl.thread_barrier()
        mbarrier.arrive(crossing, count=1)
        mbarrier.wait(crossing, 0)
        word = gl.where(i >= j, word, opposite.load(word.type.layout))
    plain.store(word)
    fence_async_shared()
    gl.thread_barrier()
    tma.async_copy_shared_to_global(out, [batch, row, col + 32 * GROUP], place(plain, out))
    if diagonal == 0:
        if FINAL:
            for h in gl.static_range(2):
                piece = place(pieces.index(2 * h + GROUP), mirror)
                tma.async_copy_shared_to_global(mirror, [batch, col + 32 * GROUP, row + 32 * h], piece)
        else:
            tma.async_copy_shared_to_global(mirror, [batch, col + 32 * GROUP, row], place(pieces.index(GROUP), mirror))


@gluon.jit
def finish(
    total, stages, staging, full, meeting, crossing, out, mirror, rest_out, batch, row, col, steps, n, terms, mean,
    KIND: gl.constexpr, FINAL: gl.constexpr, HAS_Q: gl.constexpr, HAS_V: gl.constexpr, HAS_E: gl.constexpr,
    GROUP: gl.constexpr,
):  # fmt: skip
    """The group's 32 columns of the result, on their way; by rows, the sums out * out, out * P, out * V, and what a
    diagonal's sums lost.
    """
    a, b = stages
    DTYPE: gl.constexpr = a.dtype
    DEPTH: gl.constexpr = b.shape[0]
    part = _joined(total, stages, meeting, steps, GROUP)
    LAYOUT: gl.constexpr = part.type.layout
    operand_1 = staging[0].index(GROUP)
    operand_2 = staging[1].index(GROUP)
    plain = operand_1
    square = staging[1]._reinterpret(DTYPE, [64, 64], WHOLE)
    pieces = staging[1]._reinterpret(DTYPE, [2, 32, 64], WHOLE)
    if FINAL:
        # Neither group reads a stage any more; sums are handed over where others keep M.
        plain = b._reinterpret(gl.float32, [DEPTH, 64, 32], SINGLE).index(2 + GROUP)
        square = b._reinterpret(gl.float32, [DEPTH // 2, 64, 64], SINGLE).index(0)
        pieces = b._reinterpret(gl.float32, [2 * DEPTH, 32, 32], SINGLE)
    extra = operand_1
    if HAS_E:
        E_DTYPE: gl.constexpr = DTYPE if KIND == PRODUCT else gl.float32
        E_LAYOUT: gl.constexpr = HALF_ROWS if KIND == PRODUCT else SINGLE
        PER_STAGE: gl.constexpr = 2 if KIND == PRODUCT else 1
        own = a if GROUP == 0 else b
        stage = steps % DEPTH
        extra = own._reinterpret(E_DTYPE, [PER_STAGE * DEPTH, 64, 32], E_LAYOUT).index(PER_STAGE * stage)
        mbarrier.wait(full.index(stage), (steps // DEPTH) & 1)
    diagonal = row == col
    i = gl.arange(0, 64, layout=gl.SliceLayout(1, LAYOUT))[:, None]
    j = 32 * GROUP + gl.arange(0, 32, layout=gl.SliceLayout(0, LAYOUT))[None, :]
    nothing = gl.zeros([64], gl.float32, ROW_SUMS)
    sums = (nothing, nothing, nothing, nothing)
    p = extra.load(LAYOUT) if KIND == QUADRATIC else operand_1.load(LAYOUT)
    value, sums = value_of(
        part, p, operand_2, extra, sums, i, j, row, n, terms, mean, diagonal, KIND, FINAL, HAS_Q, True
    )  # fmt: skip
    if KIND == UPDATE:
        extra.store(value)
    word = value.to(out.dtype)
    if not FINAL:
        sums = add_sums(word, p, operand_2, extra, sums, i, j, diagonal, HAS_Q, HAS_V, DTYPE, True, False)
    turned = square.slice(32 * GROUP, 32, dim=0)
    opposite = square.slice(32 * GROUP, 32, dim=1)
    _send(
        word, plain, turned, opposite, crossing, pieces, out, mirror, batch, row, col, i, j, diagonal, FINAL, GROUP
    )  # fmt: skip
    if KIND == UPDATE:
        tma.async_copy_shared_to_global(rest_out, [batch, row, col + 32 * GROUP], place(extra, rest_out))
    return sums


@gluon.jit
def leave_sums(
    sums, exchange, left, errors, tile_sums, slot, batch, row, blocks, diagonal,
    KIND: gl.constexpr, HAS_V: gl.constexpr, GROUP: gl.constexpr,
):  # fmt: skip
    """Both groups' sums over the tile, in one reduction: the second hands its own to the first, which stores them."""
    norm, with_p, with_v, lost = sums
    norm_sums, p_sums, v_sums = tile_sums
    if KIND == UPDATE:
        with_v = lost  # an update has no V
    elif not HAS_V:
        with_v = norm
    both = gl.sum(gl.join(gl.join(norm, with_p), gl.join(with_v, with_v)), 0)
    if GROUP == 1:
        exchange.store(both)
        gl.thread_barrier()
        mbarrier.arrive(left, count=1)
    else:
        mbarrier.wait(left, 0)
        both += exchange.load(both.type.layout)
        a = gl.arange(0, 2, layout=gl.SliceLayout(1, both.type.layout))[:, None]
        b = gl.arange(0, 2, layout=gl.SliceLayout(0, both.type.layout))[None, :]
        gl.store(norm_sums + slot + 0 * (a + b), both, mask=(a == 0) & (b == 0))
        gl.store(p_sums + slot + 0 * (a + b), both, mask=(a == 1) & (b == 0))
        if HAS_V:
            gl.store(v_sums + slot + 0 * (a + b), both, mask=(a == 0) & (b == 1))
        if KIND == UPDATE and diagonal:
            gl.store(errors + batch * blocks + row // 64 + 0 * (a + b), both, mask=(a == 0) & (b == 1))
