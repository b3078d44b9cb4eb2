"""Which degrees the steps of a schedule should have: the sequence with the fewest matrix products.

A step of degree 1, 2, 4 or 8 takes 0, 1, 2 or 3 products to evaluate its polynomial (degrees between take as many as
the next of these) and a fixed number to update X and Y. For p = 1 it multiplies l / u by up to (d + 1)^2, so high
degrees save whole steps. Products to the default target of each precision, quadratic against cheapest, and the error
that was measured (log-spaced, n = 512, CPU, 2026-11-22; coupled iteration):

    kappa 1e4, float32   p = 1: 19, 8.5e-5; 14, 7.1e-5     p = 2: 21, 3.9e-5; 14, 3.2e-5
                         p = 4: 21, 1.5e-5; 15, 1.3e-5     p = 8: 25, 6.1e-6; 16, 7.0e-6
    kappa 1e2, float16   p = 1: 10, 2.3e-3;  8, 2.1e-3     p = 2: 13, 1.1e-3;  8, 1.0e-3
                         p = 4: 11, 5.7e-4;  8, 5.7e-4     p = 8: 13, 4.6e-4;  9, 4.4e-4

For a fixed cushion the best sequence is found exactly: a step maps a spectrum with a larger l / u to one with a larger
l / u, so the best state after t steps and e evaluation products needs only the best ones after t - 1 (Bellman).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

from iroot.schedules import (
    LARGEST_CUSHION,
    MAX_STEPS,
    Design,
    Interval,
    Schedule,
    compose,
    evaluation_products,
    first_interval,
    last_error,
    next_interval,
    power_products,
    schedule_for,
)

DEGREES = (1, 2, 4, 8)
"""The highest degree for each number of evaluation products."""


@dataclass(frozen=True, kw_only=True)
class Costs:
    """Products of n^3 FLOP (symmetric result, half of a full product) beside the evaluation of polynomials.

    Attributes:
        updates: of the steps but the last, in turn, repeated: what X and the next Y take.
    """

    updates: tuple[float, ...]

    def overhead(self, steps: int) -> float:
        """Products of `steps` steps without their polynomials."""
        return sum(self.updates[t % len(self.updates)] for t in range(steps - 1))

    def of(self, degrees: tuple[int, ...]) -> float:
        """Products of a sequence."""
        return self.overhead(len(degrees)) + sum(evaluation_products(degree) for degree in degrees)


def coupled_costs(p: int) -> Costs:
    """X B, the powers of B and Y B^p."""
    return Costs(updates=(power_products(p) + 2.0,))


@lru_cache(maxsize=1024)
def cheapest_schedule(design: Design, *, target: float, costs: Costs, min_cushion: float = 0.0) -> Schedule:
    """The schedule of mixed degrees with the fewest products, and of those the one with the largest cushion.

    Never more products than `schedule_for` with quadratic steps. The first search for a design takes 20 to 150 ms.

    Args:
        design: its `cushion` and `degrees` are ignored.
        target: error in exact arithmetic, in (0, 1).
        costs: what a step takes beside its polynomial.
        min_cushion: smallest cushion, in [0, 0.5].

    Raises:
        InvalidInputError: `target` is not in (0, 1), or not reached in 60 steps.
    """
    smallest = min(min_cushion, LARGEST_CUSHION)
    quadratic = schedule_for(replace(design, degrees=(2,)), target=target, min_cushion=smallest)
    limit = costs.of((2,) * len(quadratic.steps))
    frontier = _Frontier(replace(design, cushion=smallest), target)
    cost = next(cost for cost, budget in _budgets(costs, limit) if cost == limit or frontier.feasible(budget))
    budgets = tuple(budget for other, budget in _budgets(costs, cost) if other == cost)
    best = _largest_cushion(design, budgets, target, smallest)
    return quadratic if best is None or (best.design.cushion <= quadratic.design.cushion and cost == limit) else best


@dataclass(frozen=True, kw_only=True)
class _Budget:
    """So many steps, and so many products for their polynomials."""

    steps: int
    evaluations: int


def _budgets(costs: Costs, limit: float) -> Iterator[tuple[float, _Budget]]:
    """Every budget that costs at most `limit`, cheapest first, with its cost."""
    found = [
        (overhead + evaluations, _Budget(steps=steps, evaluations=evaluations))
        for steps, overhead in ((steps, costs.overhead(steps)) for steps in range(1, MAX_STEPS + 1))
        if overhead <= limit
        for evaluations in range(3 * steps + 1)
        if overhead + evaluations <= limit
    ]
    yield from sorted(found, key=lambda pair: (pair[0], pair[1].steps))


@dataclass(frozen=True, kw_only=True)
class _State:
    degrees: tuple[int, ...]
    interval: Interval


class _Frontier:
    """The largest l / u that each budget reaches, for one cushion."""

    def __init__(self, design: Design, target: float) -> None:
        self._design, self._target = design, target
        self._states: dict[_Budget, _State | None] = {}

    def feasible(self, budget: _Budget) -> bool:
        """Whether some sequence within the budget reaches the target."""
        return self.sequence(budget) is not None

    def sequence(self, budget: _Budget) -> tuple[int, ...] | None:
        """The sequence of this budget with the smallest error, if that is at most the target."""
        finished = [
            (last_error(self._design, degree, before.interval), (*before.degrees, degree))
            for degree, before in self._predecessors(budget)
        ]
        error, degrees = min(finished, default=(math.inf, ()))
        return degrees if error <= self._target else None

    def _predecessors(self, budget: _Budget) -> Iterator[tuple[int, _State]]:
        for degree in DEGREES:
            left = budget.evaluations - evaluation_products(degree)
            if left >= 0:
                before = self._state(_Budget(steps=budget.steps - 1, evaluations=left))
                if before is not None:
                    yield degree, before

    def _state(self, budget: _Budget) -> _State | None:
        if budget not in self._states:
            self._states[budget] = self._best(budget)
        return self._states[budget]

    def _best(self, budget: _Budget) -> _State | None:
        if budget.steps == 0:
            start = _State(degrees=(), interval=first_interval(self._design))
            return start if budget.evaluations == 0 else None
        states = (
            _State(
                degrees=(*before.degrees, degree),
                interval=next_interval(self._design, degree, before.interval),
            )
            for degree, before in self._predecessors(budget)
        )
        return max(states, key=lambda state: state.interval.lower / state.interval.upper, default=None)


def _largest_cushion(design: Design, budgets: tuple[_Budget, ...], target: float, smallest: float) -> Schedule | None:
    """The schedule within one of the budgets with the largest cushion, bisected in logarithm to 2 %."""
    floor = design.lower / (1.0 + design.headroom)
    low, high, trial = max(smallest, floor), LARGEST_CUSHION, smallest
    best: Schedule | None = None
    while True:
        found = _within(replace(design, cushion=trial), budgets, target)
        if found is None:
            high = trial
        else:
            best, low = found, max(low, trial)
        if best is None or high <= 1.02 * low:
            return best
        trial = math.sqrt(low * high)


def _within(design: Design, budgets: tuple[_Budget, ...], target: float) -> Schedule | None:
    frontier = _Frontier(design, target)
    for budget in budgets:
        degrees = frontier.sequence(budget)
        if degrees is not None:
            return compose(replace(design, degrees=degrees), target=target, max_steps=len(degrees))
    return None
