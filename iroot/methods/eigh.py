"""Inverse p-th root and its application by a full eigendecomposition: the slow reference."""

from __future__ import annotations

import torch
from torch import Tensor

from iroot.methods import _spd
from iroot.ops import Ops
from iroot.registry import MethodSpec, NoOptions, Operands, Workload, register

EIGH_FLOPS = 9.0
"""FLOP of a symmetric eigendecomposition with vectors, in n^3 (Golub and Van Loan, 4th ed., section 8.3)."""


def inverse_root_eigh(operands: Operands, ops: Ops, options: NoOptions) -> Tensor:
    """X = V diag(lambda^(-1/p)) V^T from A + eps I = V diag(lambda) V^T, in the dtype of `ops`.

    The error grows as unit roundoff * kappa: 6e-4 in float32 at kappa 1e4 and p = 2.
    """
    values, V = _decompose(operands, ops)
    X = (V * values[..., None, :]) @ V.mT
    return (0.5 * (X + X.mT)).to(operands.A.dtype)


def inverse_apply_eigh(operands: Operands, ops: Ops, options: NoOptions) -> Tensor:
    """Z = V diag(lambda^(-1/p)) (V^T B), in the dtype of `ops`; X is not formed."""
    values, V = _decompose(operands, ops)
    B = _spd.right_hand_side(operands).to(V.dtype)
    return (V @ (values[..., :, None] * (V.mT @ B))).to(operands.A.dtype)


def _decompose(operands: Operands, ops: Ops) -> tuple[Tensor, Tensor]:
    """lambda^(-1/p) and V."""
    p = _spd.root(operands)
    values, V = torch.linalg.eigh(_spd.damped(operands).to(ops.storage))
    # The problem is positive definite; a computed eigenvalue at or below 0 is rounding of at most n u lambda_max.
    floor = torch.finfo(values.dtype).eps * values[..., -1:]
    return torch.maximum(values, floor) ** (-1.0 / p), V


def root_flops(workload: Workload, options: NoOptions) -> float:
    """Eigendecomposition and one product with a symmetric result."""
    return workload.batch * (EIGH_FLOPS + 1.0) * float(workload.n) ** 3


def apply_flops(workload: Workload, options: NoOptions) -> float:
    """Eigendecomposition and two products n x n x k."""
    n, k = float(workload.n), float(workload.k or 0)
    return workload.batch * (EIGH_FLOPS * n**3 + 4.0 * n * n * k)


def accuracy(workload: Workload, options: NoOptions) -> float | None:
    """Eigenvalues are exact to unit roundoff * lambda_max, and so lambda_min^(-1/p) to kappa times that.

    Where p is large the vectors' departure from orthogonality is left: 314 u in float32 at p = 8, kappa 1e2, n = 96
    (cuSOLVER on an H100, 2026-11), hence the base.
    """
    return _spd.amplified_rounding(workload, base=700.0, growth=12.0)


register(
    MethodSpec(
        name="eigh",
        task="inverse_root",
        function=inverse_root_eigh,
        precisions=("fp64", "fp32"),
        flops=root_flops,
        bytes_moved=_spd.root_bytes,
        accuracy=accuracy,
        capturable=False,
        role="reference",
        summary="full eigendecomposition",
        citation="Golub and Van Loan, Matrix Computations, 4th ed., 2013, section 8.3 (LAPACK and cuSOLVER syevd)",
    )
)
register(
    MethodSpec(
        name="eigh",
        task="inverse_apply",
        function=inverse_apply_eigh,
        precisions=("fp64", "fp32"),
        flops=apply_flops,
        bytes_moved=_spd.apply_bytes,
        accuracy=accuracy,
        capturable=False,
        role="reference",
        summary="full eigendecomposition, applied factor by factor",
        citation="Golub and Van Loan, Matrix Computations, 4th ed., 2013, section 8.3 (LAPACK and cuSOLVER syevd)",
    )
)
