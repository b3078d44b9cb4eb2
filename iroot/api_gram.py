"""Inverse roots of Gram matrices, applied to a block."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from iroot import validation
from iroot.calls import Call, Computed, Kind, Posed, asked_rtol, run, specified
from iroot.diagnosis import diagnose_root
from iroot.errors import InvalidInputError
from iroot.fitting import eps_scale, fitted
from iroot.ops import make_ops
from iroot.planning import Choice
from iroot.registry import Operands, Workload
from iroot.result import Diagnosis, Result
from iroot.reuse import run_reused
from iroot.spectrum import Damping, Measured, measure_gram

if TYPE_CHECKING:
    from iroot.workspace import Workspace

DEFAULT_RTOL = 3e-3


def solve_gram_spd(
    G: Tensor,
    B: Tensor,
    p: int,
    *,
    side: str = "right",
    eps: float = 0.0,
    reuse: int = 1,
    rtol: float | None = None,
    method: str = "auto",
    precision: str = "auto",
    options: Any = None,
    lower: float | None = None,
    workspace: Workspace | None = None,
    check_finite: bool = False,
) -> Result:
    """Z = (G^T G + eps I)^(-1/p) B (side right) or (G G^T + eps I)^(-1/p) B (side dual).

    By forming the Gram matrix; through the smaller Gram matrix by f(G^T G) = f(0) I + G^T g(G G^T) G (Higham 2008,
    theorem 1.35; Woodbury's formula for p = 1), where the one that is asked for is the larger one; or by one minimax
    polynomial, with products G^T (G V) only, where B has few columns. Which one is the cheapest by FLOP.

    Args:
        G: (..., m, n), float64, float32, bfloat16 or float16, any strides. Not modified. An empty batch gives an empty
            value.
        B: (..., n, k) for side right, (..., m, k) for side dual, with G's batch dimensions, dtype and device. Not
            modified.
        p: the root, an integer >= 1.
        side: `right` or `dual`.
        eps: damping, absolute; > 0 where the Gram matrix is larger than the other dimension, and so singular.
        reuse: calls expected with this G, this one included. Where a root that is formed once, or a Cholesky factor for
            p = 1, costs less in all, it is kept in the workspace and applied, until G is changed in place or replaced.
            A method given by name is used at every call.
        rtol: the error relative to ||X*||_F of a B without preferred direction, X = (Gram matrix + eps I)^(-1/p).
        lower: smallest over largest eigenvalue of the damped Gram matrix is at least this. None: from eps and an
            estimate of lambda_max, with one synchronisation; without damping 1e-6.
        method, precision, options, workspace, check_finite: as for `inverse_root`.

    Returns:
        Z in B's shape and G's dtype, as the value of a `Result`.

    Raises:
        InvalidInputError: a requirement above does not hold; G is zero and not damped (not seen without a
            synchronisation); or reuse > 1 without a workspace.
        UnknownNameError, UnsupportedError: as for `inverse_root`.

    The error is at most rtol where the damped Gram matrix's condition number is within `bounds`: CPU, float32 and
    float64, p = 1 to 8, dimensions up to 48 (tests).
    """
    validation.check_rectangular(G)
    validation.check_gram_columns(G, B, side)
    validation.check_damping(eps, 0.0)
    _require_full_rank(G, side, eps)
    H = G if side == "right" else G.mT
    call = _gram_call(H, B, validation.check_root(p), eps=eps, rtol=rtol, reuse=reuse)
    start = run if call.reuse == 1 else run_reused
    return start(specified(call, method, precision, options, lower), _GRAM, H, B, workspace, check_finite)


def _gram_call(H: Tensor, B: Tensor, p: int, *, eps: float, rtol: float | None, reuse: int) -> Call:
    """Everything but what the caller may name: method, precision, options and bound."""
    m, n = H.shape[-2:]
    workload = Workload(m=m, n=n, precision="auto", batch=H.shape[:-2].numel(), k=B.shape[-1], p=p)
    return Call(
        task="gram_apply", workload=workload, shape=B.shape, dtype=H.dtype, device=H.device, method="auto",
        rtol=asked_rtol(rtol, DEFAULT_RTOL, H.dtype), precision="auto", options=None, lower=None,
        damping=Damping(eps=float(eps)), reuse=validation.check_reuse(reuse),
    )  # fmt: skip


def _require_full_rank(G: Tensor, side: str, eps: float) -> None:
    """Refuse a Gram matrix that is larger than the other dimension and not damped."""
    rank, size = (G if side == "right" else G.mT).shape[-2:]
    if eps == 0.0 and rank < size:
        names = "G^T G, n x n," if side == "right" else "G G^T, m x m,"
        raise InvalidInputError(
            f"eps must be > 0 where the Gram matrix is singular, got eps=0 and G {tuple(G.shape)} with side='{side}': "
            f"{names} has rank {rank} at most; damp it, or use the other side"
        )


def _pose(call: Call, choice: Choice, G: Tensor, B: Tensor | None) -> Posed:
    """G and B in float32, or float64 for fp64, scaled where squares of the entries would leave the range."""
    assert B is not None
    p, lower = call.workload.p, choice.workload.lower
    assert p is not None
    eps, dtype = call.damping.eps, torch.float64 if choice.precision == "fp64" else torch.float32
    scale = eps_scale(eps)
    if call.dtype != torch.float64 or dtype == torch.float64:
        entries = G.to(dtype) if scale == 1.0 else (G.double() * scale).to(dtype)
        posed = Operands(A=entries, B=B.to(dtype), p=p, eps=eps * scale * scale, lower=lower)
        return Posed(operands=posed, factor=None if scale == 1.0 else scale ** (2.0 / p))
    right = fitted(B)
    if eps == 0.0:
        left = fitted(G)
        entries, factor = left.A, left.scale ** (2.0 / p) / right.scale
    else:
        entries, factor = (G * scale).float(), scale ** (2.0 / p) / right.scale
    return Posed(operands=Operands(A=entries, B=right.A, p=p, eps=eps * scale * scale, lower=lower), factor=factor)


def _form(call: Call, G: Tensor, dtype: torch.dtype) -> Tensor:
    """G^T G + eps I."""
    wide = G.to(dtype)
    return call.damping.apply(wide.mT @ wide, dtype)


def _measure(call: Call, G: Tensor, B: Tensor | None, *, known: bool) -> Measured:
    assert B is not None
    ops = make_ops("fp64" if G.dtype == torch.float64 else "fp32", G.device)
    return measure_gram(G, B, 0.0 if known else call.damping.eps, ops)


def _diagnose(call: Call, G: Tensor, B: Tensor | None, computed: Computed) -> Diagnosis:
    posed = Operands(A=_form(call, G, torch.float64), B=B, p=call.workload.p)
    return diagnose_root(posed, computed.value, call.rtol)


_GRAM = Kind(
    operands="G and B",
    pose=_pose,
    measure=_measure,
    diagnose=_diagnose,
    form=_form,
    zero="G must not be zero where it is not damped, got a zero matrix with eps=0; with eps > 0 the result is "
    "eps^(-1/p) B",
)
