"""Tables as text cells: which columns a table has and how each figure is printed. Markdown only lays them out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

from harness.records import CaseVerdict, Outcome
from harness.report import format as text
from harness.report.hints import changed_resources, hints
from harness.report.verdicts import BETTER, WORSE
from harness.report.view import COLLAPSE_ABOVE, Choice, ErrorSpread, ResultRow, ShapeGroup, grouped
from harness.resource_verdict import ResourceName
from harness.time_verdict import percent

RowT = TypeVar("RowT")


@dataclass(frozen=True, kw_only=True)
class Column(Generic[RowT]):
    """One column. An `optional` one is left out where no row has a figure."""

    title: str
    cell: Callable[[RowT], str]
    align: Literal["left", "right"] = "right"
    optional: bool = False


@dataclass(frozen=True, kw_only=True)
class Table:
    """Finished cells, Markdown inside."""

    titles: tuple[str, ...]
    aligns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    @property
    def collapsed(self) -> bool:
        """Too long to be read in passing."""
        return len(self.rows) > COLLAPSE_ABOVE

    @property
    def markdown(self) -> str:
        """A GitHub Markdown table, without a final newline. In a cell a pipe must be escaped, inside code too."""
        rules = ["---:" if align == "right" else "---" for align in self.aligns]
        lines = (self.titles, tuple(rules), *self.rows)
        return "\n".join("| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |" for line in lines)


def build(rows: Sequence[RowT], columns: Sequence[Column[RowT]]) -> Table:
    """Fill the cells; optional columns of dashes (or of nothing) are dropped."""
    filled = [(column, [column.cell(row) for row in rows]) for column in columns]
    kept = [
        (column, cells)
        for column, cells in filled
        if not column.optional or any(c not in ("", text.DASH) for c in cells)
    ]
    return Table(
        titles=tuple(column.title for column, _ in kept),
        aligns=tuple(column.align for column, _ in kept),
        rows=tuple(zip(*(cells for _, cells in kept), strict=True)),
    )


# --- results ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _Shown:
    """A result row with what its table knows of it: the problem's name on its first row only, and what is bold."""

    problem: str
    row: ResultRow
    best_time: bool
    best_error: bool


def _shown(shape: ShapeGroup, keep: Callable[[ResultRow], bool]) -> list[_Shown]:
    return [
        _Shown(
            problem=text.code(problem.problem) if index == 0 else "",
            row=row,
            best_time=row.time_s is not None and row.time_s == problem.best_time(row.case.mode),
            best_error=row.outcome is Outcome.OK and row.error is not None and row.error.median == problem.least_error,
        )
        for problem in shape.problems
        for index, row in enumerate(filter(keep, problem.rows))
    ]


def _time(shown: _Shown) -> str:
    cell = text.seconds(shown.row.time_s)
    return text.bold(cell) if shown.best_time else cell


def _median_error(shown: _Shown) -> str:
    cell = _error_cell(shown.row, lambda spread: spread.median)
    return text.bold(cell) if shown.best_error else cell


def _error_cell(row: ResultRow, figure: Callable[[ErrorSpread], float]) -> str:
    return text.DASH if row.error is None else text.error(figure(row.error))


def _meets(shown: _Shown) -> str:
    meets = shown.row.meets_target
    return text.DASH if meets is None else "yes" if meets else "no"


def _outcome(shown: _Shown) -> str:
    row = shown.row
    aside = " (expected)" if row.expected and row.outcome is not Outcome.OK else ""
    return ("ok, a launch throttled" if row.throttled else "") if row.outcome is Outcome.OK else f"{row.outcome}{aside}"


_NAMES: tuple[Column[_Shown], ...] = (
    Column(title="Problem", cell=lambda s: s.problem, align="left"),
    Column(title="Method", cell=lambda s: text.plain(s.row.method_text), align="left"),
    Column(title="Precision", cell=lambda s: s.row.case.precision, align="left"),
    Column(title="Mode", cell=lambda s: s.row.case.mode, align="left"),
)

_RESULT_COLUMNS: tuple[Column[_Shown], ...] = (
    *_NAMES,
    Column(title="Time", cell=_time),
    Column(title="vs fastest", cell=lambda s: text.relative(s.row.vs_fastest), optional=True),
    Column(title="vs opponent", cell=lambda s: text.relative(s.row.vs_opponent), optional=True),
    Column(title="TFLOP/s", cell=lambda s: text.tflops(s.row.tflops), optional=True),
    Column(title="Of roofline", cell=lambda s: text.percent(s.row.roofline), optional=True),
    Column(title="Error (median)", cell=_median_error, optional=True),
    Column(title="Error (max)", cell=lambda s: _error_cell(s.row, lambda spread: spread.worst), optional=True),
    Column(title="Within target", cell=_meets, align="left", optional=True),
    Column(title="Residual", cell=lambda s: text.error(s.row.residual), optional=True),
    Column(title="Orthogonality", cell=lambda s: text.error(s.row.orthogonality), optional=True),
    Column(title="Outcome", cell=_outcome, align="left", optional=True),
)

