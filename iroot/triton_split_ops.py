"""The Triton backend of the split precisions: two launches to split an operand, one for a whole product."""

from __future__ import annotations

import torch
from torch import Tensor

from iroot.kernels.families import is_served
from iroot.kernels.split_product import split_gram, split_product
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
        return split(A, self._format) if self._layouts.suit("split", A) else super()._make_words(A)

    def gram(self, G: Tensor) -> Tensor:
        """G G^T, exactly symmetric; G is split once, and only the lower triangle is computed."""
        words = self.split(G)
        if not self._layouts.suit("gram", words.hi, words.lo, words.matrix):
            return super()._words_multiply_add(words, words.mT, None, 1.0, 0.0)
        return split_gram(words, promote_k=self._promote_k)

    def _words_multiply_add(self, A: Words, B: Words, C: Tensor | None, alpha: float, beta: float) -> Tensor:
        operands = (A.hi, A.lo, A.matrix, B.hi, B.lo, B.matrix, *(() if C is None else (C,)))
        if not self._layouts.suit("product", *operands):
            return super()._words_multiply_add(A, B, C, alpha, beta)
        C = None if C is None else C.to(self.storage)
        return split_product(A, B, C, alpha=float(alpha), beta=float(beta), promote_k=self._promote_k)
