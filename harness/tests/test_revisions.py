"""The commits between two revisions, in a small real repository with a merge."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.errors import UsageError
from harness.revisions import Commit, Walk, commit, commit_of, library_commits
from harness.tests.test_arms import git


class History:
    """A repository that commits are named in by their subject."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "iroot").mkdir(parents=True)
        git(root.parent, "init", "-q", "-b", "main", str(root))

    def commit(self, subject: str, *, file: str = "iroot/code.py") -> str:
        (self.root / file).write_text(subject)
        git(self.root, "add", "-A")
        git(self.root, "commit", "-q", "-m", subject)
        return self.id("HEAD")

    def id(self, name: str) -> str:
        return git(self.root, "rev-parse", name)

    def between(self, good: str, bad: str, *, walk: Walk = "first-parent") -> tuple[Commit, ...]:
        return library_commits(self.id(good), self.id(bad), self.root, walk=walk)


@pytest.fixture
def history(tmp_path: Path) -> History:
    """start - a - notes - (side1 - side2) merged - notes2 - c; the notes do not touch the library."""
    made = History(tmp_path / "repository")
    for subject in ("start", "a"):
        made.commit(subject)
        git(made.root, "tag", subject)
    made.commit("notes", file="notes.txt")
    git(made.root, "checkout", "-q", "-b", "side")
    for subject in ("side1", "side2"):
        made.commit(subject, file="iroot/side.py")
        git(made.root, "tag", subject)
    git(made.root, "checkout", "-q", "main")
    made.commit("b")
    git(made.root, "merge", "-q", "--no-ff", "-m", "merged", "side")
    made.commit("notes2", file="notes.txt")
    made.commit("c")
    return made


def subjects(commits: tuple[Commit, ...]) -> list[str]:
    return [each.subject for each in commits]


def test_first_parents_that_touch_the_library(history: History) -> None:
    found = history.between("start", "main")
    assert subjects(found) == ["a", "b", "merged", "c"]
    assert [each.parents[:1] for each in found[1:]] == [(each.revision,) for each in found[:-1]]
    assert found[-1].revision == history.id("main")


def test_all_commits_with_the_parents_that_touch_it(history: History) -> None:
    found = {each.subject: each for each in history.between("start", "main", walk="all")}
    assert set(found) == {"a", "b", "side1", "side2", "merged", "c"}
    names = {each.revision: each.subject for each in found.values()}
    parents = {subject: {names.get(p) for p in each.parents} for subject, each in found.items()}
    assert parents["merged"] == {"b", "side2"}
    assert parents["side1"] == parents["b"] == {"a"}
    order = list(found)
    assert all(order.index(p) < order.index(s) for s in order for p in parents[s] if p in order)
    assert order[-1] == "c"


def test_a_bad_revision_that_does_not_touch_the_library_is_that_of_the_last_that_does(history: History) -> None:
    assert subjects(history.between("a", "main~1")) == ["b", "merged"]


def test_from_a_side_branch_the_main_line_is_suspect(history: History) -> None:
    assert subjects(history.between("side2", "main")) == ["b", "merged", "c"]


@pytest.mark.parametrize(
    ("good", "bad", "message"),
    [
        ("main", "start", "swap them: BAD is an ancestor of GOOD"),
        ("side", "main~3", "use their merge base {fork} as GOOD"),
        ("main", "main", "no commit between .* changes iroot/"),
        ("main~2", "main~1", "no commit between .* changes iroot/"),
        ("orphan", "main", "must be an ancestor of BAD [0-9a-f]{{12}}$"),
    ],
)
def test_refusals(history: History, good: str, bad: str, message: str) -> None:
    git(history.root, "checkout", "-q", "--orphan", "orphan")
    history.commit("elsewhere")
    fork = history.id("side1~1")[:12]
    with pytest.raises(UsageError, match=message.format(fork=fork)):
        history.between(good, bad)


def test_names(history: History) -> None:
    revision = commit_of("side2", history.root, refusal="is not there")
    assert revision == history.id("side2")
    assert commit(revision, history.root).subject == "side2"
    with pytest.raises(UsageError, match=r"^side3: is not there$"):
        commit_of("side3", history.root, refusal="is not there")
