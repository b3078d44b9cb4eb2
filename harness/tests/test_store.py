"""The store: what goes in comes out, and whatever goes wrong leaves the file as it was."""

from __future__ import annotations

import hashlib
import math
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import duckdb
import pytest
from pydantic import BaseModel

from harness.errors import StoreError, UsageError
from harness.records import (
    Case,
    CaseResult,
    CaseVerdict,
    Comparison,
    FirstCallRule,
    LaunchedKernel,
    LaunchRecord,
    MachineIdentity,
    MemoryRule,
    Mode,
    Outcome,
    PlannedCase,
    Quality,
    RunRecord,
    RunStatus,
    TimingPolicy,
    Verdict,
)
from harness.store import Store
from harness.store.database import Migration, shipped_migrations
from harness.tests import factories as make


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "folder" / "test.duckdb")


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _filled(store: Store, run: RunRecord | None = None) -> RunRecord:
    run = run or make.make_run()
    store.create_run(run)
    for launch in make.make_launches(run):
        store.ingest_launch(launch)
    store.finish_run(run.run_id, RunStatus.COMPLETE)
    return store.run(run.run_id)


def _every_field_set(record: BaseModel) -> bool:
    """Whether no field holds its default: then a column that is missing cannot go unnoticed."""
    constant = {"event", "schema_version"}
    return all(
        getattr(record, name) != field.default
        for name, field in type(record).model_fields.items()
        if name not in constant
    )


# --- round trips ---------------------------------------------------------------------------------------------


def _full_case() -> PlannedCase:
    options = (("degree", 5), ("flag", True), ("safety", 1.0), ("steps", (3.5, 1, "x")), ("table", "pe"))
    case = Case(
        task="inverse_apply", method="chebyshev", precision="fp16", p=4, m=64, n=65, batch=2, k=7,
        problem="spike", mode=Mode.EAGER, options=options,
    )  # fmt: skip
    timing = TimingPolicy(samples=9, min_sample_s=1e-3, warmup_s=0.5, input_sets=2, cold=True, min_graph_s=1e-4)
    return PlannedCase(
        case=case, timing=timing, seeds=3, expect="nonfinite", timeout_s=7.5, target_error=1e-2, threshold=0.03,
        gates=False, control=True, memory=MemoryRule(fails=True), first_call=FirstCallRule(minimum_s=1.0),
    )  # fmt: skip


def _full_run(planned: PlannedCase) -> RunRecord:
    machine = MachineIdentity(
        machine_class="m", kind="cuda", model="M", memory_bytes=3, sm_count=4, mig=True, ecc=False,
        power_limit_w=0.1 + 0.2, threads=8, uuid="u",
    )  # fmt: skip
    run = make.make_run([planned, *make.make_cases(2)], machine=machine, status=RunStatus.INTERRUPTED)
    software = run.software.model_copy(update={"kernel_table": "kernels_m.json sha256:0123456789ab"})
    return run.model_copy(
        update={"filter": "p=4", "seed": 11, "imported_from": "elsewhere", "arm": "WORKTREE", "software": software}
    ).model_copy(update={"paired_with": "20260102-000000-quick-0000", "note": "a 'note'\n"})


def test_a_run_comes_back_equal(store: Store) -> None:
    planned = _full_case()
    run = _full_run(planned)
    for record in (planned, planned.case, planned.timing, run, run.machine, run.software, run.source):
        assert _every_field_set(record), record
    store.create_run(run)
    assert store.run(run.run_id) == run
    assert store.run(run.run_id).cases[0].case.options == planned.case.options
    assert [type(value) for _, value in store.run(run.run_id).cases[0].case.options] == [int, bool, float, tuple, str]


