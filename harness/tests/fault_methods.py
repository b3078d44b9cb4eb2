"""Methods that go wrong on purpose, one way each; workers under test get them by `--import`."""

from __future__ import annotations

import os
import time
from typing import Any

import torch
from torch import Tensor

from iroot.errors import UnsupportedError
from iroot.ops import Ops
from iroot.registry import MethodSpec, NoOptions, Operands, Workload, register

HANG_S = 600.0


def good(operands: Operands, ops: Ops, options: NoOptions) -> Tensor:
    """A copy, as asked."""
    return operands.A.clone()


def raises(operands: Operands, ops: Ops, options: NoOptions) -> Tensor:
    """Raises."""
    raise RuntimeError("planted failure")


def nan(operands: Operands, ops: Ops, options: NoOptions) -> Tensor:
    """One entry is NaN."""
    result = operands.A.clone()
    result[..., 0, 0] = torch.nan
    return result


def out_of_memory(operands: Operands, ops: Ops, options: NoOptions) -> Tensor:
    """Asks for more memory than any machine has."""
    return torch.empty(2**60, dtype=torch.uint8)


def hangs(operands: Operands, ops: Ops, options: NoOptions) -> Tensor:
    """Returns after ten minutes."""
    time.sleep(HANG_S)
    return operands.A.clone()


def dies(operands: Operands, ops: Ops, options: NoOptions) -> Tensor:
    """Ends the process."""
    os._exit(9)


def unsupported(operands: Operands, ops: Ops, options: NoOptions) -> Tensor:
    """Says that it cannot."""
    raise UnsupportedError("planted refusal")


def alias(operands: Operands, ops: Ops, options: NoOptions) -> Tensor:
    """Returns its input."""
    return operands.A


def wrong_shape(operands: Operands, ops: Ops, options: NoOptions) -> Tensor:
    """Returns one row less."""
    return operands.A[..., 1:, :].clone()


_memo: dict[int, Tensor] = {}


def stale(operands: Operands, ops: Ops, options: NoOptions) -> Tensor:
    """Computes once per input and hands the same tensor out again."""
    key = operands.A.data_ptr()
    if key not in _memo:
        _memo[key] = operands.A.clone()
    return _memo[key]


def _none(workload: Workload, options: Any) -> None:
    return None


def _elements(workload: Workload, options: Any) -> float:
    return float(workload.m * workload.n * workload.batch)


for function in (good, raises, nan, out_of_memory, hangs, dies, unsupported, alias, wrong_shape, stale):
    register(
        MethodSpec(
            name=f"fault_{function.__name__}",
            task="copy",
            function=function,
            precisions=("fp32",),
            flops=lambda workload, options: 0.0,
            bytes_moved=_elements,
            accuracy=_none,
            summary=str(function.__doc__),
            citation="none: planted for tests",
        )
    )
