"""Which launches of two runs went through their cases in the same order, so that launch can be compared with launch.

Every launch follows an order of its own, the same in every run of one manifest (`harness.launch_orders`). What that
order does to a case is then part of both sides, and leaves with their difference.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

from harness.records import CaseSummary, RunSummary

MIN_BLOCKS = 4
"""Differences that a case must have: with three their t-test has 2 degrees of freedom, and an unpaired test of three
launches against eighteen has more to say."""


@dataclass(frozen=True, kw_only=True)
class LaunchBlocks:
    """The launches of two runs that belong together.

    Attributes:
        launches: launch of the candidate -> the reference's launches of the same order, one per run at most.
        runs: runs behind the reference.
        why_not: why too few launches belong together, or None.
    """

    launches: Mapping[int, tuple[int, ...]] = field(default_factory=dict)
    runs: int = 1
    why_not: str | None = None

    def of(self, candidate: CaseSummary, reference: CaseSummary) -> dict[int, tuple[int, ...]]:
        """Those of one case: timed by the candidate, and by every run behind the reference's case.

        A block that lacks a run would carry that run's own offset into the difference of this launch alone.
        """
        runs = self.runs if reference.runs is None else reference.runs
        timed = {
            launch: tuple(other for other in others if other in reference.launch_medians_s)
            for launch, others in self.launches.items()
            if launch in candidate.launch_medians_s
        }
        return {launch: others for launch, others in timed.items() if len(others) == runs}

    def suffice(self, candidate: CaseSummary, reference: CaseSummary) -> bool:
        """Whether a case has enough of them to be judged by."""
        return len(self.of(candidate, reference)) >= MIN_BLOCKS


def blocks_between(candidate: RunSummary, reference: RunSummary) -> LaunchBlocks:
    """Match launches by the fingerprints of their orders."""
    runs = max(1, len(reference.runs_merged))
    same_order: dict[str, list[int]] = defaultdict(list)
    for launch, order in sorted(reference.launch_orders.items()):
        same_order[order].append(launch)
    launches = {
        launch: tuple(same_order[order])
        for launch, order in sorted(candidate.launch_orders.items())
        if order in same_order
    }
    why_not = _why_not(candidate, reference, len(launches))
    return LaunchBlocks(launches=launches, runs=runs, why_not=why_not)


def _why_not(candidate: RunSummary, reference: RunSummary, common: int) -> str | None:
    if common >= MIN_BLOCKS:
        return None
    for side, summary in (("candidate", candidate), ("reference", reference)):
        if summary.runs_merged and not summary.launch_orders:
            return "the baseline was promoted before the orders of its launches were kept; promote runs anew"
        if not summary.launch_orders:
            return f"the {side} does not say in which order its launches measured"
    if common:
        launches = "launch" if common == 1 else "launches"
        return f"only {common} {launches} of both sides measured in the same order, {MIN_BLOCKS} are needed"
    mine, theirs = candidate.run, reference.run
    if mine.filter != theirs.filter:
        return f"the sides measured other cases, filter {mine.filter or 'none'} and {theirs.filter or 'none'}"
    if mine.seed != theirs.seed:
        return f"the sides shuffled their cases by other seeds, {mine.seed} and {theirs.seed}"
    return (
        "no launch of both sides measured in the same order: their manifests, or the cases that failed, differ, or "
        "launches were resumed"
    )
