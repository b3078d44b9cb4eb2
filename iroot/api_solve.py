"""A^(-1) B for a matrix that need not be symmetric."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from iroot import validation
from iroot.calls import Call, Computed, Kind, Posed, asked_rtol, by_method, run, specified
from iroot.diagnosis import diagnose_solve
from iroot.fitting import fitted
from iroot.ops import Ops, make_ops
from iroot.planning import Choice
from iroot.registry import Operands, Workload
from iroot.result import Diagnosis, Result
from iroot.spectrum import Damping, Measured, measure

if TYPE_CHECKING:
    from iroot.workspace import Workspace

DEFAULT_RTOL = 3e-3


def solve_nonspd(
    A: Tensor,
    B: Tensor,
    *,
    rtol: float | None = None,
    method: str = "auto",
    precision: str = "auto",
    options: Any = None,
    lower: float | None = None,
    workspace: Workspace | None = None,
    check_finite: bool = False,
) -> Result:
    """Z with A Z = B, for A neither symmetric nor definite.

    By LU, or by products alone: the normal equations of A, its rows scaled by powers of two, inverted by minimax steps
    (Amsel et al. 2025, arXiv 2505.16932) and refined (Higham 2002, chapter 12); scales are undone exactly. An iteration
    that would not contract within `lower`, or whose residual ||A Z - B||_F / ||B||_F is above rtol / (3 n^(1/2)), gives
    way to LU: `Result.fell_back`, `Termination.FELL_BACK`.

    Args:
        A: (..., n, n), float64, float32, bfloat16 or float16, any strides. Not modified. An empty batch gives an empty
            value.
        B: (..., n, k) with A's batch dimensions, dtype and device. Not modified.
        rtol: the relative error ||Z - Z*||_F / ||Z*||_F to keep; default 3e-3, or twice the unit roundoff of A's dtype
            where that is more.
        lower: smallest over largest singular value of A is at least this; None: 1e-3 is assumed.
        method, precision, options, workspace, check_finite: as for `inverse_root`. The iteration reads its residual on
            the host: one synchronisation, with a workspace too.

    Returns:
        Z (..., n, k) in A's dtype, as the value of a `Result`. `Termination.SINGULAR` where A, its rows and columns
        scaled alike, has no inverse to the digits of float64; the value is then not finite, or of no use.

    Raises:
        InvalidInputError, UnknownNameError, UnsupportedError: as for `inverse_root`.

    The error is at most rtol where A's condition number is within `bounds`: CPU, float32 and float64, n up to 48.
    """
    validation.check_square(A)
    validation.check_columns(A, B)
    n = A.shape[-1]
    call = Call(
        task="solve", workload=Workload(m=n, n=n, precision="auto", batch=A.shape[:-2].numel(), k=B.shape[-1]),
        shape=B.shape, dtype=A.dtype, device=A.device, rtol=asked_rtol(rtol, DEFAULT_RTOL, A.dtype), method="auto",
        precision="auto", options=None, lower=None, damping=Damping(),
    )  # fmt: skip
    return run(specified(call, method, precision, options, lower), _SOLVE, A, B, workspace, check_finite)


def _pose(call: Call, choice: Choice, A: Tensor, B: Tensor | None) -> Posed:
    """The system in float32, or float64 for fp64; float64 entries are brought into float32's range."""
    assert B is not None
    lower = choice.workload.lower
    if choice.precision == "fp64" or call.dtype != torch.float64:
        dtype = torch.float64 if choice.precision == "fp64" else torch.float32
        return Posed(operands=Operands(A=A.to(dtype), B=B.to(dtype), lower=lower))
    left, right = fitted(A), fitted(B)
    return Posed(operands=Operands(A=left.A, B=right.A, lower=lower), factor=left.scale / right.scale)


def _compute(choice: Choice, operands: Operands, ops: Ops) -> Computed:
    """The chosen method's result; of the iteration also whether it gave way."""
    if choice.spec.name != "coupled_pe":
        return by_method(choice, operands, ops)
    from iroot.methods.solve_coupled_pe import solve_or_factorise

    solved = solve_or_factorise(operands, ops, choice.options)
    return Computed(value=solved.Z, fell_back=solved.fell_back)


def _measure(call: Call, A: Tensor, B: Tensor | None, *, known: bool) -> Measured:
    return measure(A, B, Damping(), make_ops("fp64" if A.dtype == torch.float64 else "fp32", A.device))


def _diagnose(call: Call, A: Tensor, B: Tensor | None, computed: Computed) -> Diagnosis:
    return diagnose_solve(Operands(A=A, B=B), computed.value, call.rtol, fell_back=computed.fell_back)


_SOLVE = Kind(operands="A and B", pose=_pose, measure=_measure, diagnose=_diagnose, compute=_compute)
