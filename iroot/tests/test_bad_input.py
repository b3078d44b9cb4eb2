"""What callers get wrong with values, devices, layouts and modes; wrong arguments are in `test_validation.py`."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import iroot
from iroot import InvalidInputError, Result, Termination, UnsupportedError, Workspace
from iroot.tests.test_api import distance, exact, host_reads, orthonormal, posed

A = torch.eye(4) * 2.0
B = torch.ones(4, 2)
METHODS = [
    ("coupled_pe", "fp32"), ("coupled_pe", "fp64"), ("coupled_pe", "fp16_emulated"), ("coupled_newton", "fp32"),
    ("graded_pe", "fp16_emulated"), ("graded_pe", "bf16_emulated"), ("newton_db", "fp32"), ("newton_schulz", "fp32"),
    ("uncoupled_pe", "fp32"), ("eigh", "fp32"), ("eigh", "fp64"),
]  # fmt: skip

CASES: dict[str, tuple[Callable[[], Any], str]] = {
    "negative eps_relative": (
        lambda: iroot.inverse_root(A, 2, eps_relative=-1e-6),
        "eps_relative must be finite and >= 0, got -1e-06; it is added to the diagonal of A",
    ),
    "NaN for eps": (
        lambda: iroot.solve_spd(A, B, 2, eps=math.nan),
        "eps must be finite and >= 0, got nan; it is added to the diagonal of A",
    ),
    "text for eps": (
        lambda: iroot.inverse_root(A, 2, eps="0.1"),  # type: ignore[arg-type]
        "eps must be finite and >= 0, got '0.1'; it is added to the diagonal of A",
    ),
    "negative p": (
        lambda: iroot.inverse_root(A, -2),
        "p must be an integer >= 1, got -2; A^(-1/p) is computed, so p=2 is the inverse square root",
    ),
    "an integer p as a float": (
        lambda: iroot.solve_spd(A, B, 2.0),  # type: ignore[arg-type]
        "p must be an integer >= 1, got 2.0; A^(-1/p) is computed, so p=2 is the inverse square root",
    ),
    "NaN for rtol": (
        lambda: iroot.polar(A, rtol=math.nan),
        "rtol must be in [1e-14, 0.5], got nan; None chooses it from the dtype",
    ),
    "lower of zero": (
        lambda: iroot.inverse_root(A, 2, lower=0.0),
        "lower must be in (0, 1], smallest over largest eigenvalue, got 0.0; None where it is unknown",
    ),
    "gradients of B": (
        lambda: iroot.solve_spd(A, B.clone().requires_grad_(), 2),
        "B must not require gradients, got requires_grad=True; there is no backward pass: pass B.detach()",
    ),
    "gradients of G": (
        lambda: iroot.polar(A.clone().requires_grad_()),
        "G must not require gradients, got requires_grad=True; there is no backward pass: pass G.detach()",
    ),
    "complex B": (
        lambda: iroot.solve_spd(A, B.to(torch.complex64), 2),
        "B must be real, got torch.complex64; complex matrices are not served",
    ),
    "complex G": (
        lambda: iroot.polar(A.to(torch.complex128)),
        "G must be real, got torch.complex128; complex matrices are not served",
    ),
    "B of integers": (
        lambda: iroot.solve_spd(A, B.int(), 2),
        "B must be float64, float32, bfloat16 or float16, got torch.int32; convert it, as with B.float()",
    ),
    "B a vector": (
        lambda: iroot.solve_spd(A, torch.ones(4), 2),
        "B must be (..., n, k) with the batch dimensions and the n of A, got A (4, 4) and B (4,); a single column is "
        "B[..., None], a shared B is expanded with B.expand(...)",
    ),
    "batch of B": (
        lambda: iroot.solve_spd(A.expand(3, 4, 4), B, 2),
        "B must be (..., n, k) with the batch dimensions and the n of A, got A (3, 4, 4) and B (4, 2); a single column "
        "is B[..., None], a shared B is expanded with B.expand(...)",
    ),
    "a batch that is not square": (
        lambda: iroot.solve_spd(torch.ones(2, 4, 5), torch.ones(2, 4, 1), 1),
        "A must be square in its last two dimensions, got (2, 4, 5); for the Gram matrix of G pass G @ G.mT",
    ),
    "G without a backend": (
        lambda: iroot.polar(A.to("meta")),
        "tensors must be on a CPU or a CUDA device, got meta; move them with .to()",
    ),
    "infinity in A when asked": (
        lambda: iroot.inverse_root(A + math.inf, 2, eps=0.1, check_finite=True),
        "A must be finite, got NaN or infinity; without check_finite=True the termination reports it",
    ),
    "zero matrix to solve without damping": (
        lambda: iroot.solve_spd(torch.zeros(4, 4), B, 1),
        "A must not be zero where it is not damped, got a zero matrix with eps=0; with eps > 0 the result is "
        "eps^(-1/p) I",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_message(name: str) -> None:
    call, message = CASES[name]
    with pytest.raises(InvalidInputError, match=f"^{re.escape(message)}$"):
        call()


@pytest.mark.parametrize(
    "call",
    [
        lambda: iroot.inverse_root(A, 2, method="graded_pe"),
        lambda: iroot.solve_spd(A, B, 2, method="hybrid"),
        lambda: iroot.polar(A, method="graded_gram"),
    ],
)
def test_a_method_of_16_bit_products_asks_for_an_emulated_precision_on_a_cpu(call: Callable[[], Result]) -> None:
    with pytest.raises(UnsupportedError, match=r"must be given a precision by name on cpu, got 'auto'.*fp16_emulated"):
        call()


def test_integers_of_other_libraries_are_roots() -> None:
    two: Any = np.int64(2)
    assert torch.equal(iroot.inverse_root(A, two, lower=0.5).value, iroot.inverse_root(A, 2, lower=0.5).value)


# --- not finite -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(("method", "precision"), METHODS)
def test_what_is_not_finite_is_reported_and_costs_no_synchronisation(method: str, precision: str, bad: float) -> None:
    M = posed(12, 10.0).float()
    M[3, 5] = M[5, 3] = bad
    with host_reads() as reads:
        result = iroot.inverse_root(M, 2, lower=0.05, method=method, precision=precision)
    assert reads == []
    assert result.termination is Termination.NOT_FINITE
    assert result.estimated_error == math.inf


def test_what_is_not_finite_in_b_is_reported() -> None:
    columns = torch.ones(12, 2)
    columns[4, 1] = math.nan
    for method in ("auto", "eigh", "chebyshev"):
        result = iroot.solve_spd(posed(12, 10.0).float(), columns, 2, lower=0.05, method=method)
        assert result.termination is Termination.NOT_FINITE


def stack_with(bad: float | None) -> Tensor:
    """Three matrices of condition number 10, the one in the middle with a bad entry, or negated."""
    M = posed(12, 10.0, batch=(3,)).float()
    if bad is None:
        M[1] = -M[1]
    else:
        M[1, 3, 5] = M[1, 5, 3] = bad
    return M


BESIDE: dict[str, Callable[[Tensor, Tensor], Result]] = {
    "root by eigh": lambda M, _: iroot.inverse_root(M, 2, method="eigh"),
    "root by coupled_pe": lambda M, _: iroot.inverse_root(M, 2, method="coupled_pe"),
    "apply by eigh": lambda M, columns: iroot.solve_spd(M, columns, 2, method="eigh"),
    "apply by cholesky": lambda M, columns: iroot.solve_spd(M, columns, 1, method="cholesky"),
    "apply by a kept root": lambda M, columns: iroot.solve_spd(
        M, columns, 2, reuse=100, rtol=1e-14, workspace=Workspace()
    ),
    "Gram by svd": lambda M, columns: iroot.solve_gram_spd(M, columns, 2, eps=0.1, method="svd"),
    "solve by lu": lambda M, columns: iroot.solve_nonspd(M, columns, method="lu"),
    "polar by svd": lambda M, _: iroot.polar(M, method="svd"),
    "polar by polar_express": lambda M, _: iroot.polar(M, method="polar_express"),
}


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("name", BESIDE)
def test_what_is_not_finite_spares_the_matrices_beside_it(name: str, bad: float) -> None:
    """A decomposition of a stack stops as a whole at one NaN."""
    M, columns = stack_with(bad), torch.randn(3, 12, 2, generator=torch.Generator().manual_seed(0))
    result, good = BESIDE[name](M, columns), BESIDE[name](stack_with(1.0)[::2], columns[::2])
    if (name, bad) != ("solve by lu", math.inf):  # it divides by infinity
        assert result.value.isfinite().flatten(1).all(1).tolist() == [True, False, True]
    torch.testing.assert_close(result.value[::2], good.value, rtol=1e-5, atol=1e-6)
    assert result.termination is Termination.NOT_FINITE


def test_one_matrix_that_is_not_finite_is_nan_by_every_decomposition() -> None:
    M, columns = stack_with(math.nan)[1], torch.ones(12, 2)
    for call in BESIDE.values():
        assert not bool(call(M, columns).value.isfinite().all())


# --- not positive definite --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["cholesky", "cholesky_reused"])
def test_an_indefinite_matrix_is_reported_by_cholesky_too_and_costs_no_synchronisation(method: str) -> None:
    M, columns = stack_with(None), torch.ones(3, 12, 2)
    with host_reads() as reads:
        result = iroot.solve_spd(M, columns, 1, lower=0.05, method=method)
    assert reads == []
    assert result.value.isfinite().flatten(1).all(1).tolist() == [True, False, True]
    assert result.termination is Termination.NOT_POSITIVE_DEFINITE
    assert result.negative_part == pytest.approx(-float(torch.linalg.eigvalsh(M[1].double())[0]), rel=1e-9)


def shifted(*, negative: float) -> Tensor:
    """Eigenvalues log-spaced in [0.3, 3], the smallest one replaced by -negative."""
    Q = orthonormal(16, 3)
    values = torch.logspace(-1, 0, 16, dtype=torch.float64) * 3.0
    values[0] = -negative
    M = (Q * values) @ Q.mT
    symmetric: Tensor = (M + M.mT) / 2
    return symmetric


@pytest.mark.parametrize("negative", [1e-6, 0.01, 1.0, 50.0])
@pytest.mark.parametrize(("method", "precision"), METHODS)
def test_no_method_passes_an_indefinite_matrix_off_as_converged(method: str, precision: str, negative: float) -> None:
    M = shifted(negative=negative).to(torch.float64 if precision == "fp64" else torch.float32)
    result = iroot.inverse_root(M, 2, lower=0.05, method=method, precision=precision)
    assert result.termination is Termination.NOT_POSITIVE_DEFINITE
    assert result.negative_part == pytest.approx(negative, rel=2e-2 if negative < 1e-3 else 1e-4)
    assert result.estimated_error == math.inf


def test_an_indefinite_matrix_to_solve_is_reported_with_its_negative_part() -> None:
    result = iroot.solve_spd(shifted(negative=0.25), torch.ones(16, 2, dtype=torch.float64), 1)
    assert result.termination is Termination.NOT_POSITIVE_DEFINITE
    assert result.negative_part == pytest.approx(0.25, rel=1e-9)


def test_damping_that_covers_the_negative_part_cures_it() -> None:
    M = shifted(negative=0.01)
    result = iroot.inverse_root(M, 2, eps=0.05, rtol=1e-6)
    assert result.termination is Termination.CONVERGED
    assert distance(result.value, exact(M, 2, 0.05)) <= 1e-6


# --- zero -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("p", [1, 2, 4])
@pytest.mark.parametrize("precision", ["fp64", "fp32", "fp16_emulated", "bf16_emulated"])
def test_a_damped_zero_matrix_gives_its_multiple_of_b(precision: str, p: int) -> None:
    Z = torch.zeros(2, 6, 6)
    columns = torch.randn(2, 6, 3, generator=torch.Generator().manual_seed(0))
    rtol = 3e-2 if precision == "bf16_emulated" else 5e-3
    expected = 0.04 ** (-1 / p)
    root = iroot.inverse_root(Z, p, eps=0.04, rtol=rtol, precision=precision)
    applied = iroot.solve_spd(Z, columns, p, eps=0.04, rtol=rtol, precision=precision)
    assert distance(root.value, (expected * torch.eye(6)).double().expand(2, 6, 6)) <= rtol
    assert distance(applied.value, (expected * columns).double()) <= rtol
    assert (root.termination, applied.termination) == (Termination.CONVERGED,) * 2
    assert root.negative_part == 0.0


@pytest.mark.parametrize("precision", ["fp32", "bf16_emulated", "fp8_e4m3_emulated", "int8_sim"])
def test_the_polar_factor_of_zero_is_zero(precision: str) -> None:
    result = iroot.polar(torch.zeros(2, 16, 32), precision=precision)
    assert torch.equal(result.value, torch.zeros(2, 16, 32))
    assert result.termination is Termination.ABOVE_RTOL
    assert result.estimated_error == pytest.approx(1.0)


# --- modes and layouts ------------------------------------------------------------------------------------------------


def calls(M: Tensor, columns: Tensor) -> tuple[Result, ...]:
    return (
        iroot.inverse_root(M, 2, eps=0.1),
        iroot.solve_spd(M, columns, 2, eps=0.1),
        iroot.polar(columns),
    )


def test_inference_tensors_are_accepted_inside_and_outside_of_the_mode() -> None:
    with torch.inference_mode():
        M, columns = posed(12, 10.0), orthonormal(12, 1)[:, :5]
        inside = calls(M, columns)
        assert all(result.termination is Termination.CONVERGED for result in inside)
    outside = calls(M, columns)
    for one, other in zip(inside, outside, strict=True):
        assert torch.equal(one.value, other.value)
        assert other.termination is Termination.CONVERGED


def test_b_of_any_layout() -> None:
    M, columns = posed(12, 10.0, batch=(2,)), torch.randn(2, 12, 6, dtype=torch.float64)
    expected = iroot.solve_spd(M, columns, 2, eps=0.1).value
    padded = torch.zeros(2, 12, 13, dtype=torch.float64)
    padded[..., 1::2] = columns
    shared = columns[:1].expand(2, 12, 6)
    for other in (
        padded[..., 1::2],
        columns.mT.contiguous().mT,
        columns.permute(1, 2, 0).contiguous().permute(2, 0, 1),
    ):
        assert not other.is_contiguous()
        torch.testing.assert_close(iroot.solve_spd(M, other, 2, eps=0.1).value, expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(iroot.solve_spd(M, shared, 2, eps=0.1).value[0], expected[0], rtol=0, atol=1e-5)


def test_empty_batches_of_every_function() -> None:
    for dtype in (torch.float64, torch.bfloat16):
        for result, shape in (
            (iroot.inverse_root(torch.zeros(3, 0, 4, 4, dtype=dtype), 3, eps=0.1), (3, 0, 4, 4)),
            (iroot.solve_spd(torch.zeros(0, 4, 4, dtype=dtype), torch.zeros(0, 4, 2, dtype=dtype), 2), (0, 4, 2)),
            (iroot.solve_spd(torch.zeros(0, 0, dtype=dtype), torch.zeros(0, 2, dtype=dtype), 2), (0, 2)),
            (iroot.polar(torch.zeros(2, 0, 5, dtype=dtype), workspace=Workspace()), (2, 0, 5)),
        ):
            assert (result.value.shape, result.value.dtype) == (shape, dtype)
            assert result.termination is Termination.CONVERGED


@pytest.mark.parametrize("precision", ["fp32", "fp64", "fp16_emulated", "bf16_emulated"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_the_dtype_of_the_input_is_that_of_the_result_whatever_the_precision(
    dtype: torch.dtype, precision: str
) -> None:
    M = (torch.eye(8, dtype=torch.float64) + 0.1).to(dtype)
    for result in (
        iroot.inverse_root(M, 2, lower=0.3, rtol=0.1, precision=precision),
        iroot.solve_spd(M, M[:, :2], 2, lower=0.3, rtol=0.1, precision=precision),
        iroot.polar(M, lower=0.3, rtol=0.1, precision=precision),
    ):
        assert (result.value.dtype, result.termination) == (dtype, Termination.CONVERGED)