_DETAIL_COLUMNS: tuple[Column[_Shown], ...] = (
    *_NAMES,
    Column(title="Error p90", cell=lambda s: _error_cell(s.row, lambda spread: spread.p90), optional=True),
    Column(title="Error p95", cell=lambda s: _error_cell(s.row, lambda spread: spread.p95), optional=True),
    Column(title="Symmetry", cell=lambda s: text.error(s.row.symmetry), optional=True),
    Column(title="Non-finite", cell=lambda s: text.percent(s.row.nonfinite_share), optional=True),
    Column(title="Peak memory", cell=lambda s: text.size(s.row.peak_bytes), optional=True),
    Column(title="First call", cell=lambda s: text.seconds(s.row.first_call_s), optional=True),
    Column(title="Launch spread", cell=lambda s: text.percent(s.row.spread), optional=True),
    Column(title="Launches", cell=lambda s: str(s.row.launches)),
)


def result_table(shape: ShapeGroup) -> Table:
    """Time and accuracy of one shape, problem by problem, the best figures bold; `unsupported` cases are left out."""
    return build(_shown(shape, lambda row: row.outcome is not Outcome.UNSUPPORTED), _RESULT_COLUMNS)


def detail_table(shape: ShapeGroup) -> Table:
    """The figures few readers need: spread of the error, memory, first call, noise; of cases that have any."""
    return build(_shown(shape, lambda row: row.launches > 0 or row.error is not None), _DETAIL_COLUMNS)


# --- choices ----------------------------------------------------------------------------------------------------------


def _choice_method(choice: Choice) -> str:
    if choice.row is None:
        return "no method gave a result"
    name = text.plain(choice.row.method_text)
    return text.bold(name) if choice.meets else f"none meets it; most accurate: {name}"


def _of_row(figure: Callable[[ResultRow], str]) -> Callable[[Choice], str]:
    return lambda choice: text.DASH if choice.row is None else figure(choice.row)


_CHOICE_COLUMNS: tuple[Column[Choice], ...] = (
    Column(title="p", cell=lambda c: text.DASH if c.p is None else str(c.p), optional=True),
    Column(title="Shape", cell=lambda c: c.shape, align="left"),
    Column(title="Problem", cell=lambda c: text.code(c.problem), align="left"),
    Column(title="Target error", cell=lambda c: text.error(c.target)),
    Column(title="Use", cell=_choice_method, align="left"),
    Column(title="Precision", cell=_of_row(lambda row: row.case.precision), align="left"),
    Column(title="Mode", cell=_of_row(lambda row: row.case.mode), align="left"),
    Column(title="Time", cell=_of_row(lambda row: text.seconds(row.time_s))),
    Column(title="Error (max)", cell=_of_row(lambda row: _error_cell(row, lambda spread: spread.worst))),
)


def choice_table(choices: Sequence[Choice]) -> Table:
    """The method to use for each problem of one task."""
    return build(choices, _CHOICE_COLUMNS)


# --- verdicts ---------------------------------------------------------------------------------------------------------


def verdict_note(row: CaseVerdict) -> str:
    """Everything said of one verdict, in one line; empty if there is nothing to say."""
    parts = [] if row.gates else ["advisory"]
    if row.reason:
        parts.append(text.first_line(row.reason))
    parts += [*row.quality_notes, *hints(row)]
    return "; ".join(dict.fromkeys(parts))  # the reason of a quality verdict is its first note


def verdict_notes(row: CaseVerdict) -> tuple[str, ...]:
    """The reason and the notes of one verdict, for footnotes: without MDE, tau and pairs of this very case.

    Noise differs from case to case; with the figures left out, one footnote says it of all.
    """
    notes = [text.first_line(row.reason)] if row.reason else []
    return tuple(dict.fromkeys(_without_figures(note, row) for note in (*notes, *row.quality_notes, *hints(row))))


def _without_figures(note: str, row: CaseVerdict) -> str:
    for figure in (row.mde, row.tau):
        if figure is not None:
            note = note.replace(f" {percent(figure)}", "")
    return note.replace(f"about {row.pairs_needed} pairs", "more pairs")


