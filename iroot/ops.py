"""The matmul operations an algorithm may use, as a protocol, and the factory of its backends.

A method never calls `torch.matmul` itself: it asks an `Ops` object made for one precision and one device. What a
product costs, how its operands are rounded and which kernel runs is decided here.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Protocol

import torch
from torch import Tensor

from iroot.errors import UnsupportedError
from iroot.graded_steps import WordStep
from iroot.odd_steps import OddStep, StepBound
from iroot.precision import FINELY_SCALED, QUANTISED, SPLIT, Precision, get_precision, unsupported_reason
from iroot.registry import Backend
from iroot.scaled_ops import make_scaled_ops
from iroot.split_ops import SplitOps
from iroot.torch_ops import EmulatedOps, FloatingOps
from iroot.triton_layouts import Launches


class Ops(Protocol):
    """Matrix products of one precision on one device. Operands are (..., m, n), batch dimensions equal on both sides.

    Every result is in `storage` (emulated formats: float32 tensors that hold representable values only).
    """

    precision: Precision
    device: torch.device

    @property
    def storage(self) -> torch.dtype:
        """The dtype that iterates are held in."""
        ...

    def arithmetic(self) -> AbstractContextManager[None]:
        """Set the process-wide switches (TF32) the precision needs; enter once around a whole call of a method."""
        ...

    def cast(self, A: Tensor) -> Tensor:
        """A rounded to the storage format."""
        ...

    def cast_word(self, A: Tensor) -> Tensor:
        """A rounded to the values that `matmul_wide` multiplies, held in the storage dtype: it rounds no further."""
        ...

    def matmul(self, A: Tensor, B: Tensor) -> Tensor:
        """A B."""
        ...

    def matmul_add(self, A: Tensor, B: Tensor, C: Tensor, *, alpha: float = 1.0, beta: float = 1.0) -> Tensor:
        """beta C + alpha A B."""
        ...

    def matmul_wide(self, A: Tensor, B: Tensor) -> Tensor:
        """A B for A, B in `storage`, with the accumulator's digits: float32 (float64 for fp64)."""
        ...

    def gram(self, G: Tensor) -> Tensor:
        """G G^T, symmetric."""
        ...

    def symmetric_matmul(self, A: Tensor, B: Tensor) -> Tensor:
        """A B for A, B symmetric whose product is known to be symmetric (they commute)."""
        ...

    def symmetric_apply(self, S: Tensor, X: Tensor, *, beta: float) -> Tensor:
        """beta X + S X for S (..., m, m) symmetric, X (..., m, n)."""
        ...

    def symmetric_quadratic(self, A: Tensor, a: float, b: float, c: float) -> Tensor:
        """a I + b A + c A^2 for A symmetric."""
        ...

    def square_bound(self, A: Tensor, *, eps: float) -> Tensor | None:
        """The scaling `square` of A + eps I, (..., 1, 1); None where this backend has no kernel for it."""
        ...

    def graded_root(self, A: Tensor, scale: Tensor, steps: Sequence[WordStep], *, p: int, eps: float) -> Tensor | None:
        """(A + eps I)^(-1/p) by `steps` on (A + eps I) / scale; None where this backend has no kernels for it."""
        ...

    def odd_steps(self, G: Tensor, steps: Sequence[OddStep], bound: StepBound) -> Tensor | None:
        """X <- X q(X X^T) for every step, from X = G / bound; None where this backend has no kernel for it."""
        ...


def make_ops(precision: str | Precision, device: torch.device, backend: Backend = "auto") -> Ops:
    """Return the operations of `precision` on `device`.

    `auto` takes this project's Triton kernels where they exist, on a Hopper GPU: for bf16x3 and fp16x3 always, for FP8
    and INT8 around the library's products, for bf16 and fp16 product by product, for tf32, FP8 and INT8 symmetric ones
    alone, where they are faster for its shape and, in eager calls, outlast their own launch. `graph` is the same for
    calls that end in a CUDA graph, where a launch costs the host nothing: the eager call before the capture then
    computes what the replays compute. `torch` always takes the library's operations.

    Raises:
        UnknownNameError: no such precision.
        UnsupportedError: the device has no unit for it; the message says which is missing.
    """
    plan = get_precision(precision) if isinstance(precision, str) else precision
    reason = unsupported_reason(plan, device)
    if reason is not None:
        raise UnsupportedError(f"precision '{plan.name}' cannot run on {device}: {reason}")
    launches: Launches = "free" if backend == "graph" else "counted"
    if plan.name in QUANTISED + FINELY_SCALED:
        if backend != "torch" and device.type == "cuda":
            from iroot import triton_scaled_ops  # imports Triton, which only a GPU needs

            if triton_scaled_ops.serves(plan, device):
                return triton_scaled_ops.make_triton_scaled_ops(plan, device, launches=launches)
        return make_scaled_ops(plan, device)
    if plan.name in SPLIT:
        if backend != "torch" and device.type == "cuda":
            from iroot import triton_split_ops  # imports Triton, which only a GPU needs

            if triton_split_ops.serves(plan, device):
                return triton_split_ops.TritonSplitOps(plan, device)
        return SplitOps(plan, device)
    if backend != "torch" and device.type == "cuda":
        from iroot import triton_ops  # imports Triton, which only a GPU needs

        if triton_ops.serves(plan, device):
            return triton_ops.make_triton_ops(plan, device, launches=launches)
    return EmulatedOps(plan, device) if plan.execution == "emulated" else FloatingOps(plan, device)
