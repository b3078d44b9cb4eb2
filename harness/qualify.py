"""Measures the instrument: A against A, plain and with planted slowdowns, through the code that gives verdicts.

The qualification is stored after every measurement, each a minute or more: whatever ends the process, what was measured
counts, and `resumed` goes on with it.
"""

from __future__ import annotations

import secrets
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from harness import environment
from harness.arms import Arm, current_arm
from harness.compare import compare
from harness.errors import MeasurementError, UsageError
from harness.gate_run import require_alone, require_fit
from harness.launcher import Observer
from harness.paired import PairedRequest, PairedRuns, run_paired
from harness.qualification import LEVELS, NotMeasured, PowerPoint, Qualification, case_noise, count
from harness.records import Comparison, Outcome, PlannedCase, RunSummary, Verdict
from harness.run_lock import measuring
from harness.runner import RunRequest, measured_source
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
        levels: planted slowdowns, all different, one measurement of L pairs for each.
        imports: modules that register methods of one's own.
        resume: an unfinished qualification to go on with, as `resumed` finds it.
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
    resume: Qualification | None = None


@dataclass(frozen=True, kw_only=True)
class _Measured:
    """One paired measurement of A against itself, and what the verdict code says of it."""

    candidate: RunSummary
    reference: RunSummary
    comparison: Comparison
    effect: float = 0.0


def qualify(
    request: QualifyRequest, *, observer: Observer, on_stored: Callable[[Qualification], None] = lambda stored: None
) -> Qualification:
    """Measure, store and return this machine's qualification for a manifest.

    Args:
        on_stored: told what the store holds, after every measurement.

    Raises:
        UsageError: another process goes on with the same qualification.
        MeasurementError: the machine is not fit, workers fail, or no case could be timed. What was measured before is
            stored, as after a KeyboardInterrupt.
    """
    require_fit(request.device)
    done = _measured_before(request) or [_measure(request, request.cases, None, observer)]
    cases = _timed(done[0], request.cases)
    with measuring(request.store, done[0].reference.run.run_id):  # held to the end: nobody else resumes it meanwhile
        found = request.resume or _stored(request, done, None)
        on_stored(found)
        for level in (*[None] * request.repeats, *request.levels)[len(done) :]:
            done.append(_measure(request, cases, level, observer, judged=True))
            found = _stored(request, done, found)
            on_stored(found)
    return found


def resumed(request: QualifyRequest) -> QualifyRequest:
    """`request`, to go on with the newest unfinished qualification that it fits, by that one's repeats and levels.

    Raises:
        UsageError: this machine has none of the manifest, or manifest, cases, sources, software or pairs are others.
    """
    store, name = Store(request.store), request.manifest.name
    every = store.qualifications(environment.machine_identity(request.device), name)
    unfinished = [each for each in every if not each.finished]
    if not unfinished:
        raise UsageError(
            f"--resume: {store.path} holds no unfinished qualification of this machine for {name}; "
            "start one without --resume"
        )
    for begun in unfinished:
        if not _differences(store, begun, request):
            return replace(request, resume=begun, repeats=begun.repeats, levels=begun.levels)
    raise UsageError(
        f"--resume: {unfinished[0].qualification_id} is unfinished, but was begun otherwise: "
        f"{'; '.join(_differences(store, unfinished[0], request))}; go back to that, or start anew without --resume"
    )


def _differences(store: Store, begun: Qualification, request: QualifyRequest) -> list[str]:
    """Why measurements made for `request` cannot stand beside those of `begun`."""
    first = store.run(begun.runs[0])
    found = [] if begun.pairs == request.pairs else [f"pairs: {begun.pairs} != {request.pairs}"]
    if begun.manifest_hash != request.manifest.manifest_hash:
        found.append(f"the manifest {begun.manifest} has changed")
    elif first.filter != request.filter:
        found.append(f"filter: {first.filter or 'none'} != {request.filter or 'none'}")
    elif first.cases != request.cases:
        found.append("the manifest now means other cases")
    if first.source.source_hash != measured_source(current_arm()).source_hash:
        found.append(f"the sources have changed, they were those of {first.source.revision or 'no revision'}")
    return [*found, *first.software.differences(environment.software_identity())]


def _measured_before(request: QualifyRequest) -> list[_Measured]:
    """The complete measurements of the qualification to go on with, as the store holds them."""
    store, runs = Store(request.store), request.resume.runs if request.resume else ()
    return [
        _measured(PairedRuns(a=store.run(reference), b=store.run(candidate)), store)
        for reference, candidate in zip(runs[::2], runs[1::2], strict=True)
    ]


def _stored(request: QualifyRequest, done: Sequence[_Measured], begun: Qualification | None) -> Qualification:
    """Store what the measurements say so far, in the place of what was stored before the last of them."""
    nulls, slowed = done[: request.repeats], done[request.repeats :]
    verdicts = [null.comparison for null in nulls]
    now, run = datetime.now(UTC), nulls[0].candidate.run
    new = f"q-{now:%Y%m%d-%H%M%S}-{request.manifest.name}-{secrets.token_hex(2)}"
    found = Qualification(
        qualification_id=begun.qualification_id if begun else new,
        created_at=begun.created_at if begun else now.isoformat(timespec="seconds"),
        manifest=run.manifest,
        manifest_hash=run.manifest_hash,
        machine=run.machine,
        software=run.software,
        pairs=request.pairs,
        trials=count(verdicts),
        called=count(verdicts, Verdict.REGRESSED, Verdict.IMPROVED),
        unchanged=count(verdicts, Verdict.UNCHANGED),
        cases=case_noise([(null.candidate, null.reference) for null in nulls]),
        power=tuple(_power_point(level, each) for level, each in zip(request.levels, slowed, strict=False)),
        runs=tuple(summary.run.run_id for each in done for summary in (each.reference, each.candidate)),
        not_measured=NotMeasured(repeats=request.repeats - len(nulls), levels=request.levels[len(slowed) :]),
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
    label = "A/A" if level is None else f"A/A, {100 * level:g}% planted"
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
