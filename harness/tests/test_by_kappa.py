"""Error and residual by condition number: planted runs, the section of the report, the figure beside it."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.records import Case, CaseSummary, Mode, Outcome, Quality, RunSummary
from harness.report.by_kappa import KappaGroup, error_table, kappa_groups, plot, residual_table
from harness.report.markdown import render_run, write_report
from harness.report.view import run_view
from harness.tests import report_cases as planted

KAPPAS = (1e1, 1e2, 1e4, 1e8)


def case(method: str, precision: str, kappa: str, *, task: str = "inverse_root") -> Case:
    return planted.case(f"{task}/{method}/{precision}/64/logspace_{kappa}", mode=Mode.EAGER)


def spoiled(of: Case, *, seeds: int) -> CaseSummary:
    """Five seeds, the first ones not finite, the others with error 0.5 and residual 0.7."""
    quality = tuple(
        Quality(seed=seed, nonfinite=9) if seed < seeds else Quality(seed=seed, relative_error=0.5, residual=0.7)
        for seed in range(5)
    )
    return planted.ended(of, Outcome.NONFINITE, "NaN").model_copy(update={"quality": quality})


def root_cases() -> list[CaseSummary]:
    return [
        *(planted.ok(case("eigh", "fp32", f"1e{k}"), 1e-3, error=10.0 ** (k - 9)) for k in (8, 4, 2, 1)),
        planted.ok(case("coupled_pe", "fp16", "1e1"), 1e-4, error=1e-3),
        planted.ok(case("coupled_pe", "fp16", "1e2"), 1e-4, error=2e-2),
        spoiled(case("coupled_pe", "fp16", "1e4"), seeds=2),
        spoiled(case("coupled_pe", "fp16", "1e8"), seeds=5),
        planted.ended(case("chebyshev", "fp32", "1e8"), Outcome.UNSUPPORTED, "degree beyond its limit"),
        planted.ok(planted.case("inverse_root/eigh/fp32/64/wishart", mode=Mode.EAGER), 1e-3),
    ]


def polar_cases() -> list[CaseSummary]:
    return [planted.ok(case("svd", "fp32", f"1e{k}", task="polar"), 1e-3, error=10.0 ** (k - 9)) for k in (1, 2, 3, 4)]


def groups(cases: list[CaseSummary]) -> tuple[KappaGroup, ...]:
    return kappa_groups(run_view(run(cases), catalog=planted.planted_facts))


def run(cases: list[CaseSummary]) -> RunSummary:
    return planted.run_summary(cases)


def test_medians_stand_at_their_condition_number() -> None:
    root, polar = groups([*root_cases(), *polar_cases()])
    assert (root.kappas, polar.kappas) == (KAPPAS, (1e1, 1e2, 1e3, 1e4))
    assert [(row.method, row.precision) for row in root.rows] == [("coupled_pe", "fp16"), ("eigh", "fp32")]
    # Five seeds at error * (1, 1.1, ..., 1.4); residual and orthogonality are twice the planted error.
    assert root.rows[1].errors == {kappa: pytest.approx(1.2 * kappa * 1e-9) for kappa in KAPPAS}
    assert root.rows[1].residuals == {kappa: pytest.approx(2 * kappa * 1e-9) for kappa in KAPPAS}
    assert polar.rows[0].residuals == {kappa: pytest.approx(2 * kappa * 1e-9) for kappa in polar.kappas}
    assert (root.residual_name, polar.residual_name) == ("Residual", "Orthogonality")
    # The median counts a seed that is not finite as infinite.
    assert root.rows[0].errors[1e4] == 0.5
    assert root.rows[0].errors[1e8] == float("inf")


def test_tables_have_a_column_per_condition_number() -> None:
    (root,) = groups(root_cases())
    assert error_table(root).markdown.splitlines() == [
        "| Method | Precision | κ = 10 | κ = 100 | κ = 1e+04 | κ = 1e+08 |",
        "| --- | --- | ---: | ---: | ---: | ---: |",
        "| coupled_pe | fp16 | 1.2e-03 | 2.4e-02 | 5.0e-01 | inf |",
        "| eigh | fp32 | 1.2e-08 | 1.2e-07 | 1.2e-05 | 1.2e-01 |",
    ]
    assert residual_table(root).rows[0] == ("coupled_pe", "fp16", "2.0e-03", "4.0e-02", "7.0e-01", "inf")


def test_a_method_lacks_the_condition_numbers_it_was_not_measured_at() -> None:
    (root,) = groups([summary for summary in root_cases() if summary.planned.case.case_id.count("1e2") == 0
                      or summary.planned.case.method == "eigh"])  # fmt: skip
    assert error_table(root).rows[0] == ("coupled_pe", "fp16", "1.2e-03", "–", "5.0e-01", "inf")


def test_few_condition_numbers_make_no_section() -> None:
    three = [summary for summary in root_cases() if "1e8" not in summary.planned.case.problem]
    assert groups(three) == ()
    assert "by condition number" not in render_run(run(three), None, catalog=planted.planted_facts)


def test_roots_shapes_and_modes_are_not_mixed() -> None:
    other = [planted.ok(planted.case(f"inverse_root/eigh/fp32/64/logspace_1e{k}", p=4), 1e-3) for k in (1, 2, 3, 4)]
    found = groups([*root_cases(), *other])
    assert [(group.p, group.mode, group.title) for group in found] == [
        (2, "eager", "inverse_root, p = 2, 64x64, eager"),
        (4, "graph", "inverse_root, p = 4, 64x64, graph"),
    ]


def test_the_section_of_a_report_links_the_figures_that_are_written(tmp_path: Path) -> None:
    summary = run([*root_cases(), *polar_cases()])
    path = write_report(summary, None, store=tmp_path / "s.duckdb", output=tmp_path / "out" / "mine.md")
    written = path.read_text(encoding="utf-8")
    names = ("mine-inverse_root-p2-64x64-eager.svg", "mine-polar-64x64-eager.svg")
    section = written[written.index("## Error by condition number") : written.index("## Notes")]
    for name in names:
        assert f"]({name})" in section
        assert (path.parent / name).read_bytes().startswith(b"<?xml")
    assert sorted(file.name for file in path.parent.iterdir()) == sorted([path.name, *names])
    assert "| coupled_pe | fp16 | 1.2e-03 | 2.4e-02 | 5.0e-01 | inf |" in section
    assert "<summary>Orthogonality by condition number (1 row)</summary>" in section


def test_a_figure_of_nothing_but_failures_is_drawn(tmp_path: Path) -> None:
    cases = [spoiled(case("coupled_pe", precision, f"1e{k}"), seeds=5) for k in range(1, 6) for precision in "abcd"]
    (group,) = groups(cases)
    assert plot(group, tmp_path / "f.png").stat().st_size > 5_000
