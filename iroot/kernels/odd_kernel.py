# Device functions carry no Python types, and Triton has no type information:
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, disallow-untyped-calls=False
# mypy: disallow-untyped-decorators=False
"""All odd steps X <- a X + B X (`iroot.odd_steps`) in one kernel: the device side of `odd_persistent`.

A short product is mostly launch and tail. Here programs stay, and between two phases all of one matrix's programs meet
at a barrier (`iroot/kernels/grid_barrier.py`). Each phase reads what the ones before it stored:

    Z = stretch X X^T + shift I         tiles below the diagonal and pairs on it, stored twice
    T = t_S Z^2 + t_Z Z + t_I I         the same tiles; of degree 5 T is B
    B, or L and R, from T^2             degrees 9 and 17
    B from L R                          degree 17
    X' = a X + B X                      all tiles, into the other half of the memory of the iterates

A first step whose bound is a norm of A = X X^T has A in place of Z until the bound is known: then T and Z are sums
of A^2, A and I, either of the product in the same phase or, where the bound is a norm of A^2, in a phase of their own.

With 64 x 64 and 64 x 128 tiles a 1024 x 1024 matrix is at most 128 jobs in any phase, one for each of 128
multiprocessors. Memory is padded with zeros to whole tiles, so no load or store has a mask; what the shift puts on the
padding's diagonal meets rows of X that are zero.
"""

from __future__ import annotations

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from iroot.kernels.grid_barrier import COUNTER_STRIDE, meet
from iroot.kernels.odd_phases import (
    SLOT_B,
    SLOT_L,
    SLOT_R,
    SLOT_T,
    SLOT_Z,
    apply_phase,
    combine_phase,
    enter_phase,
    gram_phase,
    product_phase,
    square_phase,
)

# Of A with a mean diagonal of 1 the Frobenius norms of A and A^2 are at least 1; only a zero matrix is below this.
_LEAST = tl.constexpr(1e-12)

# ||A^2||_F <= ||A||_F^2, which is up to n^2: scaled to this it fits float16.
_LARGEST_SQUARE = tl.constexpr(3e4)

SLOTS = {5: 2, 9: 3, 17: 5}
"""Matrices of one group, by the degree of its steps."""

TABLE_WIDTH = tl.constexpr(19)
"""float32 of one step: products beside T's, a, stretch, shift; T's factors; those of the sums with T^2 and with L R."""
_INNER, _SUMS, _SUM_WIDTH = tl.constexpr(4), tl.constexpr(7), tl.constexpr(6)


@triton.jit
def _sum(parts, count, WIDTH: tl.constexpr):
    i = tl.arange(0, WIDTH)
    return tl.sum(tl.load(parts + i, mask=i < count, other=0.0, cache_modifier=".cg"), 0)


@triton.jit
def _power_of_two(value):
    """The largest power of two up to a positive float64."""
    return (value.to(tl.int64, bitcast=True) & 0x7FF0000000000000).to(tl.float64, bitcast=True)


@triton.jit
def _b_phases(
    squares, strips, base, a, entry,
    sums, jobs, margin, scale, opening,  # where `opening`, the bound is still to come
    first, programs, n, counter, arrivals,
    NORM: tl.constexpr, JOBS: tl.constexpr, BLOCK: tl.constexpr, BLOCK_K: tl.constexpr, COPY_ENGINE: tl.constexpr,
):  # fmt: skip
    """B from what the Gram phase left in matrix `a`; returns `arrivals` and `scale`, divided by the bound."""
    MEASURED: tl.constexpr = NORM == "schatten8"
    measured = opening & MEASURED
    products = tl.load(entry).to(tl.int32)
    inner = (tl.load(entry + _INNER), tl.load(entry + _INNER + 1), tl.load(entry + _INNER + 2))
    t_out = base + tl.where(products > 0, SLOT_T, SLOT_B)
    z_out = tl.where(opening & (products > 0), base + SLOT_Z, -1)
    stretch = tl.where(opening, tl.load(entry + 2), 1.0)
    shift = tl.where(opening, tl.load(entry + 3), 0.0)
    if NORM == "gram":  # noqa: SIM102  (compile time and run time)
        if opening:
            inverse_square = 1.0 / tl.maximum(margin * margin * tl.sqrt(_sum(sums, jobs, JOBS)), _LEAST)
            stretch *= inverse_square
            scale *= tl.sqrt(inverse_square)
    square = stretch * stretch
    if MEASURED:  # noqa: SIM102
        if opening:
            square = tl.minimum(_LARGEST_SQUARE / tl.maximum(_sum(sums, jobs, JOBS), _LEAST), 1.0)
    # Where A^2 is measured, it is all that is stored: T of stretch 0.
    factors = (tl.where(measured, 1.0, inner[0]), tl.where(measured, 0.0, inner[1]), tl.where(measured, 0.0, inner[2]))
    square_phase(
        squares, strips, a, t_out, tl.where(measured, -1, z_out), first, programs, n, square,
        tl.where(measured, 0.0, stretch), tl.where(measured, 0.0, shift), factors,
        sums + jobs if MEASURED else None, measured, BLOCK, BLOCK_K,
    )  # fmt: skip
    arrivals += programs
    meet(counter, arrivals, COPY_ENGINE)
    if MEASURED:  # noqa: SIM102
        if opening:
            norm = tl.sqrt(_sum(sums + jobs, jobs, JOBS)) / square
            inverse_square = 1.0 / tl.maximum(margin * margin * tl.sqrt(norm), _LEAST)
            stretch *= inverse_square
            scale *= tl.sqrt(inverse_square)
            combine_phase(
                squares, a, t_out, t_out, z_out, first, programs, n, stretch * stretch / square, stretch, shift, inner,
                BLOCK,
            )  # fmt: skip
            arrivals += programs
            meet(counter, arrivals, COPY_ENGINE)
    for product in range(products):
        last = product + 1 == products
        left = base + tl.where(product == 0, SLOT_T, SLOT_L)
        right = base + tl.where(product == 0, SLOT_T, SLOT_R)
        product_phase(
            squares, strips, base, left, right, base + tl.where(last, SLOT_B, SLOT_L),
            tl.where(last, -1, base + SLOT_R), first, programs, n, entry + _SUMS + product * _SUM_WIDTH,
            BLOCK, BLOCK_K,
        )  # fmt: skip
        arrivals += programs
        meet(counter, arrivals, COPY_ENGINE)
    return arrivals, scale


