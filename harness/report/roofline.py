"""How near a measured time comes to what the hardware allows: the roofline model (Williams, Waterman, Patterson 2009).

    share = max(FLOP / peak rate, bytes / memory bandwidth) / time

with the registry's FLOP (a symmetric product counts half) and least memory traffic (inputs and results, once each). The
peaks are the vendor's, dense, at boost clock: no kernel reaches them. cuBLAS reaches 0.77 of the one for bfloat16 at
n = 4096 and a copy 0.89 of the bandwidth (the controls of `production`, one NVIDIA H100 80GB HBM3, 2026-11-23).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Peaks:
    """One machine. `flops_per_s`: by number format of the product operands."""

    flops_per_s: Mapping[str, float]
    bytes_per_s: float


_HOPPER = {
    "float64": 66.9e12,
    "float32": 66.9e12,
    "tfloat32": 494.7e12,
    "bfloat16": 989.4e12,
    "float16": 989.4e12,
    "float8_e4m3fn": 1978.9e12,
    "float8_e5m2": 1978.9e12,
    "int8": 1978.9e12,
}
"""H100 SXM5 without sparsity: NVIDIA H100 Tensor Core GPU Architecture (white paper, 2022), table 2."""

PEAKS: Mapping[str, Peaks] = {
    "NVIDIA H100 80GB HBM3": Peaks(flops_per_s=_HOPPER, bytes_per_s=3.35e12),
    "NVIDIA H200": Peaks(flops_per_s=_HOPPER, bytes_per_s=4.8e12),
}
"""By the model's name as NVML gives it; a machine that is not here gets no figure."""


def share_of_roofline(
    time_s: float, *, model: str, precision: str, flops: float | None, bytes_moved: float | None
) -> float | None:
    """The share of the roofline that a time reaches, None where a peak or the work is not known.

    Emulated and simulated precisions have none: they do not multiply in the format they stand for.
    """
    from iroot.precision import PRECISIONS

    peaks, plan = PEAKS.get(model), PRECISIONS.get(precision)
    if peaks is None or plan is None or plan.execution != "native" or flops is None or bytes_moved is None:
        return None
    rate = peaks.flops_per_s.get(plan.operand)
    return None if rate is None else max(flops / rate, bytes_moved / peaks.bytes_per_s) / time_s


def peaks_line(model: str) -> str:
    """`float64 67, ..., int8 1979 TFLOP/s; 3.35 TB/s` of a machine, empty where its peaks are not known."""
    peaks = PEAKS.get(model)
    if peaks is None:
        return ""
    rates = ", ".join(f"{operand} {rate / 1e12:.0f}" for operand, rate in peaks.flops_per_s.items())
    return f"{rates} TFLOP/s; {peaks.bytes_per_s / 1e12:.2f} TB/s"
