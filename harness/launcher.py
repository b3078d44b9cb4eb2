"""One launch: a pass over its cases in fresh worker processes, watched from outside.

A worker appends events to a shard file; the launcher reads the file as it grows. A case that exceeds its time limit, or
during which the process dies, gets its outcome from the launcher, and a new process goes on with the next case. The
shard is the only channel: what stands in it survives a crash of either side.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from harness.arms import Arm
from harness.errors import MeasurementError
from harness.records import (
    EVENT,
    CaseResult,
    CaseStarted,
    LaunchRecord,
    LaunchStarted,
    Outcome,
    PlannedCase,
    WorkPlan,
    read_events,
)
from harness.standby import STARTUP_LIMIT_S, Standby, Worker, WorkerRequest, kill, log_tail, stop

POLL_S = 0.02
STALLED_PROCESSES = 2
"""Processes that may end in a row without finishing a case before the launch is given up."""


class Observer(Protocol):
    """Who is told how a run gets on; a progress bar, for instance."""

    def launch_started(self, launch: int, total_launches: int, cases: int, *, arm: str | None = None) -> None: ...

    def case_started(self, launch: int, case_id: str) -> None: ...

    def case_finished(self, launch: int, result: CaseResult) -> None: ...

    def launch_finished(self, launch: int) -> None: ...


@dataclass(frozen=True, kw_only=True)
class LaunchRequest:
    """What one launch needs. `cases` are in the order to measure; `imports` are modules that register methods."""

    run_id: str
    launch: int
    device: str
    threads: int | None
    cases: tuple[PlannedCase, ...]
    folder: Path
    arm: Arm
    imports: tuple[str, ...] = ()

    @property
    def shard(self) -> Path:
        """The JSON-lines file of this launch."""
        return shard_path(self.folder, self.launch)

    @property
    def worker(self) -> WorkerRequest:
        """The process to measure this launch with."""
        return worker_request(self.folder, self.launch, arm=self.arm, imports=self.imports)


def shard_path(folder: Path, launch: int) -> Path:
    """Where a launch's events lie in a run folder."""
    return folder / f"launch-{launch:03d}.jsonl"


def worker_request(folder: Path, launch: int, *, arm: Arm, imports: tuple[str, ...]) -> WorkerRequest:
    """The process that a launch will ask for."""
    return WorkerRequest(arm=arm, log=folder / f"launch-{launch:03d}.log", imports=imports)


def read_launch(run_id: str, launch: int, shard: Path) -> LaunchRecord:
    """The launch that a shard holds; of two results for a case the later one counts."""
    lines = shard.read_text().splitlines(keepends=True) if shard.exists() else []
    starts: list[LaunchStarted] = []
    results: dict[str, CaseResult] = {}
    wall_s = 0.0
    for event in read_events(lines):
        if isinstance(event, LaunchStarted):
            starts.append(event)
        elif isinstance(event, CaseResult):
            results[event.case_id] = event
            wall_s += event.wall_s
    return LaunchRecord(
        run_id=run_id, launch=launch, processes=tuple(starts), results=tuple(results.values()), wall_s=wall_s
    )


