"""The matmul operations of every precision against float64 products, within bounds derived from the number format."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from iroot.errors import UnknownNameError, UnsupportedError
from iroot.ops import Ops, make_ops
from iroot.precision import FINELY_SCALED, PRECISIONS, QUANTISED, get_precision, unsupported_reason
from iroot.quantize import FORMATS, dequantise, quantise
from iroot.scaled_ops import Float8Ops, Int8Ops
from iroot.torch_ops import FloatingOps

CPU = torch.device("cpu")
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
SERVED = tuple(name for name, row in PRECISIONS.items() if unsupported_reason(row, DEVICE) is None)
# torch has reference kernels of the FP8 and INT8 products on a CPU: the code path is tested there too.
NATIVE_SCALED = ("fp8_e4m3", "fp8_e4m3_row", "fp8_e5m2", "int8")
SCALED = QUANTISED + FINELY_SCALED
TESTED = SERVED if DEVICE.type == "cuda" else SERVED + NATIVE_SCALED


def ops_of(name: str) -> Ops:
    if name in NATIVE_SCALED and DEVICE.type == "cpu":
        return (Int8Ops if name == "int8" else Float8Ops)(get_precision(name), DEVICE)
    return make_ops(name, DEVICE)


def gaussian(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(DEVICE)


def operand_error(A: Tensor, precision: str, *, side: str) -> Tensor:
    """Elementwise bound on how far a product operand is from A (float64, representable in storage)."""
    row = get_precision(precision)
    largest = A.abs().amax((-2, -1), keepdim=True)
    if row.words == 2:
        return row.unit_roundoff * A.abs() + 2.0**-39 * largest
    if precision not in SCALED:
        return A.abs() * (row.unit_roundoff if precision == "tf32" else 0.0)
    if row.operand.startswith("int"):
        return row.unit_roundoff * (1 + 1e-5) * largest.expand_as(A)
    unit_roundoff = 2.0**-4 if side == "right" else row.unit_roundoff
    return unit_roundoff * (1 + 1e-5) * A.abs() + 2.0**-18 * largest  # half the smallest subnormal over 448: 2^-18.8


def product_bound(A: Tensor, B: Tensor, precision: str) -> Tensor:
    """|computed A B - A B| before the result is rounded."""
    dA, dB = operand_error(A, precision, side="left"), operand_error(B, precision, side="right")
    accumulation = A.shape[-1] * (2.0**-53 if precision == "fp64" else 2.0**-23)
    return dA @ B.abs() + A.abs() @ dB + dA @ dB + accumulation * ((A.abs() + dA) @ (B.abs() + dB))


def result_roundoff(precision: str) -> float:
    """Unit roundoff of the format results are rounded to; a scaled result is rounded up to three times."""
    row = get_precision(precision)
    if precision in SCALED:
        return 3 * 2.0**-8
    stored_short = row.execution == "emulated" and row.words == 1
    return row.unit_roundoff if stored_short else torch.finfo(row.storage).eps / 2


def assert_within(C: Tensor, reference: Tensor, bound: Tensor, precision: str) -> None:
    u = result_roundoff(precision)
    allowed = bound * (1 + u) + u * (reference.abs() + bound) * 1.01 + 1e-30
    excess = ((C.double() - reference).abs() / allowed).max()
    assert excess <= 1.0, f"error {excess:.2f} times the bound"


@pytest.mark.parametrize("shape", [(32, 48, 64), (2, 32, 48, 64), (2, 2, 32, 16, 16)], ids=str)
@pytest.mark.parametrize("name", TESTED)
def test_matmul_is_within_the_bound_of_its_format(name: str, shape: tuple[int, ...]) -> None:
    ops = ops_of(name)
    *batch, m, k, n = shape
    with ops.arithmetic():
        A, B = ops.cast(gaussian(*batch, m, k)), ops.cast(gaussian(*batch, k, n, seed=1))
        C = ops.matmul(A, B)
    assert C.dtype == ops.storage == get_precision(name).storage
    assert C.shape == (*batch, m, n)
    assert_within(C, A.double() @ B.double(), product_bound(A.double(), B.double(), name), name)


@pytest.mark.parametrize("shape", [(32, 48, 64), (3, 32, 48, 64), (2, 2, 32, 16, 16)], ids=str)
@pytest.mark.parametrize("name", TESTED)
def test_matmul_add_is_within_the_bound_of_its_format(name: str, shape: tuple[int, ...]) -> None:
    ops = ops_of(name)
    *batch, m, k, n = shape
    with ops.arithmetic():
        A, B = ops.cast(gaussian(*batch, m, k)), ops.cast(gaussian(*batch, k, n, seed=1))
        C = ops.cast(gaussian(*batch, m, n, seed=2))
        D = ops.matmul_add(A, B, C, alpha=-0.5, beta=3.0)
    product, bound = A.double() @ B.double(), 0.5 * product_bound(A.double(), B.double(), name)
    u = result_roundoff(name)
    intermediate = u * (3.0 * C.double().abs() + 0.5 * product.abs())  # a scaled product is rounded before the sum
    assert_within(D, 3.0 * C.double() - 0.5 * product, bound + intermediate, name)


@pytest.mark.parametrize("name", TESTED)
def test_gram_and_symmetric_products(name: str) -> None:
    ops = ops_of(name)
    with ops.arithmetic():
        G = ops.cast(gaussian(2, 32, 64))
        A = ops.gram(G)
        square = ops.symmetric_matmul(A, A)
        quadratic = ops.symmetric_quadratic(A, 2.0, -1.5, 0.01)
        applied = ops.symmetric_apply(A, G, beta=0.5)
    G64, A64 = G.double(), A.double()
    assert_within(A, G64 @ G64.mT, product_bound(G64, G64.mT, name), name)
    asymmetry = (A64 - A64.mT).abs().max() / A64.abs().max()
    assert asymmetry <= 2 * product_bound(G64, G64.mT, name).max() / A64.abs().max() + 2 * result_roundoff(name)
    squared_bound = product_bound(A64, A64, name) + 2 * asymmetry * A64.abs() @ A64.abs()
    assert_within(square, A64 @ A64, squared_bound, name)
    applied_bound = product_bound(A64, G64, name) + result_roundoff(name) * (A64.abs() @ G64.abs())
    assert_within(applied, 0.5 * G64 + A64 @ G64, applied_bound, name)
    identity = torch.eye(32, dtype=torch.float64, device=DEVICE)
    rounded_twice = result_roundoff(name) * (1.5 * A64.abs() + 0.01 * A64.abs() @ A64.abs() + 2.0 * identity)
    reference = 2.0 * identity - 1.5 * A64 + 0.01 * A64 @ A64
    assert_within(quadratic, reference, 0.01 * squared_bound + 2 * rounded_twice, name)


@pytest.mark.parametrize("name", ["bf16_emulated", "fp16_emulated", "fp8_e4m3_emulated", "fp8_e5m2_emulated"])
@pytest.mark.skipif(DEVICE.type == "cuda", reason="emulated precisions are for machines without the unit")
def test_emulated_results_are_representable(name: str) -> None:
    ops = ops_of(name)
    storage_format = torch.float16 if name == "fp16_emulated" else torch.bfloat16
    G = ops.cast(gaussian(32, 48))
    A = ops.gram(G)
    results = [G, A, ops.matmul(A, G), ops.matmul_add(A, G, G, beta=0.3), ops.symmetric_quadratic(A, 1.0, 0.7, 0.1)]
    for result in results:
        assert result.dtype == torch.float32
        assert torch.equal(result, result.to(storage_format).float())


@pytest.mark.parametrize("name", ["int8", "int8_sim", "int4_sim"])
def test_integer_operands_are_on_the_grid(name: str) -> None:
    """The identity is exact on every grid, so its product shows how the other operand was quantised."""
    ops = ops_of(name)
    A = ops.cast(gaussian(32, 32))
    product = ops.matmul(torch.eye(32, dtype=ops.storage, device=DEVICE), A).float()
    expected = dequantise(quantise(A, FORMATS[get_precision(name).operand], dtype=torch.float32))
    torch.testing.assert_close(product, expected, rtol=2 * 2.0**-8, atol=0.0)


@pytest.mark.parametrize("name", [name for name in TESTED if name in FINELY_SCALED])
def test_a_small_row_and_a_small_column_keep_their_digits(name: str) -> None:
    """Rows of A and columns of B from 1e-6 to 1e6, K of more than one block: all of A B to the format's own error."""
    A, B = gaussian(32, 304), gaussian(304, 48, seed=1)
    rows, columns = (torch.logspace(-6, 6, count, dtype=torch.float64, device=DEVICE) for count in (32, 48))

    def errors(ops: Ops) -> Tensor:
        left, right = ops.cast(A * rows[:, None]), ops.cast(B * columns)
        error = (ops.matmul(left, right).double() - left.double() @ right.double()) / (rows[:, None] * columns)
        size: Tensor = error.square().mean(-1).sqrt() / 304**0.5
        return size

    unit_roundoff = 2.0**-4 if "fp8" in name else 2.0**-6
    assert (errors(ops_of(name)) < unit_roundoff).all()
    assert (errors(ops_of("int8_sim")) > 0.5).any()


