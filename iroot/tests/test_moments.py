"""A bound from five moments: never below the largest eigenvalue, and no further above it than is stated."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from iroot.moments import Moments, largest, looseness, regularisation
from iroot.ops import make_ops
from iroot.scaling import get_scaling

CPU = torch.device("cpu")


def spectra(n: int) -> dict[str, Tensor]:
    """Eigenvalues in [0, 1] with 1 among them."""
    generator = torch.Generator().manual_seed(n)
    small, ones = torch.full((n,), 1e-4, dtype=torch.float64), torch.ones(n, dtype=torch.float64)
    noise = 1e-6 * torch.randn(n, generator=generator, dtype=torch.float64)
    # Hoel and Levine's: weights on the extrema of T_2, in proportion to the interpolation's at the bound.
    x = looseness(n) / 1.01
    weights = torch.tensor([(2 * x - 1) * (x - 1), 4 * x * (x - 1), x * (2 * x - 1)])
    counts = (weights / weights.sum() * n).round().long()
    furthest = torch.cat([0.0 * ones[: counts[0]], 0.5 * ones[: counts[1]], ones[: n - counts[0] - counts[1]]])
    return {
        "identity": ones,
        "nearly the identity": ones + noise - noise.max(),
        "one isolated at the top": torch.cat([small[1:], ones[:1]]),
        "two at the top": torch.cat([small[2:], 0.9 * ones[:1], ones[:1]]),
        "a cluster at the top": torch.cat([small[: n // 2], ones[n // 2 :]]),
        "one at the bottom": torch.cat([small[:1], ones[1:]]),
        "three clusters": torch.cat([small[: n // 3], 0.3 * ones[: n // 3], ones[2 * (n // 3) :]]),
        "flat": torch.linspace(0.0, 1.0, n, dtype=torch.float64),
        "log-spaced": torch.logspace(-4, 0, n, dtype=torch.float64),
        "power law": torch.arange(1.0, n + 1.0, dtype=torch.float64) ** -1.3,
        "furthest off": furthest,
    }


def bound_of(values: Tensor, noise: float = 0.0) -> float:
    """From moments that are off by `noise` of themselves."""
    mean = values.mean()
    x, n = values / mean - 1.0, len(values)
    m1, m2, m3, m4 = ((x**k).sum() for k in (1, 2, 3, 4))
    highest = ((1.0 + x) ** 4).sum() ** 0.25 - 1.0
    moments = Moments(n=n, m1=m1, m2=m2, m3=m3 * (1.0 - noise), m4=m4 * (1.0 - 2.0 * noise))
    return float(mean * (1.0 + largest(moments, highest, regularisation(n))))


@pytest.mark.parametrize("n", [12, 64, 512, 4096])
def test_exact_moments_bound_every_spectrum(n: int) -> None:
    for name, values in spectra(n).items():
        assert 1.0 - 1e-9 <= bound_of(values) <= looseness(n), name
    assert bound_of(spectra(n)["furthest off"]) > 0.95 * looseness(n)
    assert bound_of(spectra(n)["one isolated at the top"]) < 1.001
    assert bound_of(spectra(n)["a cluster at the top"]) < 1.15


def test_sums_that_are_cut_off_change_little() -> None:
    """4e-9 of a sum per column, which the slack on the result covers many times."""
    for n in (64, 512, 2048):
        for name, values in spectra(n).items():
            assert bound_of(values, 4e-9 * n) >= 1.0 - 3e-5, (n, name)


def test_random_clusters() -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(300):
        n, clusters = (int(torch.randint(2, high, (1,), generator=generator)) for high in (300, 7))
        values = 10.0 ** (-4.0 * torch.rand(clusters, generator=generator, dtype=torch.float64))
        chosen = torch.randint(0, clusters, (n,), generator=generator)
        values = values[torch.where(torch.rand(n, generator=generator) < 0.05, chosen, 0)]
        assert bound_of(values) >= (1.0 - 1e-9) * float(values.max())


def test_looseness_is_that_of_the_extrapolating_design() -> None:
    assert looseness(1) == pytest.approx(1.01)
    x = looseness(1024) / 1.01
    assert math.cosh(2.0 * math.acosh(2.0 * x - 1.0)) ** 2 == pytest.approx(1024.0)
    assert looseness(1024) < 1024**0.25 / 2.2


@pytest.mark.parametrize(("precision", "dtype"), [("fp16", torch.float16), ("bf16", torch.bfloat16)])
@pytest.mark.parametrize("n", [64, 192])
def test_the_scaling_bounds_matrices_in_words(n: int, precision: str, dtype: torch.dtype) -> None:
    ops = make_ops(f"{precision}_emulated", CPU)
    Q, _ = torch.linalg.qr(torch.randn(n, n, generator=torch.Generator().manual_seed(1), dtype=torch.float64))
    for name, values in spectra(n).items():
        A = (Q * values) @ Q.mT
        for posed in (0.5 * (A + A.mT), values.diag()):
            top = float(torch.linalg.eigvalsh(posed)[-1])
            bound = float(get_scaling("square").function(posed.float(), ops))
            slack = 1.0 + 12.0 * ops.precision.unit_roundoff
            assert top <= bound <= slack * looseness(n) * top, (name, dtype)
