"""Manifests: TOML files that declare a sweep, validated against the registry, the precision table and the problems.

Every field of a `[[sweep]]` table that holds a list is one factor of a product. A `Manifest` that exists is valid:
whatever is wrong with a file or with flags is a `UsageError` that names the place, the value and the remedy.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

import tomli_w
from pydantic import AfterValidator, BeforeValidator, Field, PrivateAttr, StrictInt, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from harness import manifest_checks as checks
from harness.errors import UsageError
from harness.filters import parse_filter
from harness.manifest_errors import explain
from harness.records import Case, FirstCallRule, GrownRecord, MemoryRule, OptionValue, Record, TimingPolicy

DeviceKind = Literal["cuda", "cpu"]
ModeChoice = Literal["auto", "graph", "eager", "compile"]
MANIFESTS_FOLDER = Path(__file__).parent / "manifests"


def _listed(value: object) -> object:
    """A scalar is a list of one."""
    return value if isinstance(value, list | tuple) else [value]


def _listed_shapes(value: object) -> object:
    """`[2048, 8192]` is `[[2048, 8192]]`."""
    single = isinstance(value, list | tuple) and bool(value) and all(isinstance(size, int) for size in value)
    return [value] if single else value


Positive = Annotated[StrictInt, Field(ge=1)]
Seconds = Annotated[float, Field(gt=0)]
Threshold = Annotated[float, Field(gt=0, lt=1)]
Sizes = Annotated[tuple[Positive, ...], BeforeValidator(_listed)]
Shapes = Annotated[tuple[tuple[Positive, Positive], ...], BeforeValidator(_listed_shapes)]
Names = Annotated[tuple[str, ...], Field(min_length=1), BeforeValidator(_listed)]
Tasks = Annotated[Names, AfterValidator(checks.known_tasks)]
Precisions = Annotated[Names, AfterValidator(checks.known_precisions)]
Problems = Annotated[Names, AfterValidator(checks.known_problems)]
Modes = Annotated[tuple[ModeChoice, ...], Field(min_length=1), BeforeValidator(_listed)]
Options = Annotated[tuple[dict[str, OptionValue], ...], Field(min_length=1), BeforeValidator(_listed)]
FilterText = Annotated[str, AfterValidator(checks.readable_filter)]
Filters = Annotated[tuple[FilterText, ...], BeforeValidator(_listed)]


class TimingOverrides(Record):
    """The timing fields a sweep changes; None keeps the manifest's."""

    samples: Annotated[int, Field(ge=5)] | None = None
    min_sample_s: Seconds | None = None
    warmup_s: Annotated[float, Field(ge=0)] | None = None
    input_sets: Positive | None = None
    cold: bool | None = None
    min_graph_s: Annotated[float, Field(ge=0)] | None = None

    def applied_to(self, policy: TimingPolicy) -> TimingPolicy:
        """`policy` with the fields that are set here."""
        return policy.model_copy(update=self.model_dump(exclude_none=True))


Failing = Literal["regressed", "less_accurate", "trade", "broken", "missing", "inconclusive"]
FailingVerdicts = Annotated[tuple[Failing, ...], Field(min_length=1), BeforeValidator(_listed)]


class GateRule(GrownRecord):
    """What the gate asks of the cases that pass a filter; None leaves a field to the next rule that matches."""

    LATER: ClassVar[tuple[str, ...]] = ("memory", "first_call")

    filter: FilterText
    threshold: Threshold | None = None
    gates: bool | None = None
    """Whether the time verdict may fail the gate."""
    max_error: Seconds | None = None
    """Hard ceiling on the candidate's largest relative error over the problem seeds."""
    memory: MemoryRule | None = None
    first_call: FirstCallRule | None = None


