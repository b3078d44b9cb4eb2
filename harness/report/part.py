"""A part of a run, for a report of its own: cases that a filter keeps, as measured and judged with the rest."""

from __future__ import annotations

from harness.errors import UsageError
from harness.filters import parse_filter
from harness.records import Comparison, RunSummary


def part_of_run(summary: RunSummary, text: str) -> RunSummary:
    """The cases of `summary` that the filter `text` keeps.

    Raises:
        UsageError: the filter cannot be read, or keeps none.
    """
    keep = parse_filter(text)
    planned = tuple(each for each in summary.run.cases if keep(each.case))
    if not planned:
        reason = keep.misnamed([each.case for each in summary.run.cases]) or "it contradicts every case"
        raise UsageError(f"--filter '{text}' keeps no case of run {summary.run.run_id}: {reason}")
    run = summary.run.model_copy(update={"cases": planned})
    cases = {case_id: each for case_id, each in summary.cases.items() if keep(each.planned.case)}
    return summary.model_copy(update={"run": run, "cases": cases})


def part_of_comparison(comparison: Comparison, text: str) -> Comparison:
    """The verdicts of the cases that the filter `text` keeps; they were corrected for all cases of the run."""
    keep = parse_filter(text)
    verdicts = tuple(row for row in comparison.verdicts if keep(row.case))
    return comparison.model_copy(update={"verdicts": verdicts})
