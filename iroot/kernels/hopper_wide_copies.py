# Device functions carry no Python types, and Triton has no type information:
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, disallow-untyped-calls=False
# mypy: disallow-untyped-decorators=False
"""The copying warps of `iroot.kernels.hopper_wide`: one fetches operands and addends, one stores results.

Of a stage in a result step the second operand's 256 rows are four blocks of 64 x 64: of T for both groups, then of Z;
and later the groups' results, then their transposes.
"""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import mbarrier, tma
from triton.language.extra.cuda import gdc_wait

from iroot.kernels.hopper_blocks import PANEL, WHOLE, place
from iroot.kernels.hopper_fetch import program_at


@gluon.jit
def _corner(row, col, pair, QUARTER: gl.constexpr):
    """First row and column of a slot's 64 columns QUARTER; of a pair two are the first tile's, two the second's."""
    own = row
    if QUARTER > 1:
        own = col
    left = gl.where(pair == 1, own + PANEL * (QUARTER % 2), col + PANEL * QUARTER)
    return gl.where(pair == 1, own, row), left


@gluon.jit
def blocks_in(b):
    """The second operand's rows in every stage, in blocks of 64 x 64: four."""
    return b._reinterpret(b.dtype, [4 * b.shape[0], PANEL, PANEL], WHOLE)


@gluon.jit
def _operands(rows, a, b, full, empty, first, steps, batch, row, col, pair):
    """Ask for a slot's operands, 64 columns at a time; a pair's two tiles are both operands, in the second's place."""
    DEPTH: gl.constexpr = b.shape[0]
    BYTES: gl.constexpr = 4 * PANEL * PANEL
    above = a._reinterpret(a.dtype, [DEPTH, 2 * PANEL, PANEL], WHOLE)
    halves = b._reinterpret(b.dtype, [2 * DEPTH, 2 * PANEL, PANEL], WHOLE)
    begin = gl.where(pair == 1, row, col)
    end = gl.where(pair == 1, col, col + 2 * PANEL)
    for k in range(steps):
        step = first + k
        stage = step % DEPTH
        mbarrier.wait(empty.index(stage), ((step // DEPTH) & 1) ^ 1)
        bar = full.index(stage)
        if pair == 1:
            mbarrier.expect(bar, 2 * BYTES)
        else:
            mbarrier.expect(bar, 3 * BYTES)
            tma.async_copy_global_to_shared(rows, [batch, row, PANEL * k], bar, place(above.index(stage), rows))
        tma.async_copy_global_to_shared(rows, [batch, begin, PANEL * k], bar, place(halves.index(2 * stage), rows))
        tma.async_copy_global_to_shared(rows, [batch, end, PANEL * k], bar, place(halves.index(2 * stage + 1), rows))


@gluon.jit
def _addends(t, z, b, full, empty, step, batch, row, col):
    """Ask for two blocks of T and of Z, one for each group; without addends the stage is theirs as it is."""
    DEPTH: gl.constexpr = b.shape[0]
    BYTES: gl.constexpr = ((t is not None) + (z is not None)) * 2 * 2 * PANEL * PANEL
    blocks = blocks_in(b)
    stage = step % DEPTH
    mbarrier.wait(empty.index(stage), ((step // DEPTH) & 1) ^ 1)
    bar = full.index(stage)
    if BYTES == 0:
        mbarrier.arrive(bar, count=1)
    else:
        mbarrier.expect(bar, BYTES)
    for group in gl.static_range(2):
        begin = row + PANEL * group
        if t is not None:
            tma.async_copy_global_to_shared(t, [batch, begin, col], bar, place(blocks.index(4 * stage + group), t))
        if z is not None:
            tma.async_copy_global_to_shared(z, [batch, begin, col], bar, place(blocks.index(4 * stage + 2 + group), z))


@gluon.jit
def fetch(slots, total, rows, t, z, a, b, full, empty, turns, steps, RESULTS: gl.constexpr):
    """The fetching warp's part of a program, as far ahead as there is room."""
    slot = program_at(slots, gl.program_id(0), total)
    # What is above may run while the previous kernel finishes; what is below reads what it wrote.
    gdc_wait()
    for turn in range(turns):
        batch, row, col, pair = slot
        slot = program_at(slots, gl.program_id(0) + (turn + 1) * gl.num_programs(0), total)
        first = turn * (steps + 4 * RESULTS)
        _operands(rows, a, b, full, empty, first, steps, batch, row, col, pair)
        for quarter in gl.static_range(4):
            begin, left = _corner(row, col, pair, quarter)
            step = first + steps + quarter * RESULTS
            _addends(t, z, b, full, empty, step, batch, begin, left)
            if RESULTS > 1:
                _addends(None, None, b, full, empty, step + 1, batch, begin, left)


@gluon.jit
def _send(out, blocks, written, empty, step, turn, batch, row, col, INDEX: gl.constexpr):
    """Store both groups' blocks of a result step once they are written, and their transposes; then free the stage."""
    DEPTH: gl.constexpr = blocks.shape[0] // 4
    stage = step % DEPTH
    mbarrier.wait(written.index(INDEX), turn & 1)
    for group in gl.static_range(2):
        begin = row + PANEL * group
        at = 4 * stage + group
        if begin >= col:
            tma.async_copy_shared_to_global(out, [batch, begin, col], place(blocks.index(at), out))
        if begin > col:
            tma.async_copy_shared_to_global(out, [batch, col, begin], place(blocks.index(at + 2), out))
    # Also, shared memory must last as long as anything is read from it.
    tma.store_wait(0)
    mbarrier.arrive(empty.index(stage), count=2)


@gluon.jit
def store(slots, total, out, out_2, b, written, empty, turns, steps):
    """The storing warp's part of a program."""
    RESULTS: gl.constexpr = 1 if out_2 is None else 2
    blocks = blocks_in(b)
    gdc_wait()
    for turn in range(turns):
        batch, row, col, pair = program_at(slots, gl.program_id(0) + turn * gl.num_programs(0), total)
        first = turn * (steps + 4 * RESULTS) + steps
        for quarter in gl.static_range(4):
            begin, left = _corner(row, col, pair, quarter)
            step = first + quarter * RESULTS
            _send(out, blocks, written, empty, step, turn, batch, begin, left, quarter * RESULTS)
            if RESULTS > 1:
                _send(out_2, blocks, written, empty, step + 1, turn, batch, begin, left, quarter * RESULTS + 1)
