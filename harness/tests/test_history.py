"""Histories: planted steps found at their place, the machine's own changes cancelled, the command as users call it."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner

from harness.cli.history import _print, _wanted, history
from harness.errors import UsageError
from harness.history import Series, change_points, histories
from harness.records import Mode, Outcome, PlannedCase, RunStatus, RunSummary, SourceIdentity
from harness.report.history import MAX_PANELS, change_text, plot, sparkline
from harness.store import Store
from harness.tests import factories as make

CASES = make.make_cases(3)
FIRST, SECOND, CONTROL = (planned.case.case_id for planned in CASES)


def _every(planned: PlannedCase) -> bool:
    return not planned.control


def _revision(number: int) -> str:
    return f"{number:x}" * 40


def _summary(number: int, *, machine_factor: float = 1.0, first_s: float = 1e-3, **fields: object) -> RunSummary:
    source = SourceIdentity(revision=_revision(number), dirty=False, source_hash=make.SOURCE_HASH)
    run = make.make_run(CASES, number=number, status=RunStatus.COMPLETE, source=source).model_copy(update=fields)
    times = {FIRST: first_s * machine_factor, SECOND: 2e-3 * machine_factor, CONTROL: 5e-4 * machine_factor}
    return make.make_summary(run, medians_s=times, sigma=0.002, seed=number)


def _runs(step: float = 1.10, *, first_slow: int = 6, count: int = 10) -> list[RunSummary]:
    """The first case is slower by `step` from run `first_slow` on; the machine changes by 5 % from run to run."""
    factors = np.random.default_rng(1).normal(1.0, 0.05, count + 1)
    return [
        _summary(n, machine_factor=float(factors[n]), first_s=1e-3 * (step if n >= first_slow else 1.0))
        for n in range(1, count + 1)
    ]


# --- change points ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "at"), [(8, 4), (20, 3), (20, 18), (40, 25)])
@pytest.mark.parametrize("step", [-0.08, 0.08])
def test_a_planted_step_is_found_at_its_place(count: int, at: int, step: float) -> None:
    generator = np.random.default_rng(count)
    values = generator.normal(0, 0.005, count)
    values[at:] += step
    assert change_points(values) == (at,)


def test_two_steps() -> None:
    values = np.random.default_rng(5).normal(0, 0.004, 30)
    values[10:] += 0.06
    values[22:] -= 0.09
    assert change_points(values) == (10, 22)


def test_noise_drift_and_outliers_are_no_steps() -> None:
    generator = np.random.default_rng(2)
    found = [change_points(generator.normal(0, sigma, 15)) for sigma in (0.003, 0.006, 0.015) for _ in range(40)]
    assert sum(map(bool, found)) <= 4  # 1.5 % expected of 120
    outlier = generator.normal(0, 0.005, 15)
    outlier[7] += 0.01
    assert change_points(outlier) == ()
    tiny = np.zeros(20)
    tiny[10:] = 0.008  # without noise, yet below what is worth reporting
    assert change_points(tiny) == ()


def test_few_runs_show_nothing() -> None:
    assert change_points([]) == ()
    assert change_points([0.0, 0.0, 1.0]) == ()
    assert change_points([0.0, 0.0, 1.0, 1.0]) == (2,)


# --- series -----------------------------------------------------------------------------------------------------------


def test_the_ratio_to_the_controls_cancels_the_machine() -> None:
    first, second = histories(list(reversed(_runs())), _every)
    assert (first.case_id, second.case_id) == (FIRST, SECOND)
    assert first.controls == second.controls == (CONTROL,)
    assert [point.value for point in second.points] == pytest.approx([4.0] * 10, rel=0.01)
    assert second.changes == ()
    (change,) = first.changes
    assert change.first.run_id == make.make_run(number=6).run_id
    assert change.first.source.revision == _revision(6)
    assert change.last_before.source.revision == _revision(5)
    assert change.ratio == pytest.approx(1.10, rel=0.005)
    assert [point.time_s for point in first.points] != pytest.approx([point.value / 2e3 for point in first.points])


def test_a_control_that_says_little_counts_little() -> None:
    """One that spreads by 30 % between launches, and wanders by as much between runs, beside one of 0.2 %."""
    noisy = make.make_planned(make.make_case("device_copy", task="copy"), control=True)
    name, generator = noisy.case.case_id, np.random.default_rng(4)
    runs = []
    for number in range(1, 9):
        run = make.make_run((*CASES, noisy), number=number, status=RunStatus.COMPLETE)
        times = {FIRST: 1e-3, SECOND: 2e-3, CONTROL: 5e-4, name: 5e-4}
        summary = make.make_summary(run, medians_s=times, sigma=0.002, seed=number)
        wandering = summary.cases[name]
        factors = np.exp(generator.normal(0.0, 0.3) + generator.normal(0.0, 0.3, len(wandering.launch_medians_s)))
        medians = {n: t * f for (n, t), f in zip(wandering.launch_medians_s.items(), factors, strict=True)}
        cases = summary.cases | {name: wandering.model_copy(update={"launch_medians_s": medians})}
        runs.append(summary.model_copy(update={"cases": cases}))
    first, _ = histories(runs, _every)
    assert set(first.controls) == {CONTROL, name}
    assert [point.value for point in first.points] == pytest.approx([2.0] * 8, rel=0.01)
    assert first.changes == ()


def test_a_change_names_the_software_that_came_with_it() -> None:
    runs = _runs()
    newer = make.SOFTWARE.model_copy(update={"triton": "3.9.0"})
    later = [_summary(n, first_s=1.1e-3, software=newer) for n in range(6, 11)]
    first, _ = histories([*runs[:5], *later], _every)
    assert first.changes[0].software == ("triton: 3.6.0 != 3.9.0",)
    text = change_text(first.changes[0])
    run_id = make.make_run(number=6).run_id
    assert text == (
        f"× {first.changes[0].ratio:.3f} from {run_id} (revision 666666666; before: 555555555); triton: 3.6.0 != 3.9.0"
    )


def test_without_a_common_control_of_its_mode_a_case_is_followed_in_seconds() -> None:
    eager = make.make_planned(make.make_case(mode=Mode.EAGER))
    run = make.make_run((eager, CASES[2]), status=RunStatus.COMPLETE)
    (series,) = histories([make.make_summary(run, medians_s={eager.case.case_id: 3e-3})], _every)
    assert series.controls == ()
    assert series.points[0].value == pytest.approx(3e-3)
    lost = make.make_summary(_runs()[0].run, outcomes={CONTROL: Outcome.FAILED})
    assert histories([lost, *_runs()[1:]], _every)[0].controls == ()


def test_runs_without_a_time_are_left_out() -> None:
    runs = _runs()
    runs[3] = make.make_summary(runs[3].run, outcomes={FIRST: Outcome.OOM})
    first, second = histories(runs, _every)
    assert (len(first.points), len(second.points)) == (9, 10)


# --- views ------------------------------------------------------------------------------------------------------------


def _first() -> Series:
    return histories(_runs(), _every)[0]


def test_sparkline() -> None:
    line = sparkline(_first())
    before, after = line.split("│")
    assert (len(before), len(after)) == (5, 5)
    assert max(before) < min(after)
    calm = sparkline(histories(_runs(step=1.0), _every)[1])
    assert "│" not in calm
    assert set(calm) <= set("▃▄▅▆")  # noise of 0.2 % is not blown up to the full height


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_plot(tmp_path: Path, suffix: str) -> None:
    file = plot(histories(_runs(), _every), tmp_path / "new" / f"h.{suffix}")
    content = file.read_bytes()
    assert content.startswith(b"\x89PNG" if suffix == "png" else b"<?xml")
    assert len(content) > 5_000


def test_plots_that_cannot_be_drawn(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"shows 1 to {MAX_PANELS} cases, got 13; name a CASE"):
        plot([_first()] * 13, tmp_path / "h.png")
    with pytest.raises(UsageError, match=r"h\.txt: the suffix must be one of .*png"):
        plot([_first()], tmp_path / "h.txt")


# --- the command ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six complete runs, the last three slower in the first case; an arm, an interrupted one and another machine's."""
    store = Store(tmp_path_factory.mktemp("history") / "s.duckdb")
    for number in range(1, 7):
        run = _summary(number).run
        step = 1.2e-3 if number >= 4 else 1e-3
        store.import_run(run, make.make_launches(run, medians_s={FIRST: step, CONTROL: 5e-4}))
    others: tuple[dict[str, object], ...] = (
        {"arm": "main"},
        {"status": RunStatus.INTERRUPTED},
        {"machine": make.CPU, "created_at": "2025-01-01T00:00:00+00:00"},
    )
    for number, fields in enumerate(others, 7):
        store.create_run(_summary(number).run.model_copy(update=fields))
    return store.path


