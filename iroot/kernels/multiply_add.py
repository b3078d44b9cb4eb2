# Device functions carry no Python types, and Triton has no type information:
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, disallow-untyped-calls=False
# mypy: disallow-untyped-decorators=False
"""D = alpha A B + beta C with the addend read in the epilogue.

torch.addmm into new memory first copies C there, which at n = 2048 takes a third of the product's time (32.5 us against
24.3 without an addend; H100, bfloat16, torch 2.11, 2026-11-22). Here C is read once, tile by tile.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from iroot.errors import InvalidInputError
from iroot.kernels.families import HOPPER, Family
from iroot.kernels.hopper import lacks_gluon
from iroot.kernels.mainloop import place_in_strips
from iroot.kernels.operands import (
    OPERAND_DTYPES,
    TRITON_DTYPES,
    Operand,
    descriptor,
    empty_aligned,
    load_block,
    operand,
    present_family,
    processors,
)
from iroot.kernels.rehearsal import on_grid
from iroot.kernels.table_file import Shape
from iroot.kernels.tables import tuned


@dataclass(frozen=True, kw_only=True)
class Blocking:
    """One configuration of the kernel: tiles of `rows` x `columns`, `block_k` columns of A per pipeline stage."""

    rows: int
    columns: int
    block_k: int
    warps: int
    stages: int

    @property
    def shared_bytes(self) -> int:
        """Shared memory of a program with 16-bit operands: blocks of a tile and a barrier for every stage."""
        return self.stages * (2 * self.block_k * (self.rows + self.columns) + 8)

    def __str__(self) -> str:
        """`128x256 k64 w8 s4`."""
        return f"{self.rows}x{self.columns} k{self.block_k} w{self.warps} s{self.stages}"


@triton.jit(do_not_specialize=["row_blocks", "column_blocks", "depth"])
def _multiply_add_kernel(
    a,  # (batches, m, depth)
    b,  # (batches, n, depth) or, where it is stored along n, (batches, depth, n)
    c,  # (batches, m, n)
    d,  # (batches, m, n)
    unit,  # (batches,) float32: u, or None for 1
    row_blocks, column_blocks, depth, alpha, beta,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, BLOCK_K: tl.constexpr, GROUP: tl.constexpr,
    A_ALONG_K: tl.constexpr, B_ALONG_K: tl.constexpr, DTYPE: tl.constexpr, OVERLAP: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """d = sqrt(u) (alpha A B + beta C), one tile per program."""
    batch, row, col = place_in_strips(tl.program_id(0), row_blocks, column_blocks, GROUP)
    row *= ROWS
    col *= COLUMNS
    if OVERLAP:
        # Everything above may run while the previous kernel finishes; everything below reads what it wrote.
        gdc_wait()
        if EARLY:
            gdc_launch_dependents()
    if unit is not None:
        factor = tl.sqrt(tl.load(unit + batch))
        alpha *= factor
        beta *= factor
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    for k in range(0, depth, BLOCK_K):
        left = load_block(a, batch, row, k, ROWS, BLOCK_K, A_ALONG_K)
        right = load_block(b, batch, col, k, COLUMNS, BLOCK_K, B_ALONG_K)
        total = tl.dot(left, right.T, total)
    addend = c.load([batch, row, col]).reshape(ROWS, COLUMNS)
    value = alpha * total + beta * addend.to(tl.float32)
    d.store([batch, row, col], value.to(DTYPE).reshape(1, ROWS, COLUMNS))


def multiply_add(
    A: Tensor, B: Tensor, C: Tensor, *, alpha: float = 1.0, beta: float = 1.0, blocking: Blocking | None = None
) -> Tensor:
    """alpha A B + beta C, rounded once from float32 sums.

    Args:
        A: (..., m, k) bfloat16 or float16.
        B: (..., k, n), as A.
        C: (..., m, n), as A.
        alpha: factor on the product.
        beta: factor on C.
        blocking: kernel configuration; by default `default_blocking`'s.

    Returns:
        (..., m, n) in A's dtype. With n not a multiple of 8 it is a view into rows padded to one.

    Raises:
        InvalidInputError: shapes or dtypes do not match.
    """
    *batch, m, depth = A.shape
    n = B.shape[-1]
    if A.dtype not in OPERAND_DTYPES or not A.dtype == B.dtype == C.dtype:
        raise InvalidInputError(f"A, B and C must all be bfloat16 or float16, got {A.dtype}, {B.dtype} and {C.dtype}")
    if A.ndim < 2 or depth == 0 or tuple(B.shape) != (*batch, depth, n) or tuple(C.shape) != (*batch, m, n):
        raise InvalidInputError(
            f"A, B, C must be (..., m, k), (..., k, n), (..., m, n) with k >= 1, got {tuple(A.shape)}, "
            f"{tuple(B.shape)}, {tuple(C.shape)}"
        )
    D = empty_aligned((A.shape[:-2].numel(), m, n), A.dtype, A.device)
    if D.numel():
        chosen = blocking or default_blocking(D.shape, depth, D.dtype, D.device)
        launch_multiply_add((A, B, C), D, (alpha, beta), chosen)
    return D.reshape(*batch, m, n) if len(batch) != 1 else D


def launch_multiply_add(
    operands: tuple[Tensor, Tensor, Tensor],
    D: Tensor,
    factors: tuple[float, float],
    blocking: Blocking,
    *,
    unit: Tensor | None = None,
    ahead: bool = False,
) -> None:
    """D = sqrt(u) (alpha A B + beta C).

    Args:
        operands: A, B and C, as of `multiply_add`.
        D: (batches, m, n) in rows that `empty_aligned` or `empty_rows` laid out, not empty.
        factors: alpha and beta.
        blocking: kernel configuration; a kernel in Gluon takes the cut alone of it.
        unit: (batches,) float32, u; None for 1.
        ahead: see `iroot.kernels.hopper_small_apply`.
    """
    A, B, C = operands
    left, right, addend = operand(A), operand(B.mT), operand(C)
    if not addend.along_k:
        addend = operand(C.contiguous())
    if is_for_gluon(left, right, D, blocking):
        # Gluon is experimental: its names are looked up where they are known to be.
        from iroot.kernels.hopper_apply import hopper_apply

        read = (left.tensor, right.tensor.mT, addend.tensor)
        hopper_apply(read, D, factors, columns=blocking.columns, unit=unit)
    elif is_for_small_gluon(left, right, D, blocking):
        from iroot.kernels.hopper_small_apply import hopper_small_apply

        read = (left.tensor, right.tensor.mT, addend.tensor)
        hopper_small_apply(read, D, factors, rows=blocking.rows, unit=unit, ahead=ahead)
    else:
        triton_multiply_add(left, right, addend, D, factors, blocking=blocking, unit=unit)


LEAST_DEPTHS = {256: 1, 128: 1024}
"""Of the products that `iroot.kernels.hopper_apply` takes, by columns of a tile. Two of Triton's programs of 128 x 128
hide each other's epilogues: against these it was measured from 1024 on, and it takes five steps of 64 at least."""


