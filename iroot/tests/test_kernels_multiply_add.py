"""The product with a fused addend against float64, on the GPU, or without one in Triton's interpreter."""

from __future__ import annotations

import os

import pytest
import torch
from torch import Tensor

from iroot.errors import InvalidInputError

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
if DEVICE.type == "cpu":  # read when the kernels are defined, and again when they run
    os.environ["TRITON_INTERPRET"] = "1"
from iroot.kernels.multiply_add import BLOCKINGS, Blocking, beats_addmm, choose_blocking, multiply_add  # noqa: E402

H100 = 132
Shape = tuple[int, ...]
TINY = Blocking(rows=16, columns=32, block_k=16, warps=4, stages=2)
TESTED = (TINY, Blocking(rows=32, columns=16, block_k=32, warps=4, stages=2)) if DEVICE.type == "cpu" else BLOCKINGS


def gaussian(*shape: int, dtype: torch.dtype = torch.float16) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape))).to(dtype).to(DEVICE)


def error(D: Tensor, exact: Tensor) -> float:
    return float((D.double() - exact).norm() / exact.norm())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("blocking", TESTED, ids=str)
@pytest.mark.parametrize(
    ("batch", "m", "k", "n"), [((), 70, 33, 50), ((), 1, 1, 1), ((3,), 40, 48, 64), ((2, 2), 20, 16, 33)]
)
def test_matches_float64(
    batch: tuple[int, ...], m: int, k: int, n: int, blocking: Blocking, dtype: torch.dtype
) -> None:
    A, B, C = (gaussian(*batch, *shape, dtype=dtype) for shape in ((m, k), (k, n), (m, n)))
    D = multiply_add(A, B, C, alpha=0.5, beta=-2.0, blocking=blocking)
    exact = 0.5 * A.double() @ B.double() - 2.0 * C.double()
    rounded = error(exact.to(dtype), exact)
    # The interpreter cuts bfloat16 results off, which doubles the error by itself.
    slack = 2.2 if dtype is torch.bfloat16 and DEVICE.type == "cpu" else 1.1
    assert (D.shape, D.dtype) == (exact.shape, dtype)
    assert error(D, exact) <= slack * max(rounded, torch.finfo(dtype).eps / 4)


@pytest.mark.parametrize("transposed", ["A", "B", "C", "all"])
def test_transposed_operands(transposed: str) -> None:
    operands = {"A": gaussian(40, 24), "B": gaussian(24, 56), "C": gaussian(40, 56)}
    for name in operands if transposed == "all" else transposed:
        operands[name] = operands[name].mT.contiguous().mT
    A, B, C = operands.values()
    assert error(multiply_add(A, B, C, blocking=TESTED[0]), A.double() @ B.double() + C.double()) < 5e-4


def test_bad_operands() -> None:
    A, B, C = gaussian(8, 4), gaussian(4, 6), gaussian(8, 6)
    with pytest.raises(InvalidInputError, match=r"got torch\.float16, torch\.float16 and torch\.float32"):
        multiply_add(A, B, C.float())
    with pytest.raises(InvalidInputError, match=r"got \(8, 4\), \(4, 6\), \(6, 8\)"):
        multiply_add(A, B, C.mT)


def test_empty_result() -> None:
    assert multiply_add(gaussian(0, 4), gaussian(4, 6), gaussian(0, 6)).shape == (0, 6)


@pytest.mark.parametrize(
    ("m", "n", "batches", "rows", "columns"),
    [
        (512, 512, 1, 64, 64), (1024, 1024, 1, 128, 64), (2048, 2048, 1, 128, 256), (2048, 8192, 1, 128, 256),
        (1024, 1024, 16, 128, 256),
    ],
)  # fmt: skip
def test_the_measured_best_blocking_is_chosen(m: int, n: int, batches: int, rows: int, columns: int) -> None:
    blocking = choose_blocking(m, n, batches, processors=H100)
    assert (blocking.rows, blocking.columns) == (rows, columns)


@pytest.mark.parametrize(("n", "batches"), [(512, 1), (768, 1), (1024, 1), (2048, 1), (4096, 1), (1024, 3), (1024, 16)])
def test_the_kernel_is_used_where_it_was_measured_faster(n: int, batches: int) -> None:
    assert beats_addmm(n, n, batches, processors=H100)


def test_the_library_is_used_where_the_last_wave_is_nearly_empty() -> None:
    assert not beats_addmm(1536, 1536, 1, processors=H100)
