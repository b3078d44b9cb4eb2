"""Steps of `polar_express` that an rtol asks for: the cheapest sequence of degrees 5 to 33, and what it states.

Every sequence of few steps is ordered by its FLOP, low degrees first: their slopes are small while the singular values
are, and rounding is amplified least. The first whose composition leaves rounding its part of rtol is taken.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from iroot.odd_steps import DEGREES, SYMMETRIC_PRODUCTS, Degree, OddStep
from iroot.polar_schedules import polar_schedule
from iroot.precision import get_precision
from iroot.registry import MethodSpec, Workload

if TYPE_CHECKING:
    from iroot.methods._polar import Normalisation

SMALLEST_SINGULAR = 1e-6
"""Of the normalised matrix; no Polar Express schedule is made for less."""
NORMALISATION: Normalisation = "schatten8"
_CUSHION = 0.02407
_SAFETY = 1.01
_LARGEST_SAFETY = 1.1
_MOST_QUINTICS = 25
_MOST: dict[Degree, int] = {5: 3, 9: 2, 17: 7, 33: 5}
"""Steps of each degree in a sequence that mixes them: the higher ones multiply the smallest singular value most."""
_LEAST: dict[Degree, float] = {5: 0.62, 9: 0.49, 17: 0.37, 33: 0.7}
"""A step of degree d made for [l, 1] leaves an error of this times ((1 - l) / (1 + l))^((d + 1) / 2) and more (tests).

