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
from functools import partial
from types import FunctionType
from typing import Any

import pytest
import torch
from torch import Tensor

from iroot.coefficients import named_table
from iroot.errors import InvalidInputError
from iroot.methods._polar import Normalisation, Recipe, polar_factor
from iroot.odd_steps import FROBENIUS, Addends, Inner, OddStep, StepBound, odd_step, quintics
from iroot.precision import get_precision
from iroot.registry import Operands
from iroot.schedules import Design, compose_steps
from iroot.torch_ops import FloatingOps

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
if DEVICE.type == "cpu":  # read when the kernels are defined, and again when they run
    os.environ["TRITON_INTERPRET"] = "1"
import triton  # noqa: E402
import triton.language as tl  # noqa: E402

from iroot import triton_ops  # noqa: E402
from iroot.kernels import odd_kernel, odd_persistent, odd_phases  # noqa: E402
from iroot.kernels.odd_persistent import (  # noqa: E402
    MEDIUM,
    SMALL,
    STEP_TILES,
    StepPlan,
    StepTiles,
    choose_step_plan,
    device_table,
    persistent_odd_steps,
    reference_odd_steps,
    suits,
)


def minimax(*inner: int, lower: float, cushion: float = 0.0) -> tuple[OddStep, ...]:
    """Steps of degree 2 inner + 1 for singular values from `lower` to 1."""
    design = Design(p=2, lower=lower**2, degrees=inner, cushion=cushion**2)
    return tuple(map(odd_step, compose_steps(design, steps=len(inner)).steps))


H100 = 132
PUBLISHED = StepBound(epsilon=1e-7)
GRAM = StepBound(norm="gram", margin=1.01)
SCHATTEN8 = StepBound(norm="schatten8", margin=1.01)
BOUNDS = (PUBLISHED, GRAM, SCHATTEN8)
FIVE = quintics(named_table("jiacheng_you").take(5))
LONG = minimax(2, 8, 8, lower=0.003)
SHORT = minimax(4, 8, lower=0.018, cushion=0.02)
ONE = minimax(8, lower=0.2)
SCHEDULES = {"quintics": FIVE[:2], "5 17 17": LONG, "9 17": SHORT, "17": ONE}
NARROW = StepTiles(block=16, rows=16, columns=32, block_k=16, warps=4, stages=2)
TALL = StepTiles(block=16, rows=32, columns=16, block_k=32, warps=4, stages=2, loads="copy_engine")
FEW = StepTiles(block=32, rows=32, columns=32, block_k=32, warps=4, stages=2)
HALF = StepTiles(block=128, rows=128, columns=128, block_k=128, warps=4, stages=2)
WHOLE = StepTiles(block=64, rows=64, columns=128, block_k=64, warps=4, stages=2)
OTHER_LOADS = (replace(MEDIUM, loads="copy_engine"), replace(SMALL, loads="threads"))
TESTED = (NARROW, TALL) if DEVICE.type == "cpu" else (*STEP_TILES, *OTHER_LOADS)
QUICK = FEW if DEVICE.type == "cpu" else SMALL
COARSE = WHOLE if DEVICE.type == "cpu" else MEDIUM

from iroot.triton_ops import TritonOps  # noqa: E402


@triton.jit  # type: ignore[untyped-decorator]
def _one_phase_each(memory, X, table, m, n, TILE: tl.constexpr):  # type: ignore[no-untyped-def]
    """Z from X[0], T from Z, L and R from `memory`'s T, B from its L and R, X[1] from its B: a program's tiles of each.

    `memory` (13, m, m): every phase reads the first five matrices, which it leaves alone.
    """
    first, programs = tl.program_id(0), tl.num_programs(0)
    inner = (0.5, 0.25, 0.125)
    odd_phases.gram_phase(X, None, 0, memory, 5, first, programs, m, n, 0.5, 2.0, 0.75, None, False, TILE, TILE)
    odd_phases.square_phase(memory, None, 0, 7, 6, first, programs, m, 0.25, 0.5, 0.75, inner, None, False, TILE, TILE)
    odd_phases.product_phase(memory, None, 0, 2, 2, 8, 9, first, programs, m, table + 7, TILE, TILE)
    odd_phases.product_phase(memory, None, 0, 3, 4, 10, -1, first, programs, m, table + 13, TILE, TILE)
    odd_phases.combine_phase(memory, 0, 2, 12, 11, first, programs, m, 0.25, 0.5, 0.75, inner, TILE)
    odd_phases.apply_phase(memory, None, 1, X, None, 0, 1, first, programs, m, n, 2.0, 0.5, TILE, TILE, TILE)


