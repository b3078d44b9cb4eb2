"""`iroot env`: what this machine is, and whether it is fit for benchmarking now."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from harness.cli.common import DeviceOption, JsonOption, console, print_json
from harness.cli.devices import device_name, require_device

if TYPE_CHECKING:
    from harness.environment import Fitness
    from harness.records import Record

_STYLES = {"ok": "green", "warning": "yellow", "error": "red"}


def env(device: DeviceOption = None, json: JsonOption = False) -> None:
    """Show this machine's identity, versions and fitness for benchmarking.

    Exit code 0: fit, perhaps with warnings; 1: a measurement now would be worthless.

    Examples:

        iroot env

        iroot env --json
    """
    from harness import environment
    from harness.errors import ExitCode
    from harness.paths import project_root

    chosen = device_name(device)
    require_device(chosen)
    machine, software = environment.machine_identity(chosen), environment.software_identity()
    source, state = environment.source_identity(project_root()), environment.machine_state(chosen)
    findings = environment.fitness(chosen)
    sections: dict[str, Record] = {"machine": machine, "software": software, "source": source, "state": state}
    if json:
        fitness = [{"level": finding.level, "text": finding.text} for finding in findings]
        print_json({"device": chosen, **sections, "fitness": fitness})
    else:
        _print(sections, findings, console())
    raise typer.Exit(ExitCode.FAILED_CHECK if any(f.level == "error" for f in findings) else ExitCode.OK)


def _print(sections: dict[str, Record], findings: tuple[Fitness, ...], out: Console) -> None:
    for title, record in sections.items():
        out.print(title, style="bold")
        table = Table.grid(padding=(0, 2))
        table.add_column(no_wrap=True)
        table.add_column(overflow="fold")
        for name, value in record.model_dump(mode="json").items():
            if value is not None and value != []:
                table.add_row(f"  {name}", _text(name, value))
        out.print(table)
    out.print("fitness", style="bold")
    for finding in findings:
        out.print(f"  [{_STYLES[finding.level]}]{finding.level}[/]: {escape(finding.text)}", soft_wrap=True)


def _text(name: str, value: object) -> str:
    if name.endswith("_bytes") and isinstance(value, int):
        return f"{value / 2**30:.1f} GiB"
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return f"{value:.2f}" if isinstance(value, float) else str(value)
