"""The throughput model: known ceilings, and what it must be proportional to."""

from __future__ import annotations

import pytest

from harness.estimate import call_seconds, estimate, launch_seconds, quality_seconds, unsupported_here
from harness.manifest import parse_manifest
from harness.records import Case, Mode, PlannedCase, TimingPolicy
from harness.sweep import plan


def gemm(n: int, precision: str, mode: Mode = Mode.EAGER) -> Case:
    return Case(task="gemm", method="matmul", precision=precision, m=n, n=n, k=n, problem="gaussian", mode=mode)


@pytest.mark.parametrize(
    ("n", "precision", "measured_s"),
    [
        (2048, "bf16", 2 * 2048**3 / 604e12),
        (4096, "bf16", 2 * 4096**3 / 786e12),
        (2048, "fp32", 2 * 2048**3 / 50e12),
        (2048, "tf32", 2 * 2048**3 / 343e12),
        (4096, "fp8_e4m3", 2 * 4096**3 / 1252e12),
    ],
)
def test_products_are_within_a_factor_of_two_of_an_h100(n: int, precision: str, measured_s: float) -> None:
    estimated = call_seconds(gemm(n, precision, Mode.GRAPH), "cuda")
    assert estimated is not None
    assert 0.5 < estimated / measured_s < 2


def test_a_refused_case_takes_no_time() -> None:
    case = Case(
        task="inverse_apply", method="chebyshev", precision="fp32", p=2, m=64, n=64, k=4, problem="logspace_1e6",
        mode=Mode.EAGER,
    )  # fmt: skip
    assert call_seconds(case, "cpu") is None
    assert launch_seconds(PlannedCase(case=case), "cpu") == 0.0


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"precision": "bf16"}, "no bfloat16 matrix unit on a CPU; 'bf16_emulated' runs here"),
        ({"mode": Mode.GRAPH}, "mode graph needs CUDA graphs, which cpu has not; use mode eager"),
    ],
)
def test_what_a_cpu_cannot_serve_takes_no_time_there(changes: dict[str, object], reason: str) -> None:
    case = gemm(512, "fp32").model_copy(update=changes)
    assert unsupported_here(case, "cpu") == reason
    assert call_seconds(case, "cpu") is None
    assert launch_seconds(PlannedCase(case=case), "cpu") == 0.0
    planned = PlannedCase(case=case.model_copy(update={"task": "polar", "method": "polar_express", "k": None}))
    assert quality_seconds([planned, planned], "cpu") == 2 * quality_seconds([planned], "cpu") < 0.1
    assert call_seconds(case, "cuda")


def test_samples_last_at_least_as_long_as_the_policy_says() -> None:
    case = gemm(64, "fp32")
    few, many = (PlannedCase(case=case, timing=TimingPolicy(samples=s, min_sample_s=0.01)) for s in (10, 110))
    assert launch_seconds(many, "cpu") - launch_seconds(few, "cpu") == pytest.approx(1.0)


def test_a_shared_problem_is_referenced_once() -> None:
    def quality(precisions: str) -> float:
        text = f"""
        [[sweep]]
        task = "polar"
        method = "polar_express"
        precision = {precisions}
        n = 512
        problem = "gaussian"
        """
        cases = plan(parse_manifest(text, origin="x.toml"), device_kind="cpu")
        return quality_seconds([planned for planned in cases if not planned.control], "cpu")

    assert quality('["fp32", "bf16_emulated"]') < 1.5 * quality('["fp32"]')


def test_a_run_is_its_quality_pass_and_its_launches() -> None:
    cases = [PlannedCase(case=gemm(64, "fp32"))]
    once, thrice = (estimate(cases, launches=launches, device_kind="cpu") for launches in (1, 3))
    assert thrice.total_s == pytest.approx(once.total_s + 2 * once.launch_s)
    assert once.total_s == pytest.approx(once.quality_s + once.launch_s)