def test_a_launch_comes_back_equal(store: Store) -> None:
    planned = _full_case()
    run = _full_run(planned)
    full = CaseResult(
        case_id=planned.case.case_id, launch=2, process_id=77, outcome=Outcome.NONFINITE, error="ünicode\nlines",
        samples_s=(0.1, 1 / 3, 5e-324, 1e300), calls_per_sample=3, peak_bytes=2**40, first_call_s=math.pi,
        quality=(
            Quality(seed=0, relative_error=math.inf, residual=None, symmetry=0.0, orthogonality=1e-300, nonfinite=9),
            Quality(seed=3, relative_error=1.0, residual=2.0, symmetry=3.0, orthogonality=4.0, nonfinite=2**40),
        ),
        kernels=(
            LaunchedKernel(name="iroot.kernels.a", code_hash="ab" * 32, hashed="binary", launches=4,
                           configuration=(("BLOCK", 64), ("DTYPE", "bf16"), ("EARLY", True), ("alpha", 0.5))),
        ),
        injected_effect=0.031, timed_s=1.25, wall_s=2.5,
        state_before=make.make_state(),
        state_after=make.make_state().model_copy(update={"throttle_reasons": ("hw_slowdown", "sw_power_cap")}),
    )  # fmt: skip
    assert _every_field_set(full)
    assert _every_field_set(full.quality[1])
    other = make.make_failure(run.cases[1], 2, Outcome.TIMEOUT)
    starts = tuple(make.make_started(run.run_id, 2, process_id=pid, startup_s=pid / 7) for pid in (77, 12))
    launch = LaunchRecord(run_id=run.run_id, launch=2, processes=starts, results=(full, other), wall_s=1 / 7)
    store.create_run(run)
    store.ingest_launch(launch)
    assert store.launches(run.run_id) == [launch]
    assert store.measured(run.run_id) == {(2, full.case_id), (2, other.case_id)}
    assert store.samples(run.run_id)["seconds"].tolist() == list(full.samples_s)


def test_two_runs_do_not_mix(store: Store) -> None:
    first, second = (_filled(store, make.make_run(number=number)) for number in (1, 2))
    assert store.launches(first.run_id) == list(make.make_launches(first))
    assert store.launches(second.run_id) == list(make.make_launches(second))
    assert len(store.samples(second.run_id)) == 4 * 3 * 8


def test_a_comparison_comes_back_equal_and_is_kept_once(store: Store) -> None:
    run = _filled(store)
    case = run.cases[0].case
    row = CaseVerdict(case_id=case.case_id, case=case, verdict=Verdict.REGRESSED, ratio=1.1, p_value=1e-12, low=1.05)
    gone = row.model_copy(update={"verdict": Verdict.MISSING, "gates": False, "reason": "not measured"})
    comparison = Comparison(
        candidate=run.run_id, reference="20250101-000000-quick-ffff", kind="previous_run", manifest="quick",
        machine_class="m", control_ratios={"x": 1.0}, verdicts=(row, gone),
    )  # fmt: skip
    comparison_id = store.save_comparison(comparison)
    assert store.save_comparison(comparison) == comparison_id
    later = comparison.model_copy(update={"forced": True})
    assert store.save_comparison(later) != comparison_id
    assert store.comparisons(run.run_id) == [later, comparison]
    assert store.comparisons("20250101-000000-quick-ffff") == [later, comparison]
    assert store.comparisons("20250101-000000-quick-0000") == []


# --- summaries -----------------------------------------------------------------------------------------------


def test_summary_holds_the_planted_medians(store: Store) -> None:
    run = make.make_run(status=RunStatus.COMPLETE)
    planted = {planned.case.case_id: 1e-5 * (i + 1) ** 3 for i, planned in enumerate(run.cases)}
    store.create_run(run)
    for launch in make.make_launches(run, medians_s=planted):
        store.ingest_launch(launch)
    summary = store.summary(run.run_id)
    assert summary.run == run
    assert list(summary.cases) == [planned.case.case_id for planned in run.cases]
    for case_id, case in summary.cases.items():
        assert case.launch_medians_s == {n: pytest.approx(planted[case_id], rel=1e-12) for n in (1, 2, 3)}
        assert case.outcome is Outcome.OK
        assert case.error is None
        assert case.quality == (make.make_quality(0), make.make_quality(1))
        assert case.peak_bytes == 1 << 20
        assert case.first_call_s == 0.5  # median of the timed launches' 0.25, 0.50, 0.75
        assert not case.throttled
    assert summary.controls == (run.cases[-1].case.case_id,)
    assert summary.timed_share == pytest.approx(0.4)
    assert summary.startup_s == 4.5
    assert summary.launch_wall_s == 4.0