@triton.jit(
    do_not_specialize=[
        "batches",
        "groups",
        "programs",
        "slots",
        "steps",
        "parts",
        "jobs",
        "margin",
        "first_margin",
        "unit",
        "spread",
        "epsilon",
    ]
)
def steps_kernel(
    matrix, stride_batch, stride_row, stride_column, rows, columns,  # (batches, rows, columns): G
    x,  # (2 batches, m, n): the last iterate ends up in half steps % 2
    squares,  # (groups slots, m, m)
    x_strips, x_blocks, square_strips, b_strips,  # descriptors of the same memory, or None
    table,  # (steps, TABLE_WIDTH)
    norms,  # (batches, parts) float64: of squares of G
    sums,  # (groups, 2, jobs) float32: of squares of A and A^2; None for `frobenius`
    counters,  # (groups, COUNTER_STRIDE) int32, zero
    batches, groups, programs, slots, steps, parts, jobs, m, n, margin, first_margin, unit, spread, epsilon,
    NORM: tl.constexpr, COPIED: tl.constexpr, PARTS: tl.constexpr, JOBS: tl.constexpr, BLOCK: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, BLOCK_K: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """`programs` programs for one matrix at a time of each group; all steps, from X = s G / bound.

    s = unit / (first_margin ||G||_F + epsilon); bound^2 = 1, margin^2 ||A||_F or margin^2 ||A^2||_F^(1/2) of
    A = s^2 G G^T. The first step has both scalings in its epilogues, on float32 sums. What it multiplies is G where
    the kernel before this one has COPIED it to `x` and its norm suits, else a power of two times G, ||X||_F in
    (spread / 2, spread].
    """
    COPY_ENGINE: tl.constexpr = x_strips is not None
    group = tl.program_id(0) // programs
    first = tl.program_id(0) % programs
    counter = counters + group * COUNTER_STRIDE
    base = group * slots
    arrivals = group * 0
    if EARLY:
        gdc_wait()
    own = sums if sums is None else sums + group * 2 * jobs
    for batch in range(group, batches, groups):
        norm = tl.sqrt(_sum(norms + batch * parts, parts, PARTS))
        inverse = unit / tl.maximum(first_margin * norm + epsilon, 1e-300)  # zero stays zero
        # Squares of bfloat16 leave float32's range, and of a norm within these limits they do not. All programs read
        # the same norm, so that all of them meet, or none.
        entering = (norm < 1e-12) | (norm > 1e15) | (not COPIED)
        power = tl.where(entering, _power_of_two(spread / tl.maximum(norm, 1e-300)), 1.0)
        scale = (inverse / power).to(tl.float32)
        if entering:
            enter_phase(
                matrix, stride_batch, stride_row, stride_column, rows, columns, x, batch, power, first, programs, m, n,
                ROWS, COLUMNS,
            )  # fmt: skip
            arrivals += programs
            meet(counter, arrivals, COPY_ENGINE)
        for step in range(steps):
            entry = table + step * TABLE_WIDTH
            source = (step % 2) * batches + batch
            result = ((step + 1) % 2) * batches + batch
            opening = step < (0 if NORM == "frobenius" else 1)
            # Where A is not Z yet, and others still read it when Z is stored, it takes the place of B.
            a = base + tl.where(opening & (tl.load(entry) > 0.0), SLOT_B, SLOT_Z)
            gram_phase(
                x, x_strips, source, squares, a, first, programs, m, n, scale,
                tl.where(opening, 1.0, tl.load(entry + 2)), tl.where(opening, 0.0, tl.load(entry + 3)), own, opening,
                BLOCK, BLOCK_K,
            )  # fmt: skip
            arrivals += programs
            meet(counter, arrivals, COPY_ENGINE)
            arrivals, scale = _b_phases(
                squares, square_strips, base, a, entry, own, jobs, margin, scale, opening,
                first, programs, m, counter, arrivals, NORM, JOBS, BLOCK, BLOCK_K, COPY_ENGINE,
            )  # fmt: skip
            apply_phase(
                squares, b_strips, base + SLOT_B, x, x_blocks, source, result, first, programs, m, n,
                tl.load(entry + 1), scale, ROWS, COLUMNS, BLOCK_K,
            )  # fmt: skip
            if (step + 1 < steps) | (batch + groups < batches):
                arrivals += programs
                meet(counter, arrivals, COPY_ENGINE)
            scale = 1.0


@triton.jit
def begin_kernel(
    matrix, stride_batch, stride_row, stride_column,  # (batches, rows, columns)
    x,  # (batches, m, n): the matrix in a corner of zeros; None: not wanted
    norms,  # (batches, programs): of squares
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
        if x is not None:
            tl.store(x + batch * m * n + row * n + col, value)
        wide = value.to(tl.float64)
        squares += wide * wide
    tl.store(norms + batch * tl.num_programs(0) + part, tl.sum(squares))
    if part == 0 and batch < groups:
        tl.store(counters + batch * COUNTER_STRIDE, 0)