def _verdict(row: CaseVerdict) -> str:
    return text.bold(row.verdict) if row.verdict in WORSE or row.verdict in BETTER else row.verdict


def _resource(name: ResourceName) -> Callable[[CaseVerdict], str]:
    """A cell with the verdict on one resource; empty where it did not move, so that a column of these is left out."""

    def cell(row: CaseVerdict) -> str:
        found = next((each for each in changed_resources(row) if each.name == name), None)
        if found is None:
            return ""
        factor = "" if found.ratio is None else f" (×{text.relative(found.ratio)})"
        return f"{text.bold(found.verdict) if found.fails else found.verdict}{factor}"

    return cell


def _case_method(row: CaseVerdict) -> str:
    case = row.case
    return text.plain(f"{case.method} ({case.options_text})" if case.options else case.method)


_VERDICT_COLUMNS: tuple[Column[CaseVerdict], ...] = (
    Column(title="Shape", cell=lambda v: v.case.shape_id, align="left"),
    Column(title="Problem", cell=lambda v: text.code(v.case.problem), align="left"),
    Column(title="Method", cell=_case_method, align="left"),
    Column(title="Precision", cell=lambda v: v.case.precision, align="left"),
    Column(title="Mode", cell=lambda v: v.case.mode, align="left"),
    Column(title="Time", cell=lambda v: text.seconds(v.time_s)),
    Column(title="Reference", cell=lambda v: text.seconds(v.reference_time_s)),
    Column(title="Ratio", cell=lambda v: text.ratio(v.ratio)),
    Column(title="Interval", cell=lambda v: text.interval(v.low, v.high)),
    Column(title="Threshold", cell=lambda v: text.percent(v.tau), optional=True),
    Column(title="Error ratio", cell=lambda v: text.relative(v.error_ratio), optional=True),
    Column(title="Verdict", cell=_verdict, align="left"),
    Column(title="Peak memory", cell=_resource("peak_memory"), align="left", optional=True),
    Column(title="First call", cell=_resource("first_call"), align="left", optional=True),
    Column(title="Notes", cell=lambda v: text.plain(verdict_note(v)), align="left", optional=True),
)

_TASK_COLUMNS: tuple[Column[CaseVerdict], ...] = (
    Column(title="Task", cell=lambda v: v.case.task, align="left"),
    Column(title="p", cell=lambda v: text.DASH if v.case.p is None else str(v.case.p), optional=True),
)


def verdict_table(rows: Sequence[CaseVerdict]) -> Table:
    """Rows of one task and root."""
    return build(rows, _VERDICT_COLUMNS)


def notable_table(rows: Sequence[CaseVerdict]) -> Table:
    """Rows of any task."""
    return build(rows, (*_TASK_COLUMNS, *_VERDICT_COLUMNS))


# --- what did not go well ---------------------------------------------------------------------------------------------

_FAULT_COLUMNS: tuple[Column[ResultRow], ...] = (
    Column(title="Outcome", cell=lambda row: row.outcome, align="left"),
    Column(title="Expected", cell=lambda row: "yes" if row.expected else "**no**", align="left"),
    Column(title="Case", cell=lambda row: text.code(row.case.case_id), align="left"),
    Column(title="Reason", cell=lambda row: text.plain(text.first_line(row.reason)), align="left"),
)


def fault_table(rows: Sequence[ResultRow]) -> Table:
    """Cases that failed, one line each: a reader may be looking for his own."""
    return build(rows, _FAULT_COLUMNS)


@dataclass(frozen=True, kw_only=True)
class UnsupportedGroup:
    """Cases that this machine or their method cannot serve, for one reason."""

    reason: str
    rows: tuple[ResultRow, ...]


_UNSUPPORTED_COLUMNS: tuple[Column[UnsupportedGroup], ...] = (
    Column(title="Reason", cell=lambda g: text.plain(g.reason), align="left"),
    Column(title="Cases", cell=lambda g: str(len(g.rows))),
    Column(title="Methods", cell=lambda g: text.plain(_names(row.case.method for row in g.rows)), align="left"),
    Column(title="Precisions", cell=lambda g: _names(row.case.precision for row in g.rows), align="left"),
)


def _names(values: Iterable[str]) -> str:
    return ", ".join(sorted(set(values)))


def unsupported_table(rows: Sequence[ResultRow]) -> Table:
    """What cannot be run, one line per reason."""
    by_reason = grouped(rows, lambda row: text.first_line(row.reason))
    groups = [UnsupportedGroup(reason=reason, rows=tuple(of_reason)) for reason, of_reason in by_reason]
    return build(groups, _UNSUPPORTED_COLUMNS)
