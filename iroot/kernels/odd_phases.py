# Device functions carry no Python types, and Triton has no type information:
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, disallow-untyped-calls=False
# mypy: disallow-untyped-decorators=False
"""What one program does of a phase of `odd_kernel`: its share of tiles, between two barriers.

Symmetric results are computed below the diagonal and stored twice. Those of a matrix and itself take one strip for a
tile on the diagonal and two for one below it, so that two on the diagonal make one job, which loads as much.
"""

from __future__ import annotations

import triton
import triton.language as tl

# Triton's interpreter multiplies the bit patterns of bfloat16 operands (3.6 and 3.9); float32 ones it multiplies right.
_WIDEN = tl.constexpr(triton.knobs.runtime.interpret)

# Matrices of one group, from its first one on.
SLOT_Z, SLOT_B, SLOT_T, SLOT_L, SLOT_R = (tl.constexpr(i) for i in range(5))


@triton.jit
def _block(source, blocks, index, row, col, height, width, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """(ROWS, COLUMNS) of matrix `index`, past the first-level cache: by the descriptor `blocks` if there is one."""
    if blocks is not None:
        block = blocks.load([index, row, col]).reshape(ROWS, COLUMNS)
    else:
        block = tl.load(_places(source, index, row, col, height, width, ROWS, COLUMNS), cache_modifier=".cg")
    return block.to(tl.float32) if _WIDEN else block


@triton.jit
def _places(base, index, row, col, height, width, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    within = tl.arange(0, ROWS)[:, None] * width + tl.arange(0, COLUMNS)[None, :]
    return base + (tl.cast(index, tl.int64) * height * width + row * width + col) + within


@triton.jit
def _tile(base, index, row, col, n, BLOCK: tl.constexpr):
    """An addend, loaded before the loop, under which its latency passes."""
    return tl.load(_places(base, index, row, col, n, n, BLOCK, BLOCK), cache_modifier=".cg")


@triton.jit
def _store_tile(value, out, index, row, col, n, TWICE: tl.constexpr, BLOCK: tl.constexpr):
    """TWICE: above the diagonal as well."""
    rounded = value.to(out.dtype.element_ty)
    tl.store(_places(out, index, row, col, n, n, BLOCK, BLOCK), rounded)
    if TWICE:
        tl.store(_places(out, index, col, row, n, n, BLOCK, BLOCK), rounded.T)


@triton.jit
def _square_sum(value, out):
    """Of the elements as they are stored."""
    stored = value.to(out.dtype.element_ty).to(tl.float32)
    return tl.sum(stored * stored)


@triton.jit
def _identity(row, col, BLOCK: tl.constexpr):
    return tl.where(row + tl.arange(0, BLOCK)[:, None] == col + tl.arange(0, BLOCK)[None, :], 1.0, 0.0)


@triton.jit
def _below(job, gap, BLOCK: tl.constexpr):
    """Row and column of the job-th tile (i, j), i - j >= gap, row by row."""
    # The last i with i (i - 1) / 2 <= job; the root is off by one at most.
    i = ((1.0 + tl.sqrt(1.0 + 8.0 * tl.cast(job, tl.float32))) * 0.5).to(tl.int32)
    i = tl.where(i * (i - 1) // 2 > job, i - 1, i)
    i = tl.where(i * (i + 1) // 2 <= job, i + 1, i)
    return (i - 1 + gap) * BLOCK, (job - i * (i - 1) // 2) * BLOCK


@triton.jit
def _one_tile(
    source, strips, left, right, row, col, height, depth, BLOCK: tl.constexpr, BLOCK_K: tl.constexpr
):  # fmt: skip
    """Of P Q^T for P, Q (height, depth), the matrices `left` and `right`."""
    total = tl.zeros((BLOCK, BLOCK), tl.float32)
    for k in range(0, depth, BLOCK_K):
        p = _block(source, strips, left, row, k, height, depth, BLOCK, BLOCK_K)
        q = _block(source, strips, right, col, k, height, depth, BLOCK, BLOCK_K)
        total = tl.dot(p, q.T, total)
    return total


@triton.jit
def _two_on_diagonal(source, strips, index, row, col, height, depth, BLOCK: tl.constexpr, BLOCK_K: tl.constexpr):
    """The tiles (row, row) and (col, col) of P P^T, which together take as much loading as one below the diagonal."""
    total = tl.zeros((BLOCK, BLOCK), tl.float32)
    total_2 = tl.zeros((BLOCK, BLOCK), tl.float32)
    for k in range(0, depth, BLOCK_K):
        p = _block(source, strips, index, row, k, height, depth, BLOCK, BLOCK_K)
        q = _block(source, strips, index, col, k, height, depth, BLOCK, BLOCK_K)
        total = tl.dot(p, p.T, total)
        total_2 = tl.dot(q, q.T, total_2)
    return total, total_2


@triton.jit
def _two_in_row(source, strips, left, right, row, col, n, BLOCK: tl.constexpr, BLOCK_K: tl.constexpr):
    """The tiles (row, row) and (row, col) of P Q^T: half as much loading again as for one."""
    total = tl.zeros((BLOCK, BLOCK), tl.float32)
    total_2 = tl.zeros((BLOCK, BLOCK), tl.float32)
    for k in range(0, n, BLOCK_K):
        p = _block(source, strips, left, row, k, n, n, BLOCK, BLOCK_K)
        q = _block(source, strips, right, row, k, n, n, BLOCK, BLOCK_K)
        q_2 = _block(source, strips, right, col, k, n, n, BLOCK, BLOCK_K)
        total = tl.dot(p, q.T, total)
        total_2 = tl.dot(p, q_2.T, total_2)
    return total, total_2


@triton.jit
def gram_phase(
    x, strips, source,  # (., m, n)
    squares, out,  # (., m, m): result in matrix `out`
    first, programs, m, n, scale, stretch, shift,
    sums, measured,  # (jobs,): of squares of the result, where `measured`; None: never
    BLOCK: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """stretch scale^2 X X^T + shift I; this program's jobs."""
    side = m // BLOCK
    below = side * (side - 1) // 2
    for job in range(first, below + (side + 1) // 2, programs):
        if job < below:
            row, col = _below(job, 1, BLOCK)
            value = stretch * (scale * (scale * _one_tile(x, strips, source, source, row, col, m, n, BLOCK, BLOCK_K)))
            _store_tile(value, squares, out, row, col, m, True, BLOCK)
            if sums is not None:  # noqa: SIM102  (compile time and run time)
                if measured:
                    tl.store(sums + job, 2.0 * _square_sum(value, squares))
        else:
            col = 2 * (job - below) * BLOCK
            row = min(col + BLOCK, m - BLOCK)  # the same tile twice where their number is odd
            total, total_2 = _two_on_diagonal(x, strips, source, row, col, m, n, BLOCK, BLOCK_K)
            shifts = shift * _identity(0, 0, BLOCK)
            value = stretch * (scale * (scale * total)) + shifts
            value_2 = stretch * (scale * (scale * total_2)) + shifts
            _store_tile(value, squares, out, row, row, m, False, BLOCK)
            _store_tile(value_2, squares, out, col, col, m, False, BLOCK)
            if sums is not None:  # noqa: SIM102
                if measured:
                    weight = tl.where(row == col, 0.0, 1.0)
                    tl.store(sums + job, weight * _square_sum(value, squares) + _square_sum(value_2, squares))


@triton.jit
def _keep(
    total, addend, identity, row, col,  # a tile's A^2 square / stretch^2, A and I; None: a tile below the diagonal
    squares, t_out, z_out, n, square, stretch, shift, inner, BLOCK: tl.constexpr,
):  # fmt: skip
    """Store T = t_S Z^2 + t_Z Z + t_I I, and Z = stretch A + shift I where `z_out` is not below 0; return T."""
    a = addend.to(tl.float32)
    S = square * total + (2.0 * stretch * shift) * a
    Z = stretch * a
    if identity is not None:
        S += (shift * shift) * identity
        Z += shift * identity
    if z_out >= 0:
        _store_tile(Z, squares, z_out, row, col, n, identity is None, BLOCK)
    T = inner[0] * S + inner[1] * Z
    if identity is not None:
        T += inner[2] * identity
    _store_tile(T, squares, t_out, row, col, n, identity is None, BLOCK)
    return T


@triton.jit
def square_phase(
    squares, strips, a,  # (., n, n): A is matrix `a`
    t_out, z_out,  # matrices; Z below 0: not stored
    first, programs, n, square, stretch, shift, inner,
    sums, measured,  # of squares of T, as in `gram_phase`
    BLOCK: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """`_keep`'s T and Z from A^2; this program's jobs."""
    side = n // BLOCK
    below = side * (side - 1) // 2
    for job in range(first, below + (side + 1) // 2, programs):
        if job < below:
            row, col = _below(job, 1, BLOCK)
            addend = _tile(squares, a, row, col, n, BLOCK)  # its latency passes under the loop
            total = _one_tile(squares, strips, a, a, row, col, n, n, BLOCK, BLOCK_K)
            T = _keep(
                total, addend, None, row, col, squares, t_out, z_out, n, square, stretch, shift, inner, BLOCK
            )  # fmt: skip
            if sums is not None:  # noqa: SIM102
                if measured:
                    tl.store(sums + job, 2.0 * _square_sum(T, squares))
        else:
            col = 2 * (job - below) * BLOCK
            row = min(col + BLOCK, n - BLOCK)
            addend = _tile(squares, a, row, row, n, BLOCK)
            addend_2 = _tile(squares, a, col, col, n, BLOCK)
            total, total_2 = _two_on_diagonal(squares, strips, a, row, col, n, n, BLOCK, BLOCK_K)
            unit = _identity(0, 0, BLOCK)
            T = _keep(
                total, addend, unit, row, row, squares, t_out, z_out, n, square, stretch, shift, inner, BLOCK
            )  # fmt: skip
            T_2 = _keep(
                total_2, addend_2, unit, col, col, squares, t_out, z_out, n, square, stretch, shift, inner, BLOCK
            )  # fmt: skip
            if sums is not None:  # noqa: SIM102
                if measured:
                    weight = tl.where(row == col, 0.0, 1.0)
                    tl.store(sums + job, weight * _square_sum(T, squares) + _square_sum(T_2, squares))


@triton.jit
def combine_phase(
    squares, a, squared,  # (., n, n): A, and what the square phase stored of A^2, which T may take the place of
    t_out, z_out, first, programs, n, square, stretch, shift, inner, BLOCK: tl.constexpr,
):  # fmt: skip
    """`_keep` of stored tiles; this program's tiles."""
    side = n // BLOCK
    for job in range(first, side * side, programs):
        row = (job // side) * BLOCK
        col = (job % side) * BLOCK
        addend = _tile(squares, a, row, col, n, BLOCK)
        total = _tile(squares, squared, row, col, n, BLOCK).to(tl.float32)
        unit = _identity(row, col, BLOCK)
        tl.debug_barrier()  # both are loaded, by whichever threads, before one is overwritten
        _keep(total, addend, unit, row, col, squares, t_out, z_out, n, square, stretch, shift, inner, BLOCK)


@triton.jit
def _addends(squares, base, row, col, n, BLOCK: tl.constexpr):
    """Tiles of T and Z."""
    return _tile(squares, base + SLOT_T, row, col, n, BLOCK), _tile(squares, base + SLOT_Z, row, col, n, BLOCK)


@triton.jit
def _sums_with(total, T, Z, identity, by):
    """Both sums; `identity` None below the diagonal."""
    T = T.to(tl.float32)
    Z = Z.to(tl.float32)
    value = by[0] * total + by[1] * T + by[2] * Z
    if identity is not None:
        value += by[3] * identity
    return value, total + by[4] * T + by[5] * Z


@triton.jit
def product_phase(
    squares, strips, base, left, right, out, second_out,  # (., n, n): matrices; second_out below 0: not stored
    first, programs, n, factors, BLOCK: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """p P Q + t T + z Z + i I, and P Q + t T + z Z, symmetric up to rounding; this program's jobs.

    Tiles on the diagonal are made symmetric: a skew part of B turns X, and no later step turns it back. A tile of P Q
    takes two strips anywhere. Where there are more tiles than programs, one on the diagonal and the one left of it make
    a job of three strips: the programs that have such a job load half as much again, instead of twice as much.
    """
    side = n // BLOCK
    gap = tl.where(side * (side + 1) // 2 <= programs, 0, 2)
    singles = (side - gap + 1) * (side - gap) // 2
    by = _six(factors)  # latencies that pass under the loops
    for job in range(first, singles + tl.where(gap == 0, 0, side), programs):
        if job < singles:
            row, col = _below(job, gap, BLOCK)
            T, Z = _addends(squares, base, row, col, n, BLOCK)
            total = _one_tile(squares, strips, left, right, row, col, n, n, BLOCK, BLOCK_K)
            if row == col:
                total = 0.5 * (total + total.T)
            value, second = _sums_with(total, T, Z, _identity(row, col, BLOCK), by)
            _store_tile(value, squares, out, row, col, n, True, BLOCK)
            if second_out >= 0:
                _store_tile(second, squares, second_out, row, col, n, True, BLOCK)
        else:
            row = (job - singles) * BLOCK
            col = max(row - BLOCK, 0)  # the same tile twice in the first row
            total, total_2 = _two_in_row(squares, strips, left, right, row, col, n, BLOCK, BLOCK_K)
            # All before the first store, so that their latencies pass together; the loop leaves them no registers.
            T, Z = _addends(squares, base, row, row, n, BLOCK)
            T_2, Z_2 = _addends(squares, base, row, col, n, BLOCK)
            value, second = _sums_with(0.5 * (total + total.T), T, Z, _identity(0, 0, BLOCK), by)
            _store_tile(value, squares, out, row, row, n, False, BLOCK)
            if second_out >= 0:
                _store_tile(second, squares, second_out, row, row, n, False, BLOCK)
            if row != col:
                value, second = _sums_with(total_2, T_2, Z_2, None, by)
                _store_tile(value, squares, out, row, col, n, True, BLOCK)
                if second_out >= 0:
                    _store_tile(second, squares, second_out, row, col, n, True, BLOCK)


@triton.jit
def _six(values):
    return (
        tl.load(values), tl.load(values + 1), tl.load(values + 2),
        tl.load(values + 3), tl.load(values + 4), tl.load(values + 5),
    )  # fmt: skip


@triton.jit
def apply_phase(
    squares, strips, b,  # (., m, m): B is matrix `b`
    x, x_blocks, source, result,  # (., m, n): X at `source`, X' at `result`
    first, programs, m, n, constant, factor,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """X' = factor (constant X + B X); this program's jobs."""
    height = m // ROWS
    for job in range(first, height * (n // COLUMNS), programs):
        row = (job % height) * ROWS
        col = (job // height) * COLUMNS
        addend = tl.load(_places(x, source, row, col, m, n, ROWS, COLUMNS), cache_modifier=".cg")
        total = tl.zeros((ROWS, COLUMNS), tl.float32)
        for k in range(0, m, BLOCK_K):
            left = _block(squares, strips, b, row, k, m, m, ROWS, BLOCK_K)
            right = _block(x, x_blocks, source, k, col, m, n, BLOCK_K, COLUMNS)
            total = tl.dot(left, right, total)
        value = factor * (constant * addend.to(tl.float32) + total)
        tl.store(_places(x, result, row, col, m, n, ROWS, COLUMNS), value.to(x.dtype.element_ty))


@triton.jit
def enter_phase(
    matrix, stride_batch, stride_row, stride_column, rows, columns,  # (., rows, columns): G
    x, batch, power, first, programs, m, n, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """X = power G, a power of two, in a corner of zeros; this program's tiles."""
    height = m // ROWS
    source = matrix + tl.cast(batch, tl.int64) * stride_batch
    for job in range(first, height * (n // COLUMNS), programs):
        row = (job % height) * ROWS + tl.arange(0, ROWS)[:, None]
        col = (job // height) * COLUMNS + tl.arange(0, COLUMNS)[None, :]
        places = source + row.to(tl.int64) * stride_row + col.to(tl.int64) * stride_column
        value = tl.load(places, mask=(row < rows) & (col < columns), other=0.0).to(tl.float64) * power
        out = x + tl.cast(batch, tl.int64) * m * n + row * n + col
        tl.store(out, value.to(tl.float32).to(x.dtype.element_ty))
