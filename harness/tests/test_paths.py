"""Where the project, its store and a run's folder are found."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness import paths
from harness.errors import UsageError

PYPROJECT = '[project]\nname = "iroot"\n'


def _checkout(folder: Path, text: str = PYPROJECT) -> Path:
    (folder / "baselines").mkdir(parents=True)
    (folder / "pyproject.toml").write_text(text)
    return folder


def test_nearest_ancestor_of_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outer = _checkout(tmp_path / "outer")
    inner = _checkout(outer / "copies" / "inner")
    deep = inner / "a" / "b"
    deep.mkdir(parents=True)
    monkeypatch.chdir(deep)
    assert paths.project_root() == inner
    assert paths.default_store() == inner / "benchmark_results" / "iroot.duckdb"
    assert paths.baselines_root() == inner / "baselines"
    assert paths.reports_root() == inner / "reports"


@pytest.mark.parametrize("text", ['[project]\nname = "other"\n', "[tool]\n", "not = [toml", 'project = "iroot"\n'])
def test_another_project_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    outer = _checkout(tmp_path / "outer")
    other = _checkout(outer / "other", text)
    monkeypatch.chdir(other)
    assert paths.project_root() == outer


def test_a_checkout_without_baselines_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outer = _checkout(tmp_path / "outer")
    bare = outer / "bare"
    bare.mkdir()
    (bare / "pyproject.toml").write_text(PYPROJECT)
    monkeypatch.chdir(bare)
    assert paths.project_root() == outer


def test_outside_of_a_checkout_the_package_finds_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = _checkout(tmp_path / "mine") / "harness"
    package.mkdir()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    monkeypatch.setattr(paths, "__file__", str(package / "paths.py"))
    assert paths.project_root() == tmp_path / "mine"


def test_nowhere_a_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(paths, "__file__", str(tmp_path / "site-packages" / "harness" / "paths.py"))
    with pytest.raises(UsageError, match="--store"):
        paths.project_root()


def test_run_folder(tmp_path: Path) -> None:
    run_id = "20260102-030405-quick-0a1b"
    assert paths.run_folder(tmp_path / "s.duckdb", run_id) == tmp_path / "runs" / run_id


@pytest.mark.parametrize(
    "run_id",
    [
        "",
        "latest",
        "baseline",
        "..",
        ".hidden",
        "a/b",
        "n" * 101,
        "../../etc",
        "20260102-030405-a/b-0a1b",
        "20260102-030405-quick-0A1B",
    ],
)
def test_malformed_run_ids_are_refused(tmp_path: Path, run_id: str) -> None:
    with pytest.raises(UsageError, match="a run id looks like"):
        paths.run_folder(tmp_path / "s.duckdb", run_id)


@pytest.mark.parametrize("name", ["before", "main-3f2a", "3f2a9c", "v1.2+cu130"])
def test_names_of_imported_runs_are_run_ids_too(tmp_path: Path, name: str) -> None:
    assert paths.run_folder(tmp_path / "s.duckdb", name) == tmp_path / "runs" / name
    assert not paths.is_measured_run_id(name)
