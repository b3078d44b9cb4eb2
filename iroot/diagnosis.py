"""How good a value is, in float64 and against the posed problem. Nothing here runs before a `Result` is asked."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from iroot.equilibration import ruiz
from iroot.registry import Operands
from iroot.result import Diagnosis, Termination

_NEGATIVE_SLACK = 4.0
"""An eigenvalue within this many n u lambda_max of zero, u = 2^-53, is not positive: LAPACK computes no closer."""


def diagnose_root(operands: Operands, value: Tensor, rtol: float) -> Diagnosis:
    """Compare X, or Z = X B, with (A + eps I)^(-1/p) (B) from a float64 eigendecomposition.

    Args:
        operands: the damped matrix A (..., n, n), p, and B (..., n, k) where there is one; `eps` is not added.
        value: (..., n, n) or (..., n, k).
        rtol: what CONVERGED means.
    """
    A, p = operands.A.double(), operands.p
    assert p is not None
    if A.numel() == 0 or value.numel() == 0:
        return Diagnosis(termination=Termination.CONVERGED, estimated_error=0.0, negative_part=0.0)
    if not bool(A.isfinite().all()):
        return Diagnosis(termination=Termination.NOT_FINITE, estimated_error=math.inf)
    values, V = torch.linalg.eigh(A)
    negative_part = max(0.0, -float(values.min()))
    floor = _NEGATIVE_SLACK * A.shape[-1] * 2.0**-53 * values[..., -1]
    if bool((values[..., 0] <= floor).any()):
        return Diagnosis(
            termination=Termination.NOT_POSITIVE_DEFINITE, estimated_error=math.inf, negative_part=negative_part
        )
    right = V.mT if operands.B is None else V.mT @ operands.B.double()
    exact = V @ (values[..., :, None] ** (-1.0 / p) * right)
    return _judged(_relative(value, exact), rtol, negative_part)


def _relative(value: Tensor, exact: Tensor) -> float:
    """||value - exact||_F / ||exact||_F, the largest of a batch."""
    # The largest entry is divided out: roots of matrices near 1e-300 have squares beyond float64.
    size = exact.abs().amax((-2, -1), keepdim=True).clamp_min(torch.finfo(torch.float64).tiny)
    norm = torch.linalg.matrix_norm(exact / size)
    distance = torch.linalg.matrix_norm((value.double() - exact) / size)
    # B = 0: right where the value is 0 too.
    return float(torch.where(distance == 0.0, 0.0, distance / norm).max())


def diagnose_solve(operands: Operands, value: Tensor, rtol: float, *, fell_back: bool) -> Diagnosis:
    """Compare Z with A^(-1) B in float64; singular within 4 n u sigma_max, rows and columns evened out, is singular.

    A row of small entries has an inverse like any other: the scales are powers of two, undone exactly (`ruiz`).

    Args:
        operands: A (..., n, n) and B (..., n, k).
        value: (..., n, k).
        rtol: what CONVERGED means, or FELL_BACK where a factorisation gave the value.
    """
    A = operands.A.double()
    assert operands.B is not None
    B = operands.B.double()
    if A.numel() == 0 or value.numel() == 0:
        return Diagnosis(termination=Termination.CONVERGED, estimated_error=0.0)
    if not bool(A.isfinite().all() & B.isfinite().all()):
        return Diagnosis(termination=Termination.NOT_FINITE, estimated_error=math.inf)
    even = ruiz(A)
    sigma = torch.linalg.svdvals(even.C)
    if bool((sigma[..., -1] <= _NEGATIVE_SLACK * A.shape[-1] * 2.0**-53 * sigma[..., 0]).any()):
        return Diagnosis(termination=Termination.SINGULAR, estimated_error=math.inf)
    exact = even.columns * torch.linalg.solve(even.C, even.rows * B)
    judged = _judged(_relative(value, exact), rtol, None)
    if fell_back and judged.termination is Termination.CONVERGED:
        return replace(judged, termination=Termination.FELL_BACK)
    return judged


def diagnose_polar(value: Tensor, rtol: float) -> Diagnosis:
    """||U U^T - I||_F / sqrt(m) for U (..., m, n), m <= n, else ||U^T U - I||_F / sqrt(n); the largest of a batch."""
    if value.numel() == 0:
        return Diagnosis(termination=Termination.CONVERGED, estimated_error=0.0)
    U = value.double() if value.shape[-2] <= value.shape[-1] else value.double().mT
    gram = U @ U.mT
    gram.diagonal(dim1=-2, dim2=-1).sub_(1.0)
    return _judged(float((torch.linalg.matrix_norm(gram) / U.shape[-2] ** 0.5).max()), rtol, None)


def _judged(error: float, rtol: float, negative_part: float | None) -> Diagnosis:
    if not math.isfinite(error):
        return Diagnosis(termination=Termination.NOT_FINITE, estimated_error=math.inf, negative_part=negative_part)
    termination = Termination.CONVERGED if error <= rtol else Termination.ABOVE_RTOL
    return Diagnosis(termination=termination, estimated_error=error, negative_part=negative_part)
