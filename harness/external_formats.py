"""Files of other benchmark programs -> rows of (arm, launch, case, seconds). The format is recognised by content.

format             one sample                                   one launch
table              a row: `launch, case, seconds`               rows of one `launch` number
pytest-benchmark   a round (`stats.data`), else the median      a file
Google Benchmark   a repetition's time per iteration            a repetition; of several files, a file
nvbench            a state's mean GPU time                      a file

A table is CSV with a header or Parquet: `launch` integer >= 0, `case` text, `seconds` per call > 0; an optional column
`arm` or `run` names the side a row belongs to; other columns are ignored. The launch is the unit of statistics: a fresh
process. Rounds and repetitions inside one process are not independent of each other, so programs that write one file
per process are best imported as several files, one launch each, in the order measured.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from harness.errors import UsageError
from harness.external_origin import Origin, google_origin, nvbench_origin, pytest_origin
from harness.records import Outcome

REPETITIONS_NOTE = (
    "launches are repetitions inside one process: they understate the spread between processes; import one file per "
    "process for verdicts to rely on"
)
_ARM_COLUMNS = ("arm", "run")
_UNIT_S = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1.0}
_NVBENCH_TIMES = ("nv/cold/time/gpu/mean", "nv/batch/time/gpu/mean", "nv/cpu_only/time/cpu/mean")
"""In the order of preference: isolated GPU time, batched GPU time, CPU time of CPU-only benchmarks."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One sample, seconds per call."""

    arm: str | None = None
    launch: int
    case: str
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A case that the program could not time, and what it said."""

    launch: int = 0
    case: str
    outcome: Outcome
    error: str


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What a file, or several launches' files, hold."""

    format: str
    rows: tuple[Row, ...]
    failures: tuple[Failure, ...] = ()
    origin: Origin = field(default_factory=Origin)
    note: str | None = None


def read_external(files: Sequence[Path]) -> Reading:
    """Read one file, or several of one JSON format, each of which is a launch.

    Raises:
        UsageError: a file is none of the known formats, holds no sample, or a value is out of range.
    """
    readings = [_read(file) for file in files]
    if len(readings) == 1:
        return readings[0]
    formats = {reading.format for reading in readings}
    if len(formats) > 1 or formats == {"table"}:
        raise UsageError(
            f"several files must be launches of one JSON format, got {', '.join(sorted(formats))}; a table holds every "
            "launch in one file"
        )
    rows = [replace(row, launch=number) for number, each in enumerate(readings) for row in each.rows]
    failures = [replace(failed, launch=number) for number, each in enumerate(readings) for failed in each.failures]
    return replace(readings[0], rows=tuple(rows), failures=tuple(failures), note=None)


def _read(file: Path) -> Reading:
    try:
        content = file.read_bytes()
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {error.strerror}") from error
    if content.lstrip()[:1] in (b"{", b"["):
        reading = _read_json(file, content)
    else:
        reading = Reading(format="table", rows=tuple(_table_rows(file, _table(file, content))))
    if not reading.rows and not reading.failures:
        raise UsageError(f"{file} holds no sample")
    for row in reading.rows:
        if not (math.isfinite(row.seconds) and row.seconds > 0):
            raise UsageError(f"{file}: times must be positive finite seconds, got {row.seconds} for {row.case!r}")
    return reading


# --- tables -----------------------------------------------------------------------------------------------------------


def _table(file: Path, content: bytes) -> pa.Table:
    try:
        if content[:4] == b"PAR1":
            return pa.parquet.read_table(pa.BufferReader(content))
        text = pa.csv.ConvertOptions(column_types={name: pa.string() for name in ("case", *_ARM_COLUMNS)})
        return pa.csv.read_csv(pa.BufferReader(content), convert_options=text)
    except pa.ArrowException as error:
        raise UsageError(f"{file} is neither a table nor JSON of a known benchmark program: {error}") from error


