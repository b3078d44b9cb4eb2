# Device functions carry no Python types, and Triton has no type information:
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, disallow-untyped-calls=False
# mypy: disallow-untyped-decorators=False
"""One symmetric product and one or two sums with it, p P + t T + z Z + i I, for the steps of `iroot.odd_steps`.

P = M N^T for operands whose product is symmetric: M = N = X, or polynomials in one matrix. Tiles on or below the
diagonal are computed and stored twice, with the tilings of `iroot/kernels/symmetric.py`. Here the epilogue is long: up
to two addends are read and two results written, slice by slice, because whole tiles of them would not fit the
registers beside the accumulator.

In a first step Z is not at hand, but A = X X^T, and the scalar u of Z = stretch u A + shift I is known on the device
alone. So P = A A may be multiplied by u^2 and Z's factor by u, with u from the sums of squares that the kernel which
wrote A left, tile by tile: no two programs write one element or one sum, and results repeat bit for bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait
from triton.tools.tensor_descriptor import TensorDescriptor

from iroot.kernels.device_tiles import device_programs
from iroot.kernels.mainloop import accumulate, accumulate_wide
from iroot.kernels.operands import TRITON_DTYPES, descriptor
from iroot.kernels.rehearsal import on_grid
from iroot.kernels.tiling import Tiling
from iroot.kernels.words import total_of

_UNSCALED = tl.constexpr(0)
_LIMITED = tl.constexpr(1)
_FIRST = tl.constexpr(2)
_LATER = tl.constexpr(3)

# Of A with a mean diagonal of 1 the Frobenius norm is at least 1; only a zero matrix is below this.
_LEAST = tl.constexpr(1e-12)

# Entries of A^2 are at most ||A||_F^2; half of float16's range leaves room for what rounding adds.
_MOST = tl.constexpr(3e4)


@triton.jit
def limit_of(squares):
    """tau = min(1, 3e4 / ||A||_F^2): no entry of tau A^2 leaves float16's range."""
    return tl.minimum(1.0, _MOST / tl.maximum(squares, _LEAST))


@triton.jit
def unit_of(norm, margin):
    """u = 1 / (margin^2 norm) for norm >= ||A||_2; finite where the matrix is zero."""
    return 1.0 / tl.maximum(margin * margin * norm, _LEAST)


@triton.jit
def _sum(acc, T, Z, terms, on_diagonal, DTYPE: tl.constexpr):
    """p acc + t T + z Z + i I, rounded once; a matrix that is None has no term."""
    value = terms[0] * acc
    if T is not None:
        value += terms[1] * T.to(tl.float32)
    if Z is not None:
        value += terms[2] * Z.to(tl.float32)
    return tl.where(on_diagonal, value + terms[3], value).to(DTYPE)


