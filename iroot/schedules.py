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
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.polynomial import chebyshev

from iroot.errors import InvalidInputError
from iroot.factored import Factored, factor
from iroot.minimax import Minimax, unit_minimax
from iroot.squares import Squares, squares_for

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
        squares: for degree 16, q in four squares.
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
    squares: Squares | None = None

    @property
    def error(self) -> float:
        return max(abs(1.0 - self.low), abs(self.high - 1.0))

    def at(self, y: float) -> float:
        """q(y)."""
        return _series(self.chebyshev, (2.0 * y - self.upper - self.lower) / (self.upper - self.lower))


def _monomial(coefficients: tuple[float, ...], lower: float, upper: float) -> tuple[float, ...]:
    radius, midpoint = 0.5 * (upper - lower), 0.5 * (upper + lower)
    shift, factor = -midpoint / radius, 1.0 / radius
    total: list[float] = []
    for coefficient in reversed(_in_powers(coefficients)):
        total = [shift * below + factor * same for below, same in zip((*total, 0.0), (0.0, *total), strict=True)]
        total[0] += coefficient
    return tuple(total)


def _in_powers(coefficients: tuple[float, ...]) -> list[float]:
    """Of 1, z, z^2, ..., from those of T_0, T_1, ..."""
    result = [0.0] * len(coefficients)
    older, newer = [1.0], [0.0, 1.0]
    for coefficient in coefficients:
        for k, value in enumerate(older):
            result[k] += coefficient * value
        following = [0.0, *(2.0 * value for value in newer)]
        for k, value in enumerate(older):
            following[k] -= value
        older, newer = newer, following
    return result


def _series(coefficients: tuple[float, ...], z: float) -> float:
    """sum_k coefficients[k] T_k(z) by Clenshaw's recurrence."""
    newer = older = 0.0
    for coefficient in coefficients[:0:-1]:
        newer, older = coefficient + 2.0 * z * newer - older, newer
    return coefficients[0] + z * newer - older


@dataclass(frozen=True, kw_only=True)
class Interval:
    """[lower, upper], where a spectrum lies."""

    lower: float
    upper: float


@dataclass(frozen=True, kw_only=True)
class _Reach:
    """A minimax polynomial over [l / u, 1], its scale (cushion), and the range of y^(1/p) q(y) for a spectrum.

    Attributes:
        interval: of the spectrum.
        safety: of the deflation.
        squares: the polynomial of degree 16.
    """

    interval: Interval
    best: Minimax
    safety: float
    scale: float
    low: float
    high: float
    squares: Squares | None = None

    @property
    def error(self) -> float:
        return max(abs(1.0 - self.low), abs(self.high - 1.0))


@dataclass(frozen=True, kw_only=True)
class Design:
    """What a schedule is made for.

    Attributes:
        p: the root, >= 1.
        lower: smallest eigenvalue of the first Y, 1e-12 <= lower < 1; its largest is 1 + headroom.
        degrees: of the steps in order, 1 to 8, or for p = 2 also 16; the last one repeats.
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
        if not self.degrees or any(not (1 <= degree <= 8 or (degree, self.p) == (16, 2)) for degree in self.degrees):
            raise InvalidInputError(
                f"degrees must be integers from 1 to 8, or 16 for p = 2, at least one, got {self.degrees}, p={self.p}"
            )
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
    return _schedule(design, _walk(design, max_steps, target))


def compose_steps(design: Design, *, steps: int) -> Schedule:
    """Exactly `steps` steps; a step after convergence is the limit of the minimax steps."""
    return _schedule(design, _walk(design, steps, -math.inf))


def _walk(design: Design, max_steps: int, target: float) -> list[_Reach]:
    """The steps until the error is at most `target`, at most `max_steps`, without their coefficients."""
    if max_steps < 1:
        raise InvalidInputError(f"the number of steps must be >= 1, got {max_steps}")
    interval = first_interval(design)
    taken: list[_Reach] = []
    while True:
        degree = design.degrees[min(len(taken), len(design.degrees) - 1)]
        last = _reach(design, degree, interval, safety=1.0)
        if last.error <= target or len(taken) + 1 == max_steps:
            return [*taken, last]
        taken.append(last if design.safety == 1.0 else _reach(design, degree, interval, safety=design.safety))
        interval = _image(design.p, taken[-1])


def _schedule(design: Design, taken: list[_Reach]) -> Schedule:
    return Schedule(design=design, steps=tuple(_step(design.p, reach) for reach in taken))


def first_interval(design: Design) -> Interval:
    """Where the spectrum of the first Y lies."""
    return Interval(lower=design.lower, upper=1.0 + design.headroom)


def next_interval(design: Design, degree: int, interval: Interval) -> Interval:
    """Where the spectrum of Y lies after one more step of this degree, another one being to follow."""
    return _image(design.p, _reach(design, degree, interval, safety=design.safety))


def last_error(design: Design, degree: int, interval: Interval) -> float:
    """The error of a last step of this degree, which is not deflated."""
    return _reach(design, degree, interval, safety=1.0).error


def _image(p: int, reach: _Reach) -> Interval:
    narrow = (1.0 - _NARROWEST) ** p
    return Interval(lower=min(reach.low**p, narrow), upper=max(reach.high**p, 1.0 / narrow))


def _reach(design: Design, degree: int, interval: Interval, *, safety: float) -> _Reach:
    """The minimax polynomial for a spectrum in `interval`, with the design's cushion and this deflation."""
    p, ratio = design.p, interval.lower / interval.upper
    # Over [l / u, 1]: the steps whose l / u is below the cushion share one polynomial.
    best, squares = _polynomial(p, max(ratio, design.cushion), degree)
    # Up to the designed lower end y^(1/p) q(y) rises from 0, and there it is 1 - E: the value at `ratio` is the
    # smallest. It is evaluated, since 1 - E has no digits left where E is near 1. Nowhere is it above 1 + E.
    y = ratio / safety**p
    low = y ** (1.0 / p) * _series(best.chebyshev, (2.0 * y - 1.0 - best.lower) / (1.0 - best.lower))
    if squares is not None:
        low = min(low, 1.0 - best.error)  # it may be made for a smaller ratio, and past that it falls again
    high = 1.0 + best.error
    scale = 2.0 / (low + high) if design.cushion > ratio else 1.0
    return _Reach(
        interval=interval, best=best, safety=safety, scale=scale, low=scale * low, high=scale * high, squares=squares,
    )  # fmt: skip


