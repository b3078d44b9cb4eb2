"""`iroot bench compare`: a stored run against its reference, case by case."""

from __future__ import annotations

from typing import Annotated

import typer

from harness.cli.common import JsonOption, StoreOption, console, errors_console, print_json, store_path

RunArgument = Annotated[str, typer.Argument(help="Run id, a unique beginning of it, or 'latest'.")]
AgainstOption = Annotated[
    str | None,
    typer.Option(
        "--against",
        metavar="RUN|baseline",
        help="What to compare with. Default: the official baseline, else the previous run.",
    ),
]
ForceOption = Annotated[bool, typer.Option("--force", help="Compare unlike machines too; every table is marked.")]
AllOption = Annotated[bool, typer.Option("--all", help="Show unchanged cases too.")]


def compare(
    run: RunArgument = "latest",
    against: AgainstOption = None,
    show_all: AllOption = False,
    force: ForceOption = False,
    json: JsonOption = False,
    store: StoreOption = None,
) -> None:
    """Compare a run with the official baseline, or with another run.

    Exit code 0: nothing got worse; 1: a regression, a broken or a missing case; 3: undecided, or no reference.

    Examples:

        iroot bench compare

        iroot bench compare latest --against 20260102-090000-quick-1f3a --all
    """
    from harness.compare import exit_code_for
    from harness.errors import ExitCode
    from harness.reference import compare_run
    from harness.report.terminal import print_comparison
    from harness.store import Store

    comparison = compare_run(Store(store_path(store)), run, against, force)
    if json:
        print_json(comparison)
    if comparison is None:
        errors_console().print(
            "nothing to compare with: this machine has neither an official baseline nor an earlier complete run of the "
            "manifest; --against names a run",
            soft_wrap=True,
        )
        raise typer.Exit(ExitCode.UNDECIDED)
    if not json:
        print_comparison(comparison, console(), show_all=show_all)
    raise typer.Exit(exit_code_for(comparison))
