# Device functions carry no Python types, and Triton has no type information:
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, disallow-untyped-calls=False
# mypy: disallow-untyped-decorators=False
"""Both operands of a product quantised in one launch, with a scale per row; per matrix: `iroot/kernels/quantise.py`."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from iroot.kernels.quantise import Rounded, Source, check_batches, codes_of, magnitude_of, quantised, scale_of, wait


@triton.jit
def _quantise_strip(
    matrix, stride_batch, stride_row, stride_column, shifts, values, scales, m, n, strip, batch, inverse_largest,
    LARGEST: tl.constexpr, FORMAT: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """ROWS whole rows, read twice."""
    row = (strip * ROWS + tl.arange(0, ROWS)[:, None]).to(tl.int64)
    matrix += batch * stride_batch + row * stride_row
    mu = 0.0
    if shifts is not None:
        mu = tl.load(shifts + batch)
    largest = tl.zeros((ROWS, COLUMNS), tl.int32)
    for start in range(0, n, COLUMNS):
        col = (start + tl.arange(0, COLUMNS)[None, :]).to(tl.int64)
        value = tl.load(matrix + col * stride_column, mask=(row < m) & (col < n), other=0.0).to(tl.float32)
        if shifts is not None:
            value = tl.where((row == col) & (row < m), value - mu, value)
        largest = tl.maximum(largest, magnitude_of(value))
    scale = scale_of(tl.max(largest, 1)[:, None], inverse_largest)
    tl.store(scales + batch * m + row, scale, mask=row < m)
    for start in range(0, n, COLUMNS):
        col = (start + tl.arange(0, COLUMNS)[None, :]).to(tl.int64)
        inside = (row < m) & (col < n)
        value = tl.load(matrix + col * stride_column, mask=inside, other=0.0).to(tl.float32)
        if shifts is not None:
            value = tl.where(row == col, value - mu, value)
        tl.store(values + (batch * m + row) * n + col, codes_of(value, scale, LARGEST, FORMAT), mask=inside)


@triton.jit(do_not_specialize=["a_strips"])
def _quantise_rows_kernel(
    a, a_batch, a_row, a_column, a_shifts, a_values, a_scales, a_m, a_n,  # (batches, a_m, a_n), any strides
    a_strips,
    b, b_batch, b_row, b_column, b_shifts, b_values, b_scales, b_m, b_n,  # the same, or None
    a_inverse_largest, b_inverse_largest,
    A_LARGEST: tl.constexpr, A_FORMAT: tl.constexpr, A_ROWS: tl.constexpr, A_COLUMNS: tl.constexpr,
    B_LARGEST: tl.constexpr, B_FORMAT: tl.constexpr, B_ROWS: tl.constexpr, B_COLUMNS: tl.constexpr,
    OVERLAP: tl.constexpr,
):  # fmt: skip
    """values (batches, m, n) in 8 bits, scales (batches, m); shifts (batches,) are taken off the diagonal, or None."""
    strip = tl.program_id(0)
    batch = tl.program_id(1).to(tl.int64)
    wait(OVERLAP)
    if strip < a_strips:
        _quantise_strip(
            a, a_batch, a_row, a_column, a_shifts, a_values, a_scales, a_m, a_n, strip, batch, a_inverse_largest,
            A_LARGEST, A_FORMAT, A_ROWS, A_COLUMNS,
        )  # fmt: skip
    elif b is not None:
        _quantise_strip(
            b, b_batch, b_row, b_column, b_shifts, b_values, b_scales, b_m, b_n, strip - a_strips, batch,
            b_inverse_largest, B_LARGEST, B_FORMAT, B_ROWS, B_COLUMNS,
        )  # fmt: skip


class _RowJob:
    """A source as the kernel of `quantise_rows` sees it, and the memory of its results."""

    def __init__(self, source: Source) -> None:
        A, self.source = source.matrix, source
        self.flat = A.reshape(-1, *A.shape[-2:])
        self.batches, self.m, self.n = self.flat.shape
        self.rows, self.columns = _STRIP if self.flat.stride(-1) == 1 else _TURNED_STRIP
        self.strips = -(-self.m // self.rows)
        diagonal = A.diagonal(dim1=-2, dim2=-1) if source.shifted else None
        self.mu = None if diagonal is None else diagonal.mean(-1, dtype=torch.float32)[..., None, None]
        self.values = torch.empty(self.flat.shape, dtype=torch.uint8, device=A.device)
        self.scales = torch.empty(self.batches, self.m, dtype=torch.float32, device=A.device)

    @property
    def arguments(self) -> tuple[object, ...]:
        """Of `_quantise_rows_kernel`."""
        return (self.flat, *self.flat.stride(), self.mu, self.values, self.scales, self.m, self.n)

    @property
    def result(self) -> Rounded:
        """What the kernel has written."""
        A = self.source.matrix
        return Rounded(quantised=quantised(self.source, self.values, self.scales.reshape(*A.shape[:-1], 1)), mu=self.mu)


def quantise_rows(left: Source, right: Source | None = None) -> tuple[Rounded, ...]:
    """One or two sources, of equal batches, with a scale for every row, in one launch, and one for each mu.

    Values and scales are those of `iroot.quantize.quantise` with `find_scale`, bit for bit.

    Raises:
        InvalidInputError: the batches differ.
    """
    check_batches(left, right)
    a = _RowJob(left)
    b = None if right is None else _RowJob(right)
    second = b or a
    overlap = left.matrix.device.type == "cuda"
    _quantise_rows_kernel[(a.strips + (b.strips if b else 0), a.batches)](
        *a.arguments, a.strips, *(b.arguments if b else (None,) * 9),
        1.0 / left.number_format.largest, 1.0 / second.source.number_format.largest,
        A_LARGEST=left.number_format.largest, A_FORMAT=left.number_format.name, A_ROWS=a.rows, A_COLUMNS=a.columns,
        B_LARGEST=second.source.number_format.largest, B_FORMAT=second.source.number_format.name, B_ROWS=second.rows,
        B_COLUMNS=second.columns, OVERLAP=overlap, num_warps=4, enable_fp_fusion=False, launch_pdl=overlap,
    )  # fmt: skip
    return tuple(job.result for job in (a, b) if job is not None)


# Whole rows; where these are columns in memory, 16 of them are a sector of 32 bytes.
_STRIP, _TURNED_STRIP = (4, 1024), (16, 256)
