"""The functions of the library: inverse roots, their application to a block, and polar factors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor

from iroot import validation
from iroot.diagnosis import diagnose_polar, diagnose_root
from iroot.errors import InvalidInputError
from iroot.ops import make_ops
from iroot.planning import ASSUMED_LOWER, Choice, Demand, choose
from iroot.precision import get_precision
from iroot.registry import Operands, Workload
from iroot.result import Bounds, Diagnosis, Result
from iroot.spectrum import Damping, Measured, measure
from iroot.workspace import Entry, Workspace, check_workspace, record

DEFAULT_RTOL = 3e-3
"""Of the roots: what 16-bit products with float32 iterates keep up to n = 2048 and kappa 1e5 on an H100."""
DEFAULT_POLAR_RTOL = 1e-2
WORKSPACE_MARGIN = 2.0
"""What a workspace takes off a measured bound, for the matrices of later calls."""


@dataclass(frozen=True, kw_only=True)
class Call:
    """One checked call, without its tensors' values: equal calls share a workspace's state."""

    task: str
    workload: Workload
    shape: torch.Size
    dtype: torch.dtype
    device: torch.device
    rtol: float
    method: str
    precision: str
    options: Any
    lower: float | None
    damping: Damping


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
    return _run(_specified(call, method, precision, options, lower), A, None, workspace, check_finite)


def solve_spd(
    A: Tensor,
    B: Tensor,
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
        eps, eps_relative, method, precision, options, lower, workspace, check_finite: as for `inverse_root`.

    Returns:
        Z (..., n, k) in A's dtype, as the value of a `Result`.

    Raises:
        InvalidInputError, UnknownNameError, UnsupportedError: as for `inverse_root`.
    """
    validation.check_spd(A)
    validation.check_columns(A, B)
    call = _root_call("inverse_apply", A, B, p, rtol, eps, eps_relative)
    return _run(_specified(call, method, precision, options, lower), A, B, workspace, check_finite)


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
        rtol=_rtol(rtol, DEFAULT_POLAR_RTOL, G.dtype), method=method, precision=precision, options=None,
    )  # fmt: skip
    return _run(_specified(call, method, precision, options, lower), G, None, workspace, check_finite)


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
        rtol=_rtol(rtol, DEFAULT_RTOL, A.dtype), method="auto", precision="auto", options=None, lower=None,
        damping=Damping(eps=float(eps), eps_relative=float(eps_relative)),
    )  # fmt: skip


def _specified(call: Call, method: str, precision: str, options: Any, lower: float | None) -> Call:
    """`call` with what the caller fixed by name."""
    validation.check_lower(lower)
    if options is not None and method == "auto":
        raise InvalidInputError(
            f"options need a method given by name, got {type(options).__name__} with method='auto'; "
            "each method has options of its own"
        )
    if options is not None and not is_dataclass(options):
        raise InvalidInputError(f"options must be the option record of the method, got {type(options).__name__}")
    return replace(
        call, method=method, precision=precision, options=options, lower=None if lower is None else float(lower)
    )


def _rtol(requested: float | None, default: float, dtype: torch.dtype) -> float:
    if requested is None:
        # finfo.eps is twice the unit roundoff.
        return max(default, torch.finfo(dtype).eps)
    validation.check_rtol(requested)
    return float(requested)


def _run(call: Call, A: Tensor, B: Tensor | None, workspace: Workspace | None, check_finite: bool) -> Result:
    check_workspace(workspace)
    entry = None if workspace is None else workspace.entry(call)
    with torch.no_grad():
        bounds = _bounds(call, A, B, entry, check_finite)
        workload = replace(call.workload, lower=bounds.lower)
        if call.shape.numel() == 0:
            choice, value = None, torch.empty(call.shape, dtype=call.dtype, device=call.device)
        else:
            choice = choose(
                Demand(
                    task=call.task, workload=workload, device=call.device, rtol=call.rtol, method=call.method,
                    precision=call.precision, options=call.options,
                )
            )  # fmt: skip
            value = _value(call, choice, A, B, entry)
    if entry is not None:
        entry.calls += 1
    return Result(
        value=value,
        method="none" if choice is None else choice.spec.name,
        precision="none" if choice is None else choice.precision,
        rtol=call.rtol,
        stated_accuracy=0.0 if choice is None else choice.stated,
        bounds=bounds,
        steps=0 if choice is None else choice.steps,
        diagnose=_diagnosis(call, A, B, value, entry),
    )


def _bounds(call: Call, A: Tensor, B: Tensor | None, entry: Entry | None, check_finite: bool) -> Bounds:
    """The spectral bound, with at most one host synchronisation: none where the caller or the workspace has it."""
    known = entry.bounds if entry is not None else None
    if call.lower is not None:
        known = Bounds(lower=call.lower, source="given")
    elif call.task == "polar":
        known = Bounds(lower=ASSUMED_LOWER["polar"], source="assumed")
    if call.shape.numel() == 0 or (known is not None and not check_finite):
        return known or Bounds(lower=ASSUMED_LOWER[call.task], source="assumed")
    damping = call.damping if known is None else Damping()
    measured = measure(A, B, damping, make_ops("fp64" if A.dtype == torch.float64 else "fp32", A.device))
    _check_measured(call, measured, check_finite)
    if known is not None:
        return known
    if measured.lower is None:
        found = kept = Bounds(lower=ASSUMED_LOWER[call.task], source="assumed")
    else:
        # A workspace's first call runs as its later ones will.
        lower = measured.lower if entry is None else measured.lower / WORKSPACE_MARGIN
        found, kept = Bounds(lower=lower, source="measured"), Bounds(lower=lower, source="workspace")
    if entry is not None and measured.finite:
        entry.bounds = kept
    return found


