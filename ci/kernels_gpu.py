"""Checks the symmetric product on a GPU against float64 and times tilings as ratios to cuBLAS; exit code 1 on a miss.

    python ci/kernels_gpu.py             the tiling that the kernel picks by itself, every shape
    python ci/kernels_gpu.py --quick     the same for the shapes of the polar recipe in bf16 alone
    python ci/kernels_gpu.py --sweep     every tiling of a list, the squares and batches that decide the choice

Times are medians over replays of a CUDA graph of 20 calls that rotate over four input sets; cuBLAS is timed before and
after the kernel in the same process, with one graph of the same calls into preallocated outputs.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the tree may not be installed on the GPU machine

from iroot.kernels.multiply_add import BLOCKINGS, Blocking, choose_blocking, multiply_add
from iroot.kernels.symmetric import Terms, symmetric_product
from iroot.kernels.tiling import PROMOTED, TILINGS, Tiling, choose_tiling
from iroot.methods.you_newton_schulz import you_newton_schulz
from iroot.precision import get_precision
from iroot.registry import NoOptions, Operands
from iroot.torch_ops import FloatingOps
from iroot.triton_ops import TritonOps

CALLS, REPLAYS, SETS = 20, 11, 4
QUADRATIC = Terms(alpha=0.7, beta=-1.3, gamma=0.4)
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True, kw_only=True)
class Case:
    """`gram`: G G^T; `quadratic`: 0.4 I - 1.3 S + 0.7 S^2; `apply`: 2 G + S G. G is (..., m, n), S symmetric."""

    kind: Literal["gram", "quadratic", "apply"]
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
        return self.n if self.kind == "gram" else self.m

    @property
    def out_shape(self) -> tuple[int, ...]:
        shape = (self.m, self.n if self.kind == "apply" else self.m)
        return (self.batch, *shape) if self.batch > 1 else shape

    def operands(self, count: int) -> list[Inputs]:
        generator = torch.Generator(device="cuda").manual_seed(self.m + self.batch)

        def draw(rows: int, columns: int) -> Tensor:
            A = torch.randn(self.batch, rows, columns, device="cuda", generator=generator) / columns**0.5
            return A if self.batch > 1 else A[0]

        def one() -> Inputs:
            S, G = draw(self.m, self.m), draw(self.m, self.n)
            S, G = (0.5 * (S + S.mT)).to(DTYPES[self.dtype]), G.to(DTYPES[self.dtype])
            return Inputs(S=S, G=G.mT.contiguous().mT if self.transposed else G)

        return [one() for _ in range(count)]

    def kernel(self, inputs: Inputs, choice: Choice) -> Tensor:
        S, G = inputs.S, inputs.G
        if self.kind == "apply":
            assert isinstance(choice, Blocking)
            return multiply_add(S, G, G, beta=2.0, blocking=choice)
        assert isinstance(choice, Tiling)
        if self.kind == "gram":
            return symmetric_product(G, G, tiling=choice)
        return symmetric_product(S, S, S, terms=QUADRATIC, tiling=choice)

    def library(self, inputs: Inputs, out: Tensor) -> Tensor:
        """What the torch backend runs, less the gamma I (which it adds in a kernel of its own)."""
        S, G = inputs.S, inputs.G
        if self.kind == "gram":
            return torch.matmul(G, G.mT, out=out)
        add = torch.addmm if S.ndim == 2 else torch.baddbmm
        if self.kind == "apply":
            return add(G, S, G, beta=2.0, out=out)
        return add(S, S, S, beta=QUADRATIC.beta, alpha=QUADRATIC.alpha, out=out)

    def reference(self, inputs: Inputs) -> Tensor:
        S, G = inputs.S.double(), inputs.G.double()
        if self.kind == "gram":
            return G @ G.mT
        if self.kind == "apply":
            return 2.0 * G + S @ G
        return QUADRATIC.alpha * S @ S + QUADRATIC.beta * S + QUADRATIC.gamma * torch.eye(self.m, device="cuda")


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """S (..., m, m) symmetric and G (..., m, n)."""

    S: Tensor
    G: Tensor


Choice = Tiling | Blocking


def chosen(case: Case) -> Choice:
    """What the kernels take by themselves."""
    processors = torch.cuda.get_device_properties(0).multi_processor_count
    if case.kind == "apply":
        return choose_blocking(case.m, case.n, case.batch, processors=processors)
    return choose_tiling(case.m, case.batch, processors=processors)


def choices(case: Case) -> list[Choice]:
    """What a sweep compares."""
    if case.kind == "apply":
        return list(BLOCKINGS)
    return [*TILINGS, *PROMOTED]


def square(n: int, dtype: str = "bf16", batch: int = 1) -> list[Case]:
    """The three products of one step of the polar iteration."""
    return [Case(kind=kind, m=n, n=n, batch=batch, dtype=dtype) for kind in KINDS]


KINDS: tuple[Literal["gram", "quadratic", "apply"], ...] = ("gram", "quadratic", "apply")
POLAR = ((1024, 1024, 1), (2048, 2048, 1), (4096, 4096, 1), (2048, 8192, 1), (1024, 1024, 16), (1024, 4096, 8))
PRODUCTS = [
    *(case for n in (512, 1024, 2048, 4096) for case in square(n)),
    Case(kind="gram", m=2048, n=8192),
    Case(kind="apply", m=2048, n=8192),
    *square(1024, batch=16),
    Case(kind="gram", m=1024, n=4096, batch=8),
    Case(kind="apply", m=1024, n=4096, batch=8),
]
SWEEP = [
    *(Case(kind="gram", m=n, n=n) for n in (512, 768, 1024, 1536, 2048, 3000, 4096)),
    Case(kind="gram", m=2048, n=8192),
    *(Case(kind="gram", m=1024, n=1024, batch=batch) for batch in (3, 7, 16)),
    Case(kind="gram", m=1024, n=4096, batch=8),
]
DEFAULT = [
    *PRODUCTS,
    *(case for n in (512, 1024, 2048, 4096) for case in square(n, "fp16")),
    *(case for n in (768, 1536, 3000, 4000) for case in square(n)),
    *(case for batch in (3, 7) for case in square(1024, batch=batch)),
    *(Case(kind=kind, m=1000, n=777, batch=2) for kind in KINDS),
    Case(kind="gram", m=2048, n=2048, transposed=True),
    Case(kind="gram", m=1024, n=4096, transposed=True, batch=3, dtype="fp16"),
    Case(kind="apply", m=1024, n=4096, transposed=True, batch=3, dtype="fp16"),
]


def label(choice: Choice) -> str:
    """`128+32 k64 w4 s3` for a tiling, and its promotion; `128x256 k64 w8 s4` for a blocking."""
    if isinstance(choice, Blocking):
        return f"{choice.rows}x{choice.columns} k{choice.block_k} w{choice.warps} s{choice.stages}"
    promotion = f" promote {choice.promote_k}" if choice.promote_k else ""
    return f"{choice.block}+{choice.tail} k{choice.block_k} w{choice.warps} s{choice.stages}{promotion}"


def compile_one(case: Case, choice: Choice) -> str:
    """Compile (case, choice) on a small matrix; Triton's cache on disk hands the result to the other processes."""
    small = replace(case, m=256, n=256 if case.n % 16 == 0 else 250)
    try:
        small.kernel(small.operands(1)[0], choice)
        torch.cuda.synchronize()
    except Exception as error:  # a configuration that does not fit is a row of the table, not the end of the script
        return f"{case}: {label(choice)}: {type(error).__name__}: {str(error)[:200]}"
    return ""


