"""How a run gets on: a progress bar on a terminal, one line per launch elsewhere. Both on stderr."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

if TYPE_CHECKING:
    from harness.launcher import Observer
    from harness.records import CaseResult

_COMMIT = re.compile("[0-9a-f]{40}")
_COMMIT_DIGITS = 9
_SPEED_WINDOW_S = 60.0
"""A case takes milliseconds or seconds: the time left is judged by the last minute."""


def launch_label(launch: int, total_launches: int, arm: str | None = None) -> str:
    """Launch 0 is the quality pass; of two interleaved arms each line names its own, a full commit id in short."""
    label = "quality pass" if launch == 0 else f"launch {launch}/{total_launches}"
    if arm is None:
        return label
    return f"{label} of {arm[:_COMMIT_DIGITS] if _COMMIT.fullmatch(arm) else arm}"


@contextmanager
def observed(console: Console) -> Iterator[Observer]:
    """An observer that shows progress on `console` for as long as the block lasts."""
    if not console.is_terminal:
        yield LineObserver(console)
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.fields[launch]}", markup=False),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[case]}", style="dim"),
    )
    with Progress(*columns, console=console, transient=True, speed_estimate_period=_SPEED_WINDOW_S) as progress:
        yield BarObserver(progress)


class BarObserver:
    """A bar over the cases of all launches, with the current case and the time left."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._done = 0
        self._task: TaskID = progress.add_task("run", total=None, launch="starting", case="")

    @property
    def tasks(self) -> list[Task]:
        """The bar's state."""
        return self._progress.tasks

    def launch_started(self, launch: int, total_launches: int, cases: int, *, arm: str | None = None) -> None:
        """Launches to come are taken to have as many cases as this one: fewer only after failures or a resume."""
        total = self._done + cases * (total_launches - launch + 1)
        label = launch_label(launch, total_launches, arm)
        self._progress.update(self._task, total=total, launch=label, case="starting")

    def case_started(self, launch: int, case_id: str) -> None:
        """Show the case by its name."""
        self._progress.update(self._task, case=case_id)

    def case_finished(self, launch: int, result: CaseResult) -> None:
        """Advance by one; a case that is not ok leaves a line behind."""
        self._done += 1
        self._progress.advance(self._task)
        if result.outcome != "ok":
            self._progress.console.print(_defect_line(launch, result), markup=False)

    def launch_finished(self, launch: int) -> None:
        """Nothing to show between launches."""
        self._progress.update(self._task, case="")


class LineObserver:
    """One line per launch, for logs; cases that are not ok are named in it."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._label = ""
        self._begun = 0.0
        self._planned = 0
        self._cases = 0
        self._defects: list[CaseResult] = []

    def launch_started(self, launch: int, total_launches: int, cases: int, *, arm: str | None = None) -> None:
        """Begin counting."""
        self._label = launch_label(launch, total_launches, arm)
        self._planned, self._cases, self._defects = cases, 0, []
        self._begun = time.perf_counter()

    def case_started(self, launch: int, case_id: str) -> None:
        """Not worth a line."""

    def case_finished(self, launch: int, result: CaseResult) -> None:
        """Count."""
        self._cases += 1
        if result.outcome != "ok":
            self._defects.append(result)

    def launch_finished(self, launch: int) -> None:
        """Print the line."""
        if self._planned == 0:
            self._console.print(f"{self._label}: measured before", markup=False, soft_wrap=True)
            return
        took = time.perf_counter() - self._begun
        cases = f"{self._cases} case{'' if self._cases == 1 else 's'}"
        self._console.print(f"{self._label}: {cases} in {took:.1f} s", markup=False, soft_wrap=True)
        for result in self._defects:
            self._console.print(f"  {_defect_line(launch, result)}", markup=False, soft_wrap=True)


def _defect_line(launch: int, result: CaseResult) -> str:
    error = (result.error or "").strip().splitlines()
    return f"{result.outcome}: {result.case_id}" + (f": {error[-1]}" if error else "")
