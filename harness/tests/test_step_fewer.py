"""One Newton-Schulz step fewer is never a pass: a trade where it is faster, less accurate where that is open."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.cli import main
from harness.manifest import load_manifest
from harness.quality import Accuracy, compare_quality
from harness.records import CaseSummary, PlannedCase, WorkPlan
from harness.sweep import plan
from harness.tests.in_process import plan_in_process
from harness.tests.test_gate_cli import library
from harness.worker import QUALITY_LAUNCH, Worker
from iroot.registry import Workload, get_method

TINY = """
name = "tiny"
launches = 5
seeds = 2
[timing]
samples = 5
min_sample_s = 1e-4
warmup_s = 0.0
input_sets = 1
[gate]
threshold = 0.05
pairs = 5
fresh_pairs = 3
[[sweep]]
task = "polar"
method = "{method}"
precision = "fp32"
n = 32
problem = "gaussian"
"""
WHOLE = "    return polar_factor(operands, ops, options.recipe())\n"
SHORTER = """
    recipe = options.recipe()
    shorter = Recipe(steps=recipe.steps[:-1], normalisation=recipe.normalisation)
    return polar_factor(operands, ops, shorter)
"""


def steps(planned: PlannedCase) -> int | None:
    """How many steps a case's method takes, where their number is an option."""
    case = planned.case
    spec = get_method(case.task, case.method)
    options = spec.make_options(dict(case.options))
    if spec.steps is None or not hasattr(options, "steps"):
        return None
    return spec.steps(Workload(m=case.m, n=case.n, precision=case.precision, batch=case.batch), options)


def judged(worker: Worker, planned: PlannedCase) -> CaseSummary:
    """A case after the quality pass."""
    result = worker.measure(planned)
    return CaseSummary(planned=planned, outcome=result.outcome, error=result.error, quality=result.quality)


def test_it_is_less_accurate_in_every_polar_case_of_quick(tmp_path: Path) -> None:
    """In every method that counts its steps, in every precision a CPU has; twice the error and more."""
    cases = [each for each in plan(load_manifest("quick"), device_kind="cpu") if each.case.task == "polar"]
    counted = [(each, count) for each in cases if (count := steps(each)) is not None]
    assert {"newton_schulz", "polar_express", "gram_newton_schulz"} <= {each.case.method for each, _ in counted}
    work = WorkPlan(
        run_id="x", launch=QUALITY_LAUNCH, device="cpu", threads=1, cases=(), shard=str(tmp_path / "shard.jsonl")
    )
    worker = Worker(work)
    for each, count in counted:
        fewer = each.model_copy(update={"case": each.case.model_copy(update={"options": (("steps", count - 1),)})})
        found = compare_quality(judged(worker, fewer), judged(worker, each))
        assert found.accuracy is Accuracy.LESS, each.case.case_id
        assert found.error_ratio is not None
        assert found.error_ratio > 1.5, each.case.case_id


@pytest.mark.usefixtures("planned_here")
class TestFaster:
    """Four steps take four fifths of the time of five: the verdict is `trade`, and neither command passes it."""

    @pytest.fixture
    def arguments(self, tmp_path: Path) -> list[str]:
        manifest = tmp_path / "tiny.toml"
        manifest.write_text(TINY.format(method="planted_newton_schulz"))
        candidate = library(tmp_path / "candidate", "4")
        store = str(tmp_path / "s.duckdb")
        return ["WORKTREE", str(candidate), str(manifest), "--device", "cpu", "--store", store, "--json"]

    def test_in_an_ab(self, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["bench", "ab", *arguments]) == 1
        (row,) = (
            each
            for each in json.loads(capsys.readouterr().out)["comparison"]["verdicts"]
            if each["case"]["method"] == "planted_newton_schulz"
        )
        assert row["verdict"] == "trade"
        assert row["reason"].startswith("faster but less accurate")
        assert row["ratio"] == pytest.approx(0.8, rel=0.1)
        assert row["error_ratio"] > 1.5

    def test_in_a_gate(self, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["bench", "gate", *arguments]) == 1
        found = json.loads(capsys.readouterr().out)
        (case,) = (each for each in found["cases"] if each["row"]["case"]["method"] == "planted_newton_schulz")
        assert (case["ruling"], case["row"]["verdict"]) == ("failed", "trade")


def test_a_library_that_leaves_the_last_step_out_is_less_accurate_in_an_ab_of_real_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The change is in the candidate's own source; one pair of launches leaves its time open."""
    candidate = library(tmp_path / "candidate", "")
    source = candidate / "iroot" / "methods" / "newton_schulz.py"
    assert source.read_text().count(WHOLE) == 1
    source.write_text(source.read_text().replace(WHOLE, SHORTER))
    manifest = tmp_path / "tiny.toml"
    manifest.write_text(TINY.format(method="newton_schulz"))
    monkeypatch.setattr("harness.arm_plan._ask", plan_in_process)  # both libraries serve the same cases
    arguments = ["WORKTREE", str(candidate), str(manifest), "--pairs", "1", "--device", "cpu", "--json"]
    assert main(["bench", "ab", *arguments, "--store", str(tmp_path / "s.duckdb")]) == 1
    verdicts = json.loads(capsys.readouterr().out)["comparison"]["verdicts"]
    (row,) = (each for each in verdicts if each["case"]["method"] == "newton_schulz")
    assert row["verdict"] == "less_accurate"
    assert row["error_ratio"] > 1.5
