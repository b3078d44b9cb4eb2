"""What a gate finds of one case in each respect (time and accuracy, peak memory, first call), and what is waived."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date
from enum import StrEnum

from harness.records import CaseVerdict, Verdict
from harness.resource_verdict import resources_of
from harness.waivers import Waiver

NOTED = 20
"""Advisory findings that are listed one by one."""


class Ruling(StrEnum):
    """What the gate says of one case. `advisory`: its time may not fail the gate, whatever it is."""

    PASSED = "passed"
    FAILED = "failed"
    UNDECIDED = "undecided"
    WAIVED = "waived"
    ADVISORY = "advisory"


_WORST_FIRST = (Ruling.FAILED, Ruling.UNDECIDED, Ruling.WAIVED, Ruling.PASSED, Ruling.ADVISORY)

_RESOURCE_RULINGS = {Verdict.REGRESSED: Ruling.FAILED, Verdict.INCONCLUSIVE: Ruling.UNDECIDED}


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What is found of one case in one respect.

    Attributes:
        what: as waivers name it; None: no waiver covers it.
        ratio: candidate / reference, for a waiver's limit.
    """

    ruling: Ruling
    reason: str | None = None
    what: str | None = None
    ratio: float | None = None
    waiver: Waiver | None = None


def worst(findings: Sequence[Finding]) -> Finding:
    """The finding that decides the case; the first of equals."""
    return min(findings, key=lambda finding: _WORST_FIRST.index(finding.ruling))


def waived(finding: Finding, row: CaseVerdict, waivers: Sequence[Waiver], *, today: date) -> Finding:
    """The finding excused by the first waiver that covers it; else as it is, with the limit of those that do not."""
    what = finding.what
    if what is None or finding.ruling not in (Ruling.FAILED, Ruling.UNDECIDED):
        return finding
    covering = (each for each in waivers if each.covers(row, what, ratio=finding.ratio, today=today))
    waiver = next(covering, None)
    if waiver is not None:
        return replace(finding, ruling=Ruling.WAIVED, waiver=waiver)
    named = (each for each in waivers if each.names(row, what) and not each.expired(today))
    limits = [each.up_to for each in named if each.up_to is not None]
    if not limits:
        return finding
    beyond = f"a waiver accepts up to ratio {max(limits):g}"
    return replace(finding, reason=f"{finding.reason}; {beyond}" if finding.reason else beyond)


def exceeded(waiver: Waiver, row: CaseVerdict, findings: Sequence[Finding]) -> bool:
    """Whether a waiver that counts still is written for something that it did not excuse."""
    open_ = (each.what for each in findings if each.ruling in (Ruling.FAILED, Ruling.UNDECIDED))
    return any(what is not None and waiver.names(row, what) for what in open_)


def names(waiver: Waiver, row: CaseVerdict) -> bool:
    """Whether a waiver is written for something found of this case."""
    found = [row.verdict.value, *(finding.what for finding in resource_findings(row))]
    return any(waiver.names(row, what) for what in found if what is not None)


def resource_findings(row: CaseVerdict) -> list[Finding]:
    """Resources that got worse, or of which too little is known, where that counts."""
    return [
        Finding(ruling=_RESOURCE_RULINGS[each.verdict], reason=each.text, what=each.name, ratio=each.ratio)
        for each in resources_of(row)
        if each.fails and each.verdict in _RESOURCE_RULINGS
    ]


def resource_notes(rows: Sequence[CaseVerdict]) -> tuple[str, ...]:
    """Peak memory and first calls that got worse and fail nothing."""
    worse = [
        f"advisory: {each.text} in {row.case_id}"
        for row in rows
        for each in resources_of(row)
        if each.verdict is Verdict.REGRESSED and not each.fails
    ]
    more = len(worse) - NOTED
    return (*worse[:NOTED], *((f"advisory: peak memory or first call got worse in {more} more",) if more > 0 else ()))
