"""What is asked of `graded_pe` and of three polar steps on real tensor cores; with bounds of their own."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from functools import lru_cache

import pytest
import torch
from torch import Tensor

from harness.judge.problems import pose
from harness.tests.test_metrics import make_case
from iroot.ops import make_ops
from iroot.registry import Operands, get_method

Property = Callable[[str, object], None]
SEEDS = range(5)
GPU = torch.device("cuda:0" if torch.cuda.is_available() else "cpu")


@lru_cache(maxsize=16)
def posed(problem: str, n: int, seed: int) -> tuple[Operands, Tensor, Tensor]:
    """The problem as the benchmark poses it, and the eigenvalues and eigenvectors of A + eps I in float64."""
    case = make_case("inverse_root", problem=problem, m=n, n=n, p=2, precision="fp32")
    operands = pose(problem, case, seed=seed, device=GPU)
    values, V = torch.linalg.eigh(operands.A.double())
    return operands, values + operands.eps, V


def error(problem: str, n: int, p: int, precision: str, seed: int) -> float:
    """||X - A^(-1/p)||_F / ||A^(-1/p)||_F."""
    operands, values, V = posed(problem, n, seed)
    ops, spec = make_ops(precision, GPU, "graph"), get_method("inverse_root", "graded_pe")
    with ops.arithmetic():
        X = spec.function(Operands(A=operands.A, p=p, eps=operands.eps), ops, spec.options())
    exact = (V * values.pow(-1.0 / p)) @ V.mT
    return float((X.double() - exact).norm() / exact.norm())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize(
    ("problem", "precision", "limit"),
    [("logspace_1e4", "fp16", 1e-3), ("power_law", "fp16", 2e-3), ("logspace_1e4", "bf16", 8e-3)],
)
@pytest.mark.parametrize("n", [512, 1024, 2048])
def test_median_error(problem: str, precision: str, limit: float, n: int, record_property: Property) -> None:
    errors = {p: statistics.median(error(problem, n, p, precision, seed) for seed in SEEDS) for p in (1, 2, 4, 8)}
    for p, median in errors.items():
        record_property(f"p={p}", f"{median:.2e}")
    assert max(errors.values()) <= limit


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("normalisation", ["square", "schatten8"])
def test_three_polar_steps_do_what_five_do_after_frobenius(normalisation: str, record_property: Property) -> None:
    """||X X^T - I||_F / sqrt(n) on Gaussian 1024 x 1024 in bfloat16: 0.20 after five Polar Express steps."""
    operands = pose("gaussian", make_case("polar", problem="gaussian", m=1024, n=1024), seed=0, device=GPU)
    ops, spec = make_ops("bf16", GPU, "graph"), get_method("polar", "polar_express")
    options = spec.make_options({"steps": 3, "lower": 0.03, "cushion": 0.0, "normalisation": normalisation})
    with ops.arithmetic():
        X = spec.function(Operands(A=operands.A.to(torch.bfloat16)), ops, options).double()
    found = float((X @ X.mT - torch.eye(1024, device=GPU)).norm() / 32.0)
    record_property("orthogonality", f"{found:.3f}")
    assert found <= 0.20
