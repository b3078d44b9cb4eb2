"""`iroot bench run` on real kernels: a stored run, its report, and the ends it can come to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NoReturn

import pytest

import harness.runner
from harness.cli import main
from harness.records import RunStatus
from harness.store import Store
from harness.tests.factories import make_run

_ENDS = (RunStatus.INTERRUPTED, RunStatus.COMPLETE, RunStatus.INTERRUPTED)
SWEEP = ["bench", "run", "--task", "polar", "--method", "polar_express", "--shape", "16x32", "--problem", "gaussian"]


def test_a_run_is_stored_and_reported_and_cannot_be_resumed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = tmp_path / "x.duckdb"
    flags = ["--precision", "fp32,bf16", "--launches", "1", "--seeds", "2", "--device", "cpu", "--store", str(store)]
    assert main([*SWEEP, *flags, "--note", "first", "--json"]) == 0
    captured = capsys.readouterr()
    result = json.loads(captured.out)
    assert result["status"] == "complete"
    assert result["outcomes"] == {"ok": 3, "unsupported": 1}  # bf16 has no unit on a CPU; the controls are ok
    assert result["comparison"] is None
    assert [line.split(":")[0] for line in captured.err.splitlines() if not line.startswith(" ")] == [
        "quality pass",
        "launch 1/1",
    ]
    assert Path(result["report"]).read_text().startswith("# ")
    record = Store(store).run("latest")
    assert (record.run_id, record.note, record.status) == (result["run_id"], "first", RunStatus.COMPLETE)

    assert main(["bench", "run", "--resume", record.run_id, "--store", str(store)]) == 2
    assert "is complete; there is nothing to resume" in capsys.readouterr().err
    assert main(["bench", "run", "--resume", "latest", "--store", str(store)]) == 2
    assert "holds no interrupted run; there is nothing to resume" in capsys.readouterr().err


def test_a_run_without_a_single_result_is_exit_4(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--precision", "bf16", "--launches", "1", "--seeds", "1", "--device", "cpu"]
    assert main([*SWEEP, *flags, "--no-compare", "--store", str(tmp_path / "x.duckdb")]) == 4
    captured = capsys.readouterr()
    assert captured.err.splitlines()[-1].startswith("error: no case of run ")
    assert "no comparison: not asked for (--no-compare)" in captured.out


def test_resuming_the_latest_is_of_the_newest_interrupted_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = tmp_path / "x.duckdb"
    interrupted, complete, arm = (make_run(number=number, status=status) for number, status in enumerate(_ENDS, 1))
    for run in (interrupted, complete, arm.model_copy(update={"arm": "main"})):
        Store(store).create_run(run)
    flags = ["--device", "cpu", "--store", str(store)]
    assert main(["bench", "run", "--resume", "latest", *flags]) == 2
    refusal = f"error: {interrupted.run_id}: sweep: is required\n"  # a planted record's manifest plans nothing
    assert capsys.readouterr().err == refusal


def test_ctrl_c_is_exit_130_and_says_how_to_go_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> NoReturn:
        raise KeyboardInterrupt

    monkeypatch.setattr(harness.runner, "run_sweep", interrupted)
    flags = ["--precision", "fp32", "--device", "cpu", "--store", str(tmp_path / "x.duckdb")]
    assert main([*SWEEP, *flags]) == 130
    message = "interrupted; finished cases are kept. Go on with: iroot bench run --resume latest\n"
    assert capsys.readouterr().err == message
