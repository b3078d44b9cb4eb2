# Device functions carry no Python types, and Triton has no type information:
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, disallow-untyped-calls=False
# mypy: disallow-untyped-decorators=False
"""All steps X <- a X + (b A + c A^2) X, A = X X^T, in one kernel: the device side of `quintic_steps`.

A short product is mostly launch and tail. Here programs stay, and between two products all of one matrix's programs
meet at a barrier (`iroot/kernels/grid_barrier.py`). Three phases a step, each reading what the one before it stored:

    A = X X^T          tiles below the diagonal, stored twice; two tiles on it make one job, which loads as much
    B = b A + c A^2    the same tiles
    X' = a X + B X     all tiles, into the other half of the memory of the iterates

With 64 x 64 and 64 x 128 tiles a 1024 x 1024 matrix is 120 + 8, 128 and 128 jobs: one for each of 128 multiprocessors.
Memory is padded with zeros to whole tiles, which every phase keeps; so no load or store has a mask.
"""

from __future__ import annotations

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from iroot.kernels.grid_barrier import COUNTER_STRIDE, meet

# Triton's interpreter multiplies the bit patterns of bfloat16 operands (3.6 and 3.9); float32 ones it multiplies right.
_WIDEN = tl.constexpr(triton.knobs.runtime.interpret)


# Of A with a mean diagonal of 1 the Frobenius norm is at least 1; only a zero matrix is below this.
_LEAST = tl.constexpr(1e-12)


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
def _store_twice(value, out, index, row, col, n, BLOCK: tl.constexpr, DTYPE: tl.constexpr):
    rounded = value.to(DTYPE)
    tl.store(_places(out, index, row, col, n, n, BLOCK, BLOCK), rounded)
    tl.store(_places(out, index, col, row, n, n, BLOCK, BLOCK), rounded.T)


@triton.jit
def _square_sum(value, DTYPE: tl.constexpr):
    """Of the elements as they are stored."""
    stored = value.to(DTYPE).to(tl.float32)
    return tl.sum(stored * stored)


