# Device functions carry no Python types, and Triton has no type information:
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, disallow-untyped-calls=False
# mypy: disallow-untyped-decorators=False
"""Gram products of one wave in equal shares (`iroot.kernels.balanced_tiles`) for Hopper GPUs, in Gluon.

One warp fetches. Two groups of four warps have 64 rows of a tile each and go through the loop on their own. Of a tile
on the diagonal the second group has rows 64 to 127, all 128 columns; the first one has the block above, and the one of
another tile on the diagonal whose rows were fetched in place of a second operand. Results leave from stages that are
done, by the copy engine. One program is on a multiprocessor, and has one share.

Gluon has no interpreter: this module is imported where its kernel is launched, and checked against the kernel of
`iroot.kernels.hopper_sum`, with which it agrees bit for bit.
"""

from __future__ import annotations

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

from iroot.kernels.balanced_tiles import SIDE, device_shares
from iroot.kernels.hopper_blocks import WHOLE, blocks_of, place
from iroot.kernels.rehearsal import on_grid

STAGES = 6
"""Seven fit a multiprocessor's shared memory."""

EARLY, AFTER_LOOP, AT_END = 1, 2, 0
"""When the next kernel is let in."""

_GROUP_WARPS = 4
_GROUP_REGISTERS = gl.constexpr(216)
_PRODUCER_REGISTERS = gl.constexpr(24)

_EARLY = gl.constexpr(EARLY)
_AFTER_LOOP = gl.constexpr(AFTER_LOOP)

