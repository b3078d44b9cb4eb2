"""What tensor cores cut off their sums, what it does to roots in two words, and what an exact diagonal leaves of it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import iroot
from iroot import split_ops
from iroot.precision import get_precision
from iroot.registry import Operands
from iroot.schedules import Design, schedule_for
from iroot.split_ops import SplitOps
from iroot.tests import tensor_cores
from iroot.tests.test_split_ops import CPU, ROOT, gaussian, judged, posed, relative

FP16X3 = get_precision("fp16x3_emulated")


class OwnDiagonal(SplitOps):
    """A column of zeros more: no result is square, and every diagonal is what the tensor cores make of it."""

    def _multiply_add(
        self, A: Tensor, B: Tensor, C: Tensor | None, alpha: float, beta: float, *, identity: float = 0.0
    ) -> Tensor:
        wider = torch.nn.functional.pad(B, (0, 1))
        total = super()._multiply_add(A, wider, None, alpha, beta)[..., :-1]
        total.diagonal(dim1=-2, dim2=-1).add_(identity)
        return total if C is None else total.add_(C, alpha=beta)


def first_step(n: int, *, shift: bool) -> tuple[Tensor, Tensor, Tensor]:
    """float16 words of Y and W = q(Y)^2 for p = 2, kappa 1e4, less their mean eigenvalue or not, and the basis."""
    Q, _ = torch.linalg.qr(gaussian(n, n, seed=n).double())
    y = torch.logspace(0, -4, n, dtype=torch.float64)
    design = Design(p=2, lower=0.95e-4, headroom=0.0, degrees=(2,) * 12)
    a, b, c = schedule_for(design, target=1e-6, min_cushion=0.03).steps[0].monomial
    words = []
    for values in (y, (a + b * y + c * y * y) ** 2):
        M = (Q * (values - values.mean() if shift else values)) @ Q.mT
        words.append((M / M.abs().max()).half().double())
    return words[0], words[1], Q


def lost_per_column(found: Tensor, exact: Tensor, depth: int) -> float:
    return float((found - exact) @ exact / (exact @ exact)) / depth


def test_the_model_cuts_off_what_was_measured() -> None:
    """H100, Y W of a first step, 1024 columns: -4.2e-9 of an entry per column on the diagonal, -1.1e-9 off it."""
    n = 1024
    Y, W, _ = first_step(n, shift=True)
    i, j = torch.randint(n, (2, 4000), generator=torch.Generator().manual_seed(0))
    i, j = i[i != j], j[i != j]
    on, off = Y * W.mT, Y[i] * W[:, j].mT
    assert -5e-9 < lost_per_column(tensor_cores.sums(on), on.sum(-1), n) < -4e-9
    assert -1.3e-9 < lost_per_column(tensor_cores.sums(off), off.sum(-1), n) < -0.9e-9


def test_a_product_loses_what_its_sums_lose_in_the_mean() -> None:
    n = 256
    Y, W, _ = first_step(n, shift=False)
    loss = tensor_cores.product(Y, W).double() - Y @ W
    diagonal = Y * W.mT
    cut = tensor_cores.sums(diagonal) - diagonal.sum(-1)
    assert float(loss.diagonal().mean()) == pytest.approx(float(cut.mean()), rel=0.3)
    assert float(cut.mean()) > 0  # most products are negative, and cut towards zero


def test_an_exact_diagonal_takes_the_shift_off_the_smallest_eigenvalues(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(split_ops, "wide_product", tensor_cores.product)
    Y, W, Q = first_step(256, shift=False)
    V = Q[:, -20:]
    shifts = []
    for ops in (OwnDiagonal(FP16X3, CPU, promote_k=0), SplitOps(FP16X3, CPU, promote_k=0)):
        E = ops.matmul(Y.float(), W.float()).double() - Y @ W
        shifts.append(float(torch.trace(V.mT @ E @ V) / torch.trace(V.mT @ Y @ W @ V)))
    assert abs(shifts[0]) > 2e-4
    assert abs(shifts[1]) < 0.2 * abs(shifts[0])


@pytest.mark.parametrize("p", [1, 2, 4, 8])
def test_a_root_in_cut_sums(p: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(split_ops, "wide_product", tensor_cores.product)
    A, values, V = posed(256, 1e4)

    def root(ops: SplitOps) -> tuple[float, float]:
        options = ROOT.make_options({"min_cushion": 0.03})
        return judged(A, values, V, p, ROOT.function(Operands(A=A, p=p, lower=0.95e-4), ops, options))

    error, residual = root(SplitOps(FP16X3, CPU))
    assert error <= (1.2e-4 if p == 1 else 6e-5)
    assert residual <= 1e-3
    before, residual_before = root(OwnDiagonal(FP16X3, CPU, promote_k=256))
    assert before > 5 * error
    assert p != 1 or before > 8e-4
    assert p != 8 or residual_before > 5e-3


@pytest.mark.parametrize("p", [1, 2, 8])
def test_stated_accuracies_hold_in_cut_sums(p: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of the eigenvalues small: the mean, and so the shift, is largest."""
    monkeypatch.setattr(split_ops, "wide_product", tensor_cores.product)
    n = 192
    Q, _ = torch.linalg.qr(gaussian(n, n).double())
    values = torch.tensor([1.0] * (n // 2) + [1e-4] * (n // 2), dtype=torch.float64)
    A = (Q * values) @ Q.mT
    result = iroot.inverse_root(A, p, rtol=3e-4, method="coupled_pe", precision="fp16x3_emulated", lower=1e-4)
    assert result.stated_accuracy is not None
    assert relative(result.value, (Q * values ** (-1.0 / p)) @ Q.mT) <= result.stated_accuracy
