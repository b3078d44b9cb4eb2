"""Quantisation with a scale per matrix, row or block: A ~ scale * values, values on the grid of an 8- or 4-bit format.

    scale = max |A| / largest,   values = round(A / scale)

(symmetric, zero point 0; Jacob et al. 2018, arXiv 1712.05877, eq. 1; for FP8 Micikevicius et al. 2022, arXiv
2209.05433, section 4). Scales stay on the device: nothing here synchronises with the host.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from iroot.precision import Granularity

BLOCK = 128
"""Columns that share a scale in blocks."""
SMALLEST_SCALE = 2.0**-120
"""The scale of a zero matrix: its reciprocal and its product with 448^2 are finite."""


@dataclass(frozen=True, kw_only=True)
class NumberFormat:
    """A small number format.

    Attributes:
        largest: largest finite magnitude; the largest element of a matrix is mapped to it.
        dtype: torch dtype whose values form the grid, or None for the integers -largest … largest.
    """

    name: str
    largest: float
    dtype: torch.dtype | None


FORMATS: dict[str, NumberFormat] = {
    row.name: row
    for row in (
        NumberFormat(name="float8_e4m3fn", largest=448.0, dtype=torch.float8_e4m3fn),
        NumberFormat(name="float8_e5m2", largest=57344.0, dtype=torch.float8_e5m2),
        NumberFormat(name="int8", largest=127.0, dtype=None),
        NumberFormat(name="int4", largest=7.0, dtype=None),
    )
}


@dataclass(frozen=True)
class Quantised:
    """values (..., m, n) on the grid of a format and their scales in float32; stands for scale * values.

    A scale is (..., 1, 1) for the matrix, (..., m, 1) for rows or (..., m, ceil(n / BLOCK)) for blocks of a row.
    """

    values: Tensor
    scale: Tensor

    @property
    def mT(self) -> Quantised:
        """The transpose, without a copy."""
        return Quantised(self.values.mT, self.scale.mT)


def tensor_scale(A: Tensor, number_format: NumberFormat) -> Tensor:
    """max |A| / largest for each matrix of A (..., m, n), as a float32 tensor (..., 1, 1); never zero."""
    largest: Tensor = torch.linalg.vector_norm(A, ord=float("inf"), dim=(-2, -1), keepdim=True)
    return _scale_of(largest, number_format)


def find_scale(A: Tensor, number_format: NumberFormat, granularity: Granularity) -> Tensor:
    """max |A| / largest over each matrix, row or 1 x BLOCK block of A (..., m, n), shaped as in `Quantised`."""
    if granularity == "tensor":
        return tensor_scale(A, number_format)
    width = A.shape[-1] if granularity == "row" else BLOCK
    largest = torch.stack([block.abs().amax(-1) for block in torch.split(A, width, dim=-1)], dim=-1)
    return _scale_of(largest, number_format)


def _scale_of(largest: Tensor, number_format: NumberFormat) -> Tensor:
    # Times the reciprocal, as torch divides by a number on CUDA: a CPU's quotient may differ in the last bit.
    return (largest.float() * (1.0 / number_format.largest)).clamp_min(SMALLEST_SCALE)


def power_of_two_scale(A: Tensor, number_format: NumberFormat) -> Tensor:
    """The next power of two not below `tensor_scale`: what was rounded with it is not changed by rounding again.

    Nor are the parts of such a matrix, whose own scale is the same or finer. Uses at least half of the range.
    """
    return tensor_scale(A, number_format).log2_().ceil_().exp2_()


def quantise(A: Tensor, number_format: NumberFormat, *, dtype: torch.dtype, scale: Tensor | None = None) -> Quantised:
    """Round each matrix of A (..., m, n) to `number_format`, ties to even, values held in `dtype`.

    `dtype` must hold the grid exactly: the format's own, float32, or bfloat16 for the integers. The rounding error of
    an element is at most half a step: scale / 2 for integers, unit roundoff times the element for normal FP8 values.
    A non-finite element makes the scale non-finite, and with it whatever is computed from it. Without `scale`
    it is `tensor_scale`.
    """
    scale = tensor_scale(A, number_format) if scale is None else scale
    levels = (A / _spread(scale, A.shape[-1])).clamp_(-number_format.largest, number_format.largest)
    levels = levels.round_() if number_format.dtype is None else levels.to(number_format.dtype)
    return Quantised(levels.to(dtype), scale)


def dequantise(quantised: Quantised) -> Tensor:
    """scale * values in float32."""
    return quantised.values.float() * _spread(quantised.scale, quantised.values.shape[-1])


def _spread(scale: Tensor, columns: int) -> Tensor:
    """The scale of every column; what is one for all of them stays one."""
    if scale.shape[-1] == 1:
        return scale
    return scale[..., None].expand(*scale.shape, BLOCK).flatten(-2)[..., :columns]
