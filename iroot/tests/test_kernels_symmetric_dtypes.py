"""The symmetric product of float32 (as TF32), FP8 and int8 operands against float64, and the rounding to TF32."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from iroot.errors import InvalidInputError
from iroot.kernels.tiling import FP8_TILINGS, INT8_TILINGS, TF32_TILINGS, TILINGS, Tiling
from iroot.precision import get_precision
from iroot.torch_ops import FloatingOps

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
if DEVICE.type == "cpu":  # read when the kernels are defined, and again when they run
    os.environ["TRITON_INTERPRET"] = "1"
from iroot.kernels.symmetric import Terms, symmetric_product  # noqa: E402
from iroot.kernels.tf32 import round_to_tf32  # noqa: E402

FP8 = torch.float8_e4m3fn
TINY = Tiling(block=32, tail=16, block_k=16, warps=4, stages=2)
PLAIN = replace(TINY, block=16, tail=0)
EVERY_STAGE = replace(TINY, promote_k=16)
GPU_TILINGS = {torch.float32: TF32_TILINGS, FP8: FP8_TILINGS, torch.int8: INT8_TILINGS}
TESTED = [
    (dtype, tiling)
    for dtype, tilings in GPU_TILINGS.items()
    for tiling in ((TINY, PLAIN, EVERY_STAGE) if DEVICE.type == "cpu" else tilings)
]
SHAPES = [(70, 50), (1, 1), (32, 16), (3, 65, 33), (2, 2, 40, 24)]
TF32_STEP = 2.0**-11


@pytest.fixture(autouse=True)
def _poisoned_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.empty returns NaN or a large number, so that an element nobody writes shows."""
    empty = torch.empty

    def poisoned(*size: object, dtype: torch.dtype = torch.float32, **options: object) -> Tensor:
        memory: Tensor = empty(*size, dtype=dtype, **options)  # type: ignore[call-overload]
        return memory.fill_(torch.nan if dtype.is_floating_point else torch.iinfo(dtype).max)

    monkeypatch.setattr(torch, "empty", poisoned)


def drawn(*shape: int, dtype: torch.dtype) -> Tensor:
    """Gaussian entries; of 8 bits, a third of the range."""
    A = torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))
    if dtype == torch.int8:
        return (A * 40.0).round().clamp_(-127, 127).to(DEVICE, dtype)
    return ((A * 100.0).clamp_(-448.0, 448.0) if dtype == FP8 else A).to(DEVICE, dtype)  # beyond is NaN


def as_multiplied(A: Tensor) -> Tensor:
    """In float64, after the rounding to TF32."""
    if A.dtype != torch.float32:
        return A.double()
    bits = A.contiguous().view(torch.int32)
    return ((bits + 0x1000) & -0x2000).view(torch.float32).double()


def error(D: Tensor, exact: Tensor) -> float:
    return float((D.double() - exact).norm() / exact.norm())


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(("dtype", "tiling"), TESTED, ids=str)
def test_gram_matches_float64(dtype: torch.dtype, tiling: Tiling, shape: tuple[int, ...]) -> None:
    A = drawn(*shape, dtype=dtype)
    D = symmetric_product(A, A, tiling=tiling)
    wide = as_multiplied(A)
    exact = wide @ wide.mT
    assert D.shape == exact.shape
    if dtype == torch.int8:
        assert D.dtype == torch.int32
        assert torch.equal(D.double(), exact)
    else:
        assert D.dtype == torch.float32
        # Tensor cores keep 14 bits of a sum of FP8 products.
        assert error(D, exact) <= (2.0**-12 if dtype == FP8 and DEVICE.type == "cuda" else 1e-6)
    assert torch.equal(D, D.mT)
    assert torch.equal(D, symmetric_product(A, A, tiling=tiling))


@pytest.mark.parametrize("tiling", (TINY, EVERY_STAGE) if DEVICE.type == "cpu" else TF32_TILINGS, ids=str)
def test_the_addend_of_a_quadratic_keeps_its_digits(tiling: Tiling) -> None:
    A = drawn(2, 70, 70, dtype=torch.float32).div_(70**0.5)
    A = A + A.mT
    D = symmetric_product(A, A, A, terms=Terms(alpha=0.3, beta=-2.0, gamma=1.5), tiling=tiling)
    wide = as_multiplied(A)
    exact = 0.3 * wide @ wide - 2.0 * A.double() + 1.5 * torch.eye(70, device=DEVICE)
    assert error(D, exact) < 1e-6
    assert torch.equal(D, D.mT)


@pytest.mark.parametrize("output", [torch.float32, torch.bfloat16])
def test_scales_of_a_batch_enter_squared(output: torch.dtype) -> None:
    A = drawn(3, 48, 32, dtype=FP8)
    scale = torch.tensor([1e-3, 2.0, 30.0], device=DEVICE).reshape(3, 1, 1)
    tiling = EVERY_STAGE if DEVICE.type == "cpu" else FP8_TILINGS[0]
    D = symmetric_product(A, A, terms=Terms(alpha=0.5, scale=scale), output=output, tiling=tiling)
    exact = 0.5 * (scale.double() * A.double()) @ (scale.double() * A.double()).mT
    assert D.dtype == output
    # The interpreter cuts bfloat16 off instead of rounding it.
    allowed = 2.0**-7 if output == torch.bfloat16 else 2.0**-12
    for found, right in zip(D, exact, strict=True):
        assert error(found, right) < allowed


