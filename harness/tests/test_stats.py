"""Statistics against SciPy, textbook values and symmetries."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from harness import stages, stats

NAN = math.nan

# Student's sleep data (Cushny and Peebles 1905): extra hours of sleep of ten patients under two drugs. Taken as
# logarithms of times they give the textbook results: paired t = -4.0621, df 9; Welch t = -1.8608, df 17.776,
# p = 0.07939.
DRUG_1 = np.exp([0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0])
DRUG_2 = np.exp([1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4])

taus = st.floats(0.0, 0.2)


@st.composite
def two_sides(draw: st.DrawFn) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Launch medians of two sides with a spread well above rounding."""
    seed = draw(st.integers(0, 2**32 - 1))
    sigma = draw(st.floats(1e-3, 0.3))
    generator = np.random.default_rng(seed)
    sizes = draw(st.integers(3, 9)), draw(st.integers(3, 9))
    shift = draw(st.floats(-0.3, 0.3))
    return np.exp(generator.normal(shift, sigma, sizes[0])), np.exp(generator.normal(0, sigma, sizes[1]))


class TestLaunchMedian:
    def test_is_the_median_on_the_log_scale(self) -> None:
        assert stats.launch_median([1.0, 100.0, 4.0]) == pytest.approx(4.0)
        assert stats.launch_median([1.0, 4.0]) == pytest.approx(2.0)  # geometric, not arithmetic, middle

    @pytest.mark.parametrize("samples", [[], [1.0, 0.0], [1.0, -1.0], [NAN], [math.inf]])
    def test_refuses_what_is_no_time(self, samples: list[float]) -> None:
        with pytest.raises(ValueError):
            stats.launch_median(samples)


