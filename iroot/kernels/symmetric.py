# Device functions carry no Python types, and Triton has no type information:
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, disallow-untyped-calls=False
# mypy: disallow-untyped-decorators=False
"""D = alpha A B^T + beta C + gamma I where the result is known to be symmetric: half the work of a full product.

Only tiles on or below the diagonal are computed, and each is stored twice, as it is and transposed, so D is exactly
symmetric. A Gram matrix has B = A; A B for commuting symmetric A and B has B^T = B. Tiles come from
`iroot/kernels/tiling.py`; no two programs write one element and none reads what another wrote, so results repeat bit
for bit.

Operands are bfloat16 and float16; float32, which is rounded to TF32 first (`iroot/kernels/tf32.py`); and the values of
quantised operands, FP8 E4M3 and int8. Sums are float32, of int8 int32.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from iroot.errors import InvalidInputError
from iroot.kernels.device_tiles import device_programs
from iroot.kernels.mainloop import accumulate, accumulate_wide
from iroot.kernels.operands import (
    OPERAND_DTYPES,
    TRITON_DTYPES,
    Operand,
    depth_operand,
    descriptor,
    empty_aligned,
    operand,
    present_family,
    processors,
    symmetric_operand,
)
from iroot.kernels.rehearsal import on_grid
from iroot.kernels.sum_launch import gluon_launch
from iroot.kernels.symmetric_sum import Matrices, SumTerms
from iroot.kernels.table_file import Kind, Shape
from iroot.kernels.tables import tuned
from iroot.kernels.tf32 import round_to_tf32
from iroot.kernels.tiling import (
    FP8_TILINGS,
    INT8_TILINGS,
    SEARCHED_TILINGS,
    TF32_TILINGS,
    TILINGS,
    Tiling,
    choose_tiling,
)


@triton.jit
def _finish(product, c, batch, row, col, alpha, beta, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """alpha A B^T + beta C in float32, one tile; int32 sums as they are."""
    value = product
    if product.dtype == tl.float32:
        value = product * alpha
        if c is not None:
            value += beta * c.load([batch, row, col]).reshape(ROWS, COLUMNS).to(tl.float32)
    return value


@triton.jit
def _store_twice(
    value, d, d_mirror, batch, row, col, ROWS: tl.constexpr, COLUMNS: tl.constexpr, DTYPE: tl.constexpr
):  # fmt: skip
    """D[row:, col:] = value and D[col:, row:] = value^T."""
    rounded = value.to(DTYPE)
    d.store([batch, row, col], rounded.reshape(1, ROWS, COLUMNS))
    d_mirror.store([batch, col, row], rounded.T.reshape(1, COLUMNS, ROWS))


@triton.jit
def _symmetric_kernel(
    programs,  # (number of programs, 4) int32: see tiling.Program
    a,  # (batches, n, depth)
    b,  # (batches, n, depth), the same tensor as a for a Gram matrix
    b_tail,  # b again, in blocks of TAIL rows; None without a tail
    c,  # (batches, n, n) symmetric, or None
    c_tail,
    d,  # (batches, n, n)
    d_tail,
    d_tail_mirror,
    scales,  # (batches,) float32: of the values of A and of B, or None
    depth, alpha, beta, gamma,
    BLOCK: tl.constexpr, TAIL: tl.constexpr, BLOCK_K: tl.constexpr, PROMOTE_K: tl.constexpr,
    A_ALONG_K: tl.constexpr, B_ALONG_K: tl.constexpr, SUM: tl.constexpr, DTYPE: tl.constexpr,
    OVERLAP: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """One tile per program. Programs start in order of their number."""
    program = programs + 4 * tl.program_id(0)
    batch = tl.load(program)
    row = tl.load(program + 1)
    col = tl.load(program + 2)
    wide = tl.load(program + 3)
    if OVERLAP:
        # Everything above may run while the previous kernel finishes; everything below reads what it wrote.
        gdc_wait()
        if EARLY:
            gdc_launch_dependents()
    if scales is not None:
        scale = tl.load(scales + batch)
        alpha *= scale * scale
    if TAIL > 0 and wide == 1:
        head = tl.zeros((BLOCK, BLOCK), SUM)
        tail = tl.zeros((BLOCK, TAIL), SUM)
        head, tail = accumulate_wide(
            head, tail, a, b, b_tail, batch, row, col, depth, BLOCK, TAIL, BLOCK_K, PROMOTE_K, A_ALONG_K, B_ALONG_K
        )  # fmt: skip
        head = _finish(head, c, batch, row, col, alpha, beta, BLOCK, BLOCK)
        _store_twice(head, d, d, batch, row, col, BLOCK, BLOCK, DTYPE)
        tail = _finish(tail, c_tail, batch, row, col + BLOCK, alpha, beta, BLOCK, TAIL)
        _store_twice(tail, d_tail, d_tail_mirror, batch, row, col + BLOCK, BLOCK, TAIL, DTYPE)
    else:
        value = tl.zeros((BLOCK, BLOCK), SUM)
        value = accumulate(
            value, a, b, batch, row, col, depth, BLOCK, BLOCK_K, PROMOTE_K, A_ALONG_K, B_ALONG_K
        )  # fmt: skip
        value = _finish(value, c, batch, row, col, alpha, beta, BLOCK, BLOCK)
        if row == col:
            i = tl.arange(0, BLOCK)[:, None]
            j = tl.arange(0, BLOCK)[None, :]
            if value.dtype == tl.float32:
                value = tl.where(i == j, value + gamma, value)
            rounded = value.to(DTYPE)
            d.store([batch, row, col], tl.where(i >= j, rounded, rounded.T).reshape(1, BLOCK, BLOCK))
        else:
            _store_twice(value, d, d, batch, row, col, BLOCK, BLOCK, DTYPE)


@dataclass(frozen=True, kw_only=True)
class Terms:
    """The scalars of alpha A B^T + beta C + gamma I.

    Attributes:
        scale: (..., 1, 1) float32, one for each matrix of the batch: A and B stand for scale A and scale B.
    """

    alpha: float = 1.0
    beta: float = 0.0
    gamma: float = 0.0
    scale: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class Unit:
    """Products of one dtype of operands: the results they may have, the default first, and how they are cut.

    Attributes:
        searched: what tables may name; nothing where no search times these operands.
    """

    outputs: tuple[torch.dtype, ...]
    tilings: tuple[Tiling, ...]
    searched: tuple[Tiling, ...] = ()


UNITS: dict[torch.dtype, Unit] = {
    **{
        dtype: Unit(outputs=(dtype, torch.float32), tilings=TILINGS, searched=SEARCHED_TILINGS)
        for dtype in OPERAND_DTYPES
    },
    torch.float32: Unit(outputs=(torch.float32,), tilings=TF32_TILINGS),
    torch.float8_e4m3fn: Unit(outputs=(torch.float32, *OPERAND_DTYPES), tilings=FP8_TILINGS),
    torch.int8: Unit(outputs=(torch.int32,), tilings=INT8_TILINGS),
}
"""The operands that `symmetric_product` takes."""


def symmetric_product(
    A: Tensor,
    B: Tensor,
    C: Tensor | None = None,
    *,
    terms: Terms = Terms(),
    output: torch.dtype | None = None,
    tiling: Tiling | None = None,
) -> Tensor:
    """alpha A B^T + beta C + gamma I for operands whose result is symmetric; only its lower triangle is computed.

    Operands may have any strides; one whose rows and columns are both strided, or not in steps of 16 bytes, is copied
    first, one of 8 bits also where its columns are contiguous, one of 32 bits always, as it is rounded to TF32. The
    first call of a shape must not be recorded in a CUDA graph: it compiles and uploads the list of tiles.

    Args:
        A: (..., n, k) bfloat16, float16, float32, float8_e4m3fn or int8.
        B: as A. B = A gives a Gram matrix; for symmetric A and B that commute it gives A B.
        C: (..., n, n) symmetric, or None.
        terms: alpha, beta, gamma and a scale; none of them for int8, whose sums are exact.
        output: dtype of the result, by default A's, for FP8 float32. Others: float32 for 16-bit operands, bfloat16 and
            float16 for FP8. That of int8 is int32.
        tiling: kernel configuration; by default `default_tiling`'s.

    Returns:
        (..., n, n), exactly symmetric. Entries are float32 sums rounded once, or int32 sums. With n not a multiple of
        8 (4 for 32 bits) it is a view into rows padded to one.

    Raises:
        InvalidInputError: shapes or dtypes do not match, or beta is not 0 and C is None.
    """
    dtype = _check(A, B, C, terms, output)
    *batch, n, _ = A.shape
    D = empty_aligned((A.shape[:-2].numel(), n, n), dtype, A.device)
    if D.numel():
        addend = None if terms.beta == 0.0 else C
        left = _operand(A)
        right = left if B is A else _operand(B)
        tiling = tiling or default_tiling(left.tensor.shape, _timed_kind(A, addend, D), A.dtype, D.device)
        if not _sum_on_hopper(left, right, addend, D, terms, tiling):
            _launch(left, right, addend, D, terms, tiling)
    return D.reshape(*batch, n, n) if len(batch) != 1 else D


@lru_cache(maxsize=1024)
def default_tiling(shape: torch.Size, kind: Kind | None, dtype: torch.dtype, device: torch.device) -> Tiling:
    """What a table of this GPU names for operands of `shape` (batches, n, depth), else `choose_tiling`'s."""
    batches, n, depth = shape
    unit = UNITS[dtype]
    if kind is not None:
        known = Shape(kind=kind, rows=n, columns=n, depth=depth, batches=batches, dtype=str(dtype))
        found = tuned(known, unit.searched, device)
        if found is not None:
            return found
    family = present_family(device)
    return choose_tiling(n, batches, processors=processors(device), choices=unit.tilings, family=family)


