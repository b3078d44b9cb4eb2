"""The polar iteration in one kernel against float64, on the GPU, or without one in Triton's interpreter.

The interpreter runs programs one after the other, so there each matrix has one program; only `interleaved` gives every
program a thread, of which one runs until it meets the others.
"""

from __future__ import annotations

import ctypes
import inspect
import os
import random
import threading
from collections.abc import Callable
from dataclasses import replace
from types import FunctionType
from typing import Any

import pytest
import torch
from torch import Tensor

from iroot.coefficients import named_table
from iroot.errors import InvalidInputError
from iroot.methods._polar import Normalisation, Recipe, polar_factor
from iroot.odd_steps import StepBound
from iroot.precision import get_precision
from iroot.registry import Operands
from iroot.torch_ops import FloatingOps

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
if DEVICE.type == "cpu":  # read when the kernels are defined, and again when they run
    os.environ["TRITON_INTERPRET"] = "1"
import triton  # noqa: E402
import triton.language as tl  # noqa: E402

from iroot import triton_ops  # noqa: E402
from iroot.kernels import quintics  # noqa: E402
from iroot.kernels.quintic_steps import (  # noqa: E402
    LARGE,
    MEDIUM,
    SMALL,
    STEP_TILES,
    StepPlan,
    StepTiles,
    choose_step_plan,
    quintic_steps,
    reference_steps,
)

H100 = 132
PUBLISHED = StepBound(epsilon=1e-7)
GRAM = StepBound(norm="gram", margin=1.01)
FIVE = named_table("jiacheng_you").take(5)
NARROW = StepTiles(block=16, rows=16, columns=32, block_k=32, warps=4, stages=2)
TALL = StepTiles(block=16, rows=32, columns=16, block_k=32, warps=4, stages=2, loads="copy_engine")
FEW = StepTiles(block=32, rows=32, columns=32, block_k=32, warps=4, stages=2)
ENGINE = tuple(replace(tiles, loads="copy_engine") for tiles in STEP_TILES)
TESTED = (NARROW, TALL) if DEVICE.type == "cpu" else (*STEP_TILES, *ENGINE)
QUICK = FEW if DEVICE.type == "cpu" else SMALL

from iroot.triton_ops import TritonOps  # noqa: E402

symmetric_phase, apply_phase = quintics._symmetric_phase, quintics._apply_phase


@triton.jit  # type: ignore[untyped-decorator]
def _one_phase_each(S, square, X, m, n, TILE: tl.constexpr):  # type: ignore[no-untyped-def]
    """square = 0.5 S S^T + 0.25 S and X[1] = 2 X[0] + S X[0], in one program's share of tiles."""
    first, programs = tl.program_id(0), tl.num_programs(0)
    symmetric_phase(S, None, 0, square, 0, first, programs, m, m, 0.5, 1.0, 0.25, None, True, TILE, TILE, tl.float16)
    apply_phase(S, None, 0, X, None, 0, 1, first, programs, m, n, 2.0, 1.0, TILE, TILE, TILE, tl.float16)


