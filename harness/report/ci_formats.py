"""A gate's result for CI systems: JUnit XML and GitHub's workflow commands."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from xml.etree import ElementTree

from harness.errors import ExitCode
from harness.gate import GateCase, GateResult
from harness.gate_findings import Ruling
from harness.report import format as text
from harness.report.gate import why

ANNOTATIONS = 10
"""GitHub shows ten annotations of a level per step and drops the rest in silence."""

_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def junit_xml(result: GateResult) -> str:
    """One test case per case of the gate: failed is a failure, undecided an error, waived and advisory are skipped."""
    name = f"iroot gate {result.comparison.manifest}"
    suite = ElementTree.Element("testsuite", name=name)
    for failure in result.failures:
        case = ElementTree.SubElement(suite, "testcase", classname="required", name=_xml(failure))
        ElementTree.SubElement(case, "failure", type="required", message=_xml(failure))
    for each in result.cases:
        _add_case(suite, each)
    counts = {
        "tests": len(suite),
        "failures": len(suite.findall("testcase/failure")),
        "errors": len(suite.findall("testcase/error")),
        "skipped": len(suite.findall("testcase/skipped")),
    }
    for key, number in counts.items():
        suite.set(key, str(number))
    root = ElementTree.Element("testsuites", {"name": name} | suite.attrib)
    root.append(suite)
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _add_case(suite: ElementTree.Element, case: GateCase) -> None:
    row = case.row
    names = {"classname": f"{row.case.task}.{row.case.method}", "name": row.case_id}
    element = ElementTree.SubElement(suite, "testcase", names | {"time": f"{row.time_s or 0:.9f}"})
    tags = {Ruling.FAILED: "failure", Ruling.UNDECIDED: "error", Ruling.WAIVED: "skipped", Ruling.ADVISORY: "skipped"}
    if case.ruling in tags:
        found = ElementTree.SubElement(element, tags[case.ruling], message=_xml(_summary(case)))
        if case.ruling in (Ruling.FAILED, Ruling.UNDECIDED):
            found.set("type", case.about or row.verdict)
            found.text = _xml("\n".join([*filter(None, [case.reason]), *row.quality_notes]))


def annotation_lines(result: GateResult) -> Iterator[str]:
    """GitHub workflow commands: an error per failed case, a warning per undecided one and per expired waiver."""
    title = f"gate {result.comparison.manifest}"
    failed = [*result.failures, *(f"{case.row.case_id}: {_summary(case)}" for case in result.of(Ruling.FAILED))]
    yield from _commands("error", title, failed)
    undecided = [f"{case.row.case_id}: {_summary(case)}" for case in result.of(Ruling.UNDECIDED)]
    expired = [f"expired waiver, not applied: {waiver.text}" for waiver in result.expired_waivers]
    yield from _commands("warning", title, [*undecided, *expired])
    waived = [f"{case.row.case_id}: {_summary(case)}" for case in result.of(Ruling.WAIVED)]
    yield from _commands("notice", title, waived)
    if result.exit_code is ExitCode.OK:
        yield from _commands("notice", title, [result.headline])


def _summary(case: GateCase) -> str:
    row = case.row
    ratio = "" if row.ratio is None else f" {text.ratio(row.ratio)} ({text.interval(row.low, row.high)})"
    return ": ".join(part for part in (f"{case.ruling}: {row.verdict}{ratio}", why(case)) if part)


def _commands(level: str, title: str, messages: Iterable[str]) -> Iterator[str]:
    every = list(messages)
    shown = every if len(every) <= ANNOTATIONS else every[: ANNOTATIONS - 1]
    if len(shown) < len(every):
        shown = [*shown, f"{len(every) - len(shown)} more; the step summary lists them"]
    yield from (f"::{level} title={_property(title)}::{_data(message)}" for message in shown)


def _data(message: str) -> str:
    """GitHub's escapes of a command's message."""
    return message.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(value: str) -> str:
    return _data(value).replace(":", "%3A").replace(",", "%2C")


def _xml(value: str) -> str:
    """Without the characters that XML 1.0 cannot hold, such as the escapes of a coloured traceback."""
    return _NOT_XML.sub("", value)
