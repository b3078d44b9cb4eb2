"""Worker processes started ahead of their turn."""

from __future__ import annotations

import sys
from pathlib import Path

import psutil
import pytest

from harness import standby
from harness.arms import Arm
from harness.errors import MeasurementError
from harness.standby import Standby, Worker, WorkerRequest

WAITS = """
import os, sys, pathlib
if pathlib.Path("slow").exists(): __import__("time").sleep(60)
if pathlib.Path("dies").exists(): sys.exit("planted death")
print("imported", file=sys.stderr)
os.close(1)
line = sys.stdin.readline()
pathlib.Path(line.rstrip("\\n")).write_text(str(os.getpid())) if line else None
"""


@pytest.fixture
def arm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Arm:
    """An arm whose `harness.worker` does what a worker does before its plan, without torch."""
    shadow = tmp_path / "library" / "harness"
    shadow.mkdir(parents=True)
    (shadow / "__init__.py").touch()
    (shadow / "worker.py").write_text(WAITS)
    monkeypatch.chdir(tmp_path)
    return Arm(label="planted", library=tmp_path / "library", interpreter=sys.executable)


def requests(arm: Arm, folder: Path, count: int) -> list[WorkerRequest]:
    return [WorkerRequest(arm=arm, log=folder / f"{index}.log") for index in range(count)]


def plan_of(worker: Worker, path: Path) -> int:
    worker.send(path)
    assert worker.process.wait(20) == 0
    return int(path.read_text())


def children() -> int:
    return sum(child.status() != psutil.STATUS_ZOMBIE for child in psutil.Process().children())


def test_processes_of_a_batch_all_wait_before_the_first_is_used_and_the_next_batch_comes_after_the_last(
    arm: Arm, tmp_path: Path
) -> None:
    expected, before = requests(arm, tmp_path, 5), children()
    with Standby(expected, batch=2) as workers:
        first = workers.take(expected[0])
        assert [request.log.exists() for request in expected] == [True, True, False, False, False]
        assert [request.log.read_text() for request in expected[:2]] == ["imported\n"] * 2
        assert children() - before == 2
        one = plan_of(first, tmp_path / "plan-0")
        two = plan_of(workers.take(expected[1]), tmp_path / "plan-1")
        assert one != two
        assert not expected[2].log.exists()
        later = workers.take(expected[3])  # launch 2 had nothing to measure
        assert [request.log.exists() for request in expected[2:]] == [False, True, True]
        plan_of(later, tmp_path / "plan-3")
    assert children() == before


def test_a_process_that_goes_on_after_a_death_is_started_alone_and_the_others_keep_waiting(
    arm: Arm, tmp_path: Path
) -> None:
    expected, before = requests(arm, tmp_path, 3), children()
    with Standby(expected, batch=3) as workers:
        standby.stop(workers.take(expected[0]).process)
        again = workers.take(expected[0])
        assert children() - before == 3
        plan_of(again, tmp_path / "plan")
        plan_of(workers.take(expected[1]), tmp_path / "plan-1")
        assert children() - before == 1
        assert expected[0].log.read_text() == "imported\n" * 2
        assert expected[1].log.read_text() == "imported\n"


def test_a_death_during_imports_is_seen_by_whoever_takes_the_process(arm: Arm, tmp_path: Path) -> None:
    (tmp_path / "dies").touch()
    with Standby(batch=1) as workers:
        worker = workers.take(requests(arm, tmp_path, 1)[0])
        worker.send(tmp_path / "plan")
        assert worker.process.wait(20) == 1
    assert standby.log_tail(tmp_path / "0.log") == "planted death"


def test_imports_without_end_are_refused_with_the_log(
    arm: Arm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(standby, "STARTUP_LIMIT_S", 1.0)
    (tmp_path / "slow").touch()
    before = children()
    with pytest.raises(MeasurementError, match=r"a worker process was not ready after 1 s; see .*0\.log"):
        Standby(batch=1).take(requests(arm, tmp_path, 1)[0])
    assert children() == before


def test_a_batch_is_at_least_one_and_at_most_eight(monkeypatch: pytest.MonkeyPatch) -> None:
    assert 1 <= standby.default_batch() <= standby.LARGEST_BATCH
    monkeypatch.setattr(psutil, "virtual_memory", lambda: type("Memory", (), {"available": 0}))
    assert standby.default_batch() == 1
