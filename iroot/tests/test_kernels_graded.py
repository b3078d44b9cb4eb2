"""The graded steps in kernels against float64, on the GPU, or without one in Triton's interpreter on tiny tiles."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from iroot.errors import InvalidInputError
from iroot.graded_steps import WordStep, word_steps
from iroot.kernels.tiling import Tiling
from iroot.methods._graded import GradedOptions
from iroot.methods.graded_pe import fused_root
from iroot.precision import Precision, get_precision
from iroot.registry import Operands, get_method
from iroot.schedules import Design, schedule_for
from iroot.torch_ops import FloatingOps

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
if DEVICE.type == "cpu":  # read when the kernels are defined, and again when they run
    os.environ["TRITON_INTERPRET"] = "1"
from iroot import triton_ops  # noqa: E402
from iroot.kernels.graded_root import GradedPlan, graded_root, promoted, square_bound, variants  # noqa: E402
from iroot.triton_ops import TritonOps  # noqa: E402

TINY = Tiling(block=32, tail=16, block_k=32, warps=4, stages=2)
PLAIN = Tiling(block=64, tail=0, block_k=64, warps=4, stages=2)
PLANS = (
    (
        GradedPlan(tiling=TINY, update=TINY),
        GradedPlan(tiling=PLAIN, update=PLAIN, symmetrised=True),
    )
    if DEVICE.type == "cpu"
    else (None,)
)


@pytest.fixture(autouse=True)
def _poisoned_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.empty returns NaN, so that an element nobody writes shows."""
    empty = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *size, **options: empty(*size, **options).fill_(torch.nan))


def posed(shape: tuple[int, ...], kappa: float, p: int) -> tuple[Tensor, Tensor]:
    """A log-spaced matrix with lambda_max = 1 in float64, and its inverse p-th root."""
    n = shape[-1]
    generator = torch.Generator().manual_seed(n)
    Q = torch.linalg.qr(torch.randn(*shape, n, generator=generator, dtype=torch.float64)).Q
    values = torch.logspace(0, -torch.log10(torch.tensor(kappa)).item(), n, dtype=torch.float64)
    return ((Q * values) @ Q.mT).to(DEVICE), ((Q * values ** (-1.0 / p)) @ Q.mT).to(DEVICE)


def error(X: Tensor, exact: Tensor) -> float:
    return float(((X.double() - exact).norm(dim=(-2, -1)) / exact.norm(dim=(-2, -1))).max())


@pytest.mark.parametrize("p", [1, 2, 3, 4, 5, 6, 7])
def test_roots(p: int) -> None:
    """Every way through binary exponentiation; interpreted tiles are slow, so that each root takes one plan."""
    plan = PLANS[(p + 1) % len(PLANS)]
    A, exact = posed((50,), 1e3, p)
    schedule = schedule_for(Design(p=p, lower=0.9e-3), target=2e-4, min_cushion=0.03)
    scale = torch.full((1, 1), 1.05, device=DEVICE)
    steps = word_steps(schedule, promote_k=(32, 0)[p % 2])
    X = graded_root(A.float(), scale, steps, p=p, plan=plan)
    assert X.dtype == torch.float32
    assert torch.equal(X, X.mT)
    assert error(X, exact) < 1e-3
    if p <= 2:
        assert torch.equal(X, graded_root(A.float(), scale, steps, p=p, plan=plan))


@pytest.mark.parametrize("plan", PLANS, ids=str)
def test_a_stack_with_a_damping_and_scales_of_its_own(plan: GradedPlan | None) -> None:
    A, _ = posed((2, 65), 1e2, 2)
    A = A * torch.tensor([1e-6, 1e5], dtype=torch.float64, device=DEVICE)[:, None, None]
    scale = 1.1 * torch.linalg.matrix_norm(A, ord=2).float()[:, None, None]
    eps = 1e-9
    exact = _root(A + eps * torch.eye(65, dtype=torch.float64, device=DEVICE), 2)
    schedule = schedule_for(Design(p=2, lower=0.8e-2), target=2e-4, min_cushion=0.03)
    X = graded_root(A.float().mT, scale, word_steps(schedule, promote_k=16), p=2, eps=eps, plan=plan)
    assert error(X, exact) < 1e-3


