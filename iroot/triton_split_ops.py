"""The Triton backend of the split precisions: two launches to split an operand, one for a whole product."""

from __future__ import annotations

import torch
from torch import Tensor

from iroot.kernels.families import is_served
from iroot.kernels.split_product import Factors, product_of_words, split_gram
from iroot.kernels.split_words import split
from iroot.precision import SPLIT, Precision
from iroot.split_ops import SplitOps, Words
from iroot.triton_layouts import CompiledLayouts


def serves(precision: Precision, device: torch.device) -> bool:
    """Whether this backend exists for `precision` on `device`: bf16x3 and fp16x3 on an NVIDIA Hopper GPU."""
    if device.type != "cuda" or torch.version.hip is not None or precision.name not in SPLIT:
        return False
    return is_served(torch.cuda.get_device_capability(device))


class TritonSplitOps(SplitOps):
    """bf16x3 and fp16x3 on a Hopper GPU; where a kernel cannot run (`CompiledLayouts`), a product stays in cuBLAS."""

    def __init__(self, precision: Precision, device: torch.device, *, promote_k: int | None = None) -> None:
        super().__init__(precision, device, promote_k=promote_k)
        self._layouts = CompiledLayouts(device)

    def _make_words(self, A: Tensor) -> Words:
        largest = None if self._kept is None else self._kept.largest(A)
        entries = 1 if largest is None else largest.shape[1]
        if not self._layouts.suit(f"split by {entries}", A):
            return super()._make_words(A)
        return split(A, self._format, largest)

    def gram(self, G: Tensor) -> Tensor:
        """G G^T, exactly symmetric; G is split once, and only the lower triangle is computed."""
        words = self.split(G)
        if not self._layouts.suit("gram", words.hi, words.lo, words.matrix):
            return super()._words_multiply_add(words, words.mT, None, 1.0, 0.0)
        return split_gram(words, promote_k=self._promote_k)

    def _words_multiply_add(
        self, A: Words, B: Words, C: Tensor | None, alpha: float, beta: float, *, identity: float = 0.0
    ) -> Tensor:
        operands = (A.hi, A.lo, A.matrix, B.hi, B.lo, B.matrix, *(() if C is None else (C,)))
        # Words of bfloat16 have no scale.
        measure = self._kept is not None and self._format is torch.float16
        if not self._layouts.suit("measured product" if measure else "product", *operands):
            return super()._words_multiply_add(A, B, C, alpha, beta, identity=identity)
        C = None if C is None else C.to(self.storage)
        factors = Factors(alpha=float(alpha), beta=float(beta), identity=float(identity))
        result = product_of_words(A, B, C, factors, promote_k=self._promote_k, measure=measure)
        if self._kept is not None:
            self._kept.note_largest(result.matrix, result.largest)
        return result.matrix
