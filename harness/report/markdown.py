"""Reports as GitHub Markdown. What is shown is decided in the views and tables; the templates lay it out."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from harness.errors import UsageError
from harness.paths import run_folder
from harness.records import Comparison, RunRecord, RunSummary
from harness.report import by_kappa, notes, tables, toml_text
from harness.report import format as text
from harness.report.catalog import Catalog, is_opponent, registry_facts, task_formula
from harness.report.part import Shown, part_of_run
from harness.report.roofline import peaks_line
from harness.report.tables import Column, Table, build
from harness.report.verdicts import ComparisonView, comparison_view
from harness.report.view import RunView, grouped, run_view

REPORT_NAME = "report.md"
PART_NAME = "report-part.md"
TEMPLATES = Path(__file__).parent / "templates"


def render_run(
    summary: RunSummary,
    comparison: Comparison | None,
    *,
    no_comparison: str | None = None,
    catalog: Catalog = registry_facts,
    figure_prefix: str | None = None,
    shown: Shown | None = None,
) -> str:
    """The report of a run.

    Args:
        shown: where `summary` and `comparison` are a part of a run's: what of.
        no_comparison: why there is no comparison, where it is more than the lack of a reference.
        catalog: facts of methods (FLOPs, roles); the registry by default.
        figure_prefix: what the names of the figures beside the report begin with; None: it has none.
    """
    view = run_view(summary, catalog=catalog)
    compared = None if comparison is None else comparison_view(comparison)
    run = summary.run
    values = {
        "run": run,
        "view": view,
        "shown": shown,
        "comparison": compared,
        "outcome_line": notes.outcome_line(view),
        "machine_line": machine_line(run),
        "date": _date(run.created_at),
        "revision_line": _revision_line(run),
        "bottom_line": notes.bottom_line(view, compared, no_comparison),
        "unmet_line": _unmet_line(view),
        "choice_groups": grouped(view.choices, lambda choice: choice.task),
        "notes": notes.run_notes(view, compared),
        "faults": notes.faults(view),
        "unsupported": notes.unsupported(view),
        "timing_contract": notes.timing_contract(view),
        "share_line": notes.share_line(view),
        "opponents": _opponents(view),
        "roofline": peaks_line(run.machine.model),
        "identity_table": _identity_table(summary),
        "method_table": _method_table(view),
        "manifest": toml_text.compact(run.manifest_toml),
        "fence": text.fence(run.manifest_toml),
        "kappa_groups": by_kappa.kappa_groups(view),
        "figure_prefix": figure_prefix,
    }
    return render("run.md.j2", values)


def render_comparison(comparison: Comparison) -> str:
    """The report of a comparison alone."""
    view: ComparisonView = comparison_view(comparison)
    return render("comparison.md.j2", {"comparison": view})


def render(template: str, values: Mapping[str, object]) -> str:
    """A template of this package, filled in and tidied."""
    return _tidy(_environment().get_template(template).render(values))


def write_report(
    summary: RunSummary,
    comparison: Comparison | None,
    *,
    store: Path,
    output: Path | None = None,
    no_comparison: str | None = None,
    shown: str | None = None,
) -> Path:
    """Write a run's report and its figures, by default into its folder, as `report.md` or, of a part, `report-part.md`.

    Args:
        shown: a filter; of the cases that were measured and compared, those that it keeps are shown.

    Raises:
        UsageError: the file cannot be written, or the filter does not fit, as of `part_of_run`.
    """
    part = None
    if shown is not None:
        summary, comparison, part = part_of_run(summary, comparison, shown)
    path = output or run_folder(store, summary.run.run_id) / (REPORT_NAME if part is None else PART_NAME)
    rendered = render_run(summary, comparison, no_comparison=no_comparison, figure_prefix=path.stem, shown=part)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(rendered, encoding="utf-8")
    except OSError as error:
        raise UsageError(
            f"cannot write the report to {path}: {error.strerror}; name another place with --output"
        ) from None
    by_kappa.write_figures(by_kappa.kappa_groups(run_view(summary)), path.parent, path.stem)
    return path


@cache
def _environment() -> Environment:
    # Autoescape is for HTML; free text is made safe for Markdown by `plain` and `code`.
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )
    environment.filters |= {"plain": text.plain, "code": text.code, "count": text.count}
    environment.globals |= {
        "formula": task_formula,
        "choice_table": tables.choice_table,
        "result_table": tables.result_table,
        "detail_table": tables.detail_table,
        "verdict_table": tables.verdict_table,
        "notable_table": tables.notable_table,
        "fault_table": tables.fault_table,
        "unsupported_table": tables.unsupported_table,
        "error_table": by_kappa.error_table,
        "residual_table": by_kappa.residual_table,
    }
    return environment


def _tidy(markdown: str) -> str:
    """No trailing whitespace, no two blank lines in a row, one newline at the end."""
    lines = "\n".join(line.rstrip() for line in markdown.splitlines())
    return re.sub(r"\n{3,}", "\n\n", lines).strip("\n") + "\n"


# --- one line each ----------------------------------------------------------------------------------------------------


def machine_line(run: RunRecord) -> str:
    """`NVIDIA H100 80GB HBM3 (79.2 GiB, 132 SMs, 700 W)`."""
    machine = run.machine
    parts = [text.size(machine.memory_bytes)]
    if machine.sm_count is not None:
        parts.append(f"{machine.sm_count} SMs")
    if machine.power_limit_w is not None:
        parts.append(f"{machine.power_limit_w:.0f} W")
    if machine.threads is not None:
        parts.append(text.count(machine.threads, "thread"))
    return f"{machine.model} ({', '.join(parts)})"


def _revision_line(run: RunRecord) -> str:
    source = run.source
    if source.revision is None:
        return f"at an unknown revision (sources {text.code(source.source_hash[:12])})"
    sources = text.code(source.source_hash[:12])
    state = {True: f" (dirty tree, sources {sources})", False: " (clean tree)", None: ""}[source.dirty]
    return f"at revision {text.code(source.revision[:12])}{state}"


def _unmet_line(view: RunView) -> str:
    unmet = sum(not choice.meets for choice in view.choices)
    if not unmet:
        return "Every problem has one."
    rows = text.count(len(view.choices), "row")
    return f"No method does in {unmet} of {rows}; there the most accurate one is named."


def _date(created_at: str) -> str:
    """`2026-01-02 09:00 UTC` of an ISO 8601 time; run records hold UTC."""
    return f"{datetime.fromisoformat(created_at).astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def _opponents(view: RunView) -> str:
    """The rows that are 1.00: the precision depends on what the machine has."""
    found = {
        (
            row.case.task,
            row.case.precision,
        ): f"{text.code(row.case.method)} in {row.case.precision} for {text.code(row.case.task)}"
        for row in view.rows
        if row.vs_opponent == 1.0 and not row.case.options and is_opponent(row.case)
    }
    return text.listing(list(found.values()))


# --- machine, software, methods ---------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _Fact:
    name: str
    value: str


_FACT_COLUMNS: tuple[Column[_Fact], ...] = (
    Column(title="What", cell=lambda fact: fact.name, align="left"),
    Column(title="Value", cell=lambda fact: fact.value, align="left"),
)


def _identity_table(summary: RunSummary) -> Table:
    run = summary.run
    machine, software, source = run.machine, run.software, run.source
    yes_no = {True: "on", False: "off", None: None}
    facts: list[tuple[str, str | None]] = [
        ("Machine", machine_line(run)),
        ("Machine class", machine.machine_class),
        ("Unit", machine.uuid),
        ("MIG", yes_no[machine.mig]),
        ("ECC", yes_no[machine.ecc]),
        ("Python", software.python),
        ("PyTorch", software.torch),
        ("Triton", software.triton),
        ("CUDA", software.cuda),
        ("Driver", software.driver),
        ("Kernel tables", software.kernel_table),
        ("Operating system", software.os),
        ("iroot", software.iroot),
        ("Revision", source.revision),
        ("Source hash", source.source_hash),
        ("Run", f"{run.run_id}, {run.status}"),
        ("Runs merged", ", ".join(summary.runs_merged) or None),
        ("Manifest", f"{run.manifest}, hash {run.manifest_hash}"),
        ("Launches", str(run.launches)),
        ("Seed", str(run.seed)),
    ]
    return build([_Fact(name=name, value=text.plain(value)) for name, value in facts if value], _FACT_COLUMNS)


@dataclass(frozen=True, kw_only=True)
class _Method:
    task: str
    name: str
    role: str
    summary: str
    citation: str


_METHOD_COLUMNS: tuple[Column[_Method], ...] = (
    Column(title="Task", cell=lambda method: method.task, align="left"),
    Column(title="Method", cell=lambda method: text.plain(method.name), align="left"),
    Column(title="Role", cell=lambda method: method.role, align="left"),
    Column(title="What it does", cell=lambda method: text.plain(method.summary), align="left"),
    Column(title="Source", cell=lambda method: text.plain(method.citation), align="left"),
)


def _method_table(view: RunView) -> Table:
    found = {
        (row.case.task, row.case.method): _Method(
            task=row.case.task,
            name=row.case.method,
            role=row.facts.role,
            summary=row.facts.summary,
            citation=row.facts.citation,
        )
        for row in view.rows
        if row.facts is not None
    }
    return build(list(found.values()), _METHOD_COLUMNS)
