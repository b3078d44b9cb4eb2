# Device functions carry no Python types, and Triton has no type information:
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, disallow-untyped-calls=False
# mypy: disallow-untyped-decorators=False
"""What `iroot.kernels.hopper_words` does with a group's sums: `iroot.kernels.words`' slices, stored by the copy engine.

Of a tile on the diagonal the quadrant above it is not stored (the one below is, twice), and the two that it crosses are
made symmetric within their group. Operands, and where a slice's results leave from:

    operand 1    P of an update or product; then the slice's words
    operand 2    Q, or V of a square; then the words transposed
    E            R of Y for an update or quadratic, V beside P and Q; then the new R
    the stages   both forms of a final result, which is float32
"""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import fence_async_shared, mbarrier, tma

from iroot.kernels.hopper_blocks import WHOLE, place
from iroot.kernels.words import PRODUCT, QUADRATIC, UPDATE

HALF_ROWS = gl.constexpr(gl.NVMMASharedLayout(swizzle_byte_width=64, element_bitwidth=16, rank=2))
SINGLE = gl.constexpr(gl.NVMMASharedLayout(swizzle_byte_width=128, element_bitwidth=32, rank=2))
_PART = gl.constexpr(gl.NVMMADistributedLayout(version=[3, 0], warps_per_cta=[4, 1], instr_shape=[16, 64, 16]))
ROW_SUMS = gl.constexpr(gl.SliceLayout(1, _PART.value))
"""Of sums over the rows of a slice of any width."""


@gluon.jit
def _add_products(x, y, acc):
    """acc + the sum of x * y over blocks of 8 columns, (rows, 8): one instruction an element, which sums may take."""
    if x.shape[1] == 8:
        acc = gl.fma(x, y, acc)
    else:
        ROWS: gl.constexpr = x.shape[0]
        HALF: gl.constexpr = x.shape[1] // 2
        x_0, x_1 = x.reshape([ROWS, 2, HALF]).permute((0, 2, 1)).split()
        y_0, y_1 = y.reshape([ROWS, 2, HALF]).permute((0, 2, 1)).split()
        acc = _add_products(x_0, y_0, acc)
        acc = _add_products(x_1, y_1, acc)
    return acc


@gluon.jit
def _first_products(x, y):
    """The same without a sum before it."""
    if x.shape[1] == 8:
        acc = x * y
    else:
        ROWS: gl.constexpr = x.shape[0]
        HALF: gl.constexpr = x.shape[1] // 2
        x_0, x_1 = x.reshape([ROWS, 2, HALF]).permute((0, 2, 1)).split()
        y_0, y_1 = y.reshape([ROWS, 2, HALF]).permute((0, 2, 1)).split()
        acc = _first_products(x_0, y_0)
        acc = _add_products(x_1, y_1, acc)
    return acc


@gluon.jit
def _row_sums(x, y):
    """Sums of x * y over rows, laid out alike for slices of every width."""
    return gl.convert_layout(gl.sum(_first_products(x, y), 1), ROW_SUMS, assert_trivial=True)


@gluon.jit
def add_sums(
    word, p, operand_2, extra, sums, i, j, diagonal,
    HAS_Q: gl.constexpr, HAS_V: gl.constexpr, DTYPE: gl.constexpr, MEETS: gl.constexpr, ABOVE: gl.constexpr,
):  # fmt: skip
    """A slice's sums out * out, out * P, out * V by rows, as often as the elements are stored."""
    norm, with_p, with_v, lost = sums
    w = word.to(gl.float32)
    weighted = w
    weight = 2.0
    if ABOVE:
        weight = gl.where(diagonal, 0.0, 2.0)
    if MEETS:
        weight = gl.where(diagonal, 1.0, 2.0)
        if diagonal:
            weighted = gl.where(i > j, 2.0 * w, gl.where(i == j, w, 0.0))
    norm += weight * _row_sums(weighted, w)
    with_p += weight * _row_sums(weighted, p.to(DTYPE).to(gl.float32))  # R rounded is the word
    if HAS_V:
        v = extra.load(word.type.layout) if HAS_Q else operand_2.load(word.type.layout)
        with_v += weight * _row_sums(weighted, v.to(gl.float32))
    return norm, with_p, with_v, lost


