"""Planted errors are measured as planted, and references agree with an independent computation."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from harness.errors import MeasurementError
from harness.judge import references
from harness.judge.cache import TensorCache
from harness.judge.metrics import measure_quality
from harness.judge.problems import pose
from harness.judge.references import DirectReference, polar_certified, polar_factor, polar_iteration, reference
from harness.judge.refined import RefinedReference
from harness.records import Case, Mode, Quality
from iroot.registry import Operands

CPU = torch.device("cpu")


def make_case(task: str, **changes: object) -> Case:
    rooted = task.startswith(("inverse", "gram"))
    values: dict[str, object] = {
        "task": task, "method": "any", "precision": "fp64", "p": 2 if rooted else None, "m": 32,
        "n": 32 if task.startswith(("inverse", "solve")) else 48,
        "k": 5 if task in ("inverse_apply", "gram_apply", "solve", "gemm") else None,
        "problem": "logspace_1e2" if task != "gemm" else "gaussian", "mode": Mode.EAGER,
    }  # fmt: skip
    return Case.model_validate(values | changes)


def judge(case: Case, operands: Operands, result: Tensor) -> Quality:
    truth = reference(case, operands, seed=0, cache=TensorCache(0))
    return measure_quality(case, operands, result, truth, seed=0)


def matrix_power(A: Tensor, exponent: float) -> Tensor:
    """By SVD, where the references use an eigendecomposition; of a matrix that is not symmetric for -1 only."""
    left, sigma, right = torch.linalg.svd(A)
    if exponent == -1.0:
        left, right = right.mT, left.mT
    power: Tensor = left * sigma.unsqueeze(-2) ** exponent @ right
    return power


@pytest.mark.parametrize("p", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("batch", [1, 2])
def test_a_relative_error_planted_in_a_root_is_measured(p: int, batch: int) -> None:
    case = make_case("inverse_root", p=p, batch=batch)
    operands = pose(case.problem, case, seed=0, device=CPU)
    exact = matrix_power(operands.A, -1 / p)
    right = judge(case, operands, exact)
    assert right.relative_error is not None
    assert right.relative_error < 1e-12
    assert right.residual is not None
    assert right.residual < 1e-11
    quality = judge(case, operands, 1.001 * exact)
    assert quality.relative_error == pytest.approx(1e-3, rel=1e-6)
    assert quality.residual == pytest.approx(1.001**p - 1, rel=1e-6)
    assert quality.symmetry == pytest.approx(0, abs=1e-12)
    assert quality.orthogonality is None


def test_damping_is_part_of_the_target() -> None:
    case = make_case("inverse_root", problem="rank_deficient")
    operands = pose(case.problem, case, seed=0, device=CPU)
    damped = operands.A + operands.eps * torch.eye(32, dtype=torch.float64)
    quality = judge(case, operands, matrix_power(damped, -0.5))
    assert quality.relative_error == pytest.approx(0, abs=1e-10)
    assert quality.residual == pytest.approx(0, abs=1e-9)


def test_planted_asymmetry_is_measured() -> None:
    case = make_case("inverse_root", problem="identity")
    operands = pose(case.problem, case, seed=0, device=CPU)
    X = torch.eye(32, dtype=torch.float64)
    X[0, 1] = 0.5
    assert judge(case, operands, X).symmetry == pytest.approx(math.sqrt(2 * 0.25) / math.sqrt(32.25))


def test_a_batch_counts_as_root_mean_square() -> None:
    case = make_case("inverse_root", problem="identity", batch=2)
    operands = pose(case.problem, case, seed=0, device=CPU)
    X = operands.A * torch.tensor([1.03, 1.04], dtype=torch.float64)[:, None, None]
    assert judge(case, operands, X).relative_error == pytest.approx(math.sqrt((0.03**2 + 0.04**2) / 2))


def test_apply_measures_error_and_residual_against_the_columns() -> None:
    case = make_case("inverse_apply", p=4)
    operands = pose(case.problem, case, seed=0, device=CPU)
    assert operands.B is not None
    Z = matrix_power(operands.A, -0.25) @ operands.B
    quality = judge(case, operands, 0.99 * Z)
    assert quality.relative_error == pytest.approx(0.01, rel=1e-6)
    assert quality.residual == pytest.approx(0.01, rel=1e-6)
    assert quality.symmetry is None


@pytest.mark.parametrize(("m", "n"), [(32, 48), (48, 32)])
@pytest.mark.parametrize("p", [1, 4])
def test_gram_apply_is_judged_by_the_damped_gram_matrix(m: int, n: int, p: int) -> None:
    case = make_case("gram_apply", m=m, n=n, p=p)
    operands = pose(case.problem, case, seed=0, device=CPU)
    assert operands.B is not None
    gram = operands.A.mT @ operands.A + operands.eps * torch.eye(n, dtype=torch.float64)
    Z = matrix_power(gram, -1 / p) @ operands.B
    quality = judge(case, operands, 0.99 * Z)
    assert quality.relative_error == pytest.approx(0.01, rel=1e-6)
    assert quality.residual == pytest.approx(0.01, rel=1e-6)
    with pytest.raises(MeasurementError, match=rf"must return \({n}, 5\)"):
        judge(case, operands, torch.zeros(m, 5, dtype=torch.float64))


def test_solve_is_judged_by_the_solution_and_the_residual() -> None:
    case = make_case("solve")
    operands = pose(case.problem, case, seed=0, device=CPU)
    assert operands.B is not None
    quality = judge(case, operands, 1.02 * matrix_power(operands.A, -1.0) @ operands.B)
    assert quality.relative_error == pytest.approx(0.02, rel=1e-6)
    assert quality.residual == pytest.approx(0.02, rel=1e-6)
    assert (quality.symmetry, quality.orthogonality) == (None, None)


@pytest.mark.parametrize(("m", "n"), [(32, 48), (48, 32), (40, 40)])
def test_a_scaled_polar_factor_has_the_planted_distance_and_orthogonality(m: int, n: int) -> None:
    case = make_case("polar", m=m, n=n)
    operands = pose(case.problem, case, seed=0, device=CPU)
    left, _, right = torch.linalg.svd(operands.A, full_matrices=False)
    quality = judge(case, operands, 1.1 * left @ right)
    assert quality.relative_error == pytest.approx(0.1, rel=1e-9)
    assert quality.orthogonality == pytest.approx(0.21, rel=1e-9)
    assert quality.residual is None


def test_gemm_and_copy_are_judged_by_relative_error_alone() -> None:
    case = make_case("gemm")
    operands = pose(case.problem, case, seed=0, device=CPU)
    assert operands.B is not None
    quality = judge(case, operands, 1.5 * operands.A @ operands.B)
    assert quality.relative_error == pytest.approx(0.5)
    assert (quality.residual, quality.symmetry, quality.orthogonality) == (None, None, None)
    case = make_case("copy", problem="gaussian")
    operands = pose(case.problem, case, seed=0, device=CPU)
    assert judge(case, operands, operands.A.clone()) == Quality(seed=0, relative_error=0.0)


def test_non_finite_entries_are_counted_and_leave_no_figures() -> None:
    case = make_case("inverse_root")
    operands = pose(case.problem, case, seed=0, device=CPU)
    X = operands.A.clone()
    X[0, 0], X[3, 4] = math.nan, math.inf
    assert judge(case, operands, X) == Quality(seed=0, nonfinite=2)


@pytest.mark.parametrize("result", [torch.zeros(31, 32, dtype=torch.float64), torch.zeros(32, 32), "text"])
def test_results_of_another_kind_are_refused(result: Tensor) -> None:
    case = make_case("inverse_root")
    operands = pose(case.problem, case, seed=0, device=CPU)
    with pytest.raises(MeasurementError, match="must return"):
        judge(case, operands, result)


def test_a_problem_without_a_root_is_refused() -> None:
    case = make_case("inverse_root")
    operands = Operands(A=-torch.eye(32, dtype=torch.float64), p=2)
    with pytest.raises(MeasurementError, match="must be positive definite, got eigenvalue -1"):
        reference(case, operands, seed=0, cache=TensorCache(0))


@pytest.mark.parametrize("problem", ["gaussian", "logspace_1e4", "spike", "levy"])
@pytest.mark.parametrize(("m", "n", "batch"), [(80, 80, 1), (96, 40, 2)])
def test_polar_iteration_agrees_with_the_svd(problem: str, m: int, n: int, batch: int) -> None:
    case = make_case("polar", problem=problem, m=m, n=n, batch=batch)
    G = pose(problem, case, seed=0, device=CPU).A
    U = polar_iteration(G, 1e-8)
    left, _, right = torch.linalg.svd(G, full_matrices=False)
    assert polar_certified(G, U)
    assert float((U - left @ right).norm() / U.norm()) < 1e-11


def test_what_is_no_polar_factor_is_not_certified() -> None:
    G = pose("logspace_1e2", make_case("polar", m=48, n=48), seed=0, device=CPU).A
    left, _, right = torch.linalg.svd(G)
    flip = torch.ones(48, dtype=torch.float64)
    flip[-1] = -1
    assert polar_certified(G, left @ right)
    assert not polar_certified(G, left * flip @ right)  # orthogonal, but H is indefinite
    assert not polar_certified(G, left @ right * (1 + 1e-11))
    assert not polar_certified(G, torch.full_like(G, math.nan))


def test_without_a_certificate_the_svd_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(references, "SVD_LIMIT", 8)
    G = torch.randn(16, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    G[1] = G[0]  # rank deficient: no iteration converges
    U = polar_factor(G)
    assert float((U @ U.T - torch.eye(16, dtype=torch.float64)).norm()) < 1e-12


def test_references_are_shared_by_methods_and_roots() -> None:
    cache = TensorCache(2**24)
    case = make_case("inverse_root", precision="fp32")
    operands = pose(case.problem, case, seed=0, device=CPU)
    first = reference(case, operands, seed=0, cache=cache)
    assert reference(case.model_copy(update={"p": 4, "method": "other"}), operands, seed=0, cache=cache) is first
    assert reference(case, pose(case.problem, case, seed=1, device=CPU), seed=1, cache=cache) is not first
    assert not isinstance(first, DirectReference)


def test_refined_references_are_shared_by_methods() -> None:
    cache = TensorCache(2**24)
    case = make_case("inverse_root")
    operands = pose(case.problem, case, seed=0, device=CPU)
    first = reference(case, operands, seed=0, cache=cache)
    assert isinstance(first, RefinedReference)
    assert reference(case.model_copy(update={"method": "other"}), operands, seed=0, cache=cache) is first
    fourth = reference(case.model_copy(update={"p": 4}), replace(operands, p=4), seed=0, cache=cache)
    assert isinstance(fourth, RefinedReference)
    assert (first.p, fourth.p) == (2, 4)
