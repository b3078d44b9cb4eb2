"""What a report knows of methods besides their measurements: role, FLOPs, and the policies of reading a result."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from harness.records import Case

DEFAULT_TARGETS = {
    "inverse_root": 1e-2,
    "inverse_apply": 1e-2,
    "gram_apply": 1e-2,
    "solve": 1e-2,
    "polar": 0.3,
    "gemm": 1e-2,
    "syrk": 1e-2,
}
"""Relative error asked for where a manifest names none.

1e-2: a preconditioner built from noisy gradients gains nothing from a finer root. 0.3: the published five-step
Newton-Schulz sets that Muon trains with leave singular values anywhere in about 0.7 .. 1.2; the shipped
manifests agree.
"""

FALLBACK_TARGET = 1e-2
"""For a task that has no entry above."""


@dataclass(frozen=True, kw_only=True)
class Opponent:
    """The published recipe that the times of a task are set against; the first precision found is taken."""

    task: str
    method: str
    precisions: tuple[str, ...]


OPPONENTS = (
    Opponent(task="polar", method="you_newton_schulz", precisions=("bf16", "bf16_emulated", "fp32")),
    Opponent(task="inverse_root", method="coupled_newton", precisions=("fp32",)),
    Opponent(task="gemm", method="cublas", precisions=("bf16", "bf16_emulated", "fp32")),
    Opponent(task="syrk", method="cublas", precisions=("bf16", "bf16_emulated", "fp32")),
)
"""1.00 in the column `vs opponent`: on polar factors the five-step set of You in bf16, on cuBLAS products; on inverse
roots float32 coupled Newton, the honest recipe of today's Shampoo; on products cuBLAS itself."""


@dataclass(frozen=True, kw_only=True)
class MethodFacts:
    """What the registry says of one case's method.

    Attributes:
        flops: of one call, symmetric products counted half.
        bytes_moved: least device memory traffic of one call: inputs read, results written, once each.
    """

    role: str
    summary: str
    citation: str
    flops: float | None
    bytes_moved: float | None


Catalog = Callable[[Case], MethodFacts | None]
"""Facts of a case's method; None where the method is not registered (any more)."""


def registry_facts(case: Case) -> MethodFacts | None:
    """Look a case's method up in the registry; a stored run may name a method or an option that is gone."""
    from iroot.errors import IrootError
    from iroot.registry import Workload, get_method

    try:
        spec = get_method(case.task, case.method)
        options = spec.make_options(dict(case.options))
        lower = _known_lower(case)
    except IrootError:
        return None
    workload = Workload(
        m=case.m,
        n=case.n,
        precision=case.precision,
        batch=case.batch,
        k=case.k,
        p=case.p,
        lower=lower,
    )
    flops: float | None
    bytes_moved: float | None
    try:
        flops, bytes_moved = spec.flops(workload, options), spec.bytes_moved(workload, options)
    except IrootError:
        flops = bytes_moved = None  # the method refuses the case, e.g. Chebyshev's degree is beyond its limit
    return MethodFacts(
        role=spec.role, summary=spec.summary, citation=spec.citation, flops=flops, bytes_moved=bytes_moved
    )


def _known_lower(case: Case) -> float | None:
    """The bound on the spectrum that the problem's caller knows: it decides the number of steps, hence the FLOPs."""
    from harness.judge.problems import PROBLEMS
    from iroot.registry import TASKS

    spec = PROBLEMS.get(case.problem)
    return None if spec is None else spec.lower(TASKS[case.task].operand, case.m, case.n)


def target_error(task: str, planned: float | None) -> float:
    """The error a reader asks for: the manifest's, else the task's default."""
    return planned if planned is not None else DEFAULT_TARGETS.get(task, FALLBACK_TARGET)


def opponent_of(task: str) -> Opponent | None:
    """The opponent of a task, if it has one."""
    return next((opponent for opponent in OPPONENTS if opponent.task == task), None)


def is_opponent(case: Case) -> bool:
    """Whether a case runs the recipe that its task's times are set against."""
    opponent = opponent_of(case.task)
    return opponent is not None and case.method == opponent.method and case.precision in opponent.precisions


def task_formula(task: str) -> str | None:
    """What a task computes, or None for a task that is not known (any more)."""
    from iroot.registry import TASKS

    spec = TASKS.get(task)
    return None if spec is None else spec.formula
