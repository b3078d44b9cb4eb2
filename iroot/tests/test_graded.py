"""What the graded methods share: exact linear terms, promoted sums, and their costs."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from iroot.errors import InvalidInputError
from iroot.graded_steps import word_steps
from iroot.methods._graded import Graded, GradedOptions, Word, find_schedule, value
from iroot.methods._spd import Interval
from iroot.methods.apply_hybrid import HybridOptions, find_plan
from iroot.ops import make_ops
from iroot.precision import get_precision
from iroot.registry import MethodSpec, Operands, Workload, get_method
from iroot.scaled_ops import Float8Ops
from iroot.schedules import Design, schedule_for
from iroot.tests.test_inverse_apply import distance, exact, posed
from iroot.torch_ops import EmulatedOps

CPU = torch.device("cpu")
ROOT = get_method("inverse_root", "graded_pe")
APPLY = get_method("inverse_apply", "graded_pe")
HYBRID = get_method("inverse_apply", "hybrid")


class TruncatingOps(EmulatedOps):
    """float16 products whose running sum is cut to 20 bits after every 16 columns, as a tensor core cuts its own."""

    def matmul_wide(self, A: Tensor, B: Tensor) -> Tensor:
        total = torch.zeros(A.shape[-2], B.shape[-1], dtype=torch.float64)
        for k in range(0, A.shape[-1], 16):
            total += A[:, k : k + 16] @ B[k : k + 16]
            total.view(torch.int64).bitwise_and_(-(1 << 33))
        return total.float()


def test_promoted_sums_restore_what_a_truncating_accumulator_loses() -> None:
    """p = 1, kappa 1e4: the cut is relative to the largest eigenvalue, and 1 / lambda shows all of it."""
    A, _ = posed(160, 1, 1e4)
    operands = Operands(A=A.float(), p=1, lower=0.99e-4)
    cutting, whole = TruncatingOps(get_precision("fp16_emulated"), CPU), make_ops("fp16_emulated", CPU)
    reference = exact(A, torch.eye(160, dtype=torch.float64), 1)

    def error(ops: EmulatedOps, promote_k: int) -> float:
        return distance(ROOT.function(operands, ops, ROOT.make_options({"promote_k": promote_k})), reference)

    assert isinstance(whole, EmulatedOps)
    assert error(cutting, 0) > 2.0 * error(whole, 0)
    assert error(cutting, 16) < 1.3 * error(whole, 0)
    assert error(whole, 16) == pytest.approx(error(whole, 0), rel=0.05)


def test_sums_are_short_where_eigenvalues_are_small() -> None:
    """Of the first steps of far bounds, most at p = 1, and of none where the spectrum is narrow."""

    def sums(p: int, lower: float) -> list[int]:
        schedule = find_schedule(Interval(lower=lower, headroom=0.0), p, 2.0**-11, GradedOptions())
        return [step.promote_k for step in word_steps(schedule)]

    assert sums(2, 1e-2) == [512] * 4
    assert sums(2, 1e-4) == [64] + [512] * 4
    assert sums(1, 1e-6) == [32] * 2 + [64] * 2 + [128] + [512] * 4
    for p in (1, 2, 4, 8):
        assert sums(p, 1e-6) == sorted(sums(p, 1e-6))
    steps = word_steps(schedule_for(Design(p=1, lower=1e-6), target=1e-3), promote_k=100)
    assert {step.promote_k for step in steps} == {100}


@pytest.mark.parametrize("promote_k", [None, 0, 16, 32, 100])
def test_promoted_matmul_is_the_product(promote_k: int | None) -> None:
    generator = torch.Generator().manual_seed(0)
    A, B = torch.randn(2, 40, 40, generator=generator), torch.randn(2, 40, 40, generator=generator)
    torch.testing.assert_close(Graded(make_ops("fp32", CPU), promote_k).promoted_matmul(A, B), A @ B)


def test_a_split_matrix_and_its_products_keep_the_scalar_part_exact() -> None:
    graded = Graded(make_ops("bf16_emulated", CPU), 0)
    A = 3.0 * torch.eye(8) + 1e-3 * posed(8, 1, 10.0)[0].float()
    word = graded.split(A)
    assert word.shift.shape == (1, 1)
    torch.testing.assert_close(value(word), A, rtol=0, atol=1e-5)
    scalar = Word(shift=torch.full((1, 1), 0.7), word=torch.zeros(8, 8))
    Z = torch.logspace(-6, 6, 24).reshape(8, 3)
    assert torch.equal(graded.apply(scalar, Z), 0.7 * Z)


@pytest.mark.parametrize("precision", ["fp16_emulated", "bf16_emulated"])
@pytest.mark.parametrize("p", [1, 2, 4])
@pytest.mark.parametrize("method", [APPLY, HYBRID], ids=lambda spec: spec.name)
def test_float32_class_errors_at_kappa_1e4(method: MethodSpec, p: int, precision: str) -> None:
    A, B = posed(96, 8, 1e4)
    ops = make_ops(precision, CPU)
    Z = method.function(Operands(A=A.float(), B=B.float(), p=p, lower=0.99e-4), ops, method.options())
    assert distance(Z, exact(A, B, p)) < (1.2e-3 if precision == "fp16_emulated" else 1e-2)


def test_both_ways_of_graded_pe_to_the_block_agree() -> None:
    A, B = posed(32, 32, 300.0)
    ops = make_ops("fp16_emulated", CPU)
    wide = Operands(A=A.float(), B=B.float(), p=3, lower=0.0033)
    narrow = replace(wide, B=B[:, :2].float())
    first, second = (APPLY.function(operands, ops, APPLY.options()) for operands in (wide, narrow))
    assert distance(first[:, :2], second.double()) < 2e-3


def test_hybrid_takes_the_fewest_steps_that_leave_the_degree() -> None:
    interval = Interval(lower=1e-4, headroom=0.0)
    degrees = []
    for limit in (8, 32, 120):
        plan = find_plan(interval, 2, 2.0**-11, HybridOptions(max_degree=limit, target=1e-3))
        degrees.append((len(plan.steps), plan.polynomial.degree))
        assert plan.polynomial.error <= 1e-3
        assert plan.polynomial.degree <= limit + 4
    # Two steps leave degree 25 to 29.
    assert [steps for steps, _ in degrees] == sorted((steps for steps, _ in degrees), reverse=True)
    assert degrees[1][0] == 2
    assert 25 <= degrees[1][1] <= 32


def test_costs_of_the_applies() -> None:
    """Narrow blocks: the hybrid saves steps; both cost less than forming the root and applying it."""

    def flops(method: MethodSpec, k: int) -> float:
        return method.flops(Workload(m=1024, n=1024, k=k, p=2, precision="fp16", lower=1e-4), method.options())

    root = ROOT.flops(Workload(m=1024, n=1024, p=2, precision="fp16", lower=1e-4), ROOT.options())
    assert flops(HYBRID, 16) < 0.75 * flops(APPLY, 16)
    assert flops(APPLY, 16) < root + 2 * 1024**2 * 16
    assert flops(APPLY, 1024) == root + 2 * 1024**3


def half_small(n: int, kappa: float) -> Tensor:
    """The hardest spectrum in 8 bits: half of the eigenvalues 1 / kappa, the others 1."""
    Q, _ = torch.linalg.qr(torch.randn(n, n, generator=torch.Generator().manual_seed(7), dtype=torch.float64))
    eigenvalues = torch.ones(n, dtype=torch.float64)
    eigenvalues[: n // 2] = 1.0 / kappa
    A: Tensor = (Q * eigenvalues) @ Q.mT
    return A


@pytest.mark.parametrize("kappa", [1e1, 1e2, 1e3])
@pytest.mark.parametrize("p", [1, 2, 4])
def test_8_bit_words_reach_7e_2_on_log_spaced_spectra(p: int, kappa: float) -> None:
    A, B = posed(128, 8, kappa)
    ops, operands = make_ops("fp8_e4m3_emulated", CPU), Operands(A=A.float(), B=B.float(), p=p, lower=0.99 / kappa)
    assert distance(ROOT.function(operands, ops, ROOT.options()), exact(A, torch.eye(128).double(), p)) < 7e-2
    assert distance(APPLY.function(operands, ops, APPLY.options()), exact(A, B, p)) < 7e-2


@pytest.mark.parametrize("kappa", [30.0, 300.0, 600.0])
@pytest.mark.parametrize("p", [1, 2, 4])
def test_8_bit_words_keep_what_is_stated_on_the_hardest_spectrum(p: int, kappa: float) -> None:
    A = half_small(128, kappa)
    ops, workload = (
        make_ops("fp8_e4m3_emulated", CPU),
        Workload(m=128, n=128, p=p, precision="fp8_e4m3_emulated", lower=1.0 / kappa),
    )
    stated = ROOT.accuracy(workload, ROOT.options())
    assert stated is not None
    X = ROOT.function(Operands(A=A.float(), p=p, lower=1.0 / kappa), ops, ROOT.options())
    assert distance(X, exact(A, torch.eye(128).double(), p)) < stated
    assert ROOT.accuracy(replace(workload, lower=1e-3), ROOT.options()) is None


def test_8_bit_products_multiply_words_and_their_parts_as_they_are() -> None:
    """What a second rounding would cost: every product would see another word than the scalar terms do."""
    for ops in (make_ops("fp8_e4m3_emulated", CPU), Float8Ops(get_precision("fp8_e4m3"), CPU)):
        A, B = (ops.cast_word(posed(64, 1, kappa)[0].float()) for kappa in (10.0, 1e3))
        assert torch.equal(ops.cast_word(A), A)
        expected = A.double() @ B.double()
        for promote_k in (0, 16, 48):
            product = Graded(ops, promote_k).promoted_matmul(A, B)
            assert product.dtype == torch.float32
            torch.testing.assert_close(product.double(), expected, rtol=1e-5, atol=1e-6)


def test_8_bit_tensor_cores_give_what_the_emulation_gives() -> None:
    A, _ = posed(64, 1, 1e2)
    operands, native = Operands(A=A.float(), p=2, lower=0.0099), Float8Ops(get_precision("fp8_e4m3"), CPU)
    first, second = (
        ROOT.function(operands, ops, ROOT.options()) for ops in (native, make_ops("fp8_e4m3_emulated", CPU))
    )
    # The scaling's square is rounded differently, and then the words are.
    assert distance(first, second.double()) < 3e-2
    assert distance(first, exact(A, torch.eye(64).double(), 2)) < 7e-2


def test_16_bit_schedules_are_those_of_a_roundoff_of_zero() -> None:
    for precision in ("fp16", "bf16"):
        u = get_precision(precision).unit_roundoff
        for p in (1, 2, 4):
            found, plain = (
                find_schedule(Interval(lower=1e-3, headroom=0.0), p, each, GradedOptions()) for each in (u, 0.0)
            )
            assert found == plain


@pytest.mark.parametrize("values", [{"promote_k": 8}, {"promote_k": -1}, {"min_cushion": 0.7}])
@pytest.mark.parametrize("method", [ROOT, APPLY, HYBRID], ids=lambda spec: f"{spec.task}-{spec.name}")
def test_wrong_options(method: MethodSpec, values: dict[str, object]) -> None:
    with pytest.raises(InvalidInputError, match=next(iter(values))):
        method.make_options(values)
    if method is HYBRID:
        with pytest.raises(InvalidInputError, match="max_degree"):
            method.make_options({"max_degree": 1})


def test_a_loose_bound_does_not_diverge() -> None:
    """No ratio known to the caller and eigenvalues at the upper edge: an error of 55 without deflation."""
    A, _ = posed(256, 1, 1e4)
    X = ROOT.function(Operands(A=A.float(), p=1), make_ops("bf16_emulated", CPU), ROOT.options())
    assert distance(X, exact(A, torch.eye(256, dtype=torch.float64), 1)) < 2e-2
