"""How problems are drawn: spectra, the matrices that have them, and matrices drawn entry by entry; all float64."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import torch
from torch import Tensor

from harness.judge.draws import Draw, orthonormal

Spectrum = Callable[[Draw], Tensor]
"""Draw -> (rank,) or (batch, rank) eigenvalues or singular values, largest first, float64."""


def spd_from(spectrum: Spectrum) -> Callable[[Draw], Tensor]:
    def generate(draw: Draw) -> Tensor:
        Q = orthonormal(draw, draw.n, draw.n, side="left")
        return torch.matmul(Q * spectrum(draw).unsqueeze(-2), Q.mT)

    return generate


def rectangular_from(spectrum: Spectrum) -> Callable[[Draw], Tensor]:
    """U diag(sigma) V^T, scaled to entries of mean square 1: tiny entries would be subnormal in float16."""

    def generate(draw: Draw) -> Tensor:
        sigma = spectrum(draw)
        scale = math.sqrt(draw.m * draw.n) / torch.linalg.vector_norm(sigma, dim=-1, keepdim=True)
        return factor_from(lambda _draw: sigma * scale)(draw)

    return generate


def factor_from(spectrum: Spectrum) -> Callable[[Draw], Tensor]:
    """U diag(sigma) V^T as it is: the scale of an absolute damping is kept."""

    def generate(draw: Draw) -> Tensor:
        U = orthonormal(draw, draw.m, draw.rank, side="left")
        V = orthonormal(draw, draw.n, draw.rank, side="right")
        return torch.matmul(U * spectrum(draw).unsqueeze(-2), V.mT)

    return generate


def logspace(kappa: float) -> Spectrum:
    def spectrum(draw: Draw) -> Tensor:
        return torch.logspace(0, -math.log10(kappa), draw.rank, dtype=torch.float64, device=draw.device)

    return spectrum


def spike(draw: Draw) -> Tensor:
    """One in 64 eigenvalues between 1 and 0.1, the rest between 1e-4 and 2e-4."""
    values = 1e-4 * (1 + draw.uniform("spike-bulk", draw.rank))
    large = max(1, draw.rank // 64)
    values[:, :large] = torch.logspace(0, -1, large, dtype=torch.float64, device=draw.device)
    return values.sort(dim=-1, descending=True).values


def power_law(draw: Draw) -> Tensor:
    """i^-2 + 1e-6, i = 1 .. rank."""
    index = torch.arange(1, draw.rank + 1, dtype=torch.float64, device=draw.device)
    return index**-2.0 + 1e-6


def power_law_ratio(rank: int) -> float:
    return (1 / rank**2 + 1e-6) / (1 + 1e-6)


def root(spectrum: Spectrum) -> Spectrum:
    """Singular values whose squares are `spectrum`: G G^T then has the eigenvalues of the SPD problem."""
    return lambda draw: spectrum(draw).sqrt()


def low_rank(draw: Draw) -> Tensor:
    """A quarter of the eigenvalues between 1 and 0.1, the rest 0."""
    values = torch.zeros(draw.rank, dtype=torch.float64, device=draw.device)
    kept = max(1, draw.rank // 4)
    values[:kept] = torch.logspace(0, -1, kept, dtype=torch.float64, device=draw.device)
    return values


def one_tiny(draw: Draw) -> Tensor:
    """Eigenvalues between 1 and 1e-2, and a single one at 1e-6."""
    values = torch.logspace(0, -2, draw.rank, dtype=torch.float64, device=draw.device)
    values[-1] = 1e-6
    return values


def wishart(draw: Draw) -> Tensor:
    G = draw.normal("wishart", draw.n, draw.n)
    return torch.matmul(G, G.mT).div_(draw.n) + 1e-3 * torch.eye(draw.n, dtype=torch.float64, device=draw.device)


def wishart_factor(draw: Draw) -> Tensor:
    """Gaussian entries over max(m, n)^(1/2): squared singular values up to about 4 (Marchenko and Pastur 1967)."""
    return draw.normal("wishart-factor", draw.m, draw.n).div_(math.sqrt(max(draw.m, draw.n)))


def identity(draw: Draw) -> Tensor:
    return torch.eye(draw.n, dtype=torch.float64, device=draw.device).repeat(draw.batch, 1, 1)


def diagonal(draw: Draw) -> Tensor:
    """Eigenvalues logspace_1e4, in random order on the diagonal."""
    order = draw.uniform("diagonal", draw.n).argsort(dim=-1)
    return torch.diag_embed(logspace(1e4)(draw)[order])


def ar1(draw: Draw) -> Tensor:
    """s_i s_j 0.99^|i-j| with random signs s, the covariance of an autoregressive process of order 1."""
    index = torch.arange(draw.n, dtype=torch.float64, device=draw.device)
    signs = draw.signs("ar1", draw.n)
    return 0.99 ** (index[:, None] - index).abs() * signs[:, :, None] * signs[:, None, :]


def block_diagonal(draw: Draw) -> Tensor:
    """Four blocks, each logspace over one decade, at scales 1, 0.1, 0.01 and 0.001."""
    A = torch.zeros(draw.batch, draw.n, draw.n, dtype=torch.float64, device=draw.device)
    edges = [round(i * draw.n / 4) for i in range(5)]
    for block, (start, stop) in enumerate(itertools.pairwise(edges)):
        if stop > start:
            part = Draw(m=stop - start, n=stop - start, batch=draw.batch, seed=4 * draw.seed + block,
                        device=draw.device, cache=draw.cache)  # fmt: skip
            A[:, start:stop, start:stop] = 10.0**-block * spd_from(logspace(10.0))(part)
    return A


def gaussian(draw: Draw) -> Tensor:
    return draw.normal("gaussian", draw.m, draw.n)


def gaussian_lower(m: int, n: int) -> float | None:
    """(1 - sqrt(r)) / (1 + sqrt(r)), r = aspect ratio below 1/2 (Marchenko-Pastur), less a tenth; else unknown."""
    small, large = sorted((m, n))
    ratio = small / large
    if ratio > 0.5 or small < 32:
        return None
    return 0.9 * (1 - math.sqrt(ratio)) / (1 + math.sqrt(ratio))


def row_heterogeneous(draw: Draw) -> Tensor:
    """Gaussian rows with log-normal scales exp(0.7 N(0, 1))."""
    return gaussian(draw) * (0.7 * draw.normal("row-scale", draw.m, 1)).exp()


def levy(draw: Draw) -> Tensor:
    """Symmetric alpha-stable entries, alpha = 1.5 (Chambers, Mallows, Stuck 1976), as heavy-tailed gradients have.

    Clipped at 1e3 (one entry in 1e5): a single entry must not decide whether a 16-bit format overflows.
    """
    alpha = 1.5
    angle = math.pi * (draw.uniform("levy-angle", draw.m, draw.n) - 0.5)
    weight = torch.log1p(-draw.uniform("levy-weight", draw.m, draw.n)).neg_().clamp_(min=1e-12)
    value = (alpha * angle).sin() / angle.cos() ** (1 / alpha)
    value *= (((1 - alpha) * angle).cos() / weight) ** ((1 - alpha) / alpha)
    return value.clamp_(-1e3, 1e3)
