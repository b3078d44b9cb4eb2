"""The timing contract: how one case becomes seconds per call.

- `graph` (CUDA): one CUDA graph per input set, all in one memory pool. A sample is a group of replays between two
  events, the groups back to back, one synchronisation after the last: GPU time alone, no host in it. One replay costs
  some microseconds, so calls shorter than the policy's `min_graph_s` share one graph that lasts at least so long.
- `eager` and `compile` (CUDA), and everything on a CPU: `perf_counter` around a group of calls, on CUDA with a
  synchronisation at the end of the group: host time is in it.
- cold: the L2 cache (CPU: the last-level cache) is overwritten before every call; one call per sample.

Calls rotate among the input sets. Every result is poisoned with NaN before timing and must afterwards equal the result
of the first call on the same inputs: bitwise, or within `REPLAY_TOLERANCE` where kernels round in another order.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle, pairwise
from typing import Generic, Protocol, TypeVar

import torch
from torch import Tensor

from harness.errors import MeasurementError
from harness.execution import (
    Call,
    EagerExecutor,
    Executor,
    GraphExecutor,
    SharedGraphExecutor,
    executable,
    no_garbage_collection,
)
from harness.injection import ClockPlace, every_other_group_slowed, make_spin, measured_effect
from harness.kernel_trace import KernelTrace
from harness.records import LaunchedKernel, Mode, TimingPolicy
from iroot.registry import Operands

REPLAY_TOLERANCE = 1e-2
"""Largest relative Frobenius distance between a timed result and the first one. A library may choose another kernel on
another stream, and iterations amplify the rounding; stale, unwritten or partly written results are off by order 1."""

MAX_CALLS_PER_SAMPLE = 10_000

Seen = TypeVar("Seen")


class CheckFailedError(MeasurementError):
    """The timed work did not produce the result: stale, unwritten, or an alias of an input."""


class NonfiniteResultError(MeasurementError):
    """The very first result holds NaN or infinity."""


@dataclass(frozen=True, kw_only=True)
class Samples(Generic[Seen]):
    """What one pass of timed samples gave.

    Attributes:
        samples_s: seconds per call, in the order measured.
        timed_s: wall time inside the samples.
        observed: what `observe` returned, called while the last samples were still running where the clock allows.
        injected_effect: of a planted slowdown: exp(median(log(slowed / plain sample before it))) - 1.
    """

    samples_s: tuple[float, ...]
    calls_per_sample: int
    timed_s: float
    observed: Seen
    injected_effect: float | None = None


# --- clocks -----------------------------------------------------------------------------------------------------------


class Clock(Protocol):
    """Times groups of launches."""

    def measure(
        self, launch: Callable[[], None], groups: int, calls: int, observe: Callable[[], Seen]
    ) -> tuple[list[float], Seen]:
        """Seconds of each of `groups` groups of `calls` launches, and what `observe` saw."""
        ...


@dataclass(frozen=True, kw_only=True)
class HostClock:
    """`perf_counter` around a group; `finish` waits for the device, `flush` runs untimed before every group."""

    finish: Callable[[], None]
    flush: Callable[[], None] | None = None

    def measure(
        self, launch: Callable[[], None], groups: int, calls: int, observe: Callable[[], Seen]
    ) -> tuple[list[float], Seen]:
        """Time group by group."""
        elapsed = []
        self.finish()
        for _ in range(groups):
            if self.flush is not None:
                self.flush()
                self.finish()
            start = time.perf_counter()
            for _ in range(calls):
                launch()
            self.finish()
            elapsed.append(time.perf_counter() - start)
        return elapsed, observe()


@dataclass(frozen=True, kw_only=True)
class EventClock:
    """CUDA events between groups that follow each other without a gap; one synchronisation at the end.

    With `flush`, each group has its own pair of events and the flush runs between the pairs.
    """

    flush: Callable[[], None] | None = None

    def measure(
        self, launch: Callable[[], None], groups: int, calls: int, observe: Callable[[], Seen]
    ) -> tuple[list[float], Seen]:
        """Enqueue everything, observe while it runs, then read the events."""
        pairs = []
        last = _recorded_event()
        for _ in range(groups):
            if self.flush is not None:
                self.flush()
                last = _recorded_event()
            for _ in range(calls):
                launch()
            event = _recorded_event()
            pairs.append((last, event))
            last = event
        seen = observe()
        last.synchronize()
        return [start.elapsed_time(stop) * 1e-3 for start, stop in pairs], seen


def _recorded_event() -> torch.cuda.Event:
    event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    event.record()
    return event


def cache_flush(device: torch.device) -> Callable[[], None]:
    """A call that overwrites the device's last-level cache: twice the L2 of the GPU, 128 MiB on a CPU."""
    size = 128 * 2**20
    if device.type == "cuda":
        size = 2 * torch.cuda.get_device_properties(device).L2_cache_size
    scratch = torch.empty(size, dtype=torch.uint8, device=device)

    def flush() -> None:
        scratch.zero_()

    return flush


