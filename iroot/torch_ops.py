"""The torch backend of the `Ops` protocol: cuBLAS products, and the same arithmetic emulated on a CPU.

Every class fills in one hook, `_multiply_add`; the symmetric products are full products here, because cuBLAS has no
16-bit symmetric kernel.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor

from iroot.graded_steps import WordStep
from iroot.odd_steps import OddStep, StepBound
from iroot.precision import Precision

_NO_REDUCED_PRECISION = (
    "allow_fp16_reduced_precision_reduction",
    "allow_bf16_reduced_precision_reduction",
    "allow_fp16_accumulation",
)
_SWITCHES = threading.RLock()
"""Held while the process-wide switches are set: two threads would undo each other's, and the last one's would stay."""


class TorchOps(ABC):
    """The operations of the protocol, all derived from one fused multiply-add."""

    def __init__(self, precision: Precision, device: torch.device) -> None:
        self.precision = precision
        self.device = device

    @property
    def storage(self) -> torch.dtype:
        """The dtype that iterates are held in."""
        return self.precision.storage

    @contextmanager
    def arithmetic(self) -> Iterator[None]:
        """Set the process-wide matmul switches for this precision, and restore the caller's on exit.

        TF32 is on for `tf32` alone; 16-bit products accumulate in float32 throughout. Other threads wait meanwhile, for
        the time that the products take to be launched.
        """
        with _SWITCHES, ExitStack() as stack:
            for name in _NO_REDUCED_PRECISION:
                stack.enter_context(_switch(name, False))
            stack.enter_context(_float32_products("tf32" if self.precision.name == "tf32" else "ieee"))
            yield

    def cast(self, A: Tensor) -> Tensor:
        """A rounded to the storage format."""
        return A.to(self.storage)

    def cast_word(self, A: Tensor) -> Tensor:
        """A rounded to the storage format, whose values the products take as they are."""
        return self.cast(A)

    def matmul(self, A: Tensor, B: Tensor) -> Tensor:
        """A B."""
        return self._multiply_add(A, B, None, 1.0, 0.0)

    def matmul_add(self, A: Tensor, B: Tensor, C: Tensor, *, alpha: float = 1.0, beta: float = 1.0) -> Tensor:
        """beta C + alpha A B."""
        return self._multiply_add(A, B, C, alpha, beta)

    def matmul_wide(self, A: Tensor, B: Tensor) -> Tensor:
        """A B for A, B in `storage`, with the accumulator's digits: float32 (float64 for fp64)."""
        return wide_product(A.to(self.storage), B.to(self.storage))

    def gram(self, G: Tensor) -> Tensor:
        """G G^T, symmetric."""
        return self.matmul(G, G.mT)

    def symmetric_matmul(self, A: Tensor, B: Tensor) -> Tensor:
        """A B for A, B symmetric whose product is known to be symmetric (they commute)."""
        return self.matmul(A, B)

    def symmetric_apply(self, S: Tensor, X: Tensor, *, beta: float) -> Tensor:
        """beta X + S X for S symmetric."""
        return self.matmul_add(S, X, X, beta=beta)

    def symmetric_quadratic(self, A: Tensor, a: float, b: float, c: float) -> Tensor:
        """a I + b A + c A^2 for A symmetric."""
        result = self._multiply_add(A, A, A, c, b)
        if a == 0.0:
            return result
        result.diagonal(dim1=-2, dim2=-1).add_(a)
        return self.cast(result)

    def square_bound(self, A: Tensor, *, eps: float) -> Tensor | None:
        """None: the caller composes it from products."""
        return None

    def graded_root(self, A: Tensor, scale: Tensor, steps: Sequence[WordStep], *, p: int, eps: float) -> Tensor | None:
        """None: the caller composes it from products."""
        return None

    def odd_steps(self, G: Tensor, steps: Sequence[OddStep], bound: StepBound) -> Tensor | None:
        """None: the caller composes them from products."""
        return None

    @abstractmethod
    def _multiply_add(self, A: Tensor, B: Tensor, C: Tensor | None, alpha: float, beta: float) -> Tensor:
        """alpha A B + beta C in new memory, without the last term where C is None."""


