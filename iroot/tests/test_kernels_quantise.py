"""The kernels around FP8 and INT8 products against the torch path, bit for bit, or in Triton's interpreter."""

from __future__ import annotations

import os
from typing import Any

import pytest
import torch
from torch import Tensor

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
if DEVICE.type == "cpu":  # read when the kernels are defined, and again when they run
    os.environ["TRITON_INTERPRET"] = "1"
from iroot import triton_scaled_ops  # noqa: E402
from iroot.errors import InvalidInputError, UnsupportedError  # noqa: E402
from iroot.kernels.families import is_served  # noqa: E402
from iroot.kernels.quantise import FORMAT_NAMES, Rounded, Source, quantise_together  # noqa: E402
from iroot.kernels.quantise_rows import quantise_rows  # noqa: E402
from iroot.kernels.scaled_result import scaled_result, shifted_result  # noqa: E402
from iroot.kernels.symmetric import symmetric_product  # noqa: E402
from iroot.ops import make_ops  # noqa: E402
from iroot.precision import get_precision  # noqa: E402
from iroot.quantize import FORMATS, Quantised, find_scale, power_of_two_scale, quantise  # noqa: E402
from iroot.scaled_ops import Float8Ops, Int8Ops, ScaledOps, ShiftedSum  # noqa: E402
from iroot.triton_layouts import CompiledLayouts  # noqa: E402
from iroot.triton_scaled_ops import (  # noqa: E402
    TritonFloat8Ops,
    TritonInt8Ops,
    TritonScaledOps,
    make_triton_scaled_ops,
)

NATIVE = ("fp8_e4m3", "fp8_e4m3_row", "fp8_e5m2", "int8")


def gaussian(*shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape))).to(DEVICE, dtype)


def turned(A: Tensor) -> Tensor:
    return A.mT.contiguous().mT


def by_torch(A: Tensor, name: str, scale: Tensor | None = None) -> Quantised:
    return quantise(A.contiguous(), FORMATS[name], dtype=FORMATS[name].dtype or torch.int8, scale=scale)


def assert_same(found: Quantised, expected: Quantised) -> None:
    assert torch.equal(found.scale, expected.scale)
    assert found.values.dtype == expected.values.dtype
    assert found.values.is_contiguous()
    assert torch.equal(found.values.view(torch.uint8), expected.values.contiguous().view(torch.uint8))


def one(A: Tensor, name: str, *, shifted: bool = False) -> Rounded:
    (result,) = quantise_together(Source(matrix=A, number_format=FORMATS[name], shifted=shifted))
    return result


@pytest.mark.parametrize("name", FORMAT_NAMES)
@pytest.mark.parametrize(
    ("shapes", "dtype"),
    [
        (((70, 130), (130, 33)), torch.bfloat16),
        (((70, 130), (130, 33)), torch.float32),
        (((2, 2, 5, 17), (2, 2, 17, 3)), torch.bfloat16),
    ],
    ids=str,
)
def test_two_operands_are_those_of_the_torch_path(
    shapes: tuple[tuple[int, ...], tuple[int, ...]], name: str, dtype: torch.dtype
) -> None:
    """The right operand is the transpose of what has contiguous rows."""
    A, B = gaussian(*shapes[0], dtype=dtype), gaussian(*shapes[1], dtype=dtype).mT
    sources = [Source(matrix=M, number_format=FORMATS[name]) for M in (A, B)]
    for result, M in zip(quantise_together(*sources), (A, B), strict=True):
        assert result.mu is None
        assert_same(result.quantised, by_torch(M, name))
    for result, M in zip(quantise_rows(*sources), (A, B), strict=True):
        assert_same(result.quantised, by_torch(M, name, find_scale(M.contiguous(), FORMATS[name], "row")))