def test_summary_holds_every_kernel_that_a_launch_saw(store: Store) -> None:
    run = make.make_run(make.make_cases(2, controls=0), launches=3)
    seen, unseen = run.cases
    plain, wide = (
        LaunchedKernel(name="m.product", code_hash="0" * 64, hashed="binary", configuration=(("BLOCK", n),), launches=2)
        for n in (64, 128)
    )
    store.create_run(run)
    for number, kernels in enumerate([(plain,), (plain,), (wide, plain)], 1):
        result = make.make_result(seen, number).model_copy(update={"kernels": kernels})
        store.ingest_launch(make.make_launch(run, number, results=[result]))
    cases = store.summary(run.run_id).cases
    assert cases[seen.case.case_id].kernels == (plain, wide)
    assert cases[unseen.case.case_id].kernels is None
    assert cases[seen.case.case_id].first_calls_s == (0.25, 0.5, 0.75)


def test_median_is_taken_of_logarithms(store: Store) -> None:
    run = make.make_run(make.make_cases(1, controls=0), launches=1)
    result = make.make_result(run.cases[0], 1).model_copy(update={"samples_s": (1.0, 4.0, 9.0, 1.0)})
    store.create_run(run)
    store.ingest_launch(make.make_launch(run, 1, results=[result]))
    (case,) = store.summary(run.run_id).cases.values()
    assert case.launch_medians_s == {1: pytest.approx(2.0, rel=1e-15)}  # sqrt(1 * 4), not 2.5


OK, FAILED, OOM, THROTTLED, UNSUPPORTED = (
    Outcome.OK, Outcome.FAILED, Outcome.OOM, Outcome.THROTTLED, Outcome.UNSUPPORTED,
)  # fmt: skip


@pytest.mark.parametrize(
    ("launches", "expected", "timed", "throttled"),
    [
        ((OK, OK, OK), OK, {1, 2}, False),
        ((OK, OK, FAILED), FAILED, {1}, False),
        ((OK, OOM, FAILED), OOM, set(), False),
        ((FAILED, OK, OOM), FAILED, {1}, False),
        ((UNSUPPORTED,), UNSUPPORTED, set(), False),
        ((OK, THROTTLED, OK), OK, {2}, True),
        ((OK, THROTTLED, THROTTLED), THROTTLED, set(), True),
        ((OK, THROTTLED, FAILED), FAILED, set(), True),
        ((OK,), OK, set(), False),
    ],
)
def test_outcomes_of_launches_merge(
    store: Store, launches: tuple[Outcome, ...], expected: Outcome, timed: set[int], throttled: bool
) -> None:
    run = make.make_run(make.make_cases(2), launches=2)
    store.create_run(run)
    for number, outcome in enumerate(launches):
        planned = run.cases[0]
        error = f"in launch {number}"
        bad = [] if outcome is OK else [make.make_failure(planned, number, outcome, error=error)]
        store.ingest_launch(make.make_launch(run, number, results=bad))
    case = store.summary(run.run_id).cases[run.cases[0].case.case_id]
    assert case.outcome is expected
    assert set(case.launch_medians_s) == timed
    assert case.throttled is throttled
    first = launches.index(expected)
    assert case.error == (None if expected is OK else f"in launch {first}")


def test_summary_of_an_unfinished_run_leaves_unmeasured_cases_out(store: Store) -> None:
    run = make.make_run()
    store.create_run(run)
    assert store.summary(run.run_id).cases == {}
    launch = make.make_launch(run, 0)
    store.ingest_launch(LaunchRecord(**{**vars(launch), "results": launch.results[:1]}))
    assert list(store.summary(run.run_id).cases) == [run.cases[0].case.case_id]
    assert store.summary(run.run_id).timed_share is None
    assert store.summary(run.run_id).launch_wall_s is None


# --- resuming ------------------------------------------------------------------------------------------------


