"""Reference: A^(-1) B by a Cholesky factorisation."""

from __future__ import annotations

import torch
from torch import Tensor

from iroot.errors import InvalidInputError
from iroot.methods import _spd
from iroot.ops import Ops
from iroot.registry import MethodSpec, NoOptions, Operands, Workload, register


def cholesky(operands: Operands, ops: Ops, options: NoOptions) -> Tensor:
    """Z = L^(-T) (L^(-1) B) from A + eps I = L L^T, in the dtype of `ops`; p = 1 only.

    The error grows as unit roundoff * kappa: 1e-4 in float32 at kappa 1e4. NaN where A + eps I is not positive definite
    in this precision.

    Raises:
        InvalidInputError: p is not 1.
    """
    if _spd.root(operands) != 1:
        raise InvalidInputError(
            f"cholesky solves A Z = B, p = 1, got p={operands.p}; use eigh or hybrid for other roots"
        )
    B = _spd.right_hand_side(operands).to(ops.storage)
    return torch.cholesky_solve(B, factorised(_spd.damped(operands).to(ops.storage))).to(operands.A.dtype)


def factorised(A: Tensor) -> Tensor:
    """L of A = L L^T; NaN for a matrix that is not positive definite in its dtype, without reading that on the host."""
    L, failed_at = torch.linalg.cholesky_ex(A)
    return torch.where((failed_at == 0)[..., None, None], L, torch.nan)


def flops(workload: Workload, options: NoOptions) -> float:
    """n^3 / 3 for the factor, 2 n^2 k for the two triangular solves."""
    n, k = float(workload.n), float(workload.k or 0)
    return workload.batch * (n**3 / 3.0 + 2.0 * n * n * k)


def accuracy(workload: Workload, options: NoOptions) -> float | None:
    """u (40 + 4 kappa) max(1, n / 256)^(1/2): backward stable, so kappa times the rounding (Higham 2002, theorem 10.4).

    Measured: at most a sixth of this (log-spaced, Wishart and power-law spectra to 1e6, n = 32 to 256, CPU, 2026-11).
    """
    return _spd.amplified_rounding(workload, base=40.0, growth=4.0)


register(
    MethodSpec(
        name="cholesky",
        task="inverse_apply",
        function=cholesky,
        roots=(1,),
        precisions=("fp64", "fp32"),
        flops=flops,
        bytes_moved=_spd.apply_bytes,
        accuracy=accuracy,
        capturable=False,
        role="reference",
        summary="Cholesky factor and two triangular solves, p = 1",
        citation="Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., 2002, chapter 10",
    )
)
