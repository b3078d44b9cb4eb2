"""Bencher Metric Format: values by hand, bounds by scipy, failed cases left out, the file in every export."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import t

from harness.bencher import bencher_json
from harness.checksums import check_sums
from harness.records import Outcome, RunStatus
from harness.store import Store
from harness.tests import factories as make
from harness.transfer import BENCHER, export_run


def test_measures_of_a_run() -> None:
    run = make.make_run(launches=5)
    first, second, failed = (each.case.case_id for each in run.cases[:3])
    summary = make.make_summary(run, medians_s={second: 2e-6}, sigma=0.01, seed=3, outcomes={failed: Outcome.OOM})
    metrics = json.loads(bencher_json(summary))
    assert list(metrics) == [each.case.case_id for each in run.cases if each.case.case_id != failed]
    logs = np.log(list(summary.cases[second].launch_medians_s.values()))
    low, high = t.interval(0.95, 4, logs.mean(), logs.std(ddof=1) / np.sqrt(5))
    latency = metrics[second]["latency"]
    assert latency["value"] == pytest.approx(np.exp(logs.mean()) * 1e9)
    assert latency["value"] == pytest.approx(2000, rel=0.02)
    assert (latency["lower_value"], latency["upper_value"]) == pytest.approx((np.exp(low) * 1e9, np.exp(high) * 1e9))
    errors = [each.relative_error or 0.0 for each in summary.cases[first].quality]
    assert metrics[first]["relative-error"] == {"value": pytest.approx(np.median(errors)), "upper_value": max(errors)}
    assert metrics[first]["peak-memory"] == {"value": 2.0**20}


def test_no_bounds_from_two_launches() -> None:
    metrics = json.loads(bencher_json(make.make_summary(make.make_run(launches=2))))
    assert {tuple(case["latency"]) for case in metrics.values()} == {("value",)}


def test_every_export_holds_it(tmp_path: Path) -> None:
    store = Store(tmp_path / "s.duckdb")
    run = make.make_run(status=RunStatus.COMPLETE)
    store.import_run(run, make.make_launches(run))
    folder = export_run(store, run.run_id, tmp_path / "out")
    assert (folder / BENCHER).read_bytes() == bencher_json(store.summary(run.run_id))
    assert check_sums(folder) == ()