# --- one case ---------------------------------------------------------------------------------------------------------


class Stopwatch:
    """One case made ready for timing: first calls done, graphs captured, group size chosen.

    Attributes:
        first_call_s: wall time of the very first call, compilation and autotuning included.
        peak_bytes: largest allocation above the inputs during one later eager call; None on a CPU.
        calls_per_sample: calls in one sample.
    """

    def __init__(
        self, call: Call, input_sets: Sequence[Operands], *, mode: Mode, policy: TimingPolicy, device: torch.device
    ) -> None:
        """Prepare.

        Args:
            call: the method; on CUDA in `graph` mode it is captured on the current stream, which must not be the
                default one.
            input_sets: posed problems that calls rotate among.
            mode: how the case is executed.
            policy: samples, group length, warm-up.
            device: where the operands live.

        Raises:
            CheckFailedError: a result aliases an input, or equals the result for other inputs.
            NonfiniteResultError: a first result is not finite.
        """
        self._policy = policy
        self._device = device
        self._input_sets = input_sets
        self._finish = torch.cuda.synchronize if device.type == "cuda" else _nothing
        call = executable(call, mode)
        self._trace = KernelTrace()
        # What torch.compile generates is launched from code of its own: nothing of it would be seen.
        traced = call if mode is Mode.COMPILE else self._trace.traced(call)
        results = self._first_calls(call, last=call if mode is Mode.GRAPH else traced)
        self._expected = self._accepted(results)
        self._executor: Executor = (
            GraphExecutor(call, input_sets, last=traced)
            if mode is Mode.GRAPH
            else EagerExecutor(call, input_sets, results)
        )
        flush = cache_flush(device) if policy.cold else None
        self._clock: Clock = (
            EventClock(flush=flush) if mode is Mode.GRAPH else HostClock(finish=self._finish, flush=flush)
        )
        self._clock_runs_on: ClockPlace = "device" if mode is Mode.GRAPH else "host"
        self._launches_per_sample, self._warmup_launches = self._calibrate()
        if mode is Mode.GRAPH and not policy.cold and self._per_launch_s < policy.min_graph_s:
            rotations = math.ceil(policy.min_graph_s / (len(input_sets) * self._per_launch_s))
            self._executor = SharedGraphExecutor(call, input_sets, rotations=rotations, last=traced)
            self._launches_per_sample, self._warmup_launches = self._calibrate()
        self.calls_per_sample = self._launches_per_sample * self._executor.calls

    def measure(self, observe: Callable[[], Seen], *, slowdown: float | None = None) -> Samples[Seen]:
        """Warm up, poison the results, take the samples and check the results.

        Args:
            observe: called once while the device is still busy (event clock) or right after the last sample.
            slowdown: plant a spin of about this fraction of a sample in each; twice the groups are then measured, every
                other one plain, since only the measured effect of the spin is known.

        Raises:
            CheckFailedError: a result was not written, or differs from the first one on the same inputs.
        """
        launches, groups = self._launches_per_sample, self._policy.samples
        with no_garbage_collection():
            warm = self._rotation()
            for _ in range(self._warmup_launches):
                warm()
            for result in self._executor.results():
                result.fill_(math.nan)
            launch = self._rotation()
            if slowdown is not None:
                spin = make_spin(slowdown * launches * self._per_launch_s, self._device, self._clock_runs_on)
                launch, groups = every_other_group_slowed(launch, spin, calls=launches), 2 * groups
            elapsed, observed = self._clock.measure(launch, groups, launches, observe)
            effect = None
            if slowdown is not None:
                effect, elapsed = measured_effect(elapsed), elapsed[1::2]
        self._executor.complete(groups * launches)
        self._check(min(len(self._input_sets), groups * launches * self._executor.calls))
        return Samples(
            samples_s=tuple(seconds / self.calls_per_sample for seconds in elapsed),
            calls_per_sample=self.calls_per_sample,
            timed_s=math.fsum(elapsed),
            observed=observed,
            injected_effect=effect,
        )

    @property
    def kernels(self) -> tuple[LaunchedKernel, ...] | None:
        """The Triton kernels of the last graph captured, else of the last of the first calls; None where not seen."""
        return self._trace.kernels

    def _first_calls(self, call: Call, *, last: Call) -> list[Tensor]:
        self._finish()
        start = time.perf_counter()
        results = [call(self._input_sets[0])]
        self._finish()
        self.first_call_s = time.perf_counter() - start
        results += [call(operands) for operands in self._input_sets[1:-1]]
        self.peak_bytes: int | None = None
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
            before = torch.cuda.memory_allocated(self._device)
            final = last(self._input_sets[-1])
            self.peak_bytes = torch.cuda.max_memory_allocated(self._device) - before
        else:
            final = last(self._input_sets[-1])
        return [*results, final] if len(self._input_sets) > 1 else [final]

    def _accepted(self, results: Sequence[Tensor]) -> list[Tensor]:
        """Copies of the first results, to compare later ones with."""
        owned = {tensor.untyped_storage().data_ptr() for inputs in self._input_sets for tensor in _tensors(inputs)}
        if any(result.untyped_storage().data_ptr() in owned for result in results):
            raise CheckFailedError("a method must return a tensor of its own, got one that shares memory with an input")
        finite = torch.stack([torch.isfinite(result).all() for result in results])
        if not bool(finite.all()):
            raise NonfiniteResultError("the result of the first call holds NaN or infinity")
        for (earlier, first), (later, second) in pairwise(zip(self._input_sets, results, strict=True)):
            if torch.equal(first, second) and not torch.equal(earlier.A, later.A):
                raise CheckFailedError("the results for two different inputs are equal in every bit: one is stale")
        return [result.clone() for result in results]

    def _calibrate(self) -> tuple[int, int]:
        """Launches per sample, and launches of warm-up still due."""
        target, most = self._policy.min_sample_s, max(1, MAX_CALLS_PER_SAMPLE // self._executor.calls)
        launches, spent = self._executor.period, 0.0
        while True:
            (elapsed,) = self._group_times(1, launches)
            spent += elapsed
            if elapsed >= 0.5 * target or launches >= most:
                break
            # The first replays upload their graphs and the first calls miss caches: approach the target in steps.
            wanted = math.ceil(target * launches / elapsed)
            launches = min(most, max(2 * launches, min(20 * launches, wanted)))
        if elapsed < 4 * target:  # a disturbed group would make samples too short
            again = self._group_times(2, launches)
            spent, elapsed = spent + math.fsum(again), min(elapsed, *again)
        self._per_launch_s = per_launch = elapsed / launches
        due = math.ceil(max(0.0, self._policy.warmup_s - spent) / per_launch)
        if self._policy.cold:
            return 1, due
        return min(most, math.ceil(1.05 * target / per_launch)), due

    def _group_times(self, groups: int, launches: int) -> list[float]:
        elapsed, _ = self._clock.measure(self._rotation(), groups, launches, _nothing)
        return elapsed

    def _rotation(self) -> Callable[[], None]:
        """A call that makes the executor's launches in turn, from the first."""
        order = cycle(range(self._executor.period))
        launch = self._executor.launch
        return lambda: launch(next(order))

    def _check(self, launched: int) -> None:
        pairs = zip(self._executor.results()[:launched], self._expected, strict=False)
        distances = torch.stack([_relative_distance(result, expected) for result, expected in pairs]).tolist()
        for index, distance in enumerate(distances):
            if not distance <= REPLAY_TOLERANCE:  # NaN, the poison, must fail
                raise CheckFailedError(
                    f"the timed result of input set {index} must equal the first one within {REPLAY_TOLERANCE:g}, "
                    f"got relative distance {distance:.3g} (nan: left unwritten)"
                )


def _tensors(operands: Operands) -> Iterator[Tensor]:
    yield operands.A
    if operands.B is not None:
        yield operands.B


def _relative_distance(result: Tensor, expected: Tensor) -> Tensor:
    wide = torch.promote_types(expected.dtype, torch.float32)
    truth = expected.to(wide)
    norm = torch.linalg.vector_norm(truth, dtype=torch.float64).clamp_min(1e-300)
    distance: Tensor = torch.linalg.vector_norm(result.to(wide) - truth, dtype=torch.float64) / norm
    return distance


def _nothing() -> None:
    pass
