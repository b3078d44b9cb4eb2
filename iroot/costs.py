"""What a call is expected to take on a GPU: what every call and every product adds, memory traffic, FLOP over a rate.

    seconds = call + entry * entries + products * (product + traffic * bytes) + flops / rate

`products` are of n x n matrices, one for n^3 FLOP: a small matrix is served by the latency of its kernels, a stack that
does not stay in the cache by memory, a large matrix by the rate. Only quotients decide a choice, so one table serves
every CUDA device, but for what it lacks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from iroot.kernels.families import is_served
from iroot.precision import get_precision
from iroot.registry import MethodSpec, Workload

SMALLEST_FUSED = 128
"""Smallest n of such a root."""


@dataclass(frozen=True, kw_only=True)
class Rate:
    """One precision: FLOP per second as methods count them (products of words included), and seconds per product."""

    flops_per_s: float
    product_s: float


@dataclass(frozen=True, kw_only=True)
class Call:
    """Bounds, scaling and the way back: seconds, and seconds for each entry of the matrices."""

    call_s: float
    entry_s: float


ROOT_RATES = {
    "bf16": Rate(flops_per_s=9.9e14, product_s=1.9e-6),
    "fp16": Rate(flops_per_s=9.9e14, product_s=1.9e-6),  # 0.98 to 1.04 of bfloat16's time: equal, so the errors decide
    "tf32": Rate(flops_per_s=2.8e14, product_s=5.3e-6),
    "bf16x3": Rate(flops_per_s=9e14, product_s=7e-6),
    "fp16x3": Rate(flops_per_s=5.2e14, product_s=7e-6),
    "fp32": Rate(flops_per_s=2.4e13, product_s=6.3e-6),
    "fp64": Rate(flops_per_s=5.1e13, product_s=3.3e-6),
    "fp8_e4m3": Rate(flops_per_s=1.45e14, product_s=6.3e-5),
}
"""Of roots and what applies them, whose products are symmetric: a FLOP of them, counted half, takes longer."""
SPLIT_RATES = {
    "bf16x3": Rate(flops_per_s=2.7e14, product_s=8e-6),
    "fp16x3": Rate(flops_per_s=2.1e14, product_s=2.5e-5),
}
"""Of roots in two words on GPUs that no kernel of the library serves: those of its first kernels, at the least."""
POLAR_RATES = {
    "bf16": Rate(flops_per_s=8.3e14, product_s=1.2e-6),
    "fp16": Rate(flops_per_s=8.3e14, product_s=1.2e-6),
    "tf32": Rate(flops_per_s=2.25e14, product_s=7.7e-6),
    "bf16x3": Rate(flops_per_s=4.6e14, product_s=6e-6),
    "fp16x3": Rate(flops_per_s=3.2e14, product_s=7e-6),
    "fp32": Rate(flops_per_s=2.9e13, product_s=4.5e-6),
    "fp64": Rate(flops_per_s=4.2e13, product_s=4.2e-6),
    "fp8_e4m3": Rate(flops_per_s=5.7e14, product_s=8.4e-6),
    "fp8_e5m2": Rate(flops_per_s=5.7e14, product_s=9.6e-6),
    "int8": Rate(flops_per_s=3.2e14, product_s=8.8e-6),
}
"""Least squares of the relative error over the CUDA graphs of one run each of `production` and `neighbours` (NVIDIA
H100 80GB HBM3, torch 2.11, 2026-11-23; 8-bit polar factors of an earlier one). Polar factors in 16 bits are off by 9
% (root mean square): quintics take less, 16 x 1024 x 1024, 1536 and 3000 up to a quarter more. Where one size alone
was measured (roots in bf16x3 and fp8_e4m3, polar factors in tf32, bf16x3, fp16x3, fp32, fp8_e5m2), one of the two
figures is assumed and the other follows. Roots in two words below n = 1024 were not measured: their products are
taken for longer than 1024 and 2048 say (4.4 us), so that nobody gets them for a guess."""

_ROOT_TRAFFIC_S = 1.4e-12
_POLAR_TRAFFIC_S = 4.5e-13
"""Of each byte of a matrix and product: what a stack takes longer than a matrix of as many FLOP. Same runs."""

_ROOT_CALLS = {False: Call(call_s=5e-5, entry_s=1.1e-11), True: Call(call_s=1.5e-5, entry_s=0.0)}
_APPLY_CALLS = {False: Call(call_s=4.8e-5, entry_s=1.9e-11), True: Call(call_s=6.7e-5, entry_s=4.2e-11)}
"""By whether the steps are graded: those kernels form the bound, and a root is rounded again to be applied."""
_POLAR_CALL = Call(call_s=2.8e-5, entry_s=9.7e-13)
"""All of 16-bit words. Same runs."""

_DEGREE_S = {"inverse_apply": 1.3e-5, "gram_apply": 2.1e-5}
"""Of a degree of `chebyshev`: 887, 1123 and 1407 us for 56, 72 and 92 of them, n = 1024, k = 64 (three earlier runs
of `production`)."""
_GRAM_ESTIMATE_S = 8.5e-4
"""Of its bound of a Gram matrix that is not formed, by many small products. Those runs."""
_POLYNOMIAL_S = 6.5e-4
"""Of the polynomial of `hybrid`. Those runs."""
_GRAM_FLOPS_PER_S = 2.5e13
"""Of a Gram matrix formed in float32, counted half: 16 us for 256 x 1024, 175 us for 4096 x 1024. Those runs."""
_HOST_S = 2.8e-3
"""Of `coupled_pe` of a system at least, which runs eagerly since it checks its result on the host: 2.5 ms in float32,
2.9 in float16. Those runs."""

_UNFUSED_STEP_S = 7.3e-5
_UNFUSED_ENTRY_S = 1.2e-10
"""Of a graded step in separate kernels, and for each entry of the matrix: 1329 us at n = 1024 and 4323 us at n = 2048
for six steps (H100, `ci/adr/0015-fused-graded-roots.md`)."""

_PIVOT_S = {"fp64": 3.1e-6}
_SINGLE_PIVOT_S = 2.5e-6
"""Of each column of an LU factorisation: 2.58 ms in float32 at n = 1024; in float64 1.25 times that, as of Cholesky
factorisations. Larger ones were not measured."""

_FAST_DOUBLE = ((6, 0), (7, 0), (8, 0), (9, 0), (10, 0))
_DOUBLE_SHARE = 1.0 / 64.0
"""Of float32's rate that float64 has where the capability is not one of these (CUDA C++ Programming Guide, table of
arithmetic throughput)."""


def seconds(spec: MethodSpec, workload: Workload, options: Any, *, capability: tuple[int, int]) -> float:
    """Expected time of one call in a CUDA graph.

    Within 7 % in root mean square of 226 cases of the methods that `auto` takes, in 16 bits to float64 (H100,
    2026-11-23): 0.88 to 1.18 times what was measured for coupled and graded roots and applies in 16 bits, but 0.81 at
    n = 3000, whose rows lie across cache lines; 0.87 to 1.13 in others; 0.80 to 1.16 for `polar_express`; 0.81 to
    1.29 for methods that it seldom takes; 0.3 to 1.6 for those it never takes.

    Args:
        workload: with its precision.
        capability: CUDA compute capability.
    """
    rate = _rate(spec, workload.precision, capability)
    call, rows, columns = _call(spec, workload.precision), *_size(spec, workload)
    entries = workload.batch * float(rows) * columns
    flops = spec.flops(workload, options)
    total = _iterations(spec, workload) * (call.call_s + call.entry_s * entries) + flops / rate.flops_per_s
    traffic = entries * get_precision(workload.precision).storage.itemsize
    traffic *= _POLAR_TRAFFIC_S if spec.task == "polar" else _ROOT_TRAFFIC_S
    steps = 0 if spec.steps is None else spec.steps(workload, options)
    if spec.name == "chebyshev":
        # Full products, of a matrix and a few columns: one operand to read, and no FLOP counted half.
        total += steps * (_DEGREE_S[spec.task] + 0.5 * traffic) - 0.5 * flops / rate.flops_per_s
        return total + (_GRAM_ESTIMATE_S if spec.task == "gram_apply" else 0.0)
    if is_graded(spec, workload.precision) and (not is_served(capability) or spec.name == "hybrid"):
        total += steps * (_UNFUSED_STEP_S + _UNFUSED_ENTRY_S * entries)
    else:
        products = flops / (get_precision(workload.precision).products * entries * rows)
        total += products * (rate.product_s + traffic)
    if spec.name == "hybrid":
        total += _POLYNOMIAL_S
    if spec.name in ("dense", "dual"):
        total += workload.batch * float(workload.m) * workload.n * columns / _GRAM_FLOPS_PER_S
    if spec.task == "solve" and steps == 0:
        total += _PIVOT_S.get(workload.precision, _SINGLE_PIVOT_S) * workload.n
    return max(total, _HOST_S) if (spec.task, spec.name) == ("solve", "coupled_pe") else total


def is_graded(spec: MethodSpec, precision: str) -> bool:
    """Whether the steps are those of `graded_pe`."""
    inner = spec.name == "dense" and precision.removesuffix("_emulated") in ("bf16", "fp16")
    return inner or spec.name in ("graded_pe", "hybrid")


def _rate(spec: MethodSpec, precision: str, capability: tuple[int, int]) -> Rate:
    rates = POLAR_RATES if spec.task == "polar" else ROOT_RATES
    if spec.task != "polar" and not is_served(capability):
        rates = {**ROOT_RATES, **SPLIT_RATES}
    # What no row serves was named by the caller: it meets no other precision, and any row orders its methods.
    rate = rates.get(precision, rates["fp32"])
    if precision == "fp64" and capability not in _FAST_DOUBLE:
        return Rate(flops_per_s=rates["fp32"].flops_per_s * _DOUBLE_SHARE, product_s=rate.product_s)
    return rate


def _call(spec: MethodSpec, precision: str) -> Call:
    if spec.task == "polar":
        return _POLAR_CALL
    calls = _APPLY_CALLS if spec.task in ("inverse_apply", "gram_apply") else _ROOT_CALLS
    return calls[is_graded(spec, precision)]


def _size(spec: MethodSpec, workload: Workload) -> tuple[int, int]:
    """Of the matrix that is multiplied, the shorter side first."""
    small, large = sorted((workload.m, workload.n))
    if spec.name == "dense":
        return workload.n, workload.n
    return (small, small) if spec.name == "dual" else (small, large)


def _iterations(spec: MethodSpec, workload: Workload) -> int:
    """`dual` has a second iteration for p > 1, the inverted sum."""
    return 2 if spec.name == "dual" and workload.p != 1 and workload.m < workload.n else 1
