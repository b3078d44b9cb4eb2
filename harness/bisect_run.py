"""The measurements of a bisection: revisions against GOOD, in interleaved pairs and on one case; see `harness.bisect`.

Every measurement is an ordinary A/B in the store. Asked for again, a complete one with the same revisions, case,
machine, software and harness is taken from there: a bisection that was killed goes on where it was.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from harness import environment, stats
from harness.arm_plan import plan_arms, serves
from harness.arms import Arm, resolve_arm
from harness.bisect import Answer, Effort, search
from harness.bisect_result import BisectResult, Ending, Suspect, Symptom, Trial
from harness.compare import compare, surely_not_slower
from harness.errors import MeasurementError, UsageError
from harness.filters import case_selector
from harness.launcher import Observer
from harness.paired import PairedRequest, PairedRuns, run_paired
from harness.quality import Accuracy, compare_quality
from harness.records import CaseVerdict, PlannedCase, RunRecord, RunStatus, Verdict
from harness.revisions import Commit, Walk, commit, commit_of, library_commits
from harness.runner import RunRequest
from harness.store import Store

if TYPE_CHECKING:
    from harness.manifest import DeviceKind, Manifest

NOTE = "bisect"
"""Of the runs that a bisection makes, and looks for."""

LACKING = "its library lacks the method, or serves fewer precisions or roots"

SHORT = 12
"""Digits of a commit's id in messages."""


@dataclass(frozen=True, kw_only=True)
class BisectRequest:
    """What to search.

    Attributes:
        case: a case id, a part of one, or a filter; must mean exactly one case.
        good, bad: names of revisions.
        repository: where they are looked up.
        effort: pairs of launches of a first measurement, and how often an undecided one is repeated.
        threshold: instead of the case's own tau.
        walk: which commits of merged branches are suspects.
        imports: modules that register methods of one's own.
    """

    case: str
    good: str
    bad: str
    repository: Path
    manifest: Manifest
    device: str
    store: Path
    effort: Effort
    threshold: float | None = None
    walk: Walk = "first-parent"
    imports: tuple[str, ...] = ()

    @property
    def device_kind(self) -> DeviceKind:
        """`cuda` or `cpu`."""
        return "cpu" if self.device == "cpu" else "cuda"


class Watch(Protocol):
    """Who is told how a bisection gets on."""

    def begun(self, case_id: str, suspects: int) -> None: ...

    def measuring(self, tested: Commit, launches: int) -> None: ...

    def tested(self, trial: Trial) -> None: ...

    def observing(self) -> AbstractContextManager[Observer]:
        """Entered for as long as a revision is measured."""


def run_bisect(request: BisectRequest, watch: Watch) -> BisectResult:
    """Confirm that BAD is worse than GOOD, then find the first revision that is.

    Raises:
        UsageError: a name is no revision, GOOD is no ancestor of BAD, no commit between them changes the library, or
            the case is not exactly one that both can measure.
        MeasurementError: the library of GOOD or BAD cannot be imported, or workers fail.
        KeyboardInterrupt: passed on; complete measurements are kept.
    """
    refusal = f"not a git revision of {request.repository}; GOOD and BAD are commits, by branch, tag or id"
    good = commit_of(request.good, request.repository, refusal=refusal)
    bad = commit_of(request.bad, request.repository, refusal=refusal)
    suspects = library_commits(good, bad, request.repository, walk=request.walk)
    bench = _bench(request, good, bad)
    watch.begun(bench.planned.case.case_id, len(suspects))
    trials = _Trials(bench=bench, watch=watch, commits={each.revision: each for each in suspects})
    trials.commits[bad] = commit(bad, request.repository)
    confirmed = request.effort.settle(trials.confirm, bad)
    if confirmed is Answer.BAD:
        found = search({each.revision: each.parents for each in suspects}, trials.ask, request.effort)
        return trials.result("found" if found.first_bad else "narrowed", found.suspects)
    everyone = tuple(each.revision for each in suspects)
    return trials.result("not_worse" if confirmed is Answer.GOOD else "undecided", everyone)


# --- one case on two revisions ----------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _Bench:
    """The case, and GOOD ready to be measured."""

    request: BisectRequest
    revision: str
    bad: str
    good: Arm
    planned: PlannedCase

    def arm(self, revision: str) -> Arm:
        """A revision's library. Raises UsageError where the revision holds none."""
        return _arm(revision, self.request)

    def pairs(self, arm: Arm, launches: int) -> PairedRequest:
        """The measurement of an arm against GOOD."""
        request, cases = self.request, (self.planned,)
        base = RunRequest(
            manifest=request.manifest,
            cases=(),
            launches=launches,
            device=request.device,
            store=request.store,
            filter=f"case={self.planned.case.case_id}",
            imports=request.imports,
            note=NOTE,
        )
        return PairedRequest(base=base, a=self.good, b=arm, cases_a=cases, cases_b=cases)


