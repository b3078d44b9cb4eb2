"""`iroot tune kernels`: the configurations of the Triton kernels, timed on the present GPU and kept in a table."""

from __future__ import annotations

import shlex
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table

from harness.cli.common import JsonOption, console, errors_console, print_json
from harness.cli.tune import kept_in, progress
from harness.errors import UsageError

if TYPE_CHECKING:
    from iroot.kernel_tuning import Bench
    from iroot.kernels.cases import Case
    from iroot.kernels.table_file import Entry, KernelTable, Provenance

SUFFIX = ".json"
SHAPES = "512,768,1024,1536,2048,3072,4096,2048x8192,8x1024x4096,16x1024x1024"

ShapesOption = Annotated[str, typer.Option("--shapes", metavar="N|MxN|BATCHxMxN,...", help="Of the matrices.")]
DtypeOption = Annotated[str, typer.Option("--dtype", metavar="NAME,...", help="bf16, fp16 or both.")]
OutOption = Annotated[
    Path | None,
    typer.Option("--out", metavar="FILE.json", help="The table.", show_default="in the user's cache", dir_okay=False),
]
SecondsOption = Annotated[
    float | None, typer.Option("--seconds", min=0.0, help="Begin no shape after so many; the same command goes on.")
]


def kernels(
    shapes: ShapesOption = SHAPES,
    dtype: DtypeOption = "bf16",
    out: OutOption = None,
    seconds: SecondsOption = None,
    json: JsonOption = False,
) -> None:
    """Time every configuration of the symmetric product and of the product with an addend on this GPU.

    Optional: without a table the kernels take the configuration that a model of the GPU chooses. A table replaces it
    where another one is more than 2 % faster in four rounds of five; shapes are matched exactly. The table is kept
    after every shape: the same command goes on where it was ended, and other shapes are added. It holds for this GPU,
    this version of Triton and the present kernels. Written to the user's cache, it is used from the next process on;
    one written elsewhere where IROOT_KERNEL_TABLE names it. IROOT_KERNEL_TABLE=none leaves all tables out.

    Examples:

        iroot tune kernels

        iroot tune kernels --shapes 2048,2048x8192,16x1024x1024 --dtype bf16,fp16 --seconds 60 --out mine.json
    """
    from iroot.kernels.table_file import KernelTable, write_kernel_table
    from iroot.kernels.tables import cached_file, present_identity

    end = None if seconds is None else time.monotonic() + seconds
    if out is not None:
        _writable(out)
    cases = _cases(shapes, dtype)
    bench, gpu = _bench()
    path = out or cached_file(gpu)
    options = {"shapes": shapes, "dtype": dtype, "out": None if out is None else out.name}
    fresh = KernelTable(identity=present_identity(gpu), provenance=_provenance(options, bench))
    begun = _begun(path, fresh, may_replace=out is None)
    path.parent.mkdir(parents=True, exist_ok=True)
    left = [case for case in cases if begun.find(case.shape) is None]

    from iroot.kernel_tuning import tune

    with kept_in(path), progress("shape", len(left)) as show:

        def keep(table: KernelTable) -> None:
            write_kernel_table(path, table)
            last = table.entries[-1]
            show(len(table.entries) - len(begun.entries), f"{last.shape}: {last.chosen}")

        goes_on = (lambda: True) if end is None else (lambda: time.monotonic() < end)
        table = tune(left, bench, begun=begun, keep=keep, goes_on=goes_on)
    asked = [entry for case in cases if (entry := table.find(case.shape)) is not None]
    _print(path, tuple(asked), len(cases) - len(asked), shared=out is not None, json=json)


def _bench() -> tuple[Bench, str]:
    """What times on the present GPU, and the GPU's name."""
    import torch

    from iroot.kernels.families import FAMILIES, is_served

    where = "elsewhere the configurations of the model are used, which need no search"
    if not torch.cuda.is_available() or torch.version.hip is not None:
        raise UsageError(
            f"iroot tune kernels needs an NVIDIA GPU, this machine has none that torch can use; run it on the GPU that "
            f"the table is for: {where}"
        )
    gpu, capability = torch.cuda.get_device_name(), torch.cuda.get_device_capability()
    if not is_served(capability):
        served = ", ".join(family.name for family in FAMILIES if family.served)
        raise UsageError(
            f"iroot tune kernels needs a GPU that the kernels serve ({served}), got {gpu} of compute capability "
            f"{capability[0]}.{capability[1]}; run it on one of those: {where}"
        )
    from iroot.kernels.cases import GraphBench

    return GraphBench(), gpu


