"""The Triton backend of the `Ops` protocol: symmetric products at half the work, and addends read in the epilogue.

Only the products that its kernels make faster differ from `FloatingOps`, whose they are otherwise.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from iroot.kernels.multiply_add import multiply_add
from iroot.kernels.operands import OPERAND_DTYPES
from iroot.kernels.symmetric import Terms, symmetric_product
from iroot.precision import Precision
from iroot.torch_ops import FloatingOps

CAPABILITY = (9, 0)
"""Lowest CUDA compute capability with the units the kernels are written for: TMA and asynchronous tensor cores."""

_LINE_BYTES = 128
_SMALLEST = 256


def serves(precision: Precision, device: torch.device) -> bool:
    """Whether this backend exists for `precision` on `device`: bf16 and fp16 on Hopper and later, Triton installed."""
    if device.type != "cuda" or precision.execution != "native" or precision.storage not in OPERAND_DTYPES:
        return False
    return precision.name in ("bf16", "fp16") and torch.cuda.get_device_capability(device) >= CAPABILITY


class TritonOps(FloatingOps):
    """Products of bf16 and fp16 operands on a Hopper GPU. The first call of a shape compiles: never inside a capture.

    Whether a product runs here or in cuBLAS depends on shapes and strides alone, so a call gives the same bits eagerly
    and in a CUDA graph. Under torch.compile and where autograd records, cuBLAS runs.
    """

    def __init__(self, precision: Precision, device: torch.device) -> None:
        super().__init__(precision, device)
        # Results known to be symmetric to the last bit, which scaling them in place does not change.
        self._symmetric = WeakIdKeyDictionary()

    def gram(self, G: Tensor) -> Tensor:
        """G G^T, exactly symmetric."""
        return self._half(G, Terms()) if self._suits(G) else super().gram(G)

    def symmetric_matmul(self, A: Tensor, B: Tensor) -> Tensor:
        """A B for A, B symmetric whose product is known to be symmetric (they commute).

        Only a square, A is B, runs as half a product and comes out exactly symmetric. Rounded factors commute roughly:
        with the lower triangle of A B mirrored, coupled iterations end 1.3 to 2.2 times further from the root (n = 192,
        fp16 and bf16 emulated, p = 2 and 4, kappa 1e2 to 1e4, 2026-11-22).
        """
        return self._half(A, Terms()) if A is B and self._suits(A) else super().symmetric_matmul(A, B)

    def symmetric_quadratic(self, A: Tensor, a: float, b: float, c: float) -> Tensor:
        """a I + b A + c A^2 for A symmetric.

        Half a product where A came out of this object exactly symmetric. For an A that is symmetric up to rounding, the
        half that is not read matters: coupled iterations end 2 to 5 times further from the root without it (as above).
        """
        if A not in self._symmetric or not self._suits(A):
            return super().symmetric_quadratic(A, a, b, c)
        return self._half(A, Terms(alpha=c, beta=b, gamma=a))

    def _half(self, A: Tensor, terms: Terms) -> Tensor:
        result = symmetric_product(A, A, None if terms.beta == 0.0 else A, terms=terms)
        self._symmetric[result] = True
        return result

    def _multiply_add(self, A: Tensor, B: Tensor, C: Tensor | None, alpha: float, beta: float) -> Tensor:
        if C is None or not self._suits(A, B, C):
            return super()._multiply_add(A, B, C, alpha, beta)
        return multiply_add(A, B, C, alpha=alpha, beta=beta)

    def _suits(self, *operands: Tensor) -> bool:
        """Whether the kernels are faster.

        Rows that do not start on a cache line cost them up to twice the traffic from L2 (Gram product of 3000 x 3000:
        0.96 times cuBLAS's speed, against 1.2 to 1.6 for aligned rows; H100, 2026-11-22).
        """
        if torch.compiler.is_compiling():
            return False
        recording = torch.is_grad_enabled() and any(A.requires_grad for A in operands)
        return not recording and all(self._aligned(A) for A in operands)

    def _aligned(self, A: Tensor) -> bool:
        if A.dtype != self.storage or A.ndim < 2 or min(A.shape[-2:]) < _SMALLEST:
            return False
        row, col = A.stride()[-2:]
        pitch = row if col == 1 else col if row == 1 else 0
        return pitch > 0 and pitch * A.element_size() % _LINE_BYTES == 0 and A.data_ptr() % _LINE_BYTES == 0
