"""Polynomial schedules for coupled inverse-root and polar iterations.

One step maps the coupled iterate Y to Y q(Y)^p, whose eigenvalues approach 1. With the spectrum of Y in [l, u], q is
the minimax polynomial of `iroot.minimax`; the range of y^(1/p) q(y), raised to the p-th power, is the next [l, u]
(Amsel et al. 2025, arXiv 2505.16932, for p = 2; any integer p here).

Three deviations from the plain composition, all from the same paper:

* cushion: q is designed for [max(l, cushion u), u] and then scaled so that its range over the true [l, u] is centred on
  1. It bounds the growth of the small end, and with it that of the rounding noise.
* safety: every step but the last is deflated, q(y) -> q(y / safety^p) / safety, so that a spectrum pushed above u by
  rounding is still contracted.
* headroom: the first interval ends at 1 + headroom, for input normalised by an estimate instead of an upper bound.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.polynomial import chebyshev, polynomial

from iroot.errors import InvalidInputError
from iroot.factored import Factored, factor
from iroot.minimax import Minimax, minimax

MAX_STEPS = 60
SMALLEST_LOWER = 1e-12
LARGEST_CUSHION = 0.5
# A step after convergence is designed for at least this half-width around 1: its coefficients are then within 3e-8 of
# the limit (p = 2, degree 2: 15/8, -10/8, 3/8) and the shifted variable z stays computable.
_NARROWEST = 1e-5


@dataclass(frozen=True, kw_only=True)
class Step:
    """One step: q in the shifted Chebyshev basis z = (2 y - upper - lower) / (upper - lower).

    Attributes:
        lower, upper: the interval that defines z (the designed one, times safety^p).
        chebyshev: coefficients of q in T_0(z) ... T_degree(z).
        monomial: coefficients of 1, y, y^2, ...: (a, b, c) of a I + b Y + c Y^2 for degree 2. Use beyond degree 2 loses
            digits: they reach 1e5 at degree 8, the Chebyshev ones 5.
        true_lower, true_upper: where the spectrum of Y is before this step.
        low, high: the range of y^(1/p) q(y) over [true_lower, true_upper].
        error: max(|1 - low|, |high - 1|).
        factored: for degree 8, q in three products; None where T_7 and T_8 are rounding noise and degree 6 does.
    """

    p: int
    degree: int
    lower: float
    upper: float
    chebyshev: tuple[float, ...]
    monomial: tuple[float, ...]
    true_lower: float
    true_upper: float
    low: float
    high: float
    factored: Factored | None = None

    @property
    def error(self) -> float:
        return max(abs(1.0 - self.low), abs(self.high - 1.0))

    def at(self, y: float) -> float:
        """q(y)."""
        return _value(self, y)


def _monomial(coefficients: tuple[float, ...], lower: float, upper: float) -> tuple[float, ...]:
    radius, midpoint = 0.5 * (upper - lower), 0.5 * (upper + lower)
    z = np.array([-midpoint / radius, 1.0 / radius])
    total = np.zeros(1)
    for coefficient in chebyshev.cheb2poly(np.asarray(coefficients))[::-1]:
        total = polynomial.polyadd(polynomial.polymul(total, z), [coefficient])
    return tuple(float(value) for value in total[: len(coefficients)])


def _value(q: Step | Minimax, y: float) -> float:
    z = (2.0 * y - q.upper - q.lower) / (q.upper - q.lower)
    return float(chebyshev.chebval(z, q.chebyshev))


@dataclass(frozen=True, kw_only=True)
class Interval:
    """[lower, upper], where a spectrum lies."""

    lower: float
    upper: float


@dataclass(frozen=True, kw_only=True)
class _Reach:
    """A minimax polynomial, its scale (cushion) and stretch (safety), and its range of y^(1/p) q(y)."""

    best: Minimax
    stretch: float
    scale: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Design:
    """What a schedule is made for.

    Attributes:
        p: the root, >= 1.
        lower: smallest eigenvalue of the first Y, 1e-12 <= lower < 1; its largest is 1 + headroom.
        degrees: of the steps in order; the last one repeats.
        cushion: smallest l / u a step is designed for, in [0, 1).
        safety: deflation of all but the last step, >= 1.
        headroom: >= 0.
    """

    p: int
    lower: float
    degrees: tuple[int, ...] = (2,)
    cushion: float = 0.0
    safety: float = 1.0
    headroom: float = 0.0

    def __post_init__(self) -> None:
        if self.p < 1:
            raise InvalidInputError(f"p must be an integer >= 1, got {self.p}")
        if not SMALLEST_LOWER <= self.lower < 1.0:
            raise InvalidInputError(f"lower must be in [{SMALLEST_LOWER}, 1), got {self.lower}")
        if not self.degrees or any(not 1 <= degree <= 8 for degree in self.degrees):
            raise InvalidInputError(f"degrees must be integers from 1 to 8, at least one, got {self.degrees}")
        if not 0.0 <= self.cushion < 1.0:
            raise InvalidInputError(f"cushion must be in [0, 1), got {self.cushion}")
        if not 1.0 <= self.safety <= 2.0:
            raise InvalidInputError(f"safety must be in [1, 2], got {self.safety}")
        if not 0.0 <= self.headroom <= 1.0:
            raise InvalidInputError(f"headroom must be in [0, 1], got {self.headroom}")


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """A composition of steps.

    Attributes:
        design: what it was made for (`design.cushion` is the cushion in use).
        error: max |1 - a^(1/p) x(a)| over the first interval, in exact arithmetic.
        products: matrix products of a coupled iteration that tracks X and Y (see `count_products`).
    """

    design: Design
    steps: tuple[Step, ...]

    @property
    def error(self) -> float:
        return self.steps[-1].error

    @property
    def products(self) -> int:
        return count_products(self.design.p, tuple(step.degree for step in self.steps))


def evaluation_products(degree: int) -> int:
    """Products that evaluate a polynomial of this degree at a matrix (`iroot.methods._coupled.evaluate`)."""
    return {1: 0, 2: 1, 3: 2, 4: 2, 5: 3, 6: 3, 7: 4, 8: 3}[degree]


def power_products(p: int) -> int:
    """Products that form B^p by binary exponentiation."""
    return p.bit_length() - 1 + p.bit_count() - 1


def count_products(p: int, degrees: tuple[int, ...]) -> int:
    """Products of a coupled iteration: the first X and the last Y are free."""
    evaluations = sum(evaluation_products(degree) for degree in degrees)
    return evaluations + (len(degrees) - 1) * (power_products(p) + 2)


def compose(design: Design, *, target: float, max_steps: int = MAX_STEPS) -> Schedule:
    """Steps until the error is at most `target`, at most `max_steps`; `Schedule.error` says what was reached.

    Raises:
        InvalidInputError: `target` is not in (0, 1), or `max_steps` < 1.
    """
    if not 0.0 < target < 1.0:
        raise InvalidInputError(f"target must be in (0, 1), got {target}")
    return _compose(design, max_steps, lambda step, _count: step.error <= target)


def compose_steps(design: Design, *, steps: int) -> Schedule:
    """Exactly `steps` steps; a step after convergence is the limit of the minimax steps."""
    return _compose(design, steps, lambda _step, count: count >= steps)


def _compose(design: Design, max_steps: int, done: Callable[[Step, int], bool]) -> Schedule:
    if max_steps < 1:
        raise InvalidInputError(f"the number of steps must be >= 1, got {max_steps}")
    interval = first_interval(design)
    steps: list[Step] = []
    while True:
        degree = design.degrees[min(len(steps), len(design.degrees) - 1)]
        plain = _step(replace(design, safety=1.0), degree, interval)
        if done(plain, len(steps) + 1) or len(steps) + 1 == max_steps:
            return Schedule(design=design, steps=(*steps, plain))
        step = plain if design.safety == 1.0 else _step(design, degree, interval)
        steps.append(step)
        interval = _image(design.p, step.low, step.high)


def first_interval(design: Design) -> Interval:
    """Where the spectrum of the first Y lies."""
    return Interval(lower=design.lower, upper=1.0 + design.headroom)


def next_interval(design: Design, degree: int, interval: Interval) -> Interval:
    """Where the spectrum of Y lies after one more step of this degree, another one being to follow."""
    reach = _reach(design, degree, interval)
    return _image(design.p, reach.low, reach.high)


def last_error(design: Design, degree: int, interval: Interval) -> float:
    """The error of a last step of this degree, which is not deflated."""
    reach = _reach(replace(design, safety=1.0), degree, interval)
    return max(1.0 - reach.low, reach.high - 1.0)


def _image(p: int, low: float, high: float) -> Interval:
    narrow = (1.0 - _NARROWEST) ** p
    return Interval(lower=min(low**p, narrow), upper=max(high**p, 1.0 / narrow))


def _reach(design: Design, degree: int, interval: Interval) -> _Reach:
    """The minimax polynomial for a spectrum in `interval`, with the design's cushion and safety."""
    p, upper, stretch = design.p, interval.upper, design.safety**design.p
    designed = max(interval.lower, design.cushion * upper)
    best = minimax(p, designed, upper, degree)
    # Up to `designed` y^(1/p) q(y) rises from 0, and there it is 1 - E: the value at `lower` is the smallest. It is
    # evaluated, since 1 - E has no digits left where E is near 1. Nowhere is it above 1 + E.
    low = (interval.lower / stretch) ** (1.0 / p) * _value(best, interval.lower / stretch)
    high = 1.0 + best.error
    scale = 2.0 / (low + high) if designed > interval.lower else 1.0
    return _Reach(best=best, stretch=stretch, scale=scale, low=scale * low, high=scale * high)


