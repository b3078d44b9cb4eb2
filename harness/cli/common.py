"""What the commands share: option types, consoles, JSON output."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

if TYPE_CHECKING:
    from pydantic import BaseModel

    from harness.records import RunRecord
    from harness.store import Store

LATEST = "latest"
_NAMED = 3
"""Runs that `latest` passes over and that are named; the others are counted."""

StoreOption = Annotated[
    Path | None,
    typer.Option("--store", help="DuckDB file.", show_default="benchmark_results/iroot.duckdb", dir_okay=False),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
DeviceOption = Annotated[
    str | None,
    typer.Option("--device", help="cpu, cuda or cuda:INDEX.", show_default="cuda:0 if there is one, else cpu"),
]


def console() -> Console:
    """The console for results, on stdout. Made per call, so that a redirected stdout is the one written to."""
    return Console(highlight=False)


def errors_console() -> Console:
    """The console for errors, notes and progress, on stderr."""
    return Console(stderr=True, highlight=False)


def store_path(store: Path | None) -> Path:
    """The store a command works on."""
    if store is not None:
        return store
    from harness.paths import default_store

    return default_store()


def run_id_of(store: Store, ref: str) -> str:
    """The id of the run that a command was given; where `latest` passes over newer runs, a note on stderr says so."""
    run_id = store.run(ref).run_id
    newer = store.newer_than_latest() if ref == LATEST else []
    if newer:
        named = [f"{run.run_id} ({_why_not_latest(run)})" for run in newer[:_NAMED]]
        more = [f"{len(newer) - _NAMED} more"] if len(newer) > _NAMED else []
        note = f"latest is {run_id}; newer, and passed over: {', '.join([*named, *more])}"
        errors_console().print(note, markup=False, soft_wrap=True)
    return run_id


def _why_not_latest(run: RunRecord) -> str:
    return str(run.status) if run.arm is None else f"arm of an A/B, {run.status}"


def print_json(value: BaseModel | Any) -> None:
    """Print a record, or plain values that may hold records, as indented JSON on stdout."""
    typer.echo(json.dumps(_plain(value), indent=2, ensure_ascii=False))


def _plain(value: Any) -> Any:
    dump = getattr(value, "model_dump", None)
    if dump is not None:
        return dump(mode="json")
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
