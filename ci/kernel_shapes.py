"""What the checks of kernels share: small shapes, operands drawn for them, and errors beside what is allowed.

Operands are made on the CPU, so that a sanitizer looks at little but the kernels.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import cycle

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Shape:
    """One small problem: `batch` matrices of n rows on `device`; `turned`: their columns are contiguous."""

    n: int
    batch: int
    dtype: torch.dtype
    turned: bool
    device: torch.device

    @property
    def interpreted(self) -> bool:
        return self.device.type == "cpu"

    @property
    def depth(self) -> int:
        """Columns; as odd as n."""
        return self.n + 40 if not self.interpreted else self.n + 6

    def draw(self, rows: int, columns: int, *, seed: int = 0) -> Tensor:
        """Gaussian (batch, rows, columns) with entries of 1 / columns^(1/2), float32, on the CPU."""
        generator = torch.Generator().manual_seed(1000 * seed + self.n + self.batch)
        return torch.randn(self.batch, rows, columns, generator=generator).div_(columns**0.5)

    def place(self, A: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """A on the device, in this shape's dtype and layout."""
        A = A.to(dtype or self.dtype)
        return (A.mT.contiguous().mT if self.turned else A.contiguous()).to(self.device)


@dataclass(frozen=True, kw_only=True)
class Found:
    """The error of one result, and what is allowed."""

    error: float
    allowed: float

    @property
    def share(self) -> float:
        """Of what is allowed; NaN counts as infinite."""
        if self.error == 0.0:
            return 0.0
        return self.error / self.allowed if self.error <= self.allowed else float("inf")


def shapes(device: torch.device) -> list[Shape]:
    """Every n once plain and once turned, in a batch or not, in one of two dtypes."""
    rows = (
        [(192, 1, False), (200, 3, True), (257, 1, True), (257, 3, False), (320, 3, False), (320, 1, True)]
        if device.type == "cuda"
        else [(33, 1, False), (18, 2, True)]
    )
    dtypes = cycle((torch.bfloat16, torch.float16))
    return [
        Shape(n=n, batch=batch, dtype=dtype, turned=turned, device=device)
        for (n, batch, turned), dtype in zip(rows, dtypes, strict=False)
    ]


def distance(D: Tensor, exact: Tensor, allowed: float) -> Found:
    """Relative, in the Frobenius norm, of the worst matrix."""
    found = (D.cpu().double() - exact).norm(dim=(-2, -1)) / exact.norm(dim=(-2, -1))
    return Found(error=found.nan_to_num(nan=float("inf")).max().item(), allowed=allowed)


def differing(found: Tensor, expected: Tensor) -> Found:
    """Share of elements that differ in a bit; none may."""
    same = found.cpu().contiguous().view(torch.uint8) == expected.contiguous().view(torch.uint8)
    return Found(error=1.0 - same.double().mean().item(), allowed=0.0)
