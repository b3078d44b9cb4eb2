"""The methods for A Z = B, A not symmetric, against float64, and every way to the factorisation."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from iroot.errors import InvalidInputError, UnknownNameError
from iroot.methods.solve_coupled_pe import SolveOptions, solve_or_factorise
from iroot.ops import make_ops
from iroot.precision import get_precision, unsupported_reason
from iroot.registry import MethodSpec, Operands, Workload, get_method, methods

CPU = torch.device("cpu")
SPECS = list(methods("solve"))
SERVED = [
    pytest.param(spec, precision, id=f"{spec.name}-{precision}")
    for spec, precision in ((spec, name) for spec in SPECS for name in spec.precisions)
    if unsupported_reason(get_precision(precision), CPU) is None
]


def posed(n: int, k: int, kappa: float, *, batch: tuple[int, ...] = (), seed: int = 0) -> tuple[Tensor, Tensor]:
    """A with singular values 3 ... 3 / kappa and Gaussian columns, in float64."""
    generator = torch.Generator().manual_seed(seed)
    U, V = (torch.linalg.qr(torch.randn(*batch, n, n, generator=generator, dtype=torch.float64)).Q for _ in range(2))
    sigma = 3.0 * torch.logspace(0, -math.log10(kappa), n, dtype=torch.float64)
    return (U * sigma) @ V.mT, torch.randn(*batch, n, k, generator=generator, dtype=torch.float64)


def distance(Z: Tensor, A: Tensor, B: Tensor) -> float:
    truth = torch.linalg.solve(A.double(), B.double())
    return float((torch.linalg.matrix_norm(Z.double() - truth) / torch.linalg.matrix_norm(truth)).max())


def dtype_of(precision: str) -> torch.dtype:
    return torch.float64 if precision == "fp64" else torch.float32


@pytest.mark.parametrize(("spec", "precision"), SERVED)
@pytest.mark.parametrize("kappa", [1.5, 20.0, 500.0, 1e4])
def test_error_is_within_the_stated_accuracy(spec: MethodSpec, precision: str, kappa: float) -> None:
    ops, n = make_ops(precision, CPU), 40
    for equilibration in ("none", "row_norm", "ruiz") if spec.name == "coupled_pe" else (None,):
        options = spec.make_options({} if equilibration is None else {"equilibration": equilibration})
        A, B = (M.to(dtype_of(precision)) for M in posed(n, 5, kappa, seed=int(kappa)))
        workload = Workload(m=n, n=n, k=5, precision=precision, lower=0.99 / kappa)
        stated = spec.accuracy(workload, options)
        assert stated is not None
        with ops.arithmetic():
            Z = spec.function(Operands(A=A, B=B, lower=0.99 / kappa), ops, options)
        assert distance(Z, A, B) <= stated


@pytest.mark.parametrize(("kappa", "precision", "fell_back"), [
    (10.0, "bf16_emulated", False), (20.0, "fp16_emulated", False), (500.0, "fp32", False), (1e4, "fp64", False),
    # Rounding of 16-bit products times kappa^2 leaves nothing to refine.
    (50.0, "bf16_emulated", True), (300.0, "fp16_emulated", True), (1e4, "fp32", True),
])  # fmt: skip
def test_the_iteration_serves_what_contracts_and_is_refined_to_float32(
    kappa: float, precision: str, fell_back: bool
) -> None:
    A, B = (M.to(dtype_of(precision)) for M in posed(48, 3, kappa))
    ops = make_ops(precision, CPU)
    found = solve_or_factorise(Operands(A=A, B=B, lower=0.99 / kappa), ops, SolveOptions())
    assert found.fell_back == fell_back
    assert distance(found.Z, A, B) < (1e-3 if precision != "fp64" else 1e-11)


def test_refinements_take_the_error_to_that_of_the_factorisation() -> None:
    A, B = (M.float() for M in posed(48, 3, 12.0))
    ops = make_ops("fp16_emulated", CPU)
    errors = []
    for count in range(4):
        options = SolveOptions(refinements=count, check=0.9)
        found = solve_or_factorise(Operands(A=A, B=B, lower=0.082), ops, options)
        assert not found.fell_back
        errors.append(distance(found.Z, A, B))
    assert errors[0] > 10 * errors[1] > 100 * errors[2]
    assert errors[3] < 2e-6


@pytest.mark.parametrize("equilibration", ["none", "row_norm", "ruiz"])
def test_a_bound_that_does_not_hold_is_caught_by_the_residual(equilibration: str) -> None:
    """lower = 0.5 plans three steps; the matrix needs many more."""
    A, B = (M.float() for M in posed(32, 4, 300.0))
    options = SolveOptions(equilibration=equilibration)
    found = solve_or_factorise(Operands(A=A, B=B, lower=0.5), make_ops("fp32", CPU), options)
    assert found.fell_back
    assert distance(found.Z, A, B) < 1e-4


def test_only_the_matrices_that_fail_are_factorised() -> None:
    easy, B = posed(24, 3, 5.0)
    hard, _ = posed(24, 3, 400.0)
    stack, columns = torch.stack([easy, hard]).float(), torch.stack([B, B]).float()
    ops = make_ops("fp32", CPU)
    found = solve_or_factorise(Operands(A=stack, B=columns, lower=0.19), ops, SolveOptions())
    assert found.fell_back
    alone = solve_or_factorise(Operands(A=stack[0], B=columns[0], lower=0.19), ops, SolveOptions())
    assert not alone.fell_back
    torch.testing.assert_close(found.Z[0], alone.Z, rtol=1e-4, atol=1e-6)
    assert torch.equal(found.Z[1], torch.linalg.solve_ex(stack, columns).result[1])


@settings(max_examples=15)
@given(n=st.integers(1, 20), seed=st.integers(0, 100), power=st.integers(-50, 50), rows=st.floats(0.0, 3.0))
def test_scales_of_rows_and_of_the_whole_do_not_matter(n: int, seed: int, power: int, rows: float) -> None:
    A, B = posed(n, 2, 3.0, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    A = 2.0**power * A * 10.0 ** (rows * torch.randn(n, 1, generator=generator, dtype=torch.float64))
    found = solve_or_factorise(Operands(A=A, B=B, lower=0.1), make_ops("fp64", CPU), SolveOptions())
    assert not found.fell_back
    assert distance(found.Z, A, B) < 1e-12


def test_nothing_known_of_the_spectrum() -> None:
    A, B = (M.float() for M in posed(40, 3, 200.0))
    for spec in SPECS:
        assert distance(spec.function(Operands(A=A, B=B), make_ops("fp32", CPU), spec.options()), A, B) < 1e-4


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
def test_singular_matrices_and_nan_end_in_nan_and_no_input_is_modified(spec: MethodSpec) -> None:
    A, B = (M.float() for M in posed(12, 3, 5.0, batch=(3,)))
    A[1, 4] = 0.0
    A[2, 0, 0] = torch.nan
    before = A.clone(), B.clone()
    Z = spec.function(Operands(A=A, B=B, lower=0.19), make_ops("fp32", CPU), spec.options())
    assert torch.equal(A.nan_to_num(7.0), before[0].nan_to_num(7.0))
    assert torch.equal(B, before[1])
    assert distance(Z[0], A[0], B[0]) < 1e-5
    assert not bool(Z[1].isfinite().all())
    assert not bool(Z[2].isfinite().all())
    assert torch.equal(spec.function(Operands(A=A[0], B=0.0 * B[0]), make_ops("fp32", CPU), spec.options()), 0.0 * B[0])


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
def test_wrong_shapes(spec: MethodSpec) -> None:
    A, B = posed(12, 3, 5.0)
    ops = make_ops("fp64", CPU)
    with pytest.raises(InvalidInputError, match="A must be square"):
        spec.function(Operands(A=A[:5], B=B), ops, spec.options())
    for wrong in (None, B[:4], B[None]):
        with pytest.raises(InvalidInputError, match=r"B must be \(..., n, k\)"):
            spec.function(Operands(A=A, B=wrong), ops, spec.options())


def test_wrong_options_are_refused() -> None:
    for values in ({"refinements": -1}, {"check": 0.0}, {"target": 2.0}):
        with pytest.raises(InvalidInputError, match="must be"):
            get_method("solve", "coupled_pe").make_options(values)
    with pytest.raises(UnknownNameError, match="did you mean 'row_norm'"):
        get_method("solve", "coupled_pe").make_options({"equilibration": "rownorm"})


def test_costs() -> None:
    work = Workload(m=30, n=30, k=5, batch=2, precision="fp32", lower=1e-2)
    assert get_method("solve", "lu").flops(work, get_method("solve", "lu").options()) == 2 * (18000 + 2 * 900 * 5)
    iterative = get_method("solve", "coupled_pe")
    unserved = Workload(m=30, n=30, k=5, batch=2, precision="fp16_emulated", lower=1e-3)
    assert iterative.flops(unserved, iterative.options()) == 2 * (18000 + 2 * 900 * 5)
    assert iterative.flops(work, iterative.options()) > 2 * 30**3 * 10
