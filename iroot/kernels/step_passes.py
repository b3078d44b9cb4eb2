# Device functions carry no Python types, and Triton has no type information:
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, disallow-untyped-calls=False
# mypy: disallow-untyped-decorators=False
"""The passes of `iroot.kernels.odd_products` beside its symmetric products.

    squares   sums of squares of G in float64, a part of it per program
    scale     X = unit / (margin ||G||_F + epsilon) G, rounded once
    combine   a polynomial p (u A)^2 + z u A + i I, where u needs A^2 itself: 1 / u = margin^2 ||A^2||_F^(1/2)

and, by the kernel of `iroot.kernels.multiply_add`, X' = sqrt(u) (alpha B X + beta X).

G may have any strides; all else has contiguous rows. Whoever needs a sum adds the parts up in order.

A pass asks for what the kernel before the last one wrote, or an earlier one, without waiting for the last one: that one
lets a pass in only after it has waited itself, in all of its programs (`gdc_wait`), and so for all before it. A pass
lets nobody in before its end: polar steps of degree 5, 17, 17 at n = 1024 take 101 us so, and 109 otherwise (H100,
2026-11-23), presumably because the next kernel's programs gather in pairs where its own leave room first.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_wait

from iroot.kernels.multiply_add import Blocking, launch_multiply_add
from iroot.kernels.operands import TRITON_DTYPES, empty_rows, processors
from iroot.kernels.rehearsal import on_grid
from iroot.kernels.symmetric_sum import SumTerms, limit_of, power_of_two, unit_of
from iroot.kernels.words import total_of
from iroot.odd_steps import StepBound

_ROWS, _COLUMNS = 64, 128

# Tiles of G in flight fill the memory's latency from two programs of 64 x 128 elements per multiprocessor on.
_PARTS_PER_PROCESSOR = 2


@triton.jit
def _tile_of(source, stride_row, stride_col, row, col, m, n, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """(ROWS, COLUMNS) of a matrix of any strides; zero outside."""
    i = row + tl.arange(0, ROWS)[:, None]
    j = col + tl.arange(0, COLUMNS)[None, :]
    place = source + i.to(tl.int64) * stride_row + j.to(tl.int64) * stride_col
    return tl.load(place, mask=(i < m) & (j < n), other=0.0)


@triton.jit
def squares_kernel(
    source, stride_batch, stride_row, stride_col,  # G, (batches, m, n)
    parts,  # (batches, programs) float64
    m, n,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    """Every programs-th tile of a matrix. Squares of bfloat16 and float32 values leave float32's range."""
    program = tl.program_id(0)
    batch = tl.program_id(1)
    if OVERLAP:
        gdc_wait()
    source += batch.to(tl.int64) * stride_batch
    across = tl.cdiv(n, COLUMNS)
    total = tl.zeros((ROWS, COLUMNS), tl.float64)
    for tile in range(program, across * tl.cdiv(m, ROWS), tl.num_programs(0)):
        row = tile // across * ROWS
        col = tile % across * COLUMNS
        value = _tile_of(source, stride_row, stride_col, row, col, m, n, ROWS, COLUMNS).to(tl.float64)
        total += value * value
    tl.store(parts + batch * tl.num_programs(0) + program, tl.sum(tl.sum(total, 1), 0))


