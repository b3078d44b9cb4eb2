"""What a baseline keeps of the order of its launches, and what it decides: comparisons and the fitness of cells."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import numpy as np
import pytest

from harness.baseline import list_baselines, load_baseline, prepare, promote, verify_baseline
from harness.baseline_files import METADATA, from_folder, to_files
from harness.compare import compare
from harness.errors import BaselineError
from harness.filters import parse_filter
from harness.records import RunStatus, RunSummary
from harness.tests import factories as make
from harness.tests.test_baseline import _edit_metadata
from harness.tests.test_launch_blocks import ORDERS, ordered

CASES = make.make_cases(4)
IDS = [planned.case.case_id for planned in CASES]
TODAY = date(2026, 1, 3)
SHIPPED = Path(__file__).resolve().parents[2] / "baselines"


def run_of(number: int, *, own: float = 0.002, order: float = 0.03) -> RunSummary:
    """Six launches whose orders do the same to a case in every run."""
    run = make.make_run(CASES, number=number, launches=6, status=RunStatus.COMPLETE)
    shared = np.exp(np.random.default_rng(0).normal(0.0, order, (len(IDS), 6)))
    made = make.make_summary(run, sigma=own, seed=number)
    cases = {
        case_id: case.model_copy(
            update={"launch_medians_s": {n: t * float(shared[i, n - 1]) for n, t in case.launch_medians_s.items()}}
        )
        for i, (case_id, case) in enumerate(made.cases.items())
    }
    return ordered(made.model_copy(update={"cases": cases}))


def loaded(root: Path) -> RunSummary:
    found = load_baseline(root, make.H100.machine_class, "quick")
    assert found is not None
    return found


class TestKept:
    def test_launches_of_merged_runs_keep_their_orders(self, tmp_path: Path) -> None:
        folder = promote([run_of(n) for n in (1, 2, 3)], tmp_path, reason="first", today=TODAY)
        assert verify_baseline(folder) == ()
        assert loaded(tmp_path).launch_orders == {6 * run + n: ORDERS[n] for run in range(3) for n in ORDERS}

    def test_a_later_run_is_compared_launch_by_launch(self, tmp_path: Path) -> None:
        promote([run_of(n) for n in (1, 2, 3)], tmp_path, reason="first", today=TODAY)
        comparison = compare(run_of(4), loaded(tmp_path), kind="baseline")
        assert comparison.design == "blocked"
        assert {(row.launches, row.reference_launches) for row in comparison.verdicts} == {(6, 18)}
        assert {str(row.verdict) for row in comparison.verdicts} == {"unchanged"}

    def test_some_cells_alone_keep_the_order_they_were_measured_in(self, tmp_path: Path) -> None:
        """The order is of the whole run, also where the baseline holds one of its cases."""
        promote([run_of(1), run_of(2)], tmp_path, reason="first", today=TODAY)
        again = [run_of(n) for n in (3, 4, 5)]
        folder = promote(again, tmp_path, reason="one cell", cases=parse_filter(f"case={IDS[1]}"), today=TODAY)
        assert verify_baseline(folder) == ()
        rows = {row.case_id: row for row in compare(run_of(6), loaded(tmp_path), kind="baseline").verdicts}
        assert {row.design for row in rows.values()} == {"blocked"}
        assert [rows[case_id].reference_launches for case_id in IDS] == [12, 18, 12, 12]

    def test_orders_of_a_run_that_is_not_listed_are_found(self, tmp_path: Path) -> None:
        folder = promote([run_of(1, order=0.0)], tmp_path, reason="first", today=TODAY)
        _edit_metadata(folder, lambda document: document.update(launch_orders={"nobody": {"1": "x"}}))
        assert verify_baseline(folder) == ("metadata.json states the launch orders of nobody, which it does not list",)

    def test_without_orders_the_file_is_as_before(self, tmp_path: Path) -> None:
        unknown = run_of(1, order=0.0).model_copy(update={"launch_orders": {}})
        folder = promote([unknown], tmp_path, reason="first", today=TODAY)
        assert "launch_orders" not in (folder / METADATA).read_text()
        assert compare(run_of(2), loaded(tmp_path), kind="baseline").design == "unpaired"


@pytest.mark.parametrize("folder", list_baselines(SHIPPED), ids=lambda folder: folder.name)
def test_shipped_baselines_keep_their_bytes(folder: Path) -> None:
    assert verify_baseline(folder) == ()
    for name, content in to_files(from_folder(folder)).items():
        assert (folder / name).read_bytes() == content


class TestFitness:
    def test_orders_are_no_spread_of_the_launches(self, tmp_path: Path) -> None:
        """3 % from order to order, 0.2 % from run to run: fit where the orders are known, and only there."""
        runs = [run_of(n) for n in (1, 2, 3)]
        assert prepare(runs, tmp_path, reason="r").files
        unknown = [each.model_copy(update={"launch_orders": {}}) for each in runs]
        with pytest.raises(BaselineError, match=r"resolve the threshold of .*\(MDE \d+\.\d % > 2\.0 %\)"):
            prepare(unknown, tmp_path, reason="r")

    def test_noise_of_the_runs_own_is(self, tmp_path: Path) -> None:
        with pytest.raises(BaselineError, match="resolve the threshold"):
            prepare([run_of(n, own=0.03) for n in (1, 2, 3)], tmp_path, reason="r")

    def test_a_single_run_cannot_tell_them_apart(self, tmp_path: Path) -> None:
        with pytest.raises(BaselineError, match="resolve the threshold"):
            prepare([run_of(1)], tmp_path, reason="r")