def test_one_step_and_a_factor_on_x() -> None:
    A, exact = posed((40,), 1.5, 1)
    schedule = schedule_for(Design(p=1, lower=0.6), target=1e-2)
    steps = word_steps(schedule)
    X = graded_root(A.float(), torch.ones(1, 1, device=DEVICE), steps, p=1, plan=PLANS[0])
    assert error(X, exact) < 1.2e-2
    steps = word_steps(schedule_for(Design(p=1, lower=0.6), target=1e-4))
    assert len(steps) > 1
    halved = [replace(step, factor=0.5) for step in steps]
    X = graded_root(A.float(), torch.ones(1, 1, device=DEVICE), halved, p=1, plan=PLANS[0])
    assert error(X * 2.0 ** (len(steps) - 1), exact) < 1e-3


def _root(A: Tensor, p: int) -> Tensor:
    values, Q = torch.linalg.eigh(A)
    root: Tensor = (Q * values[..., None, :] ** (-1.0 / p)) @ Q.mT
    return root


@pytest.mark.parametrize("n", [1, 65])
def test_the_bound_of_the_square(n: int) -> None:
    A = torch.stack([posed((n,), 1e4, 2)[0], 1e6 * torch.eye(n, dtype=torch.float64, device=DEVICE)])
    A[1, 0, 0] *= 3.0
    eps = 1e-3
    M = A + eps * torch.eye(n, dtype=torch.float64, device=DEVICE)
    square = M @ M
    exact = torch.minimum(torch.linalg.matrix_norm(square), square.abs().sum(-1).amax(-1)).sqrt()
    bound = square_bound(A.float(), eps=eps)
    assert bound.shape == (2, 1, 1)
    torch.testing.assert_close(bound.flatten().double(), exact, rtol=2e-3, atol=0)
    slack = 1.0 + 4.0 * 2.0**-11
    assert bool((square_bound(A.float(), eps=eps, slack=slack).flatten() >= torch.linalg.matrix_norm(M, ord=2)).all())


@pytest.mark.parametrize(("asked", "block_k", "promote_k"), [(0, 32, 0), (16, 16, 16), (50, 32, 64), (512, 32, 512)])
def test_sums_are_whole_blocks(asked: int, block_k: int, promote_k: int) -> None:
    tiling = promoted(TINY, asked)
    assert (tiling.block_k, tiling.promote_k) == (block_k, promote_k)


def test_sums_of_another_length_are_another_kernel() -> None:
    """Inside a capture nothing may be compiled: what was seen must name every kernel, and no more."""
    steps = word_steps(schedule_for(Design(p=2, lower=1e-4), target=2e-4))
    assert [step.promote_k for step in steps] == [64] + [512] * (len(steps) - 1)
    assert variants(steps) == variants((steps[0], *steps[1:2] * 3, steps[-1]))
    assert variants(steps) != variants(tuple(replace(step, promote_k=256) for step in steps))
    assert variants(steps) != variants((steps[0], steps[0], *steps[2:]))
    assert variants(steps[:2]) != variants(steps[:1])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("promote_k", [256, 128, 64, 32])
@pytest.mark.parametrize("n", [512, 2048])
def test_short_sums_lose_less(n: int, promote_k: int) -> None:
    """One eigenvalue 1e-4, the others 1, p = 1: 2.5e-2 with 512 columns per sum, 5.0e-3 with 128 (H100, 2026-11-23)."""
    v = torch.randn(n, 1, generator=torch.Generator().manual_seed(n), dtype=torch.float64).to(DEVICE)
    A = torch.eye(n, dtype=torch.float64, device=DEVICE) - (1.0 - 1e-4) * (v @ v.mT) / (v.mT @ v)
    exact = _root(A.float().double(), 1)
    schedule = schedule_for(Design(p=1, lower=0.9e-4), target=2e-4, min_cushion=0.1)
    scale = torch.full((1, 1), 1.05, device=DEVICE)
    longest, found = (
        error(graded_root(A.float(), scale, word_steps(schedule, promote_k=k), p=1), exact) for k in (512, promote_k)
    )
    assert longest > 1e-2
    assert found < 1.5 * promote_k / 512 * longest + 1e-3


