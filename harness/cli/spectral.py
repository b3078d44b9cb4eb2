"""The flags of `iroot bench report --spectral`, and what it does."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harness.cli.common import print_json
from harness.cli.sweep_flags import option_values
from harness.errors import UsageError

if TYPE_CHECKING:
    from harness.spectral import SpectralRequest

PANEL = "Spectral convergence (with --spectral)"


def _flag(help: str, metavar: str, **limits: Any) -> Any:
    return typer.Option(help=help, metavar=metavar, rich_help_panel=PANEL, show_default=False, **limits)


SpectralFlag = Annotated[
    bool,
    typer.Option("--spectral", help="How the spectrum of the iterate closes in on 1, against inverse Newton."),
]
MethodFlag = Annotated[str | None, _flag("coupled_pe (default), graded_pe, coupled_newton or newton_schulz.", "NAME")]
TableFlag = Annotated[str | None, _flag("A table of odd quintics instead (p = 2): polar_express.", "NAME")]
StepsFlag = Annotated[int | None, _flag("Steps of the table; default: all.", "INT", min=1)]
OptionFlag = Annotated[
    list[str] | None, _flag("An option of the method, as target=1e-3 or degrees=2,4,8; may be repeated.", "NAME=VALUE")
]
RootFlag = Annotated[int | None, _flag("Root; default 2.", "INT", min=1)]
SizeFlag = Annotated[int | None, _flag("Size; default 256.", "INT", min=1, max=2048)]
ProblemFlag = Annotated[str | None, _flag("Default: logspace_1e4.", "NAME")]
KappaFlag = Annotated[
    float | None, _flag("Log-spaced eigenvalues with this condition number, instead of a problem.", "FLOAT", min=1.0)
]
LowerFlag = Annotated[
    float | None,
    _flag("Smallest over largest eigenvalue, as told to the schedule; default: the problem's.", "FLOAT", max=1.0),
]
PrecisionFlag = Annotated[str | None, _flag("One that a CPU runs, as fp16_emulated; default: fp32.", "NAME")]
SeedFlag = Annotated[int | None, _flag("Of the problem; default 0.", "INT", min=0)]
PlotFlag = Annotated[
    Path | None, _flag("The figure: svg, png, pdf; default: an SVG beside the report.", "FILE", dir_okay=False)
]


def spectral_request(flags: Mapping[str, Any], options: list[str] | None) -> SpectralRequest:
    """The request that flags make; those left out take their defaults.

    Raises:
        UsageError: two flags exclude each other, or a value is out of its range.
    """
    from harness.judge.problems import logspace
    from harness.spectral import SpectralRequest

    given = {name: value for name, value in flags.items() if value is not None}
    kappa = given.pop("kappa", None)
    if kappa is not None:
        if "problem" in given:
            raise UsageError(f"give --problem or --kappa, got both: '{given['problem']}' and {kappa:g}")
        given["problem"] = logspace(kappa).name
    if given.get("lower", 1.0) <= 0.0:
        raise UsageError(f"--lower: must be in (0, 1], got {given['lower']:g}")
    pairs = [option_values(text) for text in options or []]
    chosen = tuple((name, values[0] if len(values) == 1 else tuple(values)) for name, values in pairs)
    return SpectralRequest(**given, options=chosen)


def write(request: SpectralRequest, *, store: Path, output: Path | None, plot: Path | None, as_json: bool) -> None:
    """Make the report and its figure, by default in the folder `spectral` beside the store, and print its path."""
    from harness.report.spectral import write_spectral
    from harness.spectral import spectral_report

    path = output or store.parent / "spectral" / f"{request.slug}.md"
    figure = plot or path.with_suffix(".svg")
    report = spectral_report(request)
    write_spectral(report, path, figure)
    if as_json:
        print_json({"path": str(path), "figure": str(figure), "report": report})
    else:
        typer.echo(path)


def refuse_run_flags(names: list[str]) -> None:
    """Raise UsageError where a stored run's arguments are given: this report measures nothing and stores nothing."""
    if names:
        raise UsageError(f"--spectral reports on an iteration, not on a stored run; remove {', '.join(names)}")


def refuse_spectral_flags(flags: Mapping[str, Any]) -> None:
    """Raise UsageError where a flag of this report is given without --spectral."""
    given = [f"--{name}" for name, value in flags.items() if value is not None]
    if given:
        raise UsageError(f"{', '.join(given)}: only with --spectral; the report of a run has no such choice")
