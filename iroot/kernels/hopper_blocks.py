# Device functions carry no Python types, and Triton has no type information:
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, disallow-untyped-calls=False
# mypy: disallow-untyped-decorators=False
"""Blocks of matrices as the Gluon kernels hold them in shared memory, and as the copy engine takes them there."""

from __future__ import annotations

from torch import Tensor
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

from iroot.kernels.operands import descriptor

PANEL = gl.constexpr(64)
"""Columns of 16 bits in a row of the widest swizzle; wider blocks are panels of so many, one after the other."""

WHOLE = gl.constexpr(gl.NVMMASharedLayout(swizzle_byte_width=128, element_bitwidth=16, rank=2))
"""Of blocks whose rows have 64 columns or more."""


@gluon.jit
def place(block, view):
    """Shared memory as the block of a descriptor, (1, rows, columns)."""
    return block._reinterpret(block.dtype, view.block_shape, view.layout)


@gluon.jit
def total_of(partial, batch, count, COUNT: gl.constexpr):
    """The sum of one matrix's partial sums: `iroot.kernels.words.total_of`."""
    LAYOUT: gl.constexpr = gl.BlockedLayout([1], [32], [gl.num_warps()], [0])
    i = gl.arange(0, COUNT, layout=LAYOUT)
    return gl.sum(gl.load(partial + batch * count + i, mask=i < count, other=0.0), axis=0)


def blocks_of(A: Tensor, rows: int, columns: int) -> TensorDescriptor:
    """A descriptor of A (batches, m, n) in blocks of (1, rows, columns)."""
    blocks = descriptor(A, rows, columns)
    swizzle = min(128, columns * A.element_size())
    layout = gl.NVMMASharedLayout(swizzle_byte_width=swizzle, element_bitwidth=8 * A.element_size(), rank=3)
    return TensorDescriptor(A, blocks.shape, blocks.strides, blocks.block_shape, layout)
