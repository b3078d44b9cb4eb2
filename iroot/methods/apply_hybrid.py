"""A^(-1/p) B for a few columns in 16 bits: graded steps shrink the spectrum, then one polynomial is applied to B."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from torch import Tensor

from iroot.errors import InvalidInputError
from iroot.methods import _spd
from iroot.methods._constant import host_constant
from iroot.methods._graded import Graded, GradedOptions, find_schedule, step_products
from iroot.methods.apply_chebyshev import ChebyshevOptions, find_polynomial
from iroot.methods.graded_pe import accuracy as graded_accuracy
from iroot.minimax import Minimax, minimax
from iroot.ops import Ops
from iroot.precision import get_precision
from iroot.registry import MethodSpec, Operands, Workload, register
from iroot.scaling import get_scaling
from iroot.schedules import Step


@dataclass(frozen=True, kw_only=True)
class HybridOptions:
    """How far the steps go, and what `GradedOptions` says.

    Attributes:
        max_degree: steps are taken until a polynomial of about this degree does the rest, 2 to 200 (a Remez exchange
            costs more than the up to 4 degrees that are not shaved off). A higher one saves products n x n x n and
            costs products n x n x k.
        target: error of the polynomial.
        min_cushion, scaling, promote_k: as in `GradedOptions`.
    """

    max_degree: int = 32
    target: float = 5e-4
    min_cushion: float | None = None
    scaling: str = "square"
    promote_k: int | None = None

    def __post_init__(self) -> None:
        if not 2 <= self.max_degree <= 200:
            raise InvalidInputError(f"max_degree must be from 2 to 200, got {self.max_degree}")
        self.graded()

    def graded(self) -> GradedOptions:
        """The options of the steps."""
        return GradedOptions(min_cushion=self.min_cushion, scaling=self.scaling, promote_k=self.promote_k,
                             target=self.target)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The first steps of a graded schedule, and the polynomial for the spectrum they leave."""

    steps: tuple[Step, ...]
    polynomial: Minimax


def apply_hybrid(operands: Operands, ops: Ops, options: HybridOptions) -> Tensor:
    """Z = q(Y_j) B_j ... B_1 B by j graded steps without X and Clenshaw's recurrence for q, minimax for Y_j^(-1/p).

    Clenshaw in 16 bits loses the small end of A; after j steps the spectrum of Y_j is narrow: p = 2, kappa 1e4: j = 2
    leaves degree 25 to 29. In products n x n x n and r = k / n: 4 + 31 r for j = 2 against 10 + r for an explicit root.
    The matrix of the recurrence is (exact scalar) I + one 16-bit word, the block is held in float32.

    Error in float16: 1e-3 for kappa 1e2 to 1e5.
    """
    p = _spd.root(operands)
    columns = _spd.unrounded_columns(operands)
    A = _spd.damped(operands)
    scale = get_scaling(options.scaling).function(A, ops)
    interval = _spd.interval_of(operands, scale, options.scaling)
    plan = find_plan(interval, p, ops.precision.unit_roundoff, options)
    graded, Y, Z = Graded(ops, options.promote_k), A / scale, columns.Z
    for step in plan.steps:
        B = graded.multiplier(Y, step)
        Z = graded.apply(B, Z)
        Y = graded.next_iterate(Y, B, step)
    Z = _clenshaw(graded, Y, Z, plan.polynomial)
    return _spd.restore_columns(Z, scale, columns, p, operands.A.dtype)


