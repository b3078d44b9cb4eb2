"""Every number of a report becomes text here, and nowhere else; so does text that goes into Markdown."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from harness.records import SourceIdentity

DASH = "–"
"""Stands for a figure that does not exist."""

REVISION_DIGITS = 9
HASH_DIGITS = 8
"""Of a source hash in terminals; reports print 12."""

_TIME_UNITS = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns"))
_BYTE_UNITS = ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"))


def significant(value: float, digits: int = 3) -> str:
    """Fixed-point text with `digits` significant digits, whole digits never cut: 0.123, 1.23, 123, 12345."""
    if not math.isfinite(value):
        return str(value)
    if value == 0:
        return "0"
    # Rounded first: 9.996 becomes 10.0, not 10.00.
    rounded = float(f"{value:.{digits - 1}e}")
    decimals = digits - 1 - math.floor(math.log10(abs(rounded)))
    return f"{value:.{max(0, decimals)}f}"


def seconds(value: float | None) -> str:
    """Three significant digits in ns, µs, ms or s: `1.23 ms`, `86.0 s`."""
    if value is None:
        return DASH
    if not math.isfinite(value) or value <= 0:
        return f"{value:g} s"
    rounded = float(f"{value:.2e}")
    scale, unit = next(((s, u) for s, u in _TIME_UNITS if rounded >= s), _TIME_UNITS[-1])
    return f"{significant(value / scale)} {unit}"


def duration(value: float | None) -> str:
    """A time to wait, as people say it: `850 ms`, `79 s`, `4.2 min`, `3.1 h`, `2.5 days`."""
    if value is None:
        return DASH
    for unit_s, unit in ((86_400.0, "days"), (3_600.0, "h"), (60.0, "min")):
        if value >= 2 * unit_s:
            return f"over {_LONGEST_DAYS:,} days" if value > _LONGEST_DAYS * 86_400 else f"{value / unit_s:.1f} {unit}"
    return f"{value:.0f} s" if value >= 10 else seconds(value)


_LONGEST_DAYS = 1000


def error(value: float | None) -> str:
    """Two significant digits in exponent form: `1.3e-03`; `0`, `nan` and `inf` as such."""
    if value is None:
        return DASH
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    return f"{value:.1e}"


def relative(value: float | None) -> str:
    """A time relative to another one: `0.93`; two significant digits below 0.1 and three from 10 on."""
    if value is None:
        return DASH
    if value < 0.0995:
        return significant(value, 2)
    return f"{value:.2f}" if value < 9.995 else significant(value)


def ratio(value: float | None) -> str:
    """A ratio under test: three decimals (`0.934`), since thresholds are 2 % and below."""
    return DASH if value is None else f"{value:.3f}"


def interval(low: float | None, high: float | None) -> str:
    """`0.921 … 0.947`; a side that is not bounded is a dash. One wider than a factor of ten is noise: `0.00 … >100`."""
    if low is None and high is None:
        return DASH
    wide = low is not None and high is not None and high > _NOISE_FACTOR * low
    side = _coarse if wide else ratio
    return f"{side(low)} … {side(high)}"


_NOISE_FACTOR = 10
_LARGEST_RATIO = 100


def _coarse(value: float | None) -> str:
    assert value is not None
    return f">{_LARGEST_RATIO}" if value > _LARGEST_RATIO else f"{value:.2f}"


def percent(fraction: float | None) -> str:
    """A share or an effect: `0.35 %`, `2.0 %`, `48 %`; shares above 10 % need no decimals."""
    if value_missing(fraction):
        return DASH
    assert fraction is not None
    value = 100 * fraction
    if value == 0:
        return "0 %"
    decimals = 0 if abs(value) >= 9.95 else 1 if abs(value) >= 0.995 else 2
    return f"{value:.{decimals}f} %"


def value_missing(value: float | None) -> bool:
    """Whether there is no figure to print: None, or not a number."""
    return value is None or math.isnan(value)


def tflops(value: float | None) -> str:
    """Achieved TFLOP/s, three significant digits."""
    return DASH if value is None else significant(value)


def size(value: int | None) -> str:
    """Bytes in KiB, MiB or GiB, three significant digits: `12.0 MiB`."""
    if value is None:
        return DASH
    for scale, unit in _BYTE_UNITS:
        if value >= scale:
            return f"{significant(value / scale)} {unit}"
    return f"{value} B"


def count(number: int, noun: str, plural: str | None = None) -> str:
    """`1 case`, `2 cases`, `12,345 cases`."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def listing(items: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    if len(items) < 2:
        return "".join(items)
    return f"{', '.join(items[:-1])} and {items[-1]}"


def revision(source: SourceIdentity) -> str:
    """The commit in short, `+` where the tree was dirty, or what is known of the sources."""
    if source.revision is None:
        return f"sources {source.source_hash[:HASH_DIGITS]}"
    return source.revision[:REVISION_DIGITS] + ("+" if source.dirty else "")


def traceable_revision(source: SourceIdentity) -> str:
    """As `revision`; of a dirty tree with the hash of its sources, by which a baseline of the same is found."""
    known = source.revision is not None and source.dirty
    return f"{revision(source)} (sources {source.source_hash[:HASH_DIGITS]})" if known else revision(source)


def first_line(text: str | None, limit: int = 200) -> str:
    """The first line that is not empty (of a traceback the last: it names the error), cut to `limit` characters."""
    lines = [line.strip() for line in (text or "").splitlines() if line.strip()]
    if not lines:
        return "no reason was recorded"
    line = lines[-1] if lines[0].startswith("Traceback") else lines[0]
    return line if len(line) <= limit else line[: limit - 1].rstrip() + "…"


def plain(text: str) -> str:
    r"""Free text for Markdown: one line, with `\ * [ ]`, backticks, `&` and `<` made harmless."""
    one_line = " ".join(text.split())
    escaped = re.sub(r"([\\*\[\]`])", r"\\\1", one_line)
    # An underscore between letters is literal in GitHub Markdown; at the edge of a word it starts emphasis.
    escaped = re.sub(r"(?<!\w)_|_(?!\w)", r"\\_", escaped)
    return escaped.replace("&", "&amp;").replace("<", "&lt;")


def code(text: str) -> str:
    """An identifier as inline code, on one line; backticks inside are kept."""
    one_line = " ".join(text.split())
    longest = max((len(run) for run in re.findall(r"`+", one_line)), default=0)
    fence = "`" * (longest + 1)
    pad = " " if longest else ""
    return f"{fence}{pad}{one_line}{pad}{fence}"


def bold(text: str) -> str:
    """Strong emphasis; a dash is left alone."""
    return text if text == DASH else f"**{text}**"


def fence(text: str) -> str:
    """A code fence longer than any run of backticks in `text`."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    return "`" * max(3, longest + 1)
