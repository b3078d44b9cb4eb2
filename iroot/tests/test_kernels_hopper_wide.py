"""Sums in slots of 128 x 256: every block once, when they are taken; on a Hopper GPU, bit for bit with Triton's."""

from __future__ import annotations

import os
from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
if DEVICE.type == "cpu":  # read when the kernels are defined, and again when they run
    os.environ["TRITON_INTERPRET"] = "1"

from iroot.kernels import sum_launch  # noqa: E402
from iroot.kernels.device_tiles import device_slots  # noqa: E402
from iroot.kernels.hopper import lacks_gluon  # noqa: E402
from iroot.kernels.sum_launch import is_for_balanced, is_for_wide, square_sums, symmetric_sums  # noqa: E402
from iroot.kernels.symmetric import Terms, symmetric_product  # noqa: E402
from iroot.kernels.symmetric_sum import UNSCALED, Matrices, Scaling, SumTerms  # noqa: E402
from iroot.kernels.tiling import TILINGS, choose_tiling, schedule  # noqa: E402
from iroot.kernels.wide_tiles import SIDE, WIDTH, Slot, is_sooner, slots_of, wide_schedule  # noqa: E402
from iroot.tests import sum_forms  # noqa: E402
from iroot.tests.sum_forms import BOTH, gaussian, symmetric  # noqa: E402

PLAIN, TAIL, SMALL, _ = TILINGS
BLOCK = SIDE // 2
runs_gluon = pytest.mark.skipif(bool(lacks_gluon(DEVICE)), reason=lacks_gluon(DEVICE) or "it runs")


def blocks_of(slot: Slot) -> list[tuple[int, int]]:
    """Where the blocks of 64 x 64 of its lower triangle begin."""
    tiles = [(slot.row, slot.col, WIDTH)] if not slot.pair else [(at, at, SIDE) for at in (slot.row, slot.col)]
    return [
        (row, col)
        for first, left, width in tiles
        for row in range(first, first + SIDE, BLOCK)
        for col in range(left, min(left + width, row + 1), BLOCK)
    ]


