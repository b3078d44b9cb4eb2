"""Seeded random numbers and orthonormal bases for posing problems.

Bases are structured random orthogonal matrices, Q = D1 H D2 P H (D random signs, P a random permutation, H the
orthonormal Hartley matrix), because a launch poses several hundred cases: at n = 4096 one float64 product instead of a
QR factorisation. The idea is that of structured orthogonal features (Yu et al. 2016, arXiv 1610.09072) with the Hartley
matrix, which exists for every n, in place of Hadamard's; the permutation keeps H D H from being a Toeplitz plus a
Hankel matrix.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from harness.judge.cache import TensorCache


@dataclass(frozen=True, kw_only=True)
class Draw:
    """One request for matrices: shape, seed, where they live, and the cache of shared bases."""

    m: int
    n: int
    batch: int
    seed: int
    device: torch.device
    cache: TensorCache

    @property
    def rank(self) -> int:
        """min(m, n), the number of singular values."""
        return min(self.m, self.n)

    def generator(self, tag: str) -> torch.Generator:
        """A generator whose stream depends on `tag`, the shape and the seed alone."""
        text = f"{tag}/{self.m}x{self.n}x{self.batch}/{self.seed}"
        value = int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big")
        return torch.Generator(self.device).manual_seed(value)

    def normal(self, tag: str, *shape: int) -> Tensor:
        """(batch, *shape) independent standard normal numbers, float64."""
        return torch.randn(self.batch, *shape, generator=self.generator(tag), device=self.device, dtype=torch.float64)

    def uniform(self, tag: str, *shape: int) -> Tensor:
        """(batch, *shape) independent uniform numbers in [0, 1), float64."""
        return torch.rand(self.batch, *shape, generator=self.generator(tag), device=self.device, dtype=torch.float64)

    def signs(self, tag: str, *shape: int) -> Tensor:
        """(batch, *shape) independent signs +-1, float64."""
        return (self.uniform(tag, *shape) < 0.5).double() * 2 - 1


def _hartley(n: int, device: torch.device) -> Tensor:
    """(n, n) orthonormal Hartley matrix cas(2 pi i j / n) / sqrt(n); the angle is reduced in integers."""
    index = torch.arange(n, device=device)
    angle = (index[:, None] * index).remainder_(n).double().mul_(2 * math.pi / n)
    return (angle.cos() + angle.sin()).div_(math.sqrt(n))


def orthonormal(draw: Draw, rows: int, columns: int, *, side: str) -> Tensor:
    """(batch, rows, columns) with orthonormal columns, rows >= columns; shared by all problems of a shape and seed."""

    def build() -> Tensor:
        H = draw.cache.get(("hartley", rows, draw.device), lambda: _hartley(rows, draw.device))
        order = draw.uniform(f"basis-order-{side}", rows).argsort(dim=-1)
        inner = H[:, :columns][order] * draw.signs(f"basis-inner-{side}", rows)[..., None]
        return torch.matmul(H, inner).mul_(draw.signs(f"basis-outer-{side}", rows)[..., None])

    key = ("basis", side, rows, columns, draw.m, draw.n, draw.batch, draw.seed, draw.device)
    return draw.cache.get(key, build)
