"""What is measured on and with: machine identity and state (NVML, psutil), versions, sources, fitness."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
import re
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any, Literal, TypeVar

import psutil
import pynvml
import torch

import iroot
from harness.records import MachineIdentity, MachineState, SoftwareIdentity, SourceIdentity
from iroot.kernels import tables

T = TypeVar("T")

SOURCE_FOLDERS = ("iroot", "harness")
SOURCE_SUFFIXES = frozenset({".py", ".sql", ".toml", ".json", ".j2"})

# Bits of NVML's "clocks event reasons" (nvml.h, formerly "throttle reasons").
_REASONS = {
    0x1: "gpu_idle",
    0x2: "applications_clocks_setting",
    0x4: "sw_power_cap",
    0x8: "hw_slowdown",
    0x10: "sync_boost",
    0x20: "sw_thermal_slowdown",
    0x40: "hw_thermal_slowdown",
    0x80: "hw_power_brake_slowdown",
    0x100: "display_clock_setting",
}
DISTURBING_REASONS = frozenset({"hw_slowdown", "sw_thermal_slowdown", "hw_thermal_slowdown", "hw_power_brake_slowdown"})
"""Reasons under which samples are discarded; a software power cap is recorded only: large products live under it."""


def default_device() -> str:
    """`cuda:0` where there is a usable CUDA GPU, else `cpu`."""
    return "cuda:0" if torch.cuda.is_available() else "cpu"


MEASURING_THREADS = 1
"""Threads that a CPU measurement is pinned to. Two on two cores wait for each other at every barrier, and a third busy
process then costs a time slice each time: 26 small cases took over 200 s with two threads, 16 s with one (load 7 on two
cores, 2026-11)."""


def physical_cores() -> int:
    """Physical cores this process may use: hyper-threads of one core share its arithmetic units."""
    logical = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    return max(1, min(logical, psutil.cpu_count(logical=False) or logical))


# --- NVML -------------------------------------------------------------------------------------------------------------


@cache
def _handle(device: str) -> Any:
    """NVML's handle of a CUDA device, matched by UUID because NVML does not know CUDA_VISIBLE_DEVICES."""
    pynvml.nvmlInit()
    uuid = str(torch.cuda.get_device_properties(device).uuid)
    return pynvml.nvmlDeviceGetHandleByUUID(uuid if uuid.startswith(("GPU-", "MIG-")) else f"GPU-{uuid}")


def _ask(query: Callable[..., T], *arguments: Any) -> T | None:
    """The answer, or None where this GPU, driver or virtualisation does not give it."""
    try:
        return query(*arguments)
    except pynvml.NVMLError:
        return None


def decode_reasons(bits: int) -> tuple[str, ...]:
    """Names of NVML's clocks event reasons; an unknown bit is named by its value."""
    known = tuple(name for bit, name in _REASONS.items() if bits & bit)
    unknown = bits & ~sum(_REASONS)
    return (*known, f"0x{unknown:x}") if unknown else known


def _other_processes(handle: Any) -> int | None:
    """Compute processes on the GPU besides this one.

    In a container NVML lists ids of the host, so that the own one is not recognised: a process that holds device memory
    is then taken to be one of those listed.
    """
    found = _ask(pynvml.nvmlDeviceGetComputeRunningProcesses, handle)
    if found is None:
        return None
    listed = any(process.pid == os.getpid() for process in found)
    holds_memory = torch.cuda.memory_reserved() > 0  # 0 where this process has not touched the GPU
    return max(0, len(found) - (listed or holds_memory))


def machine_state(device: str, *, processes: bool = True) -> MachineState:
    """Clocks, temperature, power and throttle reasons (CUDA) or load (CPU) at this moment.

    Args:
        device: `cpu`, `cuda:0`, ...
        processes: also count other processes on the GPU, which takes longer than the rest together.
    """
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    if device == "cpu":
        return MachineState(load_1min=load)
    handle = _ask(_handle, device)
    if handle is None:
        return MachineState(load_1min=load)
    power_mw = _ask(pynvml.nvmlDeviceGetPowerUsage, handle)
    reasons = _ask(pynvml.nvmlDeviceGetCurrentClocksThrottleReasons, handle)
    return MachineState(
        sm_clock_mhz=_ask(pynvml.nvmlDeviceGetClockInfo, handle, pynvml.NVML_CLOCK_SM),
        memory_clock_mhz=_ask(pynvml.nvmlDeviceGetClockInfo, handle, pynvml.NVML_CLOCK_MEM),
        temperature_c=_ask(pynvml.nvmlDeviceGetTemperature, handle, pynvml.NVML_TEMPERATURE_GPU),
        power_w=None if power_mw is None else power_mw / 1000,
        throttle_reasons=() if reasons is None else decode_reasons(reasons),
        other_processes=_other_processes(handle) if processes else None,
        load_1min=load,
    )


