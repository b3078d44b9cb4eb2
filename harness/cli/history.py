"""`iroot bench history`: cases over the runs of a store."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli.common import JsonOption, StoreOption, console, print_json, store_path
from harness.errors import UsageError

if TYPE_CHECKING:
    from harness.history import Series
    from harness.records import PlannedCase, RunRecord
    from harness.store import Store

CaseArgument = Annotated[
    str | None,
    typer.Argument(metavar="[CASE]", help="A case id, part of one, or a filter such as task=polar,n>=1024."),
]
ManifestOption = Annotated[str | None, typer.Option("--manifest", help="Default: that of the newest run.")]
MachineOption = Annotated[
    str | None, typer.Option("--machine", metavar="CLASS", help="Default: the class of the newest run's machine.")
]
PlotOption = Annotated[
    Path | None, typer.Option("--plot", metavar="FILE", help="Write a figure too: png, svg, pdf.", dir_okay=False)
]


def history(
    case: CaseArgument = None,
    manifest: ManifestOption = None,
    machine: MachineOption = None,
    plot: PlotOption = None,
    json: JsonOption = False,
    store: StoreOption = None,
) -> None:
    """Follow cases over complete runs, as ratio to the control kernels of the same run, and show where they changed.

    Changes are advisory: a hint where to look. Arms of an A/B are left out.

    Examples:

        iroot bench history

        iroot bench history polar/gram_newton_schulz --plot history.svg

        iroot bench history task=inverse_root,n=2048 --machine nvidia-h100-80gb-hbm3
    """
    from harness.history import histories
    from harness.report import history as view
    from harness.store import Store

    opened = Store(store_path(store))
    runs = _runs(opened, manifest, machine)
    found = histories([opened.summary(run.run_id) for run in runs], _wanted(case))
    misnamed = _misnamed(case, runs)
    if not found:
        why = f": {misnamed}" if misnamed else ""
        raise UsageError(f"no timed case of {len(runs)} runs fits {case or 'the manifest'!r}{why}")
    if misnamed:
        raise UsageError(f"CASE '{case}': {misnamed}")
    written = view.plot(found, plot) if plot is not None else None
    if json:
        print_json([_plain(series) for series in found])
        return
    _print(found, runs[0], len(runs))
    if written is not None:
        console().print(f"wrote {written}", markup=False, soft_wrap=True)


def _runs(store: Store, manifest: str | None, machine: str | None) -> list[RunRecord]:
    """Complete runs, newest first, of one manifest on one class of machine."""
    from harness.records import RunStatus

    every = store.runs(manifest=manifest, machine_class=machine, status=RunStatus.COMPLETE)
    own = [run for run in every if run.arm is None]
    if not own:
        raise UsageError(f"{store.path} holds no complete run that fits; `iroot bench runs` lists what it holds")
    newest = own[0]
    return [
        run
        for run in own
        if run.manifest == newest.manifest and run.machine.machine_class == newest.machine.machine_class
    ]


def _wanted(case: str | None) -> Callable[[PlannedCase], bool]:
    """Without a CASE all but the controls."""
    from harness.filters import case_selector

    if case is None:
        return lambda planned: not planned.control
    fits = case_selector(case)
    return lambda planned: fits(planned.case)


def _misnamed(case: str | None, runs: list[RunRecord]) -> str:
    """What CASE names as a filter and no run planned; one of them is enough, for a case may be new or given up."""
    from harness.filters import case_selector

    return case_selector(case).misnamed([each.case for run in runs for each in run.cases]) if case is not None else ""


def _print(found: tuple[Series, ...], newest: RunRecord, runs: int) -> None:
    from rich.padding import Padding

    from harness.cli.tables import CASE_SEPARATORS, Breakable, plain_table
    from harness.report import history as view

    table = plain_table("case", "runs", "newest", "history", folding=("case", "history"))
    for series in found:
        newest_value = view.value_text(series, series.points[-1].value)
        case = Breakable(series.case_id, CASE_SEPARATORS)
        table.add_row(case, str(len(series.points)), newest_value, view.sparkline(series))
        for change in series.changes:  # below the case: beside it 80 columns have no room
            told = Breakable(view.change_text(change), " ", widest=len(series.case_id) - 2)
            table.add_row(Padding(told, (0, 0, 0, 2)))
    counted = f"{runs} run{'' if runs == 1 else 's'}"
    console().print(f"{newest.manifest} on {newest.machine.machine_class}, {counted}", markup=False)
    console().print(table)


def _plain(series: Series) -> dict[str, object]:
    return {
        "case": series.case_id,
        "unit": "ratio to controls" if series.controls else "seconds",
        "controls": list(series.controls),
        "points": [
            {
                "run": point.run.run_id,
                "created_at": point.run.created_at,
                "revision": point.run.source.revision,
                "value": point.value,
                "time_s": point.time_s,
            }
            for point in series.points
        ],
        "changes": [
            {
                "first_run": change.first.run_id,
                "revision": change.first.source.revision,
                "last_run_before": change.last_before.run_id,
                "revision_before": change.last_before.source.revision,
                "ratio": change.ratio,
                "software": list(change.software),
            }
            for change in series.changes
        ],
    }
