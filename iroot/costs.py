"""What a call is expected to take on a GPU: FLOP over measured rates, and what every call and every step adds.

    seconds = call + iterations * step + flops / rate

A small matrix is served by the latency of its steps, a large one or a batch by the rate; both matter between n = 256
and 2048. Only quotients decide a choice, so one table serves every CUDA device, but for what it lacks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from iroot.registry import MethodSpec, Workload

FUSED_CAPABILITY = (9, 0)
"""Lowest CUDA compute capability whose graded roots are formed by fused kernels."""
SMALLEST_FUSED = 128
"""Smallest n of such a root."""


@dataclass(frozen=True, kw_only=True)
class Rate:
    """One precision: FLOP per second as methods count them (products of words included), and seconds per step."""

    flops_per_s: float
    step_s: float


CALL_S = 45e-6
"""Bounds, scaling and the way back, of any method."""

RATES = {
    "bf16": Rate(flops_per_s=2.7e14, step_s=1.2e-5),
    "fp16": Rate(flops_per_s=2.7e14, step_s=1.2e-5),  # 0.98 to 1.04 of bfloat16's time: equal, so the errors decide
    "tf32": Rate(flops_per_s=1.3e14, step_s=2.4e-5),
    "bf16x3": Rate(flops_per_s=1.7e14, step_s=3.5e-5),
    "fp16x3": Rate(flops_per_s=8.0e13, step_s=3.5e-5),
    "fp32": Rate(flops_per_s=2.1e13, step_s=2.2e-5),
    "fp64": Rate(flops_per_s=2.7e13, step_s=1.8e-5),
    "fp8_e4m3": Rate(flops_per_s=1.6e14, step_s=1.6e-4),
    "fp8_e5m2": Rate(flops_per_s=1.35e14, step_s=2.0e-4),
    "int8": Rate(flops_per_s=1.15e14, step_s=1.9e-4),
}
"""Rounded from least squares of the relative error over the CUDA graphs of `production`, method by method: coupled_pe
and graded_pe of roots and applies; 8 bits, and float64's rate, from the polar methods; float64's step from coupled_pe
at n = 256 (one NVIDIA H100 80GB HBM3, torch 2.11, 2026-11-22; `reports/h100-production.md`)."""

_EXTRA_CALL_S = {
    ("gram_apply", "chebyshev"): 1e-3,
    ("inverse_apply", "graded_pe"): 3e-5,
    ("inverse_apply", "hybrid"): 5e-4,
    ("solve", "coupled_pe"): 2.6e-3,
}
"""Of methods that estimate a bound by many small products, form a root and round it again to apply it, apply a
polynomial degree by degree, or run eagerly because they check their result on the host. Same run."""

_ROUNDED_ENTRY_S = 3e-11
"""Of each entry of a root that is formed and rounded again. Same run."""

_UNFUSED_STEP_S = 7.3e-5
_UNFUSED_ENTRY_S = 1.2e-10
"""Of a graded step in separate kernels, and for each entry of the matrix: 1329 us at n = 1024 and 4323 us at n = 2048
for six steps (H100, `ci/adr/0015-fused-graded-roots.md`)."""

_PIVOT_S = {"fp32": 2.5e-6, "fp64": 3.1e-6}
"""Of each column of an LU factorisation: 2.58 ms in float32 at n = 1024; in float64 1.25 times that, as of Cholesky
factorisations (same run). Larger ones were not measured."""

_FAST_DOUBLE = ((6, 0), (7, 0), (8, 0), (9, 0), (10, 0))
_DOUBLE_SHARE = 1.0 / 64.0
"""Of float32's rate that float64 has where the capability is not one of these (CUDA C++ Programming Guide, table of
arithmetic throughput)."""


def seconds(spec: MethodSpec, workload: Workload, options: Any, *, capability: tuple[int, int]) -> float:
    """Expected time of one call in a CUDA graph.

    0.75 to 1.3 times what was measured for coupled and graded roots and applies, n = 256 to 2048; up to 2.1 times for
    polar factors, alike in every precision; 0.4 to 2.3 times for methods that `auto` seldom takes (H100, 2026-11).

    Args:
        workload: with its precision.
        capability: CUDA compute capability.
    """
    # What no row serves was named by the caller: it meets no other precision, and any row orders its methods.
    rate = RATES.get(workload.precision, RATES["fp32"])
    per_s = rate.flops_per_s
    if workload.precision == "fp64" and capability not in _FAST_DOUBLE:
        per_s = RATES["fp32"].flops_per_s * _DOUBLE_SHARE
    steps = 0 if spec.steps is None else spec.steps(workload, options)
    total = CALL_S + _EXTRA_CALL_S.get((spec.task, spec.name), 0.0)
    if spec.name == "lu":
        total += _PIVOT_S[workload.precision] * workload.n
    entries = workload.batch * float(workload.n) ** 2
    if is_graded(spec, workload.precision) and spec.task != "inverse_root":
        total += _ROUNDED_ENTRY_S * entries
    if is_graded(spec, workload.precision) and (capability < FUSED_CAPABILITY or spec.name == "hybrid"):
        total += steps * (_UNFUSED_STEP_S + _UNFUSED_ENTRY_S * entries)
    else:
        total += steps * _iterations(spec, workload) * rate.step_s
    flops = spec.flops(workload, options)
    if spec.name in ("dense", "dual"):
        formed = workload.batch * float(workload.m) * workload.n * min(workload.m, workload.n)
        formed = formed if spec.name == "dual" else workload.batch * float(workload.m) * float(workload.n) ** 2
        total += formed / RATES["fp32"].flops_per_s
    return total + flops / per_s


def is_graded(spec: MethodSpec, precision: str) -> bool:
    """Whether the steps are those of `graded_pe`."""
    inner = spec.name == "dense" and precision.removesuffix("_emulated") in ("bf16", "fp16")
    return inner or spec.name in ("graded_pe", "hybrid")


def _iterations(spec: MethodSpec, workload: Workload) -> int:
    """`dual` has a second iteration for p > 1, the inverted sum."""
    return 2 if spec.name == "dual" and workload.p != 1 and workload.m < workload.n else 1
