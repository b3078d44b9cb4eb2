"""The spectral convergence report: Markdown tables and one figure of a schedule against inverse Newton."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import UsageError
from harness.report import format as text
from harness.report.figures import check_suffix, new_figure, save
from harness.report.markdown import render
from harness.report.tables import Column, Table, build
from harness.spectral import SpectralCurve, SpectralReport, SpectralStep

if TYPE_CHECKING:
    from matplotlib.axes import Axes

RADII = (0.1, 1e-2, 1e-3)
"""Of rho(I - Y): the table of costs says what it takes to stay below each."""

_COLOURS = ("#1f5fa8", "#c0392b")
_PANEL_INCHES = (5.5, 3.6)


def render_spectral(report: SpectralReport, *, figure: str | None = None) -> str:
    """The report as Markdown; `figure` is the link to the plot."""
    values = {
        "report": report,
        "request": report.request,
        "options_text": ", ".join(f"{name}={value}" for name, value in report.request.options),
        "kappa": text.error(report.kappa),
        "lower": text.error(report.lower),
        "bottom_line": bottom_line(report),
        "curves": [(curve, step_table(curve)) for curve in (report.schedule, report.baseline)],
        "cost_table": cost_table(report),
        "figure": figure,
    }
    return render("spectral.md.j2", values)


def write_spectral(report: SpectralReport, output: Path, figure: Path) -> None:
    """Write both files; the figure is linked relative to the report.

    Raises:
        UsageError: a file cannot be written, or the figure's format is unknown.
    """
    check_suffix(figure)
    link = _relative(figure, output.parent)
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(render_spectral(report, figure=link), encoding="utf-8")
    except OSError as error:
        raise UsageError(
            f"cannot write the report to {output}: {error.strerror}; name another place with --output"
        ) from None
    plot(report, figure)


def _relative(figure: Path, folder: Path) -> str:
    try:
        return figure.resolve().relative_to(folder.resolve()).as_posix()
    except ValueError:
        return figure.resolve().as_posix()


def bottom_line(report: SpectralReport) -> str:
    """Products of both until rho(I - Y) stays below a hundredth, in one sentence."""
    radius = RADII[1]
    mine, theirs = report.schedule.reaching(radius), report.baseline.reaching(radius)
    found = f"rho(I - Y) stays at most {radius:g}"
    if mine is None:
        worst = report.schedule.steps[-1].radius
        after = "is not finite" if worst is None else f"is {text.error(worst)} after its last step"
        return f"{report.schedule.name} never gets there: rho(I - Y) {after}."
    if theirs is None:
        return f"{found} after {_cost(mine)} of {report.schedule.name}; {report.baseline.name} never gets there."
    return (
        f"{found} after {_cost(mine)} of {report.schedule.name}, against {_cost(theirs)} of {report.baseline.name}: "
        f"{text.relative(mine.products / theirs.products)} of the products."
    )


def _cost(step: SpectralStep) -> str:
    return f"{text.count(step.step, 'step')} ({_products(step)} products)"


def _products(step: SpectralStep) -> str:
    return f"{step.products:g}"


# --- tables -----------------------------------------------------------------------------------------------------------

_STEP_COLUMNS: tuple[Column[SpectralStep], ...] = (
    Column(title="Step", cell=lambda s: str(s.step)),
    Column(title="Products", cell=_products),
    Column(title="min λ(Y)", cell=lambda s: _value(s.smallest)),
    Column(title="max λ(Y)", cell=lambda s: _value(s.largest)),
    Column(title="ρ(I − Y)", cell=lambda s: text.error(s.radius)),
    Column(title="log(M/m)", cell=lambda s: _value(s.log_ratio)),
    Column(title="within 10 %", cell=lambda s: text.percent(s.within_10)),
    Column(title="within 1 %", cell=lambda s: text.percent(s.within_1)),
    Column(title="min, exact", cell=lambda s: _value(s.exact_smallest)),
    Column(title="max, exact", cell=lambda s: _value(s.exact_largest)),
)


def _value(value: float | None) -> str:
    """Four significant digits; exponent form away from 1."""
    if value is None:
        return text.DASH
    return text.significant(value, 4) if 1e-2 <= abs(value) < 1e4 else f"{value:.3e}"


def step_table(curve: SpectralCurve) -> Table:
    """One row per iterate."""
    return build(curve.steps, _STEP_COLUMNS)


@dataclass(frozen=True, kw_only=True)
class _Cost:
    radius: float
    schedule: SpectralStep | None
    baseline: SpectralStep | None


def cost_table(report: SpectralReport) -> Table:
    """Steps and products of both until rho(I - Y) stays below each of `RADII`."""
    rows = [_Cost(radius=r, schedule=report.schedule.reaching(r), baseline=report.baseline.reaching(r)) for r in RADII]
    return build(
        rows,
        (
            Column(title="ρ(I − Y) at most", cell=lambda row: f"{row.radius:g}"),
            *_cost_columns(report.schedule.name, lambda row: row.schedule),
            *_cost_columns(report.baseline.name, lambda row: row.baseline),
        ),
    )


def _cost_columns(name: str, of: Callable[[_Cost], SpectralStep | None]) -> tuple[Column[_Cost], Column[_Cost]]:
    def cell(figure: Callable[[SpectralStep], str]) -> Callable[[_Cost], str]:
        return lambda row: "never" if (step := of(row)) is None else figure(step)

    return (
        Column(title=f"{text.plain(name)}: steps", cell=cell(lambda step: str(step.step))),
        Column(title="products", cell=cell(_products)),
    )


# --- figure -----------------------------------------------------------------------------------------------------------


def plot(report: SpectralReport, file: Path) -> Path:
    """Two panels over the products: the range of the eigenvalues of Y, and rho(I - Y); without rounding dotted.

    Raises:
        UsageError: the format is unknown, or the file cannot be written.
    """
    width, height = _PANEL_INCHES
    figure = new_figure(2 * width, height)
    ranges, radii = figure.subplots(1, 2)
    for curve, colour in zip((report.schedule, report.baseline), _COLOURS, strict=True):
        _draw_range(ranges, curve, colour)
        _draw_radius(radii, curve, colour)
    for panel, title in ((ranges, "eigenvalues of Y"), (radii, "ρ(I − Y)")):
        panel.set_yscale("log")
        panel.set_xlabel("products (symmetric result: 1, full: 2); dotted: without rounding", fontsize=8)
        panel.set_title(title, fontsize=9)
        panel.tick_params(labelsize=7)
        panel.legend(fontsize=7)
    request = report.request
    figure.suptitle(
        f"p = {request.p}, {request.problem}, n = {request.n}, {request.precision}, κ = {report.kappa:.2g}", fontsize=9
    )
    return save(figure, file)


def _positive(value: float | None) -> float:
    return value if value is not None and value > 0.0 else math.nan


def _draw_range(panel: Axes, curve: SpectralCurve, colour: str) -> None:
    x = [step.products for step in curve.steps]
    low, high = [_positive(s.smallest) for s in curve.steps], [_positive(s.largest) for s in curve.steps]
    panel.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
    panel.plot(x, low, "o-", color=colour, linewidth=1, markersize=3, label=curve.name)
    panel.plot(x, high, "o-", color=colour, linewidth=1, markersize=3)
    for exact in (
        [_positive(s.exact_smallest) for s in curve.steps],
        [_positive(s.exact_largest) for s in curve.steps],
    ):
        panel.plot(x, exact, ":", color=colour, linewidth=1)


def _draw_radius(panel: Axes, curve: SpectralCurve, colour: str) -> None:
    x = [step.products for step in curve.steps]
    exact = [_positive(_exact_radius(step)) for step in curve.steps]
    panel.plot(x, [_positive(s.radius) for s in curve.steps], "o-", color=colour, linewidth=1, markersize=3,
               label=curve.name)  # fmt: skip
    panel.plot(x, exact, ":", color=colour, linewidth=1)


def _exact_radius(step: SpectralStep) -> float | None:
    if step.exact_smallest is None or step.exact_largest is None:
        return None
    return max(abs(1.0 - step.exact_smallest), abs(step.exact_largest - 1.0))
