"""Every wrong use of the library's functions, and the exact words it is answered with."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch

import iroot
from iroot import InvalidInputError, UnknownNameError, UnsupportedError
from iroot.options import ScheduleOptions

A = torch.eye(4) * 2.0
B = torch.ones(4, 2)
NAN = torch.full((4, 4), float("nan"))

CASES: dict[str, tuple[Callable[[], Any], str]] = {
    "not a tensor": (
        lambda: iroot.inverse_root([[1.0]], 2),  # type: ignore[arg-type]
        "A must be a torch.Tensor, got list; convert it with torch.as_tensor(A)",
    ),
    "not square": (
        lambda: iroot.inverse_root(torch.ones(4, 3), 2),
        "A must be square in its last two dimensions, got (4, 3); for the Gram matrix of G pass G @ G.mT",
    ),
    "a vector": (
        lambda: iroot.inverse_root(torch.ones(4), 2),
        "A must be square in its last two dimensions, got (4,); for the Gram matrix of G pass G @ G.mT",
    ),
    "integers": (
        lambda: iroot.inverse_root(torch.eye(4, dtype=torch.int64), 2),
        "A must be float64, float32, bfloat16 or float16, got torch.int64; convert it, as with A.float()",
    ),
    "complex": (
        lambda: iroot.inverse_root(torch.eye(4, dtype=torch.complex64), 2),
        "A must be real, got torch.complex64; complex matrices are not served",
    ),
    "sparse": (
        lambda: iroot.inverse_root(torch.eye(4).to_sparse(), 2),
        "A must be dense, got torch.sparse_coo; convert it with A.to_dense()",
    ),
    "gradients": (
        lambda: iroot.inverse_root(A.clone().requires_grad_(), 2),
        "A must not require gradients, got requires_grad=True; there is no backward pass: pass A.detach()",
    ),
    "device without backend": (
        lambda: iroot.inverse_root(A.to("meta"), 2),
        "tensors must be on a CPU or a CUDA device, got meta; move them with .to()",
    ),
    "p below 1": (
        lambda: iroot.inverse_root(A, 0),
        "p must be an integer >= 1, got 0; A^(-1/p) is computed, so p=2 is the inverse square root",
    ),
    "p not an integer": (
        lambda: iroot.inverse_root(A, 2.5),  # type: ignore[arg-type]
        "p must be an integer >= 1, got 2.5; A^(-1/p) is computed, so p=2 is the inverse square root",
    ),
    "p a truth value": (
        lambda: iroot.solve_spd(A, B, True),
        "p must be an integer >= 1, got True; A^(-1/p) is computed, so p=2 is the inverse square root",
    ),
    "negative eps": (
        lambda: iroot.inverse_root(A, 2, eps=-1e-3),
        "eps must be finite and >= 0, got -0.001; it is added to the diagonal of A",
    ),
    "infinite eps_relative": (
        lambda: iroot.solve_spd(A, B, 2, eps_relative=float("inf")),
        "eps_relative must be finite and >= 0, got inf; it is added to the diagonal of A",
    ),
    "rtol of zero": (
        lambda: iroot.inverse_root(A, 2, rtol=0.0),
        "rtol must be in [1e-14, 0.5], got 0.0; None chooses it from the dtype",
    ),
    "lower above 1": (
        lambda: iroot.polar(A, lower=2.0),
        "lower must be in (0, 1], smallest over largest eigenvalue, got 2.0; None where it is unknown",
    ),
    "rows of B": (
        lambda: iroot.solve_spd(A, torch.ones(3, 2), 2),
        "B must be (..., n, k) with the batch dimensions and the n of A, got A (4, 4) and B (3, 2); a single column is "
        "B[..., None], a shared B is expanded with B.expand(...)",
    ),
    "dtype of B": (
        lambda: iroot.solve_spd(A, B.double(), 2),
        "A and B must have one dtype, got torch.float32 and torch.float64; convert B with B.to(A.dtype)",
    ),
    "mixed devices": (
        lambda: iroot.solve_spd(A, B.to("meta"), 2),
        "A and B must be on one device, got cpu and meta; move B with B.to(A.device)",
    ),
    "NaN when asked": (
        lambda: iroot.inverse_root(NAN, 2, check_finite=True),
        "A must be finite, got NaN or infinity; without check_finite=True the termination reports it",
    ),
    "infinity in B when asked, bound given": (
        lambda: iroot.solve_spd(A, B * float("inf"), 2, lower=0.5, check_finite=True),
        "A and B must be finite, got NaN or infinity; without check_finite=True the termination reports it",
    ),
    "NaN in G when asked": (
        lambda: iroot.polar(NAN, check_finite=True),
        "G must be finite, got NaN or infinity; without check_finite=True the termination reports it",
    ),
    "zero matrix without damping": (
        lambda: iroot.inverse_root(torch.stack([A, torch.zeros(4, 4)]), 2),
        "A must not be zero where it is not damped, got a zero matrix with eps=0; with eps > 0 the result is "
        "eps^(-1/p) I",
    ),
    "zero matrix with relative damping": (
        lambda: iroot.inverse_root(torch.zeros(4, 4), 2, eps_relative=0.1),
        "A must not be zero where it is not damped, got a zero matrix with eps=0; with eps > 0 the result is "
        "eps^(-1/p) I",
    ),
    "G a vector": (
        lambda: iroot.polar(torch.ones(4)),
        "G must have at least two dimensions, got (4,); reshape it to (m, n), for a vector to (1, n)",
    ),
    "G of integers": (
        lambda: iroot.polar(torch.ones(4, 4, dtype=torch.int8)),
        "G must be float64, float32, bfloat16 or float16, got torch.int8; convert it, as with G.float()",
    ),
    "options without a method": (
        lambda: iroot.inverse_root(A, 2, options=ScheduleOptions()),
        "options need a method given by name, got ScheduleOptions with method='auto'; each method has options "
        "of its own",
    ),
    "options as a dict": (
        lambda: iroot.inverse_root(A, 2, method="coupled_pe", options={"target": 1e-3}),
        "options must be the option record of the method, got dict",
    ),
    "options of another method": (
        lambda: iroot.polar(A, method="polar_express", options=ScheduleOptions()),
        "options of polar_express must be PolarExpressOptions, got ScheduleOptions",
    ),
    "a root the method lacks": (
        lambda: iroot.inverse_root(A, 3, method="newton_db"),
        "newton_db serves p = 2, 4, 8, got 3; use method='auto'",
    ),
    "a precision the method lacks": (
        lambda: iroot.inverse_root(A, 2, method="graded_pe", precision="fp32"),
        "graded_pe must run in one of bf16, bf16_emulated, fp16, fp16_emulated, fp8_e4m3, fp8_e4m3_emulated, "
        "got precision 'fp32'",
    ),
    "workspace of another kind": (
        lambda: iroot.polar(A, workspace={}),  # type: ignore[arg-type]
        "workspace must be a Workspace or None, got dict",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_message(name: str) -> None:
    call, message = CASES[name]
    with pytest.raises(InvalidInputError, match=f"^{re.escape(message)}$"):
        call()


def test_unknown_names_suggest_the_nearest() -> None:
    with pytest.raises(
        UnknownNameError, match=r"unknown method of inverse_root 'coupled_p'; did you mean 'coupled_pe'\?"
    ):
        iroot.inverse_root(A, 2, method="coupled_p")
    with pytest.raises(UnknownNameError, match=r"unknown precision 'fp31'; did you mean 'fp32'\?"):
        iroot.polar(A, precision="fp31")


def test_a_precision_the_device_lacks() -> None:
    with pytest.raises(UnsupportedError, match=r"precision 'bf16' cannot run on cpu: .*'bf16_emulated' runs here"):
        iroot.inverse_root(A, 2, precision="bf16")


def test_an_error_of_the_caller_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="A must be square"):
        iroot.inverse_root(torch.ones(2, 3), 2)
