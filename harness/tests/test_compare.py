"""A planted truth for each verdict that is not of time alone, for each refusal and each exit code."""

from __future__ import annotations

import pytest

from harness.compare import compare, exit_code_for
from harness.errors import ExitCode, UnlikeMachinesError
from harness.records import Outcome, Quality, RunStatus, Verdict
from harness.tests.factories import CPU, H100
from harness.tests.sides import CONTROL, EAGER, Side, judge, planned, run_of


class TestQualityBesideTime:
    @pytest.mark.parametrize(
        ("time", "error", "verdict"),
        [
            (1.0, 1.3, Verdict.LESS_ACCURATE),
            (1.0, 0.7, Verdict.MORE_ACCURATE),
            (0.9, 1.3, Verdict.TRADE),
            (1.1, 0.7, Verdict.TRADE),
            (1.1, 1.3, Verdict.REGRESSED),
            (0.9, 0.7, Verdict.IMPROVED),
            (1.0, 1.09, Verdict.UNCHANGED),
        ],
    )
    def test_planted_time_and_error(self, time: float, error: float, verdict: Verdict) -> None:
        row = judge(Side(time=time, error=error), Side())
        assert row.verdict is verdict
        assert row.error_ratio == pytest.approx(error)
        if verdict in (Verdict.TRADE, Verdict.LESS_ACCURATE):
            assert row.reason is not None
            assert "relative error" in row.reason

    def test_lost_accuracy_shows_through_an_undecided_time(self) -> None:
        row = judge(Side(error=1.3, launches=2), Side())
        assert row.verdict is Verdict.LESS_ACCURATE
        assert row.reason is not None
        assert row.reason.endswith("time undecided: 2 pairs of launches; at least 3 are needed")

    def test_gained_accuracy_hides_no_undecided_time(self) -> None:
        row = judge(Side(error=0.5, launches=2), Side())
        assert row.verdict is Verdict.INCONCLUSIVE
        assert row.error_ratio == pytest.approx(0.5)

    def test_new_nonfinite_result_is_broken(self) -> None:
        spoiled = (Quality(seed=0, relative_error=1e-3), Quality(seed=1, nonfinite=4))
        row = judge(Side(changes={"quality": spoiled}), Side())
        assert (row.verdict, row.reason) == (Verdict.BROKEN, "new non-finite result on seed 1")

    def test_quality_that_was_not_measured_is_not_passed_over(self) -> None:
        row = judge(Side(time=0.9, changes={"quality": ()}), Side())
        assert row.verdict is Verdict.INCONCLUSIVE
        assert row.reason == "the candidate has no quality figures on the reference's seeds"

    def test_times_without_quality_are_compared_alone(self) -> None:
        row = judge(Side(time=0.9, changes={"quality": ()}), Side(changes={"quality": ()}))
        assert (row.verdict, row.error_ratio) == (Verdict.IMPROVED, None)


