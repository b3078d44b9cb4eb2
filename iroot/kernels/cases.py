"""Products that kernels are checked and timed with on a GPU: inputs, kernel, library and a float64 reference."""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor

from iroot.capture import record
from iroot.kernels.families import Family
from iroot.kernels.multiply_add import (
    SEARCHED_BLOCKINGS,
    Blocking,
    choose_blocking,
    is_for_gluon,
    is_for_small_gluon,
    multiply_add,
)
from iroot.kernels.operands import operand, present_family, processors
from iroot.kernels.rehearsal import rehearse
from iroot.kernels.sum_launch import gluon_launch, is_for_balanced, is_for_wide
from iroot.kernels.symmetric import UNITS, Terms, symmetric_product
from iroot.kernels.symmetric_sum import Matrices
from iroot.kernels.table_file import Kind, Shape
from iroot.kernels.tiling import Tiling, choose_tiling
from iroot.precision import get_precision
from iroot.torch_ops import FloatingOps

CALLS, REPLAYS, SETS = 20, 11, 4
QUADRATIC = Terms(alpha=0.7, beta=-1.3, gamma=0.4)
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
"""Of all three products, and of tables."""
GRAM_DTYPES = {**DTYPES, "tf32": torch.float32, "fp8_e4m3": torch.float8_e4m3fn, "int8": torch.int8}
_RESULTS = {"fp8_e4m3": torch.bfloat16, "int8": torch.int32}
_SPREAD = {"fp8_e4m3": 100.0, "int8": 40.0}
"""Standard deviation of 8-bit entries: a third of the range and less."""

Choice = Tiling | Blocking


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """S (..., m, m) symmetric and G (..., m, n)."""

    S: Tensor
    G: Tensor


