"""What a comparison shows, as values: rows in hierarchy, the bottom line, and the marks every table must carry."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from harness.records import CaseVerdict, Comparison, Design, Verdict
from harness.reference import reference_label
from harness.report.format import code, count, listing, plain, ratio
from harness.report.hints import changed_resources, resource_line
from harness.report.view import COLLAPSE_ABOVE, grouped, hierarchical

WORSE = (Verdict.REGRESSED, Verdict.LESS_ACCURATE, Verdict.TRADE, Verdict.BROKEN, Verdict.MISSING)
"""Verdicts that a reader must look at."""

BETTER = (Verdict.IMPROVED, Verdict.MORE_ACCURATE, Verdict.FIXED)

_DESIGNS: dict[Design, str] = {
    "paired": "the launches of both sides alternated, and neighbours are compared",
    "blocked": "launches of both sides that measured the cases in the same order are compared",
    "unpaired": "the launches of either side count as independent",
}


@dataclass(frozen=True, kw_only=True)
class RootVerdicts:
    """Rows of one task and root, by shape and problem."""

    p: int | None
    rows: tuple[CaseVerdict, ...]


@dataclass(frozen=True, kw_only=True)
class TaskVerdicts:
    """Rows of one task."""

    task: str
    roots: tuple[RootVerdicts, ...]


@dataclass(frozen=True, kw_only=True)
class Mark:
    """Something that qualifies every figure of a comparison: a short form for tables, a sentence for the notes."""

    short: str
    sentence: str


@dataclass(frozen=True, kw_only=True)
class ComparisonView:
    """A comparison as its report shows it."""

    comparison: Comparison
    label: str
    bottom_line: str
    marks: tuple[Mark, ...]
    tasks: tuple[TaskVerdicts, ...]

    @property
    def rows(self) -> tuple[CaseVerdict, ...]:
        """Every row, in order."""
        return tuple(row for task in self.tasks for root in task.roots for row in root.rows)

    @property
    def notable(self) -> tuple[CaseVerdict, ...]:
        """Rows that are not `unchanged`, in time and accuracy or in a resource."""
        return tuple(row for row in self.rows if is_notable(row))

    @property
    def long(self) -> bool:
        """Too long for every row to be shown unasked; the notable ones are."""
        return len(self.rows) > COLLAPSE_ABOVE

    @property
    def notes(self) -> tuple[str, ...]:
        """What qualifies the verdicts and how they were reached, in Markdown sentences."""
        reached = tuple(f"{plain(note[:1].upper() + note[1:])}." for note in self.comparison.notes)
        return tuple(mark.sentence for mark in self.marks) + reached

    @property
    def design_text(self) -> str:
        """Which launches were compared with which."""
        return _DESIGNS[self.comparison.design]

    @property
    def marks_text(self) -> str:
        """The short marks, to be set beside every table."""
        return " · ".join(mark.short for mark in self.marks)


def is_notable(row: CaseVerdict) -> bool:
    """Whether something about the case changed or could not be decided."""
    return row.verdict is not Verdict.UNCHANGED or any(changed_resources(row))


def comparison_view(comparison: Comparison) -> ComparisonView:
    """Order a comparison's rows by task, p, shape and problem, and say what it comes to."""
    rows = hierarchical(comparison.verdicts)
    tasks = tuple(
        TaskVerdicts(
            task=task,
            roots=tuple(
                RootVerdicts(p=p, rows=tuple(of_root)) for p, of_root in grouped(of_task, lambda row: row.case.p)
            ),
        )
        for task, of_task in grouped(rows, lambda row: row.case.task)
    )
    return ComparisonView(
        comparison=comparison,
        label=reference_label(comparison.kind, comparison.reference),
        bottom_line=" ".join(filter(None, [bottom_line(comparison.verdicts), resource_line(comparison.verdicts)])),
        marks=marks_of(comparison),
        tasks=tasks,
    )


