"""`iroot bench run`: a manifest, or a sweep given by flags -> a stored run, its comparison and its report."""

from __future__ import annotations

import importlib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harness.cli import sweep_flags as flags
from harness.cli.common import (
    LATEST,
    DeviceOption,
    JsonOption,
    StoreOption,
    console,
    errors_console,
    print_json,
    store_path,
)
from harness.cli.progress import observed
from harness.errors import UsageError

if TYPE_CHECKING:
    from harness.manifest import Manifest
    from harness.records import RunRecord
    from harness.runner import RunRequest
    from harness.store import Store

DEFAULT_MANIFEST = "quick"
INTERRUPTED = 130
"""128 + SIGINT: what a shell reports for a program ended by Ctrl-C."""

ManifestArgument = Annotated[
    str | None, typer.Argument(help=f"A shipped manifest or a TOML file; default: {DEFAULT_MANIFEST}.")
]
LaunchesOption = Annotated[int | None, typer.Option(min=1, help="Timed launches; default: the manifest's.")]
FilterOption = Annotated[
    str | None, typer.Option(metavar="EXPR", help="Cases to keep: 'task=polar,n>=1024,precision~bf'.")
]
ResumeOption = Annotated[
    str | None, typer.Option(metavar="RUN", help="Go on with an interrupted run; 'latest': the newest one.")
]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="List the cases and estimate the time.")]
CompareOption = Annotated[
    bool, typer.Option("--compare/--no-compare", help="Compare with the baseline, else with the previous run.")
]
NoteOption = Annotated[str | None, typer.Option(metavar="TEXT", help="Kept with the run.")]
ImportOption = Annotated[
    list[str] | None, typer.Option("--import", metavar="MODULE", help="A module that registers methods of your own.")
]
SaveOption = Annotated[
    Path | None, typer.Option("--save-manifest", metavar="FILE", help="Write the manifest as TOML.", dir_okay=False)
]


def run(
    manifest: ManifestArgument = None,
    launches: LaunchesOption = None,
    filter: FilterOption = None,
    device: DeviceOption = None,
    resume: ResumeOption = None,
    dry_run: DryRunOption = False,
    compare: CompareOption = True,
    note: NoteOption = None,
    imports: ImportOption = None,
    save_manifest: SaveOption = None,
    json: JsonOption = False,
    store: StoreOption = None,
    task: flags.TaskFlag = None,
    method: flags.MethodFlag = None,
    precision: flags.PrecisionFlag = None,
    p: flags.RootFlag = None,
    n: flags.SizeFlag = None,
    shape: flags.ShapeFlag = None,
    batch: flags.BatchFlag = None,
    k: flags.ColumnsFlag = None,
    problem: flags.ProblemFlag = None,
    mode: flags.ModeFlag = None,
    option: flags.OptionFlag = None,
    seeds: flags.SeedsFlag = None,
    target_error: flags.TargetErrorFlag = None,
) -> None:
    """Measure a manifest on this machine, store the run, compare it with the baseline and write a report.

    Examples:

        iroot bench run quick

        iroot bench run production --filter 'task=polar,n>=1024' --dry-run

        iroot bench run --task inverse_root --p 2,4 --n 256,512 --precision fp32 --problem wishart
    """
    texts = {"task": task, "method": method, "precision": precision, "p": p, "n": n, "shape": shape, "batch": batch}
    table = flags.sweep_table({**texts, "k": k, "problem": problem, "mode": mode}, option)
    table |= {"seeds": seeds} if seeds is not None else {}
    table |= {"target_error": target_error} if target_error is not None else {}
    for module in imports or []:
        import_module(module)
    if resume is not None:
        others = {"MANIFEST": manifest, "--filter": filter, "--launches": launches, "sweep flags": table or None}
        _refuse_beside_resume([name for name, value in others.items() if value is not None])
        request = _resumed_request(resume, store_path(store), device)
    else:
        chosen = _chosen_manifest(manifest, table, launches)
        request = _new_request(chosen, store_path(store), device=device, filter=filter, launches=launches)
    request = replace(request, imports=tuple(imports or ()), note=note)
    if save_manifest is not None:
        _save(request.manifest, save_manifest)
    if dry_run:
        _show_plan(request, as_json=json)
    else:
        _measure(request, compare=compare, as_json=json)