@pytest.mark.parametrize("layout", ["transposed", "padded", "strided", "shifted by an element", "batch of one row"])
def test_layouts(layout: str) -> None:
    A = {
        "transposed": turned(gaussian(48, 64)),
        "padded": gaussian(48, 80)[:, 16:],
        "strided": gaussian(96, 48)[::2, ::2],
        "shifted by an element": gaussian(48, 65)[:, 1:],
        "batch of one row": gaussian(5, 1, 600),
    }[layout]
    assert_same(one(A, "float8_e4m3fn").quantised, by_torch(A, "float8_e4m3fn"))
    (rows,) = quantise_rows(Source(matrix=A, number_format=FORMATS["int8"]))
    assert_same(rows.quantised, by_torch(A, "int8", find_scale(A.contiguous(), FORMATS["int8"], "row")))


@pytest.mark.parametrize("name", FORMAT_NAMES)
def test_every_tie_and_its_neighbours(name: str) -> None:
    """Halfway between all numbers of a format, subnormal ones included, and one float32 to either side."""
    number_format = FORMATS[name]
    if number_format.dtype is None:
        grid = torch.arange(-127.0, 128.0)
    else:
        grid = torch.arange(256, dtype=torch.int32).to(torch.uint8).view(number_format.dtype).float()
        grid = grid[grid.isfinite()].sort().values
    ties = (grid[1:] + grid[:-1]) / 2
    A = torch.cat([grid, ties, ties.nextafter(grid[1:]), ties.nextafter(grid[:-1]), -grid]).to(DEVICE)[None]
    found = one(A, name).quantised
    assert found.scale.item() == 1.0
    assert_same(found, by_torch(A, name))


@pytest.mark.parametrize("size", [0.0, 1e-44, 1e-30, 1e30])
@pytest.mark.parametrize("name", FORMAT_NAMES)
def test_sizes(name: str, size: float) -> None:
    A = gaussian(2, 20, 24, dtype=torch.float32) * torch.tensor([size, 1.0], device=DEVICE).reshape(2, 1, 1)
    assert_same(one(A, name).quantised, by_torch(A, name))


