"""Planted slowdowns: a spin of known length inside the timed region, to see whether the instrument notices it.

The spin runs where the clock runs: on the device for event-timed graph replays (`torch.cuda._sleep`, a kernel that
waits for a number of clock cycles), on the host for everything else. Its length is calibrated, but its effect is not
taken for granted: a kernel launch costs some 2 us besides, and a clock may change. Slowed and plain samples therefore
alternate, and the effect is their measured ratio.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from functools import cache
from typing import Literal

import torch

ClockPlace = Literal["device", "host"]

_CALIBRATION_CYCLES = 2_000_000
"""About 1 ms at an H100's 1980 MHz: long against the 2 us of a launch."""


def make_spin(seconds: float, device: torch.device, place: ClockPlace) -> Callable[[], None]:
    """A call that takes `seconds` on the device (enqueued on the current stream) or on the host (a busy loop)."""
    if place == "host":
        return lambda: _spin_host(seconds)
    cycles = max(1, round(seconds * _cycles_per_second(device)))
    return lambda: torch.cuda._sleep(cycles)  # type: ignore[no-untyped-call]


def _spin_host(seconds: float) -> None:
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass


@cache
def _cycles_per_second(device: torch.device) -> float:
    """Of the counter that `torch.cuda._sleep` waits for, by CUDA events; once per process."""
    torch.cuda._sleep(_CALIBRATION_CYCLES)  # type: ignore[no-untyped-call]
    start = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    stop = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    start.record()
    torch.cuda._sleep(_CALIBRATION_CYCLES)  # type: ignore[no-untyped-call]
    stop.record()
    stop.synchronize()
    return float(_CALIBRATION_CYCLES / (1e-3 * start.elapsed_time(stop)))


def every_other_group_slowed(launch: Callable[[], None], spin: Callable[[], None], *, calls: int) -> Callable[[], None]:
    """`launch`, preceded by `spin` in the first call of the second, fourth, ... group of `calls` calls."""
    made = 0

    def launch_or_spin() -> None:
        nonlocal made
        group, place = divmod(made, calls)
        made += 1
        if place == 0 and group % 2 == 1:
            spin()
        launch()

    return launch_or_spin


def measured_effect(elapsed_s: Sequence[float]) -> float:
    """exp(median(log(slowed / plain))) - 1 over neighbours of an alternating series that begins with a plain group."""
    plain, slowed = elapsed_s[0::2], elapsed_s[1::2]
    return math.expm1(statistics.median(math.log(b / a) for a, b in zip(plain, slowed, strict=True)))
