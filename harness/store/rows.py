"""Records to table rows. A field added to a record without a column of its name fails here, loudly, never silently."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from pydantic import TypeAdapter

from harness.errors import StoreError
from harness.records import (
    CaseResult,
    CaseVerdict,
    Comparison,
    LaunchedKernel,
    LaunchRecord,
    LaunchStarted,
    MachineIdentity,
    MachineState,
    PlannedCase,
    RunRecord,
)
from harness.store.database import execute

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

    from harness.qualification import Qualification

Row = dict[str, Any]

KERNELS = TypeAdapter(tuple[LaunchedKernel, ...])


def insert(connection: DuckDBPyConnection, table: str, rows: Sequence[Row]) -> None:
    """Append rows, columns matched by name."""
    if rows:
        insert_arrow(connection, table, pa.Table.from_pylist(list(rows)))


def insert_arrow(connection: DuckDBPyConnection, table: str, rows: pa.Table) -> None:
    """Append an Arrow table, columns matched by name."""
    connection.register("new_rows", rows)
    try:
        execute(connection, f"insert into {table} by name select * from new_rows")
    finally:
        connection.unregister("new_rows")


def machine_id(machine: MachineIdentity) -> str:
    """Stands for all fields of an identity."""
    return hashlib.sha256(machine.model_dump_json().encode()).hexdigest()[:16]


def machine_row(machine: MachineIdentity) -> Row:
    return {"machine_id": machine_id(machine), **machine.model_dump()}


def run_row(run: RunRecord) -> Row:
    row = run.model_dump(mode="json", exclude={"machine", "software", "source", "cases"})
    source = run.source.model_dump()
    return {**row, **source, "machine_id": machine_id(run.machine), "software": run.software.model_dump_json()}


def case_rows(run: RunRecord, first_key: int) -> list[Row]:
    return [_case_row(planned, run.run_id, first_key + i, i) for i, planned in enumerate(run.cases)]


def _case_row(planned: PlannedCase, run_id: str, key: int, position: int) -> Row:
    case = planned.case
    return {
        "case_key": key,
        "run_id": run_id,
        "case_id": case.case_id,
        "position": position,
        **case.model_dump(mode="json", exclude={"options"}),
        "options": json.dumps(dict(case.options)),
        "expect": planned.expect,
        "gates": planned.gates,
        "control": planned.control,
        "planned": planned.model_dump_json(),
    }


def process_row(started: LaunchStarted, position: int) -> Row:
    row = started.model_dump(exclude={"event", "state"})
    return {**row, "position": position, "state": started.state.model_dump_json()}


def outcome_row(result: CaseResult, case_key: int) -> Row:
    hidden = {"event", "case_id", "samples_s", "quality", "kernels", "state_before", "state_after"}
    return {
        "case_key": case_key,
        **result.model_dump(mode="json", exclude=hidden),
        "kernels": None if result.kernels is None else KERNELS.dump_json(result.kernels).decode(),
        "state_before": _state_json(result.state_before),
        "state_after": _state_json(result.state_after),
    }


def _state_json(state: MachineState | None) -> str | None:
    return None if state is None else state.model_dump_json()


def quality_rows(results: Iterable[CaseResult], keys: Mapping[str, int]) -> list[Row]:
    return [
        {"case_key": keys[result.case_id], "launch": result.launch, **quality.model_dump()}
        for result in results
        for quality in result.quality
    ]


def sample_table(launch: LaunchRecord, keys: Mapping[str, int]) -> pa.Table:
    """All samples of a launch as columns. Raises StoreError on a sample that is not a positive finite time."""
    measured = [result for result in launch.results if result.samples_s]
    counts = [len(result.samples_s) for result in measured]
    seconds = np.fromiter(
        (sample for result in measured for sample in result.samples_s), dtype=np.float64, count=sum(counts)
    )
    case_keys = np.repeat(np.array([keys[result.case_id] for result in measured], dtype=np.int32), counts)
    bad = np.flatnonzero(~(np.isfinite(seconds) & (seconds > 0)))
    if bad.size:
        names = {key: case_id for case_id, key in keys.items()}
        raise StoreError(
            f"run {launch.run_id}, launch {launch.launch}: samples must be positive finite seconds, "
            f"got {seconds[bad[0]]} in {names[int(case_keys[bad[0]])]}"
        )
    starts = np.repeat(np.cumsum([0, *counts[:-1]], dtype=np.int64), counts) if counts else np.empty(0, np.int64)
    return pa.table(
        {
            "case_key": case_keys,
            "launch": np.full(seconds.size, launch.launch, dtype=np.int32),
            "position": (np.arange(seconds.size, dtype=np.int64) - starts).astype(np.int32),
            "seconds": seconds,
        }
    )


def comparison_row(comparison: Comparison, comparison_id: str, position: int) -> Row:
    return {
        "comparison_id": comparison_id,
        "position": position,
        "candidate": comparison.candidate,
        "reference": comparison.reference,
        "kind": comparison.kind,
        "manifest": comparison.manifest,
        "machine_class": comparison.machine_class,
        "record": comparison.model_dump_json(exclude={"verdicts"}),
    }


def qualification_row(qualification: Qualification, position: int) -> Row:
    return {
        "qualification_id": qualification.qualification_id,
        "position": position,
        "manifest": qualification.manifest,
        "machine_class": qualification.machine.machine_class,
        "uuid": qualification.machine.uuid,
        "record": qualification.model_dump_json(),
    }


def verdict_row(verdict: CaseVerdict, comparison_id: str, position: int) -> Row:
    return {
        "comparison_id": comparison_id,
        "position": position,
        "case_id": verdict.case_id,
        "verdict": str(verdict.verdict),
        "gates": verdict.gates,
        "ratio": verdict.ratio,
        "record": verdict.model_dump_json(),
    }