def _polynomial(p: int, ratio: float, degree: int) -> tuple[Minimax, Squares | None]:
    """The best polynomial over [ratio, 1]; of degree 16 a tabulated one in squares, over [0, 1]."""
    if degree != 16:
        return unit_minimax(p, ratio, degree), None
    squares = squares_for(math.sqrt(ratio))
    return _expanded(squares), squares


@lru_cache(maxsize=128)
def _expanded(squares: Squares) -> Minimax:
    """In the Chebyshev basis of [0, 1]."""
    z = chebyshev.chebpts1(17)
    s = np.sqrt(0.5 + 0.5 * z)
    series = chebyshev.chebfit(z, squares.at(s) / s, 16)
    return Minimax(
        p=2, degree=16, lower=0.0, upper=1.0, chebyshev=tuple(series.tolist()), error=squares.error, extrema=()
    )  # fmt: skip


def _step(p: int, reach: _Reach) -> Step:
    """One minimax step for a spectrum in `reach.interval`."""
    best, upper = reach.best, reach.interval.upper
    stretched = upper * reach.safety**p
    factor = reach.scale / reach.safety * upper ** (-1.0 / p)
    basis = Interval(lower=best.lower * stretched, upper=stretched)
    coefficients = tuple(factor * value for value in best.chebyshev)
    step = make_step(p, basis, coefficients, true=reach.interval, low=reach.low, high=reach.high)
    return step if reach.squares is None else replace(step, squares=reach.squares.scaled(factor))


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
    count, smallest = len(shortest.steps), min(min_cushion, LARGEST_CUSHION)
    while True:
        # A wider cushion never ends at a smaller error: where the smallest fails so does every wider one.
        known = smallest if _reaches(plain, smallest, target, count) else 0.0
        if known >= smallest or count >= MAX_STEPS:
            found = _largest_cushion(plain, known, target, count)
            if found >= smallest or count >= MAX_STEPS:
                return compose(replace(plain, cushion=found), target=target, max_steps=count)
        count += 1


def _reaches(plain: Design, cushion: float, target: float, count: int) -> bool:
    return _walk(replace(plain, cushion=cushion), count, target)[-1].error <= target


def _largest_cushion(plain: Design, known: float, target: float, count: int) -> float:
    """The largest cushion that reaches the target, bisected in logarithm to 1 %; `known` does, and 0 if none else."""
    low, high = plain.lower / (1.0 + plain.headroom), LARGEST_CUSHION
    best, trial = 0.0, high
    while high > 1.01 * low:
        if trial <= known or _reaches(plain, trial, target, count):
            best = low = trial
        else:
            high = trial
        trial = math.sqrt(low * high)
    return best
