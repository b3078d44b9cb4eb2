"""Worker processes, as the launcher runs them, on methods that go right and wrong."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from decimal import Decimal, InvalidOperation
from pathlib import Path

import psutil
import pytest
import torch

from harness.records import (
    Case,
    CaseResult,
    CaseStarted,
    LaunchFinished,
    LaunchStarted,
    Mode,
    Outcome,
    PlannedCase,
    TimingPolicy,
    WorkPlan,
    read_events,
)
from harness.timing import NonfiniteResultError
from harness.worker import ThrottledError, describe, outcome_of
from iroot.errors import UnsupportedError

FAULTS = Path(__file__).parent
FAST = TimingPolicy(samples=5, min_sample_s=1e-4, warmup_s=1e-4, input_sets=2)


def planned(method: str, *, task: str = "copy", mode: Mode = Mode.EAGER, precision: str = "fp32") -> PlannedCase:
    rooted = task == "inverse_root"
    case = Case(task=task, method=method, precision=precision, p=2 if rooted else None, m=16, n=16,
                k=16 if task == "gemm" else None, problem="wishart" if rooted else "gaussian", mode=mode)  # fmt: skip
    return PlannedCase(case=case, timing=FAST, seeds=2)


def start(folder: Path, cases: Sequence[PlannedCase], *, launch: int) -> subprocess.Popen[bytes]:
    plan = WorkPlan(run_id="r", launch=launch, device="cpu", threads=1, cases=tuple(cases),
                    shard=str(folder / "shard.jsonl"))  # fmt: skip
    (folder / "plan.json").write_text(plan.model_dump_json())
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join([str(FAULTS), os.environ.get("PYTHONPATH", "")]))
    environment["IROOT_SPAWNED_AT"] = repr(time.time())
    command = [sys.executable, "-m", "harness.worker", "--import", "fault_methods"]
    with (folder / "plan.txt").open("w+") as plan_path:
        plan_path.write(f"{folder / 'plan.json'}\n")
        plan_path.seek(0)
        return subprocess.Popen(command, env=environment, cwd=FAULTS.parent.parent, stdin=plan_path)


def results(folder: Path) -> dict[str, CaseResult]:
    with (folder / "shard.jsonl").open() as file:
        events = read_events(file)
    return {event.case_id.split("/")[1]: event for event in events if isinstance(event, CaseResult)}


@pytest.fixture(scope="module")
def quality_pass(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("quality")
    faults = ("good", "raises", "nan", "out_of_memory", "unsupported", "wrong_shape")
    cases = [
        *(planned(f"fault_{name}") for name in faults),
        planned("matmul", task="gemm"),
        planned("eigh", task="inverse_root"),
        planned("eigh", task="inverse_root", precision="bf16_emulated").model_copy(update={"seeds": 1}),
        planned("no_such_method"),
    ]
    assert start(folder, cases, launch=0).wait(60) == 0
    return folder


@pytest.fixture(scope="module")
def timed_launch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("timed")
    cases = [planned(f"fault_{name}") for name in ("raises", "alias", "stale", "nan", "good")]
    cases += [planned("matmul", task="gemm", mode=Mode.GRAPH)]
    assert start(folder, cases, launch=1).wait(60) == 0
    return folder


def test_quality_pass_judges_every_seed_and_times_nothing(quality_pass: Path) -> None:
    good = results(quality_pass)["fault_good"]
    assert good.outcome is Outcome.OK
    assert [quality.seed for quality in good.quality] == [0, 1]
    assert [quality.relative_error for quality in good.quality] == [0.0, 0.0]
    assert (good.samples_s, good.calls_per_sample, good.timed_s) == ((), None, 0.0)
    product = results(quality_pass)["matmul"].quality[0]
    assert product.relative_error is not None
    assert 0 < product.relative_error < 1e-6


@pytest.mark.parametrize(
    ("method", "outcome", "error"),
    [
        ("fault_raises", Outcome.FAILED, "RuntimeError: planted failure (fault_methods.py:"),
        ("fault_nan", Outcome.NONFINITE, "2 of 2 seeds gave NaN or infinity, seed 0 in 1 entries"),
        ("fault_out_of_memory", Outcome.OOM, "memory"),
        ("fault_unsupported", Outcome.UNSUPPORTED, "planted refusal"),
        ("fault_wrong_shape", Outcome.FAILED, "must return (16, 16) torch.float32 on cpu, got (15, 16)"),
        ("eigh", Outcome.UNSUPPORTED, "does not serve precision 'bf16_emulated'"),
        ("no_such_method", Outcome.FAILED, "unknown method of copy 'no_such_method'"),
    ],
)
def test_what_goes_wrong_becomes_the_outcome(quality_pass: Path, method: str, outcome: Outcome, error: str) -> None:
    result = results(quality_pass)[method]
    assert result.outcome is outcome
    assert result.error is not None
    assert error in result.error
    assert result.samples_s == ()


def test_events_come_in_order_and_name_the_process(quality_pass: Path) -> None:
    with (quality_pass / "shard.jsonl").open() as file:
        events = read_events(file)
    assert isinstance(events[0], LaunchStarted)
    assert isinstance(events[-1], LaunchFinished)
    assert 0 < events[0].startup_s < 60
    for started, finished in zip(events[1:-1:2], events[2:-1:2], strict=True):
        assert isinstance(started, CaseStarted)
        assert isinstance(finished, CaseResult)
        assert started.case_id == finished.case_id
        assert finished.process_id == events[0].process_id
        assert finished.state_before is not None
        assert finished.state_after is not None
        assert 0 < finished.wall_s <= events[-1].wall_s


def test_timed_launch_takes_the_samples_and_judges_nothing(timed_launch: Path) -> None:
    good = results(timed_launch)["fault_good"]
    assert good.outcome is Outcome.OK
    assert len(good.samples_s) == 5
    assert good.calls_per_sample is not None
    assert good.timed_s == pytest.approx(good.calls_per_sample * sum(good.samples_s))
    assert good.timed_s < good.wall_s
    assert good.first_call_s is not None
    assert good.kernels == ()
    assert good.quality == ()


@pytest.mark.parametrize(
    ("method", "outcome", "error"),
    [
        ("fault_raises", Outcome.FAILED, "planted failure"),
        ("fault_alias", Outcome.FAILED, "shares memory with an input"),
        ("fault_stale", Outcome.FAILED, "left unwritten"),
        ("fault_nan", Outcome.NONFINITE, "NaN or infinity"),
        ("matmul", Outcome.UNSUPPORTED, "mode graph needs CUDA graphs"),
    ],
)
def test_no_time_without_proof_of_work(timed_launch: Path, method: str, outcome: Outcome, error: str) -> None:
    result = results(timed_launch)[method]
    assert result.outcome is outcome
    assert result.error is not None
    assert error in result.error
    assert result.samples_s == ()


def test_a_terminated_worker_leaves_whole_cases_only(tmp_path: Path) -> None:
    process = start(tmp_path, [planned("fault_good"), planned("fault_hangs")], launch=0)
    shard = tmp_path / "shard.jsonl"
    deadline = time.monotonic() + 60
    while not (shard.exists() and "fault_hangs" in shard.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 130
    assert set(results(tmp_path)) == {"fault_good"}
    assert shard.read_text().endswith("\n")


@pytest.mark.skipif(sys.platform != "linux", reason="by prctl(2)")
def test_a_worker_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    """`kill -9` of a benchmark must leave nothing behind that measures on."""
    script = f"""
