"""What a run's report shows, as values: task -> p -> shape -> problem -> rows, and which method to use for each."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

from harness.records import Case, CaseSummary, Mode, Outcome, PlannedCase, Quality, RunSummary
from harness.report.catalog import Catalog, MethodFacts, opponent_of, registry_facts, target_error
from harness.report.roofline import share_of_roofline

COLLAPSE_ABOVE = 40
"""Rows from which on a table is split or folded away."""

MODE_ORDER = (Mode.GRAPH, Mode.COMPILE, Mode.EAGER)


@dataclass(frozen=True, kw_only=True)
class ErrorSpread:
    """A figure over problem seeds. p90 and p95 by nearest rank: a value that was seen. A non-finite result is inf."""

    median: float
    p90: float
    p95: float
    worst: float


@dataclass(frozen=True, kw_only=True)
class ResultRow:
    """One case of a run. Figures that do not exist are None.

    Attributes:
        time_s: geometric mean of the launch medians, seconds per call.
        spread: standard deviation of the log launch medians, a fraction.
        roofline: share of what the hardware allows, `harness.report.roofline`.
        vs_fastest: time over the shortest within the target error, same problem and mode; None where none is within.
        vs_opponent: time over that of the task's opponent, same problem and mode.
        residual, symmetry, orthogonality: medians over the problem seeds.
        nonfinite_share: share of the problem seeds whose result held a non-finite entry.
        meets_target: finite on every seed with the worst error within `target`; None without quality figures.
    """

    planned: PlannedCase
    outcome: Outcome
    reason: str | None
    facts: MethodFacts | None
    launches: int
    time_s: float | None
    spread: float | None
    tflops: float | None
    roofline: float | None
    error: ErrorSpread | None
    residual: float | None
    symmetry: float | None
    orthogonality: float | None
    nonfinite_share: float | None
    peak_bytes: int | None
    first_call_s: float | None
    throttled: bool
    target: float
    meets_target: bool | None
    vs_fastest: float | None = None
    vs_opponent: float | None = None

    @property
    def case(self) -> Case:
        """The measured case."""
        return self.planned.case

    @property
    def method_text(self) -> str:
        """Method, with the options that differ from its defaults."""
        return f"{self.case.method} ({self.case.options_text})" if self.case.options else self.case.method

    @property
    def expected(self) -> bool:
        """Whether the manifest expects this outcome."""
        return self.outcome == self.planned.expect


@dataclass(frozen=True, kw_only=True)
class ProblemGroup:
    """Rows of one problem, by mode, then time; those without a time last."""

    problem: str
    rows: tuple[ResultRow, ...]

    def best_time(self, mode: Mode) -> float | None:
        """The shortest time of a mode within the target error, to be printed bold."""
        return _shortest_within_target([row for row in self.rows if row.case.mode is mode])

    @property
    def least_error(self) -> float | None:
        """The smallest median error of the problem: the figure to print bold."""
        errors = [row.error.median for row in self.rows if row.error and row.outcome is Outcome.OK]
        return min(errors, default=None)


@dataclass(frozen=True, kw_only=True)
class ShapeGroup:
    """Problems of one shape."""

    shape: str
    problems: tuple[ProblemGroup, ...]

    @property
    def rows(self) -> tuple[ResultRow, ...]:
        """Every row, in order."""
        return tuple(row for problem in self.problems for row in problem.rows)

    @property
    def parts(self) -> tuple[ShapeGroup, ...]:
        """What is shown in one table each: the whole shape, or its problems one by one where it has many rows."""
        if len(self.rows) <= COLLAPSE_ABOVE:
            return (self,)
        return tuple(replace(self, problems=(problem,)) for problem in self.problems)


@dataclass(frozen=True, kw_only=True)
class RootGroup:
    """Shapes of one root; p is None where the task takes none."""

    p: int | None
    shapes: tuple[ShapeGroup, ...]


@dataclass(frozen=True, kw_only=True)
class TaskGroup:
    """One task of a run."""

    task: str
    roots: tuple[RootGroup, ...]


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The answer to "which method should I use?" for one problem.

    row: the fastest method that meets the target, or the most accurate one if none does, or None if none gave a result.
    """

    task: str
    p: int | None
    shape: str
    problem: str
    target: float
    row: ResultRow | None
    meets: bool


