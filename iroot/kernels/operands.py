# Device functions carry no Python types, and Triton has no type information:
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, disallow-untyped-calls=False
# mypy: disallow-untyped-decorators=False
"""How kernels read their operands: by TMA descriptors, in place wherever the strides allow it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from iroot.kernels.families import HOPPER, Family, find_family

TRITON_DTYPES = {torch.bfloat16: tl.bfloat16, torch.float16: tl.float16, torch.float32: tl.float32}
OPERAND_DTYPES = (torch.bfloat16, torch.float16)

# Triton's interpreter multiplies the bit patterns of bfloat16 operands (3.6 and 3.9); float32 ones it multiplies right.
_WIDEN = tl.constexpr(triton.knobs.runtime.interpret)


@triton.jit
def load_block(source, batch, row, k, ROWS: tl.constexpr, BLOCK_K: tl.constexpr, ALONG_K: tl.constexpr):
    """(ROWS, BLOCK_K) of an operand that is stored along k, or along its rows."""
    if ALONG_K:
        block = source.load([batch, row, k]).reshape(ROWS, BLOCK_K)
    else:
        block = source.load([batch, k, row]).reshape(BLOCK_K, ROWS).T
    if _WIDEN and block.dtype != tl.int8:
        block = block.to(tl.float32)
    return block


@dataclass(frozen=True, kw_only=True)
class Operand:
    """A (batches, n, depth) whose rows or columns are contiguous and whose other strides the TMA unit accepts."""

    tensor: Tensor
    along_k: bool

    def descriptor(self, rows: int, block_k: int) -> TensorDescriptor:
        """Blocks of `rows` by `block_k`, in the order in which they are stored."""
        if self.along_k:
            return descriptor(self.tensor, rows, block_k)
        return descriptor(self.tensor.mT, block_k, rows)


def operand(A: Tensor) -> Operand:
    """A with one batch dimension, copied only where the TMA unit cannot read it in place."""
    A = A.reshape(-1, *A.shape[-2:])
    if _addressable(A):
        return Operand(tensor=A, along_k=True)
    if _addressable(A.mT):
        return Operand(tensor=A, along_k=False)
    return Operand(tensor=_aligned_copy(A), along_k=True)


def depth_operand(A: Tensor) -> Operand:
    """As `operand`, along the depth in any case: tensor cores read only 16-bit operands either way."""
    A = A.reshape(-1, *A.shape[-2:])
    return Operand(tensor=A if _addressable(A) else _aligned_copy(A), along_k=True)


def symmetric_operand(C: Tensor) -> Tensor:
    """C or C^T, whichever has contiguous rows."""
    addend = operand(C)
    return addend.tensor if addend.along_k else addend.tensor.mT


def _addressable(A: Tensor) -> bool:
    """Whether the TMA unit reads A (batches, rows, columns) in place: unit stride, the others in steps of 16 bytes."""
    step = 16 // A.element_size()
    outer = [A.stride(i) for i in range(A.ndim - 1) if A.shape[i] > 1]
    unit = A.stride(-1) == 1 or A.shape[-1] == 1
    return unit and A.data_ptr() % 16 == 0 and all(s > 0 and s % step == 0 for s in outer)


def descriptor(A: Tensor, rows: int, columns: int) -> TensorDescriptor:
    """A descriptor of A (batches, m, n) in blocks of (1, rows, columns). Size 1 frees a dimension's stride."""
    step = 16 // A.element_size()
    strides = [step if size == 1 else stride for size, stride in zip(A.shape, A.stride(), strict=True)]
    return TensorDescriptor(A, list(A.shape), [*strides[:-1], 1], [1, rows, columns])


def empty_aligned(shape: tuple[int, int, int], dtype: torch.dtype, device: torch.device) -> Tensor:
    """(batches, m, n) in rows whose length is a multiple of 16 bytes."""
    step = 16 // dtype.itemsize
    batches, m, n = shape
    padded = torch.empty(batches, m, -(-n // step) * step, dtype=dtype, device=device)
    return padded[..., :n]


_ROW_BYTES = 64


def empty_rows(shape: tuple[int, int, int], dtype: torch.dtype, device: torch.device) -> Tensor:
    """(batches, m, n) whose rows begin at multiples of 64 bytes, where none takes more cache lines than it must."""
    batches, m, n = shape
    unit = _ROW_BYTES // dtype.itemsize
    return torch.empty(batches, m, -(-n // unit) * unit, dtype=dtype, device=device)[..., :n]


def _aligned_copy(A: Tensor) -> Tensor:
    batches, m, n = A.shape
    return empty_rows((batches, m, n), A.dtype, A.device).copy_(A)


@lru_cache(maxsize=8)
def present_family(device: torch.device) -> Family:
    """A GPU's family; Hopper for the interpreter and for a GPU whose family is not known."""
    found = find_family(torch.cuda.get_device_capability(device)) if device.type == "cuda" else None
    return found or HOPPER


@lru_cache(maxsize=8)
def processors(device: torch.device) -> int:
    """Multiprocessors of a GPU; for the interpreter, those of an H100."""
    if device.type != "cuda":
        return HOPPER.processors
    return torch.cuda.get_device_properties(device).multi_processor_count
