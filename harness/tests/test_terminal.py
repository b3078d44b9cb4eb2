"""What `compare` and `run` print on a terminal of 100 columns."""

from __future__ import annotations

import io

from rich.console import Console

from harness.records import Comparison, Outcome, Verdict
from harness.report.terminal import print_comparison, print_run
from harness.tests import report_cases as planted


def printed(comparison: Comparison, *, show_all: bool = False, width: int = 100) -> str:
    console = terminal(width)
    print_comparison(comparison, console, show_all=show_all)
    return text_of(console)


def terminal(width: int = 100) -> Console:
    return Console(file=io.StringIO(), width=width, highlight=False)


def text_of(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def squeezed(text: str) -> str:
    """One space between words, so that line breaks do not matter."""
    return " ".join(text.split())


def test_every_line_fits_the_terminal() -> None:
    for text in (printed(planted.weak_comparison()), printed(planted.comparison(), show_all=True)):
        assert max(map(len, text.splitlines())) <= 100


def test_rows_stand_under_their_task_root_shape_and_problem() -> None:
    lines = printed(planted.comparison()).splitlines()
    start = lines.index("inverse_root, p = 2")
    assert lines[start + 1].split() == ["case", "ratio", "interval", "verdict", "notes"]
    assert lines[start + 2].strip() == "512x512 wishart"
    assert lines[start + 3].startswith("  coupled_pe bf16 graph")
    assert lines[start + 3].split()[3:] == ["1.083", "1.073", "…", "1.093", "regressed", "[1]"]
    assert lines.index("inverse_root, p = 4") < lines.index("polar")


def test_unchanged_rows_are_folded_into_a_count() -> None:
    folded, shown = printed(planted.comparison()), printed(planted.comparison(), show_all=True)
    assert "and 1 unchanged (--all shows them)" in folded
    assert "gemm: 1 unchanged" in folded
    assert "coupled_newton fp32 graph 1.002" not in squeezed(folded)
    assert "coupled_newton fp32 graph 1.002" in squeezed(shown)
    assert "--all" not in shown


def test_counts_and_bottom_line() -> None:
    text = squeezed(printed(planted.comparison()))
    counts = (
        "13 cases: 2 regressed, 1 improved, 2 unchanged, 1 inconclusive, 1 less_accurate, 1 more_accurate, 1 trade, "
        "1 broken, 1 fixed, 1 new, 1 missing"
    )
    worse = "2 regressed (1 advisory), 1 less_accurate, 1 trade, 1 broken and 1 missing among 13 cases."
    better = "Better: 1 improved, 1 more_accurate and 1 fixed."
    assert f"{counts} {worse} {better}" in text


def test_no_significant_change_is_said_as_such() -> None:
    case = planted.case("polar/polar_express/bf16/1024x1024/gaussian")
    text = printed(planted.comparison([planted.verdict(case, Verdict.UNCHANGED, 1.004)]))
    assert text.splitlines()[-1] == "No significant change among 1 case."


def test_marks_stand_beside_every_table() -> None:
    text = squeezed(printed(planted.weak_comparison()))
    assert "tau is widened by 1.4%: the reference is a single run" in text
    marks = "[unlike machines · another unit · other software · unqualified · corrected by 1.013]"
    assert text.count(marks) == 3
    assert "(there is no official baseline)" in text
    assert "other software" not in squeezed(printed(planted.comparison()))


NOISY_METHODS = ("polar_express_published", "jordan_newton_schulz", "you_newton_schulz")


def noisy_comparison() -> Comparison:
    """Cases of long names with the noise of a busy machine, each by its own figure."""
    rows = [
        planted.verdict(
            planted.case(f"polar/{method}/fp8_e4m3/1024x4096/logspace_1e6"),
            Verdict.INCONCLUSIVE,
            1.0,
            reason=f"MDE {20 + index}.0 % > tau 3.4 %; about {30 + index} pairs would decide",
        ).model_copy(update={"mde": (20 + index) / 100, "pairs_needed": 30 + index, "low": 0.001, "high": 1760.042})
        for index, method in enumerate(NOISY_METHODS)
    ]
    return planted.comparison(rows)


def test_no_name_is_broken_in_80_columns_and_no_line_is_longer() -> None:
    lines = printed(noisy_comparison(), width=80).splitlines()
    assert max(map(len, lines)) <= 80
    for method in NOISY_METHODS:
        assert any(method in line for line in lines)
    assert sum("0.00 … >100  inconclusive" in line for line in lines) == 3


def test_a_reason_that_many_cases_share_is_printed_once() -> None:
    lines = [line.strip() for line in printed(noisy_comparison(), width=80).splitlines()]
    assert lines.count("[1] MDE > tau; more pairs would decide") == 1
    assert sum(line.endswith("[1]") for line in lines) == 3
    assert any(line.startswith("MDE: the smallest change") for line in lines)
    assert "No regression found; 3 of 3 cases were too noisy to judge" in squeezed(" ".join(lines))


def test_reasons_that_differ_keep_their_words() -> None:
    text = printed(planted.comparison())
    assert "[1] kernels changed: symmetric: BLOCK 128 → 64, num_stages 3 → 4" in text
    assert "] the interval reaches beyond the threshold" in text
    assert "oom: 80 GiB | asked" in text
    assert "] peak memory 64.0 → 80.0 MiB (+25 %): regressed (advisory)" in text


def test_text_of_records_is_no_markup() -> None:
    case = planted.case("polar/polar_express/bf16/1024x1024/gaussian")
    broken = planted.verdict(case, Verdict.BROKEN, reason="[red]not a style[/red]")
    assert "[red]not a style[/red]" in squeezed(printed(planted.comparison([broken])))


def test_a_run_names_the_method_to_use_and_what_failed() -> None:
    console = terminal()
    print_run(planted.run_summary(planted.every_outcome()), console, catalog=planted.planted_facts)
    text = squeezed(text_of(console))
    assert "23 cases: 14 ok, 1 failed, 1 oom, 1 timeout, 3 unsupported (2 expected)" in text
    assert "inverse_root, p = 2: fastest within the target error 1.0e-02 shape problem use time error 5" in text
    assert "512x512 wishart coupled_pe (steps=5) fp32 graph 150 µs 7.0e-03" in text
    assert "none within target; most accurate: coupled_newton" in text
    assert "timeout: inverse_root/eigh/fp64/p=4/1024x1024/wishart/eager: no end after 120 s" in text
    assert "unsupported: " not in text


def test_a_run_without_any_result() -> None:
    failed = planted.ended(planted.case("copy/copy/bf16/512x512/gaussian"), Outcome.FAILED, "RuntimeError: no")
    control = failed.model_copy(update={"planned": failed.planned.model_copy(update={"control": True})})
    console = terminal()
    print_run(planted.run_summary([control]), console, catalog=planted.planted_facts)
    assert "No method was measured." in text_of(console)
