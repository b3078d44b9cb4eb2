"""Products of float32 matrices on 16-bit tensor cores: every operand is split into two 16-bit words.

    s A ~ A_h + A_l,   A_h = fl16(s A),   A_l = fl16(s A - A_h)
    A B ~ (A_l B_h + A_h B_l + A_h B_h) / (s_A s_B)

(Markidis et al. 2018, arXiv 1803.04014; Ootomo and Yokota 2022, arXiv 2203.03341). The product A_l B_l is left out.
With t bits of significand, the hidden one included, two words hold an entry to 2^(-2 t - 1) of itself (float16 2^-23,
bfloat16 2^-17), and what is left out is at most 2^(-2 t), so that

    |computed - A B| <= 2 u |A| |B|   entrywise, u = 2^(-2 t): 2^-22 for fp16x3, 2^-16 for bf16x3,

besides the float32 sums.

The scale s is a power of two, so that it is exact. bfloat16 has float32's range and takes s = 1. float16's words end at
a spacing of 2^-24: unscaled, two of them leave an absolute error of 2^-25, more than 2^-23 of any entry below 2^-2. s
brings the largest entry of each matrix into [2^14, 2^15), below float16's 65504, and an entry keeps its 2^-23 down to
2^-17 of the largest; what is smaller is right to 2^-39 of the largest. One scale for both words, unlike 2^11 on the low
one alone, leaves the three products with one common factor, so that they are a single product of 3 K columns:

    [A_l A_h A_h] [B_h; B_l; B_h].

Tensor cores cut their running float32 sum, and every product added to it, off towards zero. In products of iterates
that is one shift of the diagonal for the most part, because there the sum and what is added to it are of one sign
throughout: relative to an entry -1.1e-9 per column off the diagonal and -4.2e-9 on it (H100, a first step, 2026-11-22).
A shift moves the smallest eigenvalues as much as the largest. So the diagonal of a square result is not taken from the
tensor cores: (A B)_ii = sum_k A_ik B_ki in float32, in n^2 operations. At kappa 1e4, n = 512 and p = 1 the error of a
root falls from 1.5e-3 to 1.2e-4, and at p = 8 its residual from 7e-3 to 5e-4; a diagonal shifted until the trace is
right leaves 2.1e-4 and 7e-3 (log-spaced eigenvalues, sums promoted every 256 columns, in the CPU model of
`iroot/tests/tensor_cores.py`; the H100 had 1.57e-3 and 6.3e-3).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from iroot.errors import InvalidInputError
from iroot.precision import Precision
from iroot.torch_ops import TorchOps, wide_product

_LARGEST = 2.0**15
SMALLEST = 2.0**-96  # largest entry of a matrix that is scaled fully; the scale of a zero matrix stays finite

# Tensor cores cut their running sum after every 16 columns, an error relative to the sum so far. With half of the
# eigenvalues small, p = 1, kappa 1e4, n = 256, a root in fp16x3 is off by 1.0e-3 if the sum is promoted every 256
# columns, 6.4e-4 every 128 (CPU model, 2026-11-22); in bf16x3 rounded words leave more than either.
_PROMOTE_K = {"bfloat16": 0, "float16": 128}


@dataclass(frozen=True, kw_only=True)
class Words:
    """hi + lo = scale times `matrix`, both in the 16-bit format; `inverse` is 1 / scale (..., 1, 1), None for 1."""

    hi: Tensor
    lo: Tensor
    inverse: Tensor | None
    matrix: Tensor

    @property
    def mT(self) -> Words:
        """The transpose, without a copy."""
        return Words(hi=self.hi.mT, lo=self.lo.mT, inverse=self.inverse, matrix=self.matrix.mT)


@dataclass(frozen=True, kw_only=True)
class _Kept:
    """Words without their matrix, which they must not keep alive, and when they were made of it."""

    hi: Tensor
    lo: Tensor
    inverse: Tensor | None
    stamp: Hashable


class KeptWords:
    """Words of the matrices that are alive, for one call of a method: its products share operands.

    Words are given again for the same tensor alone, as long as no operation has changed it in place, on the stream that
    made them; those made while a CUDA graph is recorded, in that state alone.
    """

    def __init__(self) -> None:
        self._kept = WeakTensorKeyDictionary()
        self._largest = WeakTensorKeyDictionary()

    def words(self, A: Tensor, make: Callable[[Tensor], Words]) -> Words:
        """The words of A, by `make` where they are not kept."""
        found = self.find(A)
        if found is None:
            found = make(A)
            self.keep(found)
        return found

    def find(self, A: Tensor) -> Words | None:
        """The words of A as it is, where they are kept."""
        if _is_hidden(A):
            return None
        kept: _Kept | None = self._kept.get(A)  # type: ignore[no-untyped-call]
        if kept is None or kept.stamp != _stamp(A):
            return None
        return Words(hi=kept.hi, lo=kept.lo, inverse=kept.inverse, matrix=A)

    def keep(self, words: Words) -> None:
        """Keep them, but of a tensor whose changes cannot be seen."""
        if not _is_hidden(words.matrix):
            kept = _Kept(hi=words.hi, lo=words.lo, inverse=words.inverse, stamp=_stamp(words.matrix))
            self._kept[words.matrix] = kept

    def note_largest(self, A: Tensor, largest: Tensor | None) -> None:
        """Absolute entries of A, (batches, any), the largest of each matrix among them; None: not known."""
        if largest is not None and not A.is_inference():
            self._largest[A] = (largest, _stamp(A))

    def largest(self, A: Tensor) -> Tensor | None:
        """What was noted of A as it is, if anything was."""
        if A.is_inference():
            return None
        largest, stamp = self._largest.get(A, (None, None))  # type: ignore[no-untyped-call]
        return largest if stamp == _stamp(A) else None


def _is_hidden(A: Tensor) -> bool:
    return A.is_inference() or (A.requires_grad and torch.is_grad_enabled())


def _stamp(A: Tensor) -> Hashable:
    """What must be the same for words to stand for A still."""
    if A.device.type != "cuda":
        return A._version
    return A._version, torch.cuda.current_stream(A.device).cuda_stream, torch.cuda.is_current_stream_capturing()


class SplitOps(TorchOps):
    """bf16x3 and fp16x3: float32 operands and results, three 16-bit products in float32 sums.

    The same on a CPU, where words are multiplied as float32 copies: a product of two words is exact there too.
    """

    def __init__(self, precision: Precision, device: torch.device, *, promote_k: int | None = None) -> None:
        """`promote_k`: columns after which a tensor core's sum is added to a float32 one, 0 for never."""
        super().__init__(precision, device)
        if promote_k is not None and promote_k < 0:
            raise InvalidInputError(f"promote_k must be 0 or more, got {promote_k}")
        self._format: torch.dtype = getattr(torch, precision.operand)
        self._promote_k = _PROMOTE_K[precision.operand] if promote_k is None else promote_k
        self._kept: KeptWords | None = None

    @contextmanager
    def arithmetic(self) -> Iterator[None]:
        """As everywhere, and words are kept meanwhile: no more memory than the matrices that are alive take."""
        with super().arithmetic():
            before, self._kept = self._kept, KeptWords()
            try:
                yield
            finally:
                self._kept = before

    def matmul_wide(self, A: Tensor, B: Tensor) -> Tensor:
        """A B in float32, as every product here."""
        return self.matmul(A, B)

    def gram(self, G: Tensor) -> Tensor:
        """G G^T; G is split once."""
        words = self.split(G)
        return self._words_multiply_add(words, words.mT, None, 1.0, 0.0)

    def split(self, A: Tensor) -> Words:
        """The two words of each matrix of A (..., m, n), those of an earlier product where they are kept."""
        A = A.to(self.storage)
        if self._kept is None or torch.compiler.is_compiling():
            return self._make_words(A)
        return self._kept.words(A, self._make_words)

    def _make_words(self, A: Tensor) -> Words:
        scale = _scale(A) if self._format == torch.float16 else None
        scaled = A if scale is None else A * scale
        hi = scaled.to(self._format)
        inverse = None if scale is None else 1.0 / scale
        return Words(hi=hi, lo=(scaled - hi).to(self._format), inverse=inverse, matrix=A)

    def symmetric_quadratic(self, A: Tensor, a: float, b: float, c: float) -> Tensor:
        """a I + b A + c A^2 for A symmetric."""
        A = A.to(self.storage)
        return self._multiply_add(A, A, A, c, b, identity=a)

    def _multiply_add(
        self, A: Tensor, B: Tensor, C: Tensor | None, alpha: float, beta: float, *, identity: float = 0.0
    ) -> Tensor:
        left = self.split(A)
        return self._words_multiply_add(left, left if B is A else self.split(B), C, alpha, beta, identity=identity)

    def _words_multiply_add(
        self, A: Words, B: Words, C: Tensor | None, alpha: float, beta: float, *, identity: float = 0.0
    ) -> Tensor:
        """alpha A B + beta C + identity I of operands given by their words, without the second term where C is None."""
        depth = A.hi.shape[-1]
        size = self._promote_k or max(depth, 1)
        total = _words_product(A, B, slice(0, size))
        for start in range(size, depth, size):
            total = total.add_(_words_product(A, B, slice(start, start + size)))
        if A.inverse is not None and B.inverse is not None:
            total = total.mul_(A.inverse * B.inverse * alpha)
        elif alpha != 1.0:
            total = total.mul_(alpha)
        if total.shape[-2] == total.shape[-1]:
            total.diagonal(dim1=-2, dim2=-1).copy_(_exact_diagonal(A, B).mul_(alpha))
        total = total if C is None else total.add_(C, alpha=beta)
        if identity != 0.0:
            total.diagonal(dim1=-2, dim2=-1).add_(identity)
        return total


def _words_product(A: Words, B: Words, columns: slice) -> Tensor:
    """The three products over some columns, in one, of s_A A and s_B B.

    The small ones come first: a sum truncated relative to its size loses nothing to speak of while it is small.
    """
    A_h, A_l = A.hi[..., columns], A.lo[..., columns]
    B_h, B_l = B.hi[..., columns, :], B.lo[..., columns, :]
    return wide_product(torch.cat((A_l, A_h, A_h), dim=-1), torch.cat((B_h, B_l, B_h), dim=-2))


def _exact_diagonal(A: Words, B: Words) -> Tensor:
    """The diagonal of A B, (..., n), in float32 sums that no tensor core takes."""
    return (A.matrix * B.matrix.mT).sum(dim=-1)


def _scale(A: Tensor) -> Tensor:
    """The power of two, (..., 1, 1), that brings the largest entry of each matrix into [2^14, 2^15)."""
    largest: Tensor = torch.linalg.vector_norm(A, ord=float("inf"), dim=(-2, -1), keepdim=True)
    largest = largest.clamp_min(SMALLEST)
    # largest = mantissa 2^exponent with mantissa in [1/2, 1), so the quotient is 2^exponent exactly.
    return _LARGEST * torch.frexp(largest).mantissa / largest