def _arm(revision: str, request: BisectRequest) -> Arm:
    return resolve_arm(revision, repository=request.repository, exports=request.store.parent / "exports")


def _bench(request: BisectRequest, good: str, bad: str) -> _Bench:
    arm = _arm(good, request)
    plans = plan_arms(
        arm, _arm(bad, request), request.manifest, device_kind=request.device_kind, filter=None, imports=request.imports
    )
    theirs, mine = ({each.case.case_id: each for each in plan if not each.control} for plan in plans)
    planned = _only_case(request, theirs | mine)
    case_id = planned.case.case_id
    for name, revision, cases in (("GOOD", good, theirs), ("BAD", bad, mine)):
        if case_id not in cases:
            raise UsageError(f"{name} {revision[:SHORT]} has no case {case_id}: {LACKING}")
    if request.threshold is not None:
        planned = planned.model_copy(update={"threshold": request.threshold})
    return _Bench(request=request, revision=good, bad=bad, good=arm, planned=planned)


def _only_case(request: BisectRequest, cases: dict[str, PlannedCase]) -> PlannedCase:
    """The one case that is meant; an exact id is, even where it is a part of others."""
    if request.case in cases:
        return cases[request.case]
    fits = case_selector(request.case)
    found = [planned for planned in cases.values() if fits(planned.case)]
    misnamed = fits.misnamed([planned.case for planned in cases.values()])
    where = f"of the {len(cases)} cases of manifest '{request.manifest.name}'"
    if not found:
        hint = f": {misnamed}" if misnamed else "; `iroot bench run … --dry-run` lists them"
        raise UsageError(f"CASE '{request.case}' is none {where}{hint}")
    if misnamed:
        raise UsageError(f"CASE '{request.case}': {misnamed}")
    if len(found) > 1:
        names = ", ".join(planned.case.case_id for planned in found[:4]) + (", …" if len(found) > 4 else "")
        raise UsageError(f"CASE must mean one case, '{request.case}' means {len(found)} {where}: {names}")
    return found[0]


class _UntestableError(MeasurementError):
    """A revision that nothing can be said of: it is skipped, unless it is BAD."""


def _untestable(error: MeasurementError) -> _UntestableError:
    """What failed, and the last line of its log: a library that does not fit this harness fails as it is imported."""
    first, *log = str(error).splitlines()
    return _UntestableError(" ".join([first, *log[-1:]]))


@dataclass(kw_only=True)
class _Trials:
    """Answers of the search, by measurement; remembers the last trial of each revision.

    Attributes:
        commits: what can be asked for.
        symptom: what is looked for; known once BAD is confirmed.
        made: the trials, in the order tested.
    """

    bench: _Bench
    watch: Watch
    commits: dict[str, Commit]
    symptom: Symptom | None = None
    made: dict[str, Trial] = field(default_factory=dict)

    def result(self, outcome: Ending, suspects: tuple[str, ...]) -> BisectResult:
        """The end of the bisection."""
        return BisectResult(
            outcome=outcome,
            case_id=self.bench.planned.case.case_id,
            good=self.bench.revision,
            bad=self.bench.bad,
            symptom=self.symptom,
            trials=tuple(self.made.values()),
            suspects=tuple(Suspect(revision=each, subject=self.commits[each].subject) for each in suspects),
        )

    def confirm(self, revision: str, launches: int) -> Answer:
        """Whether BAD is worse, and in what way."""
        found = self._compared(revision, launches)
        self.symptom = next((s for s in Symptom if found.shows(s) is Answer.BAD), None)
        # Accuracy needs one launch and is known here: only the time can be open.
        return self._kept(found, found.shows(self.symptom or Symptom.SLOWER))

    def ask(self, revision: str, launches: int) -> Answer:
        """Whether a revision shows the symptom; one that cannot be measured is skipped."""
        assert self.symptom is not None
        try:
            found = self._compared(revision, launches)
        except _UntestableError as error:
            subject = self.commits[revision].subject
            return self._told(Trial(revision=revision, subject=subject, answer=Answer.SKIP, reason=str(error)))
        return self._kept(found, found.shows(self.symptom))

    def _compared(self, revision: str, launches: int) -> _Compared:
        store = Store(self.bench.request.store)
        runs = _stored_runs(self.bench, store, revision, launches)
        if runs is not None:
            return _compared(store, runs, self.commits[revision], remembered=True)
        arm = self._arm(revision)
        self.watch.measuring(self.commits[revision], launches)
        try:
            with self.watch.observing() as observer:
                runs = run_paired(self.bench.pairs(arm, launches), observer=observer)
        except MeasurementError as error:
            raise _untestable(error) from error
        return _compared(store, runs, self.commits[revision], remembered=False)

    def _arm(self, revision: str) -> Arm:
        bench = self.bench
        try:
            arm = bench.arm(revision)
        except UsageError as error:  # it holds no library
            raise _UntestableError(str(error)) from error
        try:
            planned = revision == bench.bad  # with GOOD, at the beginning
            served = planned or serves(arm, bench.planned, bench.request.manifest, imports=bench.request.imports)
        except MeasurementError as error:
            raise _untestable(error) from error
        if not served:
            raise _UntestableError(LACKING)
        return arm

    def _kept(self, found: _Compared, answer: Answer) -> Answer:
        trial = Trial(
            revision=found.commit.revision,
            subject=found.commit.subject,
            answer=answer,
            reason=found.row.reason,
            row=found.row,
            runs=(found.runs.a.run_id, found.runs.b.run_id),
            remembered=found.remembered,
        )
        return self._told(trial)

    def _told(self, trial: Trial) -> Answer:
        self.made[trial.revision] = trial
        self.watch.tested(trial)
        return trial.answer