_SIDE = gl.constexpr(SIDE)
_HALF = gl.constexpr(SIDE // 2)
_STEP = gl.constexpr(64)
"""Columns of an operand in a stage: a row of the widest swizzle."""

_ROWS = gl.constexpr(gl.NVMMADistributedLayout(version=[3, 0], warps_per_cta=[4, 1], instr_shape=[16, SIDE, 16]))
_BLOCK = gl.constexpr(gl.NVMMADistributedLayout(version=[3, 0], warps_per_cta=[4, 1], instr_shape=[16, SIDE // 2, 16]))
_I = gl.constexpr(gl.SliceLayout(1, _BLOCK.value))
_J = gl.constexpr(gl.SliceLayout(0, _BLOCK.value))


@gluon.jit
def _fetch(shares, whole, half, stages, full, empty, steps, EARLY_AT: gl.constexpr):
    """The copying warp's part of a program: 128 rows, and 128, 64 or two times 64 more, 64 columns at a time."""
    DEPTH: gl.constexpr = stages.shape[0] // 2
    blocks = stages._reinterpret(stages.dtype, [4 * DEPTH, _HALF, _STEP], WHOLE)
    batch, row, col, left, right = _share(shares)
    # What is above may run while the previous kernel finishes; what is below reads what it wrote.
    gdc_wait()
    if EARLY_AT == _EARLY:
        gdc_launch_dependents()
    ROW_BYTES: gl.constexpr = 2 * _STEP
    for step in range(steps):
        stage = step % DEPTH
        mbarrier.wait(empty.index(stage), ((step // DEPTH) & 1) ^ 1)
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


@gluon.jit
def _share(shares):
    """This program's: `balanced_tiles.Share`."""
    begin = shares + 5 * gl.program_id(0)
    return gl.load(begin), gl.load(begin + 1), gl.load(begin + 2), gl.load(begin + 3), gl.load(begin + 4)


@gluon.jit
def _free(empty, step, DEPTH: gl.constexpr):
    """All four warps of the group are done with the stage of the step before."""
    gl.thread_barrier()
    mbarrier.arrive(empty.index((step + DEPTH - 1) % DEPTH), count=1, pred=step > 0)


@gluon.jit
def _half_a_tile(stages, full, empty, steps, second, GROUP: gl.constexpr):
    """64 rows by 128: by the stage's second operand, or, where `second` is 0, by the first one."""
    DEPTH: gl.constexpr = stages.shape[0] // 2
    blocks = stages._reinterpret(stages.dtype, [4 * DEPTH, _HALF, _STEP], WHOLE)
    acc = warpgroup_mma_init(gl.zeros([_HALF, _SIDE], gl.float32, _ROWS))
    for step in range(steps):
        stage = step % DEPTH
        mbarrier.wait(full.index(stage), (step // DEPTH) & 1)
        rows = blocks.index(4 * stage + GROUP)
        acc = warpgroup_mma(rows, stages.index(2 * stage + second).permute((1, 0)), acc, is_async=True)
        acc = warpgroup_mma_init(warpgroup_mma_wait(num_outstanding=1, deps=(acc,)))
        _free(empty, step, DEPTH)
    acc = warpgroup_mma_wait(num_outstanding=0, deps=(acc,))
    mbarrier.arrive(empty.index((steps - 1) % DEPTH), count=1)
    first, last = acc.reshape([_HALF, 2, _HALF]).permute((0, 2, 1)).split()
    first = gl.convert_layout(first, _BLOCK, assert_trivial=True)
    last = gl.convert_layout(last, _BLOCK, assert_trivial=True)
    return first, last


@gluon.jit
def _two_blocks(stages, full, empty, steps, differ):
    """The first operand's first 64 rows, and the second's, by themselves; or, where these `differ`, by the last 64."""
    DEPTH: gl.constexpr = stages.shape[0] // 2
    blocks = stages._reinterpret(stages.dtype, [4 * DEPTH, _HALF, _STEP], WHOLE)
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
        _free(empty, step, DEPTH)
    own, other = warpgroup_mma_wait(num_outstanding=0, deps=(own, other))
    mbarrier.arrive(empty.index((steps - 1) % DEPTH), count=1)
    return own, other


@gluon.jit
def _send(acc, terms, plain, turned, out, batch, row, col):
    """Begin the stores of out[row:, col:] = word and out[col:, row:] = word^T; on the diagonal the lower triangle's."""
    i = gl.arange(0, _HALF, layout=_I)[:, None]
    j = gl.arange(0, _HALF, layout=_J)[None, :]
    value = terms[0] * acc
    word = gl.where(row + i == col + j, value + terms[1], value).to(plain.dtype)
    turned.permute((1, 0)).store(word)
    if row == col:
        gl.thread_barrier()
        word = gl.where(i >= j, word, turned.load(_BLOCK))
    plain.store(word)
    fence_async_shared()
    gl.thread_barrier()
    tma.async_copy_shared_to_global(out, [batch, row, col], place(plain, out))
    if row != col:
        tma.async_copy_shared_to_global(out, [batch, col, row], place(turned, out))


@gluon.jit
def _finish(
    first, last, out, stages, empty, steps, terms, batch, places, EARLY_AT: gl.constexpr, GROUP: gl.constexpr
):  # fmt: skip
    """A group's two blocks, which leave from one stage."""
    if EARLY_AT == _AFTER_LOOP:
        gdc_launch_dependents()
    DEPTH: gl.constexpr = stages.shape[0] // 2
    # As the copying warp would, wait until both groups are done with it.
    step = steps + GROUP
    stage = step % DEPTH
    mbarrier.wait(empty.index(stage), ((step // DEPTH) & 1) ^ 1)
    blocks = stages._reinterpret(stages.dtype, [4 * DEPTH, _HALF, _STEP], WHOLE)
    row, col, last_row, last_col = places
    _send(first, terms, blocks.index(4 * stage), blocks.index(4 * stage + 1), out, batch, row, col)
    _send(last, terms, blocks.index(4 * stage + 2), blocks.index(4 * stage + 3), out, batch, last_row, last_col)


@gluon.jit
def _consume(shares, out, stages, full, empty, steps, terms, EARLY_AT: gl.constexpr, GROUP: gl.constexpr):
    """A group's part of a program: two blocks. What it writes is made of what was fetched after `gdc_wait`."""
    batch, row, col, left, right = _share(shares)
    gl.assume(steps > 0)
    below = row + _HALF * GROUP
    half_a_tile = (below, col, below, col + _HALF)
    # Branches that met again before the sums are stored would take ptxas too many registers (C7511).
    if GROUP == 0 and row == col:
        own, other = _two_blocks(stages, full, empty, steps, gl.where(left != right, 1, 0))
        _finish(own, other, out, stages, empty, steps, terms, batch, (row, col, left, right), EARLY_AT, GROUP)
    else:
        second = gl.where(row == col, 0, 1)
        first, last = _half_a_tile(stages, full, empty, steps, second, GROUP)
        _finish(first, last, out, stages, empty, steps, terms, batch, half_a_tile, EARLY_AT, GROUP)
    # Shared memory must last as long as anything is read from it.
    tma.store_wait(0)


@gluon.jit(do_not_specialize=["steps"])
def hopper_balanced_kernel(
    shares,  # (programs, 5) int32: balanced_tiles.Share
    whole, half,  # M, (batches, n, depth), in blocks of (1, 128, 64) and (1, 64, 64)
    out,  # (batches, n, n) in blocks of (1, 64, 64)
    steps, alpha, gamma,
    DEPTH: gl.constexpr, EARLY_AT: gl.constexpr,
):  # fmt: skip
    """One share per program, alpha M M^T + gamma I; `steps` times 64 columns of M, through DEPTH stages."""
    # Both groups' results leave from stages.
    gl.static_assert(DEPTH >= 2)
    stages = gl.allocate_shared_memory(whole.dtype, [2 * DEPTH, _SIDE, _STEP], WHOLE)
    full = gl.allocate_shared_memory(gl.int64, [DEPTH, 1], mbarrier.MBarrierLayout())
    empty = gl.allocate_shared_memory(gl.int64, [DEPTH, 1], mbarrier.MBarrierLayout())
    for stage in gl.static_range(DEPTH):
        mbarrier.init(full.index(stage), count=1)
        mbarrier.init(empty.index(stage), count=2)
    fence_async_shared()
    gl.thread_barrier()
    gl.warp_specialize(
        [
            (_consume, (shares, out, stages, full, empty, steps, (alpha, gamma), EARLY_AT, 0)),
            (_consume, (shares, out, stages, full, empty, steps, (alpha, gamma), EARLY_AT, 1)),
            (_fetch, (shares, whole, half, stages, full, empty, steps, EARLY_AT)),
        ],
        [4, 1],
        [_GROUP_REGISTERS, _PRODUCER_REGISTERS],
    )


def hopper_balanced(
    M: Tensor,
    out: Tensor,
    *,
    alpha: float = 1.0,
    gamma: float = 0.0,
    shares: Tensor | None = None,
    stages: int = STAGES,
    early: int = AT_END,
) -> None:
    """out = alpha M M^T + gamma I.

    Args:
        M: (batches, n, depth) 16-bit, rows contiguous and in steps of 16 bytes.
        out: (batches, n, n) of M's dtype, in such rows.
    """
    batches, n, depth = M.shape
    shares = device_shares(n, batches, M.device) if shares is None else shares
    step = _STEP.value
    on_grid(hopper_balanced_kernel, (shares.shape[0],))(
        shares, blocks_of(M, SIDE, step), blocks_of(M, SIDE // 2, step), blocks_of(out, SIDE // 2, SIDE // 2),
        -(-depth // step), alpha, gamma, DEPTH=stages, EARLY_AT=early,
        num_warps=_GROUP_WARPS, launch_pdl=True,
        # As in the kernels with which this one agrees bit for bit.
        enable_fp_fusion=False,
    )  # fmt: skip
