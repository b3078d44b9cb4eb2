"""The Triton backend of FP8 and INT8: one or two launches to quantise both operands, one for what follows a product.

The product of a quantised matrix and its own transpose is computed by half, also where the matrix itself is symmetric:
its transpose stands for it. Other products are the library's. Every result is that of `iroot/scaled_ops.py`, but for
mu, the mean of a diagonal, whose sum has another order (mu is taken off exactly either way), and for the order of sums
in an FP8 product by half.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from iroot.kernels.families import is_served
from iroot.kernels.quantise import OPERAND_DTYPES, Rounded, Source, quantise_together
from iroot.kernels.quantise_rows import quantise_rows
from iroot.kernels.scaled_result import ADDEND_DTYPES, scaled_result, shifted_result
from iroot.kernels.symmetric import Terms, symmetric_product
from iroot.precision import FINELY_SCALED, QUANTISED, Precision
from iroot.quantize import Quantised
from iroot.scaled_ops import Float8Ops, Int8Ops, ScaledOps, ShiftedSum
from iroot.triton_layouts import EAGER_FLOPS, CompiledLayouts, Launches

# Sides of a matrix whose product with its transpose is computed by half. The library's products take multiples of 16.
_SMALLEST_HALF = 1024
_UNIT_STEP = 16
_MOST_BATCHES = 65535  # of a grid's second dimension


def serves(precision: Precision, device: torch.device) -> bool:
    """Whether this backend exists for `precision` on `device`: native FP8 and INT8 on an NVIDIA Hopper GPU."""
    if device.type != "cuda" or torch.version.hip is not None or precision.execution != "native":
        return False
    if precision.name not in QUANTISED + FINELY_SCALED:
        return False
    return is_served(torch.cuda.get_device_capability(device))


class TritonScaledOps(ScaledOps):
    """The steps around a product, and half of a symmetric one; a subclass of `Float8Ops` or `Int8Ops` besides.

    When the kernels are taken, `CompiledLayouts` says: those of half a product, which takes longest to launch, as
    `TritonOps` takes them.
    """

    def __init__(self, precision: Precision, device: torch.device, *, launches: Launches = "counted") -> None:
        super().__init__(precision, device)
        self._layouts = CompiledLayouts(device, eager_flops=EAGER_FLOPS if launches == "counted" else 0.0)
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

    def _half(self, left: Quantised, right: Quantised, result: torch.dtype) -> Literal["kernel", "library", "prepare"]:
        """Who computes left right; a kernel only where right is left's transpose, with one scale."""
        A, B = left.values, right.values
        if torch.compiler.is_compiling() or A.requires_grad or A.dtype != B.dtype or left.scale.shape[-2:] != (1, 1):
            return "library"
        sides = A.shape[-2:]
        if min(sides) < _SMALLEST_HALF or any(side % _UNIT_STEP for side in sides) or not B.mT.is_set_to(A):
            return "library"
        flops = 2.0 * A.numel() * sides[0]
        layout = ("half", A.shape, A.stride(), result)
        return self._layouts.choose(layout, flops, capturing=self._layouts.capturing)

    def _finishes(self, C: Tensor, left: Quantised, terms: ShiftedSum) -> bool:
        kernel = "sum" if terms.diagonal is None else "sum with a diagonal"
        return C.dtype in ADDEND_DTYPES and self._layouts.suit(kernel, C, left.values)

    def _suits(self, kernel: str, A: Tensor, B: Tensor) -> bool:
        if any(M.dtype not in OPERAND_DTYPES or M.shape[:-2].numel() > _MOST_BATCHES for M in (A, B)):
            return False
        return self._layouts.suit(f"{kernel}, {A is B}", A, B)


class TritonFloat8Ops(TritonScaledOps, Float8Ops):
    """FP8 through torch._scaled_mm, quantised by kernels."""

    def _float8_product(self, left: Quantised, right: Quantised, result: torch.dtype) -> Tensor:
        choice = self._half(left, right, result)
        if choice != "library":
            product = symmetric_product(left.values, left.values, terms=Terms(scale=left.scale), output=result)
            if choice == "kernel":
                return product
        return super()._float8_product(left, right, result)

    def _shifted_sum(self, C: Tensor, mu: Tensor, left: Quantised, right: Quantised, terms: ShiftedSum) -> Tensor:
        if not self._finishes(C, left, terms):
            return super()._shifted_sum(C, mu, left, right, terms)
        return shifted_result(self._product(left, right), C, mu, terms)


class TritonInt8Ops(TritonScaledOps, Int8Ops):
    """INT8 through torch._int_mm, quantised and scaled by kernels."""

    def _sums(self, left: Quantised, right: Quantised) -> Tensor:
        choice = self._half(left, right, torch.int32)
        if choice != "library":
            sums = symmetric_product(left.values, left.values)
            if choice == "kernel":
                return sums
        return super()._sums(left, right)

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


def make_triton_scaled_ops(precision: Precision, device: torch.device, *, launches: Launches) -> TritonScaledOps:
    """The operations of a precision that `serves`."""
    return (TritonInt8Ops if precision.name == "int8" else TritonFloat8Ops)(precision, device, launches=launches)
