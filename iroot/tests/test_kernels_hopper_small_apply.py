"""Gluon's products with an addend in tiles of 64 columns bit for bit against Triton's; without a Hopper GPU, when."""

from __future__ import annotations

import os

import pytest
import torch
from torch import Tensor

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
if DEVICE.type == "cpu":  # read when the kernels are defined, and again when they run
    os.environ["TRITON_INTERPRET"] = "1"

from iroot.kernels import multiply_add  # noqa: E402
from iroot.kernels.hopper import lacks_gluon  # noqa: E402
from iroot.kernels.multiply_add import BLOCKINGS, is_for_small_gluon, triton_multiply_add  # noqa: E402
from iroot.kernels.operands import empty_rows, operand  # noqa: E402

TALL, SMALL = BLOCKINGS[2:]
HALF, BRAIN = torch.float16, torch.bfloat16
FACTORS = (0.5, -2.0)
runs_gluon = pytest.mark.skipif(bool(lacks_gluon(DEVICE)), reason=lacks_gluon(DEVICE) or "it runs")


def drawn(batch: int, m: int, n: int, dtype: torch.dtype, seed: int) -> Tensor:
    generator = torch.Generator(device=DEVICE).manual_seed(seed)
    A = torch.randn(batch, m, n, generator=generator, device=DEVICE) / n**0.5
    return empty_rows((batch, m, n), dtype, DEVICE).copy_(A)


def test_taken_where_few_tiles_are_on_a_multiprocessor(monkeypatch: pytest.MonkeyPatch) -> None:
    X = torch.empty(1, 1024, 1024, dtype=HALF, device="meta")
    left, right = operand(X), operand(X.mT)
    assert not is_for_small_gluon(left, right, X, TALL)  # no Hopper GPU
    monkeypatch.setattr(multiply_add, "lacks_gluon", lambda device: "")
    assert is_for_small_gluon(left, right, X, TALL)  # 128 tiles for 132 multiprocessors
    assert not is_for_small_gluon(left, right, X, SMALL)  # 256
    assert is_for_small_gluon(left, right, X[:, :512], SMALL)  # 128
    assert not is_for_small_gluon(left, left, X, TALL)  # B stored along the depth
    assert not any(is_for_small_gluon(left, right, X, blocking) for blocking in BLOCKINGS[:2])


@pytest.mark.gpu
@runs_gluon
@pytest.mark.parametrize("dtype", [HALF, BRAIN])
@pytest.mark.parametrize("blocking", [TALL, SMALL], ids=str)
@pytest.mark.parametrize(
    ("batch", "m", "depth", "n"),
    [(1, 1024, 1024, 1024), (2, 768, 768, 768), (1, 1000, 1000, 1048), (3, 200, 40, 300), (1, 130, 4000, 70)],
    ids=str,
)
def test_bit_for_bit_with_tritons_kernel(
    batch: int, m: int, depth: int, n: int, blocking: multiply_add.Blocking, dtype: torch.dtype
) -> None:
    """With rows, columns and depths that are not full; ten launches each, B and C asked for ahead in half of them.

    B and C are complete by then: a launch of Triton's kernel lies between.
    """
    from iroot.kernels.hopper_small_apply import hopper_small_apply

    A, B, C = drawn(batch, m, depth, dtype, 0), drawn(batch, depth, n, dtype, 1), drawn(batch, m, n, dtype, 2)
    for unit in (None, torch.linspace(0.5, 2.0, batch, device=DEVICE)):
        found, expected = (empty_rows((batch, m, n), dtype, DEVICE).fill_(torch.nan) for _ in range(2))
        for turn in range(10):
            triton_multiply_add(operand(A), operand(B.mT), operand(C), expected, FACTORS, blocking=blocking, unit=unit)
            hopper_small_apply((A, B, C), found, FACTORS, rows=blocking.rows, unit=unit, ahead=turn % 2 == 1)
            assert torch.equal(found, expected)
            found.fill_(torch.nan)
    factor = torch.linspace(0.5, 2.0, batch, device=DEVICE).double().sqrt()[:, None, None]
    exact = factor * (0.5 * A.double() @ B.double() - 2.0 * C.double())
    assert (expected.double() - exact).norm() <= torch.finfo(dtype).eps * exact.norm()
