"""Comparisons and runs on a terminal, by rich. Text from records is never read as rich markup."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness.records import CaseVerdict, Comparison, Outcome, RunSummary, Verdict
from harness.report import format as text
from harness.report.catalog import Catalog, registry_facts
from harness.report.notes import outcome_line
from harness.report.tables import verdict_note
from harness.report.verdicts import BETTER, WORSE, ComparisonView, RootVerdicts, comparison_view
from harness.report.view import Choice, RunView, run_view

_STYLES = (
    dict.fromkeys(WORSE, "bold red")
    | dict.fromkeys(BETTER, "bold green")
    | {Verdict.INCONCLUSIVE: "yellow", Verdict.NEW: "cyan", Verdict.UNCHANGED: "dim"}
)


def print_comparison(comparison: Comparison, console: Console, *, show_all: bool = False) -> None:
    """Print verdicts by task -> p -> shape -> problem; unchanged rows are folded into a count unless `show_all`."""
    view = comparison_view(comparison)
    _line(console, f"{comparison.manifest} on {comparison.machine_class}", style="bold")
    _line(console, f"  {comparison.candidate} against {view.label}")
    for mark in view.marks:
        _line(console, f"  [{mark.short}] {mark.sentence.replace('`', '')}", style="yellow")
    for task in view.tasks:
        for root in task.roots:
            _print_root(console, task.task, root, view=view, show_all=show_all)
    console.print()
    if view.rows:
        counts = ", ".join(f"{number} {verdict}" for verdict, number in comparison.counts.items())
        _line(console, f"{text.count(len(view.rows), 'case')}: {counts}")
    _line(console, view.bottom_line, style="bold")


def _print_root(console: Console, task: str, root: RootVerdicts, *, view: ComparisonView, show_all: bool) -> None:
    shown = [row for row in root.rows if show_all or row.verdict is not Verdict.UNCHANGED]
    folded = len(root.rows) - len(shown)
    title = _title(task, root.p)
    if not shown:
        _line(console, f"\n{title}: {folded} unchanged", style="dim")
        return
    marks = f"  [{view.marks_text}]" if view.marks else ""
    _line(console, f"\n{title}{marks}", style="bold cyan")
    console.print(_verdict_table(shown))
    if folded:
        _line(console, f"  and {folded} unchanged (--all shows them)", style="dim")


def _verdict_table(rows: Sequence[CaseVerdict]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 1), header_style="dim")
    for name in ("shape", "problem", "method"):
        table.add_column(name, overflow="fold")
    table.add_column("ratio", justify="right", no_wrap=True)
    table.add_column("interval", justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    table.add_column("notes", overflow="fold")
    previous: CaseVerdict | None = None
    for row in rows:
        case = row.case
        same_shape = previous is not None and previous.case.shape_id == case.shape_id
        same_problem = same_shape and previous is not None and previous.case.problem == case.problem
        table.add_row(
            "" if same_shape else Text(case.shape_id),
            "" if same_problem else Text(case.problem),
            Text(_method(row)),
            text.ratio(row.ratio),
            text.interval(row.low, row.high),
            Text(row.verdict, style=_STYLES.get(row.verdict, "")),
            Text(verdict_note(row)),
        )
        previous = row
    return table


def _method(row: CaseVerdict) -> str:
    case = row.case
    options = f" ({case.options_text})" if case.options else ""
    return f"{case.method}{options} {case.precision} {case.mode}"


def print_run(summary: RunSummary, console: Console, *, catalog: Catalog = registry_facts) -> None:
    """Print the method to use for each problem of a run, and how its cases ended."""
    view = run_view(summary, catalog=catalog)
    run = summary.run
    _line(console, f"{run.run_id} ({run.status}) on {run.machine.model}", style="bold")
    _line(console, f"  {outcome_line(view)}; {text.count(run.launches, 'launch', 'launches')}")
    groups = _choices_by_root(view)
    for group in groups:
        _line(console, f"\n{_title(group.task, group.p)}: fastest within the target error", style="bold cyan")
        console.print(_choice_table(group.choices))
    if not groups:
        _line(console, "\nNo method was measured.", style="yellow")
    unexpected = [row for row in view.rows if not row.expected and row.outcome not in (Outcome.OK, Outcome.UNSUPPORTED)]
    for row in unexpected[:10]:
        _line(console, f"{row.outcome}: {row.case.case_id}: {text.first_line(row.reason)}", style="yellow")
    if len(unexpected) > 10:
        _line(console, f"and {text.count(len(unexpected) - 10, 'more case', 'more cases')} without a result")


@dataclass(frozen=True, kw_only=True)
class _RootChoices:
    task: str
    p: int | None
    choices: tuple[Choice, ...]


def _choices_by_root(view: RunView) -> list[_RootChoices]:
    keys = dict.fromkeys((choice.task, choice.p) for choice in view.choices)
    return [
        _RootChoices(task=task, p=p, choices=tuple(c for c in view.choices if (c.task, c.p) == (task, p)))
        for task, p in keys
    ]


def _choice_table(choices: Sequence[Choice]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 1), header_style="dim")
    for name in ("shape", "problem", "use"):
        table.add_column(name, overflow="fold")
    for name in ("time", "error", "target"):
        table.add_column(name, justify="right", no_wrap=True)
    for choice in choices:
        row = choice.row
        table.add_row(
            Text(choice.shape),
            Text(choice.problem),
            _use(choice),
            text.seconds(row.time_s if row else None),
            text.error(row.error.worst if row and row.error else None),
            text.error(choice.target),
        )
    return table


def _use(choice: Choice) -> Text:
    if choice.row is None:
        return Text("no method gave a result", style="yellow")
    case = choice.row.case
    name = f"{choice.row.method_text} {case.precision} {case.mode}"
    return Text(name) if choice.meets else Text(f"none within target; most accurate: {name}", style="yellow")


def _title(task: str, p: int | None) -> str:
    return task if p is None else f"{task}, p = {p}"


def _line(console: Console, content: str, *, style: str = "") -> None:
    console.print(Text(content, style=style))