@pytest.mark.parametrize("name", [name for name in TESTED if name in SCALED])
def test_a_multiple_of_the_identity_is_exact_in_symmetric_operations(name: str) -> None:
    """50 I + E loses E to the grid when it is quantised as a whole; the scaled operations split 50 I off."""
    ops = ops_of(name)
    E = gaussian(32, 32)
    A, X = 50.0 * torch.eye(32, dtype=torch.float64, device=DEVICE) + (E + E.mT) / 64, gaussian(32, 32, seed=1)
    rest = A - A.diagonal().mean() * torch.eye(32, dtype=torch.float64, device=DEVICE)
    # Float32 operands: the bfloat16 storage of A itself would hide the effect.
    applied = ops.symmetric_apply(A.float(), X.float(), beta=-50.0)
    mu = float(A.diagonal().mean())
    assert_within(applied, (mu - 50.0) * X + rest @ X, product_bound(rest, X, name) + 2.0**-20, name)


@pytest.mark.parametrize("name", TESTED)
def test_layout_does_not_matter_and_inputs_are_kept(name: str) -> None:
    ops = ops_of(name)
    A, B = ops.cast(gaussian(32, 64)), ops.cast(gaussian(64, 48, seed=1))
    C = ops.cast(gaussian(32, 48, seed=2))
    strided = [M.mT.contiguous().mT for M in (A, B, C)]
    kept = [M.clone() for M in strided]
    with ops.arithmetic():
        expected, found = ops.matmul_add(A, B, C), ops.matmul_add(*strided)
    error = (expected.double() - found.double()).abs().max() / expected.double().abs().max()
    assert error <= 2 * result_roundoff(name)
    assert all(torch.equal(M, copy) for M, copy in zip(strided, kept, strict=True))