def _call(store: Path, *arguments: object, columns: int = 200) -> str:
    app = typer.Typer()
    app.command("history")(history)
    result = CliRunner().invoke(app, [*map(str, arguments), "--store", str(store)], env={"COLUMNS": str(columns)})
    if result.exception is not None:
        raise result.exception
    return result.stdout


def test_history_as_json(store: Path) -> None:
    first, second = json.loads(_call(store, "--json"))
    assert (first["case"], first["unit"], first["controls"]) == (FIRST, "ratio to controls", [CONTROL])
    assert [point["value"] for point in first["points"]] == pytest.approx([2.0] * 3 + [2.4] * 3)
    (change,) = first["changes"]
    assert (change["revision"], change["revision_before"]) == (_revision(4), _revision(3))
    assert change["ratio"] == pytest.approx(1.2)
    assert second["changes"] == []


def test_history_for_people(store: Path, tmp_path: Path) -> None:
    text = _call(store, FIRST, "--plot", tmp_path / "h.png")
    assert text.splitlines()[0] == f"quick on {make.H100.machine_class}, 6 runs"
    assert "│" in text
    assert "× 1.200 from" in text
    assert SECOND not in text
    assert (tmp_path / "h.png").is_file()


def test_history_in_80_columns_breaks_no_word(store: Path) -> None:
    lines = _call(store, columns=80).splitlines()
    assert max(map(len, lines)) <= 80
    starts = [line.split("  ")[0] for line in lines[2:]]  # what stands in the column of cases
    words = " ".join(line.strip().split("  ")[0] for line in lines[2:])
    assert all(start.endswith(("/", "graph")) for start in starts if start)
    assert f"× 1.200 from {make.make_run(number=4).run_id} (revision {'4' * 9}; before: {'3' * 9})" in words


