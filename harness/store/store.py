"""The store's interface: runs in, records and summaries out."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import StoreError
from harness.paths import check_run_id
from harness.records import Comparison, LaunchRecord, MachineIdentity, RunRecord, RunStatus, RunSummary
from harness.run_lock import is_measured
from harness.store import queries, rows
from harness.store.database import PATIENCE_S, Database, Migration, execute
from harness.store.summary import summarize

if TYPE_CHECKING:
    import pandas as pd
    from duckdb import DuckDBPyConnection

    from harness.qualification import Qualification

LATEST = "latest"


class Store:
    """One DuckDB file. Every method is one transaction; the file is closed between calls.

    Every method raises StoreError, naming the file, where it is missing, damaged, written by a newer version, or in use
    by another process for longer than `patience_s`.
    """

    def __init__(
        self, path: Path, *, patience_s: float = PATIENCE_S, migrations: Sequence[Migration] | None = None
    ) -> None:
        self.path = path
        self._database = Database(path, migrations=migrations, patience_s=patience_s)

    # --- writing ---------------------------------------------------------------------------------------------------

    def create_run(self, run: RunRecord) -> None:
        """Add a run without launches; creates the file if there is none. Raises StoreError if the id exists."""
        self.import_run(run, ())

    def import_run(self, run: RunRecord, launches: Iterable[LaunchRecord]) -> None:
        """Add a run with all its launches in one transaction. Raises StoreError if the id exists."""
        check_run_id(run.run_id)
        _check_cases(run)
        with self._database.writing(create=True) as connection:
            if execute(connection, "select 1 from run where run_id = ?", [run.run_id]):
                raise StoreError(f"{self.path} holds a run {run.run_id} already")
            _insert_run(connection, run)
            for launch in launches:
                self._insert_launch(connection, launch)

    def ingest_launch(self, launch: LaunchRecord) -> None:
        """Add a launch, or what a resumed launch adds; a case that the launch measured before is replaced.

        Processes and wall time are those of the launch so far: a launch that goes on from an earlier part names the
        earlier processes again and counts their time.

        Raises:
            StoreError: the run or a case of it is unknown, or a sample is not a positive finite time.
        """
        with self._database.writing() as connection:
            self._insert_launch(connection, launch)

    def finish_run(self, run_id: str, status: RunStatus) -> None:
        """Set how a run ended."""
        self._set_status(run_id, status)

    def reopen_run(self, run_id: str) -> None:
        """A run begins, or goes on: it is `running` for as long as its process holds the run's lock."""
        self._set_status(run_id, RunStatus.RUNNING)

    def save_comparison(self, comparison: Comparison) -> str:
        """Keep a comparison and return its id, a hash of its content: saving it twice keeps it once."""
        comparison_id = hashlib.sha256(comparison.model_dump_json().encode()).hexdigest()[:12]
        with self._database.writing() as connection:
            query = "select count(*), coalesce(bool_or(comparison_id = ?), false) from comparison"
            position, known = execute(connection, query, [comparison_id])[0]
            if not known:
                rows.insert(connection, "comparison", [rows.comparison_row(comparison, comparison_id, position)])
                verdicts = enumerate(comparison.verdicts)
                rows.insert(connection, "verdict", [rows.verdict_row(v, comparison_id, i) for i, v in verdicts])
        return comparison_id

    def save_qualification(self, qualification: Qualification) -> None:
        """Keep what was found of this machine, as the last; creates the file if there is none.

        One of the same id is replaced: the same qualification, with more measured.
        """
        with self._database.writing(create=True) as connection:
            ((position,),) = execute(connection, "select coalesce(max(position) + 1, 0) from qualification")
            row = rows.qualification_row(qualification, position)
            found = "select 1 from qualification where qualification_id = ?"
            if execute(connection, found, [qualification.qualification_id]):
                change = "update qualification set position = $position, record = $record where qualification_id = $id"
                values = {"position": position, "record": row["record"], "id": qualification.qualification_id}
                execute(connection, change, values)
            else:
                rows.insert(connection, "qualification", [row])

    # --- reading ---------------------------------------------------------------------------------------------------

    def runs(
        self,
        *,
        manifest: str | None = None,
        machine_class: str | None = None,
        status: RunStatus | None = None,
        limit: int | None = None,
    ) -> list[RunRecord]:
        """Runs that fit every given condition, newest first. `running`: a process measures the run at this moment."""
        wanted = {"manifest": manifest, "machine_class": machine_class}
        conditions = {column: value for column, value in wanted.items() if value is not None}
        with self._database.reading() as connection:
            if status is None:
                return [self._seen(run) for run in queries.select_runs(connection, conditions, limit)]
            stored = [RunStatus.RUNNING, *({status} - {RunStatus.RUNNING})]
            found = [
                run
                for each in stored
                for run in map(self._seen, queries.select_runs(connection, {**conditions, "status": str(each)}))
                if run.status is status
            ]
        return sorted(found, key=lambda run: (run.created_at, run.run_id), reverse=True)[:limit]

    def run(self, ref: str) -> RunRecord:
        """One run by its id, a unique beginning of it, or `latest`: the newest complete run that is no arm of an A/B.

        Raises StoreError naming the nearest id, or the newest run where none of them is `latest`.
        """
        with self._database.reading() as connection:
            return self._run(connection, ref)

    def newer_than_latest(self) -> list[RunRecord]:
        """The runs that `latest` passes over, newest first: arms of an A/B or a gate, and incomplete runs."""
        with self._database.reading() as connection:
            latest = self._resolve(connection, LATEST)
            newer = queries.run_ids(connection).index(latest)
            return [self._seen(run) for run in queries.select_runs(connection, {}, newer)]

    def summary(self, run_id: str) -> RunSummary:
        """A run reduced to launch medians, exp(median(log sample)), quality and outcomes. Takes what `run` takes."""
        with self._database.reading() as connection:
            return summarize(connection, self._run(connection, run_id))

    def launches(self, run_id: str) -> list[LaunchRecord]:
        """Everything stored of a run's launches, raw samples included. Takes what `run` takes."""
        with self._database.reading() as connection:
            return queries.select_launches(connection, self._run(connection, run_id).run_id)

    def measured(self, run_id: str) -> set[tuple[int, str]]:
        """(launch, case_id) of everything that has an outcome."""
        query = "select launch, case_id from outcome join case_ using (case_key) where run_id = ?"
        with self._database.reading() as connection:
            self._require_run(connection, run_id)
            return set(execute(connection, query, [run_id]))

    def samples(self, run_id: str) -> pd.DataFrame:
        """Raw samples: columns case_id, launch, position, seconds; in the plan's order."""
        query = (
            "select case_id, launch, sample.position, seconds from sample join case_ using (case_key)"
            " where run_id = ? order by case_.position, launch, sample.position"
        )
        with self._database.reading() as connection:
            self._require_run(connection, run_id)
            frame: pd.DataFrame = connection.execute(query, [run_id]).df()
            return frame

    def comparisons(self, run_id: str) -> list[Comparison]:
        """Saved comparisons that name this run on either side, the last saved first."""
        with self._database.reading() as connection:
            return queries.select_comparisons(connection, run_id)

    def qualification(self, machine: MachineIdentity, manifest: str) -> Qualification | None:
        """The last qualification of this very machine for a manifest, or None."""
        return next(iter(self.qualifications(machine, manifest)), None)

    def qualifications(self, machine: MachineIdentity, manifest: str) -> list[Qualification]:
        """Those of this very machine (like hardware, the same unit) for a manifest, the last saved first."""
        with self._database.reading() as connection:
            found = queries.select_qualifications(connection, machine.machine_class, manifest)
        return [q for q in found if not q.machine.differences(machine) and q.machine.uuid == machine.uuid]

    # --- inside a transaction --------------------------------------------------------------------------------------

    def _set_status(self, run_id: str, status: RunStatus) -> None:
        with self._database.writing() as connection:
            self._require_run(connection, run_id)
            execute(connection, "update run set status = ? where run_id = ?", [str(status), run_id])

    def _seen(self, run: RunRecord) -> RunRecord:
        """`run` as it stands: one that was running when its process died is interrupted, though nobody could say so."""
        if run.status is not RunStatus.RUNNING or is_measured(self.path, run.run_id):
            return run
        return run.model_copy(update={"status": RunStatus.INTERRUPTED})

    def _run(self, connection: DuckDBPyConnection, ref: str) -> RunRecord:
        return self._seen(queries.select_runs(connection, {"run_id": self._resolve(connection, ref)})[0])

    def _resolve(self, connection: DuckDBPyConnection, ref: str) -> str:
        known = queries.run_ids(connection)
        if not known:
            raise StoreError(f"{self.path} holds no run yet; `iroot bench run` measures one")
        if ref == LATEST:
            return self._latest(connection, known)
        if ref in known:
            return ref
        fitting = [run_id for run_id in known if ref and run_id.startswith(ref)]
        if len(fitting) > 1:
            raise StoreError(f"{self.path}: {ref!r} begins {len(fitting)} run ids: {', '.join(fitting[:5])}")
        if not fitting:
            nearest = difflib.get_close_matches(ref, known, n=1, cutoff=0.0)[0]
            raise StoreError(f"{self.path} holds no run {ref!r}; the nearest is '{nearest}'")
        return fitting[0]

    def _latest(self, connection: DuckDBPyConnection, known: Sequence[str]) -> str:
        latest = queries.latest_run_id(connection)
        if latest is not None:
            return latest
        raise StoreError(
            f"{self.path}: 'latest' is the newest complete run that is no arm of an A/B, and there is none; name a run "
            f"by its id, the newest is {known[0]}"
        )

    def _require_run(self, connection: DuckDBPyConnection, run_id: str) -> None:
        if not execute(connection, "select 1 from run where run_id = ?", [run_id]):
            self._resolve(connection, run_id)  # raises with the nearest id, unless run_id is only a reference
            raise StoreError(f"{self.path} holds no run {run_id!r}; a full run id is needed here")

    def _insert_launch(self, connection: DuckDBPyConnection, launch: LaunchRecord) -> None:
        self._require_run(connection, launch.run_id)
        keys = queries.case_keys(connection, launch.run_id)
        _check_launch(launch, keys)
        samples = rows.sample_table(launch, keys)
        _forget(connection, launch, [keys[result.case_id] for result in launch.results])
        head = {"run_id": launch.run_id, "launch": launch.launch, "wall_s": launch.wall_s}
        rows.insert(connection, "launch", [head])
        rows.insert(connection, "process", [rows.process_row(p, i) for i, p in enumerate(launch.processes)])
        rows.insert(connection, "outcome", [rows.outcome_row(r, keys[r.case_id]) for r in launch.results])
        rows.insert(connection, "quality", rows.quality_rows(launch.results, keys))
        if samples.num_rows:
            rows.insert_arrow(connection, "sample", samples)


