"""Spectral scalars: bounds bound, looseness is as stated, batches and formats are kept."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from iroot.errors import UnknownNameError
from iroot.ops import make_ops
from iroot.registry import Operands, get_method
from iroot.scaling import SCALINGS, get_scaling

CPU = torch.device("cpu")
BOUNDS = sorted(name for name, scaling in SCALINGS.items() if scaling.upper_bound)
ESTIMATES = sorted(name for name, scaling in SCALINGS.items() if scaling.headroom > 0.0)


def positive_definite(n: int, decay: float, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    G = torch.randn(n, n, generator=generator, dtype=torch.float64)
    weights = torch.logspace(0, -decay, n, dtype=torch.float64)
    A: Tensor = (G * weights) @ G.mT + 1e-6 * torch.eye(n, dtype=torch.float64)
    return A


@settings(max_examples=40)
@given(
    n=st.integers(1, 40),
    decay=st.floats(0.0, 6.0),
    seed=st.integers(0, 1000),
    power=st.integers(-60, 60),
    precision=st.sampled_from(["fp64", "fp32", "bf16_emulated", "fp16_emulated"]),
)
def test_bounds_hold_and_are_as_tight_as_stated(n: int, decay: float, seed: int, power: int, precision: str) -> None:
    A = positive_definite(n, decay, seed) * 2.0**power
    largest = float(torch.linalg.eigvalsh(A)[-1])
    posed = A if precision == "fp64" else A.float()
    for name in BOUNDS:
        scaling = get_scaling(name)
        value = float(scaling.function(posed, make_ops(precision, CPU)))
        assert value >= largest * (1.0 - 1e-6)
        # 1.03: the allowance for rounding that the value itself includes in bfloat16, and that rounding.
        assert value <= largest * scaling.looseness(n) * 1.03


@pytest.mark.parametrize("n", [64, 256])
@pytest.mark.parametrize("precision", ["fp32", "fp16_emulated", "bf16_emulated"])
def test_square_is_within_twice_on_wishart(n: int, precision: str) -> None:
    G = torch.randn(n, n, generator=torch.Generator().manual_seed(n))
    A = G @ G.mT / n
    ratio = float(get_scaling("square").function(A, make_ops(precision, CPU)) / torch.linalg.eigvalsh(A)[-1])
    frobenius = float(get_scaling("frobenius").function(A, make_ops(precision, CPU)) / torch.linalg.eigvalsh(A)[-1])
    assert 1.0 < ratio < 2.1
    assert frobenius > 1.5 * ratio


@settings(max_examples=30)
@given(n=st.integers(1, 80), decay=st.floats(0.0, 6.0), seed=st.integers(0, 1000), rank=st.integers(1, 80))
def test_the_error_of_estimates_is_one_sided_and_that_of_lanczos_within_its_headroom(
    n: int, decay: float, seed: int, rank: int
) -> None:
    """Also for a singular A, and where Lanczos exhausts the space. An unlucky start costs the power method more."""
    A = positive_definite(n, decay, seed)
    values, V = torch.linalg.eigh(A)
    values[: max(0, n - rank)] = 0.0
    A = (V * values) @ V.mT
    for name in ESTIMATES:
        scaling = get_scaling(name)
        ratio = float(scaling.function(A, make_ops("fp64", CPU)) / values[-1])
        assert (0.6 if name == "power_iteration" else 1.0 / (1.0 + scaling.headroom)) <= ratio <= 1.0 + 1e-12


@pytest.mark.parametrize("name", ESTIMATES)
@pytest.mark.parametrize(("value", "n"), [(0.0, 8), (1.0, 1), (3.0, 5), (2.0, 64)])
def test_estimates_of_a_multiple_of_the_identity(name: str, value: float, n: int) -> None:
    A = value * torch.eye(n)
    assert float(get_scaling(name).function(A, make_ops("fp32", CPU))) == pytest.approx(value, rel=6e-3)


def test_the_closest_estimate_for_its_products_is_lanczos() -> None:
    G = torch.randn(300, 300, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    A = G @ G.mT
    ratio = {name: float(get_scaling(name).function(A, make_ops("fp64", CPU)) / torch.linalg.eigvalsh(A)[-1])
             for name in ESTIMATES}  # fmt: skip
    assert ratio["power_iteration"] < ratio["lanczos"]
    assert ratio["lanczos"] > 0.95


@settings(max_examples=20)
@given(n=st.integers(1, 30), seed=st.integers(0, 1000), power=st.integers(-40, 40))
def test_every_scalar_follows_the_scale_of_the_matrix(n: int, seed: int, power: int) -> None:
    A = positive_definite(n, 2.0, seed).float()
    ops = make_ops("fp32", CPU)
    for name in set(SCALINGS) - {"none"}:
        value = get_scaling(name).function(A, ops)
        torch.testing.assert_close(
            get_scaling(name).function(A * 2.0**power, ops), value * 2.0**power, rtol=1e-5, atol=0.0
        )


@settings(max_examples=20)
@given(n=st.integers(1, 30), seed=st.integers(0, 1000), spread=st.integers(0, 20))
def test_bounds_of_rescaled_matrices_hold_for_wild_diagonals_and_empty_rows(n: int, seed: int, spread: int) -> None:
    d = torch.logspace(0, -spread, n, dtype=torch.float64)[
        torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    ]
    A = positive_definite(n, 1.0, seed) * d[:, None] * d
    A[n // 2], A[:, n // 2] = 0.0, 0.0
    largest = float(torch.linalg.eigvalsh(A)[-1])
    ops = make_ops("fp64", CPU)
    for name in ("jacobi", "ruiz", "aol"):
        assert float(get_scaling(name).function(A, ops)) >= largest * (1.0 - 1e-12)
    # The weights of one more product: never worse than the plain row sums.
    assert float(get_scaling("aol").function(A, ops)) <= float(get_scaling("gershgorin").function(A, ops)) * (1 + 1e-12)


@pytest.mark.parametrize("name", sorted(SCALINGS))
def test_one_scalar_per_matrix_in_the_input_dtype(name: str) -> None:
    stack = torch.stack([positive_definite(12, 1.0, seed) * 10.0**seed for seed in range(3)])[None].float()
    before = stack.clone()
    ops = make_ops("fp32", CPU)
    values = get_scaling(name).function(stack, ops)
    assert (values.shape, values.dtype) == ((1, 3, 1, 1), torch.float32)
    assert torch.equal(stack, before)
    for index in range(3):
        alone = get_scaling(name).function(stack[0, index], ops)
        torch.testing.assert_close(alone, values[0, index], rtol=1e-5, atol=0.0)


def test_closed_forms() -> None:
    A = torch.tensor([[2.0, -1.0], [-1.0, 3.0]], dtype=torch.float64)
    ops = make_ops("fp64", CPU)
    expected = {"frobenius": 15.0**0.5, "trace": 5.0, "gershgorin": 4.0, "none": 1.0}
    # C = [[1, c], [c, 1]], c = -1 / 6^(1/2): row sum 1 + |c|, Frobenius norm (2 + 2 c^2)^(1/2).
    expected["jacobi"] = expected["ruiz"] = 3.0 * min(1.0 + 6.0**-0.5, (2.0 + 2.0 / 6.0) ** 0.5)
    # A bound of its own for every row, the smaller of both, would not be one of the matrix: 0.9998 here.
    B = positive_definite(4, 3.0, 299)
    assert float(get_scaling("aol").function(B, ops)) >= float(torch.linalg.eigvalsh(B)[-1])
    # Row sums 3 and 4: (2 * 3 + 1 * 4) / 3 and (1 * 3 + 3 * 4) / 4.
    expected["aol"] = 15.0 / 4.0
    squared = A @ A
    expected["square"] = min(float(squared.norm()), float(squared.abs().sum(1).max())) ** 0.5
    for name, value in expected.items():
        assert float(get_scaling(name).function(A, ops)) == pytest.approx(value, rel=1e-12)


def test_unknown_scaling_names_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'gershgorin'"):
        get_scaling("gershgorn")


@pytest.mark.parametrize("p", [1, 4])
@pytest.mark.parametrize("name", sorted(SCALINGS))
def test_the_root_is_that_of_the_posed_matrix_under_every_scaling(name: str, p: int) -> None:
    """A scaling by anything but a scalar would show: the rows of A differ by a factor of 30."""
    d = torch.logspace(0, -1.5, 20, dtype=torch.float64)
    A = positive_definite(20, 0.5, 7) * d[:, None] * d
    values, V = torch.linalg.eigh(A)
    # `none` vouches for lambda_max = 1.
    A, values = A / values[-1], values / values[-1]
    spec = get_method("inverse_root", "coupled_pe")
    options = spec.make_options({"scaling": name, "target": 1e-9})
    X = spec.function(Operands(A=A, p=p, lower=0.99 * float(values[0])), make_ops("fp64", CPU), options)
    exact = (V * values ** (-1.0 / p)) @ V.mT
    assert float(torch.linalg.matrix_norm(X - exact) / torch.linalg.matrix_norm(exact)) < 1e-8
