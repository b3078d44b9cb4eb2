"""Garbage: what repeats the store or is unknown to it goes; everything else stays."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from harness.cleanup import find_garbage
from harness.errors import StoreError
from harness.paths import run_folder
from harness.records import RunStatus
from harness.run_lock import measuring
from harness.store import Store
from harness.tests import factories as make

FILES = ("launch-001.jsonl", "launch-001-0.plan.json", "launch-001.log", "report.md")


def _run(store: Path, number: int, status: RunStatus) -> Path:
    run = make.make_run(number=number, status=status)
    Store(store).create_run(run)
    return _folder(run_folder(store, run.run_id))


def _folder(folder: Path) -> Path:
    folder.mkdir(parents=True)
    for name in FILES:
        (folder / name).write_text("12345")
    return folder


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "iroot.duckdb"


def test_what_goes_and_what_stays(store: Path, tmp_path: Path) -> None:
    complete = _run(store, 1, RunStatus.COMPLETE)
    interrupted = _run(store, 2, RunStatus.INTERRUPTED)
    unknown = _folder(run_folder(store, make.make_run(number=3).run_id))
    mine = _folder(tmp_path / "runs" / "my-notes")
    elsewhere = _run(tmp_path / "second.duckdb", 4, RunStatus.FAILED)
    export = _folder(tmp_path / "exports" / "0123abcd")
    link = tmp_path / "exports" / "linked"
    link.symlink_to(mine, target_is_directory=True)

    found = find_garbage(store, days=-1)
    shards = {complete / name for name in FILES if name != "report.md"}
    assert {garbage.path for garbage in found} == shards | {unknown, export, link}
    assert {garbage.path: garbage.size_bytes for garbage in found}[unknown] == 4 * 5
    for garbage in found:
        garbage.remove()
        garbage.remove()  # gone already: no error
    assert [file.name for file in complete.iterdir()] == ["report.md"]
    for kept in (interrupted, mine, elsewhere):
        assert sorted(file.name for file in kept.iterdir()) == sorted(FILES)
    assert not unknown.exists()
    assert list((tmp_path / "exports").iterdir()) == []
    assert find_garbage(store, days=-1) == ()


def test_young_files_stay(store: Path) -> None:
    folder = _run(store, 1, RunStatus.COMPLETE)
    old = folder / FILES[0]
    os.utime(old, (time.time() - 8 * 86_400,) * 2)
    assert [garbage.path for garbage in find_garbage(store, days=7)] == [old]
    assert find_garbage(store, days=9) == ()


def test_exports_stay_while_something_runs(store: Path, tmp_path: Path) -> None:
    export = _folder(tmp_path / "exports" / "0123abcd")
    _run(store, 1, RunStatus.RUNNING)
    with measuring(store, make.make_run(number=1).run_id):
        assert find_garbage(store, days=-1) == ()
    assert [garbage.path for garbage in find_garbage(store, days=-1)] == [export]  # the run's process is gone


def test_a_store_that_cannot_be_read_stops_it(store: Path, tmp_path: Path) -> None:
    _run(store, 1, RunStatus.COMPLETE)
    (tmp_path / "broken.duckdb").write_bytes(b"x" * 9000)
    with pytest.raises(StoreError, match=r"broken\.duckdb"):
        find_garbage(store, days=-1)
