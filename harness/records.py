"""The records that cross process and storage borders. Units are in the names; times are seconds.

Imports nothing of the project. Every record is frozen; a field that is unknown to this version is an error.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

SCHEMA_VERSION = 1
"""Version of the records in shard files and exported runs; raised on any incompatible change."""

EXTERNAL = "external"
"""Task of a case that another program timed: its name, held in `Case.method`, is all that is known of it."""

INTERLEAVED = "*"
"""`RunRecord.paired_with` of an imported run whose launches alternated with those of every run imported likewise."""

OptionValue = bool | int | float | str | tuple[int | float | str, ...]


class Record(BaseModel):
    """Base: frozen, closed, strict about unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")


class Mode(StrEnum):
    """How a case is executed."""

    GRAPH = "graph"
    EAGER = "eager"
    COMPILE = "compile"


class Outcome(StrEnum):
    """How the measurement of a case ended."""

    OK = "ok"
    FAILED = "failed"
    OOM = "oom"
    TIMEOUT = "timeout"
    UNSUPPORTED = "unsupported"
    NONFINITE = "nonfinite"
    THROTTLED = "throttled"


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


class RunStatus(StrEnum):
    """`complete`: every launch was ingested; `interrupted`: stopped by the user; `failed`: the machinery failed."""

    RUNNING = "running"
    COMPLETE = "complete"
    INTERRUPTED = "interrupted"
    FAILED = "failed"


class Case(Record):
    """One point of a sweep. For `gemm`, A is m x n and B is n x k; for SPD tasks m = n."""

    task: str
    method: str
    precision: str
    p: int | None = None
    m: int
    n: int
    batch: int = 1
    k: int | None = None
    problem: str
    mode: Mode
    options: tuple[tuple[str, OptionValue], ...] = ()
    """Options that differ from the method's defaults, sorted by name."""

    @property
    def shape_id(self) -> str:
        """`MxN[xbBATCH][xkK]`, `-` for an external case."""
        if self.task == EXTERNAL:
            return "-"
        batch = f"xb{self.batch}" if self.batch != 1 else ""
        columns = f"xk{self.k}" if self.k is not None else ""
        return f"{self.m}x{self.n}{batch}{columns}"

    @property
    def options_id(self) -> str:
        """Empty for default options, else `#` and eight hex digits over their canonical JSON."""
        if not self.options:
            return ""
        text = json.dumps(sorted(self.options), separators=(",", ":"))
        return "#" + hashlib.sha256(text.encode()).hexdigest()[:8]

    @property
    def options_text(self) -> str:
        """`name=value, ...` for people."""
        return ", ".join(f"{name}={value}" for name, value in self.options)

    @cached_property
    def case_id(self) -> str:
        """Readable and stable: `task/method/precision/[p=P/]shape/problem/mode[#options]`; an external case's name."""
        if self.task == EXTERNAL:
            return self.method
        root = [f"p={self.p}"] if self.p is not None else []
        parts = [self.task, self.method, self.precision, *root, self.shape_id, self.problem, str(self.mode)]
        return "/".join(parts) + self.options_id


class TimingPolicy(Record):
    """How one case is timed.

    samples: timed samples per launch (the contract asks for >= 30; slow references take >= 5).
    min_sample_s: least work in one sample; calls are grouped until a sample lasts this long.
    warmup_s: untimed work before the first sample.
    input_sets: inputs that rotate from call to call.
    cold: flush the L2 cache before every call (then one call per sample).
    """

    samples: Annotated[int, Field(ge=5)] = 30
    min_sample_s: Annotated[float, Field(gt=0)] = 5e-4
    warmup_s: Annotated[float, Field(ge=0)] = 0.02
    input_sets: Annotated[int, Field(ge=1)] = 3
    cold: bool = False


class PlannedCase(Record):
    """A case with everything needed to measure it and to judge its outcome."""

    case: Case
    timing: TimingPolicy = TimingPolicy()
    seeds: Annotated[int, Field(ge=1)] = 5
    """Quality is measured on problem seeds 0 .. seeds-1; timing rotates among seeds 0 .. input_sets-1."""
    expect: Literal["ok", "nonfinite", "unsupported"] = "ok"
    timeout_s: Annotated[float, Field(gt=0)] = 120.0
    target_error: float | None = None
    """The error a reader asks for; the report names the fastest method that meets it."""
    threshold: Annotated[float, Field(gt=0, lt=1)] = 0.02
    """Minimum effect tau: slowdowns up to 1 + threshold are tolerated."""
    gates: bool = True
    """Whether the time verdict may fail a check (eager cases are advisory by default)."""
    control: bool = False
    """A control kernel: code that the project does not own, measured in every launch."""


