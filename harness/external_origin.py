"""What files of other benchmark programs say of the machine, the software and the revision they were made with."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from harness.records import EXTERNAL, MachineIdentity, SoftwareIdentity

UNKNOWN = "unknown"

UNKNOWN_MACHINE = MachineIdentity(machine_class=EXTERNAL, kind="cpu", model=UNKNOWN, memory_bytes=0)
"""Of files that name no machine: alike among themselves, unlike every other."""

UNKNOWN_SOFTWARE = SoftwareIdentity(python=UNKNOWN, torch=UNKNOWN, iroot=UNKNOWN, os=UNKNOWN)


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where samples come from, as far as their file says. `measured_at` is ISO 8601 in UTC."""

    machine: MachineIdentity = UNKNOWN_MACHINE
    software: SoftwareIdentity = UNKNOWN_SOFTWARE
    revision: str | None = None
    dirty: bool | None = None
    measured_at: str | None = None


def pytest_origin(document: Mapping[str, Any]) -> Origin:
    """`machine_info`, `commit_info` and `datetime` of a pytest-benchmark file."""
    info = document["machine_info"]
    cpu = info.get("cpu") or {}
    commit = document.get("commit_info") or {}
    model = cpu.get("brand_raw") or cpu.get("brand") or info.get("processor") or UNKNOWN
    system = " ".join(filter(None, (info.get("system"), info.get("release"))))
    return Origin(
        machine=_cpu(model, threads=cpu.get("count"), host=info.get("node")),
        software=UNKNOWN_SOFTWARE.model_copy(
            update={"python": info.get("python_version") or UNKNOWN, "os": system or UNKNOWN}
        ),
        revision=commit.get("id"),
        dirty=commit.get("dirty"),
        measured_at=_utc(document.get("datetime")),
    )


def google_origin(document: Mapping[str, Any]) -> Origin:
    """`context` of a Google Benchmark file: it names no CPU model, only the count of CPUs and the host."""
    context = document["context"]
    machine = _cpu(UNKNOWN, threads=context.get("num_cpus"), host=context.get("host_name"))
    return Origin(machine=machine, measured_at=_utc(context.get("date")))


def nvbench_origin(document: Mapping[str, Any]) -> Origin:
    """The one device of an nvbench file; several are told apart by the cases' names, and no machine is named."""
    devices = document.get("devices") or []
    if len(devices) != 1:
        return Origin()
    (device,) = devices
    return Origin(
        machine=MachineIdentity(
            machine_class=f"{EXTERNAL}-{_slug(device['name'])}",
            kind="cuda",
            model=device["name"],
            memory_bytes=int(device.get("global_memory_size") or 0),
            sm_count=device.get("number_of_sms"),
            ecc=device.get("ecc_state"),
        )
    )


def _cpu(model: str, *, threads: int | None, host: str | None) -> MachineIdentity:
    """The host is the unit: another host with the same CPU may be compared, and is marked."""
    machine_class = f"{EXTERNAL}-{_slug(model)}"
    return UNKNOWN_MACHINE.model_copy(
        update={"machine_class": machine_class, "model": model, "threads": threads, "uuid": host}
    )


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or UNKNOWN


def _utc(text: str | None) -> str | None:
    """ISO 8601 text in UTC; a time without a zone is UTC. None where there is none or it cannot be read."""
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    moment = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
    return moment.astimezone(UTC).isoformat(timespec="seconds")
