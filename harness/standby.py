"""Worker processes that have done their imports and wait for a plan.

A process took 5.5 s from its start to its first case, while the launches of a gate on four cases measure for 1.4 to 2 s
(H100 machine, 2026-11). So several launches' processes are started together, ahead of their turn, and follow each other
by about 1 s.
Nothing imports while anything is measured: `take` returns when the whole batch waits, and the next batch starts only
when the last of this one has been used. A waiting process has no CUDA context, and every launch still has a process of
its own.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import time
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

from harness.arms import Arm
from harness.errors import MeasurementError

STARTUP_LIMIT_S = 180.0
"""Imports and the CUDA context take 4-6 s on an H100 machine; a cold file cache can make it a minute."""
GRACE_S = 5.0
LARGEST_BATCH = 8
BYTES_EACH = 2 * 2**30
"""Free memory asked for per waiting process, more than the imports of torch and Triton hold."""


@dataclass(frozen=True, kw_only=True)
class WorkerRequest:
    """A process to start. `imports` are modules that register methods; `log` takes what it writes."""

    arm: Arm
    log: Path
    imports: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Worker:
    """A process that reads the path of its plan from `stdin`."""

    process: subprocess.Popen[bytes]

    def send(self, plan: Path) -> None:
        """Let it measure. A process that has died is not told: its exit code says so."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError), self.process.stdin as pipe:
            pipe.write(f"{plan}\n".encode())


class Standby:
    """Starts worker processes in batches; a context manager that ends what was not used.

    Args:
        expected: the processes that will be taken, in order. Others are started alone when they are taken.
        batch: how many wait at once; None: half as many as there are cores, if memory allows it, and at most 8.
    """

    def __init__(self, expected: Iterable[WorkerRequest] = (), *, batch: int | None = None) -> None:
        self._expected = deque(expected)
        self._batch = batch or default_batch()
        self._ready: dict[WorkerRequest, Worker] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def take(self, request: WorkerRequest) -> Worker:
        """A process that waits for its plan; raises MeasurementError when imports take over `STARTUP_LIMIT_S`."""
        if request not in self._ready:
            self._start(self._next_batch(request))
        return self._ready.pop(request)

    def close(self) -> None:
        """End the processes that wait."""
        for worker in self._ready.values():
            stop(worker.process)
        self._ready.clear()

    def _next_batch(self, request: WorkerRequest) -> list[WorkerRequest]:
        if request not in self._expected:
            return [request]
        while self._expected[0] != request:
            self._expected.popleft()
        return [self._expected.popleft() for _ in range(min(self._batch, len(self._expected)))]

    def _start(self, requests: Sequence[WorkerRequest]) -> None:
        try:
            for request in requests:
                self._ready[request] = _spawned(request)
            for request in _not_ready([(request, self._ready[request]) for request in requests]):
                raise MeasurementError(
                    f"a worker process was not ready after {STARTUP_LIMIT_S:.0f} s; see {request.log}\n"
                    f"{log_tail(request.log)}"
                )
        except BaseException:
            self.close()
            raise


def default_batch() -> int:
    """Processes that may import at once on this machine."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(LARGEST_BATCH, cores // 2, psutil.virtual_memory().available // BYTES_EACH))


def log_tail(path: Path, lines: int = 12) -> str:
    """The last lines of a worker's log, or nothing."""
    return "\n".join(path.read_text(errors="replace").splitlines()[-lines:]) if path.exists() else ""


def _spawned(request: WorkerRequest) -> Worker:
    command = request.arm.command("harness.worker")
    for module in request.imports:
        command += ["--import", module]
    environment = request.arm.environment() | {"IROOT_SPAWNED_AT": repr(time.time())}
    with request.log.open("ab") as log:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, env=environment, start_new_session=True
        )
    return Worker(process=process)


def _not_ready(waiting: Sequence[tuple[WorkerRequest, Worker]]) -> list[WorkerRequest]:
    """Wait until every process has closed its standard output, ready or dead; returns those that have not in time."""
    deadline = time.monotonic() + STARTUP_LIMIT_S
    with selectors.DefaultSelector() as selector:
        for request, worker in waiting:
            assert worker.process.stdout is not None
            selector.register(worker.process.stdout, selectors.EVENT_READ, (request, worker))
        while selector.get_map() and time.monotonic() < deadline:
            for key, _ in selector.select(deadline - time.monotonic()):
                if not os.read(key.fd, 65536):
                    selector.unregister(key.fileobj)
                    key.data[1].process.stdout.close()
        return [key.data[0] for key in selector.get_map().values()]


def kill(process: subprocess.Popen[bytes]) -> None:
    """End a process that hangs, its children included: it has a process group of its own."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def stop(process: subprocess.Popen[bytes]) -> None:
    """Ask a process to end after the current step, then insist."""
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(BrokenPipeError):
                pipe.close()
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            kill(process)
