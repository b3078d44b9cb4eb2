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


def assert_squares_and_scalars(
    launch: Callable[..., None], tiling: Tiling, parts: int, *, n: int, depth: int, batch: int
) -> None:
    """A Gram product leaves `parts` sums of squares of each matrix, and scalars made of them are as in float64."""
    X = gaussian(batch, n, depth, torch.float16, 0)
    norms = torch.full((batch, parts), torch.nan, device=DEVICE)
    unit = torch.empty(batch, device=DEVICE)
    A = empty_rows((batch, n, n), torch.float16, DEVICE)
    launch(Matrices(M=X, N=X), (SumTerms(),), tiling, [A], squares=norms)
    total = A.double().square().sum((-2, -1))
    assert torch.allclose(norms.double().sum(-1), total, rtol=1e-5)
    (found,), (expected,) = by_both(launch, Matrices(M=X, N=X), BOTH[:1], tiling)
    assert torch.equal(found, expected)
    first = Scaling(kind="first", norms=norms, unit=unit, margin=1.1)
    sums = (SumTerms(P=2.0, Z=3.0, identity=1.0), SumTerms(Z=-1.0))
    results, _ = by_both(launch, Matrices(M=A, N=A, Z=A), sums, tiling, first)
    u = 1.0 / (1.21 * total.sqrt())
    assert torch.allclose(unit.double(), u, rtol=1e-5)
    Y = u[:, None, None] * A.double()
    for result, exact in zip(results, (2.0 * Y @ Y + 3.0 * Y + torch.eye(n, device=DEVICE), Y @ Y - Y), strict=True):
        assert (result.double() - exact).norm() < 5e-4 * exact.norm()
    limited = Scaling(kind="limited", norms=1e2 * norms)
    (square,), _ = by_both(launch, Matrices(M=A, N=A), (SumTerms(),), tiling, limited)
    exact = (3e4 / (1e2 * total)).clamp(max=1.0)[:, None, None] * (A.double() @ A.double())
    assert (square.double() - exact).norm() < 5e-4 * exact.norm()
