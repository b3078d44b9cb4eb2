"""Verification holds methods to what they state; the commands `verify` and `env` show it."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
import torch
import typer
from torch import Tensor
from typer.testing import CliRunner

from harness.cli import env, verify
from harness.errors import UsageError
from harness.verify import Attempt, Check, plan_checks
from harness.verify import verify as run_checks
from iroot.errors import UnknownNameError
from iroot.ops import Ops
from iroot.registry import NoOptions, Operands, get_method

app = typer.Typer()
app.command("verify")(verify.verify)
app.command("env")(env.env)

MATMUL = get_method("gemm", "matmul")


def check_one(attempt: Attempt) -> Check:
    (check,) = run_checks("cpu", [attempt])
    return check


def fp32_attempt() -> Attempt:
    return plan_checks("cpu", task="gemm", method="matmul", precision="fp32")[0]


def test_a_method_within_its_statement_is_ok() -> None:
    stated = replace(MATMUL, accuracy=lambda workload, options: 1e-5)
    check = check_one(replace(fp32_attempt(), spec=stated))
    assert check.status == "ok"
    assert check.error is not None
    assert 0 < check.error < 1e-5
    assert not check.bad


def test_a_method_beyond_its_statement_misses() -> None:
    strict = replace(MATMUL, accuracy=lambda workload, options: 1e-12)
    check = check_one(replace(fp32_attempt(), spec=strict))
    assert (check.status, check.stated, check.bad) == ("miss", 1e-12, True)


def test_a_method_that_states_nothing_is_shown_and_does_not_fail() -> None:
    silent = replace(MATMUL, accuracy=lambda workload, options: None)
    check = check_one(replace(fp32_attempt(), spec=silent))
    assert (check.status, check.bad) == ("unstated", False)


def broken(operands: Operands, ops: Ops, options: NoOptions) -> Tensor:
    return torch.full((128, 80), math.nan)


def raising(operands: Operands, ops: Ops, options: NoOptions) -> Tensor:
    raise ValueError("planted")


def test_nonfinite_results_miss_any_statement() -> None:
    spec = replace(MATMUL, function=broken, accuracy=lambda workload, options: 1.0)
    attempt = next(a for a in plan_checks("cpu", task="gemm", precision="fp32") if a.setting and a.setting.m == 128)
    check = check_one(replace(attempt, spec=spec))
    assert (check.status, check.error) == ("miss", math.inf)


def test_a_method_that_raises_fails_and_the_next_is_checked() -> None:
    attempt = fp32_attempt()
    failed, fine = run_checks("cpu", [replace(attempt, spec=replace(MATMUL, function=raising)), attempt])
    assert (failed.status, failed.bad, failed.detail) == ("failed", True, "ValueError: planted")
    assert fine.status == "ok"


def test_every_root_and_setting_is_planned() -> None:
    attempts = plan_checks("cpu", task="inverse_root", method="eigh", precision="fp64")
    assert {attempt.p for attempt in attempts} == {1, 2, 3, 4, 8}
    assert len(attempts) == 15
    assert {attempt.setting.problem for attempt in attempts if attempt.setting} == {
        "logspace_1e2", "logspace_1e4", "wishart",
    }  # fmt: skip


def test_only_some_roots() -> None:
    attempts = plan_checks("cpu", method="coupled_pe", precision="fp32", roots=(2, 5))
    assert {attempt.p for attempt in attempts} == {2, 5}
    assert {attempt.p for attempt in plan_checks("cpu", precision="fp32", roots=(2,))} == {2}
    with pytest.raises(UsageError, match="no method serves --task polar --p 2; leave one of them out"):
        plan_checks("cpu", task="polar", roots=(2,))


@pytest.mark.parametrize("text", ["two", "0", "2,", "-1", "2.5"])
def test_roots_must_be_positive_integers(text: str) -> None:
    with pytest.raises(UsageError, match="--p: must be integers >= 1, got"):
        verify.verify(p=text)


def test_a_precision_this_machine_lacks_is_refused_once_with_its_reason() -> None:
    (attempt,) = plan_checks("cpu", task="gemm", method="matmul", precision="bf16")
    check = check_one(attempt)
    assert (check.status, check.bad) == ("unsupported", False)
    assert check.detail is not None
    assert "no bfloat16 matrix unit" in check.detail


def test_unknown_names_are_refused_before_anything_runs() -> None:
    with pytest.raises(UnknownNameError, match="method of gemm"):
        plan_checks("cpu", task="gemm", method="matmull")
    with pytest.raises(UnknownNameError, match="did you mean 'fp32'"):
        plan_checks("cpu", precision="fp23")


def test_verify_command_prints_a_table_and_its_counts() -> None:
    result = CliRunner().invoke(app, ["verify", "--task", "gemm", "--device", "cpu"])
    assert result.exit_code == 0, result.output
    assert "matmul" in result.output
    assert "not run here: bf16: no bfloat16 matrix unit on a CPU" in result.output
    assert "0 missed, 0 failed" in result.output


def test_verify_command_as_json() -> None:
    result = CliRunner().invoke(app, ["verify", "--task", "copy", "--precision", "fp32", "--device", "cpu", "--json"])
    checks = json.loads(result.stdout)
    assert {check["precision"] for check in checks} == {"fp32"}
    assert all(check["error"] == 0.0 for check in checks)


def test_env_command_shows_machine_and_fitness() -> None:
    result = CliRunner().invoke(app, ["env", "--device", "cpu", "--json"])
    assert result.exit_code == 0
    shown = json.loads(result.stdout)
    assert shown["machine"]["kind"] == "cpu"
    assert {finding["level"] for finding in shown["fitness"]} <= {"ok", "warning"}
    plain = CliRunner().invoke(app, ["env", "--device", "cpu"])
    assert "machine_class" in plain.output
    assert shown["source"]["source_hash"] in plain.output