@triton.jit(do_not_specialize=["count"])
def scale_kernel(
    source, stride_batch, stride_row, stride_col,  # G, (batches, m, n)
    parts, count,  # (batches, count)
    x, pitch,  # X, (batches, m, n) in rows of `pitch`
    m, n, margin, target, epsilon,
    COUNT: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, DTYPE: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    """X = target / (margin ||G||_F + epsilon) G, one tile per program; zero for zero."""
    across = tl.cdiv(n, COLUMNS)
    row = tl.program_id(0) // across * ROWS
    col = tl.program_id(0) % across * COLUMNS
    batch = tl.program_id(1)
    value = _tile_of(
        source + batch.to(tl.int64) * stride_batch, stride_row, stride_col, row, col, m, n, ROWS, COLUMNS
    )  # fmt: skip
    if OVERLAP:
        # What is above reads G alone, which the kernel before has read; what is below, what it wrote.
        gdc_wait()
    divisor = margin * tl.sqrt(total_of(parts, batch, count, COUNT)) + epsilon
    scale = tl.where(divisor == 0.0, 0.0, target / tl.where(divisor == 0.0, 1.0, divisor))
    # The scale of the largest and smallest bfloat16 matrices leaves float32's range; its root does not.
    half = tl.sqrt(scale).to(tl.float32)
    rest = tl.where(scale == 0.0, 0.0, scale / tl.where(scale == 0.0, 1.0, half.to(tl.float64))).to(tl.float32)
    rounded = (value.to(tl.float32) * half * rest).to(DTYPE)
    i = row + tl.arange(0, ROWS)[:, None]
    j = col + tl.arange(0, COLUMNS)[None, :]
    # The rest of a row is memory that nobody reads: vectors need no partial mask.
    place = (batch.to(tl.int64) * m + i) * pitch + j
    tl.store(x + place, rounded, mask=(i < m) & (j < pitch))


@triton.jit(do_not_specialize=["n", "count", "square_count"])
def combine_kernel(
    a, square, out, pitch,  # A, tau A^2 and the result, (batches, n, n) in rows of `pitch`
    norms, count,  # (batches, count): sums of squares of A
    square_norms, square_count,  # (batches, square_count): of tau A^2
    unit,  # (batches,): u
    n, margin, p, of_z, of_i,
    COUNT: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, DTYPE: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    """p (u A)^2 + z u A + i I, one tile per program."""
    across = tl.cdiv(n, COLUMNS)
    row = tl.program_id(0) // across * ROWS
    col = tl.program_id(0) % across * COLUMNS
    batch = tl.program_id(1)
    i = row + tl.arange(0, ROWS)[:, None]
    j = col + tl.arange(0, COLUMNS)[None, :]
    place = (batch.to(tl.int64) * n + i) * pitch + j
    inside = (i < n) & (j < pitch)
    # Beyond n is memory that nobody wrote; vectors are loaded whole.
    A = tl.where(j < n, tl.load(a + place, mask=inside, other=0.0).to(tl.float32), 0.0)
    tau = limit_of(total_of(norms, batch, count, COUNT))
    if OVERLAP:
        # What is above reads A and its norms, from which the kernel before has made A^2; what is below, that.
        gdc_wait()
    square = tl.where(j < n, tl.load(square + place, mask=inside, other=0.0).to(tl.float32), 0.0)
    u = unit_of(tl.sqrt(tl.sqrt(total_of(square_norms, batch, square_count, COUNT)) / tau), margin)
    if tl.program_id(0) == 0:
        tl.store(unit + batch, u)
    value = p * (u * u / tau) * square + of_z * u * A
    tl.store(out + place, tl.where(i == j, value + of_i, value).to(DTYPE), mask=inside)


def normalised(G: Tensor, bound: StepBound, dtype: torch.dtype) -> Tensor:
    """X = sqrt(m) G / (margin ||G||_F + epsilon), whatever the bound: A then has a mean diagonal of 1.

    G (batches, m, n) of any strides; X has aligned rows. The margin is that of `frobenius` alone.
    """
    batches, m, n = G.shape
    tiles = triton.cdiv(m, _ROWS) * triton.cdiv(n, _COLUMNS)
    count = min(tiles, max(1, _PARTS_PER_PROCESSOR * processors(G.device) // batches))
    parts = torch.empty(batches, count, dtype=torch.float64, device=G.device)
    X = empty_rows((batches, m, n), dtype, G.device)
    overlap = G.device.type == "cuda"
    on_grid(squares_kernel, (count, batches))(
        G, *G.stride(), parts, m, n, ROWS=_ROWS, COLUMNS=_COLUMNS, OVERLAP=overlap, num_warps=8, launch_pdl=overlap
    )  # fmt: skip
    margin = bound.margin if bound.norm == "frobenius" else 1.0
    on_grid(scale_kernel, (tiles, batches))(
        G, *G.stride(), parts, count, X, X.stride(1), m, n, margin, m**0.5, bound.epsilon,
        COUNT=power_of_two(count), ROWS=_ROWS, COLUMNS=_COLUMNS, DTYPE=TRITON_DTYPES[dtype], OVERLAP=overlap,
        num_warps=8, launch_pdl=overlap,
    )  # fmt: skip
    return X


@dataclass(frozen=True, kw_only=True)
class Squared:
    """A and tau A^2, (batches, n, n), and sums of their squares, (batches, sums), as many as the kernels left."""

    A: Tensor
    square: Tensor
    norms: Tensor
    square_norms: Tensor


def combine(known: Squared, terms: SumTerms, unit: Tensor, *, margin: float) -> Tensor:
    """P (u A)^2 + Z u A + I, and u into `unit`; 1 / u = margin^2 ||A^2||_F^(1/2)."""
    batches, n, _ = known.A.shape
    dtype, device = known.A.dtype, known.A.device
    out = empty_rows((batches, n, n), dtype, device)
    rows, columns = 8, 512
    count, square_count = known.norms.shape[-1], known.square_norms.shape[-1]
    overlap = device.type == "cuda"
    on_grid(combine_kernel, (triton.cdiv(n, rows) * triton.cdiv(n, columns), batches))(
        known.A, known.square, out, known.A.stride(1), known.norms, count, known.square_norms, square_count, unit,
        n, margin, terms.P, terms.Z, terms.identity,
        COUNT=power_of_two(max(count, square_count)), ROWS=rows, COLUMNS=columns, DTYPE=TRITON_DTYPES[dtype],
        OVERLAP=overlap, num_warps=4, launch_pdl=overlap, enable_fp_fusion=False,
    )  # fmt: skip
    return out


def apply(
    B: Tensor, X: Tensor, factors: tuple[float, float], blocking: Blocking, *, unit: Tensor | None = None
) -> Tensor:
    """sqrt(u) (alpha B X + beta X) for `factors` alpha and beta; u = 1 without a `unit` (batches,).

    X must have been complete when the kernel launched last began, which is the one that wrote B in a step.
    """
    out = empty_rows((X.shape[0], X.shape[1], X.shape[2]), X.dtype, X.device)
    launch_multiply_add((B, X, X), out, factors, blocking, unit=unit, ahead=True)
    return out
