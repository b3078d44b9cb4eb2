"""What a gate tells CI systems and people: JUnit XML, annotations, Markdown; valid whatever an error text holds."""

from __future__ import annotations

from xml.etree import ElementTree

from harness.records import Outcome
from harness.report.ci_formats import annotation_lines, junit_xml
from harness.report.gate import MARKER, SHOWN, gate_markdown
from harness.tests.factories import make_case, make_planned
from harness.tests.sides import EAGER, Side
from harness.tests.test_gate import NOISY, B, both, evidence, ruled
from harness.waivers import Waiver

NASTY = "RuntimeError: \x1b[31mred\x1b[0m 100% <&> a|b\nsecond: line, here"


def waiver(expires: str, method: str = "coupled_pe") -> Waiver:
    table = {"filter": f"method={method}", "verdict": "regressed", "reason": "agreed|upon", "expires": expires}
    return Waiver.model_validate(table)


def mixed() -> tuple[Side, Side]:
    return Side(planned=make_planned(make_case("broken")), outcome=Outcome.FAILED, changes={"error": NASTY}), Side(
        planned=make_planned(make_case("broken"))
    )


RESULT = ruled(
    evidence(both(1.0), both(1.0, plan=B, noise=NOISY), both(1.2, plan=EAGER), mixed()),
    policy={"required": ["method=svd"]},
    waivers=(waiver("2027-01-01", "absent"),),
)
SLOW = evidence(both(1.08))


class TestJunit:
    def test_every_case_is_a_test_case(self) -> None:
        root = ElementTree.fromstring(junit_xml(RESULT))
        (suite,) = root
        assert root.tag == "testsuites"
        expected = {"tests": "5", "failures": "2", "errors": "1", "skipped": "1"}
        assert {key: suite.get(key) for key in expected} == expected
        assert {key: root.get(key) for key in expected} == expected
        names = {case.get("name"): [child.tag for child in case] for case in suite}
        assert names["inverse_root/coupled_pe/bf16/p=2/512x512/wishart/graph"] == []
        assert names["inverse_root/coupled_pe/bf16/p=2/512x512/wishart/eager"] == ["skipped"]
        assert names["inverse_root/eigh/bf16/p=2/512x512/wishart/graph"] == ["error"]
        assert names["required: the candidate measured no case that matches 'method=svd'"] == ["failure"]

    def test_an_error_text_that_xml_cannot_hold(self) -> None:
        root = ElementTree.fromstring(junit_xml(RESULT))
        failure = root.find(".//testcase[@classname='inverse_root.broken']/failure")
        assert failure is not None
        assert failure.get("type") == "broken"
        assert failure.text == "failed: RuntimeError: [31mred[0m 100% <&> a|b\nsecond: line, here"


class TestAnnotations:
    def test_levels_and_escapes(self) -> None:
        lines = list(annotation_lines(RESULT))
        assert [line.split(" ")[0] for line in lines] == ["::error", "::error", "::warning"]
        assert lines[0] == (
            "::error title=gate quick::required: the candidate measured no case that matches 'method=svd'"
        )
        assert "100%25 <&>" in lines[1]
        assert all("\n" not in line for line in lines)

    def test_a_pass_says_so(self) -> None:
        assert list(annotation_lines(ruled(evidence(both(1.0))))) == [
            "::notice title=gate quick::Gate passed: 1 passed"
        ]

    def test_waivers_applied_and_expired(self) -> None:
        applied = list(annotation_lines(ruled(SLOW, SLOW, waivers=(waiver("2026-11-22"),))))
        assert [line.split(" ")[0] for line in applied] == ["::notice", "::notice"]
        assert "agreed|upon (until 2026-11-22)" in applied[0]
        expired = list(annotation_lines(ruled(SLOW, SLOW, waivers=(waiver("2026-11-21"),))))
        assert [line.split(" ")[0] for line in expired] == ["::error", "::warning"]
        assert "expired waiver, not applied: regressed of method=coupled_pe until 2026-11-21" in expired[1]

    def test_no_more_than_github_shows(self) -> None:
        many = [both(1.0, error=2.0, plan=make_planned(make_case(n=8 * i))) for i in range(1, 31)]
        lines = list(annotation_lines(ruled(evidence(*many))))
        assert len(lines) == 10
        assert lines[-1] == "::error title=gate quick::21 more; the step summary lists them"


class TestMarkdown:
    def test_outcome_open_cases_and_notes(self) -> None:
        found = gate_markdown(RESULT)
        lines = found.splitlines()
        assert lines[0] == MARKER
        assert lines[1] == "## Gate failed: 1 passed, 1 failed, 1 undecided, 1 advisory, 1 required not measured"
        assert "`WORKTREE` against `main`, interleaved pairs;" in lines
        assert "- **required: the candidate measured no case that matches 'method=svd'**" in lines
        assert any(line.startswith("| **failed** | `inverse_root/broken/") for line in lines)
        assert "<details><summary>1 case passed, 1 advisory</summary>" in lines
        assert any(line.startswith("- not needed: regressed of method=absent until 2027-01-01") for line in lines)
        assert any("unqualified" in line for line in lines)

    def test_every_row_of_a_table_has_its_cells(self) -> None:
        """A pipe in an error or a reason must not open a cell."""
        rows = [line for line in gate_markdown(RESULT).splitlines() if line.startswith("|")]
        widths = {line.replace(r"\|", "").count("|") for line in rows}
        assert widths <= {10, 11, 12}
        assert len(rows) == 2 * 2 + 4

    def test_a_waiver_is_named_with_reason_and_end(self) -> None:
        found = gate_markdown(ruled(SLOW, SLOW, waivers=(waiver("2026-11-22"),)))
        assert "## Gate passed: 1 waived" in found
        assert "waived: agreed\\|upon (until 2026-11-22)" in found
        assert "6 fresh" in found

    def test_a_comment_stays_within_its_limit(self) -> None:
        many = [both(1.0, error=2.0, plan=make_planned(make_case(n=8 * i))) for i in range(1, 301)]
        found = gate_markdown(ruled(evidence(*many)))
        assert f"… and {300 - SHOWN} more." in found
        assert len(found) < 65_536
