"""TOML for readers: arrays on one line where they fit."""

from __future__ import annotations

import re
import tomllib

WIDTH = 120


def compact(text: str) -> str:
    """The same document with each array on one line, if it fits in 120 columns; text that is no TOML comes back as is.

    Writers of TOML give every element a line of its own: a manifest of 80 sweeps then takes 2300 lines.
    """
    lines: list[str] = []
    array: list[str] = []
    for line in text.splitlines():
        if array or line.endswith("= ["):
            array.append(line)
            if line == "]":
                lines += _joined(array)
                array = []
        else:
            lines.append(line)
    result = "\n".join([*lines, *array, ""])
    return result if _same(text, result) else text


def _joined(array: list[str]) -> list[str]:
    joined = " ".join(line.strip() for line in array)
    joined = re.sub(r"\[ ", "[", re.sub(r", \]", "]", joined))
    return [joined] if len(joined) <= WIDTH else array


def _same(text: str, other: str) -> bool:
    try:
        return tomllib.loads(text) == tomllib.loads(other)
    except tomllib.TOMLDecodeError:
        return False
