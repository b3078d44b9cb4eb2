"""What the polar methods share: normalisation, the odd quintic iteration, and its cost and error.

    X_0 = G / bound,   X_{t+1} = a_t X_t + (b_t A_t + c_t A_t^2) X_t,   A_t = X_t X_t^T

maps every singular value s of X to a s + b s^3 + c s^5 and leaves the singular vectors alone (Higham 2008, Functions
of Matrices, chapter 8), so a composition that sends the spectrum to 1 sends G to its polar factor. A tall G is
transposed: the polar factor of G^T is U^T, and the small Gram matrix is the cheap one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from iroot.coefficients import OddQuintic
from iroot.methods._operands import require_matrix
from iroot.odd_steps import StepBound, quintic
from iroot.ops import Ops
from iroot.precision import FINELY_SCALED, QUANTISED, get_precision
from iroot.registry import Operands, Workload

Normalisation = Literal["square", "gram", "frobenius"]
NORMALISATIONS: tuple[Normalisation, ...] = ("square", "gram", "frobenius")

_LOOSENESS = {"square": 0.125, "gram": 0.25, "frobenius": 0.5}
"""bound / sigma_max is at most the rank to this power."""

# Of X X^T for ||X||_F = 1 the Frobenius norm is at least rank^(-1/2); only a zero matrix is below this.
_SMALLEST_GRAM_NORM = 1e-12


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One way to run the iteration.

    Attributes:
        coefficients: (a, b, c) of every step.
        normalisation: the upper bound on sigma_max that G is divided by: `frobenius`, ||G||_F; `gram`, A = G G^T,
            ||A||_F^(1/2) <= ||G||_F; or `square`, the least of ||A||_F^(1/2), ||A||_inf^(1/2), ||A^2||_F^(1/4) and
            ||A^2||_inf^(1/4). None costs a product: the first step needs A and A^2 anyway. Times sigma_max on Gaussian
            1024 x 1024: 16, 3.4 and 1.6 (2026-11-22).
        margin: factor on the bound, >= 1.
        epsilon: added to ||G||_F where a published recipe does so; a tiny G is then not normalised.
        norm_dtype: what ||G||_F is summed in. Squares of ordinary bfloat16 and float32 values leave float32's range;
            published recipes use it nevertheless.
    """

    coefficients: tuple[OddQuintic, ...]
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
    X = ops.cast(G.mT if tall else G)
    fused = _fused_steps(X, recipe, ops)
    if fused is not None:
        return (fused.mT if tall else fused).to(G.dtype)
    X = normalise(X, recipe, ops)
    A = ops.gram(X)
    margin = _gram_margin(recipe, ops)
    if recipe.normalisation == "frobenius":
        X = quintic_steps(X, A, recipe.coefficients, ops)
    elif recipe.normalisation == "gram":
        X = quintic_steps(*normalise_by_gram(X, A, margin, ops), recipe.coefficients, ops)
    else:
        X, A = normalise_by_gram(X, A, 1.0, ops)
        first, *others = recipe.coefficients
        X = further_steps(_bounded_step(X, A, first, margin, ops), tuple(others), ops)
    return (X.mT if tall else X).to(G.dtype)


def _gram_margin(recipe: Recipe, ops: Ops) -> float:
    """The rounded product may be too small by a factor 1 - 2 u, and its root by 1 - u."""
    return recipe.margin * (1.0 + ops.precision.unit_roundoff)


def _fused_steps(X: Tensor, recipe: Recipe, ops: Ops) -> Tensor | None:
    """Normalisation and all steps in the backend's kernel, if it has one; none has the norms of A^2."""
    if recipe.normalisation == "square":
        return None
    margin = recipe.margin if recipe.normalisation == "frobenius" else _gram_margin(recipe, ops)
    bound = StepBound(norm=recipe.normalisation, margin=margin, epsilon=recipe.epsilon)
    return ops.odd_steps(X, tuple(map(quintic, recipe.coefficients)), bound)


def quintic_steps(X: Tensor, A: Tensor, coefficients: tuple[OddQuintic, ...], ops: Ops) -> Tensor:
    """The composition of the quintics at X (..., r, s); A = X X^T serves the first one."""
    first, *others = coefficients
    return further_steps(_step(X, A, first, ops), tuple(others), ops)


def further_steps(X: Tensor, coefficients: tuple[OddQuintic, ...], ops: Ops) -> Tensor:
    """Quintics that form X X^T themselves."""
    for triple in coefficients:
        X = _step(X, ops.gram(X), triple, ops)
    return X


def _step(X: Tensor, A: Tensor, triple: OddQuintic, ops: Ops) -> Tensor:
    a, b, c = triple
    return ops.symmetric_apply(ops.symmetric_quadratic(A, 0.0, b, c), X, beta=a)


