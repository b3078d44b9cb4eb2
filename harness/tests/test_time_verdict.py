"""Planted times: verdicts, reasons, the widened tau and the control-kernel correction."""

from __future__ import annotations

import math

import pytest

from harness.compare import compare, exit_code_for, surely_not_slower
from harness.errors import ExitCode
from harness.records import CaseVerdict, Mode, Verdict
from harness.tests.factories import H100, make_case, make_planned
from harness.tests.sides import CONTROL, COPY, EAGER, Kind, Side, judge, planned, run_of
from harness.time_verdict import UNIT_MARGIN


class TestTime:
    @pytest.mark.parametrize(
        ("time", "verdict"),
        [(1.05, Verdict.REGRESSED), (0.95, Verdict.IMPROVED), (1.0, Verdict.UNCHANGED), (1.01, Verdict.UNCHANGED)],
    )
    @pytest.mark.parametrize("kind", ["paired", "run"])
    def test_planted_ratio(self, time: float, verdict: Verdict, kind: Kind) -> None:
        row = judge(Side(time=time), Side(noise=0.001), kind=kind)
        assert row.verdict is verdict
        assert row.ratio == pytest.approx(time)
        assert row.low is not None
        assert row.high is not None
        assert row.low <= time <= row.high
        assert row.reason is None
        assert (row.launches, row.reference_launches) == (6, 6)
        assert row.time_s == pytest.approx(1e-3 * time)
        assert row.reference_time_s == pytest.approx(1e-3)

    def test_paired_noise_that_both_sides_share_cancels(self) -> None:
        row = judge(Side(time=1.03, noise=0.2), Side(noise=0.2))
        assert row.verdict is Verdict.REGRESSED
        assert row.p_value is not None
        assert row.p_value < 1e-9
        assert judge(Side(time=1.03, noise=0.2), Side(noise=0.2), kind="run").verdict is Verdict.INCONCLUSIVE

    def test_pairs_are_launches_of_equal_number(self) -> None:
        shifted = {"launch_medians_s": dict.fromkeys((4, 5, 6, 7, 8), 1e-3)}
        row = judge(Side(changes=shifted), Side(noise=0.0))
        assert (row.launches, row.reference_launches, row.verdict) == (3, 3, Verdict.UNCHANGED)

    def test_too_noisy_says_so_with_its_mde(self) -> None:
        row = judge(Side(noise=0.05), Side(noise=0.05), kind="run")
        assert row.verdict is Verdict.INCONCLUSIVE
        assert row.mde is not None
        assert row.reason == f"MDE {100 * row.mde:.1f} % > tau 3.4 %; more launches needed"

    def test_hopeless_noise_is_not_printed_to_the_digit(self) -> None:
        row = judge(Side(noise=4.0), Side(noise=4.0), kind="run")
        assert row.reason == "MDE over 1000 % > tau 3.4 %; more launches needed"

    @pytest.mark.parametrize(
        ("candidate", "reference", "kind", "reason"),
        [
            (2, 6, "run", "2 launches of the candidate; at least 3 are needed"),
            (6, 1, "run", "1 launch of the reference; at least 3 are needed"),
            (2, 2, "run", "2 launches; at least 3 are needed"),
            (2, 6, "paired", "2 pairs of launches; at least 3 are needed"),
            (0, 0, "paired", "0 pairs of launches; at least 3 are needed"),
        ],
    )
    def test_too_few_launches(self, candidate: int, reference: int, kind: Kind, reason: str) -> None:
        row = judge(Side(time=2.0, launches=candidate), Side(launches=reference), kind=kind)
        assert (row.verdict, row.reason) == (Verdict.INCONCLUSIVE, reason)
        assert (row.low, row.high, row.p_value, row.mde) == (None, None, None, None)
        assert row.ratio is None if candidate == 0 else row.ratio == pytest.approx(2.0, rel=1e-2)

    def test_between_unchanged_and_slower_is_inconclusive(self) -> None:
        row = judge(Side(time=1.0199, changes={"launch_medians_s": {1: 1.019e-3, 2: 1.02e-3, 3: 1.021e-3}}), Side())
        assert row.verdict is Verdict.INCONCLUSIVE
        assert row.reason is not None
        assert "reaches beyond +2.0 % (tau)" in row.reason
        assert not surely_not_slower(row)

    def test_between_unchanged_and_faster_is_surely_not_slower(self) -> None:
        row = judge(Side(changes={"launch_medians_s": {1: 0.979e-3, 2: 0.98e-3, 3: 0.981e-3}}), Side(noise=0.0))
        assert row.verdict is Verdict.INCONCLUSIVE
        assert row.reason is not None
        assert "reaches beyond -2.0 % (tau)" in row.reason
        assert surely_not_slower(row)

    def test_the_threshold_is_the_cases_own(self) -> None:
        tolerant = planned(threshold=0.1)
        assert judge(Side(time=1.05, planned=tolerant), Side()).verdict is Verdict.UNCHANGED

    def test_a_likely_slowdown_among_many_cases_names_both_p(self) -> None:
        row = self.among(200, gates=True)
        assert row.verdict is Verdict.INCONCLUSIVE
        assert row.reason is not None
        assert f"among 201 cases (Holm); about {row.pairs_needed} pairs would decide" in row.reason
        assert row.pairs_needed is not None
        assert row.pairs_needed > 4

    def test_as_many_pairs_as_it_names_decide(self) -> None:
        """A pattern of noise of the same spread, in the number of pairs named and in one pair less."""
        few = judge(self.alternating(6, 1.004), Side(noise=0.0))
        assert few.verdict is Verdict.INCONCLUSIVE
        assert few.pairs_needed is not None
        assert (
            few.reason == f"MDE {100 * (few.mde or 0):.1f} % > tau 2.0 %; about {few.pairs_needed} pairs would decide"
        )
        assert (
            judge(self.alternating(few.pairs_needed, 1.004), Side(noise=0.0, launches=60)).verdict is Verdict.UNCHANGED
        )
        short = judge(self.alternating(few.pairs_needed - 1, 1.004), Side(noise=0.0, launches=60))
        assert short.verdict is Verdict.INCONCLUSIVE

    def test_a_stored_reference_names_no_pairs(self) -> None:
        assert judge(Side(noise=0.05), Side(noise=0.05), kind="run").pairs_needed is None

    @staticmethod
    def alternating(launches: int, time: float) -> Side:
        """Launches whose log times have mean log(time) and sample standard deviation 2.5 %."""
        pattern = [1.0 if i % 2 else -1.0 for i in range(launches)]
        mean = sum(pattern) / launches
        deviation = math.sqrt(sum((x - mean) ** 2 for x in pattern) / (launches - 1))
        medians = {i + 1: 1e-3 * time * math.exp(0.025 * (x - mean) / deviation) for i, x in enumerate(pattern)}
        return Side(changes={"launch_medians_s": medians})

    def test_advisory_cases_cost_no_power(self) -> None:
        gating, advisory = self.among(200, gates=True), self.among(200, gates=False)
        assert advisory.verdict is Verdict.REGRESSED
        assert advisory.p_value is not None
        assert gating.p_value == pytest.approx(201 * advisory.p_value)

    @staticmethod
    def among(others: int, *, gates: bool) -> CaseVerdict:
        """The verdict of a case some 2.7 % slower, beside other cases that are unchanged."""
        steady = [Side(planned=planned(f"method_{i}", gates=gates)) for i in range(others)]
        likely = {1: 1.025e-3, 2: 1.026e-3, 3: 1.027e-3, 4: 1.03e-3}
        candidate = run_of(Side(changes={"launch_medians_s": likely}), *steady, number=2)
        return compare(candidate, run_of(Side(noise=0.0), *steady), kind="paired").verdicts[0]

    @pytest.mark.parametrize(("name", "value", "usual"), [("cold", True, False), ("min_graph_s", 1.0, 0.0)])
    def test_timed_by_another_policy(self, name: str, value: object, usual: object) -> None:
        other = planned()
        other = other.model_copy(update={"timing": other.timing.model_copy(update={name: value})})
        row = judge(Side(time=2.0, planned=other), Side())
        assert row.verdict is Verdict.INCONCLUSIVE
        assert row.reason == f"timed differently: {name} {value} != {usual}; measure both sides by one manifest"
        assert row.ratio is None

    def test_calls_too_long_to_share_a_graph_are_timed_alike(self) -> None:
        shared = planned()
        shared = shared.model_copy(update={"timing": shared.timing.model_copy(update={"min_graph_s": 1e-6})})
        assert judge(Side(time=2.0, planned=shared), Side()).verdict is Verdict.REGRESSED


