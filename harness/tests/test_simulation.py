"""The verdicts on simulated machines with known truth: false alarms, power, drift; seeded.

A simulated launch median is exp(true log ratio + launch noise + drift). The gate's numbers are over whole gate runs of
200 cases. Rates of rare events are held against Clopper-Pearson's one-sided 95 % bounds, so that a small number of
simulated runs cannot flatter them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest

from harness import stages, stats
from harness.compare import compare
from harness.estimates import Launches
from harness.records import RunSummary, Verdict
from harness.tests.factories import make_case, make_planned, make_run, make_summary
from harness.time_verdict import RUN_SPREAD, TimeRules

TAU = 0.02
CASES = 200
SPREADS = (0.0025, 0.005, 0.01)
DRIFTS = (0.0, 0.01)

Log = stats.Floats


@dataclass(frozen=True, kw_only=True)
class Machine:
    """`spread`: standard deviation of log time between launches; `drift`: over the launches of one stage, all cases."""

    spread: float
    drift: float = 0.0

    def pairs(self, generator: np.random.Generator, truth: Log, order: tuple[str, ...]) -> stats.Estimate:
        """Measure cases whose true log ratios are `truth` in interleaved launches."""
        is_b = np.array(order) == "B"
        lag = np.flatnonzero(is_b) - np.flatnonzero(~is_b)  # of the i-th B behind the i-th A, in launches
        noise = generator.standard_normal((*truth.shape, len(lag)), dtype=np.float32)
        difference = truth[..., None] + self.drift * lag / (len(order) - 1) + math.sqrt(2) * self.spread * noise
        return stats.paired(np.exp(difference), np.ones_like(difference))


@dataclass(frozen=True, kw_only=True)
class GateRuns:
    """What many simulated gate runs said; flags are (runs, cases)."""

    unchanged: stats.Flags
    regressed: stats.Flags
    undecided: stats.Flags

    @property
    def alarms(self) -> int:
        """Number of gate runs that called any regression."""
        return int(self.regressed.any(axis=1).sum())


def gate(machine: Machine, truth: Log, *, runs: int, seed: int) -> GateRuns:
    """Both stages of the gate, `runs` times, for cases whose true log ratios are `truth`."""
    generator = np.random.default_rng(seed)
    every = np.broadcast_to(truth, (runs, CASES))
    first = machine.pairs(generator, every, stats.interleaved(6))
    routed = stages.route_stage1(first, TAU)
    fresh = machine.pairs(generator, every[routed], stats.interleaved(10, first="B"))
    suspected = stages.looks_slower(first, TAU)
    decision = stages.decide_stage2(spread_out(fresh, routed), TAU, routed=routed, suspected=suspected)
    unchanged = stats.is_unchanged(first, TAU) & ~routed
    unchanged[routed] = stats.is_unchanged(fresh, TAU)
    return GateRuns(unchanged=unchanged, regressed=decision.regressed, undecided=decision.undecided)


def spread_out(fresh: stats.Estimate, routed: stats.Flags) -> stats.Estimate:
    """Put the estimates of the routed cases back to their places among all cases."""

    def placed(values: Log) -> Log:
        result = np.full(routed.shape, np.nan)
        result[routed] = values
        return result

    counts = np.where(routed, 10, 0)
    return stats.Estimate(
        log_ratio=placed(fresh.log_ratio), se=placed(fresh.se), df=placed(fresh.df), n=counts, n_ref=counts
    )


def slowed(effect: float, cases: int = CASES) -> Log:
    """True log ratios: the first `cases` slower by `effect`, the others unchanged."""
    return np.where(np.arange(CASES) < cases, math.log1p(effect), 0.0)


def at_most(hits: int, trials: int) -> float:
    """Upper end of the one-sided 95 % interval of a rate."""
    return stats.clopper_pearson(hits, trials, confidence=0.90)[1]


def at_least(hits: int, trials: int) -> float:
    """Lower end of the one-sided 95 % interval of a rate."""
    return stats.clopper_pearson(hits, trials, confidence=0.90)[0]


@pytest.mark.parametrize("drift", DRIFTS)
@pytest.mark.parametrize("spread", SPREADS)
class TestGate:
    def test_nothing_wrong_raises_no_alarm(self, spread: float, drift: float) -> None:
        """3000 runs without an alarm bound the rate by 0.1 %."""
        found = gate(Machine(spread=spread, drift=drift), slowed(0.0), runs=3000, seed=1)
        assert at_most(found.alarms, 3000) <= 0.001
        if spread <= 0.005:
            assert found.unchanged.mean() >= 0.99
            assert found.undecided.mean() <= 1e-5

    def test_every_case_at_the_threshold(self, spread: float, drift: float) -> None:
        """The family-wise rate is at most Holm's 5 %, suspects tested first or not."""
        found = gate(Machine(spread=spread, drift=drift), slowed(TAU), runs=800, seed=2)
        assert 0.02 <= found.alarms / 800 <= 0.06

    def test_power(self, spread: float, drift: float) -> None:
        """Five slow cases of 200. At a spread of 1 % some 48 cases are routed, but 12 of them looked slower.

        Holm over all of them would find +5 % in 0.95, over those that looked slower it does in 0.995.
        """
        machine = Machine(spread=spread, drift=drift)
        hits = {}
        for effect in (0.03, 0.05):
            found = gate(machine, slowed(effect, 5), runs=400, seed=3)
            assert not found.regressed[:, 5:].any()
            hits[effect] = int(found.regressed[:, :5].sum())
        if spread <= 0.005:
            assert at_least(hits[0.03], 2000) >= 0.95
            assert at_least(hits[0.05], 2000) >= 0.99
        else:
            assert at_least(hits[0.05], 2000) >= 0.985


