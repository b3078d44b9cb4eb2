# Device functions carry no Python types, and Triton has no type information:
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, disallow-untyped-calls=False
# mypy: disallow-untyped-decorators=False
"""Products of words, shift I + word, with everything elementwise in the epilogue: the device side of `graded_root`.

A word is an exact scalar per matrix and one 16-bit matrix. The scalar is the mean diagonal, which is known before a
product starts: the trace of M N is the sum over all entries of M * N, and whoever wrote the later of the two words also
left that sum, tile by tile. So no product waits for a reduction of its own, and adding tiles up in order makes results
repeat bit for bit. Three forms of one kernel, each for tiles on or below the diagonal, stored twice:

    quadratic   B  = c_0 I + c_1 Z + c_2 (2 Z^2 - I),  Z = (Y - mid I) / radius
    product     f M N
    update      Y' = a Y + sym(Y W),  Y also in float32

Tensor cores cut their running sum off towards zero, an error relative to the largest eigenvalues that shows on the
smallest. Most of it is one shift of the diagonal, and the trace is known beforehand: tiles on the diagonal leave what
they lost of it, and whoever reads Y adds that to its scalar. Y W moves small eigenvalues, k = n = 2048, p = 2, by
2.6e-5 in the first step, where they start at 3e-3, and by less than 6e-7 with the trace put right; in the second,
where they start at 2.8e-2, by 1.7e-4, by 9.6e-5 with the trace, and by 1.3e-5 if the accumulator is promoted every
512 columns too (H100, float16, 2026-11-22).
"""

from __future__ import annotations

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from iroot.kernels.mainloop import accumulate, accumulate_wide

QUADRATIC = tl.constexpr(0)
PRODUCT = tl.constexpr(1)
UPDATE = tl.constexpr(2)


@triton.jit
def total_of(partial, batch, count, COUNT: tl.constexpr):
    """The sum of one matrix's partial sums, (batches, count) float32; COUNT is the power of two from count on."""
    i = tl.arange(0, COUNT)
    return tl.sum(tl.load(partial + batch * count + i, mask=i < count, other=0.0), 0)


@triton.jit
def _slice(
    acc, p_word, q_word, rest, v_word, out, mirror, rest_out,
    batch, row, col, n, alpha, beta, gamma, eta, on_diagonal, outer, weight,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DTYPE: tl.constexpr, FINAL: tl.constexpr,
):  # fmt: skip
    """Store a slice of outer (alpha acc + beta P + gamma Q + eta R) twice; its sums out * out, out * P, out * V."""
    p = p_word.load([batch, row, col]).reshape(ROWS, COLUMNS)
    value = alpha * acc + beta * p.to(tl.float32)
    if q_word is not None:
        value += gamma * q_word.load([batch, row, col]).reshape(ROWS, COLUMNS).to(tl.float32)
    if rest is not None:
        value += eta * rest.load([batch, row, col]).reshape(ROWS, COLUMNS)
    i = row + tl.arange(0, ROWS)[:, None]
    j = col + tl.arange(0, COLUMNS)[None, :]
    value = tl.where((i == j) & (i < n), value + on_diagonal, value)
    if FINAL:
        value *= outer
    if rest_out is not None:
        rest_out.store([batch, row, col], value.reshape(1, ROWS, COLUMNS))
    word = value.to(DTYPE)
    out.store([batch, row, col], word.reshape(1, ROWS, COLUMNS))
    mirror.store([batch, col, row], word.T.reshape(1, COLUMNS, ROWS))
    norm = 0.0
    with_p = 0.0
    with_v = 0.0
    if not FINAL:
        w = word.to(tl.float32)
        norm = weight * tl.sum(w * w)
        with_p = weight * tl.sum(w * p.to(DTYPE).to(tl.float32))  # R rounded is the word
        if v_word is not None:
            with_v = weight * tl.sum(w * v_word.load([batch, row, col]).reshape(ROWS, COLUMNS).to(tl.float32))
    return norm, with_p, with_v