@dataclass(frozen=True, kw_only=True)
class Case:
    """`gram`: G G^T; `quadratic`: 0.4 I - 1.3 S + 0.7 S^2; `apply`: 2 G + S G. G is (..., m, n), S symmetric.

    Other dtypes than 16-bit ones have `gram` alone, 8-bit ones one matrix of it.
    """

    kind: Kind
    m: int
    n: int
    batch: int = 1
    dtype: str = "bf16"
    transposed: bool = False

    def __str__(self) -> str:
        batch = f"{self.batch} x " if self.batch > 1 else ""
        return f"{self.kind}{'^T' * self.transposed} {batch}{self.m} x {self.n} {self.dtype}"

    @property
    def depth(self) -> int:
        """Of the sums."""
        return self.n if self.kind == "gram" else self.m

    @property
    def shape(self) -> Shape:
        """What tables know the product by."""
        columns = self.n if self.kind == "apply" else self.m
        return Shape(kind=self.kind, rows=self.m, columns=columns, depth=self.depth, batches=self.batch,
                     dtype=str(GRAM_DTYPES[self.dtype]))  # fmt: skip

    @property
    def result(self) -> torch.dtype:
        """Of both products: what the backends ask for."""
        return _RESULTS.get(self.dtype, GRAM_DTYPES[self.dtype])

    @property
    def out_shape(self) -> tuple[int, ...]:
        """Of the result."""
        shape = (self.m, self.n if self.kind == "apply" else self.m)
        return (self.batch, *shape) if self.batch > 1 else shape

    def choices(self) -> tuple[Choice, ...]:
        """The configurations that a search compares."""
        unit = UNITS[GRAM_DTYPES[self.dtype]]
        return SEARCHED_BLOCKINGS if self.kind == "apply" else unit.searched or unit.tilings

    def default(self, processors: int, family: Family) -> Choice:
        """What the model chooses."""
        if self.kind == "apply":
            return choose_blocking(self.m, self.n, self.batch, processors=processors, family=family)
        choices = UNITS[GRAM_DTYPES[self.dtype]].tilings
        return choose_tiling(self.m, self.batch, processors=processors, choices=choices, family=family)

    def operands(self, count: int) -> list[Inputs]:
        """`count` sets of standard normal entries over the square root of the depth; 8-bit ones fill their range."""
        generator = torch.Generator(device="cuda").manual_seed(self.m + self.batch)

        def draw(rows: int, columns: int) -> Tensor:
            A = torch.randn(self.batch, rows, columns, device="cuda", generator=generator).div_(columns**0.5)
            return A if self.batch > 1 else A[0]

        def one() -> Inputs:
            S, G = draw(self.m, self.m), draw(self.m, self.n)
            dtype = GRAM_DTYPES[self.dtype]
            if self.dtype in _SPREAD:
                G = (G * (_SPREAD[self.dtype] * self.n**0.5)).round_().clamp_(-127.0, 127.0)
            S, G = (0.5 * (S + S.mT)).to(dtype), G.to(dtype)
            return Inputs(S=S, G=G.mT.contiguous().mT if self.transposed else G)

        return [one() for _ in range(count)]

    def kernel(self, inputs: Inputs, choice: Choice) -> Tensor:
        """The result of one of this project's kernels."""
        S, G = inputs.S, inputs.G
        if self.kind == "apply":
            assert isinstance(choice, Blocking)
            return multiply_add(S, G, G, beta=2.0, blocking=choice)
        assert isinstance(choice, Tiling)
        if self.kind == "gram":
            return symmetric_product(G, G, output=self.result, tiling=choice)
        return symmetric_product(S, S, S, terms=QUADRATIC, tiling=choice)

    def launched(self, inputs: Inputs, choice: Choice) -> Hashable:
        """The same for choices with which `kernel` launches the same: of a kernel in Gluon at most the cut counts."""
        if isinstance(choice, Blocking):
            left, right, D = operand(inputs.S), operand(inputs.G.mT), inputs.G.reshape(self.batch, self.m, self.n)
            if is_for_gluon(left, right, D, choice):
                return "hopper_apply", choice.columns
            small = is_for_small_gluon(left, right, D, choice)
            return ("hopper_small_apply", choice.rows) if small else choice
        M = operand(inputs.G if self.kind == "gram" else inputs.S)
        if self.dtype not in DTYPES or not M.along_k or choice.promote_k:
            return choice
        matrices = Matrices(M=M.tensor, N=M.tensor, Z=None if self.kind == "gram" else M.tensor)
        cut = replace(choice, tail=0) if choice.block == 64 else choice  # as `symmetric_product` has it
        launch = gluon_launch(matrices, cut)
        if launch is None:
            return choice
        uncut = is_for_balanced(matrices, cut) or is_for_wide(matrices, cut)
        return launch.__name__, None if uncut else (cut.block, cut.tail)

    def library(self, inputs: Inputs, out: Tensor) -> Tensor:
        """What the torch backend runs, less the gamma I (which it adds in a kernel of its own)."""
        S, G = inputs.S, inputs.G
        if self.kind == "gram":
            return _library_gram(G, out)
        add = torch.addmm if S.ndim == 2 else torch.baddbmm
        if self.kind == "apply":
            return add(G, S, G, beta=2.0, out=out)
        return add(S, S, S, beta=QUADRATIC.beta, alpha=QUADRATIC.alpha, out=out)

    def reference(self, inputs: Inputs) -> Tensor:
        """The result in float64."""
        S, G = inputs.S.double(), inputs.G.double()
        if self.kind == "gram":
            return G @ G.mT
        if self.kind == "apply":
            return 2.0 * G + S @ G
        return QUADRATIC.alpha * S @ S + QUADRATIC.beta * S + QUADRATIC.gamma * torch.eye(self.m, device="cuda")


def _library_gram(G: Tensor, out: Tensor) -> Tensor:
    if G.dtype == torch.int8:
        return torch._int_mm(G, G.mT, out=out)
    if G.dtype == torch.float8_e4m3fn:
        one = _one(G.device)
        return torch._scaled_mm(G, G.mT, scale_a=one, scale_b=one, out_dtype=out.dtype, use_fast_accum=False, out=out)
    if G.dtype == torch.float32:
        with FloatingOps(get_precision("tf32"), G.device).arithmetic():
            return torch.matmul(G, G.mT, out=out)
    return torch.matmul(G, G.mT, out=out)


@lru_cache(maxsize=8)
def _one(device: torch.device) -> Tensor:
    """A scale that is not written anew in every call."""
    return torch.ones((), device=device)


