"""One call recorded in a CUDA graph, and what a capture that fails leaves in this process put right.

After a CUDA call that a capture does not allow, such as a synchronisation, `CUDAGraph.capture_end` of torch 2.11 throws
before it has told anybody that the capture is over:

* The device's default generator goes on to count for the capture. `torch.randn` outside one, and the replay of every
  graph recorded earlier, raise "Offset increment outside graph capture encountered unexpectedly".
* The caching allocator goes on to believe that a capture is under way: tensors used on several streams are not taken
  back, and memory that has run out is not looked for in its cache.
* The pool of the capture stays referenced, so that its memory is never given back.
* So does the allocator of pinned memory, which no Python call reaches. It keeps a callback into the graph, and refuses
  the pool to every later capture. The graph must live on, and the pool must not be used again.

That is what its source says (2026-11-23). Later ones end both allocations before they throw, and so the first repair
below, which fails there, is left out.
"""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import torch
from torch import Tensor

_unfinished: list[torch.cuda.CUDAGraph] = []
"""Broken graphs that an allocator may still call back into."""


def record(
    graph: torch.cuda.CUDAGraph, call: Callable[[], Tensor], *, pool: torch.cuda._POOL_HANDLE | None = None
) -> Tensor:
    """The result of `call`, whose work on the current stream is recorded in `graph`, to be done by its replays.

    `torch.cuda.graph` is not used: it collects garbage and empties the allocator's cache at every capture. Its side
    stream and warm-up are the caller's: the current stream is not the default one, and earlier calls ran on it. If the
    call fails, or cannot be recorded, no capture is left open and the process can go on as before, with other pools
    than `pool`.

    Args:
        graph: new.
        call: without arguments.
        pool: of the graph's memory, as `CUDAGraph.pool` names it; by default one of its own.

    Raises:
        Exception: whatever the call raised; RuntimeError if it did what cannot be recorded.
    """
    pool = torch.cuda.graph_pool_handle() if pool is None else pool
    with _no_garbage_collection():
        try:
            graph.capture_begin(pool=pool)
            result = call()
            graph.capture_end()
        except BaseException:
            abandon(graph, pool)
            raise
    return result


def abandon(graph: torch.cuda.CUDAGraph, pool: torch.cuda._POOL_HANDLE) -> None:
    """End a capture that failed, on the stream where it began, so that the process can go on with other pools.

    Nothing is raised, which would hide the reason for it.
    """
    with suppress(RuntimeError), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the graph is empty
        graph.capture_end()
        return  # nothing was wrong with the capture: torch has put everything back
    device = torch.cuda.current_device()
    with suppress(RuntimeError):  # a later torch has done it
        torch._C._cuda_endAllocateToPool(device, pool)
        _unfinished.append(graph)
        torch._C._cuda_releasePool(device, pool)
    with suppress(RuntimeError):  # of a device whose context is lost
        _restore_generator()


def _restore_generator() -> None:
    """Record a graph that is never replayed: the end of a capture that succeeds sets the default generator free."""
    scratch = torch.empty(1, device="cuda")
    with torch.cuda.stream(torch.cuda.Stream()):  # type: ignore[no-untyped-call]
        graph = torch.cuda.CUDAGraph()
        graph.capture_begin(capture_error_mode="thread_local")  # what other threads do may have ended the first one
        scratch.zero_()  # of an empty graph torch warns
        graph.capture_end()


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """A CUDA object destroyed during a capture ends it."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
