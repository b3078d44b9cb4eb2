# Device functions carry no Python types, and Triton has no type information:
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, disallow-untyped-calls=False
# mypy: disallow-untyped-decorators=False
"""The multiplying warps' loop of `iroot.kernels.hopper_words`: 64 rows of a tile, in sums of PROMOTE_K columns.

One group of four warps each: a group promotes its accumulator, or waits, under the other's tensor-core instructions.
Every function returns float32 sums of 128 columns and of the 32 more of a wide tile; a stage is freed by both groups.
"""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    mbarrier,
    warpgroup_mma,
    warpgroup_mma_init,
    warpgroup_mma_wait,
)

_HEAD = gl.constexpr(gl.NVMMADistributedLayout(version=[3, 0], warps_per_cta=[4, 1], instr_shape=[16, 128, 16]))
SIDE = gl.constexpr(gl.NVMMADistributedLayout(version=[3, 0], warps_per_cta=[4, 1], instr_shape=[16, 32, 16]))
"""Of a wide tile's further columns."""


@gluon.jit
def _one_sum(stages, full, empty, total, GROUP: gl.constexpr, WIDE: gl.constexpr):
    """One accumulator over all steps."""
    a, b, b_tail = stages
    DEPTH: gl.constexpr = b.shape[0]
    zero = gl.zeros([64, 128], gl.float32, _HEAD)
    zero_side = gl.zeros([64, 32], gl.float32, SIDE)
    acc = warpgroup_mma_init(zero)
    side = warpgroup_mma_init(zero_side)
    for step in range(total):
        stage = step % DEPTH
        mbarrier.wait(full.index(stage), (step // DEPTH) & 1)
        mine = a.index(2 * stage + GROUP)
        acc = warpgroup_mma(mine, b.index(stage).permute((1, 0)), acc, is_async=True)
        if WIDE:
            side = warpgroup_mma(mine, b_tail.index(stage).permute((1, 0)), side, is_async=True)
            # This step's two instructions' groups stay in flight; those of the step before are done.
            acc, side = warpgroup_mma_wait(num_outstanding=2, deps=(acc, side))
            acc = warpgroup_mma_init(acc)
            side = warpgroup_mma_init(side)
        else:
            acc = warpgroup_mma_init(warpgroup_mma_wait(num_outstanding=1, deps=(acc,)))
        mbarrier.arrive(empty.index((step + DEPTH - 1) % DEPTH), count=1, pred=step > 0)
    if WIDE:
        sum_head, sum_side = warpgroup_mma_wait(num_outstanding=0, deps=(acc, side))
    else:
        sum_head = warpgroup_mma_wait(num_outstanding=0, deps=(acc,))
        sum_side = zero_side
    mbarrier.arrive(empty.index((total - 1) % DEPTH), count=1)
    return sum_head, sum_side


@gluon.jit
def _parts_of_steps(
    stages, full, empty, total, GROUP: gl.constexpr, PROMOTE_K: gl.constexpr, WIDE: gl.constexpr
):  # fmt: skip
    """Sums of a step's 64 columns, or of a part of them."""
    a, b, b_tail = stages
    DEPTH: gl.constexpr = b.shape[0]
    PARTS: gl.constexpr = 64 // PROMOTE_K
    zero = gl.zeros([64, 128], gl.float32, _HEAD)
    zero_side = gl.zeros([64, 32], gl.float32, SIDE)
    acc = warpgroup_mma_init(zero)
    side = warpgroup_mma_init(zero_side)
    sum_head = zero
    sum_side = zero_side
    for step in range(total):
        stage = step % DEPTH
        mbarrier.wait(full.index(stage), (step // DEPTH) & 1)
        for of_step in gl.static_range(PARTS):
            mine = a.index(2 * stage + GROUP)
            theirs = b.index(stage)
            if PARTS > 1:
                mine = mine.slice(PROMOTE_K * of_step, PROMOTE_K, dim=1)
                theirs = theirs.slice(PROMOTE_K * of_step, PROMOTE_K, dim=1)
            acc = warpgroup_mma(mine, theirs.permute((1, 0)), acc, use_acc=False, is_async=True)
            if WIDE:
                theirs_side = b_tail.index(stage)
                if PARTS > 1:
                    theirs_side = theirs_side.slice(PROMOTE_K * of_step, PROMOTE_K, dim=1)
                side = warpgroup_mma(mine, theirs_side.permute((1, 0)), side, use_acc=False, is_async=True)
                part, part_side = warpgroup_mma_wait(num_outstanding=0, deps=(acc, side))
            else:
                part = warpgroup_mma_wait(num_outstanding=0, deps=(acc,))
            if of_step == PARTS - 1:
                mbarrier.arrive(empty.index(stage), count=1)
            sum_head += part
            acc = warpgroup_mma_init(part)
            if WIDE:
                sum_side += part_side
                side = warpgroup_mma_init(part_side)
    return sum_head, sum_side


@gluon.jit
def _runs_of_steps(
    stages, full, empty, passes, steps, GROUP: gl.constexpr, PROMOTE_K: gl.constexpr, WIDE: gl.constexpr
):  # fmt: skip
    """Sums of several steps; the last one of a pass over the depth may be shorter."""
    a, b, b_tail = stages
    DEPTH: gl.constexpr = b.shape[0]
    CHUNK: gl.constexpr = PROMOTE_K // 64
    zero = gl.zeros([64, 128], gl.float32, _HEAD)
    zero_side = gl.zeros([64, 32], gl.float32, SIDE)
    acc = warpgroup_mma_init(zero)
    side = warpgroup_mma_init(zero_side)
    sum_head = zero
    sum_side = zero_side
    for run in range(passes):
        for start in range(0, steps, CHUNK):
            first = run * steps + start
            last = run * steps + gl.minimum(start + CHUNK, steps)
            for step in range(first, last):
                stage = step % DEPTH
                mbarrier.wait(full.index(stage), (step // DEPTH) & 1)
                mine = a.index(2 * stage + GROUP)
                going = step > first
                acc = warpgroup_mma(mine, b.index(stage).permute((1, 0)), acc, use_acc=going, is_async=True)
                if WIDE:
                    side = warpgroup_mma(mine, b_tail.index(stage).permute((1, 0)), side, use_acc=going, is_async=True)
                    acc, side = warpgroup_mma_wait(num_outstanding=2, deps=(acc, side))
                    acc = warpgroup_mma_init(acc)
                    side = warpgroup_mma_init(side)
                else:
                    acc = warpgroup_mma_init(warpgroup_mma_wait(num_outstanding=1, deps=(acc,)))
                mbarrier.arrive(empty.index((step + DEPTH - 1) % DEPTH), count=1, pred=going)
            if WIDE:
                part, part_side = warpgroup_mma_wait(num_outstanding=0, deps=(acc, side))
                sum_side += part_side
                side = warpgroup_mma_init(part_side)
            else:
                part = warpgroup_mma_wait(num_outstanding=0, deps=(acc,))
            mbarrier.arrive(empty.index((last - 1) % DEPTH), count=1)
            sum_head += part
            acc = warpgroup_mma_init(part)
    return sum_head, sum_side


@gluon.jit
def multiply(
    stages, full, empty, passes, steps, GROUP: gl.constexpr, PROMOTE_K: gl.constexpr, WIDE: gl.constexpr
):  # fmt: skip
    """This group's rows of the tile, in sums of PROMOTE_K columns (0: one), afresh with each pass over the depth."""
    if PROMOTE_K == 0:
        head, side = _one_sum(stages, full, empty, passes * steps, GROUP, WIDE)
    elif PROMOTE_K <= 64:
        head, side = _parts_of_steps(stages, full, empty, passes * steps, GROUP, PROMOTE_K, WIDE)
    else:
        head, side = _runs_of_steps(stages, full, empty, passes, steps, GROUP, PROMOTE_K, WIDE)
    return head, side
