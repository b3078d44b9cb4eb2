"""Option records shared by methods; each validates itself on construction."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

from iroot.errors import InvalidInputError
from iroot.scaling import get_scaling
from iroot.schedules import Schedule
from iroot.table_files import read_schedule


@dataclass(frozen=True, kw_only=True)
class ScheduleOptions:
    """How a method on minimax schedules (`iroot.schedules`) is set up.

    Attributes:
        target: error of the schedule in exact arithmetic; None: what the precision can show (`target_for`).
        degrees: of the steps in order, 1 to 8; the last one repeats. `cheapest`: the sequence with the fewest products
            (`iroot.plans`), found in 20 to 150 ms once for each bound: 8 to 16 products instead of 10 to 25 at the same
            error.
        safety: deflation of all but the last step, in [1, 2].
        min_cushion: steps are added until the cushion is at least this, in [0, 0.5].
        scaling: name of the normalisation (`iroot.scaling`).
        table: a file of `iroot tune schedule`, which then decides everything but `scaling`; it serves its own p, and
            spectra within its interval.
    """

    target: float | None = None
    degrees: tuple[int, ...] | Literal["cheapest"] = (2,)
    safety: float = 1.0
    min_cushion: float = 0.0
    scaling: str = "square"
    table: str | None = None

    def __post_init__(self) -> None:
        check_target(self.target)
        if self.degrees != "cheapest":
            check_degrees(self.degrees)
        if not 1.0 <= self.safety <= 2.0:
            raise InvalidInputError(f"safety must be in [1, 2], got {self.safety}")
        if not 0.0 <= self.min_cushion <= 0.5:
            raise InvalidInputError(f"min_cushion must be in [0, 0.5], got {self.min_cushion}")
        get_scaling(self.scaling)
        self.schedule  # noqa: B018  (reads and checks the file)

    @cached_property
    def schedule(self) -> Schedule | None:
        """What `table` holds."""
        return None if self.table is None else read_schedule(Path(self.table))


def check_degrees(degrees: tuple[int, ...] | str) -> None:
    """Raise InvalidInputError unless `degrees` holds integers from 1 to 8, at least one."""
    numbers = not isinstance(degrees, str) and all(isinstance(degree, int) and 1 <= degree <= 8 for degree in degrees)
    if not (degrees and numbers):
        raise InvalidInputError(f"degrees must be integers from 1 to 8, at least one, or 'cheapest', got {degrees!r}")


def check_target(target: float | None) -> None:
    """Raise InvalidInputError unless `target` is None or in [1e-14, 1)."""
    if target is not None and not 1e-14 <= target < 1.0:
        raise InvalidInputError(f"target must be in [1e-14, 1), got {target}")


def target_for(unit_roundoff: float) -> float:
    """The default target: a quarter of a 16-bit format's unit roundoff, 16 times a longer one's, at least 1e-13.

    float32: 1e-6; bfloat16: 1e-3; float16 and TF32: 1.2e-4. What is left after rounding hides a smaller one.
    """
    return unit_roundoff / 4.0 if unit_roundoff > 1e-5 else max(16.0 * unit_roundoff, 1e-13)
