"""Minimax odd steps for the polar iteration: the schedules of `iroot.schedules` for p = 2, in singular values."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import lru_cache

from iroot.errors import InvalidInputError
from iroot.odd_steps import DEGREES, INNER_DEGREE, Degree, OddStep, odd_step
from iroot.schedules import SMALLEST_LOWER, Design, Schedule, compose, compose_steps


def check_odd_degrees(degrees: tuple[int, ...]) -> None:
    """Raise InvalidInputError unless `degrees` holds 5, 9, 17 and 33 only, at least one."""
    if isinstance(degrees, str) or not degrees or any(degree not in DEGREES for degree in degrees):
        raise InvalidInputError(
            f"degrees must hold 5, 9, 17 or 33 for each step in order, at least one, got {degrees!r}"
        )


@lru_cache(maxsize=1024)
def polar_schedule(
    lower: float,
    *,
    steps: int | None = None,
    target: float | None = None,
    degrees: tuple[Degree, ...] = (5,),
    cushion: float = 0.0,
    safety: float = 1.0,
) -> tuple[OddStep, ...]:
    """Minimax odd steps for singular values in [lower, 1].

    A step of degree 17 so late that its terms of degree 15 and 17 are rounding noise is one of degree 9. A step of
    degree 33 is the tabulated one of largest ratio that is small enough (`iroot.squares`).

    Args:
        lower: smallest over largest singular value, in [1e-6, 1).
        steps: how many, or
        target: steps until max |1 - s| is at most this. Exactly one of the two.
        degrees: 5, 9, 17 or 33 of the steps in order; the last one repeats.
        cushion: in units of s, as in arXiv 2505.16932 (its published list has 0.02407).
        safety: deflation of all but the last step, s -> s / safety.

    Raises:
        InvalidInputError: an argument is outside its range, or not exactly one of `steps` and `target` is given.
    """
    if (steps is None) == (target is None):
        raise InvalidInputError(f"give exactly one of steps and target, got steps={steps}, target={target}")
    if not math.sqrt(SMALLEST_LOWER) <= lower < 1.0:
        raise InvalidInputError(f"lower must be in [{math.sqrt(SMALLEST_LOWER)}, 1), got {lower}")
    check_odd_degrees(degrees)
    inner = tuple(INNER_DEGREE[degree] for degree in degrees)
    design = Design(p=2, lower=lower**2, degrees=inner, cushion=cushion**2, safety=safety)
    schedule = _composed(design, steps, target)
    while (late := _beyond_digits(schedule)) is not None:
        inner = tuple(step.degree for step in schedule.steps)
        design = replace(design, degrees=(*inner[:late], INNER_DEGREE[9], *inner[late + 1 :]))
        schedule = _composed(design, steps, target)
    return tuple(map(odd_step, schedule.steps))


def _composed(design: Design, steps: int | None, target: float | None) -> Schedule:
    if target is not None:
        return compose(design, target=target)
    assert steps is not None
    return compose_steps(design, steps=steps)


def _beyond_digits(schedule: Schedule) -> int | None:
    """The first step of degree 17 that has no product form."""
    late = (t for t, step in enumerate(schedule.steps) if step.degree == INNER_DEGREE[17] and step.factored is None)
    return next(late, None)
