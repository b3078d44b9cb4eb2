"""Binding a case to its method on one device, or saying why it cannot be served there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from harness.records import Case, Mode
from iroot.errors import UnsupportedError
from iroot.ops import Ops, make_ops
from iroot.registry import MethodSpec, Operands, get_method


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A method bound to one case. `call` maps operands to the result; enter `ops.arithmetic()` around it."""

    spec: MethodSpec
    options: Any
    ops: Ops
    call: Callable[[Operands], Tensor]


def prepare(case: Case, device: torch.device) -> Prepared:
    """Look the case's method up and bind it.

    Raises:
        UnsupportedError: the machine or the method cannot serve the case; the message says why.
        UnknownNameError: no such method or option.
    """
    return bind(get_method(case.task, case.method), case, device)


def bind(spec: MethodSpec, case: Case, device: torch.device) -> Prepared:
    """Bind a method to the case's options and precision; raises as `prepare`."""
    reason = unserved_reason(case, spec, device)
    if reason is not None:
        raise UnsupportedError(reason)
    # What is judged and what is replayed must be the same products.
    backend = "graph" if case.mode is Mode.GRAPH and spec.backend == "auto" else spec.backend
    ops = make_ops(case.precision, device, backend)
    options = spec.make_options(dict(case.options))
    return Prepared(spec=spec, options=options, ops=ops, call=lambda operands: spec.function(operands, ops, options))


def unserved_reason(case: Case, spec: MethodSpec, device: torch.device) -> str | None:
    """Why the method cannot serve the case on this kind of device, or None; the precision's unit is not asked for."""
    name = f"{spec.task}/{spec.name}"
    if case.precision not in spec.precisions:
        return f"{name} does not serve precision '{case.precision}'; it serves {', '.join(spec.precisions)}"
    if spec.roots is not None and case.p not in spec.roots:
        return f"{name} does not serve p = {case.p}; it serves {', '.join(map(str, spec.roots))}"
    if case.batch > 1 and not spec.batched:
        return f"{name} takes one matrix at a time, not a batch of {case.batch}"
    if case.mode is Mode.GRAPH and device.type != "cuda":
        return f"mode graph needs CUDA graphs, which {device} has not; use mode eager"
    if case.mode is Mode.GRAPH and not spec.capturable:
        return f"{name} waits for the device during a call and cannot be captured in a CUDA graph; use mode eager"
    return None
