"""`iroot bench bisect` on a CPU: real revisions of a small repository, in which one makes the planted case slow."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.bisect import Answer, Effort
from harness.bisect_result import BisectResult, Ending, Suspect, Symptom, Trial
from harness.bisect_run import BisectRequest, _Compared, _only_case
from harness.cli import main
from harness.cli.bisect import _conclusion
from harness.errors import ExitCode, UsageError
from harness.launcher import LaunchRequest, Observer
from harness.manifest import parse_manifest
from harness.paired import PairedRuns
from harness.quality import Accuracy
from harness.records import CaseVerdict, Outcome, RunStatus
from harness.revisions import Commit
from harness.standby import Standby
from harness.store import Store
from harness.sweep import plan
from harness.tests.factories import make_run
from harness.tests.in_process import PLANTED, InProcessLauncher
from harness.tests.sides import NOISE, Side, judge
from harness.tests.test_arms import git
from harness.tests.test_gate_cli import CASE_ID, MANIFEST, library

UNIMPORTABLE = "raise ImportError('planted')\n"
HISTORY = ("1.0", "1.00", "raise", "1.000", "5.0")
"""What each commit plants: the slowdown of the case, which takes 2 ms, or a failure."""


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout of the project whose commits are named by what they plant, tags v0 .. v4; then one of no library."""
    root = library(tmp_path_factory.mktemp("bisect") / "checkout", HISTORY[0])
    (root / "baselines").mkdir()
    (root / "baselines" / "README.md").write_text("none\n")
    (root / "pyproject.toml").write_text('[project]\nname = "iroot"\n')
    (root / "tiny.toml").write_text(MANIFEST)
    git(root.parent, "init", "-q", "-b", "main", str(root))
    for number, fault in enumerate(HISTORY):
        (root / "iroot" / "PLANTED").write_text(fault)
        _commit(root, f"plants {fault}", tag=f"v{number}")
    (root / "tiny.toml").write_text(MANIFEST + "# as before\n")
    _commit(root, "touches no library", tag="v5")
    return root


def _commit(root: Path, subject: str, *, tag: str) -> None:
    git(root, "add", "-A")
    git(root, "commit", "-q", "-m", subject)
    git(root, "tag", tag)


