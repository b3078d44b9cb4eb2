"""One worker process: measures the cases of a WorkPlan in order and appends an event for each to the plan's shard.

    python -m harness.worker [--import MODULE ...]

It does its imports, closes its standard output to say so, and waits for the path of a WorkPlan on its standard input:
no path, no work. What it prints goes to standard error.

Launch 0 is the quality pass: every case once per problem seed, judged in float64, untimed. Launches 1, 2, ... time.
`--import MODULE` imports a module first: it is how methods of one's own, registered by that module, are measured.

Exit codes: 0 all cases have an outcome; 17 a new process must go on, because a case, written as failed, lost the CUDA
context or left a graph capture half open; 130 stopped by SIGINT or SIGTERM, no half case written. IROOT_SPAWNED_AT,
seconds since the epoch, may tell when the process was asked for; else its creation time counts.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import importlib
import os
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import TextIO

import psutil
import torch

from harness import environment
from harness.execution import CaptureFailedError, executable
from harness.judge.cache import TensorCache
from harness.judge.metrics import measure_quality
from harness.judge.problems import pose
from harness.judge.references import reference
from harness.preparation import Prepared, prepare
from harness.records import (
    Case,
    CaseResult,
    CaseStarted,
    Event,
    LaunchFinished,
    LaunchStarted,
    MachineState,
    Outcome,
    PlannedCase,
    Quality,
    WorkPlan,
)
from harness.timing import NonfiniteResultError, Samples, Stopwatch
from iroot.errors import UnsupportedError
from iroot.registry import Operands, methods

QUALITY_LAUNCH = 0
EXIT_GO_ON = 17
EXIT_INTERRUPTED = 130
PR_SET_PDEATHSIG = 1
"""Of prctl(2): the signal that a process gets when the thread that started it ends."""
THROTTLE_RETRIES = 3
COOLING_S = 1.0
"""Pause before samples taken under a hardware or thermal throttle are taken again."""
COLLECT_EVERY = 25
"""Cases between garbage collections, which are switched off otherwise so that none falls into a sample."""

OUT_OF_MEMORY = (
    "CUDA out of memory",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "DefaultCPUAllocator: ",
)
"""Texts of RuntimeErrors that mean exhausted memory: the CUDA runtime's, cuBLAS's and the CPU allocator's."""


class ThrottledError(Exception):
    """All attempts at sampling fell under a hardware or thermal throttle."""