class TestEstimates:
    def test_paired_sleep_data(self) -> None:
        estimate = stats.paired(DRUG_1, DRUG_2)
        assert estimate.log_ratio == pytest.approx(-1.58)
        assert estimate.log_ratio / estimate.se == pytest.approx(-4.0621, abs=1e-4)
        assert (float(estimate.low), float(estimate.high)) == pytest.approx((-2.4598858, -0.7001142))
        assert (int(estimate.n), int(estimate.n_ref), float(estimate.df)) == (10, 10, 9.0)

    def test_welch_sleep_data(self) -> None:
        estimate = stats.unpaired(DRUG_1, DRUG_2)
        assert estimate.df == pytest.approx(17.776, abs=1e-3)
        assert estimate.log_ratio / estimate.se == pytest.approx(-1.8608, abs=1e-4)
        assert (float(estimate.low), float(estimate.high)) == pytest.approx((-3.3654832, 0.2054832))
        assert 2 * stats.p_faster(estimate) == pytest.approx(0.07939, abs=1e-5)

    @given(sides=two_sides())
    def test_welch_is_scipys(self, sides: tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]) -> None:
        candidate, reference = sides
        estimate = stats.unpaired(candidate, reference)
        expected = scipy.stats.ttest_ind(np.log(candidate), np.log(reference), equal_var=False, alternative="greater")
        assert stats.p_slower(estimate) == pytest.approx(expected.pvalue, rel=1e-9, abs=1e-300)
        interval = scipy.stats.ttest_ind(np.log(candidate), np.log(reference), equal_var=False).confidence_interval()
        assert (float(estimate.low), float(estimate.high)) == pytest.approx(tuple(interval), rel=1e-9)

    @given(sides=two_sides(), tau=taus)
    def test_paired_is_scipys_with_a_minimum_effect(
        self, sides: tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]], tau: float
    ) -> None:
        n = min(map(len, sides))
        candidate, reference = sides[0][:n], sides[1][:n]
        estimate = stats.paired(candidate, reference)
        shifted = np.log(candidate) - math.log1p(tau)
        expected = scipy.stats.ttest_rel(shifted, np.log(reference), alternative="greater")
        assert stats.p_slower(estimate, tau) == pytest.approx(expected.pvalue, rel=1e-7, abs=1e-300)

    @given(sides=two_sides(), tau=taus)
    def test_swapping_the_sides_inverts(
        self, sides: tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]], tau: float
    ) -> None:
        there, back = stats.unpaired(sides[0], sides[1]), stats.unpaired(sides[1], sides[0])
        assert back.log_ratio == -there.log_ratio
        assert float(back.low) == pytest.approx(-float(there.high))
        assert stats.p_faster(back, tau) == pytest.approx(float(stats.p_slower(there, tau)))
        assert bool(stats.is_unchanged(back, tau)) == bool(stats.is_unchanged(there, tau))

    @given(sides=two_sides(), factor=st.floats(1e-3, 1e3))
    def test_a_common_factor_changes_nothing(
        self, sides: tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]], factor: float
    ) -> None:
        plain = stats.unpaired(sides[0], sides[1])
        scaled = stats.unpaired(factor * sides[0], factor * sides[1])
        assert scaled.log_ratio == pytest.approx(plain.log_ratio, abs=1e-12)
        assert scaled.se == pytest.approx(plain.se, rel=1e-9)

    def test_cases_are_rows_and_nan_is_an_absent_launch(self) -> None:
        candidate = np.array([[1.0, 1.1, 1.2, NAN], [2.0, 2.2, 2.1, 2.3]])
        reference = np.array([[1.0, NAN, 1.3, 1.1], [2.0, 2.1, 2.0, 1.9]])
        both = stats.unpaired(candidate, reference)
        alone = stats.unpaired([1.0, 1.1, 1.2], [1.0, 1.3, 1.1])
        assert both.n.tolist() == [3, 4]
        assert both.high[0] == pytest.approx(float(alone.high))
        pairs = stats.paired(candidate, reference)
        assert pairs.n.tolist() == [2, 4]
        assert np.isnan(pairs.se[0])
        assert pairs.se[1] == pytest.approx(float(stats.paired(candidate[1], reference[1]).se))

    @pytest.mark.parametrize("launches", [0, 1, 2])
    def test_too_few_launches_give_no_interval(self, launches: int) -> None:
        few, enough = np.ones(launches), np.array([1.0, 1.1, 1.2])
        for estimate in (stats.unpaired(few, enough), stats.unpaired(enough, few), stats.paired(few, few)):
            assert np.isnan([estimate.se, estimate.low, estimate.high, estimate.mde, stats.p_slower(estimate)]).all()
            assert not stats.is_unchanged(estimate, 0.02)
            assert stages.route_stage1(estimate, 0.02)

    def test_zero_spread_is_decided_by_the_sign(self) -> None:
        slower = stats.unpaired([1.1] * 3, [1.0] * 3)
        assert (float(stats.p_slower(slower, 0.02)), float(stats.p_faster(slower, 0.02))) == (0.0, 1.0)
        assert stats.is_unchanged(stats.unpaired([1.0] * 3, [1.0] * 3), 0.02)

    def test_refuses_nonpositive_times_and_unequal_pairs(self) -> None:
        with pytest.raises(ValueError, match="positive"):
            stats.unpaired([1.0, 0.0, 1.0], [1.0, 1.0, 1.0])
        with pytest.raises(ValueError, match="one shape"):
            stats.paired([1.0, 1.0], [1.0, 1.0, 1.0])

    def test_geometric_mean(self) -> None:
        means = stats.geometric_mean([[1.0, 4.0, NAN], [NAN, NAN, NAN]])
        assert means[0] == pytest.approx(2.0)
        assert np.isnan(means[1])