class FloatingOps(TorchOps):
    """Products of fp64, fp32, tf32, bf16 and fp16 operands in the machine's own units."""

    def _multiply_add(self, A: Tensor, B: Tensor, C: Tensor | None, alpha: float, beta: float) -> Tensor:
        return fused_multiply_add(A.to(self.storage), B.to(self.storage), C, alpha, beta)


class EmulatedOps(TorchOps):
    """16-bit arithmetic on a machine without the unit: operands and results are float32 tensors of 16-bit values.

    A tensor core does the same: exact products of 16-bit operands, a float32 sum, one rounding at the end.
    """

    def __init__(self, precision: Precision, device: torch.device) -> None:
        super().__init__(precision, device)
        self._format: torch.dtype = getattr(torch, precision.operand)

    def cast(self, A: Tensor) -> Tensor:
        """A rounded to the 16-bit format, held in float32."""
        return A.to(self._format).to(self.storage)

    def _multiply_add(self, A: Tensor, B: Tensor, C: Tensor | None, alpha: float, beta: float) -> Tensor:
        return self.cast(fused_multiply_add(self.cast(A), self.cast(B), C, alpha, beta))


def fused_multiply_add(A: Tensor, B: Tensor, C: Tensor | None, alpha: float, beta: float) -> Tensor:
    """alpha A B + beta C in one BLAS call; A (..., m, k), B (..., k, n), C (..., m, n) or None."""
    if C is None:
        product = torch.matmul(A, B)
        return product if alpha == 1.0 else product.mul_(alpha)
    C = C.to(A.dtype)
    if A.ndim == 2:
        return torch.addmm(C, A, B, beta=beta, alpha=alpha)
    if A.ndim == 3:
        return torch.baddbmm(C, A, B, beta=beta, alpha=alpha)
    A3, B3, C3 = (M.reshape(-1, *M.shape[-2:]) for M in (A, B, C))
    return torch.baddbmm(C3, A3, B3, beta=beta, alpha=alpha).reshape(C.shape)


def wide_product(A: Tensor, B: Tensor) -> Tensor:
    """A B in float32 for 16-bit operands, else in their own dtype; A (..., m, k), B (..., k, n)."""
    if A.element_size() >= 4 or A.device.type == "cpu":
        # A CPU has no 16-bit product with a float32 result; a product of float32 copies is the same sum.
        wide = torch.promote_types(A.dtype, torch.float32)
        return torch.matmul(A.to(wide), B.to(wide))
    if A.ndim == 2:
        return torch.mm(A, B, out_dtype=torch.float32)
    A3, B3 = (M.reshape(-1, *M.shape[-2:]) for M in (A, B))
    return torch.bmm(A3, B3, out_dtype=torch.float32).reshape(*A.shape[:-1], B.shape[-1])


@contextmanager
def _switch(name: str, value: bool) -> Iterator[None]:
    """Set one cuBLAS switch. The reductions' second half, split-K, exists from torch 2.10 on and is kept."""
    matmul: Any = torch.backends.cuda.matmul
    before = getattr(matmul, name)
    split_k = getattr(matmul, f"{name}_split_k", None)
    setattr(matmul, name, value if split_k is None else (value, split_k))
    try:
        yield
    finally:
        setattr(matmul, name, before if split_k is None else (before, split_k))


@contextmanager
def _float32_products(mode: str) -> Iterator[None]:
    """Set how float32 products run on CUDA (`ieee` or `tf32`); on a CPU they are always IEEE.

    torch 2.9 replaced `allow_tf32` by `fp32_precision` and warns, or refuses, where the two are mixed.
    """
    modern = hasattr(torch.backends.cuda.matmul, "fp32_precision")
    settings: list[tuple[Any, str, Any]] = (
        [
            (torch.backends.cuda.matmul, "fp32_precision", mode),
            (torch.backends.mkldnn.matmul, "fp32_precision", "ieee"),  # type: ignore[attr-defined]
        ]
        if modern
        else [(torch.backends.cuda.matmul, "allow_tf32", mode == "tf32")]
    )
    before = [getattr(backend, name) for backend, name, _ in settings]
    for backend, name, value in settings:
        setattr(backend, name, value)
    try:
        yield
    finally:
        for (backend, name, _), value in zip(settings, before, strict=True):
            setattr(backend, name, value)
