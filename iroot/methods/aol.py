"""Almost-orthogonal row rescaling, then four quintics (Turbo-Muon).

With A = G G^T and s_i = (sum_j |a_ij|)^(-1/2), diag(s) G has spectral norm at most 1 (Prach and Lampert 2022, arXiv
2208.03160, theorem 1) and rows of nearly equal size, so that four steps do what takes five after a scalar bound. But
diag(s) G is another matrix: its polar factor is not that of G.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from iroot.errors import InvalidInputError
from iroot.methods._odd_products import further_steps, take_step
from iroot.methods._operands import require_matrix
from iroot.methods._polar import Recipe, normalise, polar_bytes, polar_flops
from iroot.odd_steps import OddStep, quintics
from iroot.ops import Ops
from iroot.precision import FLOATING, QUANTISED
from iroot.registry import MethodSpec, Operands, Workload, register
from iroot.table_files import find_table


@dataclass(frozen=True, kw_only=True)
class AolOptions:
    """Options of `aol`.

    Attributes:
        coefficients: a table by name (`iroot.coefficients`, `iroot/shipped/`), or a file of `iroot tune polar`.
            `turbo_muon` was searched for rescaled input by its authors; `aol_4` by `iroot tune polar`, whose command
            and held-out figures stand in its file: orthogonality error 0.121 instead of 0.138 (normal), 0.121 instead
            of 0.137 (alpha-stable) and 0.292 instead of 0.294 (0 or 1), but 0.544 instead of 0.534 on rank-16 spikes
            (bfloat16, 1024 x 1024, CPU emulation, 2026-11-22).
        steps: how many of its steps; None: all of them.
    """

    coefficients: str = "turbo_muon"
    steps: int | None = None

    def __post_init__(self) -> None:
        if self.steps is not None and not isinstance(self.steps, int):
            raise InvalidInputError(f"steps must be an integer, got {self.steps!r}")
        self._steps  # noqa: B018  (validates, and spares torch.compile the file)

    def recipe(self) -> Recipe:
        """The iteration these options ask for."""
        return Recipe(steps=self._steps)

    @cached_property
    def _steps(self) -> tuple[OddStep, ...]:
        return quintics(find_table(self.coefficients).take(self.steps))


def aol(operands: Operands, ops: Ops, options: AolOptions) -> Tensor:
    """Approximate polar factor of diag(s) G, operands.A = G (..., m, n); of G diag(s) where m > n.

    The first Gram product serves the rescaling and the first step. The distance between the two exact polar factors is
    0.008 on Gaussian and 0.11 to 0.16 on spiky or row-heterogeneous input, whatever the number of steps. A zero matrix
    gives zero.

    Raises:
        InvalidInputError: operands.A is not a floating-point matrix.
    """
    G = require_matrix(operands)
    tall = G.shape[-2] > G.shape[-1]
    X = G.mT if tall else G
    # The rescaling does not depend on the size of G; ||X||_F = r^(1/2) keeps A in float16's range.
    X = normalise(X, Recipe(steps=(), margin=X.shape[-2] ** -0.5), ops)
    A = ops.gram(X)
    s = _row_scales(A)
    X, A = ops.cast(X * s), ops.cast(A * s * s.mT)
    first, *others = options.recipe().steps
    X = further_steps(take_step(X, A, first, ops), others, ops)
    return (X.mT if tall else X).to(G.dtype)


def _row_scales(A: Tensor) -> Tensor:
    """(sum_j |a_ij|)^(-1/2), (..., r, 1), in float32 at least; a zero row stays zero."""
    sums = A.abs().sum(-1, keepdim=True, dtype=torch.promote_types(A.dtype, torch.float32))
    # Row norms below 1e-4 of the root mean square one: the format has lost the row's direction.
    return sums.clamp_min(1e-8).rsqrt()


def _accuracy(workload: Workload, options: AolOptions) -> float | None:
    """None: it converges to the polar factor of a rescaled matrix."""
    return None


register(
    MethodSpec(
        name="aol",
        task="polar",
        function=aol,
        options=AolOptions,
        precisions=FLOATING + QUANTISED,
        flops=lambda workload, options: polar_flops(workload, options.recipe()),
        bytes_moved=lambda workload, options: polar_bytes(workload),
        accuracy=_accuracy,
        steps=lambda workload, options: len(options.recipe().steps),
        summary="row rescaling and four quintics; converges to the polar factor of the rescaled matrix, not of G",
        citation="Boissin, Massena, Mamalet, Serrurier, Turbo-Muon, 2025, arXiv 2512.04632",
    )
)
