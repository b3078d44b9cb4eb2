"""An arm: the library sources and the interpreter that worker processes measure.

The harness that measures is always the one that runs; only `iroot/` comes from the arm, by import path. A revision is
exported once into a folder named after its commit, so nothing is registered in the repository and nothing needs
cleaning after a kill; `iroot bench gc` removes exports.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

import harness
from harness.errors import UsageError
from harness.revisions import commit_of, git

WORKTREE = "WORKTREE"
"""Names the sources of the running program itself."""


@dataclass(frozen=True, kw_only=True)
class Arm:
    """Which library a worker imports.

    Attributes:
        label: what the user called it.
        library: the folder that holds `iroot/` (and nothing else that could shadow a module of the harness).
        interpreter: the Python that runs the workers.
        revision: the commit, where the arm is one.
        injection: slow every sample down by about this fraction; for `iroot bench qualify`.
    """

    label: str
    library: Path
    interpreter: str
    revision: str | None = None
    injection: float | None = None

    def command(self, module: str) -> list[str]:
        """Command line that runs a module of the harness on this arm."""
        # -P: the current folder must not come first on the path; it could hold another checkout.
        return [self.interpreter, "-P", "-m", module]

    def environment(self) -> dict[str, str]:
        """The process environment: the arm's library first, then this harness, then the caller's own path.

        NumPy's OpenBLAS solves only the tiny systems of the schedule design: two threads of it took 69 s where one took
        1.4 s (2 cores, 2026-11). Torch has its own threads.
        """
        inherited = os.environ.get("PYTHONPATH", "")
        path = [str(self.library), str(_harness_root()), *([inherited] if inherited else []), os.getcwd()]
        return dict(os.environ) | {"PYTHONPATH": os.pathsep.join(path), "OPENBLAS_NUM_THREADS": "1"}


def _harness_root() -> Path:
    return Path(harness.__file__).resolve().parent.parent


def current_arm() -> Arm:
    """The sources of the running program."""
    return Arm(label=WORKTREE, library=_harness_root(), interpreter=sys.executable)


def resolve_arm(name: str, *, repository: Path, exports: Path, interpreter: str | None = None) -> Arm:
    """The arm called `name`: `WORKTREE`, a folder that holds `iroot/`, or a git revision of `repository`.

    Args:
        repository: where revisions are looked up.
        exports: folder for exported revisions.
        interpreter: Python for the workers; default the running one.

    Raises:
        UsageError: no such folder or revision, or it holds no `iroot/`; no such interpreter.
    """
    python = interpreter or sys.executable
    if shutil.which(python) is None:
        raise UsageError(f"{python}: the interpreter of an arm must be an executable file; there is none")
    if name == WORKTREE:
        return Arm(label=name, library=_harness_root(), interpreter=python)
    folder = Path(name)
    if folder.is_dir():
        if not (folder / "iroot" / "__init__.py").is_file():
            raise UsageError(f"{name}: a folder to measure must hold iroot/__init__.py")
        return Arm(label=name, library=_alone(folder.resolve(), exports), interpreter=python)
    commit = commit_of(
        name,
        repository,
        refusal=f"neither a folder nor a git revision of {repository}; use {WORKTREE} for the current sources",
    )
    return Arm(label=name, library=_export(commit, repository, exports), interpreter=python, revision=commit)


def _alone(folder: Path, exports: Path) -> Path:
    """A folder that holds a link to `folder`'s iroot/ only: its own harness/ must not shadow the measuring one."""
    shell = exports / f"folder-{hashlib.sha256(str(folder).encode()).hexdigest()[:12]}"
    shell.mkdir(parents=True, exist_ok=True)
    link = shell / "iroot"
    if not link.is_symlink():
        link.symlink_to(folder / "iroot", target_is_directory=True)
    return shell


def _export(commit: str, repository: Path, exports: Path) -> Path:
    """Write the commit's `iroot/` below `exports`, completely or not at all; an earlier export is used again."""
    target = exports / commit
    if target.is_dir():
        return target
    exports.mkdir(parents=True, exist_ok=True)
    try:
        archive = git(repository, "archive", "--format=tar", commit, "iroot")
    except subprocess.CalledProcessError:
        raise UsageError(f"revision {commit[:12]} holds no iroot/") from None
    scratch = Path(tempfile.mkdtemp(dir=exports))
    try:
        with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
            tar.extractall(scratch, filter="data")
        with contextlib.suppress(OSError):  # another process was first: its export is the same
            scratch.rename(target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    assert target.is_dir(), target
    return target
