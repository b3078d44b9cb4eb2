"""Comparisons blocked by the order of launches: when they are, what they find, and what is said when they are not."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from scipy import stats as reference

from harness import stats
from harness.compare import compare
from harness.launch_blocks import blocks_between
from harness.records import RunSummary, Verdict
from harness.tests.factories import make_case, make_cases, make_planned, make_run, make_summary
from harness.tests.sides import CONTROL, Side, run_of

ORDERS = {launch: f"order {launch}" for launch in range(1, 7)}
EFFECTS = (0.0, 0.10, -0.06, 0.03, -0.08, 0.01)
"""What the order of each launch does to log time: far more than the noise."""


def ordered(summary: RunSummary, orders: Mapping[int, str] = ORDERS, **changes: Any) -> RunSummary:
    """The launches of `summary` went through these orders; `changes` replace fields of its record."""
    run = summary.run.model_copy(update=changes)
    return summary.model_copy(update={"launch_orders": dict(orders), "run": run})


def shaken(time: float = 1.0, *, noise: tuple[float, ...] = (0.0,) * 6, launches: int = 6) -> Side:
    """A case that feels the orders, and has noise of its own."""
    logs = [math.log(1e-3 * time) + effect + own for effect, own in zip(EFFECTS, noise, strict=True)]
    return Side(changes={"launch_medians_s": {i + 1: math.exp(log) for i, log in enumerate(logs[:launches])}})


NOISE = (0.001, -0.002, 0.001, 0.0, 0.002, -0.001)


class TestDesign:
    def test_equal_orders_cancel(self) -> None:
        candidate, old = ordered(run_of(shaken(1.05, noise=NOISE), number=2)), ordered(run_of(shaken()))
        comparison = compare(candidate, old, kind="run")
        row = comparison.verdicts[0]
        assert (comparison.design, row.design, row.verdict) == ("blocked", "blocked", Verdict.REGRESSED)
        assert (row.launches, row.reference_launches) == (6, 6)
        truth = reference.ttest_1samp(NOISE, -math.log(1.05) + math.log1p(row.tau or 0.0), alternative="greater")
        assert row.p_value == pytest.approx(truth.pvalue)
        assert "blocked: launches that measured in the same order are compared with each other" in comparison.notes

    def test_without_them_the_same_launches_decide_nothing(self) -> None:
        comparison = compare(run_of(shaken(1.05, noise=NOISE), number=2), run_of(shaken()), kind="run")
        assert (comparison.design, comparison.verdicts[0].verdict) == ("unpaired", Verdict.INCONCLUSIVE)

    def test_a_pair_stays_a_pair(self) -> None:
        comparison = compare(ordered(run_of(shaken(), number=2)), ordered(run_of(shaken())), kind="paired")
        assert (comparison.design, comparison.verdicts[0].design) == ("paired", "paired")

    def test_a_blocked_tau_is_as_wide_as_an_unpaired_one(self) -> None:
        """An offset of the whole run is in every launch: no block takes it out."""
        sides = run_of(Side(), number=2), run_of(Side())
        taus = [compare(*each, kind="run").verdicts[0].tau for each in (sides, tuple(ordered(one) for one in sides))]
        assert taus[0] == taus[1]

    def test_controls_are_blocked_too(self) -> None:
        control = shaken(1.02).changes
        candidate = run_of(shaken(1.02), Side(planned=CONTROL, changes=control), number=2)
        old = run_of(shaken(), Side(planned=CONTROL, changes=shaken().changes))
        comparison = compare(ordered(candidate), ordered(old), kind="run")
        assert comparison.control_correction == pytest.approx(1.02)
        assert comparison.verdicts[0].low == pytest.approx(1.0)

    def test_common_launches_count_whatever_either_side_has_more(self) -> None:
        longer = ordered(run_of(shaken(1.05, noise=NOISE), number=2))
        shorter = ordered(run_of(shaken(launches=4)), {launch: ORDERS[launch] for launch in range(1, 5)}, launches=4)
        row = compare(longer, shorter, kind="run").verdicts[0]
        assert (row.design, row.launches, row.reference_launches) == ("blocked", 4, 4)

    def test_a_case_with_three_blocks_is_unpaired_and_the_note_counts_it(self) -> None:
        other = make_planned(make_case("coupled_newton"))
        few = dict.fromkeys((1, 2, 3), 1e-3)
        candidate = run_of(shaken(), Side(planned=other, changes={"launch_medians_s": few}), number=2)
        comparison = compare(ordered(candidate), ordered(run_of(shaken(), Side(planned=other))), kind="run")
        assert [row.design for row in comparison.verdicts] == ["blocked", "unpaired"]
        assert comparison.verdicts[1].reference_launches == 6
        assert comparison.design == "blocked"
        assert comparison.notes[-1].endswith("1 of 2 cases have fewer than 4 such launches and are unpaired")


class TestWhyNot:
    @pytest.mark.parametrize(
        ("changes", "orders", "reason"),
        [
            ({}, {}, "the reference does not say in which order its launches measured"),
            (
                {"filter": "task=polar"},
                {1: "x"},
                "the sides measured other cases, filter none and task=polar",
            ),
            ({"seed": 5}, {1: "x"}, "the sides shuffled their cases by other seeds, 0 and 5"),
            ({}, {1: "x"}, "no launch of both sides measured in the same order"),
            ({}, {1: "order 1"}, "only 1 launch of both sides measured in the same order, 4 are needed"),
            (
                {},
                {1: "order 1", 2: "order 2", 3: "order 3", 4: "resumed"},
                "only 3 launches of both sides measured in the same order, 4 are needed",
            ),
        ],
    )
    def test_it_is_said(self, changes: dict[str, Any], orders: dict[int, str], reason: str) -> None:
        old = ordered(run_of(Side()), orders, **changes)
        comparison = compare(ordered(run_of(Side(), number=2)), old, kind="previous_run")
        assert comparison.design == "unpaired"
        assert comparison.notes[-1].startswith(f"unpaired, launches of either side count as independent: {reason}")

    def test_a_baseline_of_old(self) -> None:
        old = run_of(Side()).model_copy(update={"runs_merged": ("a", "b", "c")})
        assert str(blocks_between(ordered(run_of(Side(), number=2)), old).why_not).endswith("promote runs anew")

    def test_an_unknown_order_of_the_candidate(self) -> None:
        assert blocks_between(run_of(Side()), ordered(run_of(Side()))).why_not == (
            "the candidate does not say in which order its launches measured"
        )


THREE_RUNS = {6 * run + launch: order for run in range(3) for launch, order in ORDERS.items()}


class TestMergedReference:
    """Launches 1-6, 7-12 and 13-18 of a reference of three runs."""

    def merged(self, offsets: tuple[float, float, float], *, lacks: int | None = None) -> RunSummary:
        logs = {6 * run + i + 1: offset + EFFECTS[i] for run, offset in enumerate(offsets) for i in range(6)}
        medians = {launch: 1e-3 * math.exp(log) for launch, log in logs.items() if launch != lacks}
        summary = run_of(Side(changes={"launch_medians_s": medians, "run_spread": 0.001}))
        return ordered(summary, THREE_RUNS).model_copy(update={"runs_merged": ("a", "b", "c")})

    def test_the_mean_over_runs_is_compared(self) -> None:
        candidate = ordered(run_of(shaken(1.05, noise=NOISE), number=2))
        row = compare(candidate, self.merged((0.003, 0.0, -0.003)), kind="baseline").verdicts[0]
        assert (row.design, row.launches, row.reference_launches) == ("blocked", 6, 18)
        assert row.ratio == pytest.approx(1.05 * math.exp(np.mean(NOISE)))
        half = reference.t.ppf(0.975, 5) * np.std(NOISE, ddof=1) / math.sqrt(6)
        assert math.log(row.high or 0.0) - math.log(row.ratio or 0.0) == pytest.approx(half)

    def test_a_launch_that_one_run_lacks_is_left_out(self) -> None:
        """Else that run's own offset would stand in one difference and not in the others."""
        candidate = ordered(run_of(shaken(), number=2))
        row = compare(candidate, self.merged((0.03, 0.0, -0.03), lacks=9), kind="baseline").verdicts[0]
        assert (row.launches, row.reference_launches) == (5, 15)
        assert row.ratio == pytest.approx(1.0)
        assert row.high == pytest.approx(1.0)

    def test_a_case_of_fewer_runs_than_the_rest(self) -> None:
        old = self.merged((0.0, 0.0, 0.0))
        (case_id,) = old.cases
        medians = {n: t for n, t in old.cases[case_id].launch_medians_s.items() if n <= 6}
        case = old.cases[case_id].model_copy(update={"launch_medians_s": medians, "runs": 1})
        candidate = ordered(run_of(shaken(), number=2))
        row = compare(candidate, old.model_copy(update={"cases": {case_id: case}}), kind="baseline").verdicts[0]
        assert (row.design, row.launches, row.reference_launches) == ("blocked", 6, 6)


