"""A planted truth for each verdict on peak memory and on first calls, and what they do to an exit code."""

from __future__ import annotations

import numpy as np
import pytest

from harness.compare import compare, exit_code_for
from harness.errors import ExitCode
from harness.records import FirstCallRule, FirstCallVerdict, MemoryRule, MemoryVerdict, Outcome, PlannedCase, Verdict
from harness.resource_verdict import first_call_text, first_call_verdict, memory_text
from harness.tests.factories import make_planned
from harness.tests.sides import CONTROL, Side, judge, planned, run_of

MIB = 2**20
WARM = (0.81, 0.78, 0.80, 0.84, 0.79, 0.80)
COLD = (9.0, *WARM[1:])
"""The first launch compiles, the later ones find the compiled kernels."""


def memory(candidate: int | None, reference: int | None, *, plan: PlannedCase | None = None) -> MemoryVerdict:
    plan = plan or make_planned()
    sides = (Side(planned=plan, changes={"peak_bytes": peak}) for peak in (candidate, reference))
    found = judge(*sides).memory
    assert found is not None
    return found


def first_call(
    candidate: tuple[float, ...], reference: tuple[float, ...], *, plan: PlannedCase | None = None
) -> FirstCallVerdict:
    plan = plan or make_planned()
    sides = (Side(planned=plan, changes={"first_calls_s": calls}) for calls in (candidate, reference))
    found = judge(*sides).first_call
    assert found is not None
    return found


class TestMemory:
    @pytest.mark.parametrize(
        ("candidate", "reference", "verdict"),
        [
            (80 * MIB, 64 * MIB, Verdict.REGRESSED),
            (64 * MIB, 80 * MIB, Verdict.IMPROVED),
            (64 * MIB, 64 * MIB, Verdict.UNCHANGED),
            (67 * MIB, 64 * MIB, Verdict.UNCHANGED),  # 4.7 %
            (68 * MIB, 64 * MIB, Verdict.REGRESSED),  # 6.3 %
            (64 * MIB, 67 * MIB, Verdict.UNCHANGED),
            (64 * MIB, 68 * MIB, Verdict.IMPROVED),
            (2**20, 2**10, Verdict.UNCHANGED),  # a thousand times as much, but less than a MiB more
            (2**20 + 2**10, 2**10, Verdict.REGRESSED),
            (4 * MIB, 0, Verdict.REGRESSED),
            (0, 0, Verdict.UNCHANGED),
        ],
    )
    def test_both_limits_hold(self, candidate: int, reference: int, verdict: Verdict) -> None:
        found = memory(candidate, reference)
        assert (found.verdict, found.fails) == (verdict, False)
        assert (found.peak_bytes, found.reference_peak_bytes) == (candidate, reference)

    def test_the_rule_is_the_plans(self) -> None:
        strict = planned(memory=MemoryRule(fails=True, threshold=0.01, minimum_bytes=1))
        assert memory(102 * MIB, 100 * MIB, plan=strict).verdict is Verdict.REGRESSED
        assert memory(102 * MIB, 100 * MIB, plan=strict).fails
        assert not memory(102 * MIB, 100 * MIB, plan=CONTROL.model_copy(update={"memory": strict.memory})).fails

    def test_a_side_without_a_figure_decides_nothing(self) -> None:
        found = memory(64 * MIB, None)
        assert (found.verdict, found.reason) == (Verdict.INCONCLUSIVE, "the reference has no figure")
        assert memory_text(found) == "unknown, the reference has no figure"

    def test_no_figure_on_either_side_is_no_verdict(self) -> None:
        nothing = Side(changes={"peak_bytes": None})
        assert judge(nothing, nothing).memory is None
        assert judge(Side(outcome=Outcome.OOM), Side()).memory is None

    def test_text(self) -> None:
        assert memory_text(memory(80 * MIB, 64 * MIB)) == "64.0 → 80.0 MiB (+25 %)"
        assert memory_text(memory(MIB, 0)) == "0.0 → 1.0 MiB"


