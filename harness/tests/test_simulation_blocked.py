"""Comparisons blocked by launch order, and screens that use them, on simulated machines with known truth; seeded.

log time of run r, launch k = truth + shift of the run + effect of the launch's order, common to all runs + own noise.
What blocks take out is the third; the second stays in every difference, and only tau holds it. A baseline has 3 runs of
6 launches, a candidate 6 launches, a manifest 200 cases.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pytest

from harness import stages, stats
from harness.estimates import Launches
from harness.tests.test_simulation import CASES, TAU, Log, Machine, at_least, at_most, slowed, spread_out
from harness.time_verdict import TimeRules

RUNS, LAUNCHES = 3, 6


@dataclass(frozen=True, kw_only=True)
class World:
    """Standard deviations of log time. `order`: over launches; `shift`: of a case over runs; `own`: what is left."""

    own: float
    order: float = 0.0
    shift: float = 0.0

    def baseline_and_candidate(self, generator: np.random.Generator, truth: Log, runs: int) -> tuple[Log, Log]:
        """(..., launches, runs) and (..., launches), log."""
        size = (*truth.shape, LAUNCHES, runs + 1)
        order = self.order * generator.standard_normal((*size[:-1], 1), dtype=np.float32)
        shift = self.shift * generator.standard_normal((*truth.shape, 1, runs + 1), dtype=np.float32)
        logs = order + shift + self.own * generator.standard_normal(size, dtype=np.float32)
        return logs[..., :runs], logs[..., runs] + truth[..., None]


SHARED_ORDER = World(own=0.005, order=0.01)
NO_ORDER = World(own=0.005)
SHIFTED = World(own=0.005, shift=0.003)
SHIFTED_AND_ORDERED = World(own=0.0025, order=0.01, shift=0.003)
WORLDS = (SHARED_ORDER, SHIFTED, SHIFTED_AND_ORDERED)


@dataclass(frozen=True, kw_only=True)
class Screen:
    """What many simulated comparisons with a baseline said of every case."""

    estimate: stats.Estimate
    tau: Log

    @property
    def regressed(self) -> stats.Flags:
        return np.asarray(stats.holm(stats.p_slower(self.estimate, self.tau)) < stats.ALPHA)

    @property
    def unchanged(self) -> stats.Flags:
        return stats.is_unchanged(self.estimate, self.tau) & ~self.regressed

    @property
    def open(self) -> stats.Flags:
        """Cases that a screen measures again in pairs."""
        return np.asarray(~(self.estimate.high < math.log1p(TAU)))


def screen(
    world: World, truth: Log, *, seed: int, runs: int = RUNS, design: Literal["blocked", "unpaired"] = "blocked"
) -> Screen:
    """Compare a run with a baseline of `runs` runs; `truth` is (comparisons, cases)."""
    baseline, candidate = world.baseline_and_candidate(np.random.default_rng(seed), truth, runs)
    if design == "blocked":
        estimate = stats.blocked(np.exp(candidate), np.exp(baseline))
    else:
        estimate = stats.unpaired(np.exp(candidate), np.exp(baseline.reshape(*truth.shape, -1)))
    if runs == 1:
        margin = np.full(truth.shape, TimeRules(launches=Launches(design="blocked")).run_margin(None))
    else:
        margin = baseline.mean(axis=-2).std(axis=-1, ddof=1) * stats.prediction_margin(1.0, runs)
    return Screen(estimate=estimate, tau=TAU + margin)


def gate(world: World, truth: Log, *, seed: int) -> stages.GateDecision:
    """A blocked screen, then 10 fresh pairs of what it leaves open. Neighbours share their order and their machine."""
    first = screen(world, truth, seed=seed)
    fresh = Machine(spread=world.own).pairs(
        np.random.default_rng(seed + 1), truth[first.open], stats.interleaved(10, first="B")
    )
    return stages.decide_stage2(spread_out(fresh, first.open), TAU, routed=first.open)


def comparisons(truth: Log, count: int) -> Log:
    return np.broadcast_to(truth, (count, CASES))


def test_blocks_take_out_the_order_to_the_last_digit() -> None:
    """So what is found below with an order effect holds without: the same noise gives the same figures."""
    with_order, without = (screen(world, comparisons(slowed(0.0), 50), seed=1) for world in (SHARED_ORDER, NO_ORDER))
    np.testing.assert_allclose(with_order.estimate.log_ratio, without.estimate.log_ratio, atol=1e-7)
    np.testing.assert_allclose(with_order.estimate.se, without.estimate.se, atol=1e-7)


@pytest.mark.parametrize("world", WORLDS, ids=str)
class TestScreen:
    def test_nothing_wrong_raises_no_alarm(self, world: World) -> None:
        """3000 comparisons without an alarm bound the rate by 0.1 %; 99.9 % of the cases come out unchanged."""
        parts = [screen(world, comparisons(slowed(0.0), 500), seed=seed) for seed in range(6)]
        alarms = sum(int(part.regressed.any(axis=1).sum()) for part in parts)
        assert at_most(alarms, 3000) <= 0.001
        assert min(part.unchanged.mean() for part in parts) >= 0.999
        assert max(part.open.mean() for part in parts) <= 0.002

    def test_the_gate_raises_no_alarm_and_finds_what_is_slower(self, world: World) -> None:
        """Five slow cases of 200. The threshold sends to the pairs, not tau, which a shift makes wider than 3 %."""
        assert not gate(world, comparisons(slowed(0.0), 500), seed=20).regressed.any()
        for effect, power in ((0.03, 0.95), (0.05, 0.99)):
            found = gate(world, comparisons(slowed(effect, 5), 400), seed=30).regressed
            assert not found[:, 5:].any()
            assert at_least(int(found[:, :5].sum()), 2000) >= power

    def test_every_case_at_the_threshold(self, world: World) -> None:
        """Family-wise, the gate is at most at Holm's 5 %: the fresh pairs decide, which have no shift."""
        alarms = gate(world, comparisons(slowed(TAU), 600), seed=40).regressed.any(axis=1).sum()
        assert at_most(int(alarms), 600) <= 0.075

    def test_a_case_at_the_threshold(self, world: World) -> None:
        """One case, no pairs: tau holds the shift of its run in 95 %, though no interval of 6 differences does."""
        found = screen(world, comparisons(slowed(TAU), 200), seed=50)
        assert (stats.p_slower(found.estimate, found.tau) < stats.ALPHA).mean() <= 0.05


