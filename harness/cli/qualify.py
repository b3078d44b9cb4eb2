"""`iroot bench qualify`: how far this machine's verdicts can be trusted."""

from __future__ import annotations

import math
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from types import FrameType
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from harness.cli.common import DeviceOption, JsonOption, StoreOption, console, errors_console, print_json, store_path
from harness.cli.progress import observed
from harness.cli.run import INTERRUPTED, ImportOption, import_module
from harness.errors import ExitCode, HarnessError, UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from harness.qualification import Qualification
    from harness.qualify import QualifyRequest

ManifestArgument = Annotated[str, typer.Argument(help="A shipped manifest or a TOML file.")]
PairsOption = Annotated[
    int | None, typer.Option("--pairs", min=3, help="Pairs of launches per verdict; default: the gate's.")
]
RepeatsOption = Annotated[
    int | None, typer.Option(min=1, help="A/A measurements of that many pairs.", show_default="3")
]
LevelsOption = Annotated[
    str | None,
    typer.Option(metavar="LEVEL,...", help="Planted slowdowns: 0.01,0.05 or 1%,5%.", show_default="1%,2%,3%,5%,10%"),
]
ResumeOption = Annotated[
    bool, typer.Option("--resume", help="Go on with the newest unfinished qualification of the manifest.")
]
FilterOption = Annotated[str | None, typer.Option(metavar="EXPR", help="Cases to keep: 'task=polar,n>=1024'.")]
REPORT_NAME = "qualification.md"


def qualify(
    manifest: ManifestArgument = "quick",
    pairs: PairsOption = None,
    repeats: RepeatsOption = None,
    levels: LevelsOption = None,
    filter: FilterOption = None,
    device: DeviceOption = None,
    resume: ResumeOption = False,
    imports: ImportOption = None,
    json: JsonOption = False,
    store: StoreOption = None,
) -> None:
    """Measure identical code against itself, and with planted slowdowns of 1, 2, 3, 5 and 10 %.

    Takes (repeats + levels) x 2 x pairs launches, (3 + 5) x 2 x 6 = 96 unless told otherwise, and two to judge quality;
    `iroot bench run MANIFEST --dry-run` estimates how long the manifest's launches take. What was measured is stored
    after every 2 x pairs launches, and kept when the rest is interrupted or fails: --resume goes on with it.

    Later verdicts on this machine name the result and take no threshold below a case's own noise.
    Exit code 0: fit; 1: a difference was called between identical code; 3: too noisy, most of it not called unchanged;
    4: the measurement failed; 130: interrupted.

    Examples:

        iroot bench qualify quick --filter 'task=polar'

        iroot bench qualify quick --repeats 1 --levels 1%,3%,5%

        iroot bench qualify quick --resume
    """
    planted = parsed_levels(levels)
    for module in imports or []:
        import_module(module)
    begun = _request(manifest, store_path(store), pairs=pairs, filter=filter, device=device, imports=imports or [])
    request = _asked(begun, repeats, planted, resume=resume)
    found = _measured(request, as_json=json)
    _publish(found, request.store, as_json=json)
    quiet = ExitCode.UNDECIDED if found.noisy else ExitCode.OK
    raise typer.Exit(ExitCode.FAILED_CHECK if found.called else quiet)


def parsed_levels(text: str | None) -> tuple[float, ...]:
    """`0.01,0.03` or `1%,3%` as fractions; empty where nothing was given.

    Raises UsageError where one is no number in (0, 1], or stands there twice.
    """
    levels = tuple(_level(word.strip()) for word in text.split(",")) if text is not None else ()
    if len(set(levels)) < len(levels):
        raise UsageError(f"--levels: every slowdown must be given once, got '{text}'; remove the repeated ones")
    return levels


def _level(word: str) -> float:
    digits, percent = word.removesuffix("%"), word.endswith("%")
    try:
        level = float(digits) / 100 if percent else float(digits)
    except ValueError:
        level = math.nan
    if not 0 < level <= 1:
        raise UsageError(f"--levels: a slowdown must be in (0, 1] or (0%, 100%], got '{word}'; e.g. --levels 0.01,0.05")
    return level


def _request(
    manifest: str, store: Path, *, pairs: int | None, filter: str | None, device: str | None, imports: list[str]
) -> QualifyRequest:
    from harness.cli.devices import device_kind, device_name, require_device
    from harness.manifest import load_manifest
    from harness.qualify import QualifyRequest
    from harness.sweep import plan

    name, loaded = device_name(device), load_manifest(manifest)
    require_device(name)
    return QualifyRequest(
        manifest=loaded,
        cases=plan(loaded, device_kind=device_kind(name), filter=filter),
        device=name,
        store=store,
        pairs=pairs or loaded.gate.pairs,
        filter=filter,
        imports=tuple(imports),
    )


def _asked(request: QualifyRequest, repeats: int | None, levels: tuple[float, ...], *, resume: bool) -> QualifyRequest:
    """With the repeats and levels that were asked for: now, or when what is to be resumed was begun."""
    from harness.qualification import level_text
    from harness.qualify import resumed

    begun = resumed(request) if resume else request
    asked = replace(begun, repeats=repeats or begun.repeats, levels=levels or begun.levels)
    if begun.resume is not None and asked != begun:
        raise UsageError(
            f"--resume: {begun.resume.qualification_id} was begun with {begun.repeats} repeats and levels of "
            f"{', '.join(map(level_text, begun.levels))}; leave out --repeats and --levels, or start anew"
        )
    return asked


def _measured(request: QualifyRequest, *, as_json: bool) -> Qualification:
    """The finished qualification. One that ends before is published as far as it got, and what ended it goes on."""
    from harness.qualify import qualify as measure

    stored: list[Qualification] = []
    try:
        with _terminated_as_interrupted(), observed(errors_console()) as observer:
            return measure(request, observer=observer, on_stored=stored.append)
    except KeyboardInterrupt:
        _publish_part(stored, request.store, "interrupted", as_json=as_json)
        raise typer.Exit(INTERRUPTED) from None
    except HarnessError:
        _publish_part(stored, request.store, "failed", as_json=as_json)
        raise


def _publish_part(stored: Sequence[Qualification], store: Path, end: str, *, as_json: bool) -> None:
    """What the store holds of a qualification that ended before its time, and how to go on."""
    said = f"{end} before a measurement was complete"
    if stored:
        found = stored[-1]
        _publish(found, store, as_json=as_json)
        said = (
            f"{end}; {found.qualification_id} keeps the complete measurements ({found.measurements}), and verdicts use "
            f"it. Not measured: {found.lacking or 'nothing'}. Go on with the same command and --resume"
        )
    errors_console().print(said, markup=False, soft_wrap=True)


@contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """SIGTERM ends the block as Ctrl-C does: a CI system or scheduler that stops this gets what was measured, too."""

    def interrupt(number: int, frame: FrameType | None) -> NoReturn:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _publish(found: Qualification, store: Path, *, as_json: bool) -> None:
    """Write the report, and print it or the record."""
    from harness.paths import run_folder
    from harness.report.qualification import print_qualification, qualification_markdown

    report = run_folder(store, found.runs[0]) / REPORT_NAME
    report.write_text(qualification_markdown(found), encoding="utf-8")
    if as_json:
        print_json(found)
    else:
        print_qualification(found, console())
        console().print(f"report: {report}", markup=False, soft_wrap=True)