class TestTau:
    @pytest.mark.parametrize("kind", ["baseline", "previous_run", "run"])
    def test_a_single_run_widens_by_the_measured_spread(self, kind: Kind) -> None:
        comparison = compare(run_of(Side(), number=2), run_of(Side()), kind=kind)
        assert comparison.verdicts[0].tau == pytest.approx(0.02 + 1.6449 * 0.006 * math.sqrt(2), rel=1e-4)
        assert comparison.notes[0].startswith("tau is widened by 1.4 %: the reference is a single run")

    def test_a_baseline_widens_by_its_own_spread(self) -> None:
        reference = run_of(Side(changes={"run_spread": 0.003})).model_copy(update={"runs_merged": ("a", "b", "c")})
        row = compare(run_of(Side(time=1.025), number=2), reference, kind="baseline").verdicts[0]
        assert row.tau == pytest.approx(0.02 + 2.91999 * 0.003 * math.sqrt(4 / 3), rel=1e-5)
        assert row.verdict is Verdict.UNCHANGED

    def test_another_unit_widens_and_marks(self) -> None:
        other = H100.model_copy(update={"uuid": "GPU-2"})
        comparison = compare(run_of(Side(), number=2, machine=other), run_of(Side()), kind="run")
        same = compare(run_of(Side(), number=2), run_of(Side()), kind="run")
        assert comparison.another_unit
        assert not same.another_unit
        assert comparison.verdicts[0].tau == pytest.approx((same.verdicts[0].tau or 0) + UNIT_MARGIN)
        assert exit_code_for(comparison) is ExitCode.OK

    def test_paired_is_not_widened(self) -> None:
        assert judge(Side(), Side()).tau == 0.02


