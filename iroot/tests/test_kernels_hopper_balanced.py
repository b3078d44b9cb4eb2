"""Sums in equal shares: every block once, when they are taken; on a Hopper GPU, bit for bit with Triton's."""

from __future__ import annotations

import os
from collections import Counter

import pytest
import torch
from torch import Tensor

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
if DEVICE.type == "cpu":  # read when the kernels are defined, and again when they run
    os.environ["TRITON_INTERPRET"] = "1"

from iroot.kernels import sum_launch  # noqa: E402
from iroot.kernels.balanced_tiles import (  # noqa: E402
    HALF,
    SIDE,
    balanced_schedule,
    saves_work,
    shares_of,
)
from iroot.kernels.hopper import lacks_gluon  # noqa: E402
from iroot.kernels.sum_launch import is_for_balanced, square_sums, symmetric_sums  # noqa: E402
from iroot.kernels.symmetric import Terms, symmetric_product  # noqa: E402
from iroot.kernels.symmetric_sum import UNSCALED, Matrices, Scaling, SumTerms  # noqa: E402
from iroot.kernels.tiling import TILINGS, Tiling, choose_tiling, schedule  # noqa: E402
from iroot.tests import sum_forms  # noqa: E402
from iroot.tests.sum_forms import BOTH, gaussian, symmetric  # noqa: E402

PLAIN, TAIL, SMALL, _ = TILINGS
runs_gluon = pytest.mark.skipif(bool(lacks_gluon(DEVICE)), reason=lacks_gluon(DEVICE) or "it runs")


