"""Error and residual against the condition number: tables and figures of a run that holds log-spaced problems."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from harness.judge.problems import condition_number
from harness.records import Outcome
from harness.report import format as text
from harness.report.figures import new_figure, save
from harness.report.tables import Column, Table, build
from harness.report.view import ResultRow, RunView, grouped

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LEAST_KAPPAS = 4
"""Fewer condition numbers are read from the ordinary tables."""

_COLUMNS = 3
_PANEL_INCHES = (4.2, 3.0)
_FLOOR = 1e-16
"""An error of zero is drawn here."""


@dataclass(frozen=True, kw_only=True)
class KappaRow:
    """One method in one precision; figures are medians over the problem seeds, inf where most were not finite."""

    method: str
    precision: str
    errors: Mapping[float, float | None]
    residuals: Mapping[float, float | None]


@dataclass(frozen=True, kw_only=True)
class KappaGroup:
    """One task, root, shape and mode. `residual_name`: `Orthogonality` for polar factors."""

    task: str
    p: int | None
    shape: str
    mode: str
    kappas: tuple[float, ...]
    rows: tuple[KappaRow, ...]

    @property
    def title(self) -> str:
        """`inverse_root, p = 2, 64x64`, and the mode."""
        root = f", p = {self.p}" if self.p is not None else ""
        return f"{self.task}{root}, {self.shape}, {self.mode}"

    @property
    def residual_name(self) -> str:
        """What stands beside the error."""
        return "Orthogonality" if self.task == "polar" else "Residual"

    @property
    def has_residuals(self) -> bool:
        """Whether the task has such a figure."""
        figures = [value for row in self.rows for value in row.residuals.values() if value is not None]
        return any(map(math.isfinite, figures))

    def figure_name(self, prefix: str) -> str:
        """The file of its plot, beside the report."""
        root = f"-p{self.p}" if self.p is not None else ""
        return f"{prefix}-{self.task}{root}-{self.shape}-{self.mode}.svg"


def kappa_groups(view: RunView) -> tuple[KappaGroup, ...]:
    """The groups with at least `LEAST_KAPPAS` condition numbers; cases that are unsupported or not judged are out."""
    rows = [
        row
        for row in view.rows
        if condition_number(row.case.problem) is not None and row.error is not None
        and row.outcome is not Outcome.UNSUPPORTED
    ]  # fmt: skip
    found = grouped(rows, lambda row: (row.case.task, row.case.p, row.case.shape_id, str(row.case.mode)))
    groups = (_group(*key, of_key) for key, of_key in found)
    return tuple(group for group in groups if len(group.kappas) >= LEAST_KAPPAS)


def _group(task: str, p: int | None, shape: str, mode: str, rows: list[ResultRow]) -> KappaGroup:
    kappas = tuple(sorted({_kappa(row) for row in rows}))
    methods = grouped(rows, lambda row: (row.method_text, row.case.precision))
    return KappaGroup(
        task=task, p=p, shape=shape, mode=mode, kappas=kappas,
        rows=tuple(
            KappaRow(
                method=method,
                precision=precision,
                errors={_kappa(row): row.error.median if row.error else None for row in of_method},
                residuals={_kappa(row): _residual(row) for row in of_method},
            )
            for (method, precision), of_method in sorted(methods, key=lambda found: found[0])
        ),
    )  # fmt: skip


def _residual(row: ResultRow) -> float | None:
    """A result of which no seed is finite has no residual to take a median of: it is infinite like its error."""
    residual = row.orthogonality if row.case.task == "polar" else row.residual
    return math.inf if residual is None and row.error is not None and math.isinf(row.error.median) else residual


def _kappa(row: ResultRow) -> float:
    kappa = condition_number(row.case.problem)
    assert kappa is not None
    return kappa


# --- tables -----------------------------------------------------------------------------------------------------------


def error_table(group: KappaGroup) -> Table:
    """Relative errors: a row per method and precision, a column per condition number."""
    return _table(group, lambda row: row.errors)


def residual_table(group: KappaGroup) -> Table:
    """Residuals likewise."""
    return _table(group, lambda row: row.residuals)


def _table(group: KappaGroup, figures: Callable[[KappaRow], Mapping[float, float | None]]) -> Table:
    def cell(kappa: float) -> Callable[[KappaRow], str]:
        return lambda row: text.error(figures(row).get(kappa))

    return build(
        group.rows,
        (
            Column(title="Method", cell=lambda row: text.plain(row.method), align="left"),
            Column(title="Precision", cell=lambda row: row.precision, align="left"),
            *(Column(title=f"κ = {kappa:.3g}", cell=cell(kappa)) for kappa in group.kappas),
        ),
    )


# --- figures ----------------------------------------------------------------------------------------------------------


def write_figures(groups: tuple[KappaGroup, ...], folder: Path, prefix: str) -> tuple[Path, ...]:
    """One figure per group, a panel per precision, a line per method.

    Raises:
        UsageError: a file cannot be written.
    """
    return tuple(plot(group, folder / group.figure_name(prefix)) for group in groups)


def plot(group: KappaGroup, file: Path) -> Path:
    """Errors over the condition number, both logarithmic; results that are not finite leave a gap."""
    panels = grouped(group.rows, lambda row: row.precision)
    columns = min(_COLUMNS, len(panels))
    lines = math.ceil(len(panels) / columns)
    width, height = _PANEL_INCHES
    figure = new_figure(width * columns, height * lines)
    axes = figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True).ravel()
    colours = {name: f"C{index % 10}" for index, name in enumerate(sorted({row.method for row in group.rows}))}
    for panel, (precision, rows) in zip(axes, panels, strict=False):
        _draw(panel, group, rows, colours)
        panel.set_title(precision, fontsize=8)
    for panel in axes[len(panels) :]:
        panel.set_axis_off()
    figure.suptitle(f"Relative error, {group.title}", fontsize=9)
    return save(figure, file)


def _draw(panel: Axes, group: KappaGroup, rows: list[KappaRow], colours: Mapping[str, str]) -> None:
    panel.set_xscale("log")
    panel.set_yscale("log")
    for index, row in enumerate(rows):
        values = [row.errors.get(kappa) for kappa in group.kappas]
        drawn = [math.nan if v is None or not math.isfinite(v) else max(v, _FLOOR) for v in values]
        style = "-" if list(colours).index(row.method) < 10 else "--"
        panel.plot(group.kappas, drawn, style, marker="os^Dv"[index % 5], color=colours[row.method], linewidth=1,
                   markersize=3, label=row.method)  # fmt: skip
    panel.tick_params(labelsize=6)
    panel.set_xlabel("κ", fontsize=7)
    panel.legend(fontsize=5)