@pytest.fixture(autouse=True)
def _poisoned_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.empty returns NaN, or the largest integer, so that an element nobody writes shows."""
    empty = torch.empty

    def poisoned(*size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
        memory = empty(*size, dtype=dtype, device=device)
        return memory.fill_(torch.nan if dtype.is_floating_point else torch.iinfo(dtype).max)

    monkeypatch.setattr(torch, "empty", poisoned)


def gaussian(*shape: int, dtype: torch.dtype = torch.float16) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape))).to(dtype).to(DEVICE)


def error(X: Tensor, exact: Tensor) -> float:
    return float(((X.double() - exact).norm(dim=(-2, -1)) / exact.norm(dim=(-2, -1))).max())


def plan_for(tiles: StepTiles, *, groups: int = 1, programs: int = H100) -> StepPlan:
    """Interpreted programs cannot wait for each other."""
    return StepPlan(tiles=tiles, groups=groups, programs=1 if DEVICE.type == "cpu" else programs // groups)


@pytest.mark.parametrize("tiles", TESTED, ids=str)
@pytest.mark.parametrize("bound", [PUBLISHED, GRAM], ids=["frobenius", "gram"])
@pytest.mark.parametrize("shape", [(48, 48), (45, 60), (33, 20), (2, 1, 1)])
def test_matches_float64(shape: tuple[int, ...], bound: StepBound, tiles: StepTiles) -> None:
    """An even and an odd number of tiles on the diagonal; one row, whose padding is most of the work."""
    G = gaussian(*shape)
    X = quintic_steps(G, FIVE[:3], bound=bound, plan=plan_for(tiles))
    exact = reference_steps(G.double(), FIVE[:3], bound=bound)
    rounded = error(reference_steps(G, FIVE[:3], bound=bound), exact)
    assert (X.shape, X.dtype) == (G.shape, G.dtype)
    assert error(X, exact) <= 1.3 * max(rounded, 5e-4)


@pytest.mark.parametrize(("side", "programs"), [(1, 3), (2, 2), (3, 4), (4, 12), (5, 1), (5, 4)])
def test_programs_share_out_every_tile(side: int, programs: int) -> None:
    """Without barriers, one phase at a time; what nobody writes is NaN."""
    m, n = 16 * side, 32
    S = gaussian(m, m)
    S = ((S + S.mT) / m).contiguous()
    X = torch.empty(2, m, n, dtype=S.dtype, device=DEVICE)
    X[0] = gaussian(m, n)
    square = torch.empty(m, m, dtype=S.dtype, device=DEVICE)
    _one_phase_each[(programs,)](S, square, X, m, n, TILE=16)
    wide = S.double()
    assert error(square, 0.5 * wide @ wide + 0.25 * wide) < 1e-3
    assert torch.equal(square, square.mT)
    assert error(X[1], 2.0 * X[0].double() + wide @ X[0].double()) < 1e-3


class Interleaved:
    """A kernel whose programs run in threads, one at a time, in a random order between two barriers."""

    def __init__(self, kernel: Any, seed: int) -> None:
        self._kernel = kernel.rewrite()
        self._builder = triton.runtime.interpreter.interpreter_builder
        self._turn = threading.Condition()
        self._order = random.Random(seed)
        self._failures: list[BaseException] = []
        self.waits = 0

    def kernel(self) -> Callable[..., None]:
        """What the interpreter calls for each program in turn: the last call runs them all."""

        def run(**arguments: Any) -> None:
            self._last_runs_all(arguments)

        called = FunctionType(run.__code__, self._kernel.__globals__, "run", None, run.__closure__)
        called.__annotations__ = self._kernel.__annotations__
        called.__signature__ = inspect.signature(self._kernel)  # type: ignore[attr-defined]
        return called

    def _last_runs_all(self, arguments: dict[str, Any]) -> None:
        count = self._builder.grid_dim[0]
        if self._builder.grid_idx[0] + 1 < count:
            return
        programs = self._order.sample(range(count), count)
        threads = [threading.Thread(target=self._program, args=(i, arguments), daemon=True) for i in programs]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60.0)
        assert not self._failures, self._failures[0]
        assert not any(thread.is_alive() for thread in threads)

    def _program(self, index: int, arguments: dict[str, Any]) -> None:
        try:
            with self._turn:
                self._builder.grid_idx = (index, 0, 0)
                self._kernel(**arguments)
                self._turn.notify_all()
        except BaseException as failure:
            self._failures.append(failure)

    def meet(self, counter: Any, count: Any, engine: Any) -> None:
        """`grid_barrier.meet` on the counter's own memory, which the first kernel has cleared."""
        arrived = ctypes.c_int32.from_address(int(counter.handle.data.item()))
        arrived.value += 1
        self.waits += 1
        self._turn.notify_all()
        assert self._turn.wait_for(lambda: arrived.value >= int(count), timeout=30.0)


