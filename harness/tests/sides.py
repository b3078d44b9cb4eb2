"""Two sides of a comparison with planted truth: exact ratios of time and error, chosen outcomes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from harness.compare import compare
from harness.records import CaseSummary, CaseVerdict, Mode, Outcome, PlannedCase, Quality, RunStatus, RunSummary
from harness.tests.factories import make_case, make_planned, make_run

NOISE = (0.0, 1.0, -1.0, 0.5, -0.5, 0.0)
"""Standardised launch-to-launch pattern; the mean is zero, so planted ratios are exact."""

Kind = Literal["baseline", "previous_run", "run", "paired"]


@dataclass(frozen=True, kw_only=True)
class Side:
    """One side of one case: `time` relative to 1 ms, `error` relative to 1e-3."""

    time: float = 1.0
    noise: float = 0.002
    launches: int = 6
    error: float = 1.0
    outcome: Outcome = Outcome.OK
    planned: PlannedCase = field(default_factory=make_planned)
    changes: Mapping[str, Any] = field(default_factory=dict)

    def summary(self) -> CaseSummary:
        ok = self.outcome is Outcome.OK
        medians = {i + 1: 1e-3 * self.time * math.exp(self.noise * NOISE[i % 6]) for i in range(self.launches)}
        quality = tuple(Quality(seed=seed, relative_error=1e-3 * self.error * (1 + seed)) for seed in range(5))
        made = CaseSummary(
            planned=self.planned,
            outcome=self.outcome,
            error=None if ok else "RuntimeError: planted",
            launch_medians_s=medians if ok else {},
            quality=quality if self.outcome in (Outcome.OK, Outcome.THROTTLED) else (),
            peak_bytes=64 * 2**20,
        )
        return made.model_copy(update=dict(self.changes))


def run_of(*sides: Side, number: int = 1, **changes: Any) -> RunSummary:
    """A complete run of the given cases; `changes` replace fields of its record."""
    run = make_run([side.planned for side in sides], number=number, launches=6, status=RunStatus.COMPLETE)
    cases = {side.planned.case.case_id: side.summary() for side in sides}
    return RunSummary(run=run.model_copy(update=changes), cases=cases)


def judge(candidate: Side, reference: Side, *, kind: Kind = "paired") -> CaseVerdict:
    """The verdict of a comparison of one case."""
    return compare(run_of(candidate, number=2), run_of(reference), kind=kind).verdicts[0]


def planned(method: str = "coupled_pe", **changes: Any) -> PlannedCase:
    """A planned case of the given method, fields replaced."""
    return make_planned(make_case(method)).model_copy(update=changes)


CONTROL = make_planned(make_case("cublas", task="gemm", problem="gaussian"), control=True)
COPY = make_planned(make_case("copy", task="copy", problem="gaussian"), control=True)
EAGER = make_planned(make_case(mode=Mode.EAGER)).model_copy(update={"gates": False})
