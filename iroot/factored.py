"""Polynomials of degree 8 in three matrix products.

Horner's rule takes seven products for degree 8 and Paterson and Stockmeyer's scheme four (SIAM J. Comput. 2, 1973).
Sastre (Linear Algebra Appl. 539, 2018, section 3) needs three: with w_2 = z^2,

    w_4 = w_2 (c_1 w_2 + c_2 z)
    q(z) = +-[(w_4 + c_3 w_2 + c_4 z) (w_4 + c_5 w_2) + c_6 w_4] + b_2 w_2 + b_1 z + b_0.

Matching powers of z gives c_1 from z^8, c_2 from z^7, c_3 + c_5 from z^6, c_4 from z^5, and a quadratic equation for
c_5 from z^4 and z^3. Its roots are real for every minimax polynomial of degree 8 (tests: p = 1 to 16,
lower / upper = 1e-12 to 0.8).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.polynomial import chebyshev

from iroot.errors import InvalidInputError
from iroot.minimax import Array

# T_7 and T_8 below this, relative to the sum of all coefficients, are rounding noise of the exchange: they are dropped.
_NEGLIGIBLE = 1e-14


@dataclass(frozen=True, kw_only=True)
class Factored:
    """The form above: `sign` +-1, `inner` (c_1, c_2), `left` (c_3, c_4), `right` c_5, `rest` (c_6, b_2, b_1, b_0).

    `rest[0]`, c_6, multiplies w_4 and has the sign included; so has no other coefficient.
    """

    sign: float
    inner: tuple[float, float]
    left: tuple[float, float]
    right: float
    rest: tuple[float, float, float, float]

    def at(self, z: Array) -> Array:
        """q(z), evaluated as a matrix would be."""
        w2 = z * z
        w4 = w2 * (self.inner[0] * w2 + self.inner[1] * z)
        left, right = w4 + self.left[0] * w2 + self.left[1] * z, w4 + self.right * w2
        c6, b2, b1, b0 = self.rest
        return self.sign * left * right + c6 * w4 + b2 * w2 + b1 * z + b0


@lru_cache(maxsize=1024)
def factor(coefficients: tuple[float, ...]) -> Factored | None:
    """The three-product form of sum_k coefficients[k] T_k(z) of degree 8; None where T_7 and T_8 are rounding noise.

    Of the two solutions the one that amplifies rounding less: by up to 130 unit roundoffs of max |q| over [-1, 1] for
    lower / upper = 1e-8, 40 for 1e-2, 15 for 0.05, where the last step of a schedule is (p = 1, 2, 3, 4, 8, first
    order).

    Raises:
        InvalidInputError: not nine coefficients, or a polynomial without a real solution.
    """
    if len(coefficients) != 9:
        raise InvalidInputError(f"a polynomial of degree 8 has 9 coefficients, got {len(coefficients)}")
    if abs(coefficients[7]) + abs(coefficients[8]) <= _NEGLIGIBLE * sum(map(abs, coefficients)):
        return None
    solutions = _solutions(tuple(float(value) for value in chebyshev.cheb2poly(np.asarray(coefficients))))
    if not solutions:
        raise InvalidInputError(
            "a polynomial of degree 8 must have a factorisation with real coefficients to take three products, "
            f"got {coefficients}; use another degree"
        )
    return min(solutions, key=_amplification)


def _solutions(power: tuple[float, ...]) -> list[Factored]:
    """Every real solution for the polynomial sum_k power[k] z^k."""
    sign = math.copysign(1.0, power[8])
    _, _, _, b3, b4, b5, b6, b7, b8 = (sign * value for value in power)
    if b8 == 0.0 or b7 == 0.0:
        return []
    c1 = math.sqrt(b8)
    c2 = b7 / (2.0 * c1)
    total = (b6 - c2 * c2) / c1
    c4 = (b5 - c2 * total) / c1
    # c_2 c_5^2 + linear c_5 + constant = 0, by the stable formula.
    linear, constant = c1 * c4 - total * c2, c2 * (b4 - c2 * c4) - c1 * b3
    discriminant = linear * linear - 4.0 * c2 * constant
    if discriminant < 0.0:
        return []
    half = -0.5 * (linear + math.copysign(math.sqrt(discriminant), linear))
    return [
        Factored(
            sign=sign, inner=(c1, c2), left=(total - c5, c4), right=c5,
            rest=(sign * (b3 - c4 * c5) / c2, power[2], power[1], power[0]),
        )
        for c5 in ((half / c2, constant / half) if half != 0.0 else (0.0,))
    ]  # fmt: skip


def _amplification(form: Factored) -> float:
    """First-order bound on the error of q over max |q|, in unit roundoffs, with every intermediate rounded once."""
    z = np.linspace(-1.0, 1.0, 201)
    w2 = z * z
    M = form.inner[0] * w2 + form.inner[1] * z
    w4 = w2 * M
    left, right = w4 + form.left[0] * w2 + form.left[1] * z, w4 + form.right * w2
    c6, b2, b1, b0 = form.rest

    def largest(values: Array) -> float:
        return float(np.abs(values).max())

    by_w4 = largest(form.sign * (left + right) + c6)
    by_w2 = by_w4 * largest(M + form.inner[0] * w2) + largest(
        form.sign * (form.left[0] * right + form.right * left) + b2
    )
    own = 2.0 * largest(left) * largest(right) + abs(c6) * largest(w4) + abs(b2) + abs(b1) + abs(b0)
    return (own + 3.0 * by_w4 * largest(M) + 3.0 * by_w2) / largest(form.at(z))
