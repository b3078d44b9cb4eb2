# Device functions carry no Python types, and Triton has no type information:
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, disallow-untyped-calls=False
# mypy: disallow-untyped-decorators=False
"""The diagonal of a product in float32, which no tensor core takes (`iroot/split_ops.py`: why)."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

# 8 float32 of a row are a sector of 32 bytes; 128 programs at n = 1024.
_DIAGONAL_ROWS, _DIAGONAL_K = 8, 256


@triton.jit
def _diagonal_kernel(
    a, a_batch, a_row, a_column,  # (batches, n, depth) float32
    b, b_batch, b_row, b_column,  # (batches, depth, n) float32
    diagonal,  # (batches, n): sums of a[i, k] b[k, i] over k
    n, depth,
    ROWS: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """ROWS entries per program, each in BLOCK_K partial sums."""
    batch = tl.program_id(1).to(tl.int64)
    i = (tl.program_id(0) * ROWS + tl.arange(0, ROWS)).to(tl.int64)
    left = a + batch * a_batch + i[:, None] * a_row
    right = b + batch * b_batch + i[:, None] * b_column
    total = tl.zeros((ROWS, BLOCK_K), tl.float32)
    for start in range(0, depth, BLOCK_K):
        k = (start + tl.arange(0, BLOCK_K)[None, :]).to(tl.int64)
        inside = (i[:, None] < n) & (k < depth)
        left_block = tl.load(left + k * a_column, mask=inside, other=0.0)
        total += left_block * tl.load(right + k * b_row, mask=inside, other=0.0)
    tl.store(diagonal + batch * n + i, tl.sum(total, 1), mask=i < n)


def exact_diagonal(A: Tensor, B: Tensor) -> Tensor:
    """The diagonal of A B, (batches, n), for A (..., n, k) and B (..., k, n) float32 of any strides."""
    A, B = (M.reshape(-1, *M.shape[-2:]) for M in (A, B))
    batches, n, depth = A.shape
    diagonal = torch.empty(batches, n, dtype=torch.float32, device=A.device)
    _diagonal_kernel[(triton.cdiv(n, _DIAGONAL_ROWS), batches)](
        A, *A.stride(), B, *B.stride(), diagonal, n, depth, ROWS=_DIAGONAL_ROWS, BLOCK_K=_DIAGONAL_K, num_warps=4
    )
    return diagonal
