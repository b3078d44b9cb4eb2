"""The Triton backend of the `Ops` protocol: symmetric products at half the work, and addends read in the epilogue.

Only the products that its kernels make faster differ from `FloatingOps`, whose they are otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from iroot.graded_steps import WordStep
from iroot.kernels.families import is_served
from iroot.kernels.graded_root import graded_root, square_bound, variants
from iroot.kernels.multiply_add import beats_addmm, multiply_add
from iroot.kernels.odd_persistent import MOST_PERSISTENT, persistent_odd_steps
from iroot.kernels.odd_persistent import suits as suits_persistent
from iroot.kernels.odd_products import odd_products
from iroot.kernels.operands import OPERAND_DTYPES, TRITON_DTYPES, processors
from iroot.kernels.symmetric import Terms, symmetric_product
from iroot.odd_steps import OddStep, StepBound
from iroot.precision import Precision
from iroot.torch_ops import FloatingOps
from iroot.triton_layouts import EAGER_FLOPS, SMALLEST_FUSED, CompiledLayouts, Launches

# Rows that start anywhere in a cache line double the traffic from L2 (Gram product of 3000 x 3000: 0.99 times cuBLAS's
# speed; of 4000 x 4000, whose rows start at half a line: 1.20). Smaller matrices than 256 were not measured.
_ROW_BYTES = 64
_SMALLEST = 256
# Rows of a TF32 result. Its operand is rounded in a pass of its own, n k entries for n^2 k operations: cuBLAS's time
# over the kernel's is 0.94, 0.65 and 1.24 at n = 1024, 2048 and 4096 (H100, Gram products, 2026-11-23).
_SMALLEST_TF32 = 4096


def serves(precision: Precision, device: torch.device) -> bool:
    """Whether this backend exists for `precision` on `device`: bf16, fp16 and tf32 on an NVIDIA Hopper GPU."""
    if device.type != "cuda" or torch.version.hip is not None or precision.name not in ("bf16", "fp16", "tf32"):
        return False
    return is_served(torch.cuda.get_device_capability(device))


def make_triton_ops(precision: Precision, device: torch.device, *, launches: Launches) -> TritonSymmetricOps:
    """The operations of a precision that `serves`."""
    kind = TritonOps if precision.storage in OPERAND_DTYPES else TritonSymmetricOps
    return kind(precision, device, launches=launches)


class TritonSymmetricOps(FloatingOps):
    """Symmetric products on a Hopper GPU, of bf16, fp16 and tf32 operands.

    A product that takes less time than its launch runs in these kernels inside a CUDA graph only, and eagerly in
    cuBLAS. The first eager call of a shape also prepares its kernel (compiles it, uploads its tiles), since a capture
    cannot; captured without one, the product stays in cuBLAS. So do calls under torch.compile and those that autograd
    records.
    """

    def __init__(self, precision: Precision, device: torch.device, *, launches: Launches = "counted") -> None:
        super().__init__(precision, device)
        self._layouts = CompiledLayouts(device, eager_flops=EAGER_FLOPS if launches == "counted" else 0.0)
        # Results of symmetric operations, and whether they are symmetric to the last bit: the kernels' are, and remain
        # so when scaled in place.
        self._symmetric = WeakIdKeyDictionary()

    def gram(self, G: Tensor) -> Tensor:
        """G G^T; exactly symmetric where a kernel computes it."""
        library = super().gram
        return self._half(G, Terms(), lambda: library(G))

    def symmetric_matmul(self, A: Tensor, B: Tensor) -> Tensor:
        """A B for A, B symmetric whose product is known to be symmetric (they commute).

        Only a square, A is B, is ever half a product. Rounded factors commute roughly: with the lower triangle of A B
        mirrored, coupled iterations end 1.3 to 2.2 times further from the root (n = 192, fp16 and bf16 emulated, p = 2
        and 4, kappa 1e2 to 1e4, 2026-11-22).
        """
        library = super().symmetric_matmul
        if A is not B:
            return library(A, B)
        return self._half(A, Terms(), lambda: library(A, A))

    def symmetric_quadratic(self, A: Tensor, a: float, b: float, c: float) -> Tensor:
        """a I + b A + c A^2 for A symmetric.

        Half a product only where A came out of this object: for an A that is symmetric up to rounding, the half that is
        not read matters. Coupled iterations end 2 to 5 times further from the root without it (as above).
        """
        library = super().symmetric_quadratic
        if torch.compiler.is_compiling() or A not in self._symmetric:
            return library(A, a, b, c)
        terms = Terms(alpha=c, beta=b, gamma=a)
        return self._half(A, terms, lambda: library(A, a, b, c), exact=self._symmetric[A])

    def _half(self, A: Tensor, terms: Terms, library: Callable[[], Tensor], *, exact: bool = True) -> Tensor:
        """alpha A A^T + beta A + gamma I; `exact`: whether A A^T may stand for what `library` computes."""
        if not self._suits(A) or (A.dtype is torch.float32 and A.shape[-2] < _SMALLEST_TF32):
            return library()
        addend = None if terms.beta == 0.0 else A
        choice = self._choose(("half", addend is None, A.shape, A.stride()), 2.0 * A.numel() * A.shape[-2])
        result = None if choice == "library" else symmetric_product(A, A, addend, terms=terms)
        by_kernel = choice == "kernel" and exact and result is not None
        if not by_kernel or result is None:
            result = library()
        self._symmetric[result] = by_kernel
        return result

    def _choose(self, layout: tuple[object, ...], flops: float) -> Literal["kernel", "library", "prepare"]:
        return self._layouts.choose(layout, flops, capturing=self._capturing())

    def _capturing(self) -> bool:
        return self._layouts.capturing

    def _suits(self, *operands: Tensor) -> bool:
        """Whether the kernels take these operands and are not slower for their layout."""
        if torch.compiler.is_compiling():
            return False
        recording = torch.is_grad_enabled() and any(A.requires_grad for A in operands)
        return not recording and all(self._aligned(A) for A in operands)

    def _aligned(self, A: Tensor) -> bool:
        if A.dtype != self.storage or A.ndim < 2 or A.numel() == 0 or min(A.shape[-2:]) < _SMALLEST:
            return False
        row, col = A.stride()[-2:]
        pitch = row if col == 1 else col if row == 1 else 0
        return pitch > 0 and pitch * A.element_size() % _ROW_BYTES == 0 and A.data_ptr() % _ROW_BYTES == 0


class TritonOps(TritonSymmetricOps):
    """All products of bf16 and fp16 operands on a Hopper GPU."""

    def _multiply_add(self, A: Tensor, B: Tensor, C: Tensor | None, alpha: float, beta: float) -> Tensor:
        library = super()._multiply_add
        if C is None or not self._suits(A, B, C) or C.stride(-1) != 1:
            return library(A, B, C, alpha, beta)
        m, n = C.shape[-2:]
        if not beats_addmm(m, n, C.shape[:-2].numel(), processors=processors(C.device)):
            return library(A, B, C, alpha, beta)
        layout = tuple((M.shape, M.stride()) for M in (A, B, C))
        choice = self._choose(("multiply_add", *layout), 2.0 * C.numel() * A.shape[-1])
        if choice == "library":
            return library(A, B, C, alpha, beta)
        result = multiply_add(A, B, C, alpha=alpha, beta=beta)
        return result if choice == "kernel" else library(A, B, C, alpha, beta)

    def square_bound(self, A: Tensor, *, eps: float) -> Tensor | None:
        """min(||M^2||_F, ||M^2||_inf)^(1/2), M = A + eps I, raised by what rounding M to 16 bits may move it."""
        if not self._suits_fused(A):
            return None
        if self._choose(("square_bound", A.shape, A.stride()), math.inf) == "library":
            return None
        slack = 1.0 + 4.0 * self.precision.unit_roundoff
        return square_bound(A, eps=eps, dtype=self.storage, slack=slack)

    def graded_root(self, A: Tensor, scale: Tensor, steps: Sequence[WordStep], *, p: int, eps: float) -> Tensor | None:
        """(A + eps I)^(-1/p) by `steps`: three kernels a step, all elementwise work in their epilogues."""
        if not self._suits_fused(A):
            return None
        # Eager calls take them at any size: 26 launches cost the host less than the 250 they replace (4.8 and 8.5 ms,
        # H100, n = 1024, 2026-11-22).
        choice = self._choose(("graded_root", A.shape, A.stride(), p, variants(steps)), math.inf)
        if choice == "library":
            return None
        return graded_root(A, scale, steps, p=p, eps=eps, dtype=self.storage)

    def odd_steps(self, G: Tensor, steps: Sequence[OddStep], bound: StepBound) -> Tensor | None:
        """A launch per product; eagerly, where those outlast the products, one kernel whose programs meet between them.

        In CUDA graphs the one kernel is slower at every size measured: three steps of degree 5, 17, 17 take 49.6, 58.4,
        76.2 and 102.4 us at n = 256, 512, 768 and 1024 in a launch per product, 54.1, 66.8, 86.6 and 104.9 us in one
        (H100, float16, 2026-11-23). Eagerly its two launches cost the host less than sixteen.
        """
        if not self._suits_steps(G):
            return None
        m, n = G.shape[-2:]
        degrees = tuple(step.degree for step in steps)
        layout = ("odd_products", G.shape, G.stride(), G.dtype, bound.norm, degrees)
        in_one = max(degrees) <= MOST_PERSISTENT
        # What the one kernel does not have goes by launches at any size: two steps of degree 33 are 15, and some 130
        # calls of the library (2026-11-23).
        choice = self._choose(layout, 2.0 * G.numel() * min(m, n) if in_one else math.inf)
        result = None if choice == "library" else odd_products(G, steps, bound=bound, dtype=self.storage)
        if choice == "kernel":
            return result
        if self._capturing() or not in_one or not suits_persistent(m, n, G.shape[:-2].numel(), processors(G.device)):
            return None
        return persistent_odd_steps(G, steps, bound=bound, dtype=self.storage)

    def _suits_steps(self, G: Tensor) -> bool:
        if torch.compiler.is_compiling() or G.dtype not in TRITON_DTYPES or G.numel() == 0:
            return False
        recording = torch.is_grad_enabled() and G.requires_grad
        return not recording and min(G.shape[-2:]) >= SMALLEST_FUSED

    def _suits_fused(self, A: Tensor) -> bool:
        if torch.compiler.is_compiling() or A.dtype is not torch.float32 or A.numel() == 0:
            return False
        recording = torch.is_grad_enabled() and A.requires_grad
        return not recording and A.shape[-1] >= SMALLEST_FUSED