def _operand(A: Tensor) -> Operand:
    if A.dtype == torch.float32:
        return Operand(tensor=round_to_tf32(A.reshape(-1, *A.shape[-2:])), along_k=True)
    return operand(A) if A.dtype in OPERAND_DTYPES else depth_operand(A)


def _timed_kind(A: Tensor, addend: Tensor | None, D: Tensor) -> Kind | None:
    """What tables call a product of these operands; None for what is never timed: other dtypes, and several in one."""
    if not UNITS[A.dtype].searched:
        return None
    if D.dtype != A.dtype or (addend is not None and addend.dtype != A.dtype):
        return None
    return "gram" if addend is None else "quadratic"


def _sum_on_hopper(A: Operand, B: Operand, C: Tensor | None, D: Tensor, terms: Terms, tiling: Tiling) -> bool:
    """Whether the product is one that a kernel of sums in Gluon is the faster at, which has then been launched."""
    dtypes = {A.tensor.dtype, D.dtype, *([] if C is None else [C.dtype])}
    if dtypes not in ({torch.bfloat16}, {torch.float16}) or not (A.along_k and B.along_k) or tiling.promote_k:
        return False
    addend = None if C is None else symmetric_operand(C)
    matrices = Matrices(M=A.tensor, N=A.tensor if B is A else B.tensor, Z=addend)
    # Tails save a wave of Triton's. In Gluon pairs on the diagonal do, or two programs share a multiprocessor.
    cut = replace(tiling, tail=0) if tiling.block == 64 else tiling
    launch = None if terms.scale is not None else gluon_launch(matrices, cut)
    if launch is None:
        return False
    launch(matrices, (SumTerms(P=terms.alpha, Z=terms.beta, identity=terms.gamma),), cut, (D,))
    return True