def test_a_resumed_launch_adds_cases_and_replaces_what_it_measured_again(store: Store) -> None:
    run = make.make_run()
    store.create_run(run)
    whole = make.make_launch(run, 1)
    part = LaunchRecord(**{**vars(whole), "results": whole.results[:2], "wall_s": 2.0})
    store.ingest_launch(part)
    kept = make.make_launch(run, 2)
    store.ingest_launch(kept)
    again = make.make_result(run.cases[1], 1, median_s=7e-3, samples=5)
    resumed = LaunchRecord(
        run_id=run.run_id,
        launch=1,
        processes=(*part.processes, make.make_started(run.run_id, 1, process_id=9)),
        results=(again, *whole.results[2:]),
        wall_s=4.0,
    )
    store.ingest_launch(resumed)
    expected = LaunchRecord(**{**vars(resumed), "results": (whole.results[0], again, *whole.results[2:])})
    assert store.launches(run.run_id) == [expected, kept]
    store.ingest_launch(resumed)
    assert store.launches(run.run_id) == [expected, kept]


# --- looking up ----------------------------------------------------------------------------------------------


def test_latest_is_the_newest_complete_run_that_is_no_arm(store: Store) -> None:
    plain = _filled(store, make.make_run(number=1))
    arm = _filled(store, make.make_run(number=2).model_copy(update={"arm": "main"}))
    killed, failed = make.make_run(number=3), make.make_run(number=4, status=RunStatus.FAILED)
    for run in (killed, failed):
        store.create_run(run)
    assert store.run("latest") == plain
    newer = [(run.run_id, run.status) for run in store.newer_than_latest()]
    assert newer == [
        (failed.run_id, RunStatus.FAILED),
        (killed.run_id, RunStatus.INTERRUPTED),
        (arm.run_id, RunStatus.COMPLETE),
    ]


def test_without_a_complete_run_latest_is_refused(store: Store) -> None:
    store.create_run(make.make_run(status=RunStatus.INTERRUPTED))
    with pytest.raises(
        StoreError, match=f"there is none; name a run by its id, the newest is {make.make_run().run_id}"
    ):
        store.run("latest")


def test_lookup_by_id_prefix_and_latest(store: Store) -> None:
    old, new = (_filled(store, make.make_run(number=number)) for number in (61, 62))
    assert store.run("latest") == new
    assert store.run("20260102-0101") == old
    assert store.summary("latest").run == new
    with pytest.raises(StoreError, match="'20260102-01' begins 2 run ids"):
        store.run("20260102-01")
    with pytest.raises(StoreError, match=f"the nearest is '{old.run_id}'"):
        store.run(old.run_id.replace("quick", "quack"))
    with pytest.raises(StoreError, match="no run ''"):
        store.run("")


def test_listing_filters_and_is_newest_first(store: Store) -> None:
    store.create_run(make.make_run(number=2, machine=make.CPU))
    store.create_run(make.make_run(number=3))
    store.create_run(make.make_run(number=1, status=RunStatus.FAILED))

    def numbers(runs: list[RunRecord]) -> list[int]:
        return [int(run.run_id[-4:], 16) for run in runs]

    assert numbers(store.runs()) == [3, 2, 1]
    assert numbers(store.runs(limit=2)) == [3, 2]
    assert numbers(store.runs(machine_class=make.H100.machine_class)) == [3, 1]
    assert numbers(store.runs(status=RunStatus.FAILED)) == [1]
    assert numbers(store.runs(manifest="quick", machine_class=make.CPU.machine_class)) == [2]
    assert store.runs(manifest="other") == []


# --- refusals: nothing is written ----------------------------------------------------------------------------


def test_missing_file_is_named_and_not_created(tmp_path: Path) -> None:
    path = tmp_path / "none" / "x.duckdb"
    for call in (
        lambda: Store(path).runs(),
        lambda: Store(path).ingest_launch(make.make_launch(make.make_run(), 0)),
        lambda: Store(path).finish_run(make.make_run().run_id, RunStatus.FAILED),
    ):
        with pytest.raises(StoreError, match=r"no store at .*x\.duckdb"):
            call()
    assert not path.parent.exists()