def test_wrong_arguments() -> None:
    A, steps = torch.eye(4, device=DEVICE), [WordStep(chebyshev=(1.0, 0.0, 0.0), mid=0.5, radius=0.5, at_zero=1.0)]
    one = torch.ones(1, 1, device=DEVICE)
    with pytest.raises(InvalidInputError, match="float32"):
        graded_root(A.double(), one, steps, p=2)
    with pytest.raises(InvalidInputError, match="n, n"):
        graded_root(A[:3], one, steps, p=2)
    with pytest.raises(InvalidInputError, match="p must be"):
        graded_root(A, one, steps, p=0)
    with pytest.raises(InvalidInputError, match="steps"):
        graded_root(A, one, [], p=1)
    with pytest.raises(InvalidInputError, match="scale must hold 1"):
        graded_root(A, torch.ones(2, 1, 1, device=DEVICE), steps, p=1)
    with pytest.raises(InvalidInputError, match="words"):
        square_bound(A, dtype=torch.float32)


def test_methods_take_the_fused_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Inverse root, apply and Gram polar factor: as exact as without them, and no product of another kind is formed."""
    monkeypatch.setattr(triton_ops, "SMALLEST_FUSED", 16)
    ops, plain = (make(get_precision("fp16"), DEVICE) for make in (_free_ops, FloatingOps))
    A, exact = posed((48,), 1e2, 2)
    B = torch.randn(48, 5, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    operands = Operands(A=A.float(), B=B, p=2, lower=0.9e-2, eps=1e-6)
    root, apply = get_method("inverse_root", "graded_pe"), get_method("inverse_apply", "graded_pe")
    X = root.function(operands, ops, root.options())
    assert error(X, exact) < max(1e-3, 1.2 * error(root.function(operands, plain, root.options()), exact))
    Z = apply.function(operands, ops, apply.options())
    assert error(Z, exact @ B.double()) < 1e-3
    G = torch.randn(40, 72, generator=torch.Generator().manual_seed(1)).half().to(DEVICE)
    polar = get_method("polar", "graded_gram")
    U, _, V = torch.linalg.svd(G.double(), full_matrices=False)
    assert error(polar.function(Operands(A=G), ops, polar.options()), U @ V) < 5e-3
    assert not polar.function(Operands(A=torch.zeros_like(G)), ops, polar.options()).any()


def test_an_option_and_a_dtype_do_without_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_ops, "SMALLEST_FUSED", 16)
    ops, A = _free_ops(get_precision("fp16"), DEVICE), posed((32,), 10.0, 2)[0]
    assert ops.square_bound(A, eps=0.0) is None
    assert ops.square_bound(A.float(), eps=0.0) is not None
    assert ops.square_bound(A.float()[:8, :8], eps=0.0) is None
    assert fused_root(Operands(A=A.float(), p=2, lower=0.09), ops, GradedOptions(promote_k=0)) is None
    assert fused_root(Operands(A=A.float(), p=2, lower=0.09), ops, GradedOptions(scaling="trace")) is None
    counted = TritonOps(get_precision("fp16"), DEVICE)
    assert counted.square_bound(A.float(), eps=0.0) is not None  # eager calls save launches too
    monkeypatch.setattr(counted, "_capturing", lambda: True)
    assert counted.square_bound(A.float(), eps=0.0) is not None
    assert counted.square_bound(A.float()[:24, :24], eps=0.0) is None  # nothing is compiled inside a capture


def _free_ops(precision: Precision, device: torch.device) -> TritonOps:
    return TritonOps(precision, device, launches="free")
