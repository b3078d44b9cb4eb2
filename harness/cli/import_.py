"""`iroot bench import`: exported runs, and samples of other benchmark programs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli.common import JsonOption, StoreOption, console, print_json, store_path
from harness.errors import UsageError

if TYPE_CHECKING:
    from harness.records import RunRecord
    from harness.store import Store

PathsArgument = Annotated[
    list[Path],
    typer.Argument(metavar="FOLDER | FILE...", help="An exported run, or samples of another benchmark program."),
]
NameOption = Annotated[
    str | None, typer.Option("--run", metavar="NAME", help="What the run made of FILE is called in the store.")
]
PairedOption = Annotated[
    bool,
    typer.Option(
        "--paired",
        help="The launches alternated with those of the run to compare with: equal launch numbers are pairs, "
        "judged at a minimum effect of 2.0 % instead of 3.4 %.",
    ),
]


def import_(
    paths: PathsArgument,
    run: NameOption = None,
    paired: PairedOption = False,
    json: JsonOption = False,
    store: StoreOption = None,
) -> None:
    """Take an exported run, or samples of another benchmark program, into the store. An existing run is refused.

    A FILE is a table (CSV or Parquet with the columns launch, case, seconds, and optionally arm), or the JSON of
    pytest-benchmark, Google Benchmark or nvbench; its content decides. A launch is a fresh process: of several JSON
    files each is one; a table numbers them; of a single Google Benchmark file each repetition stands for one.

    Two single runs may differ by 1.4 % on identical code, which is added to the threshold of 2.0 %. Let launches of
    the two sides alternate and say so with --paired: nothing is added, and a slowdown of 3 % can be called.

    Examples:

        iroot bench import /tmp/run

        iroot bench import before.csv --run before --paired

        iroot bench import session1.json session2.json session3.json --run main
    """
    from harness.store import Store

    opened = Store(store_path(store))
    imported: tuple[RunRecord, ...]
    if any(path.is_dir() for path in paths) or not paths[0].exists():
        imported = (_exported(opened, paths, options_given=run is not None or paired),)
    else:
        from harness.external import import_external

        if run is None:
            raise UsageError(f"{paths[0]} is a file of samples: name the run it becomes with --run NAME")
        imported = import_external(opened, paths, run, interleaved=paired)
    if json:
        print_json([{"run_id": each.run_id, "cases": len(each.cases), "launches": each.launches} for each in imported])
        return
    for each in imported:
        console().print(f"imported {each.run_id}", markup=False, soft_wrap=True)


def _exported(store: Store, paths: list[Path], *, options_given: bool) -> RunRecord:
    from harness.transfer import import_run

    if paths[0].exists() and (len(paths) > 1 or options_given):
        raise UsageError("an exported run is one folder and keeps its own name: give no other path, --run or --paired")
    return import_run(store, paths[0])
