# Device functions carry no Python types, and Triton has no type information:
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, disallow-untyped-calls=False
# mypy: disallow-untyped-decorators=False
"""Where a program's tile lies, and the loops over the depth: plain or wide, one accumulator or a promoted one."""

from __future__ import annotations

import triton
import triton.language as tl

from iroot.kernels.operands import load_block

_INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)


@triton.jit
def place_in_strips(program, row_blocks, column_blocks, GROUP: tl.constexpr):
    """Batch, row and column of a program's tile, in strips of GROUP rows of tiles: programs of one time share operands
    in L2.
    """
    tiles = row_blocks * column_blocks
    tile = program % tiles
    strip = tile // (GROUP * column_blocks)
    height = min(row_blocks - strip * GROUP, GROUP)
    within = tile % (GROUP * column_blocks)
    return program // tiles, strip * GROUP + within % height, within // height


@triton.jit
def _alone(part):
    """The same. The compiler would make a product and its sum with another one instruction, without a float32 sum."""
    if _INTERPRETED:
        return part
    return tl.inline_asm_elementwise("mov.b32 $0, $1;", "=r,r", [part], dtype=part.dtype, is_pure=True, pack=1)


@triton.jit
def accumulate(
    total, a, b, batch, row, col, depth,
    BLOCK: tl.constexpr, BLOCK_K: tl.constexpr, PROMOTE_K: tl.constexpr,
    A_ALONG_K: tl.constexpr, B_ALONG_K: tl.constexpr,
):  # fmt: skip
    """total + A[row:, :] B[col:, :]^T, one BLOCK x BLOCK tile in float32, or in int32 of int8 operands."""
    if PROMOTE_K == BLOCK_K:
        for k in range(0, depth, BLOCK_K):
            left = load_block(a, batch, row, k, BLOCK, BLOCK_K, A_ALONG_K)
            right = load_block(b, batch, col, k, BLOCK, BLOCK_K, B_ALONG_K)
            total += _alone(tl.dot(left, right.T, out_dtype=total.dtype))
    elif PROMOTE_K:
        for start in range(0, depth, PROMOTE_K):
            part = tl.zeros((BLOCK, BLOCK), total.dtype)
            for k in range(start, min(start + PROMOTE_K, depth), BLOCK_K):
                left = load_block(a, batch, row, k, BLOCK, BLOCK_K, A_ALONG_K)
                right = load_block(b, batch, col, k, BLOCK, BLOCK_K, B_ALONG_K)
                part = tl.dot(left, right.T, part, input_precision="tf32", out_dtype=total.dtype)
            total += part
    else:
        for k in range(0, depth, BLOCK_K):
            left = load_block(a, batch, row, k, BLOCK, BLOCK_K, A_ALONG_K)
            right = load_block(b, batch, col, k, BLOCK, BLOCK_K, B_ALONG_K)
            total = tl.dot(left, right.T, total, input_precision="tf32", out_dtype=total.dtype)
    return total


@triton.jit
def accumulate_wide(
    total, total_tail, a, b, b_tail, batch, row, col, depth,
    BLOCK: tl.constexpr, TAIL: tl.constexpr, BLOCK_K: tl.constexpr, PROMOTE_K: tl.constexpr,
    A_ALONG_K: tl.constexpr, B_ALONG_K: tl.constexpr,
):  # fmt: skip
    """The same for BLOCK + TAIL columns, as two accumulators: a block's side is a power of two in Triton."""
    if PROMOTE_K == BLOCK_K:
        for k in range(0, depth, BLOCK_K):
            left = load_block(a, batch, row, k, BLOCK, BLOCK_K, A_ALONG_K)
            right = load_block(b, batch, col, k, BLOCK, BLOCK_K, B_ALONG_K)
            right_tail = load_block(b_tail, batch, col + BLOCK, k, TAIL, BLOCK_K, B_ALONG_K)
            total += _alone(tl.dot(left, right.T, out_dtype=total.dtype))
            total_tail += _alone(tl.dot(left, right_tail.T, out_dtype=total.dtype))
    elif PROMOTE_K:
        for start in range(0, depth, PROMOTE_K):
            part = tl.zeros((BLOCK, BLOCK), total.dtype)
            part_tail = tl.zeros((BLOCK, TAIL), total.dtype)
            for k in range(start, min(start + PROMOTE_K, depth), BLOCK_K):
                left = load_block(a, batch, row, k, BLOCK, BLOCK_K, A_ALONG_K)
                right = load_block(b, batch, col, k, BLOCK, BLOCK_K, B_ALONG_K)
                right_tail = load_block(b_tail, batch, col + BLOCK, k, TAIL, BLOCK_K, B_ALONG_K)
                part = tl.dot(left, right.T, part, input_precision="tf32", out_dtype=total.dtype)
                part_tail = tl.dot(left, right_tail.T, part_tail, input_precision="tf32", out_dtype=total.dtype)
            total += part
            total_tail += part_tail
    else:
        for k in range(0, depth, BLOCK_K):
            left = load_block(a, batch, row, k, BLOCK, BLOCK_K, A_ALONG_K)
            right = load_block(b, batch, col, k, BLOCK, BLOCK_K, B_ALONG_K)
            right_tail = load_block(b_tail, batch, col + BLOCK, k, TAIL, BLOCK_K, B_ALONG_K)
            total = tl.dot(left, right.T, total, input_precision="tf32", out_dtype=total.dtype)
            total_tail = tl.dot(left, right_tail.T, total_tail, input_precision="tf32", out_dtype=total.dtype)
    return total, total_tail
