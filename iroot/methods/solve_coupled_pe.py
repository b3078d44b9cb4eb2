"""A^(-1) B for A not symmetric: normal equations inverted by products, refined, checked, LU where the check fails."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from iroot.equilibration import Equilibrated, get_equilibration
from iroot.errors import InvalidInputError
from iroot.methods import _solve, _spd
from iroot.methods.coupled_pe import accuracy as root_accuracy
from iroot.methods.coupled_pe import coupled_pe, planned_schedule
from iroot.methods.coupled_pe import flops as root_flops
from iroot.ops import Ops, make_ops
from iroot.options import ScheduleOptions, check_target
from iroot.precision import FLOATING, SPLIT
from iroot.registry import MethodSpec, Operands, Workload, register

LARGEST_CONTRACTION = 0.3
"""Of the error per refinement, as stated beforehand; above it the factorisation is taken at once."""
DEFAULT_LOWER = 1e-3
"""sigma_min / sigma_max taken where the caller does not know: the normal equations then have the roots' default."""

SCALING_MARGINS = {"none": 1.0, "row_norm": 2.0, "ruiz": 4.0}
"""What equilibration may take off sigma_min / sigma_max of a matrix that needs none: 1.0 and 2.2 seen, n = 4 to 256.

Where it takes more, the residual tells.
"""


@dataclass(frozen=True, kw_only=True)
class SolveOptions:
    """How the system is scaled, refined and checked.

    Attributes:
        equilibration: scaling of rows, or of rows and columns (`iroot.equilibration`), undone exactly.
        target: error of the schedule in exact arithmetic; None: what the precision can show.
        refinements: corrections by the inverse at hand, 0 to 10.
        check: error relative to ||Z|| that the residual must vouch for, in (0, 1), or the factorisation is taken.
    """

    equilibration: str = "row_norm"
    target: float | None = None
    refinements: int = 2
    check: float = 1e-2

    def __post_init__(self) -> None:
        get_equilibration(self.equilibration)
        check_target(self.target)
        if not 0 <= self.refinements <= 10:
            raise InvalidInputError(f"refinements must be from 0 to 10, got {self.refinements}")
        if not 0.0 < self.check < 1.0:
            raise InvalidInputError(f"check must be in (0, 1), got {self.check}")


@dataclass(frozen=True, kw_only=True)
class Solved:
    """Z, and whether the factorisation had to give it, of at least one matrix of a batch."""

    Z: Tensor
    fell_back: bool


def solve_coupled_pe(operands: Operands, ops: Ops, options: SolveOptions) -> Tensor:
    """Z = C^T (C C^T)^(-1) D B with C = D A, rows of norm about 1, by `coupled_pe` on C C^T; see `solve_or_factorise`.

    C C^T has a condition number kappa^2, so the inverse X is only as good as unit roundoff * kappa^2; corrections
    Z <- Z + C^T X (D B - C Z), in float32 (float64), contract by that, to the accuracy of the factorisation (Higham
    2002, chapter 12).

    Raises:
        InvalidInputError: A is not square, or B does not fit.
    """
    return solve_or_factorise(operands, ops, options).Z


def solve_or_factorise(operands: Operands, ops: Ops, options: SolveOptions) -> Solved:
    """The iteration's Z where its residual passes, else that of an LU factorisation.

    Where unit roundoff * kappa^2, by the caller's `lower`, leaves no contraction, the iteration is not tried. Else one
    host synchronisation reads whether every ||A Z - B||_F / ||B||_F is at most check / (3 n^(1/2)).
    """
    A, B = _solve.system(operands)
    if not _contracts(_posed_workload(operands, ops), options):
        return Solved(Z=_solve.factorised(A, B).to(operands.A.dtype), fell_back=True)
    # Residuals in TF32 or 16 bits would vouch for nothing.
    with make_ops("fp64" if A.dtype == torch.float64 else "fp32", A.device, "torch").arithmetic():
        system = get_equilibration(options.equilibration)(A)
        gram = system.C @ system.C.mT
    lower = (DEFAULT_LOWER if operands.lower is None else operands.lower) / SCALING_MARGINS[options.equilibration]
    X = coupled_pe(Operands(A=gram, p=1, lower=lower**2), ops, ScheduleOptions(target=options.target))
    with make_ops("fp64" if A.dtype == torch.float64 else "fp32", A.device, "torch").arithmetic():
        Z = _refined(system, X, B, options.refinements)
        passed = _solve.relative_residual(A @ Z - B, B) <= _solve.tolerance(options.check, A.shape[-1])
        if bool(passed.all()):
            return Solved(Z=Z.to(operands.A.dtype), fell_back=False)
        return Solved(Z=torch.where(passed, Z, _solve.factorised(A, B)).to(operands.A.dtype), fell_back=True)


