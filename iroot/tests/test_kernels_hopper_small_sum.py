"""Gluon's sums in tiles of 64 x 64 bit for bit against Triton's, on a Hopper GPU; without one, which tiles and when."""

from __future__ import annotations

import os
from collections import Counter

import pytest
import torch
from torch import Tensor

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
if DEVICE.type == "cpu":  # read when the kernels are defined, and again when they run
    os.environ["TRITON_INTERPRET"] = "1"

from iroot.kernels import symmetric_sum  # noqa: E402
from iroot.kernels.device_tiles import device_programs  # noqa: E402
from iroot.kernels.diagonal_pairs import device_pairs, paired_schedule, saves_a_wave  # noqa: E402
from iroot.kernels.hopper import lacks_gluon  # noqa: E402
from iroot.kernels.operands import empty_rows  # noqa: E402
from iroot.kernels.symmetric_sum import (  # noqa: E402
    UNSCALED,
    Matrices,
    Scaling,
    SumTerms,
    is_for_small_gluon,
    small_kind,
    symmetric_sums,
    triton_sums,
)
from iroot.kernels.tiling import GRADED_TILINGS, TILINGS, schedule  # noqa: E402

PLAIN, _, SMALL = GRADED_TILINGS
HALF, BRAIN = torch.float16, torch.bfloat16
BOTH = (SumTerms(P=0.7, T=-1.3, Z=0.6, identity=0.25), SumTerms(P=-0.4, T=0.9, Z=1.1, identity=-0.5))
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


def test_taken_where_few_tiles_of_64_are_on_a_multiprocessor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(symmetric_sum, "MOST_SMALL_WAVES", 2)
    assert not is_for_small_gluon(posed(1, 1024), SMALL, 1)  # no Hopper GPU
    monkeypatch.setattr(symmetric_sum, "lacks_gluon", lambda device: "")
    assert is_for_small_gluon(posed(1, 1024), SMALL, 1)  # 136 tiles for 132 multiprocessors
    assert is_for_small_gluon(posed(3, 768), SMALL, 1)  # 234
    assert not is_for_small_gluon(posed(2, 1024), SMALL, 1)  # 272
    assert not any(is_for_small_gluon(posed(1, 1024), tiling, 1) for tiling in TILINGS if tiling != SMALL)


def test_taken_by_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    M, N = posed(1, 512).M, posed(1, 512).M
    squares = Matrices(M=M, N=M), Matrices(M=M, N=M, Z=M), Matrices(M=M, N=M, T=N, Z=M)
    products = Matrices(M=M, N=N), Matrices(M=M, N=N, T=M, Z=N)
    assert [small_kind(matrices, 1) for matrices in squares] == ["plain", "with addends", "with addends"]
    assert {small_kind(matrices, 2) for matrices in squares} == {"two results"}
    assert {small_kind(matrices, results) for matrices in products for results in (1, 2)} == {"two operands"}
    monkeypatch.setattr(symmetric_sum, "lacks_gluon", lambda device: "")
    monkeypatch.setattr(symmetric_sum, "MOST_SMALL_WAVES", 1)
    monkeypatch.setattr(symmetric_sum, "SMALL_KINDS", frozenset({"two results"}))
    assert [is_for_small_gluon(squares[2], SMALL, results) for results in (1, 2)] == [False, True]
    assert not is_for_small_gluon(products[1], SMALL, 2)


def gaussian(batch: int, n: int, depth: int, dtype: torch.dtype, seed: int) -> Tensor:
    generator = torch.Generator(device=DEVICE).manual_seed(seed)
    A = torch.randn(batch, n, depth, generator=generator, device=DEVICE) / depth**0.5
    return empty_rows((batch, n, depth), dtype, DEVICE).copy_(A)


def symmetric(batch: int, n: int, dtype: torch.dtype, seed: int) -> Tensor:
    A = gaussian(batch, n, n, torch.float32, seed)
    return empty_rows((batch, n, n), dtype, DEVICE).copy_(A + A.mT)


