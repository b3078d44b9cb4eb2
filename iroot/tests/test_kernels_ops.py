"""Which products the Triton backend takes, and that they are the torch backend's."""

from __future__ import annotations

import os

import pytest
import torch
from torch import Tensor

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
if DEVICE.type == "cpu":  # read when the kernels are defined, and again when they run
    os.environ["TRITON_INTERPRET"] = "1"

from iroot import triton_ops  # noqa: E402
from iroot.ops import make_ops  # noqa: E402
from iroot.precision import get_precision  # noqa: E402
from iroot.torch_ops import FloatingOps  # noqa: E402

FP16 = get_precision("fp16")


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every launch of a kernel by name; small matrices count as large."""
    made: list[str] = []
    for name in ("symmetric_product", "multiply_add"):
        kernel = getattr(triton_ops, name)

        def counted(*operands: Tensor, name: str = name, kernel: object = kernel, **options: object) -> Tensor:
            made.append(name)
            result: Tensor = kernel(*operands, **options)  # type: ignore[operator]
            return result

        monkeypatch.setattr(triton_ops, name, counted)
    monkeypatch.setattr(triton_ops, "_SMALLEST", 32)
    monkeypatch.setattr(triton_ops, "_ROW_BYTES", 16)
    return made


def gaussian(*shape: int) -> Tensor:
    A = torch.randn(*shape, generator=torch.Generator().manual_seed(1))
    return A.div_(shape[-1] ** 0.5).half().to(DEVICE)


def relative(D: Tensor, other: Tensor) -> float:
    D, other = D.detach().double(), other.detach().double()
    return float((D - other).norm() / other.norm())


def test_one_step_agrees_with_the_torch_backend(launches: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_ops, "EAGER_FLOPS", 0.0)
    results = []
    for ops in (triton_ops.TritonOps(FP16, DEVICE), FloatingOps(FP16, DEVICE)):
        X = gaussian(2, 48, 64)
        A = ops.gram(X)
        B = ops.symmetric_quadratic(A, 0.5, -1.5, 0.7)
        results.append((A, B, ops.symmetric_apply(B, X, beta=2.0), ops.symmetric_matmul(B, B), ops.matmul(B, X)))
    assert launches == ["symmetric_product", "symmetric_product", "multiply_add", "symmetric_product"]
    for ours, theirs in zip(*results, strict=True):
        assert relative(ours, theirs) < 2e-3
    A, B, _, square, _ = results[0]
    assert all(torch.equal(S, S.mT) for S in (A, B, square))


def test_a_product_of_two_matrices_is_never_half_computed(launches: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_ops, "EAGER_FLOPS", 0.0)
    A, B = gaussian(64, 64), gaussian(64, 64)
    D = triton_ops.TritonOps(FP16, DEVICE).symmetric_matmul(A, B)
    assert launches == []
    assert torch.equal(D, A @ B)


def test_a_foreign_matrix_is_not_taken_as_symmetric(launches: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_ops, "EAGER_FLOPS", 0.0)
    A = gaussian(64, 64)
    D = triton_ops.TritonOps(FP16, DEVICE).symmetric_quadratic(A, 0.0, 1.0, 1.0)
    assert "symmetric_product" not in launches
    assert relative(D, A.double() @ A.double() + A.double()) < 1e-3


def test_short_products_run_in_captures_once_prepared(launches: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    ops, capturing = triton_ops.TritonOps(FP16, DEVICE), False
    monkeypatch.setattr(triton_ops.TritonOps, "_capturing", lambda self: capturing)

    def step() -> Tensor:
        X = gaussian(64, 64)
        return ops.symmetric_apply(ops.symmetric_quadratic(ops.gram(X), 0.0, -1.5, 0.7), X, beta=2.0)

    def launched() -> list[str]:
        step()
        made = [*launches]
        launches.clear()
        return made

    capturing = True
    assert launched() == []  # nothing is compiled inside a capture
    capturing = False
    assert sorted(set(launched())) == ["multiply_add", "symmetric_product"]  # the first call prepares them
    assert launched() == []
    capturing = True
    assert launched() == ["symmetric_product", "symmetric_product", "multiply_add"]


def test_with_free_launches_an_eager_call_computes_what_a_capture_records(
    launches: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ops, capturing = triton_ops.TritonOps(FP16, DEVICE, launches="free"), False
    monkeypatch.setattr(triton_ops.TritonOps, "_capturing", lambda self: capturing)
    X = gaussian(64, 64)

    def step() -> tuple[Tensor, list[str]]:
        launches.clear()
        Y = ops.symmetric_apply(ops.symmetric_quadratic(ops.gram(X), 0.0, -1.5, 0.7), X, beta=2.0)
        return Y, [*launches]

    eager, made = step()
    assert made == ["symmetric_product", "symmetric_product", "multiply_add"]
    capturing = True
    captured, recorded = step()
    assert recorded == made
    assert torch.equal(captured, eager)


def test_tf32_has_the_symmetric_products_alone(launches: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_ops, "EAGER_FLOPS", 0.0)
    monkeypatch.setattr(triton_ops, "_SMALLEST_TF32", 48)
    tf32 = get_precision("tf32")
    results = []
    for ops in (triton_ops.make_triton_ops(tf32, DEVICE, launches="counted"), FloatingOps(tf32, DEVICE)):
        assert not isinstance(ops, triton_ops.TritonOps)
        X = gaussian(2, 48, 64).float()
        with ops.arithmetic():
            A = ops.gram(X)
            B = ops.symmetric_quadratic(A, 0.5, -1.5, 0.7)
            results.append((A, B, ops.symmetric_matmul(B, B), ops.symmetric_apply(B, X, beta=2.0), ops.matmul(B, X)))
            small = ops.gram(X[:, :32])
    assert launches == ["symmetric_product"] * 3
    for ours, theirs in zip(*results, strict=True):
        assert ours.dtype == torch.float32
        assert relative(ours, theirs) < 2e-3
    assert all(torch.equal(S, S.mT) for S in results[0][:3])
    assert relative(small, X[:, :32].double() @ X[:, :32].double().mT) < 1e-3


@pytest.mark.parametrize("case", ["small", "unaligned", "float32", "recorded by autograd"])
def test_what_the_kernels_do_not_suit_stays_in_the_library(case: str, launches: list[str]) -> None:
    X = {
        "small": gaussian(16, 64),
        "unaligned": gaussian(64, 65)[:, 1:],
        "float32": gaussian(64, 64).float(),
        "recorded by autograd": gaussian(64, 64).requires_grad_(),
    }[case]
    D = triton_ops.TritonOps(FP16, DEVICE).gram(X)
    assert launches == []
    assert relative(D, X.double() @ X.double().mT) < 1e-3


def test_16_bit_and_tf32_products_on_a_hopper_gpu_have_the_backend() -> None:
    assert not triton_ops.serves(FP16, torch.device("cpu"))
    if DEVICE.type == "cuda":
        hopper = torch.cuda.get_device_capability(DEVICE) == (9, 0)
        assert triton_ops.serves(FP16, DEVICE) == hopper
        assert isinstance(make_ops("fp16", DEVICE), triton_ops.TritonOps) == hopper
        assert (type(make_ops("tf32", DEVICE)) is triton_ops.TritonSymmetricOps) == hopper
        assert type(make_ops("fp16", DEVICE, backend="torch")) is FloatingOps
    assert not triton_ops.serves(get_precision("fp32"), DEVICE)
    assert type(make_ops("fp32", torch.device("cpu"))) is FloatingOps
