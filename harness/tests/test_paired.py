"""Interleaved arms with real worker processes: each measures its own library, in the order asked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.paired import PairedRequest, run_paired
from harness.records import RunStatus
from harness.runner import RunRequest
from harness.store import Store
from harness.sweep import plan
from harness.tests.in_process import PLANTED
from harness.tests.test_gate_cli import CASE_ID, library, request
from harness.tests.test_runner import Recorder


@pytest.mark.usefixtures("planted")
def test_each_arm_measures_its_own_library_and_b_can_come_first(tmp_path: Path) -> None:
    """One pair, B first, timed only; B's library takes ten times as long."""
    gate = request(tmp_path, candidate=str(library(tmp_path / "slow", "10.0")))
    assert gate.base is not None
    cases = tuple(each for each in plan(gate.manifest, device_kind="cpu") if not each.control)
    base = RunRequest(manifest=gate.manifest, cases=(), launches=1, device="cpu", store=gate.store, imports=(PLANTED,))
    recorder = Recorder()
    runs = run_paired(
        PairedRequest(
            base=base, a=gate.base, b=gate.candidate, cases_a=cases, cases_b=cases, first="B", launch_zero="none"
        ),
        observer=recorder,
    )
    assert [launch for launch, _, _ in recorder.launches] == [1, 1]
    b_first, a_second = (result.samples_s for _, result in recorder.finished)
    assert min(b_first) > 2 * min(a_second)
    store = Store(gate.store)
    assert (runs.a.status, runs.b.status) == (RunStatus.COMPLETE, RunStatus.COMPLETE)
    assert (runs.a.paired_with, runs.b.paired_with) == (runs.b.run_id, runs.a.run_id)
    medians = [store.summary(run.run_id).cases[CASE_ID].launch_medians_s[1] for run in (runs.b, runs.a)]
    assert medians[0] == pytest.approx(sorted(b_first)[len(b_first) // 2], rel=1e-9)
    assert medians[0] > 2 * medians[1]
