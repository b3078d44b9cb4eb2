"""The command line `iroot`: parse, call, print, exit code; nothing else.

Command modules import typer and rich only; what a command needs beyond that it imports when it is called, so that
`iroot --help` and shell completion stay fast.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from harness.cli import (
    ab,
    baseline,
    bisect,
    compare,
    env,
    gate,
    history,
    housekeeping,
    import_,
    qualify,
    report,
    run,
    tune,
    tune_kernels,
    verify,
)
from harness.cli.common import errors_console
from harness.errors import ExitCode, HarnessError

INTERRUPTED = 130
"""128 + SIGINT: what a shell reports for a program ended by Ctrl-C."""

app = typer.Typer(
    name="iroot",
    help="Matmul-only GPU kernels for inverse p-th roots and polar factors, and the service that measures them.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
bench = typer.Typer(
    name="bench", help="Measure, store, compare and report; keep official baselines.", no_args_is_help=True
)
app.add_typer(bench)
app.add_typer(tune.tune_app)
tune.tune_app.command("kernels")(tune_kernels.kernels)
app.command("verify")(verify.verify)
app.command("env")(env.env)
bench.command("run")(run.run)
bench.command("compare")(compare.compare)
bench.command("report")(report.report)
bench.command("ab")(ab.ab)
bench.command("bisect")(bisect.bisect)
bench.command("gate")(gate.gate)
bench.command("qualify")(qualify.qualify)
bench.command("history")(history.history)
bench.command("runs")(housekeeping.runs)
bench.command("show")(housekeeping.show)
bench.command("export")(housekeeping.export)
bench.command("import")(import_.import_)
bench.command("gc")(housekeeping.gc)
bench.add_typer(baseline.baseline_app)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"iroot {version('iroot')}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Matmul-only GPU kernels for inverse p-th roots and polar factors, and the service that measures them."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line; the one place where an exception becomes a message and an exit code."""
    try:
        app(args=list(arguments) if arguments is not None else None, prog_name="iroot")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except HarnessError as error:
        return _failed(error, error.exit_code)
    except KeyboardInterrupt:
        errors_console().print("interrupted")
        return INTERRUPTED
    except Exception as error:
        if not _is_library_error(error):
            raise
        return _failed(error, ExitCode.USAGE)
    return ExitCode.OK


def _failed(error: Exception, code: int) -> int:
    errors_console().print(f"error: {error}", markup=False, highlight=False, soft_wrap=True)
    return int(code)


def _is_library_error(error: Exception) -> bool:
    """Whether `error` is the library's own. It is not imported for that: an error of it means that it is loaded."""
    errors = sys.modules.get("iroot.errors")
    return errors is not None and isinstance(error, errors.IrootError)
