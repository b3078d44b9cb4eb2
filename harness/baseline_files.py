"""The files of an official baseline: records to bytes and back. Equal records give equal bytes.

launches.parquet   case_id, run_id, launch, median_s: the time of each case in each launch
quality.parquet    case_id, seed and the figures of `records.Quality`
metadata.json      where it comes from, and everything else there is to know of each case
SHA256SUMS         over the three
"""

from __future__ import annotations

import io
import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field, ValidationError

from harness.checksums import check_sums, with_sums
from harness.errors import BaselineError
from harness.records import (
    SCHEMA_VERSION,
    GrownRecord,
    LaunchedKernel,
    Outcome,
    PlannedCase,
    Quality,
    Record,
    RunRecord,
)

LAUNCHES, QUALITY, METADATA = "launches.parquet", "quality.parquet", "metadata.json"

LAUNCH_SCHEMA = pa.schema(
    [
        pa.field("case_id", pa.string(), nullable=False),
        pa.field("run_id", pa.string(), nullable=False),
        pa.field("launch", pa.int32(), nullable=False),
        pa.field("median_s", pa.float64(), nullable=False),
    ]
)
QUALITY_SCHEMA = pa.schema(
    [
        pa.field("case_id", pa.string(), nullable=False),
        pa.field("seed", pa.int64(), nullable=False),
        pa.field("relative_error", pa.float64()),
        pa.field("residual", pa.float64()),
        pa.field("symmetry", pa.float64()),
        pa.field("orthogonality", pa.float64()),
        pa.field("nonfinite", pa.int64(), nullable=False),
    ]
)


class BaselineCase(GrownRecord):
    """What is kept of a case besides its times and quality; fields as in `records.CaseSummary`."""

    LATER: ClassVar[tuple[str, ...]] = ("first_calls_s", "kernels")

    planned: PlannedCase
    outcome: Outcome
    error: str | None = None
    peak_bytes: int | None = None
    first_call_s: float | None = None
    first_calls_s: tuple[float, ...] = ()
    kernels: tuple[LaunchedKernel, ...] | None = None
    run_spread: float | None = None
    runs: tuple[str, ...]
    """Ids of the runs behind this case."""


class Amendment(Record):
    """A later promotion of some cases alone."""

    promoted_on: str
    reason: str
    revision: str
    filter: str
    """Which cases, as it was given."""
    runs: tuple[str, ...]


class BaselineMetadata(Record):
    """`metadata.json`. `revision` is the commit promoted at; the runs hold no cases, those are listed once below.

    Date, reason, revision and figures of the launches are of the last promotion of the whole manifest.
    """

    schema_version: int = SCHEMA_VERSION
    machine_class: str
    manifest: str
    promoted_on: str
    """The day, ISO 8601, UTC."""
    reason: str
    revision: str
    timed_share: float | None = None
    startup_s: float | None = None
    launch_wall_s: float | None = None
    amendments: tuple[Amendment, ...] = ()
    """Promotions of some cases since then, oldest first."""
    base_runs: tuple[str, ...]
    """Ids of the runs of the whole promotion."""
    runs: tuple[RunRecord, ...]
    """Those of the whole promotion in order of their ids, oldest first, then those of amendments likewise."""
    cases: tuple[BaselineCase, ...]
    launch_orders: dict[str, dict[int, str]] = Field(default_factory=dict)
    """Run id -> launch -> fingerprint of its order, which also the cases left out had a part in; see
    `harness.launch_orders`. Absent from a baseline promoted before 2026-11-22, and in the file where it is empty."""
    left_out: dict[str, str] = Field(default_factory=dict)
    """Case that was measured and has no cell here -> why; absent in the file where it is empty."""


@dataclass(frozen=True, kw_only=True)
class BaselineContent:
    """A baseline as its files hold it: `medians_s` by case, run and launch; `quality` by case."""

    metadata: BaselineMetadata
    medians_s: Mapping[str, Mapping[tuple[str, int], float]]
    quality: Mapping[str, tuple[Quality, ...]]

    @property
    def case_ids(self) -> frozenset[str]:
        """Ids of all cases, failed ones included."""
        return frozenset(case.planned.case.case_id for case in self.metadata.cases)

    @property
    def cells(self) -> dict[str, BaselineCell]:
        """Everything kept of each case, by its id."""
        named = {case.planned.case.case_id: case for case in self.metadata.cases}
        return {
            case_id: BaselineCell(
                case=case, medians_s=self.medians_s.get(case_id, {}), quality=self.quality.get(case_id, ())
            )
            for case_id, case in named.items()
        }


