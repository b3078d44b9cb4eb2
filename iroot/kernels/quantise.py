# Device functions carry no Python types, and Triton has no type information:
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, disallow-untyped-calls=False
# mypy: disallow-untyped-decorators=False
"""Quantised operands of a product, both in two launches.

What `iroot/quantize.py` defines, bit for bit, in the layout that the FP8 and INT8 units read: contiguous rows of the
left operand and of the transposed right one. Both operands share their launches, a transposed one is turned while it is
written, and the multiple of I that `iroot/scaled_ops.py` takes off a symmetric one is never stored.

    launch 1: partial maxima of |A|, and of its diagonal the partial sums, minima and maxima
    launch 2: scale and mu from the parts, in every program; A is read again and written in 8 bits

An entry on the diagonal counts as |a_ii - mu|, and rounding is monotonic, so that the largest of these is that of the
smallest or of the largest a_ii. Maxima of bit patterns do not depend on their order and put NaN above infinity; the sum
for mu is taken in an order of its own, the same in every call.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from iroot.errors import InvalidInputError
from iroot.quantize import SMALLEST_SCALE, NumberFormat, Quantised

OPERAND_DTYPES = (torch.bfloat16, torch.float32)
FORMAT_NAMES = ("float8_e4m3fn", "float8_e5m2", "int8")
_SMALLEST = tl.constexpr(SMALLEST_SCALE)
# Triton's interpreter has no FP8 conversion that rounds to nearest even (3.9); there it is integer arithmetic.
_BY_INTEGERS = tl.constexpr(triton.knobs.runtime.interpret)
_HALF_EVEN = tl.constexpr(1.5 * 2.0**23)  # x + this - this is x rounded to an integer, for |x| < 2^22


@triton.jit
def wait(OVERLAP: tl.constexpr):
    """What comes before may run while the previous kernel finishes; what comes after reads what it wrote."""
    if OVERLAP:
        gdc_wait()
        gdc_launch_dependents()


@triton.jit
def magnitude_of(value):
    """The bits of |value|, which order as the numbers do; NaN comes last."""
    return value.to(tl.int32, bitcast=True) & 0x7FFFFFFF


@triton.jit
def _fp8_by_integers(value, MANTISSA: tl.constexpr, BIAS: tl.constexpr):
    """The code of a float32 within the range of an FP8 format, or of a NaN."""
    SHIFT: tl.constexpr = 23 - MANTISSA
    bits = magnitude_of(value)
    sign = (value.to(tl.int32, bitcast=True) >> 24) & 0x80
    normal = (bits + (1 << (SHIFT - 1)) - 1 + ((bits >> SHIFT) & 1) - ((127 - BIAS) << 23)) >> SHIFT
    # The unit of a sum of this size is the format's smallest number.
    STEP_BITS: tl.constexpr = (23 + 127 + 1 - BIAS - MANTISSA) << 23
    least = tl.full(value.shape, STEP_BITS, tl.int32).to(tl.float32, bitcast=True)
    subnormal = (bits.to(tl.float32, bitcast=True) + least).to(tl.int32, bitcast=True) - STEP_BITS
    code = tl.where(bits < (128 - BIAS) << 23, subnormal, normal)
    return (tl.where(bits > 0x7F800000, 0x7F, code) | sign).to(tl.uint8)


@triton.jit
def codes_of(value, scale, LARGEST: tl.constexpr, FORMAT: tl.constexpr):
    """value / scale on the grid of a format, ties to even, as the 8 bits of each number."""
    level = tl.clamp(tl.div_rn(value, scale), -LARGEST, LARGEST, propagate_nan=tl.PropagateNan.ALL)
    if FORMAT == "int8":
        level = level + _HALF_EVEN - _HALF_EVEN
        return tl.where(level == level, level, 0.0).to(tl.int8).to(tl.uint8, bitcast=True)
    if FORMAT == "float8_e4m3fn":
        return _fp8_by_integers(level, 3, 7) if _BY_INTEGERS else level.to(tl.float8e4nv).to(tl.uint8, bitcast=True)
    return _fp8_by_integers(level, 2, 15) if _BY_INTEGERS else level.to(tl.float8e5).to(tl.uint8, bitcast=True)


@triton.jit
def scale_of(magnitude, inverse_largest):
    """The scale of a matrix or row, from the bits of its largest |entry|."""
    scale = magnitude.to(tl.float32, bitcast=True) * inverse_largest
    return tl.where(scale < _SMALLEST, _SMALLEST, scale)  # NaN stays


@triton.jit
def _measure_share(
    matrix, stride_batch, stride_row, parts, m, n, column_blocks, program, programs, batch,
    SHIFTED: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, DIAGONAL: tl.constexpr,
):  # fmt: skip
    """One program's share of the tiles and, where a multiple of I is taken off, of the diagonal."""
    matrix += batch * stride_batch
    largest = tl.zeros((ROWS, COLUMNS), tl.int32)
    for tile in range(program, tl.cdiv(m, ROWS) * column_blocks, programs):
        row = (tile // column_blocks * ROWS + tl.arange(0, ROWS)[:, None]).to(tl.int64)
        col = tile % column_blocks * COLUMNS + tl.arange(0, COLUMNS)[None, :]
        inside = (row < m) & (col < n)
        if SHIFTED:
            inside = inside & (row != col)
        value = tl.load(matrix + row * stride_row + col, mask=inside, other=0.0)
        largest = tl.maximum(largest, magnitude_of(value.to(tl.float32)))
    parts += batch * 4 * programs + program
    tl.store(parts, tl.max(tl.max(largest, 1), 0).to(tl.float32, bitcast=True))
    if SHIFTED:
        total = tl.zeros((DIAGONAL,), tl.float32)
        low = total + float("inf")
        high = total - float("inf")
        for start in range(program * DIAGONAL, n, programs * DIAGONAL):
            i = (start + tl.arange(0, DIAGONAL)).to(tl.int64)
            entry = tl.load(matrix + i * stride_row + i, mask=i < n, other=0.0).to(tl.float32)
            total += entry
            low = tl.minimum(low, tl.where(i < n, entry, float("inf")))
            high = tl.maximum(high, tl.where(i < n, entry, -float("inf")))
        tl.store(parts + programs, tl.sum(total, 0))
        tl.store(parts + 2 * programs, tl.min(low, 0))
        tl.store(parts + 3 * programs, tl.max(high, 0))


@triton.jit(do_not_specialize=["a_blocks", "a_programs", "b_blocks", "b_programs"])
def _measure_kernel(
    a, a_batch, a_row, a_parts, a_m, a_n, a_blocks, a_programs,  # (batches, a_m, a_n), contiguous rows
    b, b_batch, b_row, b_parts, b_m, b_n, b_blocks, b_programs,  # the same, or None
    A_SHIFTED: tl.constexpr, B_SHIFTED: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DIAGONAL: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    """parts (batches, 4, programs): the largest |entry|, sum, minimum and maximum of the diagonal."""
    program = tl.program_id(0)
    batch = tl.program_id(1).to(tl.int64)
    wait(OVERLAP)
    if program < a_programs:
        _measure_share(
            a, a_batch, a_row, a_parts, a_m, a_n, a_blocks, program, a_programs, batch, A_SHIFTED, ROWS, COLUMNS,
            DIAGONAL,
        )  # fmt: skip
    elif b is not None:
        _measure_share(
            b, b_batch, b_row, b_parts, b_m, b_n, b_blocks, program - a_programs, b_programs, batch, B_SHIFTED, ROWS,
            COLUMNS, DIAGONAL,
        )  # fmt: skip


@triton.jit
def _quantise_tile(
    matrix, stride_batch, stride_row, parts, programs, values, scales, shifts, m, n, column_blocks, tile, batch,
    inverse_largest, inverse_n,
    POWERS: tl.constexpr, MOST_PARTS: tl.constexpr, LARGEST: tl.constexpr, FORMAT: tl.constexpr, TURNED: tl.constexpr,
    SHIFTED: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """One tile of (m, n), written to (m, n) or, TURNED, to (n, m)."""
    row = (tile // column_blocks * ROWS + tl.arange(0, ROWS)[:, None]).to(tl.int64)
    col = (tile % column_blocks * COLUMNS + tl.arange(0, COLUMNS)[None, :]).to(tl.int64)
    inside = (row < m) & (col < n)
    value = tl.load(matrix + batch * stride_batch + row * stride_row + col, mask=inside, other=0.0).to(tl.float32)
    part = tl.arange(0, MOST_PARTS)
    known = part < programs
    part += batch * 4 * programs
    magnitude = tl.max(magnitude_of(tl.load(parts + part, mask=known, other=0.0)), 0)
    if SHIFTED:
        mu = tl.sum(tl.load(parts + programs + part, mask=known, other=0.0), 0) * inverse_n
        low = tl.min(tl.load(parts + 2 * programs + part, mask=known, other=float("inf")), 0)
        high = tl.max(tl.load(parts + 3 * programs + part, mask=known, other=-float("inf")), 0)
        magnitude = tl.maximum(magnitude, tl.maximum(magnitude_of(low - mu), magnitude_of(high - mu)))
        value = tl.where(row == col, value - mu, value)
        if tile == 0:
            tl.store(shifts + batch, mu)
    scale = scale_of(magnitude, inverse_largest)
    if POWERS:  # the next power of two not below, by the exponent
        bits = scale.to(tl.int32, bitcast=True)
        scale = tl.where(bits < 0x7F800000, (bits + 0x7FFFFF) & 0x7F800000, bits).to(tl.float32, bitcast=True)
    if tile == 0:
        tl.store(scales + batch, scale)
    place = col * m + row if TURNED else row * n + col
    tl.store(values + batch * m * n + place, codes_of(value, scale, LARGEST, FORMAT), mask=inside)


@triton.jit(do_not_specialize=["a_blocks", "a_programs", "a_tiles", "b_blocks", "b_programs"])
def _quantise_kernel(
    a, a_batch, a_row, a_parts, a_programs, a_values, a_scales, a_shifts, a_m, a_n, a_blocks, a_tiles,
    b, b_batch, b_row, b_parts, b_programs, b_values, b_scales, b_shifts, b_m, b_n, b_blocks,
    a_inverse_largest, a_inverse_n, b_inverse_largest, b_inverse_n,
    A_LARGEST: tl.constexpr, A_FORMAT: tl.constexpr, A_TURNED: tl.constexpr, A_SHIFTED: tl.constexpr,
    B_LARGEST: tl.constexpr, B_FORMAT: tl.constexpr, B_TURNED: tl.constexpr, B_SHIFTED: tl.constexpr,
    POWERS: tl.constexpr, MOST_PARTS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    """Operands, parts and programs as in `_measure_kernel`; values in 8 bits, scales and shifts (batches,)."""
    tile = tl.program_id(0)
    batch = tl.program_id(1).to(tl.int64)
    wait(OVERLAP)
    if tile < a_tiles:
        _quantise_tile(
            a, a_batch, a_row, a_parts, a_programs, a_values, a_scales, a_shifts, a_m, a_n, a_blocks, tile, batch,
            a_inverse_largest, a_inverse_n, POWERS, MOST_PARTS, A_LARGEST, A_FORMAT, A_TURNED, A_SHIFTED, ROWS, COLUMNS,
        )  # fmt: skip
    elif b is not None:
        _quantise_tile(
            b, b_batch, b_row, b_parts, b_programs, b_values, b_scales, b_shifts, b_m, b_n, b_blocks, tile - a_tiles,
            batch, b_inverse_largest, b_inverse_n, POWERS, MOST_PARTS, B_LARGEST, B_FORMAT, B_TURNED, B_SHIFTED, ROWS,
            COLUMNS,
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Source:
    """What is to be quantised: `matrix` (..., m, n) bfloat16 or float32, less mu I where `shifted` (then m = n)."""

    matrix: Tensor
    number_format: NumberFormat
    shifted: bool = False

    def __post_init__(self) -> None:
        A = self.matrix
        if A.dtype not in OPERAND_DTYPES or A.ndim < 2:
            raise InvalidInputError(f"a matrix must be bfloat16 or float32, got {A.dtype} of shape {tuple(A.shape)}")
        if self.shifted and A.shape[-2] != A.shape[-1]:
            raise InvalidInputError(f"a multiple of I is taken off square matrices, got {tuple(A.shape)}")
        if self.number_format.name not in FORMAT_NAMES:
            raise InvalidInputError(f"the format must be one of {FORMAT_NAMES}, got '{self.number_format.name}'")


@dataclass(frozen=True, kw_only=True)
class Rounded:
    """`quantised` stands for the matrix less mu I; mu (..., 1, 1) is the mean of its diagonal, None for 0."""

    quantised: Quantised
    mu: Tensor | None


class _Job:
    """A source as the kernels of `quantise_together` see it, and the memory of its results."""

    def __init__(self, source: Source) -> None:
        A, self.source = source.matrix, source
        flat = A.reshape(-1, *A.shape[-2:])
        self.turned = flat.stride(-1) != 1 and flat.stride(-2) == 1
        stored = flat.mT if self.turned else flat
        self.stored = stored if stored.stride(-1) == 1 else stored.contiguous()
        self.batches, self.m, self.n = self.stored.shape
        self.measured_columns = -(-self.n // _MEASURED_COLUMNS)
        self.programs = min(-(-self.m // _MEASURED_ROWS) * self.measured_columns, _MOST_PARTS)
        self.columns = -(-self.n // _COLUMNS)
        self.tiles = -(-self.m // _ROWS) * self.columns
        self.values = torch.empty(flat.shape, dtype=torch.uint8, device=A.device)
        self.scales, self.shifts = torch.empty(2, self.batches, dtype=torch.float32, device=A.device).unbind()
        self.parts = torch.empty(self.batches, 4, self.programs, dtype=torch.float32, device=A.device)

    @property
    def to_measure(self) -> tuple[object, ...]:
        """Arguments of `_measure_kernel`."""
        strides = self.stored.stride()[:2]
        return (self.stored, *strides, self.parts, self.m, self.n, self.measured_columns, self.programs)

    @property
    def to_write(self) -> tuple[object, ...]:
        """Arguments of `_quantise_kernel`."""
        strides = self.stored.stride()[:2]
        read = (self.stored, *strides, self.parts, self.programs)
        return (*read, self.values, self.scales, self.shifts, self.m, self.n, self.columns)

    @property
    def result(self) -> Rounded:
        """What the kernels have written."""
        batch = self.source.matrix.shape[:-2]
        mu = self.shifts.reshape(*batch, 1, 1) if self.source.shifted else None
        return Rounded(quantised=quantised(self.source, self.values, self.scales.reshape(*batch, 1, 1)), mu=mu)


def quantise_together(
    left: Source, right: Source | None = None, *, scales: Literal["any", "powers of two"] = "any"
) -> tuple[Rounded, ...]:
    """One or two sources, of equal batches, with a scale per matrix, in two launches.

    Values and scales are those of `iroot.quantize.quantise` for the same mu, bit for bit; values have contiguous rows,
    whatever the strides of the source. mu is the sum of the diagonal, in float32, times fl(1 / n).

    Args:
        scales: `any` as in `tensor_scale`, `powers of two` as in `power_of_two_scale`.

    Raises:
        InvalidInputError: the batches differ.
    """
    check_batches(left, right)
    a = _Job(left)
    b = None if right is None else _Job(right)
    second = b or a
    overlap = left.matrix.device.type == "cuda"
    _measure_kernel[(a.programs + (b.programs if b else 0), a.batches)](
        *a.to_measure, *(b.to_measure if b else (None,) * 8), A_SHIFTED=left.shifted, B_SHIFTED=second.source.shifted,
        ROWS=_MEASURED_ROWS, COLUMNS=_MEASURED_COLUMNS, DIAGONAL=_DIAGONAL, OVERLAP=overlap, num_warps=8,
        launch_pdl=overlap,
    )  # fmt: skip
    _quantise_kernel[(a.tiles + (b.tiles if b else 0), a.batches)](
        *a.to_write, a.tiles, *(b.to_write if b else (None,) * 11),
        1.0 / left.number_format.largest, 1.0 / a.n,
        1.0 / second.source.number_format.largest, 1.0 / second.n,
        A_LARGEST=left.number_format.largest, A_FORMAT=left.number_format.name, A_TURNED=a.turned,
        A_SHIFTED=left.shifted, B_LARGEST=second.source.number_format.largest,
        B_FORMAT=second.source.number_format.name, B_TURNED=second.turned, B_SHIFTED=second.source.shifted,
        POWERS=scales != "any", MOST_PARTS=_MOST_PARTS, ROWS=_ROWS, COLUMNS=_COLUMNS, OVERLAP=overlap, num_warps=8,
        enable_fp_fusion=False, launch_pdl=overlap,
    )  # fmt: skip
    return tuple(job.result for job in (a, b) if job is not None)


def quantised(source: Source, codes: Tensor, scale: Tensor) -> Quantised:
    """Codes in the dtype of their format."""
    return Quantised(codes.view(source.number_format.dtype or torch.int8).reshape(source.matrix.shape), scale)


def check_batches(left: Source, right: Source | None) -> None:
    """Raise InvalidInputError unless both sources have as many matrices."""
    if right is not None and left.matrix.shape[:-2].numel() != right.matrix.shape[:-2].numel():
        raise InvalidInputError(
            f"both matrices must have one batch, got {tuple(left.matrix.shape)} and {tuple(right.matrix.shape)}"
        )


# Tiles of the two launches: rows of 256 bytes are read, of 128 bytes written, of 64 where they are turned.
_ROWS, _COLUMNS = 64, 128
_MEASURED_ROWS, _MEASURED_COLUMNS = 16, 512
_MOST_PARTS = 512  # every program of the second launch reads all parts of its matrix
_DIAGONAL = 32
