"""A planted run and comparison that hold every outcome and every verdict, for the tests of reports."""

from __future__ import annotations

import math
from collections.abc import Sequence

from harness.records import (
    Case,
    CaseSummary,
    CaseVerdict,
    Comparison,
    FirstCallVerdict,
    KernelChange,
    MemoryVerdict,
    Mode,
    OptionValue,
    Outcome,
    PlannedCase,
    Quality,
    RunRecord,
    RunStatus,
    RunSummary,
    SourceIdentity,
    TimingPolicy,
    Verdict,
)
from harness.report.catalog import MethodFacts
from harness.tests.factories import H100, REVISION, SOFTWARE, SOURCE_HASH

ROLES = {"eigh": "reference", "svd": "reference", "you_newton_schulz": "opponent", "cublas": "control"}


def planted_facts(case: Case) -> MethodFacts | None:
    """Facts as a registry would give them; `retired` is a method that is registered no more."""
    if case.method == "retired":
        return None
    products = 1 if case.task == "gemm" else 10
    flops = 2.0 * products * case.m * case.n * min(case.m, case.n) * case.batch
    return MethodFacts(
        role=ROLES.get(case.method, "method"),
        summary=f"{case.method} for the tests | planted",
        citation="A. Author 2026",
        flops=flops,
        bytes_moved=None if case.task == "gemm" else 12.0 * case.batch * case.m * case.n,
    )


def case(
    path: str, *, mode: Mode = Mode.GRAPH, p: int | None = 2, options: tuple[tuple[str, OptionValue], ...] = ()
) -> Case:
    """`task/method/precision/SIZE/problem`, SIZE being N, MxN or BATCHxMxN."""
    task, method, precision, size, problem = path.split("/")
    numbers = [int(number) for number in size.split("x")]
    batch = numbers[0] if len(numbers) == 3 else 1
    return Case(
        task=task,
        method=method,
        precision=precision,
        p=p if task == "inverse_root" else None,
        m=numbers[-2] if len(numbers) > 1 else numbers[0],
        n=numbers[-1],
        batch=batch,
        k=numbers[-1] if task == "gemm" else None,
        problem=problem,
        mode=mode,
        options=options,
    )


def ok(
    of: Case,
    time_s: float,
    *,
    error: float = 1e-3,
    spread: float = 0.002,
    launches: int = 3,
    target_error: float | None = None,
    control: bool = False,
    throttled: bool = False,
) -> CaseSummary:
    """A case that was measured: launches spread by `spread` about `time_s`, five seeds about `error`."""
    offsets = [spread * (launch - (launches - 1) / 2) for launch in range(launches)]
    polar = of.task == "polar"
    quality = tuple(
        Quality(
            seed=seed,
            relative_error=error * (1 + 0.1 * seed),
            residual=None if of.task != "inverse_root" else 2 * error,
            symmetry=1e-8 if of.task == "inverse_root" else None,
            orthogonality=2 * error if polar else None,
        )
        for seed in range(5)
    )
    return CaseSummary(
        planned=planned(of, target_error=target_error, control=control),
        outcome=Outcome.OK,
        launch_medians_s={i + 1: time_s * math.exp(offset) for i, offset in enumerate(offsets)},
        quality=quality,
        peak_bytes=5 * of.m * of.n * of.batch * 2,
        first_call_s=0.8,
        throttled=throttled,
    )


def planned(of: Case, *, target_error: float | None = None, control: bool = False, expect: str = "ok") -> PlannedCase:
    """The plan of a case; eager cases are advisory and take fewer samples."""
    eager = of.mode is Mode.EAGER
    return PlannedCase.model_validate(
        {
            "case": of,
            "timing": TimingPolicy(samples=10 if eager else 30),
            "expect": expect,
            "target_error": target_error,
            "gates": not eager,
            "control": control,
        }
    )


def ended(of: Case, outcome: Outcome, error: str, *, expect: str = "ok") -> CaseSummary:
    """A case without figures; a non-finite one keeps the quality of its seeds."""
    spoiled = outcome is Outcome.NONFINITE
    quality = tuple(Quality(seed=seed, nonfinite=7 if seed < 2 else 0, relative_error=0.5) for seed in range(5))
    return CaseSummary(
        planned=planned(of, expect=expect),
        outcome=outcome,
        error=error,
        quality=quality if spoiled else (),
        throttled=outcome is Outcome.THROTTLED,
    )


TRACEBACK = 'Traceback (most recent call last):\n  File "a.py", line 3, in f\nRuntimeError: a <Tensor> | of *shape* [2]'