# --- identity ---------------------------------------------------------------------------------------------------------


def slug(text: str) -> str:
    """Lower case, with runs of anything but letters and digits as one dash."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def cpu_model() -> str:
    """Model name of the CPU: /proc/cpuinfo on Linux, else what `platform` knows."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        text = ""
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return found[1].strip() if found else (platform.processor() or platform.machine())


def cpu_class(model: str, cores: int) -> str:
    """`cpu-<model>-<cores>c`, the marketing words left out: `cpu-amd-epyc-7763-2c`."""
    plain = re.sub(r"\((r|tm)\)|\bcpu\b|\bprocessor\b|\b\d+-core\b|@.*$", " ", model, flags=re.IGNORECASE)
    return f"cpu-{slug(plain)}-{cores}c"


def gpu_class(model: str, memory_bytes: int) -> str:
    """Slug of the model, with its memory where the name does not tell: `nvidia-h100-80gb-hbm3`."""
    size = "" if re.search(r"\d+ ?gb", model, re.IGNORECASE) else f" {round(memory_bytes / 2**30)}gb"
    return slug(model + size)


@cache
def machine_identity(device: str) -> MachineIdentity:
    """The hardware behind `device`. Creates no CUDA context."""
    if device == "cpu":
        model = cpu_model()
        return MachineIdentity(
            machine_class=cpu_class(model, physical_cores()),
            kind="cpu",
            model=model,
            memory_bytes=psutil.virtual_memory().total,
            threads=MEASURING_THREADS,
        )
    properties = torch.cuda.get_device_properties(device)
    handle = _ask(_handle, device)
    ecc = _ask(pynvml.nvmlDeviceGetEccMode, handle)
    mig = _ask(pynvml.nvmlDeviceGetMigMode, handle)
    limit_mw = _ask(pynvml.nvmlDeviceGetEnforcedPowerLimit, handle)
    return MachineIdentity(
        machine_class=gpu_class(properties.name, properties.total_memory),
        kind="cuda",
        model=properties.name,
        memory_bytes=properties.total_memory,
        sm_count=properties.multi_processor_count,
        mig=None if mig is None else bool(mig[0]),
        ecc=None if ecc is None else bool(ecc[0]),
        power_limit_w=None if limit_mw is None else limit_mw / 1000,
        uuid=str(properties.uuid),
    )


@cache
def software_identity() -> SoftwareIdentity:
    """The versions, and the kernel tables that the default device takes its configurations from."""
    used = tables.used(torch.device(default_device()))
    return software_versions().model_copy(update={"kernel_table": used})


@cache
def software_versions() -> SoftwareIdentity:
    """Versions of everything between the source and the hardware."""
    return SoftwareIdentity(
        python=platform.python_version(),
        torch=torch.__version__,
        triton=_version("triton"),
        cuda=torch.version.cuda,
        driver=_driver(),
        iroot=iroot.__version__,
        os=f"{platform.system()} {platform.release()}",
    )


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _driver() -> str | None:
    try:
        pynvml.nvmlInit()
        return str(pynvml.nvmlSystemGetDriverVersion())
    except pynvml.NVMLError:
        return None


# --- sources ----------------------------------------------------------------------------------------------------------


def is_source(path: PurePosixPath) -> bool:
    """Whether a file, by its path below the project root, decides what is measured. Tests do not."""
    return path.parts[:1] in [(name,) for name in SOURCE_FOLDERS] and (
        path.suffix in SOURCE_SUFFIXES and "tests" not in path.parts
    )


def hash_sources(files: Mapping[str, bytes]) -> str:
    """SHA-256 over (path, size, content) of `files`, POSIX path below the root -> content, in order of path."""
    digest = hashlib.sha256()
    for path in sorted(files):
        digest.update(f"{path}\0{len(files[path])}\0".encode())
        digest.update(files[path])
    return digest.hexdigest()


