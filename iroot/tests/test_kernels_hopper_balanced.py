"""Gram products in equal shares: every block once, when they are taken; on a Hopper GPU, bit for bit."""

from __future__ import annotations

import os
from collections import Counter
from types import ModuleType

import pytest
import torch
from torch import Tensor

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
if DEVICE.type == "cpu":  # read when the kernels are defined, and again when they run
    os.environ["TRITON_INTERPRET"] = "1"

from iroot.kernels import symmetric as products  # noqa: E402
from iroot.kernels.balanced_tiles import (  # noqa: E402
    HALF,
    SIDE,
    balanced_schedule,
    device_shares,
    saves_work,
    shares_of,
)
from iroot.kernels.hopper import lacks_gluon  # noqa: E402
from iroot.kernels.operands import empty_rows  # noqa: E402
from iroot.kernels.symmetric import Terms, symmetric_product  # noqa: E402
from iroot.kernels.symmetric_sum import Matrices, SumTerms, triton_sums  # noqa: E402
from iroot.kernels.tiling import TILINGS, Tiling, choose_tiling  # noqa: E402

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
    assert len(shares) == 2 * shares_of(-(-n // SIDE))
    assert device_shares(n, 2, torch.device("cpu")).tolist() == [list(share) for share in shares]


def test_a_fourth_block_is_read_where_a_second_operand_would_be() -> None:
    """At most two blocks of 64 rows beside the tile's own 128, of one other tile on the diagonal."""
    for share in balanced_schedule(2048, 1):
        if share.row == share.col:
            assert share.left // SIDE == share.right // SIDE != share.row // SIDE
            assert share.right <= share.left


def test_2048_rows_are_a_share_for_every_multiprocessor_of_an_h100() -> None:
    assert shares_of(16) == 132
    least = [len(lower_blocks(SIDE * panels)) / 4 for panels in range(1, 17)]
    assert all(count <= shares_of(panels) < count + 1 for panels, count in enumerate(least, 1))


def test_taken_where_the_busiest_multiprocessor_has_less_to_do() -> None:
    sides = (512, 1024, 1536, 1792, 1920, 1921, 2048, 2049, 4096)
    taken = [n for n in sides if saves_work(n, 1, choose_tiling(n, 1, processors=132), processors=132)]
    assert taken == [1921, 2048]
    assert not saves_work(2048, 1, TAIL, processors=131)
    assert saves_work(1152, 3, TAIL, processors=132)
    assert not saves_work(1152, 4, TAIL, processors=132)


@pytest.mark.parametrize(
    ("case", "taken"), [("gram", True), ("scaled", False), ("addend", False), ("float32", False), ("tiling", False)]
)
def test_gram_products_in_16_bits_take_it(case: str, taken: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an addend, a scale of the device, another result or a tiling asked for."""
    launched: list[tuple[float, float]] = []
    gluon = ModuleType("iroot.kernels.hopper_balanced")

    def noted(M: Tensor, out: Tensor, *, alpha: float, gamma: float) -> None:
        launched.append((alpha, gamma))

    def triton_kernel(*operands: object) -> None:
        return None

    gluon.hopper_balanced = noted  # type: ignore[attr-defined]
    monkeypatch.setitem(__import__("sys").modules, gluon.__name__, gluon)
    monkeypatch.setattr(products, "lacks_gluon", lambda device: "")
    monkeypatch.setattr(products, "_sum_on_hopper", lambda *operands: False)
    monkeypatch.setattr(products, "_launch", triton_kernel)
    A = torch.empty(2048, 64, dtype=torch.float16)
    terms = Terms(alpha=0.5, gamma=2.0)
    addend, output = None, None
    tiling: Tiling | None = None
    if case == "scaled":
        terms = Terms(scale=torch.ones(1, 1))
    if case == "addend":
        terms, addend = Terms(beta=1.0), torch.empty(2048, 2048, dtype=torch.float16)
    if case == "float32":
        output = torch.float32
    if case == "tiling":
        tiling = PLAIN
    symmetric_product(A, A, addend, terms=terms, output=output, tiling=tiling)
    assert launched == ([(0.5, 2.0)] if taken else [])


@pytest.mark.gpu
@runs_gluon
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    ("batch", "n", "depth"),
    [(1, 2048, 2048), (1, 2048, 8192), (1, 2000, 1000), (1, 1793, 40), (3, 1152, 512), (2, 130, 200), (1, 1, 8)],
)
def test_bit_for_bit_with_tritons_kernel(batch: int, n: int, depth: int, dtype: torch.dtype) -> None:
    """Rows, columns and depths that are not full; ten launches, each the same."""
    from iroot.kernels.hopper_balanced import hopper_balanced

    generator = torch.Generator(device=DEVICE).manual_seed(0)
    M = empty_rows((batch, n, depth), dtype, DEVICE)
    M.copy_(torch.randn(batch, n, depth, generator=generator, device=DEVICE) / depth**0.5)
    found, expected = (empty_rows((batch, n, n), dtype, DEVICE) for _ in range(2))
    triton_sums(Matrices(M=M, N=M), (SumTerms(P=0.7, identity=0.25),), PLAIN, [expected])
    for _ in range(10):
        found.fill_(torch.nan)
        hopper_balanced(M, found, alpha=0.7, gamma=0.25)
        assert torch.equal(found, expected)
        assert torch.equal(found, found.mT)
