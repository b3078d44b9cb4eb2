"""Hardware counters of the Triton kernels by Nsight Compute, as a Markdown table; exit code 1 if a workload gave none.

    python ci/kernel_figures.py                           every workload, a process of `ncu` each
    python ci/kernel_figures.py --only gram-2048 graded-1024
    python ci/kernel_figures.py --list

Of each workload the kernels of one call are profiled, after a call that compiled them. `ncu` runs a kernel once for
every few counters, alone and from cold caches, with the clocks as they are: its times explain those that
`ci/kernels_gpu.py` measures and do not replace them. A counter that this GPU or this `ncu` does not have is shown as –.
"""

from __future__ import annotations

import argparse
import csv
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the tree may not be installed on the GPU machine

import torch
import triton
from torch import Tensor

MISSING = "–"


@dataclass(frozen=True, kw_only=True)
class Column:
    """One figure of the table: the first of `metrics` that there is."""

    title: str
    metrics: tuple[str, ...]
    digits: int = 0


ACTIVE, ELAPSED = ".avg.pct_of_peak_sustained_active", ".avg.pct_of_peak_sustained_elapsed"
TENSOR = ("sm__pipe_tensor_cycles_active", "sm__inst_executed_pipe_tensor", "sm__pipe_tensor_op_hmma_cycles_active")
COLUMNS = (
    Column(title="µs", metrics=("gpu__time_duration.sum",), digits=1),
    Column(title="SM %", metrics=("sm__throughput" + ELAPSED,)),
    Column(title="tensor %", metrics=tuple(name + ACTIVE for name in TENSOR)),
    Column(title="L2 %", metrics=("lts__throughput" + ELAPSED,)),
    Column(title="DRAM %", metrics=("dram__throughput" + ELAPSED, "gpu__dram_throughput" + ELAPSED)),
    Column(title="warps %", metrics=("sm__warps_active" + ACTIVE,)),
    Column(title="registers", metrics=("launch__registers_per_thread",)),
    Column(title="shared KiB", metrics=("launch__shared_mem_per_block",), digits=1),
)
"""Times, shares of the peak, occupancy reached, and what each thread and each program takes."""

UNITS = {
    "ns": 1e-3, "nsecond": 1e-3, "us": 1.0, "usecond": 1.0, "ms": 1e3, "msecond": 1e3, "s": 1e6, "second": 1e6,
    "byte": 2.0**-10, "Kbyte": 1e3 * 2.0**-10, "Mbyte": 1e6 * 2.0**-10,
}  # fmt: skip
"""To microseconds and KiB; what is counted or a percentage has a factor of 1."""


@dataclass(frozen=True, kw_only=True)
class Value:
    """A cell as `ncu` writes it, and its unit: `1,234.5` and `nsecond`."""

    text: str
    unit: str

    @property
    def number(self) -> float | None:
        """In the units of the table; None for `n/a`, `(!) nan` and an empty cell."""
        try:
            number = float(self.text.replace(",", ""))
        except ValueError:
            return None
        return number * UNITS.get(self.unit.partition("/")[0], 1.0) if number == number else None


@dataclass(frozen=True, kw_only=True)
class Profiled:
    """One kernel launch."""

    kernel: str
    values: Mapping[str, Value]

    def figure(self, column: Column) -> str:
        """As the table shows it."""
        values = (self.values[name] for name in column.metrics if name in self.values)
        numbers = (value.number for value in values)
        number = next((number for number in numbers if number is not None), None)
        return MISSING if number is None else f"{number:.{column.digits}f}"


def parse(text: str) -> list[Profiled]:
    """What `ncu --csv --page raw` writes: a row of names, a row of units, and one for each launch, in order.

    Lines before them, and between, are `ncu`'s own (`==PROF== ...`) or the program's.
    """
    lines = text.splitlines()
    begin = next((index for index, line in enumerate(lines) if line.startswith('"ID",')), len(lines))
    table = list(csv.reader(line for line in lines[begin:] if line.startswith('"')))
    if len(table) < 3:
        return []
    names, units, *rows = table
    return [
        Profiled(
            kernel=dict(zip(names, row, strict=True))["Kernel Name"],
            values={name: Value(text=cell, unit=unit) for name, unit, cell in zip(names, units, row, strict=True)},
        )
        for row in rows
        if len(row) == len(names)
    ]


