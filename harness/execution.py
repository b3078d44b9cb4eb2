"""Execution modes: how one call of a method is started (eager, compiled, replayed from a CUDA graph)."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache, partial
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from harness.errors import MeasurementError
from harness.records import Mode
from iroot.registry import Operands

Call = Callable[[Operands], Tensor]
Result = TypeVar("Result")


def executable(call: Call, mode: Mode) -> Call:
    """`call` as `mode` executes it before any capture: compiled by `torch.compile`, or itself."""
    if mode is not Mode.COMPILE:
        return call
    torch.compiler.reset()  # or the recompilation limit, used up by earlier cases, falls back to eager in silence
    compiled: Call = torch.compile(call, dynamic=False)
    return compiled


class CaptureFailedError(MeasurementError):
    """A call could not be recorded. Its process can go on; a worker does not, since times deserve a process as new."""


class Executor(Protocol):
    """Runs a method on its input sets in one execution mode."""

    @property
    def period(self) -> int:
        """Launches after which the first one comes again."""
        ...

    @property
    def calls(self) -> int:
        """Calls that one launch makes."""
        ...

    def launch(self, index: int) -> None:
        """Start launch `index` of the period, keeping its results."""
        ...

    def results(self) -> list[Tensor]:
        """The latest result of every input set."""
        ...

    def complete(self, launches: int) -> None:
        """Make the results stand side by side after so many launches, in turn from the first."""
        ...


class EagerExecutor:
    """Calls the function; every call allocates its result anew."""

    calls = 1

    def __init__(self, call: Call, input_sets: Sequence[Operands], results: list[Tensor]) -> None:
        self.period = len(input_sets)
        self._call = call
        self._inputs = input_sets
        self._results = results

    def launch(self, index: int) -> None:
        """Call the function on input set `index`."""
        self._results[index] = self._call(self._inputs[index])

    def results(self) -> list[Tensor]:
        """The latest result of every input set."""
        return self._results

    def complete(self, launches: int) -> None:
        """Nothing to do: every result has memory of its own."""


class GraphExecutor:
    """Replays one CUDA graph per input set; results are written to the same memory at every replay.

    Args:
        last: what is captured for the last input set: `call`, observed.
    """

    calls = 1

    def __init__(self, call: Call, input_sets: Sequence[Operands], *, last: Call) -> None:
        self.period = len(input_sets)
        pool = _pool_anchor(input_sets[0].A.device).pool()
        self._graphs: list[torch.cuda.CUDAGraph] = []
        self._results: list[Tensor] = []
        with no_garbage_collection():
            for index, operands in enumerate(input_sets, 1):
                graph = torch.cuda.CUDAGraph()
                graph.capture_begin(pool=pool)
                captured = last if index == len(input_sets) else call
                self._results.append(_recorded(graph, pool, partial(captured, operands)))
                self._graphs.append(graph)

    def launch(self, index: int) -> None:
        """Replay the graph of input set `index`."""
        self._graphs[index].replay()

    def results(self) -> list[Tensor]:
        """The static results, one for each input set."""
        return self._results

    def complete(self, launches: int) -> None:
        """Replay the rest of a rotation that was begun.

        The graphs share a pool, and what an earlier one frees while it is captured may hold the result of a later one:
        all results stand only after the last graph. Less than one rotation has disturbed no result.
        """
        begun = launches % len(self._graphs)
        if begun and launches > len(self._graphs):
            for graph in self._graphs[begun:]:
                graph.replay()


class SharedGraphExecutor:
    """Replays one CUDA graph that holds many short calls, rotations of the input sets one after the other.

    A replay of a graph costs microseconds: of a call as short as that it would show the replay.

    Args:
        rotations: of the input sets, in the graph.
        last: what is captured for the last input set of the last rotation: `call`, observed.

    Raises:
        MeasurementError: two calls gave the same tensor: the second did no work, or overwrote the first one's.
    """

    period = 1

    def __init__(self, call: Call, input_sets: Sequence[Operands], *, rotations: int, last: Call) -> None:
        self.calls = rotations * len(input_sets)
        self._graph = torch.cuda.CUDAGraph()

        def all_calls() -> list[Tensor]:
            results: list[Tensor] = []
            for rotation in range(1, rotations + 1):
                earlier, results = results, []
                for index, operands in enumerate(input_sets, 1):
                    final = (rotation, index) == (rotations, len(input_sets))
                    results.append((last if final else call)(operands))
                _demand_other_memory(earlier, results)
            return results

        pool = _pool_anchor(input_sets[0].A.device).pool()
        with no_garbage_collection():
            self._graph.capture_begin(pool=pool)
            self._results = _recorded(self._graph, pool, all_calls)

    def launch(self, index: int) -> None:
        """Replay the graph."""
        self._graph.replay()

    def results(self) -> list[Tensor]:
        """The static results of the last rotation."""
        return self._results

    def complete(self, launches: int) -> None:
        """Nothing to do: the results of a rotation stand after every replay."""


def _demand_other_memory(earlier: Sequence[Tensor], later: Sequence[Tensor]) -> None:
    held = {result.untyped_storage().data_ptr() for result in earlier}
    if any(result.untyped_storage().data_ptr() in held for result in later):
        raise MeasurementError("every call must return a tensor of its own, got one that an earlier call returned")


@cache
def _pool_anchor(device: torch.device) -> torch.cuda.CUDAGraph:
    """A graph, never replayed, whose memory pool the graphs of all cases of a process share: later cases reuse the
    memory of earlier ones. A pool whose last graph is gone could not be captured into again.
    """
    scratch = torch.zeros(1, device=device)
    anchor = torch.cuda.CUDAGraph()
    anchor.capture_begin()
    scratch.zero_()
    anchor.capture_end()
    return anchor


def _recorded(graph: torch.cuda.CUDAGraph, pool: torch.cuda._POOL_HANDLE, call: Callable[[], Result]) -> Result:
    """Make the call whose work `graph` records, and end the capture whatever happens.

    `torch.cuda.graph` is not used: it collects garbage and empties the allocator's cache at every capture. Its side
    stream and warm-up are the caller's: the current stream is not the default one, and earlier eager calls ran on it.
    """
    try:
        result = call()
        graph.capture_end()
    except Exception as error:
        _abandon(graph, pool)
        _pool_anchor.cache_clear()  # an allocator may go on to believe that this pool is being captured into
        raise CaptureFailedError(f"the call cannot be recorded in a CUDA graph: {error}") from error
    return result


def _abandon(graph: torch.cuda.CUDAGraph, pool: torch.cuda._POOL_HANDLE) -> None:
    """End a capture that failed, and leave the process usable."""
    try:
        from iroot.capture import abandon
    except ImportError:  # the library of an arm, older than 2026-11-23; its worker ends, and a new one goes on
        with suppress(RuntimeError):
            graph.capture_end()
    else:
        abandon(graph, pool)


@contextmanager
def no_garbage_collection() -> Iterator[None]:
    """Keep the collector's pauses, and its destruction of CUDA objects, out of samples and captures."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