@pytest.mark.parametrize("content", [b"", b"hello", b"x" * 20_000])
def test_garbage_is_refused_and_left_alone(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "garbage.duckdb"
    path.write_bytes(content)
    for call in (lambda: Store(path).runs(), lambda: Store(path).create_run(make.make_run())):
        with pytest.raises(StoreError, match=r"garbage\.duckdb cannot be opened as a store"):
            call()
    assert path.read_bytes() == content


def test_somebody_elses_duckdb_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.duckdb"
    with duckdb.connect(str(path)) as connection:
        connection.execute("create table t (x integer)")
    before = _digest(path)
    for call in (lambda: Store(path).runs(), lambda: Store(path).create_run(make.make_run())):
        with pytest.raises(StoreError, match=r"other\.duckdb is a DuckDB file of something else"):
            call()
    assert _digest(path) == before


def test_a_truncated_store_is_refused(store: Store) -> None:
    _filled(store)
    whole = store.path.read_bytes()
    store.path.write_bytes(whole[: len(whole) // 3])
    with pytest.raises(StoreError, match=r"test\.duckdb"):
        store.summary("latest")


KNOWN = len(shipped_migrations())
LATER = Migration(version=KNOWN + 1, name="later", sql="alter table run add column colour varchar default 'blue'")


def test_an_older_store_is_migrated_and_a_newer_one_refused(store: Store) -> None:
    run = _filled(store)
    newer = Store(store.path, migrations=(*shipped_migrations(), LATER))
    assert newer.run("latest") == run  # reading migrates
    with duckdb.connect(str(store.path), read_only=True) as connection:
        versions = connection.execute("select version from schema_migration order by 1").fetchall()
        assert versions == [(number,) for number in range(1, KNOWN + 2)]
        assert connection.execute("select distinct colour from run").fetchall() == [("blue",)]
    before = _digest(store.path)
    refusal = f"has schema version {KNOWN + 1}, this program knows versions up to {KNOWN}"
    for call in (lambda: store.runs(), lambda: store.create_run(make.make_run(number=2))):
        with pytest.raises(StoreError, match=refusal):
            call()
    assert _digest(store.path) == before


def test_a_failing_migration_changes_nothing(store: Store) -> None:
    run = _filled(store)
    statements = "drop table sample; alter table nowhere add column x integer"
    broken = Migration(version=KNOWN + 1, name="broken", sql=statements)
    with pytest.raises(StoreError, match="nowhere"):
        Store(store.path, migrations=(*shipped_migrations(), broken)).runs()
    assert store.run("latest") == run
    assert len(store.samples(run.run_id)) == 96


def test_refused_records_change_nothing(store: Store) -> None:
    run = _filled(store)
    before = store.launches(run.run_id)
    good = make.make_launch(run, 1, medians_s={run.cases[0].case.case_id: 5.0})

    def spoiled(**update: object) -> LaunchRecord:
        result = good.results[-1].model_copy(update=update)
        return LaunchRecord(**{**vars(good), "results": (*good.results[:-1], result)})

    first = good.results[0].case_id
    refusals = [
        (spoiled(case_id="no/such/case"), "plans no case no/such/case"),
        (spoiled(launch=2), "launch 1 holds a result of launch 2"),
        (spoiled(case_id=first), "two results of"),
        (spoiled(samples_s=(1.0, 0.0)), "positive finite seconds, got 0.0 in gemm/cublas"),
        (spoiled(samples_s=(math.nan,)), "got nan"),
        (spoiled(samples_s=(math.inf,)), "got inf"),
    ]
    for launch, message in refusals:
        with pytest.raises(StoreError, match=message):
            store.ingest_launch(launch)
    with pytest.raises(StoreError, match=r"holds a run .* already"):
        store.create_run(run)
    unknown = run.run_id[:-1] + "2"
    with pytest.raises(StoreError, match=f"no run '{unknown}'; the nearest is '{run.run_id}'"):
        store.finish_run(unknown, RunStatus.FAILED)
    assert store.launches(run.run_id) == before
    assert store.runs() == [run]


def test_refused_runs_create_no_file(tmp_path: Path) -> None:
    store = Store(tmp_path / "x.duckdb")
    with pytest.raises(UsageError, match="a run id looks like"):
        store.create_run(make.make_run().model_copy(update={"run_id": "../x"}))
    planned = make.make_planned()
    with pytest.raises(StoreError, match="planned once"):
        store.create_run(make.make_run([planned, planned]))
    assert list(tmp_path.iterdir()) == []


# --- crashes and concurrency ---------------------------------------------------------------------------------

_CRASH = """
import os, sys
from pathlib import Path
from harness.store import Store, rows
from harness.tests import factories as make
run = make.make_run()
kept, calls = rows.insert_arrow, []
def insert_arrow(connection, table, table_rows):
    kept(connection, table, table_rows)
    if table == "sample":
        os._exit(9)
rows.insert_arrow = insert_arrow
Store(Path(sys.argv[1])).ingest_launch(make.make_launch(run, 2))
"""


def test_a_crash_inside_a_transaction_leaves_the_state_before(store: Store) -> None:
    run = make.make_run()
    store.create_run(run)
    store.ingest_launch(make.make_launch(run, 1))
    ended = subprocess.run([sys.executable, "-c", _CRASH, str(store.path)], check=False)
    assert ended.returncode == 9
    assert store.launches(run.run_id) == [make.make_launch(run, 1)]
    store.ingest_launch(make.make_launch(run, 2))
    assert store.launches(run.run_id) == [make.make_launch(run, number) for number in (1, 2)]


_CRASH_AFTER_COMMIT = """
import os, sys
from pathlib import Path
from harness.store import Store
from harness.store.database import Database
from harness.tests import factories as make
class Dying(Database):
    def writing(self, **options):
        entered = super().writing(**options)
        class Commit:
            def __enter__(self):
                self.connection = entered.__enter__()
                return self.connection
            def __exit__(self, *_):
                self.connection.commit()
                os._exit(9)  # the file is not closed: what was committed stands in the write-ahead log
        return Commit()
store = Store(Path(sys.argv[1]))
store._database = Dying(store.path)
store.ingest_launch(make.make_launch(make.make_run(), 2))
"""


def test_a_crash_after_the_commit_loses_nothing(store: Store) -> None:
    run = make.make_run()
    store.create_run(run)
    ended = subprocess.run([sys.executable, "-c", _CRASH_AFTER_COMMIT, str(store.path)], check=False)
    assert ended.returncode == 9
    assert store.path.with_name(store.path.name + ".wal").exists()
    assert store.launches(run.run_id) == [make.make_launch(run, 2)]
    store.ingest_launch(make.make_launch(run, 1))
    assert store.launches(run.run_id) == [make.make_launch(run, number) for number in (1, 2)]


_READ = """
import sys
from pathlib import Path
from harness.store import Store
store = Store(Path(sys.argv[1]))
print("ready", flush=True)
seen = [len(store.measured(sys.argv[2])) for _ in range(15)]
assert seen == sorted(seen), seen
assert all(count % 4 == 0 for count in seen), seen
print(seen[-1])
"""


def test_readers_of_other_processes_and_threads_while_writing(store: Store) -> None:
    """Every reader gets in, and sees whole launches only."""
    run = make.make_run(launches=8)
    store.create_run(run)
    command = [sys.executable, "-c", _READ, str(store.path), run.run_id]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as reader, ThreadPoolExecutor() as pool:
        assert reader.stdout is not None
        assert reader.stdout.readline() == "ready\n"
        reading = pool.submit(lambda: [len(store.measured(run.run_id)) for _ in range(15)])
        for launch in make.make_launches(run):
            store.ingest_launch(launch)
        counts = reading.result()
        output = reader.stdout.read()
    assert reader.returncode == 0, output
    assert counts == sorted(counts)
    assert all(count % 4 == 0 for count in counts)
    assert len(store.measured(run.run_id)) == 9 * 4


_HOLD = """
import duckdb, sys
connection = duckdb.connect(sys.argv[1])
print("held", flush=True)
sys.stdin.read()
"""


def test_a_file_held_too_long_is_an_error_that_names_the_holder(store: Store) -> None:
    run = _filled(store)
    command = [sys.executable, "-c", _HOLD, str(store.path)]
    impatient = Store(store.path, patience_s=0.1)
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        for call in (lambda: impatient.runs(), lambda: impatient.finish_run(run.run_id, RunStatus.FAILED)):
            with pytest.raises(StoreError, match=rf"in use, waited 0.1 s: .*PID {holder.pid}"):
                call()
    assert impatient.run("latest") == run