class Worker:
    """Measures cases on one device; posed problems and references are kept from case to case.

    Attributes:
        spent: this process cannot measure further cases.
    """

    def __init__(self, plan: WorkPlan) -> None:
        self.spent = False
        self._plan = plan
        self._device = torch.device(plan.device)
        self._posed = TensorCache.for_device(self._device)
        # float64 polar factors of 4096 x 4096 take 128 MiB each and 50 products to make.
        self._references = TensorCache.for_device(self._device, gpu_share=0.25)

    def measure(self, planned: PlannedCase) -> CaseResult:
        """Quality in launch 0, times in the others. Whatever the method does wrong becomes the case's outcome."""
        start, before = time.perf_counter(), self._state()
        try:
            prepared = prepare(planned.case, self._device)
            with torch.no_grad(), prepared.ops.arithmetic():
                action = self._judge if self._plan.launch == QUALITY_LAUNCH else self._time
                result = action(planned, prepared)
        except Exception as error:
            result = self._result(planned, outcome_of(error), error=describe(error))
            self.spent = isinstance(error, CaptureFailedError)
        # Only here, where the traceback and the tensors in its frames are gone.
        if result.outcome in (Outcome.OOM, Outcome.FAILED):
            self._recover()
        times = {"wall_s": time.perf_counter() - start, "state_after": result.state_after or self._state()}
        return result.model_copy(update={"state_before": before} | times)

    def _judge(self, planned: PlannedCase, prepared: Prepared) -> CaseResult:
        """One call per problem seed, compared with the truth in float64."""
        case, call = planned.case, executable(prepared.call, planned.case.mode)
        found: list[Quality] = []
        for seed in range(planned.seeds):
            operands = self._pose(case, seed)
            result = call(operands)
            truth = reference(case, operands, seed=seed, cache=self._references)
            found.append(measure_quality(case, operands, result, truth, seed=seed))
        broken = [quality for quality in found if quality.nonfinite]
        if not broken:
            return self._result(planned, Outcome.OK, quality=tuple(found))
        error = f"{len(broken)} of {len(found)} seeds gave NaN or infinity, seed {broken[0].seed} in " + (
            f"{broken[0].nonfinite} entries"
        )
        return self._result(planned, Outcome.NONFINITE, error=error, quality=tuple(found))

    def _time(self, planned: PlannedCase, prepared: Prepared) -> CaseResult:
        """Samples, taken again while the GPU throttles for heat or by hardware."""
        case = planned.case
        input_sets = [self._pose(case, seed) for seed in range(planned.timing.input_sets)]
        watch = Stopwatch(prepared.call, input_sets, mode=case.mode, policy=planned.timing, device=self._device)
        slowdown = self._plan.injection
        samples = watch.measure(self._state, slowdown=slowdown)
        for _ in range(THROTTLE_RETRIES):
            if not _disturbed(samples.observed):
                break
            time.sleep(COOLING_S)
            samples = watch.measure(self._state, slowdown=slowdown)
        if _disturbed(samples.observed):
            raise ThrottledError(f"{THROTTLE_RETRIES + 1} attempts fell under {_reasons(samples.observed)}")
        timed = self._result(planned, Outcome.OK, samples=samples)
        figures = {"peak_bytes": watch.peak_bytes, "first_call_s": watch.first_call_s, "kernels": watch.kernels}
        return timed.model_copy(update=figures)

    def _pose(self, case: Case, seed: int) -> Operands:
        return pose(case.problem, case, seed=seed, device=self._device, cache=self._posed)

    def _state(self) -> MachineState:
        return environment.machine_state(self._plan.device, processes=False)

    def _result(
        self,
        planned: PlannedCase,
        outcome: Outcome,
        *,
        error: str | None = None,
        quality: tuple[Quality, ...] = (),
        samples: Samples[MachineState] | None = None,
    ) -> CaseResult:
        return CaseResult(
            case_id=planned.case.case_id,
            launch=self._plan.launch,
            process_id=os.getpid(),
            outcome=outcome,
            error=error,
            quality=quality,
            samples_s=samples.samples_s if samples else (),
            calls_per_sample=samples.calls_per_sample if samples else None,
            injected_effect=samples.injected_effect if samples else None,
            timed_s=samples.timed_s if samples else 0.0,
            state_after=samples.observed if samples else None,
        )

    def _recover(self) -> None:
        """Give memory back after a failure, and see whether the CUDA context survived it."""
        self._posed.clear()
        self._references.clear()
        gc.collect()
        if self._device.type == "cuda":
            try:
                torch.cuda.synchronize(self._device)
                torch.cuda.empty_cache()
            except RuntimeError:
                self.spent = True


def outcome_of(error: Exception) -> Outcome:
    """Which outcome an exception stands for."""
    if isinstance(error, UnsupportedError):
        return Outcome.UNSUPPORTED
    if isinstance(error, NonfiniteResultError):
        return Outcome.NONFINITE
    if isinstance(error, ThrottledError):
        return Outcome.THROTTLED
    text = str(error)
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)) or any(sign in text for sign in OUT_OF_MEMORY):
        return Outcome.OOM
    return Outcome.FAILED


def describe(error: Exception) -> str:
    """`Type: message (file:line in function)`, the place being where it was raised; a refusal is its message alone."""
    if isinstance(error, UnsupportedError):
        return str(error)
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno} in {frames[-1].name})" if frames else ""
    return f"{type(error).__name__}: {error}{place}"


def _disturbed(state: MachineState) -> bool:
    return bool(environment.DISTURBING_REASONS.intersection(state.throttle_reasons))


