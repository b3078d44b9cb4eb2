"""Seeded problems with known spectra: what every method is judged and timed on.

Matrices are built in float64 and rounded once to the dtype they are posed in; symmetric ones are exactly symmetric.
A problem is a function of (name, shape, batch, seed, kind of device) and of nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import get_args

import torch
from torch import Tensor

from harness.judge import spectra
from harness.judge.cache import TensorCache
from harness.judge.draws import Draw
from harness.records import Case
from iroot.errors import InvalidInputError, UnknownNameError
from iroot.ops import make_ops
from iroot.precision import get_precision
from iroot.registry import TASKS, OperandKind, Operands

LOGSPACE = "logspace_"
"""What the names of log-spaced problems begin with; their condition number follows."""


@dataclass(frozen=True, kw_only=True)
class Form:
    """A problem for one kind of operand.

    Attributes:
        generate: Draw -> (batch, m, n) float64.
        lower: (m, n) -> smallest over largest eigenvalue (singular value) before rounding, at least; None: unknown. Of
            the damped matrix, where there is damping.
        eps: the absolute damping that the caller asks for.
    """

    generate: Callable[[Draw], Tensor]
    lower: Callable[[int, int], float | None]
    eps: float = 0.0


@dataclass(frozen=True, kw_only=True)
class ProblemSpec:
    """One named family of inputs, in a form for every kind of operand that it can pose."""

    name: str
    summary: str
    spd: Form | None = None
    rectangular: Form | None = None
    gram: Form | None = None
    square: Form | None = None

    @property
    def operands(self) -> tuple[OperandKind, ...]:
        """The kinds of operand this problem can pose."""
        return tuple(kind for kind in get_args(OperandKind) if self._form(kind) is not None)

    def form(self, kind: OperandKind) -> Form:
        """The form for one kind of operand; raises InvalidInputError where there is none."""
        form = self._form(kind)
        if form is None:
            fitting = ", ".join(name for name, spec in PROBLEMS.items() if kind in spec.operands)
            raise InvalidInputError(f"problem '{self.name}' has no {kind} operands; use one of {fitting}")
        return form

    def lower(self, kind: OperandKind, m: int, n: int) -> float | None:
        """Nominal lambda_min / lambda_max of the damped A or G^T G (rectangular, square: of singular values), or None.

        None: unknown.
        """
        return self.form(kind).lower(m, n)

    def _form(self, kind: OperandKind) -> Form | None:
        return {"spd": self.spd, "rectangular": self.rectangular, "gram": self.gram, "square": self.square}[kind]


def _constant(value: float | None) -> Callable[[int, int], float | None]:
    return lambda m, n: value


def logspace(kappa: float) -> ProblemSpec:
    """Log-spaced eigenvalues (singular values) for a condition number kappa >= 1, as `logspace_3.2e5`."""
    text = f"{kappa:.3e}"
    mantissa, exponent = text.split("e")
    short = f"{float(mantissa):g}e{int(exponent)}"
    kappa = float(short)
    lower = _constant(1 / kappa)
    rectangular = Form(generate=spectra.rectangular_from(spectra.logspace(kappa)), lower=lower)
    return ProblemSpec(
        name=f"{LOGSPACE}{short}",
        summary=f"log-spaced eigenvalues (singular values), condition number {short}; Gram: damped to it",
        spd=Form(generate=spectra.spd_from(spectra.logspace(kappa)), lower=lower),
        rectangular=rectangular,
        gram=_damped_gram(spectra.logspace(kappa), 1 / kappa),
        square=rectangular,
    )


def _damped_gram(spectrum: spectra.Spectrum, eps: float) -> Form:
    """G whose squared singular values, the largest about 1, are `spectrum`, wide or tall; for G^T G + eps I."""
    lower = _constant(0.999 * eps / (1.0 + eps))
    return Form(generate=spectra.factor_from(spectra.root(spectrum)), lower=lower, eps=eps)


_SPECS = (
    ProblemSpec(
        name="wishart", summary="G G^T / n + 1e-3 I, G n x n Gaussian; condition number about 4e3",
        spd=Form(generate=spectra.wishart, lower=_constant(1e-3 / 5)),
        gram=Form(generate=spectra.wishart_factor, lower=_constant(1e-3 / 5), eps=1e-3)),
    *(logspace(10.0**exponent) for exponent in range(1, 9)),
    ProblemSpec(
        name="spike", summary="1 in 64 eigenvalues in [0.1, 1], others in [1e-4, 2e-4]; singular values: square roots",
        spd=Form(generate=spectra.spd_from(spectra.spike), lower=_constant(1e-4)),
        rectangular=Form(generate=spectra.rectangular_from(spectra.root(spectra.spike)), lower=_constant(1e-2)),
        gram=_damped_gram(spectra.spike, 1e-4),
        square=Form(generate=spectra.rectangular_from(spectra.root(spectra.spike)), lower=_constant(1e-2))),
    ProblemSpec(
        name="power_law", summary="eigenvalues i^-2 + 1e-6; singular values: square roots",
        spd=Form(generate=spectra.spd_from(spectra.power_law), lower=lambda m, n: spectra.power_law_ratio(n)),
        rectangular=Form(generate=spectra.rectangular_from(spectra.root(spectra.power_law)),
                         lower=lambda m, n: math.sqrt(spectra.power_law_ratio(min(m, n)))),
        gram=_damped_gram(spectra.power_law, 1e-6)),
    ProblemSpec(name="identity", summary="A = I", spd=Form(generate=spectra.identity, lower=_constant(1.0))),
    ProblemSpec(
        name="diagonal", summary="diagonal, log-spaced over 1e4 in random order",
        spd=Form(generate=spectra.diagonal, lower=_constant(1e-4))),
    ProblemSpec(
        name="ar1", summary="0.99^|i-j| with random signs; eigenvalues within (1/199, 199)",
        spd=Form(generate=spectra.ar1, lower=_constant(199.0**-2))),
    ProblemSpec(
        name="block_diagonal", summary="4 blocks at scales 1 .. 1e-3, one decade each; condition number 1e4",
        spd=Form(generate=spectra.block_diagonal, lower=_constant(1e-4))),
    ProblemSpec(
        name="rank_deficient", summary="rank n/4, damped by eps = 1e-4 lambda_max",
        spd=Form(generate=spectra.spd_from(spectra.low_rank), lower=_constant(1e-4), eps=1e-4),
        gram=_damped_gram(spectra.low_rank, 1e-4)),
    ProblemSpec(
        name="near_singular", summary="eigenvalues in [1e-2, 1] and a single one at 1e-6",
        spd=Form(generate=spectra.spd_from(spectra.one_tiny), lower=_constant(1e-6))),
    ProblemSpec(
        name="gaussian", summary="independent standard normal entries; sigma_min unknown when nearly square",
        rectangular=Form(generate=spectra.gaussian, lower=spectra.gaussian_lower),
        square=Form(generate=spectra.gaussian, lower=_constant(None))),
    ProblemSpec(
        name="row_heterogeneous", summary="Gaussian rows with log-normal scales (0.7)",
        rectangular=Form(generate=spectra.row_heterogeneous, lower=_constant(None)),
        square=Form(generate=spectra.row_heterogeneous, lower=_constant(None))),
    ProblemSpec(
        name="levy", summary="symmetric alpha-stable entries, alpha = 1.5, clipped at 1e3",
        rectangular=Form(generate=spectra.levy, lower=_constant(None))),
)  # fmt: skip

PROBLEMS: dict[str, ProblemSpec] = {spec.name: spec for spec in _SPECS}


def condition_number(name: str) -> float | None:
    """The condition number in the name of a log-spaced problem, None for other names."""
    try:
        kappa = float(name.removeprefix(LOGSPACE)) if name.startswith(LOGSPACE) else math.nan
    except ValueError:
        return None
    return kappa if 1.0 <= kappa < math.inf else None


def get_problem(name: str) -> ProblemSpec:
    """Return the problem called `name`, log-spaced ones for any condition number.

    Raises:
        UnknownNameError: no such problem; with the nearest valid name.
    """
    if name in PROBLEMS:
        return PROBLEMS[name]
    kappa = condition_number(name)
    if kappa is None:
        raise UnknownNameError("problem", name, PROBLEMS)
    return logspace(kappa)


def pose(problem: str, case: Case, *, seed: int, device: torch.device, cache: TensorCache | None = None) -> Operands:
    """Pose `problem` in the shape of `case`, as a caller would.

    Inverses and their application get A and B in float32 (float64 for precision `fp64`), other tasks in the storage
    format of the precision.

    Args:
        problem: a name of `PROBLEMS`.
        case: task, precision, m, n, batch, k and p are read.
        seed: problem seed; equal seeds give equal operands on one kind of device.
        device: where the operands live.
        cache: keeps posed operands and bases between calls.

    Raises:
        UnknownNameError: no such problem.
        InvalidInputError: the problem has no operands of the task's kind, or the shape is not the task's.
        UnsupportedError: `device` cannot run the case's precision.
    """
    task, spec = TASKS[case.task], get_problem(problem)
    form = spec.form(task.operand)
    if task.is_square and case.m != case.n:
        raise InvalidInputError(f"task '{task.name}' needs m = n, got {case.m}x{case.n}")
    if task.has_columns and case.k is None:
        raise InvalidInputError(f"task '{task.name}' needs k columns, got none")
    cache = cache if cache is not None else TensorCache(0)
    draw = Draw(m=case.m, n=case.n, batch=case.batch, seed=seed, device=device, cache=cache)
    posed_in = posed_format(task.operand, case.precision, device)

    def posed(name: str, draw_matrix: Callable[[], Tensor]) -> Tensor:
        key = (name, task.operand, posed_in.name, case.m, case.n, case.batch, seed, device)
        return cache.get(key, lambda: posed_in.round(draw_matrix() if case.batch > 1 else draw_matrix().squeeze(0)))

    def symmetric() -> Tensor:
        A = form.generate(draw)
        return (A + A.mT).mul_(0.5)

    A = posed(problem, symmetric if task.operand == "spd" else lambda: form.generate(draw))
    B = None
    if task.has_columns and case.k is not None:
        k = case.k
        B = posed(f"columns-{k}", lambda: draw.normal(f"columns-{k}", draw.n, k))
    lower = stated_lower(form.lower(case.m, case.n), posed_in.unit_roundoff)
    return Operands(A=A, B=B, p=case.p if task.has_root else None, eps=form.eps, lower=lower)


def stated_lower(nominal: float | None, unit_roundoff: float) -> float | None:
    """What is still known of lambda_min / lambda_max after rounding: 0.95 (nominal - 0.86 u), or None near 0.86 u.

    Rounding adds a matrix of norm 0.43 u (sqrt(m) + sqrt(n)) times the root mean square entry (0.425 measured on
    Gaussian matrices, n = 2000, bfloat16 and float16), which is at most 0.86 u times the largest singular value; by
    Weyl's inequality the smallest one moves by no more. In bfloat16 a condition number of 1e4 is not preserved.
    """
    moved = 0.86 * unit_roundoff
    return None if nominal is None or nominal <= 2 * moved else 0.95 * (nominal - moved)


@dataclass(frozen=True, kw_only=True)
class PosedFormat:
    """The number format operands are posed in; precisions of equal `name` share their operands and references."""

    name: str
    unit_roundoff: float
    round: Callable[[Tensor], Tensor]


def posed_format(kind: OperandKind, name: str, device: torch.device) -> PosedFormat:
    """The format in which operands of `kind` are posed for the precision called `name`."""
    precision = get_precision(name)
    if kind != "rectangular":
        dtype = torch.float64 if precision.storage == torch.float64 else torch.float32
        return PosedFormat(name=str(dtype), unit_roundoff=torch.finfo(dtype).eps / 2, round=lambda A: A.to(dtype))
    ops, storage = make_ops(precision, device), precision.storage
    if precision.execution == "emulated" and precision.words == 1:
        return PosedFormat(name=name, unit_roundoff=min(precision.unit_roundoff, 2.0**-8), round=ops.cast)
    # Formats that store alike share their operands: int8, int4_sim, fp8 and bf16 are all posed in bfloat16.
    return PosedFormat(name=str(storage), unit_roundoff=torch.finfo(storage).eps / 2, round=lambda A: A.to(storage))
