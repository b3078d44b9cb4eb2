"""The symmetric product against float64, on the GPU, or without one in Triton's interpreter on tiny tiles."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from iroot.errors import InvalidInputError
from iroot.kernels.tiling import PROMOTED as PROMOTED_TILINGS
from iroot.kernels.tiling import TILINGS, Tiling, choose_tiling

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
if DEVICE.type == "cpu":  # read when the kernels are defined, and again when they run
    os.environ["TRITON_INTERPRET"] = "1"
from iroot.kernels.symmetric import Terms, symmetric_product  # noqa: E402

TINY = Tiling(block=32, tail=16, block_k=16, warps=4, stages=2)
PLAIN = replace(TINY, block=16, tail=0)
PROMOTED = replace(TINY, promote_k=32)
TESTED = (TINY, PLAIN, PROMOTED) if DEVICE.type == "cpu" else TILINGS


@pytest.fixture(autouse=True)
def _poisoned_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.empty returns NaN, so that an element nobody writes shows."""
    empty = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *size, **options: empty(*size, **options).fill_(torch.nan))


def gaussian(*shape: int, dtype: torch.dtype) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(*shape, generator=generator).to(dtype).to(DEVICE)


def symmetric(*shape: int, dtype: torch.dtype) -> Tensor:
    A = gaussian(*shape, dtype=torch.float32).div_(shape[-1] ** 0.5)
    return (A + A.mT).to(dtype)


def error(D: Tensor, exact: Tensor) -> float:
    return float((D.double() - exact).norm() / exact.norm())


def allowed(dtype: torch.dtype, by_torch: float) -> float:
    """Twice torch's own error, but at least the step of bfloat16 where the interpreter cuts such results off."""
    cut = torch.finfo(dtype).eps if dtype is torch.bfloat16 and DEVICE.type == "cpu" else 1e-7
    return max(2.0 * by_torch, cut)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("tiling", TESTED, ids=str)
@pytest.mark.parametrize("shape", [(70, 50), (1, 1), (32, 16), (3, 65, 33), (2, 2, 40, 24)])
def test_gram_matches_float64(shape: tuple[int, ...], tiling: Tiling, dtype: torch.dtype) -> None:
    A = gaussian(*shape, dtype=dtype)
    D = symmetric_product(A, A, tiling=tiling)
    exact = A.double() @ A.double().mT
    assert D.shape == exact.shape
    assert D.dtype == dtype
    assert error(D, exact) <= allowed(dtype, error(A @ A.mT, exact))
    assert torch.equal(D, D.mT)
    assert torch.equal(D, symmetric_product(A, A, tiling=tiling))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("tiling", TESTED, ids=str)
def test_quadratic_matches_float64(tiling: Tiling, dtype: torch.dtype) -> None:
    A = symmetric(2, 70, 70, dtype=dtype)
    D = symmetric_product(A, A, A, terms=Terms(alpha=0.3, beta=-2.0, gamma=1.5), output=torch.float32, tiling=tiling)
    exact = 0.3 * A.double() @ A.double() - 2.0 * A.double() + 1.5 * torch.eye(70, device=DEVICE)
    assert D.dtype == torch.float32
    assert error(D, exact) < 1e-6
    assert torch.equal(D, D.mT)


def test_product_of_two_commuting_matrices() -> None:
    A = symmetric(48, 48, dtype=torch.float16)
    B = (0.5 * A.double() @ A.double() + A.double()).to(torch.float16)
    D = symmetric_product(A, B, output=torch.float32, tiling=TESTED[0])
    exact = A.double() @ B.double().mT
    assert error(D, exact.tril() + exact.tril(-1).mT) < 1e-6


def layouts() -> dict[str, Tensor]:
    base = gaussian(4, 96, 160, dtype=torch.float16)
    return {
        "transposed": base.mT,
        "rows and columns strided": base[:, ::2, ::2],
        "rows not in steps of 16 bytes": base.flatten()[: 3 * 50 * 37].view(3, 50, 37),
        "a part of a larger matrix": base[1:3, 8:72, 16:80],
        "not aligned": base[:, 1:, 3:90],
        "every second matrix": base[::2],
        "expanded": base[:1].expand(3, -1, -1),
    }


@pytest.mark.parametrize("name", layouts())
def test_any_strides(name: str) -> None:
    A = layouts()[name]
    D = symmetric_product(A, A, output=torch.float32, tiling=TESTED[0])
    assert error(D, A.double() @ A.double().mT) < 1e-6


def test_addend_in_another_layout_and_dtype() -> None:
    A = gaussian(40, 24, dtype=torch.bfloat16)
    C = symmetric(80, 80, dtype=torch.float32)[::2, ::2]
    D = symmetric_product(A, A, C, terms=Terms(beta=2.0), output=torch.float32, tiling=TESTED[0])
    assert error(D, A.double() @ A.double().mT + 2.0 * C.double()) < 1e-6


def test_nothing_to_do() -> None:
    assert symmetric_product(*[torch.empty(0, 4, 4, dtype=torch.float16, device=DEVICE)] * 2).shape == (0, 4, 4)
    assert symmetric_product(*[torch.empty(0, 4, dtype=torch.float16, device=DEVICE)] * 2).shape == (0, 0)


def test_bad_operands() -> None:
    A = gaussian(8, 4, dtype=torch.float16)
    with pytest.raises(InvalidInputError, match=r"bfloat16, float16, .* got torch\.float64"):
        symmetric_product(A.double(), A.double())
    with pytest.raises(InvalidInputError, match="of one shape"):
        symmetric_product(A, A[:4])
    with pytest.raises(InvalidInputError, match="k >= 1"):
        symmetric_product(A[:, :0], A[:, :0])
    with pytest.raises(InvalidInputError, match=r"C of shape \(8, 8\), got None"):
        symmetric_product(A, A, terms=Terms(beta=1.0))


@pytest.mark.gpu
@pytest.mark.parametrize("n", [512, 1000, 1024, 2048, 3000])
def test_gram_on_the_gpu(n: int) -> None:
    A = gaussian(n, n + 8, dtype=torch.bfloat16)
    for choices in (TILINGS, PROMOTED_TILINGS):
        chosen = choose_tiling(n, 1, processors=132, choices=choices)
        D = symmetric_product(A, A, tiling=chosen)
        exact = A.double() @ A.double().mT
        assert error(D, exact) <= 2 * error(A @ A.mT, exact)
        assert torch.equal(D, D.mT)


@pytest.mark.gpu
@pytest.mark.parametrize("n", [1536, 2048])
def test_quadratic_on_the_gpu(n: int) -> None:
    """One wave of large tiles, the addend and the diagonal of several kernels."""
    A = gaussian(n, n, dtype=torch.float16) / n**0.5
    A = (A + A.mT) / 2
    D = symmetric_product(A, A, A, terms=Terms(alpha=0.7, beta=-1.3, gamma=0.25))
    exact = 0.7 * (A.double() @ A.double()) - 1.3 * A.double() + 0.25 * torch.eye(n, device=A.device)
    assert torch.equal(D, D.mT)
    assert error(D, exact) <= 3e-4  # 2^-11 / 3^(1/2): entries rounded once