class GatePolicy(GrownRecord):
    """Which verdicts may fail a check, and from what effect on."""

    LATER: ClassVar[tuple[str, ...]] = ("memory", "first_call")

    threshold: Threshold = 0.02
    thresholds: Annotated[dict[str, Threshold], AfterValidator(checks.known_task_keys)] = Field(default_factory=dict)
    """Per task, instead of `threshold`."""
    eager: Literal["advisory", "gates"] = "advisory"
    """Host-launched cases (eager, compile) on a GPU. Eager cases on a CPU always gate: there is no other mode."""
    fail: FailingVerdicts = ("regressed", "less_accurate", "trade", "broken", "missing")
    """Verdicts that fail the gate. `inconclusive` is undecided (exit code 3) unless it is named here."""
    required: Filters = ()
    """Each must match a case that the candidate measured, so that a gate cannot pass by measuring less."""
    rule: Annotated[tuple[GateRule, ...], BeforeValidator(_listed)] = ()
    """Before a sweep's own threshold, `thresholds` and `threshold`; the first match that sets a field holds."""
    pairs: Annotated[StrictInt, Field(ge=3)] = 6
    """Pairs of launches of the first stage, over all cases."""
    fresh_pairs: Annotated[StrictInt, Field(ge=3)] = 10
    """Pairs of launches of the second stage, over the cases that the first one leaves open."""
    memory: MemoryRule = MemoryRule()
    """Of peak memory; advisory unless `fails` is set."""
    first_call: FirstCallRule = FirstCallRule()
    """Of the first call's time: compilation and autotuning; advisory unless `fails` is set."""

    def rule_threshold(self, case: Case) -> float | None:
        """The threshold of the first rule that sets one for `case`."""
        return next((rule.threshold for rule in self._rules(case) if rule.threshold is not None), None)

    def rule_gates(self, case: Case) -> bool | None:
        """Whether the first rule that says so lets the time verdict of `case` fail the gate."""
        return next((rule.gates for rule in self._rules(case) if rule.gates is not None), None)

    def max_error(self, case: Case) -> float | None:
        """The ceiling of the first rule that sets one for `case`."""
        return next((rule.max_error for rule in self._rules(case) if rule.max_error is not None), None)

    def rule_memory(self, case: Case) -> MemoryRule:
        """The rule on peak memory of the first rule that holds one for `case`, else the policy's."""
        return next((rule.memory for rule in self._rules(case) if rule.memory is not None), self.memory)

    def rule_first_call(self, case: Case) -> FirstCallRule:
        """The rule on first calls of the first rule that holds one for `case`, else the policy's."""
        return next((rule.first_call for rule in self._rules(case) if rule.first_call is not None), self.first_call)

    def _rules(self, case: Case) -> Iterator[GateRule]:
        return (rule for rule in self.rule if parse_filter(rule.filter)(case))


class Expectation(Record):
    """Cases known not to be `ok`; one that no longer fails is reported as fixed."""

    filter: FilterText
    outcome: Literal["nonfinite", "unsupported"]


class Sweep(Record):
    """One product of coordinates. Combinations that a method does not serve are left out."""

    task: Tasks
    method: Names = ("all",)
    """Names or globs; `all`: every method but the controls; `role:opponent`: every method of that role."""
    precision: Precisions
    """Names or globs. A name is planned on every device (and is `unsupported` where there is no unit); a glob or `all`
    gives what the kind of device has."""
    p: Sizes = ()
    n: Sizes = ()
    """Square sizes."""
    shape: Shapes = ()
    """[m, n] pairs."""
    batch: Annotated[Sizes, Field(min_length=1)] = (1,)
    k: Sizes = ()
    """Columns of the right-hand side; `gemm` without k takes k = n."""
    problem: Problems
    mode: Modes = ("auto",)
    """`auto`: graph where a CUDA device and the method allow it, else eager."""
    options: Options = ({},)
    device: Literal["any", "cuda", "cpu"] = "any"
    exclude: Filters = ()
    expect: Annotated[tuple[Expectation, ...], BeforeValidator(_listed)] = ()
    """The first rule that matches a case holds."""
    timing: TimingOverrides = TimingOverrides()
    seeds: Positive | None = None
    target_error: Seconds | None = None
    timeout_s: Seconds | None = None
    threshold: Threshold | None = None

    @model_validator(mode="after")
    def _fits_the_registry(self) -> Self:
        defect = checks.sweep_defect(self)
        if defect is not None:
            context = {"field": defect.field, "message": defect.message}
            raise PydanticCustomError("sweep_field", "{message}", context)
        return self


