"""Work on the host that `torch.compile` must not look into."""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, TypeVar

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def host_constant(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Mark a function whose result `torch.compile` takes for a constant of its arguments.

    Schedules are found with NumPy, which it cannot trace. The arguments must be numbers, strings and option records,
    not records made inside the traced code.

    The mark is the one attribute that `torch.compiler.assume_constant_result` sets; calling that would import
    `torch._dynamo` (1.4 s) with every method. The tests compile each method into one graph, which fails without it.
    """
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function