def by_both(
    matrices: Matrices, sums: tuple[SumTerms, ...], scaling: Scaling = UNSCALED
) -> tuple[list[Tensor], list[Tensor]]:
    from iroot.kernels.hopper_small_sum import hopper_small_sums

    batch, n, _ = matrices.M.shape
    found, expected = ([empty_rows((batch, n, n), matrices.M.dtype, DEVICE) for _ in sums] for _ in range(2))
    for out in found:
        out.fill_(torch.nan)
    hopper_small_sums(matrices, sums, SMALL, found, scaling=scaling)
    triton_sums(matrices, sums, SMALL, expected, scaling=scaling)
    return found, expected


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

    X = gaussian(batch, n, depth, HALF, 0)
    norms = torch.full((batch, len(schedule(n, 1, 64, 0))), torch.nan, device=DEVICE)
    unit = torch.empty(batch, device=DEVICE)
    A = empty_rows((batch, n, n), HALF, DEVICE)
    hopper_small_sums(Matrices(M=X, N=X), (SumTerms(),), SMALL, [A], squares=norms)
    total = A.double().square().sum((-2, -1))
    assert torch.allclose(norms.double().sum(-1), total, rtol=1e-5)
    (found,), (expected,) = by_both(Matrices(M=X, N=X), BOTH[:1])
    assert torch.equal(found, expected)
    first = Scaling(kind="first", norms=norms, unit=unit, margin=1.1)
    (found,), _ = by_both(Matrices(M=A, N=A, Z=A), (SumTerms(P=2.0, Z=3.0, identity=1.0),), first)
    u = 1.0 / (1.21 * total.sqrt())
    assert torch.allclose(unit.double(), u, rtol=1e-5)
    Y = u[:, None, None] * A.double()
    exact = 2.0 * Y @ Y + 3.0 * Y + torch.eye(n, device=DEVICE)
    assert (found.double() - exact).norm() < 5e-4 * exact.norm()
    (square,), _ = by_both(Matrices(M=A, N=A), (SumTerms(),), Scaling(kind="limited", norms=1e2 * norms))
    exact = (3e4 / (1e2 * total)).clamp(max=1.0)[:, None, None] * (A.double() @ A.double())
    assert (square.double() - exact).norm() < 5e-4 * exact.norm()


@pytest.mark.gpu
@runs_gluon
@pytest.mark.parametrize("n", [1024, 520])
def test_programs_beyond_the_tiles_change_nothing(n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from iroot.kernels import hopper_small_sum
    from iroot.kernels.hopper_small_fetch import AFTER_PRODUCTS, AT_THE_END

    S, T, Z = (symmetric(1, n, HALF, seed) for seed in range(3))
    X = gaussian(1, n, 200, HALF, 3)
    norms = torch.empty(2, 1, len(schedule(n, 1, 64, 0)), device=DEVICE)
    A = [empty_rows((1, n, n), HALF, DEVICE)]
    hopper_small_sum.hopper_small_sums(Matrices(M=X, N=X), BOTH[:1], SMALL, A, squares=norms[0])
    for lets_in in (AT_THE_END, AFTER_PRODUCTS):
        monkeypatch.setattr(hopper_small_sum, "LETS_NEXT_IN", lets_in)
        monkeypatch.setattr(hopper_small_sum, "FILLS", True)
        hopper_small_sum.hopper_small_sums(Matrices(M=X, N=X), BOTH[:1], SMALL, A, squares=norms[1])
        assert torch.equal(*norms)
        for N in (S, symmetric(1, n, HALF, 0)):
            for found, expected in zip(*by_both(Matrices(M=S, N=N, T=T, Z=Z), BOTH), strict=True):
                assert torch.equal(found, expected)


@pytest.mark.gpu
@runs_gluon
def test_taken_and_recorded_in_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(symmetric_sum, "MOST_SMALL_WAVES", 2)
    S, Z = symmetric(1, 1024, BRAIN, 0), symmetric(1, 1024, BRAIN, 1)
    matrices = Matrices(M=S, N=S, Z=Z)
    assert is_for_small_gluon(matrices, SMALL, 1)
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
