# Device functions carry no Python types, and Triton has no type information:
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, disallow-untyped-calls=False
# mypy: disallow-untyped-decorators=False
"""What `iroot.kernels.hopper_sum` does with a tile's accumulators: sums, rounding, and stores that nobody waits for.

An addend's tile lies in shared memory when the sums begin, and a result's leaves from there by the copy engine: once as
it is, once transposed. The first result takes the places of the two addends, a second one those of the operands.
"""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import fence_async_shared, mbarrier, tma

from iroot.kernels.hopper_blocks import PANEL, WHOLE, place


@gluon.jit
def weighted(acc, T, Z, terms, HAS_T: gl.constexpr, HAS_Z: gl.constexpr):
    """p acc + t T + z Z, in the order of `iroot.kernels.symmetric_sum`."""
    value = terms[0] * acc
    if HAS_T:
        value += terms[1] * T.to(gl.float32)
    if HAS_Z:
        value += terms[2] * Z.to(gl.float32)
    return value


@gluon.jit
def _send_tail(value, plain, turned, out, mirror, batch, row, col):
    """Begin the stores of out[row:, col:] = word and out[col:, row:] = word^T; the sum of the word's squares."""
    word = value.to(plain.dtype)
    turned.permute((1, 0)).store(word)
    plain.store(word)
    fence_async_shared()
    gl.thread_barrier()
    tma.async_copy_shared_to_global(mirror, [batch, col, row], place(turned, mirror))
    tma.async_copy_shared_to_global(out, [batch, row, col], place(plain, out))
    wide = word.to(gl.float32)
    return 2.0 * gl.sum(gl.sum(wide * wide, axis=1), axis=0)


@gluon.jit
def _send_panel(
    value, on_diagonal, plain, turned, out, batch, row, col, H: gl.constexpr, SQUARE: gl.constexpr
):  # fmt: skip
    """The same for columns col + PANEL H and following; of a tile on the diagonal the lower triangle, mirrored.

    Stores are of PANEL x PANEL blocks. The tile's upper right one is the mirrored lower left one, never its own.
    """
    LAYOUT: gl.constexpr = value.type.layout
    i = gl.arange(0, 2 * PANEL, layout=gl.SliceLayout(1, LAYOUT))[:, None]
    j = gl.arange(0, PANEL, layout=gl.SliceLayout(0, LAYOUT))[None, :]
    if SQUARE:
        value = gl.where(row + i == col + H * PANEL + j, value + on_diagonal, value)
    word = value.to(plain.dtype)
    turned.permute((1, 0)).store(word)
    if SQUARE and row == col:
        gl.thread_barrier()
        # Panel H of turned is the transpose of rows PANEL H and following: it lies where they do.
        mirrored = turned._reinterpret(plain.dtype, [2 * PANEL, PANEL], WHOLE).load(LAYOUT)
        word = gl.where(i - H * PANEL >= j, word, mirrored)
    plain.store(word)
    fence_async_shared()
    gl.thread_barrier()
    plain_blocks = plain._reinterpret(plain.dtype, [2, PANEL, PANEL], WHOLE)
    turned_blocks = turned._reinterpret(plain.dtype, [2, PANEL, PANEL], WHOLE)
    for half in gl.static_range(2):
        below = row + half * PANEL
        if (not SQUARE) or half > H or row != col:
            tma.async_copy_shared_to_global(out, [batch, col + H * PANEL, below], place(turned_blocks.index(half), out))
        if (not SQUARE) or half >= H or row != col:
            tma.async_copy_shared_to_global(out, [batch, below, col + H * PANEL], place(plain_blocks.index(half), out))
    wide = word.to(gl.float32)
    squares = wide * wide
    weighted = 2.0 * squares
    if SQUARE and row == col:
        weighted = gl.where(i >= PANEL, (2.0 - H) * squares, (1.0 - H) * squares)
    return gl.sum(gl.sum(weighted, axis=1), axis=0)


