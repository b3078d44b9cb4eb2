"""Official baselines: every refusal with its cause planted, damage found, merges exact, bytes stable."""

from __future__ import annotations

import json
import math
import statistics
import subprocess
from collections.abc import Callable
from datetime import date
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from harness.baseline import list_baselines, load_baseline, prepare, promote, verify_baseline
from harness.baseline_files import METADATA, read_metadata
from harness.checksums import SUMS, sums_of
from harness.errors import BaselineError
from harness.records import (
    SCHEMA_VERSION,
    CaseSummary,
    Outcome,
    RunRecord,
    RunStatus,
    RunSummary,
    SourceIdentity,
)
from harness.tests import factories as make

TODAY = date(2026, 1, 3)
CHECKOUT = SourceIdentity(revision="f" * 40, dirty=False, source_hash=make.SOURCE_HASH)
CASES = make.make_cases(4)
FIRST = CASES[0].case.case_id


def _run(number: int = 1, **fields: object) -> RunRecord:
    return make.make_run(CASES, number=number, status=RunStatus.COMPLETE).model_copy(update=fields)


def _summary(number: int = 1, *, scale: float = 1.0, **fields: object) -> RunSummary:
    medians = {planned.case.case_id: scale * 1e-4 * (i + 1) for i, planned in enumerate(CASES)}
    return make.make_summary(_run(number, **fields), medians_s=medians, sigma=0.002, seed=number)


def _with_case(summary: RunSummary, **fields: object) -> RunSummary:
    cases = {**summary.cases, FIRST: summary.cases[FIRST].model_copy(update=fields)}
    return summary.model_copy(update={"cases": cases})


def _promoted(root: Path, *runs: RunSummary) -> Path:
    return promote(runs, root, reason="first", today=TODAY)


# --- promoting and loading ----------------------------------------------------------------------------------------


def test_one_run_comes_back(tmp_path: Path) -> None:
    run = _summary()
    folder = _promoted(tmp_path, run)
    assert folder == tmp_path / make.H100.machine_class / "quick"
    assert sorted(file.name for file in folder.iterdir()) == [
        SUMS, "launches.parquet", METADATA, "quality.parquet",
    ]  # fmt: skip
    loaded = load_baseline(tmp_path, make.H100.machine_class, "quick")
    assert loaded == run.model_copy(update={"runs_merged": (run.run.run_id,)})
    assert verify_baseline(folder) == ()
    assert list_baselines(tmp_path) == (folder,)


def test_no_baseline_is_none(tmp_path: Path) -> None:
    assert load_baseline(tmp_path, "some-machine", "quick") is None
    assert load_baseline(tmp_path, "../..", "quick") is None
    assert list_baselines(tmp_path / "nowhere") == ()


def test_metadata_says_where_it_comes_from(tmp_path: Path) -> None:
    metadata = read_metadata(_promoted(tmp_path, _summary(1), _summary(2)))
    assert metadata.schema_version == SCHEMA_VERSION
    assert metadata.revision == make.REVISION
    assert metadata.promoted_on == "2026-01-03"
    assert metadata.reason == "first"
    assert [run.run_id for run in metadata.runs] == [_run(1).run_id, _run(2).run_id]
    assert {run.machine for run in metadata.runs} == {make.H100}
    assert {run.software for run in metadata.runs} == {make.SOFTWARE}
    assert tuple(case.planned for case in metadata.cases) == CASES


def test_three_runs_merge(tmp_path: Path) -> None:
    runs = [_summary(3, scale=1.01), _summary(1, scale=1.00), _summary(2, scale=0.98)]
    _promoted(tmp_path, *runs)
    merged = load_baseline(tmp_path, make.H100.machine_class, "quick")
    assert merged is not None
    by_number = {int(each.run.run_id[-4:], 16): each.cases[FIRST].launch_medians_s for each in runs}
    expected = [by_number[number][launch] for number in (1, 2, 3) for launch in (1, 2, 3)]
    assert merged.cases[FIRST].launch_medians_s == dict(enumerate(expected, 1))
    means = [np.log(list(medians.values())).mean() for medians in by_number.values()]
    assert merged.cases[FIRST].run_spread == pytest.approx(statistics.stdev(means), rel=1e-12)
    assert 0.01 < statistics.stdev(means) < 0.02
    assert merged.runs_merged == tuple(_run(number).run_id for number in (1, 2, 3))
    assert merged.run.launches == 9
    assert merged.run.run_id == _run(3).run_id
    assert verify_baseline(tmp_path / make.H100.machine_class / "quick") == ()


