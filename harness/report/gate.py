"""A gate's result for people: the Markdown of a pull-request comment and step summary, and the terminal's lines."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.text import Text

from harness.gate import GateCase, GateResult
from harness.gate_findings import Ruling
from harness.report import format as text
from harness.report.hints import kernel_hint
from harness.report.tables import Column, Table, build
from harness.report.verdicts import marks_of

MARKER = "<!-- iroot-gate -->"
"""First line of a comment, by which a later run finds the comment to replace."""

SHOWN = 100
"""Rows per table: a comment may hold 65,536 characters."""

_STYLES = {
    Ruling.FAILED: "bold red",
    Ruling.UNDECIDED: "yellow",
    Ruling.WAIVED: "cyan",
    Ruling.ADVISORY: "dim",
    Ruling.PASSED: "green",
}
_OPEN = (Ruling.FAILED, Ruling.UNDECIDED, Ruling.WAIVED)


def why(case: GateCase) -> str:
    """Why a case is ruled as it is, in one line; with a hint at the cause, and who agreed to what by a waiver."""
    parts = [text.first_line(case.reason)] if case.reason else []
    hint = kernel_hint(case.row)
    if hint is not None and case.ruling in _OPEN:
        parts.append(hint)
    if case.waiver is not None:
        parts.append(f"waived: {case.waiver.reason} (until {case.waiver.expires})")
    return "; ".join(parts)


_COLUMNS: tuple[Column[GateCase], ...] = (
    Column(title="Gate", cell=lambda c: text.bold(c.ruling) if c.ruling in _OPEN else c.ruling, align="left"),
    Column(title="Case", cell=lambda c: text.code(c.row.case_id), align="left"),
    Column(title="Verdict", cell=lambda c: c.row.verdict, align="left"),
    Column(title="Base", cell=lambda c: text.seconds(c.row.reference_time_s)),
    Column(title="Candidate", cell=lambda c: text.seconds(c.row.time_s)),
    Column(title="Ratio", cell=lambda c: text.ratio(c.row.ratio)),
    Column(title="Interval", cell=lambda c: text.interval(c.row.low, c.row.high)),
    Column(title="Threshold", cell=lambda c: text.percent(c.row.tau), optional=True),
    Column(title="Error ratio", cell=lambda c: text.relative(c.row.error_ratio), optional=True),
    Column(title="Pairs", cell=lambda c: f"{c.row.launches} fresh" if c.measured_again else str(c.row.launches)),
    Column(title="Why", cell=lambda c: text.plain(why(c)), align="left", optional=True),
)


def gate_table(cases: Sequence[GateCase]) -> Table:
    """One row per case."""
    return build(cases, _COLUMNS)


def gate_markdown(result: GateResult) -> str:
    """The body of a comment; the step summary is the same."""
    return "\n".join(_markdown_lines(result)).rstrip() + "\n"


def _markdown_lines(result: GateResult) -> Iterator[str]:
    comparison = result.comparison
    yield from (MARKER, f"## {result.headline}", "")
    how = "interleaved pairs" if result.kind == "paired" else "a plain run"
    yield f"{text.code(result.candidate)} against {text.code(result.base)}, {how};"
    yield f"manifest {text.code(comparison.manifest)} on {text.plain(comparison.machine_class)}."
    yield ""
    yield from (f"- **{text.plain(failure)}**" for failure in result.failures)
    open_cases = [case for ruling in _OPEN for case in result.of(ruling)]
    if open_cases:
        yield from ("", gate_table(open_cases[:SHOWN]).markdown, "", *_more(open_cases), "")
    quiet = [*result.of(Ruling.PASSED), *result.of(Ruling.ADVISORY)]
    if quiet:
        passed, advisory = len(result.of(Ruling.PASSED)), len(result.of(Ruling.ADVISORY))
        yield f"<details><summary>{text.count(passed, 'case')} passed, {advisory} advisory</summary>"
        yield from ("", gate_table(quiet[:SHOWN]).markdown, "", *_more(quiet), "</details>", "")
    yield from _waiver_lines(result)
    notes = [mark.sentence for mark in marks_of(comparison)]
    notes += [f"{text.plain(note[:1].upper() + note[1:])}." for note in (*comparison.notes, *result.notes)]
    yield from ("### Notes", "", *(f"- {note}" for note in notes))
    yield f"- Runs: {', '.join(text.code(run) for run in result.runs)}."


def _more(cases: Sequence[GateCase]) -> tuple[str, ...]:
    return (f"… and {len(cases) - SHOWN} more.",) if len(cases) > SHOWN else ()


def _waiver_lines(result: GateResult) -> Iterator[str]:
    states = [("expired, not applied", result.expired_waivers), ("not needed", result.unused_waivers)]
    lines = [f"- {state}: {text.plain(waiver.text)}" for state, waivers in states for waiver in waivers]
    if lines:
        yield from ("### Waivers", "", *lines, "")


def print_gate(result: GateResult, console: Console, *, show_all: bool) -> None:
    """Print the cases that did not simply pass, or all, and the outcome last."""
    for case in result.cases:
        if show_all or case.ruling in _OPEN:
            line = Text(f"{case.ruling:<10}", style=_STYLES[case.ruling])
            row = case.row
            line.append(f"{row.case_id}  {text.ratio(row.ratio)} ({text.interval(row.low, row.high)}) {row.verdict}")
            console.print(line, soft_wrap=True)
            if why(case):
                console.print(Text(f"          {why(case)}", style="dim"), soft_wrap=True)
    for failure in result.failures:
        console.print(Text(failure, style="bold red"), soft_wrap=True)
    for waiver in result.expired_waivers:
        console.print(Text(f"expired waiver, not applied: {waiver.text}", style="yellow"), soft_wrap=True)
    for waiver in result.unused_waivers:
        console.print(Text(f"waiver not needed: {waiver.text}", style="dim"), soft_wrap=True)
    console.print(Text(result.headline, style="bold"))
