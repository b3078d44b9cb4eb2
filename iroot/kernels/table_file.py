"""Table files of `iroot tune kernels`: the fastest configuration of a kernel for each shape that was timed on one GPU.

JSON, `schema = "iroot-kernels/1"`: what the table holds for (`Identity`), where it comes from (`Provenance`), and for
each shape the time of every configuration that was tried (`Entry`). A configuration is named as it prints itself, such
as `128+32 k64 w4 s3`; a table can only choose among those that a kernel lists.
"""

from __future__ import annotations

import ast
import hashlib
import json
import math
import os
import re
import statistics
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, cast, get_args

from iroot.errors import InvalidInputError
from iroot.file_values import FileValues, is_finite

SCHEMA = "iroot-kernels/1"
SUFFIX = ".json"

Kind = Literal["gram", "quadratic", "apply"]
"""A A^T, the same with an addend, and a product with an addend."""

_SOURCES = (
    "device_tiles.py", "hopper_apply.py", "hopper_blocks.py", "hopper_epilogue.py", "hopper_fetch.py", "hopper_sum.py",
    "mainloop.py", "multiply_add.py", "operands.py", "symmetric.py", "symmetric_sum.py", "tiling.py",
    "diagonal_pairs.py", "hopper_small_apply.py", "hopper_small_fetch.py", "hopper_small_sum.py", "balanced_tiles.py",
    "hopper_balanced.py", "hopper_wide.py", "hopper_wide_copies.py", "sum_launch.py", "wide_tiles.py",
)  # fmt: skip
"""What decides the time of the kernels that tables know."""
_MOST = 10_000
_LARGEST = 1 << 24


@dataclass(frozen=True, kw_only=True)
class Shape:
    """One product: `batches` results of `rows` x `columns`, sums over `depth`; dtype of operands and result."""

    kind: Kind
    rows: int
    columns: int
    depth: int
    batches: int
    dtype: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "dtype", self.dtype.removeprefix("torch."))

    def __str__(self) -> str:
        """`gram 8 x 1024 x 1024, depth 4096, bfloat16`."""
        batches = f"{self.batches} x " if self.batches > 1 else ""
        return f"{self.kind} {batches}{self.rows} x {self.columns}, depth {self.depth}, {self.dtype}"


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One configuration: microseconds per call, round by round, or why it is out of the question."""

    configuration: str
    rounds_us: tuple[float, ...]
    fault: str = ""

    @property
    def time_us(self) -> float:
        """Median over the rounds; infinite for one that is out of the question."""
        return statistics.median(self.rounds_us) if self.rounds_us else math.inf


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One shape: the model's configuration, the one to use, and all that were tried; when (ISO 8601) and how long."""

    shape: Shape
    default: str
    chosen: str
    candidates: tuple[Candidate, ...]
    measured: str
    seconds: float

    def time_us(self, configuration: str) -> float:
        """Time of one of the candidates."""
        return next(each.time_us for each in self.candidates if each.configuration == configuration)


@dataclass(frozen=True, kw_only=True)
class Identity:
    """What a table holds for: the GPU by name, Triton by major and minor version, and the code of the kernels."""

    gpu: str
    triton: str
    kernel_hash: str

    def stale(self, present: Identity) -> str:
        """Why a table of this identity does not hold at present; empty where it does."""
        if self.gpu != present.gpu:
            return f"it was measured on {self.gpu}, this GPU is {present.gpu}"
        if self.triton != present.triton:
            return f"it was measured with Triton {self.triton}, this is {present.triton}"
        if self.kernel_hash != present.kernel_hash:
            return f"the kernels have changed since (code {self.kernel_hash[:12]}, now {present.kernel_hash[:12]})"
        return ""


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """The command that writes the table anew, when it was begun (ISO 8601), what was timed and with what."""

    command: str
    created: str
    timed: str
    processors: int
    driver: str
    torch: str
    triton: str
    iroot: str
    source_hash: str


@dataclass(frozen=True, kw_only=True)
class KernelTable:
    """What `iroot tune kernels` measured on one GPU."""

    identity: Identity
    provenance: Provenance
    entries: tuple[Entry, ...] = ()

    def find(self, shape: Shape) -> Entry | None:
        """The entry of exactly this shape."""
        return next((entry for entry in self.entries if entry.shape == shape), None)


def file_name(gpu: str) -> str:
    """`kernels_nvidia_h100_80gb_hbm3.json`."""
    return f"kernels_{re.sub('[^a-z0-9]+', '_', gpu.lower()).strip('_')}{SUFFIX}"


