"""`iroot bench gate`: for CI. A base, a candidate, a policy -> an exit code, and the reports CI systems read."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli.common import DeviceOption, JsonOption, StoreOption, console, errors_console, print_json, store_path
from harness.cli.compare import AllOption
from harness.cli.progress import observed
from harness.cli.run import ImportOption, import_module
from harness.errors import UsageError

if TYPE_CHECKING:
    from harness.gate import GateResult
    from harness.gate_run import GateRequest
    from harness.waivers import Waiver

BASELINE = "baseline"
WAIVERS = Path("ci", "waivers.toml")

BaseArgument = Annotated[
    str | None,
    typer.Argument(help="A git revision, a folder that holds iroot/, or WORKTREE; --screen takes 'baseline' alone."),
]
CandidateArgument = Annotated[str, typer.Argument(help="Likewise: what is to be judged.")]
ManifestArgument = Annotated[str, typer.Argument(help="A shipped manifest or a TOML file, with its \\[gate] table.")]
ScreenOption = Annotated[
    bool, typer.Option("--screen", help="A plain run against the official baseline; open cases in pairs with BASE.")
]
FilterOption = Annotated[str | None, typer.Option(metavar="EXPR", help="Cases to keep: 'task=polar,n>=1024'.")]
WaiversOption = Annotated[
    Path | None, typer.Option("--waivers", help="Accepted verdicts.", show_default=str(WAIVERS), dir_okay=False)
]
JunitOption = Annotated[Path | None, typer.Option("--junit", help="Write JUnit XML.", dir_okay=False)]
MarkdownOption = Annotated[Path | None, typer.Option("--markdown", help="Write a comment's body.", dir_okay=False)]


def gate(
    base: BaseArgument = None,
    candidate: CandidateArgument = "WORKTREE",
    manifest: ManifestArgument = "quick",
    screen: ScreenOption = False,
    filter: FilterOption = None,
    device: DeviceOption = None,
    waivers: WaiversOption = None,
    junit: JunitOption = None,
    markdown: MarkdownOption = None,
    imports: ImportOption = None,
    show_all: AllOption = False,
    json: JsonOption = False,
    store: StoreOption = None,
) -> None:
    """Decide whether CANDIDATE may replace BASE: nothing slower, less accurate, broken or missing.

    All cases are measured in interleaved pairs, those left open again in fresh ones, which alone decide. The manifest,
    its policy, the waivers and the harness are those of the folder this command runs in.

    Exit code 0: passed; 1: failed; 2: wrong use; 3: could not decide; 4: the measurement failed. Under GitHub Actions,
    annotations are printed and $GITHUB_STEP_SUMMARY is written.

    Examples:

        iroot bench gate main WORKTREE quick --junit gate.xml

        iroot bench gate baseline WORKTREE production --screen
    """
    from harness.gate_run import run_gate, run_screen
    from harness.report.gate import print_gate

    for module in imports or []:
        import_module(module)
    if screen and base is None:
        base = BASELINE
    request = _request(base, candidate, manifest, screen=screen, device=device, filter=filter,
                       waivers=_waivers(waivers), imports=tuple(imports or ()), store=store_path(store))  # fmt: skip
    _require_writable(junit, markdown)
    with observed(errors_console()) as observer:
        result = (run_screen if screen else run_gate)(request, observer=observer)
    _publish(result, junit=junit, markdown=markdown)
    if json:
        print_json({"exit_code": int(result.exit_code), "headline": result.headline, **result.model_dump(mode="json")})
    else:
        print_gate(result, console(), show_all=show_all)
    raise typer.Exit(result.exit_code)


def _request(
    base: str | None,
    candidate: str,
    manifest: str,
    *,
    screen: bool,
    device: str | None,
    filter: str | None,
    waivers: tuple[Waiver, ...],
    imports: tuple[str, ...],
    store: Path,
) -> GateRequest:
    from datetime import UTC, datetime

    from harness.arms import resolve_arm
    from harness.cli.devices import device_name, require_device
    from harness.gate_run import GateRequest
    from harness.manifest import load_manifest
    from harness.paths import project_root

    if base is None:
        raise UsageError("BASE is required: a git revision, a folder or WORKTREE; or use --screen")
    if base == BASELINE and not screen:
        raise UsageError("BASE: 'baseline' is compared with by --screen only; name a revision, a folder or WORKTREE")
    name = device_name(device)
    require_device(name)
    loaded = load_manifest(manifest)
    root, exports = project_root(), store.parent / "exports"
    return GateRequest(
        manifest=loaded,
        base=None if base == BASELINE else resolve_arm(base, repository=root, exports=exports),
        candidate=resolve_arm(candidate, repository=root, exports=exports),
        device=name,
        store=store,
        today=datetime.now(UTC).date(),
        filter=filter,
        imports=imports,
        waivers=waivers,
    )


def _waivers(path: Path | None) -> tuple[Waiver, ...]:
    """Those of the file named, else of the checkout's own file if it has one."""
    from harness.paths import project_root
    from harness.waivers import load_waivers

    if path is None:
        path = project_root() / WAIVERS
        if not path.exists():
            return ()
    return load_waivers(path)


def _require_writable(*paths: Path | None) -> None:
    """Refuse a path before measuring for minutes, not after."""
    for path in paths:
        if path is not None and not path.absolute().parent.is_dir():
            raise UsageError(f"{path}: there is no folder {path.absolute().parent} to write it into")


def _publish(result: GateResult, *, junit: Path | None, markdown: Path | None) -> None:
    from harness.report.ci_formats import annotation_lines, junit_xml
    from harness.report.gate import gate_markdown

    if junit is not None:
        junit.write_text(junit_xml(result), encoding="utf-8")
    if markdown is not None:
        markdown.write_text(gate_markdown(result), encoding="utf-8")
    summary = os.environ.get("GITHUB_STEP_SUMMARY")
    if summary:
        with Path(summary).open("a", encoding="utf-8") as file:
            file.write(gate_markdown(result))
    if os.environ.get("GITHUB_ACTIONS") == "true":
        for line in annotation_lines(result):
            typer.echo(line, err=True)
