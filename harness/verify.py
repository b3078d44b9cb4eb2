"""Correctness of every method on this machine: small problems against float64, within the accuracy it states."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

import torch

from harness.errors import UsageError
from harness.judge.cache import TensorCache
from harness.judge.metrics import measure_quality
from harness.judge.problems import pose
from harness.judge.references import reference
from harness.preparation import bind
from harness.records import Case, Mode
from iroot.errors import UnknownNameError
from iroot.precision import get_precision, unsupported_reason
from iroot.registry import TASKS, MethodSpec, OperandKind, Workload, methods

ROOTS = (1, 2, 3, 4, 8)
COLUMNS = 80

Status = Literal["ok", "miss", "unstated", "unsupported", "failed"]


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A problem and a shape to verify on. Dimensions are multiples of 16, which FP8 and INT8 products require."""

    problem: str
    m: int
    n: int
    batch: int = 1


SETTINGS: dict[OperandKind, tuple[Setting, ...]] = {
    "spd": (
        Setting(problem="logspace_1e2", m=96, n=96),
        Setting(problem="logspace_1e4", m=96, n=96),
        Setting(problem="wishart", m=64, n=64, batch=2),
    ),
    "rectangular": (
        Setting(problem="gaussian", m=64, n=160),
        Setting(problem="logspace_1e2", m=128, n=96),
        Setting(problem="spike", m=64, n=96, batch=2),
    ),
    "gram": (
        Setting(problem="logspace_1e2", m=64, n=160),
        Setting(problem="wishart", m=96, n=64),
        Setting(problem="spike", m=48, n=64, batch=2),
    ),
    "square": (
        Setting(problem="logspace_1e1", m=96, n=96),
        Setting(problem="row_heterogeneous", m=96, n=96),
        Setting(problem="logspace_1e4", m=64, n=64, batch=2),
    ),
}


@dataclass(frozen=True, kw_only=True)
class Check:
    """One method, precision, root and setting.

    Attributes:
        error: relative error against float64 (fp64: against twice as many digits); inf where the result is not finite;
            None where there is no result.
        stated: the error the method states for such a problem, None where it states none.
        status: `ok` within the stated error; `miss` beyond it; `unstated` measured, no statement to hold it to;
            `unsupported` this machine cannot; `failed` the call raised.
        detail: why, for `unsupported` and `failed`.
    """

    task: str
    method: str
    precision: str
    p: int | None
    setting: Setting | None
    error: float | None = None
    stated: float | None = None
    status: Status
    detail: str | None = None

    @property
    def bad(self) -> bool:
        """Whether this check fails the verification."""
        return self.status in ("miss", "failed")


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """A check still to be made; `refusal` says why this machine cannot make it."""

    spec: MethodSpec
    precision: str
    p: int | None = None
    setting: Setting | None = None
    refusal: str | None = None


def plan_checks(
    device: str,
    *,
    task: str | None = None,
    method: str | None = None,
    precision: str | None = None,
    roots: tuple[int, ...] | None = None,
) -> tuple[Attempt, ...]:
    """Every method x precision x p x setting, or those of one task, method name, precision or of some roots p >= 1.

    Raises:
        UnknownNameError: no such task, method or precision.
        UsageError: nothing that is left has one of the roots, or serves the precision.
    """
    if precision is not None:
        get_precision(precision)
    found = list(methods(task))
    if method is not None and method not in {spec.name for spec in found}:
        raise UnknownNameError("method" if task is None else f"method of {task}", method, {s.name for s in found})
    attempts = tuple(
        attempt
        for spec in found
        if method in (None, spec.name)
        for name in spec.precisions
        if precision in (None, name)
        for attempt in _attempts(spec, name, torch.device(device), roots)
    )
    if not attempts:
        asked = {"task": task, "method": method, "precision": precision, "p": roots and ",".join(map(str, roots))}
        words = " ".join(f"--{name} {value}" for name, value in asked.items() if value is not None)
        raise UsageError(f"nothing to verify: no method serves {words}; leave one of them out")
    return attempts


def _attempts(
    spec: MethodSpec, precision: str, device: torch.device, wanted: tuple[int, ...] | None
) -> Iterator[Attempt]:
    task = TASKS[spec.task]
    served = [p for p in wanted or ROOTS if spec.roots is None or p in spec.roots]
    if wanted is not None and not (task.has_root and served):
        return
    refusal = unsupported_reason(get_precision(precision), device)
    if refusal is not None:
        yield Attempt(spec=spec, precision=precision, refusal=refusal)
        return
    for p in served if task.has_root else [None]:
        for setting in SETTINGS[task.operand]:
            if setting.batch == 1 or spec.batched:
                yield Attempt(spec=spec, precision=precision, p=p, setting=setting)


def verify(device: str, attempts: Iterable[Attempt]) -> Iterator[Check]:
    """Make the checks, one by one. On a CPU, one thread: more would wait for each other on matrices this small."""
    if device == "cpu":
        torch.set_num_threads(1)
    cache = TensorCache.for_device(torch.device(device))
    for attempt in attempts:
        check = Check(task=attempt.spec.task, method=attempt.spec.name, precision=attempt.precision, p=attempt.p,
                      setting=attempt.setting, status="unsupported", detail=attempt.refusal)  # fmt: skip
        if attempt.setting is None:
            yield check
            continue
        try:
            yield _measured(check, attempt.spec, attempt.setting, torch.device(device), cache)
        except Exception as failure:  # a method may raise anything; the others are still to be checked
            yield replace(check, status="failed", detail=f"{type(failure).__name__}: {failure}")


def _measured(check: Check, spec: MethodSpec, setting: Setting, device: torch.device, cache: TensorCache) -> Check:
    case = Case(task=check.task, method=check.method, precision=check.precision, p=check.p, m=setting.m, n=setting.n,
                batch=setting.batch, k=COLUMNS if TASKS[check.task].has_columns else None, problem=setting.problem,
                mode=Mode.EAGER)  # fmt: skip
    prepared = bind(spec, case, device)
    operands = pose(setting.problem, case, seed=0, device=device, cache=cache)
    with torch.no_grad(), prepared.ops.arithmetic():
        result = prepared.call(operands)
        truth = reference(case, operands, seed=0, cache=cache)
        quality = measure_quality(case, operands, result, truth, seed=0)
    workload = Workload(m=case.m, n=case.n, precision=case.precision, batch=case.batch, k=case.k, p=case.p,
                        lower=operands.lower)  # fmt: skip
    stated = spec.accuracy(workload, prepared.options)
    error = math.inf if quality.relative_error is None else quality.relative_error
    return replace(check, error=error, stated=stated, status=_status(error, stated))


def _status(error: float, stated: float | None) -> Status:
    if stated is None:
        return "unstated"
    return "ok" if error <= stated else "miss"
