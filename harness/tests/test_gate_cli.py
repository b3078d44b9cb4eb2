"""`iroot bench gate` on a CPU: a planted slowdown through both parts, screens, refusals and exit codes."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from datetime import date
from pathlib import Path
from xml.etree import ElementTree

import pytest

from harness import environment
from harness.arms import resolve_arm
from harness.cli import main
from harness.errors import MeasurementError, UnlikeMachinesError, UsageError
from harness.gate_findings import Ruling
from harness.gate_run import GateRequest, run_gate, run_screen, stated_errors
from harness.manifest import Manifest, parse_manifest
from harness.paths import project_root
from harness.records import MachineState, Mode, RunStatus, RunSummary
from harness.sweep import plan
from harness.tests.factories import H100, make_case, make_planned, make_run, make_summary
from harness.tests.in_process import PLANTED
from harness.tests.test_runner import Recorder

BASE_S = 2e-3
"""What the planted method takes."""
MANIFEST = """
name = "tiny"
launches = 3
seeds = 1
[timing]
samples = 5
min_sample_s = 1e-4
warmup_s = 0.0
input_sets = 1
[gate]
threshold = 0.4
pairs = 3
fresh_pairs = 3
required = "method=planted"
[[sweep]]
task = "copy"
method = "planted"
precision = "fp32"
n = 8
problem = "gaussian"
"""
CASE_ID = "copy/planted/fp32/8x8/gaussian/eager"


def library(folder: Path, fault: str) -> Path:
    """A copy of the library in which something is planted."""
    ignored = shutil.ignore_patterns("__pycache__", "tests")
    shutil.copytree(project_root() / "iroot", folder / "iroot", ignore=ignored)
    (folder / "iroot" / "PLANTED").write_text(fault)
    return folder


def request(tmp_path: Path, *, base: str | None = "WORKTREE", candidate: str = "WORKTREE") -> GateRequest:
    arms = {
        name: resolve_arm(name, repository=project_root(), exports=tmp_path / "exports")
        for name in (base, candidate)
        if name is not None
    }
    return GateRequest(
        manifest=parse_manifest(MANIFEST, origin="tiny.toml"),
        base=arms[base] if base else None,
        candidate=arms[candidate],
        device="cpu",
        store=tmp_path / "store.duckdb",
        today=date(2026, 11, 22),
        imports=(PLANTED,),
    )


@pytest.mark.usefixtures("one_process")
def test_a_planted_slowdown_goes_through_both_parts_and_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Twice the time in the candidate: routed by 3 pairs, called by 3 fresh ones; every output says so."""
    slow = library(tmp_path / "slow", "2.0")
    paths = {name: tmp_path / name for name in ("tiny.toml", "gate.xml", "comment.md", "summary.md", "s.duckdb")}
    paths["tiny.toml"].write_text(MANIFEST)
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(paths["summary.md"]))
    arguments = ["WORKTREE", str(slow), str(paths["tiny.toml"]), "--device", "cpu", "--import", PLANTED, "--json"]
    outputs = ["--junit", str(paths["gate.xml"]), "--markdown", str(paths["comment.md"])]
    code = main(["bench", "gate", *arguments, *outputs, "--store", str(paths["s.duckdb"])])
    captured = capsys.readouterr()
    found = json.loads(captured.out)
    assert (code, found["exit_code"], found["kind"]) == (1, 1, "paired")
    (case,) = (each for each in found["cases"] if each["row"]["case_id"] == CASE_ID)
    assert (case["ruling"], case["measured_again"], case["row"]["verdict"]) == ("failed", True, "regressed")
    assert case["row"]["ratio"] == pytest.approx(2.0, rel=0.25)
    assert len(found["runs"]) == 4
    assert f"::error title=gate tiny::{CASE_ID}: failed: regressed" in captured.err
    assert paths["comment.md"].read_text() == paths["summary.md"].read_text()
    root = ElementTree.parse(paths["gate.xml"]).getroot()
    assert (root.get("failures"), root.get("errors")) == ("1", "0")


@pytest.fixture
def baseline(planted: None, monkeypatch: pytest.MonkeyPatch) -> RunSummary:
    """An official baseline in which the planted method takes 5 % more than its 2 ms; its controls are new."""
    return official(monkeypatch, BASE_S * 1.05)


@pytest.fixture
def old_baseline(planted: None, monkeypatch: pytest.MonkeyPatch) -> RunSummary:
    """Likewise, but the method took a quarter of its time."""
    return official(monkeypatch, BASE_S / 4)


def official(monkeypatch: pytest.MonkeyPatch, time_s: float) -> RunSummary:
    manifest: Manifest = parse_manifest(MANIFEST, origin="tiny.toml")
    cases = [each for each in plan(manifest, device_kind="cpu") if not each.control]
    run = make_run(cases, machine=environment.machine_identity("cpu"), launches=6, status=RunStatus.COMPLETE)
    medians = {each.case.case_id: time_s for each in cases}
    summary = make_summary(run.model_copy(update={"manifest": "tiny"}), medians_s=medians, sigma=0.002)
    exact = {
        key: case.model_copy(update={"quality": tuple(q.model_copy(update={"relative_error": 0.0, "residual": None,
                                                                           "symmetry": None}) for q in case.quality)})
        for key, case in summary.cases.items()
    }  # fmt: skip
    found = summary.model_copy(update={"cases": exact})
    monkeypatch.setattr("harness.reference._official_baseline", lambda *of: found)
    return found


