"""Which kernels have been compiled, as a capture cannot compile one, and which outlast their own launch."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

# Triton takes about 130 us of the CPU to launch a kernel with descriptors (H100, Triton 3.6, 2026-11-22: five polar
# steps at 1024 x 1024 take 2.1 ms eager, 0.44 ms by cuBLAS). At 1e11 operations a product outlasts its launch.
EAGER_FLOPS = 1e11

SMALLEST_FUSED = 128
"""Rows from which one launch has a whole matrix's work; smaller ones were not measured."""

Launches = Literal["counted", "free"]
"""Whether the host's time for a launch counts in eager calls; `free` for calls to be captured."""


class CompiledLayouts:
    """The layouts of operands that kernels of one device have been launched on.

    The first call of a shape compiles its kernels, which a capture cannot: recorded without such a call before it, a
    product stays in the library. So do calls under torch.compile and those that autograd records.
    """

    def __init__(self, device: torch.device, *, eager_flops: float = EAGER_FLOPS) -> None:
        """`eager_flops`: of a product that outlasts its launch."""
        self._device = device
        self._eager_flops = eager_flops
        self._seen: set[tuple[object, ...]] = set()

    def suit(self, kernel: str, *operands: Tensor) -> bool:
        """Whether a kernel can run on these operands now."""
        if torch.compiler.is_compiling() or any(A.numel() == 0 for A in operands):
            return False
        if torch.is_grad_enabled() and any(A.requires_grad for A in operands):
            return False
        layout = (kernel, *((A.shape, A.stride(), A.dtype, A.data_ptr() % 16) for A in operands))
        if self.capturing:
            return layout in self._seen
        self._seen.add(layout)
        return True

    def choose(
        self, layout: tuple[object, ...], flops: float, *, capturing: bool
    ) -> Literal["kernel", "library", "prepare"]:
        """Who computes a product that a kernel suits; `prepare`: run the kernel too, for the captures to come."""
        if capturing:
            return "kernel" if layout in self._seen else "library"
        first = layout not in self._seen
        self._seen.add(layout)
        if flops >= self._eager_flops:
            return "kernel"
        return "prepare" if first else "library"

    @property
    def capturing(self) -> bool:
        """Whether a CUDA graph is being recorded."""
        return self._device.type == "cuda" and torch.cuda.is_current_stream_capturing()