def _launch(A: Operand, B: Operand, C: Tensor | None, D: Tensor, terms: Terms, tiling: Tiling) -> None:
    block, tail, block_k = tiling.block, tiling.tail, tiling.block_k
    batches, n, depth = A.tensor.shape
    programs = device_programs(n, batches, block, tail, D.device)
    addend = None if C is None else symmetric_operand(C)
    left = A.descriptor(block, block_k)
    scales = None if terms.scale is None else terms.scale.reshape(-1).contiguous()
    overlap = D.device.type == "cuda"
    on_grid(_symmetric_kernel, (programs.shape[0],))(
        programs,
        left,
        left if B is A else B.descriptor(block, block_k),
        B.descriptor(tail, block_k) if tail else None,
        None if addend is None else descriptor(addend, block, block),
        None if addend is None or not tail else descriptor(addend, block, tail),
        descriptor(D, block, block),
        descriptor(D, block, tail) if tail else None,
        descriptor(D, tail, block) if tail else None,
        scales,
        depth,
        terms.alpha,
        terms.beta,
        terms.gamma,
        BLOCK=block,
        TAIL=tail,
        BLOCK_K=block_k,
        PROMOTE_K=tiling.promote_k,
        A_ALONG_K=A.along_k,
        B_ALONG_K=B.along_k,
        SUM=tl.int32 if D.dtype == torch.int32 else tl.float32,
        DTYPE=tl.int32 if D.dtype == torch.int32 else TRITON_DTYPES[D.dtype],
        OVERLAP=overlap,
        EARLY=tiling.lets_next_in,
        num_warps=tiling.warps,
        num_stages=tiling.stages,
        launch_pdl=overlap,
    )


def _check(A: Tensor, B: Tensor, C: Tensor | None, terms: Terms, output: torch.dtype | None) -> torch.dtype:
    """The dtype of the result."""
    unit = UNITS.get(A.dtype)
    if unit is None:
        names = ", ".join(str(dtype).removeprefix("torch.") for dtype in UNITS)
        raise InvalidInputError(f"A must be one of {names}, got {A.dtype}; cast it, or use torch.matmul")
    if A.ndim < 2 or A.shape[-1] == 0 or B.shape != A.shape or B.dtype != A.dtype:
        raise InvalidInputError(
            f"A and B must be two (..., n, k) tensors of one shape and dtype, k >= 1, got {tuple(A.shape)} {A.dtype} "
            f"and {tuple(B.shape)} {B.dtype}"
        )
    if terms.beta != 0.0:
        expected = (*A.shape[:-1], A.shape[-2])
        if C is None or tuple(C.shape) != expected or C.dtype not in TRITON_DTYPES:
            received = "None" if C is None else f"{tuple(C.shape)} {C.dtype}"
            raise InvalidInputError(f"beta C needs a 16-bit or float32 C of shape {expected}, got {received}")
    _check_terms(A, terms)
    if output is not None and output not in unit.outputs:
        raise InvalidInputError(f"the result of {A.dtype} operands must be one of {unit.outputs}, got {output}")
    return output or unit.outputs[0]


def _check_terms(A: Tensor, terms: Terms) -> None:
    if A.dtype == torch.int8 and terms != Terms():
        raise InvalidInputError(f"int8 operands give their sums alone, got {terms}; scale the result")
    scale = terms.scale
    if scale is not None and (scale.dtype != torch.float32 or scale.shape != (*A.shape[:-2], 1, 1)):
        expected = (*A.shape[:-2], 1, 1)
        raise InvalidInputError(f"a scale must be float32 {expected}, got {scale.dtype} {tuple(scale.shape)}")
