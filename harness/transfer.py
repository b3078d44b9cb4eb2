"""Runs as folders: export for other tools and other machines, import without loss.

    run.json          the run's record
    launches.jsonl    one line per launch: processes, outcomes, quality, machine state; everything but the samples
    samples.EXT       case_id, launch, position, seconds
    medians.EXT       one row per case and timed launch, with the case's coordinates, for other tools; not read back
    bencher.json      the medians in Bencher Metric Format; not read back
    SHA256SUMS        over all of them

EXT is `parquet`, `csv` or `jsonl`; floating-point numbers survive each of them exactly.
"""

from __future__ import annotations

import io
import json
import os
import shutil
from collections import defaultdict
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
from pydantic import ValidationError

from harness.bencher import bencher_json
from harness.checksums import check_sums, with_sums
from harness.errors import UsageError
from harness.records import (
    SCHEMA_VERSION,
    CaseResult,
    LaunchRecord,
    LaunchStarted,
    Record,
    RunRecord,
    RunSummary,
)

if TYPE_CHECKING:
    from harness.store import Store

RUN, LAUNCHES, SAMPLES, MEDIANS = "run.json", "launches.jsonl", "samples", "medians"
BENCHER = "bencher.json"

_SAMPLE_SCHEMA = pa.schema(
    [("case_id", pa.string()), ("launch", pa.int32()), ("position", pa.int32()), ("seconds", pa.float64())]
)
_MEDIAN_SCHEMA = pa.schema(
    [
        ("case_id", pa.string()),
        ("task", pa.string()),
        ("method", pa.string()),
        ("precision", pa.string()),
        ("p", pa.int32()),
        ("m", pa.int32()),
        ("n", pa.int32()),
        ("batch", pa.int32()),
        ("k", pa.int32()),
        ("problem", pa.string()),
        ("mode", pa.string()),
        ("options", pa.string()),
        ("launch", pa.int32()),
        ("median_s", pa.float64()),
    ]
)


class Format(StrEnum):
    """How the tables of an exported run are written."""

    PARQUET = "parquet"
    CSV = "csv"
    JSON = "json"

    @property
    def extension(self) -> str:
        """Of the tables' files."""
        return "jsonl" if self is Format.JSON else str(self)


class _Launch(Record):
    """One line of `launches.jsonl`: a `LaunchRecord` whose results hold no samples."""

    launch: int
    wall_s: float
    processes: tuple[LaunchStarted, ...]
    results: tuple[CaseResult, ...]


# --- export -----------------------------------------------------------------------------------------------------------


