"""Shows what the store and the comparison cost at full size, on this machine; exit code 1 beyond the limits.

    python ci/benchmark_store.py

Two runs of 10,000 cases x 5 launches x 20 samples go into a new store, launch by launch as a run does; then both are
reduced to summaries and compared.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

from harness.compare import compare
from harness.records import LaunchRecord, RunRecord, RunStatus, RunSummary
from harness.store import Store
from harness.tests import factories

CASES, LAUNCHES, SAMPLES = 10_000, 5, 20
INGEST_LIMIT_S = 5.0
COMPARE_LIMIT_S = 5.0


@dataclass
class Stopwatch:
    """Wall seconds per step, in the order first measured."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Add the time spent inside to `name`."""
        start = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


def main() -> int:
    """Measure, print the table, return the exit code."""
    watch = Stopwatch()
    cases = tuple(
        factories.make_planned(factories.make_case(n=8 * (i + 1), problem=problem))
        for i in range(CASES // 4)
        for problem in ("wishart", "spike", "logspace_1e4", "power_law")
    )
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder) / "benchmark.duckdb")
        for number in (1, 2):
            _ingest(store, factories.make_run(cases, number=number, launches=LAUNCHES), watch)
        summaries = [_summarize(store, run, watch) for run in store.runs()]
        size_mb = store.path.stat().st_size / 1e6
    candidate, reference = summaries
    with watch.step("compare"):
        comparison = compare(candidate, reference, kind="run")
    assert len(comparison.verdicts) == CASES, len(comparison.verdicts)
    return _report(watch, size_mb)


def _ingest(store: Store, run: RunRecord, watch: Stopwatch) -> None:
    with watch.step("create run"):
        store.create_run(run)
    for number in range(1, LAUNCHES + 1):
        launch = _launch(run, number)
        with watch.step("ingest"):
            store.ingest_launch(launch)
    store.finish_run(run.run_id, RunStatus.COMPLETE)


def _launch(run: RunRecord, number: int) -> LaunchRecord:
    results = [factories.make_result(planned, number, samples=SAMPLES) for planned in run.cases]
    return factories.make_launch(run, number, results=results)


def _summarize(store: Store, run: RunRecord, watch: Stopwatch) -> RunSummary:
    with watch.step("summary"):
        return store.summary(run.run_id)


def _report(watch: Stopwatch, size_mb: float) -> int:
    runs = 2
    samples = CASES * LAUNCHES * SAMPLES
    rows = [
        (f"plan a run of {CASES:,} cases", watch.seconds["create run"] / runs, None),
        (f"ingest {samples:,} samples in {LAUNCHES} launches", watch.seconds["ingest"] / runs, INGEST_LIMIT_S),
        (f"reduce a run of {samples:,} samples to a summary", watch.seconds["summary"] / runs, None),
        (f"compare {CASES:,} cases of two summaries", watch.seconds["compare"], COMPARE_LIMIT_S),
    ]
    table = Table("step", "seconds", "limit", "within")
    for name, seconds, limit in rows:
        within = "" if limit is None else "yes" if seconds < limit else "NO"
        table.add_row(name, f"{seconds:.2f}", "" if limit is None else f"{limit:g}", within)
    console = Console()
    console.print(table)
    console.print(f"file: {size_mb:.1f} MB for {runs} runs")
    return int(any(limit is not None and seconds >= limit for _, seconds, limit in rows))


if __name__ == "__main__":
    sys.exit(main())
