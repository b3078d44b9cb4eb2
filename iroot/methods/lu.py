"""Reference: A^(-1) B by an LU factorisation."""

from __future__ import annotations

from torch import Tensor

from iroot.methods import _solve, _spd
from iroot.ops import Ops
from iroot.registry import MethodSpec, NoOptions, Operands, Workload, register


def lu(operands: Operands, ops: Ops, options: NoOptions) -> Tensor:
    """Z = U^(-1) (L^(-1) (P B)) from P A = L U, in the dtype of `ops`; NaN where a pivot is exactly zero.

    The error grows as unit roundoff * kappa: 1e-4 in float32 at kappa 1e4.

    Raises:
        InvalidInputError: A is not square, or B does not fit.
    """
    A, B = _solve.system(operands)
    return _solve.factorised(A.to(ops.storage), B.to(ops.storage)).to(operands.A.dtype)


def accuracy(workload: Workload, options: NoOptions) -> float | None:
    """As `_solve.lu_accuracy`."""
    return _solve.lu_accuracy(workload)


register(
    MethodSpec(
        name="lu",
        task="solve",
        function=lu,
        precisions=("fp64", "fp32"),
        flops=lambda workload, options: _solve.lu_flops(workload),
        bytes_moved=_spd.apply_bytes,
        accuracy=accuracy,
        capturable=False,
        role="reference",
        summary="LU factors with partial pivoting and two triangular solves",
        citation="Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., 2002, chapter 9",
    )
)