@dataclass(frozen=True, kw_only=True)
class RunView:
    """A run as its report shows it. `unmeasured`: planned cases without any result."""

    summary: RunSummary
    tasks: tuple[TaskGroup, ...]
    choices: tuple[Choice, ...]
    unmeasured: tuple[PlannedCase, ...]

    @property
    def rows(self) -> tuple[ResultRow, ...]:
        """Every row, in order."""
        return tuple(row for task in self.tasks for root in task.roots for shape in root.shapes for row in shape.rows)

    @property
    def ok(self) -> int:
        """Number of cases that were measured without a fault."""
        return sum(row.outcome is Outcome.OK for row in self.rows)

    @property
    def outcomes(self) -> dict[Outcome, int]:
        """Number of cases per outcome, in the order of `Outcome`, zeros left out."""
        every = [row.outcome for row in self.rows]
        return {outcome: every.count(outcome) for outcome in Outcome if outcome in every}


def run_view(summary: RunSummary, *, catalog: Catalog = registry_facts) -> RunView:
    """Order a run's cases by task, p, shape and problem, and choose the method to use for each problem."""
    tasks = tuple(
        TaskGroup(
            task=task,
            roots=tuple(
                RootGroup(p=p, shapes=tuple(_shape_group(shape, rows) for shape, rows in _by_shape(of_root)))
                for p, of_root in _by_root(of_task)
            ),
        )
        for task, of_task in grouped(
            [_result_row(case, catalog, model=summary.run.machine.model) for case in summary.cases.values()],
            lambda row: row.case.task,
        )
    )
    choices = [
        _choice(task.task, root.p, shape.shape, problem)
        for task in tasks
        for root in task.roots
        for shape in root.shapes
        for problem in shape.problems
        if any(_selectable(row) for row in problem.rows)
    ]
    unmeasured = tuple(planned for planned in summary.run.cases if planned.case.case_id not in summary.cases)
    return RunView(summary=summary, tasks=tasks, choices=tuple(choices), unmeasured=unmeasured)


# --- grouping, shared with the comparison's view ----------------------------------------------------------------------


class HasCase(Protocol):
    """Anything that belongs to one case."""

    @property
    def case(self) -> Case:
        """The case."""


RowT = TypeVar("RowT")
CaseRowT = TypeVar("CaseRowT", bound=HasCase)
KeyT = TypeVar("KeyT")


def grouped(rows: Iterable[RowT], key: Callable[[RowT], KeyT]) -> list[tuple[KeyT, list[RowT]]]:
    """Rows by key, keys in order of first appearance: a manifest's own order is its author's."""
    found: dict[KeyT, list[RowT]] = {}
    for row in rows:
        found.setdefault(key(row), []).append(row)
    return list(found.items())


def _by_root(rows: Sequence[CaseRowT]) -> list[tuple[int | None, list[CaseRowT]]]:
    return sorted(grouped(rows, lambda row: row.case.p), key=lambda group: group[0] or 0)


def _by_shape(rows: Sequence[CaseRowT]) -> list[tuple[str, list[CaseRowT]]]:
    def volume(group: tuple[str, list[CaseRowT]]) -> tuple[int, int, int, str]:
        case = group[1][0].case
        return case.m * case.n, case.batch, case.k or 0, group[0]

    return sorted(grouped(rows, lambda row: row.case.shape_id), key=volume)


def hierarchical(rows: Iterable[CaseRowT]) -> list[CaseRowT]:
    """Rows in the order task -> p -> shape -> problem, then mode, else as they came."""
    ordered: list[CaseRowT] = []
    for _, of_task in grouped(rows, lambda row: row.case.task):
        for _, of_root in _by_root(of_task):
            for _, of_shape in _by_shape(of_root):
                for _, of_problem in grouped(of_shape, lambda row: row.case.problem):
                    ordered += sorted(of_problem, key=lambda row: MODE_ORDER.index(row.case.mode))
    return ordered


# --- rows -------------------------------------------------------------------------------------------------------------


def _result_row(summary: CaseSummary, catalog: Catalog, *, model: str) -> ResultRow:
    case = summary.planned.case
    facts = catalog(case)
    ok = summary.outcome is Outcome.OK
    logs = [math.log(median) for median in summary.launch_medians_s.values()] if ok else []
    time_s = math.exp(statistics.fmean(logs)) if logs else None
    flops = facts.flops if facts else None
    target = target_error(case.task, summary.planned.target_error)
    error = _error_spread(summary.quality)
    return ResultRow(
        planned=summary.planned,
        outcome=summary.outcome,
        reason=summary.error,
        facts=facts,
        launches=len(logs),
        time_s=time_s,
        spread=statistics.stdev(logs) if len(logs) > 1 else None,
        tflops=flops / time_s / 1e12 if flops and time_s else None,
        roofline=_roofline(case, facts, time_s, model=model),
        error=error,
        residual=_median(summary.quality, lambda quality: quality.residual),
        symmetry=_median(summary.quality, lambda quality: quality.symmetry),
        orthogonality=_median(summary.quality, lambda quality: quality.orthogonality),
        nonfinite_share=_nonfinite_share(summary.quality),
        peak_bytes=summary.peak_bytes,
        first_call_s=summary.first_call_s,
        throttled=summary.throttled,
        target=target,
        meets_target=None if error is None or not ok else error.worst <= target,
    )


