"""What `iroot bench run` says when it has measured: outcomes, the comparison, the report's path."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from harness.cli.common import console, print_json
from harness.errors import MeasurementError
from harness.paths import run_folder
from harness.records import Outcome
from harness.report.markdown import render_run
from harness.report.terminal import print_comparison
from harness.runner import compare_default
from harness.store import Store

if TYPE_CHECKING:
    from harness.records import Comparison, RunSummary

REPORT_NAME = "report.md"


def conclude(run_id: str, store: Path, *, compare: bool, as_json: bool) -> None:
    """Compare a finished run, write its report and print both.

    Raises:
        MeasurementError: no case was measured at all.
    """
    comparison = compare_default(store, run_id) if compare else None
    summary = Store(store).summary(run_id)
    report = run_folder(store, run_id) / REPORT_NAME
    report.write_text(render_run(summary, comparison), encoding="utf-8")
    if as_json:
        _print_for_programs(summary, comparison, report)
    else:
        _print_for_people(summary, comparison, report)
    if not any(case.outcome is Outcome.OK for case in summary.cases.values()):
        raise MeasurementError(f"no case of run {run_id} was measured; the report names the error of each: {report}")


def outcome_counts(summary: RunSummary) -> dict[str, int]:
    """Number of cases per outcome, in the order of `Outcome`, zeros left out."""
    counts = Counter(case.outcome for case in summary.cases.values())
    return {str(outcome): counts[outcome] for outcome in Outcome if counts[outcome]}


def _print_for_people(summary: RunSummary, comparison: Comparison | None, report: Path) -> None:
    out = console()
    if comparison is not None:
        print_comparison(comparison, out)
    counts = ", ".join(f"{count} {outcome}" for outcome, count in outcome_counts(summary).items())
    out.print(f"run {summary.run.run_id}: {counts}", markup=False, soft_wrap=True)
    for case_id, case in summary.cases.items():
        if case.outcome is not Outcome.OK and case.outcome != case.planned.expect:
            reason = (case.error or "").strip().splitlines()[-1:]
            out.print(": ".join([f"  {case.outcome}", case_id, *reason]), markup=False, soft_wrap=True)
    if comparison is None:
        out.print("nothing to compare with yet: no baseline of this machine and manifest, no earlier run")
    out.print(f"report: {report}", markup=False, soft_wrap=True)


def _print_for_programs(summary: RunSummary, comparison: Comparison | None, report: Path) -> None:
    run = summary.run
    print_json(
        {
            "run_id": run.run_id,
            "status": run.status,
            "manifest": run.manifest,
            "launches": run.launches,
            "outcomes": outcome_counts(summary),
            "timed_share": summary.timed_share,
            "comparison": comparison,
            "report": str(report),
        }
    )
