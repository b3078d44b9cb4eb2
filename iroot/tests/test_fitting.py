"""Scales by powers of two: exact, for any size of the entries, and undone in the value of every function."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import iroot
from iroot import Result, Termination, Workspace
from iroot.fitting import SAFE_EPS, eps_scale, fitted
from iroot.tests.test_api import distance, exact, posed

SIZES = (1e-290, 1e-200, 1e-60, 1.0, 1e60, 1e200, 1e290)
"""float32 ends at 1e-45 and 3e38."""


@pytest.mark.parametrize("size", SIZES)
def test_the_scale_is_a_power_of_two_for_each_matrix(size: float) -> None:
    A = size * torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    A[1] *= 1e-5
    found = fitted(A)
    assert (found.A.dtype, found.scale.shape) == (torch.float32, (3, 1, 1))
    assert torch.equal(torch.frexp(found.scale).mantissa, torch.full_like(found.scale, 0.5))
    assert torch.equal(found.A, (A * found.scale).float())
    largest = found.A.abs().amax((-2, -1))
    assert bool(((largest >= 1.0) & (largest <= 2.0)).all())


def test_zero_stays_zero_and_nan_stays_nan() -> None:
    A = torch.zeros(3, 2, 2, dtype=torch.float64)
    A[1, 0, 0], A[2, 0, 0] = torch.nan, torch.inf
    found = fitted(A)
    assert torch.equal(found.A[0], torch.zeros(2, 2))
    assert not bool(found.A[1:].isfinite().all((-2, -1)).any())


@pytest.mark.parametrize("eps", [1e-300, 1e-60, 1e-25, 3e20, 1e60, 1e300])
def test_damping_is_brought_near_one(eps: float) -> None:
    scale = eps_scale(eps)
    assert 1.0 <= eps * scale * scale < 4.0
    assert scale == 2.0 ** round(torch.tensor(scale, dtype=torch.float64).log2().item())


def test_ordinary_damping_is_left_alone() -> None:
    assert [eps_scale(eps) for eps in (0.0, 1e-24, 1e-8, 1.0, 1e20)] == [1.0] * 5
    assert SAFE_EPS == (1e-24, 1e20)


M = posed(12, 30.0)
COLUMNS = torch.randn(12, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
G = torch.randn(16, 12, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
GRAM = G.mT @ G

CALLS: dict[str, tuple[Callable[[float], Result], Callable[[float], Tensor]]] = {
    "root, measured bound": (
        lambda s: iroot.inverse_root(M * s, 3, eps=0.1 * s), lambda s: exact(M, 3, 0.1) / s ** (1 / 3)
    ),
    "root, relative damping": (
        lambda s: iroot.inverse_root(M * s, 3, eps_relative=0.1),
        lambda s: exact(M, 3, 0.1 * float(M.norm())) / s ** (1 / 3),
    ),
    "root, given bound": (lambda s: iroot.inverse_root(M * s, 2, lower=0.03), lambda s: exact(M, 2) / s**0.5),
    "apply": (lambda s: iroot.solve_spd(M * s, COLUMNS, 3, lower=0.03), lambda s: exact(M, 3) @ COLUMNS / s ** (1 / 3)),
    "apply to large and small columns": (
        lambda s: iroot.solve_spd(M, COLUMNS * s, 2, lower=0.03), lambda s: exact(M, 2) @ COLUMNS * s
    ),
    "solve": (lambda s: iroot.solve_nonspd(M * s, COLUMNS * s), lambda s: exact(M, 1) @ COLUMNS),
    "polar": (lambda s: iroot.polar(M * s, lower=0.03), lambda s: torch.eye(12, dtype=torch.float64)),
}  # fmt: skip


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", CALLS)
def test_float64_beyond_the_range_of_float32_is_served_in_float32(name: str, size: float) -> None:
    call, expected = CALLS[name]
    result = call(size)
    assert result.precision == "fp32"
    assert result.bounds.lower <= 0.3
    scale = expected(size).abs().max()  # squares in a norm would leave float64's range
    assert distance(result.value / scale, expected(size) / scale) <= result.rtol
    assert result.termination is Termination.CONVERGED


@pytest.mark.parametrize("size", [1e-120, 1e-60, 1e60, 1e120])
def test_a_gram_matrix_that_is_not_damped_needs_its_squares_in_float64_alone(size: float) -> None:
    result = iroot.solve_gram_spd(G * size, COLUMNS, 2, lower=0.01)
    assert distance(result.value * size, exact(GRAM, 2) @ COLUMNS) <= result.rtol
    assert (result.precision, result.termination) == ("fp32", Termination.CONVERGED)


@pytest.mark.parametrize("method", ["dense", "dual", "chebyshev"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("size", [1e-30, 1e-15, 1e15, 1e30])
def test_squares_of_a_damped_gram_matrix_stay_in_range(size: float, dtype: torch.dtype, method: str) -> None:
    eps = 0.5 * size * size
    result = iroot.solve_gram_spd((G * size).to(dtype), COLUMNS.to(dtype), 2, eps=eps, method=method, precision="fp32")
    expected = exact(GRAM, 2, 0.5) @ COLUMNS / size
    assert distance(result.value / expected.abs().max(), expected / expected.abs().max()) <= result.rtol
    assert result.termination is Termination.CONVERGED


@pytest.mark.parametrize("p", [1, 2])
@pytest.mark.parametrize("size", [1e-60, 1e60])
def test_a_kept_factor_of_float64_is_scaled_too(size: float, p: int) -> None:
    workspace, A = Workspace(), M * size
    for columns in (COLUMNS, COLUMNS * size):
        result = iroot.solve_spd(A, columns, p, lower=0.03, reuse=100, workspace=workspace)
        assert (result.precision, result.method) == ("fp32", "cholesky" if p == 1 else "coupled_pe")
        expected = exact(M, p) @ columns * size ** (-1 / p)
        assert distance(result.value / expected.abs().max(), expected / expected.abs().max()) <= result.rtol


@pytest.mark.parametrize(("p", "size"), [(1, 1e-15), (1, 1e15), (2, 1e-25), (2, 1e25)])
def test_a_kept_factor_of_a_gram_matrix_holds_its_squares(p: int, size: float) -> None:
    for wide in (G, G.mT):
        H, columns = (wide * size).float(), torch.ones(wide.shape[1], 2)
        result = iroot.solve_gram_spd(H, columns, p, eps=size * size, reuse=100, workspace=Workspace())
        expected = exact(wide.mT @ wide, p, 1.0) @ columns.double()
        assert distance(result.value.double() * size ** (2 / p), expected) <= result.rtol
        assert (result.precision, result.termination) == ("fp64", Termination.CONVERGED)


RECORDED: dict[str, Callable[[float, Workspace | None], Result]] = {
    "root": lambda s, w: iroot.inverse_root(M * s, 3, lower=0.03, workspace=w),
    "apply": lambda s, w: iroot.solve_spd(M * s, COLUMNS, 3, lower=0.03, workspace=w),
    "Gram": lambda s, w: iroot.solve_gram_spd(G, COLUMNS * s, 2, eps=1e-30, lower=0.01, workspace=w),
}


@pytest.mark.parametrize("name", RECORDED)
def test_scaled_calls_are_recorded_and_follow_their_operands(name: str) -> None:
    workspace = Workspace()
    for size in (1.0, 1e60, 1e-60):
        replayed, alone = RECORDED[name](size, workspace).value.clone(), RECORDED[name](size, None).value
        torch.testing.assert_close(replayed, alone, rtol=1e-9, atol=0.0)
    assert [entry.recording is not None for entry in workspace._entries.values()] == [True]
