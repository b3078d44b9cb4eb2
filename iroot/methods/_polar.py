"""What the polar methods share: normalisation, the iteration of odd steps, and its cost and error.

    X_0 = G / bound,   X_{t+1} = X_t q_t(X_t X_t^T)

maps every singular value s of X to s q(s^2), as a quintic to a s + b s^3 + c s^5, and leaves the singular vectors alone
(Higham 2008, Functions of Matrices, chapter 8), so a composition that sends the spectrum to 1 sends G to its polar
factor. A tall G is transposed: the polar factor of G^T is U^T, and the small Gram matrix is the cheap one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from iroot.methods._odd_products import further_steps, multiplier_of_scaled, scaled_square, take_step
from iroot.methods._operands import require_matrix
from iroot.odd_steps import Degree, OddStep, StepBound
from iroot.ops import Ops
from iroot.precision import FINELY_SCALED, QUANTISED, get_precision
from iroot.registry import Operands, Workload

Normalisation = Literal["square", "schatten8", "gram", "frobenius"]
NORMALISATIONS: tuple[Normalisation, ...] = ("square", "schatten8", "gram", "frobenius")

LOOSENESS: dict[Normalisation, float] = {"square": 0.125, "schatten8": 0.125, "gram": 0.25, "frobenius": 0.5}
"""bound / sigma_max is at most the rank to this power."""

# Of X X^T for ||X||_F = 1 the Frobenius norm is at least rank^(-1/2); only a zero matrix is below this.
_SMALLEST_GRAM_NORM = 1e-12


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One way to run the iteration.

    Attributes:
        steps: at least one; the published tables by `iroot.odd_steps.quintics`.
        normalisation: the upper bound on sigma_max that G is divided by: `frobenius`, ||G||_F; `gram`, A = G G^T,
            ||A||_F^(1/2) <= ||G||_F; `schatten8`, ||A^2||_F^(1/4); or `square`, the least of the last two,
            ||A||_inf^(1/2) and ||A^2||_inf^(1/4). None costs a product: the first step needs A and A^2 anyway. Times
            sigma_max on Gaussian 1024 x 1024: 16, 3.4, 1.67 and 1.59 (2026-11-23).
        margin: factor on the bound, >= 1.
        epsilon: added to ||G||_F where a published recipe does so; a tiny G is then not normalised.
        norm_dtype: what ||G||_F is summed in. Squares of ordinary bfloat16 and float32 values leave float32's range;
            published recipes use it nevertheless.
    """

    steps: tuple[OddStep, ...]
    normalisation: Normalisation = "frobenius"
    margin: float = 1.0
    epsilon: float = 0.0
    norm_dtype: torch.dtype = torch.float64


def polar_factor(operands: Operands, ops: Ops, recipe: Recipe) -> Tensor:
    """Run a recipe on operands.A (..., m, n); the result has its dtype. A zero matrix gives zero.

    Raises:
        InvalidInputError: operands.A is not a floating-point matrix.
    """
    G = require_matrix(operands)
    tall = G.shape[-2] > G.shape[-1]
    wide = G.mT if tall else G
    X = _fused_steps(wide, recipe, ops)
    if X is None:
        X = _composed_steps(wide, recipe, ops)
    return (X.mT if tall else X).to(G.dtype)


def _gram_margin(recipe: Recipe, ops: Ops) -> float:
    """The rounded product may be too small by a factor 1 - 2 u, and its root by 1 - u."""
    return recipe.margin * (1.0 + ops.precision.unit_roundoff)


def _fused_steps(G: Tensor, recipe: Recipe, ops: Ops) -> Tensor | None:
    """Normalisation and all steps in the backend's kernels, if it has them; none has the row sums of `square`."""
    if recipe.normalisation == "square":
        return None
    margin = recipe.margin if recipe.normalisation == "frobenius" else _gram_margin(recipe, ops)
    bound = StepBound(norm=recipe.normalisation, margin=margin, epsilon=recipe.epsilon)
    return ops.odd_steps(G, recipe.steps, bound)


def _composed_steps(G: Tensor, recipe: Recipe, ops: Ops) -> Tensor:
    """Normalisation and all steps in the products of `ops`."""
    X = normalise(G, recipe, ops)
    A = ops.gram(X)
    first, *others = recipe.steps
    if recipe.normalisation in ("square", "schatten8"):
        X = _bounded_step(X, A, recipe, ops)
    else:
        if recipe.normalisation == "gram":
            X, A = normalise_by_gram(X, A, _gram_margin(recipe, ops), ops)
        X = take_step(X, A, first, ops)
    return further_steps(X, others, ops)


