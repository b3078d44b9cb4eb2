"""Every shipped manifest plans on both kinds of device, within its budget, and covers what it says it covers."""

from __future__ import annotations

import tomllib
from functools import cache

import pytest

from harness.estimate import call_seconds, estimate
from harness.manifest import MANIFESTS_FOLDER, DeviceKind, load_manifest, parse_manifest, shipped_manifests
from harness.records import Case, Mode, PlannedCase
from harness.sweep import plan
from iroot.methods.newton_schulz import SQUARES_PAIR
from iroot.precision import PRECISIONS, QUANTISED
from iroot.registry import TASKS, methods
from iroot.table_files import shipped_tables

KINDS: tuple[DeviceKind, ...] = ("cuda", "cpu")
EVERY = [
    (name, kind) for name in ("accuracy", "neighbours", "production", "quick", "reference", "smoke") for kind in KINDS
]

NOT_IN_QUICK = {"gram_apply", "solve"}
"""Tasks that the gate does without: `production` has them."""
PARTIAL = ("accuracy", "neighbours", "reference")
"""Manifests of a question that not every task has."""


@cache
def planned(name: str, kind: DeviceKind) -> tuple[PlannedCase, ...]:
    return plan(load_manifest(name), device_kind=kind)


def cases(name: str, kind: DeviceKind) -> list[Case]:
    return [item.case for item in planned(name, kind) if not item.control]


def has_unit(kind: DeviceKind, precision: str) -> bool:
    row = PRECISIONS[precision]
    return row.cpu if kind == "cpu" else row.capability is not None


def test_the_shipped_manifests() -> None:
    assert shipped_manifests() == ("accuracy", "neighbours", "production", "quick", "reference", "smoke")


@pytest.mark.parametrize("name", shipped_manifests())
def test_says_its_name_and_what_it_is_and_round_trips(name: str) -> None:
    manifest = load_manifest(name)
    assert manifest.name == name
    assert tomllib.loads((MANIFESTS_FOLDER / f"{name}.toml").read_text())["name"] == name
    assert manifest.description
    assert parse_manifest(manifest.to_toml(), origin=manifest.origin) == manifest


@pytest.mark.parametrize(
    ("name", "kind", "least", "most"),
    [
        ("smoke", "cuda", 6, 12),
        ("smoke", "cpu", 6, 12),
        ("quick", "cuda", 60, 100),
        ("quick", "cpu", 40, 60),
        ("production", "cuda", 280, 380),
        ("production", "cpu", 150, 370),
        ("reference", "cuda", 60, 120),
        ("reference", "cpu", 10, 40),
        ("neighbours", "cuda", 40, 60),
        ("neighbours", "cpu", 8, 14),
        ("accuracy", "cuda", 1500, 2100),
        ("accuracy", "cpu", 900, 1310),
    ],
)
def test_number_of_cases(name: str, kind: DeviceKind, least: int, most: int) -> None:
    assert least <= len(cases(name, kind)) <= most


@pytest.mark.parametrize(
    ("name", "kind", "launch_s", "total_s"),
    [
        ("smoke", "cpu", 4, 20),
        ("quick", "cpu", 10, 90),
        ("quick", "cuda", 15, 120),
        ("production", "cuda", 35, 400),
        ("neighbours", "cuda", 15, 120),
        ("accuracy", "cpu", 60, 120),
    ],
)
def test_estimated_time_is_within_the_budget(name: str, kind: DeviceKind, launch_s: float, total_s: float) -> None:
    expected = estimate(planned(name, kind), launches=load_manifest(name).launches, device_kind=kind)
    assert expected.launch_s < launch_s
    assert expected.total_s < total_s


@pytest.mark.parametrize(("name", "kind"), [pair for pair in EVERY if pair != ("accuracy", "cuda")])
def test_no_method_refuses_a_case(name: str, kind: DeviceKind) -> None:
    refused = [item.case.case_id for item in planned(name, kind) if call_seconds(item.case, kind) is None]
    assert refused == []


@pytest.mark.parametrize(("name", "kind"), EVERY)
def test_every_case_has_a_precision_the_kind_of_device_has(name: str, kind: DeviceKind) -> None:
    names = {case.precision for case in cases(name, kind)}
    assert [precision for precision in names if not has_unit(kind, precision)] == []


@pytest.mark.parametrize(("name", "kind"), [pair for pair in EVERY if pair[0] not in PARTIAL])
def test_all_but_references_and_accuracy_meet_every_task(name: str, kind: DeviceKind) -> None:
    left_out = NOT_IN_QUICK if name == "quick" else set()
    assert {item.case.task for item in planned(name, kind)} == set(TASKS) - left_out