@pytest.mark.parametrize("name", TESTED)
def test_a_batch_is_its_matrices(name: str) -> None:
    ops = ops_of(name)
    A = ops.cast(gaussian(3, 32, 32) * torch.tensor([1.0, 1e-2, 1e1], device=DEVICE).reshape(3, 1, 1))
    with ops.arithmetic():
        together, alone = ops.matmul(A, A), torch.stack([ops.matmul(M, M) for M in A])
    error = torch.linalg.matrix_norm((together - alone).double()) / torch.linalg.matrix_norm(alone.double())
    assert error.max() <= 2 * result_roundoff(name)


@pytest.mark.parametrize("name", [*NATIVE_SCALED, "int8_sim", "fp64", "fp32"])
def test_zero_times_anything_is_zero(name: str) -> None:
    ops = ops_of(name)
    zero = torch.zeros(32, 32, dtype=ops.storage, device=DEVICE)
    assert (ops.matmul(zero, ops.cast(gaussian(32, 32))) == 0).all()


@pytest.mark.parametrize(
    ("name", "left", "right", "text"),
    [
        ("fp8_e4m3", (32, 24), (24, 32), "divisible by 16"),
        ("fp8_e5m2", (32, 32), (32, 40), "divisible by 16"),
        ("int8", (16, 32), (32, 32), "more than 16 rows"),
        ("int8", (32, 12), (12, 32), "divisible by 8"),
    ],
)
def test_sizes_the_unit_cannot_multiply(name: str, left: tuple[int, int], right: tuple[int, int], text: str) -> None:
    ops = ops_of(name)
    with pytest.raises(UnsupportedError, match=f"{name}.*{text}.*pad"):
        ops.matmul(ops.cast(gaussian(*left)), ops.cast(gaussian(*right)))


