"""Interleaved A/B: two arms measured on one machine in launches A B B A ..., stored as two runs that name each other.

Drift of the machine then hits both sides alike: with 1 % drift while measuring, A-then-B in sequence gives 52 % false
regressions, this order 5 % (one H100, 2026-11).
"""

from __future__ import annotations

import secrets
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from harness import environment, stats
from harness.arm_plan import software_of
from harness.arms import Arm
from harness.launcher import Observer
from harness.records import PlannedCase, RunRecord
from harness.runner import QUALITY_LAUNCH, RunRequest, Session, measured_source
from harness.standby import Standby
from harness.store import Store


@dataclass(frozen=True, kw_only=True)
class PairedRequest:
    """An A/B measurement. `base.cases` is unused: each arm has its own, from its own registry.

    Attributes:
        base: manifest, device, store and number of pairs (`launches`).
        a, b: reference and candidate.
        cases_a, cases_b: what each arm can measure.
        first: the arm whose launch comes first; B reverses the order to B A A B ...
        launch_zero: `quality` judges every case before timing; `none` times alone, for cases judged before.
    """

    base: RunRequest
    a: Arm
    b: Arm
    cases_a: tuple[PlannedCase, ...]
    cases_b: tuple[PlannedCase, ...]
    first: Literal["A", "B"] = "A"
    launch_zero: Literal["quality", "none"] = "quality"


@dataclass(frozen=True, kw_only=True)
class PairedRuns:
    """The stored runs of both arms."""

    a: RunRecord
    b: RunRecord


def run_paired(request: PairedRequest, *, observer: Observer) -> PairedRuns:
    """Measure both arms and store them; raises as `harness.runner.run_sweep` does."""
    now = datetime.now(UTC)
    stem, end = f"{now:%Y%m%d-%H%M%S}-{request.base.manifest.name}", secrets.token_hex(2)
    ids = {"A": f"{stem}-a-{end}", "B": f"{stem}-b-{end}"}
    records = {
        "A": _record(request, request.a, request.cases_a, ids["A"], ids["B"], now),
        "B": _record(request, request.b, request.cases_b, ids["B"], ids["A"], now),
    }
    arms = {"A": request.a, "B": request.b}
    store = Store(request.base.store)
    sessions: dict[str, Session] = {}
    with ExitStack() as stack:
        for side, record in records.items():
            store.create_run(record)
            sessions[side] = Session(request.base, record, arms[side], observer)
            stack.enter_context(sessions[side].recording())
        launches = _launches(request)
        workers = stack.enter_context(Standby(sessions[side].worker(launch) for side, launch in launches))
        for side, launch in launches:
            sessions[side].measure(launch, workers=workers)
    return PairedRuns(a=sessions["A"].run, b=sessions["B"].run)


def _launches(request: PairedRequest) -> list[tuple[str, int]]:
    """Arm and number of every launch, in order."""
    launches = [("A", QUALITY_LAUNCH), ("B", QUALITY_LAUNCH)] if request.launch_zero == "quality" else []
    measured = {"A": 0, "B": 0}
    for side in stats.interleaved(request.base.launches, first=request.first):
        measured[side] += 1
        launches.append((side, measured[side]))
    return launches


def _record(
    request: PairedRequest, arm: Arm, cases: tuple[PlannedCase, ...], run_id: str, other: str, now: datetime
) -> RunRecord:
    base = request.base
    return RunRecord(
        run_id=run_id,
        created_at=now.isoformat(timespec="seconds"),
        manifest=base.manifest.name,
        manifest_hash=base.manifest.manifest_hash,
        manifest_toml=base.manifest.to_toml(),
        filter=base.filter,
        launches=base.launches,
        seed=base.manifest.seed,
        machine=environment.machine_identity(base.device),
        software=software_of(arm),
        source=measured_source(arm),
        cases=cases,
        arm=arm.label,
        paired_with=other,
        note=base.note,
    )
