# Device functions carry no Python types, and Triton has no type information:
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, disallow-untyped-calls=False
# mypy: disallow-untyped-decorators=False
"""The copying warp of `iroot.kernels.hopper_words`: a tile's factors, and what its epilogue reads, into shared memory.

Stage by stage the factors go through `stages`. The epilogue's first two 16-bit operands have places of their own,
`staging`, and are asked for during the loop. Its third operand, E, follows the factors through the stages as these
become free, a slice of 64 or 32 columns in each: one group's rows where a stage keeps M, the other's where it keeps N.
"""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import mbarrier, tma
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

_PANELS = gl.constexpr(gl.NVMMASharedLayout(swizzle_byte_width=128, element_bitwidth=16, rank=3))
"""Blocks of 64 columns, as the copy engine takes them."""

_FETCH_STEP = gl.constexpr(6)
"""Of the loop over the depth: when the first 16-bit operand is asked for; the second as many steps later. At once, they
would be in the way of the pipeline's first stages."""


@gluon.jit
def _operand(view, view_tail, panels, tail, fetched, batch, row, col, WIDE: gl.constexpr):
    """Ask for a tile of one of the epilogue's 16-bit operands."""
    blocks = panels._reinterpret(panels.dtype, [2, 1, 128, 64], _PANELS)
    for h in gl.static_range(2):
        tma.async_copy_global_to_shared(view, [batch, row, col + 64 * h], fetched, blocks.index(h))
    if WIDE:
        block = tail._reinterpret(tail.dtype, [1, 128, 32], view_tail.layout)
        tma.async_copy_global_to_shared(view_tail, [batch, row, col + 128], fetched, block)


