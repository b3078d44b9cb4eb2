"""What the commands share: option types, consoles, JSON output."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

if TYPE_CHECKING:
    from pydantic import BaseModel

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
