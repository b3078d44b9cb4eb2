"""`iroot tune`: minimax schedules and searched coefficients, written to table files that the methods load."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from harness.cli.common import JsonOption, console, errors_console, print_json
from harness.errors import UsageError

if TYPE_CHECKING:
    from iroot.coefficients import NamedTable
    from iroot.schedules import Schedule
    from iroot.table_files import HeldOut, Provenance
    from iroot.tuning import Settings, State

SUFFIX = ".toml"

tune_app = typer.Typer(
    name="tune", help="Design schedules and search coefficients offline; methods load the files.", no_args_is_help=True
)


class MadeForChoice(StrEnum):
    """The values of coefficients.MadeFor, which is not imported with the command line; a test compares them."""

    AOL = "aol"
    SQUARE = "square"
    GRAM = "gram"
    FROBENIUS = "frobenius"


class ObjectiveChoice(StrEnum):
    """The values of tuning.Objective, which is not imported with the command line; a test compares them."""

    MEAN = "mean"
    WORST = "worst"


OutputArgument = Annotated[Path, typer.Argument(metavar="FILE.toml", help="The table to write.", dir_okay=False)]
RootOption = Annotated[int, typer.Option("--p", min=1, help="The root.")]
LowerOption = Annotated[float, typer.Option("--lower", help="Smallest eigenvalue; the largest is 1 + headroom.")]
StepsOption = Annotated[int | None, typer.Option("--steps", min=1, help="How many, or --target.")]
TargetOption = Annotated[float | None, typer.Option("--target", help="Error in exact arithmetic, or --steps.")]
DegreesOption = Annotated[str, typer.Option("--degrees", metavar="INT,...", help="Or 'cheapest', with --target.")]
CushionOption = Annotated[float, typer.Option("--cushion", help="With --target: the least one.")]
SafetyOption = Annotated[float, typer.Option("--safety", help="Deflation of all but the last step.")]
HeadroomOption = Annotated[float, typer.Option("--headroom", help="How far eigenvalues may exceed 1.")]


@tune_app.command("schedule")
def schedule(
    output: OutputArgument,
    p: RootOption,
    lower: LowerOption,
    steps: StepsOption = None,
    target: TargetOption = None,
    degrees: DegreesOption = "2",
    cushion: CushionOption = 0.0,
    safety: SafetyOption = 1.0,
    headroom: HeadroomOption = 0.0,
    json: JsonOption = False,
) -> None:
    """Design a minimax schedule for an inverse root: a fixed number of steps, or as many as an error takes.

    Examples:

        iroot tune schedule p2.toml --p 2 --lower 1e-4 --steps 5 --cushion 0.05

        iroot tune schedule p4.toml --p 4 --lower 1e-4 --target 1e-6 --degrees cheapest
    """
    from dataclasses import replace

    from iroot.plans import cheapest_schedule, coupled_costs
    from iroot.schedules import Design, compose_steps, schedule_for
    from iroot.table_files import write_schedule

    _writable(output)
    if (steps is None) == (target is None):
        raise UsageError(f"give exactly one of --steps and --target, got {steps} and {target}")
    design = Design(p=p, lower=lower, safety=safety, headroom=headroom)
    if degrees == "cheapest":
        if target is None:
            raise UsageError("--degrees cheapest needs --target: it chooses the number of steps too")
        found = cheapest_schedule(design, target=target, costs=coupled_costs(p), min_cushion=cushion)
    else:
        design = replace(design, degrees=_integers(degrees, "--degrees", alternative=", or 'cheapest'"))
        if target is not None:
            found = schedule_for(design, target=target, min_cushion=cushion)
        else:
            assert steps is not None
            found = compose_steps(replace(design, cushion=cushion), steps=steps)
    options = {"p": p, "lower": lower, "steps": steps, "target": target, "degrees": degrees, "cushion": cushion,
               "safety": safety, "headroom": headroom}  # fmt: skip
    write_schedule(output, found, provenance=_provenance("schedule", output, options))
    if json:
        print_json({"file": str(output), "error": found.error, "products": found.products,
                    "degrees": [step.degree for step in found.steps], "cushion": found.design.cushion})  # fmt: skip
        return
    console().print(_schedule_table(found))
    console().print(
        f"error {found.error:.3g}, {found.products} products, cushion {found.design.cushion:.3g}; wrote {output}",
        markup=False, soft_wrap=True,
    )  # fmt: skip


NormalisationOption = Annotated[MadeForChoice, typer.Option("--made-for", help="What is done to the input first.")]
QuinticsOption = Annotated[int, typer.Option("--steps", min=1, max=12, help="Quintics, three products each.")]
StartOption = Annotated[str, typer.Option("--start", help="A table whose coefficients the ranges surround.")]
ObjectiveOption = Annotated[ObjectiveChoice, typer.Option("--objective", help="Over kinds and shapes.")]
GenerationsOption = Annotated[int, typer.Option("--generations", min=1, help="In all; a resumed search goes on.")]
PopulationOption = Annotated[int, typer.Option("--population", min=1, help="Members per coefficient.")]
SpreadOption = Annotated[float, typer.Option("--spread", help="Ranges are c -+ spread |c|.")]
KindsOption = Annotated[str, typer.Option("--kinds", metavar="NAME,...", help="Kinds of input.")]
ShapesOption = Annotated[str, typer.Option("--shapes", metavar="MxN,...", help="Of the search.")]
HeldOutOption = Annotated[str, typer.Option("--held-out", metavar="MxN,...", help="Shapes that judge the result.")]
SamplesOption = Annotated[int, typer.Option("--samples", min=1, help="Inputs per kind and shape.")]
SeedOption = Annotated[int, typer.Option("--seed", min=0, help="Of the inputs and of the search.")]
StateOption = Annotated[Path | None, typer.Option("--state", help="Where to keep the search.", dir_okay=False)]


@tune_app.command("polar")
def polar(
    output: OutputArgument,
    made_for: NormalisationOption = MadeForChoice.AOL,
    steps: QuinticsOption = 4,
    start: StartOption = "turbo_muon",
    objective: ObjectiveOption = ObjectiveChoice.MEAN,
    generations: GenerationsOption = 1000,
    population: PopulationOption = 15,
    spread: SpreadOption = 0.6,
    kinds: KindsOption = "normal,uniform,levy,bernoulli",
    shapes: ShapesOption = "64x64,128x128,256x256,96x192,128x512",
    held_out: HeldOutOption = "80x80,192x192,512x512,200x300,160x640",
    samples: SamplesOption = 2,
    seed: SeedOption = 0,
    state: StateOption = None,
    json: JsonOption = False,
) -> None:
    """Search quintics that leave sampled spectra nearest to orthogonal, by differential evolution.

    The search is kept after every generation in FILE.toml.state.json: the same command goes on where it was ended. The
    result is judged on every kind of input with other seeds and shapes, beside as many steps of the start.

    Example:

        iroot tune polar mine.toml --made-for square --steps 3 --start jiacheng_you --generations 200
    """
    from iroot.tuning import PolarSearch, Settings, run
    from iroot.tuning import held_out as judged
    from iroot.tuning_inputs import KINDS, Sample

    _writable(output)
    sample = Sample(kinds=_words(kinds), shapes=_shapes(shapes, "--shapes"), samples=samples, seed=seed)
    unseen = Sample(kinds=tuple(KINDS), shapes=_shapes(held_out, "--held-out"), samples=samples, seed=seed)
    settings = Settings(sample=sample, made_for=made_for.value, start=start, steps=steps, objective=objective.value,
                        spread=spread, population=population, seed=seed)  # fmt: skip
    kept = state or output.with_name(output.name + ".state.json")
    search = PolarSearch(settings)
    with kept_in(kept), progress("generation", generations) as show:

        def observe(state: State) -> None:
            show(state.generation, f"best {state.best_value:.6f}")

        end = run(search, generations=generations, state_file=kept, observe=observe)
    options = {"made-for": made_for.value, "steps": steps, "start": start, "objective": objective.value,
               "generations": end.generation, "population": population, "spread": spread, "kinds": kinds,
               "shapes": shapes, "held-out": held_out, "samples": samples, "seed": seed}  # fmt: skip
    rows = judged(end.best(), settings.start_coefficients(), unseen, settings.made_for)
    table = _write_polar(output, settings, end, rows, _provenance("polar", output, options))
    kept.unlink(missing_ok=True)
    _print_polar(output, table, rows, end, json=json)


def _write_polar(
    output: Path, settings: Settings, end: State, rows: tuple[HeldOut, ...], provenance: Provenance
) -> NamedTable:
    from iroot.coefficients import NamedTable
    from iroot.table_files import Search, write_polar_table

    sample = settings.sample
    table = NamedTable(
        name=output.name.removesuffix(SUFFIX), coefficients=end.best(), lower=None, safety=1.0, limit=None,
        source=f"iroot tune polar: {settings.steps} quintics, {settings.objective} orthogonality over "
        f"{', '.join(sample.kinds)} inputs",
        made_for=settings.made_for,
    )  # fmt: skip
    found = Search(
        start=settings.start, seed=settings.seed, generations=end.generation, population=settings.population,
        objective=settings.objective, objective_value=end.best_value, kinds=sample.kinds, shapes=sample.shapes,
        samples=sample.samples, ranges=settings.ranges(),
    )  # fmt: skip
    write_polar_table(output, table, provenance=provenance, search=found, held_out=rows)
    return table


@contextmanager
def kept_in(state_file: Path) -> Iterator[None]:
    """Ctrl-C says how to go on."""
    try:
        yield
    except KeyboardInterrupt:
        if state_file.exists():
            text = f"kept in {state_file}; the same command goes on from there"
            errors_console().print(text, markup=False, soft_wrap=True)
        raise


@contextmanager
def progress(noun: str, total: int) -> Iterator[Callable[[int, str], None]]:
    """Told how many are done and how it goes: a bar on a terminal, a line for each tenth elsewhere, on stderr."""
    out = errors_console()
    if not out.is_terminal:
        every = max(1, total // 10)

        def line(done: int, text: str) -> None:
            if done % every == 0 or done == total:
                out.print(f"{noun} {done}/{total}: {text}", markup=False, soft_wrap=True)

        yield line
        return
    columns = (TextColumn(noun), BarColumn(bar_width=24), MofNCompleteColumn(), TimeElapsedColumn(),
               TextColumn("left"), TimeRemainingColumn(), TextColumn("{task.fields[text]}", markup=False))  # fmt: skip
    with Progress(*columns, console=out, transient=True) as bar:
        task = bar.add_task("search", total=total, text="")
        yield lambda done, text: bar.update(task, completed=done, text=text)


def _print_polar(output: Path, table: NamedTable, rows: tuple[HeldOut, ...], end: State, *, json: bool) -> None:
    from dataclasses import asdict

    if json:
        print_json({"file": str(output), "coefficients": table.coefficients, "generation": end.generation,
                    "objective": end.best_value, "held_out": [asdict(row) for row in rows]})  # fmt: skip
        return
    grid = Table("inputs (held out)", "mean", "worst", "start: mean", "start: worst", box=SIMPLE_HEAD)
    for row in rows:
        figures = (row.mean, row.worst, row.start_mean, row.start_worst)
        grid.add_row(row.kind, *(f"{figure:.4f}" for figure in figures))
    console().print(grid)
    console().print(f"objective {end.best_value:.6f} after {end.generation} generations; wrote {output}",
                    markup=False, soft_wrap=True)  # fmt: skip


def _schedule_table(found: Schedule) -> Table:
    grid = Table("step", "degree", "smallest", "largest", "error after it", box=SIMPLE_HEAD)
    for index, step in enumerate(found.steps, 1):
        interval = (f"{step.true_lower:.4g}", f"{step.true_upper:.4g}")
        grid.add_row(str(index), str(step.degree), *interval, f"{step.error:.3g}")
    return grid


def _writable(output: Path) -> None:
    if output.suffix != SUFFIX:
        raise UsageError(f"a table file must end in {SUFFIX}, got {output}")
    if output.exists():
        raise UsageError(f"{output} exists; remove it, or name another file")
    if not output.parent.is_dir():
        raise UsageError(f"no folder {output.parent}; make it first")


def _provenance(command: str, output: Path, options: Mapping[str, object]) -> Provenance:
    """The command with every flag that has a value, and the versions at work."""
    from datetime import UTC, datetime
    from importlib.metadata import version

    from iroot.table_files import Provenance, Versions

    flags = [word for name, value in options.items() if value is not None for word in (f"--{name}", str(value))]
    python = ".".join(map(str, sys.version_info[:3]))
    return Provenance(
        command=shlex.join(("iroot", "tune", command, output.name, *flags)),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        versions=Versions(python=python, numpy=version("numpy"), scipy=version("scipy"), iroot=version("iroot")),
    )


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(","))


def _integers(text: str, flag: str, *, alternative: str = "") -> tuple[int, ...]:
    try:
        return tuple(int(word) for word in _words(text))
    except ValueError:
        raise UsageError(f"{flag} must be integers separated by commas{alternative}, got '{text}'") from None


def _shapes(text: str, flag: str) -> tuple[tuple[int, int], ...]:
    try:
        pairs = [tuple(map(int, word.split("x"))) for word in _words(text)]
        return tuple((m, n) for m, n in pairs)
    except ValueError:
        raise UsageError(f"{flag} must be shapes MxN separated by commas, got '{text}'") from None
