"""Tables that several housekeeping commands print. Imported when a command runs, never with the command line."""

from __future__ import annotations

import re
import statistics
import textwrap
from collections.abc import Collection, Mapping

from rich.console import Console, ConsoleOptions, RenderResult
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from harness.records import CaseSummary, RunRecord, RunSummary
from harness.report import format as text

CASE_SEPARATORS = "/,"
"""Where case ids break: between their parts, and between options."""

REMARKS_WIDTH = 24
"""Of what stands below a run: the names of imported runs may be too short to set words under them."""


class Breakable:
    """An identifier that a narrow terminal breaks after its separators instead of within its words.

    Args:
        separators: characters; a line may end after any of them.
        widest: columns that it asks for at most, however long it is; None: all it can fill.
    """

    def __init__(self, identifier: str, separators: str, *, widest: int | None = None) -> None:
        self._parts = re.findall(
            f"[^{re.escape(separators)}]*[{re.escape(separators)}]|[^{re.escape(separators)}]+", identifier
        )
        self._widest = widest

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        least, most = max(map(len, self._parts)), sum(map(len, self._parts))
        return Measurement(least, max(least, min(most, self._widest or most)))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        lines = [""]
        for part in self._parts:
            if lines[-1] and len(lines[-1]) + len(part.rstrip()) > options.max_width:
                lines.append("")
            lines[-1] += part
        yield Text("\n".join(line.rstrip() for line in lines), overflow="fold")


def plain_table(*headers: str, folding: Collection[str]) -> Table:
    """A table without lines. In a narrow terminal the columns in `folding` are folded; the others stay on one line."""
    table = Table(box=None, pad_edge=False, padding=(0, 1), header_style="dim")
    for header in headers:
        table.add_column(header, no_wrap=header not in folding, overflow="fold")
    return table


def runs_table(runs: list[RunRecord]) -> Table:
    """Per run its figures, and below them its machine and remarks: beside them 80 columns have no room.

    Its id is what other commands take: in a narrow terminal all but it fold.
    """
    beside = ("status", "revision", "cases", "launches")
    table = plain_table("run", *beside, folding=beside)
    for run in runs:
        counts = (str(len(run.cases)), str(run.launches))
        table.add_row(run.run_id, str(run.status), text.revision(run.source), *counts)
        below = "; ".join(filter(None, (run.machine.machine_class, _remarks(run))))
        lines = textwrap.wrap(below, max(len(run.run_id) - 2, REMARKS_WIDTH), break_on_hyphens=False)
        table.add_row(Text(textwrap.indent("\n".join(lines), "  ")))
    return table


def _remarks(run: RunRecord) -> str:
    sources = run.source.source_hash[: text.HASH_DIGITS] if run.source.dirty and run.source.revision else None
    facts = (("sources", sources), ("filter", run.filter), ("arm", run.arm), ("imported from", run.imported_from))
    told = [f"{name} {value}" for name, value in facts if value is not None]
    return "; ".join([*told, *([run.note] if run.note else [])])


def facts_table(summary: RunSummary, more: Mapping[str, str | None]) -> Table:
    """Where a run or a baseline comes from, a row per fact; `more` facts come last."""
    run = summary.run
    software = run.software.model_dump()
    facts: dict[str, str | None] = {
        "run": ", ".join(summary.runs_merged) or run.run_id,
        "created": run.created_at,
        "status": str(run.status),
        "manifest": run.manifest + (f", filter {run.filter}" if run.filter else ""),
        "machine": f"{run.machine.model} ({run.machine.machine_class})",
        "software": ", ".join(f"{name} {version}" for name, version in software.items() if version is not None),
        "revision": text.revision(run.source),
        "sources": run.source.source_hash[: text.HASH_DIGITS],
        "launches": str(run.launches),
        "start-up of a worker": text.seconds(summary.startup_s),
        "wall time of a launch": text.seconds(summary.launch_wall_s),
        "inside timed samples": text.percent(summary.timed_share),
        "imported from": run.imported_from,
        "note": run.note,
        **more,
    }
    table = Table(show_header=False, box=None)
    for name, value in facts.items():
        if value is not None:
            table.add_row(name, escape(value))
    return table


def cases_table(summary: RunSummary) -> Table:
    """One row per case: how it ended, its time, the spread between its launches and its median error."""
    headers = ("case", "outcome", "time", "spread", "launches", "error", "memory")
    table = plain_table(*headers, folding=("case", "outcome"))
    for case_id, case in summary.cases.items():
        medians = list(case.launch_medians_s.values())
        typical = statistics.geometric_mean(medians) if medians else None
        table.add_row(
            Breakable(case_id, CASE_SEPARATORS),
            escape(_outcome(case)),
            text.seconds(typical),
            text.percent(_spread(medians)),
            str(len(medians)),
            text.error(_median_error(case)),
            text.size(case.peak_bytes),
        )
    return table


def _outcome(case: CaseSummary) -> str:
    return f"{case.outcome}: {text.first_line(case.error, 80)}" if case.error else str(case.outcome)


def _spread(medians_s: list[float]) -> float | None:
    """Relative standard deviation between launches."""
    return statistics.stdev(medians_s) / statistics.fmean(medians_s) if len(medians_s) >= 2 else None


def _median_error(case: CaseSummary) -> float | None:
    errors = [each.relative_error for each in case.quality if each.relative_error is not None]
    return statistics.median(errors) if errors else None
