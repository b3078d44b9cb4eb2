"""`ci/auto_against_best.py` on runs whose best method is planted."""

from __future__ import annotations

import importlib.util
import io
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import pytest
from rich.console import Console

from harness.manifest import load_manifest
from harness.records import CaseSummary, Mode, Outcome, RunSummary
from harness.sweep import plan
from harness.tests import factories


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("auto_against_best", Path(__file__).with_name("auto_against_best.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def entry(
    method: str, precision: str, microseconds: float, error: float, mode: Mode = Mode.GRAPH, *, target: float = 0.0
) -> CaseSummary:
    """Three launches with this median of medians, two seeds whose larger error is `error`."""
    case = factories.make_case(method, precision=precision, n=512, problem="wishart", mode=mode)
    if target:
        case = case.model_copy(update={"options": (("target", target),)})
    return CaseSummary(
        planned=factories.make_planned(case),
        outcome=Outcome.OK,
        launch_medians_s={launch: microseconds * 1e-6 * factor for launch, factor in enumerate((0.5, 1.0, 9.0), 1)},
        quality=(
            factories.make_quality(0, relative_error=0.1 * error),
            factories.make_quality(0, relative_error=error),
        ),
    )


def run_of(*entries: CaseSummary) -> RunSummary:
    run = factories.make_run([one.planned for one in entries])
    return RunSummary(run=run, cases={one.planned.case.case_id: one for one in entries})


def printed(script: ModuleType, rows: Sequence[object], against: str = "measured") -> tuple[int, str]:
    text = io.StringIO()
    code = script.report(rows, limit=1.2, against=against, console=Console(width=220, file=text))
    return code, text.getvalue()


GRADED = entry("graded_pe", "fp16", 114.0, 6e-4)


def test_the_best_is_the_fastest_within_rtol(script: ModuleType) -> None:
    fast_and_wrong = entry("coupled_pe", "bf16", 50.0, 0.2)
    summary = run_of(GRADED, fast_and_wrong, entry("coupled_pe", "fp32", 345.0, 1e-5))
    (row,) = script.rows(summary, (1e-3,))
    assert str(row.best.arm) == "graded_pe fp16"
    assert (row.choice.spec.name, row.choice.precision) == ("graded_pe", "fp16")
    assert row.best.seconds == pytest.approx(114e-6)
    assert row.best.error == pytest.approx(6e-4)
    assert row.ratio("measured") == pytest.approx(row.seconds / row.best.seconds)
    assert script.rows(summary, (1e-6,)) == []
    (loose,) = script.rows(summary, (0.3,))
    assert loose.best.arm.precision == "bf16"


def test_a_faster_method_that_states_nothing_counts_as_measured_alone(script: ModuleType) -> None:
    summary = run_of(GRADED, entry("coupled_pe", "fp16", 57.0, 9e-4))
    rows = script.rows(summary, (1e-3,))
    assert rows[0].ratio("measured") == pytest.approx(2.0)
    assert rows[0].ratio("stated") == pytest.approx(1.0)
    code, text = printed(script, rows)
    assert code == 1
    assert "against the best by measured error: 1 of 1 above 1.2, largest 2.00" in text
    assert "against the best by stated error: 0 of 1 above 1.2, largest 1.00" in text
    assert printed(script, rows, "stated")[0] == 0


def test_the_limit_itself_passes_and_the_worst_comes_first(script: ModuleType) -> None:
    rows = script.rows(run_of(GRADED, entry("coupled_pe", "fp16", 90.0, 5e-3)), (1e-2, 1e-3))
    assert [row.rtol for row in rows] == [1e-2, 1e-3]
    assert printed(script, rows)[0] == 0


def test_a_choice_that_was_not_measured_is_listed_apart(script: ModuleType) -> None:
    rows = script.rows(run_of(entry("coupled_pe", "fp32", 345.0, 1e-5)), (1e-3,))
    code, text = printed(script, rows)
    assert code == 0
    assert rows[0].seconds is None
    assert "not measured: graded_pe fp16 for inverse_root p=2 512x512 wishart, rtol 0.001, expected " in text
    assert "best coupled_pe fp32 345 us" in text


def test_eager_times_of_methods_that_can_be_captured_do_not_compete(script: ModuleType) -> None:
    rows = script.rows(run_of(GRADED, entry("coupled_pe", "fp16", 1.0, 1e-5, Mode.EAGER)), (1e-3,))
    assert rows[0].ratio("measured") == pytest.approx(1.0)


def test_further_steps_than_measured_are_charged(script: ModuleType) -> None:
    """At rtol 1e-3 auto takes the measured steps, at 0.1 fewer or as many."""
    fine, coarse = (script.rows(run_of(GRADED), (rtol,))[0] for rtol in (1e-3, 1e-1))
    assert fine.choice.steps == fine.measured_steps
    assert fine.seconds == pytest.approx(114e-6)
    assert coarse.choice.steps < coarse.measured_steps
    assert coarse.seconds < 0.95 * fine.seconds


def test_a_case_with_the_steps_of_the_choice_is_its_time(script: ModuleType) -> None:
    coarse = entry("graded_pe", "fp16", 90.0, 8e-3, target=8e-3)
    row = script.rows(run_of(GRADED, coarse), (1e-2,))[0]
    assert row.choice.steps == row.measured_steps
    assert row.seconds == pytest.approx(90e-6)
    assert str(row.best.arm) == f"graded_pe fp16 {row.choice.steps} steps"
    assert script.rows(run_of(GRADED, coarse), (1e-3,))[0].seconds == pytest.approx(114e-6)


ALLOWED = ("polar 2048x2048", "polar 4096x4096", "polar 2048x8192", "polar 1024x1024xb16", "polar 1024x4096xb8")
"""At rtol 1e-3, in two words: no other method there keeps it, so there is nothing to compare with."""
AS_GAUSSIAN = ("power_law", "row_heterogeneous", "logspace_1e3")
"""Polar problems for the errors of fixed steps, whose times are those of the Gaussian of their size."""


def test_production_measures_every_choice_of_auto(script: ModuleType) -> None:
    cases = plan(load_manifest("production"), device_kind="cuda")
    left = script.not_planned(cases)
    reasons = {f"{cell} {rtol:g}: {choice.spec.name} {choice.precision} {choice.steps}" for cell, rtol, choice in left}
    allowed = {reason for reason in reasons if reason.startswith(ALLOWED) and " 0.001: polar_express bf16x3 " in reason}
    twins = {reason for reason in reasons if any(f"polar 1024x1024 {name} " in reason for name in AS_GAUSSIAN)}
    assert reasons - allowed - twins == set()
    assert all(any(reason.startswith(cell) for reason in allowed) for cell in ALLOWED)
    assert len(twins) == 3 * len(AS_GAUSSIAN)
    without = [item for item in cases if item.case.method != "graded_pe"]
    assert len(script.not_planned(without)) > len(left)
