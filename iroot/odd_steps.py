"""Odd polynomials X <- X q(X X^T) of degree 5, 9, 17 and 33, and what X is first divided by.

With Z = stretch X X^T + shift I, B = q(X X^T) - a I takes 1, 2, 3 and 4 products beside the Gram product:

    degree 5:   B = T = t_S Z^2 + t_Z Z
    degree 9:   T = t_S Z^2 + t_Z Z + t_I I,  B = sign T^2 + last_Z Z
    degree 17:  T = t_S Z^2 + t_Z Z,  L = T^2 + left_T T + left_Z Z + left_I I,  R = T^2 + right_T T + right_Z Z,
                B = sign L R + last_T T + last_Z Z
    degree 33:  T = t_S Z^2 + t_I I,  L = T^2 + left_Z Z + left_I I,  R = L^2 + right_T T + right_Z Z + right_I I,
                B = sign R^2 + last_T L + last_Z Z

and X' = a X + B X one more. A step multiplies the smallest singular value, relative to the largest, by at most its
degree; of a square X it costs 2, 2.5, 3 or 3.5 products of 2 n^3 FLOP, since symmetric results are half a product each.
Degree 17 is in Sastre's form (`iroot.factored`) with a square in place of one product: for T = c_1^(1/2) (S + c Z),
S = Z^2 and c = c_2 / (2 c_1), his w_4 = S (c_1 S + c_2 Z) is T^2 - c_1 c^2 S. Degree 33 is `iroot.squares` with
both first squares completed (M there is R here). No product has more than two addends.
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
from iroot.factored import Factored
from iroot.minimax import Array
from iroot.schedules import Step
from iroot.squares import Squares

Degree = Literal[5, 9, 17, 33]
DEGREES: tuple[Degree, ...] = (5, 9, 17, 33)

INNER_DEGREE: dict[Degree, int] = {5: 2, 9: 4, 17: 8, 33: 16}
"""Degree of q in X X^T."""

SYMMETRIC_PRODUCTS: dict[Degree, int] = {5: 2, 9: 3, 17: 4, 33: 5}
"""Products with a symmetric result: the Gram product and those of B."""


@dataclass(frozen=True, kw_only=True)
class Inner:
    """Factors of Z^2, Z and I in T."""

    S: float
    Z: float
    identity: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Addends:
    """Factors of T, Z and I beside a product; in the last one of degree 33 of L, Z and I."""

    T: float = 0.0
    Z: float = 0.0
    identity: float = 0.0


@dataclass(frozen=True, kw_only=True)
class OddStep:
    """One step X <- a X + B X in the form above.

    Attributes:
        degree: of the odd polynomial in X.
        constant: a.
        inner: of T.
        stretch, shift: of Z; 1 and 0 for degree 5.
        sign: of the product in B, +-1; degrees 9, 17 and 33.
        left, right: of L and R; degrees 17 and 33.
        last: of B; degrees 9, 17 and 33.
    """

    degree: Degree
    constant: float
    inner: Inner
    stretch: float = 1.0
    shift: float = 0.0
    sign: float = 1.0
    left: Addends = Addends()
    right: Addends = Addends()
    last: Addends = Addends()

    @property
    def symmetric_products(self) -> int:
        """`SYMMETRIC_PRODUCTS` of its degree."""
        return SYMMETRIC_PRODUCTS[self.degree]

    @property
    def slope(self) -> float:
        """q(0): what small singular values, and rounding in their directions, are multiplied by."""
        return float(self._factor(np.zeros(1))[0])

    def at(self, s: Array) -> Array:
        """s q(s^2), evaluated as the matrices are."""
        return s * self._factor(s * s)

    def _factor(self, y: Array) -> Array:
        """q(y)."""
        Z: Array = self.stretch * y + self.shift
        T: Array = self.inner.S * Z * Z + self.inner.Z * Z + self.inner.identity
        if self.degree == 5:
            return self.constant + T
        product: Array = T * T
        if self.degree == 9:
            return self.constant + _with(self.sign * product, T, Z, self.last)
        L = _with(product, T, Z, self.left)
        if self.degree == 17:
            return self.constant + _with(self.sign * L * _with(product, T, Z, self.right), T, Z, self.last)
        R = _with(L * L, T, Z, self.right)
        return self.constant + _with(self.sign * R * R, L, Z, self.last)


def _with(product: Array, T: Array, Z: Array, addends: Addends) -> Array:
    total: Array = product + addends.T * T + addends.Z * Z + addends.identity
    return total


def quintic(triple: OddQuintic) -> OddStep:
    """a s + b s^3 + c s^5."""
    a, b, c = triple
    return OddStep(degree=5, constant=a, inner=Inner(S=c, Z=b))


def quintics(triples: Sequence[OddQuintic]) -> tuple[OddStep, ...]:
    """The steps of a table."""
    return tuple(map(quintic, triples))


def odd_step(step: Step) -> OddStep:
    """A step of a schedule for p = 2, of degree 2, 4, 8 or 16 in X X^T.

    Raises:
        InvalidInputError: another p or degree, or a polynomial of degree 8 whose upper terms are rounding noise.
    """
    if step.p != 2 or step.degree not in INNER_DEGREE.values():
        raise InvalidInputError(
            f"an odd step needs p = 2 and degree 2, 4, 8 or 16, got p={step.p}, degree {step.degree}"
        )
    if step.degree == 2:
        a, b, c = step.monomial
        return quintic((a, b, c))
    stretch = 2.0 / (step.upper - step.lower)
    shift = -(step.upper + step.lower) / (step.upper - step.lower)
    if step.degree == 4:
        return _nonic(step, stretch, shift)
    if step.squares is not None:
        return step_in_squares(step.squares, stretch=stretch, shift=shift)
    if step.factored is None:
        raise InvalidInputError("the terms of degree 7 and 8 are rounding noise: use degree 4")
    return _degree_17(step.factored, stretch, shift)


def _nonic(step: Step, stretch: float, shift: float) -> OddStep:
    """m_4 z^4 + ... + m_0 = m_4 (z^2 + c z + t)^2 + last z + a."""
    m0, m1, m2, m3, m4 = m = [float(value) for value in chebyshev.cheb2poly(np.asarray(step.chebyshev))]
    m4 = math.copysign(max(abs(m4), 1e-16 * sum(map(abs, m))), m4)  # a converged step has none
    root, c = math.sqrt(abs(m4)), 0.5 * m3 / m4
    t = 0.5 * (m2 / m4 - c * c)
    return OddStep(
        degree=9, stretch=stretch, shift=shift, inner=Inner(S=root, Z=root * c, identity=root * t),
        sign=math.copysign(1.0, m4), last=Addends(Z=m1 - 2.0 * m4 * c * t), constant=m0 - m4 * t * t,
    )  # fmt: skip


def _degree_17(form: Factored, stretch: float, shift: float) -> OddStep:
    """Sastre's form with w_4 = T^2 - c_1 c^2 S and S = T / c_1^(1/2) - c Z."""
    c1, c2 = form.inner
    c6, b2, b1, b0 = form.rest
    root, c = math.sqrt(c1), 0.5 * c2 / c1
    # c_6 w_4 = c_6 (right factor) - c_6 right S: a constant in the left factor.
    S = b2 - c6 * form.right
    left, right = form.left[0] - c1 * c * c, form.right - c1 * c * c
    return OddStep(
        degree=17, stretch=stretch, shift=shift, constant=b0, inner=Inner(S=root, Z=root * c), sign=form.sign,
        left=Addends(T=left / root, Z=form.left[1] - left * c, identity=form.sign * c6),
        right=Addends(T=right / root, Z=-right * c), last=Addends(T=S / root, Z=b1 - S * c),
    )  # fmt: skip


def step_in_squares(form: Squares, *, stretch: float = 2.0, shift: float = -1.0) -> OddStep:
    """A step of degree 33 for Z = stretch X X^T + shift I, with Z + c I and T + h I in the places of Z and T.

    For c = t_Z / (2 t_S) and h = left_T / 2 neither T nor L has a term that is only linear in what is squared.
    """
    S, Z, identity = form.inner
    c, h = 0.5 * Z / S, 0.5 * form.left[0]
    _, Z_left, I_left = form.left
    T_right, Z_right, I_right = form.right
    return OddStep(
        degree=33, stretch=stretch, shift=shift + c, constant=form.constant - c * form.last[1],
        inner=Inner(S=S, Z=0.0, identity=identity - S * c * c + h),
        left=Addends(Z=Z_left, identity=I_left - c * Z_left - h * h),
        right=Addends(T=T_right, Z=Z_right, identity=I_right - h * T_right - c * Z_right),
        last=Addends(T=form.last[0], Z=form.last[1]),
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
