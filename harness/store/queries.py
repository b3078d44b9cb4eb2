"""Table rows to records."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter

from harness.qualification import Qualification
from harness.records import (
    CaseResult,
    CaseVerdict,
    Comparison,
    LaunchRecord,
    LaunchStarted,
    MachineIdentity,
    MachineState,
    PlannedCase,
    Quality,
    RunRecord,
    SoftwareIdentity,
    SourceIdentity,
)
from harness.store.database import execute
from harness.store.rows import KERNELS

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

Row = dict[str, Any]

_PLANNED = TypeAdapter(tuple[PlannedCase, ...])
_RUN_FIELDS = tuple(name for name in RunRecord.model_fields if name not in {"machine", "software", "source", "cases"})


def rows(connection: DuckDBPyConnection, query: str, parameters: Sequence[object] = ()) -> list[Row]:
    """All rows of a query, by column name."""
    cursor = connection.execute(query, list(parameters))
    names = [column[0] for column in cursor.description]
    return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


def run_ids(connection: DuckDBPyConnection) -> list[str]:
    """Every run id, newest first."""
    found = execute(connection, "select run_id from run order by created_at desc, run_id desc")
    return [row[0] for row in found]


def latest_run_id(connection: DuckDBPyConnection) -> str | None:
    """The newest complete run that is no arm of an A/B or a gate, or None."""
    query = (
        "select run_id from run where status = 'complete' and arm is null order by created_at desc, run_id desc limit 1"
    )
    found = execute(connection, query)
    return found[0][0] if found else None


def select_runs(
    connection: DuckDBPyConnection, conditions: Mapping[str, object], limit: int | None = None
) -> list[RunRecord]:
    """Runs whose columns equal the given values, newest first."""
    where = " and ".join(f"{column} = ?" for column in conditions) or "true"
    tail = "" if limit is None else f" limit {int(limit)}"
    query = (
        f"select * from run join machine using (machine_id) where {where} order by created_at desc, run_id desc{tail}"
    )
    found = rows(connection, query, list(conditions.values()))
    planned = planned_cases(connection, [row["run_id"] for row in found])
    return [_run(row, planned[row["run_id"]]) for row in found]


def planned_cases(connection: DuckDBPyConnection, wanted: Sequence[str]) -> dict[str, tuple[PlannedCase, ...]]:
    """The planned cases of the given runs, in their plan's order."""
    texts: dict[str, list[str]] = {run_id: [] for run_id in wanted}
    query = "select run_id, planned from case_ where list_contains(?, run_id) order by run_id, position"
    for run_id, text in execute(connection, query, [list(wanted)]):
        texts[run_id].append(text)
    return {run_id: _PLANNED.validate_json(f"[{','.join(each)}]") for run_id, each in texts.items()}


def case_keys(connection: DuckDBPyConnection, run_id: str) -> dict[str, int]:
    """case_id -> key of one run, in its plan's order."""
    query = "select case_id, case_key from case_ where run_id = ? order by position"
    return dict(execute(connection, query, [run_id]))


def _run(row: Row, cases: tuple[PlannedCase, ...]) -> RunRecord:
    return RunRecord(
        **{name: row[name] for name in _RUN_FIELDS},
        machine=MachineIdentity(**{name: row[name] for name in MachineIdentity.model_fields}),
        software=SoftwareIdentity.model_validate_json(row["software"]),
        source=SourceIdentity(**{name: row[name] for name in SourceIdentity.model_fields}),
        cases=cases,
    )


def select_launches(connection: DuckDBPyConnection, run_id: str) -> list[LaunchRecord]:
    """Everything stored of a run's launches, in order: the inverse of ingesting them."""
    wall_s = dict(execute(connection, "select launch, wall_s from launch where run_id = ? order by launch", [run_id]))
    processes = _processes(connection, run_id)
    results = _results(connection, run_id)
    return [
        LaunchRecord(
            run_id=run_id,
            launch=launch,
            processes=tuple(processes[launch]),
            results=tuple(results[launch]),
            wall_s=wall,
        )
        for launch, wall in wall_s.items()
    ]


def _processes(connection: DuckDBPyConnection, run_id: str) -> dict[int, list[LaunchStarted]]:
    found: dict[int, list[LaunchStarted]] = defaultdict(list)
    query = "select * exclude (position) from process where run_id = ? order by launch, position"
    for row in rows(connection, query, [run_id]):
        state = MachineState.model_validate_json(row.pop("state"))
        found[row["launch"]].append(LaunchStarted(**row, state=state))
    return found


def _results(connection: DuckDBPyConnection, run_id: str) -> dict[int, list[CaseResult]]:
    samples = _samples(connection, run_id)
    quality = select_quality(connection, run_id)
    found: dict[int, list[CaseResult]] = defaultdict(list)
    query = (
        "select case_id, outcome.* exclude (case_key) from outcome join case_ using (case_key)"
        " where run_id = ? order by launch, position"
    )
    for row in rows(connection, query, [run_id]):
        key = (row["launch"], row["case_id"])
        row["state_before"], row["state_after"] = _state(row["state_before"]), _state(row["state_after"])
        row["kernels"] = None if row["kernels"] is None else KERNELS.validate_json(row["kernels"])
        found[row["launch"]].append(
            CaseResult(**row, samples_s=samples.get(key, ()), quality=tuple(quality.get(key, ())))
        )
    return found


def _state(text: str | None) -> MachineState | None:
    return None if text is None else MachineState.model_validate_json(text)


def _samples(connection: DuckDBPyConnection, run_id: str) -> dict[tuple[int, str], tuple[float, ...]]:
    query = (
        "select launch, case_id, list(seconds order by sample.position) from sample join case_ using (case_key)"
        " where run_id = ? group by all"
    )
    found = execute(connection, query, [run_id])
    return {(launch, case_id): tuple(seconds) for launch, case_id, seconds in found}


def select_quality(connection: DuckDBPyConnection, run_id: str) -> dict[tuple[int, str], list[Quality]]:
    """(launch, case_id) -> quality by seed."""
    found: dict[tuple[int, str], list[Quality]] = defaultdict(list)
    query = (
        "select launch, case_id, quality.* exclude (case_key, launch) from quality join case_ using (case_key)"
        " where run_id = ? order by launch, case_.position, seed"
    )
    for row in rows(connection, query, [run_id]):
        found[row.pop("launch"), row.pop("case_id")].append(Quality(**row))
    return found


def select_comparisons(connection: DuckDBPyConnection, run_id: str) -> list[Comparison]:
    """Comparisons that a run takes part in on either side, the last saved first."""
    query = "select comparison_id, record from comparison where candidate = ? or reference = ? order by position desc"
    found = execute(connection, query, [run_id, run_id])
    return [_comparison(connection, comparison_id, record) for comparison_id, record in found]


def select_qualifications(connection: DuckDBPyConnection, machine_class: str, manifest: str) -> list[Qualification]:
    """Qualifications of a class of machine for a manifest, the last saved first."""
    query = "select record from qualification where machine_class = ? and manifest = ? order by position desc"
    found = execute(connection, query, [machine_class, manifest])
    return [Qualification.model_validate_json(record) for (record,) in found]


def _comparison(connection: DuckDBPyConnection, comparison_id: str, record: str) -> Comparison:
    query = "select record from verdict where comparison_id = ? order by position"
    texts = execute(connection, query, [comparison_id])
    verdicts = TypeAdapter(tuple[CaseVerdict, ...]).validate_json(f"[{','.join(text for (text,) in texts)}]")
    return Comparison(**json.loads(record), verdicts=verdicts)
