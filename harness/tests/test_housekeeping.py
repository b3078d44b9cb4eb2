"""The housekeeping and baseline commands, as a user calls them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from harness.baseline import load_baseline
from harness.cli import housekeeping, import_
from harness.cli.baseline import baseline_app
from harness.environment import source_identity
from harness.errors import BaselineError, StoreError, UsageError
from harness.paths import run_folder
from harness.records import RunStatus, RunSummary
from harness.store import Store
from harness.tests import factories as make
from harness.transfer import Format

APP = typer.Typer()
APP.add_typer(baseline_app, name="baseline")
for name in ("runs", "show", "export", "gc"):
    APP.command(name)(getattr(housekeeping, name))
APP.command("import")(import_.import_)

H100 = make.H100.machine_class


@pytest.fixture(autouse=True)
def _wide_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "300")


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Three complete runs of one manifest and an interrupted one, the newest."""
    path = tmp_path / "iroot.duckdb"
    for number in (1, 2, 3):
        run = make.make_run(make.make_cases(2), number=number, launches=3, status=RunStatus.COMPLETE)
        Store(path).import_run(run, make.make_launches(run))
    Store(path).create_run(make.make_run(number=4, status=RunStatus.INTERRUPTED))
    return path


def _call(*arguments: object) -> Result:
    return CliRunner().invoke(APP, [str(argument) for argument in arguments])


def _good(*arguments: object) -> str:
    result = _call(*arguments)
    if result.exception is not None:
        raise result.exception
    assert result.exit_code == 0
    return result.stdout


def _lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if "20260102" in line]


def test_choices_are_those_of_the_records() -> None:
    assert [str(each) for each in housekeeping.StatusChoice] == [str(each) for each in RunStatus]
    assert [str(each) for each in housekeeping.FormatChoice] == [str(each) for each in Format]


