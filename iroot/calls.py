"""What every function of the library does with a checked call: bounds, choice, value, and the account of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, is_dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from iroot import validation
from iroot.errors import InvalidInputError
from iroot.ops import Ops, make_ops
from iroot.planning import ASSUMED_LOWER, Choice, Demand, choose
from iroot.registry import Operands, Workload
from iroot.result import Bounds, Diagnosis, Result
from iroot.spectrum import Damping, Measured
from iroot.workspace import Entry, Workspace, check_workspace, recording

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
    reuse: int = 1


@dataclass(frozen=True, kw_only=True)
class Posed:
    """The problem as its methods take it; their value times `factor`, (..., 1, 1) or a number, is the caller's."""

    operands: Operands
    factor: Tensor | float | None = None


@dataclass(frozen=True, kw_only=True)
class Computed:
    """The value, and whether the method's own check made a factorisation give it."""

    value: Tensor
    fell_back: bool = False


class Measure(Protocol):
    """(call, A, B, known) -> what one host synchronisation tells; `known`: only whether it is zero or not finite."""

    def __call__(self, call: Call, A: Tensor, B: Tensor | None, /, *, known: bool) -> Measured:
        """Read one small tensor from the device."""
        ...


def by_method(choice: Choice, operands: Operands, ops: Ops) -> Computed:
    """The chosen method's result."""
    return Computed(value=choice.spec.function(operands, ops, choice.options))


@dataclass(frozen=True, kw_only=True)
class Kind:
    """What one function adds to the run of its calls.

    Attributes:
        operands: names of what must be finite, for errors.
        pose: (call, choice, A, B) -> the problem as its methods take it.
        measure: what a call reads on the host where no bound is known.
        diagnose: (call, A, B, computed) -> the float64 check.
        zero: the error for a zero matrix that is not damped; None: it is served.
        compute: (choice, operands, ops) -> the result.
        form: (call, A, dtype) -> the damped matrix whose root is applied; None: nothing is reused.
    """

    operands: str
    pose: Callable[[Call, Choice, Tensor, Tensor | None], Posed]
    measure: Measure
    diagnose: Callable[[Call, Tensor, Tensor | None, Computed], Diagnosis]
    zero: str | None = None
    compute: Callable[[Choice, Operands, Ops], Computed] = by_method
    form: Callable[[Call, Tensor, torch.dtype], Tensor] | None = None


def specified(call: Call, method: str, precision: str, options: Any, lower: float | None) -> Call:
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


def asked_rtol(requested: float | None, default: float, dtype: torch.dtype) -> float:
    """`requested`, or the default where the dtype can hold it. Raises InvalidInputError for one out of range."""
    if requested is None:
        # finfo.eps is twice the unit roundoff.
        return max(default, torch.finfo(dtype).eps)
    validation.check_rtol(requested)
    return float(requested)


def run(call: Call, kind: Kind, A: Tensor, B: Tensor | None, workspace: Workspace | None, check_finite: bool) -> Result:
    """Find the bound, choose, compute; the account is made when it is asked for."""
    check_workspace(workspace)
    entry = None if workspace is None else workspace.entry(call)
    with torch.no_grad():
        bounds = find_bounds(call, kind, A, B, entry, check_finite)
        workload = replace(call.workload, lower=bounds.lower)
        if call.shape.numel() == 0:
            choice, computed = None, Computed(value=torch.empty(call.shape, dtype=call.dtype, device=call.device))
        else:
            choice = choose(
                Demand(
                    task=call.task, workload=workload, device=call.device, rtol=call.rtol, method=call.method,
                    precision=call.precision, options=call.options,
                )
            )  # fmt: skip
            computed = _computed(call, kind, choice, A, B, entry)
    if entry is not None:
        entry.calls += 1
    return Result(
        value=computed.value,
        method="none" if choice is None else choice.spec.name,
        precision="none" if choice is None else choice.precision,
        rtol=call.rtol,
        stated_accuracy=0.0 if choice is None else choice.stated,
        bounds=bounds,
        steps=0 if choice is None else choice.steps,
        fell_back=computed.fell_back,
        diagnose=account(call, kind, A, B, computed, entry),
    )