def test_a_long_history_in_80_columns_leaves_the_case_its_words(monkeypatch: pytest.MonkeyPatch) -> None:
    (first, _), out = histories([_summary(n) for n in range(1, 60)], _every), io.StringIO()
    monkeypatch.setattr("harness.cli.history.console", lambda: Console(file=out, width=80, highlight=False))
    _print((first,), _summary(1).run, 59)
    lines = out.getvalue().splitlines()[2:]
    assert max(map(len, lines)) <= 80
    assert all(line.split()[0].endswith(("/", "graph")) for line in lines if not line.startswith(" "))


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        (None, [FIRST, SECOND]),
        ("n=512", [SECOND]),
        ("coupled_pe", [FIRST, SECOND]),
        ("p=2/512x512", [SECOND]),
        (FIRST, [FIRST]),
        ("task=gemm", [CONTROL]),
        ("qr", []),
    ],
)
def test_which_cases(case: str | None, expected: list[str]) -> None:
    wanted = _wanted(case)
    assert [planned.case.case_id for planned in CASES if wanted(planned)] == expected


def test_nothing_to_show(store: Path) -> None:
    with pytest.raises(UsageError, match="no timed case of 6 runs fits 'qr'"):
        _call(store, "qr")
    with pytest.raises(UsageError, match="no timed case of 6 runs fits 'n=7': no case has n '7'; they have: 256, 512"):
        _call(store, "n=7")
    with pytest.raises(UsageError, match=r"^CASE 'n=512\|7': no case has n '7'"):
        _call(store, "n=512|7")
    with pytest.raises(UsageError, match=r"^no timed case of 6 runs fits 'task=gemm,n=512'$"):
        _call(store, "task=gemm,n=512")
    with pytest.raises(UsageError, match="holds no complete run that fits"):
        _call(store, "--manifest", "other")


def test_the_command_line_stays_light() -> None:
    code = (
        "import sys, harness.cli.history; print([m for m in ('ruptures', 'matplotlib', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