def _roofline(case: Case, facts: MethodFacts | None, time_s: float | None, *, model: str) -> float | None:
    if facts is None or time_s is None:
        return None
    return share_of_roofline(
        time_s, model=model, precision=case.precision, flops=facts.flops, bytes_moved=facts.bytes_moved
    )


def _seed_values(quality: Iterable[Quality], figure: Callable[[Quality], float | None]) -> list[float]:
    """One value per seed that has the figure; a non-finite result or figure counts as an infinite error."""
    values = []
    for seed in quality:
        value = figure(seed)
        if value is None and not seed.nonfinite:
            continue
        values.append(math.inf if seed.nonfinite or value is None or not math.isfinite(value) else value)
    return sorted(values)


def _error_spread(quality: Sequence[Quality]) -> ErrorSpread | None:
    values = _seed_values(quality, lambda seed: seed.relative_error)
    if not values:
        return None

    def nearest_rank(share: float) -> float:
        return values[math.ceil(share * len(values)) - 1]

    return ErrorSpread(
        median=statistics.median(values), p90=nearest_rank(0.90), p95=nearest_rank(0.95), worst=values[-1]
    )


def _median(quality: Sequence[Quality], figure: Callable[[Quality], float | None]) -> float | None:
    if all(figure(seed) is None for seed in quality):
        return None
    return statistics.median(_seed_values(quality, figure))


def _nonfinite_share(quality: Sequence[Quality]) -> float | None:
    if not quality:
        return None
    return sum(seed.nonfinite > 0 for seed in quality) / len(quality)


# --- relative times and the choice ------------------------------------------------------------------------------------


def _shape_group(shape: str, rows: Sequence[ResultRow]) -> ShapeGroup:
    problems = grouped(rows, lambda row: row.case.problem)
    return ShapeGroup(
        shape=shape, problems=tuple(ProblemGroup(problem=name, rows=_related(group)) for name, group in problems)
    )


def _related(rows: Sequence[ResultRow]) -> tuple[ResultRow, ...]:
    """Rows of one problem with their relative times; like with like: an eager time includes the host's work."""
    found: list[ResultRow] = []
    for _, of_mode in sorted(grouped(rows, lambda row: row.case.mode), key=lambda g: MODE_ORDER.index(g[0])):
        fastest = _shortest_within_target(of_mode)
        opponent = _opponent_time(of_mode)
        found += [
            replace(row, vs_fastest=_over(row.time_s, fastest), vs_opponent=_over(row.time_s, opponent))
            for row in sorted(of_mode, key=lambda row: (row.time_s or math.inf, row.case.case_id))
        ]
    return tuple(found)


def _shortest_within_target(rows: Sequence[ResultRow]) -> float | None:
    """A wrong answer is never the best, however soon it comes."""
    return min((row.time_s for row in rows if row.meets_target and row.time_s), default=None)


def _over(time_s: float | None, reference_s: float | None) -> float | None:
    return time_s / reference_s if time_s and reference_s else None


def _opponent_time(rows: Sequence[ResultRow]) -> float | None:
    opponent = opponent_of(rows[0].case.task)
    if opponent is None:
        return None
    times = {
        row.case.precision: row.time_s
        for row in rows
        if row.case.method == opponent.method and not row.case.options and row.time_s
    }
    return next((times[name] for name in opponent.precisions if name in times), None)


def _selectable(row: ResultRow) -> bool:
    """A reader may choose it: control kernels and building blocks are no answer to a task."""
    return not row.planned.control and (row.facts is None or row.facts.role != "control")


def _choice(task: str, p: int | None, shape: str, problem: ProblemGroup) -> Choice:
    rows = [row for row in problem.rows if _selectable(row)]
    timed = [row for row in rows if row.time_s is not None]
    meeting = [row for row in timed if row.meets_target]
    target = rows[0].target
    if meeting:
        best = min(meeting, key=lambda row: row.time_s or math.inf)
        return Choice(task=task, p=p, shape=shape, problem=problem.problem, target=best.target, row=best, meets=True)
    judged = [row for row in timed if row.error is not None and math.isfinite(row.error.worst)]
    nearest = min(judged, key=lambda row: row.error.worst if row.error else math.inf, default=None)
    return Choice(task=task, p=p, shape=shape, problem=problem.problem, target=target, row=nearest, meets=False)