def _insert_run(connection: DuckDBPyConnection, run: RunRecord) -> None:
    machine = rows.machine_row(run.machine)
    if not execute(connection, "select 1 from machine where machine_id = ?", [machine["machine_id"]]):
        rows.insert(connection, "machine", [machine])
    rows.insert(connection, "run", [rows.run_row(run)])
    ((last,),) = execute(connection, "select coalesce(max(case_key), 0) from case_")
    rows.insert(connection, "case_", rows.case_rows(run, last + 1))


def _check_cases(run: RunRecord) -> None:
    names = [planned.case.case_id for planned in run.cases]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise StoreError(f"run {run.run_id}: every case must be planned once, got {twice} twice")


def _check_launch(launch: LaunchRecord, keys: dict[str, int]) -> None:
    seen: set[str] = set()
    for result in launch.results:
        if result.case_id not in keys:
            raise StoreError(f"run {launch.run_id} plans no case {result.case_id}, but a result names it")
        if result.launch != launch.launch:
            raise StoreError(f"launch {launch.launch} holds a result of launch {result.launch}: {result.case_id}")
        if result.case_id in seen:
            raise StoreError(f"launch {launch.launch} holds two results of {result.case_id}")
        seen.add(result.case_id)


def _forget(connection: DuckDBPyConnection, launch: LaunchRecord, case_keys: list[int]) -> None:
    """Remove what the launch's record replaces."""
    for table in ("launch", "process"):
        execute(connection, f"delete from {table} where run_id = ? and launch = ?", [launch.run_id, launch.launch])
    for table in ("outcome", "sample", "quality"):
        execute(
            connection,
            f"delete from {table} where launch = ? and list_contains(?, case_key)",
            [launch.launch, case_keys],
        )
