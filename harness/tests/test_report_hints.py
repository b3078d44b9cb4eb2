"""What stands beside a verdict: planted memory, first calls and kernels, in every kind of report."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from harness.records import CaseVerdict, KernelChange, MemoryVerdict, Verdict
from harness.report.gate import gate_markdown
from harness.report.hints import SAME_KERNELS, hints, resource_line
from harness.report.markdown import render_comparison
from harness.report.tables import verdict_table
from harness.report.terminal import print_comparison
from harness.report.verdicts import comparison_view, is_notable
from harness.tests import report_cases as planted
from harness.tests.sides import Side
from harness.tests.test_gate import evidence, ruled
from harness.tests.test_kernel_change import kernel

CASE = planted.case("polar/polar_express/bf16/1024x1024/gaussian")
SAME = KernelChange(same=True)


def row(verdict: Verdict = Verdict.UNCHANGED, **changes: object) -> CaseVerdict:
    return planted.verdict(CASE, verdict, 1.0).model_copy(update=changes)


@pytest.mark.parametrize(
    ("verdict", "kernels", "hint"),
    [
        (Verdict.REGRESSED, SAME, (SAME_KERNELS,)),
        (Verdict.REGRESSED, planted.RETILED, ("kernels changed: symmetric: BLOCK 128 → 64, num_stages 3 → 4",)),
        (Verdict.LESS_ACCURATE, planted.RETILED, ("kernels changed: symmetric: BLOCK 128 → 64, num_stages 3 → 4",)),
        (Verdict.LESS_ACCURATE, SAME, ()),
        (Verdict.UNCHANGED, planted.RETILED, ()),
        (Verdict.REGRESSED, None, ()),
    ],
)
def test_kernels_are_named_where_something_changed(
    verdict: Verdict, kernels: KernelChange | None, hint: tuple[str, ...]
) -> None:
    assert hints(row(verdict, kernels=kernels)) == hint


def test_resources_are_named_where_they_moved() -> None:
    assert hints(row(memory=planted.MORE_MEMORY)) == ("peak memory 64.0 → 80.0 MiB (+25 %): regressed (advisory)",)
    assert hints(row(first_call=planted.SLOW_START)) == (
        "first call 0.80 s → 2.40 s (ratio 3.00, 2.92 … 3.08): regressed",
    )
    unknown = MemoryVerdict(verdict=Verdict.INCONCLUSIVE, reason="the reference has no figure")
    assert hints(row(memory=unknown)) == ()
    assert hints(row(memory=unknown.model_copy(update={"fails": True}))) == (
        "peak memory unknown, the reference has no figure: inconclusive",
    )


def test_an_unchanged_case_whose_memory_grew_is_notable() -> None:
    assert not is_notable(row())
    assert is_notable(row(memory=planted.MORE_MEMORY))
    view = comparison_view(planted.comparison([row(memory=planted.MORE_MEMORY)]))
    assert view.bottom_line == "No significant change among 1 case. Peak memory grew in 1 case (advisory)."
    assert len(view.notable) == 1


def test_the_line_counts_both_directions() -> None:
    less = planted.MORE_MEMORY.model_copy(update={"verdict": Verdict.IMPROVED})
    rows = [row(memory=less), row(memory=planted.MORE_MEMORY, first_call=planted.SLOW_START)]
    assert resource_line(rows) == (
        "Peak memory grew in 1 case (advisory). The first call got slower in 1 case. Peak memory shrank in 1 case."
    )
    assert resource_line([row()]) == ""


def test_columns_appear_only_where_something_moved() -> None:
    assert not {"Peak memory", "First call"}.intersection(verdict_table([row()]).titles)
    table = verdict_table([row(), row(memory=planted.MORE_MEMORY, first_call=planted.SLOW_START)])
    cells = [dict(zip(table.titles, each, strict=True)) for each in table.rows]
    assert [each["Peak memory"] for each in cells] == ["", "regressed (×1.25)"]
    assert [each["First call"] for each in cells] == ["", "**regressed** (×3.00)"]


def test_markdown_and_terminal_say_it() -> None:
    comparison = planted.comparison()
    console = Console(file=io.StringIO(), width=200)
    print_comparison(comparison, console)
    assert isinstance(console.file, io.StringIO)
    for text in (render_comparison(comparison), console.file.getvalue()):
        for said in ("BLOCK 128 → 64", "same Triton kernels", "64.0 → 80.0 MiB (+25 %)", "0.80 s → 2.40 s"):
            assert said in text


def test_a_failed_gate_names_the_kernel() -> None:
    after = kernel(code="b", stages=4)
    slow = evidence((Side(time=1.2, changes={"kernels": (after,)}), Side(changes={"kernels": (kernel(),)})))
    assert "kernels changed: symmetric: num\\_stages 3 → 4" in gate_markdown(ruled(slow, slow)).replace(
        "num_", "num\\_"
    )