_LESS_ACCURATE: dict[Accuracy | None, Answer] = {
    Accuracy.LESS: Answer.BAD,
    Accuracy.SAME: Answer.GOOD,
    Accuracy.MORE: Answer.GOOD,
}


@dataclass(frozen=True, kw_only=True)
class _Compared:
    """A measured revision: its verdict, and what became of its accuracy (None where a side has none)."""

    commit: Commit
    runs: PairedRuns
    row: CaseVerdict
    accuracy: Accuracy | None
    remembered: bool

    def shows(self, symptom: Symptom) -> Answer:
        """Whether the revision is worse than GOOD in one way, whatever it is in the others."""
        row = self.row
        if row.verdict is Verdict.BROKEN:
            return Answer.BAD if symptom is Symptom.BROKEN else Answer.SKIP
        match symptom:
            case Symptom.BROKEN:
                return Answer.GOOD
            case Symptom.LESS_ACCURATE:
                return _LESS_ACCURATE.get(self.accuracy, Answer.SKIP)
            case Symptom.SLOWER if row.p_value is not None and row.p_value < stats.ALPHA:
                return Answer.BAD
            case Symptom.SLOWER:
                timed = row.verdict not in (Verdict.FIXED, Verdict.UNCHANGED) or row.ratio is not None
                return Answer.UNDECIDED if timed and not surely_not_slower(row) else Answer.GOOD


def _compared(store: Store, runs: PairedRuns, tested: Commit, *, remembered: bool) -> _Compared:
    candidate, reference = store.summary(runs.b.run_id), store.summary(runs.a.run_id)
    qualification = store.qualification(candidate.run.machine, candidate.run.manifest)
    comparison = compare(candidate, reference, kind="paired", qualification=qualification)
    store.save_comparison(comparison)
    (row,) = comparison.verdicts
    mine, theirs = candidate.cases.get(row.case_id), reference.cases.get(row.case_id)
    measured = mine is not None and theirs is not None and mine.quality and theirs.quality
    accuracy = compare_quality(mine, theirs).accuracy if mine and theirs and measured else None
    return _Compared(commit=tested, runs=runs, row=row, accuracy=accuracy, remembered=remembered)


# --- what the store knows ---------------------------------------------------------------------------------------------


def _stored_runs(bench: _Bench, store: Store, revision: str, launches: int) -> PairedRuns | None:
    """The newest complete A/B of GOOD and a revision that was measured as it would be now, or None."""
    if not store.path.is_file():
        return None
    complete = store.runs(manifest=bench.request.manifest.name, status=RunStatus.COMPLETE)
    by_id = {run.run_id: run for run in complete}
    fits = _here(bench.request.device)
    for run in complete:
        other = by_id.get(run.paired_with or "")
        if other is None or (other.source.revision, run.source.revision) != (bench.revision, revision):
            continue
        if all(each.cases == (bench.planned,) and each.launches == launches and fits(each) for each in (run, other)):
            return PairedRuns(a=other, b=run)
    return None


def _here(device: str) -> Callable[[RunRecord], bool]:
    """Whether a run of exported revisions came from this unit, with this software and this harness."""
    from harness.paths import project_root

    machine, software = environment.machine_identity(device), environment.software_identity()
    sources = environment.source_identity(project_root()).source_hash

    def fits(run: RunRecord) -> bool:
        return (
            run.note == NOTE
            and run.source.source_hash == sources
            and run.machine.uuid == machine.uuid
            and not run.machine.differences(machine)
            and not run.software.differences(software)
        )

    return fits
