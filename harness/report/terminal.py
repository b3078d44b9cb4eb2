"""Comparisons and runs on a terminal, by rich. Text from records is never read as rich markup."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from harness.records import CaseVerdict, Comparison, Outcome, RunSummary, Verdict
from harness.report import format as text
from harness.report.catalog import Catalog, registry_facts
from harness.report.notes import outcome_line
from harness.report.tables import verdict_notes
from harness.report.verdicts import BETTER, WORSE, RootVerdicts, comparison_view, is_notable
from harness.report.view import Choice, RunView, grouped, run_view

_STYLES = (
    dict.fromkeys(WORSE, "bold red")
    | dict.fromkeys(BETTER, "bold green")
    | {Verdict.INCONCLUSIVE: "yellow", Verdict.NEW: "cyan", Verdict.UNCHANGED: "dim"}
)

_INDENT = 2

_MDE_LEGEND = "MDE: the smallest change that these launches can show. tau: the slowdown that is tolerated."


def print_comparison(comparison: Comparison, console: Console, *, show_all: bool = False) -> None:
    """Print verdicts by task -> p -> shape -> problem; unchanged rows are folded into a count unless `show_all`."""
    view = comparison_view(comparison)
    footnotes = Footnotes()
    _line(console, f"{comparison.manifest} on {comparison.machine_class}", style="bold")
    _line(console, f"  {comparison.candidate} against {view.label}")
    for mark in view.marks:
        _line(console, f"  [{mark.short}] {mark.sentence.replace('`', '')}", style="yellow")
    for note in comparison.notes:
        _line(console, f"  {note}", style="dim")
    for task in view.tasks:
        for root in task.roots:
            _print_root(
                console,
                root,
                title=_title(task.task, root.p),
                marks=view.marks_text,
                show_all=show_all,
                footnotes=footnotes,
            )
    console.print()
    _print_footnotes(console, footnotes)
    if view.rows:
        counts = ", ".join(f"{number} {verdict}" for verdict, number in comparison.counts.items())
        _line(console, f"{text.count(len(view.rows), 'case')}: {counts}")
    _line(console, view.bottom_line, style="bold")


class Footnotes:
    """Notes numbered by first mention: a sentence is printed once, however many rows it is true of."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def mark(self, note: str) -> str:
        """The short mark that stands for `note` in a table."""
        return f"[{self._numbers.setdefault(note, len(self._numbers) + 1)}]"

    @property
    def lines(self) -> tuple[str, ...]:
        """The notes behind their marks."""
        return tuple(f"[{number}] {note}" for note, number in self._numbers.items())


def _print_footnotes(console: Console, footnotes: Footnotes) -> None:
    for line in footnotes.lines:
        _line(console, line, style="dim")
    if any("MDE" in line for line in footnotes.lines):
        _line(console, _MDE_LEGEND, style="dim")
    if footnotes.lines:
        console.print()


def _print_root(
    console: Console, root: RootVerdicts, *, title: str, marks: str, show_all: bool, footnotes: Footnotes
) -> None:
    shown = [row for row in root.rows if show_all or is_notable(row)]
    folded = len(root.rows) - len(shown)
    if not shown:
        _line(console, f"\n{title}: {folded} unchanged", style="dim")
        return
    aside = f"  [{marks}]" if marks else ""
    _line(console, f"\n{title}{aside}", style="bold cyan")
    console.print(_verdict_table(shown, footnotes))
    if folded:
        _line(console, f"  and {folded} unchanged (--all shows them)", style="dim")


def _verdict_table(rows: Sequence[CaseVerdict], footnotes: Footnotes) -> Table:
    """Shape and problem head their rows: as columns they would leave 80 characters no room for the methods' names."""
    groups = grouped(rows, lambda row: f"{row.case.shape_id} {row.case.problem}")
    names = [name for name, _ in groups] + [_method(row) for row in rows]
    table = Table(box=None, pad_edge=False, padding=(0, 1), header_style="dim")
    table.add_column("case", min_width=_INDENT + _longest_word(names))
    table.add_column("ratio", justify="right", no_wrap=True)
    table.add_column("interval", justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    table.add_column("notes")
    for name, of_group in groups:
        table.add_row(Text(name, style="dim"))
        for row in of_group:
            table.add_row(
                Padding(Text(_method(row)), (0, 0, 0, _INDENT)),
                text.ratio(row.ratio),
                text.interval(row.low, row.high),
                Text(row.verdict, style=_STYLES.get(row.verdict, "")),
                Text(_note(row, footnotes)),
            )
    return table


def _note(row: CaseVerdict, footnotes: Footnotes) -> str:
    advisory = [] if row.gates else ["advisory"]
    return " ".join(advisory + [footnotes.mark(note) for note in verdict_notes(row)])


def _longest_word(names: Sequence[str]) -> int:
    return max((len(word) for name in names for word in name.split()), default=0)


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
        targets = {choice.target for choice in group.choices}
        shared = f" {text.error(*targets)}" if len(targets) == 1 else ""
        title = _title(group.task, group.p)
        _line(console, f"\n{title}: fastest within the target error{shared}", style="bold cyan")
        console.print(_choice_table(group.choices, with_target=not shared))
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


def _choice_table(choices: Sequence[Choice], *, with_target: bool) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 1), header_style="dim")
    uses = [_use(choice) for choice in choices]
    table.add_column("shape", no_wrap=True)
    table.add_column("problem", no_wrap=True)
    table.add_column("use", min_width=_longest_word([use.plain for use in uses]))
    for name in ("time", "error", "target") if with_target else ("time", "error"):
        table.add_column(name, justify="right", no_wrap=True)
    for choice, use in zip(choices, uses, strict=True):
        row = choice.row
        cells = (
            Text(choice.shape),
            Text(choice.problem),
            use,
            text.seconds(row.time_s if row else None),
            text.error(row.error.worst if row and row.error else None),
        )
        table.add_row(*cells, *([text.error(choice.target)] if with_target else []))
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
