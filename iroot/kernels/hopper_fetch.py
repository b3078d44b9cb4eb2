# Device functions carry no Python types, and Triton has no type information:
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, disallow-untyped-calls=False
# mypy: disallow-untyped-decorators=False
"""The copying warp of `iroot.kernels.hopper_sum`: operands and addends into shared memory, ahead of their use."""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import mbarrier, tma
from triton.language.extra.cuda import gdc_wait

from iroot.kernels.hopper_blocks import PANEL, place

_FETCH_STEP = gl.constexpr(6)
"""Of the loop over the depth: when a tile's addends are asked for. At once, they would be in the way of the operands;
n = 2048, two addends: 22.1 us, and 23.3 us at once (experiment, H100, 2026-11-23)."""


@gluon.jit
def program_at(programs, slot, total):
    """Batch, row and column of a tile, and whether it is a wide one: `tiling.Program`. Beyond the last, the last."""
    begin = programs + 4 * gl.minimum(slot, total - 1)
    return gl.load(begin), gl.load(begin + 1), gl.load(begin + 2), gl.load(begin + 3)


@gluon.jit
def _addend(view, view_tail, panels, tail, fetched, batch, row, col, WIDE: gl.constexpr):
    """Ask for a tile of T or Z."""
    COUNT: gl.constexpr = panels.shape[0]
    if WIDE:
        tma.async_copy_global_to_shared(
            view_tail, [batch, row, col + COUNT * PANEL], fetched, place(tail, view_tail)
        )  # fmt: skip
    for panel in gl.static_range(COUNT):
        tma.async_copy_global_to_shared(
            view, [batch, row, col + panel * PANEL], fetched, place(panels.index(panel), view)
        )  # fmt: skip


@gluon.jit
def _tile(
    operands, addends, stages, staging, full, empty, fetched, drained, batch, row, col, steps, turn,
    HAS_T: gl.constexpr, HAS_Z: gl.constexpr, BLOCK: gl.constexpr, TAIL: gl.constexpr, WIDE: gl.constexpr,
):  # fmt: skip
    """A tile's operands, step by step, and its addends on the way."""
    left, right, right_tail = operands
    a, b, b_tail = stages
    COLUMNS: gl.constexpr = BLOCK + (TAIL if WIDE else 0)
    STEP: gl.constexpr = a.shape[2]
    DEPTH: gl.constexpr = a.shape[0]
    ADDENDS: gl.constexpr = (1 if HAS_T else 0) + (1 if HAS_Z else 0)
    done = turn * steps
    first_at = gl.minimum(steps - 1, _FETCH_STEP)
    last_at = gl.minimum(steps - 1, ADDENDS * _FETCH_STEP)
    for step in range(steps):
        stage = (done + step) % DEPTH
        mbarrier.wait(empty.index(stage), (((done + step) // DEPTH) & 1) ^ 1)
        bar = full.index(stage)
        k = step * STEP
        mbarrier.expect(bar, 2 * STEP * (BLOCK + COLUMNS))
        tma.async_copy_global_to_shared(left, [batch, row, k], bar, place(a.index(stage), left))
        tma.async_copy_global_to_shared(right, [batch, col, k], bar, place(b.index(stage), right))
        if WIDE:
            tma.async_copy_global_to_shared(
                right_tail, [batch, col + BLOCK, k], bar, place(b_tail.index(stage), right_tail)
            )
        if ADDENDS > 0 and step == first_at:
            # The last tile's results have left these places.
            mbarrier.wait(drained, (turn & 1) ^ 1)
            mbarrier.expect(fetched, ADDENDS * 2 * BLOCK * COLUMNS)
        if HAS_T and step == first_at:
            _addend(addends[0], addends[1], staging[0], staging[1], fetched, batch, row, col, WIDE)
        if HAS_Z and step == last_at:
            _addend(addends[2], addends[3], staging[2], staging[3], fetched, batch, row, col, WIDE)


@gluon.jit
def fetch(
    programs, total, steps, operands, addends, stages, staging, full, empty, fetched, drained,
    HAS_T: gl.constexpr, HAS_Z: gl.constexpr, RESULTS: gl.constexpr, BLOCK: gl.constexpr, TAIL: gl.constexpr,
    OVERLAP: gl.constexpr,
):  # fmt: skip
    """The copying warp's part of a program: all its tiles, as far ahead as there is room."""
    first = gl.program_id(0)
    stride = gl.num_programs(0)
    tile = program_at(programs, first, total)
    if OVERLAP:
        # What is above may run while the previous kernel finishes; what is below reads what it wrote.
        gdc_wait()
    for turn in range(gl.cdiv(total - first, stride)):
        batch, row, col, wide = tile
        tile = program_at(programs, first + (turn + 1) * stride, total)
        if RESULTS > 1:
            # A second result leaves from the operands' places.
            mbarrier.wait(drained, (turn & 1) ^ 1)
        if TAIL > 0 and wide == 1:
            _tile(
                operands, addends, stages, staging, full, empty, fetched, drained, batch, row, col, steps, turn,
                HAS_T, HAS_Z, BLOCK, TAIL, True,
            )  # fmt: skip
        else:
            _tile(
                operands, addends, stages, staging, full, empty, fetched, drained, batch, row, col, steps, turn,
                HAS_T, HAS_Z, BLOCK, TAIL, False,
            )  # fmt: skip
