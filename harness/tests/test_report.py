"""Markdown reports against goldens, and the views behind them.

After an intended change: IROOT_UPDATE_GOLDENS=1 python -m pytest harness/tests/test_report.py, then read the diff.
"""

from __future__ import annotations

import itertools
import os
import re
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from harness.compare import FAILING
from harness.errors import UsageError
from harness.records import Mode, Outcome, Quality, RunStatus, SourceIdentity, Verdict
from harness.report.catalog import registry_facts
from harness.report.markdown import render_comparison, render_run, write_report
from harness.report.part import part_of_run
from harness.report.verdicts import BETTER, WORSE, bottom_line, marks_of
from harness.report.view import COLLAPSE_ABOVE, run_view
from harness.tests import report_cases as planted
from harness.tests.factories import CPU, REVISION, SOURCE_HASH

GOLDEN = Path(__file__).parent / "golden"
UPDATE = os.environ.get("IROOT_UPDATE_GOLDENS") == "1"


def full_run() -> str:
    return render_run(planted.run_summary(planted.every_outcome()), planted.comparison(), catalog=planted.planted_facts)


def first_run_on_a_cpu() -> str:
    """One launch, a filter, a dirty tree, interrupted before the last case, nothing to compare with."""
    case = planted.case("polar/newton_schulz/fp32/256x256/gaussian", mode=Mode.EAGER)
    never = planted.planned(planted.case("polar/svd/fp32/256x256/gaussian", mode=Mode.EAGER))
    measured = planted.ok(case, 3.4e-3, launches=1)
    summary = planted.run_summary(
        [measured],
        launches=1,
        filter="task=polar,n<=256|odd",
        status=RunStatus.INTERRUPTED,
        machine=CPU,
        source=SourceIdentity(revision=REVISION, dirty=True, source_hash=SOURCE_HASH),
        cases=(measured.planned, never),
        note="laptop on *battery*",
    )
    return render_run(summary, None, catalog=planted.planted_facts)


def nothing_worked() -> str:
    """No case gave a result, the machines were unlike, and the tree has no git."""
    case = planted.case("inverse_root/coupled_pe/bf16/512/wishart")
    failed = planted.ended(case, Outcome.FAILED, planted.TRACEBACK)
    summary = planted.run_summary([failed], source=SourceIdentity(source_hash=SOURCE_HASH))
    return render_run(
        summary, None, no_comparison="machines differ in sm_count: 132 != 108", catalog=planted.planted_facts
    )


def weak_comparison() -> str:
    return render_comparison(planted.weak_comparison())


def unchanged_comparison() -> str:
    case = planted.case("polar/polar_express/bf16/1024x1024/gaussian")
    return render_comparison(planted.comparison([planted.verdict(case, Verdict.UNCHANGED, 1.004)]))


GOLDENS = {
    "run_full.md": full_run,
    "run_first_cpu.md": first_run_on_a_cpu,
    "run_nothing_worked.md": nothing_worked,
    "comparison_weak.md": weak_comparison,
    "comparison_unchanged.md": unchanged_comparison,
}


@pytest.mark.parametrize("name", GOLDENS)
def test_golden(name: str) -> None:
    rendered, path = GOLDENS[name](), GOLDEN / name
    if UPDATE:
        path.parent.mkdir(exist_ok=True)
        path.write_text(rendered, encoding="utf-8")
    assert rendered == path.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", GOLDENS)
def test_markdown_is_well_formed(name: str) -> None:
    rendered = GOLDENS[name]()
    assert rendered.endswith("\n")
    assert not rendered.endswith("\n\n")
    assert [line for line in rendered.splitlines() if line != line.rstrip()] == []
    assert "\n\n\n" not in rendered
    assert rendered.count("<details>") == rendered.count("</details>")
    assert rendered.count("```") % 2 == 0


@pytest.mark.parametrize("name", GOLDENS)
def test_every_table_is_read_as_one(name: str) -> None:
    """A Markdown parser finds as many tables as there are rules, each row as wide as its head, no row left as text."""
    rendered = GOLDENS[name]()
    tokens = MarkdownIt("commonmark").enable("table").parse(rendered)
    assert sum(token.type == "table_open" for token in tokens) == len(re.findall(r"^\| -+", rendered, re.M))
    body_rows = sum(token.type == "tr_open" for token in tokens)
    pipe_rows = [line for line in rendered.splitlines() if line.startswith("| ")]
    rules = [line for line in pipe_rows if re.fullmatch(r"[|:\- ]+", line)]
    assert body_rows == len(pipe_rows) - len(rules)
    width = 0
    for above, line in zip(["", *rendered.splitlines()], rendered.splitlines(), strict=False):
        if line.startswith("| "):
            cells = len(re.split(r"(?<!\\)\|", line)) - 2
            width = cells if not above.startswith("| ") else width
            assert cells == width, line


