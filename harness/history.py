"""Cases over runs: each as ratio to the control kernels of the same run, with the points where it changed.

Times of different days carry the machine's own changes. A control kernel, code that the project does not own, measured
in the same launches carries them too, so the ratio of the two is followed: the geometric mean of a case's launch
medians over that of the controls executed in the same mode, each weighted by 1 over the variance between its launches,
as in a comparison (`harness.stats.pool_controls`): one that says little must not drown the cases. A case without such a
control is followed in seconds.

Change points are found by PELT (Killick, Fearnhead, Eckley 2012; `ruptures`), which minimises over segmentations of the
log values y

    sum over segments sum (y - segment mean)^2 + PENALTY sigma^2 log(n) (number of changes),

sigma from the median absolute difference of neighbours, which a few steps do not move. They are advisory: a hint where
to look, no verdict. On series without a change, 6 to 40 runs spread by 0.3 to 1.5 %, at most 4 % of series show one; a
step of 5 % in the middle is found at its place in 95-100 %, one of 3 % in 67 % (6 runs) to 99 % (40 runs), at a spread
of 0.6 % (simulated, 300-400 series each, 2026-11).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from harness.records import CaseSummary, Outcome, PlannedCase, RunRecord, RunSummary

PENALTY = 8.0
SIGMA_FLOOR = 0.002
"""Least spread between runs assumed: launches of graph replays spread by 0.2 % at best (one H100, 2026-11)."""

MIN_CHANGE = 0.01
"""Smaller steps are not reported: two units of one GPU differ by more."""

MIN_SEGMENT = 2
"""Runs on either side of a change: the newest run alone cannot be told from an outlier."""

_MAD_TO_SIGMA = 1.4826 / math.sqrt(2)
"""Median absolute difference of neighbours to standard deviation, for normal values."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Point:
    """One run's figure of a case: `value` is the ratio to the controls, or seconds where the series has none."""

    run: RunRecord
    value: float
    time_s: float


@dataclass(frozen=True, kw_only=True)
class Change:
    """A step between two runs.

    Attributes:
        first: the first run after it.
        last_before: the run before that one.
        ratio: level after / level before, below 1 is faster; levels are geometric means up to the next change.
        software: what differs between the two runs' software.
    """

    first: RunRecord
    last_before: RunRecord
    ratio: float
    software: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Series:
    """One case over runs, oldest first. `controls` is empty where values are seconds."""

    case_id: str
    controls: tuple[str, ...]
    points: tuple[Point, ...]
    changes: tuple[Change, ...]


def histories(summaries: Sequence[RunSummary], wanted: Callable[[PlannedCase], bool]) -> tuple[Series, ...]:
    """Every wanted case that was timed in at least one run, in the newest run's order, then the older ones'.

    Args:
        summaries: runs of one class of machine, in any order.
    """
    ordered = sorted(summaries, key=lambda each: (each.run.created_at, each.run.run_id))
    known = {
        case_id: case.planned for each in reversed(ordered) for case_id, case in each.cases.items() if _timed(case)
    }
    return tuple(_series(case_id, ordered) for case_id, planned in known.items() if wanted(planned))


def change_points(values: npt.ArrayLike) -> tuple[int, ...]:
    """Positions in log values at which a new level begins; empty for fewer than 2 MIN_SEGMENT values."""
    logs = np.asarray(values, dtype=np.float64)
    if len(logs) < 2 * MIN_SEGMENT:
        return ()
    import ruptures

    spread = _MAD_TO_SIGMA * float(np.median(np.abs(np.diff(logs))))
    penalty = PENALTY * max(spread, SIGMA_FLOOR) ** 2 * math.log(len(logs))
    search = ruptures.Pelt(model="l2", min_size=MIN_SEGMENT, jump=1).fit(logs[:, np.newaxis])
    found = [int(position) for position in search.predict(pen=penalty)[:-1]]
    while found:
        steps = np.abs(np.diff(_levels(logs, found)))
        smallest = int(steps.argmin())
        if steps[smallest] >= math.log1p(MIN_CHANGE):
            break
        del found[smallest]
    return tuple(found)


def _levels(logs: Floats, changes: Sequence[int]) -> list[float]:
    borders = [0, *changes, len(logs)]
    return [float(logs[start:end].mean()) for start, end in pairwise(borders)]


def _series(case_id: str, ordered: Sequence[RunSummary]) -> Series:
    behind = [each for each in ordered if case_id in each.cases and _timed(each.cases[case_id])]
    controls = _common_controls(case_id, behind)
    weights = _weights(controls, behind)
    points = tuple(_point(each, case_id, weights) for each in behind)
    logs = np.log([point.value for point in points])
    positions = change_points(logs)
    levels = _levels(logs, positions)
    changes = tuple(
        Change(
            first=points[position].run,
            last_before=points[position - 1].run,
            ratio=math.exp(after - before),
            software=points[position - 1].run.software.differences(points[position].run.software),
        )
        for position, (before, after) in zip(positions, pairwise(levels), strict=True)
    )
    return Series(case_id=case_id, controls=controls, points=points, changes=changes)


def _common_controls(case_id: str, behind: Sequence[RunSummary]) -> tuple[str, ...]:
    """Controls of the case's mode that every run timed; a control is compared with nothing."""
    newest = behind[-1]
    planned = newest.cases[case_id].planned
    if planned.control:
        return ()
    return tuple(
        control
        for control in newest.controls
        if newest.cases[control].planned.case.mode is planned.case.mode
        and all(control in each.cases and _timed(each.cases[control]) for each in behind)
    )


def _weights(controls: Sequence[str], behind: Sequence[RunSummary]) -> dict[str, float]:
    """1 over the mean variance of a control's log launch medians in a run; equal where one is unknown or zero."""
    variances = {}
    for control in controls:
        medians = [list(each.cases[control].launch_medians_s.values()) for each in behind]
        known = [float(np.var(np.log(of_run), ddof=1)) for of_run in medians if len(of_run) > 1]
        variances[control] = statistics.fmean(known) if known else 0.0
    if not all(variances.values()):
        return dict.fromkeys(controls, 1.0)
    return {control: 1.0 / variance for control, variance in variances.items()}


def _point(summary: RunSummary, case_id: str, weights: dict[str, float]) -> Point:
    time_s = _typical_s(summary.cases[case_id])
    if not weights:
        return Point(run=summary.run, value=time_s, time_s=time_s)
    controls_s = [_typical_s(summary.cases[control]) for control in weights]
    machine = math.exp(statistics.fmean(map(math.log, controls_s), weights.values()))
    return Point(run=summary.run, value=time_s / machine, time_s=time_s)


def _timed(case: CaseSummary) -> bool:
    return case.outcome is Outcome.OK and bool(case.launch_medians_s)


def _typical_s(case: CaseSummary) -> float:
    return statistics.geometric_mean(case.launch_medians_s.values())