@pytest.mark.parametrize("world", WORLDS, ids=str)
def test_a_single_run_as_reference(world: World) -> None:
    """The previous run of a machine: tau is 3.4 %, whatever the shift turns out to be."""
    found = screen(world, comparisons(slowed(0.0), 500), seed=60, runs=1)
    assert not found.regressed.any()
    assert found.unchanged.mean() >= 0.999
    slow = screen(world, comparisons(slowed(TAU), 300), seed=61, runs=1)
    assert (stats.p_slower(slow.estimate, slow.tau) < stats.ALPHA).mean() <= 0.05


def test_every_case_at_its_tau() -> None:
    """Without a shift, every case slower by just what it tolerates: family-wise at Holm's 5 %."""
    truth = comparisons(slowed(TAU), 1000)
    baseline, candidate = SHARED_ORDER.baseline_and_candidate(np.random.default_rng(70), truth, RUNS)
    estimate = stats.blocked(np.exp(candidate), np.exp(baseline))
    alarms = (stats.holm(stats.p_slower(estimate, TAU)) < stats.ALPHA).any(axis=1).sum()
    low, high = stats.clopper_pearson(int(alarms), 1000, confidence=0.99)
    assert low <= stats.ALPHA <= high


def test_blocks_pay_where_orders_matter_and_cost_little_elsewhere() -> None:
    """Power of the comparison alone at +5 %, Holm over 200: order effects of 1 %, then none."""

    def power(world: World, design: Literal["blocked", "unpaired"]) -> float:
        found = screen(world, comparisons(slowed(0.05, 5), 400), seed=80, design=design)
        return float(found.regressed[:, :5].mean())

    ordered = World(own=0.0025, order=0.01)
    assert power(ordered, "blocked") >= 0.99 > 0.6 > power(ordered, "unpaired")
    assert power(SHARED_ORDER, "blocked") > 2 * power(SHARED_ORDER, "unpaired")
    assert power(NO_ORDER, "unpaired") > power(NO_ORDER, "blocked") >= 0.7