def test_headings_descend_one_level_at_a_time() -> None:
    levels = [len(match) for match in re.findall(r"^(#+) ", full_run(), re.M)]
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))


def test_planted_records_hold_every_outcome_and_verdict() -> None:
    assert {row.outcome for row in planted.every_outcome()} == set(Outcome)
    assert {row.verdict for row in planted.every_verdict()} == set(Verdict)


# --- views ------------------------------------------------------------------------------------------------------------

ROOT = "inverse_root/{}/512/wishart"


def test_a_part_shows_what_the_filter_keeps_and_says_so() -> None:
    summary, comparison = planted.run_summary(planted.every_outcome()), planted.comparison()
    kept = [each for each in summary.run.cases if each.case.task == "polar"]
    assert 0 < len(kept) < len(summary.run.cases)
    whole = render_run(summary, comparison, catalog=planted.planted_facts)
    fewer, verdicts, shown = part_of_run(summary, comparison, "task=polar")
    assert set(fewer.cases) == {each.case.case_id for each in fewer.run.cases} == {each.case.case_id for each in kept}
    assert verdicts is not None
    assert verdicts.verdicts == tuple(row for row in comparison.verdicts if row.case.task == "polar") != ()
    part = render_run(fewer, verdicts, catalog=planted.planted_facts, shown=shown)
    total = len(summary.run.cases)
    assert f"Of its {total} cases those that match `task=polar` are shown: {len(kept)} cases" in part
    assert "### inverse_root" in whole
    assert "### inverse_root" not in part
    assert "### polar" in part


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("method=nosuch", "--filter 'method=nosuch' keeps no case of run {}: no case has method 'nosuch'; they have: "),
        ("p=7", "--filter 'p=7' keeps no case of run {}: no case has p '7'; they have: 2"),
        ("task=polar,p=2", "--filter 'task=polar,p=2' keeps no case of run {}: it contradicts every case"),
        ("task=polar|polr", "--filter 'task=polar|polr': no case has task 'polr'; did you mean 'polar'?"),
        (
            "method=only_before",
            "--filter 'method=only_before' keeps no case of run {}: no case has method 'only_before'",
        ),
        ("taks=polar", "--filter: unknown key 'taks'"),
    ],
)
def test_a_part_of_what_was_not_measured(text: str, message: str) -> None:
    summary = planted.run_summary(planted.every_outcome())
    gone = planted.verdict(planted.case("polar/only_before/bf16/64x64/gaussian"), Verdict.MISSING)
    with pytest.raises(UsageError) as caught:
        part_of_run(summary, planted.comparison([gone]), text)
    assert str(caught.value).startswith(message.format(summary.run.run_id))


def test_a_part_may_name_a_case_that_only_the_reference_has() -> None:
    summary, text = planted.run_summary(planted.every_outcome()), "method=only_before|svd"
    gone = planted.verdict(planted.case("polar/only_before/bf16/64x64/gaussian"), Verdict.MISSING)
    fewer, verdicts, _ = part_of_run(summary, planted.comparison([gone]), text)
    assert {each.case.method for each in fewer.run.cases} == {"svd"}
    assert verdicts is not None
    assert verdicts.verdicts == (gone,)
    with pytest.raises(UsageError, match="no case has method 'only_before'"):
        part_of_run(summary, None, text)


def test_choice_is_the_fastest_within_the_target_on_every_seed() -> None:
    summaries = [
        planted.ok(planted.case(ROOT.format("fast/bf16")), 1e-4, error=0.0098),  # worst seed 1.37e-2: misses 1e-2
        planted.ok(planted.case(ROOT.format("middle/fp32")), 3e-4, error=5e-3),
        planted.ok(planted.case(ROOT.format("slow/fp32")), 9e-4, error=1e-6),
    ]
    (choice,) = run_view(planted.run_summary(summaries), catalog=planted.planted_facts).choices
    assert choice.meets
    assert choice.row is not None
    assert choice.row.case.method == "middle"
    assert choice.target == 1e-2


def test_choice_names_the_most_accurate_where_none_meets_the_target() -> None:
    summaries = [
        planted.ok(planted.case(ROOT.format("fast/bf16")), 1e-4, error=0.3, target_error=1e-3),
        planted.ok(planted.case(ROOT.format("slow/fp32")), 9e-4, error=0.02, target_error=1e-3),
    ]
    (choice,) = run_view(planted.run_summary(summaries), catalog=planted.planted_facts).choices
    assert not choice.meets
    assert choice.row is not None
    assert (choice.row.case.method, choice.target) == ("slow", 1e-3)


