"""Accepted verdicts: a TOML file of waivers, each for some cases, with a reason and an end.

    [[waiver]]
    filter = "task=polar,method=polar_express,n=4096"
    verdict = "trade"
    reason = "one step fewer, agreed for the new default; see the decision record"
    expires = 2027-01-31
    up_to = 1.10            # a slowdown beyond this ratio is not covered

A waiver counts up to the end of the day it expires on. `peak_memory` and `first_call` accept what these verdicts beside
time fail. A broken case cannot be waived: what is known to fail is stated in the manifest (`expect`).
"""

from __future__ import annotations

import tomllib
from datetime import date
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError

from harness.errors import UsageError
from harness.filters import parse_filter
from harness.manifest_checks import readable_filter
from harness.manifest_errors import explain
from harness.records import CaseVerdict, Record

Waivable = Literal["regressed", "less_accurate", "trade", "missing", "inconclusive", "peak_memory", "first_call"]


def _listed(value: object) -> object:
    return value if isinstance(value, list | tuple) else [value]


class Waiver(Record):
    """One accepted deviation. `up_to`: largest ratio (candidate / reference) it covers; None: any."""

    filter: Annotated[str, AfterValidator(readable_filter)]
    verdict: Annotated[tuple[Waivable, ...], Field(min_length=1), BeforeValidator(_listed)]
    reason: Annotated[str, Field(min_length=1)]
    expires: date
    up_to: Annotated[float, Field(gt=0)] | None = None

    def expired(self, today: date) -> bool:
        """Whether its last day is over."""
        return today > self.expires

    def names(self, row: CaseVerdict, what: str) -> bool:
        """Whether it is written for this case and for `what`, a verdict or a resource, expired or not."""
        return what in self.verdict and parse_filter(self.filter)(row.case)

    def covers(self, row: CaseVerdict, what: str, *, ratio: float | None, today: date) -> bool:
        """Whether it excuses `what` of this row today; `ratio` is candidate / reference."""
        within = self.up_to is None or ratio is None or ratio <= self.up_to
        return self.names(row, what) and within and not self.expired(today)

    @property
    def text(self) -> str:
        """For people: what it accepts, why and until when."""
        limit = f" up to ratio {self.up_to:g}" if self.up_to is not None else ""
        return f"{' or '.join(self.verdict)}{limit} of {self.filter} until {self.expires}: {self.reason}"


class WaiverFile(Record):
    """The file's tables."""

    waiver: tuple[Waiver, ...] = ()


def load_waivers(path: Path) -> tuple[Waiver, ...]:
    """Read a waiver file.

    Raises:
        UsageError: it cannot be read, or one line per defect with the file, the key, the value and the remedy.
    """
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path}: cannot read the waivers: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: not valid TOML: {error}") from None
    try:
        return WaiverFile.model_validate(data).waiver
    except ValidationError as error:
        raise UsageError(explain(error, WaiverFile, origin=str(path))) from None
