"""The flags that declare a sweep on the command line, and the sweep table they make."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Annotated, Any

import typer

from harness.errors import UsageError

PANEL = "Sweep without a manifest (values separated by commas make a product)"


def _flag(help: str, metavar: str) -> Any:
    return typer.Option(help=help, metavar=metavar, rich_help_panel=PANEL, show_default=False)


TaskFlag = Annotated[
    str | None, _flag("inverse_root, inverse_apply, gram_apply, solve, polar, gemm, syrk, copy.", "TASK,...")
]
MethodFlag = Annotated[str | None, _flag("Names, globs, role:opponent; all of the task's if left out.", "NAME,...")]
PrecisionFlag = Annotated[str | None, _flag("Names or globs: bf16, fp*, all.", "NAME,...")]
RootFlag = Annotated[str | None, _flag("Roots.", "INT,...")]
SizeFlag = Annotated[str | None, _flag("Square sizes.", "INT,...")]
ShapeFlag = Annotated[str | None, _flag("Rectangular shapes: 2048x8192.", "MxN,...")]
BatchFlag = Annotated[str | None, _flag("Batch sizes.", "INT,...")]
ColumnsFlag = Annotated[str | None, _flag("Columns of the right-hand side.", "INT,...")]
ProblemFlag = Annotated[str | None, _flag("Names or globs: wishart, logspace_*.", "NAME,...")]
ModeFlag = Annotated[str | None, _flag("auto, graph, eager, compile.", "MODE,...")]
OptionFlag = Annotated[list[str] | None, _flag("An option of the method; may be repeated.", "NAME=VALUE,...")]
SeedsFlag = Annotated[int | None, _flag("Problem seeds that quality is measured on.", "INT")]
TargetErrorFlag = Annotated[float | None, _flag("The report names the fastest method within it.", "FLOAT")]


def sweep_table(flags: Mapping[str, str | None], options: Sequence[str] | None) -> dict[str, Any]:
    """The `[[sweep]]` table that flags declare, empty where none is given.

    Args:
        flags: key of the table -> text of the flag.
        options: texts of `--option`.

    Raises:
        UsageError: a shape is not MxN, or an option not NAME=VALUE.
    """
    table: dict[str, Any] = {}
    for key, text in flags.items():
        if text is None:
            continue
        words = [word.strip() for word in text.split(",")]
        if key in ("p", "n", "batch", "k"):
            table[key] = [_number(word) for word in words]
        elif key == "shape":
            table[key] = [_shape(word) for word in words]
        else:
            table[key] = words
    if options:
        table["options"] = _option_tables(options)
    return table


def _number(word: str) -> int | str:
    """Left as text where it is none: validation then names the flag and the value."""
    return int(word) if re.fullmatch(r"-?\d+", word) else word


def _shape(word: str) -> list[int]:
    found = re.fullmatch(r"(\d+)x(\d+)", word)
    if found is None:
        raise UsageError(f"--shape: must be MxN, got '{word}'; e.g. --shape 2048x8192")
    return [int(size) for size in found.groups()]


def _option_tables(texts: Sequence[str]) -> list[dict[str, bool | int | float | str]]:
    """`["steps=4,5", "safe=true"]` -> the product of both, one table each."""
    factors = []
    for text in texts:
        name, values = option_values(text)
        factors.append([(name, value) for value in values])
    return [dict(point) for point in product(*factors)]


def option_values(text: str) -> tuple[str, list[bool | int | float | str]]:
    """`steps=4,5` -> the name and its values; raises UsageError where it is not NAME=VALUE."""
    name, equals, values = text.partition("=")
    if not (name and equals and values):
        raise UsageError(f"--option: must be NAME=VALUE, got '{text}'; e.g. --option steps=4")
    return name.strip(), [_value(word.strip()) for word in values.split(",")]


def _value(word: str) -> bool | int | float | str:
    if word in ("true", "false"):
        return word == "true"
    for kind in (int, float):
        try:
            return kind(word)
        except ValueError:
            continue
    return word