# --- what is profiled -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Workload:
    """A call that launches kernels; of them those from `skip` on are named by `parts`, or shown under their own names.

    Attributes:
        prepare: draws the operands on the GPU; returns the call.
    """

    prepare: Callable[[], Callable[[], object]]
    parts: tuple[str, ...] = ()
    skip: int = 0

    def rows(self, name: str, profiled: Sequence[Profiled]) -> list[str]:
        """Of the table; none if fewer kernels were profiled than are named."""
        chosen = profiled[self.skip :][: len(self.parts) or None]
        if len(chosen) < len(self.parts):
            return []
        titles = self.parts or tuple(launch.kernel for launch in chosen)
        return [
            f"| {name} | {title} | " + " | ".join(launch.figure(column) for column in COLUMNS) + " |"
            for title, launch in zip(titles, chosen, strict=True)
        ]


def gaussian(*shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """Entries of n^(-1/2), the same in every run."""
    generator = torch.Generator(device="cuda").manual_seed(shape[-1])
    return torch.randn(*shape, device="cuda", generator=generator).div_(shape[-1] ** 0.5).to(dtype)


def product(kind: str, n: int) -> Callable[[], object]:
    """G G^T, 0.7 S^2 - 1.3 S + 0.4 I, or 2 G + S G."""
    from iroot.kernels.multiply_add import multiply_add
    from iroot.kernels.symmetric import Terms, symmetric_product

    G = gaussian(n, n)
    S = (G + G.mT).contiguous()
    if kind == "gram":
        return lambda: symmetric_product(G, G)
    if kind == "apply":
        return lambda: multiply_add(S, G, G, beta=2.0)
    return lambda: symmetric_product(S, S, S, terms=Terms(alpha=0.7, beta=-1.3, gamma=0.4))


def graded(n: int) -> Callable[[], object]:
    """An inverse square root in three steps, of which the second has every kind of product."""
    from iroot.graded_steps import word_steps
    from iroot.kernels.graded_root import graded_root
    from iroot.schedules import Design, schedule_for

    steps = word_steps(schedule_for(Design(p=2, lower=0.9e-2), target=1e-3, min_cushion=0.03))
    assert len(steps) == 3
    G = gaussian(n, n, dtype=torch.float32)
    A = (G @ G.mT).add_(0.1 * torch.eye(n, device="cuda"))
    scale = torch.full((1, 1), 4.5, device="cuda")
    return lambda: graded_root(A, scale, steps, p=2)


def quantise(n: int) -> Callable[[], object]:
    """Both operands of an FP8 product, one of them stored by columns."""
    from iroot.kernels.quantise import Source, quantise_together
    from iroot.quantize import FORMATS

    A = gaussian(n, n)
    sources = [Source(matrix=M, number_format=FORMATS["float8_e4m3fn"]) for M in (A, A.mT)]
    return lambda: quantise_together(*sources)


def odd_products(n: int) -> Callable[[], object]:
    """Two steps by a launch per product; the second, of degree 17, has every kind of product."""
    from iroot.kernels.odd_products import odd_products
    from iroot.polar_schedules import polar_schedule

    G, steps = gaussian(n, n), polar_schedule(0.02, steps=2, degrees=(5, 17))
    assert [step.degree for step in steps] == [5, 17]
    return lambda: odd_products(G, steps, dtype=torch.float16)


def odd_persistent(n: int) -> Callable[[], object]:
    """Three steps in one kernel, with the bound that takes a product more."""
    from iroot.kernels.odd_persistent import persistent_odd_steps
    from iroot.odd_steps import StepBound
    from iroot.polar_schedules import polar_schedule

    G, steps = gaussian(n, n), polar_schedule(0.003, steps=3, degrees=(5, 17, 17))
    bound = StepBound(norm="schatten8", margin=1.01)
    return lambda: persistent_odd_steps(G, steps, bound=bound, dtype=torch.float16)


WORKLOADS = {
    **{
        f"{kind}-{n}": Workload(prepare=lambda kind=kind, n=n: product(kind, n))  # type: ignore[misc]
        for kind in ("gram", "quadratic", "apply")
        for n in (1024, 2048, 4096)
    },
    # Launched: the first word; B, W, Y of the first step; of the second B, X B, W, Y; of the third B and the result.
    **{
        f"graded-{n}": Workload(prepare=lambda n=n: graded(n), parts=("B", "X B", "W", "Y"), skip=4)  # type: ignore[misc]
        for n in (1024, 2048)
    },
    "quantise-4096": Workload(prepare=lambda: quantise(4096)),
    # Launched: the sum of squares and X; A, B, X of the first step; Z, T, (L, R), B and X of the second.
    **{
        f"odd-{n}": Workload(prepare=lambda n=n: odd_products(n), parts=("T", "L R", "B", "apply"), skip=6)  # type: ignore[misc]
        for n in (1024, 2048, 4096)
    },
    "odd-persistent-512": Workload(prepare=lambda: odd_persistent(512)),
}


def run(name: str) -> None:
    """One call of a workload between `cudaProfilerStart` and `cudaProfilerStop`, after one that compiles."""
    call = WORKLOADS[name].prepare()
    call()
    torch.cuda.synchronize()
    torch.cuda.profiler.start()  # type: ignore[no-untyped-call]
    call()
    torch.cuda.synchronize()
    torch.cuda.profiler.stop()  # type: ignore[no-untyped-call]


# --- ncu --------------------------------------------------------------------------------------------------------------


def wanted(query: str) -> list[str]:
    """Metrics to ask for: of every column those that `ncu --query-metrics` lists, or else the first.

    It does not list what a launch was given, such as registers.
    """
    known = set(re.findall(r"^(\w+__\w+)", query, re.MULTILINE))
    listed = [[name for name in column.metrics if name.partition(".")[0] in known] for column in COLUMNS]
    return [name for column, names in zip(COLUMNS, listed, strict=True) for name in names or column.metrics[:1]]


def profile(ncu: str, metrics: Sequence[str], name: str) -> list[Profiled]:
    """The launches of one workload; what `ncu` complains of goes to standard error."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "ncu.csv"
        command = [
            ncu, "--profile-from-start", "off", "--clock-control", "none", "--cache-control", "all", "--print-units",
            "base", "--csv", "--page", "raw", "--metrics", ",".join(metrics), "--log-file", str(log), sys.executable,
            str(Path(__file__).resolve()), "--run", name,
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        text = log.read_text(encoding="utf-8") if log.exists() else ""
    profiled = parse(text)
    if not profiled or done.returncode:
        complaints = [line for line in text.splitlines() if line.startswith(("==ERROR", "==WARN"))]
        print(name, f"ncu ended with {done.returncode}", *complaints, done.stderr[-2000:], sep="\n", file=sys.stderr)
    return profiled


def main() -> int:
    """Profile and print; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=WORKLOADS, metavar="NAME", help="these workloads alone")
    parser.add_argument("--ncu", default="ncu", help="Nsight Compute's command line")
    parser.add_argument("--list", action="store_true", help="name the workloads")
    parser.add_argument("--run", choices=WORKLOADS, metavar="NAME", help="what a process under ncu does")
    arguments = parser.parse_args()
    if arguments.list:
        print(*WORKLOADS, sep="\n")
        return 0
    if arguments.run:
        run(arguments.run)
        return 0
    if shutil.which(arguments.ncu) is None:
        parser.error(f"Nsight Compute is needed, '{arguments.ncu}' was not found; install it or name it by --ncu")
    query = subprocess.run([arguments.ncu, "--query-metrics"], capture_output=True, text=True, check=False)
    metrics = wanted(query.stdout)
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, triton {triton.__version__}\n")
    print("| workload | kernel | " + " | ".join(column.title for column in COLUMNS) + " |")
    print("|---|---|" + "--:|" * len(COLUMNS))
    empty = 0
    for name in arguments.only or WORKLOADS:
        rows = WORKLOADS[name].rows(name, profile(arguments.ncu, metrics, name))
        print(*(rows or [f"| {name} | {MISSING} |" + f" {MISSING} |" * len(COLUMNS)]), sep="\n", flush=True)
        empty += not rows
    return 1 if empty else 0


if __name__ == "__main__":
    sys.exit(main())
