"""Gluon's products with an addend bit for bit against Triton's, on a Hopper GPU; without one, when they are taken."""

from __future__ import annotations

import os

import pytest
import torch
from torch import Tensor

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
if DEVICE.type == "cpu":  # read when the kernels are defined, and again when they run
    os.environ["TRITON_INTERPRET"] = "1"
from iroot.kernels import multiply_add as products  # noqa: E402
from iroot.kernels.hopper import lacks_gluon  # noqa: E402
from iroot.kernels.multiply_add import (  # noqa: E402
    BLOCKINGS,
    Blocking,
    choose_blocking,
    is_for_gluon,
    multiply_add,
    triton_multiply_add,
)
from iroot.kernels.operands import Operand, empty_aligned, empty_rows, operand, processors  # noqa: E402
from iroot.kernels.step_passes import apply  # noqa: E402

WIDE, SQUARE = BLOCKINGS[:2]
HALF, BRAIN = torch.float16, torch.bfloat16
FACTORS = (0.5, -2.0)
runs_gluon = pytest.mark.skipif(bool(lacks_gluon(DEVICE)), reason=lacks_gluon(DEVICE) or "it runs")


def is_taken(
    batches: int, m: int, n: int, cut: Blocking = WIDE, *, depth: int = 0, along_k: tuple[bool, bool] = (True, False)
) -> bool:
    """Shapes without memory; depth m where none is given."""
    D = torch.empty(batches, m, n, dtype=HALF, device="meta")
    sides = ((m, depth or m), (n, depth or m))
    left, right = (
        Operand(tensor=torch.empty(batches, *side, dtype=HALF, device="meta"), along_k=along)
        for side, along in zip(sides, along_k, strict=True)
    )
    return is_for_gluon(left, right, D, cut)


def test_more_tiles_than_programs_of_tritons_fit_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "lacks_gluon", lambda device: "")
    assert processors(torch.device("meta")) == 132
    taken = [(1, 2048, 8192), (8, 1024, 4096), (16, 1024, 1024), (8, 1024, 1024), (1, 4096, 4096), (1, 3072, 3072)]
    assert all(is_taken(*shape, cut) for shape in taken for cut in (WIDE, SQUARE))
    kept = [(1, 2048, 2048), (1, 1536, 1536), (1, 1024, 1024)]  # 256, 144 and 64 tiles of 128 x 128
    assert not any(is_taken(*shape, cut) for shape in kept for cut in (WIDE, SQUARE))
    monkeypatch.setattr(products, "lacks_gluon", lambda device: "it is another GPU")
    assert not any(is_taken(*shape) for shape in taken)


def test_what_is_taken_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    """As it is stored, by its depth and by its tile."""
    monkeypatch.setattr(products, "lacks_gluon", lambda device: "")
    for along_k in ((True, True), (False, False), (False, True)):
        assert not is_taken(1, 2048, 8192, along_k=along_k)
    depths = (64, 960, 1024)
    assert [is_taken(1, 2048, 8192, SQUARE, depth=depth) for depth in depths] == [False, False, True]
    assert all(is_taken(1, 2048, 8192, WIDE, depth=depth) for depth in depths)
    assert not any(is_taken(1, 2048, 8192, cut) for cut in BLOCKINGS[2:])
    # 144 tiles: of four stages one of Triton's programs fits a multiprocessor, of three two.
    deep = Blocking(rows=128, columns=128, block_k=64, warps=8, stages=4)
    assert [is_taken(1, 1536, 1536, cut) for cut in (deep, SQUARE)] == [True, False]


def test_what_chooses_a_blocking_leaves_to_gluon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Squares: tiles of 128 columns are taken where there are more than two for each multiprocessor."""
    monkeypatch.setattr(products, "lacks_gluon", lambda device: "")
    cuts = {n: choose_blocking(n, n, 1, processors=132) for n in (1024, 1536, 2048, 3072, 4096)}
    assert [cuts[n].columns for n in cuts] == [64, 256, 256, 128, 256]
    assert [is_taken(1, n, n, cut) for n, cut in cuts.items()] == [False, False, False, True, True]


def test_an_application_is_a_product_with_an_addend() -> None:
    """By Triton's kernel everywhere: u of a matrix of its own, or none."""
    tiny = Blocking(rows=16, columns=32, block_k=16, warps=4, stages=2)
    B, X = drawn(2, 40, 40, HALF, 0), drawn(2, 40, 70, HALF, 1)
    unit = torch.tensor([0.25, 4.0], device=DEVICE)
    for u in (None, unit):
        factor = 1.0 if u is None else u.double().sqrt()[:, None, None]
        exact = factor * (0.5 * B.double() @ X.double() - 2.0 * X.double())
        assert (apply(B, X, FACTORS, tiny, unit=u).double() - exact).norm() < 5e-4 * exact.norm()


