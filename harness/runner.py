"""Runs a manifest: a quality pass, then L timed launches, each in fresh worker processes, ingested launch by launch.

Launch 0 is the quality pass: every case over all its problem seeds, judged in float64, untimed. A case without an `ok`
outcome there is not timed: it could only hang or fail again. Launches 1 .. L time the rest, each in its own order.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from harness import environment
from harness.arms import Arm, current_arm
from harness.errors import UsageError
from harness.launch_orders import launch_order
from harness.launcher import Launcher, LaunchRequest, Observer, read_launch, shard_path, worker_request
from harness.paths import project_root, run_folder
from harness.records import LaunchRecord, Outcome, PlannedCase, RunRecord, RunStatus, SourceIdentity
from harness.run_lock import measuring
from harness.standby import Standby, WorkerRequest
from harness.store import Store

if TYPE_CHECKING:
    from harness.manifest import Manifest

__all__ = ["Observer", "RunRequest", "Session", "measured_source", "run_sweep"]

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
        arm: the library to measure; None: the sources of the running program.
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
    arm: Arm | None = None


class Session:
    """One run being measured: its record in the store, its folder of shards, and the arm its workers import."""

    def __init__(self, request: RunRequest, run: RunRecord, arm: Arm, observer: Observer) -> None:
        self.run = run
        self._request = request
        self._arm = arm
        self._observer = observer
        self._store = Store(request.store)
        self._folder = run_folder(request.store, run.run_id)
        self._folder.mkdir(parents=True, exist_ok=True)

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Set the run's final status from how the block ends; finished cases are kept whatever happens.

        Raises UsageError if another process is measuring the run.
        """
        status = RunStatus.FAILED
        with measuring(self._request.store, self.run.run_id):
            self._store.reopen_run(self.run.run_id)
            try:
                yield
                status = RunStatus.COMPLETE
            except KeyboardInterrupt:
                status = RunStatus.INTERRUPTED
                raise
            finally:
                self._store.finish_run(self.run.run_id, status)
                self.run = self._store.run(self.run.run_id)

    def ingest(self, launch: int) -> None:
        """Take what a launch's shard holds into the store, in one transaction; nothing if it holds nothing."""
        record = self._read(launch)
        if record.processes:
            self._store.ingest_launch(record)

    def worker(self, launch: int) -> WorkerRequest:
        """The process that `measure` will take for a launch."""
        return worker_request(self._folder, launch, arm=self._arm, imports=self._request.imports)

    def measure(self, launch: int, *, workers: Standby) -> None:
        """Measure what this launch still lacks, in the order that belongs to (seed, launch)."""
        run, cases = self.run, self._outstanding(launch)
        self._observer.launch_started(launch, run.launches, len(cases), arm=run.arm)
        if cases:
            request = LaunchRequest(
                run_id=run.run_id,
                launch=launch,
                device=self._request.device,
                threads=run.machine.threads if run.machine.kind == "cpu" else None,
                cases=cases,
                folder=self._folder,
                arm=self._arm,
                imports=self._request.imports,
            )
            try:
                Launcher(request, self._observer, workers).run()
            finally:
                self.ingest(launch)
        self._observer.launch_finished(launch)

    def _read(self, launch: int) -> LaunchRecord:
        return read_launch(self.run.run_id, launch, shard_path(self._folder, launch))

    def _outstanding(self, launch: int) -> tuple[PlannedCase, ...]:
        skipped = {case_id for number, case_id in self._store.measured(self.run.run_id) if number == launch}
        if launch != QUALITY_LAUNCH:
            skipped |= {r.case_id for r in self._read(QUALITY_LAUNCH).results if r.outcome is not Outcome.OK}
        order = launch_order(self.run.cases, seed=self.run.seed, launch=launch)
        return tuple(planned for planned in order if planned.case.case_id not in skipped)


def run_sweep(request: RunRequest, *, observer: Observer) -> RunRecord:
    """Measure and store a run; returns its final record.

    Raises:
        UsageError: the run to resume does not fit this machine or this source.
        MeasurementError: worker processes cannot start. The run is then `failed`; finished cases are kept.
        KeyboardInterrupt: passed on after the run is stored as `interrupted` with its finished cases.
    """
    run = _resumable(request) if request.resume else _created(request)
    session = Session(request, run, request.arm or current_arm(), observer)
    launches = range(QUALITY_LAUNCH, run.launches + 1)
    with session.recording(), Standby(session.worker(launch) for launch in launches) as workers:
        if request.resume:
            for launch in launches:
                session.ingest(launch)
        for launch in launches:
            session.measure(launch, workers=workers)
    return session.run


def _created(request: RunRequest) -> RunRecord:
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
        source=measured_source(request.arm),
        cases=request.cases,
        arm=request.arm.label if request.arm else None,
        note=request.note,
    )
    Store(request.store).create_run(run)
    return run


def measured_source(arm: Arm | None) -> SourceIdentity:
    """Which code an arm measures: its commit, the library of its folder, or the sources of the running program."""
    here = environment.source_identity(project_root())
    if arm is None or arm.library == current_arm().library:
        return here
    if arm.revision is None:
        return environment.source_identity(arm.library)
    return here.model_copy(update={"revision": arm.revision, "dirty": False})


def _resumable(request: RunRequest) -> RunRecord:
    assert request.resume is not None
    run = Store(request.store).run(request.resume)
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
    return run
