"""Turns a pydantic ValidationError into lines that name the place, the value and the remedy."""

from __future__ import annotations

import difflib
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

Location = tuple[int | str, ...]

CUTOFF = 0.4
"""How alike two names must be for one to be offered for the other (difflib's ratio)."""

_REQUIREMENTS = {
    "greater_than": "must be > {gt:g}",
    "greater_than_equal": "must be >= {ge:g}",
    "less_than": "must be < {lt:g}",
    "less_than_equal": "must be <= {le:g}",
    "int_type": "must be an integer",
    "int_parsing": "must be an integer",
    "int_from_float": "must be an integer",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "string_type": "must be a string",
    "tuple_type": "must be a list",
    "dict_type": "must be a table",
    "model_type": "must be a table",
    "model_attributes_type": "must be a table",
    "string_pattern_mismatch": "must be lower-case letters, digits, '-' and '_'",
}


def explain(error: ValidationError, model: type[BaseModel], *, origin: str | None) -> str:
    """One line per defect. `origin` is the file named; None: the sweep came from flags, which are named instead."""
    details = error.errors()
    misspelled = {_meant_key(detail, model) for detail in details if detail["type"] == "extra_forbidden"}
    lines = (_line(detail, model, origin) for detail in details if not _follows(detail, misspelled))
    return "\n".join(dict.fromkeys(lines))


def _follows(detail: ErrorDetails, misspelled: set[Location]) -> bool:
    """Whether a defect only follows from another: of a misspelled key, or of the elements of a list."""
    if detail["type"] == "missing":
        return detail["loc"] in misspelled
    return detail["type"] == "too_short" and bool(detail["input"])


def _meant_key(detail: ErrorDetails, model: type[BaseModel]) -> Location:
    *parent, key = detail["loc"]
    near = difflib.get_close_matches(str(key), _fields_at(model, tuple(parent)), n=1, cutoff=CUTOFF)
    return (*parent, *near)


def _line(detail: ErrorDetails, model: type[BaseModel], origin: str | None) -> str:
    loc = list(detail["loc"])
    if detail["type"] == "sweep_field":
        loc.append(detail["ctx"]["field"])
    return f"{_place(loc, origin)}: {_message(detail, model)}"


def _place(loc: list[int | str], origin: str | None) -> str:
    """`quick.toml: sweep[1].precision`, or `--precision`. The value says which element of a list is meant."""
    names = [part for part in loc if isinstance(part, str)]
    if origin is None:
        return f"--{names[-1].removesuffix('s') if names[-1] == 'options' else names[-1].replace('_', '-')}"
    text = ""
    for number, part in enumerate(loc):
        if isinstance(part, str):
            text += f".{part}" if text else part
        elif number == 1 and loc[0] == "sweep":
            text += f"[{part}]"
    return f"{origin}: {text}"


def _message(detail: ErrorDetails, model: type[BaseModel]) -> str:
    kind, value = detail["type"], detail["input"]
    if kind in ("sweep_field", "value_defect"):
        return str(detail["msg"])
    if kind == "missing":
        return "is required"
    if kind == "extra_forbidden":
        return f"unknown key; {_near(str(detail['loc'][-1]), _fields_at(model, detail['loc'][:-1]))}"
    if kind == "literal_error":
        choices = [word.strip("' ") for word in str(detail["ctx"]["expected"]).replace(" or ", ", ").split(",")]
        return f"unknown {value!r}; {_near(str(value), choices)}"
    if kind == "too_short":
        return "must not be empty"
    if kind in ("missing_argument", "too_long") or (kind == "tuple_type" and "shape" in detail["loc"]):
        return f"must be [m, n] pairs, got {value!r}"
    if kind in _REQUIREMENTS:
        return f"{_REQUIREMENTS[kind].format(**detail.get('ctx', {}))}, got {value!r}"
    return f"{detail['msg']}, got {value!r}"


def _near(name: str, valid: list[str]) -> str:
    matches = difflib.get_close_matches(name, valid, n=1, cutoff=CUTOFF)
    return f"did you mean '{matches[0]}'?" if matches else f"known: {', '.join(valid)}"


def _fields_at(model: type[BaseModel], loc: Location) -> list[str]:
    """The keys that are valid at `loc`, found by walking the annotations of the models."""
    current = model
    for part in loc:
        if isinstance(part, str) and part in current.model_fields:
            inner = _model_in(current.model_fields[part].annotation)
            if inner is not None:
                current = inner
    return list(current.model_fields)


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in get_args(annotation):
        found = _model_in(argument)
        if found is not None:
            return found
    return None
