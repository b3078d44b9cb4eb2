"""The Triton backend of FP8 and INT8: one or two launches to quantise both operands, one for what follows a product.

The products themselves are the library's, and every result is that of `iroot/scaled_ops.py`, but for mu, the mean of a
diagonal, whose sum has another order; mu is taken off exactly either way.
"""

from __future__ import annotations

import torch
from torch import Tensor

from iroot.kernels.families import is_served
from iroot.kernels.quantise import OPERAND_DTYPES, Rounded, Source, quantise_together
from iroot.kernels.quantise_rows import quantise_rows
from iroot.kernels.scaled_result import ADDEND_DTYPES, scaled_result, shifted_result
from iroot.precision import FINELY_SCALED, QUANTISED, Precision
from iroot.quantize import Quantised
from iroot.scaled_ops import Float8Ops, Int8Ops, ScaledOps, ShiftedSum
from iroot.triton_layouts import CompiledLayouts

_MOST_BATCHES = 65535  # of a grid's second dimension


def serves(precision: Precision, device: torch.device) -> bool:
    """Whether this backend exists for `precision` on `device`: native FP8 and INT8 on an NVIDIA Hopper GPU."""
    if device.type != "cuda" or torch.version.hip is not None or precision.execution != "native":
        return False
    if precision.name not in QUANTISED + FINELY_SCALED:
        return False
    return is_served(torch.cuda.get_device_capability(device))


class TritonScaledOps(ScaledOps):
    """The steps around a product; a subclass of `Float8Ops` or `Int8Ops` besides.

    When the kernels are taken, `CompiledLayouts` says.
    """

    def __init__(self, precision: Precision, device: torch.device) -> None:
        super().__init__(precision, device)
        self._layouts = CompiledLayouts(device)
        self._quantise_sources = quantise_rows if precision.scales == "row" else quantise_together

    def _pair(self, A: Tensor, B: Tensor) -> tuple[Quantised, Quantised]:
        if not self._suits("pair", A, B):
            return super()._pair(A, B)
        left, right = self._sources(Source(matrix=A, number_format=self._left), B, same=A is B)
        return left.quantised, right.quantised.mT

    def _shifted_pair(self, S: Tensor, B: Tensor) -> tuple[Tensor, Quantised, Quantised]:
        if not self._suits("shifted", S, B):
            return super()._shifted_pair(S, B)
        shifted = Source(matrix=S, number_format=self._left, shifted=True)
        left, right = self._sources(shifted, B, same=B is S)
        assert left.mu is not None
        return left.mu, left.quantised, right.quantised.mT

    def _word(self, A: Tensor) -> Quantised:
        if not self._suits("word", A, A):
            return super()._word(A)
        (word,) = quantise_together(Source(matrix=A, number_format=self._left), scales="powers of two")
        return word.quantised

    def _word_pair(self, A: Tensor, B: Tensor) -> tuple[Quantised, Quantised]:
        if not self._suits("words", A, B):
            return super()._word_pair(A, B)
        sources = Source(matrix=A, number_format=self._left), Source(matrix=B, number_format=self._right)
        left, right = quantise_together(*sources, scales="powers of two")
        return left.quantised, right.quantised.mT

    def _sources(self, left: Source, B: Tensor, *, same: bool) -> tuple[Rounded, Rounded]:
        """Both operands; `same`: the right one is the transpose of the left one."""
        if same and self._left is self._right:
            (only,) = self._quantise_sources(left)
            return only, only
        right = Source(matrix=B, number_format=self._right, shifted=same and left.shifted)
        first, second = self._quantise_sources(left, right)
        return first, second

    def _finishes(self, C: Tensor, left: Quantised, terms: ShiftedSum) -> bool:
        kernel = "sum" if terms.diagonal is None else "sum with a diagonal"
        return C.dtype in ADDEND_DTYPES and self._layouts.suit(kernel, C, left.values)

    def _suits(self, kernel: str, A: Tensor, B: Tensor) -> bool:
        if any(M.dtype not in OPERAND_DTYPES or M.shape[:-2].numel() > _MOST_BATCHES for M in (A, B)):
            return False
        return self._layouts.suit(f"{kernel}, {A is B}", A, B)


class TritonFloat8Ops(TritonScaledOps, Float8Ops):
    """FP8 through torch._scaled_mm, quantised by kernels."""

    def _shifted_sum(self, C: Tensor, mu: Tensor, left: Quantised, right: Quantised, terms: ShiftedSum) -> Tensor:
        if not self._finishes(C, left, terms):
            return super()._shifted_sum(C, mu, left, right, terms)
        return shifted_result(self._product(left, right), C, mu, terms)


class TritonInt8Ops(TritonScaledOps, Int8Ops):
    """INT8 through torch._int_mm, quantised and scaled by kernels."""

    def _result(
        self, left: Quantised, right: Quantised, *, C: Tensor | None = None, alpha: float = 1.0, beta: float = 0.0
    ) -> Tensor:
        if C is not None or not self._layouts.suit("result", left.values, right.values):
            return super()._result(left, right, C=C, alpha=alpha, beta=beta)
        return scaled_result(self._sums(left, right), (left.scale, right.scale), alpha=alpha)

    def _shifted_sum(self, C: Tensor, mu: Tensor, left: Quantised, right: Quantised, terms: ShiftedSum) -> Tensor:
        if not self._finishes(C, left, terms):
            return super()._shifted_sum(C, mu, left, right, terms)
        return shifted_result(self._sums(left, right), C, mu, terms, scales=(left.scale, right.scale))


def make_triton_scaled_ops(precision: Precision, device: torch.device) -> TritonScaledOps:
    """The operations of a precision that `serves`."""
    return (TritonInt8Ops if precision.name == "int8" else TritonFloat8Ops)(precision, device)