def test_unknown_precision() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'bf16'"):
        make_ops("bf61", CPU)


def test_precision_without_a_unit() -> None:
    with pytest.raises(UnsupportedError, match=r"'fp16' cannot run on cpu: no float16 matrix unit.*'fp16_emulated'"):
        make_ops("fp16", CPU)


def float32_mode() -> object:
    matmul = torch.backends.cuda.matmul
    return matmul.fp32_precision if hasattr(matmul, "fp32_precision") else matmul.allow_tf32


@pytest.mark.parametrize(
    ("name", "modes"), [("fp32", ("ieee", False)), ("bf16", ("ieee", False)), ("tf32", ("tf32", True))]
)
def test_arithmetic_sets_the_switches_and_restores_them(name: str, modes: tuple[object, ...]) -> None:
    matmul = torch.backends.cuda.matmul
    before = (float32_mode(), matmul.allow_bf16_reduced_precision_reduction)
    ops = FloatingOps(get_precision(name), CPU)
    with ops.arithmetic():
        assert float32_mode() in modes
        assert matmul.allow_fp16_reduced_precision_reduction is False
        assert matmul.allow_bf16_reduced_precision_reduction is False
        assert matmul.allow_fp16_accumulation is False
    assert (float32_mode(), matmul.allow_bf16_reduced_precision_reduction) == before


def test_an_error_restores_the_switches() -> None:
    before = float32_mode()
    with pytest.raises(ZeroDivisionError), FloatingOps(get_precision("tf32"), CPU).arithmetic():
        raise ZeroDivisionError
    assert float32_mode() == before


def test_the_switches_of_one_thread_are_not_those_of_another() -> None:
    """They are the process's: left to themselves, whoever leaves first undoes the other's, and the last one's stay."""
    before, seen = float32_mode(), []

    def other() -> None:
        with FloatingOps(get_precision("fp32"), CPU).arithmetic():
            seen.append(float32_mode())

    thread = threading.Thread(target=other)
    with FloatingOps(get_precision("tf32"), CPU).arithmetic():
        inside = float32_mode()
        thread.start()
        thread.join(0.2)
        assert (float32_mode(), seen) == (inside, [])
        with FloatingOps(get_precision("fp32"), CPU).arithmetic():  # the same thread may nest them
            assert float32_mode() != inside
        assert float32_mode() == inside
    thread.join()
    assert seen in (["ieee"], [False])
    assert float32_mode() == before


@pytest.mark.gpu
def test_tf32_is_used_for_tf32_alone() -> None:
    A = gaussian(512, 512).float()
    reference = A.double() @ A.double()
    errors = {}
    for name in ("fp32", "tf32"):
        ops = make_ops(name, DEVICE)
        with ops.arithmetic():
            errors[name] = float((ops.matmul(A, A).double() - reference).norm() / reference.norm())
    assert errors["fp32"] < 2e-6
    assert 1e-4 < errors["tf32"] < 2.0**-10


@pytest.mark.gpu
@pytest.mark.parametrize("name", SERVED)
@pytest.mark.parametrize(
    "operation",
    [
        lambda ops, A: ops.matmul(A, A),
        lambda ops, A: ops.matmul_add(A, A, A, beta=0.5),
        lambda ops, A: ops.symmetric_quadratic(ops.gram(A), 1.0, 2.0, 0.5),
        lambda ops, A: ops.symmetric_matmul(A, A),
    ],
    ids=["matmul", "matmul_add", "quadratic", "symmetric"],
)
def test_every_operation_can_be_captured(name: str, operation: Callable[[Ops, Tensor], Tensor]) -> None:
    ops = make_ops(name, DEVICE)
    A = ops.cast(gaussian(2, 64, 64))
    with ops.arithmetic():
        expected = operation(ops, A)
        replayed = capture(lambda: operation(ops, A))
    assert torch.equal(expected, replayed)


def capture(call: Callable[[], Tensor]) -> Tensor:
    """The result of a CUDA-graph replay of `call`, its memory poisoned before."""
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = call()
    result.fill_(float("nan"))
    graph.replay()
    torch.cuda.synchronize()
    return result
