"""Refined references against arithmetic of 60 digits, and float64 decompositions against them."""

from __future__ import annotations

from fractions import Fraction
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from harness.judge import refined
from harness.judge.cache import TensorCache
from harness.judge.metrics import measure_quality
from harness.judge.pairs import Pair, add_product, exact_sum, pair
from harness.judge.problems import pose
from harness.judge.references import DirectReference, SpectralReference, polar_factor, reference
from harness.judge.refined import RefinedReference, damped, damped_gram, refined_polar, refined_root
from harness.records import Case, Mode
from iroot.precision import PRECISIONS
from iroot.registry import Operands

mpmath = pytest.importorskip("mpmath")  # a dependency of torch's own

CPU = torch.device("cpu")
SEEN = 2.0**-56
"""An eighth of float64's rounding: what a refined reference may err by."""


@pytest.fixture(autouse=True)
def sixty_digits() -> Any:
    with mpmath.workdps(60):
        yield


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def graded(m: int, n: int, kappa: float, *, seed: int = 0) -> Tensor:
    """Log-spaced singular values."""
    k = min(m, n)
    left, right = torch.linalg.qr(random(m, k, seed=seed))[0], torch.linalg.qr(random(n, k, seed=seed + 1))[0]
    G: Tensor = left * kappa ** -torch.linspace(0, 1, k, dtype=torch.float64) @ right.mT
    return G


def spd(n: int, kappa: float) -> Tensor:
    Q, _ = torch.linalg.qr(random(n, n))
    A: Tensor = Q * kappa ** -torch.linspace(0, 1, n, dtype=torch.float64) @ Q.mT
    return (A + A.mT) / 2


def exact(A: Tensor | Pair) -> Any:
    if isinstance(A, Pair):
        return exact(A.high) + exact(A.low)
    return mpmath.matrix([[mpmath.mpf(value) for value in row] for row in A.tolist()])


def size(A: Any) -> Any:
    return mpmath.sqrt(sum(value * value for value in A))


def error(X: Tensor | Pair, truth: Any) -> float:
    return float(size(exact(X) - truth) / size(truth))


def true_power(A: Any, exponent: Any) -> Any:
    """A^exponent of a symmetric positive definite A."""
    values, vectors = mpmath.eigsy(A)
    return vectors * mpmath.diag([value**exponent for value in values]) * vectors.T


@cache
def true_root(n: int, kappa: float, p: int) -> Any:
    return true_power(exact(spd(n, kappa)), mpmath.mpf(-1) / p)


def true_polar(G: Tensor) -> Any:
    wide = exact(G)
    gram = wide.T * wide if G.shape[0] >= G.shape[1] else wide * wide.T
    root = true_power(gram, mpmath.mpf(-1) / 2)
    return wide * root if G.shape[0] >= G.shape[1] else root * wide


def make_case(task: str, **changes: object) -> Case:
    values: dict[str, object] = {
        "task": task, "method": "any", "precision": "fp64", "p": None if task in ("polar", "gemm") else 2, "m": 12,
        "n": 12, "k": None if task in ("inverse_root", "polar") else 3, "problem": "logspace_1e4", "mode": Mode.EAGER,
    }  # fmt: skip
    return Case.model_validate(values | changes)


def judged(case: Case, operands: Operands, result: Tensor) -> tuple[float, float]:
    """Relative error and residual (0 where there is none)."""
    truth = reference(case, operands, seed=0, cache=TensorCache(0))
    quality = measure_quality(case, operands, result, truth, seed=0)
    assert quality.relative_error is not None
    return quality.relative_error, quality.residual or 0.0


def by_eigh(A: Tensor, p: int) -> Tensor:
    values, vectors = torch.linalg.eigh(A)
    root: Tensor = vectors * values ** (-1 / p) @ vectors.mT
    return root