def export_run(store: Store, ref: str, folder: Path, *, format: Format = Format.PARQUET) -> Path:
    """Write a run into a new folder; returns it.

    Raises:
        StoreError: the store holds no such run.
        UsageError: the folder holds something already.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"--to {folder} exists and is not empty; name a new folder")
    summary = store.summary(ref)
    launches = store.launches(summary.run.run_id)
    files = {
        RUN: (summary.run.model_dump_json(indent=1) + "\n").encode(),
        LAUNCHES: "".join(_launch_line(launch) for launch in launches).encode(),
        f"{SAMPLES}.{format.extension}": _table_bytes(_samples(launches), format),
        f"{MEDIANS}.{format.extension}": _table_bytes(_medians(summary), format),
        BENCHER: bencher_json(summary),
    }
    _write_folder(folder, with_sums(files))
    return folder


def _write_folder(folder: Path, files: Mapping[str, bytes]) -> None:
    """All files or no folder."""
    fresh = folder.with_name(f".{folder.name}.new-{os.getpid()}")
    fresh.mkdir(parents=True)
    try:
        for name, content in files.items():
            (fresh / name).write_bytes(content)
        if folder.exists():
            folder.rmdir()
        fresh.rename(folder)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _launch_line(launch: LaunchRecord) -> str:
    bare = tuple(result.model_copy(update={"samples_s": ()}) for result in launch.results)
    line = _Launch(launch=launch.launch, wall_s=launch.wall_s, processes=launch.processes, results=bare)
    return line.model_dump_json() + "\n"


def _samples(launches: Sequence[LaunchRecord]) -> pa.Table:
    results = [result for launch in launches for result in launch.results]
    counts = [len(result.samples_s) for result in results]
    columns = [
        [result.case_id for result, count in zip(results, counts, strict=True) for _ in range(count)],
        [result.launch for result, count in zip(results, counts, strict=True) for _ in range(count)],
        [position for count in counts for position in range(count)],
        [sample for result in results for sample in result.samples_s],
    ]
    arrays = [pa.array(column, field.type) for column, field in zip(columns, _SAMPLE_SCHEMA, strict=True)]
    return pa.Table.from_arrays(arrays, schema=_SAMPLE_SCHEMA)


def _medians(summary: RunSummary) -> pa.Table:
    rows = [
        {
            **case.planned.case.model_dump(mode="json", exclude={"options"}),
            "case_id": case_id,
            "options": case.planned.case.options_text,
            "launch": launch,
            "median_s": median_s,
        }
        for case_id, case in summary.cases.items()
        for launch, median_s in sorted(case.launch_medians_s.items())
    ]
    return pa.Table.from_pylist(rows, schema=_MEDIAN_SCHEMA)


def _table_bytes(table: pa.Table, format: Format) -> bytes:
    if format is Format.JSON:
        return "".join(json.dumps(row) + "\n" for row in table.to_pylist()).encode()
    buffer = io.BytesIO()
    if format is Format.CSV:
        pa.csv.write_csv(table, buffer)
    else:
        pa.parquet.write_table(table, buffer, compression="zstd", store_schema=False)
    return buffer.getvalue()


# --- import -----------------------------------------------------------------------------------------------------------


def import_run(store: Store, folder: Path) -> RunRecord:
    """Take an exported run into the store, in one transaction; returns its record, `imported_from` set to the folder.

    Raises:
        UsageError: the folder is no exported run, is damaged, or was written by a newer version.
        StoreError: the store holds a run of this id already.
    """
    if not folder.exists():
        raise UsageError(f"{folder}: no such file or folder; `iroot bench export RUN --to FOLDER` writes a run")
    if not (folder / RUN).is_file():
        raise UsageError(f"{folder} is no exported run: it has no {RUN}; `iroot bench export` writes such folders")
    problems = check_sums(folder)
    if problems:
        raise UsageError(f"{folder} is damaged: {'; '.join(problems)}; export and copy it again")
    run = _read_run(folder / RUN).model_copy(update={"imported_from": folder.resolve().name})
    launches = _read_launches(folder, run.run_id)
    store.import_run(run, launches)
    return run


def _read_run(file: Path) -> RunRecord:
    text = file.read_text(encoding="utf-8")
    try:
        document = json.loads(text)
    except ValueError as error:
        raise UsageError(f"{file} is not JSON: {error}") from error
    version = document.get("schema_version") if isinstance(document, dict) else None
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise UsageError(
            f"{file} has schema version {version}, this program knows versions up to {SCHEMA_VERSION}; update iroot"
        )
    try:
        return RunRecord.model_validate_json(text)
    except ValidationError as error:
        raise UsageError(f"{file} is not a run: {error}") from error


def _read_launches(folder: Path, run_id: str) -> list[LaunchRecord]:
    samples = _read_samples(folder)
    file = folder / LAUNCHES
    records = []
    for number, text in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        try:
            line = _Launch.model_validate_json(text)
        except ValidationError as error:
            raise UsageError(f"{file}:{number} is not a launch: {error}") from error
        results = tuple(
            result.model_copy(update={"samples_s": samples.pop((line.launch, result.case_id), ())})
            for result in line.results
        )
        records.append(
            LaunchRecord(
                run_id=run_id, launch=line.launch, processes=line.processes, results=results, wall_s=line.wall_s
            )
        )
    if samples:
        launch, case_id = min(samples)
        raise UsageError(f"{folder} holds samples of {case_id} in launch {launch}, which {LAUNCHES} does not list")
    return records


def _read_samples(folder: Path) -> dict[tuple[int, str], tuple[float, ...]]:
    found = [(format, folder / f"{SAMPLES}.{format.extension}") for format in Format]
    present = [(format, file) for format, file in found if file.is_file()]
    if len(present) != 1:
        names = ", ".join(file.name for _, file in found)
        raise UsageError(f"{folder} must hold one of {names}, got {len(present)} of them")
    ((format, file),) = present
    try:
        table = _read_table(file, format).select(_SAMPLE_SCHEMA.names).cast(_SAMPLE_SCHEMA)
    except (KeyError, ValueError, pa.ArrowException) as error:
        raise UsageError(f"{file} does not hold samples: {error}") from error
    if any(column.null_count for column in table.columns):
        raise UsageError(f"{file} does not hold samples: a value is missing")
    columns = table.to_pydict()
    grouped: dict[tuple[int, str], list[float]] = defaultdict(list)
    rows = zip(*(columns[name] for name in _SAMPLE_SCHEMA.names), strict=True)
    for case_id, launch, position, seconds in rows:
        values = grouped[launch, case_id]
        if position != len(values):
            raise UsageError(f"{file}: samples of {case_id} in launch {launch} are not in order at {position}")
        values.append(seconds)
    return {key: tuple(values) for key, values in grouped.items()}


def _read_table(file: Path, format: Format) -> pa.Table:
    if format is Format.PARQUET:
        return pa.parquet.read_table(file)
    if format is Format.CSV:
        types = dict(zip(_SAMPLE_SCHEMA.names, _SAMPLE_SCHEMA.types, strict=True))
        return pa.csv.read_csv(file, convert_options=pa.csv.ConvertOptions(column_types=types))
    lines = file.read_text(encoding="utf-8").splitlines()
    return pa.Table.from_pylist([json.loads(line) for line in lines], schema=_SAMPLE_SCHEMA)
