"""Table files: coefficients that `iroot tune` wrote, and where they come from.

Two kinds, both TOML. `schema = "iroot-polar/1"` holds odd quintics for the polar factor:

    name, made_for, source, safety, coefficients = [[a, b, c], ...], optionally lower
    [provenance]  command, created, versions      `Provenance`
    [search]      seed, ranges, objective, ...    `Search`
    [[held_out]]  kind, mean, worst, ...          `HeldOut`

`schema = "iroot-schedule/1"` holds a minimax schedule for an inverse root:

    p, lower, headroom, safety, cushion, error
    [[step]]      degree, lower, upper, chebyshev, true_lower, true_upper, low, high, as in `iroot.schedules.Step`
    [provenance]  command, created, versions

The tables shipped with the library lie in `iroot/shipped/`, each written by the command its provenance names; that of
two of them, which `iroot.squares` reads, are of a third kind.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, cast, get_args

import numpy as np
import tomli_w

from iroot.coefficients import NAMED_TABLES, MadeFor, NamedTable
from iroot.errors import UnknownNameError
from iroot.file_values import FileValues, is_finite, open_table
from iroot.schedules import Design, Interval, Schedule, Step, make_step
from iroot.squares import PAIR_FILE
from iroot.squares import SHIPPED_FILE as SQUARES_FILE

POLAR_SCHEMA = "iroot-polar/1"
SCHEDULE_SCHEMA = "iroot-schedule/1"
SUFFIX = ".toml"
SHIPPED_FOLDER = Path(__file__).parent / "shipped"

_MAX_STEPS = 60
_PROVENANCE_KEYS = ("command", "created", "versions")


@dataclass(frozen=True, kw_only=True)
class Versions:
    """What computed a table."""

    python: str
    numpy: str
    scipy: str
    iroot: str


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """The command that writes the table anew, when it ran (ISO 8601), and the versions it ran with."""

    command: str
    created: str
    versions: Versions


@dataclass(frozen=True, kw_only=True)
class Search:
    """What a search was given and found.

    Attributes:
        start: the table whose coefficients the ranges surround.
        samples: seeds of each kind and shape.
        ranges: (low, high) of each coefficient, in order.
        objective_value: of the table, on the inputs of the search.
    """

    start: str
    seed: int
    generations: int
    population: int
    objective: str
    objective_value: float
    kinds: tuple[str, ...]
    shapes: tuple[tuple[int, int], ...]
    samples: int
    ranges: tuple[tuple[float, float], ...]


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """Mean and largest orthogonality error over inputs of one kind that the search has not seen, beside the start's.

    The start is cut to as many steps; its last one is repeated where it has fewer.
    """

    kind: str
    mean: float
    worst: float
    start_mean: float
    start_worst: float


def find_table(name_or_path: str) -> NamedTable:
    """A published or shipped table by name, or a tuned one by the path of its file (it ends in `.toml`).

    Raises:
        UnknownNameError: no table has this name.
        InvalidInputError: the file cannot be read or is no such table.
    """
    if name_or_path.endswith(SUFFIX):
        return read_polar_table(Path(name_or_path))
    tables = {**NAMED_TABLES, **shipped_tables()}
    try:
        return tables[name_or_path]
    except KeyError:
        raise UnknownNameError("coefficient table", name_or_path, tables) from None


@cache
def shipped_tables() -> dict[str, NamedTable]:
    """The tables in `iroot/shipped/`, by name."""
    paths = (path for path in sorted(SHIPPED_FOLDER.glob(f"*{SUFFIX}")) if path not in (SQUARES_FILE, PAIR_FILE))
    tables = map(read_polar_table, paths)
    return {table.name: table for table in tables}


def read_polar_table(path: Path) -> NamedTable:
    """Read and check a file of odd quintics.

    Raises:
        InvalidInputError: the file cannot be read, is not of this kind, or its values are out of range.
    """
    data = _open(path, POLAR_SCHEMA)
    rows = data.list("coefficients", most=_MAX_STEPS)
    for row in rows:
        if not isinstance(row, list) or len(row) != 3 or not all(is_finite(value) for value in row):
            raise data.defect("coefficients", "a list of three finite numbers for each step", row)
    made_for = data.text("made_for")
    if made_for not in get_args(MadeFor):
        raise data.defect("made_for", f"one of {', '.join(get_args(MadeFor))}", made_for)
    return NamedTable(
        name=data.text("name"),
        coefficients=tuple((float(a), float(b), float(c)) for a, b, c in rows),
        lower=data.number("lower", 1e-6, 1.0) if "lower" in data.values else None,
        safety=data.number("safety", 1.0, 2.0),
        limit=None,
        source=data.text("source"),
        made_for=cast(MadeFor, made_for),
    )


def write_polar_table(
    path: Path, table: NamedTable, *, provenance: Provenance, search: Search, held_out: tuple[HeldOut, ...]
) -> None:
    """Write `table` so that `read_polar_table` gives it back, every digit kept; the file is replaced at once."""
    values: dict[str, Any] = {
        "schema": POLAR_SCHEMA,
        "name": table.name,
        "made_for": table.made_for,
        "source": table.source,
        "safety": table.safety,
        "coefficients": table.coefficients,
        "provenance": asdict(provenance),
        "search": asdict(search),
        "held_out": [asdict(row) for row in held_out],
    }
    _write(path, values if table.lower is None else {"lower": table.lower, **values})


def read_schedule(path: Path) -> Schedule:
    """Read and check a file of one schedule; its steps are evaluated on a grid, so that a wrong digit shows.

    Raises:
        InvalidInputError: the file cannot be read, is not of this kind, its values are out of range, or its steps do
            not reach the error it states.
    """
    data = _open(path, SCHEDULE_SCHEMA)
    steps = [_read_step(data, values) for values in data.list("step", most=_MAX_STEPS)]
    design = Design(
        p=steps[0].p,
        lower=data.number("lower", 1e-12, 1.0),
        headroom=data.number("headroom", 0.0, 1.0),
        safety=data.number("safety", 1.0, 2.0),
        cushion=data.number("cushion", 0.0, 1.0),
        degrees=tuple(step.degree for step in steps),
    )
    schedule = Schedule(design=design, steps=tuple(steps))
    stated, found = data.number("error", 0.0, math.inf), _grid_error(schedule)
    if not found <= stated * (1.0 + 1e-6) + 1e-12:
        raise data.defect("step", f"coefficients that reach the stated error {stated:.3g}", f"{found:.3g}")
    return schedule


def write_schedule(path: Path, schedule: Schedule, *, provenance: Provenance) -> None:
    """Write `schedule` so that `read_schedule` gives it back, every digit kept; the file is replaced at once."""
    design = schedule.design
    steps = [
        {
            "degree": step.degree,
            "lower": step.lower,
            "upper": step.upper,
            "chebyshev": list(step.chebyshev),
            "true_lower": step.true_lower,
            "true_upper": step.true_upper,
            "low": step.low,
            "high": step.high,
        }
        for step in schedule.steps
    ]
    values = {
        "schema": SCHEDULE_SCHEMA,
        "p": design.p,
        "lower": design.lower,
        "headroom": design.headroom,
        "safety": design.safety,
        "cushion": design.cushion,
        "error": schedule.error,
    }
    _write(path, {**values, "provenance": asdict(provenance), "step": steps})


def _read_step(data: FileValues, values: Any) -> Step:
    inner = data.inner("step", values)
    degree = inner.integer("degree", 1, 8)
    coefficients = inner.list("chebyshev", most=9)
    if len(coefficients) != degree + 1 or not all(is_finite(value) for value in coefficients):
        raise inner.defect("chebyshev", f"{degree + 1} finite numbers for degree {degree}", coefficients)

    def interval(lower: str, upper: str) -> Interval:
        low = inner.number(lower, 1e-13, 1e3)
        return Interval(lower=low, upper=inner.number(upper, low * (1.0 + 1e-9), 1e3))

    return make_step(
        data.integer("p", 1, 1 << 16),
        interval("lower", "upper"),
        tuple(float(value) for value in coefficients),
        true=interval("true_lower", "true_upper"),
        low=inner.number("low", 0.0, 2.0),
        high=inner.number("high", 0.0, 2.0),
    )


def _grid_error(schedule: Schedule) -> float:
    """max |1 - a^(1/p) x(a)| on 1000 points of the first interval."""
    design = schedule.design
    a = np.geomspace(design.lower, 1.0 + design.headroom, 1000)
    y, x = a.copy(), np.ones_like(a)
    with np.errstate(over="ignore", invalid="ignore"):
        for step in schedule.steps:
            z = (2.0 * y - step.upper - step.lower) / (step.upper - step.lower)
            q = np.polynomial.chebyshev.chebval(z, step.chebyshev)
            x, y = x * q, y * q**step.p
        return float(np.max(np.abs(1.0 - x * a ** (1.0 / design.p))))


def _write(path: Path, values: dict[str, Any]) -> None:
    part = path.with_name(path.name + ".part")
    part.write_text(tomli_w.dumps(values), encoding="utf-8")
    part.replace(path)


def _open(path: Path, schema: str) -> FileValues:
    """The values of a file of this schema that says where it comes from."""
    data = open_table(path, schema, writer="`iroot tune`")
    provenance = data.values.get("provenance")
    if not isinstance(provenance, dict) or not all(key in provenance for key in _PROVENANCE_KEYS):
        raise data.defect("provenance", f"a table with {', '.join(_PROVENANCE_KEYS)}", provenance)
    return data
