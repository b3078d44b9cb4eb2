"""Cases of two sides -> arrays of launch medians -> one estimate per case, by the design that its launches allow."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from harness import stats
from harness.launch_blocks import LaunchBlocks
from harness.records import CaseSummary, Design


@dataclass(frozen=True, kw_only=True)
class CasePair:
    """One case that was timed on both sides."""

    candidate: CaseSummary
    reference: CaseSummary

    @property
    def gates(self) -> bool:
        """Whether its time verdict may fail a check. A control's may not: its code is not the project's."""
        return self.candidate.planned.gates and not self.candidate.planned.control


@dataclass(frozen=True, kw_only=True)
class Launches:
    """How the launches of two sides belong together.

    Attributes:
        design: `paired`: equal numbers are neighbours in time; `blocked`: `blocks` says which share an order;
            `unpaired`: they do not.
        blocks: for `blocked`.
    """

    design: Design
    blocks: LaunchBlocks = field(default_factory=LaunchBlocks)

    def design_of(self, pair: CasePair) -> Design:
        """That of one case: `unpaired` where a blocked comparison has too few blocks of it."""
        if self.design == "blocked" and not self.blocks.suffice(pair.candidate, pair.reference):
            return "unpaired"
        return self.design

    def common(self, pair: CasePair) -> int:
        """Observations of the difference of a case; unpaired, launches of the side that has fewer."""
        mine, theirs = pair.candidate.launch_medians_s, pair.reference.launch_medians_s
        match self.design_of(pair):
            case "paired":
                return len(mine.keys() & theirs.keys())
            case "blocked":
                return len(self.blocks.of(pair.candidate, pair.reference))
            case "unpaired":
                return min(len(mine), len(theirs))


@dataclass(frozen=True, kw_only=True)
class Estimates:
    """One entry per case: how it was compared, the estimate, and the geometric mean of the launches that entered it."""

    designs: tuple[Design, ...]
    estimate: stats.Estimate
    time_s: stats.Floats
    reference_time_s: stats.Floats


def estimates(pairs: Sequence[CasePair], launches: Launches) -> Estimates:
    """Estimate every case, in order, by its own design."""
    designs = tuple(launches.design_of(pair) for pair in pairs)
    places = {design: [i for i, each in enumerate(designs) if each == design] for design in dict.fromkeys(designs)}
    parts = [_of_one_design([pairs[i] for i in found], design, launches.blocks) for design, found in places.items()]
    back = np.argsort([i for found in places.values() for i in found])
    each = [part.estimate for part in parts]
    return Estimates(
        designs=designs,
        estimate=stats.Estimate(
            log_ratio=np.concatenate([one.log_ratio for one in each])[back],
            se=np.concatenate([one.se for one in each])[back],
            df=np.concatenate([one.df for one in each])[back],
            n=np.concatenate([one.n for one in each])[back],
            n_ref=np.concatenate([one.n_ref for one in each])[back],
        ),
        time_s=np.concatenate([part.time_s for part in parts])[back],
        reference_time_s=np.concatenate([part.reference_time_s for part in parts])[back],
    )


def _of_one_design(pairs: Sequence[CasePair], design: Design, blocks: LaunchBlocks) -> Estimates:
    mine = [pair.candidate.launch_medians_s for pair in pairs]
    theirs = [pair.reference.launch_medians_s for pair in pairs]
    if design == "blocked":
        found = [blocks.of(pair.candidate, pair.reference) for pair in pairs]
        candidate = _padded([[ours[n] for n in kept] for ours, kept in zip(mine, found, strict=True)])
        reference = _blocks(theirs, found)
        estimate = stats.blocked(candidate, reference)
    elif design == "paired":
        common = [sorted(ours.keys() & others.keys()) for ours, others in zip(mine, theirs, strict=True)]
        candidate = _padded([[ours[n] for n in kept] for ours, kept in zip(mine, common, strict=True)])
        reference = _padded([[others[n] for n in kept] for others, kept in zip(theirs, common, strict=True)])
        estimate = stats.paired(candidate, reference)
    else:
        candidate, reference = (
            _padded([_in_order(each) for each in mine]),
            _padded([_in_order(each) for each in theirs]),
        )
        estimate = stats.unpaired(candidate, reference)
    return Estimates(
        designs=(design,) * len(pairs),
        estimate=estimate,
        time_s=stats.geometric_mean(candidate),
        reference_time_s=stats.geometric_mean(reference.reshape(len(pairs), -1)),
    )


def _in_order(launches: Mapping[int, float]) -> list[float]:
    return [launches[number] for number in sorted(launches)]


def _blocks(medians_s: Sequence[Mapping[int, float]], found: Sequence[Mapping[int, tuple[int, ...]]]) -> stats.Floats:
    """(cases, blocks, runs), filled up with NaN."""
    runs = max(len(others) for kept in found for others in kept.values())
    rows = [
        [[theirs[n] for n in others] + [math.nan] * (runs - len(others)) for others in kept.values()]
        for theirs, kept in zip(medians_s, found, strict=True)
    ]
    blocks = max(len(row) for row in rows)
    absent = [math.nan] * runs
    return np.array([row + [absent] * (blocks - len(row)) for row in rows], dtype=np.float64)


def _padded(rows: Sequence[Sequence[float]]) -> stats.Floats:
    """One row per case, filled up with NaN."""
    width = max((len(row) for row in rows), default=0)
    filled = [[*row, *[math.nan] * (width - len(row))] for row in rows]
    return np.array(filled, dtype=np.float64).reshape(len(rows), width)
