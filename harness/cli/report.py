"""`iroot bench report`: the Markdown report of a stored run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from harness.cli.common import JsonOption, StoreOption, print_json, store_path
from harness.cli.compare import AgainstOption, ForceOption, RunArgument

OutputOption = Annotated[
    Path | None,
    typer.Option("--output", "-o", metavar="FILE", help="Default: report.md in the run's folder.", dir_okay=False),
]


def report(
    run: RunArgument = "latest",
    output: OutputOption = None,
    against: AgainstOption = None,
    force: ForceOption = False,
    json: JsonOption = False,
    store: StoreOption = None,
) -> None:
    """Write the Markdown report of a run, compared with its baseline or another run, and print its path.

    Examples:

        iroot bench report

        iroot bench report latest --against baseline --output report.md
    """
    from harness.reference import compare_or_reason
    from harness.report.markdown import write_report
    from harness.store import Store

    path = store_path(store)
    opened = Store(path)
    summary = opened.summary(run)
    attempt = compare_or_reason(opened, summary.run.run_id, against, force)
    written = write_report(summary, attempt.comparison, store=path, output=output, no_comparison=attempt.reason)
    if json:
        print_json({"run_id": summary.run.run_id, "path": str(written)})
    else:
        typer.echo(written)
