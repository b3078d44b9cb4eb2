"""`iroot bench ab`: two revisions, folders or environments, interleaved on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli.common import DeviceOption, JsonOption, StoreOption, console, errors_console, print_json, store_path
from harness.cli.compare import AllOption
from harness.cli.progress import observed

if TYPE_CHECKING:
    from harness.paired import PairedRequest

DEFAULT_MANIFEST = "quick"

ArmArgument = Annotated[str, typer.Argument(help="A git revision, a folder that holds iroot/, or WORKTREE.")]
ManifestArgument = Annotated[str, typer.Argument(help="A shipped manifest or a TOML file.")]
PairsOption = Annotated[int | None, typer.Option("--pairs", min=1, help="Pairs of launches; default: the manifest's.")]
FilterOption = Annotated[str | None, typer.Option(metavar="EXPR", help="Cases to keep: 'task=polar,n>=1024'.")]
PythonAOption = Annotated[str | None, typer.Option("--python-a", metavar="EXE", help="Interpreter that measures A.")]
PythonBOption = Annotated[str | None, typer.Option("--python-b", metavar="EXE", help="Interpreter that measures B.")]


def ab(
    a: ArmArgument,
    b: ArmArgument,
    manifest: ManifestArgument = DEFAULT_MANIFEST,
    pairs: PairsOption = None,
    filter: FilterOption = None,
    device: DeviceOption = None,
    python_a: PythonAOption = None,
    python_b: PythonBOption = None,
    show_all: AllOption = False,
    json: JsonOption = False,
    store: StoreOption = None,
) -> None:
    """Measure A (reference) and B (candidate) in interleaved launches A B B A and compare them pair by pair.

    Only iroot/ comes from A and B; the harness that measures is this one. Exit code 0: nothing got worse; 1: a
    regression, a broken or a missing case; 3: undecided.

    Examples:

        iroot bench ab main WORKTREE quick --filter 'task=polar'

        iroot bench ab WORKTREE WORKTREE --python-a /opt/old/bin/python --python-b /opt/new/bin/python
    """
    from harness.compare import exit_code_for
    from harness.paired import run_paired
    from harness.reference import compare_run
    from harness.report.markdown import write_report
    from harness.report.terminal import print_comparison
    from harness.store import Store

    path = store_path(store)
    request = _request(a, b, manifest, path, pairs=pairs, filter=filter, device=device, pythons=(python_a, python_b))
    with observed(errors_console()) as observer:
        runs = run_paired(request, observer=observer)
    opened = Store(path)
    comparison = compare_run(opened, runs.b.run_id, runs.a.run_id)
    assert comparison is not None
    report = write_report(opened.summary(runs.b.run_id), comparison, store=path)
    if json:
        print_json({"a": runs.a.run_id, "b": runs.b.run_id, "comparison": comparison, "report": str(report)})
    else:
        print_comparison(comparison, console(), show_all=show_all)
        console().print(f"report: {report}", markup=False, soft_wrap=True)
    raise typer.Exit(exit_code_for(comparison))


def _request(
    a: str,
    b: str,
    manifest: str,
    store: Path,
    *,
    pairs: int | None,
    filter: str | None,
    device: str | None,
    pythons: tuple[str | None, str | None],
) -> PairedRequest:
    from harness.arm_plan import plan_arms
    from harness.arms import resolve_arm
    from harness.cli.devices import device_kind, device_name, require_device
    from harness.manifest import load_manifest
    from harness.paired import PairedRequest
    from harness.paths import project_root
    from harness.runner import RunRequest

    name = device_name(device)
    require_device(name)
    loaded = load_manifest(manifest)
    root = project_root()
    arms = [
        resolve_arm(label, repository=root, exports=store.parent / "exports", interpreter=python)
        for label, python in zip((a, b), pythons, strict=True)
    ]
    cases_a, cases_b = plan_arms(arms[0], arms[1], loaded, device_kind=device_kind(name), filter=filter)
    base = RunRequest(
        manifest=loaded,
        cases=(),
        launches=pairs or loaded.launches,
        device=name,
        store=store,
        filter=filter,
    )
    return PairedRequest(base=base, a=arms[0], b=arms[1], cases_a=cases_a, cases_b=cases_b)
