"""Samples of other programs: every format read with values checked, verdicts with a planted truth, every refusal."""

from __future__ import annotations

import copy
import csv
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import typer
from typer.testing import CliRunner, Result

from harness.cli.compare import compare
from harness.cli.import_ import import_
from harness.errors import HarnessError, StoreError, UsageError
from harness.external import import_external
from harness.external_formats import REPETITIONS_NOTE, Row, read_external
from harness.paths import project_root
from harness.records import INTERLEAVED, Outcome, Verdict
from harness.reference import compare_run
from harness.report.markdown import render_run
from harness.store import Store

SAMPLES = Path(__file__).parent / "samples"
APP = typer.Typer()
APP.command("import")(import_)
APP.command("compare")(compare)


def _call(*arguments: object) -> Result:
    return CliRunner().invoke(APP, [str(argument) for argument in arguments])


def _table(
    file: Path, *, scale: float = 1.0, seed: int = 0, first: int = 1, drift: float = 0.0, launches: int = 8
) -> Path:
    """Two cases, 5 samples per launch, launches spread by 0.3 %; `scale` slows the case `slow`.

    `drift` is the standard deviation of a change of every launch that other tables drawn with it share.
    """
    own, shared = np.random.default_rng(seed), np.random.default_rng(99)
    with file.open("w", newline="") as text:
        writer = csv.writer(text)
        writer.writerow(["launch", "case", "seconds", "comment"])
        for launch in range(first, first + launches):
            common = shared.normal(0, drift) if drift else 0.0
            for name, time_s in (("slow", 1e-3 * scale), ("steady/n=4", 2e-3)):
                median_s = time_s * math.exp(common + own.normal(0, 0.003))
                for sample in own.normal(0, 0.01, 5):
                    writer.writerow([launch, name, repr(median_s * math.exp(sample)), "x"])
    return file


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "s.duckdb")


def _imported(store: Store, name: str, *, paired: bool = False, **table: Any) -> None:
    file = _table(store.path.parent / f"{name}.csv", **table)
    import_external(store, [file], name, interleaved=paired)


def _verdicts(store: Store, candidate: str, reference: str) -> dict[str, Verdict]:
    comparison = compare_run(store, candidate, reference)
    assert comparison is not None
    return {row.case_id: row.verdict for row in comparison.verdicts}


# --- verdicts with a planted truth ------------------------------------------------------------------------------------


@pytest.mark.parametrize("paired", [False, True])
def test_identical_is_unchanged_and_five_percent_regresses(store: Store, paired: bool) -> None:
    _imported(store, "before", paired=paired, seed=1)
    _imported(store, "same", paired=paired, seed=2)
    _imported(store, "slower", paired=paired, seed=3, scale=1.05)
    _imported(store, "faster", paired=paired, seed=4, scale=0.95)
    steady = {"steady/n=4": Verdict.UNCHANGED}
    assert _verdicts(store, "same", "before") == {"slow": Verdict.UNCHANGED, **steady}
    assert _verdicts(store, "slower", "before") == {"slow": Verdict.REGRESSED, **steady}
    assert _verdicts(store, "faster", "before") == {"slow": Verdict.IMPROVED, **steady}


def test_pairs_cancel_what_interleaved_launches_share(store: Store) -> None:
    for paired in (False, True):
        _imported(store, f"a{paired}", paired=paired, seed=1, drift=0.03)
        _imported(store, f"b{paired}", paired=paired, seed=2, drift=0.03)
    unpaired, paired_ = compare_run(store, "bFalse", "aFalse"), compare_run(store, "bTrue", "aTrue")
    assert unpaired is not None
    assert paired_ is not None
    assert (unpaired.kind, paired_.kind) == ("run", "paired")
    assert {row.verdict for row in unpaired.verdicts} == {Verdict.INCONCLUSIVE}
    assert {row.verdict for row in paired_.verdicts} == {Verdict.UNCHANGED}
    assert all(row.tau == 0.02 for row in paired_.verdicts)  # nothing to widen it by