def _begun(path: Path, fresh: KernelTable, *, may_replace: bool) -> KernelTable:
    """The table to go on with. A file in the cache that no longer holds is replaced, one that was named is not."""
    from iroot.errors import InvalidInputError
    from iroot.kernel_tuning import begun_table

    try:
        return begun_table(path, fresh)
    except InvalidInputError as error:
        if not may_replace:
            raise
        errors_console().print(f"begun anew: {error}", markup=False, soft_wrap=True)
        return fresh


def _provenance(options: Mapping[str, object], bench: Bench) -> Provenance:
    from datetime import UTC, datetime

    import iroot
    from harness import environment
    from iroot.kernel_tuning import ROUNDS
    from iroot.kernels.table_file import Provenance

    flags = [word for name, value in options.items() if value is not None for word in (f"--{name}", str(value))]
    software = environment.software_versions()  # the tables in use have no part in a search
    return Provenance(
        command=shlex.join(("iroot", "tune", "kernels", *flags)),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        timed=f"{bench.timed}; {ROUNDS} rounds",
        processors=bench.processors,
        driver=software.driver or "unknown",
        torch=software.torch,
        triton=software.triton or "unknown",
        iroot=software.iroot,
        source_hash=environment.source_identity(Path(iroot.__file__).parents[1]).source_hash,
    )


def _cases(shapes: str, dtypes: str) -> tuple[Case, ...]:
    """Three products of every shape and dtype, each of one shape once."""
    from iroot.kernel_tuning import products

    found = [
        case
        for dtype in dtypes.split(",")
        for shape in shapes.split(",")
        for case in products(_shape(shape), dtype.strip())
    ]
    return tuple({case.shape: case for case in found}.values())


def _shape(text: str) -> tuple[int, int, int]:
    try:
        sizes = tuple(int(size) for size in text.strip().split("x"))
    except ValueError:
        sizes = ()
    if len(sizes) == 1:
        return 1, sizes[0], sizes[0]
    if len(sizes) == 2:
        return 1, *sizes
    if len(sizes) == 3:
        return sizes
    raise UsageError(f"--shapes must be N, MxN or BATCHxMxN separated by commas, got '{text}'")


def _writable(out: Path) -> None:
    if out.suffix != SUFFIX:
        raise UsageError(f"a kernel table must end in {SUFFIX}, got {out}")
    if not out.parent.is_dir():
        raise UsageError(f"no folder {out.parent}; make it first")


def _print(path: Path, entries: tuple[Entry, ...], left: int, *, shared: bool, json: bool) -> None:
    from dataclasses import asdict

    if json:
        print_json({"file": str(path), "left": left, "shapes": [asdict(entry) for entry in entries]})
        return
    grid = Table("product", "model", "us", "fastest", "us", "model / fastest", box=SIMPLE_HEAD)
    for entry in entries:
        model_us, best_us = entry.time_us(entry.default), entry.time_us(entry.chosen)
        figures = (f"{model_us:.1f}", entry.chosen, f"{best_us:.1f}", f"{model_us / best_us:.3f}")
        grid.add_row(str(entry.shape), entry.default, *figures)
    console().print(grid)
    kept = sum(entry.chosen != entry.default for entry in entries)
    use = f"IROOT_KERNEL_TABLE={path} uses it" if shared else "used from the next process on"
    rest = f"; {left} left, the same command goes on" if left else ""
    console().print(
        f"{len(entries)} products, another configuration than the model's for {kept}; {path}: {use}{rest}",
        markup=False, soft_wrap=True,
    )  # fmt: skip
    for entry in entries:
        for candidate in entry.candidates:
            if candidate.fault and candidate.configuration == entry.default:
                text = f"{entry.shape}: the model's {entry.default} is out of the question: {candidate.fault}"
                errors_console().print(text, markup=False, soft_wrap=True)