def drawn(batch: int, m: int, n: int, dtype: torch.dtype, seed: int) -> Tensor:
    generator = torch.Generator(device=DEVICE).manual_seed(seed)
    A = torch.randn(batch, m, n, generator=generator, device=DEVICE) / n**0.5
    return empty_rows((batch, m, n), dtype, DEVICE).copy_(A)


def by_both(operands: tuple[Tensor, Tensor, Tensor], blocking: Blocking, unit: Tensor | None) -> tuple[Tensor, Tensor]:
    from iroot.kernels.hopper_apply import hopper_apply

    A, B, C = operands
    shape = (C.shape[0], C.shape[1], C.shape[2])
    found, expected = (empty_aligned(shape, C.dtype, DEVICE).fill_(torch.nan) for _ in range(2))
    hopper_apply(operands, found, FACTORS, columns=blocking.columns, unit=unit)
    triton_multiply_add(operand(A), operand(B.mT), operand(C), expected, FACTORS, blocking=blocking, unit=unit)
    return found, expected


@pytest.mark.gpu
@runs_gluon
@pytest.mark.parametrize("dtype", [HALF, BRAIN])
@pytest.mark.parametrize("blocking", [WIDE, SQUARE], ids=str)
@pytest.mark.parametrize(
    ("batch", "m", "depth", "n"),
    [
        (1, 2048, 2048, 8192), (1, 2048, 2048, 2048), (16, 1024, 1024, 1024), (1, 1000, 1000, 3000),
        (3, 768, 768, 1000), (7, 520, 520, 1048), (40, 200, 40, 300), (150, 130, 70, 140), (1, 130, 4000, 70),
        (1, 3072, 3072, 3072), (1, 1, 1, 1),
    ],
    ids=str,
)  # fmt: skip
def test_bit_for_bit_with_tritons_kernel(
    batch: int, m: int, depth: int, n: int, blocking: Blocking, dtype: torch.dtype
) -> None:
    """In a wave that is not full, in one and in several, with rows, columns and depths that are not; ten launches.

    Depths of 1 to 70 have fewer steps than the kernel takes, 300 tiles of which are more than one to a program.
    """
    A, B, C = drawn(batch, m, depth, dtype, 0), drawn(batch, depth, n, dtype, 1), drawn(batch, m, n, dtype, 2)
    for unit in (None, torch.linspace(0.5, 2.0, batch, device=DEVICE)):
        for _ in range(10):
            found, expected = by_both((A, B, C), blocking, unit)
            assert torch.equal(found, expected)
    factor = torch.linspace(0.5, 2.0, batch, device=DEVICE).double().sqrt()[:, None, None]
    exact = factor * (0.5 * A.double() @ B.double() - 2.0 * C.double())
    assert (found.double() - exact).norm() <= torch.finfo(dtype).eps * exact.norm()


@pytest.mark.gpu
@runs_gluon
def test_taken_in_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    from iroot.kernels import hopper_apply

    A, B, C = drawn(1, 2048, 2048, BRAIN, 0), drawn(1, 2048, 8192, BRAIN, 1), drawn(1, 2048, 8192, BRAIN, 2)
    launches: list[int] = []
    launch = hopper_apply.hopper_apply

    def noted(*arguments: object, **named: object) -> None:
        launches.append(1)
        launch(*arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(hopper_apply, "hopper_apply", noted)
    multiply_add(A, B, C, alpha=0.5, beta=-2.0, blocking=WIDE)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = multiply_add(A, B, C, alpha=0.5, beta=-2.0, blocking=WIDE)
    assert launches == [1, 1]
    _, expected = by_both((A, B, C), WIDE, None)
    for _ in range(3):
        captured.fill_(torch.nan)
        graph.replay()
        assert torch.equal(captured[0], expected[0])
