"""How the spectrum of a coupled iterate closes in on 1: one schedule, table or method against inverse Newton.

Both run on the same posed matrix in the same precision; every figure is from float64 eigenvalues of the iterates that
the arithmetic made. Beside them stand the extremes of the same recurrence without rounding.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated

import torch
from pydantic import Field

from harness.errors import UsageError
from harness.judge.problems import get_problem, pose
from harness.records import Case, Mode, OptionValue, Record
from iroot.iterates import BASELINE, Trajectory, trace, trace_quintics
from iroot.ops import make_ops
from iroot.registry import Operands, get_method
from iroot.spectrum import spectral_state
from iroot.table_files import find_table

LARGEST_N = 2048
"""A float64 eigendecomposition of every iterate takes minutes on a CPU beyond it."""


class SpectralRequest(Record):
    """What to look at: a method with its options, or a table of odd quintics (p = 2), on one posed matrix.

    lower: smallest over largest eigenvalue, as told to the methods; None: what the problem's caller knows.
    table: a published or shipped one by name, or a file of `iroot tune polar`.
    steps: of the table; None: all.
    """

    method: str = "coupled_pe"
    options: tuple[tuple[str, OptionValue], ...] = ()
    table: str | None = None
    steps: Annotated[int, Field(ge=1)] | None = None
    p: Annotated[int, Field(ge=1)] = 2
    n: Annotated[int, Field(ge=1, le=LARGEST_N)] = 256
    problem: str = "logspace_1e4"
    lower: Annotated[float, Field(gt=0, le=1)] | None = None
    precision: str = "fp32"
    seed: Annotated[int, Field(ge=0)] = 0

    @property
    def slug(self) -> str:
        """A file name: what, where, and eight hex digits over all of it."""
        digest = hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:8]
        subject = Path(self.table).stem if self.table else self.method
        return f"{subject}-{self.precision}-p{self.p}-{self.problem}-n{self.n}-{digest}"


class SpectralStep(Record):
    """The iterate after `step` steps; None where an entry of it is not finite, or a logarithm does not exist.

    products: n^3 products of a call that ends here, the normalisation's included; a symmetric result counts half of
        2 n^3.
    radius: rho(I - Y). log_ratio: log(M / m). within_10, within_1: shares of the eigenvalues.
    exact_smallest, exact_largest: of the recurrence without rounding.
    """

    step: int
    products: float
    smallest: float | None = None
    largest: float | None = None
    radius: float | None = None
    log_ratio: float | None = None
    within_10: float | None = None
    within_1: float | None = None
    exact_smallest: float | None = None
    exact_largest: float | None = None


class SpectralCurve(Record):
    """One iteration, from its normalised matrix to the iterate after its last step."""

    name: str
    scaling: str
    steps: tuple[SpectralStep, ...]

    def reaching(self, radius: float) -> SpectralStep | None:
        """The first iterate from which on rho(I - Y) stays at most `radius`."""
        found = None
        for step in reversed(self.steps):
            if step.radius is None or step.radius > radius:
                break
            found = step
        return found


class SpectralReport(Record):
    """A schedule and inverse Newton on one matrix. kappa: of the posed, damped matrix, in float64."""

    request: SpectralRequest
    kappa: float
    lower: float | None
    schedule: SpectralCurve
    baseline: SpectralCurve


def spectral_report(request: SpectralRequest) -> SpectralReport:
    """Pose the matrix, run both iterations on the CPU and take the eigenvalues of every iterate.

    Raises:
        UnknownNameError: no such method, table, option, precision or problem.
        UnsupportedError: a CPU does not run the precision.
        InvalidInputError, UsageError: they do not fit together.
    """
    operands = _posed(request)
    ops = make_ops(request.precision, operands.A.device)
    if request.table is None:
        found, name = trace(request.method, operands, ops, _options(request)), request.method
    else:
        found, name = trace_quintics(find_table(request.table).take(request.steps), operands, ops), request.table
    values = torch.linalg.eigvalsh(operands.A.double()) + operands.eps
    return SpectralReport(
        request=request,
        kappa=float(values[-1] / values[0]),
        lower=operands.lower,
        schedule=_curve(name, found),
        baseline=_curve(BASELINE, trace(BASELINE, operands, ops, _baseline_options(request))),
    )


def _posed(request: SpectralRequest) -> Operands:
    if request.table is not None and (request.options or request.method != SpectralRequest().method):
        raise UsageError("a table is run as it is: leave the method and its options out, or the table")
    if request.table is None and request.steps is not None:
        raise UsageError("steps are those of a table; a method takes its steps from its target, as in target=1e-3")
    case = Case(
        task="inverse_root", method=request.method, precision=request.precision, p=request.p, m=request.n, n=request.n,
        problem=request.problem, mode=Mode.EAGER,
    )  # fmt: skip
    get_problem(request.problem)
    operands = pose(request.problem, case, seed=request.seed, device=torch.device("cpu"))
    lower = operands.lower if request.lower is None else request.lower
    return Operands(A=operands.A, p=operands.p, eps=operands.eps, lower=lower)


def _options(request: SpectralRequest) -> object:
    """The method's options; a single value of a list, as in degrees=8, is a list of one."""
    spec = get_method("inverse_root", request.method)
    defaults = spec.options()
    values = {
        name: (value,) if isinstance(getattr(defaults, name, None), tuple) and isinstance(value, int) else value
        for name, value in request.options
    }
    return spec.make_options(values)


def _baseline_options(request: SpectralRequest) -> object:
    """Inverse Newton with the schedule's target and scaling, where they are given."""
    spec = get_method("inverse_root", BASELINE)
    shared = {name: value for name, value in request.options if name in ("target", "scaling")}
    return spec.make_options(shared)


def _curve(name: str, found: Trajectory) -> SpectralCurve:
    steps = []
    for t, (Y, exact) in enumerate(zip(found.iterates, found.exact, strict=True)):
        state, truth = spectral_state(Y), spectral_state(exact)
        steps.append(
            SpectralStep(
                step=t,
                products=found.products[t],
                smallest=state and state.smallest,
                largest=state and state.largest,
                radius=state and state.radius,
                log_ratio=state and state.log_ratio,
                within_10=state and state.within_10,
                within_1=state and state.within_1,
                exact_smallest=truth and truth.smallest,
                exact_largest=truth and truth.largest,
            )
        )
    return SpectralCurve(name=name, scaling=found.scaling, steps=tuple(steps))
