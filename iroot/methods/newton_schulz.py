"""Newton-Schulz with a fixed set of odd steps, normalised by the Gram matrix of its own first step.

The published recipes divide by ||G||_F, 2-16 times sigma_max. ||G G^T||_F^(1/2) is 1.0-1.6 times sigma_max on the
inputs of interest and free: bfloat16, 5 steps of `jiacheng_you`, Gaussian 512 x 512: orthogonality error 0.077 instead
of 0.145 for the same products; condition number 1e3, log-spaced: 0.35 instead of 0.52 (CPU emulation, 2026-11).

`squares_pair` is two steps of degree 33 fitted together (`iroot.squares.pair`), seven products for their ten.
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
from iroot.odd_steps import quintics, step_in_squares
from iroot.ops import Ops
from iroot.precision import FINELY_SCALED, FLOATING, QUANTISED
from iroot.registry import MethodSpec, Operands, register
from iroot.squares import PAIR_MARGIN, pair
from iroot.table_files import find_table

SQUARES_PAIR = "squares_pair"
"""The name of two steps that are no table of quintics."""
_FINE_ENOUGH = 2.0**-11
"""Unit roundoff of float16. In bfloat16 `squares_pair` throws singular values out, to 10 at worst (emulated)."""


@dataclass(frozen=True, kw_only=True)
class NewtonSchulzOptions:
    """Options of `newton_schulz`.

    Attributes:
        coefficients: a table by name (`iroot.coefficients`, `iroot/shipped/`), a file of `iroot tune polar`, or
            `squares_pair`, for float16 and finer.
        steps: how many of its steps; None: all of them.
        normalisation: `square`, `schatten8`, `gram` or `frobenius`; None: `square` for a table made for it,
            `schatten8` for `squares_pair`, else `gram`.
    """

    coefficients: str = "jiacheng_you"
    steps: int | None = None
    normalisation: Normalisation | None = None

    def __post_init__(self) -> None:
        if self.steps is not None and not isinstance(self.steps, int):
            raise InvalidInputError(f"steps must be an integer, got {self.steps!r}")
        if self.normalisation is not None and self.normalisation not in NORMALISATIONS:
            raise UnknownNameError("normalisation", self.normalisation, NORMALISATIONS)
        self._recipe  # noqa: B018  (validates, and spares torch.compile the file)

    def recipe(self) -> Recipe:
        """The iteration these options ask for."""
        return self._recipe

    @cached_property
    def _recipe(self) -> Recipe:
        if self.coefficients == SQUARES_PAIR:
            if self.steps not in (None, 2):
                raise InvalidInputError(f"'{SQUARES_PAIR}' has 2 steps, made for each other, got steps={self.steps}")
            return Recipe(
                steps=tuple(map(step_in_squares, pair())), normalisation=self.normalisation or "schatten8",
                margin=PAIR_MARGIN,
            )  # fmt: skip
        table = find_table(self.coefficients)
        own: Normalisation = "square" if table.made_for == "square" else "gram"
        return Recipe(steps=quintics(table.take(self.steps)), normalisation=self.normalisation or own)


def newton_schulz(operands: Operands, ops: Ops, options: NewtonSchulzOptions) -> Tensor:
    """Polar factor of operands.A (..., m, n) by fixed steps.

    The published sets trade accuracy for speed: singular values end in a band around 1 (from
    0.02 on: 0.978 .. 1.032 for `jiacheng_you`, 0.68 .. 1.13 for `keller_jordan`), smaller ones below it. `squares_pair`
    in float16 is nearer to the polar factor than `jiacheng_you` in bfloat16 on every shipped problem.

    Raises:
        InvalidInputError: operands.A is no floating-point matrix, or `squares_pair` is asked of bfloat16 or coarser.
    """
    if options.coefficients == SQUARES_PAIR and ops.precision.unit_roundoff > _FINE_ENOUGH:
        raise InvalidInputError(
            f"'{SQUARES_PAIR}' needs products in fp16 or finer, got {ops.precision.name}; use a table of quintics there"
        )
    return polar_factor(operands, ops, options.recipe())


register(
    MethodSpec(
        name="newton_schulz",
        task="polar",
        function=newton_schulz,
        options=NewtonSchulzOptions,
        precisions=FLOATING + QUANTISED + FINELY_SCALED,
        flops=lambda workload, options: polar_flops(workload, options.recipe()),
        bytes_moved=lambda workload, options: polar_bytes(workload),
        accuracy=lambda workload, options: polar_accuracy(workload, options.recipe()),
        steps=lambda workload, options: len(options.recipe().steps),
        summary="Newton-Schulz by a fixed table of odd steps, normalised by its own first step at no extra product",
        citation="coefficients: Jiacheng You 2025; iteration: K. Jordan et al., Muon, 2024; Higham 2008, chapter 8",
    )
)
