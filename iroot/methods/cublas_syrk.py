"""Opponent: G G^T as a plain library product, every entry computed."""

from __future__ import annotations

import torch
from torch import Tensor

from iroot.methods._products import gram_accuracy, gram_bytes, gram_flops
from iroot.ops import Ops
from iroot.registry import MethodSpec, NoOptions, Operands, register


def cublas_syrk(operands: Operands, ops: Ops, options: NoOptions) -> Tensor:
    """torch.matmul of operands.A (..., m, n) and its transpose; on a CPU its BLAS."""
    return torch.matmul(operands.A, operands.A.mT)


register(
    MethodSpec(
        name="cublas",
        task="syrk",
        function=cublas_syrk,
        precisions=("fp64", "fp32", "tf32", "bf16", "fp16"),
        flops=lambda workload, options: gram_flops(workload),
        bytes_moved=lambda workload, options: gram_bytes(workload),
        accuracy=lambda workload, options: gram_accuracy(workload),
        summary="torch.matmul(G, G^T): cuBLAS on a GPU, which has no SYRK on tensor cores; the BLAS of torch on a CPU",
        citation="NVIDIA cuBLAS; Intel oneMKL or OpenBLAS",
        role="opponent",
        backend="torch",
    )
)
