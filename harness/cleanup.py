"""What `iroot bench gc` may remove: files that repeat what a store holds, or that no store knows.

run folders        of runs that no store in the folder holds
shards             of complete runs: events, plans and logs of workers; reports stay
exported sources   of interleaved A/B runs; they are exported again when needed
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from harness.paths import is_measured_run_id, runs_root
from harness.records import RunStatus
from harness.store import Store

SHARD_PATTERNS = ("*.jsonl", "*.plan.json", "*.log")
EXPORTS = "exports"
_DAY_S = 86_400.0


@dataclass(frozen=True, kw_only=True)
class Garbage:
    """A file or folder that may go."""

    path: Path
    reason: str
    size_bytes: int

    def remove(self) -> None:
        """Delete it; that it is gone already is no error."""
        if self.path.is_dir() and not self.path.is_symlink():
            shutil.rmtree(self.path, ignore_errors=True)
        else:
            self.path.unlink(missing_ok=True)


def find_garbage(store: Path, *, days: float) -> tuple[Garbage, ...]:
    """Everything removable that was last written more than `days` days ago.

    Run folders lie beside the store, so every `*.duckdb` file of that folder is asked which runs it holds.

    Raises:
        StoreError: one of them cannot be read; then nothing can be said to be unknown.
    """
    statuses = _statuses(store)
    before = time.time() - days * _DAY_S
    found = [*_in_run_folders(runs_root(store), statuses), *_exports(store.parent / EXPORTS, statuses)]
    return tuple(garbage for garbage in found if _last_written(garbage.path) < before)


def _statuses(store: Path) -> dict[str, RunStatus]:
    stores = {store, *store.parent.glob("*.duckdb")}
    return {run.run_id: run.status for path in sorted(stores) for run in Store(path).runs()}


def _in_run_folders(root: Path, statuses: dict[str, RunStatus]) -> Iterator[Garbage]:
    for folder in sorted(root.glob("*")):
        if not (folder.is_dir() and is_measured_run_id(folder.name)):
            continue  # not ours
        status = statuses.get(folder.name)
        if status is None:
            yield _garbage(folder, "no store holds this run")
        elif status is RunStatus.COMPLETE:
            for pattern in SHARD_PATTERNS:
                yield from (_garbage(file, "the complete run is in the store") for file in sorted(folder.glob(pattern)))


def _exports(root: Path, statuses: dict[str, RunStatus]) -> Iterator[Garbage]:
    if RunStatus.RUNNING not in statuses.values():  # a running A/B may be measuring one of them
        yield from (_garbage(folder, "exported sources of an A/B") for folder in sorted(root.glob("*")))


def _garbage(path: Path, reason: str) -> Garbage:
    size = sum(file.lstat().st_size for file in _files(path))
    return Garbage(path=path, reason=reason, size_bytes=size)


def _last_written(path: Path) -> float:
    return max((file.lstat().st_mtime for file in _files(path)), default=path.lstat().st_mtime)


def _files(path: Path) -> list[Path]:
    """The file itself, or every file below a folder; links are not followed."""
    if not path.is_dir() or path.is_symlink():
        return [path]
    return [each for each in path.rglob("*") if each.is_symlink() or each.is_file()]