class TestControls:
    def test_a_common_change_of_the_machine_is_divided_out(self) -> None:
        candidate = run_of(Side(time=1.06), Side(time=1.06, planned=CONTROL), number=2)
        comparison = compare(candidate, run_of(Side(), Side(planned=CONTROL)), kind="run")
        case, control = comparison.verdicts
        assert comparison.control_correction == pytest.approx(1.06)
        assert comparison.control_ratios == {CONTROL.case.case_id: pytest.approx(1.06)}
        assert (case.verdict, control.verdict, control.gates) == (Verdict.UNCHANGED, Verdict.REGRESSED, False)
        assert [case.ratio, case.raw_ratio, control.ratio] == pytest.approx([1.0, 1.06, 1.06])
        assert exit_code_for(comparison) is ExitCode.OK

    def test_a_slowdown_hidden_by_a_faster_machine_is_found(self) -> None:
        candidate = run_of(Side(time=1.0), Side(time=0.92, planned=CONTROL), number=2)
        row = compare(candidate, run_of(Side(), Side(planned=CONTROL)), kind="run").verdicts[0]
        assert row.verdict is Verdict.REGRESSED
        assert row.ratio == pytest.approx(1 / 0.92)

    def test_the_correction_widens_the_interval(self) -> None:
        candidate, reference = Side(), Side()
        alone = judge(candidate, reference, kind="run")
        noisy = Side(planned=CONTROL, noise=0.01)
        both = compare(run_of(candidate, noisy, number=2), run_of(reference, noisy), kind="run").verdicts[0]
        assert (both.high or 0) - (both.low or 0) > 3 * ((alone.high or 0) - (alone.low or 0))

    def test_disagreeing_controls_widen_tau(self) -> None:
        """Clocks: the product slows down by 4 %, the copy not at all, and the case may be like either."""
        candidate = run_of(
            Side(time=1.05), Side(time=1.04, planned=CONTROL, noise=0.0), Side(planned=COPY, noise=0.0), number=2
        )
        reference = run_of(Side(), Side(planned=CONTROL, noise=0.0), Side(planned=COPY, noise=0.0))
        row = compare(candidate, reference, kind="run").verdicts[0]
        assert row.ratio == pytest.approx(1.05 / math.sqrt(1.04))
        assert row.tau == pytest.approx(0.02 + 0.0139573 + math.log(1.04) / 2, rel=1e-4)
        assert row.verdict is Verdict.UNCHANGED

    def test_eager_calls_are_not_corrected_by_replayed_controls(self) -> None:
        candidate = run_of(Side(planned=EAGER), Side(time=1.06, planned=CONTROL), number=2)
        row = compare(candidate, run_of(Side(planned=EAGER), Side(planned=CONTROL)), kind="run").verdicts[0]
        assert [row.ratio, row.raw_ratio] == pytest.approx([1.0, 1.0])

    def test_host_time_of_two_runs_differs_by_more_than_that_of_replays(self) -> None:
        """30 % between runs is within 1.64 * 17 % * sqrt(2) = 40 % for a launch-bound eager call; 60 % is not."""
        reference = run_of(Side(planned=EAGER), Side(planned=CONTROL))
        verdicts = {
            ratio: compare(
                run_of(Side(time=ratio, planned=EAGER), Side(planned=CONTROL), number=2), reference, kind="run"
            )
            for ratio in (1.3, 1.6)
        }
        assert verdicts[1.3].verdicts[0].verdict is Verdict.UNCHANGED
        assert verdicts[1.3].verdicts[0].tau == pytest.approx(0.02 + 0.395, abs=1e-3)
        assert verdicts[1.6].verdicts[0].verdict is Verdict.REGRESSED

    def test_eager_controls_serve_where_nothing_is_replayed(self) -> None:
        control = make_planned(make_case("blas", task="gemm", mode=Mode.EAGER), control=True)
        candidate = run_of(Side(time=1.1, planned=EAGER), Side(time=1.1, planned=control), number=2)
        row = compare(candidate, run_of(Side(planned=EAGER), Side(planned=control)), kind="run").verdicts[0]
        assert [row.ratio, row.raw_ratio] == pytest.approx([1.0, 1.1])

    def test_a_control_with_too_few_launches_corrects_nothing(self) -> None:
        candidate = run_of(Side(), Side(time=1.06, launches=2, planned=CONTROL), number=2)
        comparison = compare(candidate, run_of(Side(), Side(planned=CONTROL)), kind="run")
        assert (comparison.control_correction, comparison.control_ratios) == (1.0, {})
        assert "a change of the machine is not corrected" in comparison.notes[1]

    def test_pairs_are_not_corrected(self) -> None:
        candidate = run_of(Side(time=1.06), Side(time=1.06, planned=CONTROL), number=2)
        comparison = compare(candidate, run_of(Side(), Side(planned=CONTROL)), kind="paired")
        assert comparison.control_correction == 1.0
        assert comparison.verdicts[0].verdict is Verdict.REGRESSED
