"""Qualifications that are interrupted: what is kept of them, and how they go on.

All but one of the tests plant the times of whole runs: what is stored and when is the same, in a fraction of the time.
"""

from __future__ import annotations

import json
import re
import shutil
import signal
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest

from harness import cli, environment, paired
from harness.arms import Arm
from harness.cli.qualify import parsed_levels
from harness.compare import compare
from harness.errors import MeasurementError, UsageError
from harness.launcher import Observer
from harness.manifest import parse_manifest
from harness.paired import PairedRequest, PairedRuns
from harness.paths import project_root
from harness.qualification import NotMeasured, Qualification, case_noise, count
from harness.qualify import QualifyRequest, qualify, resumed
from harness.records import LaunchRecord, RunRecord, RunStatus, SourceIdentity, Verdict
from harness.report.format import DASH
from harness.report.qualification import qualification_markdown
from harness.run_lock import measuring
from harness.store import Store
from harness.sweep import plan
from harness.tests.conftest import register_planted
from harness.tests.factories import make_launch
from harness.tests.in_process import PLANTED
from harness.tests.test_gate_cli import BASE_S, CASE_ID, MANIFEST
from harness.tests.test_qualification import found
from harness.tests.test_runner import Recorder

LEVELS = (0.1, 1.0)
"""The manifest's threshold is 40 %: the first is within it, the second beyond."""
PLANTED_LABEL = "A/A, 300% planted"
Action = Callable[[], None]


class Simulated:
    """Takes the place of `run_paired`: stores whole runs of planted times, 2 ms with 1 % noise and the slowdown.

    The noise differs from measurement to measurement, and is the same whenever the n-th in a store is made.

    Args:
        instead: number of a measurement, from 1 -> what to do in its place.
        disturbed: numbers of measurements during which another process is on the machine.
    """

    def __init__(self, instead: Mapping[int, Action] | None = None, disturbed: tuple[int, ...] = ()) -> None:
        self.labels: list[str | None] = []
        self._instead = instead or {}
        self._disturbed = disturbed

    def __call__(self, request: PairedRequest, *, observer: Observer) -> PairedRuns:
        self.labels.append(request.b.label)
        number, store = len(self.labels), Store(request.base.store)
        self._instead.get(number, lambda: None)()
        position = len(store.runs()) // 2 if store.path.exists() else 0
        ids = {side: f"20261122-{position:02d}{number:02d}00-tiny-{side}-0000" for side in "ab"}
        stored = {}
        for side, other, arm, cases in (("a", "b", request.a, request.cases_a), ("b", "a", request.b, request.cases_b)):
            made = paired._record(request, arm, cases, ids[side], ids[other], datetime.now(UTC))
            run = stored[side] = made.model_copy(update={"status": RunStatus.COMPLETE})
            noise = np.random.default_rng([position, ord(side)]).normal(0.0, 0.01, run.launches)
            times = BASE_S * (1 + (arm.injection or 0.0)) * np.exp(noise)
            store.import_run(run, [self._launch(run, i, time_s, arm) for i, time_s in enumerate(times.tolist(), 1)])
        return PairedRuns(a=stored["a"], b=stored["b"])

    def _launch(self, run: RunRecord, launch: int, time_s: float, arm: Arm) -> LaunchRecord:
        made = make_launch(run, launch, medians_s={planned.case.case_id: time_s for planned in run.cases})
        others = int(len(self.labels) in self._disturbed)
        (process,) = made.processes
        state = process.state.model_copy(update={"other_processes": others})
        return replace(
            made,
            processes=(process.model_copy(update={"state": state}),),
            results=tuple(each.model_copy(update={"injected_effect": arm.injection}) for each in made.results),
        )


def interrupt() -> NoReturn:
    raise KeyboardInterrupt


def fail() -> NoReturn:
    raise MeasurementError("no worker starts")


def terminate() -> None:
    signal.raise_signal(signal.SIGTERM)


def asked(folder: Path, *, text: str = MANIFEST, **changes: object) -> QualifyRequest:
    manifest = parse_manifest(text, origin="tiny.toml")
    given: dict[str, object] = {"cases": plan(manifest, device_kind="cpu"), "pairs": 3, "repeats": 1, "levels": (1.0,)}
    return QualifyRequest(
        manifest=manifest,
        device="cpu",
        store=folder / "s.duckdb",
        **(given | changes),  # type: ignore[arg-type]
    )


def kept(folder: Path) -> Qualification:
    found = Store(folder / "s.duckdb").qualification(environment.machine_identity("cpu"), "tiny")
    assert found is not None
    return found


@pytest.fixture(scope="module")
def sources() -> SourceIdentity:
    return environment.source_identity(project_root())


