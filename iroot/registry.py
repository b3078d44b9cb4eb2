"""Tasks, methods and their look-up. A method is one file in `iroot/methods/` that ends in one `register(...)`.

Methods outside this project register through the entry point group `iroot.methods`: each entry point names a module
whose import registers.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from functools import cache
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, Literal

from iroot.errors import InvalidInputError, UnknownNameError

if TYPE_CHECKING:
    from torch import Tensor

    from iroot.ops import Ops

Role = Literal["method", "reference", "opponent", "control"]
OperandKind = Literal["spd", "rectangular", "gram", "square"]
Backend = Literal["auto", "graph", "torch"]


@dataclass(frozen=True, kw_only=True)
class TaskSpec:
    """What is computed, and which of a case's coordinates it has.

    Attributes:
        has_root: the task takes a root p.
        has_columns: the task takes a right-hand side B with k columns.
        operand: `spd` (A is n x n symmetric positive definite), `rectangular` (G is m x n), `gram` (G is m x n, and
            G^T G + eps I is positive definite) or `square` (A is n x n, not singular).
    """

    name: str
    has_root: bool
    has_columns: bool
    operand: OperandKind
    formula: str

    @property
    def is_square(self) -> bool:
        """Whether A is n x n."""
        return self.operand in ("spd", "square")


TASKS: dict[str, TaskSpec] = {
    task.name: task
    for task in (
        TaskSpec(name="inverse_root", has_root=True, has_columns=False, operand="spd",
                 formula="X = (A + eps I)^(-1/p)"),
        TaskSpec(name="inverse_apply", has_root=True, has_columns=True, operand="spd",
                 formula="Z = (A + eps I)^(-1/p) B"),
        TaskSpec(name="gram_apply", has_root=True, has_columns=True, operand="gram",
                 formula="Z = (G^T G + eps I)^(-1/p) B, G m x n; with G G^T it is that of G^T"),
        TaskSpec(name="solve", has_root=False, has_columns=True, operand="square",
                 formula="Z = A^(-1) B, A n x n, not symmetric"),
        TaskSpec(name="polar", has_root=False, has_columns=False, operand="rectangular",
                 formula="U = polar factor of G = U H, U^T U = I (m >= n) or U U^T = I (m <= n)"),
        TaskSpec(name="gemm", has_root=False, has_columns=True, operand="rectangular",
                 formula="C = A B, A m x n, B n x k"),
        TaskSpec(name="syrk", has_root=False, has_columns=False, operand="rectangular",
                 formula="C = G G^T, G m x n"),
        TaskSpec(name="copy", has_root=False, has_columns=False, operand="rectangular",
                 formula="C = A, device to device"),
    )
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Operands:
    """One posed problem, as a caller would pose it.

    Attributes:
        A: (..., n, n), symmetric positive definite but for `solve`; or (..., m, n) for `gram_apply`, `polar`, `gemm`
            and `copy`.
        B: (..., n, k) right-hand side, where the task has one.
        p: the root, an integer >= 1, where the task has one.
        eps: absolute damping: the target is the root of A + eps I (`gram_apply`: of A^T A + eps I).
        lower: what the caller knows of the spectrum: lambda_min(A + eps I) >= lower * lambda_max(A + eps I)
            (`gram_apply`: of A^T A + eps I), or for `polar` and `solve` sigma_min >= lower * sigma_max. None: unknown.
            Given, no method needs a host synchronisation, but for those that check their result (`solve`).
    """

    A: Tensor
    B: Tensor | None = None
    p: int | None = None
    eps: float = 0.0
    lower: float | None = None


@dataclass(frozen=True, kw_only=True)
class Workload:
    """The size of one call, for FLOP and byte formulas and accuracy statements. `lower` as in `Operands`."""

    m: int
    n: int
    precision: str
    batch: int = 1
    k: int | None = None
    p: int | None = None
    lower: float | None = None


@dataclass(frozen=True)
class NoOptions:
    """A method without options."""


@dataclass(frozen=True, kw_only=True)
class MethodSpec:
    """The one record of a method; tests, sweeps, reports and the command line all read it.

    Attributes:
        function: (operands, ops, options) -> result; modifies no input, raises on wrong use, performs no host
            synchronisation when `capturable` and `operands.lower` is given.
        options: frozen dataclass with a default for every field.
        roots: the roots p served, or None for any integer p >= 1 (and for tasks without a root).
        precisions: names from the precision table.
        capturable: the call can be recorded in a CUDA graph.
        flops: (workload, options) -> floating-point operations of one call, symmetric products counted half.
        bytes_moved: (workload, options) -> least device memory traffic: inputs read, results written, once each.
        accuracy: (workload, options) -> largest relative error (polar: distance to the true factor) that the method
            states for a problem whose spectrum is within `workload.lower`, or None where it states none.
        steps: (workload, options) -> steps of the iteration, or None where the method does not say.
        role: `method`; `reference` (slow and exact); `opponent` (a published competitor's recipe); `control` (code the
            project does not own, measured in every launch).
        backend: whose products the method runs on, see `ops.make_ops`. `torch` for opponents and controls: what a user
            gets without this project.
    """

    name: str
    task: str
    function: Callable[[Operands, Ops, Any], Tensor]
    precisions: tuple[str, ...]
    flops: Callable[[Workload, Any], float]
    bytes_moved: Callable[[Workload, Any], float]
    accuracy: Callable[[Workload, Any], float | None]
    summary: str
    citation: str
    options: type[Any] = NoOptions
    roots: tuple[int, ...] | None = None
    steps: Callable[[Workload, Any], int] | None = None
    capturable: bool = True
    batched: bool = True
    role: Role = "method"
    backend: Backend = "auto"

    def make_options(self, values: dict[str, Any]) -> Any:
        """Build the option record from plain values; an unknown key raises UnknownNameError."""
        known = {field.name for field in fields(self.options)}
        for key in values:
            if key not in known:
                raise UnknownNameError(f"option of {self.task}/{self.name}", key, known or {"(none)"})
        return self.options(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})


_METHODS: dict[tuple[str, str], MethodSpec] = {}


def register(spec: MethodSpec) -> MethodSpec:
    """Add a method. Raises InvalidInputError on a second method of the same task and name."""
    if spec.task not in TASKS:
        raise UnknownNameError("task", spec.task, TASKS)
    key = (spec.task, spec.name)
    if key in _METHODS:
        raise InvalidInputError(f"method {spec.task}/{spec.name} is registered already")
    _METHODS[key] = spec
    return spec


@cache
def _load() -> None:
    import iroot.methods

    for module in pkgutil.iter_modules(iroot.methods.__path__):
        if not module.name.startswith("_"):
            importlib.import_module(f"iroot.methods.{module.name}")
    for entry in entry_points(group="iroot.methods"):
        entry.load()


def methods(task: str | None = None) -> Iterator[MethodSpec]:
    """Every registered method, of one task or of all, in order of task and name."""
    _load()
    if task is not None and task not in TASKS:
        raise UnknownNameError("task", task, TASKS)
    yield from (_METHODS[key] for key in sorted(_METHODS) if task in (None, key[0]))


def get_method(task: str, name: str) -> MethodSpec:
    """Return one method; an unknown task or name raises UnknownNameError with the nearest valid name."""
    found = {spec.name: spec for spec in methods(task)}
    if name not in found:
        raise UnknownNameError(f"method of {task}", name, found)
    return found[name]