@pytest.fixture(autouse=True)
def _poisoned_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.empty returns NaN, or the largest integer, so that an element nobody writes shows."""
    empty = torch.empty

    def poisoned(*size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
        memory = empty(*size, dtype=dtype, device=device)
        return memory.fill_(torch.nan if dtype.is_floating_point else torch.iinfo(dtype).max)

    monkeypatch.setattr(torch, "empty", poisoned)


@pytest.fixture(autouse=True)
def _interpreted_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter cuts bfloat16 off instead of rounding it; so does the reference beside it."""

    def cut_off(M: Tensor, dtype: torch.dtype) -> Tensor:
        if dtype == torch.bfloat16 and M.dtype == torch.float32:
            return (M.contiguous().view(torch.int32) & -(2**16)).view(torch.float32)
        return M.to(dtype).to(M.dtype)

    if DEVICE.type == "cpu":
        monkeypatch.setattr(odd_persistent, "_rounded", cut_off)


def gaussian(*shape: int, dtype: torch.dtype = torch.float16) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape))).to(dtype).to(DEVICE)


def error(X: Tensor, exact: Tensor) -> float:
    return float(((X.double() - exact).norm(dim=(-2, -1)) / exact.norm(dim=(-2, -1))).max())


def plan_for(tiles: StepTiles, *, groups: int = 1, programs: int = H100) -> StepPlan:
    """Interpreted programs cannot wait for each other."""
    return StepPlan(tiles=tiles, groups=groups, programs=1 if DEVICE.type == "cpu" else programs // groups)


def check(G: Tensor, steps: tuple[OddStep, ...], bound: StepBound, plan: StepPlan, *, dtype: torch.dtype) -> None:
    """As near to float64 as the library that rounds at the same places, or as the format."""
    X = persistent_odd_steps(G, steps, bound=bound, dtype=dtype, plan=plan)
    exact = reference_odd_steps(G.double(), steps, bound=bound)
    rounded = error(reference_odd_steps(G, steps, bound=bound, dtype=dtype), exact)
    assert (X.shape, X.dtype) == (G.shape, dtype)
    assert error(X, exact) <= 1.3 * max(rounded, 0.5 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("bound", BOUNDS, ids=lambda bound: bound.norm)
@pytest.mark.parametrize("steps", SCHEDULES.values(), ids=SCHEDULES)
def test_the_reference_maps_singular_values(steps: tuple[OddStep, ...], bound: StepBound) -> None:
    """In float64 s -> s q(s^2) to the last digits, from s / bound; the bound is a Schatten norm of the spectrum."""
    G = gaussian(2, 20, 30).cpu().double()
    U, s, Vt = torch.linalg.svd(G, full_matrices=False)
    power = {"frobenius": 2, "gram": 4, "schatten8": 8}[bound.norm]
    norm = s.pow(power).sum(-1, keepdim=True).pow(1 / power)
    values = (s / (bound.margin * norm * (1.0 + bound.epsilon / s.norm(dim=-1, keepdim=True)))).numpy()
    for step in steps:
        values = step.at(values)
    expected = U * torch.from_numpy(values)[:, None, :] @ Vt
    assert error(reference_odd_steps(G, steps, bound=bound), expected) < 1e-8
    tall = reference_odd_steps(G.mT, steps, bound=bound).mT
    assert error(tall, expected) < 1e-8


@pytest.mark.parametrize("tiles", TESTED, ids=str)
@pytest.mark.parametrize("shape", [(45, 40), (33, 20), (2, 1, 1)])
def test_tiles_match_float64(shape: tuple[int, ...], tiles: StepTiles) -> None:
    """An even and an odd number of tiles on the diagonal; one row, whose padding is most of the work."""
    check(gaussian(*shape), (FIVE[0], *ONE), GRAM, plan_for(tiles), dtype=torch.float16)


@pytest.mark.parametrize(
    ("name", "bound"),
    [(name, bound) for name in ("quintics", "17") for bound in BOUNDS] + [("5 17 17", SCHATTEN8), ("9 17", SCHATTEN8)],
    ids=lambda value: value if isinstance(value, str) else value.norm,
)
def test_schedules_match_float64(name: str, bound: StepBound) -> None:
    """Every degree first and later; the shallowest and the deepest with every bound."""
    steps = SCHEDULES[name]
    check(gaussian(100, 90), steps, bound, plan_for(COARSE), dtype=torch.float16)


@pytest.mark.parametrize(
    ("given", "held", "steps"),
    [("bfloat16", "float16", SHORT), ("float32", "float16", ONE), ("float32", "bfloat16", FIVE[:2])],
    ids=["bfloat16", "float32", "float32 to bfloat16"],
)
def test_another_dtype_than_the_given_one(given: str, held: str, steps: tuple[OddStep, ...]) -> None:
    """As near as from a matrix that is rounded first; what float16 represents enters without rounding."""
    G = gaussian(2, 64, 100, dtype=getattr(torch, given))
    check(G, steps, SCHATTEN8, plan_for(COARSE), dtype=getattr(torch, held))
    if given == "bfloat16":
        entered = persistent_odd_steps(G, FIVE[:1], dtype=torch.float16, plan=plan_for(COARSE))
        assert torch.equal(entered, persistent_odd_steps(G.half(), FIVE[:1], plan=plan_for(COARSE)))


@pytest.mark.parametrize(("side", "programs"), [(1, 3), (2, 2), (3, 4), (3, 12)])
def test_programs_share_out_every_tile(side: int, programs: int) -> None:
    """Without barriers, one phase at a time; what nobody writes is NaN. With 12 programs a tile each, else pairs."""
    m, n = 16 * side, 32
    X = torch.empty(2, m, n, dtype=torch.float16, device=DEVICE)
    X[0] = gaussian(m, n)
    memory = torch.empty(13, m, m, dtype=torch.float16, device=DEVICE)
    memory[:5] = torch.stack([M + M.mT for M in gaussian(5, m, m)]) / m**0.5
    # They commute, so that the product is symmetric, up to about what rounding leaves of that.
    memory[4] = -1.0 * memory[3] + 2.0**-12 * memory[0]
    step = OddStep(
        degree=17, constant=0.0, inner=Inner(S=0.5, Z=0.25), left=Addends(T=2.0, Z=-1.0, identity=0.5),
        right=Addends(T=1.5, Z=0.25), sign=-1.0, last=Addends(T=-0.5, Z=0.125),
    )  # fmt: skip
    _one_phase_each[(programs,)](memory, X, device_table((step,), DEVICE), m, n, TILE=16)
    G, (Z, B, T, L, R) = X[0].double(), memory[:5].double()
    one = torch.eye(m, dtype=torch.float64, device=DEVICE)
    half = 0.5 * Z + 0.75 * one
    stored = 0.25 * T + 0.75 * Z + 0.5625 * one
    squared = 0.25 * Z @ Z + 0.75 * Z + 0.5625 * one
    expected = {
        5: 0.5 * G @ G.mT + 0.75 * one,
        6: half,
        7: 0.5 * squared + 0.25 * half + 0.125 * one,
        8: T @ T + 2.0 * T - Z + 0.5 * one,
        9: T @ T + 1.5 * T + 0.25 * Z,
        10: -(L @ R) - 0.5 * T + 0.125 * Z,
        11: half,
        12: 0.5 * stored + 0.25 * half + 0.125 * one,
    }
    for index, exact in expected.items():
        assert error(memory[index], exact) < 1e-3, index
        assert torch.equal(memory[index], memory[index].mT), index
    assert error(X[1], G + 0.5 * B @ G) < 1e-3


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
    ("batches", "groups", "programs", "bound", "steps"),
    [(1, 1, 5, PUBLISHED, (FIVE[0], *ONE)), (3, 2, 2, GRAM, FIVE[:1]), (2, 1, 3, SCHATTEN8, SHORT[:1])],
    ids=["two steps", "two groups", "a matrix after the other"],
)
def test_programs_of_a_matrix_meet(
    batches: int,
    groups: int,
    programs: int,
    bound: StepBound,
    steps: tuple[OddStep, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Bit for bit what one program computes, in any order; the last matrix has a norm that takes a barrier more."""
    G = gaussian(batches, 40, 60, dtype=torch.bfloat16)
    G[-1] *= 2.0**-60
    alone = persistent_odd_steps(G, steps, bound=bound, plan=plan_for(FEW, groups=groups))
    together = Interleaved(odd_kernel.steps_kernel, seed=batches)
    monkeypatch.setattr(odd_kernel.steps_kernel, "rewrite", together.kernel)
    monkeypatch.setattr(odd_kernel, "meet", together.meet)
    plan = StepPlan(tiles=FEW, groups=groups, programs=programs)
    assert torch.equal(persistent_odd_steps(G, steps, bound=bound, plan=plan), alone)
    phases = sum(step.symmetric_products + 1 for step in steps) + (bound.norm == "schatten8")
    # None after the last phase of a group's last matrix.
    assert together.waits == programs * (phases * batches + 1 - groups)


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_every_parity_and_dtype(steps: int) -> None:
    """The last iterate is in either half of the memory."""
    check(gaussian(30, 50, dtype=torch.bfloat16), FIVE[:steps], GRAM, plan_for(QUICK), dtype=torch.bfloat16)


def test_matrices_in_turn_and_side_by_side() -> None:
    """A group that takes several matrices clears nothing between them; every matrix has a norm of its own."""
    G = gaussian(3, 30, 40) * torch.tensor([1.0, 0.01, 30.0], dtype=torch.float16, device=DEVICE)[:, None, None]
    run = partial(persistent_odd_steps, steps=FIVE[:1], bound=SCHATTEN8)
    single = torch.stack([run(one, plan=plan_for(QUICK)) for one in G])
    for groups in (2, 3):
        assert torch.equal(run(G, plan=plan_for(QUICK, groups=groups)), single)


def test_strided_operands_and_repeated_calls() -> None:
    G = gaussian(2, 32, 24)
    run = partial(persistent_odd_steps, steps=FIVE[:1], plan=plan_for(QUICK))
    X = run(G)
    assert torch.equal(X, run(G.mT.contiguous().mT))
    assert torch.equal(X, run(G.mT).mT)
    assert torch.equal(X[1], run(G[1]))
    wide = run(G.float(), dtype=torch.float16)
    assert torch.equal(wide, run(G.float().mT, dtype=torch.float16).mT)


@pytest.mark.parametrize(
    ("bound", "steps"), [(FROBENIUS, ONE), (GRAM, FIVE[:1]), (SCHATTEN8, ONE)], ids=["frobenius", "gram", "schatten8"]
)
def test_zero_stays_zero(bound: StepBound, steps: tuple[OddStep, ...]) -> None:
    G = torch.zeros(20, 30, dtype=torch.float16, device=DEVICE)
    assert not persistent_odd_steps(G, steps, bound=bound, plan=plan_for(QUICK)).any()


@pytest.mark.parametrize("steps", [FIVE[:1], ONE], ids=["5", "17"])
def test_rank_one_whose_square_leaves_float16(steps: tuple[OddStep, ...]) -> None:
    """One row of 256: with a mean diagonal of 1, A holds 256 and A^2 65536, beyond 65504."""
    G = torch.zeros(256, 256, dtype=torch.float16, device=DEVICE)
    G[17] = gaussian(256)
    check(G, steps, SCHATTEN8, plan_for(HALF if DEVICE.type == "cpu" else MEDIUM), dtype=torch.float16)


@pytest.mark.parametrize(
    ("dtype", "sizes"),
    [
        (torch.float16, (65504.0, 2.0**-24)),
        (torch.bfloat16, (2.0**125, 2.0**-120)),
        (torch.float32, (2.0**125, 2.0**-140)),
    ],
)
def test_extreme_scales(dtype: torch.dtype, sizes: tuple[float, float]) -> None:
    """Squares of the largest and smallest entries leave float16's range and, of the others, float32's too."""
    G = torch.stack([gaussian(32, 48, dtype=dtype).sign() * size for size in sizes])
    check(G, ONE, SCHATTEN8, plan_for(COARSE), dtype=torch.float16)
    if dtype != torch.float32:
        check(G, FIVE[:1], FROBENIUS, plan_for(COARSE), dtype=dtype)


@pytest.mark.skipif(DEVICE.type == "cuda", reason="about the interpreter")
def test_by_itself_the_interpreter_takes_one_program() -> None:
    G = gaussian(2, 32, 32)
    X = persistent_odd_steps(G, FIVE[:1])
    assert error(X, reference_odd_steps(G.double(), FIVE[:1])) < 1e-3


def test_an_empty_stack() -> None:
    X = persistent_odd_steps(gaussian(0, 4, 5), FIVE, dtype=torch.bfloat16)
    assert (X.shape, X.dtype) == ((0, 4, 5), torch.bfloat16)


def test_bad_operands() -> None:
    with pytest.raises(InvalidInputError, match=r"got \(8, 4\) torch\.float64 and torch\.float16"):
        persistent_odd_steps(gaussian(8, 4).double(), FIVE, dtype=torch.float16)
    with pytest.raises(InvalidInputError, match=r"got \(8, 4\) torch\.float32 and torch\.float32"):
        persistent_odd_steps(gaussian(8, 4).float(), FIVE)
    with pytest.raises(InvalidInputError, match=r"got \(0, 4\) torch\.float16"):
        persistent_odd_steps(gaussian(0, 4), FIVE)
    with pytest.raises(InvalidInputError, match="at least one step"):
        persistent_odd_steps(gaussian(8, 4), ())


@pytest.mark.parametrize(
    ("n", "batches", "tiles", "groups", "programs"),
    [(1024, 1, MEDIUM, 1, 128), (512, 1, SMALL, 1, 64), (256, 1, SMALL, 1, 16), (512, 2, SMALL, 2, 64)],
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


@pytest.mark.parametrize(
    ("m", "n", "batches", "fits"),
    [
        (1024, 1024, 1, True),
        (1000, 700, 1, True),
        (1025, 512, 1, False),
        (1024, 1024, 2, False),
        (512, 512, 4, True),
        (512, 512, 5, False),
        (256, 256, 13, True),
        (256, 256, 100, False),
    ],
)
def test_work_of_one_wave_suits(m: int, n: int, batches: int, fits: bool) -> None:
    assert suits(m, n, batches, H100) is fits
    assert suits(n, m, batches, H100) is fits
    assert not suits(m, n, batches, 8)


@pytest.mark.gpu
@pytest.mark.parametrize("tiles", TESTED, ids=str)
@pytest.mark.parametrize("n", [256, 512, 768, 1000, 1024])
@pytest.mark.parametrize(("steps", "bound"), [(FIVE, FROBENIUS), (LONG, SCHATTEN8)], ids=["quintics", "5 17 17"])
def test_many_programs_meet(n: int, tiles: StepTiles, steps: tuple[OddStep, ...], bound: StepBound) -> None:
    """A hundred calls in a row, each against the first: a load that a barrier does not order shows as a difference."""
    G = gaussian(n, n, dtype=torch.bfloat16)
    check(G, steps, bound, plan_for(tiles), dtype=torch.float16)
    run = partial(persistent_odd_steps, G, steps, bound=bound, dtype=torch.float16, plan=plan_for(tiles))
    first = run()
    assert all(torch.equal(run(), first) for _ in range(100))


def free_ops(monkeypatch: pytest.MonkeyPatch) -> TritonOps:
    monkeypatch.setattr(triton_ops, "SMALLEST_FUSED", 16)
    return TritonOps(get_precision("fp16"), DEVICE)


@pytest.mark.parametrize("normalisation", ["frobenius", "gram"])
def test_a_polar_factor_takes_the_kernel(normalisation: Normalisation, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside the products by the library, both against float64."""
    ops, recipe = free_ops(monkeypatch), Recipe(steps=FIVE[:2], normalisation=normalisation, margin=1.01)
    G = gaussian(60, 40)
    bound = StepBound(norm=normalisation, margin=1.01)  # type: ignore[arg-type]
    exact = reference_odd_steps(G.double(), FIVE[:2], bound=bound)
    fused = polar_factor(Operands(A=G), ops, recipe)
    composed = polar_factor(Operands(A=G), FloatingOps(get_precision("fp16"), DEVICE), recipe)
    assert fused.shape == G.shape
    assert not torch.equal(fused, composed)
    assert error(fused, exact) <= 1.1 * error(composed, exact)


def test_what_the_kernel_does_not_suit(monkeypatch: pytest.MonkeyPatch) -> None:
    ops, G = free_ops(monkeypatch), gaussian(32, 40)
    assert ops.odd_steps(gaussian(8, 40), FIVE[:1], PUBLISHED) is None
    assert ops.odd_steps(G.clone().requires_grad_(), FIVE[:1], PUBLISHED) is None
    assert ops.odd_steps(G, FIVE[:1], PUBLISHED) is not None
    monkeypatch.setattr(ops, "_capturing", lambda: True)
    assert ops.odd_steps(G, FIVE[:1], PUBLISHED) is not None
    assert ops.odd_steps(G, FIVE[:2], PUBLISHED) is None  # nothing is compiled or uploaded inside a capture
