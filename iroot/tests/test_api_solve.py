"""solve_nonspd against float64, and every way a call can end."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import iroot
from iroot import InvalidInputError, Termination, Workspace


def posed(n: int, kappa: float, *, seed: int = 0, batch: tuple[int, ...] = ()) -> Tensor:
    """A with singular values 5 ... 5 / kappa, in float64."""
    generator = torch.Generator().manual_seed(seed)
    U, V = (torch.linalg.qr(torch.randn(*batch, n, n, generator=generator, dtype=torch.float64)).Q for _ in range(2))
    A: Tensor = (U * (5.0 * torch.logspace(0, -math.log10(kappa), n, dtype=torch.float64))) @ V.mT
    return A


def columns(n: int, k: int, *, batch: tuple[int, ...] = ()) -> Tensor:
    return torch.randn(*batch, n, k, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


def distance(Z: Tensor, A: Tensor, B: Tensor) -> float:
    truth = torch.linalg.solve(A.double(), B.double())
    return float((torch.linalg.matrix_norm(Z.double() - truth) / torch.linalg.matrix_norm(truth)).max())


@settings(max_examples=20)
@given(
    n=st.integers(1, 24), k=st.integers(1, 5), exponent=st.floats(0.0, 6.0), seed=st.integers(0, 5),
    rtol=st.sampled_from((1e-2, 3e-3, 1e-6, 1e-9)), method=st.sampled_from(("auto", "coupled_pe", "lu")),
)  # fmt: skip
def test_the_error_is_within_rtol_by_whatever_way(
    n: int, k: int, exponent: float, seed: int, rtol: float, method: str
) -> None:
    A, B = posed(n, 10.0**exponent, seed=seed), columns(n, k)
    result = iroot.solve_nonspd(A, B, rtol=rtol, method=method, lower=0.99 * 10.0**-exponent)
    error = distance(result.value, A, B)
    assert error <= rtol
    assert result.estimated_error == pytest.approx(error, rel=1e-2, abs=1e-9)
    assert result.termination is (Termination.FELL_BACK if result.fell_back else Termination.CONVERGED)


def test_sixteen_bit_products_are_refined_to_float32() -> None:
    A, B = posed(48, 20.0).float(), columns(48, 3).float()
    result = iroot.solve_nonspd(A, B, rtol=1e-3, method="coupled_pe", precision="fp16_emulated", lower=0.049)
    assert (result.fell_back, result.termination) == (False, Termination.CONVERGED)
    assert result.steps is not None
    assert result.steps > 2
    assert distance(result.value, A, B) < 1e-5


@pytest.mark.parametrize(("lower", "precision"), [(0.5, "fp32"), (1e-3, "fp16_emulated")])
def test_a_fallback_is_said(lower: float, precision: str) -> None:
    """A bound that does not hold is found by the residual; one that leaves no contraction beforehand."""
    A, B = posed(32, 300.0).float(), columns(32, 3).float()
    result = iroot.solve_nonspd(A, B, method="coupled_pe", precision=precision, lower=lower)
    assert (result.method, result.fell_back) == ("coupled_pe", True)
    assert result.termination is Termination.FELL_BACK
    assert distance(result.value, A, B) < 1e-4


def test_what_no_method_serves_is_above_rtol_or_singular() -> None:
    A, B = posed(20, 1e9).float(), columns(20, 2).float()
    unserved = iroot.solve_nonspd(A, B, precision="fp32", lower=1e-9)
    assert unserved.termination is Termination.ABOVE_RTOL
    assert unserved.estimated_error > 3e-3
    singular = posed(20, 10.0)
    singular[:, 3] = singular[:, 7]
    for method in ("auto", "lu", "coupled_pe"):
        assert iroot.solve_nonspd(singular, B.double(), method=method).termination is Termination.SINGULAR
        assert iroot.solve_nonspd(0.0 * singular, B.double(), method=method).termination is Termination.SINGULAR
    A[0, 0] = torch.nan
    assert iroot.solve_nonspd(A, B).termination is Termination.NOT_FINITE


@pytest.mark.parametrize("method", ["auto", "coupled_pe"])
@pytest.mark.parametrize("scaled", ["rows", "columns"])
def test_rows_or_columns_of_very_unequal_size_are_not_singular(scaled: str, method: str) -> None:
    """Powers of two scale exactly, so the solution is known: that of the evenly scaled system, scaled."""
    M, B = posed(20, 10.0), columns(20, 2)
    scales = torch.exp2(torch.linspace(-60, 60, 20, dtype=torch.float64).round())[:, None]
    even = torch.linalg.solve(M, B)
    if scaled == "rows":
        result, expected = iroot.solve_nonspd(scales * M, scales * B, method=method), even
    else:
        result, expected = iroot.solve_nonspd(M * scales.mT, B, method=method), even / scales
    assert float(((result.value - expected).norm(dim=-2) / expected.norm(dim=-2)).max()) <= 3e-3
    assert result.termination in (Termination.CONVERGED, Termination.FELL_BACK)
    assert result.estimated_error <= 3e-3


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("method", ["auto", "coupled_pe"])
def test_dtype_layout_and_input_are_kept(dtype: torch.dtype, method: str) -> None:
    A, B = posed(16, 8.0, batch=(2,)).mT.to(dtype), columns(16, 3, batch=(2,)).to(dtype)
    before = A.clone(), B.clone()
    result = iroot.solve_nonspd(A, B, method=method, lower=0.1)
    assert torch.equal(A, before[0])
    assert torch.equal(B, before[1])
    assert (result.value.dtype, result.value.shape) == (dtype, (2, 16, 3))
    assert distance(result.value, A, B) <= max(1e-4, 2 * torch.finfo(dtype).eps)


def test_empty_zero_columns_and_workspace() -> None:
    assert iroot.solve_nonspd(torch.zeros(0, 3, 3), torch.zeros(0, 3, 2)).value.shape == (0, 3, 2)
    assert iroot.solve_nonspd(torch.zeros(0, 0), torch.zeros(0, 2)).value.shape == (0, 2)
    A, workspace = posed(10, 5.0), Workspace()
    assert torch.equal(iroot.solve_nonspd(A, torch.zeros(10, 2, dtype=torch.float64)).value, 0.0 * A[:, :2])
    for seed in range(3):
        A, B = posed(10, 5.0, seed=seed), columns(10, 2)
        for method in ("auto", "coupled_pe"):
            result = iroot.solve_nonspd(A, B, method=method, lower=0.19, workspace=workspace)
            assert distance(result.value, A, B) < 1e-4
    assert len(workspace) == 2


def test_wrong_calls_name_the_remedy() -> None:
    A, B = posed(6, 10.0), columns(6, 2)
    cases: list[tuple[str, dict[str, object]]] = [
        (r"A must be square in its last two dimensions, got \(5, 6\); least squares are not served", {"A": A[:5]}),
        (r"B must be \(..., n, k\)", {"B": B[:4]}),
        (r"A and B must have one dtype", {"B": B.float()}),
        (r"A and B must be on one device, got cpu and meta", {"B": B.to("meta")}),
        (r"A and B must be finite", {"A": A * torch.inf, "check_finite": True}),
        (r"A must not require gradients", {"A": A.clone().requires_grad_()}),
        (r"rtol must be in", {"rtol": 0.9}),
    ]
    for message, changes in cases:
        arguments: dict[str, object] = {"A": A, "B": B} | changes
        with pytest.raises(InvalidInputError, match=message):
            iroot.solve_nonspd(**arguments)  # type: ignore[arg-type]


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["bf16", "fp16", "tf32", "fp32"])
def test_tensor_core_products_are_refined_on_a_gpu(precision: str) -> None:
    A, B = posed(512, 8.0).float().cuda(), columns(512, 16).float().cuda()
    result = iroot.solve_nonspd(A, B, rtol=1e-2, method="coupled_pe", precision=precision, lower=0.12)
    assert not result.fell_back
    assert distance(result.value.cpu(), A.cpu(), B.cpu()) < (1e-3 if precision == "bf16" else 1e-4)
    hard = posed(512, 1e4).float().cuda()
    fallen = iroot.solve_nonspd(hard, B, rtol=1e-2, method="coupled_pe", precision=precision, lower=0.99e-4)
    assert fallen.termination is Termination.FELL_BACK
