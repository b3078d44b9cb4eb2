"""Control: the plain library product of the posed operands, code this project does not own."""

from __future__ import annotations

import torch
from torch import Tensor

from iroot.methods._operands import require_factors
from iroot.methods._products import product_accuracy, product_bytes, product_flops
from iroot.ops import Ops
from iroot.registry import MethodSpec, NoOptions, Operands, register


def cublas(operands: Operands, ops: Ops, options: NoOptions) -> Tensor:
    """torch.matmul of operands.A (..., m, n) and operands.B (..., n, k) as they are; on a CPU its BLAS."""
    A, B = require_factors(operands)
    return torch.matmul(A, B)


register(
    MethodSpec(
        name="cublas",
        task="gemm",
        function=cublas,
        precisions=("fp64", "fp32", "tf32", "bf16", "fp16"),
        flops=lambda workload, options: product_flops(workload),
        bytes_moved=lambda workload, options: product_bytes(workload),
        accuracy=lambda workload, options: product_accuracy(workload),
        summary="torch.matmul of the posed operands: cuBLAS on a GPU, the BLAS of torch on a CPU",
        citation="NVIDIA cuBLAS; Intel oneMKL or OpenBLAS",
        role="control",
        backend="torch",
    )
)
