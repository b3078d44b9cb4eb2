"""Compares what `auto` would pick on a Hopper GPU with the fastest method measured there; exit code 1 above the limit.

    python ci/auto_against_best.py RUN [--store FILE] [--limit 1.2] [--against measured|stated]

RUN is a stored run of a manifest with many methods per cell, such as `production`; a GPU is not needed. A cell is one
task, root, shape, batch and problem, timed in a CUDA graph (eagerly where a method checks its result on the host). For
each rtol the choice is asked of `iroot.planning` with the caller's knowledge of the spectrum that the problem states.

The best is the fastest of all measured methods, the published competitors' too, whose error is within rtol: the largest
over the problem seeds, relative to float64; for `polar`, whose rtol is one, the orthogonality. That is known after the
fact only, so the best of the methods that *state* an error within rtol beforehand stands beside it; `--against` says
which one the limit holds for. A method with factors made by an earlier call is not compared.

`auto` takes the steps that rtol asks for. A case of its method, precision and FLOP (the number of steps and their
degrees) is its time; where the manifest has none, `steps` shows both numbers, and the time is that of a case with other
steps times the quotient of expected times (`iroot.costs`). Choices whose method or precision the run did not measure in
the cell are listed apart.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from harness.judge.problems import get_problem, stated_lower
from harness.records import Case, CaseSummary, Mode, Outcome, PlannedCase, RunSummary
from harness.store import Store
from iroot.costs import seconds
from iroot.errors import InvalidInputError, UnsupportedError
from iroot.planning import Choice, Demand, choose
from iroot.precision import get_precision
from iroot.registry import TASKS, MethodSpec, Workload, get_method

HOPPER = (9, 0)
RTOLS = (1e-1, 1e-2, 1e-3)
LIMIT = 1.2
NOT_COMPARED = ("cholesky_reused",)
"""Timed without the making of their factor, which an `auto` call without reuse has to pay."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """What a caller asks for."""

    task: str
    p: int | None
    m: int
    n: int
    batch: int
    k: int | None
    problem: str

    def __str__(self) -> str:
        batch = f"xb{self.batch}" if self.batch > 1 else ""
        columns = f"xk{self.k}" if self.k is not None else ""
        root = f" p={self.p}" if self.p is not None else ""
        return f"{self.task}{root} {self.m}x{self.n}{batch}{columns} {self.problem}"

    def workload(self, precision: str) -> Workload:
        """The sizes, and what the problem states of its spectrum once it is rounded to the dtype it is posed in."""
        operand = TASKS[self.task].operand
        nominal = get_problem(self.problem).lower(operand, self.m, self.n)
        posed = torch.float32
        if precision != "auto" and operand == "rectangular":
            posed = get_precision(precision).storage
        lower = stated_lower(nominal, torch.finfo(posed).eps / 2)
        return Workload(
            m=self.m, n=self.n, precision=precision, batch=self.batch, k=self.k, p=self.p, lower=lower
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Arm:
    """What is timed: a method in a precision, whose options count by the number and the degrees of its steps."""

    spec: MethodSpec
    precision: str
    options: Any
    steps: int | None
    flops: float

    def __str__(self) -> str:
        steps = "" if self.steps is None or self.options == self.spec.options() else f" {self.steps} steps"
        return f"{self.spec.name} {self.precision}{steps}"

    def is_chosen(self, choice: Choice) -> bool:
        """Whether the choice is this one: by its FLOP, which count the steps and their degrees."""
        return self.serves(choice) and math.isclose(self.flops, choice.flops)

    def serves(self, choice: Choice) -> bool:
        """Whether the method and the precision are those of the choice."""
        return (self.spec, self.precision) == (choice.spec, choice.precision)


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One arm: the median of its launches' medians, and its largest error over the seeds."""

    arm: Arm
    seconds: float
    error: float


@dataclass(frozen=True, kw_only=True)
class Row:
    """One cell at one rtol.

    Attributes:
        choice: what `auto` picks.
        seconds: of the choice, with its own steps; None where its method and precision were not measured.
        measured_steps: of the case that the time is taken from.
        best: the fastest within rtol.
        best_stated: seconds of the fastest of those that state an error within rtol, with the steps that rtol asks for.
    """

    cell: Cell
    rtol: float
    choice: Choice
    seconds: float | None
    measured_steps: int | None
    best: Measured
    best_stated: float | None

    def ratio(self, against: str) -> float | None:
        """Time of the choice over that of the best, None where either is not known."""
        best = self.best.seconds if against == "measured" else self.best_stated
        return None if self.seconds is None or best is None else self.seconds / best