def _bounded_step(X: Tensor, A: Tensor, recipe: Recipe, ops: Ops) -> Tensor:
    """The first step at X / bound; A = X X^T, and A^2 serves the bound and the step."""
    step, wide = recipe.steps[0], torch.promote_types(A.dtype, torch.float32)
    norm = _frobenius_norm(A, wide).clamp_min(_SMALLEST_GRAM_NORM)
    squared, tau = scaled_square(A, norm, ops)
    bound = _frobenius_norm(squared, wide).sqrt() / tau
    if recipe.normalisation == "square":
        rows = torch.minimum(_largest_row(A, wide), _largest_row(squared, wide).sqrt() / tau)
        bound = torch.minimum(torch.minimum(bound, norm), rows)
    bound = bound.clamp_min(_SMALLEST_GRAM_NORM) * _gram_margin(recipe, ops) ** 2
    B = multiplier_of_scaled(A, squared, tau, bound, step, ops)
    return ops.symmetric_apply(B, ops.cast(X * bound.rsqrt()), beta=step.constant)


def _largest_row(A: Tensor, dtype: torch.dtype) -> Tensor:
    """||A||_inf (..., 1, 1), summed in `dtype`."""
    return A.abs().sum(-1, keepdim=True, dtype=dtype).amax(-2, keepdim=True)


def normalise(G: Tensor, recipe: Recipe, ops: Ops) -> Tensor:
    """G / (margin ||G||_F + epsilon), rounded to the storage format once, in new memory.

    Where a second bound follows, which then has the margin, ||X||_F = r^(1/2): the mean diagonal of X X^T is 1, off
    float16's subnormal range at any size. G may have a wider range than the format: it is rounded after the division.
    """
    held = torch.promote_types(G.dtype, ops.storage)
    working = torch.promote_types(held, torch.float32)
    bound = _frobenius_norm(G, torch.promote_types(G.dtype, recipe.norm_dtype))
    if recipe.normalisation != "frobenius":
        bound = bound * G.shape[-2] ** -0.5
    elif recipe.margin != 1.0:
        bound = bound * recipe.margin
    if recipe.epsilon:
        bound = bound + recipe.epsilon
    else:
        # Zero stays zero; a norm beyond the working format leaves X too large, which shows, instead of zero.
        limits = torch.finfo(working)
        bound = bound.clamp(limits.tiny, limits.max).to(working)
    # In place on a copy: X / bound would go through float32 memory, and torch.compile refuses out= on a transpose.
    return ops.cast(G.to(held, copy=True).div_(bound))


def normalise_by_gram(X: Tensor, A: Tensor, margin: float, ops: Ops) -> tuple[Tensor, Tensor]:
    """X / bound and A / bound^2 for bound = margin ||A||_F^(1/2) >= sigma_max(X), A = X X^T; in place."""
    norm = _frobenius_norm(A, torch.promote_types(A.dtype, torch.float32))
    square = (norm * margin**2).clamp_min(_SMALLEST_GRAM_NORM)
    return ops.cast(X.mul_(square.rsqrt())), ops.cast(A.div_(square))


def _frobenius_norm(X: Tensor, dtype: torch.dtype) -> Tensor:
    """||X||_F (..., 1, 1), summed in `dtype`. As a tensor with dimensions it also sets the dtype X is divided in."""
    norm: Tensor = torch.linalg.vector_norm(X, dim=(-2, -1), keepdim=True, dtype=dtype)
    return norm


def polar_flops(workload: Workload, recipe: Recipe) -> float:
    """Gram product s r^2 (half), r^3 for each further symmetric one, 2 s r^2 to apply, per step; r = min(m, n).

    Times the precision's products of words.
    """
    r, s = sorted((workload.m, workload.n))
    further = sum(step.symmetric_products - 1 for step in recipe.steps)
    products = workload.batch * get_precision(workload.precision).products
    return float(products * (3 * s * r**2 * len(recipe.steps) + further * r**3))


def polar_bytes(workload: Workload) -> float:
    """G read once, U written once."""
    return 2.0 * workload.batch * workload.m * workload.n * get_precision(workload.precision).storage.itemsize


