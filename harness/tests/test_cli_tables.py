"""Tables of the housekeeping commands on a narrow terminal."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from harness.cli.tables import Breakable, cases_table, runs_table
from harness.tests import report_cases as planted
from harness.tests.factories import REVISION, SOURCE_HASH

CASE_ID = "inverse_apply/coupled_pe/fp32/p=2/32x32xk8/logspace_1e2/eager"


def printed(renderable: object, width: int) -> list[str]:
    console = Console(file=io.StringIO(), width=width, highlight=False)
    console.print(renderable)
    assert isinstance(console.file, io.StringIO)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


@pytest.mark.parametrize(
    ("width", "expected"),
    [
        (80, [CASE_ID]),
        (33, ["inverse_apply/coupled_pe/fp32/", "p=2/32x32xk8/logspace_1e2/eager"]),
        (14, ["inverse_apply/", "coupled_pe/", "fp32/p=2/", "32x32xk8/", "logspace_1e2/", "eager"]),
    ],
)
def test_an_identifier_is_broken_after_its_separators(width: int, expected: list[str]) -> None:
    assert printed(Breakable(CASE_ID, "/"), width) == expected


def test_options_are_broken_after_commas() -> None:
    identifier = "polar/aol(coefficients=turbo_muon,steps=5)/bf16"
    assert printed(Breakable(identifier, "/,"), 33) == ["polar/", "aol(coefficients=turbo_muon,", "steps=5)/bf16"]


def test_a_run_in_80_columns_breaks_no_word() -> None:
    lines = printed(cases_table(planted.run_summary(planted.every_outcome()[:6])), 80)
    assert max(map(len, lines)) <= 80
    firsts = [line.split()[0] for line in lines[1:]]
    ids = "".join(firsts)
    assert "inverse_root/coupled_newton/fp32/p=2/512x512/wishart/graph" in ids
    assert all(first.endswith(("/", "graph", "eager")) or "#" in first for first in firsts)


def test_a_list_of_runs_in_80_columns_breaks_no_word() -> None:
    run = planted.run_record(()).model_copy(update={"imported_from": "h100-quick-1"})
    run = run.model_copy(update={"source": run.source.model_copy(update={"revision": None})})
    lines = printed(runs_table([run]), 80)
    assert max(map(len, lines)) <= 80
    assert lines[1].startswith(f"{run.run_id}  complete")
    assert " ".join(line.strip() for line in lines[2:]) == "nvidia-h100-80gb-hbm3; imported from h100-quick-1"


def test_a_dirty_run_names_its_sources() -> None:
    run = planted.run_record(())
    assert not any("sources" in line for line in printed(runs_table([run]), 80))
    dirty = run.model_copy(update={"source": run.source.model_copy(update={"dirty": True})})
    lines = printed(runs_table([dirty]), 80)
    assert f"{REVISION[:9]}+" in lines[1]
    assert f"sources {SOURCE_HASH[:8]}" in " ".join(line.strip() for line in lines[2:])


def test_the_remarks_on_a_run_with_a_short_name_keep_their_words() -> None:
    run = planted.run_record(()).model_copy(update={"run_id": "ab", "imported_from": "table: before.csv"})
    lines = printed(runs_table([run]), 80)
    assert [line.strip() for line in lines[2:]] == ["nvidia-h100-80gb-hbm3;", "imported from table:", "before.csv"]


def test_a_list_of_runs_in_60_columns_loses_nothing() -> None:
    run = planted.run_record(()).model_copy(update={"run_id": "20261122-222637-sweep-720d8c30-eded"})
    lines = printed(runs_table([run]), 60)
    assert max(map(len, lines)) <= 60
    assert any(line.startswith(run.run_id) for line in lines)  # it is what other commands take
    starts = {name: lines[0].index(name[:4]) for name in ("status", "revision")}
    status = "".join(line[starts["status"] : starts["revision"]].strip() for line in lines[1:])
    assert status == "uscomplete"  # what is left of the heading, folded like the word below it