def _table_rows(file: Path, table: pa.Table) -> Iterator[Row]:
    missing = [name for name in ("launch", "case", "seconds") if name not in table.column_names]
    arms = [name for name in _ARM_COLUMNS if name in table.column_names]
    if missing or len(arms) > 1:
        raise UsageError(
            f"{file} must have the columns launch, case, seconds and at most one of arm, run; "
            f"got {', '.join(table.column_names)}"
        )
    wanted = pa.schema([("launch", pa.int64()), ("case", pa.string()), ("seconds", pa.float64())])
    wanted = wanted.append(pa.field(arms[0], pa.string())) if arms else wanted
    try:
        columns = table.select(wanted.names).cast(wanted)
    except (pa.ArrowException, ValueError) as error:
        raise UsageError(f"{file}: launch must be integer, case text, seconds a number: {error}") from error
    if any(column.null_count for column in columns.columns):
        raise UsageError(f"{file}: a value is missing in {', '.join(wanted.names)}")
    for row in columns.to_pylist():
        if row["launch"] < 0:
            raise UsageError(f"{file}: launches are numbered from 0 or 1, got {row['launch']}")
        yield Row(
            arm=row[arms[0]] if arms else None, launch=row["launch"], case=row["case"], seconds=float(row["seconds"])
        )


# --- JSON of benchmark programs ---------------------------------------------------------------------------------------


def _read_json(file: Path, content: bytes) -> Reading:
    try:
        document = json.loads(content)
    except ValueError as error:
        raise UsageError(f"{file} is not JSON: {error}") from error
    benchmarks = document.get("benchmarks") if isinstance(document, dict) else None
    if isinstance(benchmarks, list):
        try:
            if "machine_info" in document:
                return _pytest_benchmark(document)
            if "context" in document:
                return _google_benchmark(document)
            if "devices" in document or any("states" in each for each in benchmarks):
                return _nvbench(document)
        except (KeyError, TypeError, ValueError) as error:
            raise UsageError(f"{file} lacks what its format promises: {type(error).__name__}: {error}") from error
    raise UsageError(
        f"{file} is JSON of an unknown kind; known are pytest-benchmark (--benchmark-json), Google Benchmark "
        "(--benchmark_format=json) and nvbench (--json)"
    )


def _pytest_benchmark(document: dict[str, Any]) -> Reading:
    rows = [
        Row(launch=0, case=each["fullname"], seconds=float(seconds))
        for each in document["benchmarks"]
        for seconds in each["stats"].get("data") or [each["stats"]["median"]]
    ]
    return Reading(format="pytest-benchmark", rows=tuple(rows), origin=pytest_origin(document))


def _google_benchmark(document: dict[str, Any]) -> Reading:
    rows, failures = [], []
    timed = [each for each in document["benchmarks"] if each.get("run_type", "iteration") == "iteration"]
    if not timed and document["benchmarks"]:
        raise ValueError("aggregates only; run without --benchmark_report_aggregates_only")
    for each in timed:
        case = re.sub(r"/repeats:\d+", "", each.get("run_name", each["name"]))
        launch = int(each.get("repetition_index", 0))
        if each.get("error_occurred") or each.get("skipped"):
            skipped = bool(each.get("skipped"))
            text = each.get("error_message") or each.get("skip_message") or "no reason given"
            outcome = Outcome.UNSUPPORTED if skipped else Outcome.FAILED
            failures.append(Failure(launch=launch, case=case, outcome=outcome, error=text))
            continue
        seconds = float(each["real_time"]) * _UNIT_S[each.get("time_unit", "ns")]
        rows.append(Row(launch=launch, case=case, seconds=seconds))
    return Reading(
        format="Google Benchmark",
        rows=tuple(rows),
        failures=tuple(failures),
        origin=google_origin(document),
        note=REPETITIONS_NOTE if any(row.launch for row in rows) else None,
    )


def _nvbench(document: dict[str, Any]) -> Reading:
    rows, failures = [], []
    for benchmark in document["benchmarks"]:
        for state in benchmark.get("states") or []:
            case = " ".join(filter(None, (benchmark["name"], state.get("name") or state.get("description"))))
            if state.get("is_skipped"):
                reason = state.get("skip_reason") or "no reason given"
                failures.append(Failure(case=case, outcome=Outcome.UNSUPPORTED, error=reason))
                continue
            rows.append(Row(launch=0, case=case, seconds=_nvbench_time_s(case, state)))
    return Reading(format="nvbench", rows=tuple(rows), failures=tuple(failures), origin=nvbench_origin(document))


def _nvbench_time_s(case: str, state: dict[str, Any]) -> float:
    values = {
        summary["tag"]: datum["value"]
        for summary in state.get("summaries") or []
        for datum in summary.get("data") or []
        if datum["name"] == "value"
    }
    for tag in _NVBENCH_TIMES:
        if tag in values:
            return float(values[tag])
    raise ValueError(f"{case} has no summary {' or '.join(_NVBENCH_TIMES)}")