def test_controls_are_no_answer() -> None:
    control = planted.ok(planted.case("gemm/cublas/bf16/1024x1024/gaussian"), 1e-5, control=True)
    assert run_view(planted.run_summary([control]), catalog=planted.planted_facts).choices == ()


def test_relative_times_stay_within_their_mode() -> None:
    summaries = [
        planted.ok(planted.case(ROOT.format("coupled_newton/fp32")), 1e-4),
        planted.ok(planted.case(ROOT.format("coupled_pe/fp32")), 2e-4),
        planted.ok(planted.case(ROOT.format("coupled_pe/fp32"), mode=Mode.EAGER), 5e-4),
    ]
    rows = run_view(planted.run_summary(summaries), catalog=planted.planted_facts).rows
    assert [row.vs_fastest for row in rows] == pytest.approx([1.0, 2.0, 1.0])
    assert [row.vs_opponent for row in rows[:2]] == pytest.approx([1.0, 2.0])
    assert rows[2].vs_opponent is None


def test_the_fastest_is_within_the_target() -> None:
    """A method that misses the target is no measure of others, however fast; without one within it there is none."""
    summaries = [
        planted.ok(planted.case(ROOT.format("coupled_newton/fp32")), 1e-4, error=0.5),
        planted.ok(planted.case(ROOT.format("coupled_pe/fp32")), 2e-4, error=1e-3),
        planted.ok(planted.case(ROOT.format("eigh/fp32")), 3e-4, error=1e-6),
    ]
    rows = run_view(planted.run_summary(summaries), catalog=planted.planted_facts).rows
    assert [row.meets_target for row in rows] == [False, True, True]
    assert [row.vs_fastest for row in rows] == pytest.approx([0.5, 1.0, 1.5])
    (alone,) = run_view(planted.run_summary(summaries[:1]), catalog=planted.planted_facts).rows
    assert alone.vs_fastest is None


def test_errors_over_seeds_are_values_that_were_seen() -> None:
    summary = planted.ok(planted.case(ROOT.format("coupled_pe/bf16")), 1e-4)
    quality = tuple(Quality(seed=seed, relative_error=float(seed + 1)) for seed in range(10))
    changed = summary.model_copy(update={"quality": quality})
    (row,) = run_view(planted.run_summary([changed]), catalog=planted.planted_facts).rows
    assert row.error is not None
    assert (row.error.median, row.error.p90, row.error.p95, row.error.worst) == (5.5, 9.0, 10.0, 10.0)
    assert row.tflops == pytest.approx(20 * 512**3 / 1e-4 / 1e12)


def test_a_non_finite_seed_is_an_infinite_error_and_never_meets_a_target() -> None:
    summary = planted.ok(planted.case(ROOT.format("coupled_pe/bf16")), 1e-4, target_error=10.0)
    quality = (*summary.quality[:4], Quality(seed=4, nonfinite=3))
    changed = summary.model_copy(update={"quality": quality})
    (row,) = run_view(planted.run_summary([changed]), catalog=planted.planted_facts).rows
    assert row.error is not None
    assert row.error.worst == float("inf")
    assert row.nonfinite_share == 0.2
    assert row.meets_target is False


def test_hierarchy_is_ordered_by_root_and_size() -> None:
    summaries = [
        planted.ok(planted.case("inverse_root/coupled_pe/bf16/1024/wishart", p=4), 1e-4),
        planted.ok(planted.case("inverse_root/coupled_pe/bf16/1024/wishart", p=2), 1e-4),
        planted.ok(planted.case("inverse_root/coupled_pe/bf16/256/wishart", p=2), 1e-4),
    ]
    (task,) = run_view(planted.run_summary(summaries), catalog=planted.planted_facts).tasks
    assert [(root.p, [shape.shape for shape in root.shapes]) for root in task.roots] == [
        (2, ["256x256", "1024x1024"]),
        (4, ["1024x1024"]),
    ]


def test_a_method_that_is_registered_no_more_has_no_facts() -> None:
    assert registry_facts(planted.case("inverse_root/retired/fp32/512/wishart")) is None
    assert registry_facts(planted.case(ROOT.format("eigh/fp32"), options=(("no_such_option", 1),))) is None


def test_a_case_that_its_method_refuses_has_facts_without_flops() -> None:
    """Chebyshev at p = 1 and kappa 1e6 needs a degree above its limit."""
    case = planted.case("inverse_apply/chebyshev/fp32/512/logspace_1e6").model_copy(update={"p": 1, "k": 16})
    facts = registry_facts(case)
    assert facts is not None
    assert (facts.role, facts.flops) == ("method", None)


