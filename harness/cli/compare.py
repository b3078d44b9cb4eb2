"""`iroot bench compare`: a stored run against its reference, case by case."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli.common import (
    LATEST,
    JsonOption,
    StoreOption,
    console,
    errors_console,
    print_json,
    run_id_of,
    store_path,
)

if TYPE_CHECKING:
    from harness.records import CaseVerdict

RunArgument = Annotated[
    str,
    typer.Argument(help="Run id, a unique beginning of it, or 'latest': the newest complete run, no arm of an A/B."),
]
AgainstOption = Annotated[
    str | None,
    typer.Option(
        "--against",
        metavar="RUN|baseline",
        help="What to compare with. Default: the official baseline, else the previous run.",
    ),
]
ForceOption = Annotated[bool, typer.Option("--force", help="Compare unlike machines too; every table is marked.")]
RecordOption = Annotated[
    bool, typer.Option("--json-full", help="Print the whole record: both sides, machine, controls, notes, verdicts.")
]
AllOption = Annotated[bool, typer.Option("--all", help="Show unchanged cases too.")]


def compare(
    run: RunArgument = LATEST,
    against: AgainstOption = None,
    show_all: AllOption = False,
    force: ForceOption = False,
    json: JsonOption = False,
    json_full: RecordOption = False,
    store: StoreOption = None,
) -> None:
    """Compare a run with the official baseline, or with another run.

    Exit code 0: nothing got worse; 1: a regression, a broken or a missing case; 3: undecided, or no reference. --json
    prints a list with one object per case: case, verdict, ratio, low, high, launches, mde and more.

    Examples:

        iroot bench compare

        iroot bench compare latest --against 20260102-090000-quick-1f3a --all
    """
    from harness.compare import exit_code_for
    from harness.errors import ExitCode
    from harness.reference import compare_run
    from harness.report.terminal import print_comparison
    from harness.store import Store

    opened = Store(store_path(store))
    comparison = compare_run(opened, run_id_of(opened, run), against, force)
    if json_full:
        print_json(comparison)
    elif json:
        print_json([_row(verdict) for verdict in comparison.verdicts] if comparison is not None else [])
    if comparison is None:
        errors_console().print(
            "nothing to compare with: this machine has neither an official baseline nor an earlier complete run of the "
            "manifest; --against names a run",
            soft_wrap=True,
        )
        raise typer.Exit(ExitCode.UNDECIDED)
    if not (json or json_full):
        print_comparison(comparison, console(), show_all=show_all)
    raise typer.Exit(exit_code_for(comparison))


def _row(verdict: CaseVerdict) -> dict[str, object]:
    """A verdict as programs read it: `case` is the case's id, its coordinates are left out."""
    return {"case": verdict.case_id, **verdict.model_dump(mode="json", exclude={"case", "case_id"})}
