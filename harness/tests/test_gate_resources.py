"""Peak memory and first calls in the gate: the policy in the manifest, rulings, waivers, exit codes, reports."""

from __future__ import annotations

from datetime import date
from typing import Any

import pytest

from harness.errors import ExitCode, UsageError
from harness.gate import Evidence
from harness.gate_findings import NOTED, Ruling
from harness.manifest import GatePolicy, Manifest, parse_manifest
from harness.records import FirstCallRule, MemoryRule, PlannedCase
from harness.report.ci_formats import annotation_lines, junit_xml
from harness.report.gate import gate_markdown
from harness.sweep import plan
from harness.tests.factories import make_case, make_planned
from harness.tests.sides import EAGER, Side, planned
from harness.tests.test_gate import NOISY, both, evidence, only, ruled
from harness.waivers import Waiver

MIB = 2**20
FAILS = planned(memory=MemoryRule(fails=True), first_call=FirstCallRule(fails=True))
CALM = (0.8, 0.8, 0.8)


def grown(plan: PlannedCase, *, time: float = 1.0, noise: float = 0.002) -> tuple[Side, Side]:
    """Peak memory grew by a quarter; first calls are equal."""
    mine = {"peak_bytes": 80 * MIB, "first_calls_s": CALM}
    return Side(planned=plan, time=time, noise=noise, changes=mine), Side(planned=plan, changes={"first_calls_s": CALM})


def slower_start(plan: PlannedCase, *calls: float) -> tuple[Side, Side]:
    return Side(planned=plan, changes={"first_calls_s": calls}), Side(planned=plan, changes={"first_calls_s": CALM})


def waiver(verdict: str, **fields: Any) -> Waiver:
    table = {"filter": "method=coupled_pe", "verdict": verdict, "reason": "agreed", "expires": "2026-12-31"}
    return Waiver.model_validate(table | fields)


class TestRulings:
    def test_advisory_findings_pass_and_are_noted(self) -> None:
        result = ruled(evidence(grown(planned())))
        assert (only(result).ruling, result.exit_code) == (Ruling.PASSED, ExitCode.OK)
        assert result.notes == (f"advisory: peak memory 64.0 → 80.0 MiB (+25 %) in {only(result).row.case_id}",)

    def test_memory_fails_where_the_plan_says_so(self) -> None:
        result = ruled(evidence(grown(FAILS)))
        assert (only(result).ruling, only(result).about) == (Ruling.FAILED, "peak_memory")
        assert only(result).reason == "peak memory 64.0 → 80.0 MiB (+25 %)"
        assert (result.exit_code, result.notes) == (ExitCode.FAILED_CHECK, ())

    @pytest.mark.parametrize(
        ("calls", "ruling", "code"),
        [
            ((2.4, 2.5, 2.3), Ruling.FAILED, ExitCode.FAILED_CHECK),
            ((2.4, 2.5), Ruling.UNDECIDED, ExitCode.UNDECIDED),
            (CALM, Ruling.PASSED, ExitCode.OK),
        ],
    )
    def test_first_calls_fail_where_the_plan_says_so(
        self, calls: tuple[float, ...], ruling: Ruling, code: ExitCode
    ) -> None:
        result = ruled(evidence(slower_start(FAILS, *calls)))
        assert (only(result).ruling, result.exit_code) == (ruling, code)

    def test_they_fail_eager_cases_too(self) -> None:
        eager = EAGER.model_copy(update={"memory": MemoryRule(fails=True)})
        assert only(ruled(evidence(grown(eager, time=1.5)))).ruling is Ruling.FAILED

    def test_a_slower_case_is_failed_for_its_time_first(self) -> None:
        slow = evidence(grown(FAILS, time=1.2))
        assert only(ruled(slow, slow)).about == "regressed"

    def test_memory_that_grew_outweighs_an_undecided_time(self) -> None:
        noisy = evidence(grown(FAILS, noise=NOISY))
        result = ruled(noisy, noisy)
        assert (only(result).ruling, only(result).about) == (Ruling.FAILED, "peak_memory")

    def test_many_advisory_findings_are_counted(self) -> None:
        cases = [make_planned(make_case(n=16 * (i + 1))) for i in range(NOTED + 3)]
        notes = ruled(evidence(*(grown(case) for case in cases))).notes
        assert len(notes) == NOTED + 1
        assert notes[-1] == "advisory: peak memory or first call got worse in 3 more"


