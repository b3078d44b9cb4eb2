"""Values of a file that somebody may have edited: what is wrong raises with the file, the key and the remedy."""

from __future__ import annotations

import math
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from iroot.errors import InvalidInputError


def is_finite(value: object) -> bool:
    """Whether a value is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def open_table(path: Path, schema: str, *, writer: str) -> FileValues:
    """The values of a TOML file of this schema.

    Args:
        writer: the command that writes such files.

    Raises:
        InvalidInputError: the file is missing, cannot be read, or is not of this schema.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InvalidInputError(f"no table file {path}; write one with {writer}") from None
    except OSError as error:
        raise InvalidInputError(f"{path}: cannot read the table: {error.strerror}") from None
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InvalidInputError(f"{path}: a table must be TOML in UTF-8: {error}") from None
    data = FileValues(path=path, place="", values=values)
    if values.get("schema") != schema:
        raise data.defect("schema", f"'{schema}', as {writer} writes it", values.get("schema"))
    return data


@dataclass(frozen=True, kw_only=True)
class FileValues:
    """A table of a file; what is missing or wrong raises with the file, the key and the remedy."""

    path: Path
    place: str
    values: dict[str, Any]

    def defect(self, key: str, wanted: str, received: object) -> InvalidInputError:
        """The error for one key."""
        return InvalidInputError(f"{self.path}: {self.place}{key} must be {wanted}, got {received!r}")

    def inner(self, key: str, values: object) -> FileValues:
        """The values of a table below `key`."""
        if not isinstance(values, dict):
            raise self.defect(key, "a table of values", values)
        return FileValues(path=self.path, place=f"{self.place}{key}.", values=values)

    def text(self, key: str) -> str:
        """A non-empty string."""
        value = self.values.get(key)
        if not isinstance(value, str) or not value:
            raise self.defect(key, "a non-empty string", value)
        return value

    def number(self, key: str, low: float, high: float) -> float:
        """A finite number in [low, high]."""
        value = self.values.get(key)
        if not is_finite(value) or not low <= float(value or 0.0) <= high:
            raise self.defect(key, f"a number in [{low:g}, {high:g}]", value)
        return float(value or 0.0)

    def integer(self, key: str, low: int, high: int) -> int:
        """An integer in [low, high]."""
        value = self.values.get(key)
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise self.defect(key, f"an integer in [{low}, {high}]", value)
        return value

    def list(self, key: str, *, most: int) -> list[Any]:
        """A list of 1 to `most` values."""
        value = self.values.get(key)
        if not isinstance(value, list) or not 1 <= len(value) <= most:
            raise self.defect(key, f"a list of 1 to {most} values", value)
        return value
