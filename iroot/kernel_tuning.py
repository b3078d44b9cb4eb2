"""The search behind `iroot tune kernels`: every configuration of a kernel, timed shape by shape on the present GPU.

Each configuration is checked once against float64. Those that are right, and launch different kernels, are timed in
rounds, in a different order each time, so that a clock that drifts meets them all alike. One replaces the model's where
it is faster by more than `MARGIN` in all rounds but one: less is within what two rounds differ by.

Nothing that computes imports this module: a search runs when it is asked for, never inside a call.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol, get_args

from iroot.errors import InvalidInputError, UnsupportedError
from iroot.kernels.cases import DTYPES, Case, Choice
from iroot.kernels.families import Family
from iroot.kernels.table_file import Candidate, Entry, KernelTable, Kind, Provenance, read_kernel_table

ROUNDS = 5
MARGIN = 0.02


class Bench(Protocol):
    """What checks and times a configuration: `iroot.kernels.cases.GraphBench` on a GPU."""

    processors: int
    family: Family
    timed: str
    """What `time_us` returns, in words."""

    def prepare(self, case: Case, choices: Sequence[Choice]) -> None:
        """Called once for each case, before its choices are checked."""
        ...

    def launched(self, case: Case, choice: Choice) -> Hashable:
        """The same for configurations with which the same kernel is launched."""
        ...

    def fault(self, case: Case, choice: Choice) -> str:
        """Why a configuration is out of the question; empty for one that runs and is right."""
        ...

    def time_us(self, case: Case, choice: Choice) -> float:
        """Microseconds per call, inputs and compilation left out."""
        ...


def products(shape: tuple[int, int, int], dtype: str) -> tuple[Case, ...]:
    """The three products of a step of the polar iteration on (batch, m, n)."""
    if dtype not in DTYPES:
        raise InvalidInputError(f"dtype must be one of {', '.join(DTYPES)}, got '{dtype}'")
    batch, m, n = shape
    if min(shape) < 1:
        raise InvalidInputError(f"sizes of a shape must be >= 1, got {batch} x {m} x {n}")
    return tuple(Case(kind=kind, m=m, n=n, batch=batch, dtype=dtype) for kind in get_args(Kind))


def tune(
    cases: Iterable[Case],
    bench: Bench,
    *,
    begun: KernelTable,
    keep: Callable[[KernelTable], None],
    goes_on: Callable[[], bool] = lambda: True,
) -> KernelTable:
    """Measure the cases that `begun` does not know yet.

    Args:
        cases: in order; two of one shape are measured once.
        bench: of the present GPU.
        begun: the table to go on with.
        keep: given the table after each shape, so that an interruption costs one shape at most.
        goes_on: asked before each shape.
    """
    table = begun
    for case in cases:
        if table.find(case.shape) is not None:
            continue
        if not goes_on():
            break
        table = replace(table, entries=(*table.entries, measure(case, bench)))
        keep(table)
    return table


def measure(case: Case, bench: Bench) -> Entry:
    """Check and time every configuration for one case.

    Raises:
        UnsupportedError: none runs and is right.
    """
    begun, measured = time.perf_counter(), datetime.now(UTC).isoformat(timespec="seconds")
    default = case.default(bench.processors, bench.family)
    choices = list(dict.fromkeys((default, *case.choices())))
    bench.prepare(case, choices)
    # One kernel in other memory differs from itself by up to 10 % in every round (2048 x 8192, H100, 2026-11-23).
    choices = list({bench.launched(case, choice): choice for choice in reversed(choices)}.values())[::-1]
    faults = {choice: bench.fault(case, choice) for choice in choices}
    right = [choice for choice in choices if not faults[choice]]
    if not right:
        raise UnsupportedError(f"{case}: no configuration runs and is right; {default}: {faults[default]}")
    rounds: dict[Choice, list[float]] = {choice: [] for choice in choices}
    for index in range(ROUNDS):
        first = index * len(right) // ROUNDS
        for choice in (*right[first:], *right[:first]):
            rounds[choice].append(bench.time_us(case, choice))
    candidates = {
        choice: Candidate(configuration=str(choice), rounds_us=tuple(rounds[choice]), fault=faults[choice])
        for choice in choices
    }
    return Entry(
        shape=case.shape,
        default=str(default),
        chosen=chosen(str(default), tuple(candidates.values())),
        candidates=tuple(candidates.values()),
        measured=measured,
        seconds=round(time.perf_counter() - begun, 3),
    )


def chosen(default: str, candidates: tuple[Candidate, ...]) -> str:
    """The fastest of the configurations that beat the default by more than `MARGIN` in all rounds but one, or it.

    Round by round, since a GPU's clock drifts from one to the next by more than that; one round may be disturbed.
    """
    right = [each for each in candidates if each.rounds_us]
    model = next((each for each in right if each.configuration == default), None)
    if model is None:
        return min(right, key=lambda each: each.time_us).configuration
    faster = {model.configuration: 1.0}
    for each in right:
        ratios = sorted(ours / theirs for ours, theirs in zip(each.rounds_us, model.rounds_us, strict=True))
        if ratios[-2] < 1.0 - MARGIN:
            faster[each.configuration] = statistics.median(ratios)
    return min(faster, key=lambda configuration: faster[configuration])


def begun_table(path: Path, fresh: KernelTable) -> KernelTable:
    """What an earlier search left in `path`, with the provenance of `fresh`; `fresh` where there is no such file.

    Raises:
        InvalidInputError: the file is no table, or one that does not hold at present.
    """
    if not path.exists():
        return fresh
    table = read_kernel_table(path)
    reason = table.identity.stale(fresh.identity) or _other_software(table.provenance, fresh.provenance)
    if reason:
        raise InvalidInputError(f"{path} cannot be gone on with: {reason}; remove it, or name another file")
    earlier, now = table.provenance.command, fresh.provenance.command
    command = earlier if now in earlier.split("; ") else f"{earlier}; {now}"
    provenance = replace(fresh.provenance, created=table.provenance.created, command=command)
    return replace(fresh, provenance=provenance, entries=table.entries)


def _other_software(before: Provenance, now: Provenance) -> str:
    """What differs of what one table states once for all its shapes."""
    for name in ("processors", "driver", "torch", "triton"):
        if getattr(before, name) != getattr(now, name):
            return f"{name} was {getattr(before, name)}, it is {getattr(now, name)}"
    return ""
