"""The product method and the control kernels."""

from __future__ import annotations

import pytest
import torch

from iroot.errors import InvalidInputError
from iroot.ops import make_ops
from iroot.precision import PRECISIONS, get_precision, unsupported_reason
from iroot.registry import MethodSpec, Operands, Workload, get_method, methods

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
PRODUCTS = tuple(methods("gemm"))
SERVED = [
    pytest.param(spec, name, id=f"{spec.name}-{name}")
    for spec in PRODUCTS
    for name in spec.precisions
    if unsupported_reason(get_precision(name), DEVICE) is None
]


def gaussian(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(DEVICE)


@pytest.mark.parametrize(("m", "n", "k"), [(64, 128, 96), (96, 64, 32)])
@pytest.mark.parametrize("batch", [(), (2,)], ids=str)
@pytest.mark.parametrize(("spec", "precision"), SERVED)
def test_product_is_within_the_stated_accuracy(
    spec: MethodSpec, precision: str, batch: tuple[int, ...], m: int, n: int, k: int
) -> None:
    ops = make_ops(precision, DEVICE)
    A, B = ops.cast(gaussian(*batch, m, n)), ops.cast(gaussian(*batch, n, k, seed=1))
    kept = A.clone(), B.clone()
    with ops.arithmetic():
        C = spec.function(Operands(A=A, B=B), ops, spec.options())
    assert C.shape == (*batch, m, k)
    assert C.dtype == A.dtype
    assert torch.equal(A, kept[0])
    assert torch.equal(B, kept[1])
    reference = A.double() @ B.double()
    error = (torch.linalg.matrix_norm(C.double() - reference) / torch.linalg.matrix_norm(reference)).max()
    stated = spec.accuracy(Workload(m=m, n=n, k=k, precision=precision), spec.options())
    if stated is None:  # integers: a uniform error of one step over a Gaussian's largest element, both operands
        levels = 7 if get_precision(precision).operand == "int4" else 127
        stated = 5.0 / levels / 12**0.5 * 2**0.5 * 1.1
    assert error <= stated
    if precision not in ("fp64", "fp32"):
        assert error > stated / 50  # the precision is really used


def test_costs() -> None:
    for spec in PRODUCTS:
        workload = Workload(m=3, n=5, k=7, batch=2, precision="bf16")
        assert spec.flops(workload, spec.options()) == 2 * 2 * 3 * 5 * 7
        assert spec.bytes_moved(workload, spec.options()) == 2 * 2 * (3 * 5 + 5 * 7 + 3 * 7)
        assert spec.flops(Workload(m=3, n=5, precision="bf16"), spec.options()) == 2 * 3 * 5 * 5


def test_copy() -> None:
    spec = get_method("copy", "device_copy")
    A = gaussian(3, 4, 5).float()
    C = spec.function(Operands(A=A), make_ops("fp32", DEVICE), spec.options())
    assert torch.equal(C, A)
    assert C.data_ptr() != A.data_ptr()
    assert spec.bytes_moved(Workload(m=4, n=5, batch=3, precision="fp32"), spec.options()) == 2 * 60 * 4


@pytest.mark.parametrize("spec", PRODUCTS, ids=lambda spec: spec.name)
@pytest.mark.parametrize(
    ("B", "text"),
    [
        (None, "needs operands.B"),
        (torch.zeros(4, 2), r"A \(3, 5\) and B \(4, 2\)"),
        (torch.zeros(2, 5, 2), r"equal batch dimensions.*B \(2, 5, 2\)"),
        (torch.zeros(5, 2, dtype=torch.float64), "one dtype, got torch.float32 and torch.float64"),
    ],
    ids=["none", "shape", "batch", "dtype"],
)
def test_wrong_operands(spec: MethodSpec, B: torch.Tensor | None, text: str) -> None:
    with pytest.raises(InvalidInputError, match=text):
        spec.function(Operands(A=torch.zeros(3, 5), B=B), make_ops("fp32", DEVICE), spec.options())


def test_controls_are_code_the_project_does_not_own() -> None:
    controls = {(spec.task, spec.name) for spec in methods() if spec.role == "control"}
    assert controls == {("gemm", "cublas"), ("copy", "device_copy")}
    assert all(name in PRECISIONS for spec in PRODUCTS for name in spec.precisions)
