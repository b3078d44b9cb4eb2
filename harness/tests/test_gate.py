"""The gate's policy: a planted truth for each ruling and each exit code, routing, ceilings, required cases, waivers."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from harness.compare import compare
from harness.errors import ExitCode, UsageError
from harness.gate import Evidence, GateCase, GateResult, GateRules, judge, route, with_quality_of
from harness.gate_findings import Ruling
from harness.manifest import GatePolicy, parse_manifest
from harness.qualification import CaseNoise, Qualification
from harness.records import CaseVerdict, Mode, Outcome, PlannedCase, Verdict
from harness.sweep import plan
from harness.tests.factories import make_case, make_planned
from harness.tests.sides import CONTROL, EAGER, Kind, Side, planned, run_of
from harness.tests.test_qualification import found
from harness.waivers import Waiver, load_waivers

TODAY = date(2026, 11, 22)
A, B = planned("coupled_pe"), planned("eigh")
NOISY = 0.05


def evidence(*pairs: tuple[Side, Side], kind: Kind = "paired", qualification: Qualification | None = None) -> Evidence:
    """Candidate and reference of every case."""
    candidate, reference = run_of(*(mine for mine, _ in pairs), number=2), run_of(*(other for _, other in pairs))
    comparison = compare(candidate, reference, kind=kind, qualification=qualification)
    return Evidence(candidate=candidate, reference=reference, comparison=comparison)


def both(time: float = 1.0, *, plan: PlannedCase = A, noise: float = 0.002, **changes: Any) -> tuple[Side, Side]:
    """A case whose candidate takes `time` of the reference."""
    return Side(time=time, planned=plan, noise=noise, **changes), Side(planned=plan)


def ruled(
    first: Evidence,
    fresh: Evidence | None = None,
    *,
    policy: Mapping[str, Any] | None = None,
    waivers: tuple[Waiver, ...] = (),
    stated: Mapping[str, float] | None = None,
) -> GateResult:
    rules = GateRules(policy=GatePolicy.model_validate(policy or {}), today=TODAY, waivers=waivers, stated=stated or {})
    return judge(first, fresh, rules, base="main", candidate="WORKTREE")


def only(result: GateResult) -> GateCase:
    (case,) = result.cases
    return case


class TestRouting:
    def test_a_case_that_is_surely_not_slower_is_not_measured_again(self) -> None:
        assert route(evidence(both(1.0), both(0.9, plan=B))) == ()

    def test_a_slower_and_a_noisy_case_are(self) -> None:
        found = route(evidence(both(1.05), both(1.0, plan=B, noise=NOISY)))
        assert found == (A.case.case_id, B.case.case_id)

    def test_a_suspicion_below_the_threshold_is(self) -> None:
        """+1.5 %, surely below 1 + tau, but more than tau / 2."""
        assert route(evidence(both(1.015, noise=0.001))) == (A.case.case_id,)
        assert route(evidence(both(1.008, noise=0.001))) == ()

    def test_throttled_and_too_few_launches_are(self) -> None:
        throttled = evidence(both(1.0, outcome=Outcome.THROTTLED))
        assert route(throttled) == (A.case.case_id,)
        assert route(evidence(both(1.0, launches=2))) == (A.case.case_id,)

    def test_failed_missing_advisory_and_control_cases_are_not(self) -> None:
        assert route(evidence(both(1.0, outcome=Outcome.FAILED))) == ()
        assert route(evidence(both(1.5, plan=EAGER), both(1.5, plan=CONTROL))) == ()

    def test_a_screen_routes_what_is_not_surely_fine(self) -> None:
        screen = evidence(both(1.0), both(1.2, plan=B), kind="baseline")
        assert route(screen) == (B.case.case_id,)


class TestStages:
    def test_the_second_part_alone_decides(self) -> None:
        suspicious = evidence(both(1.10))
        result = ruled(suspicious, evidence(both(1.0)))
        assert only(result).ruling is Ruling.PASSED
        assert only(result).measured_again
        assert only(result).row.ratio == pytest.approx(1.0)
        assert result.exit_code is ExitCode.OK
        assert "1 case was open and measured again in 6 fresh pairs" in result.comparison.notes[-1]

    def test_and_confirms(self) -> None:
        result = ruled(evidence(both(1.10)), evidence(both(1.08)))
        assert only(result).ruling is Ruling.FAILED
        assert only(result).row.ratio == pytest.approx(1.08)
        assert only(result).reason is not None
        assert "against a tolerated 1.020" in str(only(result).reason)
        assert result.exit_code is ExitCode.FAILED_CHECK

    def test_an_open_case_that_was_not_measured_again_is_undecided(self) -> None:
        result = ruled(evidence(both(1.10, noise=NOISY), both(1.0, plan=B)))
        assert [case.ruling for case in result.cases] == [Ruling.UNDECIDED, Ruling.PASSED]
        assert result.exit_code is ExitCode.UNDECIDED

    def test_noise_in_fresh_pairs_is_undecided_with_the_reason(self) -> None:
        noisy = evidence(both(1.0, noise=NOISY))
        result = ruled(noisy, noisy)
        assert only(result).ruling is Ruling.UNDECIDED
        needed = only(result).row.pairs_needed
        assert needed is not None
        assert needed > only(result).row.launches
        assert str(only(result).reason).endswith(f"about {needed} pairs would decide")
        assert result.notes == (
            f"about {needed} pairs would decide all that are undecided, at the ratios and spreads seen "
            "(gate.fresh_pairs)",
        )
        assert result.exit_code is ExitCode.UNDECIDED

    @pytest.mark.parametrize("spread", [0.1, 1.0])
    @pytest.mark.parametrize("time", [1.0, 1.05])
    def test_a_machine_too_noisy_to_judge_passes_nothing(self, spread: float, time: float) -> None:
        """10.9 % and 183 % over six pairs: identical code and a slowdown hidden in noise end alike, undecided."""
        known = found(CaseNoise(case_id=A.case.case_id, pairs=18, spread=spread, gates=True))
        first = evidence(both(time, noise=1e-4), both(1.0, plan=B), qualification=known)
        assert route(first) == (A.case.case_id,)
        assert ruled(first).exit_code is ExitCode.UNDECIDED
        result = ruled(first, evidence(both(time, noise=1e-4), qualification=known))
        assert [case.ruling for case in result.cases] == [Ruling.UNDECIDED, Ruling.PASSED]
        assert "it cannot judge this case" in str(result.cases[0].reason)
        assert result.exit_code is ExitCode.UNDECIDED

    def test_a_screen_measures_again_what_noise_leaves_open(self) -> None:
        known = found(CaseNoise(case_id=A.case.case_id, pairs=18, spread=1.0, gates=True))
        screen = evidence(both(1.0), both(1.0, plan=B), kind="baseline", qualification=known)
        assert route(screen) == (A.case.case_id,)
        assert ruled(screen).exit_code is ExitCode.UNDECIDED

    def test_a_screen_without_fresh_pairs_decides_itself(self) -> None:
        result = ruled(evidence(both(1.2), kind="baseline"))
        assert (result.kind, only(result).ruling) == ("screen", Ruling.FAILED)
        assert ruled(evidence(both(1.0), kind="baseline")).exit_code is ExitCode.OK

    def test_quality_comes_from_the_first_part(self) -> None:
        first = evidence(both(1.10, error=2.0))
        timed = evidence((Side(planned=A, changes={"quality": ()}), Side(planned=A, changes={"quality": ()})))
        candidate = with_quality_of(timed.candidate, first.candidate)
        reference = with_quality_of(timed.reference, first.reference)
        fresh = Evidence(
            candidate=candidate, reference=reference, comparison=compare(candidate, reference, kind="paired")
        )
        assert only(ruled(first, fresh)).row.verdict is Verdict.LESS_ACCURATE


class TestRulings:
    @pytest.mark.parametrize(
        ("candidate", "reference", "verdict", "ruling"),
        [
            (Side(), Side(), Verdict.UNCHANGED, Ruling.PASSED),
            (Side(time=0.9), Side(), Verdict.IMPROVED, Ruling.PASSED),
            (Side(error=0.5), Side(), Verdict.MORE_ACCURATE, Ruling.PASSED),
            (Side(), Side(outcome=Outcome.FAILED), Verdict.FIXED, Ruling.PASSED),
            (Side(error=2.0), Side(), Verdict.LESS_ACCURATE, Ruling.FAILED),
            (Side(time=0.9, error=2.0), Side(), Verdict.TRADE, Ruling.FAILED),
            (Side(outcome=Outcome.OOM), Side(), Verdict.BROKEN, Ruling.FAILED),
            (Side(outcome=Outcome.OOM), Side(outcome=Outcome.OOM), Verdict.INCONCLUSIVE, Ruling.UNDECIDED),
        ],
    )
    def test_each_verdict(self, candidate: Side, reference: Side, verdict: Verdict, ruling: Ruling) -> None:
        case = only(ruled(evidence((candidate, reference))))
        assert (case.row.verdict, case.ruling) == (verdict, ruling)

    def test_near_improved_passes(self) -> None:
        """-2 % with an interval on both sides of 1 / (1 + tau): inconclusive, and surely not slower."""
        case = only(ruled(evidence(both(0.98, noise=0.004))))
        assert (case.row.verdict, case.ruling) == (Verdict.INCONCLUSIVE, Ruling.PASSED)

    def test_but_not_without_quality_figures(self) -> None:
        fast = Side(time=0.98, noise=0.004, changes={"quality": ()})
        case = only(ruled(evidence((fast, Side()))))
        assert case.ruling is Ruling.UNDECIDED
        assert case.reason == "the candidate has no quality figures on the reference's seeds"

    def test_missing_and_new(self) -> None:
        mine, theirs = run_of(Side(planned=A), number=2), run_of(Side(planned=B))
        found = Evidence(candidate=mine, reference=theirs, comparison=compare(mine, theirs, kind="paired"))
        assert [case.ruling for case in ruled(found).cases] == [Ruling.PASSED, Ruling.FAILED]

    def test_advisory_cases_never_fail_and_decide_nothing(self) -> None:
        result = ruled(evidence(both(1.5, plan=EAGER)))
        assert only(result).ruling is Ruling.ADVISORY
        assert result.exit_code is ExitCode.UNDECIDED
        assert ruled(evidence(both(1.5, plan=EAGER), both(1.0, plan=B))).exit_code is ExitCode.OK

    def test_a_failure_outranks_an_undecided_case(self) -> None:
        result = ruled(evidence(both(1.0, error=2.0), both(1.0, plan=B, noise=NOISY)))
        assert result.exit_code is ExitCode.FAILED_CHECK
        assert result.headline == "Gate failed: 1 failed, 1 undecided"


class TestPolicy:
    def test_which_verdicts_fail(self) -> None:
        lenient = {"fail": ["regressed", "broken", "missing"]}
        assert only(ruled(evidence(both(0.9, error=2.0)), policy=lenient)).ruling is Ruling.PASSED
        noisy = evidence(both(1.0, noise=NOISY))
        strict = {"fail": ["regressed", "inconclusive"]}
        assert only(ruled(noisy, noisy, policy=strict)).ruling is Ruling.FAILED

    def test_required_cases(self) -> None:
        first = evidence(both(1.0), both(1.0, plan=B, outcome=Outcome.UNSUPPORTED))
        good = ruled(evidence(both(1.0)), policy={"required": ["method=coupled_pe"]})
        assert good.exit_code is ExitCode.OK
        lacking = ruled(first, policy={"required": ["method=coupled_pe", "method=eigh"]})
        assert lacking.failures == ("required: the candidate measured no case that matches 'method=eigh'",)
        assert lacking.exit_code is ExitCode.FAILED_CHECK

    def test_the_policys_ceiling_is_absolute(self) -> None:
        """The planted errors reach 5e-3 on the fifth seed, on both sides."""
        policy = {"rule": [{"filter": "method=coupled_pe", "max_error": 4e-3}]}
        case = only(ruled(evidence(both(1.0)), policy=policy))
        assert case.ruling is Ruling.FAILED
        assert case.reason == "relative error 5.00e-03 is above the policy's ceiling 4.00e-03"
        assert only(ruled(evidence(both(1.0, plan=B)), policy=policy)).ruling is Ruling.PASSED

    def test_a_methods_own_statement_binds_while_the_base_keeps_it(self) -> None:
        case_id = A.case.case_id
        kept = ruled(evidence(both(1.0, error=1.05)), stated={case_id: 5.1e-3})
        assert only(kept).reason == "relative error 5.25e-03 is above what the method states, 5.10e-03"
        broken = ruled(evidence(both(1.0)), stated={case_id: 1e-3})
        assert only(broken).ruling is Ruling.PASSED
        assert broken.notes == (f"the base itself is less accurate than its method states in: {case_id}",)

    def test_rules_of_a_manifest_reach_the_planned_cases(self) -> None:
        manifest = parse_manifest(
            """
            [gate]
            thresholds = { copy = 0.05 }
            [[gate.rule]]
            filter = "n=16"
            threshold = 0.2
            [[gate.rule]]
            filter = "n<=16"
            threshold = 0.3
            gates = false
            [[sweep]]
            task = "copy"
            method = "device_copy"
            precision = "fp32"
            n = [8, 16, 32]
            problem = "gaussian"
            """,
            origin="x.toml",
        )
        found = {p.case.n: (p.threshold, p.gates) for p in plan(manifest, device_kind="cpu") if not p.control}
        assert found == {8: (0.3, False), 16: (0.2, False), 32: (0.05, True)}

    @pytest.mark.parametrize(
        ("gate", "message"),
        [
            ('fail = ["regresed"]', "x.toml: gate.fail: unknown 'regresed'; did you mean 'regressed'?"),
            ('fail = "improved"', "x.toml: gate.fail: unknown 'improved'; "),
            ("pairs = 2", "x.toml: gate.pairs: must be >= 3, got 2"),
            ('required = "taks=polar"', "x.toml: gate.required: unknown key 'taks' in 'taks=polar'"),
            ('rule = { filter = "n=1", max_eror = 1 }', "x.toml: gate.rule.max_eror: unknown key; did you mean 'max_e"),
        ],
    )
    def test_refusals(self, gate: str, message: str) -> None:
        sweep = '[[sweep]]\ntask = "polar"\nprecision = "fp32"\nn = 8\nproblem = "gaussian"\n'
        with pytest.raises(UsageError) as raised:
            parse_manifest(f"[gate]\n{gate}\n{sweep}", origin="x.toml")
        assert any(line.startswith(message) for line in str(raised.value).splitlines()), raised.value


WAIVER = """
[[waiver]]
filter = "method=coupled_pe"
verdict = ["regressed", "less_accurate"]
reason = "agreed"
expires = 2026-11-22
up_to = 1.1
"""


class TestWaivers:
    def waiver(self, tmp_path: Path, text: str = WAIVER) -> Waiver:
        path = tmp_path / "waivers.toml"
        path.write_text(text)
        (found,) = load_waivers(path)
        return found

    def test_a_waiver_covers_its_case_verdict_and_size(self, tmp_path: Path) -> None:
        waiver = self.waiver(tmp_path)
        slow = evidence(both(1.08))
        result = ruled(slow, slow, waivers=(waiver,))
        assert (only(result).ruling, only(result).waiver) == (Ruling.WAIVED, waiver)
        assert result.exit_code is ExitCode.OK
        slower = evidence(both(1.2))
        beyond = ruled(slower, slower, waivers=(waiver,))
        assert only(beyond).ruling is Ruling.FAILED
        assert (only(beyond).reason or "").endswith("; a waiver accepts up to ratio 1.1")
        assert beyond.unused_waivers == ()  # it is needed, and not enough
        other = evidence(both(1.08, plan=B))
        result = ruled(other, other, waivers=(waiver,))
        assert only(result).ruling is Ruling.FAILED
        assert result.unused_waivers == (waiver,)

    def test_it_counts_on_its_last_day_and_not_after(self, tmp_path: Path) -> None:
        waiver = self.waiver(tmp_path)
        late = self.waiver(tmp_path, WAIVER.replace("2026-11-22", "2026-11-21"))
        assert (waiver.expired(TODAY), late.expired(TODAY)) == (False, True)
        slow = evidence(both(1.08))
        result = ruled(slow, slow, waivers=(late,))
        assert only(result).ruling is Ruling.FAILED
        assert result.expired_waivers == (late,)
        assert result.unused_waivers == ()

    def test_nothing_excuses_a_broken_case_or_a_ceiling(self, tmp_path: Path) -> None:
        waiver = self.waiver(tmp_path)
        assert not waiver.covers(_row(Verdict.BROKEN), "broken", ratio=None, today=TODAY)
        policy = {"rule": {"filter": "method=coupled_pe", "max_error": 1e-3}}
        result = ruled(evidence(both(1.0, error=2.0)), policy=policy, waivers=(waiver,))
        assert only(result).ruling is Ruling.FAILED

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (("expires = 2026-11-22\n", ""), "waiver.expires: is required"),
            (('["regressed", "less_accurate"]', '"broken"'), "waiver.verdict: unknown 'broken'; "),
            (("method=coupled_pe", "methd=x"), "waiver.filter: unknown key 'methd'"),
            (("reason", "reasn"), "waiver.reasn: unknown key; did you mean 'reason'?"),
            (("[[waiver]]", "[[waiver"), "not valid TOML"),
        ],
    )
    def test_refusals(self, change: tuple[str, str], message: str, tmp_path: Path) -> None:
        with pytest.raises(UsageError) as raised:
            self.waiver(tmp_path, WAIVER.replace(*change))
        assert f"{tmp_path / 'waivers.toml'}: {message}" in str(raised.value)

    def test_a_missing_file_is_wrong_use(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="cannot read the waivers"):
            load_waivers(tmp_path / "none.toml")


def _row(verdict: Verdict) -> CaseVerdict:
    case = make_planned(make_case(mode=Mode.GRAPH)).case
    return CaseVerdict(case_id=case.case_id, case=case, verdict=verdict)