The limits for l = 1 are 0.625, 0.492 and 0.371, and 0.272 for all polynomials of degree 33; those of the table leave
0.715 and more."""
_UNITS: dict[Degree, float] = {5: 4.0, 9: 4.0, 17: 8.0, 33: 12.0}
"""Of rounding in the last step and in U: see `polar_rounding`."""
_LARGEST_EXCESS = 0.1
"""Of the last step, whose rounding no other mends; beyond it nothing is stated. One step of degree 33 made for 0.05 in
bfloat16, 0.23: 72 u instead of 12 (half of the singular values at one point, rotations, n = 48, 2026-11-23)."""


def polar_options(spec: MethodSpec, workload: Workload, rtol: float, *, degrees: tuple[Degree, ...] = DEGREES) -> Any:
    """`polar_express` with the fewest FLOP that leave rounding its part of rtol; the defaults for other methods.

    Args:
        degrees: to choose from.
    """
    if spec.name != "polar_express":
        return spec.options()
    lower = smallest_singular(workload, NORMALISATION)
    for sequence in _sequences(workload, degrees if _is_stated(workload) else DEGREES[:1]):
        budget = rtol - polar_rounding(workload, sequence[-1])
        if sequence[-1] == DEGREES[0]:
            budget = max(budget, 0.5 * rtol)  # where nothing is stated, some steps are taken nevertheless
        last = len(sequence) == _MOST_QUINTICS
        if not last and _least_orthogonality(sequence, lower) > budget:
            continue
        safety = _safety(sequence, lower, workload)
        steps = _steps(sequence, lower, safety)
        if last or _orthogonality(steps, lower / safety, workload) <= budget:
            break
    return spec.make_options(
        {"steps": len(sequence), "degrees": _shortest(sequence), "lower": lower, "cushion": _CUSHION,
         "safety": safety, "normalisation": NORMALISATION}
    )  # fmt: skip


def smallest_singular(workload: Workload, normalisation: Normalisation) -> float:
    """sigma_min over the bound that G is divided by, which may be a power of the rank times sigma_max."""
    from iroot.methods._polar import LOOSENESS

    assert workload.lower is not None
    looseness = math.pow(min(workload.m, workload.n), LOOSENESS[normalisation])
    return min(max(workload.lower / looseness, SMALLEST_SINGULAR), 0.9)


def polar_rounding(workload: Workload, degree: Degree) -> float:
    """What rounding adds to ||U U^T - I||_F / sqrt(r) where the last step is of this degree.

    Rounding in one step is mended by the next: what stays is that of the last one and of U. Largest of seven spectra
    (random, log-spaced, one or half or all but one of the singular values small, flat) with random, diagonal, Hadamard
    and 2 x 2 rotation vectors, u / lower 1/2 to 1/256, 3 to 8 quintics, n = 64 to 512: 2.7 u in float16 and 2.5 u in
    bfloat16 (rotations, whose rounding does not average out), 1.3 u with random vectors (CPU emulation); 0.9 u for
    `spike` and 0.7 u for wide Gaussians (H100, 2026-11). The sums of finer words have a part in it, and TF32 is cut.

    Planned sequences that end in degree 9: 2.9 u; in 17: 2.3 u, and 5.7 u with half of the singular values small and u
    / lower 1/2 (the first six spectra, random, diagonal and rotation vectors, u / lower 1/2 to 1/256, thirteen rtols,
    n = 96 to 256; float16 and bfloat16, CPU emulation, 2026-11-23). In 33, n = 96 and 192: 5.7 u where the largest
    error of the same steps in float64 is less than 8 u; and up to 10.1 u more than that largest error for one step made
    for 0.15 whose singular values are all where it is taken (n = 48, diagonal; same day).
    """
    precision = get_precision(workload.precision)
    one_word = precision.name.removesuffix("_emulated") in ("bf16", "fp16")
    return _UNITS[degree] * (1.0 if one_word else 4.0) * precision.unit_roundoff


def polar_orthogonality(spec: MethodSpec, workload: Workload, options: Any) -> float | None:
    """What ||U U^T - I||_F / sqrt(r) is at most; None where it is not known.

    The composition's part plus `polar_rounding`, where u / lower <= 1/2: above that, rounding mixes small singular
    values with large ones and some are lost. 0.3 instead of 0.01 in bfloat16 at kappa 1e3 (u / lower = 4; half of the
    singular values small, 128 x 128, CPU emulation, 2026-11). Nor is it where the last step is too steep for the
    format. Of 16512 statements below 0.6 for one to three steps with one of degree 33 none was exceeded, and 0.97 of
    one reached (as in `polar_accuracy`, 2026-11-23).
    """
    if not _is_stated(workload):
        return None
    if spec.name == "svd":
        return polar_rounding(workload, 5) * math.sqrt(max(workload.m, workload.n))
    if spec.name != "polar_express":
        return None
    recipe = options.recipe(workload.precision)
    smallest = smallest_singular(workload, recipe.normalisation)
    if smallest <= SMALLEST_SINGULAR:
        return None
    error = _orthogonality(recipe.steps, smallest / recipe.margin, workload)
    return error + polar_rounding(workload, recipe.steps[-1].degree) if math.isfinite(error) else None


def _is_stated(workload: Workload) -> bool:
    assert workload.lower is not None
    return get_precision(workload.precision).unit_roundoff <= 0.5 * workload.lower


def _sequences(workload: Workload, degrees: tuple[Degree, ...]) -> Iterator[tuple[Degree, ...]]:
    """Sequences of degrees in ascending order, by FLOP, at last the longest one of quintics."""
    sizes = tuple(sorted((workload.m, workload.n)))
    yield from _ordered(sizes[1] / max(sizes[0], 1), degrees)


@lru_cache(maxsize=64)
def _ordered(aspect: float, degrees: tuple[Degree, ...]) -> tuple[tuple[Degree, ...], ...]:
    counts = itertools.product(*(range(_MOST[degree] + 1 if degree in degrees else 1) for degree in DEGREES))
    mixed = {sum(((d,) * k for d, k in zip(DEGREES, each, strict=True)), ()) for each in counts}
    quintics = {(DEGREES[0],) * k for k in range(1, _MOST_QUINTICS)}

    def flops(sequence: tuple[Degree, ...]) -> tuple[float, int, tuple[Degree, ...]]:
        # Gram product and the last one, and the symmetric ones between; of equal ones the fewer steps, then the lower
        # degree of the last one, which rounds less.
        count = len(sequence)
        between = sum(SYMMETRIC_PRODUCTS[degree] - 1 for degree in sequence)
        return 3.0 * aspect * count + between, count, sequence[::-1]

    return (*sorted((mixed - {()}) | quintics, key=flops), (DEGREES[0],) * _MOST_QUINTICS)


def _least_orthogonality(sequence: tuple[Degree, ...], lower: float) -> float:
    """A lower bound, without composing the steps."""
    ratio = error = lower
    for degree in sequence:
        error = _least_error(degree, ratio)
        ratio = min(_growth(degree) * ratio, (1.0 - error) / (1.0 + error))
    return error * (2.0 + error)


def _least_error(degree: Degree, lower: float) -> float:
    return _LEAST[degree] * ((1.0 - lower) / (1.0 + lower)) ** ((degree + 1) // 2)


@cache
def _growth(degree: Degree) -> float:
    """Of the smallest singular value relative to the largest, at most: that below the cushion."""
    (step,) = polar_schedule(_CUSHION, steps=1, degrees=(degree,))
    return step.slope / float(step.at(np.linspace(_CUSHION, 1.0, 2000)).max())


def _safety(sequence: tuple[Degree, ...], lower: float, workload: Workload) -> float:
    """As much as rounding may push the largest singular value up before a step of degree 9 or more."""
    from iroot.methods._polar import excess

    u = get_precision(workload.precision).unit_roundoff
    steps = _steps(sequence, lower, _SAFETY)
    pushed = (excess(step, u) for step, after in itertools.pairwise(steps) if after.degree > DEGREES[0])
    # Of three digits, so that sizes and precisions share schedules.
    return min(max(_SAFETY, 1.0 + math.ceil(1e3 * max(pushed, default=0.0)) / 1e3), _LARGEST_SAFETY)


def _steps(sequence: tuple[Degree, ...], lower: float, safety: float) -> tuple[OddStep, ...]:
    return polar_schedule(
        lower, steps=len(sequence), degrees=_shortest(sequence), cushion=_CUSHION, safety=safety
    )  # fmt: skip


def _shortest(sequence: tuple[Degree, ...]) -> tuple[Degree, ...]:
    """Without the repetitions at its end."""
    repeated = sum(1 for _ in itertools.takewhile(lambda degree: degree == sequence[-1], reversed(sequence)))
    return sequence[: len(sequence) - repeated + 1]


def _orthogonality(steps: tuple[OddStep, ...], lower: float, workload: Workload) -> float:
    """max |s^2 - 1| = 2 e + e^2 for a composition that leaves the singular values within e of 1; or infinite."""
    from iroot.methods._polar import composition_error, excess

    u = get_precision(workload.precision).unit_roundoff
    if excess(steps[-1], u) > _LARGEST_EXCESS:
        return math.inf
    error = composition_error(steps, lower, unit_roundoff=u)
    return error * (2.0 + error)