def layouts(dtype: torch.dtype) -> dict[str, Tensor]:
    base = drawn(2, 80, 112, dtype=torch.int8).float().to(dtype)
    return {
        "transposed": base.mT,
        "rows and columns strided": base[:, ::2, ::2],
        "rows not in steps of 16 bytes": base.flatten()[: 3 * 40 * 37].view(3, 40, 37),
        "a part of a larger matrix": base[:, 8:56, 16:80],
        "not aligned": base[:, 33:, 3:90],
        "expanded": base[:1].expand(3, -1, -1),
    }


@pytest.mark.parametrize("name", layouts(torch.int8))
@pytest.mark.parametrize("dtype", GPU_TILINGS, ids=str)
def test_any_strides(dtype: torch.dtype, name: str) -> None:
    """Small integers: every product and sum is exact."""
    A = layouts(dtype)[name]
    tiling = PLAIN if DEVICE.type == "cpu" else GPU_TILINGS[dtype][0]
    assert error(symmetric_product(A, A, tiling=tiling), A.double() @ A.double().mT) <= (2e-4 if dtype == FP8 else 0.0)


def test_rounding_to_tf32() -> None:
    """To nearest, ties away from zero; what is not finite stays what it is, too large a number becomes infinite."""
    one = torch.tensor([1.0 + TF32_STEP, 1.0 + 0.99 * TF32_STEP, -1.0 - TF32_STEP, 0.0, -0.0, 1e-40, 3.4028234e38])
    odd = torch.tensor([float("inf"), -float("inf"), float("nan"), -float("nan"), 1.5, -2.0, 3.0])
    signalling = torch.tensor([0x7F800001], dtype=torch.int32).view(torch.float32)
    found = round_to_tf32(torch.stack([one, odd])[None].to(DEVICE))[0].cpu()
    expected = torch.tensor([1.0 + 2 * TF32_STEP, 1.0, -1.0 - 2 * TF32_STEP, 0.0, -0.0, 1e-40, float("inf")])
    assert torch.equal(found[0, :5], expected[:5])
    assert found[0, 5].item() == pytest.approx(1e-40, rel=0.1)
    assert found[0, 6].item() == float("inf")
    torch.testing.assert_close(found[1], odd, rtol=0, atol=0, equal_nan=True)
    assert round_to_tf32(signalling.expand(1, 1, 4).to(DEVICE)).isnan().all()


@pytest.mark.parametrize("turned", [False, True])
def test_what_is_rounded_is_contiguous_along_the_depth(turned: bool) -> None:
    A = drawn(2, 70, 131, dtype=torch.float32)
    found = round_to_tf32(A.mT.contiguous().mT if turned else A)
    assert found.stride() == (70 * 132, 132, 1)
    assert torch.equal(found.double(), as_multiplied(A))


def test_rounding_takes_three_dimensions_of_float32() -> None:
    with pytest.raises(InvalidInputError, match=r"float32 \(batches, m, n\), got torch\.float16 of shape \(1, 4, 4\)"):
        round_to_tf32(torch.zeros(1, 4, 4, dtype=torch.float16))


def test_what_a_dtype_does_not_have() -> None:
    I, F = drawn(8, 4, dtype=torch.int8), drawn(8, 4, dtype=torch.float32)  # noqa: E741
    with pytest.raises(InvalidInputError, match="int8 operands give their sums alone"):
        symmetric_product(I, I, terms=Terms(alpha=2.0))
    with pytest.raises(InvalidInputError, match=r"of torch\.int8 operands must be one of \(torch\.int32,\), got"):
        symmetric_product(I, I, output=torch.float32)
    with pytest.raises(InvalidInputError, match=r"of torch\.float32 operands must be one of"):
        symmetric_product(F, F, output=torch.float16)
    with pytest.raises(InvalidInputError, match=r"a scale must be float32 \(1, 1\), got torch\.float32 \(2, 1, 1\)"):
        symmetric_product(F, F, terms=Terms(scale=torch.ones(2, 1, 1)))


def test_a_stage_takes_as_many_bytes_in_every_dtype() -> None:
    for sixteen, word, byte in zip(TILINGS, TF32_TILINGS, INT8_TILINGS, strict=True):
        assert word.shared_bytes == byte.shared_bytes == sixteen.shared_bytes
        assert 4 * word.block_k == byte.block_k == 2 * sixteen.block_k
    assert all(tiling.promote_k == tiling.block_k for tiling in FP8_TILINGS)


@pytest.mark.gpu
@pytest.mark.parametrize("n", [512, 1000, 2048])
@pytest.mark.parametrize("dtype", GPU_TILINGS, ids=str)
def test_gram_on_the_gpu(dtype: torch.dtype, n: int) -> None:
    A = drawn(n, n + 24, dtype=dtype)
    exact = A.double() @ A.double().mT
    for tiling in GPU_TILINGS[dtype]:
        D = symmetric_product(A, A, tiling=tiling)
        assert error(D, exact) <= 2 * error(by_cublas(A), exact)
        assert torch.equal(D, D.mT)


def by_cublas(A: Tensor) -> Tensor:
    """A A^T by the library; rows and depth padded with zeros to what its 8-bit products take."""
    if A.dtype == torch.float32:
        ops = FloatingOps(get_precision("tf32"), DEVICE)
        with ops.arithmetic():
            return ops.gram(A)
    n, depth = A.shape
    padded = torch.zeros(-(-n // 16) * 16, -(-depth // 16) * 16, dtype=A.dtype, device=DEVICE)
    padded[:n, :depth] = A
    if A.dtype == torch.int8:
        return torch._int_mm(padded, padded.mT)[:n, :n]
    one = torch.ones((), device=DEVICE)
    return torch._scaled_mm(padded, padded.mT, scale_a=one, scale_b=one, out_dtype=torch.float32, use_fast_accum=False)[
        :n, :n
    ]
