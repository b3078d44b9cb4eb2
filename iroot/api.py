"""The functions of the library: inverse roots, their application to a block, and polar factors."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from iroot import validation
from iroot.calls import Call, Computed, Kind, Posed, asked_rtol, run, specified
from iroot.diagnosis import diagnose_polar, diagnose_root
from iroot.fitting import fitted
from iroot.ops import make_ops
from iroot.planning import Choice
from iroot.precision import get_precision
from iroot.registry import Operands, Workload
from iroot.result import Diagnosis, Result
from iroot.reuse import run_reused
from iroot.spectrum import Damping, Measured, measure
from iroot.workspace import Workspace

DEFAULT_RTOL = 3e-3
"""Of the roots: what 16-bit products with float32 iterates keep up to n = 2048 and kappa 1e5 on an H100."""
DEFAULT_POLAR_RTOL = 1e-2


def inverse_root(
    A: Tensor,
    p: int,
    *,
    eps: float = 0.0,
    eps_relative: float = 0.0,
    rtol: float | None = None,
    method: str = "auto",
    precision: str = "auto",
    options: Any = None,
    lower: float | None = None,
    workspace: Workspace | None = None,
    check_finite: bool = False,
) -> Result:
    """X = (A + eps I + eps_relative ||A||_F I)^(-1/p) for symmetric positive definite A.

    Coupled iterations on minimax polynomials (Amsel et al. 2025, arXiv 2505.16932, for any p), in float32 or, on CUDA,
    with 16-bit products and float32 iterates; an eigendecomposition where neither keeps `rtol`.

    Args:
        A: (..., n, n), float64, float32, bfloat16 or float16, any strides; symmetric, which is not checked. Not
            modified. An empty batch gives an empty value.
        p: the root, an integer >= 1.
        eps, eps_relative: damping, absolute and in units of each matrix's Frobenius norm.
        rtol: the relative error ||X - X*||_F / ||X*||_F to keep; default 3e-3, or twice the unit roundoff of A's
            dtype where that is more.
        method, precision: names of the registry and of the precision table; `auto` takes the fastest pair that states
            an error <= rtol on this device for this p, shape and bound.
        options: the option record of a method given by name, as `ScheduleOptions` for `coupled_pe`; None: from rtol.
        lower: smallest over largest eigenvalue of the damped matrix is at least this. Given, the call does not
            synchronise with the host (decompositions do so themselves). None: measured from the damping with one
            synchronisation; without damping 1e-6.
        workspace: state for repeated calls of one shape.
        check_finite: refuse NaN and infinity; otherwise they show in the result's `termination`.

    Returns:
        The value, in A's dtype, with method, precision, bounds and steps; `termination` and `estimated_error` on
        demand.

    Raises:
        InvalidInputError: a requirement above does not hold; or A is zero and not damped (not seen without
            a synchronisation, where `lower` is given or the workspace has it: `termination` says so then).
        UnknownNameError: no such method or precision.
        UnsupportedError: the device does not run the precision.

    The error is at most rtol where A's condition number is within `bounds`: CPU, float32 and float64, p = 1 to 8, n up
    to 96 (tests). A matrix beyond the bound ends in `Termination.ABOVE_RTOL`, one that is not positive definite in
    `Termination.NOT_POSITIVE_DEFINITE`.
    """
    validation.check_spd(A)
    call = _root_call("inverse_root", A, None, p, rtol, eps, eps_relative)
    return run(specified(call, method, precision, options, lower), _ROOT, A, None, workspace, check_finite)


def solve_spd(
    A: Tensor,
    B: Tensor,
    p: int,
    *,
    eps: float = 0.0,
    eps_relative: float = 0.0,
    reuse: int = 1,
    rtol: float | None = None,
    method: str = "auto",
    precision: str = "auto",
    options: Any = None,
    lower: float | None = None,
    workspace: Workspace | None = None,
    check_finite: bool = False,
) -> Result:
    """Z = (A + eps I + eps_relative ||A||_F I)^(-1/p) B for symmetric positive definite A.

    By the coupled iteration of `inverse_root`, its factors applied to B where that is cheaper than forming X; by one
    minimax polynomial and Clenshaw's recurrence for few columns and a small condition number; else by an
    eigendecomposition.

    Args:
        A: (..., n, n), as for `inverse_root`.
        B: (..., n, k) with A's batch dimensions, dtype and device. Not modified.
        p: the root, an integer >= 1; p = 1 solves A Z = B.
        rtol: the error relative to ||X*||_F of a B without preferred direction; ||Z - Z*||_F / ||Z*||_F is larger
            for a B in the span of the large eigenvalues.
        reuse: calls expected with this A, this one included. Where a root that is formed once, or a Cholesky factor for
            p = 1, costs less in all, it is kept in the workspace and applied, until A is changed in place or replaced.
            A method given by name is used at every call.
        eps, eps_relative, method, precision, options, lower, workspace, check_finite: as for `inverse_root`.

    Returns:
        Z (..., n, k) in A's dtype, as the value of a `Result`.

    Raises:
        InvalidInputError, UnknownNameError, UnsupportedError: as for `inverse_root`; also for reuse > 1 without a
            workspace.
    """
    validation.check_spd(A)
    validation.check_columns(A, B)
    call = _root_call("inverse_apply", A, B, p, rtol, eps, eps_relative)
    call = replace(call, reuse=validation.check_reuse(reuse))
    start = run if call.reuse == 1 else run_reused
    return start(specified(call, method, precision, options, lower), _APPLY, A, B, workspace, check_finite)


def polar(
    G: Tensor,
    *,
    rtol: float | None = None,
    method: str = "auto",
    precision: str = "auto",
    options: Any = None,
    lower: float | None = None,
    workspace: Workspace | None = None,
    check_finite: bool = False,
) -> Result:
    """U, the polar factor of G = U H (m >= n, U^T U = I) or G = H U (m <= n, U U^T = I).

    By Polar Express (Amsel et al. 2025, arXiv 2505.16932), normalised by a scalar, so that the factor is G's own; by a
    singular value decomposition where no step count keeps `rtol`.

    Args:
        G: (..., m, n), float64, float32, bfloat16 or float16, any strides, any m : n. Not modified. A zero matrix gives
            zero.
        rtol: the orthogonality ||U U^T - I||_F / sqrt(m) (m <= n) to keep; default 1e-2. Optimizers of the Muon kind
            are content with 0.2.
        method, precision, options, workspace, check_finite: as for `inverse_root`; `PolarExpressOptions(steps=5)` with
            `method="polar_express"` fixes the steps.
        lower: smallest over largest singular value is at least this; None: 1e-3 is assumed. No call synchronises with
            the host, unless `check_finite`.

    Returns:
        U in G's dtype and shape, as the value of a `Result`.

    Raises:
        InvalidInputError, UnknownNameError, UnsupportedError: as for `inverse_root`.

    The distance to the true factor also has the rounding of G, amplified: about unit roundoff / lower.
    """
    validation.check_rectangular(G)
    validation.check_device(G)
    workload = Workload(m=G.shape[-2], n=G.shape[-1], precision="auto", batch=G.shape[:-2].numel())
    call = Call(
        task="polar", workload=workload, shape=G.shape, dtype=G.dtype, device=G.device, lower=None, damping=Damping(),
        rtol=asked_rtol(rtol, DEFAULT_POLAR_RTOL, G.dtype), method=method, precision=precision, options=None,
    )  # fmt: skip
    return run(specified(call, method, precision, options, lower), _POLAR, G, None, workspace, check_finite)


def _root_call(
    task: str, A: Tensor, B: Tensor | None, p: int, rtol: float | None, eps: float, eps_relative: float
) -> Call:
    validation.check_damping(eps, eps_relative)
    n = A.shape[-1]
    workload = Workload(
        m=n, n=n, precision="auto", batch=A.shape[:-2].numel(), k=None if B is None else B.shape[-1],
        p=validation.check_root(p),
    )  # fmt: skip
    return Call(
        task=task, workload=workload, shape=A.shape if B is None else B.shape, dtype=A.dtype, device=A.device,
        rtol=asked_rtol(rtol, DEFAULT_RTOL, A.dtype), method="auto", precision="auto", options=None, lower=None,
        damping=Damping(eps=float(eps), eps_relative=float(eps_relative)),
    )  # fmt: skip


def _measure_root(call: Call, A: Tensor, B: Tensor | None, *, known: bool) -> Measured:
    damping = Damping() if known else call.damping
    return measure(A, B, damping, make_ops("fp64" if A.dtype == torch.float64 else "fp32", A.device))


def _pose_root(call: Call, choice: Choice, A: Tensor, B: Tensor | None) -> Posed:
    """The damped problem in float32, or float64 for fp64; float64 entries are brought into float32's range."""
    p, lower = call.workload.p, choice.workload.lower
    assert p is not None
    if choice.precision == "fp64" or call.dtype != torch.float64:
        dtype = torch.float64 if choice.precision == "fp64" else torch.float32
        right = None if B is None else B.to(dtype)
        return Posed(operands=Operands(A=call.damping.apply(A, dtype), B=right, p=p, lower=lower))
    left = fitted(call.damping.apply(A, torch.float64))
    factor = left.scale ** (1.0 / p)
    if B is None:
        return Posed(operands=Operands(A=left.A, p=p, lower=lower), factor=factor)
    columns = fitted(B)
    return Posed(operands=Operands(A=left.A, B=columns.A, p=p, lower=lower), factor=factor / columns.scale)