def import_module(name: str) -> None:
    """Import a module that registers methods, or raise UsageError."""
    try:
        importlib.import_module(name)
    except ImportError as error:
        raise UsageError(f"--import: cannot import '{name}': {error}") from error


def _refuse_beside_resume(names: list[str]) -> None:
    if names:
        raise UsageError(f"--resume goes on with that run's own plan; remove {', '.join(names)}")


def _chosen_manifest(name: str | None, table: dict[str, Any], launches: int | None) -> Manifest:
    from harness.manifest import load_manifest, manifest_from_flags

    if not table:
        return load_manifest(name or DEFAULT_MANIFEST)
    if name is not None:
        flag = f"--{next(iter(table)).replace('_', '-')}"
        raise UsageError(f"give a manifest or sweep flags, got both: '{name}' and {flag}; --filter narrows a manifest")
    return manifest_from_flags(table, launches=launches)


def _new_request(
    manifest: Manifest, store: Path, *, device: str | None, filter: str | None, launches: int | None
) -> RunRequest:
    from harness.cli.devices import device_kind, device_name
    from harness.runner import RunRequest
    from harness.sweep import plan

    name = device_name(device)
    return RunRequest(
        manifest=manifest,
        cases=plan(manifest, device_kind=device_kind(name), filter=filter),
        launches=launches or manifest.launches,
        device=name,
        store=store,
        filter=filter,
    )


def _resumed_request(ref: str, store: Path, device: str | None) -> RunRequest:
    from harness.cli.devices import device_name
    from harness.manifest import parse_manifest
    from harness.runner import RunRequest
    from harness.store import Store

    run = _unfinished(Store(store)) if ref == LATEST else Store(store).run(ref)
    return RunRequest(
        manifest=parse_manifest(run.manifest_toml, origin=run.run_id),
        cases=run.cases,
        launches=run.launches,
        device=device_name(device or run.machine.kind),
        store=store,
        filter=run.filter,
        resume=run.run_id,
    )


def _unfinished(store: Store) -> RunRecord:
    """The newest run that did not complete; an arm is resumed by nobody, its library is gone."""
    from harness.records import RunStatus

    for run in store.runs():
        if run.arm is None and run.status in (RunStatus.INTERRUPTED, RunStatus.FAILED):
            return run
    raise UsageError(f"--resume {LATEST}: {store.path} holds no interrupted run; there is nothing to resume")


def _save(manifest: Manifest, path: Path) -> None:
    if path.exists():
        raise UsageError(f"--save-manifest: {path} exists; name a new file")
    try:
        path.write_text(manifest.to_toml(), encoding="utf-8")
    except OSError as error:
        raise UsageError(f"--save-manifest: cannot write {path}: {error.strerror}") from None
    errors_console().print(f"manifest written: {path}", markup=False, soft_wrap=True)


def _show_plan(request: RunRequest, *, as_json: bool) -> None:
    from harness.cli.plan_view import plan_json, print_plan

    if as_json:
        print_json(plan_json(request))
    else:
        print_plan(request, console())


def _measure(request: RunRequest, *, compare: bool, as_json: bool) -> None:
    from harness.cli.devices import require_device
    from harness.runner import run_sweep

    require_device(request.device)
    notes = errors_console()
    try:
        with observed(notes) as observer:
            record = run_sweep(request, observer=observer)
    except KeyboardInterrupt:
        notes.print("interrupted; finished cases are kept. Go on with: iroot bench run --resume latest", soft_wrap=True)
        raise typer.Exit(INTERRUPTED) from None
    from harness.cli.run_view import conclude

    conclude(record.run_id, request.store, compare=compare, as_json=as_json)