def find_bounds(call: Call, kind: Kind, A: Tensor, B: Tensor | None, entry: Entry | None, check_finite: bool) -> Bounds:
    """The spectral bound, with at most one host synchronisation: none where the caller or the workspace has it."""
    known = entry.bounds if entry is not None else None
    if call.lower is not None:
        known = Bounds(lower=call.lower, source="given")
    elif kind.zero is None:
        known = Bounds(lower=ASSUMED_LOWER[call.task], source="assumed")
    if call.shape.numel() == 0 or (known is not None and not check_finite):
        return known or Bounds(lower=ASSUMED_LOWER[call.task], source="assumed")
    measured = kind.measure(call, A, B, known=known is not None)
    _check_measured(call, kind, measured, check_finite)
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


def _check_measured(call: Call, kind: Kind, measured: Measured, check_finite: bool) -> None:
    """Raise InvalidInputError for values that are not finite, where that is to be checked, and for no root at all."""
    if check_finite and not measured.finite:
        raise InvalidInputError(
            f"{kind.operands} must be finite, got NaN or infinity; without check_finite=True the termination reports it"
        )
    if kind.zero is not None and measured.smallest_matrix == 0.0 and call.damping.eps == 0.0:
        raise InvalidInputError(kind.zero)


def _computed(call: Call, kind: Kind, choice: Choice, A: Tensor, B: Tensor | None, entry: Entry | None) -> Computed:
    """The result of the chosen method, by its recording where the workspace has, or can have, one."""
    operands = (A,) if B is None else (A, B)
    compute = _computation(call, kind, choice)
    captured = call.device.type == "cuda" and torch.cuda.is_current_stream_capturing()
    if entry is None or captured or not choice.spec.capturable:
        return compute(*operands)
    found = recording(entry, lambda *tensors: compute(*tensors).value, operands)
    if found is None:
        return compute(*operands)
    with make_ops(choice.precision, call.device).arithmetic():
        return Computed(value=found.replay(operands))


def _computation(call: Call, kind: Kind, choice: Choice) -> Callable[..., Computed]:
    """(A) or (A, B) -> value, without host synchronisation but for the method's own."""
    ops = make_ops(choice.precision, call.device)

    def attempt(A: Tensor, B: Tensor | None) -> Computed:
        posed = kind.pose(call, choice, A, B)
        found = kind.compute(choice, posed.operands, ops)
        value = found.value if posed.factor is None else found.value.double() * posed.factor
        return replace(found, value=value.to(call.dtype))

    def compute(A: Tensor, B: Tensor | None = None) -> Computed:
        with torch.no_grad(), ops.arithmetic():
            try:
                return attempt(A, B)
            except torch.linalg.LinAlgError:  # type: ignore[attr-defined]
                return Computed(value=beside_failures(lambda other: attempt(other, B).value, A, call.shape, call.dtype))

    return compute


def beside_failures(attempt: Callable[[Tensor], Tensor], A: Tensor, shape: torch.Size, dtype: torch.dtype) -> Tensor:
    """What a decomposition that stopped at NaN gives of the finite matrices of a stack, and NaN for the others.

    The iterations carry NaN on, each matrix for itself: the termination reports both alike.

    Args:
        attempt: the stack A (..., m, n) -> value.
        shape, dtype: of the value.
    """
    failed = torch.full(shape, torch.nan, dtype=dtype, device=A.device)
    if A.shape[:-2].numel() == 1:
        return failed
    finite = A.isfinite().all(-1).all(-1)[..., None, None]
    stand_in = torch.eye(*A.shape[-2:], dtype=A.dtype, device=A.device)
    try:
        return torch.where(finite, attempt(torch.where(finite, A, stand_in)), failed)
    except torch.linalg.LinAlgError:  # type: ignore[attr-defined]
        return failed


def account(
    call: Call, kind: Kind, A: Tensor, B: Tensor | None, computed: Computed, entry: Entry | None
) -> Callable[[], Diagnosis]:
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
            return kind.diagnose(call, A, B, computed)

    return diagnose


def _versions(A: Tensor, B: Tensor | None) -> tuple[int, ...]:
    """Counts of in-place changes; tensors made in inference mode have none."""
    return tuple(tensor._version for tensor in (A, B) if tensor is not None and not tensor.is_inference())