def every_outcome() -> tuple[CaseSummary, ...]:
    """Three tasks, two roots, several shapes and problems, every outcome."""
    root = "inverse_root"
    return (
        ok(case(f"{root}/coupled_pe/bf16/512/wishart"), 60e-6, error=2e-2),
        ok(case(f"{root}/coupled_pe/fp32/512/wishart"), 240e-6, error=1e-4),
        ok(case(f"{root}/coupled_pe/fp32/512/wishart", options=(("steps", 5),)), 150e-6, error=5e-3),
        ok(case(f"{root}/coupled_newton/fp32/512/wishart"), 700e-6, error=2e-5),
        ok(case(f"{root}/coupled_newton/fp32/512/wishart", mode=Mode.EAGER), 2.1e-3, error=2e-5, spread=0.08),
        ok(case(f"{root}/eigh/fp32/512/wishart", mode=Mode.EAGER), 5.4e-3, error=3e-6),
        ok(case(f"{root}/coupled_pe/bf16/512/logspace_1e6"), 70e-6, error=0.9),
        ok(case(f"{root}/coupled_newton/fp32/512/logspace_1e6"), 900e-6, error=0.05),
        ended(case(f"{root}/retired/fp16/512/logspace_1e6"), Outcome.NONFINITE, "14 entries", expect="nonfinite"),
        ended(case(f"{root}/uncoupled_pe/bf16/512/logspace_1e6"), Outcome.NONFINITE, "9 of 262144 entries are NaN"),
        ok(case(f"{root}/coupled_pe/bf16/1024/wishart", p=4), 110e-6, error=4e-3, throttled=True),
        ended(case(f"{root}/eigh/fp64/1024/wishart", p=4, mode=Mode.EAGER), Outcome.TIMEOUT, "no end after 120 s"),
        ended(case(f"{root}/coupled_newton/fp32/1024/wishart", p=4), Outcome.OOM, "CUDA out of memory: 80 GiB"),
        ended(case(f"{root}/uncoupled_pe/fp32/1024/wishart", p=4), Outcome.FAILED, TRACEBACK),
        ok(case("polar/you_newton_schulz/bf16/1024x1024/gaussian"), 142e-6, error=0.09, target_error=0.15),
        ok(case("polar/polar_express/bf16/1024x1024/gaussian"), 132e-6, error=0.06, target_error=0.15),
        ok(case("polar/polar_express/fp8_e4m3/1024x1024/gaussian"), 120e-6, error=0.4, target_error=0.15),
        ended(case("polar/svd/fp32/1024x1024/gaussian"), Outcome.THROTTLED, "hw_thermal_slowdown in 3 tries"),
        ok(case("polar/polar_express/bf16/16x1024x1024/gaussian"), 1.1e-3, error=0.06, target_error=0.15),
        *(
            ended(
                case(f"polar/{method}/fp8_e5m2/1024x1024/gaussian"),
                Outcome.UNSUPPORTED,
                "float8_e5m2 needs compute capability 8.9, this GPU has 8.0",
                expect="unsupported",
            )
            for method in ("polar_express", "newton_schulz")
        ),
        ended(case("polar/svd/bf16/1024x1024/gaussian"), Outcome.UNSUPPORTED, "svd has no bfloat16 kernel"),
        ok(case("gemm/cublas/bf16/1024x1024/gaussian"), 4.6e-6, error=2e-3, control=True),
    )


def run_record(planned_cases: Sequence[PlannedCase], **changes: object) -> RunRecord:
    """A complete run on an H100 from a clean tree."""
    run = RunRecord(
        run_id="20260102-090000-quick-1f3a",
        created_at="2026-01-02T09:00:00+00:00",
        status=RunStatus.COMPLETE,
        manifest="quick",
        manifest_hash="c0ffee" * 10,
        manifest_toml='name = "quick"\nlaunches = 3\n\n[[sweep]]\ntask = "polar"\n',
        launches=3,
        machine=H100,
        software=SOFTWARE,
        source=SourceIdentity(revision=REVISION, dirty=False, source_hash=SOURCE_HASH),
        cases=tuple(planned_cases),
    )
    return run.model_copy(update=changes)


def run_summary(summaries: Sequence[CaseSummary], **changes: object) -> RunSummary:
    """A run of these cases; `changes` go into its record."""
    return RunSummary(
        run=run_record([summary.planned for summary in summaries], **changes),
        cases={summary.planned.case.case_id: summary for summary in summaries},
        timed_share=0.47,
        startup_s=4.6,
        launch_wall_s=31.5,
    )


def verdict(
    of: Case, kind: Verdict, ratio: float | None = None, *, half_width: float = 0.01, reason: str | None = None
) -> CaseVerdict:
    """A row with an interval of `half_width` to either side of its ratio."""
    timed = ratio is not None
    return CaseVerdict(
        case_id=of.case_id,
        case=of,
        verdict=kind,
        gates=of.mode is not Mode.EAGER,
        reason=reason,
        ratio=ratio,
        low=ratio - half_width if ratio is not None else None,
        high=ratio + half_width if ratio is not None else None,
        mde=half_width * 1.3 if timed else None,
        tau=0.034 if timed else None,
        launches=3,
        reference_launches=3,
        time_s=1e-4 * ratio if ratio is not None else None,
        reference_time_s=1e-4 if timed else None,
        raw_ratio=ratio,
        error_ratio=1.0 if timed else None,
    )