class TestPairsToDecide:
    @given(
        effect=st.floats(-0.1, 0.1), spread=st.floats(1e-4, 0.05), tau=st.floats(0.01, 0.2), family=st.integers(1, 50)
    )
    def test_the_number_is_the_least_that_decides(self, effect: float, spread: float, tau: float, family: int) -> None:
        def decided(pairs: int) -> bool:
            estimate = stats.Estimate(
                log_ratio=np.array(effect),
                se=np.array(spread / math.sqrt(pairs)),
                df=np.array(pairs - 1.0),
                n=np.array(pairs),
                n_ref=np.array(pairs),
            )
            p = min(float(stats.p_slower(estimate, tau)), float(stats.p_faster(estimate, tau)))
            return bool(stats.is_unchanged(estimate, tau)) or p < stats.ALPHA / family

        needed = stats.pairs_to_decide(effect, spread, tau, family=family)
        if needed is None:
            assert not decided(stats.MAX_PAIRS)
        else:
            assert decided(needed)
            assert needed == stats.MIN_LAUNCHES or not decided(needed - 1)

    def test_by_hand(self) -> None:
        """A spread whose MDE with 15 pairs is just within 2 %, and one whose MDE is just beyond."""
        margin = math.log1p(0.02)
        spread = margin * math.sqrt(15) / (scipy.stats.t.ppf(0.95, 14) + scipy.stats.t.ppf(0.8, 14))
        assert stats.pairs_to_decide(0.0, 0.9999 * spread, 0.02) == 15
        assert stats.pairs_to_decide(0.0, 1.0001 * spread, 0.02) == 16

    def test_an_effect_at_the_threshold_is_never_decided(self) -> None:
        assert stats.pairs_to_decide(math.log1p(0.02), 0.01, 0.02) is None


class TestMinimumDetectableEffect:
    def test_paired_formula(self) -> None:
        differences = np.array([0.01, -0.01, 0.02, 0.0, -0.02, 0.0])
        estimate = stats.paired(np.exp(differences), np.ones(6))
        deviation = differences.std(ddof=1)
        assert estimate.mde == pytest.approx((2.015048 + 0.919544) * deviation / math.sqrt(6), rel=1e-6)

    def test_unchanged_asks_for_it_beside_the_interval(self) -> None:
        """With 6 pairs MDE is 1.14 half widths: an interval that just fits into the band proves too little."""
        pattern = np.array([1.0, -1.0, 1.0, -1.0, 1.0, -1.0])  # se = pattern's deviation / sqrt(6) = 0.447
        for share, unchanged in ((0.85, True), (0.95, False)):
            scale = share * math.log1p(0.02) / (2.570582 * pattern.std(ddof=1) / math.sqrt(6))
            estimate = stats.paired(np.exp(scale * pattern), np.ones(6))
            assert estimate.high == pytest.approx(share * math.log1p(0.02))
            assert bool(stats.is_unchanged(estimate, 0.02)) is unchanged

    def test_has_the_promised_power(self) -> None:
        """A slowdown of tau + MDE (of the true spread) is called with probability 0.8."""
        generator = np.random.default_rng(11)
        tau, sigma, pairs = 0.02, 0.005, 10
        mde = (scipy.stats.t.ppf(0.95, 9) + scipy.stats.t.ppf(0.8, 9)) * sigma / math.sqrt(pairs)
        differences = generator.normal(math.log1p(tau) + mde, sigma, (20_000, pairs))
        called = stats.p_slower(stats.paired(np.exp(differences), np.ones_like(differences)), tau) < 0.05
        assert called.mean() == pytest.approx(0.805, abs=0.01)  # noncentral t: 0.805