@pytest.fixture
def checkout(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A clone of the repository with a change of its own in the working tree, which is the working directory."""
    root = tmp_path / "clone"
    git(tmp_path, "clone", "-q", str(repository), str(root))
    (root / "iroot" / "PLANTED").write_text("9.0")
    monkeypatch.chdir(root)
    return root


def call(*arguments: str, store: Path) -> int:
    options = ["--device", "cpu", "--import", PLANTED, "--store", str(store)]
    return main(["bench", "bisect", *arguments, *options])


def state(checkout: Path) -> list[str]:
    """What a bisection must leave alone."""
    questions = ("status --porcelain", "worktree list", "branch -a", "rev-parse HEAD")
    return [git(checkout, *question.split()) for question in questions]


class Interrupted(InProcessLauncher):
    """Ctrl-C at the first timed launch of the third commit's library."""

    def __init__(self, request: LaunchRequest, observer: Observer, workers: Standby) -> None:
        super().__init__(request, observer, workers)
        self._interrupts = (request.arm.library / "iroot" / "PLANTED").read_text() == HISTORY[3] and request.launch == 1

    def run(self) -> None:
        if self._interrupts:
            raise KeyboardInterrupt
        super().run()


@pytest.mark.usefixtures("planned_here")
def test_the_slow_commit_is_found_past_a_broken_one_and_after_an_interruption(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """v4 is slow; v2, in the middle, cannot be measured; Ctrl-C at v3. The second call measures v3 alone."""
    store = tmp_path / "results" / "store.duckdb"
    before = state(checkout)
    search = ("v0", "v5", "tiny.toml", "--threshold", "0.9")
    with monkeypatch.context() as patched:
        patched.setattr("harness.runner.Launcher", Interrupted)
        assert call("method=planted", *search, store=store) == 130
    assert "interrupted; measured revisions are kept" in capsys.readouterr().err
    assert [run.status for run in Store(store).runs()][:2] == [RunStatus.INTERRUPTED] * 2

    assert call(CASE_ID, *search, "--json", store=store) == 0
    found = json.loads(capsys.readouterr().out)
    ids = {git(checkout, "rev-parse", f"v{number}"): number for number in range(6)}
    assert (found["exit_code"], found["outcome"], found["symptom"]) == (0, "found", "slower")
    assert ids[found["first_bad"]["revision"]] == 4
    assert found["first_bad"]["subject"] == "plants 5.0"
    trials = [(ids[each["revision"]], each["answer"], each["remembered"]) for each in found["trials"]]
    assert trials == [(5, "bad", True), (2, "skip", True), (1, "good", True), (3, "good", False)]
    assert found["trials"][0]["row"]["ratio"] == pytest.approx(5.0, rel=0.25)
    assert "planted failure" in found["trials"][1]["reason"]

    assert call(CASE_ID, *search, store=store) == 0
    printed = capsys.readouterr()
    assert f"slower since {git(checkout, 'rev-parse', 'v4')} plants 5.0" in printed.out
    told = [line for line in printed.err.splitlines() if " is " in line]
    assert len(told) >= 4  # more where a busy machine asked for more launches
    assert all(line.endswith("measured before") for line in told)
    assert state(checkout) == before
    assert before[0] == "M iroot/PLANTED"


@pytest.mark.usefixtures("planned_here")
def test_what_is_not_slower_is_exit_1(checkout: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As slow as GOOD is not slower; and neither is 1.5 times, where only twice counts."""
    store = tmp_path / "store.duckdb"
    assert call(CASE_ID, "v0", "v1", "tiny.toml", store=store) == 1
    assert "is not worse than" in capsys.readouterr().out
    (checkout / "iroot" / "PLANTED").write_text("1.5")
    _commit(checkout, "a little slower", tag="later")
    arguments = (CASE_ID, "v1", "later", "tiny.toml", "--threshold", "0.95", "--launches", "4", "--json")
    assert call(*arguments, store=store) == 1
    (trial,) = json.loads(capsys.readouterr().out)["trials"]
    assert (trial["answer"], trial["row"]["tau"]) == ("good", 0.95)
    assert trial["row"]["launches"] in (4, 8, 16)  # more on a busy machine


@pytest.mark.usefixtures("planted")
class TestRefusals:
    @pytest.mark.parametrize(
        ("good", "bad", "message"),
        [
            ("nowhere", "v4", "error: nowhere: not a git revision of "),
            ("v0", "WORKTREE", "error: WORKTREE: not a git revision of "),
            ("v4", "v0", "swap them: BAD is an ancestor of GOOD"),
            ("v4", "v5", "no commit between "),
        ],
    )
    def test_revisions_are_exit_2_before_anything_is_measured(
        self, checkout: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], good: str, bad: str, message: str
    ) -> None:
        assert call(CASE_ID, good, bad, "tiny.toml", store=tmp_path / "none.duckdb") == 2
        assert message in capsys.readouterr().err
        assert not (tmp_path / "none.duckdb").exists()

    def test_a_library_that_cannot_be_imported_is_exit_4(
        self, checkout: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (checkout / "iroot" / "__init__.py").write_text(UNIMPORTABLE)
        _commit(checkout, "cannot be imported", tag="unimportable")
        assert call(CASE_ID, "v0", "unimportable", "tiny.toml", store=tmp_path / "s.duckdb") == 4
        assert "its library cannot be planned" in capsys.readouterr().err

    def test_the_case_must_be_exactly_one(self) -> None:
        manifest = parse_manifest(MANIFEST.replace("n = 8", "n = [8, 80]"), origin="tiny.toml")
        cases = {each.case.case_id: each for each in plan(manifest, device_kind="cpu") if not each.control}
        assert len(cases) == 2
        for text, message in (
            (
                "planted",
                "CASE must mean one case, 'planted' means 2 of the 2 cases of manifest 'tiny': copy/planted/fp32/8",
            ),
            ("n>=8", "means 2 of the 2 cases"),
            ("n=9", "CASE 'n=9' is none of the 2 cases of manifest 'tiny': no case has n '9'; they have: 8, 80"),
            ("n=8,n=80", "CASE 'n=8,n=80' is none of the 2 cases of manifest 'tiny'; `iroot bench run … --dry-run`"),
            ("n=8|9", "CASE 'n=8|9': no case has n '9'; they have: 8, 80"),
            ("taks=copy", "unknown key 'taks'"),
        ):
            with pytest.raises(UsageError) as raised:
                _only_case(_request(text, manifest_of=MANIFEST), cases)
            assert message in str(raised.value)
        for text in ("n=8", CASE_ID, "8x8/", "copy/planted/fp32/8x8"):
            assert _only_case(_request(text, manifest_of=MANIFEST), cases).case.case_id == CASE_ID


def _request(case: str, *, manifest_of: str) -> BisectRequest:
    return BisectRequest(
        case=case,
        good="v0",
        bad="v1",
        repository=Path(),
        manifest=parse_manifest(manifest_of, origin="tiny.toml"),
        device="cpu",
        store=Path("store.duckdb"),
        effort=Effort(launches=3),
    )


def compared(row: CaseVerdict, accuracy: Accuracy | None = Accuracy.SAME) -> _Compared:
    run = make_run()
    commit = Commit(revision="0" * 40, parents=(), subject="")
    return _Compared(commit=commit, runs=PairedRuns(a=run, b=run), row=row, accuracy=accuracy, remembered=False)


class TestSymptoms:
    """Every symptom is looked for by itself: what else became of a revision does not mislead the search."""

    @pytest.mark.parametrize(
        ("candidate", "accuracy", "slower", "less_accurate", "broken"),
        [
            (Side(), Accuracy.SAME, "good", "good", "good"),
            (Side(time=1.1), Accuracy.SAME, "bad", "good", "good"),
            (Side(time=0.9), Accuracy.MORE, "good", "good", "good"),
            (Side(time=1.1, error=2.0), Accuracy.LESS, "bad", "bad", "good"),
            (Side(time=0.9, error=2.0), Accuracy.LESS, "good", "bad", "good"),
            (Side(noise=0.1, error=2.0), Accuracy.LESS, "undecided", "bad", "good"),
            (Side(noise=0.1), Accuracy.SAME, "undecided", "good", "good"),
            (Side(launches=2), Accuracy.SAME, "undecided", "good", "good"),
            (Side(outcome=Outcome.FAILED), None, "skip", "skip", "bad"),
            (Side(outcome=Outcome.THROTTLED), None, "undecided", "skip", "good"),
        ],
    )
    def test_each(
        self, candidate: Side, accuracy: Accuracy | None, slower: str, less_accurate: str, broken: str
    ) -> None:
        found = compared(judge(candidate, Side()), accuracy)
        answers = [str(found.shows(symptom)) for symptom in (Symptom.SLOWER, Symptom.LESS_ACCURATE, Symptom.BROKEN)]
        assert answers == [slower, less_accurate, broken]
        assert len(NOISE) == 6

    def test_a_case_that_good_itself_fails_is_not_worse(self) -> None:
        found = compared(judge(Side(), Side(outcome=Outcome.FAILED)), None)
        assert found.shows(Symptom.SLOWER) is Answer.GOOD

    @pytest.mark.parametrize(
        ("slowdown", "answer", "expected"),
        [
            (3.0, Answer.UNDECIDED, 3**0.5 - 1),
            (9.0, Answer.UNDECIDED, 0.99),
            (1.05, Answer.UNDECIDED, None),
            (3.0, Answer.SKIP, None),
        ],
    )
    def test_a_large_slowdown_suggests_a_larger_threshold_for_what_is_open(
        self, slowdown: float, answer: Answer, expected: float | None
    ) -> None:
        bad = Trial(revision="b", subject="b", answer=Answer.BAD, row=judge(Side(time=slowdown), Side(noise=0.002)))
        between = Trial(revision="m", subject="m", answer=answer)
        suspects = (Suspect(revision="m", subject="m"), Suspect(revision="b", subject="b"))
        result = BisectResult(
            outcome="narrowed",
            case_id=CASE_ID,
            good="g",
            bad="b",
            symptom=Symptom.SLOWER,
            trials=(bad, between),
            suspects=suspects,
        )
        assert result.easier_threshold == (None if expected is None else pytest.approx(expected, rel=0.02))
        told = [line for line in _conclusion(result) if line.startswith("--threshold")]
        assert told == (
            []
            if result.easier_threshold is None
            else [f"--threshold {result.easier_threshold:.2g} would need fewer pairs: BAD is slower by far"]
        )

    @pytest.mark.parametrize(
        ("outcome", "code"),
        [
            ("found", ExitCode.OK),
            ("not_worse", ExitCode.FAILED_CHECK),
            ("narrowed", ExitCode.UNDECIDED),
            ("undecided", ExitCode.UNDECIDED),
        ],
    )
    def test_exit_codes(self, outcome: Ending, code: ExitCode) -> None:
        suspects = (Suspect(revision="a", subject="a"),)
        result = BisectResult(
            outcome=outcome, case_id=CASE_ID, good="g", bad="b", symptom=None, trials=(), suspects=suspects
        )
        assert result.exit_code is code
        assert result.first_bad == (suspects[0] if outcome == "found" else None)
