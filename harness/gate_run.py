"""The gate's measurement: all cases first, then fresh interleaved pairs of those left open; see `harness.gate`.

The second part runs its pairs in reversed order (B A A B ...), so that what the order itself does to a machine cannot
confirm what it suggested in the first part.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

import iroot
from harness import environment
from harness.arm_plan import plan_arms
from harness.arms import Arm
from harness.compare import compare
from harness.errors import MeasurementError, UsageError
from harness.gate import Evidence, GateResult, GateRules, judge, route, suspects, with_quality_of
from harness.judge.problems import PROBLEMS
from harness.launcher import Observer
from harness.paired import PairedRequest, PairedRuns, run_paired
from harness.records import Comparison, PlannedCase, RunSummary
from harness.reference import BASELINE, ReferenceKind, narrowed, require_baseline, resolve_reference
from harness.runner import RunRequest, run_sweep
from harness.store import Store
from harness.waivers import Waiver
from iroot.errors import UnknownNameError
from iroot.registry import TASKS, Workload, get_method, methods

if TYPE_CHECKING:
    from harness.manifest import DeviceKind, Manifest


@dataclass(frozen=True, kw_only=True)
class GateRequest:
    """One gate run.

    Attributes:
        manifest: cases and policy; of the base revision, where a change is gated.
        base: what the candidate is measured against in pairs; None in a screen that is not to measure again.
        candidate: the library to judge.
        imports: modules that register methods of one's own.
        today: the day by which waivers expire.
    """

    manifest: Manifest
    base: Arm | None
    candidate: Arm
    device: str
    store: Path
    today: date
    filter: str | None = None
    imports: tuple[str, ...] = ()
    waivers: tuple[Waiver, ...] = ()

    @property
    def device_kind(self) -> DeviceKind:
        """`cuda` or `cpu`."""
        return "cpu" if self.device == "cpu" else "cuda"


def run_gate(request: GateRequest, *, observer: Observer) -> GateResult:
    """Both parts in interleaved pairs; every run and the deciding comparison are stored.

    Raises:
        UsageError: the manifest fits neither side.
        MeasurementError: the machine is not fit (another process on the GPU, throttled clocks), or workers fail.
    """
    assert request.base is not None
    require_fit(request.device)
    cases_a, cases_b = plan_arms(
        request.base,
        request.candidate,
        request.manifest,
        device_kind=request.device_kind,
        filter=request.filter,
        imports=request.imports,
    )
    pairs = PairedRequest(
        base=_run_request(request, launches=request.manifest.gate.pairs),
        a=request.base,
        b=request.candidate,
        cases_a=cases_a,
        cases_b=cases_b,
    )
    first = _paired_evidence(run_paired(pairs, observer=observer), Store(request.store))
    return _concluded(request, first, base=request.base.label, observer=observer)


def run_screen(request: GateRequest, *, observer: Observer) -> GateResult:
    """A plain run against the official baseline; with `base`, what it leaves open is measured again in pairs.

    Raises:
        UsageError: there is no official baseline of this machine and manifest, or the candidate changes a control.
        UnlikeMachinesError: the baseline comes from unlike hardware.
        MeasurementError: as `run_gate`.
    """
    require_fit(request.device)
    require_own_controls(request.candidate)
    # Before measuring for minutes, not after.
    require_baseline(environment.machine_identity(request.device).machine_class, request.manifest.name)
    _, cases = plan_arms(
        request.candidate,
        request.candidate,
        request.manifest,
        device_kind=request.device_kind,
        filter=request.filter,
        imports=request.imports,
    )
    plain = replace(_run_request(request, launches=request.manifest.launches), cases=cases, arm=request.candidate)
    store = Store(request.store)
    run = run_sweep(plain, observer=observer)
    require_alone(store, run.run_id)
    found = resolve_reference(store, run, BASELINE)
    assert found is not None
    candidate, reference = store.summary(run.run_id), narrowed(found.summary, run)
    first = _evidence(candidate, reference, found.kind, store)
    return _concluded(request, first, base=found.label, observer=observer)


def stated_errors(cases: Iterable[PlannedCase]) -> dict[str, float]:
    """case_id -> the largest relative error that the case's method states for it, by this program's own registry."""
    stated = {}
    for planned in cases:
        case = planned.case
        try:
            spec = get_method(case.task, case.method)
            options = spec.make_options(dict(case.options))
        except UnknownNameError:
            continue  # only the candidate has it: there is no statement of the base to hold it to
        lower = PROBLEMS[case.problem].lower(TASKS[case.task].operand, case.m, case.n)
        workload = Workload(
            m=case.m, n=case.n, precision=case.precision, batch=case.batch, k=case.k, p=case.p, lower=lower
        )
        error = spec.accuracy(workload, options)
        if error is not None:
            stated[case.case_id] = error
    return stated


def _run_request(request: GateRequest, *, launches: int) -> RunRequest:
    return RunRequest(
        manifest=request.manifest,
        cases=(),
        launches=launches,
        device=request.device,
        store=request.store,
        filter=request.filter,
        imports=request.imports,
        note="gate",
    )


def _concluded(request: GateRequest, first: Evidence, *, base: str, observer: Observer) -> GateResult:
    routed = route(first)
    fresh = _measured_again(request, first, routed, observer) if routed and request.base else None
    policy = request.manifest.gate
    rules = GateRules(
        # A filter leaves cases out on purpose, required ones too.
        policy=policy if request.filter is None else policy.model_copy(update={"required": ()}),
        today=request.today,
        waivers=request.waivers,
        stated=stated_errors(first.candidate.run.cases),
    )
    result = judge(first, fresh, rules, base=base, candidate=request.candidate.label)
    Store(request.store).save_comparison(result.comparison)
    return result


def _measured_again(request: GateRequest, first: Evidence, routed: tuple[str, ...], observer: Observer) -> Evidence:
    """The routed cases in fresh pairs, timed only: their quality is known."""
    assert request.base is not None
    cases = tuple(planned for planned in first.candidate.run.cases if planned.case.case_id in set(routed))
    pairs = PairedRequest(
        base=_run_request(request, launches=request.manifest.gate.fresh_pairs),
        a=request.base,
        b=request.candidate,
        cases_a=cases,
        cases_b=cases,
        first="B",
        launch_zero="none",
    )
    found = _paired_evidence(run_paired(pairs, observer=observer), Store(request.store))
    candidate = with_quality_of(found.candidate, first.candidate)
    reference = with_quality_of(found.reference, first.reference)
    comparison = _compared(candidate, reference, "paired", Store(request.store), suspects=suspects(first))
    return Evidence(candidate=candidate, reference=reference, comparison=comparison)


def _paired_evidence(runs: PairedRuns, store: Store) -> Evidence:
    for run in (runs.a, runs.b):
        require_alone(store, run.run_id)
    candidate, reference = store.summary(runs.b.run_id), store.summary(runs.a.run_id)
    return _evidence(candidate, reference, "paired", store)


def _evidence(candidate: RunSummary, reference: RunSummary, kind: ReferenceKind, store: Store) -> Evidence:
    comparison = _compared(candidate, reference, kind, store)
    return Evidence(candidate=candidate, reference=reference, comparison=comparison)


def _compared(
    candidate: RunSummary,
    reference: RunSummary,
    kind: ReferenceKind,
    store: Store,
    *,
    suspects: frozenset[str] = frozenset(),
) -> Comparison:
    """By what this machine's qualification knows of its noise."""
    qualification = store.qualification(candidate.run.machine, candidate.run.manifest)
    return compare(candidate, reference, kind=kind, qualification=qualification, suspects=suspects)


