"""Gluon's products of two words bit for bit against Triton's, on a Hopper GPU; without one, when they are taken."""

from __future__ import annotations

import os
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import Tensor

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
if DEVICE.type == "cpu":  # read when the kernels are defined, and again when they run
    os.environ["TRITON_INTERPRET"] = "1"
from iroot.kernels import split_product as products  # noqa: E402
from iroot.kernels.hopper import lacks_gluon  # noqa: E402
from iroot.kernels.multiply_add import Blocking  # noqa: E402
from iroot.kernels.operands import empty_aligned  # noqa: E402
from iroot.kernels.split_product import (  # noqa: E402
    BLOCKINGS,
    Factors,
    SplitProduct,
    choose_blocking,
    is_for_gluon,
    posed,
    takes_gluon,
    triton_split,
)
from iroot.kernels.split_words import split  # noqa: E402
from iroot.ops import make_ops  # noqa: E402
from iroot.registry import Operands, get_method  # noqa: E402

HALF, BRAIN = torch.float16, torch.bfloat16
WIDE, NARROW, SMALL = BLOCKINGS
runs_gluon = pytest.mark.skipif(bool(lacks_gluon(DEVICE)), reason=lacks_gluon(DEVICE) or "it runs")


def gaussian(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape) + seed)).to(DEVICE)


def turned(A: Tensor) -> Tensor:
    return A.mT.contiguous().mT


def drawn(
    shape: tuple[int, int, int, int], dtype: torch.dtype, *, along_k: bool = False, addend: bool = True,
    promote_k: int = 128,
) -> SplitProduct:  # fmt: skip
    """Batches of m x depth by depth x n; B stored along its depth, or along n as products leave it."""
    batches, m, depth, n = shape
    B = gaussian(batches, depth, n, seed=1)
    D = empty_aligned((batches, m, n), torch.float32, DEVICE).fill_(torch.nan)
    C = gaussian(batches, m, n, seed=2) if addend else None
    A, B = gaussian(batches, m, depth) / 3.0, turned(B) if along_k else B
    return posed(split(A, dtype), split(B, dtype), C, D, Factors(alpha=0.7, beta=-1.3, identity=0.3), promote_k)


def test_what_coupled_iterations_take_has_a_kernel() -> None:
    for along_k in (False, True):
        for addend in (False, True):
            product = drawn((1, 16, 24, 16), HALF, along_k=along_k, addend=addend)
            assert product.b_hi.along_k == along_k
            assert all(takes_gluon(product, blocking, "all") for blocking in (WIDE, NARROW))
            assert takes_gluon(replace(product, promote_k=0), WIDE, "all")


def test_other_tiles_sums_and_operands_have_none() -> None:
    product = drawn((1, 16, 24, 16), HALF)
    assert not takes_gluon(product, SMALL, "all")
    assert not takes_gluon(product, replace(WIDE, columns=256), "all")
    assert not takes_gluon(product, WIDE, "lower")
    assert not takes_gluon(replace(product, promote_k=96), WIDE, "all")
    words = split(turned(gaussian(1, 16, 24)), HALF)
    along_m = posed(words, split(gaussian(1, 24, 16), HALF), None, product.D, Factors(), 128)
    assert not along_m.a_hi.along_k
    assert not takes_gluon(along_m, WIDE, "all")


def test_dispatch(monkeypatch: pytest.MonkeyPatch) -> None:
    product = drawn((1, 16, 24, 16), HALF)
    every = [(WIDE, "all"), (NARROW, "all"), (SMALL, "all"), (WIDE, "lower")]
    if DEVICE.type == "cpu":
        assert not any(is_for_gluon(product, *each) for each in every)  # type: ignore[arg-type]
    monkeypatch.setattr(products, "lacks_gluon", lambda device: "")
    assert [each for each in every if is_for_gluon(product, *each)] == every[:2]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("batches", "n", "fastest"),
    [(1, 512, NARROW), (1, 768, NARROW), (1, 1024, NARROW), (1, 1536, NARROW), (1, 2048, WIDE), (1, 4096, WIDE),
     (16, 512, WIDE)],
)  # fmt: skip
def test_gluon_takes_the_faster_of_its_tiles(batches: int, n: int, fastest: Blocking) -> None:
    """As timed on an H100 (2026-11-23): 12.1 and 7.3 us at n = 512, 55.3 and 46.3 at 1536, 76.3 and 87.9 at 2048."""
    assert choose_blocking(n, n, batches, processors=132, kernel="gluon") == fastest


