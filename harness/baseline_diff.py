"""What differs between two contents of a baseline, case by case."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from harness.baseline_files import BaselineCell, BaselineContent, BaselineMetadata
from harness.records import Outcome, RunRecord

ChangeKind = Literal["new", "removed", "outcome", "time", "figures"]


@dataclass(frozen=True, kw_only=True)
class CellChange:
    """How one case differs.

    Attributes:
        kind: `new` or `removed`; `outcome`: it ended otherwise; `time`: its launches were timed anew; `figures`:
            anything else (quality, memory, first call, plan).
        before_s, after_s: geometric mean of the launch medians, None where there is none.
        notable: beyond what the case's own threshold tolerates; everything but a time is.
    """

    case_id: str
    kind: ChangeKind
    before: Outcome | None = None
    after: Outcome | None = None
    before_s: float | None = None
    after_s: float | None = None
    notable: bool = True

    @property
    def ratio(self) -> float | None:
        """after / before, below 1 is faster."""
        return None if self.before_s is None or self.after_s is None else self.after_s / self.before_s

    @property
    def text(self) -> str:
        """One line for people."""
        match self.kind:
            case "new":
                return f"new case: {self.case_id}"
            case "removed":
                return f"removed case: {self.case_id}"
            case "outcome":
                return f"{self.case_id}: {self.before} -> {self.after}"
            case "time":
                return f"{self.case_id}: time x {self.ratio:.3f}"
            case "figures":
                return f"{self.case_id}: same times, other figures"


def cell_changes(before: BaselineContent, after: BaselineContent) -> tuple[CellChange, ...]:
    """Every case that is not byte for byte the same: new and removed ones by name, then the others in their order."""
    old, new = before.cells, after.cells
    changes = [CellChange(case_id=case_id, kind="new") for case_id in sorted(new.keys() - old.keys())]
    changes += [CellChange(case_id=case_id, kind="removed") for case_id in sorted(old.keys() - new.keys())]
    changes += [_change(case_id, old[case_id], cell) for case_id, cell in new.items() if old.get(case_id, cell) != cell]
    return tuple(changes)


def _change(case_id: str, old: BaselineCell, new: BaselineCell) -> CellChange:
    before_s, after_s = _typical_s(old), _typical_s(new)
    kind: ChangeKind = "figures"
    notable = True
    if old.case.outcome is not new.case.outcome:
        kind = "outcome"
    elif before_s is not None and after_s is not None and old.medians_s != new.medians_s:
        kind = "time"
        notable = abs(math.log(after_s / before_s)) > math.log1p(new.case.planned.threshold)
    return CellChange(
        case_id=case_id,
        kind=kind,
        before=old.case.outcome,
        after=new.case.outcome,
        before_s=before_s,
        after_s=after_s,
        notable=notable,
    )


def _typical_s(cell: BaselineCell) -> float | None:
    return statistics.geometric_mean(cell.medians_s.values()) if cell.medians_s else None


def metadata_changes(before: BaselineMetadata, after: BaselineMetadata) -> tuple[str, ...]:
    """Where the contents come from, as far as that differs, one line each."""
    facts = (
        ("revision", before.revision, after.revision),
        ("promoted on", before.promoted_on, after.promoted_on),
        ("reason", before.reason, after.reason),
        ("runs", _run_list(before.runs), _run_list(after.runs)),
    )
    lines = [f"{name}: {old} -> {new}" for name, old, new in facts if old != new]
    lines += [
        f"amended on {each.promoted_on} at {each.revision[:12]}, {each.filter}: {each.reason}"
        for each in after.amendments
        if each not in before.amendments
    ]
    return tuple(lines)


def _run_list(runs: Sequence[RunRecord]) -> str:
    return ", ".join(run.run_id for run in runs)
