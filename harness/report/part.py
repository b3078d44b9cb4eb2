"""A part of a run, for a report of its own: cases that a filter keeps, as measured and judged with the rest."""

from __future__ import annotations

from dataclasses import dataclass

from harness.errors import UsageError
from harness.filters import flag_filter
from harness.records import Comparison, RunSummary


@dataclass(frozen=True, kw_only=True)
class Shown:
    """What a part is of: the filter that keeps it, and the number of cases there were."""

    filter: str
    measured: int


def part_of_run(
    summary: RunSummary, comparison: Comparison | None, text: str
) -> tuple[RunSummary, Comparison | None, Shown]:
    """The cases that the filter `text` keeps, and their verdicts, which were corrected for all cases of the run.

    Raises:
        UsageError: the filter cannot be read, keeps no case of the run, or names what neither the run nor the
            comparison has: a method that was removed has verdicts alone.
    """
    keep = flag_filter("--filter", text)
    own = [each.case for each in summary.run.cases]
    if not any(keep(case) for case in own):
        reason = keep.misnamed(own) or "it contradicts every case"
        raise UsageError(f"--filter '{text}' keeps no case of run {summary.run.run_id}: {reason}")
    verdicts = () if comparison is None else comparison.verdicts
    misnamed = keep.misnamed([*own, *(row.case for row in verdicts)])
    if misnamed:
        raise UsageError(f"--filter '{text}': {misnamed}")
    run = summary.run.model_copy(update={"cases": tuple(each for each in summary.run.cases if keep(each.case))})
    cases = {case_id: each for case_id, each in summary.cases.items() if keep(each.planned.case)}
    if comparison is not None:
        comparison = comparison.model_copy(update={"verdicts": tuple(row for row in verdicts if keep(row.case))})
    return summary.model_copy(update={"run": run, "cases": cases}), comparison, Shown(filter=text, measured=len(own))