def test_the_tiles_are_those_of_the_kernel_that_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """512 x 512: Triton would take 64 x 64 tiles, Gluon has none."""
    seen = []
    monkeypatch.setattr(products, "_launch", lambda product, blocking, tiles: seen.append(blocking))
    A = split(gaussian(1, 512, 512), HALF)
    for lacking in ("no Gluon", ""):
        monkeypatch.setattr(products, "lacks_gluon", lambda device, lacking=lacking: lacking)
        products.split_product(A, A)
        products.split_gram(A)
    assert seen == [SMALL, SMALL, NARROW, SMALL]


def by_both(product: SplitProduct, blocking: Blocking) -> tuple[Tensor, Tensor]:
    from iroot.kernels.hopper_split import hopper_split

    batches, m, n = product.D.shape
    results = []
    for launch in (hopper_split, partial(triton_split, tiles="all")):
        D = empty_aligned((batches, m, n), torch.float32, DEVICE).fill_(torch.nan)
        tiles = -(-m // blocking.rows) * -(-n // blocking.columns)
        largest = torch.full((batches, 2 * tiles), torch.nan, device=DEVICE)
        launch(replace(product, D=D, largest=largest), blocking)
        results.append(torch.cat((D.flatten(), largest.flatten())))
    assert torch.equal(largest.amax(-1), D.abs().amax((-2, -1)))
    return results[0], results[1]


@pytest.mark.gpu
@runs_gluon
@pytest.mark.parametrize("dtype", [HALF, BRAIN])
@pytest.mark.parametrize("blocking", [WIDE, NARROW], ids=str)
@pytest.mark.parametrize(
    "shape",
    [(1, 1024, 1024, 1024), (1, 2048, 2048, 2048), (1, 1000, 520, 1000), (3, 520, 1000, 520), (2, 130, 72, 260),
     (1, 1, 5, 1), (1, 64, 4096, 2000)],
    ids=str,
)  # fmt: skip
def test_bit_for_bit_with_tritons_kernel(
    shape: tuple[int, int, int, int], blocking: Blocking, dtype: torch.dtype
) -> None:
    """Tiles, steps and sums that are not full; programs of one tile and of several; four launches, each the same."""
    wrong = []
    for along_k in (False, True):
        for addend in (False, True):
            for promote_k in (0, 128, 256):
                product = drawn(shape, dtype, along_k=along_k, addend=addend, promote_k=promote_k)
                if not all(torch.equal(*by_both(product, blocking)) for _ in range(4)):
                    wrong.append((along_k, addend, promote_k))
    assert wrong == []


@pytest.mark.gpu
@runs_gluon
@pytest.mark.parametrize("precision", ["fp16x3", "bf16x3"])
def test_whole_roots_in_graphs(monkeypatch: pytest.MonkeyPatch, precision: str) -> None:
    """Words are kept in the capture as in the call before it; Triton's root is the same to the last bit."""
    n, root = 1024, get_method("inverse_root", "coupled_pe")
    Q = torch.linalg.qr(gaussian(n, n).double()).Q
    values = torch.logspace(0, -2, n, dtype=torch.float64, device=DEVICE)
    inputs = [((Q * scale * values) @ Q.mT).float() for scale in (1.0, 1.7)]
    A, ops = inputs[0].clone(), make_ops(precision, DEVICE)

    def run() -> Tensor:
        with torch.no_grad(), ops.arithmetic():
            return root.function(Operands(A=A, p=2, lower=0.95e-2), ops, root.options())

    expected = []
    for M in inputs:
        A.copy_(M)
        expected.append(run())
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = run()
    for M, X in zip(inputs, expected, strict=True):
        A.copy_(M)
        graph.replay()
        assert torch.equal(captured, X)
    monkeypatch.setattr(products, "lacks_gluon", lambda device: "Triton's turn")
    A.copy_(inputs[0])
    assert torch.equal(run(), expected[0])
    exact = (Q * values**-0.5) @ Q.mT
    assert (expected[0].double() - exact).norm() < 1e-3 * exact.norm()