def panels_of(slot: Slot) -> set[int]:
    """The panels of 128 rows that it reads."""
    beside = {slot.col} if slot.pair else {slot.col, slot.col + SIDE}
    return {at // SIDE for at in {slot.row} | beside}


@pytest.mark.parametrize("n", [1, 64, 128, 130, 257, 520, 640, 897, 1300, 1793, 2048, 3970, 4096])
def test_every_block_of_the_triangle_is_in_one_slot(n: int) -> None:
    """Those that nobody needs lie below the matrix, or above the diagonal."""
    rows = -(-n // SIDE) * SIDE
    slots = wide_schedule(n, 2)
    found = Counter((slot.batch, *block) for slot in slots for block in blocks_of(slot) if block[0] < rows)
    expected = [(row, col) for row in range(0, rows, BLOCK) for col in range(0, row + 1, BLOCK)]
    assert found == Counter((batch, *block) for batch in range(2) for block in expected)
    assert len(slots) == 2 * slots_of(n)
    assert [slot.batch for slot in slots] == sorted(slot.batch for slot in slots)


@pytest.mark.parametrize(("n", "count"), [(1, 1), (128, 1), (129, 2), (257, 3), (512, 5), (640, 8), (4096, 264)])
def test_slots_of_a_matrix(n: int, count: int) -> None:
    """By hand: with five panels four whole tiles of the first pair, two of the second, three lone ones in two slots."""
    assert slots_of(n) == len(wide_schedule(n, 1)) == count


def test_4096_rows_are_two_slots_for_every_multiprocessor_of_an_h100() -> None:
    """Where plain tiles are four, which read a third more."""
    assert slots_of(4096) == 2 * 132
    assert len(schedule(4096, 1, SIDE, 0)) == 4 * 132
    slots = wide_schedule(4096, 1)
    assert max(len(panels_of(slot)) for slot in slots) == 3
    assert [slot.pair for slot in slots] == [0] * 256 + [1] * 8


@pytest.mark.parametrize(("n", "row", "col"), [(1, 0, 128), (256, 0, 256), (640, 512, 640), (2300, 2048, 2304)])
def test_an_odd_tile_on_the_diagonal_is_beside_one_below_the_matrix(n: int, row: int, col: int) -> None:
    assert wide_schedule(n, 1)[-1] == Slot(0, row, col, 1)
    assert col >= n


def test_slots_of_one_time_share_operands() -> None:
    """132 of them, in strips of six pairs of columns: of 64 panels never more than 40; row by row all 64."""
    slots = wide_schedule(8192, 1)
    whole = [slot for slot in slots if not slot.pair]
    assert whole[:4] == [Slot(0, 128, 0, 0), Slot(0, 256, 0, 0), Slot(0, 384, 0, 0), Slot(0, 384, 256, 0)]
    strips = [slot.col // (6 * WIDTH) for slot in whole]
    assert strips == sorted(strips)
    for order, most in ((whole, 40), (sorted(whole), 64)):
        waves = [order[k : k + 132] for k in range(0, len(order), 132)]
        assert max(len(set.union(*map(panels_of, wave))) for wave in waves) == most


def test_slots_on_a_device() -> None:
    found = device_slots(640, 2, torch.device("cpu"))
    assert found.dtype is torch.int32
    assert found.tolist() == [list(slot) for slot in wide_schedule(640, 2)]
    assert device_slots(640, 2, torch.device("cpu")) is found


def test_taken_where_slots_are_done_as_soon() -> None:
    sides = (1024, 2048, 2304, 2560, 3072, 3328, 3584, 3840, 4000, 4096, 4224, 5120, 8192)
    taken = [n for n in sides if is_sooner(n, 2048, 1, choose_tiling(n, 1, processors=132), processors=132)]
    assert taken == [2304, 2560, 3584, 3840, 4000, 4096, 5120, 8192]
    assert not is_sooner(4096, 4096, 1, PLAIN, processors=131)  # three slots for some
    assert not is_sooner(4096, 4096, 1, SMALL, processors=132)
    assert not is_sooner(4096, 1024, 1, PLAIN, processors=132)
    assert is_sooner(4096, 4096, 2, PLAIN, processors=132)
    assert is_sooner(2048, 2048, 3, PLAIN, processors=132)
    assert not is_sooner(1024, 1024, 7, PLAIN, processors=132)


def posed(n: int, *, square: bool = True) -> Matrices:
    """Shapes without memory."""
    M, N = (torch.empty(1, n, n, dtype=torch.float16, device="meta") for _ in range(2))
    return Matrices(M=M, N=M if square else N)


def test_taken_where_both_operands_are_one_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a sum of squares from each of a slot's two groups of warps."""
    assert not is_for_wide(posed(4000), PLAIN)  # no Hopper GPU
    assert square_sums(posed(3970), PLAIN) == len(schedule(3970, 1, 128, 0)) == 528
    monkeypatch.setattr(sum_launch, "lacks_gluon", lambda device: "")
    assert is_for_wide(posed(3840), TAIL)
    assert not is_for_wide(posed(3840, square=False), TAIL)
    assert not is_for_wide(posed(3072), TAIL)
    assert square_sums(posed(3840), TAIL) == 2 * 233
    assert square_sums(posed(3840, square=False), TAIL) == len(schedule(3840, 1, 128, 32))
    assert square_sums(posed(2048), PLAIN) == 264  # equal shares come first


def by_both(
    matrices: Matrices, sums: tuple[SumTerms, ...], scaling: Scaling = UNSCALED
) -> tuple[list[Tensor], list[Tensor]]:
    from iroot.kernels.hopper_wide import hopper_wide_sums

    return sum_forms.by_both(hopper_wide_sums, matrices, sums, PLAIN, scaling)


def assert_same(found: list[Tensor], expected: list[Tensor]) -> None:
    for D, E in zip(found, expected, strict=True):
        assert torch.equal(D, E)
        assert torch.equal(D, D.mT)


SHAPES = [(4096, 4096, 1), (3970, 3970, 1), (1300, 1300, 2), (640, 40, 3), (130, 130, 1), (1, 1, 1)]
"""Rows, columns of M and batches."""


@pytest.mark.gpu
@runs_gluon
@pytest.mark.parametrize("results", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("n", "depth", "batch"), SHAPES)
def test_bit_for_bit_with_tritons_kernel(n: int, depth: int, batch: int, dtype: torch.dtype, results: int) -> None:
    """One slot and several, rows and columns that are not full; ten launches, or three large ones, each the same."""
    M, T, Z = gaussian(batch, n, depth, dtype, 0), *(symmetric(batch, n, dtype, seed) for seed in (1, 2))
    unit = torch.full((batch,), 0.5, device=DEVICE)
    addends: tuple[dict[str, Tensor], ...] = ({}, {"T": T}, {"Z": Z}, {"T": T, "Z": Z})
    for each in addends:
        for scaling in (UNSCALED, Scaling(kind="later", unit=unit)):
            for _ in range(3 if n > 2048 else 10):
                assert_same(*by_both(Matrices(M=M, N=M, **each), BOTH[:results], scaling))


@pytest.mark.gpu
@runs_gluon
@pytest.mark.parametrize(("n", "depth", "batch"), SHAPES)
def test_scalars_bit_for_bit(n: int, depth: int, batch: int) -> None:
    """Of sums of squares that are whole numbers, whose sum is the same in any order; u is written."""
    M, Z = gaussian(batch, n, depth, torch.float16, 0), symmetric(batch, n, torch.float16, 1)
    norms = torch.arange(1.0, 1 + 7 * batch, device=DEVICE).reshape(batch, 7)
    unit = torch.full((batch,), torch.nan, device=DEVICE)
    for each in ({}, {"Z": Z}):
        assert_same(*by_both(Matrices(M=M, N=M, **each), BOTH[:1], Scaling(kind="limited", norms=1e4 * norms)))
        for sums in (BOTH[:1], BOTH):
            first = Scaling(kind="first", norms=norms, unit=unit.fill_(torch.nan), margin=1.1)
            assert_same(*by_both(Matrices(M=M, N=M, **each), sums, first))
            assert torch.allclose(unit.double(), 1.0 / (1.21 * norms.double().sum(-1).sqrt()), rtol=1e-5)


@pytest.mark.gpu
@runs_gluon
@pytest.mark.parametrize(("n", "depth", "batch"), [(4096, 1000, 1), (1300, 3000, 2), (640, 40, 3)])
def test_gram_products_squares_and_scalars(n: int, depth: int, batch: int) -> None:
    """Depths beside n; what the kernel sums itself agrees with float64."""
    from iroot.kernels.hopper_wide import hopper_wide_sums

    sum_forms.assert_squares_and_scalars(hopper_wide_sums, PLAIN, 2 * slots_of(n), n=n, depth=depth, batch=batch)


@pytest.mark.gpu
@runs_gluon
def test_products_and_sums_take_it_also_in_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    from iroot.kernels import hopper_wide

    launches: list[Matrices] = []

    def noted(matrices: Matrices, *others: Any, **options: Any) -> None:
        launches.append(matrices)
        kernel(matrices, *others, **options)

    X, S, Z = gaussian(1, 4096, 3000, torch.float16, 0), *(symmetric(1, 4096, torch.float16, seed) for seed in (1, 2))
    product, quadratic = (SumTerms(),), (SumTerms(P=0.5, Z=-2.0, identity=0.25),)
    matrices = Matrices(M=S, N=S, Z=Z)
    expected = [by_both(*each)[0][0] for each in ((Matrices(M=X, N=X), product), (matrices, quadratic))]
    kernel = hopper_wide.hopper_wide_sums
    monkeypatch.setattr(hopper_wide, "hopper_wide_sums", noted)
    assert torch.equal(symmetric_product(X, X), expected[0])
    assert torch.equal(symmetric_product(S, S, Z, terms=Terms(alpha=0.5, beta=-2.0, gamma=0.25)), expected[1])
    assert is_for_wide(matrices, PLAIN)
    assert not is_for_balanced(matrices, PLAIN)
    symmetric_sums(matrices, quadratic, PLAIN)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        (captured,) = symmetric_sums(matrices, quadratic, PLAIN)
    assert len(launches) == 4
    for _ in range(3):
        captured.fill_(torch.nan)
        graph.replay()
        assert torch.equal(captured, expected[1])
