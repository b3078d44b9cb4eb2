"""`iroot bench bisect`: the revision since which a case is slower, less accurate or broken."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli.common import DeviceOption, JsonOption, StoreOption, console, errors_console, print_json, store_path
from harness.cli.progress import observed
from harness.cli.run import INTERRUPTED, ImportOption, import_module

if TYPE_CHECKING:
    from pathlib import Path

    from harness.bisect_result import BisectResult, Trial
    from harness.bisect_run import BisectRequest
    from harness.launcher import Observer
    from harness.revisions import Commit

SHORT = 9
"""Digits of a commit's id, as in the other tables."""

CaseArgument = Annotated[str, typer.Argument(help="A case id, or a part of one or a filter that only one case fits.")]
GoodArgument = Annotated[str, typer.Argument(help="A git revision where the case is well.")]
BadArgument = Annotated[str, typer.Argument(help="A later git revision where it is not.")]
ManifestArgument = Annotated[str, typer.Argument(help="The manifest that declares the case: shipped, or a TOML file.")]
LaunchesOption = Annotated[
    int | None,
    typer.Option("--launches", min=3, help="Pairs of launches per revision; default: the manifest's launches."),
]
ThresholdOption = Annotated[
    float | None,
    typer.Option("--threshold", min=1e-4, max=0.99, help="The slowdown that counts; default: the case's own."),
]
AllOption = Annotated[
    bool, typer.Option("--all-commits", help="Suspect the commits of merged branches, too, not their merges alone.")
]


def bisect(
    case: CaseArgument,
    good: GoodArgument,
    bad: BadArgument,
    manifest: ManifestArgument = "quick",
    launches: LaunchesOption = None,
    threshold: ThresholdOption = None,
    all_commits: AllOption = False,
    device: DeviceOption = None,
    imports: ImportOption = None,
    json: JsonOption = False,
    store: StoreOption = None,
) -> None:
    """Find the first revision after GOOD, up to BAD, that made a case slower, less accurate or broken.

    BAD is measured against GOOD first, in interleaved launches as `ab` does it; if it is worse, revisions between them
    are, half of the rest each time. One that stays undecided is measured again with twice and four times the launches,
    then skipped, and so is one that cannot be measured. Only commits that touch iroot/ count; neither the working tree
    nor the repository is changed. A killed search goes on where it was: measured revisions are taken from the store.

    A revision is well only where the case is shown not to be slower by the threshold. Where BAD is slower by far, a
    large --threshold (0.5 for twice the time) finds the same commit with fewer launches, on a noisy machine above all.

    Exit code 0: found; 1: BAD is not worse than GOOD; 2: wrong use; 3: skipped revisions leave several suspects, or too
    noisy to say whether BAD is worse; 4: GOOD or BAD cannot be measured.

    Examples:

        iroot bench bisect polar/polar_express/bf16/1024x1024/gaussian/graph v1.0 main

        iroot bench bisect 'task=polar,method=aol,n=2048' HEAD~20 HEAD --launches 10 --threshold 0.05
    """
    from harness.bisect_run import run_bisect

    for module in imports or []:
        import_module(module)
    request = _request(case, good, bad, manifest, store_path(store), launches=launches, threshold=threshold,
                       all_commits=all_commits, device=device, imports=tuple(imports or ()))  # fmt: skip
    try:
        result = run_bisect(request, _Watch())
    except KeyboardInterrupt:
        errors_console().print("interrupted; measured revisions are kept: the same command goes on", soft_wrap=True)
        raise typer.Exit(INTERRUPTED) from None
    if json:
        found = {"exit_code": int(result.exit_code), "first_bad": result.first_bad}
        print_json({**found, **result.model_dump(mode="json")})
    else:
        _print(result)
    raise typer.Exit(result.exit_code)


def _request(
    case: str,
    good: str,
    bad: str,
    manifest: str,
    store: Path,
    *,
    launches: int | None,
    threshold: float | None,
    all_commits: bool,
    device: str | None,
    imports: tuple[str, ...],
) -> BisectRequest:
    from harness.bisect import Effort
    from harness.bisect_run import BisectRequest
    from harness.cli.devices import device_name, require_device
    from harness.manifest import load_manifest
    from harness.paths import project_root

    name = device_name(device)
    require_device(name)
    loaded = load_manifest(manifest)
    return BisectRequest(
        case=case,
        good=good,
        bad=bad,
        repository=project_root(),
        manifest=loaded,
        device=name,
        store=store,
        effort=Effort(launches=launches or loaded.launches),
        threshold=threshold,
        walk="all" if all_commits else "first-parent",
        imports=imports,
    )


class _Watch:
    """Lines on stderr: what is measured next, and what was found."""

    def begun(self, case_id: str, suspects: int) -> None:
        from harness.report import format as text

        _say(f"{case_id}: {text.count(suspects, 'suspect')}")

    def measuring(self, tested: Commit, launches: int) -> None:
        _say(f"{tested.revision[:SHORT]} {tested.subject}: {launches} pairs of launches")

    def tested(self, trial: Trial) -> None:
        from harness.report import format as text

        row = trial.row
        figures = [f"{text.ratio(row.ratio)} ({text.interval(row.low, row.high)})"] if row and row.ratio else []
        before = ["measured before"] if trial.remembered else []
        _say(f"{trial.revision[:SHORT]} is {', '.join([str(trial.answer), *figures, *before])}")

    def observing(self) -> AbstractContextManager[Observer]:
        return observed(errors_console())


def _say(line: str) -> None:
    errors_console().print(line, markup=False, soft_wrap=True)


def _print(result: BisectResult) -> None:
    from rich.markup import escape

    from harness.cli.tables import plain_table
    from harness.report import format as text

    table = plain_table("revision", "answer", "verdict", "ratio", "interval", "pairs", "commit", folding=("commit",))
    table.add_row(result.good[:SHORT], "good", "", text.ratio(1.0), "", "", "GOOD, the reference")
    for trial in result.trials:
        row = trial.row
        figures = ("", "", "", "") if row is None else (
            str(row.verdict), text.ratio(row.ratio), text.interval(row.low, row.high), str(row.launches)
        )  # fmt: skip
        table.add_row(trial.revision[:SHORT], str(trial.answer), *figures, escape(_remark(trial)))
    console().print(result.case_id, markup=False, soft_wrap=True)
    console().print(table)
    for line in _conclusion(result):
        console().print(line, markup=False, soft_wrap=True)


def _remark(trial: Trial) -> str:
    open_ = trial.answer in ("skip", "undecided")
    return f"{trial.subject} ({trial.reason})" if open_ and trial.reason else trial.subject


def _conclusion(result: BisectResult) -> list[str]:
    suspects = [f"{each.revision} {each.subject}" for each in result.suspects]
    worse = f"{result.bad[:SHORT]} is {{}} than {result.good[:SHORT]}"
    match result.outcome:
        case "found":
            return [f"{result.symptom} since {suspects[0]}"]
        case "narrowed":
            head = f"{result.symptom} since one of these {len(suspects)}; all but the last could not be decided:"
            easier = result.easier_threshold
            more = [] if easier is None else [f"--threshold {easier:.2g} would need fewer pairs: BAD is slower by far"]
            return [head, *(f"  {each}" for each in suspects), *more]
        case "not_worse":
            return [f"{worse.format('not worse')}: there is nothing to search"]
        case "undecided":
            return [f"too noisy to say whether {worse.format('worse')}; --launches asks for more than these"]