def _check_measured(call: Call, measured: Measured, check_finite: bool) -> None:
    """Raise InvalidInputError for values that are not finite, where that is to be checked, and for no root at all."""
    if check_finite and not measured.finite:
        names = {"inverse_root": "A", "inverse_apply": "A and B", "polar": "G"}[call.task]
        raise InvalidInputError(
            f"{names} must be finite, got NaN or infinity; without check_finite=True the termination reports it"
        )
    if call.task != "polar" and measured.smallest_matrix == 0.0 and call.damping.eps == 0.0:
        raise InvalidInputError(
            "A must not be zero where it is not damped, got a zero matrix with eps=0; with eps > 0 the result is "
            "eps^(-1/p) I"
        )


def _value(call: Call, choice: Choice, A: Tensor, B: Tensor | None, entry: Entry | None) -> Tensor:
    """The result of the chosen method, by its CUDA graph where the workspace has, or can have, one."""
    operands = (A,) if B is None else (A, B)
    if (
        entry is None
        or call.device.type != "cuda"
        or not choice.spec.capturable
        or torch.cuda.is_current_stream_capturing()
    ):
        return _computation(call, choice)(*operands)
    if entry.recording is None:
        entry.recording = record(_computation(call, choice), operands)
    return entry.recording.replay(operands)


def _computation(call: Call, choice: Choice) -> Callable[..., Tensor]:
    """(A) or (A, B) -> value, without host synchronisation."""
    ops = make_ops(choice.precision, call.device)
    pose = _pose_polar if call.task == "polar" else _pose_root

    def compute(A: Tensor, B: Tensor | None = None) -> Tensor:
        with torch.no_grad(), ops.arithmetic():
            operands = pose(call, choice, A, B)
            try:
                return choice.spec.function(operands, ops, choice.options).to(call.dtype)
            except torch.linalg.LinAlgError:  # type: ignore[attr-defined]
                # LAPACK stops at NaN, where the iterations carry it on: the termination reports both alike.
                return torch.full(call.shape, torch.nan, dtype=call.dtype, device=call.device)

    return compute


def _pose_root(call: Call, choice: Choice, A: Tensor, B: Tensor | None) -> Operands:
    """The damped problem in float32, or float64 for fp64."""
    dtype = torch.float64 if choice.precision == "fp64" else torch.float32
    return Operands(
        A=call.damping.apply(A, dtype), B=None if B is None else B.to(dtype), p=call.workload.p,
        lower=choice.workload.lower,
    )  # fmt: skip


def _pose_polar(call: Call, choice: Choice, G: Tensor, B: Tensor | None) -> Operands:
    """G in the storage format; for 16-bit operands over its largest entry, so that nothing leaves float16's range."""
    plan = get_precision(choice.precision)
    if torch.finfo(plan.storage).bits >= 32 and plan.execution == "native":
        return Operands(A=G.to(plan.storage), lower=choice.workload.lower)
    wide = G.to(torch.promote_types(G.dtype, torch.float32))
    largest = wide.abs().amax((-2, -1), keepdim=True).clamp_min(torch.finfo(wide.dtype).tiny)
    posed = make_ops(plan, G.device).cast((wide / largest).float())
    return Operands(A=posed, lower=choice.workload.lower)


def _diagnosis(call: Call, A: Tensor, B: Tensor | None, value: Tensor, entry: Entry | None) -> Callable[[], Diagnosis]:
    """The float64 check of this value, to be run when the result is asked for it."""
    versions = _versions(A, B)
    number = None if entry is None else entry.calls

    def diagnose() -> Diagnosis:
        if entry is not None and entry.recording is not None and entry.calls != number:
            raise InvalidInputError(
                "the value must be the workspace's latest to be judged, got one that a later call has overwritten; "
                "read termination and estimated_error before that call"
            )
        if _versions(A, B) != versions:
            raise InvalidInputError(
                "the operands must be unchanged to judge the value, got operands modified in place since the call; "
                "read termination and estimated_error before that, or pass a clone"
            )
        with torch.no_grad():
            if call.task == "polar":
                return diagnose_polar(value, call.rtol)
            posed = Operands(A=call.damping.apply(A, torch.float64), B=B, p=call.workload.p)
            return diagnose_root(posed, value, call.rtol)

    return diagnose


def _versions(A: Tensor, B: Tensor | None) -> tuple[int, ...]:
    """Counts of in-place changes; tensors made in inference mode have none."""
    return tuple(tensor._version for tensor in (A, B) if tensor is not None and not tensor.is_inference())