def test_runs(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = _lines(_good("runs", "--store", store))
    assert [line.split()[0] for line in lines] == [make.make_run(number=n).run_id for n in (4, 3, 2, 1)]
    assert make.REVISION[:9] in lines[0]
    monkeypatch.setenv("COLUMNS", "80")
    assert make.make_run(number=4).run_id in _good("runs", "--store", store)  # never cut: it is there to be copied
    monkeypatch.setenv("COLUMNS", "300")
    assert len(_lines(_good("runs", "--store", store, "--status", "complete", "--limit", 2))) == 2
    assert _good("runs", "--store", store, "--manifest", "other") == "no run fits\n"
    rows = json.loads(_good("runs", "--store", store, "--json", "--machine", H100))
    assert [row["cases"] for row in rows] == [4, 2, 2, 2]


def test_show(store: Path) -> None:
    text = _good("show", "20260102-0003", "--store", store)
    assert "NVIDIA H100 80GB HBM3" in text
    assert "2 of 2 measured" in text
    (line,) = [line for line in text.splitlines() if "inverse_root/coupled_pe" in line]
    assert "1.00 ms" in line
    assert "3.1e-03" in line
    assert RunSummary.model_validate_json(_good("show", "20260102-0003", "--store", store, "--json")) == Store(
        store
    ).summary("20260102-0003")
    assert "0 of 4 measured" in _good("show", "20260102-0004", "--store", store)


def test_a_command_says_which_runs_latest_passes_over(store: Path) -> None:
    arm = make.make_run(number=5, status=RunStatus.COMPLETE).model_copy(update={"arm": "main"})
    Store(store).create_run(arm)
    result = _call("show", "--store", store, "--json")
    killed, newest = (make.make_run(number=number).run_id for number in (4, 3))
    assert json.loads(result.stdout)["run"]["run_id"] == newest
    assert result.stderr == (
        f"latest is {newest}; newer, and passed over: {arm.run_id} (arm of an A/B, complete), {killed} (interrupted)\n"
    )
    assert _call("show", newest, "--store", store).stderr == ""


def test_unknown_run(store: Path) -> None:
    assert isinstance(_call("show", "nope", "--store", store).exception, StoreError)


def test_export_and_import(store: Path, tmp_path: Path) -> None:
    run_id = make.make_run(number=2).run_id
    _good("export", run_id, "--to", tmp_path / "out", "--format", "csv", "--store", store)
    other = tmp_path / "other" / "b.duckdb"
    assert _good("import", tmp_path / "out", "--store", other) == f"imported {run_id}\n"
    assert Store(other).launches(run_id) == Store(store).launches(run_id)
    assert isinstance(_call("import", tmp_path / "out", "--store", other).exception, StoreError)


def test_gc(store: Path) -> None:
    run_id = make.make_run(number=1).run_id
    shard = run_folder(store, run_id) / "launch-000.jsonl"
    shard.parent.mkdir(parents=True)
    shard.write_text("{}\n")
    assert f"would remove {shard}" in _good("gc", "--days", 0, "--dry-run", "--store", store)
    assert shard.exists()
    assert "removed 0 items" in _good("gc", "--store", store)
    document = json.loads(_good("gc", "--days", 0, "--json", "--store", store))
    assert [row["path"] for row in document["garbage"]] == [str(shard)]
    assert not shard.exists()


def test_promote_list_show_verify(store: Path, tmp_path: Path) -> None:
    root = tmp_path / "baselines"
    where = ("--root", root)
    ids = [make.make_run(number=number).run_id for number in (1, 2, 3)]
    promote = ("baseline", "promote", *ids, "--reason", "new [driver]", "--provisional", "--store", store, *where)
    text = _good(*promote, "--dry-run")
    assert "new baseline of 2 cases" in text
    assert "would write" in text
    assert not root.exists()
    assert f"wrote {root / H100 / 'quick'}" in _good(*promote)
    assert f"unchanged: {root / H100 / 'quick'}" in _good(*promote)
    baseline = load_baseline(root, H100, "quick")
    assert baseline is not None
    assert baseline.runs_merged == tuple(ids)

    (line,) = [line for line in _good("baseline", "list", *where).splitlines() if H100 in line]
    assert "new [driver]" in line
    assert json.loads(_good("baseline", "list", "--json", *where))[0]["manifest"] == "quick"
    assert "new [driver]" in _good("baseline", "show", "quick", *where)
    assert RunSummary.model_validate_json(_good("baseline", "show", f"{H100}/quick", "--json", *where)) == baseline
    assert _good("baseline", "verify", *where) == f"{H100}/quick: good\n"

    (root / H100 / "quick" / "quality.parquet").write_bytes(b"")
    damaged = _call("baseline", "verify", "quick", *where)
    assert isinstance(damaged.exception, BaselineError)
    assert "1 of 1 baselines are damaged" in str(damaged.exception)
    assert "quality.parquet is damaged" in str(damaged.exception)


def test_baseline_names(store: Path, tmp_path: Path) -> None:
    root = tmp_path / "baselines"
    missing = _call("baseline", "show", "quick", "--root", root)
    assert isinstance(missing.exception, UsageError)
    assert "there is none" in str(missing.exception)
    where = ("--store", store, "--root", root)
    _good("baseline", "promote", "20260102-0001", "--reason", "r", "--provisional", *where)
    nearest = _call("baseline", "verify", "quik", "--root", root)
    assert str(nearest.exception).endswith(f"the nearest is '{H100}/quick'")


def test_an_official_baseline_holds_three_runs_of_six_launches(tmp_path: Path) -> None:
    store, root = Store(tmp_path / "s.duckdb"), tmp_path / "baselines"
    for number, launches in ((1, 6), (2, 6), (3, 6), (4, 5)):
        run = make.make_run(make.make_cases(2), number=number, launches=launches, status=RunStatus.COMPLETE)
        store.import_run(run, make.make_launches(run))
    ids = [f"20260102-000{number}" for number in (1, 2, 3, 4)]
    where = ("--reason", "r", "--store", store.path, "--root", root)
    for runs, lacking in ((ids[:2], "2 run(s): an official baseline holds at least 3"), (ids[1:], "(5)")):
        for flags in ((), ("--dry-run",), ("--cases", "task=inverse_root|gemm")):
            refused = _call("baseline", "promote", *runs, *flags, *where)
            assert isinstance(refused.exception, BaselineError), refused.output
            assert lacking in str(refused.exception)
            assert "--provisional" in str(refused.exception)
    assert not root.exists()
    assert "wrote" in _good("baseline", "promote", *ids[:3], *where)
    assert "2 run(s)" in _good("baseline", "promote", *ids[:2], "--provisional", *where)


def test_a_refused_promotion_says_why(store: Path, tmp_path: Path) -> None:
    result = _call("baseline", "promote", "20260102-0004", "--reason", "r", "--store", store, "--root", tmp_path / "b")
    assert isinstance(result.exception, BaselineError)
    assert "is interrupted, not complete" in str(result.exception)
    assert not (tmp_path / "b").exists()


def _git(checkout: Path, *arguments: str) -> str:
    command = ["git", "-C", str(checkout), "-c", "user.name=t", "-c", "user.email=t@t", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small git checkout of the project, which is the working directory."""
    root = tmp_path / "checkout"
    for name in ("iroot", "harness", "baselines"):
        (root / name).mkdir(parents=True)
        (root / name / "__init__.py").write_text("")
    (root / "pyproject.toml").write_text('[project]\nname = "iroot"\n')
    _git(root, "init", "--quiet")
    _git(root, "add", ".")
    _git(root, "commit", "--quiet", "--message", "first")
    monkeypatch.chdir(root)
    return root


def test_a_run_of_a_copied_tree_is_imported_and_promoted(checkout: Path, tmp_path: Path) -> None:
    copied = source_identity(checkout).model_copy(update={"revision": None, "dirty": None})
    run = make.make_run(make.make_cases(2), launches=3, source=copied, status=RunStatus.COMPLETE)
    away, here = tmp_path / "away.duckdb", tmp_path / "here.duckdb"
    Store(away).import_run(run, make.make_launches(run))
    _good("export", "latest", "--to", tmp_path / "out", "--store", away)
    _good("import", tmp_path / "out", "--store", here)
    promote = ("baseline", "promote", "latest", "--reason", "r", "--provisional", "--store", here)

    (checkout / "iroot" / "new.py").write_text("x = 1\n")
    assert "the checkout to check it against is dirty" in str(_call(*promote).exception)
    _git(checkout, "add", ".")
    _git(checkout, "commit", "--quiet", "--message", "second")
    assert "check out the commit that was measured" in str(_call(*promote).exception)
    _git(checkout, "revert", "--no-edit", "HEAD")
    _good(*promote)
    baseline = load_baseline(checkout / "baselines", H100, "quick")
    assert baseline is not None
    assert baseline.run.source == source_identity(checkout).model_copy(update={"dirty": False})
    assert baseline.run.source.revision == _git(checkout, "rev-parse", "HEAD")


def test_importing_the_commands_is_cheap() -> None:
    """Nothing heavy comes with the command line: shell completion imports it at every key."""
    code = (
        "import sys, harness.cli.baseline, harness.cli.housekeeping; "
        "print(sorted({'torch', 'pydantic', 'pandas', 'duckdb', 'pyarrow', 'numpy'} & set(sys.modules)))"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout == "[]\n"