@pytest.mark.filterwarnings("ignore:invalid value")  # of the interpreter's NumPy
@pytest.mark.parametrize("place", [(2, 3), (4, 4)])
@pytest.mark.parametrize("bad", [-float("inf"), float("nan")])
@pytest.mark.parametrize("name", ["float8_e4m3fn", "int8"])
def test_what_is_not_finite_shows(name: str, bad: float, place: tuple[int, int]) -> None:
    A = gaussian(2, 20, 20)
    A[0, place[0], place[1]] = bad
    found, expected = one(A, name).quantised, by_torch(A, name)
    torch.testing.assert_close(found.scale, expected.scale, rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(found.values.float(), expected.values.float(), rtol=0, atol=0, equal_nan=True)
    shifted = one(A, name, shifted=True).quantised
    assert not shifted.scale[0].isfinite().any()
    assert shifted.scale[1].isfinite().all()


@pytest.mark.parametrize("name", ["float8_e4m3fn", "int8"])
@pytest.mark.parametrize("n", [1, 67])
def test_a_multiple_of_the_identity_is_taken_off(n: int, name: str) -> None:
    A = 5.0 * torch.eye(n, device=DEVICE) + 0.1 * gaussian(2, n, n, dtype=torch.float32)
    A[1, n // 2, n // 2] = -9.0
    A = A.bfloat16()
    B = gaussian(2, n, 40).mT
    sources = Source(matrix=A, number_format=FORMATS[name], shifted=True), Source(matrix=B, number_format=FORMATS[name])
    for quantise_all, granularity in ((quantise_together, "tensor"), (quantise_rows, "row")):
        left, right = quantise_all(*sources)
        assert left.mu is not None
        assert right.mu is None
        torch.testing.assert_close(
            left.mu.double(), A.double().diagonal(dim1=-2, dim2=-1).mean(-1)[:, None, None], rtol=2.0**-23 * 4, atol=0
        )
        rest = A.float()
        rest.diagonal(dim1=-2, dim2=-1).sub_(left.mu[..., 0])
        scale = find_scale(rest, FORMATS[name], "row") if granularity == "row" else None
        assert_same(left.quantised, by_torch(rest, name, scale))
        scale = find_scale(B.contiguous(), FORMATS[name], "row") if granularity == "row" else None
        assert_same(right.quantised, by_torch(B, name, scale))


@pytest.mark.parametrize("shape", [(40, 300), (2, 17, 17)], ids=str)
@pytest.mark.parametrize("C_dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("product_dtype", [torch.bfloat16, torch.int32])
def test_results_are_those_of_torch(product_dtype: torch.dtype, C_dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    product = (gaussian(*shape, dtype=torch.float32) * 1e5).to(product_dtype)
    C, mu = turned(gaussian(*shape, dtype=C_dtype)), gaussian(*shape[:-2], 1, 1, dtype=torch.float32)
    scales = (mu.abs() * 1e-3, mu.abs() + 1e-3) if product_dtype == torch.int32 else None
    P = product if scales is None else product * (scales[0] * scales[1])
    square = shape[-1] == shape[-2]
    terms = ShiftedSum(alpha=0.7, constant=-1.3, linear=1.4, diagonal=(0.3, 0.7) if square else None)
    expected = torch.mul(C, mu * 1.4 - 1.3).add_(P, alpha=0.7)
    if square:
        expected.diagonal(dim1=-2, dim2=-1).add_((0.3 - 0.7 * mu * mu).squeeze(-1))
    assert_nearly_equal(shifted_result(product, C, mu, terms, scales=scales), expected.bfloat16())
    assert_nearly_equal(scaled_result(product, scales, alpha=0.7), (P.float() * 0.7).bfloat16())


def assert_nearly_equal(found: Tensor, expected: Tensor) -> None:
    """A sum fused on one side and not on the other may fall on the other side of a tie: one unit in few entries."""
    torch.testing.assert_close(found, expected, rtol=2.0**-7, atol=0)
    assert (found != expected).sum() <= 0.01 * found.numel()


@pytest.mark.parametrize("name", FORMAT_NAMES)
def test_scales_that_are_powers_of_two(name: str) -> None:
    sizes = torch.tensor([0.0, 1e-30, 0.3, FORMATS[name].largest, 1e30], device=DEVICE)
    A = gaussian(5, 6, 20, dtype=torch.float32)
    A = A / A.abs().amax((-2, -1), keepdim=True) * sizes.reshape(5, 1, 1)
    (word,) = quantise_together(Source(matrix=A, number_format=FORMATS[name]), scales="powers of two")
    assert_same(word.quantised, by_torch(A, name, power_of_two_scale(A, FORMATS[name])))
    assert word.quantised.scale[3].item() == 1.0


def test_words_are_those_of_the_torch_backend() -> None:
    for name in ("fp8_e4m3", "int8"):
        (A, product), (B, expected) = (
            (word := ops.cast_word(gaussian(32, 48) * 3), ops.matmul_wide(word, gaussian(48, 32)))
            for ops in both_backends(name)
        )
        assert torch.equal(A, B)
        assert torch.equal(product, expected)
        assert product.dtype == torch.float32


@pytest.mark.parametrize("name", NATIVE)
def test_one_step_agrees_with_the_torch_backend(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    for kernel in ("quantise_rows", "quantise_together", "scaled_result", "shifted_result"):
        function = getattr(triton_scaled_ops, kernel)

        def counted(*given: object, kernel: str = kernel, function: object = function, **options: object) -> object:
            made.append(kernel)
            return function(*given, **options)  # type: ignore[operator]

        monkeypatch.setattr(triton_scaled_ops, kernel, counted)
    results = []
    for ops in both_backends(name):
        X = gaussian(32, 48) / 4
        A = ops.gram(X)
        B = ops.symmetric_quadratic(A, 0.5, -1.5, 0.7)
        results.append((A, B, ops.symmetric_apply(B, X, beta=2.0), ops.symmetric_matmul(B, B), ops.matmul(B, X),
                        ops.matmul_add(B, X, X, beta=0.5)))  # fmt: skip
    assert made.count("quantise_rows" if name.endswith("row") else "quantise_together") == 6
    assert made.count("shifted_result") == 2
    assert made.count("scaled_result") == (3 if name == "int8" else 0)
    for ours, theirs in zip(*results, strict=True):
        assert ours.dtype == theirs.dtype
        assert_nearly_equal(ours, theirs)


def count_halves(monkeypatch: pytest.MonkeyPatch) -> list[torch.Size]:
    """The operands of every symmetric product; those of 32 rows are large enough."""
    made: list[torch.Size] = []

    def counted(A: Tensor, B: Tensor, **options: Any) -> Tensor:
        made.append(A.shape)
        return symmetric_product(A, B, **options)

    monkeypatch.setattr(triton_scaled_ops, "symmetric_product", counted)
    monkeypatch.setattr(triton_scaled_ops, "_SMALLEST_HALF", 32)
    return made


@pytest.mark.parametrize("name", ["fp8_e4m3", "int8"])
def test_a_matrix_times_its_transpose_is_half_a_product(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_scaled_ops, "EAGER_FLOPS", 0.0)
    made = count_halves(monkeypatch)
    ours, library = both_backends(name)
    X = gaussian(2, 48, 80) / 9 * torch.tensor([1.0, 30.0], device=DEVICE).reshape(2, 1, 1).bfloat16()
    A = ours.gram(X)
    assert torch.equal(A, A.mT)
    pairs = [(A, library.gram(X))]
    A = pairs[0][1]  # not symmetric to the last bit, perhaps: its transpose stands for it either way
    pairs.append((ours.symmetric_matmul(A, A), library.symmetric_matmul(A, A)))
    pairs.append((ours.symmetric_quadratic(A, 0.5, -1.5, 0.7), library.symmetric_quadratic(A, 0.5, -1.5, 0.7)))
    for found, expected in pairs:
        if name == "int8":  # exact sums
            assert_nearly_equal(found, expected)
        # The interpreter cuts bfloat16 off instead of rounding it.
        distances = torch.linalg.matrix_norm((found - expected).double()) / torch.linalg.matrix_norm(expected.double())
        assert distances.max() < 2.0**-7
    assert made == [X.shape, A.shape, A.shape]


@pytest.mark.parametrize("name", NATIVE)
def test_what_is_never_half_a_product(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two matrices, two formats, scales of rows; small matrices, and sizes that the library refuses."""
    monkeypatch.setattr(triton_scaled_ops, "EAGER_FLOPS", 0.0)
    made = count_halves(monkeypatch)
    ours, _ = both_backends(name)
    A, B = gaussian(48, 48), gaussian(48, 48, dtype=torch.float32).bfloat16() * 2
    ours.symmetric_matmul(A, B)
    ours.matmul(A, A)
    ours.gram(gaussian(48, 16))
    if name in ("fp8_e5m2", "fp8_e4m3_row"):
        ours.gram(A)
    assert made == []
    with pytest.raises(UnsupportedError, match="divisible"):
        ours.gram(gaussian(48, 44))


@pytest.mark.parametrize("name", ["fp8_e4m3", "int8"])
def test_half_a_product_outlasts_its_launch_or_is_captured(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made, capturing = count_halves(monkeypatch), False
    monkeypatch.setattr(CompiledLayouts, "capturing", property(lambda self: capturing))
    precision = get_precision(name)
    ops = make_triton_scaled_ops(precision, DEVICE, launches="counted")
    X = gaussian(48, 64)

    def launched() -> int:
        made.clear()
        ops.gram(X)
        return len(made)

    capturing = True
    assert launched() == 0  # nothing is compiled inside a capture
    capturing = False
    assert [launched(), launched()] == [1, 0]  # the first call prepares it
    capturing = True
    assert launched() == 1
    ops, capturing = make_triton_scaled_ops(precision, DEVICE, launches="free"), False
    assert [launched(), launched()] == [1, 1]


def both_backends(name: str) -> tuple[ScaledOps, ScaledOps]:
    precision = get_precision(name)
    if name == "int8":
        return TritonInt8Ops(precision, DEVICE), Int8Ops(precision, DEVICE)
    return TritonFloat8Ops(precision, DEVICE), Float8Ops(precision, DEVICE)


def test_a_batch_of_matrices_of_different_sizes() -> None:
    X = gaussian(3, 32, 32) * torch.tensor([1.0, 1e-3, 1e4], device=DEVICE).reshape(3, 1, 1).bfloat16()
    for name in ("fp8_e4m3", "int8"):
        ours, theirs = (ops.symmetric_apply(ops.gram(X), X, beta=1.0) for ops in both_backends(name))
        assert_nearly_equal(ours, theirs)


def test_bad_sources() -> None:
    with pytest.raises(InvalidInputError, match=r"must be bfloat16 or float32, got torch\.float64 of shape \(4, 4\)"):
        Source(matrix=gaussian(4, 4, dtype=torch.float64), number_format=FORMATS["int8"])
    with pytest.raises(InvalidInputError, match=r"off square matrices, got \(4, 5\)"):
        Source(matrix=gaussian(4, 5), number_format=FORMATS["int8"], shifted=True)
    with pytest.raises(InvalidInputError, match="got 'int4'"):
        Source(matrix=gaussian(4, 5), number_format=FORMATS["int4"])
    with pytest.raises(InvalidInputError, match=r"one batch, got \(2, 4, 5\) and \(4, 5\)"):
        quantise_together(
            *(Source(matrix=M, number_format=FORMATS["int8"]) for M in (gaussian(2, 4, 5), gaussian(4, 5)))
        )
    with pytest.raises(InvalidInputError, match=r"int32 with them, got torch\.int32 without scales"):
        scaled_result(torch.zeros(4, 4, dtype=torch.int32, device=DEVICE))
    with pytest.raises(
        InvalidInputError, match=r"C must be bfloat16 or float32 \(4, 4\), got torch\.bfloat16 \(5, 4\)"
    ):
        shifted_result(gaussian(4, 4), gaussian(5, 4), torch.zeros(1, 1), ShiftedSum())


def test_calls_that_are_compiled_or_recorded_stay_in_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a kernel was launched")

    monkeypatch.setattr(triton_scaled_ops, "quantise_together", refuse)
    ops, library = both_backends("int8")
    assert isinstance(ops, TritonScaledOps)
    A = gaussian(32, 32)
    assert torch.equal(torch.compile(ops.matmul, backend="eager", fullgraph=True)(A, A), library.matmul(A, A))
    A = A.half()
    assert torch.equal(ops.gram(A), library.gram(A))


@pytest.mark.gpu
@pytest.mark.parametrize("name", NATIVE)
def test_a_hopper_gpu_has_the_kernels_unless_the_library_is_asked_for(name: str) -> None:
    ours, library = make_ops(name, DEVICE), make_ops(name, DEVICE, "torch")
    assert isinstance(ours, TritonScaledOps) == is_served(torch.cuda.get_device_capability(DEVICE))
    assert not isinstance(library, TritonScaledOps)
    A, B = gaussian(1024, 512), gaussian(512, 768)
    assert torch.equal(ours.matmul(A, B), library.matmul(A, B))


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["fp8_e4m3", "int8"])
def test_half_a_product_on_the_gpu(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made = count_halves(monkeypatch)
    ours = make_triton_scaled_ops(get_precision(name), DEVICE, launches="free")
    library = make_ops(name, DEVICE, "torch")
    for A in (gaussian(1024, 1536), gaussian(2, 1040, 1024)):
        found, expected = ours.gram(A), library.gram(A)
        assert torch.equal(found, found.mT)
        assert ((found - expected).double().norm() / expected.double().norm()).item() < (
            2.0**-8 if name == "fp8_e4m3" else 1e-4
        )
    assert len(made) == 2
