"""Diagonal scalings are powers of two, undone exactly, and even out what they say."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from iroot.equilibration import EQUILIBRATIONS, get_equilibration
from iroot.errors import UnknownNameError

NAMES = sorted(EQUILIBRATIONS)


def wild(n: int, seed: int, spread: float, dtype: torch.dtype = torch.float64) -> Tensor:
    """A Gaussian matrix, rows and columns rescaled over some decades."""
    generator = torch.Generator().manual_seed(seed)
    rows, columns = (10.0 ** (spread * torch.randn(n, generator=generator, dtype=torch.float64)) for _ in range(2))
    A = torch.randn(n, n, generator=generator, dtype=torch.float64) * rows[:, None] * columns
    return A.to(dtype)


@settings(max_examples=30)
@given(
    n=st.integers(1, 24), seed=st.integers(0, 500), spread=st.floats(0.0, 3.0), name=st.sampled_from(NAMES),
    dtype=st.sampled_from((torch.float32, torch.float64)),
)  # fmt: skip
def test_scaling_and_undoing_round_nothing(n: int, seed: int, spread: float, name: str, dtype: torch.dtype) -> None:
    A = wild(n, seed, spread, dtype)
    kept = A.clone()
    scaled = get_equilibration(name)(A)
    assert torch.equal(A, kept)
    assert torch.equal(scaled.C, A * scaled.rows * scaled.columns.mT)
    assert torch.equal(scaled.C / scaled.rows / scaled.columns.mT, A)
    for scales in (scaled.rows, scaled.columns):
        assert scales.shape == (n, 1)
        assert torch.equal(torch.frexp(scales).mantissa, torch.full_like(scales, 0.5)), "a power of two"


@settings(max_examples=30)
@given(n=st.integers(1, 24), seed=st.integers(0, 500), spread=st.floats(0.0, 3.0))
def test_row_norm_leaves_norms_within_a_factor_of_two(n: int, seed: int, spread: float) -> None:
    norms = torch.linalg.vector_norm(get_equilibration("row_norm")(wild(n, seed, spread)).C, dim=-1)
    assert float(norms.max() / norms.min()) <= 2.0 * (1.0 + 1e-12)
    assert 0.5 <= float(norms.max()) <= 2.0 * (1.0 + 1e-12)


@settings(max_examples=30)
@given(n=st.integers(2, 24), seed=st.integers(0, 500), spread=st.floats(0.0, 2.0))
def test_ruiz_brings_rows_and_columns_together(n: int, seed: int, spread: float) -> None:
    size = get_equilibration("ruiz")(wild(n, seed, spread)).C.abs()
    largest = torch.cat([size.amax(0), size.amax(1)])
    assert float(largest.max() / largest.min()) <= 8.0


@settings(max_examples=20)
@given(n=st.integers(1, 16), seed=st.integers(0, 100), power=st.integers(-30, 30), name=st.sampled_from(NAMES))
def test_the_scaled_matrix_does_not_depend_on_a_common_factor(n: int, seed: int, power: int, name: str) -> None:
    A = wild(n, seed, 1.0)
    # Ruiz takes square roots: an even power of two, so that nothing rounds.
    first, second = get_equilibration(name)(A), get_equilibration(name)(A * 4.0**power)
    assert torch.equal(second.C, first.C * (4.0**power if name == "none" else 1.0))


@pytest.mark.parametrize("name", NAMES)
def test_rows_that_are_alike_and_empty_rows_are_left_alone(name: str) -> None:
    generator = torch.Generator().manual_seed(3)
    Q = torch.linalg.qr(torch.randn(32, 32, generator=generator, dtype=torch.float64)).Q
    # The largest entries of a random orthogonal matrix differ by more than its norms, which are all 1.
    assert float(torch.linalg.cond(get_equilibration(name)(Q).C)) <= (4.0 if name == "ruiz" else 1.0 + 1e-12)
    Q[3], Q[:, 5] = 0.0, 0.0
    scaled = get_equilibration(name)(torch.stack([Q, torch.zeros_like(Q)]))
    assert bool(scaled.C.isfinite().all())
    assert float(scaled.C[0, 3].abs().max()) == 0.0
    assert torch.equal(scaled.C[1], torch.zeros_like(Q))


def test_row_scaling_restores_what_row_scales_spoiled() -> None:
    generator = torch.Generator().manual_seed(1)
    Q = torch.linalg.qr(torch.randn(24, 24, generator=generator, dtype=torch.float64)).Q
    A = Q * 10.0 ** torch.linspace(-4, 4, 24, dtype=torch.float64)[:, None]
    assert float(torch.linalg.cond(A)) > 1e7
    for name in ("row_norm", "ruiz"):
        assert float(torch.linalg.cond(get_equilibration(name)(A).C)) < (2.1 if name == "row_norm" else 50.0)


def test_unknown_scaling_names_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'ruiz'"):
        get_equilibration("riuz")
