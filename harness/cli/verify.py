"""`iroot verify`: correctness of every method, precision and p on this machine."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import track
from rich.table import Table
from rich.text import Text

from harness.cli.common import DeviceOption, JsonOption, console, errors_console, print_json
from harness.cli.devices import device_name, require_device

if TYPE_CHECKING:
    from harness.verify import Check

TaskOption = Annotated[str | None, typer.Option("--task", help="Only this task.")]
MethodOption = Annotated[str | None, typer.Option("--method", help="Only this method.")]
PrecisionOption = Annotated[str | None, typer.Option("--precision", help="Only this precision.")]
RootOption = Annotated[str | None, typer.Option("--p", metavar="P,...", help="Only these roots.")]

LEGEND = (
    "Largest relative error against float64, of fp64 against twice as many digits. Green: within what the method "
    "states, over the problems it makes a statement for; red: beyond it, or failed; plain: it states nothing for any "
    "problem tried; -: p not served."
)


def verify(
    task: TaskOption = None,
    method: MethodOption = None,
    precision: PrecisionOption = None,
    p: RootOption = None,
    device: DeviceOption = None,
    json: JsonOption = False,
) -> None:
    """Check every method, precision and p on this machine against float64, within the accuracy each method states.

    Exit code 0: nothing missed its stated accuracy; 1: something did, or failed.

    Examples:

        iroot verify

        iroot verify --task polar --precision fp32

        iroot verify --method coupled_pe --p 2,4
    """
    # Schedules are designed with numpy on systems of 3 to 10 unknowns, where OpenBLAS threads only wait for each other:
    # 70 s with two threads on two busy cores, 1.4 s with one. It must be set before numpy is loaded.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from harness.errors import ExitCode
    from harness.verify import plan_checks
    from harness.verify import verify as run_checks

    roots = _roots(p)
    chosen = device_name(device)
    require_device(chosen)
    attempts = plan_checks(chosen, task=task, method=method, precision=precision, roots=roots)
    progress = errors_console()
    checks = list(
        track(
            run_checks(chosen, attempts),
            description="verifying",
            total=len(attempts),
            console=progress,
            transient=True,
            disable=not progress.is_terminal,
        )
    )
    if json:
        print_json([_plain(check) for check in checks])
    else:
        _print(checks, console())
    raise typer.Exit(ExitCode.FAILED_CHECK if any(check.bad for check in checks) else ExitCode.OK)


def _roots(text: str | None) -> tuple[int, ...] | None:
    from harness.errors import UsageError

    if text is None:
        return None
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) >= 1 for part in parts):
        raise UsageError(f"--p: must be integers >= 1, got '{text}'; e.g. --p 2,4")
    return tuple(dict.fromkeys(int(part) for part in parts))


def _plain(check: Check) -> dict[str, object]:
    import math
    from dataclasses import asdict

    plain = asdict(check)
    if check.error is not None and not math.isfinite(check.error):
        plain["error"] = "inf"  # JSON has no infinity
    return plain


def _print(checks: Sequence[Check], out: Console) -> None:
    measured = [check for check in checks if check.status != "unsupported"]
    for task in dict.fromkeys(check.task for check in measured):
        out.print(_table(task, [check for check in measured if check.task == task]))
    refused = dict.fromkeys((check.precision, check.detail) for check in checks if check.status == "unsupported")
    for name, reason in refused:
        out.print(f"not run here: {name}: {reason}", soft_wrap=True)
    for check in checks:
        if check.bad:
            out.print(_complaint(check), style="red", markup=False, soft_wrap=True)
    counts = Counter(check.status for check in checks)
    out.print(LEGEND, style="dim")
    out.print(
        f"{len(measured)} checks: {counts['ok']} within the stated accuracy, {counts['unstated']} without a statement, "
        f"{counts['miss']} missed, {counts['failed']} failed",
        soft_wrap=True,
    )


def _table(task: str, checks: Sequence[Check]) -> Table:
    roots: list[int | None] = [*sorted({check.p for check in checks if check.p is not None})] or [None]
    table = Table(title=task, title_justify="left", box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("method", no_wrap=True)
    table.add_column("precision", no_wrap=True)
    for p in roots:
        table.add_column("error" if p is None else f"p = {p}", justify="right", no_wrap=True)
    for method, precision in dict.fromkeys((check.method, check.precision) for check in checks):
        row = [check for check in checks if (check.method, check.precision) == (method, precision)]
        table.add_row(method, precision, *[_cell([check for check in row if check.p == p]) for p in roots])
    return table


def _cell(checks: Sequence[Check]) -> Text:
    """What some checks of one method, precision and p come to: a failure, a miss, else the largest error."""
    by_status = {check.status: [other for other in checks if other.status == check.status] for check in checks}
    if "failed" in by_status:
        return Text("failed", style="red")
    for status, style in (("miss", "red"), ("ok", "green"), ("unstated", "")):
        if status in by_status:
            return Text(f"{_largest(by_status[status]):.1e}", style=style)
    return Text("-")


def _largest(checks: Iterable[Check]) -> float:
    return max(check.error for check in checks if check.error is not None)


def _complaint(check: Check) -> str:
    root = f" p={check.p}" if check.p is not None else ""
    where = f"{check.task}/{check.method} {check.precision}{root}"
    if check.setting is not None:
        setting = check.setting
        batch = f"xb{setting.batch}" if setting.batch > 1 else ""
        where += f" on {setting.problem} {setting.m}x{setting.n}{batch}"
    if check.status == "failed":
        return f"failed: {where}: {check.detail}"
    return f"missed: {where}: error {check.error:.2e}, the method states {check.stated:.2e}"