@pytest.mark.skipif(DEVICE.type == "cuda", reason="about the interpreter")
@pytest.mark.parametrize(
    ("batches", "groups", "programs", "bound"), [(1, 1, 5, PUBLISHED), (3, 2, 2, GRAM)], ids=["one", "two groups"]
)
def test_programs_of_a_matrix_meet(
    batches: int, groups: int, programs: int, bound: StepBound, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bit for bit what one program computes, in any order; the last matrix has a norm that takes a barrier more."""
    G = gaussian(batches, 40, 60, dtype=torch.bfloat16)
    G[-1] *= 2.0**-60
    alone = quintic_steps(G, FIVE[:2], bound=bound, plan=plan_for(FEW, groups=groups))
    together = Interleaved(quintics.steps_kernel, seed=batches)
    monkeypatch.setattr(quintics.steps_kernel, "rewrite", together.kernel)
    monkeypatch.setattr(quintics, "meet", together.meet)
    X = quintic_steps(G, FIVE[:2], bound=bound, plan=StepPlan(tiles=FEW, groups=groups, programs=programs))
    assert torch.equal(X, alone)
    assert together.waits == programs * (5 * batches + 1)


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_every_parity_and_dtype(steps: int) -> None:
    """The last iterate is in either half of the memory; bfloat16 is cut off by the interpreter, not rounded."""
    G = gaussian(30, 50, dtype=torch.bfloat16)
    X = quintic_steps(G, FIVE[:steps], bound=GRAM, plan=plan_for(QUICK))
    exact = reference_steps(G.double(), FIVE[:steps], bound=GRAM)
    rounded = error(reference_steps(G, FIVE[:steps], bound=GRAM), exact)
    assert error(X, exact) <= (3.0 if DEVICE.type == "cpu" else 1.3) * rounded


@pytest.mark.parametrize("groups", [1, 2, 3])
def test_matrices_in_turn_and_side_by_side(groups: int) -> None:
    """A group that takes several matrices clears nothing between them; every matrix has a norm of its own."""
    G = gaussian(3, 30, 40) * torch.tensor([1.0, 0.01, 30.0], dtype=torch.float16, device=DEVICE)[:, None, None]
    X = quintic_steps(G, FIVE[:2], bound=GRAM, plan=plan_for(QUICK, groups=groups))
    single = torch.stack([quintic_steps(one, FIVE[:2], bound=GRAM, plan=plan_for(QUICK)) for one in G])
    assert torch.equal(X, single)


def test_strided_operands_and_repeated_calls() -> None:
    G = gaussian(2, 32, 24)
    plan = plan_for(QUICK)
    X = quintic_steps(G, FIVE[:2], plan=plan)
    assert torch.equal(X, quintic_steps(G.mT.contiguous().mT, FIVE[:2], plan=plan))
    assert torch.equal(X, quintic_steps(G.mT, FIVE[:2], plan=plan).mT)
    assert torch.equal(X[1], quintic_steps(G[1], FIVE[:2], plan=plan))


@pytest.mark.parametrize("bound", [StepBound(), GRAM], ids=["frobenius", "gram"])
def test_zero_stays_zero(bound: StepBound) -> None:
    G = torch.zeros(2, 20, 30, dtype=torch.float16, device=DEVICE)
    assert not quintic_steps(G, FIVE, bound=bound, plan=plan_for(QUICK)).any()


@pytest.mark.parametrize(
    ("dtype", "size"),
    [(torch.float16, 65504.0), (torch.float16, 2.0**-24), (torch.bfloat16, 2.0**125), (torch.bfloat16, 2.0**-120)],
)
def test_extreme_scales(dtype: torch.dtype, size: float) -> None:
    """Squares of the largest and smallest entries leave float16's range and, of bfloat16, float32's too."""
    G = torch.stack([gaussian(32, 48, dtype=dtype).sign() * size, gaussian(48, 32, dtype=dtype).mT])
    X = quintic_steps(G, FIVE, plan=plan_for(QUICK))
    exact = reference_steps(G.double(), FIVE)
    rounded = error(reference_steps(G, FIVE), exact)
    assert error(X, exact) < (3.0 if DEVICE.type == "cpu" else 1.3) * max(rounded, 5e-4)


@pytest.mark.skipif(DEVICE.type == "cuda", reason="about the interpreter")
def test_by_itself_the_interpreter_takes_one_program() -> None:
    G = gaussian(2, 64, 64)
    X = quintic_steps(G, FIVE[:1])
    assert error(X, reference_steps(G.double(), FIVE[:1])) < 1e-3


def test_an_empty_stack() -> None:
    assert quintic_steps(gaussian(0, 4, 5), FIVE).shape == (0, 4, 5)


def test_bad_operands() -> None:
    with pytest.raises(InvalidInputError, match=r"got \(8, 4\) torch\.float32"):
        quintic_steps(gaussian(8, 4).float(), FIVE)
    with pytest.raises(InvalidInputError, match=r"got \(0, 4\) torch\.float16"):
        quintic_steps(gaussian(0, 4), FIVE)
    with pytest.raises(InvalidInputError, match="at least one step"):
        quintic_steps(gaussian(8, 4), ())


@pytest.mark.parametrize(
    ("n", "batches", "tiles", "groups", "programs"),
    [(1024, 1, MEDIUM, 1, 128), (512, 1, SMALL, 1, 64), (256, 1, SMALL, 1, 16), (1024, 16, LARGE, 16, 8)],
)
def test_plans(n: int, batches: int, tiles: StepTiles, groups: int, programs: int) -> None:
    """By estimates: 1024 takes one job per multiprocessor in every phase."""
    plan = choose_step_plan(n, n, batches, processors=H100)
    assert plan == StepPlan(tiles=tiles, groups=groups, programs=programs)


@pytest.mark.parametrize("batches", [1, 3, 7, 16, 100, 1000])
@pytest.mark.parametrize("n", [256, 768, 1000, 1024])
def test_no_multiprocessor_has_two_programs(n: int, batches: int) -> None:
    plan = choose_step_plan(n, n, batches, processors=H100)
    assert 1 <= plan.groups * plan.programs <= H100


@pytest.mark.gpu
@pytest.mark.parametrize("tiles", TESTED, ids=str)
@pytest.mark.parametrize("n", [256, 512, 768, 1000, 1024])
def test_many_programs_meet(n: int, tiles: StepTiles) -> None:
    """A hundred calls in a row, each against the first: a load that a barrier does not order shows as a difference."""
    G = gaussian(n, n, dtype=torch.bfloat16)
    first = quintic_steps(G, FIVE, plan=plan_for(tiles))
    assert error(first, reference_steps(G.double(), FIVE)) <= 1.3 * error(
        reference_steps(G, FIVE), reference_steps(G.double(), FIVE)
    )
    assert all(torch.equal(quintic_steps(G, FIVE, plan=plan_for(tiles)), first) for _ in range(100))


def free_ops(monkeypatch: pytest.MonkeyPatch) -> TritonOps:
    monkeypatch.setattr(triton_ops, "_SMALLEST_FUSED", 16)
    return TritonOps(get_precision("fp16"), DEVICE)


@pytest.mark.parametrize("normalisation", ["frobenius", "gram"])
def test_a_polar_factor_takes_the_kernel(normalisation: Normalisation, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside the products by the library, both against float64."""
    ops, recipe = free_ops(monkeypatch), Recipe(coefficients=FIVE[:2], normalisation=normalisation, margin=1.01)
    G = gaussian(60, 40)
    bound = StepBound(norm=normalisation, margin=1.01)  # type: ignore[arg-type]
    exact = reference_steps(G.double(), FIVE[:2], bound=bound)
    fused = polar_factor(Operands(A=G), ops, recipe)
    composed = polar_factor(Operands(A=G), FloatingOps(get_precision("fp16"), DEVICE), recipe)
    assert fused.shape == G.shape
    assert not torch.equal(fused, composed)
    assert error(fused, exact) <= 1.1 * error(composed, exact)


def test_what_the_kernel_does_not_suit(monkeypatch: pytest.MonkeyPatch) -> None:
    ops, G = free_ops(monkeypatch), gaussian(32, 40)
    assert ops.quintic_steps(gaussian(8, 40), FIVE[:1], PUBLISHED) is None
    assert ops.quintic_steps(gaussian(32, 1025), FIVE[:1], PUBLISHED) is None
    assert ops.quintic_steps(G.float(), FIVE[:1], PUBLISHED) is None
    assert ops.quintic_steps(G.clone().requires_grad_(), FIVE[:1], PUBLISHED) is None
    assert ops.quintic_steps(G, FIVE[:1], PUBLISHED) is not None
    monkeypatch.setattr(ops, "_capturing", lambda: True)
    assert ops.quintic_steps(G, FIVE[:1], PUBLISHED) is not None
    assert ops.quintic_steps(G, FIVE[:2], PUBLISHED) is None  # nothing is compiled or uploaded inside a capture
