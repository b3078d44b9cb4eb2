"""A qualification for people: how often identical code was told apart, what slowdowns are found, the noise per case."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table as TerminalTable

from harness.qualification import MOST_TAU, RAISED, CaseNoise, PowerPoint, Qualification
from harness.report import format as text
from harness.report.tables import Column, Table, build


@dataclass(frozen=True, kw_only=True)
class _Level:
    """A planted slowdown that was asked for, and what was found of it; None: it was not measured."""

    planted: float
    point: PowerPoint | None = None


def _levels(qualification: Qualification) -> list[_Level]:
    measured = [_Level(planted=point.planted, point=point) for point in qualification.power]
    return [*measured, *(_Level(planted=level) for level in qualification.not_measured.levels)]


def _of_point(figure: Callable[[PowerPoint], str]) -> Callable[[_Level], str]:
    return lambda level: text.DASH if level.point is None else figure(level.point)


def _share(level: _Level) -> str:
    return "not measured" if level.point is None else f"{level.point.called} of {level.point.cases}"


def _interval(point: PowerPoint) -> str:
    if not point.cases:
        return text.DASH
    low, high = point.interval
    return f"{text.percent(low)} … {text.percent(high)}"


_POWER: tuple[Column[_Level], ...] = (
    Column(title="Planted", cell=lambda level: text.percent(level.planted)),
    Column(title="Measured effect", cell=_of_point(lambda point: text.percent(point.effect))),
    Column(title="Called", cell=_share),
    Column(title="95 % interval", cell=_of_point(_interval)),
)


def power_table(qualification: Qualification) -> Table:
    """How many cases were called regressed at each planted slowdown."""
    return build(_levels(qualification), _POWER)


def noise_table(qualification: Qualification) -> Table:
    """Per case, the noisiest first."""
    pairs = qualification.pairs
    columns: tuple[Column[CaseNoise], ...] = (
        Column(title="Case", cell=lambda c: text.code(c.case_id), align="left"),
        Column(title="Gates", cell=lambda c: "yes" if c.gates else "no", align="left"),
        Column(title="Spread of pairs", cell=lambda c: text.percent(c.spread)),
        Column(title="A/A 99th percentile", cell=lambda c: text.percent(c.null_percentile(pairs))),
        Column(title="MDE", cell=lambda c: text.percent(c.mde(pairs))),
    )
    return build(sorted(qualification.cases, key=lambda case: (not case.gates, -case.spread)), columns)


def qualification_markdown(qualification: Qualification) -> str:
    """The report of a qualification."""
    return "\n".join(_lines(qualification)).rstrip() + "\n"


def _lines(found: Qualification) -> Iterator[str]:
    yield from (f"# Qualification of {text.plain(found.machine.model)} for {text.code(found.manifest)}", "")
    yield from (f"{text.plain(found.headline)}.", "")
    yield f"{text.code(found.qualification_id)}, {found.created_at}; {found.pairs} pairs of launches per verdict; "
    software = found.software.model_dump()
    yield f"software {text.plain(', '.join(f'{name} {value}' for name, value in software.items() if value))}."
    yield from ("", "## Planted slowdowns", "", power_table(found).markdown, "")
    yield from ("## Noise of identical code", "", noise_table(found).markdown, "")
    yield from (
        "- Measured effect: a spin is planted in every other sample; the ratio of neighbours says what it did.",
        "- A/A 99th percentile: of the mean log ratio of identical code over that many pairs. The threshold of a case",
        "  is never below it. Where it is above the planned threshold, and above the smaller of "
        f"{RAISED:g} times that and {text.percent(MOST_TAU)},",
        "  the case cannot pass.",
        "- MDE: a slowdown by the threshold and this much more is called with probability 0.8.",
        "- A difference called between identical code says that the machine is unfit, not that something regressed.",
    )


def print_qualification(qualification: Qualification, console: Console) -> None:
    """Both tables and the outcome last."""
    for table in (noise_table(qualification), power_table(qualification)):
        shown = TerminalTable(box=None, pad_edge=False, padding=(0, 1), header_style="dim")
        for title, align in zip(table.titles, table.aligns, strict=True):
            shown.add_column(title, justify="right" if align == "right" else "left", overflow="fold")
        for row in table.rows:
            shown.add_row(*(cell.strip("`") for cell in row))
        console.print(shown)
        console.print()
    console.print(qualification.headline, style="bold", markup=False, soft_wrap=True)