class Recording:
    """CALLS calls in a CUDA graph, which rotate over SETS inputs."""

    def __init__(self, call: Callable[[int], Tensor]) -> None:
        """`call`: what is timed, given the number of an input set."""
        self._kept: deque[Tensor] = deque(maxlen=SETS)  # as many outputs as cuBLAS writes to
        self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        self._graph = torch.cuda.CUDAGraph()

        def calls() -> Tensor:
            for i in range(CALLS):
                self._kept.append(call(i % SETS))
            return self._kept[-1]

        with torch.cuda.stream(self._stream):
            call(0)
            self._stream.synchronize()
            record(self._graph, calls)

    def time_us(self, replays: int = REPLAYS) -> float:
        """Median time per call in microseconds over replays, three more than that not counted."""
        with torch.cuda.stream(self._stream):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
            times: list[float] = []
            for _ in range(replays + 3):
                start.record()
                self._graph.replay()
                end.record()
                end.synchronize()
                times.append(start.elapsed_time(end) * 1e3 / CALLS)
        return statistics.median(times[3:])


def graph_time_us(call: Callable[[int], Tensor]) -> float:
    """Median time per call in microseconds, over replays of one graph."""
    return Recording(call).time_us()


def fault(case: Case, inputs: Inputs, choice: Choice, exact: Tensor) -> str:
    """Why the result is wrong beside `exact`, the case's reference, or an empty string."""
    library = case.library(inputs, torch.empty(exact.shape, dtype=case.result, device="cuda"))
    if case.kind == "quadratic":
        library.diagonal(dim1=-2, dim2=-1).add_(QUADRATIC.gamma)
    first, second = _poisoned(case, inputs, choice), _poisoned(case, inputs, choice)
    scale = exact.norm()
    error, allowed = (((D.double() - exact).norm() / scale).item() for D in (first, library))
    if not error <= 2 * allowed:
        return f"error {error:.2e} > 2 x {allowed:.2e}"
    if case.kind != "apply" and not torch.equal(first, first.mT):
        return "not symmetric"
    return "" if torch.equal(first, second) else "two calls differ"


def _poisoned(case: Case, inputs: Inputs, choice: Choice) -> Tensor:
    """The kernel's result in memory that held NaN, or a large number, before."""
    poison = float("nan") if case.result.is_floating_point else torch.iinfo(case.result).max
    torch.full(case.out_shape, poison, dtype=case.result, device="cuda")
    return case.kernel(inputs, choice)


class GraphBench:
    """Checks and times configurations on the present CUDA device, in CUDA graphs; see `iroot.kernel_tuning.Bench`."""

    REPLAYS = 5
    timed = (
        f"microseconds per call: median of {REPLAYS} replays of a CUDA graph of {CALLS} calls that rotate over {SETS} "
        "input sets, rows contiguous"
    )

    def __init__(self) -> None:
        self._device = torch.device("cuda", torch.cuda.current_device())
        self.processors, self.family = processors(self._device), present_family(self._device)
        self._inputs: list[Inputs] = []
        self._recordings: dict[Choice, Recording] = {}
        self._exact = torch.empty(0)

    def prepare(self, case: Case, choices: Sequence[Choice]) -> None:
        """Draw inputs and compile all choices together."""
        self._recordings.clear()
        self._inputs = case.operands(SETS)
        self._exact = case.reference(self._inputs[0])

        def launches() -> None:
            for choice in choices:
                case.kernel(self._inputs[0], choice)

        # What the compiler tells apart: sizes that are multiples of 16 from others.
        rehearse(("tune", case.kind, case.dtype, case.m % 16 == 0, case.n % 16 == 0), launches, self._device)

    def launched(self, case: Case, choice: Choice) -> Hashable:
        """The same for configurations with which the same kernel is launched."""
        return case.launched(self._inputs[0], choice)

    def fault(self, case: Case, choice: Choice) -> str:
        """Why this configuration is out of the question here: it does not run, or its result is wrong."""
        try:
            return fault(case, self._inputs[0], choice, self._exact)
        except torch.cuda.OutOfMemoryError:
            raise
        except Exception as error:  # one that does not compile or fit is a row of the table, not the end of the search
            return f"{type(error).__name__}: {str(error)[:200]}"

    def time_us(self, case: Case, choice: Choice) -> float:
        """Microseconds per call; a configuration is recorded once, and replayed in every round."""
        if choice not in self._recordings:
            self._recordings[choice] = Recording(lambda i: case.kernel(self._inputs[i], choice))
        return self._recordings[choice].time_us(self.REPLAYS)
