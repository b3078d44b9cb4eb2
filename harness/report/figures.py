"""Figures for reports: the one place that makes and saves them. matplotlib is loaded when one is drawn."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import UsageError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI = 150


def new_figure(width_in: float, height_in: float) -> Figure:
    """An empty figure of this size, in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width_in, height_in), layout="constrained")


def check_suffix(file: Path) -> None:
    """Raise UsageError unless the suffix names a format that matplotlib writes (png, svg, pdf)."""
    known = new_figure(1.0, 1.0).canvas.get_supported_filetypes()
    if file.suffix.removeprefix(".").lower() not in known:
        raise UsageError(f"--plot {file}: the suffix must be one of {', '.join(sorted(known))}")


def save(figure: Figure, file: Path) -> Path:
    """Write a figure, making the folder; equal data give equal bytes.

    Raises:
        UsageError: the format is unknown, or the file cannot be written.
    """
    import matplotlib

    check_suffix(file)
    dated = file.suffix.lower() in (".svg", ".pdf")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with matplotlib.rc_context({"svg.hashsalt": "iroot"}):
            figure.savefig(file, dpi=DPI, metadata={"Date" if file.suffix.lower() == ".svg" else "CreationDate": None}
                           if dated else None)  # fmt: skip
    except OSError as error:
        raise UsageError(f"cannot write the figure to {file}: {error.strerror}; name another place") from None
    return file