def bottom_line(verdicts: Sequence[CaseVerdict]) -> str:
    """One or two sentences: what got worse, else what got better, else that nothing changed; then what is open."""
    if not verdicts:
        return "There is no case to compare."
    worse, better = _counted(verdicts, WORSE), _counted(verdicts, BETTER)
    undecided = [row for row in verdicts if row.verdict is Verdict.INCONCLUSIVE]
    total = count(len(verdicts), "case")
    if worse:
        line = f"{worse} among {total}."
        if better:
            line += f" Better: {better}."
    elif better:
        line = f"Nothing got worse among {total}. Better: {better}."
    elif undecided:
        return f"No regression found; {_undecided(undecided, len(verdicts))}"
    else:
        line = f"No significant change among {total}."
    new = sum(row.verdict is Verdict.NEW for row in verdicts)
    if new:
        line += f" New, with nothing to compare: {new}."
    return f"{line} {_undecided(undecided, len(verdicts))}" if undecided else line


def _undecided(rows: Sequence[CaseVerdict], total: int) -> str:
    """How many cases are open, and what a reader can do about it."""
    noisy = sum(row.high is not None for row in rows)
    share = f"{len(rows)} of {count(total, 'case')}"
    if noisy == len(rows):
        were = "was" if noisy == 1 else "were"
        return f"{share} {were} too noisy to judge on this machine: end other programs, or measure more launches."
    if noisy:
        return f"{share} could not be judged, {noisy} of them for noise: the notes say what is missing."
    return f"{share} could not be judged: the notes say what is missing."


def _counted(verdicts: Sequence[CaseVerdict], kinds: Sequence[Verdict]) -> str:
    parts = []
    for kind in kinds:
        rows = [row for row in verdicts if row.verdict is kind]
        if rows:
            advisory = sum(not row.gates for row in rows)
            aside = f" ({advisory} advisory)" if advisory else ""
            parts.append(f"{len(rows)} {kind}{aside}")
    return listing(parts)


def marks_of(comparison: Comparison) -> tuple[Mark, ...]:
    """Everything that makes the two sides unlike or the verdicts weaker than they look."""
    marks = []
    if comparison.hardware_differences:
        how = "compared on request" if comparison.forced else "compared"
        marks.append(_difference("unlike machines", f"Unlike machines were {how}", comparison.hardware_differences))
    if comparison.another_unit:
        marks.append(
            Mark(
                short="another unit",
                sentence="The reference was measured on another unit of the same model: units differ by up to 3 % on "
                "GPU-bound kernels and by more on launch-bound ones.",
            )
        )
    if comparison.software_differences:
        marks.append(_difference("other software", "The software differs", comparison.software_differences))
    if comparison.qualification is None:
        marks.append(
            Mark(
                short="unqualified",
                sentence="The verdicts are unqualified: this machine's own noise has not been measured "
                "(`iroot bench qualify`). The thresholds are the manifest's, widened by typical spreads where a note "
                "says so.",
            )
        )
    if comparison.control_ratios:
        marks.append(_control_mark(comparison))
    return tuple(marks)


def _difference(short: str, sentence: str, differences: Sequence[str]) -> Mark:
    return Mark(short=short, sentence=f"{sentence} (this run != reference): {plain('; '.join(differences))}.")


def _control_mark(comparison: Comparison) -> Mark:
    ratios = listing([f"{ratio(value)} ({code(case)})" for case, value in sorted(comparison.control_ratios.items())])
    by = ratio(comparison.control_correction)
    modes = {row.case.mode for row in comparison.verdicts if row.case_id in comparison.control_ratios}
    cases = f"{listing(sorted(modes))} cases" if modes else "cases executed like them"
    return Mark(
        short=f"corrected by {by}",
        sentence=f"Control kernels, code that the project does not own, took {ratios} times as long as in the "
        f"reference: that is taken for the machine's own change. Ratios of {cases} were divided by {by}; those of "
        "other modes, and of the controls themselves, are as measured.",
    )