class TestOutcomes:
    @pytest.mark.parametrize(
        "outcome", [Outcome.FAILED, Outcome.OOM, Outcome.TIMEOUT, Outcome.NONFINITE, Outcome.UNSUPPORTED]
    )
    def test_broken_and_fixed_mirror_each_other(self, outcome: Outcome) -> None:
        broken, fixed = judge(Side(outcome=outcome), Side()), judge(Side(), Side(outcome=outcome))
        assert (broken.verdict, broken.reason) == (Verdict.BROKEN, f"{outcome}: RuntimeError: planted")
        assert (fixed.verdict, fixed.reason) == (Verdict.FIXED, f"no longer {outcome}")
        assert (broken.ratio, broken.p_value) == (None, None)

    def test_an_expected_failure_on_both_sides_is_unchanged(self) -> None:
        expected = Side(outcome=Outcome.NONFINITE, planned=planned(expect="nonfinite"))
        row = judge(expected, expected)
        assert (row.verdict, row.reason) == (Verdict.UNCHANGED, "nonfinite, as expected; no time to compare")

    def test_expecting_a_failure_excuses_no_new_one(self) -> None:
        excuse = Side(outcome=Outcome.NONFINITE, planned=planned(expect="nonfinite"))
        assert judge(excuse, Side()).verdict is Verdict.BROKEN

    def test_an_expected_failure_that_no_longer_fails_is_fixed(self) -> None:
        excuse = planned(expect="nonfinite")
        row = judge(Side(planned=excuse), Side(outcome=Outcome.NONFINITE, planned=excuse))
        assert row.verdict is Verdict.FIXED

    def test_a_machine_without_the_unit_is_the_same_on_both_sides(self) -> None:
        row = judge(Side(outcome=Outcome.UNSUPPORTED), Side(outcome=Outcome.UNSUPPORTED))
        assert (row.verdict, row.reason) == (
            Verdict.UNCHANGED,
            "on both sides unsupported: RuntimeError: planted",
        )

    def test_failures_on_both_sides_decide_nothing(self) -> None:
        row = judge(Side(outcome=Outcome.OOM), Side(outcome=Outcome.FAILED))
        assert row.verdict is Verdict.INCONCLUSIVE
        assert row.reason == "candidate oom: RuntimeError: planted; reference failed: nothing to compare"

    def test_a_throttled_side_is_inconclusive_but_its_errors_count(self) -> None:
        throttled = Side(outcome=Outcome.THROTTLED)
        for candidate, reference in ((throttled, Side()), (Side(), throttled), (throttled, throttled)):
            row = judge(candidate, reference)
            assert row.verdict is Verdict.INCONCLUSIVE
            assert row.reason is not None
            assert "throttled" in row.reason
        assert judge(Side(outcome=Outcome.THROTTLED, error=2.0), Side()).verdict is Verdict.LESS_ACCURATE

    def test_new_and_missing(self) -> None:
        added, dropped = planned("chebyshev"), planned("eigh")
        comparison = compare(
            run_of(Side(), Side(planned=added), number=2), run_of(Side(), Side(planned=dropped)), kind="run"
        )
        rows = {row.case.method: row for row in comparison.verdicts}
        assert list(rows) == ["coupled_pe", "chebyshev", "eigh"]
        assert rows["chebyshev"].verdict is Verdict.NEW
        assert rows["eigh"].verdict is Verdict.MISSING
        assert rows["eigh"].reason == "not among the candidate's planned cases"
        assert exit_code_for(comparison) is ExitCode.FAILED_CHECK

    def test_a_planned_case_that_was_not_reached_is_missing_for_that_reason(self) -> None:
        whole = run_of(Side(), Side(planned=planned("eigh")), number=2, status=RunStatus.INTERRUPTED)
        reached = {case_id: each for case_id, each in whole.cases.items() if "coupled" in case_id}
        comparison = compare(whole.model_copy(update={"cases": reached}), whole, kind="run")
        assert comparison.verdicts[1].reason == "planned but not measured; the run is interrupted"

    @pytest.mark.parametrize(
        ("outcome", "expect", "verdict"),
        [
            (Outcome.FAILED, "ok", Verdict.BROKEN),
            (Outcome.NONFINITE, "nonfinite", Verdict.NEW),
            (Outcome.UNSUPPORTED, "ok", Verdict.NEW),
            (Outcome.THROTTLED, "ok", Verdict.NEW),
        ],
    )
    def test_a_new_case_that_fails_unannounced_is_broken(self, outcome: Outcome, expect: str, verdict: Verdict) -> None:
        new = Side(outcome=outcome, planned=planned("chebyshev", expect=expect))
        row = compare(run_of(Side(), new, number=2), run_of(Side()), kind="run").verdicts[1]
        assert row.verdict is verdict
        assert row.reason is not None
        assert str(outcome) in row.reason


class TestMachines:
    def test_unlike_hardware_is_refused_by_field(self) -> None:
        other = H100.model_copy(update={"power_limit_w": 350.0, "ecc": False})
        with pytest.raises(UnlikeMachinesError, match=r"ecc: False != True; power_limit_w: 350\.0 != 700\.0") as caught:
            compare(run_of(Side(), number=2, machine=other), run_of(Side()), kind="baseline")
        assert caught.value.exit_code is ExitCode.UNDECIDED

    def test_forced_comparisons_are_marked(self) -> None:
        comparison = compare(run_of(Side(), number=2, machine=CPU), run_of(Side()), kind="run", force=True)
        assert comparison.forced
        assert "kind: cpu != cuda" in comparison.hardware_differences

    def test_force_marks_nothing_on_like_machines(self) -> None:
        comparison = compare(run_of(Side(), number=2), run_of(Side()), kind="run", force=True)
        assert (comparison.forced, comparison.hardware_differences) == (False, ())

    def test_software_differences_are_listed(self) -> None:
        newer = run_of(Side()).run.software.model_copy(update={"driver": "590.1"})
        comparison = compare(run_of(Side(), number=2, software=newer), run_of(Side()), kind="run")
        assert comparison.software_differences == ("driver: 590.1 != 580.95",)


