"""What `iroot.tiers` states is kept: fewer steps where rtol leaves room, and bounds beyond 1e5 with an exact trace."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from iroot import tiers
from iroot.graded_steps import sum_for
from iroot.methods._graded import Graded, Word
from iroot.ops import make_ops
from iroot.planning import Choice, Demand, choose
from iroot.registry import Operands, Workload
from iroot.schedules import Step
from iroot.tests import tensor_cores

CPU = torch.device("cpu")


def posed(n: int, kappa: float, *, small: int) -> tuple[Tensor, Tensor, Tensor]:
    """A matrix with `small` eigenvalues 1 / kappa, the others 1; its eigenvalues and vectors."""
    values = torch.ones(n, dtype=torch.float64)
    values[:small] = 1.0 / kappa
    Q, _ = torch.linalg.qr(torch.randn(n, n, dtype=torch.float64, generator=torch.Generator().manual_seed(n)))
    A = ((Q * values) @ Q.mT).float()
    return A, *torch.linalg.eigh(0.5 * (A + A.mT).double())


def chosen(n: int, kappa: float, p: int, rtol: float, capability: tuple[int, int] | None = None) -> Choice:
    device = CPU if capability is None else torch.device("cuda")
    return choose(
        Demand(
            task="inverse_root", workload=Workload(m=n, n=n, precision="auto", p=p, lower=0.99 / kappa), rtol=rtol,
            device=device, method="auto" if capability else "graded_pe", options=None, capability=capability,
            precision="auto" if capability else "fp16_emulated",
        )
    )  # fmt: skip


def error_of(choice: Choice, kappa: float, *, small: int) -> float:
    n, p = choice.workload.n, choice.workload.p
    assert p is not None
    A, values, vectors = posed(n, kappa, small=small)
    operands = Operands(A=A, p=p, lower=choice.workload.lower)
    X = choice.spec.function(operands, make_ops("fp16_emulated", CPU), choice.options)
    exact = (vectors * values ** (-1.0 / p)) @ vectors.mT
    return float(torch.linalg.matrix_norm(X.double() - exact) / torch.linalg.matrix_norm(exact))


@pytest.mark.parametrize("p", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("kappa", [1e2, 1e3, 5e3, 1e4])
def test_coarser_rtols_take_fewer_steps_and_are_kept(kappa: float, p: int) -> None:
    steps = []
    for rtol in (1e-1, 1e-2, 1e-3):
        choice = chosen(128, kappa, p, rtol)
        assert choice.stated is not None
        assert error_of(choice, kappa, small=64) <= choice.stated <= rtol
        assert choice.steps is not None
        steps.append(choice.steps)
    assert steps == sorted(steps)
    assert steps[0] < steps[-1]


def test_narrow_cushions_are_taken_only_for_fewer_steps_and_are_charged() -> None:
    """kappa 1e4, p = 2: at rtol 0.01 a quarter of the cushion saves a step of six, at 0.1 the whole one does."""
    fine, middle, coarse = (chosen(1024, 1e4, 2, rtol) for rtol in (1e-3, 1e-2, 1e-1))
    assert (fine.steps, middle.steps, coarse.steps) == (6, 5, 5)
    assert [choice.options.min_cushion for choice in (fine, middle, coarse)] == [0.05, 0.0125, 0.05]
    whole = tiers.graded_error(
        middle.spec, middle.workload, middle.spec.make_options({"target": 1e-4, "min_cushion": 0.05}), exact_trace=True
    )
    assert whole is not None
    assert middle.stated == pytest.approx(4.0 * whole + float(middle.options.target) - 0.2 * whole)
    assert not tiers.has_tier(middle.spec, middle.workload, middle.spec.make_options({"min_cushion": 0.005}))


def cut_product(A: Tensor, B: Tensor, columns: int) -> Tensor:
    """A B in sums that are cut as tensor cores cut theirs, its trace put right, as the fused kernels do."""
    n = len(A)
    products = (A.float()[:, None, :] * B.float().mT[None, :, :]).reshape(n * n, -1)
    total = torch.zeros(n, n)
    for start in range(0, n, columns):
        total += tensor_cores.sums(products[:, start : start + columns]).float().reshape(n, n)
    lost = (A.double() * B.double().mT).sum() - total.diagonal().double().sum()
    total.diagonal().add_(lost.float() / len(total))
    return total


@pytest.fixture
def cut_sums(monkeypatch: pytest.MonkeyPatch) -> None:
    """Y W as the fused kernels compute it, in sums as short as they take them; elsewhere cuts change no error."""
    composed = Graded.next_iterate

    def as_fused(graded: Graded, Y: Tensor, B: Word, step: Step) -> Tensor:
        return composed(replace(graded, promote_k=sum_for(step.p, step.true_lower)), Y, B, step)

    monkeypatch.setattr(Graded, "next_iterate", as_fused)
    monkeypatch.setattr(Graded, "promoted_matmul", lambda graded, A, B: cut_product(A, B, graded.promote_k))


@pytest.mark.usefixtures("cut_sums")
@pytest.mark.parametrize("small", [1, 64])
@pytest.mark.parametrize(("p", "kappa"), [(1, 5e5), (2, 1e6), (4, 2e5)])
def test_far_bounds_hold_in_cut_sums_with_an_exact_trace(p: int, kappa: float, small: int) -> None:
    choice = chosen(128, kappa, p, 1e-1)
    assert choice.stated is not None
    assert choice.stated <= 1e-1
    error = error_of(choice, kappa, small=small)
    assert 0.05 * choice.stated < error <= choice.stated


@pytest.mark.usefixtures("cut_sums")
def test_an_isolated_eigenvalue_shows_what_sums_lose(monkeypatch: pytest.MonkeyPatch) -> None:
    """p = 1, kappa 1e4: sums of all columns give more than three times the error."""
    choice = chosen(128, 1e4, 1, 1e-3)
    needed = error_of(choice, 1e4, small=1)
    monkeypatch.setattr(Graded, "promoted_matmul", lambda graded, A, B: cut_product(A, B, len(A)))
    assert error_of(choice, 1e4, small=1) > 3.0 * needed


def test_far_bounds_are_of_devices_whose_kernels_keep_the_trace() -> None:
    kept, cut = (chosen(512, 5e5, 2, 1e-1, capability) for capability in ((9, 0), (8, 9)))
    assert (kept.spec.name, kept.precision) == ("graded_pe", "fp16")
    assert (cut.spec.name, cut.precision) == ("coupled_pe", "fp32")
    assert chosen(512, 5e5, 2, 1e-3, (9, 0)).precision == "fp64"
    assert chosen(512, 2e6, 2, 1e-1, (9, 0)).precision == "fp64"
    assert chosen(96, 5e5, 2, 1e-1, (9, 0)).precision == "fp64"
