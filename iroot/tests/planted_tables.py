"""A GPU that is not there, with planted times, and tables as a search on it leaves them."""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field

import torch

if not torch.cuda.is_available():  # read when kernels are defined, which other tests of this process run
    os.environ["TRITON_INTERPRET"] = "1"
from iroot.kernels.cases import Case, Choice
from iroot.kernels.families import HOPPER, Family
from iroot.kernels.table_file import Candidate, Entry, KernelTable, Provenance, Shape
from iroot.kernels.tables import present_identity

GPU = "PLANTED GPU 1TB"
PROVENANCE = Provenance(
    command="iroot tune kernels", created="2026-11-23T00:00:00+00:00", timed="planted", processors=132, driver="1.0",
    torch="2.11", triton="3.6.0", iroot="0.1.0", source_hash="abc",
)  # fmt: skip


@dataclass(kw_only=True)
class PlantedBench:
    """Answers from two functions, and counts the questions."""

    us: Callable[[Case, Choice], float]
    wrong: Callable[[Case, Choice], str] = lambda case, choice: ""
    same: Callable[[Case, Choice], Hashable] = lambda case, choice: choice
    processors: int = 132
    family: Family = HOPPER
    timed: str = "planted"
    prepared: list[Case] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    def prepare(self, case: Case, choices: Sequence[Choice]) -> None:
        self.prepared.append(case)

    def launched(self, case: Case, choice: Choice) -> Hashable:
        return self.same(case, choice)

    def fault(self, case: Case, choice: Choice) -> str:
        return self.wrong(case, choice)

    def time_us(self, case: Case, choice: Choice) -> float:
        self.asked.append(str(choice))
        return self.us(case, choice)


def gram(n: int, *, depth: int | None = None, batches: int = 1, dtype: str = "bfloat16") -> Shape:
    """A Gram matrix."""
    return Shape(kind="gram", rows=n, columns=n, depth=depth or n, batches=batches, dtype=dtype)


def entry(shape: Shape, chosen: str, default: str = "128+0 k64 w4 s3") -> Entry:
    """A shape for which `chosen` took nine tenths of the default's time."""
    candidates = {name: Candidate(configuration=name, rounds_us=(us,) * 5) for name, us in
                  ((default, 10.0), (chosen, 9.0))}  # fmt: skip
    return Entry(shape=shape, default=default, chosen=chosen, candidates=tuple(candidates.values()),
                 measured="2026-11-23T00:00:01+00:00", seconds=0.5)  # fmt: skip


def planted_table(*entries: Entry) -> KernelTable:
    """A table that holds for `GPU` and the present kernels."""
    return KernelTable(identity=present_identity(GPU), provenance=PROVENANCE, entries=entries)
