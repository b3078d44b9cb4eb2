"""`iroot bench qualify`: how far this machine's verdicts can be trusted."""

from __future__ import annotations

from typing import Annotated

import typer

from harness.cli.common import DeviceOption, JsonOption, StoreOption, console, errors_console, print_json, store_path
from harness.cli.progress import observed
from harness.cli.run import ImportOption, import_module

ManifestArgument = Annotated[str, typer.Argument(help="A shipped manifest or a TOML file.")]
PairsOption = Annotated[
    int | None, typer.Option("--pairs", min=3, help="Pairs of launches per verdict; default: the gate's.")
]
RepeatsOption = Annotated[int, typer.Option(min=1, help="A/A measurements of that many pairs.")]
FilterOption = Annotated[str | None, typer.Option(metavar="EXPR", help="Cases to keep: 'task=polar,n>=1024'.")]
REPORT_NAME = "qualification.md"


def qualify(
    manifest: ManifestArgument = "quick",
    pairs: PairsOption = None,
    repeats: RepeatsOption = 3,
    filter: FilterOption = None,
    device: DeviceOption = None,
    imports: ImportOption = None,
    json: JsonOption = False,
    store: StoreOption = None,
) -> None:
    """Measure identical code against itself, and with planted slowdowns of 1, 2, 3, 5 and 10 %.

    The result is stored; later verdicts on this machine name it and take no threshold below a case's own noise.
    Exit code 0: fit; 1: a difference was called between identical code; 3: too noisy, most of it not called unchanged.

    Example:

        iroot bench qualify quick --filter 'task=polar'
    """
    from harness.cli.devices import device_kind, device_name, require_device
    from harness.errors import ExitCode
    from harness.manifest import load_manifest
    from harness.paths import run_folder
    from harness.qualify import QualifyRequest
    from harness.qualify import qualify as measure
    from harness.report.qualification import print_qualification, qualification_markdown
    from harness.sweep import plan

    for module in imports or []:
        import_module(module)
    name, loaded = device_name(device), load_manifest(manifest)
    require_device(name)
    request = QualifyRequest(
        manifest=loaded,
        cases=plan(loaded, device_kind=device_kind(name), filter=filter),
        device=name,
        store=store_path(store),
        pairs=pairs or loaded.gate.pairs,
        repeats=repeats,
        filter=filter,
        imports=tuple(imports or ()),
    )
    with observed(errors_console()) as observer:
        found = measure(request, observer=observer)
    report = run_folder(request.store, found.runs[0]) / REPORT_NAME
    report.write_text(qualification_markdown(found), encoding="utf-8")
    if json:
        print_json(found)
    else:
        print_qualification(found, console())
        console().print(f"report: {report}", markup=False, soft_wrap=True)
    quiet = ExitCode.UNDECIDED if found.noisy else ExitCode.OK
    raise typer.Exit(ExitCode.FAILED_CHECK if found.called else quiet)
