"""How long a plan will take, from a rough throughput model: for `--dry-run`, and to keep shipped manifests in budget.

A call takes FLOP / rate + bytes / bandwidth + a latency per dependent matrix product. GPU rates are those of one H100
80GB HBM3 (cuBLAS products, n = 2048: 50 TF/s fp32, 343 tf32, 600 bf16, 840 fp8, 550 int8), CPU rates those of two
cores of an AMD EPYC (manifest `quick`, 2026-11). Expect a factor of two either way; other machines scale it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from harness.judge.problems import PROBLEMS
from harness.manifest import DeviceKind
from harness.preparation import unserved_reason
from harness.records import Case, PlannedCase
from iroot.errors import IrootError
from iroot.precision import PRECISIONS, unsupported_reason
from iroot.registry import TASKS, MethodSpec, Workload, get_method


@dataclass(frozen=True, kw_only=True)
class _Machine:
    startup_s: float
    """Of a worker process: imports, and the CUDA context."""
    case_s: float
    """Per case and process: a first call, graph capture, machine state, checks."""
    product_s: float
    """Least time of one matrix product among dependent ones."""
    bytes_per_s: float
    factorisation_rate: float
    """FLOP/s of eigh and svd."""
    pose_rate: float
    """FLOP/s of float64 products: prescribed spectra are put on a basis, errors are taken."""
    draw_rate: float
    """Normal numbers per second, in float64."""
    judge_rate: float
    """FLOP/s at which float64 references are computed."""
    operand_rates: dict[str, float]


_MACHINES: dict[DeviceKind, _Machine] = {
    "cuda": _Machine(
        startup_s=5.0,
        case_s=0.03,
        product_s=7e-6,
        bytes_per_s=2.5e12,
        factorisation_rate=1.2e12,
        pose_rate=2e13,
        draw_rate=1e10,
        judge_rate=0.6e12,
        operand_rates={
            "float64": 50e12,
            "float32": 50e12,
            "tfloat32": 340e12,
            "bfloat16": 600e12,
            "float16": 600e12,
            "float8_e4m3fn": 800e12,
            "float8_e5m2": 800e12,
            "int8": 550e12,
        },
    ),
    "cpu": _Machine(
        startup_s=2.5,
        case_s=0.02,
        product_s=3e-5,
        bytes_per_s=5e10,
        factorisation_rate=4e10,
        pose_rate=2e10,
        draw_rate=5e7,
        judge_rate=1e10,
        operand_rates={"float64": 5e10, "float32": 1.2e11},
    ),
}
_SLOWEST_KNOWN: dict[DeviceKind, float] = {"cuda": 50e12, "cpu": 5e10}
"""FLOP/s of a format without a row above: simulated and emulated ones run in a wider format."""

_CAPABILITY = (9, 0)
"""Of an H100."""

_DRAWN = frozenset({"gaussian", "row_heterogeneous", "levy"})
"""Problems whose entries are drawn one by one."""
_REFERENCE_UNITS = 12.0
"""What a float64 reference costs, in products: an eigendecomposition (about 9 n^3 with vectors, at a factorisation's
rate) or a polar iteration."""
_JUDGE_UNITS = 2.0
"""What the errors of one result cost, in float64 products."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What a plan is expected to take, in seconds."""

    quality_s: float
    """The quality pass, start-up included."""
    launch_s: float
    """One timed launch, start-up included."""
    total_s: float


def unsupported_here(case: Case, device_kind: DeviceKind) -> str | None:
    """Why this kind of device, a GPU taken for an H100, will find the case `unsupported`; None where it has it all."""
    device, capability = torch.device(device_kind), _CAPABILITY if device_kind == "cuda" else None
    lacking = unsupported_reason(PRECISIONS[case.precision], device, capability)
    return lacking or unserved_reason(case, get_method(case.task, case.method), device)


def call_seconds(case: Case, device_kind: DeviceKind) -> float | None:
    """One call of a case; None where the machine or the method refuses it (it will be `unsupported`)."""
    if unsupported_here(case, device_kind):
        return None
    machine, spec = _MACHINES[device_kind], get_method(case.task, case.method)
    options = spec.make_options(dict(case.options))
    work = Workload(
        m=case.m,
        n=case.n,
        precision=case.precision,
        batch=case.batch,
        k=case.k,
        p=case.p,
        lower=PROBLEMS[case.problem].lower(TASKS[case.task].operand, case.m, case.n),
    )
    try:
        flops = spec.flops(work, options)
    except IrootError:
        return None
    products = flops / (2.0 * case.m * case.n * (case.k or min(case.m, case.n)) * case.batch)
    moved = spec.bytes_moved(work, options) / machine.bytes_per_s
    return flops / _rate(spec, case, device_kind) + moved + max(products, 1.0) * machine.product_s


def launch_seconds(planned: PlannedCase, device_kind: DeviceKind) -> float:
    """One case in one timed launch: posing, the first call, warm-up and samples."""
    machine, timing = _MACHINES[device_kind], planned.timing
    call = call_seconds(planned.case, device_kind)
    if call is None:
        return 0.0  # the quality pass finds out, once
    posing = timing.input_sets * _posing_seconds(planned.case, machine)
    measured = timing.warmup_s + timing.samples * max(timing.min_sample_s, call)
    return machine.case_s + posing + 3 * call + measured


def quality_seconds(plan: Iterable[PlannedCase], device_kind: DeviceKind) -> float:
    """The quality pass: every seed posed, solved, and judged in float64. A problem's reference is computed once."""
    machine, total, references = _MACHINES[device_kind], 0.0, set()
    for planned in plan:
        case = planned.case
        if unsupported_here(case, device_kind):
            total += machine.case_s  # found out before anything is posed
            continue
        call = call_seconds(case, device_kind) or 0.0
        each = call + _posing_seconds(case, machine) + _JUDGE_UNITS * _unit(case) / machine.pose_rate
        total += machine.case_s + planned.seeds * each
        key = (TASKS[case.task].operand, case.problem, case.m, case.n, case.batch)
        if case.task not in ("gemm", "syrk", "copy") and key not in references:
            references.add(key)
            total += planned.seeds * _REFERENCE_UNITS * _unit(case) / machine.judge_rate
    return total


def estimate(plan: Iterable[PlannedCase], *, launches: int, device_kind: DeviceKind) -> Estimate:
    """The quality pass and `launches` timed launches of a plan."""
    cases, startup = tuple(plan), _MACHINES[device_kind].startup_s
    quality = startup + quality_seconds(cases, device_kind)
    launch = startup + sum(launch_seconds(planned, device_kind) for planned in cases)
    return Estimate(quality_s=quality, launch_s=launch, total_s=quality + launches * launch)


def _rate(spec: MethodSpec, case: Case, device_kind: DeviceKind) -> float:
    machine, precision = _MACHINES[device_kind], PRECISIONS[case.precision]
    if spec.role == "reference":
        return machine.factorisation_rate
    if precision.execution == "simulated" and device_kind == "cuda":
        return machine.operand_rates["bfloat16"]
    return machine.operand_rates.get(precision.operand, _SLOWEST_KNOWN[device_kind])


def _posing_seconds(case: Case, machine: _Machine) -> float:
    """Random numbers, and two products for a prescribed spectrum."""
    drawn = case.m * case.n * case.batch / machine.draw_rate
    return drawn if case.problem in _DRAWN else drawn + 2 * _unit(case) / machine.pose_rate


def _unit(case: Case) -> float:
    """FLOP of one product of the operand with a square matrix of its rank."""
    return 2.0 * case.m * case.n * min(case.m, case.n) * case.batch