def _bounded_step(X: Tensor, A: Tensor, triple: OddQuintic, margin: float, ops: Ops) -> Tensor:
    """The quintic at X / bound; A = X X^T, and A^2 serves the bound and the step.

    bound = margin min(||A||_F, ||A||_inf, ||A^2||_F^(1/2), ||A^2||_inf^(1/2))^(1/2). ||A||_F <= 1 on entry keeps A^2 in
    float16's range.
    """
    a, b, c = triple
    squared = ops.symmetric_matmul(A, A)
    bound = torch.minimum(_least_norm(A), _least_norm(squared).sqrt()).clamp_min(_SMALLEST_GRAM_NORM) * margin**2
    wide = (A * (b / bound)).add_(squared * (c / bound.square()))
    return ops.symmetric_apply(ops.cast(wide), ops.cast(X * bound.rsqrt()), beta=a)


def _least_norm(A: Tensor) -> Tensor:
    """min(||A||_F, ||A||_inf) (..., 1, 1), in float32 at least."""
    wide = torch.promote_types(A.dtype, torch.float32)
    rows = A.abs().sum(-1, keepdim=True, dtype=wide).amax(-2, keepdim=True)
    return torch.minimum(_frobenius_norm(A, wide), rows)


def normalise(X: Tensor, recipe: Recipe, ops: Ops) -> Tensor:
    """X / (margin ||X||_F + epsilon) in new memory; `gram` applies its margin later."""
    working = torch.promote_types(X.dtype, torch.float32)
    bound = _frobenius_norm(X, torch.promote_types(X.dtype, recipe.norm_dtype))
    if recipe.normalisation == "frobenius" and recipe.margin != 1.0:
        bound = bound * recipe.margin
    if recipe.epsilon:
        bound = bound + recipe.epsilon
    else:
        # Zero stays zero; a norm beyond the working format leaves X too large, which shows, instead of zero.
        limits = torch.finfo(working)
        bound = bound.clamp(limits.tiny, limits.max).to(working)
    # In place on a copy: X / bound would go through float32 memory, and torch.compile refuses out= on a transpose.
    return ops.cast(X.clone().div_(bound))


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
    """s r^2 (Gram, half) + r^3 (its square, half) + 2 s r^2 per step, times the precision's products; r = min(m, n)."""
    r, s = sorted((workload.m, workload.n))
    products = workload.batch * get_precision(workload.precision).products * len(recipe.coefficients)
    return float(products * (3 * s * r**2 + r**3))


def polar_bytes(workload: Workload) -> float:
    """G read once, U written once."""
    return 2.0 * workload.batch * workload.m * workload.n * get_precision(workload.precision).storage.itemsize


def polar_accuracy(workload: Workload, recipe: Recipe) -> float | None:
    """Bound on ||X - U||_F / ||U||_F = ||X - U||_F / sqrt(r), where it says something (below 1/2), else None.

    The composition's error max |1 - f(s)| over the singular values after normalisation, which lie in
    [lower sigma_max / bound, 1], plus (8 u + sqrt(s) u_sum) times the amplification of a small singular value's
    direction: at most the product of all a_t, and at most 1 / smallest. Largest rounding error measured in these units
    (logspace spectra to 1e6, up to 512 x 512, 3 to 12 steps, CPU, 2026-11): 2.5 u in bfloat16 and float16, 14 u in
    float32. Per-tensor scales state nothing: their step follows the largest element of each operand.
    """
    if workload.lower is None or workload.precision in QUANTISED + FINELY_SCALED:
        return None
    rank = min(workload.m, workload.n)
    looseness = rank ** _LOOSENESS[recipe.normalisation]  # bound / sigma_max is at most this
    smallest = min(1.0, workload.lower / (recipe.margin * looseness))
    amplification = min(math.prod(a for a, _, _ in recipe.coefficients), 1.0 / smallest)
    error = composition_error(recipe.coefficients, smallest) + rounding_level(workload) * amplification
    return error if error < 0.5 else None


def rounding_level(workload: Workload) -> float:
    """8 u + sqrt(s) u_sum: what the products of one step may add, relative to the largest singular value."""
    u = get_precision(workload.precision).unit_roundoff
    return 8.0 * u + math.sqrt(max(workload.m, workload.n)) * min(u, 2.0**-24)


def composition_error(coefficients: tuple[OddQuintic, ...], lower: float) -> float:
    """max |1 - f(s)| over s in [lower, 1] on a grid of 4000 points, f the composition of the quintics."""
    low, high = composition_range(coefficients, lower)
    return max(abs(1.0 - low), abs(1.0 - high))


def composition_range(coefficients: tuple[OddQuintic, ...], lower: float) -> tuple[float, float]:
    """Smallest and largest f(s) over s in [lower, 1] on a grid of 4000 points, f the composition of the quintics."""
    s = np.concatenate([np.geomspace(lower, 1.0, 2000), np.linspace(lower, 1.0, 2000)])
    for a, b, c in coefficients:
        square = s * s
        s = s * (a + square * (b + square * c))
    return float(s.min()), float(s.max())
