"""The runner and its launcher against real worker processes, with methods that go wrong on purpose."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.errors import UsageError
from harness.launcher import read_launch, shard_path
from harness.manifest import manifest_from_flags
from harness.paths import run_folder
from harness.records import Case, CaseResult, Mode, Outcome, PlannedCase, RunStatus, TimingPolicy
from harness.runner import RunRequest, run_sweep
from harness.store import Store

FAULTS = "harness.tests.fault_methods"
FAST = TimingPolicy(samples=5, min_sample_s=1e-4, warmup_s=0.0, input_sets=1)


class Recorder:
    """An observer that keeps what it is told."""

    def __init__(self) -> None:
        self.launches: list[tuple[int, int, int]] = []
        self.started: list[tuple[int, str]] = []
        self.finished: list[tuple[int, CaseResult]] = []

    def launch_started(self, launch: int, total_launches: int, cases: int, *, arm: str | None = None) -> None:
        self.launches.append((launch, total_launches, cases))

    def case_started(self, launch: int, case_id: str) -> None:
        self.started.append((launch, case_id))

    def case_finished(self, launch: int, result: CaseResult) -> None:
        self.finished.append((launch, result))

    def launch_finished(self, launch: int) -> None:
        pass


class Interrupter(Recorder):
    """Presses Ctrl-C when the second case of the first timed launch has finished."""

    def case_finished(self, launch: int, result: CaseResult) -> None:
        super().case_finished(launch, result)
        if launch == 1 and len([1 for number, _ in self.finished if number == 1]) == 2:
            raise KeyboardInterrupt


def planned(method: str, *, n: int = 8, timeout_s: float = 60.0) -> PlannedCase:
    case = Case(task="copy", method=method, precision="fp32", m=n, n=n, problem="gaussian", mode=Mode.EAGER)
    return PlannedCase(case=case, timing=FAST, seeds=2, timeout_s=timeout_s)


def request(tmp_path: Path, *cases: PlannedCase, launches: int = 1, resume: str | None = None) -> RunRequest:
    sweep = {"task": ["copy"], "method": ["device_copy"], "precision": ["fp32"], "n": [8], "problem": ["gaussian"]}
    manifest = manifest_from_flags(sweep)
    return RunRequest(
        manifest=manifest,
        cases=cases,
        launches=launches,
        device="cpu",
        store=tmp_path / "store.duckdb",
        resume=resume,
        imports=(FAULTS,),
    )


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """One run with every fault between two good cases."""
    folder = tmp_path_factory.mktemp("faulty")
    names = ("good", "raises", "nan", "out_of_memory", "dies", "unsupported", "wrong_shape")
    cases = [planned(f"fault_{name}") for name in names]
    cases += [planned("fault_hangs", timeout_s=1.0), planned("device_copy", n=16)]
    run = run_sweep(request(folder, *cases), observer=Recorder())
    return folder, run.run_id


def test_each_fault_is_its_own_outcome_and_all_other_cases_go_on(faulty: tuple[Path, str]) -> None:
    folder, run_id = faulty
    summary = Store(folder / "store.duckdb").summary(run_id)
    outcomes = {case.planned.case.method: case.outcome for case in summary.cases.values()}
    assert outcomes == {
        "fault_good": Outcome.OK,
        "fault_raises": Outcome.FAILED,
        "fault_nan": Outcome.NONFINITE,
        "fault_out_of_memory": Outcome.OOM,
        "fault_dies": Outcome.FAILED,
        "fault_unsupported": Outcome.UNSUPPORTED,
        "fault_wrong_shape": Outcome.FAILED,
        "fault_hangs": Outcome.TIMEOUT,
        "device_copy": Outcome.OK,
    }
    assert summary.run.status is RunStatus.COMPLETE


def test_the_error_is_kept(faulty: tuple[Path, str]) -> None:
    folder, run_id = faulty
    summary = Store(folder / "store.duckdb").summary(run_id)
    errors = {case.planned.case.method: case.error or "" for case in summary.cases.values()}
    assert "planted failure" in errors["fault_raises"]
    assert "planted refusal" in errors["fault_unsupported"]
    assert "ended with exit code 9 during this case" in errors["fault_dies"]
    assert "exceeded the limit of 1 s per case" in errors["fault_hangs"]


def test_a_case_that_failed_in_the_quality_pass_is_not_timed(faulty: tuple[Path, str]) -> None:
    folder, run_id = faulty
    record = read_launch(run_id, 1, shard_path(run_folder(folder / "store.duckdb", run_id), 1))
    assert {result.case_id.split("/")[1] for result in record.results} == {"fault_good", "device_copy"}
    assert all(len(result.samples_s) == FAST.samples for result in record.results)


def test_ctrl_c_keeps_finished_cases_and_resume_measures_the_rest(tmp_path: Path) -> None:
    cases = [planned("fault_good", n=n) for n in (4, 8, 12, 16)]
    store = Store(tmp_path / "store.duckdb")
    with pytest.raises(KeyboardInterrupt):
        run_sweep(request(tmp_path, *cases, launches=2), observer=Interrupter())
    (run,) = store.runs()
    assert run.status is RunStatus.INTERRUPTED
    measured = store.measured(run.run_id)
    assert len([1 for launch, _ in measured if launch == 1]) >= 2

    recorder = Recorder()
    resumed = run_sweep(request(tmp_path, *cases, launches=2, resume=run.run_id), observer=recorder)
    assert resumed.run_id == run.run_id
    assert resumed.status is RunStatus.COMPLETE
    again = {(launch, result.case_id) for launch, result in recorder.finished}
    assert not again & measured
    assert len(store.measured(run.run_id)) == 3 * len(cases)
    summary = store.summary(run.run_id)
    assert all(set(case.launch_medians_s) == {1, 2} for case in summary.cases.values())


def test_a_complete_run_cannot_be_resumed(faulty: tuple[Path, str]) -> None:
    folder, run_id = faulty
    with pytest.raises(UsageError, match="is complete; there is nothing to resume"):
        run_sweep(request(folder, planned("fault_good"), resume=run_id), observer=Recorder())


def test_a_shard_cut_short_by_a_crash_loses_its_last_line_only(faulty: tuple[Path, str], tmp_path: Path) -> None:
    folder, run_id = faulty
    shard = shard_path(run_folder(folder / "store.duckdb", run_id), 1)
    whole = read_launch(run_id, 1, shard)
    cut = tmp_path / "cut.jsonl"
    text = shard.read_text()
    last = text.rstrip("\n").rfind("\n")
    cut.write_text(text[: last + 20])
    assert read_launch(run_id, 1, cut).results == whole.results


def test_workers_import_this_library_whatever_the_current_folder_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "iroot").mkdir()
    (tmp_path / "iroot" / "__init__.py").write_text("raise ImportError('shadowed')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("harness.runner.project_root", lambda: Path(__file__).resolve().parents[2])
    run = run_sweep(request(tmp_path, planned("fault_good")), observer=Recorder())
    assert run.status is RunStatus.COMPLETE
