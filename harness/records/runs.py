"""A run: on which machine, with which software and sources, which cases."""

from __future__ import annotations

from enum import StrEnum
from typing import ClassVar, Literal

from harness.records.base import SCHEMA_VERSION, GrownRecord, Record
from harness.records.cases import PlannedCase

INTERLEAVED = "*"
"""`RunRecord.paired_with` of an imported run whose launches alternated with those of every run imported likewise."""


class RunStatus(StrEnum):
    """`complete`: every launch was ingested; `interrupted`: stopped or killed; `failed`: the machinery failed."""

    RUNNING = "running"
    COMPLETE = "complete"
    INTERRUPTED = "interrupted"
    FAILED = "failed"


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


class SoftwareIdentity(GrownRecord):
    """Versions; a difference is marked in every table, never refused."""

    LATER: ClassVar[tuple[str, ...]] = ("kernel_table",)

    python: str
    torch: str
    triton: str | None = None
    cuda: str | None = None
    driver: str | None = None
    iroot: str
    os: str
    kernel_table: str | None = None
    """File and digest of the tables that kernel configurations were looked up in; None where the model chose them."""

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