class TestEstimators:
    GENERATOR = np.random.default_rng(11)

    def test_blocked_is_a_paired_test_against_the_mean_over_runs(self) -> None:
        logs = self.GENERATOR.normal(size=(6, 3))
        candidate = self.GENERATOR.normal(size=6)
        estimate = stats.blocked(np.exp(candidate), np.exp(logs))
        truth = reference.ttest_rel(candidate, logs.mean(axis=1))
        assert 2 * min(float(stats.p_slower(estimate)), float(stats.p_faster(estimate))) == pytest.approx(truth.pvalue)
        assert (int(estimate.n), int(estimate.n_ref), float(estimate.df)) == (6, 18, 5.0)

    def test_a_further_run_has_the_standard_error_foretold(self) -> None:
        """Over many baselines of 3 runs: variance of the log ratio of a 4th, against the mean variance foretold."""
        logs = 0.005 * self.GENERATOR.normal(size=(4000, 6, 4)) + 0.01 * self.GENERATOR.normal(size=(4000, 6, 1))
        runs, further = np.exp(logs[..., :3]), np.exp(logs[..., 3])
        foretold = stats.further_run(runs)
        assert np.var(stats.blocked(further, runs).log_ratio) == pytest.approx(np.mean(foretold.se**2), rel=0.05)
        assert np.mean(stats.blocked(further, runs).se ** 2) == pytest.approx(np.mean(foretold.se**2), rel=0.05)
        assert set(foretold.df.tolist()) == {5.0}

    @pytest.mark.parametrize("shape", [(6, 1), (2, 3)])
    def test_a_further_run_needs_runs_and_launches(self, shape: tuple[int, int]) -> None:
        with pytest.raises(ValueError, match="needs at least 2 runs of 3 launches"):
            stats.further_run(np.ones(shape))


def test_summaries_of_planted_runs_have_no_order() -> None:
    """The designs above are chosen by `launch_orders` alone."""
    assert make_summary(make_run(make_cases())).launch_orders == {}
