"""Realistic records for tests: runs with planted medians, launches with samples, summaries with known ratios."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from harness.records import (
    Case,
    CaseResult,
    CaseSummary,
    LaunchRecord,
    LaunchStarted,
    MachineIdentity,
    MachineState,
    Mode,
    Outcome,
    PlannedCase,
    Quality,
    RunRecord,
    RunStatus,
    RunSummary,
    SoftwareIdentity,
    SourceIdentity,
    TimingPolicy,
)

REVISION = "0123456789abcdef0123456789abcdef01234567"
SOURCE_HASH = "5a" * 32

H100 = MachineIdentity(
    machine_class="nvidia-h100-80gb-hbm3",
    kind="cuda",
    model="NVIDIA H100 80GB HBM3",
    memory_bytes=85_045_870_592,
    sm_count=132,
    mig=False,
    ecc=True,
    power_limit_w=700.0,
    uuid="GPU-11111111-2222-3333-4444-555555555555",
)
CPU = MachineIdentity(
    machine_class="cpu-amd-epyc-2c", kind="cpu", model="AMD EPYC", memory_bytes=8_000_000_000, threads=2
)
SOFTWARE = SoftwareIdentity(
    python="3.12.3", torch="2.11.0", triton="3.6.0", cuda="13.0", driver="580.95", iroot="0.1.0", os="Linux 6.8"
)
SOURCE = SourceIdentity(revision=REVISION, dirty=False, source_hash=SOURCE_HASH)


def make_case(
    method: str = "coupled_pe",
    *,
    task: str = "inverse_root",
    precision: str = "bf16",
    n: int = 512,
    problem: str = "wishart",
    mode: Mode = Mode.GRAPH,
) -> Case:
    """A case of `inverse_root` with p = 2, or of another task without a root."""
    root = 2 if task in {"inverse_root", "inverse_apply"} else None
    columns = n if task in {"inverse_apply", "gemm"} else None
    return Case(task=task, method=method, precision=precision, p=root, m=n, n=n, k=columns, problem=problem, mode=mode)


def make_planned(
    case: Case | None = None, *, expect: Literal["ok", "nonfinite", "unsupported"] = "ok", control: bool = False
) -> PlannedCase:
    """A planned case with 8 samples per launch and two problem seeds."""
    return PlannedCase(
        case=case or make_case(), timing=TimingPolicy(samples=8), seeds=2, expect=expect, control=control
    )


def make_cases(count: int = 4, *, controls: int = 1) -> tuple[PlannedCase, ...]:
    """`count` different cases, the last `controls` of them control kernels."""
    methods = count - controls
    cases = [make_planned(make_case(n=256 * (i + 1))) for i in range(methods)]
    control = [
        make_planned(make_case("cublas", task="gemm", problem="gaussian", n=256 * (i + 1)), control=True)
        for i in range(controls)
    ]
    return (*cases, *control)


def make_run(
    cases: Sequence[PlannedCase] | None = None,
    *,
    number: int = 1,
    launches: int = 3,
    machine: MachineIdentity = H100,
    source: SourceIdentity = SOURCE,
    status: RunStatus = RunStatus.RUNNING,
) -> RunRecord:
    """The `number`-th run of the manifest `quick`; a higher number is newer and has another id."""
    minute, hour = number % 60, number // 60
    return RunRecord(
        run_id=f"20260102-{hour:02d}{minute:02d}00-quick-{number:04x}",
        created_at=f"2026-01-02T{hour:02d}:{minute:02d}:00+00:00",
        status=status,
        manifest="quick",
        manifest_hash="c0ffee" * 10,
        manifest_toml='name = "quick"\n',
        launches=launches,
        machine=machine,
        software=SOFTWARE,
        source=source,
        cases=tuple(cases) if cases is not None else make_cases(),
    )


def make_quality(seed: int, *, relative_error: float = 3.1e-3) -> Quality:
    """Figures of one problem seed; every seed a little different."""
    grown = relative_error * (1 + 0.01 * seed)
    return Quality(seed=seed, relative_error=grown, residual=2 * grown, symmetry=1e-8)


def make_result(
    planned: PlannedCase, launch: int, *, median_s: float = 1e-3, spread: float = 0.01, samples: int | None = None
) -> CaseResult:
    """An `ok` result: quality in launch 0, else samples whose exp(median(log)) is `median_s` to rounding.

    Log samples lie symmetrically about log(median_s), so the planted median is exact for odd and even counts.
    """
    common = {"case_id": planned.case.case_id, "launch": launch, "process_id": 4000 + launch}
    if launch == 0:
        quality = tuple(make_quality(seed) for seed in range(planned.seeds))
        return CaseResult(**common, outcome=Outcome.OK, quality=quality, first_call_s=1.5, wall_s=2.0)
    count = samples or planned.timing.samples
    offsets = np.linspace(-spread, spread, count)
    order = np.random.default_rng(launch).permutation(count)
    times = tuple((median_s * np.exp(offsets[order])).tolist())
    return CaseResult(
        **common,
        outcome=Outcome.OK,
        samples_s=times,
        calls_per_sample=4,
        peak_bytes=1 << 20,
        first_call_s=0.25 * launch,
        timed_s=0.4,
        wall_s=1.0,
        state_before=make_state(),
        state_after=make_state(temperature_c=51),
    )


def make_failure(
    planned: PlannedCase, launch: int, outcome: Outcome = Outcome.FAILED, *, error: str = "RuntimeError: no"
) -> CaseResult:
    """A result without samples."""
    return CaseResult(
        case_id=planned.case.case_id, launch=launch, process_id=4000 + launch, outcome=outcome, error=error
    )


def make_state(*, temperature_c: int = 45) -> MachineState:
    """What NVML says of an idle H100."""
    return MachineState(
        sm_clock_mhz=1980, memory_clock_mhz=2619, temperature_c=temperature_c, power_w=118.5, other_processes=0
    )


def make_started(run_id: str, launch: int, *, process_id: int | None = None, startup_s: float = 4.5) -> LaunchStarted:
    """The first event of a worker."""
    return LaunchStarted(
        run_id=run_id,
        launch=launch,
        process_id=process_id or 4000 + launch,
        started_at=f"2026-01-02T00:00:{launch:02d}+00:00",
        startup_s=startup_s,
        state=make_state(),
    )


def make_launch(
    run: RunRecord, launch: int, *, medians_s: Mapping[str, float] | None = None, results: Sequence[CaseResult] = ()
) -> LaunchRecord:
    """One launch of a run: `results` as given, every other case `ok` with the planted median (default 1 ms)."""
    given = {result.case_id: result for result in results}
    planted = medians_s or {}
    every = tuple(
        given.get(planned.case.case_id)
        or make_result(planned, launch, median_s=planted.get(planned.case.case_id, 1e-3))
        for planned in run.cases
    )
    return LaunchRecord(
        run_id=run.run_id,
        launch=launch,
        processes=(make_started(run.run_id, launch),),
        results=every,
        wall_s=sum(result.wall_s for result in every),
    )


def make_launches(run: RunRecord, *, medians_s: Mapping[str, float] | None = None) -> tuple[LaunchRecord, ...]:
    """The quality pass and every timed launch of a run, all `ok`."""
    return tuple(make_launch(run, number, medians_s=medians_s) for number in range(run.launches + 1))


def make_summary(
    run: RunRecord | None = None,
    *,
    medians_s: Mapping[str, float] | None = None,
    sigma: float = 0.0,
    seed: int = 0,
    outcomes: Mapping[str, Outcome] | None = None,
) -> RunSummary:
    """A complete run reduced to summaries.

    Args:
        medians_s: true time per case_id, 1 ms unless named.
        sigma: standard deviation of log time between launches.
        outcomes: cases that did not end `ok`; they have no medians.
    """
    run = run or make_run(status=RunStatus.COMPLETE)
    generator = np.random.default_rng(seed)
    planted, ended = medians_s or {}, outcomes or {}
    cases = {}
    for planned in run.cases:
        case_id = planned.case.case_id
        noise = generator.normal(0.0, sigma, run.launches) if sigma else np.zeros(run.launches)
        outcome = ended.get(case_id, Outcome.OK)
        ok = outcome is Outcome.OK
        centre = planted.get(case_id, 1e-3)
        cases[case_id] = CaseSummary(
            planned=planned,
            outcome=outcome,
            error=None if ok else f"{outcome}: planted",
            launch_medians_s={i + 1: centre * math.exp(x) for i, x in enumerate(noise)} if ok else {},
            quality=tuple(make_quality(number) for number in range(planned.seeds)) if ok else (),
            peak_bytes=1 << 20 if ok else None,
            first_call_s=0.5 if ok else None,
            throttled=outcome is Outcome.THROTTLED,
        )
    return RunSummary(run=run, cases=cases, timed_share=0.4, startup_s=4.5, launch_wall_s=12.0)
