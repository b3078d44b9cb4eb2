"""What a run is compared with, and the two commands that show it, on a real store and a real baseline."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from harness import reference
from harness.baseline import promote
from harness.cli.compare import compare
from harness.cli.report import report
from harness.errors import BaselineError, StoreError, UnlikeMachinesError, UsageError
from harness.records import Comparison, MachineIdentity, RunRecord, RunStatus, Verdict
from harness.reference import Reference, compare_or_reason, compare_run, resolve_reference
from harness.store import Store
from harness.tests.factories import H100, make_cases, make_launches, make_run, make_summary

CASES = make_cases(3, controls=1)
SLOW = CASES[0].case.case_id


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """An empty store, and a project without baselines."""
    monkeypatch.setattr("harness.paths.baselines_root", lambda: tmp_path / "baselines")
    return Store(tmp_path / "store.duckdb")


def measured(
    store: Store,
    number: int,
    *,
    status: RunStatus = RunStatus.COMPLETE,
    machine: MachineIdentity = H100,
    medians_s: dict[str, float] | None = None,
    **changes: object,
) -> RunRecord:
    """Put the `number`-th run into the store; `changes` go into its record."""
    run = make_run(CASES, number=number, status=status, machine=machine).model_copy(update=changes)
    store.import_run(run, make_launches(run, medians_s=medians_s))
    return run


def resolved(store: Store, run: RunRecord, against: str | None = None) -> Reference:
    found = resolve_reference(store, run, against)
    assert found is not None
    return found


def promoted(tmp_path: Path) -> Path:
    """An official baseline of three runs that are in no store."""
    runs = [make_summary(make_run(CASES, number=90 + i, launches=6, status=RunStatus.COMPLETE)) for i in range(3)]
    return promote(runs, tmp_path / "baselines", reason="first official figures")


def test_first_run_has_no_reference(store: Store) -> None:
    run = measured(store, 1)
    assert resolve_reference(store, run, None) is None
    assert compare_run(store, run.run_id) is None
    assert compare_or_reason(store, run.run_id).reason is None


def test_previous_complete_run_stands_in_for_a_baseline(store: Store) -> None:
    older, newer = measured(store, 1), measured(store, 2)
    measured(store, 3, status=RunStatus.INTERRUPTED)
    run = measured(store, 4)
    measured(store, 5)  # newer than the run itself
    found = resolved(store, run)
    assert (found.kind, found.summary.run.run_id) == ("previous_run", newer.run_id)
    assert found.label == f"this machine's previous run {newer.run_id} (there is no official baseline)"
    assert resolved(store, newer).summary.run.run_id == older.run_id


def test_previous_run_is_of_this_unit_if_there_is_one(store: Store) -> None:
    own = measured(store, 1)
    measured(store, 2, machine=H100.model_copy(update={"uuid": "GPU-other"}))
    assert resolved(store, measured(store, 3)).summary.run.run_id == own.run_id


def test_previous_run_of_another_unit_is_better_than_none(store: Store) -> None:
    other = measured(store, 1, machine=H100.model_copy(update={"uuid": "GPU-other"}))
    assert resolved(store, measured(store, 2)).summary.run.run_id == other.run_id


def test_previous_run_is_of_the_same_plan_if_there_is_one(store: Store) -> None:
    same = measured(store, 1)
    measured(store, 2, manifest_hash="0" * 60)
    assert resolved(store, measured(store, 3)).summary.run.run_id == same.run_id


@pytest.mark.parametrize(
    "changes",
    [
        {"manifest": "production"},
        {"filter": "n>512"},
        {"arm": "main"},
        {"machine": H100.model_copy(update={"machine_class": "b200"})},
    ],
    ids=["manifest", "filter", "arm", "machine class"],
)
def test_no_previous_run(store: Store, changes: dict[str, object]) -> None:
    measured(store, 1, **changes)  # type: ignore[arg-type]
    assert resolve_reference(store, measured(store, 2), None) is None


def test_a_run_without_a_common_case_is_no_previous_run(store: Store) -> None:
    alone = make_run(make_cases(5)[3:4], number=1, status=RunStatus.COMPLETE)
    store.import_run(alone, make_launches(alone))
    assert resolve_reference(store, measured(store, 2), None) is None


def test_official_baseline_comes_first(store: Store, tmp_path: Path) -> None:
    measured(store, 1)
    run = measured(store, 2)
    promoted(tmp_path)
    for against in (None, "baseline"):
        found = resolved(store, run, against)
        assert found.kind == "baseline"
        assert len(found.summary.runs_merged) == 3


def test_damaged_baseline_is_not_passed_over(store: Store, tmp_path: Path) -> None:
    run = measured(store, 1)
    data = next(promoted(tmp_path).glob("*.parquet"))
    data.write_bytes(data.read_bytes()[:-1])
    with pytest.raises(BaselineError):
        resolve_reference(store, run, None)


def test_missing_baseline_names_the_remedy(store: Store) -> None:
    run = measured(store, 1)
    with pytest.raises(UsageError, match=r"no official baseline of manifest 'quick' for nvidia-h100.*baseline promote"):
        resolve_reference(store, run, "baseline")


def test_named_run(store: Store) -> None:
    first, second = measured(store, 1, manifest="production"), measured(store, 2)
    found = resolved(store, second, first.run_id)
    assert (found.kind, found.summary.run.run_id) == ("run", first.run_id)
    with pytest.raises(UsageError, match="that is the run itself"):
        resolve_reference(store, second, "latest")
    with pytest.raises(StoreError, match="no run 'nonsense'"):
        resolve_reference(store, second, "nonsense")


def test_arms_of_an_interleaved_measurement_are_each_others_reference(store: Store) -> None:
    a = measured(store, 1, arm="main")
    b = measured(store, 2, arm="WORKTREE", paired_with=a.run_id)
    assert resolved(store, b).kind == "paired"
    assert resolved(store, b, a.run_id).kind == "paired"


def test_comparison_of_a_planted_slowdown(store: Store) -> None:
    measured(store, 1)
    run = measured(store, 2, medians_s={SLOW: 1.5e-3})
    comparison = compare_run(store, run.run_id)
    assert comparison is not None
    verdicts = {row.case_id: row.verdict for row in comparison.verdicts}
    assert verdicts.pop(SLOW) is Verdict.REGRESSED
    assert set(verdicts.values()) == {Verdict.UNCHANGED}


def test_a_case_that_one_arm_lacks_is_missing_under_a_filter_too(store: Store) -> None:
    a, b = make_run(CASES, number=1), make_run(CASES[1:], number=2)
    for run, other in ((a, b), (b, a)):
        both = {"filter": "task=inverse_root", "arm": "x", "paired_with": other.run_id, "status": RunStatus.COMPLETE}
        changed = run.model_copy(update=both)
        store.import_run(changed, make_launches(changed))
    comparison = compare_run(store, b.run_id)
    assert comparison is not None
    assert {row.case_id for row in comparison.verdicts if row.verdict is Verdict.MISSING} == {SLOW}


@pytest.mark.parametrize(("launches", "undecided"), [(4, False), (2, True)])
def test_undecided_pairs_point_at_the_gate(store: Store, launches: int, undecided: bool) -> None:
    """Two pairs are too few for any verdict."""
    a = measured(store, 1, arm="x", launches=launches)
    b = measured(store, 2, arm="y", launches=launches, paired_with=a.run_id)
    comparison = compare_run(store, b.run_id)
    assert comparison is not None
    hint = "`iroot bench gate` measures undecided cases again in fresh pairs, adjusted over these alone"
    assert (hint in comparison.notes) is undecided


def test_cases_left_out_by_the_filter_are_not_missing(store: Store) -> None:
    measured(store, 1)
    run = make_run(CASES[:1], number=2, status=RunStatus.COMPLETE).model_copy(update={"filter": "n<=256"})
    store.import_run(run, make_launches(run))
    comparison = compare_run(store, run.run_id)
    assert comparison is not None
    assert [row.verdict for row in comparison.verdicts] == [Verdict.UNCHANGED]


def test_unlike_machines_are_refused_unless_forced(store: Store) -> None:
    other = measured(store, 1, machine=H100.model_copy(update={"power_limit_w": 500.0}))
    run = measured(store, 2)
    with pytest.raises(UnlikeMachinesError):
        compare_run(store, run.run_id, other.run_id)
    attempt = compare_or_reason(store, run.run_id, other.run_id)
    assert attempt.comparison is None
    assert attempt.reason is not None
    assert "power_limit_w" in attempt.reason
    forced = compare_run(store, run.run_id, other.run_id, force=True)
    assert forced is not None
    assert forced.forced


def test_a_run_that_is_part_of_the_baseline_is_told_so(store: Store, tmp_path: Path) -> None:
    run = measured(store, 1)
    promote([store.summary(run.run_id)], tmp_path / "baselines", reason="first official figures")
    comparison = compare_run(store, run.run_id)
    assert comparison is not None
    assert reference.OWN_BASELINE in comparison.notes


# --- the commands -----------------------------------------------------------------------------------------------------


@pytest.fixture
def app() -> typer.Typer:
    """Both commands under their names."""
    made = typer.Typer()
    made.command("compare")(compare)
    made.command("report")(report)
    return made


def test_compare_exits_3_without_a_reference(store: Store, app: typer.Typer) -> None:
    measured(store, 1)
    result = CliRunner().invoke(app, ["compare", "--store", str(store.path)])
    assert result.exit_code == 3
    assert result.stdout == ""
    assert "nothing to compare with" in result.stderr


def test_compare_exits_0_or_1(store: Store, app: typer.Typer) -> None:
    first, second = measured(store, 1), measured(store, 2)
    slow = measured(store, 3, medians_s={SLOW: 1.5e-3})
    fine = CliRunner().invoke(app, ["compare", second.run_id, "--store", str(store.path)])
    assert (fine.exit_code, fine.stdout.splitlines()[-1]) == (0, "No significant change among 3 cases.")
    worse = CliRunner().invoke(app, ["compare", "--against", first.run_id, "--store", str(store.path), "--json"])
    assert worse.exit_code == 1
    rows = {row["case"]: row for row in json.loads(worse.stdout)}
    assert rows[SLOW]["verdict"] == "regressed"
    assert {"ratio", "low", "high", "launches", "mde"} <= rows[SLOW].keys()
    whole = CliRunner().invoke(app, ["compare", "--against", first.run_id, "--store", str(store.path), "--json-full"])
    assert whole.exit_code == 1
    record = Comparison.model_validate_json(whole.stdout)
    assert (record.candidate, record.reference) == (slow.run_id, first.run_id)
    assert {row.case_id for row in record.verdicts} == rows.keys()


def test_report_command_writes_and_prints_the_path(store: Store, app: typer.Typer, tmp_path: Path) -> None:
    other = measured(store, 1, machine=H100.model_copy(update={"power_limit_w": 500.0}))
    run = measured(store, 2)
    output = tmp_path / "folder" / "r.md"
    result = CliRunner().invoke(
        app, ["report", "--store", str(store.path), "--against", other.run_id, "--output", str(output)]
    )
    assert result.exit_code == 0, result.stderr
    assert result.stdout.strip() == str(output)
    assert "**Bottom line.** Not compared:" in output.read_text(encoding="utf-8")
    default = CliRunner().invoke(app, ["report", "--store", str(store.path), "--force", "--json"])
    assert json.loads(default.stdout) == {
        "run_id": run.run_id,
        "path": str(store.path.parent / "runs" / run.run_id / "report.md"),
    }


def test_report_command_shows_a_part(store: Store, app: typer.Typer) -> None:
    measured(store, 1)
    run = measured(store, 2)
    part = CliRunner().invoke(app, ["report", "--filter", "task=inverse_root,n=256|512", "--store", str(store.path)])
    written = store.path.parent / "runs" / run.run_id / "report-part.md"
    assert part.stdout.strip() == str(written), part.stderr
    assert "Of its 3 cases those that match `task=inverse_root,n=256|512` are shown: 2 cases" in written.read_text(
        encoding="utf-8"
    )
    half = CliRunner().invoke(app, ["report", "--filter", "n=256|513", "--store", str(store.path)])
    assert isinstance(half.exception, UsageError)
    assert str(half.exception) == "--filter 'n=256|513': no case has n '513'; they have: 256, 512"
