"""Whether a run is being measured right now: its process holds a lock on a file in the run's folder.

The system releases the lock when the process ends, however it ends: nothing has to be written for a run that is killed,
and no process id can be mistaken for another's.
"""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from harness.errors import UsageError
from harness.paths import run_folder


def lock_path(store: Path, run_id: str) -> Path:
    """The file whose lock the measuring process holds."""
    return run_folder(store, run_id) / "measuring.lock"


@contextmanager
def measuring(store: Path, run_id: str) -> Iterator[None]:
    """Hold the run's lock for as long as the block lasts. Raises UsageError if another process holds it."""
    path = lock_path(store, run_id)
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise UsageError(f"run {run_id} is being measured by another process; wait for that one to end") from None
    try:
        yield
    finally:
        lock.release()


def is_measured(store: Path, run_id: str) -> bool:
    """Whether a process holds the run's lock. Asks for a shared one, so that askers are not taken for a measurement."""
    try:
        with lock_path(store, run_id).open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False