def require_fit(device: str) -> None:
    """Refuse to gate on a machine that something disturbs now; `iroot bench run` only warns."""
    state = environment.machine_state(device)
    if state.other_processes:
        raise MeasurementError(
            f"a gate needs the GPU to itself, found {state.other_processes} other process(es) on {device}; end them"
        )
    errors = [finding.text for finding in environment.fitness(device) if finding.level == "error"]
    if errors:
        raise MeasurementError(f"{device} is not fit for a gate: {'; '.join(errors)}")


def require_own_controls(candidate: Arm) -> None:
    """Refuse to screen a library whose control kernels are not this program's: a slower one would excuse slower cases.

    Pairs are not corrected by controls: there a change of them is a change like any other.
    """
    root = Path(iroot.__file__).parent
    for spec in methods():
        own = Path(inspect.getfile(spec.function))
        if spec.role != "control" or root not in own.parents:
            continue
        theirs = candidate.library / "iroot" / own.relative_to(root)
        if not theirs.is_file() or theirs.read_bytes() != own.read_bytes():
            raise UsageError(
                f"{candidate.label} changes the control kernel {spec.name} ({theirs.name}), by which a screen corrects "
                "every ratio; gate it in pairs with BASE, without --screen"
            )


def require_alone(store: Store, run_id: str) -> None:
    """Refuse what was measured while another process was on the GPU."""
    disturbed = [
        launch.launch
        for launch in store.launches(run_id)
        if any(process.state.other_processes for process in launch.processes)
    ]
    if disturbed:
        launches = ", ".join(map(str, disturbed))
        raise MeasurementError(
            f"a gate needs the GPU to itself, found other processes in launch {launches} of run {run_id}; gate again"
        )
