"""The Triton backend of the split precisions: a launch for a product's operands and diagonal, one for the product."""

from __future__ import annotations

import torch
from torch import Tensor

from iroot.kernels.exact_diagonal import Pair, split_pair
from iroot.kernels.families import is_served
from iroot.kernels.graded_root import square_bound
from iroot.kernels.split_product import Factors, product_of_words, split_gram
from iroot.kernels.split_words import split
from iroot.precision import SPLIT, Precision, get_precision
from iroot.split_ops import SplitOps, Words
from iroot.triton_layouts import SMALLEST_FUSED, CompiledLayouts


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

    def square_bound(self, A: Tensor, *, eps: float) -> Tensor | None:
        """min(||M^2||_F, ||M^2||_inf)^(1/2), M = A + eps I, raised by what rounding M to float16 may move it."""
        if A.dtype is not torch.float32 or A.shape[-1] < SMALLEST_FUSED or not self._layouts.suit("square_bound", A):
            return None
        return square_bound(A, eps=eps, slack=1.0 + 4.0 * get_precision("fp16").unit_roundoff)

    def _multiply_add(
        self, A: Tensor, B: Tensor, C: Tensor | None, alpha: float, beta: float, *, identity: float = 0.0
    ) -> Tensor:
        pair = self._pair(A, B)
        if pair is None:
            return super()._multiply_add(A, B, C, alpha, beta, identity=identity)
        return self._words_multiply_add(
            pair.left, pair.right, C, alpha, beta, identity=identity, diagonal=pair.diagonal
        )  # fmt: skip

    def _pair(self, A: Tensor, B: Tensor) -> Pair | None:
        """Both operands of a square result, split where they are not, and its diagonal, in one pass; or None."""
        if torch.compiler.is_compiling() or not A.dtype == B.dtype == self.storage:
            return None
        if A.shape[-2] != B.shape[-1] or A.shape[:-2] != B.shape[:-2]:
            return None
        kept = self._kept
        words = (None, None) if kept is None else (kept.find(A), kept.find(B))
        largest = (None, None) if kept is None else (kept.largest(A), kept.largest(B))
        known = [each is not None for each in words]
        counts = [1 if each is None else each.shape[1] for each in largest]
        if not self._layouts.suit(f"pair {known} {counts} {A is B}", A, B):
            return None
        pair = split_pair(A, B, self._format, words=words, largest=largest)
        if kept is not None:
            kept.keep(pair.left)
            kept.keep(pair.right)
        return pair

    def _words_multiply_add(
        self, A: Words, B: Words, C: Tensor | None, alpha: float, beta: float, *, identity: float = 0.0,
        diagonal: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        operands = (A.hi, A.lo, A.matrix, B.hi, B.lo, B.matrix, *(() if C is None else (C,)))
        # Words of bfloat16 have no scale.
        measure = self._kept is not None and self._format is torch.float16
        if not self._layouts.suit("measured product" if measure else "product", *operands):
            return super()._words_multiply_add(A, B, C, alpha, beta, identity=identity)
        C = None if C is None else C.to(self.storage)
        factors = Factors(alpha=float(alpha), beta=float(beta), identity=float(identity))
        result = product_of_words(
            A, B, C, factors, promote_k=self._promote_k, measure=measure, diagonal=diagonal
        )  # fmt: skip
        if self._kept is not None:
            self._kept.note_largest(result.matrix, result.largest)
        return result.matrix
