"""All odd steps of the polar iteration in two launches: the host side of `iroot/kernels/odd_kernel.py`.

The first kernel sums the squares of G, pads it and clears the barriers' counters, the second does everything else.
Nothing outlives a call, so that calls on several streams, and replays of one graph, do not disturb each other.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Literal

import torch
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from iroot.errors import InvalidInputError
from iroot.kernels.grid_barrier import COUNTER_STRIDE
from iroot.kernels.odd_kernel import SLOTS, TABLE_WIDTH, begin_kernel, steps_kernel
from iroot.kernels.operands import OPERAND_DTYPES, TRITON_DTYPES, descriptor, processors
from iroot.kernels.rehearsal import on_grid, rehearse
from iroot.odd_steps import FROBENIUS, Addends, Degree, OddStep, StepBound


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


SMALL = StepTiles(block=64, rows=64, columns=64, block_k=128, warps=4, stages=4, loads="copy_engine")
MEDIUM = StepTiles(block=64, rows=64, columns=128, block_k=64, warps=4, stages=4)
STEP_TILES = (MEDIUM, SMALL)

MOST_PERSISTENT: Degree = 17
"""The highest degree that the kernel has."""

# A larger matrix outlasts its launches. In several waves the separate kernels' larger tiles are faster: sixteen of
# 1024 x 1024 take them 879 us, and five quintics in this one 1270 (H100, 2026-11-23).
_LARGEST = 1024

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


def suits(m: int, n: int, batches: int, processors: int) -> bool:
    """Whether all jobs of any phase of `batches` matrices, m x n or n x m, have a multiprocessor each."""
    m, n = min(m, n), max(m, n)
    return n <= _LARGEST and any(batches * _jobs(m, n, tiles) <= processors for tiles in STEP_TILES)


def persistent_odd_steps(
    G: Tensor,
    steps: Sequence[OddStep],
    *,
    bound: StepBound = FROBENIUS,
    dtype: torch.dtype | None = None,
    plan: StepPlan | None = None,
) -> Tensor:
    """X <- a X + B X for every step, B a polynomial in X X^T (`iroot.odd_steps`), from X = G / bound.

    X and all matrices between are rounded to `dtype` once each; ||G||_F is summed in float64. G itself is rounded only
    if it is of another dtype, after a division by a power of two; the rest of the division is done on float32 sums. So
    it is where the norm of G is below 1e-12 or beyond 1e15. The first call of a shape must not be recorded in a CUDA
    graph: it compiles the kernels and uploads the coefficients.

    Args:
        G: (..., m, n) float32, bfloat16 or float16, any strides.
        steps: at least one, of degree 17 at most.
        bound: what G is divided by.
        dtype: bfloat16 or float16; by default G's.
        plan: kernel configuration; by default `choose_step_plan`'s.

    Returns:
        (..., m, n) in `dtype`, a view into memory that is padded and holds the iterate before as well.

    Raises:
        InvalidInputError: a dtype is none of these, G has no rows or columns, or there are no steps or higher ones.
    """
    held = G.dtype if dtype is None else dtype
    if G.dtype not in TRITON_DTYPES or held not in OPERAND_DTYPES or G.ndim < 2 or 0 in G.shape[-2:]:
        raise InvalidInputError(
            "G must be a float32, bfloat16 or float16 matrix or a stack of them, and dtype bfloat16 or float16, "
            f"got {tuple(G.shape)} {G.dtype} and {held}"
        )
    if not steps:
        raise InvalidInputError("steps must hold at least one step, got none")
    if (highest := max(step.degree for step in steps)) > MOST_PERSISTENT:
        raise InvalidInputError(
            f"steps in one kernel are of degree {MOST_PERSISTENT} at most, got {highest}; use odd_products"
        )
    tall = G.shape[-2] > G.shape[-1]
    wide = G.mT if tall else G
    stack = wide.reshape(-1, *wide.shape[-2:])
    if not stack.numel():
        return torch.empty_like(G, dtype=held)
    batches, m, n = stack.shape
    # The interpreter runs programs one after the other, so that none can wait for another.
    places = processors(G.device) if G.device.type == "cuda" else 1
    chosen = plan or choose_step_plan(m, n, batches, processors=places)
    launches = partial(_launch, stack, tuple(steps), bound, held, chosen)
    compiled = ("odd_steps", stack.shape, stack.stride(), G.dtype, held, bound.norm, chosen)
    rehearse(compiled, launches, G.device)
    X = launches().reshape(wide.shape)
    return X.mT if tall else X


def _launch(G: Tensor, steps: tuple[OddStep, ...], bound: StepBound, dtype: torch.dtype, plan: StepPlan) -> Tensor:
    batches, rows, columns = G.shape
    tiles, device = plan.tiles, G.device
    m, n = tiles.padded(rows, columns)
    parts, jobs = m // _BEGIN_ROWS, _pairs(m // tiles.block)
    slots = max(SLOTS[step.degree] for step in steps)
    X = torch.empty(2 * batches, m, n, dtype=dtype, device=device)
    squares = torch.empty(plan.groups * slots, m, m, dtype=dtype, device=device)
    norms = torch.empty(batches, parts, dtype=torch.float64, device=device)
    second = bound.norm != "frobenius"
    sums = torch.empty(plan.groups, 2, jobs, dtype=torch.float32, device=device) if second else None
    counters = torch.empty(plan.groups, COUNTER_STRIDE.value, dtype=torch.int32, device=device)
    copied = G.dtype == dtype
    early = plan.starts == "under" and device.type == "cuda"
    on_grid(begin_kernel, (parts, batches))(
        G, *G.stride(), X if copied else None, norms, counters, plan.groups, rows, columns, m, n,
        ROWS=_BEGIN_ROWS, COLUMNS=min(n & -n, 1024), EARLY=early, num_warps=4,
    )  # fmt: skip
    on_grid(steps_kernel, (plan.groups * plan.programs,))(
        G, *G.stride(), rows, columns, X, squares, *_descriptors(X, squares, tiles), device_table(steps, device),
        norms, sums, counters, batches, plan.groups, plan.programs, slots, len(steps), parts, jobs, m, n,
        bound.margin, 1.0 if second else bound.margin, bound.unit(rows), math.sqrt(rows), bound.epsilon,
        NORM=bound.norm, COPIED=copied, PARTS=_count(parts), JOBS=_count(jobs), BLOCK=tiles.block, ROWS=tiles.rows,
        COLUMNS=tiles.columns, BLOCK_K=tiles.block_k, EARLY=early,
        num_warps=tiles.warps, num_stages=tiles.stages, launch_cooperative_grid=True, launch_pdl=early,
    )  # fmt: skip
    return X.view(2, batches, m, n)[len(steps) % 2, :, :rows, :columns]


def _descriptors(
    X: Tensor, squares: Tensor, tiles: StepTiles
) -> tuple[TensorDescriptor | None, TensorDescriptor | None, TensorDescriptor | None, TensorDescriptor | None]:
    """X in strips and in blocks, the symmetric matrices in strips and B in strips, as the phases read them."""
    if tiles.loads == "threads":
        return None, None, None, None
    return (
        descriptor(X, tiles.block, tiles.block_k),
        descriptor(X, tiles.block_k, tiles.columns),
        descriptor(squares, tiles.block, tiles.block_k),
        descriptor(squares, tiles.rows, tiles.block_k),
    )


_NONE = Addends()


@lru_cache(maxsize=256)
def device_table(steps: tuple[OddStep, ...], device: torch.device) -> Tensor:
    """(steps, TABLE_WIDTH) float32 on `device`; uploaded once, so not first inside a graph capture."""
    return torch.tensor([_entry(step) for step in steps], dtype=torch.float32, device=device)


def _entry(step: OddStep) -> list[float]:
    """What the kernel reads of a step."""
    sums = [*_factors(1.0), *_factors(1.0)]
    if step.degree == 9:
        sums = [*_factors(step.sign, step.last), *_factors(1.0)]
    elif step.degree == 17:
        sums = [*_factors(1.0, step.left, step.right), *_factors(step.sign, step.last)]
    inner = step.inner
    products = step.symmetric_products - 2
    entry = [products, step.constant, step.stretch, step.shift, inner.S, inner.Z, inner.identity, *sums]
    assert len(entry) == TABLE_WIDTH.value
    return entry


def _factors(product: float, addends: Addends = _NONE, second: Addends = _NONE) -> list[float]:
    """Factors of a product, T, Z and I in its first sum, and of T and Z in its second."""
    return [product, addends.T, addends.Z, addends.identity, second.T, second.Z]


def reference_odd_steps(
    G: Tensor, steps: Sequence[OddStep], *, bound: StepBound = FROBENIUS, dtype: torch.dtype | None = None
) -> Tensor:
    """What `persistent_odd_steps` computes, by the library in float32, rounded where the kernel rounds; any degree.

    In float64 without rounding for such a G.
    """
    held = G.dtype if dtype is None else dtype
    tall = G.shape[-2] > G.shape[-1]
    X, scale = _entered(G.mT if tall else G, bound, held)
    for index, step in enumerate(steps):
        A = scale * (scale * (X @ X.mT))
        if index == 0 and bound.norm != "frobenius":
            S, Z, inverse_square = _bounded_square(_rounded(A, held), step, bound, held)
            scale = scale * inverse_square.sqrt()
        else:
            Z = _rounded(_shifted(step.stretch * A, step.shift), held)
            S = Z @ Z
        X = _rounded(scale * (step.constant * X + _multiplier(S, Z, step, held) @ X), held)
        scale = torch.ones_like(scale)
    return (X.mT if tall else X).to(held)


def _entered(G: Tensor, bound: StepBound, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """X and the factor that is left to the first step's sums."""
    norm = torch.linalg.vector_norm(G, dim=(-2, -1), keepdim=True, dtype=torch.float64)
    divisor = (bound.margin if bound.norm == "frobenius" else 1.0) * norm + bound.epsilon
    inverse = bound.unit(G.shape[-2]) / divisor.clamp_min(1e-300)
    power = torch.exp2(torch.frexp(math.sqrt(G.shape[-2]) / norm.clamp_min(1e-300)).exponent.double() - 1.0)
    entering = (norm < 1e-12) | (norm > 1e15) if G.dtype == dtype else torch.ones_like(norm, dtype=torch.bool)
    power = torch.where(entering, power, 1.0)
    working = torch.promote_types(dtype, torch.float32)
    return _rounded((G.double() * power).to(working), dtype), (inverse / power).to(working)


