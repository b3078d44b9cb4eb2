"""Errors of a result against the problem the caller posed, in float64 (definitions: `harness.records.Quality`)."""

from __future__ import annotations

import torch
from torch import Tensor

from harness.errors import MeasurementError
from harness.judge.references import Reference, SpectralReference, distance_to_identity
from harness.records import Case, Quality
from iroot.registry import Operands


def measure_quality(case: Case, operands: Operands, result: Tensor, reference: Reference, *, seed: int) -> Quality:
    """Judge one result. A non-finite entry leaves every error None and is counted.

    Args:
        case: names the task.
        operands: as posed to the method.
        result: what the method returned.
        reference: `harness.judge.references.reference` of the same operands.
        seed: problem seed, kept in the record.

    Raises:
        MeasurementError: the result has the wrong shape, dtype or device.
    """
    check_result(operands, result, case=case)
    nonfinite = int((~torch.isfinite(result)).sum())
    if nonfinite:
        return Quality(seed=seed, nonfinite=nonfinite)
    figures = _figures(case, operands, result.double(), reference)
    values = torch.stack([_root_mean_square(figure) for figure in figures.values()]).tolist()
    return Quality(seed=seed, **dict(zip(figures, values, strict=True)))


def check_result(operands: Operands, result: Tensor, *, case: Case) -> None:
    """Raise MeasurementError unless `result` has the shape, dtype and device the task asks for."""
    if not isinstance(result, Tensor):
        raise MeasurementError(f"{case.task}/{case.method} must return a tensor, got {type(result).__name__}")
    A, B = operands.A, operands.B
    shape = A.shape if B is None else B.shape
    if B is not None and case.task == "gemm":
        shape = torch.Size((*A.shape[:-1], B.shape[-1]))
    if (result.shape, result.dtype, result.device) != (shape, A.dtype, A.device):
        raise MeasurementError(
            f"{case.task}/{case.method} must return {tuple(shape)} {A.dtype} on {A.device}, "
            f"got {tuple(result.shape)} {result.dtype} on {result.device}"
        )


def _figures(case: Case, operands: Operands, result: Tensor, reference: Reference) -> dict[str, Tensor]:
    """Figure name -> (...,) one value for each matrix of the batch."""
    if isinstance(reference, SpectralReference):
        assert operands.p is not None
        if operands.B is None:
            return _root_figures(operands, result, reference, operands.p)
        return _apply_figures(operands.B.double(), operands.eps, result, reference, operands.p)
    relative = _relative(result, reference.value)
    if case.task == "solve":
        assert operands.B is not None
        B = operands.B.double()
        return {"relative_error": relative, "residual": _relative(operands.A.double() @ result, B)}
    if case.task == "polar":
        return {"relative_error": relative, "orthogonality": _orthogonality(result)}
    return {"relative_error": relative}


def _root_figures(operands: Operands, X: Tensor, reference: SpectralReference, p: int) -> dict[str, Tensor]:
    A = operands.A.double()
    A = A + operands.eps * torch.eye(A.shape[-1], dtype=A.dtype, device=A.device)
    return {
        "relative_error": _relative(X, reference.power(-1 / p, operands.eps)),
        "residual": distance_to_identity(torch.linalg.matrix_power(X, p) @ A),
        "symmetry": torch.linalg.matrix_norm(X - X.mT) / torch.linalg.matrix_norm(X),
    }


def _apply_figures(B: Tensor, eps: float, Z: Tensor, reference: SpectralReference, p: int) -> dict[str, Tensor]:
    return {
        "relative_error": _relative(Z, reference.apply_power(-1 / p, eps, B)),
        "residual": _relative(reference.apply_power(1 / p, eps, Z), B),
    }


def _orthogonality(U: Tensor) -> Tensor:
    """||U U^T - I||_F / sqrt(m) for m <= n, else ||U^T U - I||_F / sqrt(n)."""
    wide = U if U.shape[-2] <= U.shape[-1] else U.mT
    return distance_to_identity(wide @ wide.mT)


def _relative(result: Tensor, truth: Tensor) -> Tensor:
    error: Tensor = torch.linalg.matrix_norm(result - truth) / torch.linalg.matrix_norm(truth)
    return error


def _root_mean_square(figure: Tensor) -> Tensor:
    """Over the batch; a single matrix gives its own value."""
    return figure.square().mean().sqrt()