def test_drift_would_matter_in_sequence() -> None:
    """All of A, then all of B, under the same drift: the order of launches is what keeps the rates above."""
    machine, generator = Machine(spread=0.0025, drift=0.01), np.random.default_rng(4)
    truth = np.broadcast_to(slowed(TAU), (50, CASES))
    rates = [
        float((stats.p_slower(machine.pairs(generator, truth, order), TAU) < stats.ALPHA).mean())
        for order in (stats.interleaved(10), ("A",) * 10 + ("B",) * 10)
    ]
    assert rates[0] == pytest.approx(0.05, abs=0.01)
    assert rates[1] > 0.9


def launches(generator: np.random.Generator, *, shape: tuple[int, ...], between: float, within: float) -> Log:
    """Log launch medians (..., runs, launches): every run and case has its own offset."""
    return generator.normal(0.0, between, (*shape, 1)) + generator.normal(0.0, within, (*shape, 6))


@pytest.mark.parametrize("between", [0.002, 0.004, 0.006])
class TestUnpaired:
    """Reference and candidate are runs of 6 launches whose cases differ from run to run by `between`."""

    def test_single_runs_raise_no_false_alarm(self, between: float) -> None:
        generator = np.random.default_rng(5)
        sides = launches(generator, shape=(500, CASES, 2), between=between, within=0.005)
        tau = TAU + TimeRules(launches=Launches(design="unpaired")).run_margin(None)
        estimate = stats.unpaired(np.exp(sides[..., 0, :]), np.exp(sides[..., 1, :]))
        false = (stats.holm(stats.p_slower(estimate, tau)) < stats.ALPHA).any(axis=-1)
        assert at_most(int(false.sum()), 500) < 0.01

    def test_the_single_run_margin_holds_at_the_threshold(self, between: float) -> None:
        """A case slower by the threshold itself is called in at most 5 %, run-to-run spread included."""
        generator = np.random.default_rng(6)
        sides = launches(generator, shape=(20_000, 2), between=between, within=0.0025)
        estimate = stats.unpaired(np.exp(sides[:, 0] + math.log1p(TAU)), np.exp(sides[:, 1]))
        tau = TAU + TimeRules(launches=Launches(design="unpaired")).run_margin(None)
        assert (stats.p_slower(estimate, tau) < stats.ALPHA).mean() <= 0.05

    def test_the_baseline_margin_holds_at_the_threshold(self, between: float) -> None:
        """A baseline of 3 runs carries its own spread, estimated from 3 figures."""
        generator = np.random.default_rng(7)
        sides = launches(generator, shape=(20_000, 4), between=between, within=0.0025)
        baseline, candidate = sides[:, :3], sides[:, 3] + math.log1p(TAU)
        spread = baseline.mean(axis=-1).std(axis=-1, ddof=1)
        tau = TAU + spread * stats.prediction_margin(1.0, 3)
        estimate = stats.unpaired(np.exp(candidate), np.exp(baseline.reshape(len(baseline), 18)))
        assert (stats.p_slower(estimate, tau) < stats.ALPHA).mean() <= 0.05


def simulated_run(number: int, *, machine: float, between: float, slow: float = 1.0) -> RunSummary:
    """A run of 100 cases and 2 controls whose machine is slower by the factor `machine`; the first case by `slow`."""
    generator = np.random.default_rng(number)
    cases = [make_planned(make_case(n=8 * i)) for i in range(1, 101)]
    controls = [make_planned(make_case(name, task="gemm"), control=True) for name in ("cublas", "copy")]
    planned = (*cases, *controls)
    offsets = machine * np.exp(generator.normal(0.0, between, len(planned)))
    offsets[0] *= slow
    medians = {each.case.case_id: 1e-3 * float(x) for each, x in zip(planned, offsets, strict=True)}
    return make_summary(make_run(planned, number=number, launches=6), medians_s=medians, sigma=0.004, seed=number)


def test_whole_comparisons_of_identical_code() -> None:
    """A/A through `compare` on a machine that is 2 % slower the second time: nothing regressed, most unchanged."""
    rows = [
        row
        for number in range(1, 41, 2)
        for row in compare(
            simulated_run(number + 1, machine=1.02, between=0.004),
            simulated_run(number, machine=1.0, between=0.004),
            kind="previous_run",
        ).verdicts
        if row.gates
    ]
    verdicts = [row.verdict for row in rows]
    assert len(verdicts) == 2000
    assert Verdict.REGRESSED not in verdicts
    assert verdicts.count(Verdict.UNCHANGED) >= 0.99 * len(verdicts)


def test_a_real_slowdown_shows_through_a_faster_machine() -> None:
    """+10 % in one case while the machine got 2 % faster: exactly that case is called."""
    for number in range(51, 61, 2):
        comparison = compare(
            simulated_run(number + 1, machine=0.98, between=RUN_SPREAD, slow=1.1),
            simulated_run(number, machine=1.0, between=RUN_SPREAD),
            kind="run",
        )
        called = [row.case.n for row in comparison.verdicts if row.verdict is Verdict.REGRESSED and row.gates]
        assert called == [8]
