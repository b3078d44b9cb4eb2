"""Degree 8 in three products: the same polynomial, for every root and interval."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.polynomial import chebyshev

from iroot.errors import InvalidInputError
from iroot.factored import factor
from iroot.methods import _coupled
from iroot.minimax import minimax
from iroot.ops import make_ops
from iroot.schedules import Design, compose, evaluation_products
from iroot.torch_ops import FloatingOps

CPU = torch.device("cpu")
Z = np.linspace(-1.0, 1.0, 501)


@pytest.mark.parametrize("p", [1, 2, 3, 4, 5, 8, 13, 16])
@pytest.mark.parametrize("lower", [1e-12, 1e-8, 1e-4, 1e-2, 0.05, 0.3, 0.8])
def test_the_three_products_are_the_minimax_polynomial(p: int, lower: float) -> None:
    coefficients = minimax(p, lower, 1.0, 8).chebyshev
    form = factor(coefficients)
    assert form is not None
    expected = chebyshev.chebval(Z, coefficients)
    np.testing.assert_allclose(form.at(Z), expected, rtol=0, atol=1e-13 * np.abs(expected).max())


@pytest.mark.parametrize("p", [1, 2, 8])
def test_rounding_noise_in_the_leading_coefficients_is_dropped(p: int) -> None:
    coefficients = minimax(p, 0.999, 1.0, 8).chebyshev
    assert factor(coefficients) is None
    dropped = chebyshev.chebval(Z, coefficients[:7]) - chebyshev.chebval(Z, coefficients)
    assert np.abs(dropped).max() < 1e-13


def test_other_polynomials_are_refused() -> None:
    with pytest.raises(InvalidInputError, match="9 coefficients, got 3"):
        factor((1.0, 2.0, 3.0))
    with pytest.raises(InvalidInputError, match="real coefficients"):
        factor((0.0,) * 8 + (1.0,))  # T_8 is even: c_2 = 0


class CountingOps(FloatingOps):
    """float64 products, counted."""

    products = 0

    def _multiply_add(
        self, A: torch.Tensor, B: torch.Tensor, C: torch.Tensor | None, alpha: float, beta: float
    ) -> torch.Tensor:
        self.products += 1
        return super()._multiply_add(A, B, C, alpha, beta)


@pytest.mark.parametrize("p", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("degree", range(1, 9))
@pytest.mark.parametrize(("lower", "cushion"), [(1e-6, 0.0), (1e-4, 0.05), (0.05, 0.0), (0.5, 0.0)])
def test_matrices_give_the_scalar_polynomial_of_their_eigenvalues(
    p: int, degree: int, lower: float, cushion: float
) -> None:
    step = compose(Design(p=p, lower=lower, degrees=(degree,), cushion=cushion), target=1e-3, max_steps=1).steps[0]
    generator = torch.Generator().manual_seed(degree)
    Q, _ = torch.linalg.qr(torch.randn(24, 24, generator=generator, dtype=torch.float64))
    values = torch.logspace(np.log10(lower), 0.0, 24, dtype=torch.float64)
    ops = CountingOps(make_ops("fp64", CPU).precision, CPU)
    found = _coupled.evaluate(ops, (Q * values) @ Q.mT, step)
    scalars = torch.tensor([step.at(float(y)) for y in values], dtype=torch.float64)
    expected = (Q * scalars) @ Q.mT
    assert torch.linalg.matrix_norm(found - expected) <= 1e-12 * torch.linalg.matrix_norm(expected)
    assert ops.products == evaluation_products(degree)
