"""Odd polynomials X <- X q(X X^T) of degree 5, 9 and 17, and what X is first divided by.

With Z = stretch X X^T + shift I, B = q(X X^T) - a I takes 1, 2 and 3 products beside the Gram product:

    degree 5:   S = Z^2,                                       B = last_S S + last_Z Z
    degree 9:   S = Z^2, M = inner_S S + inner_Z Z,            B = S M + last_S S + last_Z Z
    degree 17:  S and M as before, W = S M, L = W + left_S S + left_Z Z, R = W + right S,
                                                               B = sign L R + last_R R + last_S S + last_Z Z

and X' = a X + B X one more. A step multiplies the smallest singular value, relative to the largest, by at most its
degree; of a square X it costs 2, 2.5 or 3 products of 2 n^3 FLOP, since symmetric results are half a product each. The
last form is Sastre's (`iroot.factored`), with R reused as an addend.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.polynomial import chebyshev

from iroot.coefficients import OddQuintic
from iroot.errors import InvalidInputError
from iroot.minimax import Array
from iroot.schedules import Step

Degree = Literal[5, 9, 17]
DEGREES: tuple[Degree, ...] = (5, 9, 17)

INNER_DEGREE: dict[Degree, int] = {5: 2, 9: 4, 17: 8}
"""Degree of q in X X^T."""


@dataclass(frozen=True, kw_only=True)
class Factors:
    """Factors of R, S and Z in a sum; 0 where the term is left out."""

    R: float = 0.0
    S: float = 0.0
    Z: float = 0.0


@dataclass(frozen=True, kw_only=True)
class OddStep:
    """One step X <- a X + B X in the form above.

    Attributes:
        degree: of the odd polynomial in X.
        constant: a.
        stretch, shift: of Z; 1 and 0 for degree 5.
        inner: of M; degrees 9 and 17.
        left: of L beside W; degree 17.
        right: factor of S in R beside W; degree 17.
        sign: of the product L R, +-1; degree 17.
        last: of B beside its product. For degree 5 the product S itself has the factor `last.S`.
    """

    degree: Degree
    constant: float
    last: Factors
    stretch: float = 1.0
    shift: float = 0.0
    inner: Factors = Factors()
    left: Factors = Factors()
    right: float = 0.0
    sign: float = 1.0

    @property
    def symmetric_products(self) -> int:
        """Products with a symmetric result: the Gram product and those of B."""
        return {5: 2, 9: 3, 17: 4}[self.degree]

    @property
    def slope(self) -> float:
        """q(0): what small singular values, and rounding in their directions, are multiplied by."""
        return float(self._factor(np.zeros(1))[0])

    def at(self, s: Array) -> Array:
        """s q(s^2), evaluated as the matrices are."""
        return s * self._factor(s * s)

    def _factor(self, y: Array) -> Array:
        Z = self.stretch * y + self.shift
        S = Z * Z
        if self.degree == 5:
            return self.constant + self.last.S * S + self.last.Z * Z
        product, R = S * (self.inner.S * S + self.inner.Z * Z), np.zeros_like(y)
        if self.degree == 17:
            R = product + self.right * S
            product = self.sign * (product + self.left.S * S + self.left.Z * Z) * R
        return self.constant + product + self.last.R * R + self.last.S * S + self.last.Z * Z


def quintic(triple: OddQuintic) -> OddStep:
    """a s + b s^3 + c s^5."""
    a, b, c = triple
    return OddStep(degree=5, constant=a, last=Factors(S=c, Z=b))


def quintics(triples: Sequence[OddQuintic]) -> tuple[OddStep, ...]:
    """The steps of a table."""
    return tuple(map(quintic, triples))


def odd_step(step: Step) -> OddStep:
    """A step of a schedule for p = 2, of degree 2, 4 or 8 in X X^T.

    Raises:
        InvalidInputError: another p or degree, or a polynomial of degree 8 whose upper terms are rounding noise.
    """
    if step.p != 2 or step.degree not in INNER_DEGREE.values():
        raise InvalidInputError(f"an odd step needs p = 2 and degree 2, 4 or 8, got p={step.p}, degree {step.degree}")
    if step.degree == 2:
        a, b, c = step.monomial
        return quintic((a, b, c))
    stretch = 2.0 / (step.upper - step.lower)
    shift = -(step.upper + step.lower) / (step.upper - step.lower)
    if step.degree == 4:
        m = [float(value) for value in chebyshev.cheb2poly(np.asarray(step.chebyshev))]
        return OddStep(
            degree=9, stretch=stretch, shift=shift, constant=m[0], inner=Factors(S=m[4], Z=m[3]),
            last=Factors(S=m[2], Z=m[1]),
        )  # fmt: skip
    form = step.factored
    if form is None:
        raise InvalidInputError("the terms of degree 7 and 8 are rounding noise: use degree 4")
    w4, w2, w1, w0 = form.rest
    # w4 W = w4 R - w4 right S: R is at hand and W is not. Of L and R, both near w_4, a difference would lose digits.
    return OddStep(
        degree=17, stretch=stretch, shift=shift, constant=w0, inner=Factors(S=form.inner[0], Z=form.inner[1]),
        left=Factors(S=form.left[0], Z=form.left[1]), right=form.right, sign=form.sign,
        last=Factors(R=w4, S=w2 - w4 * form.right, Z=w1),
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class StepBound:
    """An upper bound on the largest singular value, a Schatten norm: of X = G / (||G||_F + epsilon), A = X X^T.

    Attributes:
        norm: `frobenius`: margin ||G||_F + epsilon; `gram`: (||G||_F + epsilon) margin ||A||_F^(1/2), at most r^(1/4)
            times sigma_max for rank r; `schatten8`: (||G||_F + epsilon) margin ||A^2||_F^(1/4), at most r^(1/8) times.
        margin: factor, at least 1.
        epsilon: added to ||G||_F.
    """

    norm: Literal["frobenius", "gram", "schatten8"] = "frobenius"
    margin: float = 1.0
    epsilon: float = 0.0

    def unit(self, m: int) -> float:
        """||X||_F that A is formed with. Before a second bound, one that suits float16: the mean diagonal of A is 1."""
        return 1.0 if self.norm == "frobenius" else math.sqrt(m)


FROBENIUS = StepBound()
