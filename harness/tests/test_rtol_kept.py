"""`rtol` is kept: every choice that the planner admits, on every shipped problem, is as accurate as it says.

On a CPU `auto` itself takes float32 and float64 alone; the tiers of 16-bit products are reached by naming the emulated
precisions, whose arithmetic is that of a tensor core.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import pytest
import torch
from torch import Tensor

import iroot
from harness.judge.cache import TensorCache
from harness.judge.problems import PROBLEMS, pose
from harness.records import Case, Mode
from iroot import Result, Termination

CPU = torch.device("cpu")
N, COLUMNS = 128, 16
ROOTS = (1, 2, 3, 4, 8)
FEW_ROOTS = (1, 4)
"""Of the apply, and where the error follows a formula in p."""
LADDERS = {
    "bf16_emulated": (8e-3, 0.1),
    "fp16_emulated": (1e-3, 5e-3, 0.1),
    "bf16x3_emulated": (1e-4, 3e-3),
    "fp16x3_emulated": (1e-5, 3e-4, 3e-3),
    "fp32": (1e-5, 1e-3),
    "fp64": (1e-9,),
}
"""Of each precision the smallest rtol that it is admitted for is tried, and the largest, which leaves the schedule
coarse."""
SPD = [
    name
    for name, spec in PROBLEMS.items()
    if "spd" in spec.operands
    and name not in ("logspace_1e1", "logspace_1e3", "logspace_1e5", "logspace_1e7", "logspace_1e8")
]
RECTANGULAR = [name for name, spec in PROBLEMS.items() if "rectangular" in spec.operands]
REFERENCE_ERROR = 1e-15
"""Of the float64 eigenvectors, times the condition number."""
LEAST_ADMITTED = {"bf16_emulated": 0.9e-4, "fp16_emulated": 0.9e-5}
"""Smallest over largest eigenvalue at the end of a tier of one 16-bit word."""


def paired(problem: str, precision: str) -> bool:
    """Every problem that such a tier admits, and one beyond; where the error follows a formula some of them."""
    if precision not in LEAST_ADMITTED:
        return problem in ("wishart", "logspace_1e6", "power_law", "identity", "rank_deficient")
    lower = PROBLEMS[problem].lower("spd", N, N)
    return problem == "near_singular" or (lower is not None and lower >= LEAST_ADMITTED[precision])


PAIRS = [(problem, precision) for problem in SPD for precision in LADDERS if paired(problem, precision)]
CACHE = TensorCache(2**27)


@dataclass(frozen=True, kw_only=True)
class Posed:
    """A matrix of a problem, a block, and their root in float64 by way of the eigenvectors."""

    A: Tensor
    B: Tensor
    eps: float
    lower: float | None
    values: Tensor
    vectors: Tensor

    @property
    def ratio(self) -> float:
        """Smallest over largest eigenvalue."""
        return float(self.values[0] / self.values[-1])

    def exact(self, p: int, *, applied: bool) -> Tensor:
        right = self.vectors.mT @ self.B.double() if applied else self.vectors.mT
        return (self.vectors * self.values ** (-1.0 / p)) @ right


@cache
def posed(problem: str, precision: str) -> Posed:
    case = Case(
        task="inverse_apply", method="any", precision=precision, p=2, m=N, n=N, k=COLUMNS, problem=problem,
        mode=Mode.EAGER,
    )  # fmt: skip
    operands = pose(problem, case, seed=0, device=CPU, cache=CACHE)
    assert operands.B is not None
    damped = operands.A.double() + operands.eps * torch.eye(N, dtype=torch.float64)
    values, vectors = torch.linalg.eigh(damped)
    return Posed(
        A=operands.A, B=operands.B, eps=operands.eps, lower=operands.lower, values=values, vectors=vectors
    )  # fmt: skip


def call(given: Posed, p: int, rtol: float, precision: str, *, applied: bool) -> Result:
    if applied:
        return iroot.solve_spd(
            given.A, given.B, p, eps=given.eps, rtol=rtol, precision=precision, lower=given.lower
        )  # fmt: skip
    return iroot.inverse_root(given.A, p, eps=given.eps, rtol=rtol, precision=precision, lower=given.lower)


def error_of(result: Result, exact: Tensor) -> float:
    error = float(torch.linalg.matrix_norm(result.value.double() - exact) / torch.linalg.matrix_norm(exact))
    return error if math.isfinite(error) else math.inf


def admitted(result: Result) -> bool:
    return result.stated_accuracy is not None and result.stated_accuracy <= result.rtol


def attempts(problem: str, precision: str, *, applied: bool) -> Iterator[tuple[int, Result, float]]:
    """p, the call at the smallest rtol admitted and at the coarse one, and its error."""
    given, ladder = posed(problem, precision), LADDERS[precision]
    for p in ROOTS if precision in LEAST_ADMITTED and not applied else FEW_ROOTS:
        exact = given.exact(p, applied=applied)
        finest = next((rtol for rtol in ladder if admitted(call(given, p, rtol, precision, applied=applied))), None)
        coarse = ladder[-1] if p in FEW_ROOTS else None
        for rtol in dict.fromkeys(value for value in (finest, coarse) if value is not None):
            result = call(given, p, rtol, precision, applied=applied)
            yield p, result, error_of(result, exact)


@pytest.mark.parametrize(("problem", "precision"), PAIRS)
def test_every_admitted_root_keeps_what_it_states(problem: str, precision: str) -> None:
    kappa, tried = 1.0 / posed(problem, precision).ratio, 0
    for applied in (False, True):
        for p, result, error in attempts(problem, precision, applied=applied):
            if admitted(result) and kappa <= 1.0 / result.bounds.lower:
                tried += 1
                assert result.stated_accuracy is not None
                assert error <= result.stated_accuracy + REFERENCE_ERROR * kappa, (p, applied, result)
            elif not applied:
                assert (result.termination is Termination.CONVERGED) == (error <= result.rtol), (p, result)
    assert tried > 0 or kappa > 1e3, "nothing was admitted for an easy problem"


@pytest.mark.parametrize("problem", SPD)
def test_with_nothing_known_the_result_says_whether_rtol_is_kept(problem: str) -> None:
    """No bound is given: it is measured where the problem is damped, else assumed."""
    given = posed(problem, "fp32")
    for precision, rtol in (("fp16_emulated", 5e-3), ("auto", 1e-3), ("auto", 1e-6)):
        result = iroot.inverse_root(given.A, 2, eps=given.eps, rtol=rtol, precision=precision)
        error = error_of(result, given.exact(2, applied=False))
        assert result.bounds.source == ("measured" if given.eps else "assumed")
        if admitted(result) and given.ratio >= result.bounds.lower:
            assert error <= rtol, result
        assert (result.termination is Termination.CONVERGED) == (error <= rtol), result
        assert result.estimated_error == pytest.approx(error, rel=1e-3, abs=REFERENCE_ERROR / given.ratio)


@pytest.mark.parametrize("shape", [(96, 96), (64, 160)])
@pytest.mark.parametrize("problem", RECTANGULAR)
def test_every_admitted_polar_factor_keeps_what_it_states(problem: str, shape: tuple[int, int]) -> None:
    for precision in LADDERS:
        case = Case(task="polar", method="any", precision=precision, m=shape[0], n=shape[1], problem=problem,
                    mode=Mode.EAGER)  # fmt: skip
        operands = pose(problem, case, seed=0, device=CPU, cache=CACHE)
        sigma = torch.linalg.svdvals(operands.A.double())
        for rtol in (1e-9, 1e-2, 0.3):
            result = iroot.polar(operands.A, rtol=rtol, precision=precision, lower=operands.lower)
            U = result.value.double()
            departure = float(torch.linalg.matrix_norm(U @ U.mT - torch.eye(shape[0])) / shape[0] ** 0.5)
            if admitted(result) and float(sigma[-1] / sigma[0]) >= result.bounds.lower:
                assert departure <= rtol, (precision, result)
            assert (result.termination is Termination.CONVERGED) == (departure <= rtol), (precision, result)
