"""Scalars for G^T G: bounds bound, estimates stay below, and both follow the scale of G."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from iroot.errors import UnknownNameError
from iroot.gram_scaling import GRAM_SCALINGS, get_gram_scaling
from iroot.ops import make_ops

CPU = torch.device("cpu")
BOUNDS = sorted(name for name, scaling in GRAM_SCALINGS.items() if scaling.upper_bound)
ESTIMATES = sorted(name for name, scaling in GRAM_SCALINGS.items() if scaling.headroom > 0.0)


def rectangular(m: int, n: int, seed: int, spread: float = 0.0) -> Tensor:
    """Gaussian entries, rows and columns rescaled over some decades."""
    generator = torch.Generator().manual_seed(seed)
    G = torch.randn(m, n, generator=generator, dtype=torch.float64)
    rows = 10.0 ** (spread * torch.rand(m, 1, generator=generator, dtype=torch.float64))
    return G * rows * 10.0 ** (spread * torch.rand(n, generator=generator, dtype=torch.float64))


def largest(G: Tensor) -> float:
    return float(torch.linalg.svdvals(G.double())[0] ** 2)


@settings(max_examples=40)
@given(
    m=st.integers(1, 40), n=st.integers(1, 40), seed=st.integers(0, 1000), spread=st.floats(0.0, 4.0),
    power=st.integers(-40, 30), dtype=st.sampled_from((torch.float32, torch.float64)),
)  # fmt: skip
def test_bounds_hold_and_estimates_stay_below(
    m: int, n: int, seed: int, spread: float, power: int, dtype: torch.dtype
) -> None:
    G = (rectangular(m, n, seed, spread) * 2.0**power).to(dtype)
    truth, ops = largest(G), make_ops("fp32", CPU)
    for name in BOUNDS:
        scaling = get_gram_scaling(name)
        value = float(scaling.function(G, ops))
        assert truth * (1.0 - 1e-6) <= value <= truth * scaling.looseness(max(m, n)) * 1.001, name
    for name in ESTIMATES:
        assert 0.5 * truth <= float(get_gram_scaling(name).function(G, ops)) <= truth * (1.0 + 1e-5), name
    lanczos = get_gram_scaling("lanczos")
    assert float(lanczos.function(G, ops)) * (1.0 + lanczos.headroom) >= truth


@settings(max_examples=15)
@given(m=st.integers(1, 30), n=st.integers(1, 30), seed=st.integers(0, 100), power=st.integers(-30, 30))
def test_every_scalar_follows_the_square_of_the_scale_and_the_transpose(m: int, n: int, seed: int, power: int) -> None:
    G, ops = rectangular(m, n, seed), make_ops("fp64", CPU)
    for name in set(GRAM_SCALINGS) - {"none"}:
        value = get_gram_scaling(name).function(G, ops)
        torch.testing.assert_close(get_gram_scaling(name).function(G * 2.0**power, ops), value * 4.0**power)
    rows, columns = (get_gram_scaling(name).function for name in ("row_norm", "col_norm"))
    torch.testing.assert_close(rows(G, ops), columns(G.mT, ops))


def test_closed_forms_and_empty_columns() -> None:
    G = torch.tensor([[3.0, 0.0, 0.0], [4.0, 0.0, 2.0]], dtype=torch.float64)
    ops = make_ops("fp64", CPU)
    assert float(get_gram_scaling("none").function(G, ops)) == 1.0
    assert float(get_gram_scaling("frobenius").function(G, ops)) == pytest.approx(29.0)
    # H = [[0.6, 0, 0], [0.8, 0, 1]]: ||H||_1 ||H||_inf = 1.4 * 1.8, below n = 3; the largest column has norm 5.
    assert float(get_gram_scaling("col_norm").function(G, ops)) == pytest.approx(25.0 * 1.4 * 1.8)
    for name in GRAM_SCALINGS:
        assert float(get_gram_scaling(name).function(0.0 * G, ops)) == (1.0 if name == "none" else 0.0)


@pytest.mark.parametrize("name", sorted(GRAM_SCALINGS))
def test_one_scalar_per_matrix_in_the_input_dtype(name: str) -> None:
    stack = torch.stack([rectangular(7, 12, seed) * 10.0**seed for seed in range(3)])[None].float()
    before, ops = stack.clone(), make_ops("fp32", CPU)
    values = get_gram_scaling(name).function(stack, ops)
    assert (values.shape, values.dtype) == ((1, 3, 1, 1), torch.float32)
    assert torch.equal(stack, before)
    alone = torch.stack([get_gram_scaling(name).function(stack[0, index], ops) for index in range(3)])
    torch.testing.assert_close(alone, values[0], rtol=1e-5, atol=0.0)


def test_unknown_scaling_names_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'col_norm'"):
        get_gram_scaling("colnorm")
