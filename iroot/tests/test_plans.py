"""Cheapest degree sequences: as cheap as any by enumeration, never dearer than quadratic, true to their target."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from numpy.polynomial import chebyshev

from iroot.errors import InvalidInputError
from iroot.plans import DEGREES, Costs, cheapest_schedule, coupled_costs
from iroot.schedules import Design, Schedule, compose, count_products, schedule_for


def grid_error(schedule: Schedule) -> float:
    """max |1 - a^(1/p) x(a)| on 4000 points, every step evaluated."""
    design = schedule.design
    a = np.geomspace(design.lower, 1.0 + design.headroom, 4000)
    y, x = a.copy(), np.ones_like(a)
    for step in schedule.steps:
        z = (2.0 * y - step.upper - step.lower) / (step.upper - step.lower)
        q = step.factored.at(z) if step.factored is not None else chebyshev.chebval(z, step.chebyshev)
        x, y = x * q, y * q**step.p
    return float(np.max(np.abs(1.0 - x * a ** (1.0 / design.p))))


@pytest.mark.parametrize("p", [1, 2, 3, 4, 8])
@pytest.mark.parametrize(("kappa", "target", "min_cushion"), [(1e2, 1e-3, 0.0), (1e4, 2e-4, 0.03)])
def test_never_dearer_than_quadratic_and_true_to_the_target(
    p: int, kappa: float, target: float, min_cushion: float
) -> None:
    design = Design(p=p, lower=1.0 / kappa)
    mixed = cheapest_schedule(design, target=target, costs=coupled_costs(p), min_cushion=min_cushion)
    assert mixed.products < schedule_for(design, target=target, min_cushion=min_cushion).products
    assert mixed.design.cushion >= min_cushion
    assert grid_error(mixed) <= target * (1 + 1e-9)


@pytest.mark.parametrize(("p", "lower"), [(1, 1e-3), (2, 1e-4), (8, 1e-4)])
def test_as_cheap_as_any_of_all_sequences(p: int, lower: float) -> None:
    design, target = Design(p=p, lower=lower), 1e-3
    cheapest = cheapest_schedule(design, target=target, costs=coupled_costs(p))
    reached = [
        count_products(p, degrees)
        for count in range(1, 4)
        for degrees in itertools.product(DEGREES, repeat=count)
        if compose(replace(design, degrees=degrees), target=target, max_steps=count).error <= target
    ]
    assert cheapest.products == min(reached)


@pytest.mark.parametrize(("p", "degrees"), [(2, (2, 2, 2, 8)), (4, (2, 2, 2, 4)), (8, (2, 4, 8))])
def test_sequences_that_end_in_a_high_degree(p: int, degrees: tuple[int, ...]) -> None:
    """At kappa 1e4 they reach 1e-3, two of them for fewer products than quadratic steps; none is cheaper than ours."""
    design = Design(p=p, lower=1e-4, degrees=degrees)
    assert compose(design, target=1e-3, max_steps=len(degrees)).error <= 1e-3
    assert cheapest_schedule(Design(p=p, lower=1e-4), target=1e-3, costs=coupled_costs(p)).products <= count_products(
        p, degrees
    )


def test_a_dear_update_buys_fewer_steps() -> None:
    design = Design(p=2, lower=1e-4)
    free = cheapest_schedule(design, target=1e-3, costs=Costs(updates=(0.5,)))
    dear = cheapest_schedule(design, target=1e-3, costs=Costs(updates=(20.0,)))
    assert len(dear.steps) < len(free.steps)


def test_costs_by_hand() -> None:
    assert Costs(updates=(3.0,)).of((2, 2, 8)) == 2 * 3 + 1 + 1 + 3
    assert Costs(updates=(3.0, 4.0)).overhead(4) == 3 + 4 + 3
    assert coupled_costs(8).of((2, 4, 8)) == count_products(8, (2, 4, 8))


def test_safety_and_headroom_are_kept() -> None:
    design = Design(p=2, lower=1e-3, safety=1.02, headroom=0.05)
    mixed = cheapest_schedule(design, target=1e-3, costs=coupled_costs(2))
    assert (mixed.design.safety, mixed.design.headroom) == (1.02, 0.05)
    assert grid_error(mixed) <= 1e-3 * (1 + 1e-9)


def test_wrong_targets_are_refused() -> None:
    with pytest.raises(InvalidInputError, match="target must be in"):
        cheapest_schedule(Design(p=2, lower=1e-3), target=1.5, costs=coupled_costs(2))