@gluon.jit
def _send(word, plain, turned, out, mirror, batch, row, col, i, j, diagonal, MEETS: gl.constexpr, ABOVE: gl.constexpr):
    """Begin the stores of out[row:, col:] = word and out[col:, row:] = word^T; on the diagonal it is one store."""
    # All of the group have read what lies in the buffers.
    gl.thread_barrier()
    turned.permute((1, 0)).store(word)
    if MEETS and diagonal:
        gl.thread_barrier()
        word = gl.where(i >= j, word, turned.load(word.type.layout))
    plain.store(word)
    fence_async_shared()
    gl.thread_barrier()
    plain_block = place(plain, out)
    turned_block = place(turned, mirror)
    if ABOVE:
        if diagonal == 0:
            tma.async_copy_shared_to_global(out, [batch, row, col], plain_block)
            tma.async_copy_shared_to_global(mirror, [batch, col, row], turned_block)
    else:
        tma.async_copy_shared_to_global(out, [batch, row, col], plain_block)
        if MEETS:
            if diagonal == 0:
                tma.async_copy_shared_to_global(mirror, [batch, col, row], turned_block)
        else:
            tma.async_copy_shared_to_global(mirror, [batch, col, row], turned_block)


@gluon.jit
def value_of(
    part, p, operand_2, extra, sums, i, j, row, n, terms, mean, diagonal,
    KIND: gl.constexpr, FINAL: gl.constexpr, HAS_Q: gl.constexpr, MEETS: gl.constexpr,
):  # fmt: skip
    """outer (alpha acc + beta P + gamma Q + eta R) at rows i and columns j of a tile; what a diagonal's sums lost."""
    alpha, beta, gamma, eta, on_diagonal, outer = terms
    value = alpha * part + beta * p.to(gl.float32)
    if HAS_Q:
        value += gamma * operand_2.load(part.type.layout).to(gl.float32)
    if KIND == UPDATE:
        value += eta * extra.load(part.type.layout)
    if MEETS and diagonal:
        on = (i == j) & (row + i < n)
        value = gl.where(on, value + on_diagonal, value)
        if KIND == UPDATE:
            norm, with_p, with_v, lost = sums
            of_rows = gl.sum(gl.where(on, mean - alpha * part, 0.0), 1)
            lost += gl.convert_layout(of_rows, ROW_SUMS, assert_trivial=True)
            sums = (norm, with_p, with_v, lost)
    if FINAL:
        value *= outer
    return value, sums


@gluon.jit
def _slice(
    part, operand_1, operand_2, extra, plain, turned, out, mirror, rest_out, sums, batch, row, col, n,
    terms, mean, diagonal,
    KIND: gl.constexpr, FINAL: gl.constexpr, HAS_Q: gl.constexpr, HAS_V: gl.constexpr, DTYPE: gl.constexpr,
    MEETS: gl.constexpr, ABOVE: gl.constexpr,
):  # fmt: skip
    """One quadrant or tail: outer (alpha acc + beta P + gamma Q + eta R), rounded and on its way; the sums with it.

    diagonal: of the tile; MEETS, ABOVE: this slice would meet it, or lie above it, then.
    """
    LAYOUT: gl.constexpr = part.type.layout
    i = gl.arange(0, part.shape[0], layout=gl.SliceLayout(1, LAYOUT))[:, None]
    j = gl.arange(0, part.shape[1], layout=gl.SliceLayout(0, LAYOUT))[None, :]
    p = extra.load(LAYOUT) if KIND == QUADRATIC else operand_1.load(LAYOUT)
    value, sums = value_of(
        part, p, operand_2, extra, sums, i, j, row, n, terms, mean, diagonal, KIND, FINAL, HAS_Q, MEETS
    )  # fmt: skip
    if KIND == UPDATE:
        extra.store(value)
    word = value.to(out.dtype)
    if not FINAL:
        sums = add_sums(word, p, operand_2, extra, sums, i, j, diagonal, HAS_Q, HAS_V, DTYPE, MEETS, ABOVE)
    _send(word, plain, turned, out, mirror, batch, row, col, i, j, diagonal, MEETS, ABOVE)
    if KIND == UPDATE:
        tma.async_copy_shared_to_global(rest_out, [batch, row, col], place(extra, rest_out))
    return sums


