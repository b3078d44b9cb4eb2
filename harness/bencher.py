"""A run in Bencher Metric Format: JSON of benchmark -> measure -> value and bounds.

Bencher's built-in measure `latency` is in nanoseconds. Only cases that ended `ok` have metrics.
"""

from __future__ import annotations

import json
import math
import statistics

from harness import stats
from harness.records import CaseSummary, Outcome, RunSummary

CONFIDENCE = 0.95
_NS = 1e9

Metric = dict[str, float]


def bencher_json(summary: RunSummary) -> bytes:
    """The document, cases in the run's order.

    latency         geometric mean over launches of the launch medians, ns; bounds: its 95 % t-interval, which is left
                    out with fewer launches than a verdict needs
    relative-error  median over problem seeds; upper bound: the largest
    peak-memory     bytes
    """
    metrics = {
        case_id: measures
        for case_id, case in summary.cases.items()
        if case.outcome is Outcome.OK and (measures := _measures(case))
    }
    return (json.dumps(metrics, indent=1, allow_nan=False) + "\n").encode()


def _measures(case: CaseSummary) -> dict[str, Metric]:
    measures = {}
    if case.launch_medians_s:
        measures["latency"] = _latency(list(case.launch_medians_s.values()))
    errors = [
        each.relative_error
        for each in case.quality
        if each.relative_error is not None and math.isfinite(each.relative_error)
    ]
    if errors:
        measures["relative-error"] = {"value": statistics.median(errors), "upper_value": max(errors)}
    if case.peak_bytes is not None:
        measures["peak-memory"] = {"value": float(case.peak_bytes)}
    return measures


def _latency(medians_s: list[float]) -> Metric:
    logs = [math.log(each) for each in medians_s]
    centre, launches = statistics.fmean(logs), len(logs)
    metric = {"value": math.exp(centre) * _NS}
    if launches >= stats.MIN_LAUNCHES:
        quantile = float(stats.t_quantile((1 + CONFIDENCE) / 2, launches - 1))
        half = quantile * statistics.stdev(logs) / math.sqrt(launches)
        metric |= {"lower_value": math.exp(centre - half) * _NS, "upper_value": math.exp(centre + half) * _NS}
    return metric
