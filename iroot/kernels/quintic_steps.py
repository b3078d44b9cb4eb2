"""All steps of the polar iteration in two launches: the host side of `iroot/kernels/quintics.py`.

The first kernel pads G, sums its squares and clears the barriers' counters, the second does everything else. Nothing
outlives a call, so that calls on several streams, and replays of one graph, do not disturb each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Literal

import torch
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from iroot.coefficients import OddQuintic
from iroot.errors import InvalidInputError
from iroot.kernels.grid_barrier import COUNTER_STRIDE
from iroot.kernels.operands import OPERAND_DTYPES, TRITON_DTYPES, descriptor, processors
from iroot.kernels.quintics import begin_kernel, steps_kernel
from iroot.kernels.rehearsal import on_grid, rehearse
from iroot.odd_steps import FROBENIUS, StepBound


@dataclass(frozen=True, kw_only=True)
class StepTiles:
    """One configuration of the kernel; every side a power of two.

    Attributes:
        block: rows and columns of a tile of A and of B.
        rows: of a tile of X'.
        columns: of a tile of X'.
        block_k: columns of an operand per pipeline stage.
        warps: warps per program.
        stages: pipeline depth.
        loads: who fills the pipeline: the program's threads (`cp.async`), or the copy engine (tensor descriptors).
    """

    block: int
    rows: int
    columns: int
    block_k: int
    warps: int
    stages: int
    loads: Literal["threads", "copy_engine"] = "threads"

    def padded(self, m: int, n: int) -> tuple[int, int]:
        """Rows and columns in memory: multiples of every tile that runs along them."""
        return _up(m, max(self.block, self.rows, self.block_k)), _up(n, max(self.columns, self.block_k))


SMALL = StepTiles(block=64, rows=64, columns=64, block_k=128, warps=4, stages=4)
MEDIUM = StepTiles(block=64, rows=64, columns=128, block_k=64, warps=4, stages=6)
LARGE = StepTiles(block=128, rows=128, columns=128, block_k=64, warps=8, stages=4)
STEP_TILES = (MEDIUM, SMALL, LARGE)

# Estimates, in clocks of a multiprocessor: 64 bytes a clock come from the second-level cache; a tile's first loads and
# its stores pass under nothing; a barrier is a fence, an atomic add and a poll, one after the other.
_BYTES_PER_CLOCK = 64
_TILE_CLOCKS = 3000
_BARRIER_CLOCKS = 2500

_BEGIN_ROWS = 8


@dataclass(frozen=True, kw_only=True)
class StepPlan:
    """How one call is laid out.

    Attributes:
        tiles: of every phase.
        groups: of programs; each works on one matrix at a time.
        programs: of a group.
        starts: when the second kernel's programs take their places: after the first kernel, or under it.
    """

    tiles: StepTiles
    groups: int
    programs: int
    starts: Literal["after", "under"] = "after"

    def clocks(self, m: int, n: int, batches: int) -> float:
        """Estimated time of one step of all matrices."""
        tiles = self.tiles
        side = -(-m // tiles.block)
        halves = -(-_pairs(side) // self.programs)
        whole = -(-(-(-m // tiles.rows) * -(-n // tiles.columns)) // self.programs)
        loaded = halves * 2 * tiles.block * (n + m) + whole * (tiles.rows + tiles.columns) * m
        clocks = 2 * loaded / _BYTES_PER_CLOCK + (2 * halves + whole) * _TILE_CLOCKS + 3 * _BARRIER_CLOCKS
        return clocks * -(-batches // self.groups)


@lru_cache(maxsize=1024)
def choose_step_plan(m: int, n: int, batches: int, *, processors: int) -> StepPlan:
    """The plan with the least estimated time; at most one program per multiprocessor, as the barriers require."""
    plans = (
        StepPlan(tiles=tiles, groups=groups, programs=min(processors // groups, _jobs(m, n, tiles)))
        for tiles in STEP_TILES
        for groups in range(1, min(batches, processors) + 1)
    )
    return min(plans, key=lambda plan: (plan.clocks(m, n, batches), plan.groups * plan.programs))


def quintic_steps(
    G: Tensor,
    coefficients: Sequence[OddQuintic],
    *,
    bound: StepBound = FROBENIUS,
    plan: StepPlan | None = None,
) -> Tensor:
    """X <- a X + (b A + c A^2) X, A = X X^T, for every (a, b, c), from X = G / bound.

    A, b A + c A^2 and X are rounded once each. ||G||_F is summed in float64. G is divided on float32 sums and not
    rounded, unless its norm is below 1e-12 or beyond 1e15. The first call of a shape must not be recorded in a CUDA
    graph: it compiles the kernels and uploads the coefficients.

    Args:
        G: (..., m, n) bfloat16 or float16, any strides.
        coefficients: (a, b, c) of every step.
        bound: what G is divided by.
        plan: kernel configuration; by default `choose_step_plan`'s.

    Returns:
        (..., m, n) in G's dtype, a view into memory that is padded and holds the iterate before as well.

    Raises:
        InvalidInputError: G is not of such a dtype, has no rows or columns, or there are no steps.
    """
    if G.dtype not in OPERAND_DTYPES or G.ndim < 2 or 0 in G.shape[-2:]:
        raise InvalidInputError(
            f"G must be a bfloat16 or float16 matrix or a stack of them, got {tuple(G.shape)} {G.dtype}"
        )
    if not coefficients:
        raise InvalidInputError("coefficients must hold at least one step, got none")
    tall = G.shape[-2] > G.shape[-1]
    wide = G.mT if tall else G
    stack = wide.reshape(-1, *wide.shape[-2:])
    if not stack.numel():
        return torch.empty_like(G)
    batches, m, n = stack.shape
    # The interpreter runs programs one after the other, so that none can wait for another.
    places = processors(G.device) if G.device.type == "cuda" else 1
    chosen = plan or choose_step_plan(m, n, batches, processors=places)
    launches = partial(_launch, stack, tuple(coefficients), bound, chosen)
    rehearse(("quintic_steps", stack.shape, stack.stride(), G.dtype, bound.norm, chosen), launches, G.device)
    X = launches().reshape(wide.shape)
    return X.mT if tall else X


def _launch(G: Tensor, coefficients: tuple[OddQuintic, ...], bound: StepBound, plan: StepPlan) -> Tensor:
    batches, rows, columns = G.shape
    tiles, steps, device = plan.tiles, len(coefficients), G.device
    m, n = tiles.padded(rows, columns)
    parts, jobs = m // _BEGIN_ROWS, _pairs(m // tiles.block)
    X = torch.empty(2 * batches, m, n, dtype=G.dtype, device=device)
    gram, quadratic = (torch.empty(plan.groups, m, m, dtype=G.dtype, device=device) for _ in range(2))
    sums = torch.empty(batches, parts, dtype=torch.float64, device=device)
    by_gram = bound.norm == "gram"
    early = plan.starts == "under" and device.type == "cuda"
    squares = torch.empty(plan.groups, jobs, dtype=torch.float32, device=device) if by_gram else None
    counters = torch.empty(plan.groups, COUNTER_STRIDE.value, dtype=torch.int32, device=device)
    on_grid(begin_kernel, (parts, batches))(
        G, *G.stride(), X, sums, counters, plan.groups, rows, columns, m, n,
        ROWS=_BEGIN_ROWS, COLUMNS=min(n & -n, 1024), EARLY=early, num_warps=4,
    )  # fmt: skip
    on_grid(steps_kernel, (plan.groups * plan.programs,))(
        X, gram, quadratic, *_descriptors(X, gram, quadratic, tiles), device_coefficients(coefficients, device),
        sums, squares, counters, batches, plan.groups, plan.programs, steps, parts, jobs, m, n,
        bound.margin, 1.0 if by_gram else bound.margin, bound.unit(rows), bound.epsilon,
        PARTS=_count(parts), JOBS=_count(jobs), BLOCK=tiles.block, ROWS=tiles.rows, COLUMNS=tiles.columns,
        BLOCK_K=tiles.block_k, DTYPE=TRITON_DTYPES[G.dtype], EARLY=early,
        num_warps=tiles.warps, num_stages=tiles.stages, launch_cooperative_grid=True, launch_pdl=early,
    )  # fmt: skip
    return X.view(2, batches, m, n)[steps % 2, :, :rows, :columns]


def _descriptors(
    X: Tensor, gram: Tensor, quadratic: Tensor, tiles: StepTiles
) -> tuple[TensorDescriptor | None, TensorDescriptor | None, TensorDescriptor | None, TensorDescriptor | None]:
    """X in strips and in blocks, A in strips and B in strips, as the phases read them."""
    if tiles.loads == "threads":
        return None, None, None, None
    return (
        descriptor(X, tiles.block, tiles.block_k),
        descriptor(X, tiles.block_k, tiles.columns),
        descriptor(gram, tiles.block, tiles.block_k),
        descriptor(quadratic, tiles.rows, tiles.block_k),
    )


@lru_cache(maxsize=256)
def device_coefficients(coefficients: tuple[OddQuintic, ...], device: torch.device) -> Tensor:
    """(steps, 3) float32 on `device`; uploaded once, so not first inside a graph capture."""
    return torch.tensor(coefficients, dtype=torch.float32, device=device)


def reference_steps(G: Tensor, coefficients: Sequence[OddQuintic], *, bound: StepBound = FROBENIUS) -> Tensor:
    """What `quintic_steps` computes, by the library in float32, rounded where the kernel rounds; float64 if G is."""
    dtype, working = G.dtype, torch.promote_types(G.dtype, torch.float32)
    X = G.mT if G.shape[-2] > G.shape[-1] else G
    norm = torch.linalg.vector_norm(X, dim=(-2, -1), keepdim=True, dtype=torch.float64)
    by_gram = bound.norm == "gram"
    divisor = (1.0 if by_gram else bound.margin) * norm + bound.epsilon
    inverse = bound.unit(X.shape[-2]) / divisor.clamp_min(1e-300)
    far = (norm < 1e-12) | (norm > 1e15)
    X = torch.where(far, (X * inverse).to(dtype), X)
    scale = torch.where(far, 1.0, inverse).to(working)
    for step, (a, b, c) in enumerate(coefficients):
        wide = X.to(working)
        A = (scale * (scale * (wide @ wide.mT))).to(dtype).to(working)
        factor = torch.ones_like(scale)
        if by_gram and step == 0:
            norm = torch.linalg.matrix_norm(A, keepdim=True)
            factor = (bound.margin**2 * norm).clamp_min(1e-12).reciprocal()
        B = (b * factor * A + c * factor**2 * (A @ A)).to(dtype).to(working)
        X = (scale * factor.sqrt() * (a * wide + B @ wide)).to(dtype)
        scale = torch.ones_like(scale)
    return X.mT if G.shape[-2] > G.shape[-1] else X


def _count(values: int) -> int:
    """A power of two that holds them; one kernel for every m <= 1024."""
    return max(128, 1 << (values - 1).bit_length())


def _pairs(side: int) -> int:
    """Jobs of a triangle of side x side tiles: one below the diagonal each, two on it."""
    return side * (side - 1) // 2 + (side + 1) // 2


def _jobs(m: int, n: int, tiles: StepTiles) -> int:
    """Jobs of the phase that has most."""
    return max(_pairs(-(-m // tiles.block)), -(-m // tiles.rows) * -(-n // tiles.columns))


def _up(length: int, unit: int) -> int:
    return -(-length // unit) * unit
