"""Runs to the content of a baseline, and that content to the one summary comparisons read."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from datetime import date
from typing import TypeVar

from harness.baseline_files import Amendment, BaselineCase, BaselineContent, BaselineMetadata
from harness.records import CaseSummary, LaunchedKernel, Outcome, PlannedCase, Quality, RunSummary

_Figures = TypeVar("_Figures")


def content_of(runs: Sequence[RunSummary], *, reason: str, revision: str, today: date) -> BaselineContent:
    """Merge runs that `baseline_checks.refusals` has nothing against, oldest first."""
    newest = runs[-1].run
    planned = {each.case.case_id: each for each in newest.cases}
    medians = {case_id: _medians(case_id, runs) for case_id in planned}
    metadata = BaselineMetadata(
        machine_class=newest.machine.machine_class,
        manifest=newest.manifest,
        promoted_on=today.isoformat(),
        reason=reason.strip(),
        revision=revision,
        timed_share=_median([each.timed_share for each in runs]),
        startup_s=_median([each.startup_s for each in runs]),
        launch_wall_s=_median([each.launch_wall_s for each in runs]),
        base_runs=tuple(each.run.run_id for each in runs),
        runs=tuple(each.run.model_copy(update={"cases": ()}) for each in runs),
        launch_orders={each.run.run_id: each.launch_orders for each in runs if each.launch_orders},
        cases=tuple(_case(each, runs, medians[case_id]) for case_id, each in planned.items()),
    )
    return BaselineContent(
        metadata=metadata,
        medians_s={case_id: found for case_id, found in medians.items() if found},
        quality={case_id: found for case_id in planned if (found := _quality(case_id, runs))},
    )


def _medians(case_id: str, runs: Sequence[RunSummary]) -> dict[tuple[str, int], float]:
    return {
        (each.run.run_id, launch): median_s
        for each in runs
        for launch, median_s in each.cases[case_id].launch_medians_s.items()
    }


def _quality(case_id: str, runs: Sequence[RunSummary]) -> tuple[Quality, ...]:
    """The newest run's figures: quality is deterministic up to the order of additions, so runs are not mixed."""
    return next((each.cases[case_id].quality for each in reversed(runs) if each.cases[case_id].quality), ())


def amended(existing: BaselineContent, cells: BaselineContent, *, filter: str) -> BaselineContent:
    """The existing baseline with the cases of `cells` replaced or added, every other case as it was.

    Args:
        filter: which cases were asked for, kept in the amendment.
    """
    replaced, before = cells.case_ids, existing.metadata
    fresh = {case.planned.case.case_id: case for case in cells.metadata.cases}
    cases = [fresh.pop(case.planned.case.case_id, case) for case in before.cases] + list(fresh.values())
    known = {run.run_id: run for run in (*before.runs, *cells.metadata.runs)}
    later = sorted({run_id for case in cases for run_id in case.runs} - set(before.base_runs))
    amendment = Amendment(
        promoted_on=cells.metadata.promoted_on,
        reason=cells.metadata.reason,
        revision=cells.metadata.revision,
        filter=filter,
        runs=cells.metadata.base_runs,
    )
    kept = (*before.base_runs, *later)
    orders = {**before.launch_orders, **cells.metadata.launch_orders}
    metadata = before.model_copy(
        update={
            "amendments": (*before.amendments, amendment),
            "runs": tuple(known[run_id] for run_id in kept),
            "launch_orders": {run_id: orders[run_id] for run_id in kept if run_id in orders},
            "cases": tuple(cases),
        }
    )
    return BaselineContent(
        metadata=metadata,
        medians_s={**_without(existing.medians_s, replaced), **cells.medians_s},
        quality={**_without(existing.quality, replaced), **cells.quality},
    )


def _without(figures: Mapping[str, _Figures], case_ids: frozenset[str]) -> dict[str, _Figures]:
    return {case_id: found for case_id, found in figures.items() if case_id not in case_ids}


def _case(planned: PlannedCase, runs: Sequence[RunSummary], medians: Mapping[tuple[str, int], float]) -> BaselineCase:
    found = [each.cases[planned.case.case_id] for each in runs]
    unlike_ok = [case for case in found if case.outcome is not Outcome.OK]
    deciding = unlike_ok[0] if unlike_ok else found[-1]
    return BaselineCase(
        planned=planned,
        outcome=deciding.outcome,
        error=deciding.error.splitlines()[0] if deciding.error else None,
        peak_bytes=max((case.peak_bytes for case in found if case.peak_bytes is not None), default=None),
        first_call_s=_median([case.first_call_s for case in found]),
        first_calls_s=tuple(each for case in found for each in case.first_calls_s),
        kernels=_kernels(found),
        run_spread=run_spread(medians),
        runs=tuple(each.run.run_id for each in runs),
    )


def _kernels(found: Sequence[CaseSummary]) -> tuple[LaunchedKernel, ...] | None:
    """Every kernel that a run saw; None where no run looked."""
    seen = [case.kernels for case in found if case.kernels is not None]
    return tuple(dict.fromkeys(kernel for kernels in seen for kernel in kernels)) if seen else None


def run_spread(medians_s: Mapping[tuple[str, int], float]) -> float | None:
    """Standard deviation over runs of the mean log launch median; None for fewer than two runs.

    Args:
        medians_s: (run id, launch) -> seconds.
    """
    by_run: dict[str, list[float]] = {}
    for (run_id, _), median_s in sorted(medians_s.items()):
        by_run.setdefault(run_id, []).append(math.log(median_s))
    means = [statistics.fmean(logs) for logs in by_run.values()]
    return statistics.stdev(means) if len(means) >= 2 else None


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def summary_of(content: BaselineContent) -> RunSummary:
    """The content as a run of all launches, those of later runs numbered on; its record is the newest whole run's."""
    metadata = content.metadata
    newest = metadata.runs[len(metadata.base_runs) - 1]
    offset, launches = {}, 0
    for run in metadata.runs:
        offset[run.run_id] = launches
        launches += run.launches
    cases = {}
    for case in metadata.cases:
        case_id = case.planned.case.case_id
        medians = content.medians_s.get(case_id, {})
        cases[case_id] = CaseSummary(
            planned=case.planned,
            outcome=case.outcome,
            error=case.error,
            launch_medians_s={offset[run_id] + launch: median_s for (run_id, launch), median_s in medians.items()},
            quality=content.quality.get(case_id, ()),
            peak_bytes=case.peak_bytes,
            first_call_s=case.first_call_s,
            first_calls_s=case.first_calls_s,
            kernels=case.kernels,
            run_spread=case.run_spread,
            runs=len(case.runs) if len(case.runs) != len(metadata.runs) else None,
        )
    run = newest.model_copy(
        update={
            "launches": launches,
            "cases": tuple(case.planned for case in metadata.cases),
            "source": newest.source.model_copy(update={"revision": metadata.revision, "dirty": False}),
        }
    )
    return RunSummary(
        run=run,
        cases=cases,
        runs_merged=tuple(each.run_id for each in metadata.runs),
        launch_orders={
            offset[run_id] + launch: order
            for run_id, orders in metadata.launch_orders.items()
            for launch, order in orders.items()
        },
        timed_share=metadata.timed_share,
        startup_s=metadata.startup_s,
        launch_wall_s=metadata.launch_wall_s,
    )