def test_pairs_call_what_single_runs_cannot(store: Store) -> None:
    """+3 % at a spread of 0.3 %: beyond 2.0 % and within 2.0 % + 1.64 sqrt(2) 0.6 %. Help and note say so."""
    for paired in (False, True):
        _imported(store, f"a{paired}", paired=paired, seed=1)
        _imported(store, f"b{paired}", paired=paired, seed=2, scale=1.03)
    unpaired, paired_ = compare_run(store, "bFalse", "aFalse"), compare_run(store, "bTrue", "aTrue")
    assert unpaired is not None
    assert paired_ is not None
    assert (unpaired.verdicts[0].verdict, paired_.verdicts[0].verdict) == (Verdict.INCONCLUSIVE, Verdict.REGRESSED)
    assert unpaired.verdicts[0].tau == pytest.approx(0.02 + 1.6449 * math.sqrt(2) * 0.006, rel=1e-4)
    figures = [f"{100 * (comparison.verdicts[0].tau or 0):.1f} %" for comparison in (paired_, unpaired)]
    assert unpaired.notes[-1] == (
        f"launches that alternated, both runs imported with --paired, are judged at tau {figures[0]}; "
        f"here it is {figures[1]}"
    )
    assert not any("--paired" in note or "bench gate" in note for note in paired_.notes)
    shown = " ".join(_call("import", "--help").output.replace("│", " ").split())
    assert f"judged at a minimum effect of {figures[0]} instead of {figures[1]}" in shown
    readme = (project_root() / "README.md").read_text(encoding="utf-8").replace("\n", " ")
    assert f"a slowdown is called beyond {figures[0]}, not {figures[1]}" in readme


def test_one_paired_side_is_not_enough_for_pairs(store: Store) -> None:
    _imported(store, "a", paired=True)
    _imported(store, "b")
    comparison = compare_run(store, "b", "a")
    assert comparison is not None
    assert comparison.kind == "run"


def test_launches_pair_by_their_number(store: Store) -> None:
    """A side counted from 0 and one that lacks its first launch: the common numbers are the pairs."""
    _imported(store, "a", paired=True, seed=1, first=0)
    _imported(store, "b", paired=True, seed=2, first=1)
    comparison = compare_run(store, "b", "a")
    assert comparison is not None
    assert {row.launches for row in comparison.verdicts} == {7}


def test_few_launches_are_inconclusive(store: Store) -> None:
    _imported(store, "a", launches=2)
    _imported(store, "b", launches=2, seed=1)
    comparison = compare_run(store, "b", "a")
    assert comparison is not None
    assert {row.reason for row in comparison.verdicts} == {"2 launches; at least 3 are needed"}


def test_commands_print_the_documented_list(tmp_path: Path) -> None:
    store = tmp_path / "s.duckdb"
    for name, scale in (("before", 1.0), ("after", 1.05)):
        file = _table(tmp_path / f"{name}.csv", scale=scale, seed=len(name))
        done = _call("import", file, "--run", name, "--store", store)
        assert (done.exit_code, done.stdout) == (0, f"imported {name}\n")
    result = _call("compare", "after", "--against", "before", "--json", "--store", store)
    assert result.exit_code == 1
    rows = {row["case"]: row for row in json.loads(result.stdout)}
    assert list(rows) == ["slow", "steady/n=4"]
    slow = rows["slow"]
    assert slow["verdict"] == "regressed"
    assert slow["low"] < slow["ratio"] < slow["high"]
    assert slow["ratio"] == pytest.approx(1.05, abs=0.01)
    assert slow["launches"] == 8
    assert 0 < slow["mde"] < 0.02
    nothing = _call("compare", "before", "--json", "--store", store)
    assert (nothing.exit_code, json.loads(nothing.stdout)) == (3, [])


# --- formats ----------------------------------------------------------------------------------------------------------


def test_a_table_keeps_every_sample(store: Store) -> None:
    file = _table(store.path.parent / "t.csv", first=0, launches=3)
    (run,) = import_external(store, [file], "t", interleaved=True)
    assert (run.launches, run.paired_with, run.imported_from) == (3, INTERLEAVED, "table: t.csv")
    with file.open() as text:
        expected = [(int(row["launch"]) + 1, row["case"], float(row["seconds"])) for row in csv.DictReader(text)]
    frame = store.samples("t")
    found = list(zip(frame["launch"], frame["case_id"], frame["seconds"], strict=True))
    assert sorted(found) == sorted(expected)


def test_parquet_equals_csv(tmp_path: Path) -> None:
    table = _table(tmp_path / "t.csv")
    parquet = tmp_path / "no-suffix-needed"
    with table.open() as text:
        rows = [{**row, "launch": int(row["launch"]), "seconds": float(row["seconds"])} for row in csv.DictReader(text)]
    pq.write_table(pa.Table.from_pylist(rows), parquet)
    assert read_external([parquet]) == read_external([table])