def _bounded_square(A: Tensor, step: OddStep, bound: StepBound, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Z^2 and Z at A / bound^2, and 1 / bound^2."""
    norm, squared = torch.linalg.matrix_norm(A, keepdim=True), A @ A
    if bound.norm == "schatten8":
        tau = (3e4 / norm.square().clamp_min(1e-12)).clamp_max(1.0)
        squared = _rounded(tau * squared, dtype) / tau
        norm = torch.linalg.matrix_norm(squared, keepdim=True).sqrt()
    inverse_square = (bound.margin**2 * norm).clamp_min(1e-12).reciprocal()
    stretch = step.stretch * inverse_square
    S = stretch**2 * squared + 2.0 * stretch * step.shift * A
    return _shifted(S, step.shift**2), _shifted(stretch * A, step.shift), inverse_square


def _multiplier(S: Tensor, Z: Tensor, step: OddStep, dtype: torch.dtype) -> Tensor:
    """B from Z^2 and Z before they are rounded."""
    T = _rounded(_shifted(step.inner.S * S + step.inner.Z * Z, step.inner.identity), dtype)
    if step.degree == 5:
        return T
    Z = _rounded(Z, dtype)
    if step.degree == 9:
        return _rounded(_with(step.sign * (T @ T), T, Z, step.last), dtype)
    L = _rounded(_with(T @ T, T, Z, step.left), dtype)
    if step.degree == 17:
        R = _rounded(_with(T @ T, T, Z, step.right), dtype)
        return _rounded(_with(step.sign * _mirrored(L @ R), T, Z, step.last), dtype)
    R = _rounded(_with(L @ L, T, Z, step.right), dtype)
    return _rounded(_with(step.sign * (R @ R), L, Z, step.last), dtype)


def _with(product: Tensor, T: Tensor, Z: Tensor, addends: Addends) -> Tensor:
    return _shifted(product + addends.T * T + addends.Z * Z, addends.identity)


def _rounded(M: Tensor, dtype: torch.dtype) -> Tensor:
    return M.to(dtype).to(M.dtype)


def _shifted(M: Tensor, shift: float) -> Tensor:
    return M + shift * torch.eye(M.shape[-1], dtype=M.dtype, device=M.device)


def _mirrored(product: Tensor) -> Tensor:
    """Of two matrices that commute up to rounding: the lower triangle twice."""
    return product.tril() + product.tril(-1).mT


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