@pytest.fixture(autouse=True)
def unedited(sources: SourceIdentity, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sources stay as they are while the tests run: nothing is resumed otherwise."""
    monkeypatch.setattr(environment, "source_identity", lambda root: sources)


@pytest.fixture
def simulate(planted: None, monkeypatch: pytest.MonkeyPatch) -> Callable[[Simulated], Simulated]:
    """Lets a simulation measure from here on."""

    def begin(simulated: Simulated) -> Simulated:
        monkeypatch.setattr("harness.qualify.run_paired", simulated)
        return simulated

    return begin


Simulate = Callable[[Simulated], Simulated]


def test_what_was_measured_before_ctrl_c_is_kept_and_gone_on_with(tmp_path: Path, simulate: Simulate) -> None:
    """The A/A and one of two slowdowns, then the end; afterwards as if nothing had happened."""
    for folder in (tmp_path / "broken", tmp_path / "whole"):
        folder.mkdir()
    request = asked(tmp_path / "broken", levels=LEVELS)
    simulate(Simulated({3: interrupt}))
    with pytest.raises(KeyboardInterrupt):
        qualify(request, observer=Recorder())
    begun = kept(tmp_path / "broken")
    assert (begun.trials, begun.called, begun.unchanged) == (1, 0, 1)
    assert [(point.planted, point.effect, point.called, point.cases) for point in begun.power] == [(0.1, 0.1, 0, 1)]
    assert {noise.pairs for noise in begun.cases} == {3}
    assert (len(begun.runs), begun.not_measured) == (4, NotMeasured(levels=(1.0,)))
    assert (begun.finished, begun.repeats, begun.levels) == (False, 1, LEVELS)

    rest = simulate(Simulated())
    found = qualify(resumed(request), observer=Recorder())
    assert rest.labels == ["A/A, 100% planted"]
    assert Store(request.store).qualifications(found.machine, "tiny") == [found]
    assert (found.qualification_id, found.created_at) == (begun.qualification_id, begun.created_at)
    assert [(point.planted, point.called) for point in found.power] == [(0.1, 0), (1.0, 1)]
    assert (found.runs[:4], found.finished) == (begun.runs, True)
    simulate(Simulated())
    whole = qualify(asked(tmp_path / "whole", levels=LEVELS), observer=Recorder())
    own = {"qualification_id", "created_at", "runs"}
    assert found.model_dump(exclude=own) == whole.model_dump(exclude=own)


def test_a_a_measurements_can_be_lacking_too(tmp_path: Path, simulate: Simulate) -> None:
    simulate(Simulated({2: interrupt}))
    with pytest.raises(KeyboardInterrupt):
        qualify(asked(tmp_path, repeats=2, levels=LEVELS), observer=Recorder())
    begun = kept(tmp_path)
    assert (begun.trials, begun.power) == (1, ())
    assert begun.not_measured == NotMeasured(repeats=1, levels=LEVELS)
    assert begun.headline.endswith(
        ", 1 unchanged; unfinished, not measured: 1 of 2 A/A measurements and planted slowdowns of 10 %, 100 %"
    )
    row = f"| 10 % | {DASH} | not measured | {DASH} |"
    assert row in qualification_markdown(begun).splitlines()
    again = resumed(asked(tmp_path, repeats=7, levels=(0.5,)))
    assert (again.resume, again.repeats, again.levels) == (begun, 2, LEVELS)


def test_before_the_first_is_complete_there_is_nothing_to_keep(tmp_path: Path, simulate: Simulate) -> None:
    simulate(Simulated({1: interrupt}))
    with pytest.raises(KeyboardInterrupt):
        qualify(asked(tmp_path), observer=Recorder())
    assert not (tmp_path / "s.duckdb").exists()


def test_a_measurement_that_was_disturbed_is_not_kept_but_made_again(tmp_path: Path, simulate: Simulate) -> None:
    """The error comes after its runs are stored as complete."""
    simulate(Simulated(disturbed=(2,)))
    with pytest.raises(MeasurementError, match="found other processes in launch 1, 2, 3"):
        qualify(asked(tmp_path), observer=Recorder())
    begun = kept(tmp_path)
    assert (begun.trials, begun.not_measured) == (1, NotMeasured(levels=(1.0,)))
    simulate(Simulated())
    found = qualify(resumed(asked(tmp_path)), observer=Recorder())
    runs = Store(tmp_path / "s.duckdb").runs()
    assert (len(runs), len(found.runs), found.finished) == (6, 4, True)
    assert {run.run_id for run in runs} > set(found.runs)


@pytest.fixture(scope="module")
def once_begun(tmp_path_factory: pytest.TempPathFactory, sources: SourceIdentity) -> Path:
    """The folder of a store with the A/A measurement of three pairs, and nothing of the slowdown."""
    folder = tmp_path_factory.mktemp("begun")
    with pytest.MonkeyPatch.context() as patch:
        register_planted(patch)
        patch.setattr(environment, "source_identity", lambda root: sources)
        patch.setattr("harness.qualify.run_paired", Simulated({2: interrupt}))
        with pytest.raises(KeyboardInterrupt):
            qualify(asked(folder), observer=Recorder())
    return folder


@pytest.fixture
def begun(once_begun: Path, tmp_path: Path, simulate: Simulate) -> Qualification:
    """What `once_begun` keeps, copied to the test's folder; the rest can be measured."""
    shutil.copytree(once_begun, tmp_path, dirs_exist_ok=True)
    simulate(Simulated())
    return kept(tmp_path)


class TestResumed:
    def test_only_what_was_begun_alike(
        self, tmp_path: Path, begun: Qualification, sources: SourceIdentity, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert resumed(asked(tmp_path)).resume == begun
        changes: dict[str, QualifyRequest] = {
            "pairs: 3 != 4": asked(tmp_path, pairs=4),
            "filter: none != task=copy": asked(tmp_path, filter="task=copy"),
            "the manifest tiny has changed": asked(tmp_path, text=MANIFEST.replace("n = 8", "n = 16")),
            "the manifest now means other cases": asked(tmp_path, cases=asked(tmp_path).cases * 2),
        }
        for reason, request in changes.items():
            with pytest.raises(UsageError, match=f"^--resume: {begun.qualification_id} is unfinished.*: {reason}; "):
                resumed(request)
        with pytest.raises(UsageError, match=r"holds no unfinished qualification of this machine for other; start one"):
            resumed(asked(tmp_path, text=MANIFEST.replace("tiny", "other")))
        edited = sources.model_copy(update={"source_hash": "0"})
        monkeypatch.setattr(environment, "source_identity", lambda root: edited)
        with pytest.raises(UsageError, match="the sources have changed, they were those of"):
            resumed(asked(tmp_path))

    def test_the_newest_that_fits_and_no_finished_one(self, tmp_path: Path, begun: Qualification) -> None:
        store = Store(tmp_path / "s.duckdb")
        newer = begun.model_copy(update={"qualification_id": "q-newer"})
        store.save_qualification(newer)
        store.save_qualification(begun.model_copy(update={"qualification_id": "q-pairs", "pairs": 9}))
        assert resumed(asked(tmp_path)).resume == newer
        finished = newer.model_copy(update={"not_measured": NotMeasured()})
        store.save_qualification(finished)
        assert kept(tmp_path) == finished
        assert resumed(asked(tmp_path)).resume == begun

    def test_not_while_another_process_measures_it(self, tmp_path: Path, begun: Qualification) -> None:
        request = resumed(asked(tmp_path))
        with (
            measuring(request.store, begun.runs[0]),
            pytest.raises(UsageError, match="measured by another process; wait"),
        ):
            qualify(request, observer=Recorder())


def test_finished_ones_can_be_read_by_versions_that_knew_no_others() -> None:
    finished = found()
    assert finished.finished
    assert "not_measured" not in finished.model_dump()
    assert Qualification.model_validate(finished.model_dump()) == finished


class Interrupter(Recorder):
    """Presses Ctrl-C when the second launch with this label begins."""

    def __init__(self, label: str) -> None:
        super().__init__()
        self._label = label
        self._launches = 0

    def launch_started(self, launch: int, total_launches: int, cases: int, *, arm: str | None = None) -> None:
        super().launch_started(launch, total_launches, cases, arm=arm)
        self._launches += arm == self._label
        if self._launches == 2:
            raise KeyboardInterrupt


@pytest.mark.usefixtures("one_process")
def test_identical_code_and_a_planted_slowdown_measured_in_two_parts(tmp_path: Path) -> None:
    """Four times the time is planted: far beyond what a busy machine does to a sleep of 2 ms."""
    cases = tuple(each for each in asked(tmp_path).cases if not each.control)
    request, first, rest = (
        asked(tmp_path, cases=cases, levels=(3.0,)),
        Interrupter(PLANTED_LABEL),
        Recorder(),
    )
    with pytest.raises(KeyboardInterrupt):
        qualify(request, observer=first)
    begun, store = kept(tmp_path), Store(request.store)
    assert (begun.trials, begun.not_measured) == (1, NotMeasured(levels=(3.0,)))
    assert [launch for launch, _, _ in first.launches] == [0, 0, 1, 1, 2, 2, 3, 3, 1, 1]

    found = qualify(resumed(request), observer=rest)
    assert [launch for launch, _, _ in rest.launches] == [1, 1, 2, 2, 3, 3]
    assert store.qualification(environment.machine_identity("cpu"), "tiny") == found
    assert (found.qualification_id, found.finished, found.runs[:2]) == (begun.qualification_id, True, begun.runs)
    assert {store.run(run_id).status for run_id in found.runs} == {RunStatus.COMPLETE}
    assert [run.arm for run in store.runs()].count(PLANTED_LABEL) == 4
    (point,) = found.power
    assert (found.trials, found.called, point.planted, point.cases, point.called) == (1, 0, 3.0, 1, 1)
    assert 1.0 < point.effect < 9.0
    assert [(noise.case_id, noise.gates, noise.pairs) for noise in found.cases] == [(CASE_ID, True, 3)]

    pairs = [(store.summary(b), store.summary(a)) for a, b in zip(found.runs[::2], found.runs[1::2], strict=True)]
    null, slowed = (compare(b, a, kind="paired") for b, a in pairs)
    assert found.cases == case_noise(pairs[:1])
    assert found.unchanged == count([null], Verdict.UNCHANGED)
    assert point.called == count([slowed], Verdict.REGRESSED)


class TestCommand:
    @pytest.fixture
    def arguments(self, tmp_path: Path) -> list[str]:
        (tmp_path / "tiny.toml").write_text(MANIFEST)
        where = ["--device", "cpu", "--import", PLANTED, "--store", str(tmp_path / "s.duckdb")]
        return ["bench", "qualify", str(tmp_path / "tiny.toml"), *where]

    @pytest.mark.parametrize(("action", "word", "code"), [(terminate, "interrupted", 130), (fail, "failed", 4)])
    def test_an_end_before_its_time(
        self,
        arguments: list[str],
        tmp_path: Path,
        simulate: Simulate,
        capsys: pytest.CaptureFixture[str],
        action: Action,
        word: str,
        code: int,
    ) -> None:
        simulate(Simulated({2: action}))
        before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
        try:
            assert cli.main([*arguments, "--repeats", "1", "--levels", "10%,1", "--json"]) == code
            assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
        finally:
            signal.signal(signal.SIGTERM, before)
        captured, begun = capsys.readouterr(), kept(tmp_path)
        said = f"{word}; {begun.qualification_id} keeps the complete measurements (1), and verdicts use it. "
        rest = "Not measured: planted slowdowns of 10 %, 100 %. Go on with the same command and --resume"
        assert said + rest in captured.err
        assert ("error: no worker starts" in captured.err) == (code == 4)
        assert json.loads(captured.out)["not_measured"] == {"repeats": 0, "levels": [0.1, 1.0]}
        report = tmp_path / "runs" / begun.runs[0] / "qualification.md"
        assert report.read_text() == qualification_markdown(begun)

    def test_resume(
        self, arguments: list[str], tmp_path: Path, begun: Qualification, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Repeats and levels are those it was begun with: they may be given again, but not changed."""
        arguments = [*arguments, "--resume"]
        assert cli.main([*arguments, "--repeats", "2"]) == 2
        assert f"{begun.qualification_id} was begun with 1 repeats and levels of 100 %" in capsys.readouterr().err
        assert cli.main([*arguments, "--levels", "100%"]) == 0
        finished = kept(tmp_path)
        assert (finished.qualification_id, finished.finished) == (begun.qualification_id, True)
        assert finished.headline in capsys.readouterr().out
        report = tmp_path / "runs" / begun.runs[0] / "qualification.md"
        assert report.read_text() == qualification_markdown(finished)
        assert cli.main(arguments) == 2
        assert "holds no unfinished qualification" in capsys.readouterr().err

    def test_nothing_is_said_to_be_kept_where_nothing_is(
        self, arguments: list[str], simulate: Simulate, capsys: pytest.CaptureFixture[str]
    ) -> None:
        simulate(Simulated({1: interrupt}))
        assert cli.main(arguments) == 130
        assert capsys.readouterr().err == "interrupted before a measurement was complete\n"

    def test_levels(self) -> None:
        assert parsed_levels("0.01,0.03, 0.05") == parsed_levels("1%,3%,5%") == (0.01, 0.03, 0.05)
        assert parsed_levels("2.5 %,100%") == (0.025, 1.0)
        assert parsed_levels(None) == ()

    @pytest.mark.parametrize("text", ["0", "1.01", "101%", "-1%", "nan", "x", "", "1%,", "1%,0.01"])
    def test_levels_that_are_none(self, text: str, capsys: pytest.CaptureFixture[str]) -> None:
        assert cli.main(["bench", "qualify", "smoke", "--device", "cpu", "--levels", text]) == 2
        wrong = text.split(",")[-1] if text != "1%,0.01" else text
        assert re.search(f"--levels: .*got '{re.escape(wrong)}'", capsys.readouterr().err)