def source_identity(root: Path) -> SourceIdentity:
    """Revision, cleanness and source hash of the checkout (or copied tree) at `root`.

    `dirty` counts tracked changes and untracked files that git does not ignore; both git figures are None where `root`
    is not the top of a git checkout, or where that has no commit yet: there is nothing to differ from.
    """
    paths = [path for name in SOURCE_FOLDERS for path in (root / name).rglob("*") if path.is_file()]
    files = {path.relative_to(root).as_posix(): path for path in paths}
    contents = {name: path.read_bytes() for name, path in files.items() if is_source(PurePosixPath(name))}
    top = _git(root, "rev-parse", "--show-toplevel")
    inside = top is not None and Path(top).resolve() == root.resolve()
    revision = _git(root, "rev-parse", "--verify", "HEAD") if inside else None
    status = _git(root, "status", "--porcelain") if revision is not None else None
    return SourceIdentity(
        revision=revision,
        dirty=None if status is None else status != "",
        source_hash=hash_sources(contents),
    )


def _git(root: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


# --- fitness ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Fitness:
    """One finding about whether this machine can be trusted with a measurement now."""

    level: Literal["ok", "warning", "error"]
    text: str


def fitness(device: str) -> tuple[Fitness, ...]:
    """Everything about `device` that disturbs a measurement, or says that it does not."""
    state = machine_state(device)
    if device == "cpu":
        return (_load_fitness(state), _governor_fitness())
    handle = _ask(_handle, device)
    if handle is None:
        return (Fitness(level="warning", text="NVML does not answer: clocks and throttling cannot be seen"),)
    return (
        _process_fitness(state.other_processes),
        _throttle_fitness(state.throttle_reasons),
        _persistence_fitness(_ask(pynvml.nvmlDeviceGetPersistenceMode, handle)),
        _load_fitness(state),
        *_table_fitness(device),
    )


def _table_fitness(device: str) -> tuple[Fitness, ...]:
    """Which kernel tables are used, and why others are not."""
    found = tables.sources(torch.device(device))
    if not found:
        return (Fitness(level="ok", text="kernel configurations are the model's: no table for this GPU is in use"),)
    return tuple(
        Fitness(level="ok" if source.table is not None else "warning", text=f"kernel table {source}")
        for source in found
    )


def _process_fitness(others: int | None) -> Fitness:
    if others is None:
        return Fitness(level="warning", text="other processes on the GPU cannot be seen")
    if others:
        return Fitness(level="warning", text=f"{others} other process(es) on the GPU; end them before measuring")
    return Fitness(level="ok", text="no other process on the GPU")


def _throttle_fitness(reasons: tuple[str, ...]) -> Fitness:
    disturbing = sorted(DISTURBING_REASONS.intersection(reasons))
    if disturbing:
        return Fitness(level="error", text=f"clocks are throttled: {', '.join(disturbing)}; check cooling and power")
    return Fitness(level="ok", text=f"clocks are not throttled ({', '.join(reasons) or 'no limit active'})")


def _persistence_fitness(mode: int | None) -> Fitness:
    if mode == 1:
        return Fitness(level="ok", text="persistence mode is on")
    seen = "off" if mode == 0 else "unknown"
    return Fitness(level="warning", text=f"persistence mode is {seen}: idle GPUs drop clocks; nvidia-smi -pm 1")


def _load_fitness(state: MachineState) -> Fitness:
    cores = os.cpu_count() or 1
    if state.load_1min is None:
        return Fitness(level="warning", text="the CPU's load cannot be read")
    level: Literal["ok", "warning"] = "warning" if state.load_1min > 0.5 * cores else "ok"
    return Fitness(level=level, text=f"CPU load {state.load_1min:.2f} on {cores} logical cores")


def _governor_fitness() -> Fitness:
    path = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
    governor = path.read_text().strip() if path.is_file() else None
    if governor is None:
        return Fitness(level="ok", text="no frequency governor is visible (a virtual machine, or not Linux)")
    if governor == "performance":
        return Fitness(level="ok", text="frequency governor: performance")
    return Fitness(level="warning", text=f"frequency governor: {governor}; 'performance' times more steadily")
