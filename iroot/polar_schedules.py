"""Minimax odd quintics for the polar iteration: the schedules of `iroot.schedules` for p = 2, in singular values."""

from __future__ import annotations

import math

from iroot.coefficients import OddQuintic
from iroot.errors import InvalidInputError
from iroot.schedules import SMALLEST_LOWER, Design, Step, compose, compose_steps


def polar_schedule(
    lower: float,
    *,
    steps: int | None = None,
    target: float | None = None,
    cushion: float = 0.0,
    safety: float = 1.0,
) -> tuple[OddQuintic, ...]:
    """Minimax odd quintics (a, b, c), s -> a s + b s^3 + c s^5, for singular values in [lower, 1].

    Args:
        lower: smallest over largest singular value, in [1e-6, 1).
        steps: how many, or
        target: steps until max |1 - s| is at most this. Exactly one of the two.
        cushion: in units of s, as in arXiv 2505.16932 (its published list has 0.02407).
        safety: deflation of all but the last step, a / safety, b / safety^3, c / safety^5.

    Raises:
        InvalidInputError: an argument is outside its range, or not exactly one of `steps` and `target` is given.
    """
    if (steps is None) == (target is None):
        raise InvalidInputError(f"give exactly one of steps and target, got steps={steps}, target={target}")
    if not math.sqrt(SMALLEST_LOWER) <= lower < 1.0:
        raise InvalidInputError(f"lower must be in [{math.sqrt(SMALLEST_LOWER)}, 1), got {lower}")
    design = Design(p=2, lower=lower**2, cushion=cushion**2, safety=safety)
    if target is not None:
        schedule = compose(design, target=target)
    else:
        assert steps is not None
        schedule = compose_steps(design, steps=steps)
    return tuple(_quintic(step) for step in schedule.steps)


def _quintic(step: Step) -> OddQuintic:
    a, b, c = step.monomial
    return a, b, c
