"""What comparison, baselines and reports read: runs reduced to launches, and verdicts."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

from pydantic import Field

from harness.records.base import Record
from harness.records.cases import Case, PlannedCase
from harness.records.events import LaunchedKernel, Outcome, Quality
from harness.records.runs import RunRecord


class Verdict(StrEnum):
    """The outcome of a comparison for one case."""

    REGRESSED = "regressed"
    IMPROVED = "improved"
    UNCHANGED = "unchanged"
    INCONCLUSIVE = "inconclusive"
    LESS_ACCURATE = "less_accurate"
    MORE_ACCURATE = "more_accurate"
    TRADE = "trade"
    BROKEN = "broken"
    FIXED = "fixed"
    NEW = "new"
    MISSING = "missing"


Design = Literal["paired", "blocked", "unpaired"]
"""How launches of two sides are compared; see `harness.time_verdict`."""


class CaseSummary(Record):
    """One case of a run, reduced to what statistics need: launches are the unit."""

    planned: PlannedCase
    outcome: Outcome
    """`ok` if any timed launch was ok and none failed; else the first outcome that is not ok."""
    error: str | None = None
    launch_medians_s: dict[int, float] = Field(default_factory=dict)
    """launch -> exp(median(log sample)), seconds per call."""
    quality: tuple[Quality, ...] = ()
    peak_bytes: int | None = None
    first_call_s: float | None = None
    """Median over launches."""
    first_calls_s: tuple[float, ...] = ()
    """One per timed launch."""
    kernels: tuple[LaunchedKernel, ...] | None = None
    """Every kernel and configuration that a timed launch saw; None: not known."""
    run_spread: float | None = None
    """Standard deviation of log time between merged runs (baselines of several runs), None where unknown."""
    throttled: bool = False
    runs: int | None = None
    """Runs behind this case where they are not all of the summary's (a baseline with cases promoted alone)."""


class RunSummary(Record):
    """A run, or an official baseline, reduced to what comparison and report need."""

    run: RunRecord
    cases: dict[str, CaseSummary]
    runs_merged: tuple[str, ...] = ()
    """Run ids behind an official baseline."""
    launch_orders: dict[int, str] = Field(default_factory=dict)
    """Launch -> fingerprint of its number in its run and the order of its cases; without it the order is not known."""
    timed_share: float | None = None
    """Share of the launches' wall time after start-up spent inside timed samples."""
    startup_s: float | None = None
    """Median start-up of a worker process."""
    launch_wall_s: float | None = None
    """Median wall time of a timed launch after start-up."""

    @property
    def controls(self) -> tuple[str, ...]:
        """Ids of the control cases."""
        return tuple(case_id for case_id, summary in self.cases.items() if summary.planned.control)


class MemoryVerdict(Record):
    """Peak memory of two sides, beside the verdict on time: regressed, improved, unchanged or inconclusive."""

    verdict: Verdict
    fails: bool = False
    """Whether `regressed` fails a check and `inconclusive` leaves it undecided; else advisory."""
    reason: str | None = None
    ratio: float | None = None
    peak_bytes: int | None = None
    reference_peak_bytes: int | None = None


class FirstCallVerdict(Record):
    """First-call times of two sides, beside the verdict on time: regressed, improved, unchanged or inconclusive."""

    verdict: Verdict
    fails: bool = False
    """As for memory."""
    reason: str | None = None
    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    """`low` and `high` are one-sided bounds of 95 % each."""
    first_call_s: float | None = None
    """Median over launches, as `reference_first_call_s`."""
    reference_first_call_s: float | None = None
    launches: int = 0
    reference_launches: int = 0


class KernelChange(Record):
    """The Triton kernels of two sides: a hint at the cause of a changed time."""

    same: bool
    """Same code, same configurations, launched as often."""
    changes: tuple[str, ...] = ()
    """What differs, one text per kernel."""


class CaseVerdict(Record):
    """One row of a comparison. Ratios are candidate / reference, below 1 is faster; effects and MDE are fractions."""

    case_id: str
    case: Case
    verdict: Verdict
    gates: bool = True
    reason: str | None = None
    """Why, in a few words: required for inconclusive, broken, trade and refused quality."""
    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    p_value: float | None = None
    """One-sided, H0: ratio <= 1 + tau."""
    mde: float | None = None
    pairs_needed: int | None = None
    """Pairs that would decide an inconclusive paired case at its ratio and spread; None: not known, or over 1000."""
    tau: float | None = None
    too_noisy: bool = False
    """Noise raised `tau` beyond its limit: differences larger still are called, that there is none is not."""
    design: Design | None = None
    """None: no times were compared."""
    launches: int = 0
    reference_launches: int = 0
    time_s: float | None = None
    reference_time_s: float | None = None
    raw_ratio: float | None = None
    """Before the control-kernel correction."""
    error_ratio: float | None = None
    """exp(median over seeds of log(candidate error / reference error))."""
    quality_notes: tuple[str, ...] = ()
    memory: MemoryVerdict | None = None
    """None where neither side has a figure."""
    first_call: FirstCallVerdict | None = None
    kernels: KernelChange | None = None
    """None where the kernels of a side are not known, or neither side launches one."""


class Comparison(Record):
    """Candidate against reference."""

    candidate: str
    reference: str
    kind: Literal["baseline", "previous_run", "run", "paired"]
    design: Design = "unpaired"
    """Of the comparison; a case whose launches do not allow it has another one in its row."""
    manifest: str
    machine_class: str
    forced: bool = False
    """Unlike machines were compared on request."""
    hardware_differences: tuple[str, ...] = ()
    software_differences: tuple[str, ...] = ()
    another_unit: bool = False
    control_ratios: dict[str, float] = Field(default_factory=dict)
    control_correction: float = 1.0
    """Ratios were divided by this."""
    qualification: str | None = None
    """Id of the qualification the verdicts rely on; None: unqualified."""
    notes: tuple[str, ...] = ()
    """How the verdicts were reached, for people: what widened tau, what was corrected by what."""
    verdicts: tuple[CaseVerdict, ...]

    @property
    def counts(self) -> dict[Verdict, int]:
        """Number of cases per verdict, in the order of `Verdict`, zeros left out."""
        every = [row.verdict for row in self.verdicts]
        return {verdict: every.count(verdict) for verdict in Verdict if verdict in every}
