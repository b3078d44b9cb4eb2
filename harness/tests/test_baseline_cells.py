"""Cell-wise promotion: only the named cells change, unfit cells are refused, and the diff says what differs."""

from __future__ import annotations

import json
import re
import subprocess
from datetime import date
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import typer
from typer.testing import CliRunner

from harness.baseline import load_baseline, prepare, promote, verify_baseline
from harness.baseline_diff import cell_changes
from harness.baseline_files import LAUNCHES, METADATA, QUALITY, from_folder, read_metadata
from harness.cli.baseline import baseline_app
from harness.compare import compare
from harness.errors import BaselineError, UsageError
from harness.filters import parse_filter
from harness.records import LaunchedKernel, Mode, Outcome, PlannedCase, RunStatus, RunSummary
from harness.stats import prediction_margin
from harness.store import Store
from harness.tests import factories as make

CASES = make.make_cases(4)
IDS = [planned.case.case_id for planned in CASES]
SECOND = parse_filter(f"case={IDS[1]}")
MACHINE = make.H100.machine_class


def _run(
    number: int, *, scale: float = 1.0, cases: tuple[PlannedCase, ...] = CASES, sigma: float = 0.002, **fields: object
) -> RunSummary:
    run = make.make_run(cases, number=number, launches=4, status=RunStatus.COMPLETE).model_copy(update=fields)
    medians = {planned.case.case_id: scale * 1e-4 * (i + 1) for i, planned in enumerate(cases)}
    return make.make_summary(run, medians_s=medians, sigma=sigma, seed=number)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A baseline of three runs."""
    return promote([_run(n) for n in (1, 2, 3)], tmp_path, reason="first", today=date(2026, 1, 3))


def _cells(folder: Path, case_id: str) -> tuple[str, bytes, bytes]:
    """The bytes that hold one case: its line of the metadata, its rows of either table."""
    (line,) = [each for each in (folder / METADATA).read_text().splitlines() if _names(each, case_id)]
    rows = []
    for name in (LAUNCHES, QUALITY):
        table = pq.read_table(folder / name)
        mask = pa.array([value == case_id for value in table["case_id"].to_pylist()])
        kept = table.filter(mask).combine_chunks()
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, kept.schema) as writer:
            writer.write_table(kept)
        rows.append(sink.getvalue().to_pybytes())
    return line.rstrip(","), rows[0], rows[1]


def _names(line: str, case_id: str) -> bool:
    text = line.strip().rstrip(",")
    if not text.startswith('{"planned"'):
        return False
    planned = PlannedCase.model_validate(json.loads(text)["planned"])
    return planned.case.case_id == case_id


def test_only_the_named_cells_change(folder: Path, tmp_path: Path) -> None:
    before = {case_id: _cells(folder, case_id) for case_id in IDS}
    later = [_run(n, scale=1.5, source=make.SOURCE.model_copy(update={"revision": "b" * 40})) for n in (7, 8)]
    promote(later, tmp_path, reason="new tiles", cases=SECOND, today=date(2026, 2, 1))
    after = {case_id: _cells(folder, case_id) for case_id in IDS}
    assert [case_id for case_id in IDS if after[case_id] != before[case_id]] == [IDS[1]]
    assert verify_baseline(folder) == ()
    metadata = read_metadata(folder)
    assert (metadata.reason, metadata.revision) == ("first", make.REVISION)
    (amendment,) = metadata.amendments
    assert (amendment.reason, amendment.revision, amendment.promoted_on) == ("new tiles", "b" * 40, "2026-02-01")
    assert [run.run_id for run in metadata.runs] == [_run(n).run.run_id for n in (1, 2, 3, 7, 8)]


def test_first_calls_and_kernels_come_back_and_leave_no_trace_where_there_are_none(tmp_path: Path) -> None:
    kernel = LaunchedKernel(name="m.k", code_hash="0" * 64, hashed="binary", configuration=(("BLOCK", 64),), launches=3)
    other = kernel.model_copy(update={"configuration": (("BLOCK", 128),)})
    runs = [
        _with_figures(_run(1), first_calls_s=(0.5, 0.6), kernels=(kernel,)),
        _with_figures(_run(2), first_calls_s=(0.7, 0.4), kernels=(other, kernel)),
    ]
    folder = promote(runs, tmp_path, reason="r")
    loaded = load_baseline(tmp_path, MACHINE, "quick")
    assert loaded is not None
    assert loaded.cases[IDS[1]].first_calls_s == (0.5, 0.6, 0.7, 0.4)
    assert loaded.cases[IDS[1]].kernels == (kernel, other)
    lines = {case_id: _cells(folder, case_id)[0] for case_id in IDS}
    fields = ('"kernels"', '"first_calls_s"', '"memory"', '"first_call"')
    assert [case_id for case_id in IDS if any(field in lines[case_id] for field in fields)] == [IDS[1]]


def _with_figures(summary: RunSummary, **figures: object) -> RunSummary:
    """The second case with these figures."""
    cases = {**summary.cases, IDS[1]: summary.cases[IDS[1]].model_copy(update=figures)}
    return summary.model_copy(update={"cases": cases})


def test_a_comparison_knows_how_many_runs_stand_behind_a_cell(folder: Path, tmp_path: Path) -> None:
    promote([_run(7), _run(8)], tmp_path, reason="r", cases=SECOND)
    loaded = load_baseline(tmp_path, MACHINE, "quick")
    assert loaded is not None
    assert [loaded.cases[case_id].runs for case_id in IDS] == [3, 2, 3, 3]
    assert loaded.run.run_id == _run(3).run.run_id  # machine and software are those of the whole promotion
    assert len(loaded.cases[IDS[1]].launch_medians_s) == 2 * 4
    without_controls = {case_id: case for case_id, case in loaded.cases.items() if not case.planned.control}
    rows = compare(_run(20), loaded.model_copy(update={"cases": without_controls}), kind="baseline").verdicts
    for row, runs in zip(rows[:3], (3, 2, 3), strict=True):
        spread = loaded.cases[row.case_id].run_spread
        assert spread is not None
        assert row.tau == pytest.approx(0.02 + prediction_margin(spread, runs))


def test_runs_that_no_cell_needs_any_more_go(folder: Path, tmp_path: Path) -> None:
    promote([_run(7)], tmp_path, reason="r", cases=SECOND)
    promote([_run(9)], tmp_path, reason="again", cases=SECOND)
    metadata = read_metadata(folder)
    assert [run.run_id for run in metadata.runs] == [_run(n).run.run_id for n in (1, 2, 3, 9)]
    assert [each.reason for each in metadata.amendments] == ["r", "again"]
    assert verify_baseline(folder) == ()
    promote([_run(n) for n in (10, 11)], tmp_path, reason="whole")
    assert read_metadata(folder).amendments == ()


def test_a_run_of_the_base_may_amend_it(folder: Path, tmp_path: Path) -> None:
    promote([_run(3)], tmp_path, reason="the last run alone", cases=SECOND)
    assert verify_baseline(folder) == ()
    loaded = load_baseline(tmp_path, MACHINE, "quick")
    assert loaded is not None
    assert (loaded.cases[IDS[1]].runs, loaded.cases[IDS[0]].runs) == (1, None)


def test_promoting_the_same_cells_again_changes_nothing(folder: Path, tmp_path: Path) -> None:
    promote([_run(7)], tmp_path, reason="r", cases=SECOND)
    assert prepare([_run(7)], tmp_path, reason="other words", cases=SECOND).changes == ()


def test_cells_can_be_added(folder: Path, tmp_path: Path) -> None:
    fresh = make.make_planned(make.make_case("eigh"))
    promotion = prepare([_run(7, cases=(*CASES, fresh))], tmp_path, reason="r", cases=parse_filter("method=eigh"))
    assert f"new case: {fresh.case.case_id}" in promotion.changes
    promotion.write()
    loaded = load_baseline(tmp_path, MACHINE, "quick")
    assert loaded is not None
    assert list(loaded.cases) == [*IDS, fresh.case.case_id]


# --- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize(
    ("run", "message"),
    [
        (_run(7, sigma=0.05), r"too few, to resolve the threshold of .*\(MDE \d+\.\d % > 2\.0 %\)"),
        (_run(7, launches=2), r"too few, to resolve"),
    ],
)
def test_cells_that_cannot_resolve_their_threshold(
    folder: Path, tmp_path: Path, run: RunSummary, message: str, whole: bool
) -> None:
    if run.run.launches == 2:
        short = {
            case_id: case.model_copy(update={"launch_medians_s": {n: case.launch_medians_s[n] for n in (1, 2)}})
            for case_id, case in run.cases.items()
        }
        run = run.model_copy(update={"cases": short})
    with pytest.raises(BaselineError, match=message):
        prepare([run], tmp_path, reason="r", cases=None if whole else SECOND)


def test_advisory_cases_may_spread(tmp_path: Path) -> None:
    eager = PlannedCase(case=make.make_case(mode=Mode.EAGER), gates=False)
    assert prepare([_run(7, cases=(eager,), sigma=0.15)], tmp_path, reason="r").changes


@pytest.mark.parametrize(
    ("outcome", "message"),
    [
        (Outcome.FAILED, "unexpected failures"),
        (Outcome.NONFINITE, "unexpected failures"),
        (Outcome.THROTTLED, "was throttled in"),
    ],
)
def test_unfit_cells(folder: Path, tmp_path: Path, outcome: Outcome, message: str) -> None:
    bad = make.make_summary(_run(7).run, outcomes={IDS[1]: outcome})
    with pytest.raises(BaselineError, match=message):
        prepare([bad], tmp_path, reason="r", cases=SECOND)
    assert prepare([bad], tmp_path, reason="r", cases=parse_filter(f"case={IDS[0]}")).changes  # the others are fit


def test_other_machines_and_filters_without_a_case(folder: Path, tmp_path: Path) -> None:
    weaker = make.H100.model_copy(update={"power_limit_w": 500.0})
    with pytest.raises(BaselineError, match=r"machines differ in power_limit_w: 500.0 != 700.0"):
        prepare([_run(7, machine=weaker)], tmp_path, reason="r", cases=SECOND)
    with pytest.raises(UsageError, match=r"--cases 'method=qr' fits no case of .*-quick-.*: no case has method 'qr'"):
        prepare([_run(7)], tmp_path, reason="r", cases=parse_filter("method=qr"))
    half = f"case={IDS[1]}|nothing"
    with pytest.raises(UsageError, match=rf"^--cases '{re.escape(half)}': no case has case 'nothing'; there is '"):
        prepare([_run(7)], tmp_path, reason="r", cases=parse_filter(half))


# --- diff -------------------------------------------------------------------------------------------------------------


def test_cell_changes(folder: Path, tmp_path: Path) -> None:
    before = from_folder(folder)
    assert cell_changes(before, before) == ()
    fresh = make.make_planned(make.make_case("eigh"))
    fitting = parse_filter(f"case={IDS[1]}|{IDS[2]}|{fresh.case.case_id}")
    run = _run(7, cases=(*CASES, fresh))
    slow = {n: 1.5 * median_s for n, median_s in run.cases[IDS[2]].launch_medians_s.items()}
    cases = {**run.cases, IDS[2]: run.cases[IDS[2]].model_copy(update={"launch_medians_s": slow})}
    promote([run.model_copy(update={"cases": cases})], tmp_path, reason="r", cases=fitting)
    changes = cell_changes(before, from_folder(folder))
    assert [(each.case_id, each.kind, each.notable) for each in changes] == [
        (fresh.case.case_id, "new", True),
        (IDS[1], "time", False),
        (IDS[2], "time", True),
    ]
    assert changes[2].ratio == pytest.approx(1.5, rel=0.02)
    assert [each.kind for each in cell_changes(from_folder(folder), before)] == ["removed", "time", "time"]


def _git(folder: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=n", "-c", "user.email=e@example.org"]
    subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True)


def test_diff_and_promote_commands(folder: Path, tmp_path: Path) -> None:
    app = typer.Typer()
    app.add_typer(baseline_app, name="baseline")
    _git(tmp_path, "init", "-q")
    _git(tmp_path, "add", ".")
    _git(tmp_path, "commit", "-qm", "first")
    name = f"{MACHINE}/quick"
    same = CliRunner().invoke(app, ["baseline", "diff", name, "--root", str(tmp_path)])
    assert same.stdout == "4 of 4 cases are identical\n"
    store = Store(tmp_path / "s.duckdb")
    run = _run(7).run
    store.import_run(run, make.make_launches(run, medians_s={IDS[1]: 4e-4}))
    where = ("--provisional", "--root", str(tmp_path), "--store", str(store.path))
    done = CliRunner().invoke(
        app, ["baseline", "promote", run.run_id, "--cases", SECOND.text, "--reason", "why", *where]
    )
    assert done.exit_code == 0, done.output
    printed = CliRunner().invoke(app, ["baseline", "diff", "quick", "--root", str(tmp_path), "--json"])
    record = json.loads(printed.stdout)
    assert record["identical"] == 3
    (cell,) = record["cases"]
    assert (cell["case"], cell["change"]) == (IDS[1], "time")
    assert cell["ratio"] == pytest.approx(2.0, rel=0.01)
    missing = CliRunner().invoke(app, ["baseline", "diff", "quick", "--root", str(tmp_path), "--against", "v9"])
    assert isinstance(missing.exception, UsageError)
    assert "nor a git revision that holds this one" in str(missing.exception)


# --- refused cells --------------------------------------------------------------------------------------------------


def _with_failure(summary: RunSummary) -> RunSummary:
    failed = {"outcome": Outcome.FAILED, "error": "Boom", "launch_medians_s": {}}
    return _with_figures(summary, **failed)


def _noisy(summary: RunSummary, case_id: str) -> RunSummary:
    case = summary.cases[case_id]
    wild = {launch: median_s * (1.5 if launch % 2 else 1.0) for launch, median_s in case.launch_medians_s.items()}
    cases = {**summary.cases, case_id: case.model_copy(update={"launch_medians_s": wild})}
    return summary.model_copy(update={"cases": cases})


def test_one_refused_cell_refuses_all_unless_those_are_to_be_left(tmp_path: Path) -> None:
    runs = [_noisy(_with_failure(_run(n)), IDS[0]) for n in (1, 2, 3)]
    with pytest.raises(BaselineError, match="has unexpected failures"):
        promote(runs, tmp_path, reason="r")
    promotion = prepare(runs, tmp_path, reason="r", leave_refused=True)
    folder = promotion.write()
    assert verify_baseline(folder) == ()
    content = from_folder(folder)
    assert content.case_ids == set(IDS[2:])
    assert set(content.metadata.left_out) == {IDS[0], IDS[1]}
    assert content.metadata.left_out[IDS[1]].endswith(f"{IDS[1]} (failed, expected ok: Boom)")
    assert "too wide" in content.metadata.left_out[IDS[0]]
    named = {f"left as it was, or out: {why}" for why in content.metadata.left_out.values()}
    assert named <= set(promotion.notes)


def test_refused_cells_of_an_existing_baseline_stay_byte_for_byte(folder: Path, tmp_path: Path) -> None:
    before = {case_id: _cells(folder, case_id) for case_id in IDS}
    later = [_with_failure(_run(n, scale=1.5)) for n in (7, 8, 9)]
    promote(later, tmp_path, reason="new tiles", leave_refused=True)
    after = {case_id: _cells(folder, case_id) for case_id in IDS}
    assert [case_id for case_id in IDS if after[case_id] == before[case_id]] == [IDS[1]]
    metadata = read_metadata(folder)
    assert metadata.left_out == {}  # it has its cell of before
    assert [amendment.filter for amendment in metadata.amendments] == ["without 1 refused"]


def test_a_cell_promoted_later_is_left_out_no_more(tmp_path: Path) -> None:
    promote([_with_failure(_run(n)) for n in (1, 2, 3)], tmp_path, reason="r", leave_refused=True)
    folder = promote([_run(n) for n in (4, 5, 6)], tmp_path, reason="mended", cases=SECOND)
    content = from_folder(folder)
    assert content.case_ids == set(IDS)
    assert content.metadata.left_out == {}
    assert b"left_out" not in (folder / METADATA).read_bytes()


def test_nothing_is_promoted_where_every_cell_is_refused(tmp_path: Path) -> None:
    runs = [_with_failure(_run(n)) for n in (1, 2, 3)]
    with pytest.raises(BaselineError, match=r"every case is: .* has unexpected failures"):
        promote(runs, tmp_path, reason="r", cases=SECOND, leave_refused=True)
