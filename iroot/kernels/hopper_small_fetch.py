# Device functions carry no Python types, and Triton has no type information:
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, disallow-untyped-calls=False
# mypy: disallow-untyped-decorators=False
"""The copying warp of `iroot.kernels.hopper_small_sum`: operands, then addends, through one ring of stages."""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import mbarrier, tma
from triton.language.extra.cuda import gdc_wait

from iroot.kernels.diagonal_pairs import SIDE
from iroot.kernels.hopper_blocks import place
from iroot.kernels.hopper_fetch import program_at

PAIR = gl.constexpr(1)
"""A program of two tiles: `diagonal_pairs.paired_schedule`."""

_SIDE = gl.constexpr(SIDE)
_BYTES = gl.constexpr(2 * SIDE**2)

BEYOND = gl.constexpr(1 << 24)
"""A row that no matrix has: what is fetched there is zero and costs no memory access."""


@gluon.jit
def tile_at(programs):
    """Batch, row, column and kind of this program's tile."""
    return program_at(programs, gl.program_id(0), gl.num_programs(0))


@gluon.jit
def _acquaint(view, stage, known):
    """Have the copy engine read a descriptor, if any, which takes as long as a block of the matrix does."""
    if view is not None:
        mbarrier.expect(known, _BYTES)
        tma.async_copy_global_to_shared(view, [0, BEYOND, 0], known, place(stage, view))


@gluon.jit
def _fetch_addends(t, z, a, b, full, empty, batch, row, col, step):
    """A tile of T and one of Z in the stage of `step`."""
    STAGES: gl.constexpr = a.shape[0]
    ADDENDS: gl.constexpr = (0 if t is None else 1) + (0 if z is None else 1)
    if ADDENDS > 0:
        stage = step % STAGES
        bar = full.index(stage)
        mbarrier.wait(empty.index(stage), ((step // STAGES) & 1) ^ 1)
        mbarrier.expect(bar, ADDENDS * _BYTES)
        if t is not None:
            tma.async_copy_global_to_shared(t, [batch, row, col], bar, place(a.index(stage), t))
        if z is not None:
            tma.async_copy_global_to_shared(z, [batch, row, col], bar, place(b.index(stage), z))


@gluon.jit
def fetch(programs, steps, left, right, t, z, out, out_2, a, b, full, empty, known):
    """The copying warp's part of a program."""
    STAGES: gl.constexpr = a.shape[0]
    batch, row, col, kind = tile_at(programs)
    last = a.index(STAGES - 1)
    _acquaint(left, last, known)
    _acquaint(right, last, known)
    _acquaint(t, last, known)
    _acquaint(z, last, known)
    _acquaint(out, last, known)
    _acquaint(out_2, last, known)
    other = left if right is None else right
    # What is above may run while the previous kernel finishes; what is below reads what it wrote.
    gdc_wait()
    for step in range(steps):
        stage = step % STAGES
        if step == STAGES - 1:
            mbarrier.wait(known, 0)
        mbarrier.wait(empty.index(stage), ((step // STAGES) & 1) ^ 1)
        bar = full.index(stage)
        k = step * _SIDE
        mbarrier.expect(bar, 2 * _BYTES)
        tma.async_copy_global_to_shared(left, [batch, row, k], bar, place(a.index(stage), left))
        tma.async_copy_global_to_shared(other, [batch, col, k], bar, place(b.index(stage), other))
    mbarrier.wait(known, 0)
    if kind == PAIR:
        _fetch_addends(t, z, a, b, full, empty, batch, row, row, steps)
        _fetch_addends(t, z, a, b, full, empty, batch, col, col, steps + 1)
    else:
        _fetch_addends(t, z, a, b, full, empty, batch, row, col, steps)
