"""Polar Express: the composition of minimax odd steps for singular values in [lower, 1].

Amsel, Persson, Musco, Gower 2025, arXiv 2505.16932, algorithm 1, with its cushion (section 3.4) and safety factor;
the coefficients are computed by this library's own exchange algorithm, for any `lower`, number of steps, and degrees 5
(theirs), 9 and 17, and by a table for 33 (`iroot.odd_steps`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from iroot.errors import InvalidInputError, UnknownNameError
from iroot.methods._polar import (
    NORMALISATIONS,
    Normalisation,
    Recipe,
    polar_accuracy,
    polar_bytes,
    polar_factor,
    polar_flops,
)
from iroot.odd_steps import Degree
from iroot.ops import Ops
from iroot.polar_schedules import check_odd_degrees, polar_schedule
from iroot.precision import FINELY_SCALED, FLOATING, QUANTISED, SPLIT, get_precision
from iroot.registry import MethodSpec, Operands, register

# The first quintic has slope 22 at s = 1, so FP8's rounding pushes a spectrum that touches 1 out of the range: E4M3,
# Gaussian 512 x 512: orthogonality error 640 with safety 1.01, 0.242 with 1.03, 0.303 with 1.06 (emulated, 2026-11).
_COARSE = 2.0**-4
_COARSE_SAFETY = 1.03


@dataclass(frozen=True, kw_only=True)
class PolarExpressOptions:
    """Options of `polar_express`.

    Attributes:
        steps: how many.
        degrees: 5, 9, 17 or 33 of the steps in order, the last one repeats: 2, 2.5, 3 and 3.5 products of 2 n^3 FLOP of
            a square matrix. Float16 holds (5, 17, 17) made for lower = 0.003, bfloat16 does not (`ci/adr/0026`), and 33
            is for float16 alone: no step of it is made for a ratio below 0.001 (`iroot.squares`). In FP8 use 5.
        lower: smallest singular value the composition is made for; the largest is 1 after normalisation.
        cushion: smallest ratio of interval ends a step is designed for; bounds the amplification of rounding errors.
        safety: the bound on sigma_max is multiplied by it, and every step but the last deflated, >= 1; at least
            1.03 is used where the operands are FP8 or INT4.
        normalisation: `square`, `schatten8`, `gram` or `frobenius` (that of the paper). `square` is tightest: on
            Gaussian input two steps fewer; `schatten8` is nearly so and has kernels. 3 steps with `square`, lower =
            0.03 and cushion = 0 leave orthogonality errors of 0.17 (normal, uniform, Bernoulli +-1 entries), 0.34
            (alpha-stable) and 0.82 (rank-16 spikes) where 5 of the paper leave 0.22, 0.24 and 0.35 (bfloat16, 1024 x
            1024, CPU emulation, 2026-11-22).
    """

    steps: int = 5
    degrees: tuple[Degree, ...] = (5,)
    lower: float = 1e-3
    cushion: float = 0.02407
    safety: float = 1.01
    normalisation: Normalisation = "gram"

    def __post_init__(self) -> None:
        if not isinstance(self.steps, int):
            raise InvalidInputError(f"steps must be an integer, got {self.steps!r}")
        check_odd_degrees(self.degrees)
        if len(self.degrees) > self.steps > 0:
            raise InvalidInputError(f"degrees must be of at most {self.steps} steps, got {self.degrees}; raise steps")
        if self.normalisation not in NORMALISATIONS:
            raise UnknownNameError("normalisation", self.normalisation, NORMALISATIONS)
        self._recipes  # noqa: B018  (validates, and spares torch.compile the exchange algorithm)

    def recipe(self, precision: str) -> Recipe:
        """The iteration these options ask for; 8-bit floating and coarser operands get the safety they need."""
        fine, coarse = self._recipes
        return coarse if get_precision(precision).unit_roundoff >= _COARSE else fine

    @cached_property
    def _recipes(self) -> tuple[Recipe, Recipe]:
        return self._recipe(self.safety), self._recipe(max(self.safety, _COARSE_SAFETY))

    def _recipe(self, safety: float) -> Recipe:
        steps = polar_schedule(
            self.lower, steps=self.steps, degrees=self.degrees, cushion=self.cushion, safety=safety
        )  # fmt: skip
        return Recipe(steps=steps, normalisation=self.normalisation, margin=safety)


def polar_express(operands: Operands, ops: Ops, options: PolarExpressOptions) -> Tensor:
    """Polar factor of operands.A (..., m, n) by minimax odd steps.

    bfloat16, 5 steps, Gaussian 512 x 512: distance to the true factor 0.10, orthogonality error 0.20; condition
    number 1e3, log-spaced: 0.16 and 0.26 (CPU emulation, 2026-11). 10 steps in float32: 3e-6 and 4e-7.
    """
    return polar_factor(operands, ops, options.recipe(ops.precision.name))


register(
    MethodSpec(
        name="polar_express",
        task="polar",
        function=polar_express,
        options=PolarExpressOptions,
        precisions=FLOATING + SPLIT + QUANTISED + FINELY_SCALED,
        flops=lambda workload, options: polar_flops(workload, options.recipe(workload.precision)),
        bytes_moved=lambda workload, options: polar_bytes(workload),
        accuracy=lambda workload, options: polar_accuracy(workload, options.recipe(workload.precision)),
        steps=lambda workload, options: options.steps,
        summary="composition of minimax odd steps for singular values in [lower, 1], with cushion and safety factor",
        citation="Amsel, Persson, Musco, Gower 2025, arXiv 2505.16932",
    )
)
