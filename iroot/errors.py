"""The exception tree of the library. Every error a caller can cause is an `IrootError`."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class IrootError(Exception):
    """Base class of every error raised on purpose."""


class InvalidInputError(IrootError, ValueError):
    """An argument breaks a requirement; the message says which, what was received and the remedy."""


class UnknownNameError(IrootError, LookupError):
    """A name that is not registered. `nearest` is the closest valid one, or None."""

    def __init__(self, kind: str, name: str, valid: Iterable[str]) -> None:
        choices = sorted(valid)
        matches = difflib.get_close_matches(name, choices, n=1, cutoff=0.4)
        self.kind, self.name, self.nearest = kind, name, matches[0] if matches else None
        hint = f"did you mean '{self.nearest}'?" if matches else f"known: {', '.join(choices)}"
        super().__init__(f"unknown {kind} '{name}'; {hint}")


class UnsupportedError(IrootError, RuntimeError):
    """The request is valid, but this machine or this method cannot serve it; the message says why."""