class TestWaivers:
    def test_a_waiver_names_what_it_accepts(self) -> None:
        accepted = waiver("peak_memory")
        result = ruled(evidence(grown(FAILS)), waivers=(accepted,))
        assert (only(result).ruling, only(result).waiver) == (Ruling.WAIVED, accepted)
        assert (result.exit_code, result.unused_waivers) == (ExitCode.OK, ())

    def test_its_limit_is_on_the_ratio_of_what_it_names(self) -> None:
        assert only(ruled(evidence(grown(FAILS)), waivers=(waiver("peak_memory", up_to=1.3),))).ruling is Ruling.WAIVED
        assert only(ruled(evidence(grown(FAILS)), waivers=(waiver("peak_memory", up_to=1.2),))).ruling is Ruling.FAILED

    def test_a_waived_time_covers_no_memory(self) -> None:
        slow = evidence(grown(FAILS, time=1.2))
        result = ruled(slow, slow, waivers=(waiver("regressed"),))
        assert (only(result).ruling, only(result).about) == (Ruling.FAILED, "peak_memory")
        both_waived = ruled(slow, slow, waivers=(waiver("regressed"), waiver("peak_memory")))
        assert only(both_waived).ruling is Ruling.WAIVED
        assert both_waived.unused_waivers == ()

    def test_an_expired_one_is_listed(self) -> None:
        late = waiver("peak_memory", expires=date(2026, 1, 1))
        result = ruled(evidence(grown(FAILS)), waivers=(late,))
        assert (only(result).ruling, result.expired_waivers) == (Ruling.FAILED, (late,))


class TestReports:
    def failed(self) -> Evidence:
        return evidence(grown(FAILS), both(plan=planned("eigh")))

    def test_every_report_names_the_memory(self) -> None:
        result = ruled(self.failed())
        assert '<failure message="failed: unchanged' in junit_xml(result)
        assert 'type="peak_memory"' in junit_xml(result)
        assert any("peak memory 64.0 → 80.0 MiB (+25 %25)" in line for line in annotation_lines(result))
        assert "peak memory 64.0 → 80.0 MiB (+25 %)" in gate_markdown(result)


SWEEP = '[[sweep]]\ntask = "polar"\nmethod = "newton_schulz"\nprecision = "fp32"\nn = [8, 16]\nproblem = "gaussian"\n'


def read(gate: str) -> Manifest:
    return parse_manifest(f"{gate}\n{SWEEP}", origin="x.toml")


class TestPolicy:
    def test_the_default_is_advisory(self) -> None:
        assert GatePolicy().memory == MemoryRule(fails=False, threshold=0.05, minimum_bytes=MIB)
        assert GatePolicy().first_call == FirstCallRule(fails=False, threshold=0.5, minimum_s=0.5)

    def test_the_plan_holds_the_policy_and_its_exceptions(self) -> None:
        manifest = read(
            "[gate.memory]\nfails = true\nthreshold = 0.1\n[gate.first_call]\nminimum_s = 2\n"
            '[[gate.rule]]\nfilter = "n=8"\nmemory = { fails = false }\nfirst_call = { fails = true }\n'
        )
        found = {case.case.n: (case.memory, case.first_call) for case in plan(manifest, device_kind="cpu")}
        assert found[16] == (MemoryRule(fails=True, threshold=0.1), FirstCallRule(minimum_s=2.0))
        assert found[8] == (MemoryRule(), FirstCallRule(fails=True))
        assert parse_manifest(manifest.to_toml(), origin="x.toml") == manifest

    def test_a_manifest_that_says_nothing_keeps_the_hash_it_had(self) -> None:
        """Runs from before these rules existed remain runs of the same manifest."""
        assert "memory" not in read("").model_dump(mode="json")["gate"]
        assert read("").manifest_hash == read("[gate.memory]\nfails = false").manifest_hash
        assert read("").manifest_hash != read("[gate.memory]\nfails = true").manifest_hash

    @pytest.mark.parametrize(
        ("gate", "message"),
        [
            ("[gate.memory]\nthreshold = 0", "x.toml: gate.memory.threshold: must be > 0, got 0"),
            ("[gate.memory]\nminimum_byte = 1", "x.toml: gate.memory.minimum_byte: unknown key; did you mean 'mini"),
            ("[gate.first_call]\nfails = 3", "x.toml: gate.first_call.fails: must be true or false, got 3"),
            ("[gate]\nmemory = 1", "x.toml: gate.memory: must be a table, got 1"),
        ],
    )
    def test_refusals(self, gate: str, message: str) -> None:
        with pytest.raises(UsageError) as raised:
            read(gate)
        assert any(line.startswith(message) for line in str(raised.value).splitlines()), raised.value
