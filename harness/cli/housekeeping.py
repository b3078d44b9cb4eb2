"""`iroot bench runs | show | export | gc`: what lies in the store and beside it."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from harness.cli.common import LATEST, JsonOption, StoreOption, console, print_json, run_id_of, store_path
from harness.cli.compare import RunArgument

ManifestOption = Annotated[str | None, typer.Option("--manifest", help="Only runs of this manifest.")]
MachineOption = Annotated[str | None, typer.Option("--machine", metavar="CLASS", help="Only runs on this class.")]
LimitOption = Annotated[int, typer.Option("--limit", min=1, help="The newest so many.")]
ToOption = Annotated[Path, typer.Option("--to", metavar="FOLDER", help="A new folder.")]
DaysOption = Annotated[float, typer.Option("--days", min=0, help="Only what was last written this many days ago.")]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Say what would be removed; remove nothing.")]


class StatusChoice(StrEnum):
    """The values of records.RunStatus, which is not imported with the command line; a test compares them."""

    RUNNING = "running"
    COMPLETE = "complete"
    INTERRUPTED = "interrupted"
    FAILED = "failed"


class FormatChoice(StrEnum):
    """The values of transfer.Format, which is not imported with the command line; a test compares them."""

    PARQUET = "parquet"
    CSV = "csv"
    JSON = "json"


StatusOption = Annotated[StatusChoice | None, typer.Option("--status", help="Only runs that ended so.")]
FormatOption = Annotated[FormatChoice, typer.Option("--format", help="Of the tables; each keeps every digit.")]


def runs(
    manifest: ManifestOption = None,
    machine: MachineOption = None,
    status: StatusOption = None,
    limit: LimitOption = 20,
    json: JsonOption = False,
    store: StoreOption = None,
) -> None:
    """List the runs of the store, newest first.

    Example:

        iroot bench runs --manifest quick --status complete
    """
    from harness.cli.tables import runs_table
    from harness.records import RunStatus
    from harness.store import Store

    wanted = RunStatus(status) if status is not None else None
    found = Store(store_path(store)).runs(manifest=manifest, machine_class=machine, status=wanted, limit=limit)
    if json:
        hidden = {"cases", "manifest_toml"}
        print_json([{**run.model_dump(mode="json", exclude=hidden), "cases": len(run.cases)} for run in found])
    elif found:
        console().print(runs_table(found))
    else:
        console().print("no run fits")


def show(run: RunArgument = LATEST, json: JsonOption = False, store: StoreOption = None) -> None:
    """Show where a run comes from, and every case's outcome, time and error.

    Example:

        iroot bench show 20260102-0901
    """
    from harness.cli.tables import cases_table, facts_table
    from harness.store import Store

    opened = Store(store_path(store))
    summary = opened.summary(run_id_of(opened, run))
    if json:
        print_json(summary)
        return
    planned, seen = len(summary.run.cases), len(summary.cases)
    console().print(facts_table(summary, {"cases": f"{seen} of {planned} measured"}))
    console().print(cases_table(summary))


def export(
    run: RunArgument,
    to: ToOption,
    format: FormatOption = FormatChoice.PARQUET,
    store: StoreOption = None,
) -> None:
    """Write a run into a new folder: for other tools, or to import it elsewhere.

    Example:

        iroot bench export latest --to /tmp/run --format csv
    """
    from harness.store import Store
    from harness.transfer import Format, export_run

    opened = Store(store_path(store))
    folder = export_run(opened, run_id_of(opened, run), to, format=Format(format))
    console().print(f"wrote {folder}", markup=False, soft_wrap=True)


def gc(
    days: DaysOption = 7.0,
    dry_run: DryRunOption = False,
    json: JsonOption = False,
    store: StoreOption = None,
) -> None:
    """Remove what the store makes superfluous: shards of complete runs, folders of unknown runs, exported sources.

    Runs, samples and reports stay.

    Example:

        iroot bench gc --dry-run
    """
    from harness.cleanup import find_garbage
    from harness.report.format import size

    found = find_garbage(store_path(store), days=days)
    if not dry_run:
        for garbage in found:
            garbage.remove()
    if json:
        rows = [{"path": str(each.path), "reason": each.reason, "size_bytes": each.size_bytes} for each in found]
        print_json({"removed": not dry_run, "garbage": rows})
        return
    verb = "would remove" if dry_run else "removed"
    lines = [f"{verb} {each.path} ({size(each.size_bytes)}): {each.reason}" for each in found]
    total = size(sum(each.size_bytes for each in found))
    console().print("\n".join([*lines, f"{verb} {len(found)} items, {total}"]), markup=False, soft_wrap=True)
