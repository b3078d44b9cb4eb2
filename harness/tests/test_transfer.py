"""Export and import: every float survives, and what is damaged, newer or there already is refused."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from harness.checksums import SUMS, sums_of
from harness.errors import StoreError, UsageError
from harness.records import SCHEMA_VERSION, Outcome, RunRecord, RunStatus
from harness.store import Store
from harness.tests import factories as make
from harness.transfer import LAUNCHES, RUN, Format, export_run, import_run


@pytest.fixture
def run() -> RunRecord:
    return make.make_run(launches=2, status=RunStatus.COMPLETE)


@pytest.fixture
def store(tmp_path: Path, run: RunRecord) -> Store:
    """A store with one run whose samples are awkward floats and whose last case failed."""
    store = Store(tmp_path / "here" / "a.duckdb")
    bits = np.random.default_rng(1).integers(1, 2**62, size=50, dtype=np.int64)
    awkward = tuple(abs(value) for value in bits.view(np.float64).tolist() if np.isfinite(value) and value)
    launches = list(make.make_launches(run))
    result = make.make_result(run.cases[0], 1).model_copy(update={"samples_s": awkward})
    failed = make.make_failure(run.cases[-1], 1, Outcome.OOM, error='out of memory,\n"really"')
    launches[1] = make.make_launch(run, 1, results=[result, failed])
    store.import_run(run, launches)
    return store


@pytest.fixture
def other(tmp_path: Path) -> Store:
    return Store(tmp_path / "there" / "b.duckdb")


@pytest.mark.parametrize("format", Format)
def test_a_run_survives_the_journey(store: Store, other: Store, run: RunRecord, tmp_path: Path, format: Format) -> None:
    folder = export_run(store, "latest", tmp_path / "out" / "exported", format=format)
    imported = import_run(other, folder)
    assert imported == run.model_copy(update={"imported_from": "exported"})
    assert other.runs() == [imported]
    assert other.launches(run.run_id) == store.launches(run.run_id)
    assert other.summary(run.run_id).cases == store.summary(run.run_id).cases


def test_medians_are_readable_by_other_tools(store: Store, run: RunRecord, tmp_path: Path) -> None:
    folder = export_run(store, run.run_id, tmp_path / "out", format=Format.CSV)
    with (folder / "medians.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    second = run.cases[1].case.case_id
    (row,) = [row for row in rows if row["case_id"] == second and row["launch"] == "2"]
    assert (row["method"], row["p"], row["n"], row["k"]) == ("coupled_pe", "2", "512", "")
    assert float(row["median_s"]) == store.summary(run.run_id).cases[second].launch_medians_s[2]
    assert len(rows) == 4 * 2 - 1


def test_a_folder_in_use_is_refused(store: Store, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(UsageError, match="exists and is not empty"):
        export_run(store, "latest", tmp_path / "out")
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["mine.txt"]


def test_an_unknown_run_exports_nothing(store: Store, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="holds no run 'x'"):
        export_run(store, "x", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_existing_run_is_not_imported_again(store: Store, run: RunRecord, tmp_path: Path) -> None:
    folder = export_run(store, "latest", tmp_path / "out")
    before = store.launches(run.run_id)
    with pytest.raises(StoreError, match=r"holds a run .* already"):
        import_run(store, folder)
    assert store.runs() == [run]
    assert store.launches(run.run_id) == before


def test_a_folder_of_something_else_is_refused(other: Store, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is no exported run"):
        import_run(other, tmp_path)
    assert not other.path.exists()


@pytest.mark.parametrize("name", [RUN, LAUNCHES, "samples.parquet", SUMS])
def test_damage_is_found(store: Store, other: Store, tmp_path: Path, name: str) -> None:
    folder = export_run(store, "latest", tmp_path / "out")
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(UsageError, match="is damaged"):
        import_run(other, folder)
    assert not other.path.exists()


def _newer(folder: Path) -> None:
    document = json.loads((folder / RUN).read_text())
    document.update(schema_version=SCHEMA_VERSION + 1, colour="blue")
    (folder / RUN).write_text(json.dumps(document))


def _unknown_field(folder: Path) -> None:
    document = json.loads((folder / RUN).read_text())
    (folder / RUN).write_text(json.dumps({**document, "colour": "blue"}))


def _no_samples(folder: Path) -> None:
    (folder / "samples.jsonl").unlink()


def _other_columns(folder: Path) -> None:
    (folder / "samples.jsonl").write_text('{"case": 1}\n')


def _samples_swapped(folder: Path) -> None:
    lines = (folder / "samples.jsonl").read_text().splitlines(keepends=True)
    (folder / "samples.jsonl").write_text("".join([lines[1], lines[0], *lines[2:]]))


def _launch_lost(folder: Path) -> None:
    lines = (folder / LAUNCHES).read_text().splitlines(keepends=True)
    (folder / LAUNCHES).write_text("".join(lines[:-1]))


def _launch_broken(folder: Path) -> None:
    (folder / LAUNCHES).write_text("{}\n")


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (_newer, f"schema version {SCHEMA_VERSION + 1}, this program knows versions up to {SCHEMA_VERSION}"),
        (_unknown_field, r"run\.json is not a run"),
        (_no_samples, "must hold one of samples.parquet, samples.csv, samples.jsonl, got 0"),
        (_other_columns, "does not hold samples: a value is missing"),
        (_samples_swapped, "are not in order at 1"),
        (_launch_lost, "in launch 2, which launches.jsonl does not list"),
        (_launch_broken, r"launches\.jsonl:1 is not a launch"),
    ],
)
def test_contradictions_under_correct_checksums_are_refused(
    store: Store, other: Store, tmp_path: Path, edit: Callable[[Path], None], message: str
) -> None:
    folder = export_run(store, "latest", tmp_path / "out", format=Format.JSON)
    edit(folder)
    files = {file.name: file.read_bytes() for file in folder.iterdir() if file.name != SUMS}
    (folder / SUMS).write_bytes(sums_of(files))
    with pytest.raises(UsageError, match=message):
        import_run(other, folder)
    assert not other.path.exists()
