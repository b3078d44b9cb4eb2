"""The command line: what it imports, what a dry run shows, and exit 2 with nothing written for wrong use."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest
import typer
from rich.console import Console
from rich.text import Text
from typer.models import CommandInfo

from harness import cli
from harness.cli import main
from harness.cli.devices import device_name, require_device
from harness.cli.progress import BarObserver, LineObserver, observed
from harness.cli.sweep_flags import sweep_table
from harness.errors import BaselineError, HarnessError, MeasurementError, UnlikeMachinesError, UsageError
from harness.manifest import load_manifest
from harness.records import CaseResult, Outcome
from iroot.errors import InvalidInputError

SWEEP = ["--task", "polar", "--method", "polar_express", "--precision", "fp32", "--shape", "16x32", "--problem", "levy"]
CASE_ID = "polar/polar_express/fp32/16x32/levy/eager"
HEAVY = ("torch", "pandas", "duckdb", "numpy", "iroot", "harness.records")


# typer 0.29 itself imports pydantic to convert the options of the commands above the one whose help is shown.
@pytest.mark.parametrize(
    ("arguments", "heavy"),
    [
        (["--help"], (*HEAVY, "pydantic")),
        (["bench", "--help"], HEAVY),
        (["bench", "run", "--help"], HEAVY),
        (["--version"], HEAVY),
    ],
)
def test_help_imports_nothing_heavy(arguments: list[str], heavy: tuple[str, ...]) -> None:
    code = (
        "import sys; from harness.cli import main; code = main(sys.argv[1:]); "
        f"print([name for name in {heavy} if name in sys.modules], code)"
    )
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[] 0"


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == "iroot 0.1.0\n"


def test_every_command_has_help_with_an_example() -> None:
    commands = list(_commands(cli.app))
    assert {command.name for command in commands} >= {"env", "verify", "run", "compare", "report", "runs", "promote"}
    for command in commands:
        assert command.callback is not None
        assert re.search(r"Examples?:\n\n +iroot ", command.callback.__doc__ or ""), command.name


def test_no_help_text_loses_words_in_brackets_to_markup() -> None:
    pending = [typer.main.get_command(cli.app)]
    seen = 0
    while pending:
        command = pending.pop()
        pending += getattr(command, "commands", {}).values()
        for parameter in command.params:
            help_text = getattr(parameter, "help", None) or ""
            assert Text.from_markup(help_text).plain == help_text.replace("\\[", "["), (command.name, parameter.name)
            seen += 1
    assert seen > 100


def _commands(app: typer.Typer) -> Iterator[CommandInfo]:
    yield from app.registered_commands
    for group in app.registered_groups:
        assert group.typer_instance is not None
        yield from _commands(group.typer_instance)


def test_dry_run_lists_cases_controls_and_time(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    store = tmp_path / "none" / "x.duckdb"
    assert main(["bench", "run", *SWEEP, "--device", "cpu", "--dry-run", "--store", str(store)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[-1].strip() for line in lines[:1]] == [CASE_ID]
    assert [line for line in lines if line.endswith("(control)")] == lines[1:3]
    assert lines[3].endswith("on cpu: polar 1, controls 2")
    assert lines[4].startswith("about ")
    assert not store.parent.exists()


def test_dry_run_says_what_was_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [word if word != "polar_express" else "polar_express,svd" for word in SWEEP]
    arguments[arguments.index("fp32")] = "fp32,bf16_emulated"
    assert main(["bench", "run", *arguments, "--device", "cpu", "--dry-run"]) == 0
    assert "left out: polar/svd does not serve bf16_emulated (1)" in capsys.readouterr().out.splitlines()


def test_dry_run_says_what_this_machine_cannot_serve(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [word if word != "fp32" else "bf16" for word in SWEEP]
    assert main(["bench", "run", *arguments, "--device", "cpu", "--dry-run"]) == 0
    line = capsys.readouterr().out.splitlines()[0]
    assert line.split()[0] == "–"
    assert line.endswith("(unsupported: no bfloat16 matrix unit on a CPU; 'bf16_emulated' runs here)")


def test_dry_run_for_programs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "run", *SWEEP, "--device", "cpu", "--launches", "2", "--dry-run", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert (plan["device"], plan["launches"]) == ("cpu", 2)
    assert [case["case_id"] for case in plan["cases"] if not case["control"]] == [CASE_ID]
    total = plan["estimated_quality_s"] + 2 * plan["estimated_launch_s"]
    assert plan["estimated_total_s"] == pytest.approx(total, abs=2e-3)


def test_a_gpu_plan_can_be_shown_without_a_gpu(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "run", *SWEEP, "--device", "cuda", "--dry-run", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["device"] == "cuda:0"
    assert plan["cases"][0]["case"]["mode"] == "graph"
    for device, is_said in (("cuda", True), ("cpu", False)):
        assert main(["bench", "run", *SWEEP, "--device", device, "--dry-run"]) == 0
        last = capsys.readouterr().out.splitlines()[-1]
        assert last.startswith("about ")
        assert ("where kernels are not compiled yet" in last) is is_said


def test_save_manifest(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    arguments = ["bench", "run", *SWEEP, "--seeds", "3", "--target-error", "0.3", "--launches", "2", "--dry-run"]
    assert main([*arguments, "--save-manifest", str(path)]) == 0
    manifest = load_manifest(str(path))
    assert manifest.launches == 2
    assert (manifest.sweep[0].seeds, manifest.sweep[0].target_error) == (3, 0.3)
    assert main([*arguments, "--save-manifest", str(path)]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == f"error: --save-manifest: {path} exists; name a new file"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["quik"], "no manifest 'quik'; did you mean 'quick'?"),
        (["smoke", "--filter", "taks=polar"], "--filter: unknown key 'taks' in 'taks=polar'; did you mean 'task'?"),
        (["smoke", "--filter", "n>=99999"], "--filter 'n>=99999' keeps none of the "),
        (
            ["smoke", "--filter", "p=7"],
            "--filter 'p=7' keeps none of the 12 cases of smoke on cpu: no case has p '7'; they have: 2, 4",
        ),
        (
            ["smoke", "--filter", "task=gemm|polr"],
            "--filter 'task=gemm|polr', smoke on cpu: no case has task 'polr'; did you mean ",
        ),
        (["smoke", "--device", "gpu"], "--device: must be cpu, cuda or cuda:INDEX, got 'gpu'"),
        (["smoke", "--device", "cuda:99"], "--device: 'cuda:99' was asked for, this machine has "),
        (["smoke", "--resume", "latest"], "--resume goes on with that run's own plan; remove MANIFEST"),
        (["--resume", "latest", *SWEEP], "--resume goes on with that run's own plan; remove sweep flags"),
        (
            ["smoke", *SWEEP],
            "give a manifest or sweep flags, got both: 'smoke' and --task; --filter narrows a manifest",
        ),
        (["--task", "poler"], "--task: unknown 'poler'; did you mean 'polar'?"),
        (["--seeds", "3"], "--task: is required"),
        ([*SWEEP, "--p", "2"], "--p: task 'polar' takes no root, got 2; remove p"),
        ([*SWEEP, "--n", "0"], "--n: must be >= 1, got 0"),
        ([*SWEEP, "--n", "big"], "--n: must be an integer, got 'big'"),
        ([*SWEEP, "--shape", "16"], "--shape: must be MxN, got '16'; e.g. --shape 2048x8192"),
        ([*SWEEP, "--option", "steps"], "--option: must be NAME=VALUE, got 'steps'; e.g. --option steps=4"),
        ([*SWEEP, "--option", "stepps=4"], "--option: unknown option of polar/polar_express 'stepps'; "),
        ([*SWEEP, "--mode", "graph", "--device", "cpu"], "the sweep has no case on a CPU: CUDA graphs need a GPU (1)"),
        (["smoke", "--import", "no_such_module"], "--import: cannot import 'no_such_module'"),
    ],
)
def test_wrong_use_is_exit_2_and_writes_nothing(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    store, saved = tmp_path / "store" / "x.duckdb", tmp_path / "saved.toml"
    code = main(["bench", "run", *arguments, "--store", str(store)])
    captured = capsys.readouterr()
    assert captured.err.startswith(f"error: {message}")
    assert captured.out == ""
    assert code == 2
    assert not store.parent.exists()
    assert not saved.exists()


def test_an_unknown_flag_is_exit_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "run", "--bogus"]) == 2
    assert "No such option: --bogus" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UsageError("x"), 2),
        (BaselineError("x"), 1),
        (UnlikeMachinesError("x"), 3),
        (MeasurementError("x"), 4),
        (HarnessError("x"), 4),
        (InvalidInputError("x"), 2),
    ],
)
def test_errors_become_exit_codes_in_one_place(
    error: Exception, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def command(**_: object) -> NoReturn:
        raise error

    monkeypatch.setattr(cli, "app", command)
    assert main([]) == code
    assert capsys.readouterr().err == "error: x\n"


def test_other_errors_are_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def command(**_: object) -> NoReturn:
        raise ZeroDivisionError

    monkeypatch.setattr(cli, "app", command)
    with pytest.raises(ZeroDivisionError):
        main([])


def test_flags_become_a_table() -> None:
    flags = {"task": "polar, gemm", "n": "64,128", "shape": "16x32,32x16", "p": None, "mode": "eager"}
    assert sweep_table(flags, None) == {
        "task": ["polar", "gemm"],
        "n": [64, 128],
        "shape": [[16, 32], [32, 16]],
        "mode": ["eager"],
    }
    assert sweep_table({}, None) == {}


def test_options_are_a_product() -> None:
    tables = sweep_table({}, ["steps=4,5", "scaling=frobenius", "safe=true", "cushion=0.5"])["options"]
    rest = {"scaling": "frobenius", "safe": True, "cushion": 0.5}
    assert tables == [{"steps": 4, **rest}, {"steps": 5, **rest}]


@pytest.mark.parametrize(("device", "name"), [("cpu", "cpu"), ("cuda", "cuda:0"), ("cuda:3", "cuda:3")])
def test_device_names(device: str, name: str) -> None:
    assert device_name(device) == name


def test_a_device_that_is_not_there_is_refused() -> None:
    require_device("cpu")
    with pytest.raises(UsageError, match=r"'cuda:99' was asked for, this machine has .*; use --device cpu"):
        require_device("cuda:99")


def _result(outcome: Outcome, error: str | None = None) -> CaseResult:
    return CaseResult(case_id="a/b", launch=1, process_id=1, outcome=outcome, error=error)


def test_without_a_terminal_a_launch_is_a_line() -> None:
    console = Console(file=io.StringIO(), record=True, width=80)
    with observed(console) as observer:
        assert isinstance(observer, LineObserver)
        observer.launch_started(0, 2, 1)
        observer.case_started(0, "a/b")
        observer.case_finished(0, _result(Outcome.OK))
        observer.launch_finished(0)
        observer.launch_started(1, 2, 1)
        observer.case_finished(1, _result(Outcome.OOM, "Traceback\nOutOfMemoryError: 3 GiB"))
        observer.launch_finished(1)
        observer.launch_started(2, 2, 0)
        observer.launch_finished(2)
        for arm in ("HEAD~1", "c5fc80dae86bd5a7d6718fb9dab9c6154bc18fa0"):
            observer.launch_started(1, 2, 0, arm=arm)
            observer.launch_finished(1)
    lines = console.export_text().splitlines()
    assert lines[4] == "launch 1/2 of HEAD~1: measured before"  # of two arms, each line names its own
    assert lines[5] == "launch 1/2 of c5fc80dae: measured before"
    assert lines[3] == "launch 2/2: measured before"  # what a resumed run finds done
    assert lines[0].startswith("quality pass: 1 case in ")
    assert lines[1].startswith("launch 1/2: 1 case in ")
    assert lines[2] == "  oom: a/b: OutOfMemoryError: 3 GiB"


def test_on_a_terminal_there_is_a_bar_with_the_case_and_the_launch() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=200)
    with observed(console) as observer:
        observer.launch_started(1, 2, 3)
        observer.case_started(1, "polar/svd")
        assert isinstance(observer, BarObserver)
        (task,) = observer.tasks
        assert (task.total, task.completed) == (6, 0)
        assert task.fields == {"launch": "launch 1/2", "case": "polar/svd"}
        observer.case_finished(1, _result(Outcome.FAILED, "ValueError: no"))
        assert task.completed == 1
    assert isinstance(console.file, io.StringIO)
    assert "failed: a/b: ValueError: no" in console.file.getvalue()