def _pose_polar(call: Call, choice: Choice, G: Tensor, B: Tensor | None) -> Posed:
    """G in the storage format; float64 entries, or those for 16-bit operands, over the largest one, to be in range."""
    plan, lower = get_precision(choice.precision), choice.workload.lower
    wide = torch.finfo(plan.storage).bits >= 32 and plan.execution == "native"
    if wide and (plan.storage == torch.float64 or G.dtype != torch.float64):
        return Posed(operands=Operands(A=G.to(plan.storage), lower=lower))
    entries = G.to(torch.promote_types(G.dtype, torch.float32))
    largest = entries.abs().amax((-2, -1), keepdim=True).clamp_min(torch.finfo(entries.dtype).tiny)
    posed = make_ops(plan, G.device).cast((entries / largest).float())
    return Posed(operands=Operands(A=posed, lower=lower))


def _diagnose_root(call: Call, A: Tensor, B: Tensor | None, computed: Computed) -> Diagnosis:
    posed = Operands(A=call.damping.apply(A, torch.float64), B=B, p=call.workload.p)
    return diagnose_root(posed, computed.value, call.rtol)


def _diagnose_polar(call: Call, G: Tensor, B: Tensor | None, computed: Computed) -> Diagnosis:
    return diagnose_polar(computed.value, call.rtol)


_ZERO_ROOT = (
    "A must not be zero where it is not damped, got a zero matrix with eps=0; with eps > 0 the result is eps^(-1/p) I"
)
_ROOT = Kind(operands="A", pose=_pose_root, measure=_measure_root, diagnose=_diagnose_root, zero=_ZERO_ROOT)
_APPLY = Kind(
    operands="A and B",
    pose=_pose_root,
    measure=_measure_root,
    diagnose=_diagnose_root,
    zero=_ZERO_ROOT,
    form=lambda call, A, dtype: call.damping.apply(A, dtype),
)
_POLAR = Kind(operands="G", pose=_pose_polar, measure=_measure_root, diagnose=_diagnose_polar)