def test_an_expected_failure_is_kept(tmp_path: Path) -> None:
    planned = (*CASES, make.make_planned(make.make_case(problem="spike"), expect="nonfinite"))
    spike = planned[-1].case.case_id
    run = make.make_run(planned, status=RunStatus.COMPLETE)
    _promoted(tmp_path, make.make_summary(run, outcomes={spike: Outcome.NONFINITE}))
    loaded = load_baseline(tmp_path, make.H100.machine_class, "quick")
    assert loaded is not None
    assert loaded.cases[spike] == CaseSummary(
        planned=planned[-1], outcome=Outcome.NONFINITE, error="nonfinite: planted"
    )


def test_promoting_the_same_runs_again_gives_the_same_bytes(tmp_path: Path) -> None:
    runs = [_summary(number) for number in (1, 2)]
    folder = _promoted(tmp_path / "a", *runs)
    again = _promoted(tmp_path / "b", *reversed(runs))
    for file in folder.iterdir():
        assert (again / file.name).read_bytes() == file.read_bytes(), file.name
    assert prepare(runs, tmp_path / "a", reason="first", today=TODAY).changes == ()


def test_checksums_are_those_of_sha256sum(tmp_path: Path) -> None:
    folder = _promoted(tmp_path, _summary())
    subprocess.run(["sha256sum", "--check", "--strict", "--quiet", SUMS], cwd=folder, check=True)


def test_preparing_writes_nothing_and_names_the_changes(tmp_path: Path) -> None:
    first = prepare([_summary()], tmp_path, reason="first", today=TODAY)
    assert list(tmp_path.iterdir()) == []
    assert first.changes == (f"new baseline of 4 cases at {make.REVISION[:12]}",)
    assert "an official baseline holds at least 3" in first.notes[0]
    first.write()
    slower = _summary(2)
    medians = {launch: 1.5 * median_s for launch, median_s in slower.cases[FIRST].launch_medians_s.items()}
    changes = prepare(
        [_with_case(slower, launch_medians_s=medians)], tmp_path, reason="slower on purpose", today=TODAY
    ).changes
    assert changes[:2] == ("reason: first -> slower on purpose", f"runs: {_run(1).run_id} -> {_run(2).run_id}")
    (moved,) = changes[2:]
    assert moved.startswith(f"{FIRST}: time x 1.")
    assert float(moved.rsplit(" ", 1)[1]) == pytest.approx(1.5, rel=0.02)


def test_notes_name_unlike_software_and_units(tmp_path: Path) -> None:
    other = make.SOFTWARE.model_copy(update={"driver": "590.1"})
    unit = make.H100.model_copy(update={"uuid": "GPU-2"})
    notes = prepare([_summary(1), _summary(2, software=other, machine=unit)], tmp_path, reason="r").notes
    assert any("driver: 580.95 != 590.1" in note for note in notes)
    assert any("different units" in note for note in notes)


# --- imported runs ------------------------------------------------------------------------------------------------

UNKNOWN = SourceIdentity(revision=None, dirty=None, source_hash=make.SOURCE_HASH)


DIRTY = make.SOURCE.model_copy(update={"dirty": True})


@pytest.mark.parametrize("source", [UNKNOWN, DIRTY])
def test_an_imported_run_takes_the_revision_of_the_checkout(tmp_path: Path, source: SourceIdentity) -> None:
    run = _summary(source=source, imported_from="exported")
    folder = promote([run], tmp_path, reason="r", checkout=CHECKOUT, today=TODAY)
    assert read_metadata(folder).revision == CHECKOUT.revision
    loaded = load_baseline(tmp_path, make.H100.machine_class, "quick")
    assert loaded is not None
    assert loaded.run.source == CHECKOUT


@pytest.mark.parametrize(
    ("checkout", "message"),
    [
        (None, "no git checkout"),
        (CHECKOUT.model_copy(update={"revision": None}), "no git checkout"),
        (CHECKOUT.model_copy(update={"dirty": True}), "is dirty"),
        (CHECKOUT.model_copy(update={"dirty": None}), "is dirty"),
        (CHECKOUT.model_copy(update={"source_hash": "77" * 32}), "source hash 5a5a5a5a5a5a, but .* has 777777777777"),
    ],
)
@pytest.mark.parametrize("source", [UNKNOWN, DIRTY, make.SOURCE])
def test_an_imported_run_of_other_sources_is_refused(
    tmp_path: Path, source: SourceIdentity, checkout: SourceIdentity | None, message: str
) -> None:
    run = _summary(source=source, imported_from="exported")
    with pytest.raises(BaselineError, match=message):
        promote([run], tmp_path, reason="r", checkout=checkout)
    assert list(tmp_path.iterdir()) == []


