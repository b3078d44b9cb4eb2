"""Work on the host that `torch.compile` must not look into."""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, TypeVar, cast

import torch

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def host_constant(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Mark a function whose result `torch.compile` takes for a constant of its arguments.

    Schedules are found with NumPy, which it cannot trace. The arguments must be numbers, strings and option records,
    not records made inside the traced code.
    """
    return cast(Callable[Arguments, Result], torch.compiler.assume_constant_result(function))  # type: ignore[no-untyped-call]
