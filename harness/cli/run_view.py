"""What `iroot bench run` says when it has measured: outcomes, the comparison, the report's path."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from harness.cli.common import console, print_json
from harness.errors import BaselineError, MeasurementError
from harness.records import Outcome, RunSummary
from harness.reference import Attempt, compare_or_reason
from harness.report.markdown import write_report
from harness.report.terminal import print_comparison, print_run
from harness.store import Store


def conclude(run_id: str, store: Path, *, compare: bool, as_json: bool) -> None:
    """Compare a measured run, keep the comparison, write the report and print all three.

    What the comparison says, or that none can be made, is no error here: the run is measured and stored.

    Raises:
        MeasurementError: no case at all was measured.
    """
    opened = Store(store)
    summary = opened.summary(run_id)
    attempt = _compared(opened, run_id) if compare else Attempt(reason="not asked for (--no-compare)")
    if attempt.comparison is not None:
        opened.save_comparison(attempt.comparison)
    report = write_report(summary, attempt.comparison, store=store, no_comparison=attempt.reason)
    if as_json:
        print_json(_result(summary, attempt, report))
    else:
        _print_for_people(summary, attempt, report)
    swept = [case for case in summary.cases.values() if not case.planned.control]
    if not any(case.outcome is Outcome.OK or case.outcome.value == case.planned.expect for case in swept):
        raise MeasurementError(f"no case of run {run_id} was measured; the report has the error of each: {report}")


def _compared(store: Store, run_id: str) -> Attempt:
    try:
        return compare_or_reason(store, run_id)
    except BaselineError as error:
        return Attempt(reason=str(error))


def _print_for_people(summary: RunSummary, attempt: Attempt, report: Path) -> None:
    out = console()
    print_run(summary, out)
    out.print()
    if attempt.comparison is not None:
        print_comparison(attempt.comparison, out)
    else:
        reason = attempt.reason or "neither an official baseline of this machine and manifest nor an earlier run"
        out.print(f"no comparison: {reason}", markup=False, soft_wrap=True)
    out.print(f"report: {report}", markup=False, soft_wrap=True)


def _result(summary: RunSummary, attempt: Attempt, report: Path) -> dict[str, object]:
    """The same for programs."""
    run = summary.run
    counts = Counter(case.outcome for case in summary.cases.values())
    return {
        "run_id": run.run_id,
        "status": run.status,
        "manifest": run.manifest,
        "launches": run.launches,
        "outcomes": {str(outcome): counts[outcome] for outcome in Outcome if counts[outcome]},
        "timed_share": summary.timed_share,
        "comparison": attempt.comparison,
        "no_comparison": attempt.reason,
        "report": str(report),
    }
