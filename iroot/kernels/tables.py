"""Which table of `iroot tune kernels` holds for a GPU, and what it names for a shape.

A table is looked for, once in a process, in

1. the file that the environment variable IROOT_KERNEL_TABLE names, or without one the user's cache
   ($XDG_CACHE_HOME/iroot, by default ~/.cache/iroot);
2. `iroot/shipped/`.

The first that knows a shape decides; shapes that none knows are left to the model. A table of another GPU, another
Triton or other kernels is stale and left out. IROOT_KERNEL_TABLE=none leaves all of them out.
"""

from __future__ import annotations

import hashlib
import os
import warnings
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal, TypeVar

import torch

from iroot.errors import InvalidInputError
from iroot.kernels.table_file import Identity, KernelTable, Shape, file_name, kernel_hash, read_kernel_table

VARIABLE = "IROOT_KERNEL_TABLE"
NO_TABLE = "none"
SHIPPED_FOLDER = Path(__file__).parents[1] / "shipped"

Origin = Literal["environment", "cache", "shipped"]
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Source:
    """A table file that was found.

    Attributes:
        table: None where it is not used.
        reason: why not.
        digest: sha256 of the file, empty where it is not used.
    """

    origin: Origin
    path: Path
    table: KernelTable | None
    reason: str = ""
    digest: str = ""

    def __str__(self) -> str:
        """`kernels_nvidia_h100_80gb_hbm3.json sha256:0123456789ab`, or the path and why it is not used."""
        return f"{self.path} is not used: {self.reason}" if self.reason else f"{self.path.name} sha256:{self.digest}"


def tuned(shape: Shape, choices: tuple[T, ...], device: torch.device) -> T | None:
    """The one of `choices` that a table names for `shape` on `device`; None where no table knows the shape.

    Not for the path of every launch: callers keep the answer.

    Raises:
        InvalidInputError: the file that IROOT_KERNEL_TABLE names is broken.
    """
    for source in sources(device):
        entry = source.table.find(shape) if source.table is not None else None
        if entry is None:
            continue
        found = next((choice for choice in choices if str(choice) == entry.chosen), None)
        if found is not None:
            return found
        _reject(source.origin, f"{source.path}: {shape}: no configuration '{entry.chosen}'")
    return None


def sources(device: torch.device) -> tuple[Source, ...]:
    """The table files found for a GPU, in the order in which they are asked; none for a CPU."""
    gpu = gpu_name(device)
    return () if gpu is None else _sources(gpu)


def used(device: torch.device) -> str | None:
    """Name and digest of the tables in use on `device`, for the record of a run."""
    return ", ".join(str(source) for source in sources(device) if source.table is not None) or None


def present_identity(gpu: str) -> Identity:
    """What a table measured now on `gpu` holds for."""
    import triton

    return Identity(gpu=gpu, triton=".".join(triton.__version__.split(".")[:2]), kernel_hash=kernel_hash())


def gpu_name(device: torch.device) -> str | None:
    """The name that tables know a GPU by; None for a CPU."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else None


def cached_file(gpu: str) -> Path:
    """Where `iroot tune kernels` puts the table of `gpu` by default."""
    # expanduser leaves "~" where there is no home; Path.home() would raise in somebody's training run.
    folder = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(folder, "iroot", file_name(gpu))


@lru_cache(maxsize=8)
def _sources(gpu: str) -> tuple[Source, ...]:
    given = os.environ.get(VARIABLE, "")
    if given == NO_TABLE:
        return ()
    first = _source("environment", Path(given), gpu) if given else _source("cache", cached_file(gpu), gpu)
    shipped = _source("shipped", SHIPPED_FOLDER / file_name(gpu), gpu)
    return tuple(source for source in (first, shipped) if source is not None)


def _source(origin: Origin, path: Path, gpu: str) -> Source | None:
    if origin != "environment" and not os.path.isfile(path):
        return None
    try:
        table = read_kernel_table(path)
    except InvalidInputError as error:
        _reject(origin, str(error))
        return Source(origin=origin, path=path, table=None, reason=str(error))
    reason = table.identity.stale(present_identity(gpu))
    if not reason:
        return Source(origin=origin, path=path, table=table, digest=hashlib.sha256(path.read_bytes()).hexdigest()[:12])
    # A shipped table that has gone stale is nothing its user can mend; `iroot env` says it.
    if origin != "shipped":
        _warn(f"kernel table {path} is not used: {reason}")
    return Source(origin=origin, path=path, table=None, reason=reason)


def _reject(origin: Origin, defect: str) -> None:
    """A broken table is an error where it was asked for, else a warning."""
    if origin == "environment":
        raise InvalidInputError(f"{VARIABLE} must name a table of `iroot tune kernels`, or '{NO_TABLE}': {defect}")
    _warn(f"kernel table is not used: {defect}")


def _warn(text: str) -> None:
    warnings.warn(f"{text}; run `iroot tune kernels` anew, or remove the file", RuntimeWarning, stacklevel=2)
