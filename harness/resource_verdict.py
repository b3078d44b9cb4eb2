"""Peak memory and first-call time of two sides -> verdicts beside the one on time. Pure functions on records.

Peak memory is deterministic: the same calls ask the allocator for the same bytes in every launch, of which the largest
is kept. No test is needed, only limits below which a change is of no interest: a share and a number of bytes.

The first call of a process compiles, loads and tunes. It is noisy, with outliers in one direction: the first launch
after a change of code finds Triton's cache cold, and whichever case comes first in a process pays for the start of the
libraries. One observation per launch, compared by ranks on the log scale (`rank_shift`), which assumes a common shape
and no normality: the shift is the median of all pairwise ratios, its bounds are one-sided at 5 % each and exist from
three launches on each side. It regressed if the lower bound of the ratio is above 1 + threshold and the medians differ
by `minimum_s`. There is no adjustment for the number of cases: the thresholds lie far beyond what equal sides give.

Both are advisory unless the plan's rules (`[gate.memory]`, `[gate.first_call]` of a manifest) say otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median
from typing import Literal

from harness.rank_shift import rank_shift
from harness.records import CaseSummary, CaseVerdict, FirstCallVerdict, MemoryRule, MemoryVerdict, Outcome, Verdict

LEVEL = 0.05
"""Of each bound of a first-call ratio."""

MIN_LAUNCHES = 3
"""With fewer on a side no bound of that level exists: 2 and 3 values are in one of 10 orders."""

ResourceName = Literal["peak_memory", "first_call"]


@dataclass(frozen=True, kw_only=True)
class Resource:
    """One of a row's two verdicts beside time.

    Attributes:
        name: as waivers name it.
        ratio: candidate / reference, None where there is none.
        fails: whether `regressed` fails a check and `inconclusive` leaves it undecided.
        text: what happened, in a few words.
    """

    name: ResourceName
    verdict: Verdict
    ratio: float | None
    fails: bool
    text: str


def resources_of(row: CaseVerdict) -> Iterator[Resource]:
    """The verdicts beside time that a row has."""
    memory, first = row.memory, row.first_call
    if memory is not None:
        yield Resource(
            name="peak_memory",
            verdict=memory.verdict,
            ratio=memory.ratio,
            fails=memory.fails,
            text=f"peak memory {memory_text(memory)}",
        )
    if first is not None:
        yield Resource(
            name="first_call",
            verdict=first.verdict,
            ratio=first.ratio,
            fails=first.fails,
            text=f"first call {first_call_text(first)}",
        )


def memory_verdict(candidate: CaseSummary, reference: CaseSummary) -> MemoryVerdict | None:
    """Compare peak memory; None where a side failed, or neither has a figure (on a CPU)."""
    mine, theirs = candidate.peak_bytes, reference.peak_bytes
    if not _both_ok(candidate, reference) or (mine is None and theirs is None):
        return None
    rule = candidate.planned.memory
    fails = rule.fails and not candidate.planned.control
    if mine is None or theirs is None:
        side = "candidate" if mine is None else "reference"
        reason = f"the {side} has no figure"
        return MemoryVerdict(
            verdict=Verdict.INCONCLUSIVE,
            fails=fails,
            reason=reason,
            peak_bytes=mine,
            reference_peak_bytes=theirs,
        )
    return MemoryVerdict(
        verdict=_memory_ruling(mine, theirs, rule),
        fails=fails,
        ratio=mine / theirs if theirs else None,
        peak_bytes=mine,
        reference_peak_bytes=theirs,
    )


def _memory_ruling(mine: int, theirs: int, rule: MemoryRule) -> Verdict:
    """Both limits, in the same measure in either direction: the smaller side times the threshold."""
    change = mine - theirs
    if abs(change) < rule.minimum_bytes or abs(change) <= rule.threshold * min(mine, theirs):
        return Verdict.UNCHANGED
    return Verdict.REGRESSED if change > 0 else Verdict.IMPROVED


def first_call_verdict(candidate: CaseSummary, reference: CaseSummary) -> FirstCallVerdict | None:
    """Compare the first calls; None where a side failed, or neither was timed."""
    mine, theirs = candidate.first_calls_s, reference.first_calls_s
    if not _both_ok(candidate, reference) or not (mine or theirs):
        return None
    known = FirstCallVerdict(
        verdict=Verdict.INCONCLUSIVE,
        fails=candidate.planned.first_call.fails and not candidate.planned.control,
        first_call_s=median(mine) if mine else candidate.first_call_s,
        reference_first_call_s=median(theirs) if theirs else reference.first_call_s,
        launches=len(mine),
        reference_launches=len(theirs),
    )
    if min(len(mine), len(theirs)) < MIN_LAUNCHES:
        side = "candidate" if len(mine) < len(theirs) else "reference"
        reason = f"{min(len(mine), len(theirs))} launches of the {side}, at least {MIN_LAUNCHES} needed"
        return known.model_copy(update={"reason": reason})
    shift = rank_shift([math.log(each) for each in mine], [math.log(each) for each in theirs], level=LEVEL)
    assert shift.low is not None
    assert shift.high is not None
    figures = {"ratio": math.exp(shift.estimate), "low": math.exp(shift.low), "high": math.exp(shift.high)}
    judged = known.model_copy(update=figures)
    return judged.model_copy(update=_first_call_ruling(judged, candidate))


def _first_call_ruling(judged: FirstCallVerdict, candidate: CaseSummary) -> dict[str, Verdict | str]:
    """The verdict, and its reason where it is inconclusive."""
    rule = candidate.planned.first_call
    low, high, mine, theirs = judged.low, judged.high, judged.first_call_s, judged.reference_first_call_s
    assert low is not None
    assert high is not None
    assert mine is not None
    assert theirs is not None
    if low > 1 + rule.threshold and mine - theirs >= rule.minimum_s:
        return {"verdict": Verdict.REGRESSED}
    if high < 1 / (1 + rule.threshold) and theirs - mine >= rule.minimum_s:
        return {"verdict": Verdict.IMPROVED}
    surely_not_slower = high < 1 + rule.threshold or theirs * (high - 1) < rule.minimum_s
    surely_not_faster = low > 1 / (1 + rule.threshold) or theirs * (1 - low) < rule.minimum_s
    if surely_not_slower and surely_not_faster:
        return {"verdict": Verdict.UNCHANGED}
    return {"verdict": Verdict.INCONCLUSIVE, "reason": "the ratio's interval reaches beyond the threshold"}


def _both_ok(candidate: CaseSummary, reference: CaseSummary) -> bool:
    return candidate.outcome is Outcome.OK and reference.outcome is Outcome.OK


def memory_text(memory: MemoryVerdict) -> str:
    """`64.0 → 80.0 MiB (+25 %)`, or the reason why there is no verdict."""
    mine, theirs = memory.peak_bytes, memory.reference_peak_bytes
    if mine is None or theirs is None:
        return f"unknown, {memory.reason}"
    share = f" ({mine / theirs - 1:+.0%})".replace("%", " %") if theirs else ""
    return f"{theirs / 2**20:.1f} → {mine / 2**20:.1f} MiB{share}"


def first_call_text(first: FirstCallVerdict) -> str:
    """`0.81 s → 2.40 s (ratio 2.96, 2.10 … 3.60)`, or the reason why there is no verdict."""
    mine, theirs = first.first_call_s, first.reference_first_call_s
    if mine is None or theirs is None or first.ratio is None:
        return f"undecided, {first.reason}"
    return f"{_seconds(theirs)} → {_seconds(mine)} (ratio {first.ratio:.2f}, {first.low:.2f} … {first.high:.2f})"


def _seconds(value: float) -> str:
    return f"{value:.2f} s" if value >= 0.1 else f"{1e3 * value:.2g} ms"
