"""What a bisection found: records for programs, tables and exit codes."""

from __future__ import annotations

import math
from enum import StrEnum
from typing import Literal

from harness.bisect import Answer
from harness.errors import ExitCode
from harness.records import CaseVerdict, Record

MAX_THRESHOLD = 0.99
"""Of `--threshold`, as of manifests."""


class Symptom(StrEnum):
    """In what way BAD is worse than GOOD: what the search looks for."""

    SLOWER = "slower"
    LESS_ACCURATE = "less accurate"
    BROKEN = "broken"


class Trial(Record):
    """One revision against GOOD."""

    revision: str
    subject: str
    answer: Answer
    reason: str | None = None
    """Why it is undecided or skipped, or what else is to be said."""
    row: CaseVerdict | None = None
    """None: nothing could be measured."""
    runs: tuple[str, ...] = ()
    """The runs of GOOD and of the revision."""
    remembered: bool = False
    """Measured before, by an earlier call."""


class Suspect(Record):
    """A commit that may be the first bad one."""

    revision: str
    subject: str


Ending = Literal["found", "narrowed", "not_worse", "undecided"]


class BisectResult(Record):
    """What a bisection found."""

    outcome: Ending
    """`narrowed`: revisions that could not be tested leave several suspects; `undecided`: whether BAD is worse is not
    known; `not_worse`: it is not."""
    case_id: str
    good: str
    bad: str
    symptom: Symptom | None
    trials: tuple[Trial, ...]
    """In the order tested; the first is BAD."""
    suspects: tuple[Suspect, ...]
    """Oldest first; a single one is the first bad revision."""

    @property
    def first_bad(self) -> Suspect | None:
        """The first bad revision, or None."""
        return self.suspects[0] if self.outcome == "found" else None

    @property
    def easier_threshold(self) -> float | None:
        """A threshold that what was left undecided would need fewer pairs for; None where the case's own will do.

        Half way to the surely known slowdown of BAD, on the log scale, if that is more than twice the threshold used.
        A slowdown in several steps is then found where it passes half way.
        """
        undecided = any(trial.answer is Answer.UNDECIDED for trial in self.trials)
        bad = self.trials[0].row if self.trials else None
        if self.symptom is not Symptom.SLOWER or not undecided or bad is None or bad.low is None or bad.tau is None:
            return None
        half = min(math.sqrt(bad.low) - 1, MAX_THRESHOLD)
        return half if half > 2 * bad.tau else None

    @property
    def exit_code(self) -> ExitCode:
        """OK: found; FAILED_CHECK: BAD is not worse than GOOD; UNDECIDED: several suspects, or too noisy to say."""
        codes = {"found": ExitCode.OK, "not_worse": ExitCode.FAILED_CHECK}
        return codes.get(self.outcome, ExitCode.UNDECIDED)
