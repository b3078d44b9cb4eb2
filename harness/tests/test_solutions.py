"""Reference solutions against rational arithmetic and planted integers, and LU against them."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from torch import Tensor

from harness.errors import MeasurementError
from harness.judge.cache import TensorCache
from harness.judge.metrics import measure_quality
from harness.judge.problems import PROBLEMS, pose
from harness.judge.references import DirectReference, reference
from harness.judge.solutions import residual, solution
from harness.records import Case, Mode

CPU = torch.device("cpu")
SQUARE = [name for name, spec in PROBLEMS.items() if spec.square is not None]


def solve_case(problem: str, *, n: int = 48, batch: int = 1) -> Case:
    return Case(
        task="solve", method="lu", precision="fp64", m=n, n=n, k=3, batch=batch, problem=problem, mode=Mode.EAGER
    )


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def ill_conditioned(n: int) -> Tensor:
    """Integers with determinant 1, unit lower times unit upper triangular; condition number 1e10 and more."""
    draw = torch.randint(-2, 3, (2, n, n), generator=torch.Generator().manual_seed(1)).double()
    eye = torch.eye(n, dtype=torch.float64)
    return (draw[0].tril(-1) + eye) @ (draw[1].triu(1) + eye)


def relative(X: Tensor, exact: Tensor) -> float:
    return float(torch.linalg.matrix_norm(X - exact).max() / torch.linalg.matrix_norm(exact).min())


def test_a_residual_is_exact_to_its_last_digit() -> None:
    """Of an approximate solution: 15 of the digits cancel, and float64 keeps none of the rest."""
    A, B = random(9, 9), random(9, 2, seed=1)
    A[3] *= 1e-9
    X = torch.linalg.solve(A, B)
    rows, columns = [[Fraction(v) for v in row] for row in A.tolist()], [[Fraction(v) for v in c] for c in X.T.tolist()]
    exact = [
        [float(Fraction(B[i, j].item()) - sum(a * x for a, x in zip(rows[i], columns[j], strict=True))) for j in (0, 1)]
        for i in range(9)
    ]
    torch.testing.assert_close(residual(A, X, B), torch.tensor(exact, dtype=torch.float64), rtol=1e-12, atol=0)
    assert relative(B - A @ X, torch.tensor(exact, dtype=torch.float64)) > 1e-3


def test_planted_integers_are_found_where_lu_errs() -> None:
    A = ill_conditioned(30)
    assert float(torch.linalg.cond(A)) > 1e10
    X = torch.randint(-9, 10, (30, 3), generator=torch.Generator().manual_seed(2)).double()
    B = A @ X  # integers far below 2^53: exact
    assert relative(torch.linalg.solve(A, B), X) > 1e-10
    assert relative(solution(A, B), X) < 2.0**-53


@pytest.mark.parametrize("problem", SQUARE)
def test_lu_in_float64_has_an_error(problem: str) -> None:
    """The error that rounding explains, u kappa or less, and not zero: the reference is another computation."""
    case = solve_case(problem, batch=2)
    operands = pose(problem, case, seed=0, device=CPU)
    assert operands.B is not None
    truth = reference(case, operands, seed=0, cache=TensorCache(0))
    assert isinstance(truth, DirectReference)
    by_lu = torch.linalg.solve(operands.A, operands.B)
    error = measure_quality(case, operands, by_lu, truth, seed=0).relative_error
    assert error is not None
    assert 0 < error < 2.0**-53 * 48 * float(torch.linalg.cond(operands.A).max())


def test_what_cannot_be_refined_is_refused() -> None:
    singular = torch.ones(4, 4, dtype=torch.float64)
    with pytest.raises(MeasurementError, match="zero pivot"):
        solution(singular, random(4, 1))
    hilbert = torch.tensor([[1 / (i + j + 1) for i in range(20)] for j in range(20)], dtype=torch.float64)
    with pytest.raises(MeasurementError, match="condition number well below 1e16"):
        solution(hilbert, random(20, 1))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_a_gpu_finds_the_same() -> None:
    A, B = random(700, 700), random(700, 5, seed=1)
    assert relative(solution(A.cuda(), B.cuda()).cpu(), solution(A, B)) < 1e-15
