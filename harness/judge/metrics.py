"""Errors of a result against the problem the caller posed (definitions: `harness.records.Quality`).

In float64; a float64 result's distances from refined references are of pairs of float64, rounded last.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from harness.errors import MeasurementError
from harness.judge.pairs import Pair, difference
from harness.judge.references import DirectReference, Reference, SpectralReference, distance_to_identity
from harness.judge.refined import RefinedReference
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
    if case.task == "syrk":
        shape = torch.Size((*A.shape[:-1], A.shape[-2]))
    if (result.shape, result.dtype, result.device) != (shape, A.dtype, A.device):
        raise MeasurementError(
            f"{case.task}/{case.method} must return {tuple(shape)} {A.dtype} on {A.device}, "
            f"got {tuple(result.shape)} {result.dtype} on {result.device}"
        )


def _figures(case: Case, operands: Operands, result: Tensor, reference: Reference) -> dict[str, Tensor]:
    """Figure name -> (...,) one value for each matrix of the batch."""
    if not isinstance(reference, DirectReference):
        if operands.B is None:
            return _root_figures(operands, result, reference)
        return _apply_figures(operands, result, reference)
    relative = _relative(result, _direct(reference))
    if case.task == "solve":
        assert operands.B is not None
        B = operands.B.double()
        return {"relative_error": relative, "residual": _relative(operands.A.double() @ result, B)}
    if case.task == "polar":
        return {"relative_error": relative, "orthogonality": _orthogonality(result)}
    return {"relative_error": relative}


def _direct(reference: DirectReference) -> Tensor | Pair:
    return reference.value if reference.low is None else Pair(high=reference.value, low=reference.low)


def _root_figures(operands: Operands, X: Tensor, reference: SpectralReference | RefinedReference) -> dict[str, Tensor]:
    symmetry = torch.linalg.matrix_norm(X - X.mT) / torch.linalg.matrix_norm(X)
    if isinstance(reference, RefinedReference):
        residual = torch.linalg.matrix_norm(reference.residual(X)) / math.sqrt(X.shape[-1])
        return {"relative_error": _relative(X, reference.root), "residual": residual, "symmetry": symmetry}
    assert operands.p is not None
    A = operands.A.double()
    A = A + operands.eps * torch.eye(A.shape[-1], dtype=A.dtype, device=A.device)
    return {
        "relative_error": _relative(X, reference.power(-1 / operands.p, operands.eps)),
        "residual": distance_to_identity(torch.linalg.matrix_power(X, operands.p) @ A),
        "symmetry": symmetry,
    }


def _apply_figures(operands: Operands, Z: Tensor, reference: SpectralReference | RefinedReference) -> dict[str, Tensor]:
    assert operands.B is not None
    assert operands.p is not None
    B, p, eps = operands.B.double(), operands.p, operands.eps
    truth: Tensor | Pair
    image: Tensor | Pair
    if isinstance(reference, RefinedReference):
        truth, image = reference.applied_root(B), reference.inverted_root(Z)
    else:
        truth, image = reference.apply_power(-1 / p, eps, B), reference.apply_power(1 / p, eps, Z)
    return {"relative_error": _relative(Z, truth), "residual": _relative(image, B)}


def _orthogonality(U: Tensor) -> Tensor:
    """||U U^T - I||_F / sqrt(m) for m <= n, else ||U^T U - I||_F / sqrt(n)."""
    wide = U if U.shape[-2] <= U.shape[-1] else U.mT
    return distance_to_identity(wide @ wide.mT)


def _relative(result: Tensor | Pair, truth: Tensor | Pair) -> Tensor:
    size = truth if isinstance(truth, Tensor) else truth.high
    error: Tensor = torch.linalg.matrix_norm(difference(result, truth)) / torch.linalg.matrix_norm(size)
    return error


def _root_mean_square(figure: Tensor) -> Tensor:
    """Over the batch; a single matrix gives its own value."""
    return figure.square().mean().sqrt()