def test_a_product_of_pairs_has_eighty_bits() -> None:
    A = Pair(high=random(5, 9), low=random(5, 9, seed=1) * 2.0**-54)
    B = Pair(high=random(9, 4, seed=2), low=random(9, 4, seed=3) * 2.0**-54)
    C = random(5, 4, seed=4)
    found = add_product(pair(C), A, B)
    for i in range(5):
        for j in range(4):
            left = [Fraction(A.high[i, k].item()) + Fraction(A.low[i, k].item()) for k in range(9)]
            right = [Fraction(B.high[k, j].item()) + Fraction(B.low[k, j].item()) for k in range(9)]
            truth = Fraction(C[i, j].item()) + sum(a * b for a, b in zip(left, right, strict=True))
            value = Fraction(found.high[i, j].item()) + Fraction(found.low[i, j].item())
            assert abs(value - truth) < 2.0**-80 * sum(abs(a * b) for a, b in zip(left, right, strict=True))
    assert torch.equal(found.high, found.high + found.low)


def test_a_sum_keeps_what_rounding_loses() -> None:
    total, rest = exact_sum(torch.tensor([1.0], dtype=torch.float64), torch.tensor([2.0**-60], dtype=torch.float64))
    assert (total.item(), rest.item()) == (1.0, 2.0**-60)


@pytest.mark.parametrize("p", [1, 2, 3, 4, 8])
@pytest.mark.parametrize(("n", "kappa"), [(8, 1e2), (12, 1e5), (16, 1e8)])
def test_a_refined_root_is_the_root(n: int, kappa: float, p: int) -> None:
    A, truth = spd(n, kappa), true_root(n, kappa, p)
    values, vectors = torch.linalg.eigh(A)
    found = refined_root(damped(A, 0.0), p, eigenvalues=values, eigenvectors=vectors)
    assert found is not None
    assert error(found.root, truth) < SEEN
    assert torch.equal(found.root.high, found.root.high.mT)
    Z = random(n, 2)
    assert error(found.applied_root(Z), truth * exact(Z)) < SEEN
    image = true_power(exact(A), mpmath.mpf(1) / p) * exact(Z)
    assert error(found.inverted_root(Z), image) < SEEN


@pytest.mark.parametrize("p", [1, 2, 3, 4, 8])
def test_eigh_in_float64_is_charged_its_own_error(p: int) -> None:
    n, kappa = 16, 1e8
    A, truth = spd(n, kappa), true_root(n, kappa, p)
    X = by_eigh(A, p)
    found, residual = judged(make_case("inverse_root", m=n, n=n, p=p), Operands(A=A, p=p), X)
    assert found == pytest.approx(error(X, truth), rel=1e-6)
    assert 1e-12 < found < n * kappa * 2.0**-53
    rest = exact(X) ** p * exact(A) - mpmath.eye(n)
    assert residual == pytest.approx(float(size(rest)) / n**0.5, rel=1e-6)


@pytest.mark.parametrize("p", [1, 4])
def test_an_apply_is_charged_its_own_error(p: int) -> None:
    A, B = spd(12, 1e6), random(12, 3)
    Z = by_eigh(A, p) @ B
    found, residual = judged(make_case("inverse_apply", p=p), Operands(A=A, B=B, p=p), Z)
    truth = true_power(exact(A), mpmath.mpf(-1) / p) * exact(B)
    assert found == pytest.approx(error(Z, truth), rel=1e-6)
    image = true_power(exact(A), mpmath.mpf(1) / p) * exact(Z)
    assert residual == pytest.approx(float(size(image - exact(B)) / size(exact(B))), rel=1e-6)
    assert found > 1e-13


@pytest.mark.parametrize(("m", "n"), [(8, 12), (12, 8)])
def test_a_gram_matrix_is_not_rounded(m: int, n: int) -> None:
    """Its rounding alone moves (G^T G + eps I)^(-1/2) B by far more than a reference may err by."""
    G, B, eps = graded(m, n, 1e3), random(n, 3), 1e-7
    gram = G.mT @ G + eps * torch.eye(n, dtype=torch.float64)
    Z = by_eigh(gram, 2) @ B
    case = make_case("gram_apply", m=m, n=n)
    found, _ = judged(case, Operands(A=G, B=B, p=2, eps=eps), Z)
    truth = true_power(exact(G).T * exact(G) + mpmath.mpf(eps) * mpmath.eye(n), mpmath.mpf(-1) / 2) * exact(B)
    assert found == pytest.approx(error(Z, truth), rel=1e-6)
    assert found > 1e-14
    damped_exactly = exact(damped_gram(G, eps)) - exact(G).T * exact(G) - mpmath.mpf(eps) * mpmath.eye(n)
    assert size(damped_exactly) < 2.0**-80