@cache
def kernel_hash() -> str:
    """sha256 over the code that decides the kernels' times: without comments, docstrings, errors and their texts.

    The same in every version of Python, whose printed syntax trees differ in fields that are empty.
    """
    folder = Path(__file__).parent
    code = {name: _code(ast.parse((folder / name).read_text(encoding="utf-8"))) for name in _SOURCES}
    return hashlib.sha256(json.dumps(code, sort_keys=True).encode()).hexdigest()


def _code(node: Any) -> Any:
    """A syntax tree as nested lists and dicts; None for what does not count."""
    if isinstance(node, list):
        return [code for each in node if (code := _code(each)) is not None]
    if isinstance(node, ast.Constant):
        return ["Constant", repr(node.value)]
    if not isinstance(node, ast.AST):
        return node
    is_text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
    if is_text or isinstance(node, ast.Raise | ast.JoinedStr):
        return None
    fields = {name: _code(value) for name, value in ast.iter_fields(node)}
    return [type(node).__name__, {name: code for name, code in fields.items() if code not in (None, [])}]


def write_kernel_table(path: Path, table: KernelTable) -> None:
    """Write `table` so that `read_kernel_table` gives it back, every digit kept; the file is replaced at once."""
    shapes = [
        {
            **asdict(entry.shape),
            **{name: getattr(entry, name) for name in ("default", "chosen", "measured", "seconds")},
            "candidates": [asdict(candidate) for candidate in entry.candidates],
        }
        for entry in table.entries
    ]
    values = {"schema": SCHEMA, **asdict(table.identity), "provenance": asdict(table.provenance), "shapes": shapes}
    # Ranks of one job may tune at a time.
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    part.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
    part.replace(path)


def read_kernel_table(path: Path) -> KernelTable:
    """Read and check a table.

    Raises:
        InvalidInputError: the file cannot be read, is not of this kind, or its values are out of range.
    """
    try:
        values: Any = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InvalidInputError(f"no table file {path}; write one with `iroot tune kernels`") from None
    except OSError as error:
        raise InvalidInputError(f"{path}: cannot read the table: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise InvalidInputError(f"{path}: a table must be JSON in UTF-8: {error}") from None
    data = FileValues(path=path, place="", values=values if isinstance(values, dict) else {})
    if data.values.get("schema") != SCHEMA:
        raise data.defect("schema", f"'{SCHEMA}', as `iroot tune kernels` writes it", data.values.get("schema"))
    origin = data.inner("provenance", data.values.get("provenance"))
    texts = ("command", "created", "timed", "driver", "torch", "triton", "iroot", "source_hash")
    return KernelTable(
        identity=Identity(gpu=data.text("gpu"), triton=data.text("triton"), kernel_hash=data.text("kernel_hash")),
        provenance=Provenance(
            processors=origin.integer("processors", 1, _MOST), **{name: origin.text(name) for name in texts}
        ),
        entries=tuple(_read_entry(data.inner("shapes", each)) for each in data.list("shapes", most=_MOST)),
    )


def _read_entry(data: FileValues) -> Entry:
    kind = data.text("kind")
    if kind not in get_args(Kind):
        raise data.defect("kind", f"one of {', '.join(get_args(Kind))}", kind)
    sizes = {name: data.integer(name, 1, _LARGEST) for name in ("rows", "columns", "depth", "batches")}
    rows = data.list("candidates", most=_MOST)
    candidates = tuple(_read_candidate(data.inner("candidates", each)) for each in rows)
    timed = [each.configuration for each in candidates if each.rounds_us]
    chosen, default = data.text("chosen"), data.text("default")
    if chosen not in timed:
        raise data.defect("chosen", f"one of the candidates with a time ({', '.join(timed)})", chosen)
    if default not in [each.configuration for each in candidates]:
        raise data.defect("default", "one of the candidates", default)
    return Entry(
        shape=Shape(kind=cast(Kind, kind), dtype=data.text("dtype"), **sizes),
        default=default,
        chosen=chosen,
        candidates=candidates,
        measured=data.text("measured"),
        seconds=data.number("seconds", 0.0, math.inf),
    )


def _read_candidate(data: FileValues) -> Candidate:
    fault = data.values.get("fault")
    rounds = [] if fault else data.list("rounds_us", most=_MOST)
    if not all(is_finite(each) and each > 0.0 for each in rounds):
        raise data.defect("rounds_us", "times > 0", rounds)
    return Candidate(
        configuration=data.text("configuration"),
        rounds_us=tuple(float(each) for each in rounds),
        fault=data.text("fault") if fault else "",
    )