def test_a_registered_method_has_its_own_flops() -> None:
    facts = registry_facts(planted.case(ROOT.format("coupled_pe/fp32")))
    assert facts is not None
    assert facts.role == "method"
    assert facts.flops is not None
    assert 4 * 512**3 < facts.flops < 200 * 512**3


# --- comparisons ------------------------------------------------------------------------------------------------------


def test_verdicts_that_fail_a_check_are_those_shown_as_worse() -> None:
    assert set(WORSE) == FAILING
    assert not set(WORSE) & set(BETTER)


def test_bottom_line_without_any_change() -> None:
    case = planted.case(ROOT.format("coupled_pe/bf16"))
    unchanged = planted.verdict(case, Verdict.UNCHANGED, 1.0)
    noisy = planted.verdict(case, Verdict.INCONCLUSIVE, 1.0)
    assert bottom_line([unchanged] * 3) == "No significant change among 3 cases."
    assert bottom_line([unchanged, noisy]) == (
        "No regression found; 1 of 2 cases was too noisy to judge on this machine: end other programs, or measure more "
        "launches."
    )
    new = unchanged.model_copy(update={"verdict": Verdict.NEW})
    assert bottom_line([unchanged, new, new]) == "No significant change among 3 cases. New, with nothing to compare: 2."
    assert bottom_line([noisy, noisy]).startswith("No regression found; 2 of 2 cases were too noisy to judge")
    assert bottom_line([]) == "There is no case to compare."


def test_bottom_line_blames_noise_for_noise_only() -> None:
    case = planted.case(ROOT.format("coupled_pe/bf16"))
    noisy = planted.verdict(case, Verdict.INCONCLUSIVE, 1.0)
    failed_twice = planted.verdict(case, Verdict.INCONCLUSIVE, reason="candidate oom; reference oom")
    assert bottom_line([failed_twice]) == (
        "No regression found; 1 of 1 case could not be judged: the notes say what is missing."
    )
    assert bottom_line([noisy, failed_twice]) == (
        "No regression found; 2 of 2 cases could not be judged, 1 of them for noise: the notes say what is missing."
    )


def test_the_control_mark_names_the_mode_that_it_corrects() -> None:
    control = planted.case("gemm/cublas/bf16/1024x1024/gaussian")
    made = planted.comparison(
        [planted.verdict(control, Verdict.UNCHANGED, 1.013)],
        control_ratios={control.case_id: 1.013},
        control_correction=1.013,
    )
    (mark,) = marks_of(made)
    assert "Ratios of graph cases were divided by 1.013; those of other modes, and of the controls" in mark.sentence


def test_long_tables_are_folded() -> None:
    sizes = range(64, 64 * (COLLAPSE_ABOVE + 3), 64)
    rows = [
        planted.verdict(planted.case(f"inverse_root/coupled_pe/bf16/{n}/wishart"), Verdict.REGRESSED, 1.1)
        for n in sizes
    ]
    short, long = (render_comparison(planted.comparison(rows[:count])) for count in (COLLAPSE_ABOVE, len(rows)))
    assert "<details>" not in short
    assert long.count("<details>") == 2
    assert f"({len(rows)} rows)" in long


def test_a_shape_of_many_rows_gets_a_table_per_problem() -> None:
    paths = [
        f"inverse_root/method{i}/fp32/512/{problem}" for problem in ("wishart", "spike") for i in range(COLLAPSE_ABOVE)
    ]
    rendered = render_run(
        planted.run_summary([planted.ok(planted.case(path), 1e-4) for path in paths]),
        None,
        catalog=planted.planted_facts,
    )
    results = rendered[rendered.index("## Results") : rendered.index("## How the times were taken")]
    assert results.count("| Problem | Method | Precision | Mode | Time |") == 2
    assert results.count("<details>") == 2  # the figures few readers need, once per problem
    assert results.count(f"({COLLAPSE_ABOVE} rows)") == 2


def test_legend_names_the_opponent_that_was_measured() -> None:
    emulated = planted.ok(planted.case("polar/you_newton_schulz/bf16_emulated/64x64/gaussian", mode=Mode.EAGER), 1e-3)
    rendered = render_run(planted.run_summary([emulated]), None, catalog=planted.planted_facts)
    assert "same problem and mode (1.00): `you_newton_schulz` in bf16_emulated for `polar`." in rendered


def test_report_is_written_into_the_run_folder(tmp_path: Path) -> None:
    summary = planted.run_summary([planted.ok(planted.case(ROOT.format("coupled_pe/fp32")), 1e-4)])
    path = write_report(summary, None, store=tmp_path / "store.duckdb")
    assert path == tmp_path / "runs" / summary.run.run_id / "report.md"
    assert path.read_text(encoding="utf-8").startswith("# Benchmark report: quick on NVIDIA H100")