class TestCorrection:
    def test_variances_add_and_the_change_is_subtracted(self) -> None:
        generator = np.random.default_rng(5)
        case = stats.unpaired(np.exp(generator.normal(0.05, 0.01, 6)), np.exp(generator.normal(0, 0.01, 6)))
        control = stats.unpaired(np.exp(generator.normal(0.03, 0.004, 6)), np.exp(generator.normal(0, 0.004, 6)))
        result = stats.corrected(case, control)
        assert result.log_ratio == pytest.approx(float(case.log_ratio - control.log_ratio))
        assert result.se == pytest.approx(math.hypot(float(case.se), float(control.se)))
        a, b = float(case.se) ** 2, float(control.se) ** 2
        assert result.df == pytest.approx((a + b) ** 2 / (a**2 / float(case.df) + b**2 / float(control.df)))

    def test_pooled_controls_and_their_disagreement(self) -> None:
        steady = np.exp([[-0.001, 0.0, 0.001]] * 2)
        moved = np.exp([[0.029, 0.03, 0.031], [-0.001, 0.0, 0.001]])
        controls = stats.unpaired(moved, steady)
        pooled = stats.pool_controls(controls)
        assert pooled.log_ratio == pytest.approx(0.015)
        assert pooled.se == pytest.approx(float(controls.se[0]))
        half_width = float(controls.high[0] - controls.log_ratio[0])
        assert stats.control_disagreement(controls) == pytest.approx(0.015 - half_width)

    def test_a_noisy_control_weighs_little(self) -> None:
        """Spreads of 0.1 and 10 %: the noisy one moved by 15 %, the pooled estimate follows the steady one."""
        steady = np.array([-0.001, 0.0, 0.001])
        controls = stats.unpaired(np.exp([steady, 100 * steady - 0.15]), np.exp([steady, 100 * steady]))
        pooled = stats.pool_controls(controls)
        assert pooled.log_ratio == pytest.approx(-0.15 / 10001, rel=1e-3)
        assert pooled.se < 1.02 * float(controls.se[0])
        assert stats.control_disagreement(controls) == 0.0

    def test_controls_that_agree_leave_nothing(self) -> None:
        controls = stats.unpaired(np.exp([[-0.01, 0.0, 0.011]] * 2), np.exp([[-0.01, 0.001, 0.01]] * 2))
        assert stats.control_disagreement(controls) == 0.0


class TestMultiplicity:
    def test_holm_worked_example(self) -> None:
        assert stats.holm(np.array([0.01, 0.04, 0.03, 0.005])).tolist() == pytest.approx([0.03, 0.06, 0.06, 0.02])

    def test_holm_never_exceeds_one_and_keeps_the_order(self) -> None:
        assert stats.holm(np.array([0.9, 0.4, 0.5])).tolist() == pytest.approx([1.0, 1.0, 1.0])

    def test_nan_is_outside_the_family(self) -> None:
        adjusted = stats.holm(np.array([[NAN, 0.01, 0.04], [0.01, 0.02, 0.03]]))
        assert np.isnan(adjusted[0, 0])
        assert adjusted[0, 1:].tolist() == pytest.approx([0.02, 0.04])
        assert adjusted[1].tolist() == pytest.approx([0.03, 0.04, 0.04])

    @given(p=st.lists(st.floats(0, 1), min_size=1, max_size=30))
    def test_holm_is_its_definition(self, p: list[float]) -> None:
        """The k-th smallest of m is the largest of (m - j + 1) p_(j) over j <= k, at most 1."""
        worst = 0.0
        expected: dict[float, float] = {}
        for rank, value in enumerate(sorted(p)):
            worst = max(worst, min(1.0, value * (len(p) - rank)))
            expected.setdefault(value, worst)
        assert stats.holm(np.array(p)).tolist() == pytest.approx([expected[value] for value in p])

    @pytest.mark.parametrize(("hits", "trials"), [(0, 10), (3, 20), (10, 10), (1, 400)])
    def test_clopper_pearson_is_scipys(self, hits: int, trials: int) -> None:
        expected = scipy.stats.binomtest(hits, trials).proportion_ci(method="exact")
        assert stats.clopper_pearson(hits, trials) == pytest.approx((expected.low, expected.high))

    def test_clopper_pearson_refuses_impossible_counts(self) -> None:
        for hits, trials in ((3, 2), (-1, 4), (0, 0)):
            with pytest.raises(ValueError, match="hits"):
                stats.clopper_pearson(hits, trials)


