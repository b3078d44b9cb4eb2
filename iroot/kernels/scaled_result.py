# Device functions carry no Python types, and Triton has no type information:
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, disallow-untyped-calls=False
# mypy: disallow-untyped-decorators=False
"""What follows a product of quantised operands, in one launch: scales, an addend, the diagonal, one rounding.

    P = product                   where the unit has applied the scales,
    P = s_A s_B product           for int32 sums,
    D = bf16((alpha P + (constant + linear mu) C) + (shift - square mu^2) I)

with the roundings of `iroot/scaled_ops.py`, in their order: P, the factor, factor C and both sums are rounded to
float32, where torch fuses alpha P into its sum so does this.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from iroot.errors import InvalidInputError
from iroot.kernels.quantise import wait
from iroot.scaled_ops import ShiftedSum

PRODUCT_DTYPES = (torch.bfloat16, torch.int32)
ADDEND_DTYPES = (torch.bfloat16, torch.float32)
# Triton's interpreter cuts a float32 off instead of rounding it to bfloat16 (3.9); there it is integer arithmetic.
_BY_INTEGERS = tl.constexpr(triton.knobs.runtime.interpret)


@triton.jit
def _bfloat16(value):
    """value rounded to bfloat16, ties to even, as its 16 bits."""
    if not _BY_INTEGERS:
        return value.to(tl.bfloat16).to(tl.int16, bitcast=True)
    bits = value.to(tl.int32, bitcast=True)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return tl.where((bits & 0x7FFFFFFF) > 0x7F800000, 0x7FC0, rounded).to(tl.int16)


@triton.jit(do_not_specialize=["column_blocks"])
def _result_kernel(
    product,  # (batches, m, n) bfloat16 or int32
    a_scales, b_scales,  # (batches,) for int32, else None
    c, c_batch, c_row, c_column,  # (batches, m, n), or None
    mus,  # (batches,) with c, else None
    d,  # (batches, m, n) bfloat16, as its bits
    m, n, column_blocks, alpha, constant, linear, shift, square,
    DIAGONAL: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    """One tile per program."""
    tile = tl.program_id(0)
    batch = tl.program_id(1).to(tl.int64)
    row = (tile // column_blocks * ROWS + tl.arange(0, ROWS)[:, None]).to(tl.int64)
    col = (tile % column_blocks * COLUMNS + tl.arange(0, COLUMNS)[None, :]).to(tl.int64)
    inside = (row < m) & (col < n)
    place = batch * m * n + row * n + col
    wait(OVERLAP)
    value = tl.load(product + place, mask=inside, other=0).to(tl.float32)
    if a_scales is not None:
        value *= tl.load(a_scales + batch) * tl.load(b_scales + batch)
    if c is None:
        value *= alpha
    else:
        mu = tl.load(mus + batch)
        addend = tl.load(c + batch * c_batch + row * c_row + col * c_column, mask=inside, other=0.0).to(tl.float32)
        value = tl.fma(value, tl.zeros_like(value) + alpha, addend * (mu * linear + constant))
        if DIAGONAL:
            value = tl.where(row == col, value + (shift - mu * square * mu), value)
    tl.store(d + place, _bfloat16(value), mask=inside)


def scaled_result(product: Tensor, scales: tuple[Tensor, Tensor] | None = None, *, alpha: float = 1.0) -> Tensor:
    """bf16(alpha P), see above.

    Args:
        product: (..., m, n) bfloat16, or int32 sums.
        scales: of int32 sums, both (..., 1, 1) float32.
        alpha: factor.

    Raises:
        InvalidInputError: scales are missing, or given for a product that has them.
    """
    return _launch(product, scales, None, None, ShiftedSum(alpha=alpha))


def shifted_result(
    product: Tensor, C: Tensor, mu: Tensor, terms: ShiftedSum, *, scales: tuple[Tensor, Tensor] | None = None
) -> Tensor:
    """bf16(alpha P + (constant + linear mu) C + (shift - square mu^2) I), see above.

    Args:
        product: as in `scaled_result`.
        C: (..., m, n) bfloat16 or float32, of any strides.
        mu: (..., 1, 1) float32.
        terms: alpha, constant, linear and, for the diagonal, shift and square.
        scales: as in `scaled_result`.

    Raises:
        InvalidInputError: as `scaled_result`, or C does not fit the product.
    """
    if C.shape != product.shape or C.dtype not in ADDEND_DTYPES:
        raise InvalidInputError(f"C must be bfloat16 or float32 {tuple(product.shape)}, got {C.dtype} {tuple(C.shape)}")
    return _launch(product, scales, C.reshape(-1, *C.shape[-2:]), mu, terms)


def _launch(
    product: Tensor, scales: tuple[Tensor, Tensor] | None, C: Tensor | None, mu: Tensor | None, terms: ShiftedSum
) -> Tensor:
    if product.dtype not in PRODUCT_DTYPES or (scales is None) == (product.dtype == torch.int32):
        raise InvalidInputError(
            f"the product must be bfloat16 without scales or int32 with them, got {product.dtype} "
            f"{'without' if scales is None else 'with'} scales"
        )
    product = product.contiguous()
    m, n = product.shape[-2:]
    D = torch.empty(product.shape, dtype=torch.bfloat16, device=product.device)
    left, right = scales or (None, None)
    diagonal = terms.diagonal
    overlap = product.device.type == "cuda"
    column_blocks = -(-n // _COLUMNS)
    _result_kernel[(-(-m // _ROWS) * column_blocks, product.shape[:-2].numel())](
        product, left, right, C, *((0, 0, 0) if C is None else C.stride()), mu, D.view(torch.int16), m, n,
        column_blocks, terms.alpha, terms.constant, terms.linear, *(diagonal or (0.0, 0.0)),
        DIAGONAL=diagonal is not None, ROWS=_ROWS, COLUMNS=_COLUMNS, OVERLAP=overlap, num_warps=4,
        enable_fp_fusion=False, launch_pdl=overlap,
    )  # fmt: skip
    return D


_ROWS, _COLUMNS = 16, 256