import time
from pathlib import Path
from harness.tests.test_worker import planned, start
print(start(Path({str(tmp_path)!r}), [planned("fault_hangs")], launch=0).pid, flush=True)
time.sleep(600)
"""
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        worker = psutil.Process(int(parent.stdout.readline()))
        shard, deadline = tmp_path / "shard.jsonl", time.monotonic() + 60
        while not (shard.exists() and "fault_hangs" in shard.read_text()):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        parent.kill()
    gone, _ = psutil.wait_procs([worker], timeout=30)
    assert gone == [worker]


def test_a_worker_that_dies_leaves_the_name_of_its_case(tmp_path: Path) -> None:
    assert start(tmp_path, [planned("fault_dies")], launch=0).wait(60) == 9
    with (tmp_path / "shard.jsonl").open() as file:
        last = read_events(file)[-1]
    assert isinstance(last, CaseStarted)
    assert "fault_dies" in last.case_id


def test_exceptions_have_their_outcomes() -> None:
    assert outcome_of(UnsupportedError("no unit")) is Outcome.UNSUPPORTED
    assert outcome_of(NonfiniteResultError("nan")) is Outcome.NONFINITE
    assert outcome_of(ThrottledError("hot")) is Outcome.THROTTLED
    assert outcome_of(torch.OutOfMemoryError("CUDA out of memory")) is Outcome.OOM
    assert outcome_of(RuntimeError("CUDA error: out of memory")) is Outcome.OOM
    assert outcome_of(ValueError("else")) is Outcome.FAILED


def test_a_description_ends_with_the_place() -> None:
    with pytest.raises(InvalidOperation) as caught:
        Decimal("0") / Decimal("0")
    assert describe(caught.value).startswith("InvalidOperation: ")
    assert describe(caught.value).endswith(" in test_a_description_ends_with_the_place)")
    assert describe(UnsupportedError("no such unit")) == "no such unit"