RETILED = KernelChange(same=False, changes=("symmetric: BLOCK 128 → 64, num_stages 3 → 4",))
MORE_MEMORY = MemoryVerdict(
    verdict=Verdict.REGRESSED, ratio=1.25, peak_bytes=80 * 2**20, reference_peak_bytes=64 * 2**20
)
SLOW_START = FirstCallVerdict(
    verdict=Verdict.REGRESSED,
    fails=True,
    ratio=3.0,
    low=2.92,
    high=3.08,
    first_call_s=2.4,
    reference_first_call_s=0.8,
    launches=6,
    reference_launches=6,
)


def every_verdict() -> tuple[CaseVerdict, ...]:
    """Every verdict once or more, two roots, a control among them."""
    root = "inverse_root"
    lost = "relative error 1.00e-03 → 2.10e-03 (×2.10 in the median, ×2.30 at p90)"
    less_accurate = verdict(
        case(f"{root}/coupled_pe/bf16/1024/wishart", p=4), Verdict.LESS_ACCURATE, 1.001, reason=lost
    )
    regressed = verdict(case(f"{root}/coupled_pe/bf16/512/wishart"), Verdict.REGRESSED, 1.083)
    unchanged = verdict(case(f"{root}/coupled_newton/fp32/512/wishart"), Verdict.UNCHANGED, 1.002)
    eager = verdict(case(f"{root}/eigh/fp32/512/wishart", mode=Mode.EAGER), Verdict.REGRESSED, 1.21, half_width=0.08)
    more_accurate = verdict(case("polar/you_newton_schulz/bf16/1024x1024/gaussian"), Verdict.MORE_ACCURATE, 0.999)
    return (
        regressed.model_copy(update={"kernels": RETILED}),
        verdict(case(f"{root}/coupled_pe/fp32/512/wishart"), Verdict.IMPROVED, 0.912),
        unchanged.model_copy(update={"kernels": KernelChange(same=True)}),
        eager.model_copy(update={"kernels": KernelChange(same=True), "first_call": SLOW_START}),
        verdict(
            case(f"{root}/coupled_pe/bf16/512/logspace_1e6"),
            Verdict.INCONCLUSIVE,
            1.02,
            half_width=0.06,
            reason="the interval reaches beyond the threshold",
        ),
        verdict(case(f"{root}/coupled_newton/fp32/1024/wishart", p=4), Verdict.BROKEN, reason="oom: 80 GiB | asked"),
        less_accurate.model_copy(update={"error_ratio": 2.1, "quality_notes": (lost,)}),
        verdict(
            case("polar/polar_express/bf16/1024x1024/gaussian"),
            Verdict.TRADE,
            0.9,
            reason="faster but less accurate: relative error 6.00e-02 → 9.00e-02",
        ),
        more_accurate.model_copy(update={"memory": MORE_MEMORY}),
        verdict(case("polar/svd/fp32/1024x1024/gaussian"), Verdict.FIXED, reason="no longer failed"),
        verdict(case("polar/polar_express/bf16/16x1024x1024/gaussian"), Verdict.NEW),
        verdict(case("polar/aol/bf16/1024x1024/gaussian"), Verdict.MISSING, reason="planned but not measured"),
        verdict(case("gemm/cublas/bf16/1024x1024/gaussian"), Verdict.UNCHANGED, 1.0),
    )


def comparison(verdicts: Sequence[CaseVerdict] | None = None, **changes: object) -> Comparison:
    """A comparison with the official baseline, same software, qualified, without controls."""
    made = Comparison(
        candidate="20260102-090000-quick-1f3a",
        reference="20260101-090000-quick-00aa",
        kind="baseline",
        manifest="quick",
        machine_class=H100.machine_class,
        qualification="q-20260101",
        verdicts=tuple(every_verdict() if verdicts is None else verdicts),
    )
    return made.model_copy(update=changes)


def weak_comparison() -> Comparison:
    """Everything that can qualify a comparison: unlike machines, another unit, other software, controls."""
    return comparison(
        kind="previous_run",
        forced=True,
        hardware_differences=("power_limit_w: 700.0 != 500.0",),
        software_differences=("torch: 2.11.0 != 2.10.0", "driver: 580.95 != 570.10"),
        another_unit=True,
        control_ratios={"gemm/cublas/bf16/1024x1024xk1024/gaussian/graph": 1.013},
        control_correction=1.013,
        qualification=None,
        notes=("tau is widened by 1.4%: the reference is a single run",),
    )