@triton.jit
def _halves(tile, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    return tile.reshape(ROWS, 2, COLUMNS // 2).permute(0, 2, 1).split()


@triton.jit
def _columns(
    acc, p_word, q_word, rest, v_word, out, mirror, rest_out,
    batch, row, col, n, alpha, beta, gamma, eta, on_diagonal, outer, weight,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, SLICE: tl.constexpr, DTYPE: tl.constexpr, FINAL: tl.constexpr,
):  # fmt: skip
    """`_slice` for each SLICE columns: operands of a whole tile would not fit the registers beside its accumulator."""
    if COLUMNS == SLICE:
        norm, with_p, with_v = _slice(
            acc, p_word, q_word, rest, v_word, out, mirror, rest_out, batch, row, col, n,
            alpha, beta, gamma, eta, on_diagonal, outer, weight, ROWS, COLUMNS, DTYPE, FINAL,
        )  # fmt: skip
    else:
        first, second = _halves(acc, ROWS, COLUMNS)
        norm, with_p, with_v = _columns(
            first, p_word, q_word, rest, v_word, out, mirror, rest_out, batch, row, col, n,
            alpha, beta, gamma, eta, on_diagonal, outer, weight, ROWS, COLUMNS // 2, SLICE, DTYPE, FINAL,
        )  # fmt: skip
        norm_2, with_p_2, with_v_2 = _columns(
            second, p_word, q_word, rest, v_word, out, mirror, rest_out, batch, row, col + COLUMNS // 2, n,
            alpha, beta, gamma, eta, on_diagonal, outer, weight, ROWS, COLUMNS // 2, SLICE, DTYPE, FINAL,
        )  # fmt: skip
        norm += norm_2
        with_p += with_p_2
        with_v += with_v_2
    return norm, with_p, with_v


@triton.jit(
    do_not_specialize=["tiles", "terms", "c0", "c1", "c2", "mid", "inverse_radius", "factor", "linear", "inverse_p"]
)
def word_kernel(
    programs,  # (number of programs, 4) int32: see tiling.Program
    left, left_tail,  # (batches, n, n) in strips of rows; left_tail for sums over both orders only
    right, right_tail,  # the same object as left for a square
    p_word,  # the right word in slices; for a quadratic R of Y = shift I + R, float32
    q_word,  # the left word in slices, or None for a square
    rest,  # R of Y, float32, lower triangle, in slices; for an update only
    v_word,  # a word to be multiplied with the result later, in slices, or None
    out, mirror,  # the result in slices and in transposed slices: its word, or where FINAL all of it in float32
    rest_out,  # the result's R, lower triangle, in slices; for an update only
    left_shift, right_shift, out_shift,  # (batches,) float32
    trace_sums,  # (batches, terms): sums left * right; None: the new scalar is the product of the scalars alone
    left_errors, errors, blocks,  # (batches, blocks): what the diagonals of Y, and of the update, lost
    norm_sums, p_sums, v_sums,  # (batches, tiles): sums out * out, out * P, out * V
    scale,  # (batches,): FINAL results are multiplied by scale^(-1/p)
    tiles, terms, n, c0, c1, c2, mid, inverse_radius, factor, linear, inverse_p,
    KIND: tl.constexpr, BOTH: tl.constexpr, FINAL: tl.constexpr, COUNT: tl.constexpr, BLOCKS: tl.constexpr,
    BLOCK: tl.constexpr, TAIL: tl.constexpr, SLICE: tl.constexpr, BLOCK_K: tl.constexpr, PROMOTE_K: tl.constexpr,
    DTYPE: tl.constexpr, OVERLAP: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """One tile per program. Programs start in order of their number. BOTH: (M N + N M) / 2 instead of M N."""
    slot = tl.program_id(0)
    batch = tl.load(programs + 4 * slot)
    row = tl.load(programs + 4 * slot + 1)
    col = tl.load(programs + 4 * slot + 2)
    wide = tl.load(programs + 4 * slot + 3)
    if OVERLAP:
        # Everything above may run while the previous kernel finishes; everything below reads what it wrote.
        gdc_wait()
        if EARLY:
            gdc_launch_dependents()
    left_scalar = tl.load(left_shift + batch)
    right_scalar = tl.load(right_shift + batch)
    if KIND != PRODUCT:
        # What tensor cores cut off the sums on the diagonal, seen only once they were complete.
        left_error = total_of(left_errors, batch, blocks, BLOCKS) / n
    mean = 0.0
    if trace_sums is not None:
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
        if q_word is None:
            beta += factor * left_scalar
        gamma = factor * right_scalar
        whole = factor * left_scalar * right_scalar
        on_diagonal = -factor * mean
        shift = whole - on_diagonal
    else:
        # A rounding error of the scalar would be one of every eigenvalue, small ones too: float64, and what the new
        # scalar cannot hold goes into the float32 diagonal.
        w = right_scalar.to(tl.float64) - linear
        y = left_scalar.to(tl.float64) + left_error
        alpha = 1.0
        beta = left_scalar
        gamma = w.to(tl.float32)
        eta = linear
        exact = y * linear + y * w
        shift = (exact + mean).to(tl.float32)
        on_diagonal = (exact - shift).to(tl.float32)
        whole = on_diagonal
    if BOTH:
        alpha *= 0.5
    outer = 1.0
    if FINAL:
        on_diagonal = whole
        outer = tl.exp2(-inverse_p * tl.log2(tl.load(scale + batch)))
    head = tl.zeros((BLOCK, BLOCK), tl.float32)
    if TAIL > 0 and wide == 1:
        tail = tl.zeros((BLOCK, TAIL), tl.float32)
        head, tail = accumulate_wide(
            head, tail, left, right, right_tail, batch, row, col, n, BLOCK, TAIL, BLOCK_K, PROMOTE_K, True, True
        )  # fmt: skip
        if BOTH:
            head, tail = accumulate_wide(
                head, tail, right, left, left_tail, batch, row, col, n, BLOCK, TAIL, BLOCK_K, PROMOTE_K, True, True
            )  # fmt: skip
        norm, with_p, with_v = _columns(
            head, p_word, q_word, rest, v_word, out, mirror, rest_out, batch, row, col, n,
            alpha, beta, gamma, eta, on_diagonal, outer, 2.0, BLOCK, BLOCK, SLICE, DTYPE, FINAL,
        )  # fmt: skip
        norm_tail, with_p_tail, with_v_tail = _columns(
            tail, p_word, q_word, rest, v_word, out, mirror, rest_out, batch, row, col + BLOCK, n,
            alpha, beta, gamma, eta, on_diagonal, outer, 2.0, BLOCK, TAIL, SLICE, DTYPE, FINAL,
        )  # fmt: skip
        norm += norm_tail
        with_p += with_p_tail
        with_v += with_v_tail
    else:
        head = accumulate(head, left, right, batch, row, col, n, BLOCK, BLOCK_K, PROMOTE_K, True, True)
        if BOTH:
            head = accumulate(head, right, left, batch, row, col, n, BLOCK, BLOCK_K, PROMOTE_K, True, True)
        weight = 2.0
        if row == col:
            # Both stores of a diagonal tile write the same elements: the same values, then.
            weight = 1.0
            i = tl.arange(0, BLOCK)
            head = tl.where(i[:, None] >= i[None, :], head, head.T)
            if KIND == UPDATE:
                lost = tl.where((i[:, None] == i[None, :]) & (i[:, None] + row < n), mean - alpha * head, 0.0)
                tl.store(errors + batch * blocks + row // BLOCK, tl.sum(lost))
        norm, with_p, with_v = _columns(
            head, p_word, q_word, rest, v_word, out, mirror, rest_out, batch, row, col, n,
            alpha, beta, gamma, eta, on_diagonal, outer, weight, BLOCK, BLOCK, SLICE, DTYPE, FINAL,
        )  # fmt: skip
    if not FINAL:
        tl.store(norm_sums + slot, norm)
        tl.store(p_sums + slot, with_p)
        if v_word is not None:
            tl.store(v_sums + slot, with_v)
        if slot % tiles == 0:
            tl.store(out_shift + batch, shift)


@triton.jit
def _wait(OVERLAP: tl.constexpr, EARLY: tl.constexpr):
    """What comes before may run while the previous kernel finishes; EARLY: the next kernel while this one runs."""
    if OVERLAP:
        gdc_wait()
        if EARLY:
            gdc_launch_dependents()


@triton.jit
def _rows_of(source, stride_row, row, start, n, COLUMNS: tl.constexpr):
    """Some columns of these rows of a matrix; zero outside."""
    col = start + tl.arange(0, COLUMNS)[None, :]
    return tl.load(source + row.to(tl.int64) * stride_row + col, mask=(row < n) & (col < n), other=0.0)


@triton.jit
def begin_kernel(
    matrix, stride_batch, stride_row,  # (batches, n, n) float32 with contiguous rows
    scale,  # (batches,) float32, or None: the mean diagonal
    eps,
    word, word_pitch,  # shift I + word = (A + eps I) / scale, rows of word_pitch elements
    rest, rest_pitch,  # the same before rounding, or None
    shift, norm_sums, unit,  # (batches,), (batches, programs), (batches,): the scale used
    errors, blocks,  # (batches, blocks), set to zero, or None
    n,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DIAGONAL: tl.constexpr, BLOCKS: tl.constexpr,
    DTYPE: tl.constexpr, OVERLAP: tl.constexpr, EARLY: tl.constexpr, AHEAD: tl.constexpr,
):  # fmt: skip
    """ROWS rows of a symmetric matrix, as a word: its mean diagonal, and the rest rounded.

    AHEAD: the matrix was complete when the previous kernel began, which wrote `scale`, and is read meanwhile.
    """
    block = tl.program_id(0)
    batch = tl.program_id(1).to(tl.int64)
    if not AHEAD:
        _wait(OVERLAP, EARLY)
    source = matrix + batch * stride_batch
    row = block * ROWS + tl.arange(0, ROWS)[:, None]
    # On their way while the diagonal is added up.
    entries = _rows_of(source, stride_row, row, 0, n, COLUMNS)
    trace = 0.0
    for start in range(0, n, DIAGONAL):
        i = start + tl.arange(0, DIAGONAL)
        trace += tl.sum(tl.load(source + i.to(tl.int64) * (stride_row + 1), mask=i < n, other=0.0))
    mean = trace / n + eps
    divisor = mean
    if AHEAD:
        _wait(OVERLAP, EARLY)
    if scale is not None:
        divisor = tl.load(scale + batch)
    divisor = tl.where(divisor == 0.0, 1.0, divisor)  # of a zero matrix
    inverse = 1.0 / divisor
    mean_word = mean * inverse
    norm = 0.0
    for start in range(0, n, COLUMNS):
        if start > 0:
            entries = _rows_of(source, stride_row, row, start, n, COLUMNS)
        col = start + tl.arange(0, COLUMNS)[None, :]
        inside = (row < n) & (col < n)
        value = tl.where(row == col, (entries + eps) * inverse - mean_word, entries * inverse)
        rounded = value.to(DTYPE)
        place = batch * n + row.to(tl.int64)
        tl.store(word + place * word_pitch + col, rounded, mask=inside)
        if rest is not None:
            tl.store(rest + place * rest_pitch + col, value, mask=inside)
        w = tl.where(inside, rounded.to(tl.float32), 0.0)
        norm += tl.sum(w * w)
    tl.store(norm_sums + batch * tl.num_programs(0) + block, norm)
    if block == 0:
        tl.store(shift + batch, mean_word)
        tl.store(unit + batch, divisor)
        if errors is not None:
            i = tl.arange(0, BLOCKS)
            tl.store(errors + batch * blocks + i, tl.zeros((BLOCKS,), tl.float32), mask=i < blocks)


@triton.jit(do_not_specialize=["tiles", "blocks"])
def square_norms_kernel(
    programs,
    word, tile_word,  # S of A / t = I + S, in blocks for a product and as a tile
    plain, pitch,  # S again, rows of `pitch` elements
    frobenius,  # (batches, tiles): sums of squares of A^2 / t^2
    row_sums,  # (batches, blocks, n): sums of absolute values over one block of columns
    tiles, blocks, n,
    BLOCK: tl.constexpr, BLOCK_K: tl.constexpr, OVERLAP: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """Norms of (I + S)^2 = S^2 + 2 S + I, which is not stored; one tile on or below the diagonal per program."""
    program = programs + 4 * tl.program_id(0)
    batch = tl.load(program)
    row = tl.multiple_of(tl.load(program + 1), BLOCK)
    col = tl.multiple_of(tl.load(program + 2), BLOCK)
    _wait(OVERLAP, EARLY)
    i = row + tl.arange(0, BLOCK)
    j = col + tl.arange(0, BLOCK)
    if BLOCK <= 64:
        # Registers have room for it during the product.
        place = plain + (batch.to(tl.int64) * n + i[:, None]) * pitch + j[None, :]
        tile = tl.load(place, mask=(i[:, None] < n) & (j[None, :] < n), other=0.0)
    value = tl.zeros((BLOCK, BLOCK), tl.float32)
    value = accumulate(value, word, word, batch, row, col, n, BLOCK, BLOCK_K, 0, True, True)
    if BLOCK > 64:
        tile = tile_word.load([batch, row, col]).reshape(BLOCK, BLOCK)
    value += 2.0 * tile.to(tl.float32)
    value += tl.where((i[:, None] == j[None, :]) & (i[:, None] < n), 1.0, 0.0)
    weight = 2.0
    if row == col:
        weight = 1.0
    tl.store(frobenius + tl.program_id(0), weight * tl.sum(value * value))
    size = tl.abs(value)
    sums = row_sums + batch.to(tl.int64) * blocks * n
    tl.store(sums + (col // BLOCK) * n + i, tl.sum(size, 1), mask=i < n)
    if row != col:
        tl.store(sums + (row // BLOCK) * n + j, tl.sum(size, 0), mask=j < n)


@triton.jit
def _parts_of(sums, start, blocks, n, BLOCKS: tl.constexpr, COLUMNS: tl.constexpr):
    """What every block of columns gave of some rows' sums; zero outside."""
    b = tl.arange(0, BLOCKS)[:, None]
    i = start + tl.arange(0, COLUMNS)[None, :]
    return tl.load(sums + b * n + i, mask=(b < blocks) & (i < n), other=0.0)


@triton.jit(do_not_specialize=["tiles", "blocks"])
def square_bound_kernel(
    frobenius, row_sums, unit, bound, tiles, blocks, n, slack,
    COUNT: tl.constexpr, BLOCKS: tl.constexpr, COLUMNS: tl.constexpr, OVERLAP: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """min(||A^2||_F, ||A^2||_inf)^(1/2), a little raised, from the partial sums of one matrix."""
    batch = tl.program_id(0)
    _wait(OVERLAP, EARLY)
    # All that a matrix of COLUMNS rows takes is on its way before the first sum.
    mean = tl.load(unit + batch)
    tile = tl.arange(0, COUNT)
    squares = tl.load(frobenius + batch * tiles + tile, mask=tile < tiles, other=0.0)
    sums = row_sums + batch.to(tl.int64) * blocks * n
    parts = _parts_of(sums, 0, blocks, n, BLOCKS, COLUMNS)
    norm = tl.sqrt(tl.sum(squares, 0))
    largest = tl.maximum(tl.sum(parts, 0), 0.0)
    for start in range(COLUMNS, n, COLUMNS):
        largest = tl.maximum(largest, tl.sum(_parts_of(sums, start, blocks, n, BLOCKS, COLUMNS), 0))
    smaller = tl.minimum(norm, tl.max(largest, 0))
    tl.store(bound + batch, mean * tl.sqrt(smaller) * slack)