@pytest.mark.parametrize(("m", "n"), [(12, 12), (14, 8), (8, 14)])
@pytest.mark.parametrize("kappa", [1e2, 1e8])
def test_svd_in_float64_is_charged_its_own_error(m: int, n: int, kappa: float) -> None:
    G = graded(m, n, kappa)
    truth, U = true_polar(G), polar_factor(G)
    closer = refined_polar(G, U)
    assert closer is not None
    assert error(closer, truth) < SEEN
    found, _ = judged(make_case("polar", m=m, n=n), Operands(A=G), U)
    assert found == pytest.approx(error(U, truth), rel=1e-6)
    assert found > 1e-16


def test_a_product_is_charged_its_own_error() -> None:
    A, B = random(12, 12), random(12, 3, seed=1)
    found, _ = judged(make_case("gemm", problem="gaussian"), Operands(A=A, B=B), A @ B)
    assert found == pytest.approx(error(A @ B, exact(A) * exact(B)), rel=1e-6)
    assert found > 1e-17


def test_each_matrix_of_a_stack_is_refined() -> None:
    stack = torch.stack([spd(8, 1e2), spd(8, 1e5)])
    values, vectors = torch.linalg.eigh(stack)
    found = refined_root(damped(stack, 0.0), 2, eigenvalues=values, eigenvectors=vectors)
    assert found is not None
    for i, kappa in enumerate((1e2, 1e5)):
        assert error(Pair(high=found.root.high[i], low=found.root.low[i]), true_root(8, kappa, 2)) < SEEN


def test_what_cannot_be_refined_keeps_the_plain_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    G = random(8, 8)
    G[1] = G[0]  # no unique polar factor
    truth = reference(make_case("polar", m=8, n=8), Operands(A=G), seed=0, cache=TensorCache(0))
    assert isinstance(truth, DirectReference)
    assert truth.low is None
    assert torch.equal(truth.value, polar_factor(G))
    far = torch.full((8,), 1e-3, dtype=torch.float64)  # no eigenvalues of it: the corrections grow
    vectors = torch.eye(8, dtype=torch.float64)
    assert refined_root(damped(spd(8, 1e2), 0.0), 2, eigenvalues=far, eigenvectors=vectors) is None
    monkeypatch.setattr(refined, "STEPS", 0)
    root = reference(make_case("inverse_root"), Operands(A=spd(12, 1e2), p=2), seed=0, cache=TensorCache(0))
    assert isinstance(root, SpectralReference)


@pytest.mark.parametrize("precision", [name for name in PRECISIONS if name != "fp64" and PRECISIONS[name].cpu])
def test_references_of_shorter_formats_are_plain_float64(precision: str) -> None:
    case = make_case("inverse_root", precision=precision, problem="wishart")
    operands = pose(case.problem, case, seed=0, device=CPU)
    root = reference(case, operands, seed=0, cache=TensorCache(0))
    assert isinstance(root, SpectralReference)
    values, vectors = torch.linalg.eigh(operands.A.double())
    assert torch.equal(root.eigenvalues, values)
    assert torch.equal(root.eigenvectors, vectors)
    case = make_case("polar", precision=precision, problem="gaussian")
    G = pose(case.problem, case, seed=0, device=CPU).A
    polar = reference(case, Operands(A=G), seed=0, cache=TensorCache(0))
    assert isinstance(polar, DirectReference)
    assert polar.low is None
    assert torch.equal(polar.value, polar_factor(G.double()))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_a_gpu_finds_the_same() -> None:
    case = make_case("inverse_root", m=700, n=700, problem="logspace_1e6")
    operands = pose(case.problem, case, seed=0, device=CPU)
    here = reference(case, operands, seed=0, cache=TensorCache(0))
    there = reference(case, Operands(A=operands.A.cuda(), p=2), seed=0, cache=TensorCache(0))
    assert isinstance(here, RefinedReference)
    assert isinstance(there, RefinedReference)
    gap = (there.root.high.cpu() - here.root.high) + (there.root.low.cpu() - here.root.low)
    assert float(gap.norm() / here.root.high.norm()) < 2 * SEEN