def _refined(system: Equilibrated, X: Tensor, B: Tensor, refinements: int) -> Tensor:
    """E C^T X D B after some corrections; of each matrix the iterate with the smallest residual."""
    C, right = system.C, B * system.rows
    best = C.mT @ (X @ right)
    remainder = right - C @ best
    size = _solve.relative_residual(remainder, right)
    for _ in range(refinements):
        trial = best + C.mT @ (X @ remainder)
        left = right - C @ trial
        found = _solve.relative_residual(left, right)
        better = found < size
        best, remainder = torch.where(better, trial, best), torch.where(better, left, remainder)
        size = torch.where(better, found, size)
    return best * system.columns


def _posed_workload(operands: Operands, ops: Ops) -> Workload:
    n = operands.A.shape[-1]
    return Workload(m=n, n=n, precision=ops.precision.name, lower=operands.lower)


def _contraction(workload: Workload, options: SolveOptions) -> float | None:
    """The relative error of X as stated beforehand, or None."""
    return root_accuracy(_solve.normal_workload(_known(workload)), ScheduleOptions(target=options.target))


def _known(workload: Workload) -> Workload:
    if workload.lower is not None:
        return workload
    return replace(workload, lower=DEFAULT_LOWER)


def _scaled(workload: Workload, options: SolveOptions) -> Workload:
    """The workload of the inverse, as its schedule is planned."""
    known = _known(workload)
    assert known.lower is not None
    return _solve.normal_workload(replace(known, lower=known.lower / SCALING_MARGINS[options.equilibration]))


def _contracts(workload: Workload, options: SolveOptions) -> bool:
    contraction = _contraction(workload, options)
    return contraction is not None and contraction <= LARGEST_CONTRACTION


def flops(workload: Workload, options: SolveOptions) -> float:
    """C C^T, its inverse, and three products n x n x k per iterate; or those of LU."""
    if not _contracts(workload, options):
        return _solve.lu_flops(workload)
    assert workload.k is not None
    inverse = root_flops(_scaled(workload, options), ScheduleOptions(target=options.target))
    blocks = (3.0 * (1 + options.refinements) + 1.0) * 2.0 * float(workload.n) ** 2 * workload.k
    return inverse + workload.batch * (float(workload.n) ** 3 + blocks)


def accuracy(workload: Workload, options: SolveOptions) -> float | None:
    """What the refinements leave of the error of X, and the accuracy of a factorisation."""
    if not _contracts(workload, options):
        return _solve.lu_accuracy(workload)
    floor = _solve.lu_accuracy(_known(workload), base=150.0)
    assert floor is not None
    contraction = _contraction(workload, options)
    assert contraction is not None
    error = floor + contraction ** (options.refinements + 1)
    return error if error <= 0.3 else None


def steps(workload: Workload, options: SolveOptions) -> int:
    """Steps of the inverse; 0 where the factorisation is taken."""
    if not _contracts(workload, options):
        return 0
    return len(planned_schedule(_scaled(workload, options), ScheduleOptions(target=options.target)).steps)


register(
    MethodSpec(
        name="coupled_pe",
        task="solve",
        function=solve_coupled_pe,
        options=SolveOptions,
        precisions=FLOATING + SPLIT,
        flops=flops,
        bytes_moved=_spd.apply_bytes,
        accuracy=accuracy,
        steps=steps,
        capturable=False,
        summary="normal equations of the row-scaled A by minimax steps, refined; LU where the residual is too large",
        citation="Amsel et al., 2025, arXiv 2505.16932; Higham, Accuracy and Stability, 2nd ed., 2002, chapter 12",
    )
)
