"""`iroot bench report`: the Markdown report of a stored run, or of how an iteration converges."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from harness.cli import spectral as flags
from harness.cli.common import LATEST, JsonOption, StoreOption, print_json, run_id_of, store_path
from harness.cli.compare import AgainstOption, ForceOption, RunArgument

OutputOption = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        metavar="FILE",
        help="Default: report.md in the run's folder, with --filter report-part.md; with --spectral a file in "
        "spectral/ beside the store.",
        dir_okay=False,
    ),
]
FilterOption = Annotated[
    str | None, typer.Option(metavar="EXPR", help="Cases to show, of all that were compared: 'task=polar,n>=1024'.")
]


def report(
    run: RunArgument = LATEST,
    output: OutputOption = None,
    filter: FilterOption = None,
    against: AgainstOption = None,
    force: ForceOption = False,
    json: JsonOption = False,
    store: StoreOption = None,
    spectral: flags.SpectralFlag = False,
    method: flags.MethodFlag = None,
    table: flags.TableFlag = None,
    steps: flags.StepsFlag = None,
    option: flags.OptionFlag = None,
    p: flags.RootFlag = None,
    n: flags.SizeFlag = None,
    problem: flags.ProblemFlag = None,
    kappa: flags.KappaFlag = None,
    lower: flags.LowerFlag = None,
    precision: flags.PrecisionFlag = None,
    seed: flags.SeedFlag = None,
    plot: flags.PlotFlag = None,
) -> None:
    """Write the Markdown report of a run, compared with its baseline or another run, and print its path.

    With --spectral: per step, the eigenvalues of an iteration's coupled iterate against those of inverse Newton.

    Examples:

        iroot bench report

        iroot bench report latest --against baseline --output report.md

        iroot bench report latest --filter task=polar

        iroot bench report --spectral --method graded_pe --precision fp16_emulated --p 4 --kappa 1e5
    """
    choices = {"method": method, "table": table, "steps": steps, "p": p, "n": n, "problem": problem, "kappa": kappa,
               "lower": lower, "precision": precision, "seed": seed}  # fmt: skip
    path = store_path(store)
    if spectral:
        given = {"RUN": run != LATEST, "--against": against is not None, "--force": force,
                 "--filter": filter is not None}  # fmt: skip
        flags.refuse_run_flags([name for name, present in given.items() if present])
        request = flags.spectral_request(choices, option)
        flags.write(request, store=path, output=output, plot=plot, as_json=json)
        return
    flags.refuse_spectral_flags({**choices, "option": option, "plot": plot})
    _report_run(run, path, output=output, shown=filter, against=against, force=force, as_json=json)


def _report_run(
    run: str, path: Path, *, output: Path | None, shown: str | None, against: str | None, force: bool, as_json: bool
) -> None:
    from harness.reference import compare_or_reason
    from harness.report.markdown import write_report
    from harness.store import Store

    opened = Store(path)
    summary = opened.summary(run_id_of(opened, run))
    attempt = compare_or_reason(opened, summary.run.run_id, against, force)
    written = write_report(
        summary, attempt.comparison, store=path, output=output, no_comparison=attempt.reason, shown=shown
    )
    if as_json:
        print_json({"run_id": summary.run.run_id, "path": str(written)})
    else:
        typer.echo(written)
