"""What the methods for A Z = B, A not symmetric, share: operands, the factorisation, the check of a residual."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from iroot.errors import InvalidInputError
from iroot.methods import _spd
from iroot.registry import Operands, Workload


def system(operands: Operands) -> tuple[Tensor, Tensor]:
    """A (..., n, n) and B (..., n, k) in float32, or float64 for float64 input.

    Raises:
        InvalidInputError: A is not square, or B does not fit.
    """
    A, B = operands.A, operands.B
    if A.ndim < 2 or A.shape[-1] != A.shape[-2]:
        raise InvalidInputError(f"A must be square in its last two dimensions, got {tuple(A.shape)}")
    if B is None or B.ndim != A.ndim or B.shape[:-1] != A.shape[:-1]:
        raise InvalidInputError(
            f"B must be (..., n, k) for A {tuple(A.shape)}, got {None if B is None else tuple(B.shape)}"
        )
    wide = torch.promote_types(A.dtype, torch.float32)
    return A.to(wide), B.to(wide)


def factorised(A: Tensor, B: Tensor) -> Tensor:
    """A^(-1) B by LU with partial pivoting; NaN for a matrix with a pivot that is exactly zero."""
    Z, failed_at = torch.linalg.solve_ex(A, B)
    solved: Tensor = torch.where((failed_at == 0)[..., None, None], Z, torch.nan)
    return solved


def relative_residual(remainder: Tensor, B: Tensor) -> Tensor:
    """||A Z - B||_F / ||B||_F (..., 1, 1) of each matrix, from A Z - B; 0 for B = 0 = Z."""
    size = B.abs().amax((-2, -1), keepdim=True)
    safe = torch.where(size > 0.0, size, 1.0)
    norm: Tensor = torch.linalg.vector_norm(remainder / safe, dim=(-2, -1), keepdim=True)
    return norm / torch.where(size > 0.0, torch.linalg.vector_norm(B / safe, dim=(-2, -1), keepdim=True), 1.0)


def lu_accuracy(workload: Workload, *, base: float = 100.0) -> float | None:
    """u (base + 7 kappa) max(1, n / 256)^(1/2), kappa of A: backward stable in practice (Higham 2002, section 9.4).

    Float32 of an H100, n = 1024: 116 in place of the bracket, which is 170, for log-spaced singular values, kappa 10
    (2026-11-23); a CPU's factorisation had less than 40 + 4 kappa.
    """
    precise = replace(workload, p=1, precision="fp64" if workload.precision == "fp64" else "fp32")
    return _spd.amplified_rounding(precise, base=base, growth=7.0)


def lu_flops(workload: Workload) -> float:
    """2 n^3 / 3 for the factors, 2 n^2 k for the two triangular solves."""
    n, k = float(workload.n), float(workload.k or 0)
    return workload.batch * (2.0 * n**3 / 3.0 + 2.0 * n * n * k)


def normal_workload(workload: Workload) -> Workload:
    """The workload of inverting the normal equations, whose condition number is the square."""
    lower = None if workload.lower is None else workload.lower**2
    return replace(workload, p=1, lower=lower)


def tolerance(error: float, n: int) -> float:
    """The residual that an error of Z asks for, where B has no preferred direction: error / (3 n^(1/2)).

    A relative error e_i along the i-th singular direction leaves a residual e_i |b_i|; where the |b_i| are alike,
    max e_i <= n^(1/2) times their root mean square, which the residual is. The 3: a b_i may be smaller than most;
    without it two of 2160 wrongly bounded Gaussian systems passed, with 1.7 times the error, with it none (n = 16 and
    64, 2 columns, CPU, 2026-11).
    """
    return error / (3.0 * math.sqrt(n))
