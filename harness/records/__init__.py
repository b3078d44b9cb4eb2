"""The records that cross process and storage borders. Units are in the names; times are seconds.

Imports nothing of the project. Every record is frozen; a field that is unknown to this version is an error.
"""

from harness.records.base import (
    SCHEMA_VERSION,
    Record,
)
from harness.records.cases import (
    EXTERNAL,
    Case,
    Mode,
    OptionValue,
    PlannedCase,
    TimingPolicy,
    canonical_options,
)
from harness.records.events import (
    EVENT,
    CaseResult,
    CaseStarted,
    Event,
    LaunchFinished,
    LaunchRecord,
    LaunchStarted,
    Outcome,
    Quality,
    WorkPlan,
    read_events,
)
from harness.records.runs import (
    INTERLEAVED,
    MachineIdentity,
    MachineState,
    RunRecord,
    RunStatus,
    SoftwareIdentity,
    SourceIdentity,
)
from harness.records.summaries import (
    CaseSummary,
    CaseVerdict,
    Comparison,
    RunSummary,
    Verdict,
)

__all__ = [
    "EVENT",
    "EXTERNAL",
    "INTERLEAVED",
    "SCHEMA_VERSION",
    "Case",
    "CaseResult",
    "CaseStarted",
    "CaseSummary",
    "CaseVerdict",
    "Comparison",
    "Event",
    "LaunchFinished",
    "LaunchRecord",
    "LaunchStarted",
    "MachineIdentity",
    "MachineState",
    "Mode",
    "OptionValue",
    "Outcome",
    "PlannedCase",
    "Quality",
    "Record",
    "RunRecord",
    "RunStatus",
    "RunSummary",
    "SoftwareIdentity",
    "SourceIdentity",
    "TimingPolicy",
    "Verdict",
    "WorkPlan",
    "canonical_options",
    "read_events",
]
