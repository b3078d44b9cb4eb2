"""Measures the instrument: A against A, plain and with planted slowdowns, through the code that gives verdicts."""

from __future__ import annotations

import secrets
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from harness.arms import Arm, current_arm
from harness.compare import compare
from harness.errors import MeasurementError
from harness.gate_run import require_alone, require_fit
from harness.launcher import Observer
from harness.paired import PairedRequest, PairedRuns, run_paired
from harness.qualification import LEVELS, PowerPoint, Qualification, case_noise, count
from harness.records import Comparison, Outcome, PlannedCase, RunSummary, Verdict
from harness.runner import RunRequest
from harness.store import Store

if TYPE_CHECKING:
    from harness.manifest import Manifest


@dataclass(frozen=True, kw_only=True)
class QualifyRequest:
    """One qualification.

    Attributes:
        cases: the planned cases, controls included.
        pairs: L, pairs of launches behind one verdict.
        repeats: A/A measurements of L pairs; each gives one verdict per case.
        levels: planted slowdowns, one measurement of L pairs for each.
        imports: modules that register methods of one's own.
    """

    manifest: Manifest
    cases: tuple[PlannedCase, ...]
    device: str
    store: Path
    pairs: int
    repeats: int = 3
    levels: tuple[float, ...] = LEVELS
    filter: str | None = None
    imports: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class _Measured:
    """One paired measurement of A against itself, and what the verdict code says of it."""

    candidate: RunSummary
    reference: RunSummary
    comparison: Comparison
    effect: float = 0.0


def qualify(request: QualifyRequest, *, observer: Observer) -> Qualification:
    """Measure, store and return this machine's qualification for a manifest.

    Raises:
        MeasurementError: the machine is not fit, workers fail, or no case could be timed.
    """
    require_fit(request.device)
    nulls = [_measure(request, request.cases, None, observer)]
    cases = _timed(nulls[0], request.cases)
    nulls += [_measure(request, cases, None, observer, judged=True) for _ in range(request.repeats - 1)]
    slowed = {level: _measure(request, cases, level, observer, judged=True) for level in request.levels}
    every = [*nulls, *slowed.values()]
    verdicts = [null.comparison for null in nulls]
    now, run = datetime.now(UTC), nulls[0].candidate.run
    found = Qualification(
        qualification_id=f"q-{now:%Y%m%d-%H%M%S}-{request.manifest.name}-{secrets.token_hex(2)}",
        created_at=now.isoformat(timespec="seconds"),
        manifest=run.manifest,
        manifest_hash=run.manifest_hash,
        machine=run.machine,
        software=run.software,
        pairs=request.pairs,
        trials=count(verdicts),
        called=count(verdicts, Verdict.REGRESSED, Verdict.IMPROVED),
        unchanged=count(verdicts, Verdict.UNCHANGED),
        cases=case_noise([(null.candidate, null.reference) for null in nulls]),
        power=tuple(_power_point(level, measured) for level, measured in slowed.items()),
        runs=tuple(summary.run.run_id for each in every for summary in (each.reference, each.candidate)),
    )
    Store(request.store).save_qualification(found)
    return found


def _measure(
    request: QualifyRequest,
    cases: tuple[PlannedCase, ...],
    level: float | None,
    observer: Observer,
    *,
    judged: bool = False,
) -> _Measured:
    """L pairs of A against A, B slowed by `level`; quality is judged once, in the first measurement."""
    label = "A/A" if level is None else f"A/A, {level:.0%} planted"
    plain = replace(current_arm(), label=label)
    pairs = PairedRequest(
        base=RunRequest(
            manifest=request.manifest,
            cases=(),
            launches=request.pairs,
            device=request.device,
            store=request.store,
            filter=request.filter,
            imports=request.imports,
            note="qualification",
        ),
        a=plain,
        b=_slowed(plain, level),
        cases_a=cases,
        cases_b=cases,
        launch_zero="none" if judged else "quality",
    )
    return _measured(run_paired(pairs, observer=observer), Store(request.store))


def _slowed(arm: Arm, level: float | None) -> Arm:
    return replace(arm, injection=level)


def _measured(runs: PairedRuns, store: Store) -> _Measured:
    for run in (runs.a, runs.b):
        require_alone(store, run.run_id)
    candidate, reference = store.summary(runs.b.run_id), store.summary(runs.a.run_id)
    comparison = compare(candidate, reference, kind="paired")
    return _Measured(candidate=candidate, reference=reference, comparison=comparison, effect=_effect(store, candidate))


def _effect(store: Store, candidate: RunSummary) -> float:
    """Median over the gating cases of the median over launches of the measured effect; 0 where none was planted."""
    effects: dict[str, list[float]] = {}
    for launch in store.launches(candidate.run.run_id):
        for result in launch.results:
            if result.injected_effect is not None and candidate.cases[result.case_id].planned.gates:
                effects.setdefault(result.case_id, []).append(result.injected_effect)
    return statistics.median(map(statistics.median, effects.values())) if effects else 0.0


def _timed(first: _Measured, cases: Sequence[PlannedCase]) -> tuple[PlannedCase, ...]:
    """The cases that both sides timed: the others would only fail again."""
    timed = {
        case_id
        for case_id, mine in first.candidate.cases.items()
        if mine.outcome is Outcome.OK and first.reference.cases[case_id].outcome is Outcome.OK
    }
    kept = tuple(planned for planned in cases if planned.case.case_id in timed)
    if not any(planned.gates and not planned.control for planned in kept):
        raise MeasurementError(f"no gating case could be timed; see run {first.candidate.run.run_id}")
    return kept


def _power_point(level: float, measured: _Measured) -> PowerPoint:
    verdicts = [measured.comparison]
    return PowerPoint(
        planted=level, effect=measured.effect, cases=count(verdicts), called=count(verdicts, Verdict.REGRESSED)
    )
