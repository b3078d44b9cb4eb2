"""The split precisions: what two 16-bit words hold, what their three products leave out, and the roots they make."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from torch import Tensor

import iroot
from iroot import split_ops
from iroot.methods._spd import symmetric_products
from iroot.methods.coupled_pe import planned_schedule
from iroot.ops import make_ops
from iroot.precision import SPLIT, get_precision, unsupported_reason
from iroot.registry import Operands, Workload, get_method
from iroot.split_ops import SplitOps, Words
from iroot.tests import tensor_cores

CPU = torch.device("cpu")
GPU = torch.device("cuda" if torch.cuda.is_available() else "cpu")
EMULATED = ("bf16x3_emulated", "fp16x3_emulated")
ROOT = get_method("inverse_root", "coupled_pe")
# Of an entry, by two words; and what is left out of a product of two entries.
HELD = {"bf16x3_emulated": 2.0**-17, "fp16x3_emulated": 2.0**-23}


def split_of(name: str, promote_k: int | None = None) -> SplitOps:
    return SplitOps(get_precision(name), CPU, promote_k=promote_k)


def gaussian(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def held(ops: SplitOps, A: Tensor) -> Tensor:
    """What the words of A stand for, in float64."""
    words = ops.split(A)
    total = words.hi.double() + words.lo.double()
    return total if words.inverse is None else total * words.inverse.double()


def relative(C: Tensor, reference: Tensor) -> float:
    return float((C.double() - reference).norm() / reference.norm())


@pytest.mark.parametrize("name", EMULATED)
def test_two_words_hold_an_entry_to_twice_the_digits_of_one(name: str) -> None:
    A = torch.cat([gaussian(300, 300).abs() + 0.1, 1.0 + torch.arange(300.0)[:, None] * 2.0**-23 + gaussian(1, 300)])
    error = ((held(split_of(name), A) - A.double()).abs() / A.double().abs()).max()
    assert 0.9 * HELD[name] < error <= HELD[name]


@pytest.mark.parametrize("size", [1e-30, 1e-6, 1.0, 1e6, 1e30])
@pytest.mark.parametrize("name", EMULATED)
def test_the_size_of_a_matrix_does_not_matter_and_each_of_a_batch_has_its_own(name: str, size: float) -> None:
    A = gaussian(3, 40, 40) * torch.tensor([1.0, size, 1.0]).reshape(3, 1, 1)
    error = (held(split_of(name), A) - A.double()).norm(dim=(-2, -1)) / A.double().norm(dim=(-2, -1))
    assert error.max() < HELD[name]


def test_float16_words_are_scaled_by_a_power_of_two_into_their_range() -> None:
    ops = split_of("fp16x3_emulated")
    for size in (3e-7, 1.0, 2.0, 65504.0, 1e20):
        words = ops.split(torch.tensor([[size, -size / 3]]))
        assert words.inverse is not None
        assert float(torch.frexp(words.inverse).mantissa) == 0.5
        assert 2.0**14 <= float(words.hi.abs().max()) <= 2.0**15


def test_small_entries_are_right_relative_to_the_largest() -> None:
    A = gaussian(64, 64) * torch.logspace(0, -12, 64)
    A[0, 0] = 1.0
    error = (held(split_of("fp16x3_emulated"), A) - A.double()).abs()
    assert (error <= HELD["fp16x3_emulated"] * A.abs() + 2.0**-39 * A.abs().max()).all()


def test_without_the_scale_float16_loses_its_low_words(monkeypatch: pytest.MonkeyPatch) -> None:
    A = gaussian(64, 64) / 512
    reference, ops = A.double() @ A.double(), split_of("fp16x3_emulated")
    scaled = relative(ops.matmul(A, A), reference)
    monkeypatch.setattr(split_ops, "_scale", lambda A: torch.ones(1, 1))
    assert scaled < 2.0**-22
    assert relative(ops.matmul(A, A), reference) > 20 * scaled


@pytest.mark.parametrize("name", EMULATED)
def test_what_is_left_out_is_the_product_of_the_low_words(name: str) -> None:
    """Entries whose low words are largest and of one sign: the bound 2 u |A| |B| is approached."""
    u = get_precision(name).unit_roundoff
    A = torch.full((16, 16), 1.0 + 0.999 * u**0.5)
    excess = (split_of(name).matmul(A, A).double() - A.double() @ A.double()).abs() / (A.double() @ A.double())
    assert 0.4 * u < excess.max() <= 2 * u


@pytest.mark.parametrize("name", EMULATED)
def test_three_products_leave_the_square_of_what_one_leaves(name: str) -> None:
    A, B = gaussian(2, 96, 200), gaussian(2, 200, 80, seed=1)
    reference = A.double() @ B.double()
    one = relative(make_ops(name.replace("x3", ""), CPU).matmul(A, B), reference)
    # 2^-24 more for the float32 sums.
    assert relative(split_of(name).matmul(A, B), reference) < one * one + 2.0**-22


@pytest.mark.parametrize("promote_k", [0, 16, 100, 256])
@pytest.mark.parametrize("name", EMULATED)
def test_promoted_sums_are_the_same_product(name: str, promote_k: int) -> None:
    A, B, C = gaussian(2, 30, 230), gaussian(2, 230, 50, seed=1), gaussian(2, 30, 50, seed=2)
    found = split_of(name, promote_k).matmul_add(A, B, C, alpha=-0.5, beta=3.0)
    reference = 3.0 * C.double() - 0.5 * (A.double() @ B.double())
    # A library that sums in a row, as that of the H100's host, leaves 2^-22 of 230 columns.
    sums = 2.0**-24 * (promote_k or 230) ** 0.5
    assert relative(found, reference) < get_precision(name).unit_roundoff + sums


@pytest.mark.parametrize("name", EMULATED)
def test_the_diagonal_of_a_square_result_is_exact(name: str) -> None:
    A, B, C = gaussian(2, 40, 300), gaussian(2, 300, 40, seed=1), gaussian(2, 40, 40, seed=2)
    found = split_of(name).matmul_add(A, B, C, alpha=-0.5, beta=3.0).double()
    reference = 3.0 * C.double() - 0.5 * (A.double() @ B.double())
    diagonals = found.diagonal(dim1=-2, dim2=-1), reference.diagonal(dim1=-2, dim2=-1)
    assert relative(*diagonals) < 2.0**-23
    assert relative(split_of(name).gram(A).diagonal(dim1=-2, dim2=-1), A.double().square().sum(-1)) < 2.0**-23


def test_promotion_and_small_words_first_keep_what_a_truncating_sum_would_lose(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    A = gaussian(48, 1024).abs()
    reference = A.double() @ A.mT.double()
    monkeypatch.setattr(split_ops, "wide_product", tensor_cores.product)
    whole, promoted = (relative(split_of("fp16x3_emulated", k).gram(A), reference) for k in (0, 128))
    assert promoted < 0.4 * whole
    words = split_of("fp16x3_emulated").split(A)
    assert words.inverse is not None
    low_last = torch.cat((words.hi, words.hi, words.lo), -1), torch.cat((words.hi, words.lo, words.hi), -1).mT
    assert relative(tensor_cores.product(*low_last) * words.inverse**2, reference) > 1.5 * whole


@pytest.mark.parametrize("name", EMULATED)
def test_extreme_values(name: str) -> None:
    ops, A = split_of(name), gaussian(16, 16)
    assert (ops.matmul(torch.zeros(16, 16), A) == 0).all()
    for bad in (float("nan"), float("inf")):
        B = A.clone()
        B[3, 4] = bad
        assert not ops.matmul(B, A)[3].isfinite().any()


def test_three_products_are_counted() -> None:
    one, three = (Workload(m=64, n=64, p=2, k=8, precision=name, lower=1e-2) for name in ("fp16", "fp16x3"))
    assert symmetric_products(three, 2.0) == 3 * symmetric_products(one, 2.0) == 6 * 64**3
    for name in ("inverse_root/coupled_pe", "inverse_apply/coupled_pe", "inverse_apply/chebyshev",
                 "polar/polar_express", "gemm/matmul"):  # fmt: skip
        spec = get_method(*name.split("/"))
        options = spec.make_options({"target": 1e-3} if "target" in dir(spec.options) else {})
        assert spec.flops(three, options) == 3 * spec.flops(one, options)


@pytest.mark.parametrize("name", SPLIT)
def test_where_it_runs(name: str) -> None:
    reason = unsupported_reason(get_precision(name), CPU)
    assert reason is None if name in EMULATED else reason is not None and f"'{name}_emulated' runs here" in reason


class Counting(SplitOps):
    """Notes every matrix that is split."""

    def __init__(self, name: str = "fp16x3_emulated") -> None:
        super().__init__(get_precision(name), CPU)
        self.made = 0

    def _make_words(self, A: Tensor) -> Words:
        self.made += 1
        return super()._make_words(A)


@pytest.mark.parametrize("name", EMULATED)
def test_a_call_splits_every_matrix_once(name: str) -> None:
    """A for its bound; then X, Y, B and B^2 in every step, but the first X is the first B, and no last Y is formed."""
    A, options = posed(64, 1e2)[0], ROOT.make_options({"degrees": (2, 2, 2)})
    workload = Workload(m=64, n=64, p=2, precision=name, lower=0.95e-2)
    steps = len(planned_schedule(workload, options).steps)
    ops, results = Counting(name), []
    for _ in range(2):
        ops.made = 0
        with ops.arithmetic():
            results.append(ROOT.function(Operands(A=A, p=2, lower=0.95e-2), ops, options))
        assert ops.made == 1 + 4 * steps - 3
    results.append(ROOT.function(Operands(A=A, p=2, lower=0.95e-2), ops, options))  # not a whole call
    assert ops.made == 1 + 4 * steps - 3 + 1 + 6 * steps - 5
    assert all(torch.equal(X, results[0]) for X in results)


def test_words_are_of_the_matrix_as_it_is() -> None:
    ops, A = Counting(), gaussian(32, 32)
    with ops.arithmetic():
        before = ops.matmul(A, A)
        A.diagonal().add_(1.0)
        assert torch.equal(ops.matmul(A, A), Counting().matmul(A, A))
        torch.add(A, 1.0, out=A)
        assert torch.equal(ops.matmul(A, A), Counting().matmul(A, A))
        assert not torch.equal(ops.matmul(A, A), before)
        assert ops.made == 3


def test_words_are_kept_as_long_as_their_matrix_and_the_call() -> None:
    ops, A, B = Counting(), gaussian(32, 32), gaussian(32, 32)
    with ops.arithmetic():
        kept = [weakref.ref(ops.split(M).hi) for M in (A, B)]
        assert ops.split(A).hi is kept[0]()
        del A
        gc.collect()
        assert kept[0]() is None
        with ops.arithmetic():  # a call within a call has its own
            assert ops.split(B).hi is not kept[1]()
        assert ops.split(B).hi is kept[1]()
    assert kept[1]() is None
    assert ops.split(B).hi is not ops.split(B).hi


def test_words_whose_changes_cannot_be_seen_are_not_kept() -> None:
    ops = Counting()
    with torch.inference_mode(), ops.arithmetic():
        A = gaussian(16, 16)
        ops.matmul(A, A)
        A.mul_(2.0)
        assert torch.equal(ops.matmul(A, A), Counting().matmul(A, A))
    with ops.arithmetic():
        B = gaussian(16, 16)
        ops.matmul(B, B)
        B.requires_grad_()
        torch.autograd.grad(ops.matmul(B, B).sum(), B)


def posed(n: int, kappa: float, device: torch.device = CPU) -> tuple[Tensor, Tensor, Tensor]:
    """A in float32, and the eigenvalues and eigenvectors of what float32 left of it."""
    generator = torch.Generator().manual_seed(n)
    Q, _ = torch.linalg.qr(torch.randn(n, n, generator=generator, dtype=torch.float64))
    A = (Q * torch.logspace(0, -torch.tensor(kappa).log10().item(), n, dtype=torch.float64)) @ Q.mT
    A = (0.5 * (A + A.mT)).float().to(device)
    return (A, *torch.linalg.eigh(A.double()))


def judged(A: Tensor, values: Tensor, V: Tensor, p: int, X: Tensor) -> tuple[float, float]:
    """Relative error, and ||X^p A - I||_F / sqrt(n)."""
    residual = torch.linalg.matrix_power(X.double(), p) @ A.double()
    residual.diagonal().sub_(1.0)
    return relative(X, (V * values ** (-1.0 / p)) @ V.mT), float(residual.norm()) / A.shape[-1] ** 0.5


@pytest.mark.parametrize(("n", "kappa", "lower"), [(512, 1e4, None), (192, 1e4, 0.95e-4), (192, 1e2, 0.95e-2)], ids=str)
def test_a_root_to_3e_4_with_a_small_residual(n: int, kappa: float, lower: float | None) -> None:
    """At p = 2, kappa 1e4 the graded iteration of one word leaves an error of 5e-4 and a residual of 0.3."""
    A, values, V = posed(n, kappa)
    for p in (1, 2, 4, 8):
        X = ROOT.function(Operands(A=A, p=p, lower=lower), make_ops("fp16x3_emulated", CPU), ROOT.options())
        error, residual = judged(A, values, V, p, X)
        assert error < (2e-4 if p == 1 else 1e-4)
        assert residual < 3e-3


def test_two_bfloat16_words_are_between_one_and_float16s() -> None:
    A, values, V = posed(192, 1e4)
    found = [
        judged(A, values, V, 2, ROOT.function(Operands(A=A, p=2, lower=0.95e-4), make_ops(name, CPU), ROOT.options()))
        for name in ("fp16x3_emulated", "bf16x3_emulated", "fp16_emulated")
    ]
    errors = [error for error, _ in found]
    assert errors[0] < 0.1 * errors[1]
    assert 3e-4 < errors[1] < 2e-3
    assert errors[1] < 0.1 * errors[2]


@pytest.mark.parametrize("kappa", [1e2, 1e4])
@pytest.mark.parametrize("p", [1, 2, 4, 8])
def test_the_library_states_what_two_words_keep(p: int, kappa: float) -> None:
    """Half of the eigenvalues small is the worst of the spectra tried; 1e-3 and 3e-4 are asked for."""
    Q, _ = torch.linalg.qr(gaussian(96, 96, seed=p).double())
    values = torch.tensor([1.0] * 48 + [1.0 / kappa] * 48, dtype=torch.float64)
    A, X, B = (Q * values) @ Q.mT, (Q * values ** (-1.0 / p)) @ Q.mT, gaussian(96, 96).double()
    for precision, rtol in (("fp16x3_emulated", 3e-4), ("bf16x3_emulated", 1e-3)):
        root = iroot.inverse_root(A, p, rtol=rtol, method="coupled_pe", precision=precision, lower=1 / kappa)
        applied = iroot.solve_spd(A, B, p, rtol=rtol, method="coupled_pe", precision=precision, lower=1 / kappa)
        assert root.stated_accuracy is not None
        assert root.stated_accuracy == applied.stated_accuracy
        for error in (relative(root.value, X), relative(applied.value, X @ B)):
            assert 0.1 * root.stated_accuracy < error <= root.stated_accuracy
        assert precision != "fp16x3_emulated" or kappa / p > 2.5e3 or root.stated_accuracy <= rtol


@pytest.mark.gpu
@pytest.mark.parametrize("p", [1, 2, 4, 8])
@pytest.mark.parametrize("n", [512, 1024, 2048])
def test_a_root_on_tensor_cores(n: int, p: int) -> None:
    """With bounds that the method finds itself; the ratio of the eigenvalues known to the caller, and not."""
    A, values, V = posed(n, 1e4, GPU)
    ops, options = make_ops("fp16x3", GPU), ROOT.make_options({"min_cushion": 0.03})
    for lower in (0.95e-4, None):
        with ops.arithmetic():
            X = ROOT.function(Operands(A=A, p=p, lower=lower), ops, options)
        error, residual = judged(A, values, V, p, X)
        assert error <= 3e-4
        assert residual <= 5e-3


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["bf16x3", "fp16x3"])
def test_tensor_cores_compute_what_is_emulated(name: str) -> None:
    A, B = gaussian(2, 512, 768), gaussian(2, 768, 512, seed=1)
    reference = A.double() @ B.double()
    emulated = relative(split_of(f"{name}_emulated").matmul(A, B), reference)
    ops = make_ops(name, GPU)
    with ops.arithmetic():
        native = relative(ops.matmul(A.to(GPU), B.to(GPU)).cpu(), reference)
    assert native < 1.5 * emulated + 2.0**-22