class Manifest(Record):
    """A declared sweep: what to measure, how often, how to time it and what may fail a check."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")]
    description: str = ""
    launches: Positive = 6
    seed: Annotated[StrictInt, Field(ge=0)] = 0
    """Of the random case order."""
    seeds: Positive = 5
    """Problem seeds that quality is measured on."""
    target_error: Seconds | None = None
    timeout_s: Seconds = 120.0
    timing: TimingPolicy = TimingPolicy()
    gate: GatePolicy = GatePolicy()
    sweep: Annotated[tuple[Sweep, ...], Field(min_length=1)]
    _origin: str | None = PrivateAttr(default=None)

    @property
    def origin(self) -> str:
        """What messages call it: the file it was read from, else its name."""
        return self._origin or self.name

    def place(self, index: int) -> str:
        """What messages call a sweep: `quick.toml: sweep[1]`, or `the sweep` if it came from flags."""
        return "the sweep" if self._origin is None else f"{self._origin}: sweep[{index}]"

    def to_toml(self) -> str:
        """The manifest as TOML, defaults left out; `parse_manifest` gives it back."""
        return tomli_w.dumps(self.model_dump(mode="json", exclude_defaults=True))

    @property
    def manifest_hash(self) -> str:
        """16 hex digits over everything but the description, defaults included."""
        text = json.dumps(self.model_dump(mode="json", exclude={"description"}), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def shipped_manifests() -> tuple[str, ...]:
    """Names of the manifests that come with the program."""
    return tuple(sorted(path.stem for path in MANIFESTS_FOLDER.glob("*.toml")))


def load_manifest(name_or_path: str) -> Manifest:
    """Read a shipped manifest by name, or any TOML file by path.

    Raises:
        UsageError: there is no such manifest (with the nearest shipped name), or `parse_manifest` refuses it.
    """
    shipped = shipped_manifests()
    path = MANIFESTS_FOLDER / f"{name_or_path}.toml" if name_or_path in shipped else Path(name_or_path)
    origin = path.name if name_or_path in shipped else name_or_path
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        near = difflib.get_close_matches(path.name.removesuffix(".toml"), shipped, n=1, cutoff=0.4)
        hint = f"did you mean '{near[0]}'? " if near else ""
        raise UsageError(
            f"no manifest '{name_or_path}'; {hint}shipped: {', '.join(shipped)}; or give the path of a TOML file"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else f"not UTF-8 text: {error.reason}"
        raise UsageError(f"{origin}: cannot read the manifest: {reason}") from None
    return parse_manifest(text, origin=origin)


def parse_manifest(text: str, *, origin: str) -> Manifest:
    """Parse and validate TOML; `origin` is the file that messages name. A missing `name` is the file's stem.

    Raises:
        UsageError: one line per defect, each with the file, the key, the value and the remedy.
    """
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{origin}: not valid TOML: {error}") from None
    data.setdefault("name", Path(origin).stem)
    try:
        manifest = Manifest.model_validate(data)
    except ValidationError as error:
        raise UsageError(explain(error, Manifest, origin=origin)) from None
    manifest._origin = origin
    return manifest


def manifest_from_flags(sweep: Mapping[str, Any], *, launches: int | None = None) -> Manifest:
    """The manifest of a sweep given on the command line.

    Its name is `sweep-` and eight hex digits over the flags, so that the same flags are compared with one another.

    Args:
        sweep: fields of `Sweep` as plain values.
        launches: of the manifest; None: the default.

    Raises:
        UsageError: one line per defect, each with the flag, the value and the remedy.
    """
    digest = hashlib.sha256(json.dumps(sweep, sort_keys=True).encode()).hexdigest()[:8]
    data: dict[str, Any] = {"name": f"sweep-{digest}", "description": "Declared on the command line.", "sweep": [sweep]}
    if launches is not None:
        data["launches"] = launches
    try:
        return Manifest.model_validate(data)
    except ValidationError as error:
        raise UsageError(explain(error, Manifest, origin=None)) from None
