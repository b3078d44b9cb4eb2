"""Gluon's sums bit for bit against Triton's, on a Hopper GPU; without one, when they are taken."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
if DEVICE.type == "cpu":  # read when the kernels are defined, and again when they run
    os.environ["TRITON_INTERPRET"] = "1"
import triton  # noqa: E402

from iroot.kernels import sum_launch  # noqa: E402
from iroot.kernels.hopper import lacks_gluon  # noqa: E402
from iroot.kernels.operands import processors  # noqa: E402
from iroot.kernels.rehearsal import on_grid, rehearse  # noqa: E402
from iroot.kernels.sum_launch import is_for_gluon, symmetric_sums  # noqa: E402
from iroot.kernels.symmetric_sum import UNSCALED, Matrices, Scaling, SumTerms, triton_sums  # noqa: E402
from iroot.kernels.tiling import GRADED_TILINGS, Tiling, schedule  # noqa: E402
from iroot.tests import sum_forms  # noqa: E402
from iroot.tests.sum_forms import BOTH, gaussian, symmetric  # noqa: E402

PLAIN, TAIL, SMALL = GRADED_TILINGS
HALF, BRAIN = torch.float16, torch.bfloat16
runs_gluon = pytest.mark.skipif(bool(lacks_gluon(DEVICE)), reason=lacks_gluon(DEVICE) or "it runs")


def posed(batches: int, n: int, *, depth: int | None = None, addends: int = 0) -> Matrices:
    """Shapes without memory."""
    M = torch.empty(batches, n, depth or n, dtype=HALF, device="meta")
    T, Z = (torch.empty(batches, n, n, dtype=HALF, device="meta") if addends > k else None for k in range(2))
    return Matrices(M=M, N=M, T=T, Z=Z)


def test_one_wave_of_tiles_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sum_launch, "lacks_gluon", lambda device: "")
    assert processors(torch.device("meta")) == 132
    assert is_for_gluon(posed(1, 2048), TAIL)  # 118 tiles
    assert not is_for_gluon(posed(1, 2048), PLAIN)  # 136
    assert is_for_gluon(posed(1, 1536, depth=8192, addends=1), PLAIN)
    assert not is_for_gluon(posed(1, 1536), SMALL)
    assert not is_for_gluon(posed(1, 2048), Tiling(block=128, tail=64, block_k=64, warps=8, stages=3))


def test_more_waves_are_taken_where_the_epilogue_is_long_and_the_loop_short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sum_launch, "lacks_gluon", lambda device: "")
    taken = [is_for_gluon(posed(16, 1024, addends=addends), TAIL) for addends in (0, 1, 2)]
    assert taken == [False, True, True]
    assert not is_for_gluon(posed(1, 4096, addends=2), PLAIN)


def test_what_cannot_run_it_keeps_tritons_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    assert lacks_gluon(torch.device("cpu")) == "Gluon has no interpreter"
    assert not is_for_gluon(posed(1, 2048), TAIL)
    monkeypatch.setattr(triton.knobs.runtime, "interpret", False)
    for index, (capability, version, reason) in enumerate(
        [
            ((8, 0), "3.6.0", r"it is for compute capability (9, 0), this GPU has (8, 0)"),
            ((9, 0), "3.9.0", "it is for Triton 3.6, this is 3.9.0"),
            ((9, 0), "3.6.1", ""),
        ]
    ):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, found=capability: found)
        monkeypatch.setattr(triton, "__version__", version)
        assert lacks_gluon(torch.device("cuda", 100 + index)) == reason


def by_both(
    matrices: Matrices, sums: tuple[SumTerms, ...], tiling: Tiling, scaling: Scaling = UNSCALED
) -> tuple[list[Tensor], list[Tensor]]:
    from iroot.kernels.hopper_sum import hopper_sums

    return sum_forms.by_both(hopper_sums, matrices, sums, tiling, scaling)


@pytest.mark.gpu
@runs_gluon
@pytest.mark.parametrize("dtype", [HALF, BRAIN])
@pytest.mark.parametrize(
    ("n", "batch", "tiling"),
    [(2048, 1, TAIL), (2048, 1, PLAIN), (1000, 1, TAIL), (1001, 3, PLAIN), (1537, 2, TAIL), (4096, 1, PLAIN)],
    ids=str,
)
def test_bit_for_bit_with_tritons_kernel(n: int, batch: int, tiling: Tiling, dtype: torch.dtype) -> None:
    """In one wave and in several, with rows, columns and tiles that are not full; ten launches, each the same."""
    S, T, Z = (symmetric(batch, n, dtype, seed) for seed in range(3))
    unit = torch.full((batch,), 0.5, device=DEVICE)
    for matrices in (
        Matrices(M=S, N=S),
        Matrices(M=S, N=S, T=T),
        Matrices(M=S, N=S, Z=Z),
        Matrices(M=S, N=S, T=T, Z=Z),
    ):
        for sums in (BOTH[:1], BOTH):
            for scaling in (UNSCALED, Scaling(kind="later", unit=unit)):
                for _ in range(10):
                    for found, expected in zip(*by_both(matrices, sums, tiling, scaling), strict=True):
                        assert torch.equal(found, expected)
                        assert torch.equal(found, found.mT)


def test_tritons_kernel_leaves_what_those_in_gluon_do() -> None:
    """What the next test asks of each of them, where there is no such GPU."""
    tiles = len(schedule(150, 1, SMALL.block, SMALL.tail))
    sum_forms.assert_squares_and_scalars(triton_sums, SMALL, tiles, n=150, depth=40, batch=2)


@pytest.mark.gpu
@runs_gluon
@pytest.mark.parametrize(("n", "depth", "batch"), [(2048, 8192, 1), (1000, 40, 2), (512, 4096, 16)])
def test_gram_products_squares_and_scalars(n: int, depth: int, batch: int) -> None:
    """Depths beside n; what the kernel sums itself agrees with float64."""
    from iroot.kernels.hopper_sum import hopper_sums

    tiles = len(schedule(n, 1, TAIL.block, TAIL.tail))
    sum_forms.assert_squares_and_scalars(hopper_sums, TAIL, tiles, n=n, depth=depth, batch=batch)


@pytest.mark.gpu
@runs_gluon
def test_taken_in_graphs_and_compiled_before_its_launch(monkeypatch: pytest.MonkeyPatch) -> None:
    from iroot.kernels import hopper_sum

    S, Z = symmetric(1, 1920, BRAIN, 0), symmetric(1, 1920, BRAIN, 1)
    matrices = Matrices(M=S, N=S.clone(), Z=Z)  # one matrix would be taken in equal shares
    launches: list[object] = []

    def noted(kernel: object, grid: tuple[int, ...]) -> Callable[..., object]:
        launches.append(kernel)
        return on_grid(kernel, grid)

    monkeypatch.setattr(hopper_sum, "on_grid", noted)
    threads: list[threading.Thread] = []
    monkeypatch.setattr(triton.knobs.compilation, "listener", lambda **_: threads.append(threading.current_thread()))

    def run() -> Tensor:
        return symmetric_sums(matrices, BOTH[:1], PLAIN)[0]

    rehearse("test_taken_in_graphs", run, DEVICE)
    run()
    assert threading.main_thread() not in threads
    assert launches == [hopper_sum.hopper_sum_kernel] * 2
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = run()
    (expected,) = by_both(matrices, BOTH[:1], PLAIN)[1]
    for _ in range(3):
        captured.fill_(torch.nan)
        graph.replay()
        assert torch.equal(captured, expected)


def test_tritons_kernel_has_two_results_without_addends_in_wide_tiles() -> None:
    tiling = Tiling(block=32, tail=16, block_k=32, warps=4, stages=2)
    M = gaussian(1, 96, 40, HALF, 0)
    first, second = symmetric_sums(Matrices(M=M, N=M), (SumTerms(), SumTerms(P=-0.5, identity=2.0)), tiling)
    exact = M.double() @ M.double().mT
    for result, expected in ((first, exact), (second, 2.0 * torch.eye(96, device=DEVICE) - 0.5 * exact)):
        assert torch.equal(result, result.mT)
        assert (result.double() - expected).norm() < 5e-4 * expected.norm()