# --- refusals -----------------------------------------------------------------------------------------------------

OTHER_SOURCE = make.SOURCE.model_copy(update={"source_hash": "00" * 32})
SMALLER = make.H100.model_copy(update={"sm_count": 114})


def _unmeasured() -> RunSummary:
    run = _summary()
    return run.model_copy(update={"cases": {k: v for k, v in run.cases.items() if k != FIRST}})


REFUSALS: list[tuple[Callable[[], list[RunSummary]], str]] = [
    (list, "at least one run"),
    (lambda: [_summary(source=DIRTY)], "dirty tree"),
    (lambda: [_summary(source=UNKNOWN)], "unknown revision"),
    (lambda: [_summary(source=make.SOURCE.model_copy(update={"dirty": None}))], "unknown revision"),
    (lambda: [_summary(status=RunStatus.INTERRUPTED)], "is interrupted, not complete"),
    (lambda: [_summary(status=RunStatus.RUNNING)], "is running, not complete"),
    (lambda: [_summary(arm="main")], "arm 'main' of an A/B"),
    (
        lambda: [_with_case(_summary(), outcome=Outcome.FAILED, error="ValueError: why\nmore", launch_medians_s={})],
        r"unexpected failures: .* \(failed, expected ok: ValueError: why\)",
    ),
    (lambda: [_with_case(_summary(), outcome=Outcome.UNSUPPORTED, launch_medians_s={})], "unsupported, expected ok"),
    (lambda: [_with_case(_summary(), throttled=True)], "was throttled in " + FIRST),
    (lambda: [_with_case(_summary(), launch_medians_s={1: 1e-3})], r"lacks launches of .*\(1 of 3\)"),
    (lambda: [_unmeasured()], "did not measure " + FIRST),
    (lambda: [_summary(1), _summary(1)], "is given 2 times"),
    (lambda: [_summary(1), _summary(2, source=OTHER_SOURCE)], "measured different sources"),
    (lambda: [_summary(1), _summary(2, machine=SMALLER)], "sm_count: 114 != 132"),
    (lambda: [_summary(1), _summary(2, manifest_hash="other")], "cannot merge: manifest_hash"),
    (lambda: [_summary(1), _summary(2, filter="p=2")], "cannot merge: filter p=2 != None"),
    (lambda: [_summary(1), _unmeasured().model_copy(update={"run": _run(2, cases=CASES[1:])})], "plan different cases"),
]


@pytest.mark.parametrize(("runs", "message"), REFUSALS, ids=[message for _, message in REFUSALS])
def test_refused_and_nothing_written(tmp_path: Path, runs: Callable[[], list[RunSummary]], message: str) -> None:
    with pytest.raises(BaselineError, match=message):
        promote(runs(), tmp_path, reason="r")
    assert list(tmp_path.iterdir()) == []


def test_a_promotion_needs_a_reason(tmp_path: Path) -> None:
    with pytest.raises(BaselineError, match="needs a reason"):
        promote([_summary()], tmp_path, reason="  ")


def test_every_cause_is_named_at_once(tmp_path: Path) -> None:
    bad = _with_case(_summary(source=DIRTY, status=RunStatus.FAILED), throttled=True)
    with pytest.raises(BaselineError) as caught:
        promote([bad], tmp_path, reason="")
    assert str(caught.value).count("\n  - ") == 4


@pytest.mark.parametrize("name", ["../quick", "a b", "", ".hidden"])
def test_names_that_cannot_be_folders_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(BaselineError, match="a manifest names a folder here"):
        promote([_summary(manifest=name)], tmp_path, reason="r")


def test_cases_of_the_existing_baseline_may_not_be_dropped(tmp_path: Path) -> None:
    folder = _promoted(tmp_path, _summary(1))
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    narrowed = make.make_summary(_run(2, cases=CASES[2:], filter="n>=768"))
    with pytest.raises(BaselineError, match="lack 2 of the existing baseline's cases"):
        promote([narrowed], tmp_path, reason="r")
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
    more = make.make_summary(_run(2, cases=(*CASES, make.make_planned(make.make_case(n=4096)))))
    assert promote([more], tmp_path, reason="r") == folder
    assert len(read_metadata(folder).cases) == 5


