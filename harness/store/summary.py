"""A run reduced to what comparison, baselines and reports read. Medians are taken by the database."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

from harness.launch_orders import measured_orders
from harness.records import CaseSummary, LaunchedKernel, Outcome, PlannedCase, Quality, RunRecord, RunSummary
from harness.store.database import execute
from harness.store.queries import select_quality
from harness.store.rows import KERNELS

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

_MEDIANS = """
    select case_id, launch, exp(median(ln(seconds)))
    from sample join outcome using (case_key, launch) join case_ using (case_key)
    where run_id = ? and launch >= 1 and outcome = 'ok'
    group by case_id, launch order by case_id, launch
"""

_OUTCOMES = """
    select case_id, launch, outcome, error, peak_bytes, first_call_s, kernels
    from outcome join case_ using (case_key) where run_id = ? order by position, launch
"""

_PROCESSES = """
    select launch, case_id, process_id from outcome join case_ using (case_key) where run_id = ? and launch >= 1
"""

_SHARE = """
    select sum(timed_s) / nullif((select sum(wall_s) from launch where run_id = $run and launch >= 1), 0)
    from outcome join case_ using (case_key) where run_id = $run and launch >= 1
"""


@dataclass(frozen=True, kw_only=True)
class _LaunchOutcome:
    launch: int
    outcome: Outcome
    error: str | None
    peak_bytes: int | None
    first_call_s: float | None
    kernels: str | None
    """As stored."""


def summarize(connection: DuckDBPyConnection, run: RunRecord) -> RunSummary:
    """Reduce a run. A case without any outcome, in an unfinished run, is left out."""
    medians: dict[str, dict[int, float]] = defaultdict(dict)
    for case_id, launch, value in execute(connection, _MEDIANS, [run.run_id]):
        medians[case_id][launch] = value
    outcomes: dict[str, list[_LaunchOutcome]] = defaultdict(list)
    for case_id, launch, outcome, error, peak, first, kernels in execute(connection, _OUTCOMES, [run.run_id]):
        outcomes[case_id].append(
            _LaunchOutcome(
                launch=launch,
                outcome=Outcome(outcome),
                error=error,
                peak_bytes=peak,
                first_call_s=first,
                kernels=kernels,
            )
        )
    quality: dict[str, tuple[Quality, ...]] = {}
    for (_, case_id), figures in select_quality(connection, run.run_id).items():
        quality.setdefault(case_id, tuple(figures))
    planned = {each.case.case_id: each for each in run.cases}
    cases = {
        case_id: _case(each, outcomes[case_id], medians[case_id], quality.get(case_id, ()))
        for case_id, each in planned.items()
        if case_id in outcomes
    }
    return RunSummary(
        run=run,
        cases=cases,
        launch_orders=_orders(connection, run),
        timed_share=_figure(connection, _SHARE, run.run_id),
        startup_s=_figure(connection, "select median(startup_s) from process where run_id = $run", run.run_id),
        launch_wall_s=_figure(
            connection, "select median(wall_s) from launch where run_id = $run and launch >= 1", run.run_id
        ),
    )


def _orders(connection: DuckDBPyConnection, run: RunRecord) -> dict[int, str]:
    measured: dict[int, dict[str, int]] = defaultdict(dict)
    for launch, case_id, process_id in execute(connection, _PROCESSES, [run.run_id]):
        measured[launch][case_id] = process_id
    return measured_orders(run, measured)


def _figure(connection: DuckDBPyConnection, query: str, run_id: str) -> float | None:
    ((value,),) = execute(connection, query, {"run": run_id})
    return None if value is None else float(value)


def _case(
    planned: PlannedCase,
    launches: Sequence[_LaunchOutcome],
    medians: dict[int, float],
    quality: tuple[Quality, ...],
) -> CaseSummary:
    outcome, error = _merged(launches)
    timed = [each for each in launches if each.launch >= 1] or launches
    first_calls = [each.first_call_s for each in timed if each.first_call_s is not None]
    peaks = [each.peak_bytes for each in launches if each.peak_bytes is not None]
    return CaseSummary(
        planned=planned,
        outcome=outcome,
        error=error,
        launch_medians_s=medians,
        quality=quality,
        peak_bytes=max(peaks, default=None),
        first_call_s=median(first_calls) if first_calls else None,
        first_calls_s=tuple(first_calls) if any(each.launch >= 1 for each in launches) else (),
        kernels=_kernels(launches),
        throttled=any(each.outcome is Outcome.THROTTLED for each in launches),
    )


def _kernels(launches: Sequence[_LaunchOutcome]) -> tuple[LaunchedKernel, ...] | None:
    """Every kernel that a launch saw; where autotuning chose otherwise in another launch, both configurations."""
    texts = dict.fromkeys(each.kernels for each in launches if each.kernels is not None)
    if not texts:
        return None
    return tuple(dict.fromkeys(kernel for text in texts for kernel in KERNELS.validate_json(text)))


def _merged(launches: Sequence[_LaunchOutcome]) -> tuple[Outcome, str | None]:
    """One outcome for all launches of a case.

    The first failure decides, the quality pass (launch 0) being first of all. A throttled launch is no failure: it says
    nothing on the code, so it decides only where no launch could be timed.
    """
    failures = [each for each in launches if each.outcome not in (Outcome.OK, Outcome.THROTTLED)]
    if failures:
        return failures[0].outcome, failures[0].error
    throttled = [each for each in launches if each.outcome is Outcome.THROTTLED]
    timed = any(each.outcome is Outcome.OK and each.launch >= 1 for each in launches)
    if throttled and not timed:
        return Outcome.THROTTLED, throttled[0].error
    return Outcome.OK, None