@pytest.mark.parametrize("column", ["arm", "run"])
def test_arms_in_one_table_become_runs(store: Store, column: str) -> None:
    file = store.path.parent / "ab.csv"
    lines = [f"{n},x,{(1 + 0.05 * (arm == 'B')) * (1e-3 + n * 1e-7)},{arm}" for n in range(6) for arm in "AB"]
    file.write_text("\n".join([f"launch,case,seconds,{column}", *lines]) + "\n")
    runs = import_external(store, [file], "ab", interleaved=True)
    assert [(run.run_id, run.paired_with) for run in runs] == [("ab-A", "ab-B"), ("ab-B", "ab-A")]
    comparison = compare_run(store, "ab-B")  # its other arm is the default
    assert comparison is not None
    assert comparison.kind == "paired"
    assert [(row.case_id, row.verdict) for row in comparison.verdicts] == [("x", Verdict.REGRESSED)]


def test_pytest_benchmark(store: Store) -> None:
    file = SAMPLES / "pytest_benchmark.json"
    reading = read_external([file])
    rounds = (0.00101, 0.00103, 0.00104, 0.00105, 0.00109)
    data = tuple(Row(launch=0, case="tests/test_speed.py::test_root[64]", seconds=each) for each in rounds)
    median = Row(launch=0, case="tests/test_speed.py::test_root[128]", seconds=0.00404)
    assert reading.rows == (*data, median)
    (run,) = import_external(store, [file] * 4, "four-sessions", interleaved=False)
    assert run.launches == 4
    assert run.created_at == "2026-03-01T09:30:05+00:00"
    assert run.source.revision == "8c1d6f0a4b7e92d35f1c0a6be8d7439201fe5c3d"
    assert (run.machine.model, run.machine.threads) == ("AMD EPYC 7763 64-Core Processor", 16)
    assert run.software.python == "3.12.3"
    summary = store.summary("four-sessions")
    medians = summary.cases["tests/test_speed.py::test_root[64]"].launch_medians_s
    assert medians == pytest.approx(dict.fromkeys((1, 2, 3, 4), 0.00104))


def test_google_benchmark(store: Store) -> None:
    file = SAMPLES / "google_benchmark.json"
    (run,) = import_external(store, [file], "one-process", interleaved=False)
    assert run.note == REPETITIONS_NOTE
    cases = store.summary("one-process").cases
    assert cases["BM_root/64"].launch_medians_s == pytest.approx({1: 682.5e-6, 2: 684e-6, 3: 681e-6})
    assert cases["BM_copy"].launch_medians_s == pytest.approx({1: 124.5e-9})
    assert (cases["BM_root/4096"].outcome, cases["BM_root/4096"].error) == (Outcome.FAILED, "out of memory")
    (several,) = import_external(store, [file, file], "two-processes", interleaved=False)
    assert (several.launches, several.note) == (2, None)
    assert store.summary("two-processes").cases["BM_root/64"].launch_medians_s == pytest.approx(
        {1: 682.5e-6, 2: 682.5e-6}
    )


def test_nvbench(store: Store) -> None:
    (run,) = import_external(store, [SAMPLES / "nvbench.json"], "gpu", interleaved=False)
    assert (run.machine.model, run.machine.sm_count, run.machine.kind) == ("NVIDIA H100 80GB HBM3", 132, "cuda")
    cases = store.summary("gpu").cases
    assert cases["root Device=0 Elements=2^20"].launch_medians_s == pytest.approx({1: 2.3567e-05})
    skipped = cases["root Device=0 Elements=2^40"]
    assert (skipped.outcome, skipped.error) == (Outcome.UNSUPPORTED, "Device out of memory.")


def test_a_note_on_the_samples_reaches_the_comparison(store: Store) -> None:
    file = SAMPLES / "google_benchmark.json"
    for name in ("a", "b"):
        import_external(store, [file], name, interleaved=False)
    comparison = compare_run(store, "b", "a")
    assert comparison is not None
    assert comparison.notes.count(REPETITIONS_NOTE) == 1


def test_machines_that_the_files_name_must_be_alike(store: Store, tmp_path: Path) -> None:
    document = json.loads((SAMPLES / "pytest_benchmark.json").read_text())
    document["machine_info"]["cpu"]["brand_raw"] = "Another CPU"
    (tmp_path / "other.json").write_text(json.dumps(document))
    import_external(store, [SAMPLES / "pytest_benchmark.json"], "a", interleaved=False)
    import_external(store, [tmp_path / "other.json"], "b", interleaved=False)
    with pytest.raises(HarnessError, match="model: Another CPU != AMD EPYC 7763"):
        compare_run(store, "b", "a")


