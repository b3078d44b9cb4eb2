"""Shares of the roofline, against figures worked out by hand."""

from __future__ import annotations

import pytest

from harness.report.roofline import PEAKS, peaks_line, share_of_roofline
from iroot.precision import PRECISIONS

H100 = "NVIDIA H100 80GB HBM3"


def test_products_are_bound_by_the_rate_of_their_operands_and_copies_by_the_memory() -> None:
    flops, moved = 2.0 * 4096**3, 3 * 2.0 * 4096**2
    share = share_of_roofline(175e-6, model=H100, precision="bf16", flops=flops, bytes_moved=moved)
    assert share == pytest.approx(137.44e9 / 989.4e12 / 175e-6, rel=1e-4)  # 139 us at the peak
    split = share_of_roofline(175e-6, model=H100, precision="fp16x3", flops=flops, bytes_moved=moved)
    assert split == share
    copy = share_of_roofline(179e-6, model=H100, precision="fp32", flops=0.0, bytes_moved=2 * 4.0 * 8192**2)
    assert copy == pytest.approx(536.87e6 / 3.35e12 / 179e-6, rel=1e-4)


@pytest.mark.parametrize("precision", ["bf16_emulated", "int8_sim", "no_such_precision"])
def test_what_does_not_multiply_in_its_format_has_no_share(precision: str) -> None:
    assert share_of_roofline(1.0, model=H100, precision=precision, flops=1.0, bytes_moved=1.0) is None


def test_an_unknown_machine_or_method_has_no_share() -> None:
    assert share_of_roofline(1.0, model="AMD EPYC", precision="fp32", flops=1.0, bytes_moved=1.0) is None
    assert share_of_roofline(1.0, model=H100, precision="fp32", flops=None, bytes_moved=1.0) is None
    assert peaks_line("AMD EPYC") == ""


def test_every_native_format_of_a_gpu_has_a_peak() -> None:
    operands = {plan.operand for plan in PRECISIONS.values() if plan.execution == "native" and plan.capability}
    assert operands == set(PEAKS[H100].flops_per_s)
    assert peaks_line(H100).endswith("int8 1979 TFLOP/s; 3.35 TB/s")