class Quality(Record):
    """Errors of one problem seed against the posed problem in float64; None where the task has no such figure.

    relative_error: ||X - X*||_F / ||X*||_F (polar: distance to the true polar factor, same formula).
    residual: inverse_root ||X^p A - I||_F / sqrt(n); inverse_apply ||A^(1/p) Z - B||_F / ||B||_F; else None.
    symmetry: ||X - X^T||_F / ||X||_F.
    orthogonality: ||U U^T - I||_F / sqrt(m) for m <= n, else ||U^T U - I||_F / sqrt(n).
    Batches: the root mean square over the batch. nonfinite: number of non-finite entries of the result.
    """

    seed: int
    relative_error: float | None = None
    residual: float | None = None
    symmetry: float | None = None
    orthogonality: float | None = None
    nonfinite: int = 0


class MachineState(Record):
    """What NVML (GPU) or psutil (CPU) says at one moment; None where it cannot be read."""

    sm_clock_mhz: int | None = None
    memory_clock_mhz: int | None = None
    temperature_c: int | None = None
    power_w: float | None = None
    throttle_reasons: tuple[str, ...] = ()
    other_processes: int | None = None
    load_1min: float | None = None


class MachineIdentity(Record):
    """Hardware that decides what can be compared. Fields that do not apply are None."""

    machine_class: str
    """Slug of model and size, the folder name of baselines, e.g. `nvidia-h100-80gb-hbm3` or `cpu-amd-epyc-2c`."""
    kind: Literal["cuda", "cpu"]
    model: str
    memory_bytes: int
    sm_count: int | None = None
    mig: bool | None = None
    ecc: bool | None = None
    power_limit_w: float | None = None
    threads: int | None = None
    uuid: str | None = None
    """The unit. Another unit of the same model may be compared, and is marked."""

    def differences(self, other: MachineIdentity) -> tuple[str, ...]:
        """`field: mine != other's` for every hardware field that differs, the unit's uuid excepted.

        `memory_bytes` may differ by 1 %: drivers reserve different amounts.
        """
        found = []
        for name in type(self).model_fields:
            mine, theirs = getattr(self, name), getattr(other, name)
            if name == "uuid" or mine == theirs:
                continue
            if name == "memory_bytes" and abs(mine - theirs) <= 0.01 * max(mine, theirs):
                continue
            found.append(f"{name}: {mine} != {theirs}")
        return tuple(found)


class SoftwareIdentity(Record):
    """Versions; a difference is marked in every table, never refused."""

    python: str
    torch: str
    triton: str | None = None
    cuda: str | None = None
    driver: str | None = None
    iroot: str
    os: str

    def differences(self, other: SoftwareIdentity) -> tuple[str, ...]:
        """`field: mine != other's` for every field that differs."""
        names = type(self).model_fields
        return tuple(
            f"{n}: {getattr(self, n)} != {getattr(other, n)}" for n in names if getattr(self, n) != getattr(other, n)
        )


class SourceIdentity(Record):
    """Which code ran. `source_hash` covers the files of `iroot/` and `harness/`: a copied tree can be checked by it."""

    revision: str | None = None
    dirty: bool | None = None
    source_hash: str


class RunRecord(Record):
    """All launches of one manifest at one revision on one machine."""

    schema_version: int = SCHEMA_VERSION
    run_id: str
    """`YYYYmmdd-HHMMSS-<manifest>-<4 hex>`, sorts by time."""
    created_at: str
    """ISO 8601 in UTC."""
    status: RunStatus = RunStatus.RUNNING
    manifest: str
    manifest_hash: str
    manifest_toml: str
    filter: str | None = None
    launches: int
    seed: int = 0
    machine: MachineIdentity
    software: SoftwareIdentity
    source: SourceIdentity
    cases: tuple[PlannedCase, ...]
    imported_from: str | None = None
    arm: str | None = None
    """What the user called the measured library (a revision, a folder, WORKTREE) in an interleaved A/B; else None."""
    paired_with: str | None = None
    """Run id of the other arm, or INTERLEAVED: launches of equal number are pairs."""
    note: str | None = None


# --- events: what a worker process writes, one JSON line each ---------------------------------------------------------


class LaunchStarted(Record):
    """First line of a worker process. `startup_s`: from process start until ready to measure (imports, context)."""

    event: Literal["launch_started"] = "launch_started"
    schema_version: int = SCHEMA_VERSION
    run_id: str
    launch: int
    """0 is the quality pass, 1 .. L are timed launches."""
    process_id: int
    started_at: str
    startup_s: float
    state: MachineState


