"""The lock of a run that is being measured: real processes hold it and are killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.cli import main
from harness.errors import UsageError
from harness.launcher import read_launch, shard_path
from harness.paths import project_root, run_folder
from harness.records import RunStatus
from harness.run_lock import is_measured, measuring
from harness.store import Store
from harness.tests import factories as make

FAULTS = "harness.tests.fault_methods"
RUN = ["--task", "copy", "--method", "fault_hangs", "--precision", "fp32", "--n", "8", "--problem", "gaussian"]
PATIENCE_S = 60.0
HOLD = """
import sys, time
from pathlib import Path
from harness.run_lock import measuring
with measuring(Path(sys.argv[1]), sys.argv[2]):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "iroot.duckdb"


@pytest.fixture
def holder(store: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the lock of the first run."""
    command = [sys.executable, "-c", HOLD, str(store), make.make_run().run_id]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=project_root())
    assert process.stdout is not None
    with process.stdout:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()
        process.wait()


def test_the_lock_is_held_until_the_process_is_killed(store: Path, holder: subprocess.Popen[str]) -> None:
    run_id = make.make_run().run_id
    assert [is_measured(store, run_id) for _ in range(2)] == [True, True]  # who asks does not disturb
    with (
        pytest.raises(UsageError, match=f"{run_id} is being measured by another"),
        measuring(store, run_id),
    ):
        pytest.fail("two processes measure one run")
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert not is_measured(store, run_id)
    with measuring(store, run_id):
        assert is_measured(store, run_id)
    assert not is_measured(store, run_id)


def test_the_store_tells_a_running_run_from_one_that_died(store: Path, holder: subprocess.Popen[str]) -> None:
    """Run 1 is held; runs 2 and 4 are not, though 2 was running when its process ended; 3 is complete."""
    statuses = (RunStatus.RUNNING, RunStatus.RUNNING, RunStatus.COMPLETE, RunStatus.INTERRUPTED)
    for number, status in enumerate(statuses, start=1):
        Store(store).create_run(make.make_run(number=number, status=status))
    ids = [make.make_run(number=number).run_id for number in (1, 2, 3, 4)]

    def listed(status: RunStatus | None = None, limit: int | None = None) -> list[str]:
        return [run.run_id for run in Store(store).runs(status=status, limit=limit)]

    assert {run.run_id: run.status for run in Store(store).runs()} == dict(
        zip(ids, [RunStatus.RUNNING, RunStatus.INTERRUPTED, RunStatus.COMPLETE, RunStatus.INTERRUPTED], strict=True)
    )
    assert listed(RunStatus.RUNNING) == [ids[0]]
    assert listed(RunStatus.INTERRUPTED) == [ids[3], ids[1]]  # the newest first
    assert listed(RunStatus.INTERRUPTED, limit=1) == [ids[3]]
    assert listed(RunStatus.COMPLETE) == [ids[2]]
    assert Store(store).run(ids[1]).status is Store(store).summary(ids[1]).run.status is RunStatus.INTERRUPTED


def test_a_run_that_goes_on_is_running_again(store: Path, holder: subprocess.Popen[str]) -> None:
    run = make.make_run(status=RunStatus.INTERRUPTED)
    Store(store).create_run(run)
    Store(store).reopen_run(run.run_id)
    assert Store(store).run(run.run_id).status is RunStatus.RUNNING


def test_a_killed_run_is_listed_as_interrupted(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`iroot bench run` in a process of its own, killed while its worker hangs in a case, and goes on hanging."""
    command = [sys.executable, "-m", "harness", "bench", "run", *RUN, "--import", FAULTS, "--launches", "1"]
    command += ["--device", "cpu", "--store", str(store), "--no-compare"]
    process = subprocess.Popen(command, cwd=project_root(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def listed(*options: str) -> str:
        assert main(["bench", "runs", "--store", str(store), *options]) == 0
        return capsys.readouterr().out

    try:
        worker = _worker(store, process)
        try:
            assert " running " in listed("--status", "running")
            process.kill()
            process.wait()
            assert " interrupted " in listed()
            assert listed("--status", "running") == "no run fits\n"
        finally:
            os.kill(worker, signal.SIGKILL)
    finally:
        process.kill()
        process.wait()


def _worker(store: Path, process: subprocess.Popen[bytes]) -> int:
    """The process id of the worker, once it says that it is ready."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline and process.poll() is None:
        for run in Store(store).runs() if store.exists() else ():
            started = read_launch(run.run_id, 0, shard_path(run_folder(store, run.run_id), 0)).processes
            if started:
                return started[0].process_id
        time.sleep(0.1)
    raise AssertionError(f"no worker after {PATIENCE_S:g} s; the run ended with {process.poll()}")