class TestMargins:
    def test_three_runs_give_three_point_four_spreads(self) -> None:
        assert stats.prediction_margin(0.004, 3) == pytest.approx(0.004 * 3.37, rel=1e-3)

    def test_a_fresh_run_exceeds_the_margin_in_five_percent(self) -> None:
        runs = np.random.default_rng(3).normal(size=(40_000, 4))
        mean, spread = runs[:, :3].mean(axis=1), runs[:, :3].std(axis=1, ddof=1)
        margin = spread * stats.prediction_margin(1.0, 3)
        assert (runs[:, 3] - mean > margin).mean() == pytest.approx(0.05, abs=0.004)

    def test_one_run_has_no_spread(self) -> None:
        with pytest.raises(ValueError, match="2 runs"):
            stats.prediction_margin(0.004, 1)


class TestGateStages:
    def test_order_of_launches(self) -> None:
        assert "".join(stats.interleaved(4)) == "ABBAABBA"
        assert "".join(stats.interleaved(3, first="B")) == "BAABBA"

    @staticmethod
    def estimate(*effects: float, spread: float = 0.002) -> stats.Estimate:
        """Pairs with the given mean fractions and a fixed pattern of noise."""
        noise = spread * np.array([-1.0, 1.0, -0.5, 0.5, -0.2, 0.2])
        return stats.paired(np.exp(np.log1p(effects)[:, None] + noise), np.ones((len(effects), 6)))

    def test_routes_what_looks_slower_or_is_not_surely_fast_enough(self) -> None:
        estimate = self.estimate(0.0, 0.012, 0.019, 0.03, -0.05)
        assert stages.route_stage1(estimate, 0.02).tolist() == [False, True, True, True, False]

    def test_a_noisy_case_is_routed(self) -> None:
        assert stages.route_stage1(self.estimate(0.0, spread=0.03), 0.02).tolist() == [True]

    def test_stage_two_decides_the_routed_cases_alone(self) -> None:
        fresh = self.estimate(0.06, 0.0, 0.0215, 0.06)
        decision = stages.decide_stage2(fresh, 0.02, routed=np.array([True, True, True, False]))
        assert decision.regressed.tolist() == [True, False, False, False]
        assert decision.passed.tolist() == [False, True, False, False]
        assert decision.undecided.tolist() == [False, False, True, False]
        assert np.isnan(decision.adjusted_p[3])

    def test_suspects_are_tested_before_the_others(self) -> None:
        p = np.array([0.001, 0.04, 0.002, 0.012, math.nan])
        first = np.array([True, False, True, False, False])
        assert stages.holm_in_turn(p, first)[:4] == pytest.approx([0.002, 0.04, 0.002, 0.024])
        kept = stages.holm_in_turn(np.where(first, [0.001, 0, 0.3, 0, 0], p), first)
        assert kept[:4] == pytest.approx([0.002, 0.3, 0.3, 0.3])
        assert np.isnan(kept[4])

    def test_without_suspects_it_is_holm(self) -> None:
        p = np.array([[0.01, 0.02, math.nan], [0.5, 0.001, 0.02]])
        none = np.zeros(p.shape, dtype=np.bool_)
        np.testing.assert_array_equal(stages.holm_in_turn(p, none), stats.holm(p))
        np.testing.assert_array_equal(stages.holm_in_turn(p, ~none), stats.holm(p))

    def test_a_suspect_without_an_interval_holds_the_others_back(self) -> None:
        found = stages.holm_in_turn(np.array([math.nan, 1e-6]), np.array([True, False]))
        assert found[1] == 1.0

    def test_holm_counts_routed_cases_without_an_interval(self) -> None:
        fresh = stats.paired([[1.03, 1.031, 1.033], [1.0, NAN, NAN]], np.ones((2, 3)))
        decision = stages.decide_stage2(fresh, 0.02)
        assert decision.adjusted_p[0] == pytest.approx(2 * float(stats.p_slower(fresh, 0.02)[0]))
        assert decision.undecided.tolist() == [False, True]