class CaseStarted(Record):
    """Written before a case is touched, so that a hang or a crash can be put to its name."""

    event: Literal["case_started"] = "case_started"
    case_id: str


class CaseResult(Record):
    """Last word on one case in one launch. A status that is not `ok` carries the error's text and no samples."""

    event: Literal["case_finished"] = "case_finished"
    case_id: str
    launch: int
    process_id: int
    outcome: Outcome
    error: str | None = None
    samples_s: tuple[float, ...] = ()
    """Seconds per call, in the order measured."""
    calls_per_sample: int | None = None
    quality: tuple[Quality, ...] = ()
    peak_bytes: int | None = None
    """Largest allocation above the inputs during one call (CUDA), or None."""
    first_call_s: float | None = None
    """Wall time of the very first call in this process: compilation and autotuning included."""
    injected_effect: float | None = None
    """Measured effect of a planted slowdown, slowed over plain samples of the same process minus 1."""
    timed_s: float = 0.0
    """Wall time inside timed samples."""
    wall_s: float = 0.0
    """Wall time of the whole case."""
    state_before: MachineState | None = None
    state_after: MachineState | None = None


class LaunchFinished(Record):
    """Last line of a worker process that got through its plan. `wall_s` excludes `startup_s`."""

    event: Literal["launch_finished"] = "launch_finished"
    launch: int
    process_id: int
    wall_s: float
    state: MachineState


Event = Annotated[LaunchStarted | CaseStarted | CaseResult | LaunchFinished, Field(discriminator="event")]
EVENT: TypeAdapter[LaunchStarted | CaseStarted | CaseResult | LaunchFinished] = TypeAdapter(Event)


class WorkPlan(Record):
    """What the runner hands to a worker process, as a JSON file."""

    schema_version: int = SCHEMA_VERSION
    run_id: str
    launch: int
    device: str
    """`cuda:0`, `cpu`, ..."""
    threads: int | None = None
    cases: tuple[PlannedCase, ...]
    """In the order to measure."""
    shard: str
    """Path of the JSON-lines file to append to."""
    injection: float | None = None
    """Slow every sample down by about this fraction, to see whether the verdicts notice (`iroot bench qualify`)."""


@dataclass(frozen=True, kw_only=True)
class LaunchRecord:
    """One launch as stored: its worker processes' start and end, and what every case gave."""

    run_id: str
    launch: int
    processes: tuple[LaunchStarted, ...]
    results: tuple[CaseResult, ...]
    wall_s: float
    """Sum over the processes of the wall time after start-up."""


# --- summaries: what comparison, baseline and report read -------------------------------------------------------------


class CaseSummary(Record):
    """One case of a run, reduced to what statistics need: launches are the unit."""

    planned: PlannedCase
    outcome: Outcome
    """`ok` if any timed launch was ok and none failed; else the first outcome that is not ok."""
    error: str | None = None
    launch_medians_s: dict[int, float] = {}
    """launch -> exp(median(log sample)), seconds per call."""
    quality: tuple[Quality, ...] = ()
    peak_bytes: int | None = None
    first_call_s: float | None = None
    """Median over launches."""
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
    tau: float | None = None
    launches: int = 0
    reference_launches: int = 0
    time_s: float | None = None
    reference_time_s: float | None = None
    raw_ratio: float | None = None
    """Before the control-kernel correction."""
    error_ratio: float | None = None
    """exp(median over seeds of log(candidate error / reference error))."""
    quality_notes: tuple[str, ...] = ()


class Comparison(Record):
    """Candidate against reference."""

    candidate: str
    reference: str
    kind: Literal["baseline", "previous_run", "run", "paired"]
    manifest: str
    machine_class: str
    forced: bool = False
    """Unlike machines were compared on request."""
    hardware_differences: tuple[str, ...] = ()
    software_differences: tuple[str, ...] = ()
    another_unit: bool = False
    control_ratios: dict[str, float] = {}
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


def canonical_options(
    options: dict[str, OptionValue], defaults: dict[str, OptionValue]
) -> tuple[tuple[str, OptionValue], ...]:
    """The options that differ from the defaults, sorted by name: the form a `Case` holds."""
    return tuple(sorted((name, value) for name, value in options.items() if defaults.get(name) != value))


def read_events(lines: Iterable[str]) -> list[LaunchStarted | CaseStarted | CaseResult | LaunchFinished]:
    """Parse a shard. A last line cut short by a crash is dropped; damage anywhere else raises ValueError."""
    kept = [line for line in lines if line.strip()]
    events = []
    for number, line in enumerate(kept, 1):
        try:
            events.append(EVENT.validate_json(line))
        except ValueError:
            if number == len(kept) and not line.endswith("\n"):
                break
            raise
    return events