class TestExitCode:
    @pytest.mark.parametrize(
        ("candidate", "code"),
        [
            (Side(), ExitCode.OK),
            (Side(time=0.9), ExitCode.OK),
            (Side(error=0.5), ExitCode.OK),
            (Side(time=1.1), ExitCode.FAILED_CHECK),
            (Side(error=1.5), ExitCode.FAILED_CHECK),
            (Side(time=0.9, error=1.5), ExitCode.FAILED_CHECK),
            (Side(outcome=Outcome.OOM), ExitCode.FAILED_CHECK),
            (Side(launches=2), ExitCode.UNDECIDED),
        ],
    )
    def test_gating_case(self, candidate: Side, code: ExitCode) -> None:
        assert exit_code_for(compare(run_of(candidate, number=2), run_of(Side()), kind="paired")) is code

    def test_a_failure_outweighs_an_undecided_case(self) -> None:
        undecided = Side(launches=2, planned=planned("eigh"))
        comparison = compare(
            run_of(Side(time=1.1), undecided), run_of(Side(), Side(planned=planned("eigh"))), kind="run"
        )
        assert exit_code_for(comparison) is ExitCode.FAILED_CHECK

    @pytest.mark.parametrize(
        ("candidate", "code"),
        [
            (Side(time=1.5, planned=EAGER), ExitCode.OK),
            (Side(launches=2, planned=EAGER), ExitCode.OK),
            (Side(time=1.5, error=0.5, planned=EAGER), ExitCode.OK),
            (Side(error=1.5, planned=EAGER), ExitCode.FAILED_CHECK),
            (Side(outcome=Outcome.FAILED, planned=EAGER), ExitCode.FAILED_CHECK),
        ],
    )
    def test_only_the_time_of_an_eager_case_is_advisory(self, candidate: Side, code: ExitCode) -> None:
        comparison = compare(run_of(candidate, number=2), run_of(Side(planned=EAGER)), kind="paired")
        assert exit_code_for(comparison) is code

    def test_nothing_to_compare_is_undecided(self) -> None:
        assert exit_code_for(compare(run_of(number=2), run_of(), kind="run")) is ExitCode.UNDECIDED


class TestSymmetry:
    def test_swapping_the_sides_inverts_every_verdict(self) -> None:
        mirror = {
            Verdict.REGRESSED: Verdict.IMPROVED,
            Verdict.IMPROVED: Verdict.REGRESSED,
            Verdict.LESS_ACCURATE: Verdict.MORE_ACCURATE,
            Verdict.MORE_ACCURATE: Verdict.LESS_ACCURATE,
            Verdict.NEW: Verdict.MISSING,
            Verdict.MISSING: Verdict.NEW,
            Verdict.BROKEN: Verdict.FIXED,
        }
        grid = [(time, error) for time in (0.9, 1.0, 1.1) for error in (0.5, 1.0, 2.0)]
        cases = [planned(f"method_{i}") for i in range(len(grid) + 3)]
        mine = [Side(time=t, error=e, planned=c) for (t, e), c in zip(grid, cases, strict=False)]
        theirs = [Side(planned=c) for _, c in zip(grid, cases, strict=False)]
        mine += [Side(planned=cases[-1]), Side(planned=cases[-3], outcome=Outcome.OOM)]
        theirs += [Side(planned=cases[-2]), Side(planned=cases[-3])]
        there = compare(run_of(*mine), run_of(*theirs), kind="run")
        back = {row.case_id: row for row in compare(run_of(*theirs), run_of(*mine), kind="run").verdicts}
        assert len(there.verdicts) == len(back) == 12
        for row in there.verdicts:
            assert back[row.case_id].verdict is mirror.get(row.verdict, row.verdict)

    def test_comparing_twice_gives_the_same(self) -> None:
        sides = run_of(Side(time=1.02), Side(planned=CONTROL), number=2), run_of(Side(), Side(planned=CONTROL))
        assert compare(*sides, kind="run") == compare(*sides, kind="run")