def _step(design: Design, degree: int, interval: Interval) -> Step:
    """One minimax step for a spectrum in `interval`."""
    reach = _reach(design, degree, interval)
    basis = Interval(lower=reach.best.lower * reach.stretch, upper=reach.best.upper * reach.stretch)
    coefficients = tuple(reach.scale / design.safety * value for value in reach.best.chebyshev)
    return make_step(design.p, basis, coefficients, true=interval, low=reach.low, high=reach.high)


def make_step(
    p: int, basis: Interval, coefficients: tuple[float, ...], *, true: Interval, low: float, high: float
) -> Step:
    """A step from its Chebyshev coefficients in the variable of `basis`, with what follows from them."""
    degree = len(coefficients) - 1
    return Step(
        p=p, degree=degree, lower=basis.lower, upper=basis.upper, chebyshev=coefficients,
        monomial=_monomial(coefficients, basis.lower, basis.upper),
        true_lower=true.lower, true_upper=true.upper, low=low, high=high,
        factored=factor(coefficients) if degree == 8 else None,
    )  # fmt: skip


@lru_cache(maxsize=1024)
def schedule_for(design: Design, *, target: float, min_cushion: float = 0.0) -> Schedule:
    """The fewest steps that reach `target`, with the largest cushion which that number of steps allows.

    Among schedules of equal cost the largest cushion amplifies rounding least: at p = 2 and kappa 1e4 in one 16-bit
    word the error is 2.5e-2 without and 1.3e-3 with it (CPU simulation, n = 512).

    Args:
        design: its `cushion` is ignored.
        target: error in exact arithmetic, in (0, 1).
        min_cushion: add steps until the cushion is at least this.

    Raises:
        InvalidInputError: `target` is not in (0, 1), or not reached in 60 steps.
    """
    plain = replace(design, cushion=0.0)
    shortest = compose(plain, target=target)
    if shortest.error > target:
        raise InvalidInputError(
            f"target {target} needs more than {MAX_STEPS} steps for lower={design.lower}; raise one of them"
        )
    count = len(shortest.steps)
    while True:
        found = _largest_cushion(shortest, target, count)
        if found.design.cushion >= min(min_cushion, LARGEST_CUSHION) or count >= MAX_STEPS:
            return found
        count += 1


def _largest_cushion(shortest: Schedule, target: float, count: int) -> Schedule:
    """Bisect the cushion, in logarithm, to 1 %."""
    design = shortest.design
    best = shortest
    low, high = design.lower / (1.0 + design.headroom), LARGEST_CUSHION
    trial = high
    while high > 1.01 * low:
        candidate = compose(replace(design, cushion=trial), target=target, max_steps=count)
        if candidate.error <= target:
            best, low = candidate, trial
        else:
            high = trial
        trial = math.sqrt(low * high)
    return best
