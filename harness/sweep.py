"""Manifest x registry -> cases, in the order declared."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import product

from harness.errors import UsageError
from harness.filters import CaseFilter, flag_filter, parse_filter
from harness.judge.problems import PROBLEMS
from harness.manifest import DeviceKind, Manifest, ModeChoice, Sweep
from harness.manifest_checks import is_glob, matches, posed_for, selected_methods
from harness.records import Case, Mode, PlannedCase, canonical_options
from iroot.precision import PRECISIONS, Precision
from iroot.registry import TASKS, MethodSpec, get_method

DEVICE_WORDS: dict[DeviceKind, str] = {"cuda": "a GPU", "cpu": "a CPU"}


@dataclass(frozen=True, kw_only=True)
class Expansion:
    """The cases of a manifest on one kind of device, controls last, and why combinations were left out."""

    cases: tuple[PlannedCase, ...]
    left_out: dict[str, int]
    """Reason -> number of combinations."""


@dataclass(frozen=True, kw_only=True)
class _Control:
    task: str
    method: str
    precision: str
    m: int
    n: int
    k: int | None = None


# Sized so that a launch spends a few milliseconds on them: a product that the tensor cores (or a CPU's vector units)
# bound, and a copy that memory bounds: 256 MiB, five times the 50 MB L2 of an H100.
_CONTROLS: dict[DeviceKind, tuple[_Control, ...]] = {
    "cuda": (
        _Control(task="gemm", method="cublas", precision="bf16", m=2048, n=2048, k=2048),
        _Control(task="gemm", method="cublas", precision="bf16", m=4096, n=4096, k=4096),
        _Control(task="copy", method="device_copy", precision="fp32", m=8192, n=8192),
    ),
    "cpu": (
        _Control(task="gemm", method="cublas", precision="fp32", m=384, n=384, k=384),
        _Control(task="copy", method="device_copy", precision="fp32", m=1024, n=1024),
    ),
}
CONTROL_PROBLEM = "gaussian"


def plan(manifest: Manifest, *, device_kind: DeviceKind, filter: str | None = None) -> tuple[PlannedCase, ...]:
    """The cases of a manifest on one kind of device that pass `filter`, and the control kernels, which always do.

    Raises:
        UsageError: a sweep has no case here (with the reason), two sweeps declare one case, the filter does not parse,
            no case passes it, or it names what no case has.
    """
    return expand(manifest, device_kind=device_kind, filter=filter).cases


def expand(manifest: Manifest, *, device_kind: DeviceKind, filter: str | None = None) -> Expansion:
    """As `plan`, and says what was left out."""
    wanted = None if filter is None else flag_filter("--filter", filter)
    declared: dict[str, tuple[int, PlannedCase]] = {}
    left_out: Counter[str] = Counter()
    for index, sweep in enumerate(manifest.sweep):
        if sweep.device not in ("any", device_kind):
            continue
        for planned in _sweep_cases(manifest, index, device_kind, left_out):
            case_id = planned.case.case_id
            if case_id in declared:
                first = declared[case_id][0]
                also = "" if first == index else f" and by sweep[{first}]"
                raise UsageError(
                    f"{manifest.place(index)}: case declared twice{also}: {case_id}; remove or exclude one"
                )
            declared[case_id] = (index, planned)
    if not declared:
        kinds = sorted({sweep.device for sweep in manifest.sweep})
        raise UsageError(
            f"{manifest.origin}: no sweep is for {DEVICE_WORDS[device_kind]} (device = {', '.join(kinds)}); "
            f"add one with device = '{device_kind}' or 'any'"
        )
    controls = {planned.case.case_id: planned for planned in _controls(manifest, device_kind)}
    cases = [planned for case_id, (_, planned) in declared.items() if case_id not in controls]
    (kept,) = narrowed([(*cases, *controls.values())], wanted, name=f"{manifest.name} on {device_kind}")
    return Expansion(cases=kept, left_out=dict(left_out))


def narrowed(
    plans: Sequence[tuple[PlannedCase, ...]], wanted: CaseFilter | None, *, name: str
) -> tuple[tuple[PlannedCase, ...], ...]:
    """Of every plan of `name`, a manifest on a device, the cases that pass a filter, and the controls, which always do.

    Raises:
        UsageError: no case of any plan passes but controls, or the filter names with `=` what none has: a case that
            was asked for would not be measured, and nothing later would miss it.
    """
    if wanted is None:
        return tuple(plans)
    every = {planned.case.case_id: planned for plan in plans for planned in plan}
    swept = [planned.case for planned in every.values() if not planned.control]
    # A control is no misnomer, but nobody is referred to one.
    misnamed = wanted.misnamed([planned.case for planned in every.values()]) and wanted.misnamed(swept)
    if swept and not any(wanted(case) for case in swept):
        named = any(wanted(planned.case) for planned in every.values())
        why = misnamed or ("control kernels, which it names, are measured with every filter" if named else "")
        why = f": {why}" if why else ""
        raise UsageError(f"--filter '{wanted.text}' keeps none of the {len(swept)} cases of {name}{why}")
    if misnamed:
        raise UsageError(f"--filter '{wanted.text}', {name}: {misnamed}")
    return tuple(tuple(planned for planned in plan if planned.control or wanted(planned.case)) for plan in plans)


def _sweep_cases(
    manifest: Manifest, index: int, device_kind: DeviceKind, left_out: Counter[str]
) -> Iterator[PlannedCase]:
    sweep = manifest.sweep[index]
    excluded = [parse_filter(text) for text in sweep.exclude]
    expected = [(parse_filter(rule.filter), rule) for rule in sweep.expect]
    refused: Counter[str] = Counter()
    found = False
    for spec in (spec for task in sweep.task for spec in selected_methods(sweep, task)):
        for case, reason in _combinations(sweep, spec, device_kind):
            reason = reason or next((f"exclude '{rule.text}'" for rule in excluded if rule(case)), None)
            if reason is not None:
                refused[reason] += 1
                continue
            found = True
            outcome = next((rule.outcome for applies, rule in expected if applies(case)), "ok")
            yield _planned(manifest, sweep, case, device_kind).model_copy(update={"expect": outcome})
    if not found:
        reasons = "; ".join(f"{reason} ({count})" for reason, count in refused.most_common(4))
        raise UsageError(f"{manifest.place(index)} has no case on {DEVICE_WORDS[device_kind]}: {reasons}")
    left_out.update(refused)


def _combinations(sweep: Sweep, spec: MethodSpec, device_kind: DeviceKind) -> Iterator[tuple[Case, str | None]]:
    """Every point of a sweep for one method, with the reason why it is left out, or None."""
    task = TASKS[spec.task]
    shapes = [(n, n) for n in sweep.n] + [shape for shape in sweep.shape if not task.is_square or shape[0] == shape[1]]
    roots: Sequence[int | None] = sweep.p if task.has_root else (None,)
    columns: Sequence[int | None] = (sweep.k or (None,)) if task.has_columns else (None,)
    problems = [name for pattern in sweep.problem for name in _meant(pattern, PROBLEMS) if posed_for(task.name, name)]
    precisions = [name for pattern in sweep.precision for name in _precisions(pattern, spec, device_kind)]
    defaults = asdict(spec.options())
    points = product(precisions, roots, shapes, sweep.batch, columns, problems, sweep.mode, sweep.options)
    for precision, p, (m, n), batch, k, problem, choice, options in points:
        case = Case(
            task=spec.task,
            method=spec.name,
            precision=precision,
            p=p,
            m=m,
            n=n,
            batch=batch,
            k=n if task.name == "gemm" and k is None else k,
            problem=problem,
            mode=_mode(choice, spec, device_kind),
            options=canonical_options(options, defaults),
        )
        yield case, _refusal(case, spec, device_kind)


def _refusal(case: Case, spec: MethodSpec, device_kind: DeviceKind) -> str | None:
    """Why a method does not serve a case, or None."""
    name = f"{spec.task}/{spec.name}"
    if case.precision not in spec.precisions:
        return f"{name} does not serve {case.precision}"
    if spec.roots is not None and case.p not in spec.roots:
        return f"{name} does not serve p = {case.p}"
    if case.batch > 1 and not spec.batched:
        return f"{name} takes no batch"
    if case.mode is Mode.GRAPH and device_kind == "cpu":
        return "CUDA graphs need a GPU"
    if case.mode is Mode.GRAPH and not spec.capturable:
        return f"{name} cannot be captured in a CUDA graph"
    return None


def _mode(choice: ModeChoice, spec: MethodSpec, device_kind: DeviceKind) -> Mode:
    if choice != "auto":
        return Mode(choice)
    return Mode.GRAPH if device_kind == "cuda" and spec.capturable else Mode.EAGER


def _meant(pattern: str, names: Iterable[str]) -> list[str]:
    return [name for name in names if matches(pattern, name)]


def _precisions(pattern: str, spec: MethodSpec, device_kind: DeviceKind) -> list[str]:
    """A name as it is; a glob as what the method serves and the kind of device has."""
    if not is_glob(pattern):
        return [pattern]
    served = [name for name in PRECISIONS if name in spec.precisions and _runs_on(PRECISIONS[name], device_kind)]
    return _meant(pattern, served)


def _runs_on(precision: Precision, device_kind: DeviceKind) -> bool:
    return precision.cpu if device_kind == "cpu" else precision.capability is not None


def _planned(manifest: Manifest, sweep: Sweep, case: Case, device_kind: DeviceKind) -> PlannedCase:
    gate = manifest.gate
    threshold = gate.rule_threshold(case) or sweep.threshold or gate.thresholds.get(case.task, gate.threshold)
    ruled = gate.rule_gates(case)
    by_mode = case.mode is Mode.GRAPH or device_kind == "cpu" or gate.eager == "gates"
    return PlannedCase(
        case=case,
        timing=sweep.timing.applied_to(manifest.timing),
        seeds=sweep.seeds or manifest.seeds,
        timeout_s=sweep.timeout_s or manifest.timeout_s,
        target_error=sweep.target_error or manifest.target_error,
        threshold=threshold,
        gates=by_mode if ruled is None else ruled,
        memory=gate.rule_memory(case),
        first_call=gate.rule_first_call(case),
    )


def _controls(manifest: Manifest, device_kind: DeviceKind) -> Iterator[PlannedCase]:
    for control in _CONTROLS[device_kind]:
        spec = get_method(control.task, control.method)
        case = Case(
            task=control.task,
            method=control.method,
            precision=control.precision,
            m=control.m,
            n=control.n,
            k=control.k,
            problem=CONTROL_PROBLEM,
            mode=_mode("auto", spec, device_kind),
        )
        yield PlannedCase(
            case=case, timing=manifest.timing, seeds=1, timeout_s=manifest.timeout_s, gates=False, control=True
        )