@triton.jit
def _symmetric_phase(
    source, strips, index,  # (., n, depth): S
    out, group,  # (., n, n)
    first, programs, n, depth, alpha, again, beta,
    squares,  # (jobs,): of the result's elements; None: not wanted
    LINEAR: tl.constexpr, BLOCK: tl.constexpr, BLOCK_K: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """again (alpha S S^T) + beta S, the last term where LINEAR; this program's jobs.

    A tile on the diagonal needs one strip of S, one below it two. Both strips of a job are loaded either way.
    """
    side = n // BLOCK
    below = side * (side - 1) // 2
    for job in range(first, below + (side + 1) // 2, programs):
        if job < below:
            # The last i with i (i - 1) / 2 <= job; the root is off by one at most.
            i = ((1.0 + tl.sqrt(1.0 + 8.0 * tl.cast(job, tl.float32))) * 0.5).to(tl.int32)
            i = tl.where(i * (i - 1) // 2 > job, i - 1, i)
            i = tl.where(i * (i + 1) // 2 <= job, i + 1, i)
            row = i * BLOCK
            col = (job - i * (i - 1) // 2) * BLOCK
            if LINEAR:  # its latency passes under the loop
                addend = tl.load(_places(source, index, row, col, n, depth, BLOCK, BLOCK), cache_modifier=".cg")
            total = tl.zeros((BLOCK, BLOCK), tl.float32)
            for k in range(0, depth, BLOCK_K):
                left = _block(source, strips, index, row, k, n, depth, BLOCK, BLOCK_K)
                right = _block(source, strips, index, col, k, n, depth, BLOCK, BLOCK_K)
                total = tl.dot(left, right.T, total)
            value = again * (alpha * total)
            if LINEAR:
                value += beta * addend.to(tl.float32)
            _store_twice(value, out, group, row, col, n, BLOCK, DTYPE)
            if squares is not None:
                tl.store(squares + job, 2.0 * _square_sum(value, DTYPE))
        else:
            col = 2 * (job - below) * BLOCK
            row = min(col + BLOCK, n - BLOCK)  # the same tile twice where their number is odd
            if LINEAR:
                addend = tl.load(_places(source, index, row, row, n, depth, BLOCK, BLOCK), cache_modifier=".cg")
                addend_2 = tl.load(_places(source, index, col, col, n, depth, BLOCK, BLOCK), cache_modifier=".cg")
            total = tl.zeros((BLOCK, BLOCK), tl.float32)
            total_2 = tl.zeros((BLOCK, BLOCK), tl.float32)
            for k in range(0, depth, BLOCK_K):
                left = _block(source, strips, index, row, k, n, depth, BLOCK, BLOCK_K)
                right = _block(source, strips, index, col, k, n, depth, BLOCK, BLOCK_K)
                total = tl.dot(left, left.T, total)
                total_2 = tl.dot(right, right.T, total_2)
            value = again * (alpha * total)
            value_2 = again * (alpha * total_2)
            if LINEAR:
                value += beta * addend.to(tl.float32)
                value_2 += beta * addend_2.to(tl.float32)
            tl.store(_places(out, group, row, row, n, n, BLOCK, BLOCK), value.to(DTYPE))
            tl.store(_places(out, group, col, col, n, n, BLOCK, BLOCK), value_2.to(DTYPE))
            if squares is not None:
                weight = tl.where(row == col, 0.0, 1.0)
                tl.store(squares + job, weight * _square_sum(value, DTYPE) + _square_sum(value_2, DTYPE))


@triton.jit
def _apply_phase(
    quadratic, quadratic_strips, group,  # (., m, m): B
    x, x_blocks, source, result,  # (., m, n): X at `source`, X' at `result`
    first, programs, m, n, linear, factor,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, BLOCK_K: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """X' = factor (linear X + B X); this program's jobs."""
    strips = m // ROWS
    for job in range(first, strips * (n // COLUMNS), programs):
        row = (job % strips) * ROWS
        col = (job // strips) * COLUMNS
        addend = tl.load(_places(x, source, row, col, m, n, ROWS, COLUMNS), cache_modifier=".cg")
        total = tl.zeros((ROWS, COLUMNS), tl.float32)
        for k in range(0, m, BLOCK_K):
            left = _block(quadratic, quadratic_strips, group, row, k, m, m, ROWS, BLOCK_K)
            right = _block(x, x_blocks, source, k, col, m, n, BLOCK_K, COLUMNS)
            total = tl.dot(left, right, total)
        value = factor * (linear * addend.to(tl.float32) + total)
        tl.store(_places(x, result, row, col, m, n, ROWS, COLUMNS), value.to(DTYPE))


@triton.jit
def _rescale_phase(
    x, batch, inverse, first, programs, m, n, ROWS: tl.constexpr, COLUMNS: tl.constexpr, DTYPE: tl.constexpr
):  # fmt: skip
    """X <- X inverse in float64, rounded; this program's tiles."""
    strips = m // ROWS
    for job in range(first, strips * (n // COLUMNS), programs):
        places = _places(x, batch, (job % strips) * ROWS, (job // strips) * COLUMNS, m, n, ROWS, COLUMNS)
        value = tl.load(places, cache_modifier=".cg").to(tl.float64) * inverse
        tl.store(places, value.to(tl.float32).to(DTYPE))


@triton.jit(
    do_not_specialize=[
        "batches",
        "groups",
        "programs",
        "steps",
        "parts",
        "jobs",
        "margin",
        "first_margin",
        "unit",
        "epsilon",
    ]
)
def steps_kernel(
    x,  # (2 batches, m, n): G in the first half; the last iterate ends up in half steps % 2
    gram, quadratic,  # (groups, m, m): A and B
    x_strips, x_blocks, gram_strips, quadratic_strips,  # descriptors of the same memory, or None
    coefficients,  # (steps, 3) float32
    sums,  # (batches, parts) float64: of squares of G
    squares,  # (groups, jobs) float32, for sums of squares of A; None: no second bound
    counters,  # (groups, COUNTER_STRIDE) int32, zero
    batches, groups, programs, steps, parts, jobs, m, n, margin, first_margin, unit, epsilon,
    PARTS: tl.constexpr, JOBS: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    BLOCK_K: tl.constexpr, DTYPE: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """`programs` programs for one matrix at a time of each group; all steps, from X = s G / bound.

    s = unit / (first_margin ||G||_F + epsilon); bound = 1, or margin ||A||_F^(1/2) of A = s^2 G G^T where `squares` is
    given. Both scalings are done in the first step's epilogues, on float32 sums:
    B = (b / bound^2) A + (c / bound^4) A^2 and X' = (s / bound) (a G + B G).
    """
    COPY_ENGINE: tl.constexpr = x_strips is not None
    group = tl.program_id(0) // programs
    first = tl.program_id(0) % programs
    counter = counters + group * COUNTER_STRIDE
    arrivals = group * 0
    if EARLY:
        gdc_wait()
    for batch in range(group, batches, groups):
        i = tl.arange(0, PARTS)
        norm = tl.sqrt(tl.sum(tl.load(sums + batch * parts + i, mask=i < parts, other=0.0), 0))
        inverse = unit / tl.maximum(first_margin * norm + epsilon, 1e-300)  # zero stays zero
        # Squares of bfloat16 leave float32's range, and of a norm within these limits they do not. All programs read
        # the same norm, so that all of them meet, or none.
        far = (norm < 1e-12) | (norm > 1e15)
        scale = tl.where(far, 1.0, inverse).to(tl.float32)
        if far:
            _rescale_phase(x, batch, inverse, first, programs, m, n, ROWS, COLUMNS, DTYPE)
            arrivals += programs
            meet(counter, arrivals, COPY_ENGINE)
        for step in range(steps):
            linear = tl.load(coefficients + 3 * step)
            cubic = tl.load(coefficients + 3 * step + 1)
            quintic = tl.load(coefficients + 3 * step + 2)
            source = (step % 2) * batches + batch
            result = ((step + 1) % 2) * batches + batch
            own = squares if squares is None else squares + group * jobs
            _symmetric_phase(
                x, x_strips, source, gram, group, first, programs, m, n, scale, scale, 0.0, own,
                False, BLOCK, BLOCK_K, DTYPE,
            )  # fmt: skip
            arrivals += programs
            meet(counter, arrivals, COPY_ENGINE)
            if squares is not None:  # noqa: SIM102  (compile time and run time)
                if step == 0:
                    j = tl.arange(0, JOBS)
                    total = tl.sum(tl.load(own + j, mask=j < jobs, other=0.0, cache_modifier=".cg"), 0)
                    inverse_square = 1.0 / tl.maximum(margin * margin * tl.sqrt(total), _LEAST)
                    cubic *= inverse_square
                    quintic *= inverse_square * inverse_square
                    scale *= tl.sqrt(inverse_square)
            _symmetric_phase(
                gram, gram_strips, group, quadratic, group, first, programs, m, m, quintic, 1.0, cubic, None,
                True, BLOCK, BLOCK_K, DTYPE,
            )  # fmt: skip
            arrivals += programs
            meet(counter, arrivals, COPY_ENGINE)
            _apply_phase(
                quadratic, quadratic_strips, group, x, x_blocks, source, result, first, programs, m, n, linear, scale,
                ROWS, COLUMNS, BLOCK_K, DTYPE,
            )  # fmt: skip
            # None after a matrix's last step: the next one's first phase writes A, which nobody reads any more, and
            # the barrier after that phase comes before anybody writes B.
            if step + 1 < steps:
                arrivals += programs
                meet(counter, arrivals, COPY_ENGINE)
            scale = 1.0


@triton.jit
def begin_kernel(
    matrix, stride_batch, stride_row, stride_column,  # (batches, rows, columns)
    x,  # (batches, m, n): the matrix in a corner of zeros
    sums,  # (batches, programs): of squares
    counters,  # (groups, COUNTER_STRIDE): zero
    groups, rows, columns, m, n,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """ROWS rows of one matrix. m and n are multiples of ROWS and COLUMNS."""
    if EARLY:
        gdc_launch_dependents()  # its programs take their places, and wait for the end of this kernel
    part = tl.program_id(0)
    batch = tl.program_id(1).to(tl.int64)
    row = part * ROWS + tl.arange(0, ROWS)[:, None]
    squares = tl.zeros((ROWS, COLUMNS), tl.float64)
    for start in range(0, n, COLUMNS):
        col = start + tl.arange(0, COLUMNS)[None, :]
        places = matrix + batch * stride_batch + row.to(tl.int64) * stride_row + col.to(tl.int64) * stride_column
        value = tl.load(places, mask=(row < rows) & (col < columns), other=0.0)
        tl.store(x + batch * m * n + row * n + col, value)
        wide = value.to(tl.float64)
        squares += wide * wide
    tl.store(sums + batch * tl.num_programs(0) + part, tl.sum(squares))
    if part == 0 and batch < groups:
        tl.store(counters + batch * COUNTER_STRIDE, 0)
