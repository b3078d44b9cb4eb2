"""Samples of other benchmark programs as runs: stored, compared and reported by the same code as measured ones.

A run made of them has no quality and no controls, and of the machine it knows what the file says. Launch numbers are
stored one higher than in the file: launch 0 of a run is its quality pass, and files may count from 0.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import UsageError
from harness.external_formats import Reading, Row, read_external
from harness.records import (
    EXTERNAL,
    INTERLEAVED,
    Case,
    CaseResult,
    LaunchRecord,
    Mode,
    Outcome,
    PlannedCase,
    RunRecord,
    RunStatus,
    SourceIdentity,
)

if TYPE_CHECKING:
    from harness.store import Store

_FIRST_LAUNCH = 1
"""What launch 0 of a file becomes."""

NOT_STATED = "-"
"""Coordinates that a case of another program does not have."""


def import_external(store: Store, files: Sequence[Path], name: str, *, interleaved: bool) -> tuple[RunRecord, ...]:
    """Store the samples of `files` as the run `name`; as `name-ARM`, one run per arm, where a table names arms.

    Args:
        interleaved: the launches of the runs to be compared alternated, so that equal numbers are pairs.

    Raises:
        UsageError: a file cannot be read as samples, or the name cannot be a run's.
        StoreError: the store holds a run of this name already.
    """
    reading = read_external(files)
    arms = sorted({row.arm for row in reading.rows if row.arm is not None})
    if not arms:
        partner = INTERLEAVED if interleaved else None
        return (_import(store, reading, files, run_id=name, partner=partner),)
    if interleaved and len(arms) != 2:
        raise UsageError(f"--paired needs two arms in one file, or files without arms; got {', '.join(arms)}")
    ids = {arm: f"{name}-{arm}" for arm in arms}
    return tuple(
        _import(
            store,
            reading,
            files,
            run_id=ids[arm],
            arm=arm,
            partner=ids[arms[1 - position]] if interleaved else None,
        )
        for position, arm in enumerate(arms)
    )


def _import(
    store: Store,
    reading: Reading,
    files: Sequence[Path],
    *,
    run_id: str,
    partner: str | None,
    arm: str | None = None,
) -> RunRecord:
    rows = [row for row in reading.rows if row.arm == arm]
    launches = tuple(_launches(run_id, rows, reading))
    names = dict.fromkeys([*(row.case for row in rows), *(failure.case for failure in reading.failures)])
    contents = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
    origin = reading.origin
    run = RunRecord(
        run_id=run_id,
        created_at=origin.measured_at or datetime.now(UTC).isoformat(timespec="microseconds"),
        status=RunStatus.COMPLETE,
        manifest=EXTERNAL,
        manifest_hash=hashlib.sha256(EXTERNAL.encode()).hexdigest(),
        manifest_toml="",
        launches=len({row.launch for row in rows}),
        machine=origin.machine,
        software=origin.software,
        source=SourceIdentity(revision=origin.revision, dirty=origin.dirty, source_hash=contents),
        cases=tuple(_planned(name) for name in names),
        imported_from=f"{reading.format}: {', '.join(file.name for file in files)}",
        arm=arm,
        paired_with=partner,
        note=reading.note,
    )
    store.import_run(run, launches)
    return run


def _planned(name: str) -> PlannedCase:
    case = Case(task=EXTERNAL, method=name, precision=NOT_STATED, m=0, n=0, problem=NOT_STATED, mode=Mode.EAGER)
    return PlannedCase(case=case)


def _launches(run_id: str, rows: Sequence[Row], reading: Reading) -> list[LaunchRecord]:
    """One record per launch; a case that failed in a launch has no samples there."""
    failures = {(each.launch, each.case): each for each in reading.failures}
    samples: dict[tuple[int, str], list[float]] = defaultdict(list)
    for row in rows:
        samples[row.launch, row.case].append(row.seconds)
    results: dict[int, list[CaseResult]] = defaultdict(list)
    for number, case in sorted({*samples, *failures}, key=lambda key: key[0]):
        failed = failures.get((number, case))
        launch = number + _FIRST_LAUNCH
        results[launch].append(
            CaseResult(
                case_id=case,
                launch=launch,
                process_id=0,
                outcome=failed.outcome if failed else Outcome.OK,
                error=failed.error if failed else None,
                samples_s=() if failed else tuple(samples[number, case]),
            )
        )
    return [
        LaunchRecord(run_id=run_id, launch=launch, processes=(), results=tuple(found), wall_s=0.0)
        for launch, found in results.items()
    ]
