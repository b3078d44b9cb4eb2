"""What the choice of a configuration takes from the GPU: one row per family, the present ones that Triton compiles for.

`hopper` is what the kernels were measured on (H100 80GB HBM3, 2026-11-22). The other rows are untested defaults: limits
that NVIDIA publishes (CUDA Programming Guide, technical specifications per compute capability; the multiprocessors of
the GPU named), with Hopper's tile costs. No backend takes work to a family that is not `served`, whatever its row says.
"""

from __future__ import annotations

from dataclasses import dataclass

KIB = 1024
_RESERVED_BYTES = KIB
"""Shared memory that CUDA keeps of every program, from compute capability 8.0 on."""


@dataclass(frozen=True, kw_only=True)
class Family:
    """GPUs that differ in their number of multiprocessors alone.

    Attributes:
        capability: CUDA compute capability of them all.
        gpu: one of them, with `processors` multiprocessors.
        shared_bytes: shared memory of a multiprocessor.
        program_bytes: most of it that one program may have.
        most_resident: programs on a multiprocessor that the choice counts on, where shared memory has room for them.
        served: whether the kernels have run there; only then do backends take them.
    """

    name: str
    capability: tuple[int, int]
    gpu: str
    processors: int
    shared_bytes: int
    program_bytes: int
    most_resident: int = 2
    served: bool = False

    def resident(self, bytes_each: int) -> int:
        """Programs of `bytes_each` of shared memory on a multiprocessor at a time; 0 where one does not fit."""
        if bytes_each > self.program_bytes:
            return 0
        return min(self.most_resident, self.shared_bytes // (bytes_each + _RESERVED_BYTES))


HOPPER = Family(
    name="hopper", capability=(9, 0), gpu="H100 SXM", processors=132,
    shared_bytes=228 * KIB, program_bytes=227 * KIB, served=True,
)  # fmt: skip

FAMILIES = (
    Family(
        name="ampere", capability=(8, 0), gpu="A100", processors=108,
        shared_bytes=164 * KIB, program_bytes=163 * KIB,
    ),
    Family(
        name="ampere-ga10x", capability=(8, 6), gpu="RTX A6000", processors=84,
        shared_bytes=100 * KIB, program_bytes=99 * KIB,
    ),
    Family(
        name="ada", capability=(8, 9), gpu="L40S", processors=142,
        shared_bytes=100 * KIB, program_bytes=99 * KIB,
    ),
    HOPPER,
    Family(
        name="blackwell", capability=(10, 0), gpu="B200", processors=148,
        shared_bytes=228 * KIB, program_bytes=227 * KIB,
    ),
    Family(
        name="blackwell-gb20x", capability=(12, 0), gpu="RTX 5090", processors=170,
        shared_bytes=100 * KIB, program_bytes=99 * KIB,
    ),
)  # fmt: skip


def find_family(capability: tuple[int, int]) -> Family | None:
    """The family with this compute capability; None for one without a row."""
    return next((family for family in FAMILIES if family.capability == capability), None)


def is_served(capability: tuple[int, int]) -> bool:
    """Whether the kernels have run on GPUs of this compute capability."""
    family = find_family(capability)
    return family is not None and family.served