def polar_accuracy(workload: Workload, recipe: Recipe) -> float | None:
    """Bound on ||X - U||_F / ||U||_F = ||X - U||_F / sqrt(r), where it says something (below 1/2), else None.

    The composition's error max |1 - f(s)| over the singular values after normalisation, which lie in
    [lower sigma_max / bound, 1], plus (8 u + sqrt(s) u_sum) times the amplification of a small singular value's
    direction: at most the product of all a_t, and at most 1 / smallest. Largest rounding error measured in these units
    (logspace spectra to 1e6, up to 512 x 512, 3 to 12 steps, CPU, 2026-11): 2.5 u in bfloat16 and float16, 14 u in
    float32. Before a step of degree 9 or more, and after one, the largest singular value is taken as far up as rounding
    may push it. Of 5904 statements for one to three steps, some of degree 9 or 17, in float16 and bfloat16 none was
    exceeded, and 0.88 of one reached (six spectra, random, diagonal and rotation vectors, n = 48, CPU emulation,
    2026-11-23); nor of 13344 with a step of degree 33, 10560 of them in float16, 0.92 reached (same spectra and
    vectors): bfloat16 states nothing for most of these sequences. Per-tensor scales state nothing: their step
    follows the largest element of each operand.
    """
    if workload.lower is None or workload.precision in QUANTISED + FINELY_SCALED:
        return None
    rank = min(workload.m, workload.n)
    looseness = rank ** LOOSENESS[recipe.normalisation]  # bound / sigma_max is at most this
    smallest = min(1.0, workload.lower / (recipe.margin * looseness))
    amplification = min(math.prod(step.slope for step in recipe.steps), 1.0 / smallest)
    u = get_precision(workload.precision).unit_roundoff
    error = composition_error(recipe.steps, smallest, unit_roundoff=u) + rounding_level(workload) * amplification
    return error if error < 0.5 else None


def rounding_level(workload: Workload) -> float:
    """8 u + sqrt(s) u_sum: what the products of one step may add, relative to the largest singular value."""
    u = get_precision(workload.precision).unit_roundoff
    return 8.0 * u + math.sqrt(max(workload.m, workload.n)) * min(u, 2.0**-24)


EXCESS: dict[Degree, float] = {5: 1.0, 9: 1.5, 17: 2.5, 33: 2.8}
"""Rounding of one step in the spectral norm, in unit roundoffs times its slope and its largest singular value.

At most 0.8, 1.4 and 2.4 of float16 and bfloat16 emulated: 11 spectra (log-spaced to 1e4, flat, half or all but one of
the singular values small, Gaussian at aspect 1 and 4) with random, diagonal and 2 x 2 rotation vectors, n = 96, steps
made for lower = 0.003 to 0.8 (2026-11-23). Again with the square in degrees 9 and 17 (`iroot.odd_steps`), eight spectra
1 % inside the interval: 1.1, 1.4 and 1.6, and the largest singular value rises by at most 0.7, 0.7 and 1.0.

Degree 33, at each ratio of its table from 0.004 to 0.4 and 1 % inside as well: 2.72 in float16, 2.49 in bfloat16, and
the largest singular value rises by 2.36 (the 11 spectra, random, diagonal and 17 rotation vectors, n = 96, 2026-11-23).
To first order, amplification over slope in the table, at most 2.80."""


_FAR = 1e3
"""Beyond this no step brings a singular value back."""


def excess(step: OddStep, unit_roundoff: float) -> float:
    """How far rounding may push the largest singular value up, relative to it."""
    return EXCESS[step.degree] * step.slope * unit_roundoff


def composition_error(steps: Sequence[OddStep], lower: float, *, unit_roundoff: float = 0.0) -> float:
    """max |1 - f(s)| over s in [lower, 1] on a grid of 4000 points, f the composition of the steps.

    Args:
        unit_roundoff: of products; beyond its interval a step of degree 9 or more is steep, and after one a quintic
            meets more rounding than it mends: singular values are then followed from as far above the largest one as
            rounding may push them. (17, 5) left 1.4 times what was stated without this, (33, 5) 6.6 times (2026-11-23).
    """
    low, high = composition_range(steps, lower, unit_roundoff=unit_roundoff)
    return max(abs(1.0 - low), abs(1.0 - high))


def composition_range(steps: Sequence[OddStep], lower: float, *, unit_roundoff: float = 0.0) -> tuple[float, float]:
    """Smallest and largest f(s), as `composition_error`."""
    s = np.concatenate([np.geomspace(lower, 1.0, 2000), np.linspace(lower, 1.0, 2000)])
    for t, step in enumerate(steps):
        s = step.at(s)
        if np.abs(s).max() > _FAR:
            return -math.inf, math.inf
        if unit_roundoff and t + 1 < len(steps) and max(step.degree, steps[t + 1].degree) > 5:
            top = float(s.max())
            s = np.append(s, np.linspace(top, top * (1.0 + excess(step, unit_roundoff)), 50))
    return float(s.min()), float(s.max())