def test_a_report_does_not_claim_the_samples_as_ones_own(store: Store) -> None:
    _imported(store, "a")
    text = render_run(store.summary("a"), None)
    assert "The run was imported from `table: a.csv`." in text
    assert "Another program took the samples" in text
    assert "steady/n=4" in text


# --- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("launch,name,seconds\n1,a,1\n", "must have the columns launch, case, seconds .* got launch, name, seconds"),
        ("launch,case,seconds,arm,run\n1,a,1,A,B\n", "at most one of arm, run"),
        ("launch,case,seconds\n1.5,a,1\n", "launch must be integer"),
        ("launch,case,seconds\none,a,1\n", "launch must be integer"),
        ("launch,case,seconds\n-1,a,1\n", "numbered from 0 or 1, got -1"),
        ("launch,case,seconds\n1,a,\n", "a value is missing"),
        ("launch,case,seconds\n1,a,0\n", "positive finite seconds, got 0.0 for 'a'"),
        ("launch,case,seconds\n1,a,inf\n", "positive finite seconds, got inf for 'a'"),
        ("launch,case,seconds\n", "holds no sample"),
        ("", "neither a table nor JSON"),
        ('{"benchmarks": 3}', "JSON of an unknown kind"),
        ("[1, 2]", "JSON of an unknown kind"),
        ("{", "is not JSON"),
    ],
)
def test_unreadable_files(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "f"
    file.write_text(text)
    with pytest.raises(UsageError, match=message):
        read_external([file])


def _without_stats(document: dict[str, Any]) -> None:
    del document["benchmarks"][0]["stats"]


def _only_aggregates(document: dict[str, Any]) -> None:
    document["benchmarks"] = [each for each in document["benchmarks"] if each["run_type"] == "aggregate"]


def _other_unit(document: dict[str, Any]) -> None:
    document["benchmarks"][0]["time_unit"] = "fortnight"


def _without_times(document: dict[str, Any]) -> None:
    document["benchmarks"][0]["states"][0]["summaries"] = []


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("pytest_benchmark", _without_stats, "KeyError: 'stats'"),
        ("google_benchmark", _only_aggregates, "without --benchmark_report_aggregates_only"),
        ("google_benchmark", _other_unit, "fortnight"),
        ("nvbench", _without_times, "has no summary nv/cold/time/gpu/mean"),
    ],
)
def test_damaged_json(tmp_path: Path, name: str, damage: Callable[[dict[str, Any]], None], message: str) -> None:
    document = copy.deepcopy(json.loads((SAMPLES / f"{name}.json").read_text()))
    damage(document)
    (tmp_path / "f.json").write_text(json.dumps(document))
    with pytest.raises(UsageError, match=message):
        read_external([tmp_path / "f.json"])


def test_names_files_and_flags_that_do_not_fit(store: Store, tmp_path: Path) -> None:
    table = _table(tmp_path / "t.csv")
    google, nvbench = SAMPLES / "google_benchmark.json", SAMPLES / "nvbench.json"
    with pytest.raises(UsageError, match="must be launches of one JSON format, got Google Benchmark, nvbench"):
        read_external([google, nvbench])
    with pytest.raises(UsageError, match=r"a table holds every launch in one file"):
        read_external([table, table])
    with pytest.raises(UsageError, match="got 'latest'"):
        import_external(store, [table], "latest", interleaved=False)
    import_external(store, [table], "t", interleaved=False)
    with pytest.raises(StoreError, match="holds a run t already"):
        import_external(store, [table], "t", interleaved=False)
    (tmp_path / "three.csv").write_text("launch,case,seconds,arm\n1,x,1,A\n1,x,1,B\n1,x,1,C\n")
    with pytest.raises(UsageError, match=r"--paired needs two arms in one file, .* got A, B, C"):
        import_external(store, [tmp_path / "three.csv"], "three", interleaved=True)
    assert "name the run it becomes with --run NAME" in str(_call("import", table, "--store", store.path).exception)
    folder = _call("import", tmp_path, "--run", "x", "--store", store.path).exception
    assert "keeps its own name" in str(folder)
    for flags in ((), ("--run", "x")):
        missing = _call("import", tmp_path / "none", *flags, "--store", store.path).exception
        assert "none: no such file or folder" in str(missing)
