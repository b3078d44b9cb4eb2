"""Arms: folders, revisions and what their workers import."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from harness.arms import WORKTREE, Arm, current_arm, resolve_arm
from harness.errors import UsageError

INIT = "NAME = {name!r}\n"


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=tester", "-c", "user.email=tester@example.org"]
    command = ["git", "-C", str(folder), *identity, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Two commits whose libraries name themselves, and an uncommitted third."""
    root = tmp_path / "repository"
    (root / "iroot").mkdir(parents=True)
    (root / "harness").mkdir()
    (root / "harness" / "__init__.py").write_text("raise ImportError('the arm must not bring its own harness')\n")
    git(root.parent, "init", "-q", str(root))
    for name in ("first", "second"):
        (root / "iroot" / "__init__.py").write_text(INIT.format(name=name))
        git(root, "add", "-A")
        git(root, "commit", "-q", "-m", name)
    (root / "iroot" / "__init__.py").write_text(INIT.format(name="uncommitted"))
    return root


def imported(arm: Arm, statement: str) -> str:
    """What a process of the arm prints."""
    command = [*arm.command("timeit")[:2], "-c", statement]
    return subprocess.run(
        command, env=arm.environment(), check=True, capture_output=True, text=True, stdin=subprocess.DEVNULL
    ).stdout.strip()


def test_a_revision_brings_its_library_and_the_harness_stays(repository: Path, tmp_path: Path) -> None:
    arm = resolve_arm("HEAD~1", repository=repository, exports=tmp_path / "exports")
    assert arm.revision == git(repository, "rev-parse", "HEAD~1")
    assert imported(arm, "import iroot; print(iroot.NAME)") == "first"
    measuring = Path(__file__).resolve().parents[1] / "__init__.py"
    assert imported(arm, "import harness; print(harness.__file__)") == str(measuring)


def test_an_export_is_made_once_and_nothing_is_left_beside_it(repository: Path, tmp_path: Path) -> None:
    exports = tmp_path / "exports"
    first = resolve_arm("HEAD", repository=repository, exports=exports)
    stamp = (first.library / "iroot" / "__init__.py").stat().st_mtime_ns
    again = resolve_arm("HEAD", repository=repository, exports=exports)
    assert again.library == first.library
    assert (again.library / "iroot" / "__init__.py").stat().st_mtime_ns == stamp
    assert [path.name for path in exports.iterdir()] == [first.revision]
    assert git(repository, "worktree", "list").count("\n") == 0


def test_a_folder_brings_its_library_but_not_its_harness(repository: Path, tmp_path: Path) -> None:
    arm = resolve_arm(str(repository), repository=tmp_path, exports=tmp_path / "exports")
    assert arm.revision is None
    assert imported(arm, "import iroot, harness; print(iroot.NAME)") == "uncommitted"


def test_worktree_is_the_running_program() -> None:
    arm = resolve_arm(WORKTREE, repository=Path("/nowhere"), exports=Path("/nowhere"))
    assert arm == current_arm()
    assert arm.interpreter == sys.executable


def test_another_interpreter_runs_the_workers(tmp_path: Path) -> None:
    other = tmp_path / "python"
    other.symlink_to(sys.executable)
    arm = resolve_arm(WORKTREE, repository=tmp_path, exports=tmp_path, interpreter=str(other))
    assert arm.command("harness.worker")[0] == str(other)


def test_an_interpreter_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="must be an executable file"):
        resolve_arm(WORKTREE, repository=tmp_path, exports=tmp_path, interpreter=str(tmp_path / "none"))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no-such-branch", "neither a folder nor a git revision"),
        ("empty", "must hold iroot/__init__.py"),
    ],
)
def test_what_cannot_be_measured_is_refused(
    name: str, message: str, repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=message):
        resolve_arm(name, repository=repository, exports=tmp_path / "exports")


def test_a_revision_without_the_library_is_refused(repository: Path, tmp_path: Path) -> None:
    git(repository, "rm", "-q", "-r", "-f", "iroot")
    git(repository, "commit", "-q", "-m", "gone")
    with pytest.raises(UsageError, match="holds no iroot/"):
        resolve_arm("HEAD", repository=repository, exports=tmp_path / "exports")
