"""The product A B in any precision of the table: the building block of every method, measured alone."""

from __future__ import annotations

from torch import Tensor

from iroot.methods._operands import require_factors
from iroot.methods._products import product_accuracy, product_bytes, product_flops
from iroot.ops import Ops
from iroot.precision import FLOATING, QUANTISED, SPLIT
from iroot.registry import MethodSpec, NoOptions, Operands, register


def matmul(operands: Operands, ops: Ops, options: NoOptions) -> Tensor:
    """operands.A (..., m, n) times operands.B (..., n, k), quantisation included where the precision has it.

    Raises:
        InvalidInputError: the shapes or dtypes do not fit.
        UnsupportedError: the size is one that the FP8 or INT8 unit cannot multiply.
    """
    A, B = require_factors(operands)
    return ops.matmul(ops.cast(A), ops.cast(B)).to(A.dtype)


register(
    MethodSpec(
        name="matmul",
        task="gemm",
        function=matmul,
        precisions=FLOATING + SPLIT + QUANTISED,
        flops=lambda workload, options: product_flops(workload),
        bytes_moved=lambda workload, options: product_bytes(workload),
        accuracy=lambda workload, options: product_accuracy(workload),
        summary="A B through the product every method uses; FP8 and INT8 include the quantisation of both operands",
        citation="cuBLAS; FP8 and INT8 through torch._scaled_mm and torch._int_mm",
    )
)
