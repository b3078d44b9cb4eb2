"""Filter expressions over cases: `task=polar,n>=1024,precision~bf`.

A comma means and; `|` inside a value means or; operators are `=` `!=` `~` (contains) `<` `<=` `>` `>=`. An integer
coordinate that a case does not have (p of a polar case) is matched by `!=` only.
"""

from __future__ import annotations

import difflib
import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from harness.errors import UsageError
from harness.records import Case

_TEXT: dict[str, Callable[[Case], str]] = {
    "task": lambda case: case.task,
    "method": lambda case: case.method,
    "precision": lambda case: case.precision,
    "problem": lambda case: case.problem,
    "mode": lambda case: str(case.mode),
    "options": lambda case: case.options_text or "default",
    "case": lambda case: case.case_id,
}
_INTEGER: dict[str, Callable[[Case], int | None]] = {
    "p": lambda case: case.p,
    "m": lambda case: case.m,
    "n": lambda case: case.n,
    "batch": lambda case: case.batch,
    "k": lambda case: case.k,
}
_ORDER: dict[str, Callable[[int, int], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_TERM = re.compile(r"\s*([A-Za-z_]+)\s*(!=|<=|>=|=|~|<|>)\s*(.*?)\s*")

_CUTOFF = 0.6
"""How alike two names must be for one to be offered for the other (difflib's ratio): `size` is no misspelled `case`."""
_LISTED = 12
"""How many of the names that there are a message lists; of long ones, with commas of their own, three."""
_LONG = ("options", "case")

KEYS = (*_TEXT, *_INTEGER)
"""What a filter may name."""


@dataclass(frozen=True, kw_only=True)
class _Term:
    key: str
    relation: str
    values: tuple[str, ...]

    def matches(self, case: Case) -> bool:
        if self.key in _TEXT:
            return self._matches_text(_TEXT[self.key](case))
        return self._matches_integer(_INTEGER[self.key](case))

    def _matches_text(self, have: str) -> bool:
        if self.relation == "~":
            return any(value in have for value in self.values)
        return (have in self.values) == (self.relation == "=")

    def _matches_integer(self, have: int | None) -> bool:
        wanted = [int(value) for value in self.values]
        if self.relation in ("=", "!="):
            return (have in wanted) == (self.relation == "=")
        return have is not None and any(_ORDER[self.relation](have, value) for value in wanted)

    def misnamed(self, cases: Sequence[Case]) -> str:
        """As of `CaseFilter`. Only `=` names values: a range, a part of a name and what is left out may fit nothing."""
        if self.relation != "=":
            return ""
        if self.key in _TEXT:
            names = sorted({_TEXT[self.key](case) for case in cases})
            hint_of = _long_hint if self.key in _LONG else _text_hint
            found = ((value, hint_of(value, names)) for value in self.values if value not in names)
        else:
            have = sorted({own for case in cases if (own := _INTEGER[self.key](case)) is not None})
            found = ((value, _integer_hint(int(value), have)) for value in self.values if int(value) not in have)
        value, hint = next(found, ("", ""))
        return f"no case has {self.key} '{value}'; {hint or f'they have no {self.key}'}" if value else ""


@dataclass(frozen=True, kw_only=True)
class CaseFilter:
    """A parsed filter; call it with a case."""

    text: str
    terms: tuple[_Term, ...]

    def __call__(self, case: Case) -> bool:
        return all(term.matches(case) for term in self.terms)

    def misnamed(self, cases: Sequence[Case]) -> str:
        """The first value asked for with `=` that no case has, with those that they have; empty where each occurs.

        Values that occur, but in no case together, are not misnamed.
        """
        return next((found for term in self.terms if (found := term.misnamed(cases))), "")


@dataclass(frozen=True, kw_only=True)
class CasePart:
    """The cases whose id contains `text`; call it with a case."""

    text: str

    def __call__(self, case: Case) -> bool:
        return self.text in case.case_id

    def misnamed(self, cases: Sequence[Case]) -> str:
        """Empty: a part of an id has no alternatives that could be wrong while another fits."""
        return ""


def parse_filter(text: str) -> CaseFilter:
    """Parse a filter expression. Raises UsageError that quotes the term and names the nearest key or the remedy,
    but not where it was written."""
    return CaseFilter(text=text, terms=tuple(_parse_term(term) for term in text.split(",")))


def flag_filter(flag: str, text: str) -> CaseFilter:
    """Parse what was given with a flag of the command line. Raises UsageError as `parse_filter`, with the flag."""
    try:
        return parse_filter(text)
    except UsageError as error:
        raise UsageError(f"{flag}: {error}") from None


def case_selector(text: str) -> CaseFilter | CasePart:
    """The cases that `text` means: as a filter, or as a case id or a part of one.

    Ids hold '=' too (.../p=2/...), but no name in a filter holds a '/'.
    """
    if "/" in text or not any(sign in text for sign in "=~<>"):
        return CasePart(text=text)
    return parse_filter(text)


def _text_hint(value: str, names: list[str]) -> str:
    near = difflib.get_close_matches(value, names, n=1, cutoff=_CUTOFF)
    return f"did you mean '{near[0]}'?" if near else _listed(names[:_LISTED], of=len(names))


def _long_hint(value: str, names: list[str]) -> str:
    near = difflib.get_close_matches(value, names, n=1, cutoff=_CUTOFF)
    some = "; ".join(f"'{name}'" for name in near or names[:3])
    more = f" and {len(names) - 3} more" if not near and len(names) > 3 else ""
    return f"there is {some}{more}; ~ finds a part of one" if names else ""


def _integer_hint(value: int, have: list[int]) -> str:
    """The nearest, in order."""
    nearest = sorted(have, key=lambda each: abs(each - value))[:_LISTED]
    return _listed([str(each) for each in sorted(nearest)], of=len(have))


def _listed(names: list[str], *, of: int) -> str:
    more = f" and {of - len(names)} more" if of > len(names) else ""
    return f"they have: {', '.join(names)}{more}" if names else ""


def _parse_term(text: str) -> _Term:
    found = _TERM.fullmatch(text)
    if found is None:
        example = "'task=polar,n>=1024,precision~bf'"
        raise UsageError(f"cannot read '{text.strip()}'; write KEY OPERATOR VALUE, e.g. {example}")
    key, relation, value = found.groups()
    if key not in KEYS:
        near = difflib.get_close_matches(key, KEYS, n=1, cutoff=_CUTOFF)
        hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(KEYS)}"
        raise UsageError(f"unknown key '{key}' in '{text.strip()}'; {hint}")
    values = tuple(part.strip() for part in value.split("|"))
    if "" in values:
        raise UsageError(f"'{text.strip()}' has an empty value; write {key}{relation}VALUE")
    _check_relation(key, relation, values, text.strip())
    return _Term(key=key, relation=relation, values=values)


def _check_relation(key: str, relation: str, values: tuple[str, ...], text: str) -> None:
    if key in _TEXT:
        if relation in _ORDER:
            raise UsageError(f"'{key}' is a name and has no order, got '{text}'; use =, != or ~")
        return
    if relation == "~":
        raise UsageError(f"'{key}' is an integer, got '{text}'; use =, !=, <, <=, > or >=")
    for value in values:
        if not value.isdecimal():
            raise UsageError(f"'{key}' needs an integer, got '{value}' in '{text}'")
