"""A case, how it is timed and how it is judged: what a manifest comes to."""

from __future__ import annotations

import hashlib
import json
from enum import StrEnum
from functools import cached_property
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from harness.records.base import GrownRecord, Record

EXTERNAL = "external"
"""Task of a case that another program timed: its name, held in `Case.method`, is all that is known of it."""

OptionValue = bool | int | float | str | tuple[int | float | str, ...]


class Mode(StrEnum):
    """How a case is executed."""

    GRAPH = "graph"
    EAGER = "eager"
    COMPILE = "compile"


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


class TimingPolicy(GrownRecord):
    """How one case is timed.

    samples: timed samples per launch (the contract asks for >= 30; slow references take >= 5).
    min_sample_s: least work in one sample; calls are grouped until a sample lasts this long.
    warmup_s: untimed work before the first sample.
    input_sets: inputs that rotate from call to call.
    cold: flush the L2 cache before every call (then one call per sample).
    min_graph_s: calls shorter than this share one CUDA graph that lasts at least so long, since a replay costs some
        microseconds, of the host or of the GPU; 0: a graph holds one call.
    """

    LATER: ClassVar[tuple[str, ...]] = ("min_graph_s",)

    samples: Annotated[int, Field(ge=5)] = 30
    min_sample_s: Annotated[float, Field(gt=0)] = 5e-4
    warmup_s: Annotated[float, Field(ge=0)] = 0.02
    input_sets: Annotated[int, Field(ge=1)] = 3
    cold: bool = False
    min_graph_s: Annotated[float, Field(ge=0)] = 0.0


class MemoryRule(Record):
    """When a change of peak memory counts; both limits must be passed.

    minimum_bytes: the caching allocator rounds to 512 bytes and reserves blocks of 2 MiB.
    """

    fails: bool = False
    """Whether more memory fails a check; else it is advisory."""
    threshold: Annotated[float, Field(gt=0)] = 0.05
    minimum_bytes: Annotated[int, Field(ge=0)] = 2**20


class FirstCallRule(Record):
    """When a change of the first call's time (compilation, autotuning) counts; both limits must be passed."""

    fails: bool = False
    """Whether a slower first call fails a check; else it is advisory."""
    threshold: Annotated[float, Field(gt=0)] = 0.5
    minimum_s: Annotated[float, Field(ge=0)] = 0.5


class PlannedCase(GrownRecord):
    """A case with everything needed to measure it and to judge its outcome."""

    LATER: ClassVar[tuple[str, ...]] = ("memory", "first_call")

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
    memory: MemoryRule = MemoryRule()
    first_call: FirstCallRule = FirstCallRule()


def canonical_options(
    options: dict[str, OptionValue], defaults: dict[str, OptionValue]
) -> tuple[tuple[str, OptionValue], ...]:
    """The options that differ from the defaults, sorted by name: the form a `Case` holds."""
    return tuple(sorted((name, value) for name, value in options.items() if defaults.get(name) != value))
