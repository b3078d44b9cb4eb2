"""Against what a run is compared: the one place that resolves it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from harness.errors import UnlikeMachinesError, UsageError
from harness.records import EXTERNAL, INTERLEAVED, Comparison, RunRecord, RunStatus, RunSummary, Verdict

if TYPE_CHECKING:
    from harness.store import Store

ReferenceKind = Literal["baseline", "previous_run", "run", "paired"]

BASELINE = "baseline"
"""The word that asks for the official baseline and nothing else."""


OWN_BASELINE = "the baseline was promoted from this very run, among others: that nothing changed says little"
"""Note of a comparison of a run with a baseline that it is part of."""


@dataclass(frozen=True, kw_only=True)
class Reference:
    """What a run is compared with."""

    summary: RunSummary
    kind: ReferenceKind

    @property
    def label(self) -> str:
        """What it is, for people."""
        return reference_label(self.kind, self.summary.run.run_id)


def reference_label(kind: ReferenceKind, run_id: str) -> str:
    """`the official baseline <id>`, or what stands in for it, said as such."""
    match kind:
        case "baseline":
            return f"the official baseline {run_id}"
        case "previous_run":
            return f"this machine's previous run {run_id} (there is no official baseline)"
        case "run":
            return f"run {run_id}"
        case "paired":
            return f"{run_id}, launches interleaved"


def resolve_reference(store: Store, run: RunRecord, against: str | None) -> Reference | None:
    """Find the reference of `run`.

    Args:
        against: `baseline`, a run (id, unique prefix or `latest`), or None: the other arm of an interleaved A/B, else
            the official baseline of the run's machine class and manifest, else this machine's previous complete run
            of the manifest.

    Returns:
        None if `against` is None and there is nothing to compare with.

    Raises:
        UsageError: the baseline or the run asked for does not exist, or is the run itself.
    """
    if against is not None and against != BASELINE:
        return _named_run(store, run, against)
    if against is None and run.paired_with not in (None, INTERLEAVED):
        assert run.paired_with is not None
        return _named_run(store, run, run.paired_with)
    if against == BASELINE:
        return Reference(summary=require_baseline(run.machine.machine_class, run.manifest), kind="baseline")
    baseline = _official_baseline(run.machine.machine_class, run.manifest)
    if baseline is not None:
        return Reference(summary=baseline, kind="baseline")
    previous = _previous_run(store, run)
    return None if previous is None else Reference(summary=store.summary(previous.run_id), kind="previous_run")


def compare_run(store: Store, run_id: str, against: str | None = None, force: bool = False) -> Comparison | None:
    """Compare a stored run with its reference; None if there is none. Stores nothing.

    Raises:
        UsageError: as `resolve_reference`.
        UnlikeMachinesError: unlike hardware, unless `force`.
    """
    from harness.compare import compare

    run = store.run(run_id)
    reference = resolve_reference(store, run, against)
    if reference is None:
        return None
    comparison = compare(
        store.summary(run.run_id),
        narrowed(reference.summary, run),
        kind=reference.kind,
        force=force,
        qualification=store.qualification(run.machine, run.manifest),
    )
    notes = [OWN_BASELINE] if run.run_id in reference.summary.runs_merged else []
    notes += dict.fromkeys(
        side.note for side in (run, reference.summary.run) if side.manifest == EXTERNAL and side.note is not None
    )
    notes += _finer(comparison, run)
    return comparison.model_copy(update={"notes": (*comparison.notes, *notes)}) if notes else comparison


def _finer(comparison: Comparison, run: RunRecord) -> list[str]:
    """How to see smaller effects than this comparison: pairs for imported samples, a gate for undecided pairs."""
    imported, paired = run.manifest == EXTERNAL, comparison.kind == "paired"
    taus = [row.tau for row in comparison.verdicts if row.tau is not None]
    if imported and not paired and taus:
        threshold = min(planned.threshold for planned in run.cases)
        return [
            f"launches that alternated, both runs imported with --paired, are judged at tau {100 * threshold:.1f} %; "
            f"here it is {100 * min(taus):.1f} %"
        ]
    undecided = any(row.gates and row.verdict is Verdict.INCONCLUSIVE and row.tau for row in comparison.verdicts)
    if paired and undecided and not imported:
        return ["`iroot bench gate` measures undecided cases again in fresh pairs, adjusted over these alone"]
    return []


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """A comparison, or why there is none (None: there is nothing to compare with yet)."""

    comparison: Comparison | None = None
    reason: str | None = None


def compare_or_reason(store: Store, run_id: str, against: str | None = None, force: bool = False) -> Attempt:
    """As `compare_run`, for callers whose work goes on without a comparison: unlike machines become a reason."""
    try:
        return Attempt(comparison=compare_run(store, run_id, against, force))
    except UnlikeMachinesError as error:
        return Attempt(reason=str(error))


def require_baseline(machine_class: str, manifest: str) -> RunSummary:
    """The official baseline. Raises UsageError where there is none."""
    baseline = _official_baseline(machine_class, manifest)
    if baseline is None:
        raise UsageError(
            f"baseline: there is no official baseline of manifest '{manifest}' for {machine_class}; name a run, "
            "or promote runs with `iroot bench baseline promote`"
        )
    return baseline


def _official_baseline(machine_class: str, manifest: str) -> RunSummary | None:
    from harness.baseline import load_baseline
    from harness.paths import baselines_root

    return load_baseline(baselines_root(), machine_class, manifest)


def _named_run(store: Store, run: RunRecord, against: str) -> Reference:
    other = store.run(against)
    if other.run_id == run.run_id:
        raise UsageError(
            f"--against {against}: that is the run itself; name another one (`iroot bench runs` lists them)"
        )
    both_interleaved = run.paired_with == other.paired_with == INTERLEAVED
    kind: ReferenceKind = "paired" if other.run_id == run.paired_with or both_interleaved else "run"
    return Reference(summary=store.summary(other.run_id), kind=kind)


def _previous_run(store: Store, run: RunRecord) -> RunRecord | None:
    """The newest earlier complete run on this class of machine that shares cases; this unit and this plan come first.

    A run narrowed by another filter would make most cases new or missing, so only whole runs and the same filter count.
    An arm of an A/B may be any library: it is nobody's previous run.
    """
    planned = _planned(run)
    found = store.runs(
        manifest=run.manifest, machine_class=run.machine.machine_class, status=RunStatus.COMPLETE, limit=None
    )
    earlier = [
        other
        for other in found
        if (other.created_at, other.run_id) < (run.created_at, run.run_id)
        and other.filter in (None, run.filter)
        and other.arm is None
        and not planned.isdisjoint(_planned(other))
    ]

    def likeness(other: RunRecord) -> tuple[bool, bool]:
        return other.machine.uuid == run.machine.uuid, other.manifest_hash == run.manifest_hash

    return max(earlier, key=likeness, default=None)  # of equals the first, which is the newest


def _planned(run: RunRecord) -> frozenset[str]:
    return frozenset(planned.case.case_id for planned in run.cases)


def narrowed(reference: RunSummary, run: RunRecord) -> RunSummary:
    """The reference without the cases that the run's filter left out on purpose: they are not missing.

    A reference narrowed by the same filter holds none of them: what the run lacks of it, its library lacks.
    """
    if run.filter is None or run.filter == reference.run.filter:
        return reference
    planned = _planned(run)
    kept = {case_id: case for case_id, case in reference.cases.items() if case_id in planned}
    return reference.model_copy(update={"cases": kept})