class _Tail:
    """Reads whole lines of a growing file, each once."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = path.stat().st_size if path.exists() else 0

    def lines(self) -> list[bytes]:
        if not self._path.exists():
            return []
        with self._path.open("rb") as file:
            file.seek(self._offset)
            text = file.read()
        end = text.rfind(b"\n") + 1
        self._offset += end
        return text[:end].splitlines()


@dataclass
class _Watch:
    """What is known of one worker process."""

    current: str | None = None
    since: float = field(default_factory=time.monotonic)
    process_id: int = 0
    finished: int = 0
    started: bool = False


class Launcher:
    """Measures one launch in processes of `workers`; `run` returns when every case has an outcome."""

    def __init__(self, request: LaunchRequest, observer: Observer, workers: Standby) -> None:
        self._request = request
        self._observer = observer
        self._workers = workers
        self._limits = {planned.case.case_id: planned.timeout_s for planned in request.cases}
        self._tail = _Tail(request.shard)
        self._processes = 0

    def run(self) -> None:
        """Measure all cases. Raises MeasurementError when workers cannot start or keep dying between cases."""
        self._mend_shard()
        remaining = list(self._request.cases)
        stalled = 0
        while remaining:
            done = self._run_process(remaining)
            remaining = [planned for planned in remaining if planned.case.case_id not in done]
            stalled = 0 if done else stalled + 1
            if stalled >= STALLED_PROCESSES:
                raise MeasurementError(
                    f"launch {self._request.launch}: worker processes end without finishing a case; "
                    f"see {self._request.worker.log}\n{self._log_tail()}"
                )

    def _mend_shard(self) -> None:
        """Drop a last line that a crash cut short, so that appended events start on a line of their own."""
        shard = self._request.shard
        if not shard.exists():
            return
        content = shard.read_bytes()
        if content and not content.endswith(b"\n"):
            with shard.open("r+b") as file:
                file.truncate(content.rfind(b"\n") + 1)
        self._tail = _Tail(shard)

    def _log_tail(self, lines: int = 12) -> str:
        return log_tail(self._request.worker.log, lines)

    def _started(self, cases: Sequence[PlannedCase]) -> Worker:
        request = self._request
        plan = WorkPlan(
            run_id=request.run_id,
            launch=request.launch,
            device=request.device,
            threads=request.threads,
            cases=tuple(cases),
            shard=str(request.shard),
            injection=request.arm.injection,
        )
        path = request.folder / f"launch-{request.launch:03d}-{self._processes}.plan.json"
        path.write_text(plan.model_dump_json())
        self._processes += 1
        worker = self._workers.take(request.worker)
        worker.send(path)
        return worker

    def _run_process(self, cases: Sequence[PlannedCase]) -> set[str]:
        """Run one worker process to its end; returns the cases that now have an outcome."""
        done: set[str] = set()
        process = self._started(cases).process
        watch = _Watch()
        try:
            while True:
                ended = process.poll() is not None  # before reading, so that the last lines are not missed
                self._read(watch, done)
                if ended:
                    break
                if self._over_limit(watch):
                    kill(process)
                    self._read(watch, done)
                    self._conclude_timeout(watch, done)
                    return done
                time.sleep(POLL_S)
        except BaseException:
            stop(process)
            raise
        if process.returncode != 0 and watch.current is not None:
            self._conclude(watch, done, Outcome.FAILED, _death(process.returncode, self._log_tail(4)))
        return done

    def _read(self, watch: _Watch, done: set[str]) -> None:
        for line in self._tail.lines():
            event = EVENT.validate_json(line)
            if isinstance(event, LaunchStarted):
                watch.started, watch.process_id, watch.since = True, event.process_id, time.monotonic()
            elif isinstance(event, CaseStarted):
                watch.current, watch.since = event.case_id, time.monotonic()
                self._observer.case_started(self._request.launch, event.case_id)
            elif isinstance(event, CaseResult):
                watch.current, watch.since = None, time.monotonic()
                done.add(event.case_id)
                self._observer.case_finished(self._request.launch, event)

    def _over_limit(self, watch: _Watch) -> bool:
        elapsed = time.monotonic() - watch.since
        if watch.current is not None:
            return elapsed > self._limits[watch.current]
        return elapsed > STARTUP_LIMIT_S

    def _conclude_timeout(self, watch: _Watch, done: set[str]) -> None:
        if watch.current is None:
            if not watch.started:
                raise MeasurementError(
                    f"launch {self._request.launch}: the worker was not ready after {STARTUP_LIMIT_S:.0f} s; "
                    f"see {self._request.worker.log}\n{self._log_tail()}"
                )
            return
        limit = self._limits[watch.current]
        self._conclude(watch, done, Outcome.TIMEOUT, f"exceeded the limit of {limit:g} s per case")

    def _conclude(self, watch: _Watch, done: set[str], outcome: Outcome, error: str) -> None:
        """Write the outcome that the dead process could not write."""
        assert watch.current is not None
        result = CaseResult(
            case_id=watch.current,
            launch=self._request.launch,
            process_id=watch.process_id,
            outcome=outcome,
            error=error,
            wall_s=time.monotonic() - watch.since,
        )
        self._mend_shard()
        with self._request.shard.open("a") as file:
            file.write(result.model_dump_json() + "\n")
        self._read(watch, done)


def _death(code: int, log_tail: str) -> str:
    how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    return f"the worker process was {how} during this case" + (f"\n{log_tail}" if log_tail else "")
