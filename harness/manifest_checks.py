"""What a manifest's names mean: checks of a sweep against the registry, the precision table and the problems."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, get_args

from pydantic_core import PydanticCustomError

from harness.errors import UsageError
from harness.filters import parse_filter
from harness.judge.problems import PROBLEMS
from iroot import registry
from iroot.errors import IrootError
from iroot.precision import PRECISIONS
from iroot.registry import TASKS, MethodSpec, TaskSpec

if TYPE_CHECKING:
    from harness.manifest import Sweep

ALL = "all"
ROLE_PREFIX = "role:"


@dataclass(frozen=True, kw_only=True)
class Defect:
    """What is wrong with one field of a sweep."""

    field: str
    message: str


def is_glob(name: str) -> bool:
    """Whether a name stands for several: `all`, or with `*`, `?`, `[`."""
    return name == ALL or any(mark in name for mark in "*?[")


def matches(pattern: str, name: str) -> bool:
    """Whether `name` is meant by a name, a glob or `all`."""
    return pattern == ALL or fnmatchcase(name, pattern)


def known_tasks(names: tuple[str, ...]) -> tuple[str, ...]:
    """Refuse an unknown task."""
    _require_known(names, TASKS)
    return names


def known_task_keys(table: dict[str, float]) -> dict[str, float]:
    """Refuse a table with an unknown task as key."""
    _require_known(table, TASKS)
    return table


def known_precisions(names: tuple[str, ...]) -> tuple[str, ...]:
    """Refuse an unknown precision, or a glob that matches none."""
    _require_known(names, PRECISIONS)
    return names


def known_problems(names: tuple[str, ...]) -> tuple[str, ...]:
    """Refuse an unknown problem, or a glob that matches none."""
    _require_known(names, PROBLEMS)
    return names


def readable_filter(text: str) -> str:
    """Refuse a filter expression that does not parse."""
    try:
        parse_filter(text)
    except UsageError as error:
        raise PydanticCustomError("value_defect", "{message}", {"message": str(error)}) from None
    return text


def selected_methods(sweep: Sweep, task: str) -> Iterator[MethodSpec]:
    """The methods of `task` that a sweep's `method` field means, each once."""
    for spec in registry.methods(task):
        if any(_means(name, spec) for name in sweep.method):
            yield spec


def posed_for(task: str, problem: str) -> bool:
    """Whether a problem poses the kind of operand that a task works on."""
    return TASKS[task].operand in PROBLEMS[problem].operands


def sweep_defect(sweep: Sweep) -> Defect | None:
    """The first thing that is wrong with a sweep as a whole, or None."""
    tasks = [TASKS[name] for name in sweep.task]
    checks = (_method_defect, _root_defect, _column_defect, _shape_defect, _problem_defect, _options_defect)
    return next((found for check in checks if (found := check(sweep, tasks)) is not None), None)


def _require_known(names: Iterable[str], valid: Iterable[str]) -> None:
    choices = list(valid)
    for name in names:
        if not any(matches(name, choice) for choice in choices):
            raise PydanticCustomError("value_defect", "{message}", {"message": _unknown(name, choices)})


def _unknown(name: str, choices: list[str]) -> str:
    near = difflib.get_close_matches(name, choices, n=1, cutoff=0.4)
    hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(choices)}"
    return f"unknown '{name}'; {hint}"


def _means(name: str, spec: MethodSpec) -> bool:
    if name.startswith(ROLE_PREFIX):
        return spec.role == name.removeprefix(ROLE_PREFIX)
    if is_glob(name):
        return spec.role != "control" and matches(name, spec.name)
    return spec.name == name


def _method_defect(sweep: Sweep, tasks: list[TaskSpec]) -> Defect | None:
    specs = [spec for task in tasks for spec in registry.methods(task.name)]
    roles = [ROLE_PREFIX + role for role in get_args(registry.Role)]
    for name in sweep.method:
        if not any(_means(name, spec) for spec in specs):
            choices = sorted({spec.name for spec in specs})
            where = ", ".join(sweep.task)
            if name in roles or is_glob(name):
                return Defect(field="method", message=f"no method of {where} is meant by '{name}'")
            return Defect(field="method", message=f"{_unknown(name, choices)} (task {where})")
    return None


def _root_defect(sweep: Sweep, tasks: list[TaskSpec]) -> Defect | None:
    rooted = [task.name for task in tasks if task.has_root]
    if rooted and not sweep.p:
        return Defect(field="p", message=f"is required by task '{rooted[0]}'; give the roots, e.g. p = [2, 4]")
    if sweep.p and not rooted:
        return Defect(field="p", message=f"task '{tasks[0].name}' takes no root, got {_plain(sweep.p)}; remove p")
    return None


def _column_defect(sweep: Sweep, tasks: list[TaskSpec]) -> Defect | None:
    with_columns = [task for task in tasks if task.has_columns]
    needing = [task.name for task in with_columns if task.operand != "rectangular"]
    if needing and not sweep.k:
        return Defect(field="k", message=f"is required by task '{needing[0]}'; give the columns of B, e.g. k = 16")
    if sweep.k and not with_columns:
        message = f"task '{tasks[0].name}' takes no right-hand side, got {_plain(sweep.k)}; remove k"
        return Defect(field="k", message=message)
    return None


def _shape_defect(sweep: Sweep, tasks: list[TaskSpec]) -> Defect | None:
    if not sweep.n and not sweep.shape:
        return Defect(field="n", message="is required; give square sizes n, or shape = [[m, n], ...]")
    if any(not task.is_square for task in tasks):
        return None
    for m, n in sweep.shape:
        if m != n:
            message = f"task '{tasks[0].name}' needs square matrices, got [{m}, {n}]; use n = {n}"
            return Defect(field="shape", message=message)
    return None


def _problem_defect(sweep: Sweep, tasks: list[TaskSpec]) -> Defect | None:
    for problem in sweep.problem:
        meant = [name for name in PROBLEMS if matches(problem, name)]
        if not any(posed_for(task.name, name) for task in tasks for name in meant):
            kinds = {task.operand for task in tasks}
            fitting = [name for name, spec in PROBLEMS.items() if kinds & set(spec.operands)]
            message = f"'{problem}' poses no {'/'.join(sorted(kinds))} matrix for task '{tasks[0].name}'"
            return Defect(field="problem", message=f"{message}; fitting: {', '.join(fitting)}")
    return None


def _options_defect(sweep: Sweep, tasks: list[TaskSpec]) -> Defect | None:
    for task in tasks:
        for spec in selected_methods(sweep, task.name):
            for values in sweep.options:
                try:
                    spec.make_options(dict(values))
                except (IrootError, TypeError, ValueError) as error:
                    return Defect(field="options", message=str(error))
    return None


def _plain(values: tuple[int, ...]) -> str:
    return str(values[0]) if len(values) == 1 else str(list(values))