def cells(summary: RunSummary) -> dict[Cell, tuple[Measured, ...]]:
    """Every cell with the methods measured in it."""
    found: dict[Cell, list[Measured]] = defaultdict(list)
    for entry in summary.cases.values():
        measured = _measured(entry) if entry.outcome is Outcome.OK and compared(entry.planned) else None
        if measured is not None:
            found[_cell(entry.planned.case)].append(measured)
    return {cell: tuple(entries) for cell, entries in found.items()}


def _cell(case: Case) -> Cell:
    return Cell(task=case.task, p=case.p, m=case.m, n=case.n, batch=case.batch, k=case.k, problem=case.problem)


def compared(planned: PlannedCase) -> bool:
    """Whether a case is of a cell: no control, and in the mode that its method is meant for."""
    case = planned.case
    if planned.control or case.task in ("gemm", "syrk", "copy") or case.method in NOT_COMPARED:
        return False
    return case.mode is (Mode.GRAPH if get_method(case.task, case.method).capturable else Mode.EAGER)


def _arm(case: Case) -> Arm:
    spec = get_method(case.task, case.method)
    options = spec.make_options(dict(case.options))
    workload = _cell(case).workload(case.precision)
    steps = None if spec.steps is None else spec.steps(workload, options)
    flops = spec.flops(workload, options)
    return Arm(spec=spec, precision=case.precision, options=options, steps=steps, flops=flops)


def _measured(entry: CaseSummary) -> Measured | None:
    case = entry.planned.case
    errors = [q.orthogonality if case.task == "polar" else q.relative_error for q in entry.quality]
    known = [error for error in errors if error is not None]
    if not known or len(known) < len(errors) or not entry.launch_medians_s:
        return None
    time = statistics.median(entry.launch_medians_s.values())
    return Measured(arm=_arm(case), seconds=time, error=max(known))


def not_planned(planned: Iterable[PlannedCase], rtols: Iterable[float] = RTOLS) -> list[tuple[Cell, float, Choice]]:
    """What `auto` would take in the cells of a plan and no case has, with its steps."""
    arms: dict[Cell, list[Arm]] = defaultdict(list)
    for item in planned:
        if compared(item):
            arms[_cell(item.case)].append(_arm(item.case))
    choices = [(cell, rtol, _choose(cell, rtol, "auto", "auto")) for cell in arms for rtol in rtols]
    return [
        (cell, rtol, choice) for cell, rtol, choice in choices if not any(arm.is_chosen(choice) for arm in arms[cell])
    ]


def rows(summary: RunSummary, rtols: Iterable[float] = RTOLS) -> list[Row]:
    """Every cell at every rtol that some measured method reaches, the largest ratio to the measured best first."""
    tolerances = tuple(rtols)
    found = [
        _row(cell, rtol, entries, min(within, key=lambda entry: entry.seconds))
        for cell, entries in cells(summary).items()
        for rtol in tolerances
        if (within := [entry for entry in entries if entry.error <= rtol])
    ]
    return sorted(found, key=lambda row: -(row.ratio("measured") or 0.0))


def _row(cell: Cell, rtol: float, entries: Sequence[Measured], best: Measured) -> Row:
    choice = _choose(cell, rtol, "auto", "auto")
    mine = _nearest(entries, choice)
    served = {(entry.arm.spec.name, entry.arm.precision) for entry in entries}
    stated = [_stated_seconds(cell, rtol, entries, *names) for names in sorted(served)]
    return Row(
        cell=cell, rtol=rtol, choice=choice, best=best,
        best_stated=min((time for time in stated if time is not None), default=None),
        seconds=None if mine is None else _seconds(cell, mine, choice),
        measured_steps=None if mine is None else mine.arm.steps,
    )  # fmt: skip


