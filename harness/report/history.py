"""Histories for people: a sparkline and a table for the terminal, a plot for the report."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import UsageError
from harness.history import Change, Series
from harness.report.figures import check_suffix, new_figure, save
from harness.report.format import revision, seconds, significant, traceable_revision

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_BARS = "▁▂▃▄▅▆▇█"
_CHANGE = "│"
_LEAST_RANGE = math.log(1.02)
"""The full height of a sparkline or a panel is at least 2 %, so that noise does not look like mountains."""

MAX_PANELS = 12
_COLUMNS = 2
_PANEL_INCHES = (5.5, 2.4)
_MAX_TICKS = 6


def sparkline(series: Series) -> str:
    """One bar per run, logarithmic, a line where the level changed: `▂▂▃▂│▇▇█`."""
    logs = [math.log(point.value) for point in series.points]
    low, high = min(logs), max(logs)
    pad = max(0.0, _LEAST_RANGE - (high - low)) / 2
    low, high = low - pad, high + pad
    bars = [_BARS[min(len(_BARS) - 1, int((value - low) / (high - low) * len(_BARS)))] for value in logs]
    first = {change.first.run_id for change in series.changes}
    marks = [_CHANGE if point.run.run_id in first else "" for point in series.points]
    return "".join(mark + bar for mark, bar in zip(marks, bars, strict=True))


def value_text(series: Series, value: float) -> str:
    """A value in the series' unit: `0.934 x controls`, or a time."""
    return f"{significant(value)} × control" if series.controls else seconds(value)


def change_text(change: Change) -> str:
    """`× 1.052 from RUN (revision a1b2c3d4e; before: 0f9e8d7c6)`, and the software that changed with it."""
    text = f"× {change.ratio:.3f} from {change.first.run_id} (revision {traceable_revision(change.first.source)}; "
    text += f"before: {traceable_revision(change.last_before.source)})"
    return f"{text}; {'; '.join(change.software)}" if change.software else text


def plot(found: Sequence[Series], file: Path) -> Path:
    """Write one panel per case; the file's suffix decides the format (png, svg, pdf).

    Raises:
        UsageError: there is no series or there are too many, or the format is unknown.
    """
    if not 1 <= len(found) <= MAX_PANELS:
        raise UsageError(f"--plot: a figure shows 1 to {MAX_PANELS} cases, got {len(found)}; name a CASE")
    columns = min(_COLUMNS, len(found))
    rows = math.ceil(len(found) / columns)
    width, height = _PANEL_INCHES
    check_suffix(file)
    figure = new_figure(width * columns, height * rows)
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for panel, series in zip(panels, found, strict=False):
        _panel(panel, series)
    for panel in panels[len(found) :]:
        panel.set_axis_off()
    return save(figure, file)


def _panel(panel: Axes, series: Series) -> None:
    positions = range(len(series.points))
    panel.plot(positions, [point.value for point in series.points], "o-", color="#1f5fa8", linewidth=1, markersize=3)
    index = {point.run.run_id: position for position, point in enumerate(series.points)}
    for change in series.changes:
        position = index[change.first.run_id]
        panel.axvline(position - 0.5, color="#c0392b", linewidth=1, linestyle="--")
        label = f"×{change.ratio:.3f} {revision(change.first.source)}"
        panel.annotate(label, (position - 0.45, 0.97), xycoords=("data", "axes fraction"), fontsize=6, va="top")
    days = [point.run.created_at[:10] for point in series.points]
    step = math.ceil(len(days) / _MAX_TICKS)
    panel.set_xticks(list(positions)[::step], days[::step], fontsize=6)
    panel.tick_params(axis="y", labelsize=6)
    panel.set_ylabel("× control" if series.controls else "s", fontsize=7)
    panel.set_title(series.case_id, fontsize=7)
    panel.margins(y=0.25)
    low, high = panel.get_ylim()
    pad = max(0.0, math.expm1(_LEAST_RANGE) * (low + high) / 2 - (high - low)) / 2
    panel.set_ylim(low - pad, high + pad)