@pytest.mark.usefixtures("one_process")
class TestScreen:
    def test_it_passes_by_a_plain_run(self, tmp_path: Path, baseline: RunSummary) -> None:
        recorder = Recorder()
        result = run_screen(request(tmp_path, base=None), observer=recorder)
        assert [launch for launch, _, _ in recorder.launches] == [0, 1, 2, 3]
        rulings = {case.row.case_id: case.ruling for case in result.cases}
        assert rulings[CASE_ID] is Ruling.PASSED
        assert (result.kind, result.exit_code) == ("screen", 0)
        assert result.base == f"the official baseline {baseline.run.run_id}"

    def test_what_it_leaves_open_is_decided_in_pairs(self, tmp_path: Path, old_baseline: RunSummary) -> None:
        """The baseline says 0.5 ms, from a better day: the screen alone fails, pairs with the base pass."""
        recorder = Recorder()
        result = run_screen(request(tmp_path), observer=recorder)
        assert [launch for launch, _, _ in recorder.launches] == [0, 1, 2, 3, 1, 1, 2, 2, 3, 3]
        (case,) = (case for case in result.cases if case.row.case_id == CASE_ID)
        assert (case.ruling, case.measured_again) == (Ruling.PASSED, True)
        assert case.row.ratio == pytest.approx(1.0, rel=0.3)
        alone = run_screen(request(tmp_path, base=None), observer=recorder)
        assert alone.exit_code == 1

    @pytest.mark.usefixtures("baseline")
    def test_a_change_of_a_control_kernel_cannot_excuse_slower_cases(self, tmp_path: Path) -> None:
        slowed = library(tmp_path / "slowed", "")
        control = slowed / "iroot" / "methods" / "device_copy.py"
        control.write_text(control.read_text().replace(".clone()", ".clone().clone()"))
        recorder = Recorder()
        with pytest.raises(
            UsageError, match=r"changes the control kernel device_copy \(device_copy.py\), .* without --s"
        ):
            run_screen(request(tmp_path, base=None, candidate=str(slowed)), observer=recorder)
        assert recorder.launches == []


@pytest.mark.usefixtures("planted")
class TestRefusals:
    def test_wrong_use_is_exit_2(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        store = ["--store", str(tmp_path / "s.duckdb"), "--device", "cpu"]
        for arguments, message in (
            ([], "BASE is required: a git revision, a folder or WORKTREE; or use --screen"),
            (["baseline"], "BASE: 'baseline' is compared with by --screen only"),
            (["no-such-revision"], "no-such-revision: neither a folder nor a git revision"),
            (["WORKTREE", "WORKTREE", "smok"], "no manifest 'smok'; did you mean 'smoke'?"),
            (["WORKTREE", "--waivers", str(tmp_path / "none.toml")], f"{tmp_path / 'none.toml'}: cannot read the waiv"),
            (["WORKTREE", "--junit", str(tmp_path / "none" / "x.xml")], f"{tmp_path / 'none' / 'x.xml'}: there is no"),
        ):
            assert main(["bench", "gate", *arguments, *store]) == 2
            assert capsys.readouterr().err.startswith(f"error: {message}")

    def test_a_candidate_that_cannot_be_planned_is_exit_4(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        broken = tmp_path / "broken" / "iroot"
        broken.mkdir(parents=True)
        (broken / "__init__.py").write_text("raise ImportError('planted')\n")
        arguments = ["WORKTREE", str(broken.parent), "smoke", "--device", "cpu", "--store", str(tmp_path / "s.duckdb")]
        assert main(["bench", "gate", *arguments]) == 4
        assert "its library cannot be planned" in capsys.readouterr().err

    def test_another_process_on_the_gpu_is_an_error(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(environment, "machine_state", lambda device: MachineState(other_processes=2))
        with pytest.raises(MeasurementError, match=r"needs the GPU to itself, found 2 other process\(es\) on cuda:0"):
            run_gate(replace(request(tmp_path), device="cuda:0"), observer=Recorder())

    def test_no_baseline_is_wrong_use_before_anything_is_measured(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        recorder = Recorder()
        monkeypatch.setattr("harness.reference._official_baseline", lambda *of: None)
        with pytest.raises(UsageError, match="there is no official baseline of manifest 'tiny' for cpu"):
            run_screen(request(tmp_path, base=None), observer=recorder)
        assert recorder.launches == []

    def test_an_unlike_baseline_is_undecided(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        screen = request(tmp_path, base=None)
        stored = make_run([make_planned(make_case(mode=Mode.EAGER))], machine=H100, status=RunStatus.COMPLETE)
        run = stored.model_copy(update={"machine": environment.machine_identity("cpu"), "launches": 1})
        monkeypatch.setattr("harness.gate_run.plan_arms", lambda *arms, **options: ((), ()))
        monkeypatch.setattr("harness.gate_run.run_sweep", lambda request, observer: run)
        monkeypatch.setattr("harness.gate_run.require_alone", lambda store, run_id: None)
        monkeypatch.setattr("harness.gate_run.Store.qualification", lambda store, machine, manifest: None)
        monkeypatch.setattr("harness.gate_run.Store.summary", lambda store, run_id: make_summary(run))
        monkeypatch.setattr("harness.reference._official_baseline", lambda *of: make_summary(stored))
        with pytest.raises(UnlikeMachinesError, match="must come from like machines"):
            run_screen(screen, observer=Recorder())


def test_stated_errors_come_from_the_registry() -> None:
    manifest = parse_manifest(
        '[[sweep]]\ntask = "inverse_root"\nmethod = "eigh"\nprecision = "fp32"\np = 2\nn = 32\n'
        'problem = "logspace_1e2"\n',
        origin="x.toml",
    )
    cases = plan(manifest, device_kind="cpu")
    (case_id,) = (each.case.case_id for each in cases if not each.control)
    assert 0 < stated_errors(cases)[case_id] < 1e-2
    unknown = make_planned(make_case("only_in_the_candidate"))
    assert stated_errors([unknown]) == {}
