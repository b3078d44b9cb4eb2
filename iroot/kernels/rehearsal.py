"""Compiling all kernels of a call together: a rehearsal, whose launches compile on every core and run nothing.

Triton compiles a kernel when it is first launched, and so one after the other: an inverse fourth root takes eleven, of
0.2 to 2.4 s of a core each (n = 2048, Triton 3.6 for sm_90, 2026-11-22). All but the walk over a kernel's source, about
a twentieth of that, leaves Python's lock to other threads.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any

import torch
import triton

_rehearsing: ContextVar[bool] = ContextVar("iroot_rehearsing", default=False)
_rehearsed: set[Hashable] = set()

# Earlier versions either have no AsyncCompileMode or stay in it after a kernel that does not compile.
_TOGETHER = tuple(int(part) for part in triton.__version__.split(".")[:2]) >= (3, 6)


def on_grid(kernel: Any, programs: tuple[int, ...]) -> Callable[..., object]:
    """kernel[programs]; in a rehearsal, what compiles that launch."""
    return partial(kernel.warmup, grid=programs) if _rehearsing.get() else kernel[programs]


@contextmanager
def rehearsal() -> Iterator[None]:
    """Launches by `on_grid` compile their kernels, which are ready at the end; one that does not compile is left out.

    Whoever launches that one then gets the compiler's error.
    """
    with (
        ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool,
        triton.AsyncCompileMode(pool, ignore_errors=True),
    ):
        token = _rehearsing.set(True)
        try:
            yield
        finally:
            _rehearsing.reset(token)


def rehearse(call: Hashable, launches: Callable[[], object], device: torch.device) -> None:
    """Compile the kernels of `launches` together, at the first of its calls that are all the same to the compiler.

    Args:
        call: what decides which kernels `launches` takes; too coarse a one costs time at a launch, not more.
        launches: allocates and launches by `on_grid`, and reads no result.
        device: nothing is compiled for a CPU, where the kernels are interpreted.
    """
    if device.type != "cuda" or not _TOGETHER or triton.knobs.runtime.interpret:
        return
    if (call, device) in _rehearsed or torch.cuda.is_current_stream_capturing():
        return
    with rehearsal():
        launches()
    _rehearsed.add((call, device))
