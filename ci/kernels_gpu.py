"""Checks the symmetric product on a GPU against float64 and times tilings as ratios to cuBLAS; exit code 1 on a miss.

    python ci/kernels_gpu.py             the configuration that the model chooses, every shape
    python ci/kernels_gpu.py --quick     the same for the shapes of the polar recipe in bf16 alone
    python ci/kernels_gpu.py --sweep     every tiling of a list, the squares and batches that decide the choice

Gram products of TF32, FP8 and INT8 operands are without quantisation; that of TF32 includes its rounding pass.
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
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the tree may not be installed on the GPU machine

from iroot.kernels.cases import CALLS, GRAM_DTYPES, SETS, Case, Choice, fault, graph_time_us
from iroot.kernels.multiply_add import BLOCKINGS
from iroot.kernels.operands import present_family, processors
from iroot.kernels.symmetric import UNITS
from iroot.kernels.table_file import Kind
from iroot.kernels.tiling import PROMOTED
from iroot.methods.you_newton_schulz import you_newton_schulz
from iroot.precision import get_precision
from iroot.registry import NoOptions, Operands
from iroot.torch_ops import FloatingOps
from iroot.triton_ops import TritonOps


def chosen(case: Case) -> Choice:
    """What the model chooses."""
    device = torch.device("cuda", 0)
    return case.default(processors(device), present_family(device))


def choices(case: Case) -> list[Choice]:
    """What a sweep compares."""
    if case.kind == "apply":
        return list(BLOCKINGS)
    unit = UNITS[GRAM_DTYPES[case.dtype]]
    return [*unit.tilings, *PROMOTED] if unit.searched else list(unit.tilings)


def square(n: int, dtype: str = "bf16", batch: int = 1) -> list[Case]:
    """The three products of one step of the polar iteration."""
    return [Case(kind=kind, m=n, n=n, batch=batch, dtype=dtype) for kind in KINDS]


KINDS: tuple[Kind, ...] = ("gram", "quadratic", "apply")
POLAR = ((1024, 1024, 1), (2048, 2048, 1), (4096, 4096, 1), (2048, 8192, 1), (1024, 1024, 16), (1024, 4096, 8))
PRODUCTS = [
    *(case for n in (512, 1024, 2048, 4096) for case in square(n)),
    Case(kind="gram", m=2048, n=8192),
    Case(kind="apply", m=2048, n=8192),
    *square(1024, batch=16),
    Case(kind="gram", m=1024, n=4096, batch=8),
    Case(kind="apply", m=1024, n=4096, batch=8),
]
BY_DTYPE = [
    Case(kind="gram", m=n, n=n, dtype=dtype) for dtype in ("tf32", "fp8_e4m3", "int8") for n in (1024, 2048, 4096)
]
SWEEP = [
    *(Case(kind="gram", m=n, n=n) for n in (512, 768, 1024, 1536, 2048, 3000, 4096)),
    Case(kind="gram", m=2048, n=8192),
    *(Case(kind="gram", m=1024, n=1024, batch=batch) for batch in (3, 7, 16)),
    Case(kind="gram", m=1024, n=4096, batch=8),
    *BY_DTYPE,
]
DEFAULT = [
    *PRODUCTS,
    *(case for n in (512, 1024, 2048, 4096) for case in square(n, "fp16")),
    *(case for n in (768, 1536, 3000, 4000) for case in square(n)),
    *(case for batch in (3, 7) for case in square(1024, batch=batch)),
    *(Case(kind=kind, m=1000, n=777, batch=2) for kind in KINDS),
    *BY_DTYPE,
    Case(kind="gram", m=2048, n=2048, transposed=True),
    Case(kind="gram", m=1024, n=4096, transposed=True, batch=3, dtype="fp16"),
    Case(kind="apply", m=1024, n=4096, transposed=True, batch=3, dtype="fp16"),
]


def compile_one(case: Case, choice: Choice) -> str:
    """Compile (case, choice) on a small matrix; Triton's cache on disk hands the result to the other processes."""
    small = replace(case, m=256, n=256 if case.n % 16 == 0 else 250)
    try:
        small.kernel(small.operands(1)[0], choice)
        torch.cuda.synchronize()
    except Exception as error:  # a configuration that does not fit is a row of the table, not the end of the script
        return f"{case}: {choice}: {type(error).__name__}: {str(error)[:200]}"
    return ""


def compile_all(tasks: Sequence[tuple[Case, Choice]]) -> None:
    """Compile everything in parallel, once for each kind, dtype, layout and divisibility."""
    unique = {(replace(case, m=0, n=case.n % 16, batch=1), choice): (case, choice) for case, choice in tasks}
    workers = min(14, len(os.sched_getaffinity(0)))
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        for message in pool.map(compile_one, *zip(*unique.values(), strict=True), chunksize=4):
            if message:
                print(message)


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


def measure(case: Case, options: Sequence[Choice]) -> int:
    """Print one case's table; returns the number of wrong results."""
    inputs = case.operands(SETS)
    out = [torch.empty(case.out_shape, dtype=case.result, device="cuda") for _ in inputs]

    def cublas() -> float:
        return graph_time_us(lambda i: case.library(inputs[i], out[i]))

    wrong, rows, before = 0, [], cublas()
    exact = case.reference(inputs[0])
    for choice in options:
        try:
            problem = fault(case, inputs[0], choice, exact)
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
        print(f"    {choice!s:30s} {time_us:7.1f} us  {ratio}  {problem or 'right'}", flush=True)
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
