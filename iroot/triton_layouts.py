"""Which kernels have been compiled: a capture cannot compile one."""

from __future__ import annotations

import torch
from torch import Tensor


class CompiledLayouts:
    """The layouts of operands that kernels of one device have been launched on.

    The first call of a shape compiles its kernels, which a capture cannot: recorded without such a call before it, a
    product stays in the library. So do calls under torch.compile and those that autograd records.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._seen: set[tuple[object, ...]] = set()

    def suit(self, kernel: str, *operands: Tensor) -> bool:
        """Whether a kernel can run on these operands now."""
        if torch.compiler.is_compiling() or any(A.numel() == 0 for A in operands):
            return False
        if torch.is_grad_enabled() and any(A.requires_grad for A in operands):
            return False
        layout = (kernel, *((A.shape, A.stride(), A.dtype, A.data_ptr() % 16) for A in operands))
        if self._device.type == "cuda" and torch.cuda.is_current_stream_capturing():
            return layout in self._seen
        self._seen.add(layout)
        return True