@dataclass(frozen=True, kw_only=True)
class BaselineCell:
    """One case of a baseline; `medians_s` by run and launch."""

    case: BaselineCase
    medians_s: Mapping[tuple[str, int], float]
    quality: tuple[Quality, ...]


def to_files(content: BaselineContent) -> dict[str, bytes]:
    """File name -> bytes, checksums included."""
    launches = [
        {"case_id": case_id, "run_id": run_id, "launch": launch, "median_s": median_s}
        for case_id, medians in sorted(content.medians_s.items())
        for (run_id, launch), median_s in sorted(medians.items())
    ]
    quality = [
        {"case_id": case_id, **figures.model_dump()}
        for case_id, seeds in sorted(content.quality.items())
        for figures in sorted(seeds, key=lambda each: each.seed)
    ]
    return with_sums(
        {
            LAUNCHES: _parquet(pa.Table.from_pylist(launches, schema=LAUNCH_SCHEMA)),
            QUALITY: _parquet(pa.Table.from_pylist(quality, schema=QUALITY_SCHEMA)),
            METADATA: _json(content.metadata),
        }
    )


def _parquet(table: pa.Table) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd", store_schema=False)
    return buffer.getvalue()


def _json(metadata: BaselineMetadata) -> bytes:
    """JSON with one line per run and per case, so that a diff of two promotions reads case by case."""
    empty = {name for name in ("launch_orders", "left_out") if not getattr(metadata, name)}
    head = json.loads(metadata.model_dump_json(exclude={"runs", "cases", *empty}))
    lines = [f" {json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}," for key, value in head.items()]
    runs = ",\n".join(f"  {run.model_dump_json()}" for run in metadata.runs)
    cases = ",\n".join(f"  {case.model_dump_json()}" for case in metadata.cases)
    body = "\n".join(lines)
    return f'{{\n{body}\n "runs": [\n{runs}\n ],\n "cases": [\n{cases}\n ]\n}}\n'.encode()


def from_folder(folder: Path) -> BaselineContent:
    """Read a baseline. Raises BaselineError on a wrong checksum, a newer or a broken format."""
    problems = check_sums(folder)
    if problems:
        raise BaselineError(f"baseline {folder} is damaged: {'; '.join(problems)}; restore it from version control")
    return BaselineContent(
        metadata=read_metadata(folder),
        medians_s=_read_launches(folder / LAUNCHES),
        quality=_read_quality(folder / QUALITY),
    )


def read_metadata(folder: Path) -> BaselineMetadata:
    """Read `metadata.json` alone, checksums unchecked. Raises BaselineError on a newer or a broken format."""
    file = folder / METADATA
    try:
        text = file.read_text(encoding="utf-8")
        document = json.loads(text)
    except (OSError, ValueError) as error:
        raise BaselineError(f"{file} cannot be read: {error}") from error
    version = document.get("schema_version") if isinstance(document, dict) else None
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise BaselineError(
            f"{file} has schema version {version}, this program knows versions up to {SCHEMA_VERSION}; update iroot"
        )
    try:
        return BaselineMetadata.model_validate_json(text)
    except ValidationError as error:
        raise BaselineError(f"{file} is not baseline metadata: {error}") from error


def _read_launches(file: Path) -> dict[str, dict[tuple[str, int], float]]:
    found: dict[str, dict[tuple[str, int], float]] = defaultdict(dict)
    for row in _read_parquet(file, LAUNCH_SCHEMA).to_pylist():
        found[row["case_id"]][row["run_id"], row["launch"]] = row["median_s"]
    return dict(found)


def _read_quality(file: Path) -> dict[str, tuple[Quality, ...]]:
    found: dict[str, list[Quality]] = defaultdict(list)
    for row in _read_parquet(file, QUALITY_SCHEMA).to_pylist():
        found[row.pop("case_id")].append(Quality(**row))
    return {case_id: tuple(figures) for case_id, figures in found.items()}


def _read_parquet(file: Path, schema: pa.Schema) -> pa.Table:
    try:
        table = pq.read_table(file)
    except (OSError, pa.ArrowException) as error:
        raise BaselineError(f"{file} cannot be read: {error}") from error
    if not table.schema.equals(schema):
        found = ", ".join(f"{field.name} {field.type}" for field in table.schema)
        wanted = ", ".join(f"{field.name} {field.type}" for field in schema)
        raise BaselineError(f"{file} must have the columns {wanted}, got {found}")
    return table