def _clenshaw(graded: Graded, Y: Tensor, B: Tensor, q: Minimax) -> Tensor:
    """sum_k c_k T_k(M) B, M = (2 Y - u - l) / (u - l).

    A second word for M takes at most 15 % off the error (float16, n = 256, kappa 1e2 and 1e4, p = 1, 2, 4, CPU
    emulation, 2026-11-22).
    """
    radius = 0.5 * (q.upper - q.lower)
    M = Y / radius
    M.diagonal(dim1=-2, dim2=-1).sub_(0.5 * (q.upper + q.lower) / radius)
    word = graded.split(M)
    first, *inner, last = q.chebyshev
    newer, older = B * last, None
    for c in reversed(inner):
        following = graded.apply(word, newer).mul_(2.0).add_(B, alpha=c)
        newer, older = (following if older is None else following.sub_(older)), newer
    result = graded.apply(word, newer).add_(B, alpha=first)
    return result if older is None else result.sub_(older)


def find_plan(interval: _spd.Interval, p: int, unit_roundoff: float, options: HybridOptions) -> Plan:
    """The fewest steps after which a polynomial of degree `max_degree` reaches the target."""
    return _plan(p, interval.lower, interval.headroom, unit_roundoff, options)


@host_constant
def _plan(p: int, lower: float, headroom: float, unit_roundoff: float, options: HybridOptions) -> Plan:
    return _find_plan(p, lower, headroom, unit_roundoff, options)


@lru_cache(maxsize=256)
def _find_plan(p: int, lower: float, headroom: float, unit_roundoff: float, options: HybridOptions) -> Plan:
    steps = find_schedule(_spd.Interval(lower=lower, headroom=headroom), p, unit_roundoff, options.graded()).steps
    for j, step in enumerate(steps):
        # Noise of the steps taken moves both ends: 64 u at the small one, relative to it, 6 u at the large one.
        margin = unit_roundoff if j else 0.0
        low, high = step.true_lower * max(0.5, 1.0 - 64.0 * margin), step.true_upper * (1.0 + 6.0 * margin)
        if j == len(steps) - 1 or minimax(p, low, high, options.max_degree).error <= options.target:
            chebyshev = ChebyshevOptions(target=options.target)
            rest = find_polynomial(p, _spd.Interval(lower=low, headroom=high - 1.0), chebyshev)
            return Plan(steps=steps[:j], polynomial=rest)
    raise AssertionError("the last step always qualifies")


def planned(workload: Workload, options: HybridOptions) -> Plan:
    """The plan that a call with this workload uses."""
    assert workload.p is not None
    interval = _spd.known_interval(workload.lower, workload.n, options.scaling)
    return find_plan(interval, workload.p, get_precision(workload.precision).unit_roundoff, options)


def flops(workload: Workload, options: HybridOptions) -> float:
    """The graded steps, and one product n x n x k for each of them and for each degree."""
    assert workload.p is not None
    assert workload.k is not None
    plan = planned(workload, options)
    products = step_products(len(plan.steps), workload.p, last=False) + get_scaling(options.scaling).products
    blocks = len(plan.steps) + plan.polynomial.degree
    return _spd.symmetric_products(workload, products) + workload.batch * blocks * 2.0 * workload.n**2 * workload.k


def accuracy(workload: Workload, options: HybridOptions) -> float | None:
    """That of `graded_pe`, with the polynomial's error and the rounding of one word more."""
    stated = graded_accuracy(workload, options.graded())
    if stated is None:
        return None
    word = 3.0 * get_precision(workload.precision).unit_roundoff
    error = stated + word + planned(workload, options).polynomial.error
    return error if error <= 0.3 else None


register(
    MethodSpec(
        name="hybrid",
        task="inverse_apply",
        function=apply_hybrid,
        options=HybridOptions,
        precisions=("bf16", "fp16", "bf16_emulated", "fp16_emulated"),
        flops=flops,
        bytes_moved=_spd.apply_bytes,
        accuracy=accuracy,
        steps=lambda workload, options: len(planned(workload, options).steps),
        summary="graded steps applied to B, then one minimax polynomial by Clenshaw's recurrence; 16-bit products",
        citation="this project; Clenshaw, Math. Comp. 9, 1955; Amsel et al., 2025, arXiv 2505.16932",
    )
)