def _nearest(entries: Iterable[Measured], choice: Choice) -> Measured | None:
    """Of the cases of the choice's method and precision the one with the nearest FLOP."""
    mine = [entry for entry in entries if entry.arm.serves(choice)]
    return min(mine, key=lambda entry: abs(entry.arm.flops - choice.flops), default=None)


def _seconds(cell: Cell, measured: Measured, choice: Choice) -> float:
    """Measured, times expected time with the choice's steps over that with the measured ones where they differ."""
    arm = measured.arm
    if arm.is_chosen(choice):
        return measured.seconds
    modelled = seconds(arm.spec, cell.workload(arm.precision), arm.options, capability=HOPPER)
    return measured.seconds * expected(choice) / modelled


def _choose(cell: Cell, rtol: float, method: str, precision: str) -> Choice:
    return choose(
        Demand(
            task=cell.task, workload=cell.workload("auto"), device=torch.device("cuda"), rtol=rtol, method=method,
            precision=precision, options=None, capability=HOPPER,
        )
    )  # fmt: skip


def _stated_seconds(cell: Cell, rtol: float, entries: Sequence[Measured], method: str, precision: str) -> float | None:
    """Seconds of a measured method with the options that rtol asks for, where it then states an error within rtol."""
    try:
        choice = _choose(cell, rtol, method, precision)
    except (InvalidInputError, UnsupportedError):
        return None
    if choice.stated is None or choice.stated > rtol:
        return None
    measured = _nearest(entries, choice)
    return None if measured is None else _seconds(cell, measured, choice)


def expected(choice: Choice) -> float:
    """Seconds by the cost model."""
    return seconds(choice.spec, choice.workload, choice.options, capability=HOPPER)


def table(found: Sequence[Row]) -> Table:
    """The rows whose choice was measured."""
    result = Table("ratio", "ratio stated", "rtol", "cell", "auto", "states", "steps", "us", "best", "error", "us")
    for row in found:
        if row.seconds is None:
            continue
        choice, ratio, stated = row.choice, row.ratio("measured"), row.ratio("stated")
        result.add_row(
            f"{ratio:.2f}", "-" if stated is None else f"{stated:.2f}", f"{row.rtol:g}", str(row.cell),
            f"{choice.spec.name} {choice.precision}", "-" if choice.stated is None else f"{choice.stated:.1e}",
            _steps(row), f"{row.seconds * 1e6:.0f}", str(row.best.arm),
            f"{row.best.error:.1e}", f"{row.best.seconds * 1e6:.0f}",
        )  # fmt: skip
    return result


def _steps(row: Row) -> str:
    mine, measured = row.choice.steps, row.measured_steps
    return "-" if mine is None else f"{mine}" if mine == measured else f"{mine} for {measured}"


def report(found: Sequence[Row], *, limit: float, against: str, console: Console) -> int:
    """Print the table, what was not measured and the counts; 1 where a ratio is above the limit, else 0."""
    console.print(table(found))
    for row in found:
        if row.seconds is None:
            choice = row.choice
            console.print(
                f"not measured: {choice.spec.name} {choice.precision} for {row.cell}, rtol {row.rtol:g}, expected "
                f"{expected(choice) * 1e6:.0f} us; best {row.best.arm} "
                f"{row.best.seconds * 1e6:.0f} us",
            )
    over = 0
    for kind in ("measured", "stated"):
        ratios = [ratio for row in found if (ratio := row.ratio(kind)) is not None]
        above = sum(ratio > limit for ratio in ratios)
        console.print(
            f"against the best by {kind} error: {above} of {len(ratios)} above {limit:g}, "
            f"largest {max(ratios, default=0.0):.2f}"
        )
        over = above if kind == against else over
    return int(over > 0)


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the run, print, return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="run id, or `latest`")
    parser.add_argument("--store", type=Path, default=Path("benchmark_results/iroot.duckdb"))
    parser.add_argument("--limit", type=float, default=LIMIT)
    parser.add_argument("--against", choices=("measured", "stated"), default="measured")
    parser.add_argument("--rtol", type=float, nargs="+", default=RTOLS)
    given = parser.parse_args(arguments)
    store = Store(given.store)
    summary = store.summary(store.run(given.run).run_id)
    return report(
        rows(summary, given.rtol), limit=given.limit, against=given.against, console=Console(width=190)
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