def compile_all(tasks: Sequence[tuple[Case, Choice]]) -> None:
    """Compile everything in parallel, once for each kind, dtype, layout and divisibility."""
    unique = {(replace(case, m=0, n=case.n % 16, batch=1), choice): (case, choice) for case, choice in tasks}
    workers = min(14, len(os.sched_getaffinity(0)))
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        for message in pool.map(compile_one, *zip(*unique.values(), strict=True), chunksize=4):
            if message:
                print(message)


def graph_time_us(call: Callable[[int], Tensor]) -> float:
    """Median time per call in microseconds, over replays of a graph of CALLS calls."""
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        call(0)
        stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            kept = deque((call(i % SETS) for i in range(CALLS)), maxlen=SETS)  # as many outputs as cuBLAS writes to
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        times = []
        for replay in range(REPLAYS + 3):
            start.record()
            graph.replay()
            end.record()
            end.synchronize()
            if replay >= 3:
                times.append(start.elapsed_time(end) * 1e3 / CALLS)
    del kept
    return statistics.median(times)


def replayed(call: Callable[[int], Tensor]) -> tuple[Tensor, Tensor]:
    """Results of two replays of one call, in memory that held NaN before each."""
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        call(0)
        stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            result = call(0)
        results = []
        for _ in range(2):
            result.fill_(torch.nan)
            graph.replay()
            results.append(result.clone())
        stream.synchronize()
    return results[0], results[1]


