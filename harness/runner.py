"""Runs a manifest: a quality pass, then L timed launches, each in fresh worker processes, ingested launch by launch.

Launch 0 is the quality pass: every case over all its problem seeds, judged in float64, untimed. A case without an `ok`
outcome there is not timed: it could only hang or fail again. Launches 1 .. L time the rest, each in its own order.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from harness import environment
from harness.arms import current_arm
from harness.errors import UsageError
from harness.launcher import Launcher, LaunchRequest, Observer, read_launch, shard_path
from harness.paths import project_root, run_folder
from harness.records import Outcome, PlannedCase, RunRecord, RunStatus
from harness.store import Store
from harness.sweep import launch_order

if TYPE_CHECKING:
    from harness.manifest import Manifest

__all__ = ["Observer", "RunRequest", "run_sweep"]

QUALITY_LAUNCH = 0


@dataclass(frozen=True, kw_only=True)
class RunRequest:
    """One call of `iroot bench run`.

    Attributes:
        cases: the planned cases, controls included.
        launches: L >= 1 timed launches.
        device: `cpu`, `cuda:0`, ...
        store: the DuckDB file.
        resume: id of an unfinished run to go on with; its plan then replaces `cases`, `launches` and `filter`.
        imports: modules that register methods of one's own, imported by every worker.
    """

    manifest: Manifest
    cases: tuple[PlannedCase, ...]
    launches: int
    device: str
    store: Path
    filter: str | None = None
    resume: str | None = None
    imports: tuple[str, ...] = ()
    note: str | None = None


def run_sweep(request: RunRequest, *, observer: Observer) -> RunRecord:
    """Measure and store a run; returns its final record.

    Raises:
        UsageError: the run to resume does not fit this machine or this source.
        MeasurementError: worker processes cannot start. The run is then `failed`; finished cases are kept.
        KeyboardInterrupt: passed on after the run is stored as `interrupted` with its finished cases.
    """
    store = Store(request.store)
    run = _resumed(store, request) if request.resume else _created(store, request)
    folder = run_folder(request.store, run.run_id)
    folder.mkdir(parents=True, exist_ok=True)
    status = RunStatus.FAILED
    try:
        for launch in range(QUALITY_LAUNCH, run.launches + 1):
            _measure_launch(store, run, launch, request, observer)
        status = RunStatus.COMPLETE
    except KeyboardInterrupt:
        status = RunStatus.INTERRUPTED
        raise
    finally:
        store.finish_run(run.run_id, status)
    return store.run(run.run_id)


def _created(store: Store, request: RunRequest) -> RunRecord:
    now = datetime.now(UTC)
    manifest = request.manifest
    run = RunRecord(
        run_id=f"{now:%Y%m%d-%H%M%S}-{manifest.name}-{secrets.token_hex(2)}",
        created_at=now.isoformat(timespec="seconds"),
        manifest=manifest.name,
        manifest_hash=manifest.manifest_hash,
        manifest_toml=manifest.to_toml(),
        filter=request.filter,
        launches=request.launches,
        seed=manifest.seed,
        machine=environment.machine_identity(request.device),
        software=environment.software_identity(),
        source=environment.source_identity(project_root()),
        cases=request.cases,
        note=request.note,
    )
    store.create_run(run)
    return run


def _resumed(store: Store, request: RunRequest) -> RunRecord:
    assert request.resume is not None
    run = store.run(request.resume)
    if run.status is RunStatus.COMPLETE:
        raise UsageError(f"--resume: run {run.run_id} is complete; there is nothing to resume")
    differing = run.machine.differences(environment.machine_identity(request.device))
    if differing:
        raise UsageError(f"--resume: run {run.run_id} was measured on another machine: {'; '.join(differing)}")
    if run.source.source_hash != environment.source_identity(project_root()).source_hash:
        raise UsageError(
            f"--resume: the sources changed since run {run.run_id} began; check out "
            f"{run.source.revision or 'its sources'} or start a new run"
        )
    folder = run_folder(request.store, run.run_id)
    for launch in range(QUALITY_LAUNCH, run.launches + 1):
        _ingest(store, run, launch, folder)
    return run


def _ingest(store: Store, run: RunRecord, launch: int, folder: Path) -> None:
    """Take what a launch's shard holds into the store, in one transaction; nothing if it holds nothing."""
    record = read_launch(run.run_id, launch, shard_path(folder, launch))
    if record.processes:
        store.ingest_launch(record)


def _measure_launch(store: Store, run: RunRecord, launch: int, request: RunRequest, observer: Observer) -> None:
    folder = run_folder(request.store, run.run_id)
    quality = read_launch(run.run_id, QUALITY_LAUNCH, shard_path(folder, QUALITY_LAUNCH)).results
    not_ok = {result.case_id for result in quality if result.outcome is not Outcome.OK}
    done = {case_id for number, case_id in store.measured(run.run_id) if number == launch}
    skipped = done if launch == QUALITY_LAUNCH else done | not_ok
    order = launch_order(run.cases, seed=run.seed, launch=launch)
    cases = tuple(planned for planned in order if planned.case.case_id not in skipped)
    observer.launch_started(launch, run.launches, len(cases))
    if cases:
        threads = run.machine.threads if run.machine.kind == "cpu" else None
        launch_request = LaunchRequest(
            run_id=run.run_id,
            launch=launch,
            device=request.device,
            threads=threads,
            cases=cases,
            folder=folder,
            arm=current_arm(),
            imports=request.imports,
        )
        try:
            Launcher(launch_request, observer).run()
        finally:
            _ingest(store, run, launch, folder)
    observer.launch_finished(launch)