@gluon.jit
def _side(
    acc, staging, stages, results, results_2, batch, row, col, terms, terms_2,
    HAS_T: gl.constexpr, HAS_Z: gl.constexpr, RESULTS: gl.constexpr,
):  # fmt: skip
    """Both sums for the further columns of a wide tile."""
    LAYOUT: gl.constexpr = acc.type.layout
    BLOCK: gl.constexpr = acc.shape[0]
    TAIL: gl.constexpr = acc.shape[1]
    DTYPE: gl.constexpr = results[0].dtype
    plain, turned = staging[1], staging[3]
    T = 0.0
    Z = 0.0
    if HAS_T:
        T = plain.load(LAYOUT)
    if HAS_Z:
        Z = turned.load(LAYOUT)
    # Every warp has read its part before another writes there.
    gl.thread_barrier()
    value = weighted(acc, T, Z, terms, HAS_T, HAS_Z)
    turned = turned._reinterpret(DTYPE, [TAIL, BLOCK], WHOLE)
    total = _send_tail(value, plain, turned, results[1], results[2], batch, row, col)
    if RESULTS > 1:
        BLOCKS: gl.constexpr = stages[2].numel // (BLOCK * TAIL)
        gl.static_assert(BLOCKS >= 2)
        plain = stages[2]._reinterpret(DTYPE, [BLOCKS, BLOCK, TAIL], staging[1].layout).index(0)
        turned = stages[2]._reinterpret(DTYPE, [BLOCKS, TAIL, BLOCK], WHOLE).index(1)
        value = weighted(acc, T, Z, terms_2, HAS_T, HAS_Z)
        _send_tail(value, plain, turned, results_2[1], results_2[2], batch, row, col)
    return total


@gluon.jit
def _panel(
    acc, staging, stages, results, results_2, batch, row, col, terms, terms_2,
    H: gl.constexpr, SQUARE: gl.constexpr, HAS_T: gl.constexpr, HAS_Z: gl.constexpr, RESULTS: gl.constexpr,
):  # fmt: skip
    """Both sums for one panel of a tile's columns."""
    LAYOUT: gl.constexpr = acc.type.layout
    BLOCK: gl.constexpr = acc.shape[0]
    DTYPE: gl.constexpr = results[0].dtype
    plain = staging[0].index(H)
    T = 0.0
    Z = 0.0
    if HAS_T:
        T = plain.load(LAYOUT)
    if HAS_Z:
        Z = staging[2].index(H).load(LAYOUT)
    gl.thread_barrier()
    value = weighted(acc, T, Z, terms, HAS_T, HAS_Z)
    turned = staging[2].index(H)._reinterpret(DTYPE, [PANEL, BLOCK], WHOLE)
    total = _send_panel(value, terms[3], plain, turned, results[0], batch, row, col, H, SQUARE)
    if RESULTS > 1:
        BLOCKS: gl.constexpr = stages[0].numel // (BLOCK * PANEL)
        gl.static_assert(BLOCKS >= 2)
        plain = stages[0]._reinterpret(DTYPE, [BLOCKS, BLOCK, PANEL], WHOLE).index(H)
        turned = stages[1]._reinterpret(DTYPE, [BLOCKS, PANEL, BLOCK], WHOLE).index(H)
        value = weighted(acc, T, Z, terms_2, HAS_T, HAS_Z)
        _send_panel(value, terms_2[3], plain, turned, results_2[0], batch, row, col, H, SQUARE)
    return total


@gluon.jit
def finish(
    head, side, staging, stages, results, results_2, batch, row, col, terms, terms_2,
    HAS_T: gl.constexpr, HAS_Z: gl.constexpr, RESULTS: gl.constexpr, WIDE: gl.constexpr,
):  # fmt: skip
    """Results of a tile, slice by slice: the first stores begin while the next sums are made.

    Returns the sum of the first result's squares, as often as they are stored.
    """
    BLOCK: gl.constexpr = head.shape[0]
    gl.static_assert(BLOCK == 2 * PANEL)
    total = 0.0
    if WIDE:
        total += _side(
            side, staging, stages, results, results_2, batch, row, col + BLOCK, terms, terms_2, HAS_T, HAS_Z, RESULTS
        )
    HALF: gl.constexpr = gl.NVMMADistributedLayout(
        version=[3, 0], warps_per_cta=[gl.num_warps(), 1], instr_shape=[16, PANEL, 16]
    )
    halves = head.reshape([BLOCK, 2, PANEL]).permute((0, 2, 1)).split()
    for H in gl.static_range(2):
        total += _panel(
            gl.convert_layout(halves[H], HALF, assert_trivial=True), staging, stages, results, results_2,
            batch, row, col, terms, terms_2, H, not WIDE, HAS_T, HAS_Z, RESULTS,
        )  # fmt: skip
    return total


@gluon.jit
def begin(stages_free, fetched, turn, ADDENDS: gl.constexpr):
    """Before a tile's sums: the last tile's stores have read their buffers, and this tile's addends are here."""
    tma.store_wait(0)
    # Past this barrier no warp group multiplies any more: the last stage is free, and the operands' places are too.
    gl.thread_barrier()
    mbarrier.arrive(stages_free, count=1)
    if ADDENDS > 0:
        mbarrier.wait(fetched, turn & 1)


@gluon.jit
def end(drained):
    """After a tile's sums: wait until its stores have read their buffers, and let these be filled again."""
    tma.store_wait(0)
    gl.thread_barrier()
    mbarrier.arrive(drained, count=1)
