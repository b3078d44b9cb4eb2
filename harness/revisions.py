"""Git revisions: looked up by name, and the ones between two of them. Reads the repository, never changes it."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from harness.errors import UsageError

Walk = Literal["first-parent", "all"]
"""`first-parent`: a merge stands for all that it brought; `all`: the commits that merges brought, too."""

LIBRARY = "iroot"
"""The folder that an arm takes from its revision: commits that do not touch it cannot change what is measured."""

_FORMAT = "%H%x00%P%x00%s"


@dataclass(frozen=True, kw_only=True)
class Commit:
    """A commit: its id, its parents (those that touch the library, or stand for them) and its first line."""

    revision: str
    parents: tuple[str, ...]
    subject: str


def git(repository: Path, *arguments: str) -> bytes:
    """What git prints. Raises CalledProcessError where it fails, FileNotFoundError where it is not installed."""
    return subprocess.run(["git", "-C", str(repository), *arguments], check=True, capture_output=True).stdout


def commit_of(name: str, repository: Path, *, refusal: str) -> str:
    """The full id of a revision. Raises UsageError where there is none: `name: refusal`."""
    try:
        return git(repository, "rev-parse", "--verify", "--quiet", f"{name}^{{commit}}").decode().strip()
    except FileNotFoundError:
        raise UsageError(f"{name}: git is not installed to look it up as a revision") from None
    except subprocess.CalledProcessError:
        raise UsageError(f"{name}: {refusal}") from None


def commit(revision: str, repository: Path) -> Commit:
    """One commit by its full id."""
    return _parsed(git(repository, "log", "-1", f"--format={_FORMAT}", revision))[0]


def library_commits(good: str, bad: str, repository: Path, *, walk: Walk) -> tuple[Commit, ...]:
    """The commits after `good` up to `bad` that change the library, parents before children.

    The last one holds the library of `bad`, and every other one is an ancestor of it.

    Raises:
        UsageError: `good` is not an ancestor of `bad`, or no commit between them changes the library.
    """
    base = _merge_base(good, bad, repository)
    if base != good:
        swapped = "; swap them: BAD is an ancestor of GOOD" if base == bad else ""
        common = "" if base is None or swapped else f"; use their merge base {base[:12]} as GOOD"
        raise UsageError(f"GOOD {good[:12]} must be an ancestor of BAD {bad[:12]}{swapped}{common}")
    order = ["--topo-order", "--reverse", "--parents", *(["--first-parent"] if walk == "first-parent" else [])]
    found = _parsed(git(repository, "log", f"--format={_FORMAT}", *order, f"{good}..{bad}", "--", LIBRARY))
    if not found:
        raise UsageError(
            f"no commit between {good[:12]} and {bad[:12]} changes {LIBRARY}/: both are the same library; where torch, "
            "triton or the driver changed, `iroot bench ab` with --python-a and --python-b compares environments"
        )
    return found


def _merge_base(good: str, bad: str, repository: Path) -> str | None:
    try:
        return git(repository, "merge-base", good, bad).decode().strip()
    except subprocess.CalledProcessError:
        return None


def _parsed(log: bytes) -> tuple[Commit, ...]:
    lines = [line.split("\0") for line in log.decode(errors="replace").splitlines()]
    return tuple(
        Commit(revision=revision, parents=tuple(parents.split()), subject=subject)
        for revision, parents, subject in lines
    )