def chain(m: int, n: int, batch: int) -> int:
    """Print the time of the five-step polar recipe by the two backends; returns 1 if the kernels' result is wrong."""
    device = torch.device("cuda")
    shape = (batch, m, n) if batch > 1 else (m, n)
    inputs = [torch.randn(shape, device=device, dtype=torch.bfloat16) for _ in range(SETS)]
    graph_us, eager_us = [], []
    library = FloatingOps(get_precision("bf16"), device)
    library_result = you_newton_schulz(Operands(A=inputs[0]), library, NoOptions())
    for ops in (FloatingOps, TritonOps, FloatingOps, TritonOps):
        backend = ops(get_precision("bf16"), device)

        def call(i: int, backend: FloatingOps = backend) -> Tensor:
            return you_newton_schulz(Operands(A=inputs[i]), backend, NoOptions())

        with backend.arithmetic():
            graph_us.append(graph_time_us(call))
            torch.cuda.synchronize()
            start = time.perf_counter()
            for i in range(CALLS):
                call(i % SETS)
            torch.cuda.synchronize()
            eager_us.append((time.perf_counter() - start) * 1e6 / CALLS)
    first, second = replayed(call)
    exact = you_newton_schulz(Operands(A=inputs[0].double()), FloatingOps(get_precision("fp64"), device), NoOptions())
    error = ((first.double() - exact).norm() / exact.norm()).item()
    allowed = ((library_result.double() - exact).norm() / exact.norm()).item()
    wrong = not error <= 1.1 * allowed or not torch.equal(first, second)
    name = "x".join(map(str, shape))
    print(f"polar {name}: {'WRONG: ' * wrong}error {error:.3f}, by cuBLAS {allowed:.3f}")
    for mode, us in (("graph", graph_us), ("eager", eager_us)):
        cublas_us, kernels_us = min(us[::2]), min(us[1::2])
        print(f"    {mode}: cuBLAS {cublas_us:.1f} us, kernels {kernels_us:.1f} us, {kernels_us / cublas_us:.2f}")
    return int(wrong)


def poisoned(case: Case, inputs: Inputs, choice: Choice) -> Tensor:
    """The kernel's result in memory that held NaN before."""
    torch.full(case.out_shape, float("nan"), dtype=inputs.G.dtype, device="cuda")
    return case.kernel(inputs, choice)


def fault(case: Case, inputs: Inputs, choice: Choice) -> str:
    """Why the result is wrong, or an empty string."""
    exact = case.reference(inputs)
    library = case.library(inputs, torch.empty(exact.shape, dtype=inputs.G.dtype, device="cuda"))
    if case.kind == "quadratic":
        library.diagonal(dim1=-2, dim2=-1).add_(QUADRATIC.gamma)
    first, second = poisoned(case, inputs, choice), poisoned(case, inputs, choice)
    scale = exact.norm()
    error, allowed = (((D.double() - exact).norm() / scale).item() for D in (first, library))
    if not error <= 2 * allowed:
        return f"error {error:.2e} > 2 x {allowed:.2e}"
    if case.kind != "apply" and not torch.equal(first, first.mT):
        return "not symmetric"
    return "" if torch.equal(first, second) else "two calls differ"


def measure(case: Case, options: Sequence[Choice]) -> int:
    """Print one case's table; returns the number of wrong results."""
    inputs = case.operands(SETS)
    out = [torch.empty(case.out_shape, dtype=one.G.dtype, device="cuda") for one in inputs]

    def cublas() -> float:
        return graph_time_us(lambda i: case.library(inputs[i], out[i]))

    wrong, rows, before = 0, [], cublas()
    for choice in options:
        try:
            problem = fault(case, inputs[0], choice)
            time_us = graph_time_us(lambda i, choice=choice: case.kernel(inputs[i], choice))
        except Exception as error:
            rows.append((float("inf"), f"{type(error).__name__}: {str(error)[:80]}", choice))
            continue
        wrong += bool(problem)
        rows.append((time_us, problem, choice))
    after = cublas()
    library_us = statistics.mean((before, after))
    tflops = 2e-6 * case.batch * case.m * case.m * case.n / library_us
    print(f"{case}: cuBLAS {before:.1f} .. {after:.1f} us ({tflops:.0f} TF/s)")
    for time_us, problem, choice in sorted(rows, key=lambda row: row[0]):
        ratio = f"x{library_us / time_us:.2f}"
        print(f"    {label(choice):30s} {time_us:7.1f} us  {ratio}  {problem or 'right'}", flush=True)
    return wrong


def main() -> int:
    """Compile, check, time; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="only the products of the polar shapes, in bf16")
    parser.add_argument("--sweep", action="store_true", help="compare every configuration instead of the chosen one")
    arguments = parser.parse_args()
    cases = PRODUCTS if arguments.quick else SWEEP if arguments.sweep else DEFAULT
    plan = [(case, choices(case) if arguments.sweep else [chosen(case)]) for case in cases]
    compile_all([(case, choice) for case, options in plan for choice in options])
    print(torch.cuda.get_device_name(), "torch", torch.__version__)
    wrong = sum(measure(case, options) for case, options in plan)
    wrong += sum(chain(m, n, batch) for m, n, batch in POLAR)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