def is_for_gluon(left: Operand, right: Operand, D: Tensor, blocking: Blocking) -> bool:
    """Whether `iroot.kernels.hopper_apply` is taken: it can run, and is the faster one.

    It is where Triton's programs, one a tile, are more than the GPU has at once, so that others begin with an empty
    pipeline after them: 2048 x 8192 in tiles of 256 columns takes 112.8 us instead of 123.8, 3072 x 3072 in tiles of
    128 98.1 instead of 117.0. Where they are not: 2048 x 2048 28.6 and 28.7, and in tiles of 128 28.1 and 27.6; 1536 x
    1536 20.6 and 20.9, 21.2 and 19.9 (H100, float16, 2026-11-23).
    """
    least = LEAST_DEPTHS.get(blocking.columns)
    if least is None or blocking.rows != 128 or left.tensor.shape[-1] < least:
        return False
    if not left.along_k or right.along_k or lacks_gluon(D.device):
        return False
    batches, m, n = D.shape
    tiles = batches * -(-m // blocking.rows) * -(-n // blocking.columns)
    return tiles > HOPPER.resident(blocking.shared_bytes) * processors(D.device)


MOST_SMALL_WAVES = 1
"""Tiles of 64 columns per multiprocessor up to which Gluon's kernel takes a launch in them. Of two programs on a
multiprocessor each hides the other's epilogue, and then Triton's do as well: polar steps of 2 x 1024 take 155.3 us with
this kernel in tiles of 128 x 64, and 144.4 without it (H100, float16, 2026-11-23)."""


def is_for_small_gluon(left: Operand, right: Operand, D: Tensor, blocking: Blocking) -> bool:
    """Whether `iroot.kernels.hopper_small_apply` is taken: it can run, and is the faster one."""
    rows, columns = blocking.rows, blocking.columns
    if rows > 128 or columns != 64 or not left.along_k or right.along_k or lacks_gluon(D.device):
        return False
    batches, m, n = D.shape
    return batches * -(-m // rows) * -(-n // columns) <= MOST_SMALL_WAVES * processors(D.device)


def triton_multiply_add(
    left: Operand,
    right: Operand,
    addend: Operand,
    D: Tensor,
    factors: tuple[float, float],
    *,
    blocking: Blocking,
    unit: Tensor | None = None,
) -> None:
    """`launch_multiply_add` by this module's kernel; `right` is B^T, and `addend` is along its rows."""
    rows, columns = blocking.rows, blocking.columns
    batches, m, n = D.shape
    row_blocks, column_blocks = triton.cdiv(m, rows), triton.cdiv(n, columns)
    overlap = D.device.type == "cuda"
    on_grid(_multiply_add_kernel, (row_blocks * column_blocks * batches,))(
        left.descriptor(rows, blocking.block_k),
        right.descriptor(columns, blocking.block_k),
        addend.descriptor(rows, columns),
        descriptor(D, rows, columns),
        unit,
        row_blocks,
        column_blocks,
        left.tensor.shape[-1],
        *factors,
        ROWS=rows,
        COLUMNS=columns,
        BLOCK_K=blocking.block_k,
        GROUP=8,
        A_ALONG_K=left.along_k,
        B_ALONG_K=right.along_k,
        DTYPE=TRITON_DTYPES[D.dtype],
        OVERLAP=overlap,
        EARLY=rows * columns <= EARLY_AREA,
        num_warps=blocking.warps,
        num_stages=blocking.stages,
        launch_pdl=overlap,
    )


# Time of a tile in that of a 128 x 128 one (H100, bfloat16, 2026-11-22); two programs of 128 x 256 do not fit together.
_COSTS = {
    Blocking(rows=128, columns=256, block_k=64, warps=8, stages=4): 1.7,
    Blocking(rows=128, columns=128, block_k=64, warps=4, stages=3): 1.0,
    Blocking(rows=128, columns=64, block_k=64, warps=4, stages=4): 0.6,
    Blocking(rows=64, columns=64, block_k=128, warps=4, stages=3): 0.39,
}
BLOCKINGS = tuple(_COSTS)
SEARCHED_BLOCKINGS = (
    *BLOCKINGS,
    Blocking(rows=128, columns=256, block_k=64, warps=8, stages=3),
    *(Blocking(rows=128, columns=128, block_k=64, warps=8, stages=stages) for stages in (3, 4)),
    Blocking(rows=64, columns=128, block_k=64, warps=4, stages=4),
    Blocking(rows=64, columns=64, block_k=64, warps=4, stages=4),
)
"""What `iroot tune kernels` times."""

# Largest tile of a kernel that lets the next one in early, see tiling.Tiling.lets_next_in.
EARLY_AREA = 128 * 64


@lru_cache(maxsize=1024)
def default_blocking(shape: torch.Size, depth: int, dtype: torch.dtype, device: torch.device) -> Blocking:
    """What a table of this GPU names for results of `shape` (batches, m, n), else `choose_blocking`'s."""
    batches, m, n = shape
    known = Shape(kind="apply", rows=m, columns=n, depth=depth, batches=batches, dtype=str(dtype))
    found = tuned(known, SEARCHED_BLOCKINGS, device)
    return found or choose_blocking(m, n, batches, processors=processors(device), family=present_family(device))


def choose_blocking(m: int, n: int, batches: int, *, processors: int, family: Family = HOPPER) -> Blocking:
    """The blocking of those that fit whose busiest multiprocessor has least to do; the first listed of equals."""
    fitting = [blocking for blocking in BLOCKINGS if family.resident(blocking.shared_bytes)]
    return min(fitting, key=lambda blocking: _load(m, n, batches, blocking, processors))


def beats_addmm(m: int, n: int, batches: int, *, processors: int) -> bool:
    """Whether the kernel is faster than torch.addmm into new memory.

    It is where one small tile per multiprocessor does (up to 1024 x 1024: 1.2 to 1.5 times the speed), and where the
    last wave is full enough (1.1 to 1.36); with 72 tiles for 132 multiprocessors it has 0.86 times the speed.
    """
    load = _load(m, n, batches, choose_blocking(m, n, batches, processors=processors), processors)
    return load <= _COSTS[BLOCKINGS[2]] or batches * m * n / 128**2 >= 0.8 * load * processors


def _load(m: int, n: int, batches: int, blocking: Blocking, processors: int) -> float:
    """Work of the busiest multiprocessor, in the time of a 128 x 128 tile."""
    tiles = batches * -(-m // blocking.rows) * -(-n // blocking.columns)
    return _COSTS[blocking] * -(-tiles // processors)