def lower_blocks(n: int) -> set[tuple[int, int]]:
    """Where the blocks of 64 x 64 of the lower triangle begin, in panels of 128 rows."""
    rows = -(-n // SIDE) * SIDE
    return {(row, col) for row in range(0, rows, HALF) for col in range(0, row + 1, HALF)}


@pytest.mark.parametrize("n", [1, 64, 128, 130, 257, 520, 640, 1793, 1920, 2048])
def test_every_block_of_the_triangle_is_in_one_share(n: int) -> None:
    """Four blocks in every share, at most; those that nobody needs lie below the matrix."""
    found = Counter[tuple[int, int, int]]()
    shares = balanced_schedule(n, 2)
    for share in shares:
        row, col = share.row, share.col
        blocks = [(row, col), (row + HALF, col), (row + HALF, col + HALF)]
        blocks.append((share.left, share.right) if row == col else (row, col + HALF))
        found.update((share.batch, *block) for block in blocks if block[0] < -(-n // SIDE) * SIDE)
    assert found == Counter((batch, *block) for batch in range(2) for block in lower_blocks(n))
    assert len(shares) == 2 * shares_of(n)


def test_a_fourth_block_is_read_where_a_second_operand_would_be() -> None:
    """At most two blocks of 64 rows beside the tile's own 128, of one other tile on the diagonal."""
    for share in balanced_schedule(2048, 1):
        if share.row == share.col:
            assert share.left // SIDE == share.right // SIDE != share.row // SIDE
            assert share.right <= share.left


def test_2048_rows_are_a_share_for_every_multiprocessor_of_an_h100() -> None:
    assert shares_of(2048) == 132
    for n in range(SIDE, 2049, SIDE):
        least = len(lower_blocks(n)) / 4
        assert least <= shares_of(n) < least + 1


def test_taken_where_one_wave_of_shares_is_sooner_done() -> None:
    sides = (512, 1024, 1408, 1409, 1792, 1920, 2048, 2049, 4096)
    taken = [n for n in sides if saves_work(n, 1, choose_tiling(n, 1, processors=132), processors=132)]
    assert taken == [1409, 1792, 1920, 2048]
    assert not saves_work(2048, 1, TAIL, processors=131)
    assert saves_work(1152, 3, TAIL, processors=132)
    assert not saves_work(1152, 4, TAIL, processors=132)
    assert not saves_work(2048, 1, Tiling(block=32, tail=16, block_k=32, warps=4, stages=2), processors=132)


def posed(n: int, *, square: bool = True) -> Matrices:
    """Shapes without memory."""
    M, N = (torch.empty(1, n, n, dtype=torch.float16, device="meta") for _ in range(2))
    return Matrices(M=M, N=M if square else N)


def test_taken_where_both_operands_are_one_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a sum of squares from each of a share's two groups of warps."""
    assert not is_for_balanced(posed(2048), TAIL)  # no Hopper GPU
    assert square_sums(posed(2048), TAIL) == len(schedule(2048, 1, 128, 32))
    monkeypatch.setattr(sum_launch, "lacks_gluon", lambda device: "")
    assert is_for_balanced(posed(2048), TAIL)
    assert not is_for_balanced(posed(2048, square=False), TAIL)
    assert not is_for_balanced(posed(3072), PLAIN)
    assert square_sums(posed(2048), TAIL) == 264
    assert square_sums(posed(3072), PLAIN) == 300


def by_both(
    matrices: Matrices, sums: tuple[SumTerms, ...], scaling: Scaling = UNSCALED
) -> tuple[list[Tensor], list[Tensor]]:
    from iroot.kernels.hopper_balanced import hopper_balanced_sums

    return sum_forms.by_both(hopper_balanced_sums, matrices, sums, PLAIN, scaling)


@pytest.mark.gpu
@runs_gluon
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("n", "batch"), [(2048, 1), (2000, 1), (1793, 1), (1152, 3), (130, 2), (1, 1)])
def test_bit_for_bit_with_tritons_kernel(n: int, batch: int, dtype: torch.dtype) -> None:
    """With shares of every kind, and rows and columns that are not full; ten launches, each the same."""
    S, T, Z = (symmetric(batch, n, dtype, seed) for seed in range(3))
    unit = torch.full((batch,), 0.5, device=DEVICE)
    addends: tuple[dict[str, Tensor], ...] = ({}, {"T": T}, {"Z": Z}, {"T": T, "Z": Z})
    for each in addends:
        for sums in (BOTH[:1], BOTH):
            for scaling in (UNSCALED, Scaling(kind="later", unit=unit)):
                for _ in range(10):
                    both = by_both(Matrices(M=S, N=S, **each), sums, scaling)
                    for found, expected in zip(*both, strict=True):
                        assert torch.equal(found, expected)
                        assert torch.equal(found, found.mT)


@pytest.mark.gpu
@runs_gluon
@pytest.mark.parametrize(("n", "depth", "batch"), [(2048, 8192, 1), (1930, 1000, 1), (1000, 40, 2)])
def test_gram_products_squares_and_scalars(n: int, depth: int, batch: int) -> None:
    """Depths beside n; what the kernel sums itself agrees with float64."""
    from iroot.kernels.hopper_balanced import hopper_balanced_sums

    sum_forms.assert_squares_and_scalars(hopper_balanced_sums, PLAIN, 2 * shares_of(n), n=n, depth=depth, batch=batch)


@pytest.mark.gpu
@runs_gluon
def test_products_and_sums_take_it_also_in_graphs() -> None:
    X, S, Z = gaussian(1, 2048, 4096, torch.float16, 0), *(symmetric(1, 2048, torch.float16, seed) for seed in (1, 2))
    assert torch.equal(symmetric_product(X, X), by_both(Matrices(M=X, N=X), (SumTerms(),))[0][0])
    found = symmetric_product(S, S, Z, terms=Terms(alpha=0.5, beta=-2.0, gamma=0.25))
    assert torch.equal(found, by_both(Matrices(M=S, N=S, Z=Z), (SumTerms(P=0.5, Z=-2.0, identity=0.25),))[0][0])
    matrices = Matrices(M=S, N=S, Z=Z)
    assert is_for_balanced(matrices, TAIL)
    (expected,) = by_both(matrices, BOTH[:1])[1]
    symmetric_sums(matrices, BOTH[:1], TAIL)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        (captured,) = symmetric_sums(matrices, BOTH[:1], TAIL)
    for _ in range(3):
        captured.fill_(torch.nan)
        graph.replay()
        assert torch.equal(captured, expected)
