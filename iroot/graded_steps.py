"""The steps of a graded iteration as its kernels take them."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from iroot.schedules import Schedule

LARGEST_X = 1024.0
"""X is scaled back to this norm where it could pass it, and the scalar is returned to it at the end."""

LONGEST_SUM = 512
SHORT_SUM = 64
SHORTEST_SUM = 32
_SHORTEST_BELOW = 3.0
"""Columns called for below which sums have 32: only bounds far from 1 need them, and they cost most."""
_SUM_PER_EIGENVALUE = 7e4
"""Columns of Y W per unit of p times the smallest eigenvalue of Y.

A tensor core cuts its products and their running sum off towards zero, which takes up to 4e-9 of the sum per column;
the small eigenvalues of Y are small differences of such sums, and the first steps decide. One eigenvalue 1 / kappa and
the others 1, n = 512, float16, errors for p = 1, 2, 4 at kappa 1e4 and 1e5 (H100, 2026-11-23):

    512 columns in every step   2.5e-2, 1.2e-2, 2.5e-3 and 0.20, 0.11, 0.034
    128 columns in every step   5.0e-3, 2.2e-3, 5.6e-4 and 4.9e-2, 2.5e-2, 8.0e-3
    128 to 512, by step         5.1e-3, 2.4e-3, 9.3e-4 and 4.9e-2, 2.5e-2, 8.2e-3
    64 to 512, by step          2.1e-3, 9.5e-4, 6.9e-4 and 2.0e-2, 1.0e-2, 3.7e-3
    32 to 512, by step          1.2e-3, 5.5e-4, 6.9e-4 and 8.9e-3, 5.5e-3, 2.3e-3

power_law, p = 1, no bound, n = 1024 and 2048: 2.1e-3 and 2.5e-3 with 512 columns, 8.7e-4 and 1.4e-3 with 64 to 512.
They cost, by Triton's kernels at p = 2, kappa 1e4, n = 1024, 2048 and 16 x 1024: 215, 898 and 2131 us with 512 columns,
228, 897 and 2141 with 64 to 512, 233, 925 and 2186 with 32 to 512; with 128 columns in every step 10 % (experiments).
"""


@dataclass(frozen=True, kw_only=True)
class WordStep:
    """One step in the shifted Chebyshev basis, q(y) = c_0 + c_1 z + c_2 (2 z^2 - 1), z = (y - mid) / radius.

    Attributes:
        at_zero: q(0).
        factor: multiplies X after the step; it keeps 16-bit words in range.
        promote_k: columns of Y W after which a tensor core's sum is added to a float32 one, 0 for never.
    """

    chebyshev: tuple[float, float, float]
    mid: float
    radius: float
    at_zero: float
    factor: float = 1.0
    promote_k: int = LONGEST_SUM


def sum_for(p: int, smallest: float) -> int:
    """Columns of Y W per sum where the smallest eigenvalue of Y is `smallest`, a power of two: 32 to 512."""
    columns = _SUM_PER_EIGENVALUE * p * smallest
    if columns < _SHORTEST_BELOW:
        return SHORTEST_SUM
    return min(max(1 << math.floor(math.log2(columns)), SHORT_SUM), LONGEST_SUM)


def word_steps(schedule: Schedule, *, promote_k: int | None = None) -> tuple[WordStep, ...]:
    """The steps of a quadratic schedule; their factors multiply to one.

    Args:
        promote_k: of every step; None: what each step needs, by `sum_for`.
    """
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
                promote_k=sum_for(step.p, step.true_lower) if promote_k is None else promote_k,
            )
        )
    # The last product is not rounded to a word.
    return (*steps[:-1], replace(steps[-1], factor=steps[-1].factor / taken_off))
