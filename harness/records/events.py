"""One launch: what a worker process is told and what it writes, one JSON line for each event."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from harness.records.base import SCHEMA_VERSION, Record
from harness.records.cases import OptionValue, PlannedCase
from harness.records.runs import MachineState


class Outcome(StrEnum):
    """How the measurement of a case ended."""

    OK = "ok"
    FAILED = "failed"
    OOM = "oom"
    TIMEOUT = "timeout"
    UNSUPPORTED = "unsupported"
    NONFINITE = "nonfinite"
    THROTTLED = "throttled"


class Quality(Record):
    """Errors of one problem seed against the posed problem in float64; None where the task has no such figure.

    Results in float64 are judged by references in twice as many digits, so that rounding alone gives u kappa, not 0;
    symmetry, orthogonality and the residual of `solve` are float64 throughout.

    relative_error: ||X - X*||_F / ||X*||_F (polar: distance to the true polar factor, same formula).
    residual: inverse_root ||X^p A - I||_F / sqrt(n); inverse_apply and gram_apply ||A^(1/p) Z - B||_F / ||B||_F, solve
    ||A Z - B||_F / ||B||_F; else None.
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


class LaunchedKernel(Record):
    """A Triton kernel as one call launched it, in one configuration."""

    name: str
    """Module and function."""
    code_hash: str
    """sha256, 64 hex digits."""
    hashed: Literal["binary", "source"]
    """Of what: the binary's code and constants, or, where Triton interprets, the kernel's source."""
    configuration: tuple[tuple[str, OptionValue], ...]
    """Compile-time arguments and launch options (tile sizes, warps, stages), by name."""
    launches: int
    """How often one call launches it so."""


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
    kernels: tuple[LaunchedKernel, ...] | None = None
    """Triton kernels that a timed call launches, in order of first launch; None: not looked at."""
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