class TestFirstCall:
    @pytest.mark.parametrize(
        ("candidate", "reference", "verdict"),
        [
            (WARM, WARM, Verdict.UNCHANGED),
            (tuple(3 * each for each in WARM), WARM, Verdict.REGRESSED),
            (WARM, tuple(3 * each for each in WARM), Verdict.IMPROVED),
            (COLD, WARM, Verdict.UNCHANGED),
            (WARM, COLD, Verdict.UNCHANGED),
            (tuple(3 * each for each in WARM), COLD, Verdict.REGRESSED),
            (tuple(1.3 * each for each in WARM), WARM, Verdict.UNCHANGED),  # within 50 %
            (tuple(each / 10 for each in WARM), tuple(each / 40 for each in WARM), Verdict.UNCHANGED),  # within 0.5 s
            ((0.4, 4.0, 0.5, 3.0, 0.6, 5.0), WARM, Verdict.INCONCLUSIVE),
        ],
    )
    def test_planted_times(self, candidate: tuple[float, ...], reference: tuple[float, ...], verdict: Verdict) -> None:
        found = first_call(candidate, reference)
        assert (found.verdict, found.fails) == (verdict, False)
        assert (found.reason is None) is (verdict is not Verdict.INCONCLUSIVE)

    def test_figures(self) -> None:
        found = first_call(tuple(3 * each for each in WARM), WARM)
        assert found.ratio == pytest.approx(3.0)
        # Of 36 pairs the 8th from either end: P(U < 8) = 4.7 %, P(U < 9) = 6.6 %.
        assert found.low == pytest.approx(3 * 0.78 / 0.80)
        assert found.high == pytest.approx(3 * 0.80 / 0.78)
        assert found.first_call_s == pytest.approx(2.4)
        assert found.reference_first_call_s == pytest.approx(0.8)
        assert (found.launches, found.reference_launches) == (6, 6)
        assert first_call_text(found) == "0.80 s → 2.40 s (ratio 3.00, 2.92 … 3.08)"

    def test_short_times_are_in_milliseconds(self) -> None:
        found = first_call(tuple(each / 100 for each in WARM), tuple(each / 1000 for each in WARM))
        assert first_call_text(found).startswith("0.8 ms → 8 ms (ratio 10.00, ")

    def test_too_few_launches_decide_nothing(self) -> None:
        found = first_call(WARM, WARM[:2])
        assert found.verdict is Verdict.INCONCLUSIVE
        assert found.reason == "2 launches of the reference, at least 3 needed"
        assert first_call_text(found) == "undecided, 2 launches of the reference, at least 3 needed"

    def test_nothing_timed_is_no_verdict(self) -> None:
        assert judge(Side(), Side()).first_call is None
        assert judge(Side(outcome=Outcome.FAILED, changes={"first_calls_s": WARM}), Side()).first_call is None

    def test_the_rule_is_the_plans(self) -> None:
        strict = planned(first_call=FirstCallRule(fails=True, threshold=0.1, minimum_s=0.1))
        slower = tuple(1.3 * each for each in WARM)
        assert first_call(slower, WARM, plan=strict).verdict is Verdict.REGRESSED
        assert first_call(slower, WARM, plan=strict).fails

    def test_equal_sides_are_hardly_ever_called(self) -> None:
        """Launches spread by 25 %, every fifth three times as slow: the default limits call at most 3 of 1000."""
        generator = np.random.default_rng(11)

        def calls() -> tuple[float, ...]:
            outliers = np.where(generator.random(6) < 0.2, 3.0, 1.0)
            return tuple((2.0 * outliers * np.exp(generator.normal(0.0, 0.25, 6))).tolist())

        def of(times: tuple[float, ...]) -> Side:
            return Side(changes={"first_calls_s": times})

        found = [first_call_verdict(of(calls()).summary(), of(calls()).summary()) for _ in range(1000)]
        called = [each for each in found if each and each.verdict in (Verdict.REGRESSED, Verdict.IMPROVED)]
        assert len(called) <= 3


class TestExitCode:
    @pytest.mark.parametrize(
        ("rule", "code"), [(MemoryRule(), ExitCode.OK), (MemoryRule(fails=True), ExitCode.FAILED_CHECK)]
    )
    def test_memory_fails_where_its_rule_says_so(self, rule: MemoryRule, code: ExitCode) -> None:
        candidate = Side(planned=planned(memory=rule), changes={"peak_bytes": 80 * MIB})
        comparison = compare(run_of(candidate, number=2), run_of(Side()), kind="paired")
        assert comparison.verdicts[0].verdict is Verdict.UNCHANGED
        assert exit_code_for(comparison) is code

    @pytest.mark.parametrize(
        ("calls", "fails", "code"),
        [
            ((2.4, 2.5, 2.3), False, ExitCode.OK),
            ((2.4, 2.5, 2.3), True, ExitCode.FAILED_CHECK),
            ((0.8, 0.8), True, ExitCode.UNDECIDED),
            (WARM, True, ExitCode.OK),
        ],
    )
    def test_a_slow_first_call_fails_where_its_rule_says_so(
        self, calls: tuple[float, ...], fails: bool, code: ExitCode
    ) -> None:
        plan = planned(first_call=FirstCallRule(fails=fails))
        candidate = Side(planned=plan, changes={"first_calls_s": calls})
        reference = Side(planned=plan, changes={"first_calls_s": WARM})
        comparison = compare(run_of(candidate, number=2), run_of(reference), kind="paired")
        assert exit_code_for(comparison) is code
