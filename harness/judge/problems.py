"""Seeded problems with known spectra: what every method is judged and timed on.

Matrices are built in float64 and rounded once to the dtype they are posed in; symmetric ones are exactly symmetric.
A problem is a function of (name, shape, batch, seed, kind of device) and of nothing else.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from harness.judge.cache import TensorCache
from harness.judge.draws import Draw, orthonormal
from harness.records import Case
from iroot.errors import InvalidInputError, UnknownNameError
from iroot.ops import make_ops
from iroot.precision import get_precision
from iroot.registry import TASKS, OperandKind, Operands

LOGSPACE = "logspace_"
"""What the names of log-spaced problems begin with; their condition number follows."""

Spectrum = Callable[[Draw], Tensor]
"""Draw -> (rank,) or (batch, rank) eigenvalues or singular values, largest first, float64."""


@dataclass(frozen=True, kw_only=True)
class Form:
    """A problem for one kind of operand.

    Attributes:
        generate: Draw -> (batch, m, n) float64.
        lower: (m, n) -> smallest over largest eigenvalue (singular value) before rounding, at least; None: unknown.
    """

    generate: Callable[[Draw], Tensor]
    lower: Callable[[int, int], float | None]


@dataclass(frozen=True, kw_only=True)
class ProblemSpec:
    """One named family of inputs. `eps` is the absolute damping the caller asks for."""

    name: str
    summary: str
    spd: Form | None = None
    rectangular: Form | None = None
    eps: float = 0.0

    @property
    def operands(self) -> tuple[OperandKind, ...]:
        """The kinds of operand this problem can pose."""
        kinds: list[OperandKind] = []
        if self.spd is not None:
            kinds.append("spd")
        if self.rectangular is not None:
            kinds.append("rectangular")
        return tuple(kinds)

    def form(self, kind: OperandKind) -> Form:
        """The form for one kind of operand; raises InvalidInputError where there is none."""
        form = self.spd if kind == "spd" else self.rectangular
        if form is None:
            fitting = ", ".join(name for name, spec in PROBLEMS.items() if kind in spec.operands)
            raise InvalidInputError(f"problem '{self.name}' has no {kind} operands; use one of {fitting}")
        return form

    def lower(self, kind: OperandKind, m: int, n: int) -> float | None:
        """Nominal lambda_min(A + eps I) / lambda_max(A + eps I) (rectangular: of singular values), None: unknown."""
        return self.form(kind).lower(m, n)


def _spd_from(spectrum: Spectrum) -> Callable[[Draw], Tensor]:
    def generate(draw: Draw) -> Tensor:
        Q = orthonormal(draw, draw.n, draw.n, side="left")
        return torch.matmul(Q * spectrum(draw).unsqueeze(-2), Q.mT)

    return generate


def _rectangular_from(spectrum: Spectrum) -> Callable[[Draw], Tensor]:
    """U diag(sigma) V^T, scaled to entries of mean square 1: tiny entries would be subnormal in float16."""

    def generate(draw: Draw) -> Tensor:
        U = orthonormal(draw, draw.m, draw.rank, side="left")
        V = orthonormal(draw, draw.n, draw.rank, side="right")
        sigma = spectrum(draw)
        scale = math.sqrt(draw.m * draw.n) / torch.linalg.vector_norm(sigma, dim=-1, keepdim=True)
        return torch.matmul(U * (sigma * scale).unsqueeze(-2), V.mT)

    return generate


# --- spectra and matrices ---------------------------------------------------------------------------------------------


def _logspace(kappa: float) -> Spectrum:
    def spectrum(draw: Draw) -> Tensor:
        return torch.logspace(0, -math.log10(kappa), draw.rank, dtype=torch.float64, device=draw.device)

    return spectrum


def _spike(draw: Draw) -> Tensor:
    """One in 64 eigenvalues between 1 and 0.1, the rest between 1e-4 and 2e-4."""
    values = 1e-4 * (1 + draw.uniform("spike-bulk", draw.rank))
    large = max(1, draw.rank // 64)
    values[:, :large] = torch.logspace(0, -1, large, dtype=torch.float64, device=draw.device)
    return values.sort(dim=-1, descending=True).values


def _power_law(draw: Draw) -> Tensor:
    """i^-2 + 1e-6, i = 1 .. rank."""
    index = torch.arange(1, draw.rank + 1, dtype=torch.float64, device=draw.device)
    return index**-2.0 + 1e-6


def _power_law_ratio(rank: int) -> float:
    return (1 / rank**2 + 1e-6) / (1 + 1e-6)


def _root(spectrum: Spectrum) -> Spectrum:
    """Singular values whose squares are `spectrum`: G G^T then has the eigenvalues of the SPD problem."""
    return lambda draw: spectrum(draw).sqrt()


def _low_rank(draw: Draw) -> Tensor:
    """A quarter of the eigenvalues between 1 and 0.1, the rest 0."""
    values = torch.zeros(draw.rank, dtype=torch.float64, device=draw.device)
    kept = max(1, draw.rank // 4)
    values[:kept] = torch.logspace(0, -1, kept, dtype=torch.float64, device=draw.device)
    return values


def _one_tiny(draw: Draw) -> Tensor:
    """Eigenvalues between 1 and 1e-2, and a single one at 1e-6."""
    values = torch.logspace(0, -2, draw.rank, dtype=torch.float64, device=draw.device)
    values[-1] = 1e-6
    return values


def _wishart(draw: Draw) -> Tensor:
    G = draw.normal("wishart", draw.n, draw.n)
    return torch.matmul(G, G.mT).div_(draw.n) + 1e-3 * torch.eye(draw.n, dtype=torch.float64, device=draw.device)


def _identity(draw: Draw) -> Tensor:
    return torch.eye(draw.n, dtype=torch.float64, device=draw.device).repeat(draw.batch, 1, 1)


def _diagonal(draw: Draw) -> Tensor:
    """Eigenvalues logspace_1e4, in random order on the diagonal."""
    order = draw.uniform("diagonal", draw.n).argsort(dim=-1)
    return torch.diag_embed(_logspace(1e4)(draw)[order])


def _ar1(draw: Draw) -> Tensor:
    """s_i s_j 0.99^|i-j| with random signs s, the covariance of an autoregressive process of order 1."""
    index = torch.arange(draw.n, dtype=torch.float64, device=draw.device)
    signs = draw.signs("ar1", draw.n)
    return 0.99 ** (index[:, None] - index).abs() * signs[:, :, None] * signs[:, None, :]


def _block_diagonal(draw: Draw) -> Tensor:
    """Four blocks, each logspace over one decade, at scales 1, 0.1, 0.01 and 0.001."""
    A = torch.zeros(draw.batch, draw.n, draw.n, dtype=torch.float64, device=draw.device)
    edges = [round(i * draw.n / 4) for i in range(5)]
    for block, (start, stop) in enumerate(itertools.pairwise(edges)):
        if stop > start:
            part = Draw(m=stop - start, n=stop - start, batch=draw.batch, seed=4 * draw.seed + block,
                        device=draw.device, cache=draw.cache)  # fmt: skip
            A[:, start:stop, start:stop] = 10.0**-block * _spd_from(_logspace(10.0))(part)
    return A


def _gaussian(draw: Draw) -> Tensor:
    return draw.normal("gaussian", draw.m, draw.n)


def _gaussian_lower(m: int, n: int) -> float | None:
    """(1 - sqrt(r)) / (1 + sqrt(r)), r = aspect ratio below 1/2 (Marchenko-Pastur), less a tenth; else unknown."""
    small, large = sorted((m, n))
    ratio = small / large
    if ratio > 0.5 or small < 32:
        return None
    return 0.9 * (1 - math.sqrt(ratio)) / (1 + math.sqrt(ratio))


def _row_heterogeneous(draw: Draw) -> Tensor:
    """Gaussian rows with log-normal scales exp(0.7 N(0, 1))."""
    return _gaussian(draw) * (0.7 * draw.normal("row-scale", draw.m, 1)).exp()


def _levy(draw: Draw) -> Tensor:
    """Symmetric alpha-stable entries, alpha = 1.5 (Chambers, Mallows, Stuck 1976), as heavy-tailed gradients have.

    Clipped at 1e3 (one entry in 1e5): a single entry must not decide whether a 16-bit format overflows.
    """
    alpha = 1.5
    angle = math.pi * (draw.uniform("levy-angle", draw.m, draw.n) - 0.5)
    weight = torch.log1p(-draw.uniform("levy-weight", draw.m, draw.n)).neg_().clamp_(min=1e-12)
    value = (alpha * angle).sin() / angle.cos() ** (1 / alpha)
    value *= (((1 - alpha) * angle).cos() / weight) ** ((1 - alpha) / alpha)
    return value.clamp_(-1e3, 1e3)


def _constant(value: float | None) -> Callable[[int, int], float | None]:
    return lambda m, n: value


def logspace(kappa: float) -> ProblemSpec:
    """Log-spaced eigenvalues (singular values) for a condition number kappa >= 1, as `logspace_3.2e5`."""
    text = f"{kappa:.3e}"
    mantissa, exponent = text.split("e")
    short = f"{float(mantissa):g}e{int(exponent)}"
    kappa = float(short)
    lower = _constant(1 / kappa)
    rectangular = Form(generate=_rectangular_from(_logspace(kappa)), lower=lower)
    return ProblemSpec(
        name=f"{LOGSPACE}{short}",
        summary=f"log-spaced eigenvalues (singular values), condition number {short}",
        spd=Form(generate=_spd_from(_logspace(kappa)), lower=lower),
        rectangular=rectangular,
    )


_SPECS = (
    ProblemSpec(
        name="wishart", summary="G G^T / n + 1e-3 I, G n x n Gaussian; condition number about 4e3",
        spd=Form(generate=_wishart, lower=_constant(1e-3 / 5))),
    *(logspace(10.0**exponent) for exponent in range(1, 9)),
    ProblemSpec(
        name="spike", summary="1 in 64 eigenvalues in [0.1, 1], others in [1e-4, 2e-4]; singular values: square roots",
        spd=Form(generate=_spd_from(_spike), lower=_constant(1e-4)),
        rectangular=Form(generate=_rectangular_from(_root(_spike)), lower=_constant(1e-2))),
    ProblemSpec(
        name="power_law", summary="eigenvalues i^-2 + 1e-6; singular values: square roots",
        spd=Form(generate=_spd_from(_power_law), lower=lambda m, n: _power_law_ratio(n)),
        rectangular=Form(generate=_rectangular_from(_root(_power_law)),
                         lower=lambda m, n: math.sqrt(_power_law_ratio(min(m, n))))),
    ProblemSpec(name="identity", summary="A = I", spd=Form(generate=_identity, lower=_constant(1.0))),
    ProblemSpec(
        name="diagonal", summary="diagonal, log-spaced over 1e4 in random order",
        spd=Form(generate=_diagonal, lower=_constant(1e-4))),
    ProblemSpec(
        name="ar1", summary="0.99^|i-j| with random signs; eigenvalues within (1/199, 199)",
        spd=Form(generate=_ar1, lower=_constant(199.0**-2))),
    ProblemSpec(
        name="block_diagonal", summary="4 blocks at scales 1 .. 1e-3, one decade each; condition number 1e4",
        spd=Form(generate=_block_diagonal, lower=_constant(1e-4))),
    ProblemSpec(
        name="rank_deficient", summary="rank n/4, damped by eps = 1e-4 lambda_max", eps=1e-4,
        spd=Form(generate=_spd_from(_low_rank), lower=_constant(1e-4))),
    ProblemSpec(
        name="near_singular", summary="eigenvalues in [1e-2, 1] and a single one at 1e-6",
        spd=Form(generate=_spd_from(_one_tiny), lower=_constant(1e-6))),
    ProblemSpec(
        name="gaussian", summary="independent standard normal entries; sigma_min unknown when nearly square",
        rectangular=Form(generate=_gaussian, lower=_gaussian_lower)),
    ProblemSpec(
        name="row_heterogeneous", summary="Gaussian rows with log-normal scales (0.7)",
        rectangular=Form(generate=_row_heterogeneous, lower=_constant(None))),
    ProblemSpec(
        name="levy", summary="symmetric alpha-stable entries, alpha = 1.5, clipped at 1e3",
        rectangular=Form(generate=_levy, lower=_constant(None))),
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

    SPD tasks get A and B in float32 (float64 for precision `fp64`), other tasks in the storage format of the precision.

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
    if task.operand == "spd" and case.m != case.n:
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
    return Operands(A=A, B=B, p=case.p if task.has_root else None, eps=spec.eps, lower=lower)


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
    if kind == "spd":
        dtype = torch.float64 if precision.storage == torch.float64 else torch.float32
        return PosedFormat(name=str(dtype), unit_roundoff=torch.finfo(dtype).eps / 2, round=lambda A: A.to(dtype))
    ops, storage = make_ops(precision, device), precision.storage
    if precision.execution == "emulated":
        return PosedFormat(name=name, unit_roundoff=min(precision.unit_roundoff, 2.0**-8), round=ops.cast)
    # Formats that store alike share their operands: int8, int4_sim, fp8 and bf16 are all posed in bfloat16.
    return PosedFormat(name=str(storage), unit_roundoff=torch.finfo(storage).eps / 2, round=lambda A: A.to(storage))
