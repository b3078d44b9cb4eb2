"""The search with a planted culprit: every position in lists of 1 to 40, skips, merges, undecided answers."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.bisect import Answer, Effort, Found, search

EFFORT = Effort(launches=3)
Parents = Mapping[str, tuple[str, ...]]


def chain(length: int) -> dict[str, tuple[str, ...]]:
    """Revisions r0 .. r<length-1>, each the child of the one before; r0's parent is the good revision."""
    return {f"r{i}": (f"r{i - 1}" if i else "good",) for i in range(length)}


def descends(parents: Parents, revision: str, ancestor: str) -> bool:
    """Whether `revision` is or descends from `ancestor`."""
    return revision == ancestor or any(descends(parents, p, ancestor) for p in parents.get(revision, ()))


class Truth:
    """Answers by a planted culprit; skips what it is told to, and counts."""

    def __init__(self, parents: Parents, culprit: str, *, untestable: frozenset[str] = frozenset()) -> None:
        self.parents, self.culprit, self.untestable = parents, culprit, untestable
        self.asked: list[str] = []

    def __call__(self, revision: str, launches: int) -> Answer:
        self.asked.append(revision)
        if revision in self.untestable:
            return Answer.SKIP
        return Answer.BAD if descends(self.parents, revision, self.culprit) else Answer.GOOD


def searched(truth: Truth) -> Found:
    found = search(truth.parents, truth, EFFORT)
    assert [step.revision for step in found.steps] == truth.asked
    assert len(set(truth.asked)) == len(truth.asked)
    assert list(truth.parents)[-1] not in truth.asked
    return found


@pytest.mark.parametrize("length", range(1, 41))
def test_every_culprit_of_a_list_is_found_in_the_fewest_steps(length: int) -> None:
    for position in range(length):
        truth = Truth(chain(length), f"r{position}")
        found = searched(truth)
        assert found.first_bad == f"r{position}"
        assert len(found.steps) <= math.ceil(math.log2(length)) if length > 1 else not found.steps


@pytest.mark.parametrize("length", range(2, 41))
def test_with_every_third_revision_untestable_the_suspects_are_exactly_those_left_open(length: int) -> None:
    """The culprit alone, or with the untestable revisions around it; then no test is left to be made."""
    parents = chain(length)
    untestable = frozenset(f"r{i}" for i in range(0, length - 1, 3))
    for position in range(length):
        found = searched(Truth(parents, f"r{position}", untestable=untestable))
        first = position
        while first > 0 and f"r{first - 1}" in untestable:
            first -= 1
        last = position
        while f"r{last}" in untestable:
            last += 1
        assert found.suspects == tuple(f"r{i}" for i in range(first, last + 1))
        assert (found.first_bad is None) == (first < last)


def test_a_stretch_of_untestable_revisions_is_left_soon() -> None:
    """21 of 63 revisions in the middle cannot be tested: to try them all would take 26 tests in the mean."""
    untestable = frozenset(f"r{i}" for i in range(21, 42))
    tests = []
    for position in (*range(21), *range(43, 63)):
        truth = Truth(chain(63), f"r{position}", untestable=untestable)
        assert searched(truth).first_bad == f"r{position}"
        tests.append(len(truth.asked))
    assert sum(tests) / len(tests) < 10


def test_all_untestable() -> None:
    parents = chain(5)
    found = searched(Truth(parents, "r2", untestable=frozenset(parents) - {"r4"}))
    assert found.suspects == tuple(parents)
    assert [step.answer for step in found.steps] == [Answer.SKIP] * 4


MERGED: dict[str, tuple[str, ...]] = {
    "a": ("good",),
    "side1": ("good",),
    "side2": ("side1",),
    "b": ("a",),
    "merge": ("b", "side2"),
    "c": ("merge",),
}


@pytest.mark.parametrize("culprit", MERGED)
def test_merges(culprit: str) -> None:
    """A culprit on either side of a merge, the merge itself, and what lies before and after."""
    assert searched(Truth(MERGED, culprit)).first_bad == culprit


def test_what_a_good_side_clears_says_nothing_of_the_other() -> None:
    found = searched(Truth(MERGED, "side1", untestable=frozenset({"side1"})))
    assert found.suspects == ("side1", "side2")


@st.composite
def histories(draw: st.DrawFn) -> dict[str, tuple[str, ...]]:
    """Histories with merges that all lead to the last revision."""
    size = draw(st.integers(1, 25))
    parents: dict[str, tuple[str, ...]] = {}
    heads: list[str] = []
    for i in range(size):
        known = draw(st.lists(st.sampled_from(list(parents)), max_size=2, unique=True)) if parents else []
        parents[f"r{i}"] = tuple(known)
        heads = [head for head in heads if head not in known] + [f"r{i}"]
    parents["tip"] = tuple(heads)
    return parents


@settings(max_examples=150)
@given(histories(), st.data())
def test_in_any_history_the_culprit_is_a_suspect_and_alone_without_skips(
    parents: dict[str, tuple[str, ...]], data: st.DataObject
) -> None:
    culprit = data.draw(st.sampled_from(list(parents)))
    assert searched(Truth(parents, culprit)).first_bad == culprit
    untestable = frozenset(data.draw(st.sets(st.sampled_from(list(parents))))) - {"tip"}
    found = searched(Truth(parents, culprit, untestable=untestable))
    assert culprit in found.suspects
    assert len(set(found.suspects) - untestable) == 1  # nothing that could be tested is left but one bad revision


class TestEffort:
    def test_an_undecided_revision_is_asked_again_with_twice_the_launches(self) -> None:
        asked: list[int] = []

        def ask(revision: str, launches: int) -> Answer:
            asked.append(launches)
            return Answer.GOOD if launches >= 12 else Answer.UNDECIDED

        assert search(chain(2), ask, EFFORT).first_bad == "r1"
        assert asked == [3, 6, 12]

    def test_and_skipped_when_that_does_not_help(self) -> None:
        asked: list[int] = []

        def ask(revision: str, launches: int) -> Answer:
            asked.append(launches)
            return Answer.UNDECIDED

        found = search(chain(2), ask, Effort(launches=4, attempts=2))
        assert found.suspects == ("r0", "r1")
        assert asked == [4, 8]
        assert [step.left for step in found.steps] == [2]