# --- damage -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["launches.parquet", "quality.parquet", METADATA, SUMS])
def test_a_changed_byte_is_found(tmp_path: Path, name: str) -> None:
    folder = _promoted(tmp_path, _summary())
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(content)
    assert verify_baseline(folder) != ()
    with pytest.raises(BaselineError, match="is damaged"):
        load_baseline(tmp_path, make.H100.machine_class, "quick")
    with pytest.raises(BaselineError, match="restore it from version control"):
        promote([_summary(2)], tmp_path, reason="r")


@pytest.mark.parametrize("name", ["launches.parquet", "quality.parquet", METADATA, SUMS])
def test_a_missing_file_is_found(tmp_path: Path, name: str) -> None:
    folder = _promoted(tmp_path, _summary())
    (folder / name).unlink()
    assert f"{name} is missing" in verify_baseline(folder)
    with pytest.raises(BaselineError, match=f"{name} is missing"):
        load_baseline(tmp_path, make.H100.machine_class, "quick")


def test_an_extra_file_is_found(tmp_path: Path) -> None:
    folder = _promoted(tmp_path, _summary())
    (folder / "notes.txt").write_text("x")
    assert verify_baseline(folder) == (f"notes.txt is not listed in {SUMS}",)


def _resign(folder: Path) -> None:
    files = {file.name: file.read_bytes() for file in folder.iterdir() if file.name != SUMS}
    (folder / SUMS).write_bytes(sums_of(files))


def _edit_metadata(folder: Path, edit: Callable[[dict[str, object]], object]) -> None:
    document = json.loads((folder / METADATA).read_text())
    edit(document)
    (folder / METADATA).write_text(json.dumps(document))
    _resign(folder)


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    folder = _promoted(tmp_path, _summary())
    _edit_metadata(folder, lambda document: document.update(schema_version=SCHEMA_VERSION + 1, colour="blue"))
    message = f"schema version {SCHEMA_VERSION + 1}, this program knows versions up to {SCHEMA_VERSION}"
    assert message in verify_baseline(folder)[0]
    with pytest.raises(BaselineError, match=message):
        load_baseline(tmp_path, make.H100.machine_class, "quick")


def test_a_baseline_in_the_wrong_folder_is_found(tmp_path: Path) -> None:
    folder = _promoted(tmp_path, _summary())
    moved = folder.rename(folder.with_name("production"))
    assert verify_baseline(moved) == (
        f"{METADATA} is of {make.H100.machine_class}/quick, the folder of another baseline",
    )


def test_contradictions_under_correct_checksums_are_found(tmp_path: Path) -> None:
    folder = _promoted(tmp_path, _summary(1), _summary(2))

    def spoil(document: dict[str, object]) -> None:
        cases = document["cases"]
        assert isinstance(cases, list)
        cases[0]["run_spread"] *= 1.001
        cases[1]["outcome"] = "oom"
        cases.pop()

    _edit_metadata(folder, spoil)
    first, second, last = (CASES[i].case.case_id for i in (0, 1, 3))
    beginnings = (
        f"{last} has figures, but metadata.json does not list it",
        f"{first} states the run spread 0.",
        f"{second} is oom, expected ok",
    )
    problems = verify_baseline(folder)
    assert [problem.startswith(start) for problem, start in zip(problems, beginnings, strict=True)] == [True] * 3


def test_launches_that_do_not_fit_are_found(tmp_path: Path) -> None:
    folder = _promoted(tmp_path, _summary())
    file = folder / "launches.parquet"
    table = pq.read_table(file)
    rows = table.to_pylist()
    rows[0]["launch"] = 17
    rows[5]["median_s"] = math.nan
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), file, store_schema=False)
    _resign(folder)
    text = "\n".join(verify_baseline(folder))
    assert "launch 17, which metadata.json does not list" in text
    assert f"is ok, but has no time of {_run(1).run_id}, launch 1" in text
    assert "times that are not positive finite seconds" in text
    pq.write_table(table.drop_columns("run_id"), file)
    _resign(folder)
    (problem,) = verify_baseline(folder)
    assert "must have the columns case_id string, run_id string, launch int32, median_s double" in problem
