"""Methods that do what a file `PLANTED` in the measured library says: take longer, fail, or iterate less often."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from torch import Tensor

import iroot
from iroot.methods.newton_schulz import NewtonSchulzOptions, newton_schulz
from iroot.ops import Ops
from iroot.registry import MethodSpec, NoOptions, Operands, Workload, register

PLANTED = Path(iroot.__file__).resolve().parent / "PLANTED"
BASE_S = 2e-3


def planted(operands: Operands, ops: Ops, options: NoOptions) -> Tensor:
    """Sleep, then copy: a sleep is as long on a busy machine as on an idle one."""
    fault = PLANTED.read_text() if PLANTED.exists() else ""
    if fault == "raise":
        raise RuntimeError("planted failure")
    time.sleep(BASE_S * (float(fault) if fault else 1.0))
    return operands.A.clone()


def planted_newton_schulz(operands: Operands, ops: Ops, options: NoOptions) -> Tensor:
    """The library's Newton-Schulz iteration of five steps, or as many as are planted, and 2 ms for each."""
    steps = int(PLANTED.read_text()) if PLANTED.exists() else 5
    time.sleep(steps * BASE_S)
    return newton_schulz(operands, ops, NewtonSchulzOptions(steps=steps))


def _nothing(workload: Workload, options: Any) -> None:
    return None


def _zero(workload: Workload, options: Any) -> float:
    return 0.0


register(
    MethodSpec(
        name="planted",
        task="copy",
        function=planted,
        precisions=("fp32",),
        flops=_zero,
        bytes_moved=_zero,
        accuracy=_nothing,
        summary="A copy after 2 ms",
        citation="none: planted for tests",
    )
)
register(
    MethodSpec(
        name="planted_newton_schulz",
        task="polar",
        function=planted_newton_schulz,
        precisions=("fp32",),
        flops=_zero,
        bytes_moved=_zero,
        accuracy=_nothing,
        summary="Newton-Schulz, 2 ms a step",
        citation="none: planted for tests",
    )
)