@triton.jit
def _load(source, batch, row, col, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    return source.load([batch, row, col]).reshape(ROWS, COLUMNS)


@triton.jit
def _store_twice(word, out, mirror, batch, row, col, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """out[row:, col:] = word and out[col:, row:] = word^T."""
    out.store([batch, row, col], word.reshape(1, ROWS, COLUMNS))
    mirror.store([batch, col, row], word.T.reshape(1, COLUMNS, ROWS))


@triton.jit
def _slice(
    acc, t, z, out, mirror, out_2, mirror_2, batch, row, col, terms, terms_2,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DTYPE: tl.constexpr, SQUARES: tl.constexpr,
):  # fmt: skip
    """Both sums for a slice of the accumulator; the sum of the first one's squares, which beyond n are zero."""
    T = None
    Z = None
    if t is not None:
        T = _load(t, batch, row, col, ROWS, COLUMNS)
    if z is not None:
        Z = _load(z, batch, row, col, ROWS, COLUMNS)
    on_diagonal = row + tl.arange(0, ROWS)[:, None] == col + tl.arange(0, COLUMNS)[None, :]
    word = _sum(acc, T, Z, terms, on_diagonal, DTYPE)
    _store_twice(word, out, mirror, batch, row, col, ROWS, COLUMNS)
    if out_2 is not None:
        word_2 = _sum(acc, T, Z, terms_2, on_diagonal, DTYPE)
        _store_twice(word_2, out_2, mirror_2, batch, row, col, ROWS, COLUMNS)
    total = 0.0
    if SQUARES:
        stored = word.to(tl.float32)
        total = tl.sum(stored * stored)
    return total


@triton.jit
def _columns(
    acc, t, z, out, mirror, out_2, mirror_2, batch, row, col, terms, terms_2,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, SLICE: tl.constexpr, DTYPE: tl.constexpr,
    SQUARES: tl.constexpr,
):  # fmt: skip
    """`_slice` for each SLICE columns."""
    if COLUMNS == SLICE:
        total = _slice(
            acc, t, z, out, mirror, out_2, mirror_2, batch, row, col, terms, terms_2,
            ROWS, COLUMNS, DTYPE, SQUARES,
        )  # fmt: skip
    else:
        left, right = acc.reshape(ROWS, 2, COLUMNS // 2).permute(0, 2, 1).split()
        total = _columns(
            left, t, z, out, mirror, out_2, mirror_2, batch, row, col, terms, terms_2,
            ROWS, COLUMNS // 2, SLICE, DTYPE, SQUARES,
        )  # fmt: skip
        total += _columns(
            right, t, z, out, mirror, out_2, mirror_2, batch, row, col + COLUMNS // 2, terms, terms_2,
            ROWS, COLUMNS // 2, SLICE, DTYPE, SQUARES,
        )  # fmt: skip
    return total


@triton.jit(do_not_specialize=["tiles", "count", "depth"])
def sum_kernel(
    programs,  # (number of programs, 4) int32: see tiling.Program
    left, right, right_tail,  # (batches, n, depth) in strips of rows; right is left for a square
    t, z, t_tail, z_tail,  # T, and Z or A, (batches, n, n) symmetric, in slices and in those of a tail; or None
    out, mirror, out_tail, mirror_tail,  # (batches, n, n) in slices and transposed slices, and in those of a tail
    out_2, mirror_2,  # the same for a second result, or None; slices are as wide as tails then
    squares,  # (batches, tiles) float32: sums of out's squares, or None; out has no term in I then
    norms,  # (batches, count) float32: sums of squares of A; LIMITED and FIRST
    unit,  # (batches,) float32: u; FIRST writes it, LATER reads it
    tiles, count, margin, depth, p, of_t, of_z, of_i, p_2, of_t_2, of_z_2, of_i_2,
    SCALING: tl.constexpr, COUNT: tl.constexpr,
    BLOCK: tl.constexpr, TAIL: tl.constexpr, SLICE: tl.constexpr, BLOCK_K: tl.constexpr, DTYPE: tl.constexpr,
    OVERLAP: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """One tile per program. Programs start in order of their number."""
    slot = tl.program_id(0)
    batch = tl.load(programs + 4 * slot)
    row = tl.load(programs + 4 * slot + 1)
    col = tl.load(programs + 4 * slot + 2)
    wide = tl.load(programs + 4 * slot + 3)
    if OVERLAP:
        # Everything above may run while the previous kernel finishes; everything below reads what it wrote.
        gdc_wait()
        if EARLY:
            gdc_launch_dependents()
    if SCALING == _LIMITED:
        p *= limit_of(total_of(norms, batch, count, COUNT))
    if SCALING == _FIRST:
        u = unit_of(tl.sqrt(total_of(norms, batch, count, COUNT)), margin)
        p *= u * u
        p_2 *= u * u
        of_z *= u
        of_z_2 *= u
        if slot % tiles == 0:
            tl.store(unit + batch, u)
    if SCALING == _LATER:
        u = tl.load(unit + batch)
        of_z *= u
        of_z_2 *= u
    terms = (p, of_t, of_z, of_i)
    terms_2 = (p_2, of_t_2, of_z_2, of_i_2)
    head = tl.zeros((BLOCK, BLOCK), tl.float32)
    if TAIL > 0 and wide == 1:
        tail = tl.zeros((BLOCK, TAIL), tl.float32)
        head, tail = accumulate_wide(
            head, tail, left, right, right_tail, batch, row, col, depth, BLOCK, TAIL, BLOCK_K, 0, True, True
        )  # fmt: skip
        # The tail first: its registers are free for the slices of the head.
        total = _columns(
            tail, t_tail, z_tail, out_tail, mirror_tail, out_2, mirror_2, batch, row, col + BLOCK, terms, terms_2,
            BLOCK, TAIL, TAIL, DTYPE, squares is not None,
        )  # fmt: skip
        total += _columns(
            head, t, z, out, mirror, out_2, mirror_2, batch, row, col, terms, terms_2,
            BLOCK, BLOCK, SLICE, DTYPE, squares is not None,
        )  # fmt: skip
        total *= 2.0
    else:
        head = accumulate(head, left, right, batch, row, col, depth, BLOCK, BLOCK_K, 0, True, True)
        weight = 2.0
        if row == col:
            # Both stores of a diagonal tile write the same elements: the same values, then.
            weight = 1.0
            k = tl.arange(0, BLOCK)
            head = tl.where(k[:, None] >= k[None, :], head, head.T)
        total = _columns(
            head, t, z, out, mirror, out_2, mirror_2, batch, row, col, terms, terms_2,
            BLOCK, BLOCK, SLICE, DTYPE, squares is not None,
        )  # fmt: skip
        total *= weight
    if squares is not None:
        tl.store(squares + slot, total)


@dataclass(frozen=True, kw_only=True)
class SumTerms:
    """The factors of P, T, Z and of the identity in a sum."""

    P: float = 1.0
    T: float = 0.0
    Z: float = 0.0
    identity: float = 0.0

    @property
    def values(self) -> tuple[float, float, float, float]:
        return self.P, self.T, self.Z, self.identity


@dataclass(frozen=True, kw_only=True)
class Matrices:
    """M and N of P = M N^T, and the addends; (batches, n, n), M and N of a Gram product (batches, n, depth)."""

    M: Tensor
    N: Tensor
    T: Tensor | None = None
    Z: Tensor | None = None

    @property
    def addends(self) -> int:
        return sum(A is not None for A in (self.T, self.Z))


@dataclass(frozen=True, kw_only=True)
class Scaling:
    """What is multiplied by scalars of the device: nothing; P by tau; P by u^2 and Z by u; or Z by u.

    Attributes:
        norms: (batches, count) float32, sums of squares of A; `limited` and `first`.
        unit: (batches,) float32; `first` writes it, `later` reads it.
        margin: of u = 1 / (margin^2 ||A||_F); `first`.
    """

    kind: Literal["unscaled", "limited", "first", "later"] = "unscaled"
    norms: Tensor | None = None
    unit: Tensor | None = None
    margin: float = 1.0

    @property
    def count(self) -> int:
        return 0 if self.norms is None else self.norms.shape[-1]


UNSCALED = Scaling()
_KINDS = {"unscaled": _UNSCALED, "limited": _LIMITED, "first": _FIRST, "later": _LATER}


def triton_sums(
    matrices: Matrices,
    sums: Sequence[SumTerms],
    tiling: Tiling,
    outputs: Sequence[Tensor],
    *,
    scaling: Scaling = UNSCALED,
    squares: Tensor | None = None,
) -> None:
    """`iroot.kernels.sum_launch.symmetric_sums` by this module's kernel, into `outputs` of `empty_rows`."""
    batches, n, depth = matrices.M.shape
    block, tail, block_k = tiling.block, tiling.tail, tiling.block_k
    width = _slice_width(tiling, matrices.addends, len(sums))
    programs = device_programs(n, batches, block, tail, matrices.M.device)
    left = descriptor(matrices.M, block, block_k)
    overlap = matrices.M.device.type == "cuda"
    second = outputs[1] if len(sums) > 1 else None
    on_grid(sum_kernel, (programs.shape[0],))(
        programs, left, left if matrices.M is matrices.N else descriptor(matrices.N, block, block_k),
        descriptor(matrices.N, tail, block_k) if tail else None,
        *(_blocks(A, block, columns) for columns in (width, tail) for A in (matrices.T, matrices.Z)),
        _blocks(outputs[0], block, width), _blocks(outputs[0], width, block),
        _blocks(outputs[0], block, tail), _blocks(outputs[0], tail, block),
        _blocks(second, block, width), _blocks(second, width, block),
        squares, scaling.norms, scaling.unit, programs.shape[0] // batches, scaling.count, scaling.margin, depth,
        *sums[0].values, *sums[-1].values,
        SCALING=_KINDS[scaling.kind].value, COUNT=power_of_two(scaling.count),
        BLOCK=block, TAIL=tail, SLICE=width, BLOCK_K=block_k,
        DTYPE=TRITON_DTYPES[matrices.M.dtype], OVERLAP=overlap, EARLY=tiling.lets_next_in,
        num_warps=tiling.warps, num_stages=tiling.stages, launch_pdl=overlap,
        # Slices must round alike for tiles on the diagonal to stay symmetric to the last bit.
        enable_fp_fusion=False,
    )  # fmt: skip


def power_of_two(count: int) -> int:
    """One that holds `count` values; the same for most shapes, so that they share a kernel."""
    return max(1024, 1 << (count - 1).bit_length())


def _blocks(A: Tensor | None, rows: int, columns: int) -> TensorDescriptor | None:
    return None if A is None or rows * columns == 0 else descriptor(A, rows, columns)


def _slice_width(tiling: Tiling, addends: int, results: int) -> int:
    """Columns of a tile that the epilogue handles at a time.

    No form of the kernel spills so, with 4 warps: 255 registers at most (Triton 3.6 for sm_90, 2026-11-23).
    """
    if results == 1 or (not tiling.tail and (addends == 0 or tiling.block < 128)):
        return tiling.block
    return tiling.tail or 32
