"""The steps of a graded iteration as its kernels take them."""

from __future__ import annotations

from dataclasses import dataclass, replace

from iroot.schedules import Schedule

LARGEST_X = 1024.0
"""X is scaled back to this norm where it could pass it, and the scalar is returned to it at the end."""


@dataclass(frozen=True, kw_only=True)
class WordStep:
    """One step in the shifted Chebyshev basis, q(y) = c_0 + c_1 z + c_2 (2 z^2 - 1), z = (y - mid) / radius.

    Attributes:
        at_zero: q(0).
        factor: multiplies X after the step; it keeps 16-bit words in range.
    """

    chebyshev: tuple[float, float, float]
    mid: float
    radius: float
    at_zero: float
    factor: float = 1.0


def word_steps(schedule: Schedule) -> tuple[WordStep, ...]:
    """The steps of a quadratic schedule; their factors multiply to one."""
    steps: list[WordStep] = []
    bound, taken_off = 1.0, 1.0
    for step in schedule.steps:
        c0, c1, c2 = step.chebyshev
        # q_t(0) bounds q_t, so their product bounds X; float16 ends at 65504.
        bound *= step.monomial[0]
        factor = min(1.0, LARGEST_X / bound)
        bound, taken_off = bound * factor, taken_off * factor
        steps.append(
            WordStep(
                chebyshev=(c0, c1, c2),
                mid=0.5 * (step.upper + step.lower),
                radius=0.5 * (step.upper - step.lower),
                at_zero=step.monomial[0],
                factor=factor,
            )
        )
    # The last product is not rounded to a word.
    return (*steps[:-1], replace(steps[-1], factor=steps[-1].factor / taken_off))
