"""The gate policies of the shipped manifests: they can be met, they are tight, and an official baseline keeps them."""

from __future__ import annotations

import pytest

from harness.baseline import load_baseline
from harness.filters import parse_filter
from harness.manifest import DeviceKind, load_manifest
from harness.paths import baselines_root
from harness.records import PlannedCase
from harness.tests.test_manifests_shipped import KINDS, planned

GATED = [(name, kind) for name in ("production", "quick") for kind in KINDS]


def fit_to_measure(name: str, kind: DeviceKind) -> list[PlannedCase]:
    """The cases that a gate can count on: no controls, and none that is expected to fail."""
    return [item for item in planned(name, kind) if not item.control and item.expect == "ok"]


@pytest.mark.parametrize(("name", "kind"), GATED)
def test_every_required_case_is_planned_and_expected_to_succeed(name: str, kind: DeviceKind) -> None:
    required = load_manifest(name).gate.required
    sound = [item.case for item in fit_to_measure(name, kind)]
    controls = [item.case for item in planned(name, kind) if item.control]
    assert len(required) >= 5
    for text in required:
        fits = parse_filter(text)
        assert any(map(fits, sound)), f"{name} on {kind}: nothing to measure fits {text!r}"
        assert not any(map(fits, controls)), f"{name} on {kind}: a control alone would meet {text!r}"


@pytest.mark.parametrize("name", ["production", "quick"])
def test_required_cases_are_of_the_tasks_that_the_manifest_has(name: str) -> None:
    """Each task of the library but `copy`, which only a control serves, has a required case that is its own."""
    cases = [item.case for kind in KINDS for item in fit_to_measure(name, kind)]
    filters = [parse_filter(text) for text in load_manifest(name).gate.required]
    required = {case.task for case in cases if any(fits(case) for fits in filters)}
    assert required == {case.task for case in cases}


@pytest.mark.parametrize("name", ["production", "quick"])
def test_every_rule_of_a_gate_applies_somewhere_and_no_ceiling_is_above_a_target(name: str) -> None:
    gate = load_manifest(name).gate
    items = [item for kind in KINDS for item in fit_to_measure(name, kind)]
    for rule in gate.rule:
        assert any(parse_filter(rule.filter)(item.case) for item in items), rule.filter
    ceilings = [(item, gate.max_error(item.case)) for item in items]
    assert {item.case.task for item, ceiling in ceilings if ceiling is not None} >= {"inverse_root", "polar", "gemm"}
    loose = [
        item.case.case_id
        for item, ceiling in ceilings
        if ceiling is not None and item.target_error is not None and ceiling > item.target_error
    ]
    assert loose == []


def test_quick_and_production_hold_a_case_to_one_ceiling() -> None:
    """Whichever of the two measures it, with options too."""
    quick, production = load_manifest("quick").gate, load_manifest("production").gate
    for kind in KINDS:
        cases = [item.case for name in ("quick", "production") for item in fit_to_measure(name, kind)]
        assert [case.case_id for case in cases if quick.max_error(case) != production.max_error(case)] == []
        if kind == "cuda":
            assert {bool(case.options) for case in cases} == {True, False}


@pytest.mark.parametrize("name", ["production", "quick"])
def test_a_gate_fails_all_that_is_worse_and_leaves_the_undecided_open(name: str) -> None:
    gate = load_manifest(name).gate
    assert set(gate.fail) == {"regressed", "less_accurate", "trade", "broken", "missing"}
    assert (gate.threshold, gate.eager) == (0.02, "advisory")


def test_the_official_baseline_keeps_the_ceilings_of_quick() -> None:
    """What an H100 measured: a gate there must not fail a change for what the base is like."""
    baseline = load_baseline(baselines_root(), "nvidia-h100-80gb-hbm3", "quick")
    assert baseline is not None
    gate = load_manifest("quick").gate
    checked = 0
    for case_id, case in baseline.cases.items():
        ceiling = gate.max_error(case.planned.case)
        errors = [each.relative_error for each in case.quality if each.relative_error is not None]
        if ceiling is not None and errors:
            assert max(errors) <= ceiling, case_id
            checked += 1
    assert checked >= 20