@pytest.mark.parametrize("kind", KINDS)
def test_production_covers_every_method_root_and_precision(kind: DeviceKind) -> None:
    covered = cases("production", kind)
    specs = [spec for spec in methods() if spec.role != "control"]
    assert {(case.task, case.method) for case in covered} == {(spec.task, spec.name) for spec in specs}
    served = {name for spec in specs for name in spec.precisions if has_unit(kind, name)}
    assert {case.precision for case in covered} == served
    for task in ("inverse_root", "inverse_apply"):
        assert {case.p for case in covered if case.task == task} == {1, 2, 3, 4, 8}


def test_production_covers_every_size_shape_problem_and_mode() -> None:
    covered = cases("production", "cuda")
    for task in ("inverse_root", "inverse_apply"):
        assert {case.n for case in covered if case.task == task} == {256, 512, 1024, 2048}
    shapes = {case.shape_id for case in covered if case.task == "polar"}
    assert shapes >= {"1024x1024", "2048x2048", "4096x4096", "2048x8192", "1024x1024xb16", "1024x4096xb8"}
    problems = {case.problem for case in covered if case.task == "inverse_root"}
    assert problems >= {"wishart", "logspace_1e4", "logspace_1e6", "spike", "power_law"}
    assert {case.mode for case in covered} == {Mode.GRAPH, Mode.EAGER}
    assert {case.mode for case in cases("reference", "cuda")} >= {Mode.COMPILE}


@pytest.mark.parametrize("kind", KINDS)
def test_quick_covers_most_methods(kind: DeviceKind) -> None:
    fast = [spec for spec in methods() if spec.role in ("method", "opponent") and spec.task not in NOT_IN_QUICK]
    covered = {(case.task, case.method) for case in cases("quick", kind)}
    missing = [spec for spec in fast if (spec.task, spec.name) not in covered]
    assert len(missing) <= 0.2 * len(fast)


def test_quick_on_a_cpu_meets_the_emulated_formats() -> None:
    wanted = {"fp32", "bf16_emulated", "fp16_emulated", "fp8_e4m3_emulated", "int8_sim"}
    assert {case.precision for case in cases("quick", "cpu")} >= wanted


@pytest.mark.parametrize(("name", "kind"), EVERY)
def test_samples_per_launch(name: str, kind: DeviceKind) -> None:
    """The contract asks for 30; slow references, slow float32, CPUs and the smoke test take fewer."""
    samples = {item.timing.samples for item in planned(name, kind)}
    assert min(samples) >= 5
    if name == "quick" or (name, kind) == ("production", "cuda"):
        few = [item.case for item in planned(name, kind) if item.timing.samples < 30]
        slow = {"coupled_newton/fp32", "coupled_newton/fp16", "coupled_pe/fp32"}
        large = [case for case in few if case.n == 2048 or case.batch == 16]
        assert {f"{case.method}/{case.precision}" for case in large} <= slow
        assert {case.method for case in few if case not in large} <= {"eigh", "svd"}


@pytest.mark.parametrize("kind", KINDS)
def test_accuracy_covers_every_method_and_precision_at_every_condition_number(kind: DeviceKind) -> None:
    """Of the tasks that amplify rounding. INT4 diverges at random, Chebyshev and FP8 roots have limits."""
    covered = {(case.task, case.method, case.precision, case.problem) for case in cases("accuracy", kind)}
    wanted = {
        (spec.task, spec.name, precision, f"logspace_1e{exponent}")
        for spec in methods()
        if spec.task not in ("gemm", "syrk", "copy")
        for precision in spec.precisions
        if has_unit(kind, precision) and precision != "int4_sim"
        for exponent in range(1, 5 if spec.name == "graded_pe" and precision in QUANTISED else 9)
    }
    missing = {each for each in wanted - covered if each[1] != "chebyshev"}
    assert missing == set()
    assert {each[3] for each in covered if each[1] == "chebyshev"} >= {
        f"logspace_1e{exponent}" for exponent in range(1, 5)
    }


@pytest.mark.parametrize("kind", KINDS)
def test_accuracy_has_every_shipped_table(kind: DeviceKind) -> None:
    tables = {dict(case.options).get("coefficients") for case in cases("accuracy", kind) if case.task == "polar"}
    assert tables == {None, SQUARES_PAIR, *shipped_tables()}


def test_accuracy_expects_overflow_of_16_bit_operands_alone() -> None:
    for kind in KINDS:
        expected = [item.case for item in planned("accuracy", kind) if item.expect == "nonfinite"]
        assert expected
        assert {case.precision.removesuffix("_emulated") for case in expected} <= {"bf16", "fp16", "bf16x3"}
        assert "graded_pe" not in {case.method for case in expected}