@gluon.jit
def _steps(
    left, right, right_tail, p_word, addends, stages, staging, full, empty, fetched, batch, row, col,
    first, steps, first_at, second_at, ADDENDS: gl.constexpr, WIDE: gl.constexpr,
):  # fmt: skip
    """Steps first, ..., first + steps - 1 of the pipeline: all columns of two factors."""
    p_tail, q_word, q_tail = addends
    a, b, b_tail = stages
    buf_1, buf_2, buf_1_tail, buf_2_tail = staging
    DEPTH: gl.constexpr = b.shape[0]
    COLUMNS: gl.constexpr = 160 if WIDE else 128
    a_stages = a._reinterpret(a.dtype, [DEPTH, 1, 128, 64], _PANELS)
    b_stages = b._reinterpret(b.dtype, [DEPTH, 1, 128, 64], _PANELS)
    for k in range(steps):
        step = first + k
        stage = step % DEPTH
        mbarrier.wait(empty.index(stage), ((step // DEPTH) & 1) ^ 1)
        bar = full.index(stage)
        mbarrier.expect(bar, 2 * 64 * (128 + COLUMNS))
        tma.async_copy_global_to_shared(left, [batch, row, 64 * k], bar, a_stages.index(stage))
        tma.async_copy_global_to_shared(right, [batch, col, 64 * k], bar, b_stages.index(stage))
        if WIDE:
            tail_stages = b_tail._reinterpret(b_tail.dtype, [DEPTH, 1, 32, 64], _PANELS)
            tma.async_copy_global_to_shared(right_tail, [batch, col + 128, 64 * k], bar, tail_stages.index(stage))
        if ADDENDS > 0 and step == first_at:
            mbarrier.expect(fetched, ADDENDS * 2 * 128 * COLUMNS)
            _operand(p_word, p_tail, buf_1, buf_1_tail, fetched, batch, row, col, WIDE)
        if ADDENDS > 1 and step == second_at:
            _operand(q_word, q_tail, buf_2, buf_2_tail, fetched, batch, row, col, WIDE)


@gluon.jit
def _slice_of_e(view, a_blocks, b_blocks, full, empty, batch, row, col, step, DEPTH: gl.constexpr):
    """Ask for a slice of E through the stage that `step` uses: 64 rows where it keeps M, 64 where it keeps N."""
    BITS: gl.constexpr = view.dtype.primitive_bitwidth
    COLUMNS: gl.constexpr = view.block_shape[2]
    PER_STAGE: gl.constexpr = a_blocks.shape[0] // DEPTH
    stage = step % DEPTH
    mbarrier.wait(empty.index(stage), ((step // DEPTH) & 1) ^ 1)
    bar = full.index(stage)
    mbarrier.expect(bar, 2 * 64 * COLUMNS * (BITS // 8))
    i = stage * PER_STAGE
    tma.async_copy_global_to_shared(view, [batch, row, col], bar, a_blocks.index(i))
    tma.async_copy_global_to_shared(view, [batch, row + 64, col], bar, b_blocks.index(i))


@gluon.jit
def _fetch_e(extras, stages, full, empty, batch, row, col, total, WIDE: gl.constexpr):
    """E behind the `total` steps of the loop."""
    extra, extra_tail = extras
    a, b = stages[0], stages[1]
    DEPTH: gl.constexpr = b.shape[0]
    DTYPE: gl.constexpr = extra.dtype
    PER_STAGE: gl.constexpr = 32 // DTYPE.primitive_bitwidth  # slices of 64 x 64 in the 16 KB of a stage of M or N
    a_blocks = a._reinterpret(DTYPE, [DEPTH * PER_STAGE, 1, 64, 64], extra.layout)
    b_blocks = b._reinterpret(DTYPE, [DEPTH * PER_STAGE, 1, 64, 64], extra.layout)
    for h in gl.static_range(2):
        _slice_of_e(extra, a_blocks, b_blocks, full, empty, batch, row, col + 64 * h, total + h, DEPTH)
    if WIDE:
        a_sides = a._reinterpret(DTYPE, [2 * DEPTH * PER_STAGE, 1, 64, 32], extra_tail.layout)
        b_sides = b._reinterpret(DTYPE, [2 * DEPTH * PER_STAGE, 1, 64, 32], extra_tail.layout)
        _slice_of_e(extra_tail, a_sides, b_sides, full, empty, batch, row, col + 128, total + 2, DEPTH)


@gluon.jit
def _tile(
    factors, addends, extras, stages, staging, full, empty, fetched, batch, row, col, steps,
    BOTH: gl.constexpr, ADDENDS: gl.constexpr, HAS_E: gl.constexpr, WIDE: gl.constexpr,
):  # fmt: skip
    """All that a tile takes; where BOTH, M's rows by N's and then N's by M's."""
    left, left_tail, right, right_tail = factors
    total = (2 if BOTH else 1) * steps
    first_at = gl.minimum(total - 1, _FETCH_STEP)
    second_at = gl.minimum(total - 1, 2 * _FETCH_STEP)
    _steps(
        left, right, right_tail, right, addends, stages, staging, full, empty, fetched, batch, row, col,
        0, steps, first_at, second_at, ADDENDS, WIDE,
    )  # fmt: skip
    if BOTH:
        _steps(
            right, left, left_tail, right, addends, stages, staging, full, empty, fetched, batch, row, col,
            steps, steps, first_at, second_at, ADDENDS, WIDE,
        )  # fmt: skip
    if HAS_E:
        _fetch_e(extras, stages, full, empty, batch, row, col, total, WIDE)


@gluon.jit
def fetch(
    factors, addends, extras, stages, staging, full, empty, fetched, batch, row, col, wide, steps,
    BOTH: gl.constexpr, ADDENDS: gl.constexpr, HAS_E: gl.constexpr, TAIL: gl.constexpr,
    OVERLAP: gl.constexpr, EARLY: gl.constexpr,
):  # fmt: skip
    """The copying warp's part of a program: M and N as they are multiplied, P's tail and Q, and E."""
    if OVERLAP:
        gdc_wait()
        if EARLY:
            gdc_launch_dependents()
    if TAIL > 0:
        if wide == 1:
            _tile(
                factors, addends, extras, stages, staging, full, empty, fetched, batch, row, col, steps,
                BOTH, ADDENDS, HAS_E, True,
            )  # fmt: skip
        else:
            _tile(
                factors, addends, extras, stages, staging, full, empty, fetched, batch, row, col, steps,
                BOTH, ADDENDS, HAS_E, False,
            )  # fmt: skip
    else:
        _tile(
            factors, addends, extras, stages, staging, full, empty, fetched, batch, row, col, steps,
            BOTH, ADDENDS, HAS_E, False,
        )  # fmt: skip
