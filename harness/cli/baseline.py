"""`iroot bench baseline`: the official references in `baselines/`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli.common import JsonOption, StoreOption, console, print_json, run_id_of, store_path
from harness.errors import BaselineError

if TYPE_CHECKING:
    from harness.records import SourceIdentity

baseline_app = typer.Typer(
    name="baseline", help="List, show, promote, verify and diff official baselines.", no_args_is_help=True
)

RootOption = Annotated[
    Path | None,
    typer.Option("--root", help="Folder of baselines.", show_default="baselines/ of the checkout", file_okay=False),
]
NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="MACHINE/MANIFEST, or MANIFEST where it is unique.")]
NamesArgument = Annotated[
    list[str] | None, typer.Argument(metavar="[NAME]...", help="MACHINE/MANIFEST or MANIFEST; default: all.")
]
RunsArgument = Annotated[
    list[str], typer.Argument(metavar="RUN...", help="Run ids, unique beginnings of them, or 'latest'.")
]
ReasonOption = Annotated[str, typer.Option("--reason", help="Why this is the reference from now on.")]
CasesOption = Annotated[
    str | None,
    typer.Option("--cases", metavar="FILTER", help="Replace or add these cases alone, e.g. task=polar,n>=1024."),
]
SideOption = Annotated[
    str,
    typer.Option("--against", metavar="REVISION|FOLDER", help="The state before: of a git revision, or in a folder."),
]
ProvisionalOption = Annotated[
    bool, typer.Option("--provisional", help="Accept fewer than 3 runs, or runs of fewer than 6 launches.")
]
LeaveRefusedOption = Annotated[
    bool,
    typer.Option(
        "--leave-refused", help="Promote the other cases; those refused stay as they are, or out, and are named."
    ),
]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Say what would change; write nothing.")]


def _root(root: Path | None) -> Path:
    from harness.paths import baselines_root

    return root if root is not None else baselines_root()


@baseline_app.command("list")
def list_(root: RootOption = None, json: JsonOption = False) -> None:
    """List the official baselines.

    Example:

        iroot bench baseline list
    """
    from rich.markup import escape

    from harness.baseline import list_baselines
    from harness.baseline_files import read_metadata
    from harness.cli.tables import plain_table
    from harness.report.format import REVISION_DIGITS

    folder = _root(root)
    found = [read_metadata(path) for path in list_baselines(folder)]
    if json:
        print_json([each.model_dump(mode="json", exclude={"runs", "cases"}) for each in found])
        return
    if not found:
        text = f"no baseline in {folder}; `iroot bench baseline promote RUN --reason WHY` makes one"
        console().print(text, markup=False, soft_wrap=True)
        return
    headers = ("machine", "manifest", "promoted", "revision", "runs", "cases", "reason")
    table = plain_table(*headers, folding=("machine", "reason"))
    for each in found:
        counts = (str(len(each.runs)), str(len(each.cases)))
        revision = each.revision[:REVISION_DIGITS]
        table.add_row(each.machine_class, each.manifest, each.promoted_on, revision, *counts, escape(each.reason))
    console().print(table)


@baseline_app.command("show")
def show(name: NameArgument, root: RootOption = None, json: JsonOption = False) -> None:
    """Show where a baseline comes from, and its cases.

    Example:

        iroot bench baseline show nvidia-h100-80gb-hbm3/quick
    """
    from harness.baseline import find_baseline, load_baseline
    from harness.baseline_files import read_metadata
    from harness.cli.tables import cases_table, facts_table

    path = find_baseline(_root(root), name)
    summary = load_baseline(path.parent.parent, path.parent.name, path.name)
    assert summary is not None
    if json:
        print_json(summary)
        return
    metadata = read_metadata(path)
    amendments = [f"{each.promoted_on} {each.filter}: {each.reason}" for each in metadata.amendments]
    origin = {
        "promoted": metadata.promoted_on,
        "reason": metadata.reason,
        "amended": "\n".join(amendments) or None,
        "left out": "\n".join(metadata.left_out.values()) or None,
    }
    console().print(facts_table(summary, origin))
    console().print(cases_table(summary))


@baseline_app.command("promote")
def promote(
    runs: RunsArgument,
    reason: ReasonOption,
    cases: CasesOption = None,
    leave_refused: LeaveRefusedOption = False,
    provisional: ProvisionalOption = False,
    dry_run: DryRunOption = False,
    root: RootOption = None,
    json: JsonOption = False,
    store: StoreOption = None,
) -> None:
    """Make runs the official baseline of their machine class and manifest.

    At least three runs of the same sources, of six launches or more, merge and tell later comparisons the spread
    between runs. An imported run is checked against the sources of this checkout. With --cases every other case stays
    as it is, byte for byte.

    Refused: fewer runs or launches, unless --provisional; cases that failed, were throttled, gave no finite result or
    lack launches, and gating cases whose launches spread too wide to resolve their threshold. One such case refuses the
    whole promotion, unless --leave-refused.

    Examples:

        iroot bench baseline promote 20260102-09 20260102-10 20260102-11 --reason 'new driver' --dry-run

        iroot bench baseline promote 2026010{3,4,5} --cases method=coupled_pe,n>=2048 --reason 'faster tiles'

        iroot bench baseline promote latest --reason 'until there are three runs' --provisional
    """
    from harness.baseline import prepare, require_official
    from harness.filters import flag_filter
    from harness.store import Store

    opened = Store(store_path(store))
    summaries = [opened.summary(run_id_of(opened, run)) for run in runs]
    imported = any(summary.run.imported_from is not None for summary in summaries)
    promotion = prepare(
        summaries,
        _root(root),
        reason=reason,
        cases=flag_filter("--cases", cases) if cases is not None else None,
        leave_refused=leave_refused,
        checkout=_checkout() if imported else None,
    )
    if not provisional:
        require_official(summaries)
    if not dry_run and promotion.changes:
        promotion.write()
    if json:
        result = {"folder": str(promotion.folder), "written": not dry_run and bool(promotion.changes)}
        print_json({**result, "changes": promotion.changes, "notes": promotion.notes})
        return
    verb = "would write" if dry_run else "wrote" if promotion.changes else "unchanged:"
    lines = [*promotion.changes, *(f"note: {note}" for note in promotion.notes), f"{verb} {promotion.folder}"]
    console().print("\n".join(lines), markup=False, soft_wrap=True)


@baseline_app.command("diff")
def diff(name: NameArgument, against: SideOption = "HEAD", root: RootOption = None, json: JsonOption = False) -> None:
    """Show what differs between a baseline and its state before, case by case.

    Examples:

        iroot bench baseline diff quick

        iroot bench baseline diff nvidia-h100-80gb-hbm3/production --against v0.1.0

        iroot bench baseline diff quick --against /tmp/baselines/nvidia-h100-80gb-hbm3/quick
    """
    from harness.baseline import find_baseline
    from harness.baseline_diff import cell_changes, metadata_changes
    from harness.baseline_files import from_folder
    from harness.baseline_history import state_before

    path = find_baseline(_root(root), name)
    before, after = state_before(path, against), from_folder(path)
    origin, changes = metadata_changes(before.metadata, after.metadata), cell_changes(before, after)
    same = len(after.case_ids) - sum(change.kind not in ("removed",) for change in changes)
    if json:
        cells = [
            {
                "case": each.case_id,
                "change": each.kind,
                "notable": each.notable,
                "before": {"outcome": each.before, "time_s": each.before_s},
                "after": {"outcome": each.after, "time_s": each.after_s},
                "ratio": each.ratio,
            }
            for each in changes
        ]
        print_json({"origin": origin, "identical": same, "cases": cells})
        return
    lines = [*origin, *(each.text for each in changes), f"{same} of {len(after.case_ids)} cases are identical"]
    console().print("\n".join(lines), markup=False, soft_wrap=True)


def _checkout() -> SourceIdentity:
    from harness.environment import source_identity
    from harness.paths import project_root

    return source_identity(project_root())


@baseline_app.command("verify")
def verify(names: NamesArgument = None, root: RootOption = None, json: JsonOption = False) -> None:
    """Check checksums, schema and consistency of baselines. Exit code 1 if one is damaged.

    Example:

        iroot bench baseline verify
    """
    from harness.baseline import find_baseline, list_baselines, verify_baseline

    folder = _root(root)
    paths = [find_baseline(folder, name) for name in names] if names else list(list_baselines(folder))
    problems = {f"{path.parent.name}/{path.name}": verify_baseline(path) for path in paths}
    damaged = {name: found for name, found in problems.items() if found}
    if json:
        print_json(problems)
    else:
        for name in problems:
            console().print(f"{name}: {'damaged' if name in damaged else 'good'}", markup=False)
        if not problems:
            console().print(f"no baseline in {folder}", markup=False, soft_wrap=True)
    if damaged:
        lines = [f"{name}: {problem}" for name, found in damaged.items() for problem in found]
        raise BaselineError("\n  ".join([f"{len(damaged)} of {len(problems)} baselines are damaged", *lines]))
