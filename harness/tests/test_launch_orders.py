"""Orders of launches: reproducible, known by their fingerprints, derived from what a stored run holds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from harness.launch_orders import launch_order, measured_orders, order_fingerprint
from harness.records import EXTERNAL, Outcome, PlannedCase, RunRecord, RunStatus
from harness.reference import compare_run
from harness.store import Store
from harness.tests.factories import (
    make_case,
    make_cases,
    make_failure,
    make_launch,
    make_launches,
    make_planned,
    make_run,
)

CASES = make_cases(8)
IDS = [planned.case.case_id for planned in CASES]


def ids(cases: tuple[PlannedCase, ...]) -> list[str]:
    return [planned.case.case_id for planned in cases]


def test_launches_have_their_own_reproducible_orders() -> None:
    first, second = (launch_order(CASES, seed=3, launch=launch) for launch in (1, 2))
    assert first != second
    assert sorted(ids(first)) == sorted(ids(second)) == sorted(IDS)
    assert launch_order(tuple(reversed(CASES)), seed=3, launch=1) == first
    assert launch_order(CASES, seed=4, launch=1) != first


def test_the_order_of_stored_runs_may_not_change() -> None:
    """It is derived from them whenever they are compared: another rule would take old and new runs for equal."""
    assert [IDS.index(name) for name in ids(launch_order(CASES, seed=0, launch=1))] == [1, 3, 7, 4, 5, 6, 0, 2]


class TestFingerprints:
    def test_stand_for_launch_order_and_processes(self) -> None:
        one = order_fingerprint(1, [["a", "b", "c"]])
        others = {
            order_fingerprint(2, [["a", "b", "c"]]),
            order_fingerprint(1, [["b", "a", "c"]]),
            order_fingerprint(1, [["a"], ["b", "c"]]),
            order_fingerprint(1, [["a", "b"]]),
        }
        assert len({one, *others}) == 5
        assert one == order_fingerprint(1, [["a", "b", "c"]])

    def test_cases_that_were_not_measured_had_no_part(self) -> None:
        run = make_run(CASES)
        order = ids(launch_order(CASES, seed=0, launch=1))
        measured = dict.fromkeys(IDS, 7)
        del measured[order[2]]
        found = measured_orders(run, {0: dict.fromkeys(IDS, 6), 1: measured})
        assert found == {1: order_fingerprint(1, [order[:2] + order[3:]])}

    def test_a_new_process_is_part_of_the_order(self) -> None:
        run = make_run(CASES)
        order = ids(launch_order(CASES, seed=0, launch=1))
        measured = {name: 7 if place < 3 else 8 for place, name in enumerate(order)}
        assert measured_orders(run, {1: measured}) == {1: order_fingerprint(1, [order[:3], order[3:]])}

    def test_nothing_is_known_of_another_program(self) -> None:
        case = make_case().model_copy(update={"task": EXTERNAL})
        run = make_run([make_planned(case)])
        assert measured_orders(run, {1: {case.case_id: 0}}) == {}


class TestStore:
    def test_a_stored_run_is_compared_launch_by_launch(self, tmp_path: Path) -> None:
        store = Store(tmp_path / "store.duckdb")
        whole, part = make_run(CASES, number=1, launches=4), make_run(CASES[:5], number=3, launches=4)
        for run in (whole, make_run(CASES, number=2, launches=4), part.model_copy(update={"filter": "n<2000"})):
            store.create_run(run)
            for launch in make_launches(run):
                store.ingest_launch(launch)
            store.finish_run(run.run_id, RunStatus.COMPLETE)
        ids = [run.run_id for run in store.runs()]
        same, other = (compare_run(store, ids[place], whole.run_id) for place in (1, 0))
        assert same is not None
        assert other is not None
        assert (same.design, other.design) == ("blocked", "unpaired")
        assert other.notes[-1].endswith("the sides measured other cases, filter n<2000 and none")

    def test_a_resumed_launch_is_another_order(self, tmp_path: Path) -> None:
        store = Store(tmp_path / "store.duckdb")
        run = make_run(CASES, number=1)
        store.create_run(run)
        launches = [make_launch(run, number) for number in (1, 2)]
        results = [
            result.model_copy(update={"process_id": 9999}) if place > 3 else result
            for place, result in enumerate(launches[1].results)
        ]
        store.ingest_launch(launches[0])
        store.ingest_launch(replace(launches[1], results=tuple(results)))
        found, plain = store.summary(run.run_id).launch_orders, self.orders(tmp_path, make_run(CASES, number=2))
        assert found[1] == plain[1]
        assert found[2] != plain[2]

    def orders(self, folder: Path, run: RunRecord, *, fails: str | None = None) -> dict[int, str]:
        store = Store(folder / f"{run.run_id}.duckdb")
        store.create_run(run)
        planned = {each.case.case_id: each for each in run.cases}
        for number in range(run.launches + 1):
            results = [make_failure(planned[fails], number, Outcome.FAILED)] if fails else []
            store.ingest_launch(make_launch(run, number, results=results))
        return store.summary(run.run_id).launch_orders

    def test_two_runs_of_one_manifest_share_them(self, tmp_path: Path) -> None:
        first, second = (self.orders(tmp_path, make_run(CASES, number=number)) for number in (1, 2))
        assert first == second
        assert sorted(first) == [1, 2, 3]
        assert len(set(first.values())) == 3

    def test_runs_of_other_cases_or_another_seed_do_not(self, tmp_path: Path) -> None:
        whole = self.orders(tmp_path, make_run(CASES, number=1))
        part = self.orders(tmp_path, make_run(CASES[:5], number=2))
        shuffled = self.orders(tmp_path, make_run(CASES, number=3).model_copy(update={"seed": 1}))
        assert not set(whole.values()) & set(part.values())
        assert not set(whole.values()) & set(shuffled.values())