@gluon.jit
def _e_of(own, full, step, side: gl.constexpr, KIND: gl.constexpr, DEPTH: gl.constexpr):
    """This group's slice of E, once it is in the stage that `step` uses; of a tail's 32 columns where `side`."""
    DTYPE: gl.constexpr = own.dtype if KIND == PRODUCT else gl.float32
    COLUMNS: gl.constexpr = 32 if side else 64
    NARROW: gl.constexpr = HALF_ROWS if side else WHOLE
    LAYOUT: gl.constexpr = NARROW if KIND == PRODUCT else SINGLE
    PER_STAGE: gl.constexpr = (2 if side else 1) * (2 if KIND == PRODUCT else 1)
    stage = step % DEPTH
    extra = own._reinterpret(DTYPE, [DEPTH * PER_STAGE, 64, COLUMNS], LAYOUT).index(stage * PER_STAGE)
    mbarrier.wait(full.index(stage), (step // DEPTH) & 1)
    return extra


@gluon.jit
def finish(
    head, side, stages, staging, full, results, rests, batch, row, col, wide, total, n, terms, mean, diagonal,
    KIND: gl.constexpr, FINAL: gl.constexpr, HAS_Q: gl.constexpr, HAS_V: gl.constexpr, HAS_E: gl.constexpr,
    TAIL: gl.constexpr, GROUP: gl.constexpr,
):  # fmt: skip
    """Results of a group's 64 rows, slice by slice: the first stores begin while the next values are made.

    Returns, by rows, the sums out * out, out * P, out * V, and what a diagonal's sums lost.
    """
    out, out_tail, mirror_tail = results
    rest_out, rest_out_tail = rests
    a, b, b_tail = stages
    buf_1, buf_2, buf_1_tail, buf_2_tail = staging
    DTYPE: gl.constexpr = a.dtype
    DEPTH: gl.constexpr = b.shape[0]
    own = a if GROUP == 0 else b
    norm = gl.zeros([64], gl.float32, ROW_SUMS)
    with_p = gl.zeros([64], gl.float32, ROW_SUMS)
    with_v = gl.zeros([64], gl.float32, ROW_SUMS)
    lost = gl.zeros([64], gl.float32, ROW_SUMS)
    sums = (norm, with_p, with_v, lost)
    halves = head.reshape([64, 2, 64]).permute((0, 2, 1)).split()
    for h in gl.static_range(2):
        part = gl.convert_layout(halves[h], _PART, assert_trivial=True)
        plain = buf_1.index(2 * h + GROUP)
        turned = buf_2.index(2 * h + GROUP)
        operand_1 = plain
        operand_2 = turned
        extra = plain
        if HAS_E:
            extra = _e_of(own, full, total + h, False, KIND, DEPTH)
        if FINAL:
            plain = a._reinterpret(gl.float32, [DEPTH, 64, 64], SINGLE).index(2 * GROUP + h)
            turned = b._reinterpret(gl.float32, [DEPTH, 64, 64], SINGLE).index(2 * GROUP + h)
        sums = _slice(
            part, operand_1, operand_2, extra, plain, turned, out, out, rest_out, sums,
            batch, row, col + 64 * h, n, terms, mean, diagonal,
            KIND, FINAL, HAS_Q, HAS_V, DTYPE, h == GROUP, h > GROUP,
        )  # fmt: skip
    if TAIL > 0 and wide == 1:
        operand_1_side = buf_1_tail.index(GROUP)
        operand_2_side = buf_2_tail.index(GROUP)
        extra_side = operand_1_side
        if HAS_E:
            extra_side = _e_of(own, full, total + 2, True, KIND, DEPTH)
        if FINAL:
            plain_side = b_tail._reinterpret(gl.float32, [DEPTH // 2, 64, 32], SINGLE).index(GROUP)
            turned_side = buf_1.index(GROUP)._reinterpret(gl.float32, [32, 64], SINGLE)
        else:
            plain_side = operand_1_side
            turned_side = operand_2_side._reinterpret(DTYPE, [32, 64], WHOLE)
        sums = _slice(
            side, operand_1_side, operand_2_side, extra_side, plain_side, turned_side, out_tail, mirror_tail,
            rest_out_tail, sums, batch, row, col + 128, n, terms, mean, diagonal,
            KIND, FINAL, HAS_Q, HAS_V, DTYPE, False, False,
        )  # fmt: skip
    return sums