def _reasons(state: MachineState) -> str:
    return ", ".join(sorted(environment.DISTURBING_REASONS.intersection(state.throttle_reasons)))


# --- the process ------------------------------------------------------------------------------------------------------


def work(plan: WorkPlan, *, startup_s: float) -> int:
    """Measure the plan's cases; returns the process's exit code."""
    with Path(plan.shard).open("a", encoding="utf-8") as shard:
        worker = Worker(plan)
        started = LaunchStarted(
            run_id=plan.run_id,
            launch=plan.launch,
            process_id=os.getpid(),
            started_at=datetime.now(UTC).isoformat(timespec="milliseconds"),
            startup_s=startup_s,
            state=environment.machine_state(plan.device),
        )
        _write(shard, started)
        begin = time.perf_counter()
        for number, planned in enumerate(plan.cases, 1):
            _write(shard, CaseStarted(case_id=planned.case.case_id))
            _write(shard, worker.measure(planned))
            if worker.spent:
                return EXIT_GO_ON
            if number % COLLECT_EVERY == 0:
                gc.collect()
        state = environment.machine_state(plan.device)
        wall_s = time.perf_counter() - begin
        _write(shard, LaunchFinished(launch=plan.launch, process_id=os.getpid(), wall_s=wall_s, state=state))
    return 0


def _write(shard: TextIO, event: Event) -> None:
    shard.write(event.model_dump_json() + "\n")
    shard.flush()


def _import_all(modules: Sequence[str]) -> None:
    """What every plan needs and no device: the registry with its methods."""
    for module in modules:
        importlib.import_module(module)
    list(methods())


def _make_ready(plan: WorkPlan) -> None:
    """Threads, CUDA context, library handles: everything that must not fall into the first case."""
    if plan.threads is not None:
        torch.set_num_threads(plan.threads)
    device = torch.device(plan.device)
    if device.type == "cuda":
        torch.cuda.set_device(device)
        # CUDA graphs are captured on the stream that eager calls have warmed up; the default stream cannot be captured.
        torch.cuda.set_stream(torch.cuda.Stream(device))  # type: ignore[no-untyped-call]
    warm = torch.ones(16, 16, device=device)
    torch.linalg.vector_norm(warm @ warm).item()
    gc.collect()
    gc.freeze()
    gc.disable()


def _awaited_plan(ready: int) -> Path | None:
    """Say that imports are done and wait for a plan; None: there is none to come."""
    os.close(ready)
    line = sys.stdin.readline()
    return Path(line.rstrip("\n")) if line else None


def _interrupt(signum: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _end_with_parent() -> None:
    """Be asked to stop, as by SIGTERM, when the process that started this one is gone: `kill -9` reaches it alone.

    A worker that went on would disturb the next measurement and write into the shard of a resumed run.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of `python -m harness.worker`."""
    parser = argparse.ArgumentParser(prog="python -m harness.worker", description="Measure the cases of a work plan.")
    parser.add_argument("--import", dest="modules", metavar="MODULE", action="append", default=[],
                        help="import a module that registers methods (repeatable)")  # fmt: skip
    parsed = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, _interrupt)
    _end_with_parent()
    ready = os.dup(1)  # its reader sees the end of it when imports are done
    os.dup2(2, 1)
    spawned = float(os.environ.get("IROOT_SPAWNED_AT", psutil.Process().create_time()))
    try:
        _import_all(parsed.modules)
        imports_s = time.time() - spawned
        path = _awaited_plan(ready)
        if path is None:
            return 0
        called = time.perf_counter()
        plan = WorkPlan.model_validate_json(path.read_text(encoding="utf-8"))
        _make_ready(plan)
        return work(plan, startup_s=max(0.0, imports_s) + time.perf_counter() - called)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    finally:
        gc.unfreeze()  # or extension modules report leaks at exit, in the log that explains a worker's death
        gc.enable()


if __name__ == "__main__":
    code = main()
    if code == EXIT_GO_ON:
        # Destructors of CUDA objects abort or hang without a context; the shard is closed already.
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)
