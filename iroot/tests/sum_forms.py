"""Operands of symmetric sums, and results of a Gluon kernel beside Triton's, which the Gluon kernels' tests share.

Imported after a test has chosen Triton's interpreter, where it needs it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from iroot.kernels.operands import empty_rows
from iroot.kernels.symmetric_sum import UNSCALED, Matrices, Scaling, SumTerms, triton_sums
from iroot.kernels.tiling import Tiling

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")

BOTH = (SumTerms(P=0.7, T=-1.3, Z=0.6, identity=0.25), SumTerms(P=-0.4, T=0.9, Z=1.1, identity=-0.5))
"""Two results of one product."""


def gaussian(batch: int, n: int, depth: int, dtype: torch.dtype, seed: int) -> Tensor:
    """Entries of variance 1 / depth, in rows as kernels lay them out."""
    generator = torch.Generator(device=DEVICE).manual_seed(seed)
    A = torch.randn(batch, n, depth, generator=generator, device=DEVICE) / depth**0.5
    return empty_rows((batch, n, depth), dtype, DEVICE).copy_(A)


def symmetric(batch: int, n: int, dtype: torch.dtype, seed: int) -> Tensor:
    """A + A^T of a `gaussian` A."""
    A = gaussian(batch, n, n, torch.float32, seed)
    return empty_rows((batch, n, n), dtype, DEVICE).copy_(A + A.mT)


def by_both(
    launch: Callable[..., None],
    matrices: Matrices,
    sums: tuple[SumTerms, ...],
    tiling: Tiling,
    scaling: Scaling = UNSCALED,
) -> tuple[list[Tensor], list[Tensor]]:
    """What `launch` and `triton_sums` find, in memory that held NaN."""
    batch, n, _ = matrices.M.shape
    results = tuple([empty_rows((batch, n, n), matrices.M.dtype, DEVICE) for _ in sums] for _ in range(2))
    for kernel, found in zip((launch, triton_sums), results, strict=True):
        for out in found:
            out.fill_(torch.nan)
        kernel(matrices, sums, tiling, found, scaling=scaling)
    return results[0], results[1]
