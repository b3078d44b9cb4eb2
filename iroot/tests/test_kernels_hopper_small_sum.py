"""Gluon's sums in tiles of 64 x 64 bit for bit against Triton's, on a Hopper GPU; without one, which tiles and when."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import replace

import pytest
import torch
from torch import Tensor

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
if DEVICE.type == "cpu":  # read when the kernels are defined, and again when they run
    os.environ["TRITON_INTERPRET"] = "1"

from iroot.kernels import sum_launch  # noqa: E402
from iroot.kernels import symmetric as products  # noqa: E402
from iroot.kernels.device_tiles import device_programs  # noqa: E402
from iroot.kernels.diagonal_pairs import device_pairs, paired_schedule, saves_a_wave  # noqa: E402
from iroot.kernels.hopper import lacks_gluon  # noqa: E402
from iroot.kernels.operands import operand  # noqa: E402
from iroot.kernels.sum_launch import is_for_small_gluon, symmetric_sums  # noqa: E402
from iroot.kernels.symmetric import Terms, symmetric_product  # noqa: E402
from iroot.kernels.symmetric_sum import UNSCALED, Matrices, Scaling, SumTerms  # noqa: E402
from iroot.kernels.tiling import TILINGS, Tiling, schedule  # noqa: E402
from iroot.tests import sum_forms  # noqa: E402
from iroot.tests.sum_forms import BOTH, gaussian, symmetric  # noqa: E402

SMALL, SMALL_TAIL = TILINGS[2:]
HALF, BRAIN = torch.float16, torch.bfloat16
runs_gluon = pytest.mark.skipif(bool(lacks_gluon(DEVICE)), reason=lacks_gluon(DEVICE) or "it runs")


@pytest.mark.parametrize("n", [1, 64, 65, 128, 520, 1000, 1024, 1984])
def test_every_tile_of_the_triangle_is_some_programs(n: int) -> None:
    """Pairs first, two tiles on the diagonal each, and every other tile once: as many results as tiles."""
    found = Counter[tuple[int, int, int]]()
    programs = paired_schedule(n, 2)
    for batch, row, col, pair in programs:
        found.update([(batch, row, row), (batch, col, col)] if pair else [(batch, row, col)])
    assert found == Counter((tile.batch, tile.row, tile.col) for tile in schedule(n, 2, 64, 0))
    for batch in range(2):
        kinds = [program.wide for program in programs if program.batch == batch]
        assert kinds == sorted(kinds, reverse=True)
        assert sum(kinds) == -(-n // 64) // 2
    assert device_pairs(n, 2, torch.device("cpu")).tolist() == [list(program) for program in programs]


def test_pairs_fill_one_wave_of_an_h100_less() -> None:
    assert len(schedule(1024, 1, 64, 0)) == 136
    assert len(paired_schedule(1024, 1)) == 128
    taken = [
        (n, batches) for n in (512, 768, 1024) for batches in (1, 2, 3) if saves_a_wave(n, batches, processors=132)
    ]
    assert taken == [(1024, 1), (1024, 2), (1024, 3)]


def posed(batches: int, n: int) -> Matrices:
    """Shapes without memory."""
    M = torch.empty(batches, n, n, dtype=HALF, device="meta")
    return Matrices(M=M, N=M)


def test_taken_where_tiles_of_64_are_about_a_wave(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not is_for_small_gluon(posed(1, 1024), SMALL)  # no Hopper GPU
    monkeypatch.setattr(sum_launch, "lacks_gluon", lambda device: "")
    assert is_for_small_gluon(posed(1, 1024), SMALL)  # 136 tiles for 132 multiprocessors
    assert is_for_small_gluon(posed(3, 512), SMALL)  # 108
    assert not is_for_small_gluon(posed(1, 1088), SMALL)  # 153
    assert not is_for_small_gluon(posed(2, 1024), SMALL)  # 272
    assert not any(is_for_small_gluon(posed(1, 1024), tiling) for tiling in TILINGS if tiling != SMALL)


@pytest.mark.parametrize(("n", "taken"), [(1000, True), (1024, True), (1088, False)])
def test_products_take_it_where_sums_do(n: int, taken: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """`symmetric_product` in whatever tiles of 64; not with a scale, results in float32, or turned."""
    launched: list[tuple[Tiling, Matrices]] = []

    def noted(matrices: Matrices, sums: object, cut: Tiling, outputs: object) -> None:
        launched.append((cut, matrices))

    def chosen(matrices: Matrices, tiling: Tiling) -> object:
        return noted if is_for_small_gluon(matrices, tiling) else None

    monkeypatch.setattr(sum_launch, "lacks_gluon", lambda device: "")
    monkeypatch.setattr(products, "gluon_launch", chosen)
    whole, wide = (torch.empty(1, n, n, dtype=dtype) for dtype in (HALF, torch.float32))
    A, other = operand(whole), operand(torch.empty(1, n, n, dtype=HALF))
    assert [products._sum_on_hopper(A, A, C, whole, Terms(), SMALL_TAIL) for C in (None, whole)] == [taken] * 2
    assert products._sum_on_hopper(A, other, None, whole, Terms(alpha=2.0), SMALL) is taken
    assert [(cut, m.M is m.N) for cut, m in launched] == [(replace(SMALL_TAIL, tail=0), True)] * 2 * taken + [
        (SMALL, False)
    ] * taken
    scaled = Terms(scale=torch.ones(1, 1, 1))
    assert not products._sum_on_hopper(A, A, None, whole, scaled, SMALL)
    assert not products._sum_on_hopper(A, A, None, wide, Terms(), SMALL)
    turned = operand(whole.mT)
    assert not products._sum_on_hopper(turned, turned, None, whole, Terms(), SMALL)


def by_both(
    matrices: Matrices, sums: tuple[SumTerms, ...], scaling: Scaling = UNSCALED
) -> tuple[list[Tensor], list[Tensor]]:
    from iroot.kernels.hopper_small_sum import hopper_small_sums

    return sum_forms.by_both(hopper_small_sums, matrices, sums, SMALL, scaling)


@pytest.mark.gpu
@runs_gluon
@pytest.mark.parametrize("dtype", [HALF, BRAIN])
@pytest.mark.parametrize(("n", "batch"), [(1024, 1), (1024, 3), (1000, 2), (520, 1), (768, 1), (30, 2)])
def test_bit_for_bit_with_tritons_kernel(n: int, batch: int, dtype: torch.dtype) -> None:
    """With pairs and without, and tiles that are not full; ten launches, each the same.

    M S, where N is not M, has the symmetric sums that M M has, but a program for every tile.
    """
    S, T, Z = (symmetric(batch, n, dtype, seed) for seed in range(3))
    unit = torch.full((batch,), 0.5, device=DEVICE)
    for N in (S, symmetric(batch, n, dtype, 0)):
        for addends in ({}, {"T": T}, {"Z": Z}, {"T": T, "Z": Z}):
            for sums in (BOTH[:1], BOTH):
                for scaling in (UNSCALED, Scaling(kind="later", unit=unit)):
                    for _ in range(10):
                        both = by_both(Matrices(M=S, N=N, **addends), sums, scaling)
                        for found, expected in zip(*both, strict=True):
                            assert torch.equal(found, expected)
                            assert torch.equal(found, found.mT)


@pytest.mark.gpu
@runs_gluon
@pytest.mark.parametrize(("n", "depth", "batch"), [(1024, 4096, 1), (1000, 40, 2), (512, 512, 3)])
def test_gram_products_squares_and_scalars(n: int, depth: int, batch: int) -> None:
    """Depths beside n; what the kernel sums itself agrees with float64, tile by tile."""
    from iroot.kernels.hopper_small_sum import hopper_small_sums

    tiles = len(schedule(n, 1, 64, 0))
    sum_forms.assert_squares_and_scalars(hopper_small_sums, SMALL, tiles, n=n, depth=depth, batch=batch)


@pytest.mark.gpu
@runs_gluon
@pytest.mark.parametrize("dtype", [HALF, BRAIN])
def test_products_are_its_sums(dtype: torch.dtype) -> None:
    """Gram products and quadratics in the tiles that `symmetric_product` chooses, which have a tail at n = 1024."""
    X, S, Z = gaussian(1, 1024, 2048, dtype, 0), symmetric(1, 1024, dtype, 1), symmetric(1, 1024, dtype, 2)
    found = symmetric_product(X, X)
    assert torch.equal(found, by_both(Matrices(M=X, N=X), (SumTerms(),))[1][0])
    terms = Terms(alpha=0.5, beta=-2.0, gamma=0.25)
    found = symmetric_product(S, S, Z, terms=terms)
    assert torch.equal(found, by_both(Matrices(M=S, N=S, Z=Z), (SumTerms(P=0.5, Z=-2.0, identity=0.25),))[1][0])


@pytest.mark.gpu
@runs_gluon
def test_taken_and_recorded_in_graphs() -> None:
    S, Z = symmetric(1, 1024, BRAIN, 0), symmetric(1, 1024, BRAIN, 1)
    matrices = Matrices(M=S, N=S, Z=Z)
    assert is_for_small_gluon(matrices, SMALL)
    (found,), (expected,) = by_both(matrices, BOTH[:1])
    assert torch.equal(symmetric_sums(matrices, BOTH[:1], SMALL)[0], found)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        (captured,) = symmetric_sums(matrices, BOTH[:1], SMALL)
    for _ in range(3):
        captured.zero_()
        graph.replay()
        assert torch.equal(captured, expected)
    assert device_programs(1024, 1, 64, 0, DEVICE).shape[0] == 136
