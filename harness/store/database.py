"""Opening the DuckDB file: one transaction per opening, waiting for other processes, migrations.

DuckDB lets no reader in while a writer has the file open, and no writer while a reader has. So a file is open only for
one transaction, whoever finds it taken tries again for `patience_s`, and writers queue at a lock file beside it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
from filelock import FileLock, Timeout

from harness.errors import StoreError

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

PATIENCE_S = 10.0
_FIRST_PAUSE_S = 0.005
_LONGEST_PAUSE_S = 0.2
_SIGNS_OF_USE = (
    "Could not set lock",  # another process
    "different configuration than existing",  # another thread of this process reads while this one writes, or so
    "Unique file handle conflict",  # another thread is opening or closing the file at this moment
)
"""What DuckDB's messages say of a file in use: it has no exception of its own for it (seen with 2.0)."""


_REMEDY = "name another file with --store, or move this one away"


@dataclass(frozen=True, kw_only=True)
class Migration:
    """One numbered step of the schema; `version` counts from 1 without gaps."""

    version: int
    name: str
    sql: str


def shipped_migrations() -> tuple[Migration, ...]:
    """The steps in `schema/NNNN_name.sql`, in order."""
    found = sorted(
        (entry for entry in (files("harness.store") / "schema").iterdir() if entry.name.endswith(".sql")),
        key=lambda entry: entry.name,
    )
    steps = tuple(
        Migration(
            version=int(entry.name[:4]), name=entry.name.removesuffix(".sql"), sql=entry.read_text(encoding="utf-8")
        )
        for entry in found
    )
    assert [step.version for step in steps] == list(range(1, len(steps) + 1)), "schema numbers must have no gap"
    return steps


class Database:
    """A DuckDB file with this program's schema."""

    def __init__(
        self, path: Path, *, migrations: Sequence[Migration] | None = None, patience_s: float = PATIENCE_S
    ) -> None:
        self.path = path
        self._migrations = tuple(migrations) if migrations is not None else shipped_migrations()
        self._patience_s = patience_s

    @property
    def version(self) -> int:
        """The schema version this program writes."""
        return self._migrations[-1].version

    @contextmanager
    def reading(self) -> Iterator[DuckDBPyConnection]:
        """A read-only connection; an older file is migrated first."""
        self._require()
        connection = self._connect(read_only=True)
        if self._version_of(connection) < self.version:
            connection.close()
            with self.writing():
                pass
            connection = self._connect(read_only=True)
        with self._errors_named(), connection:
            yield connection

    @contextmanager
    def writing(self, *, create: bool = False) -> Iterator[DuckDBPyConnection]:
        """A connection inside one transaction: committed at the end, rolled back on any exception.

        Args:
            create: make the file (and its folder) if there is none; else a missing file raises StoreError.
        """
        if create:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        else:
            self._require()
        with self._writers_lock(), self._connect(read_only=False) as connection, self._errors_named():
            version = self._version_of(connection)
            connection.begin()
            try:
                self._migrate(connection, version)
                yield connection
            except BaseException:
                connection.rollback()
                raise
            connection.commit()

    def _require(self) -> None:
        if not self.path.is_file():
            raise StoreError(f"no store at {self.path}; `iroot bench run` creates one, --store FILE names another")

    @contextmanager
    def _writers_lock(self) -> Iterator[None]:
        lock = FileLock(self.path.with_name(self.path.name + ".lock"), timeout=self._patience_s)
        try:
            lock.acquire()
        except Timeout:
            raise StoreError(
                f"{self.path}: another process has been writing for {self._patience_s:g} s; wait for it to end"
            ) from None
        try:
            yield
        finally:
            lock.release()

    def _connect(self, *, read_only: bool) -> DuckDBPyConnection:
        deadline = time.monotonic() + self._patience_s
        pause = _FIRST_PAUSE_S
        while True:
            try:
                return duckdb.connect(str(self.path), read_only=read_only)
            except duckdb.Error as error:
                if not _is_taken(error):
                    raise StoreError(f"{self.path} cannot be opened as a store: {error}; {_REMEDY}") from error
                if time.monotonic() > deadline:
                    raise StoreError(
                        f"{self.path} is in use, waited {self._patience_s:g} s: {_first_sentence(error)}"
                    ) from error
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_S)

    @contextmanager
    def _errors_named(self) -> Iterator[None]:
        try:
            yield
        except duckdb.Error as error:
            raise StoreError(f"{self.path}: {error}") from error

    def _version_of(self, connection: DuckDBPyConnection) -> int:
        """The file's schema version, 0 for an empty file; closes the connection when it refuses."""
        try:
            return self._checked_version(connection)
        except duckdb.Error as error:
            connection.close()
            raise StoreError(f"{self.path} cannot be read as a store: {error}") from error
        except StoreError:
            connection.close()
            raise

    def _checked_version(self, connection: DuckDBPyConnection) -> int:
        tables = {row[0] for row in execute(connection, "select table_name from duckdb_tables()")}
        if not tables:
            return 0
        if "schema_migration" not in tables:
            raise StoreError(
                f"{self.path} is a DuckDB file of something else: it has no table schema_migration; {_REMEDY}"
            )
        ((newest,),) = execute(connection, "select coalesce(max(version), 0) from schema_migration")
        version = int(newest)
        if version > self.version:
            raise StoreError(
                f"{self.path} has schema version {version}, this program knows versions up to {self.version}; "
                "update iroot or name another file with --store"
            )
        return version

    def _migrate(self, connection: DuckDBPyConnection, version: int) -> None:
        if version == 0:
            execute(
                connection,
                "create table if not exists schema_migration"
                " (version integer primary key, name varchar not null, applied_at varchar not null)",
            )
        for step in self._migrations[version:]:
            execute(connection, step.sql)
            now = datetime.now(UTC).isoformat(timespec="seconds")
            execute(connection, "insert into schema_migration values (?, ?, ?)", [step.version, step.name, now])


def execute(
    connection: DuckDBPyConnection, statement: str, parameters: Sequence[object] | Mapping[str, object] = ()
) -> list[tuple[Any, ...]]:
    """Run a statement to its end and return its rows.

    Nothing else of this package leaves a result half read: DuckDB 2.0 refuses further work on such a connection.
    """
    result: list[tuple[Any, ...]] = connection.execute(statement, parameters).fetchall()
    return result


def _is_taken(error: duckdb.Error) -> bool:
    """Whether another connection, of this or another process, has the file open in a way that excludes ours."""
    text = str(error)
    return any(sign in text for sign in _SIGNS_OF_USE)


def _first_sentence(error: duckdb.Error) -> str:
    return str(error).split(" See also")[0].rstrip(".")
