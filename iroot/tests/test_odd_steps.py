"""Steps of degree 5, 9, 17 and 33: their polynomials, their products in every precision, and what they save."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.polynomial import chebyshev
from torch import Tensor

from iroot.errors import InvalidInputError
from iroot.methods._polar import NORMALISATIONS, Normalisation, Recipe, composition_range, polar_factor
from iroot.minimax import minimax
from iroot.odd_steps import DEGREES, Degree, odd_step
from iroot.ops import make_ops
from iroot.polar_schedules import polar_schedule
from iroot.precision import get_precision, unsupported_reason
from iroot.registry import Operands, Workload, get_method
from iroot.schedules import Design, compose_steps
from iroot.squares import squares_for
from iroot.tests.test_polar import DEVICE, distance, posed, run, true_factor
from iroot.torch_ops import FloatingOps

SPEC = get_method("polar", "polar_express")
MIXES: tuple[tuple[Degree, ...], ...] = ((5, 9, 17), (5, 17, 17), (9, 17), (17, 17), (17, 5), (33, 33), (9, 33))
SERVED = [name for name in SPEC.precisions if unsupported_reason(get_precision(name), DEVICE) is None]
LONG = {"steps": 3, "degrees": (5, 17, 17), "lower": 0.003, "cushion": 0.0, "normalisation": "schatten8"}
EXACT: tuple[Degree, ...] = DEGREES[:3]
TWO = {"steps": 2, "degrees": (33,), "lower": 0.005, "cushion": 0.0, "normalisation": "schatten8", "safety": 1.03}
on_a_cpu = pytest.mark.skipif(DEVICE.type == "cuda", reason="emulated precisions are for machines without the unit")


# --- polynomials ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lower", [1e-3, 0.05, 0.6])
@pytest.mark.parametrize("degree", EXACT)
def test_a_step_is_the_minimax_polynomial(degree: Degree, lower: float) -> None:
    (step,) = polar_schedule(lower, steps=1, degrees=(degree,))
    best = minimax(2, lower**2, 1.0, degree // 2)
    assert step.degree == degree
    s = np.geomspace(lower, 1.0, 500)
    z = (2.0 * s * s - best.upper - best.lower) / (best.upper - best.lower)
    np.testing.assert_allclose(step.at(s), s * chebyshev.chebval(z, best.chebyshev), rtol=1e-11)
    low, high = composition_range((step,), lower)
    assert max(1.0 - low, high - 1.0) == pytest.approx(best.error, rel=1e-2)
    assert step.slope == pytest.approx(float(step.at(np.array([1e-7]))[0] * 1e7), rel=1e-6)


@pytest.mark.parametrize("degree", EXACT)
def test_the_ratio_grows_by_the_degree_at_most(degree: Degree) -> None:
    (step,) = polar_schedule(1e-5, steps=1, degrees=(degree,))
    low, high = composition_range((step,), 1e-5)
    assert 0.84 * degree < low / high / 1e-5 <= degree


@pytest.mark.parametrize("lower", [0.0013, 0.005, 0.06, 0.2, 0.7])
def test_a_step_of_degree_33_is_tabulated_for_as_small_values(lower: float) -> None:
    """Within 15 % of the growth of the best polynomial, of which it has 12 numbers for 17."""
    best = minimax(2, lower**2, 1.0, 16)
    (step,) = polar_schedule(lower, steps=1, degrees=(33,))
    low, high = composition_range((step,), lower)
    assert max(1.0 - low, high - 1.0) <= squares_for(lower).error * (1 + 1e-6)
    assert low / high >= 0.85 * (1.0 - best.error) / (1.0 + best.error)
    first, second = polar_schedule(lower, steps=2, degrees=(33,), safety=1.02)
    s = np.geomspace(lower, 1.0, 2000)
    after = first.at(s) * 1.02  # deflated: one more factor in its interval
    assert after.max() <= 1.02 * (1.0 + squares_for(lower).error) * (1 + 1e-6)
    assert np.abs(second.at(first.at(s)) - 1.0).max() <= squares_for(min(0.9, 0.999 * low / high / 1.02)).error + 1e-9
    assert step.slope == pytest.approx(float(step.at(np.array([1e-7]))[0] * 1e7), rel=1e-6)


def test_smaller_values_than_the_table_has_are_refused() -> None:
    with pytest.raises(InvalidInputError, match="take steps of degree 17 or lower below it"):
        polar_schedule(5e-4, steps=2, degrees=(33,))
    assert [step.degree for step in polar_schedule(5e-4, steps=2, degrees=(5, 33))] == [5, 33]


def test_terms_that_are_rounding_noise_are_left_out() -> None:
    steps = polar_schedule(0.1, steps=4, degrees=(17,))
    assert [step.degree for step in steps] == [17, 17, 9, 9]
    assert composition_range(steps, 0.1) == pytest.approx((1.0, 1.0), abs=1e-12)
    late = compose_steps(Design(p=2, lower=0.99, degrees=(8,)), steps=1).steps[0]
    with pytest.raises(InvalidInputError, match="use degree 4"):
        odd_step(late)


@pytest.mark.parametrize("degrees", [(), (7,), (5, 8), "5"])
def test_other_degrees_are_refused(degrees: object) -> None:
    with pytest.raises(InvalidInputError, match="degrees must hold 5, 9, 17 or 33"):
        SPEC.make_options({"degrees": degrees})


def test_more_degrees_than_steps_are_refused() -> None:
    with pytest.raises(InvalidInputError, match=r"at most 2 steps, got \(5, 17, 17\)"):
        SPEC.make_options({"steps": 2, "degrees": (5, 17, 17)})


# --- products ---------------------------------------------------------------------------------------------------------


def singular_function(G: Tensor, recipe: Recipe) -> Tensor:
    """W f(sigma / bound) V^T in float64, the bound from its definition."""
    W, sigma, Vh = torch.linalg.svd(G.double(), full_matrices=False)
    A = G.double() @ G.double().mT if G.shape[-2] <= G.shape[-1] else G.double().mT @ G.double()
    bounds = {
        "frobenius": sigma.square().sum().sqrt(),
        "gram": sigma.pow(4).sum().pow(0.25),
        "schatten8": sigma.pow(8).sum().pow(0.125),
        "square": torch.stack(
            [sigma.pow(4).sum().pow(0.25), sigma.pow(8).sum().pow(0.125), A.abs().sum(-1).max().sqrt(),
             (A @ A).abs().sum(-1).max().pow(0.25)]
        ).min(),
    }  # fmt: skip
    values = (sigma / (bounds[recipe.normalisation] * recipe.margin)).cpu().numpy()
    for step in recipe.steps:
        values = step.at(values)
    result: Tensor = (W * torch.as_tensor(values, device=G.device)) @ Vh
    return result


@pytest.mark.parametrize("normalisation", NORMALISATIONS)
@pytest.mark.parametrize("degrees", MIXES, ids=str)
def test_the_products_are_the_polynomial(degrees: tuple[Degree, ...], normalisation: Normalisation) -> None:
    steps = polar_schedule(0.01, steps=len(degrees), degrees=degrees, safety=1.01)
    recipe = Recipe(steps=steps, normalisation=normalisation, margin=1.01)
    for shape in ((40, 24), (24, 64)):
        G = posed(*shape, kappa=8.0)
        X = polar_factor(Operands(A=G), make_ops("fp64", DEVICE), recipe)
        assert distance(X, singular_function(G, recipe)) < 1e-11


@pytest.mark.parametrize("normalisation", ["frobenius", "gram", "schatten8"])
@pytest.mark.parametrize("precision", SERVED)
def test_every_precision_is_near_exact_arithmetic(precision: str, normalisation: Normalisation) -> None:
    degrees: tuple[Degree, ...] = (9, 17)
    G = make_ops(precision, DEVICE).cast(posed(2, 32, 48))
    values = {"steps": 2, "degrees": degrees, "lower": 0.05, "normalisation": normalisation}
    X, exact = run(SPEC, precision, G, **values), run(SPEC, "fp64", G.double(), **values)
    assert (X.shape, X.dtype) == (G.shape, G.dtype)
    if not precision.startswith(("fp8", "int4")):  # which do not hold these degrees: `polar_express`
        assert distance(X, exact) <= 16.0 * get_precision(precision).unit_roundoff


@pytest.mark.parametrize("precision", ["fp16", "bf16", "fp16_emulated", "bf16_emulated"])
@pytest.mark.parametrize("normalisation", NORMALISATIONS)
def test_a_matrix_beyond_the_format_is_normalised_before_it_is_rounded(
    precision: str, normalisation: Normalisation
) -> None:
    row = get_precision(precision)
    if unsupported_reason(row, DEVICE) is not None and row.execution == "emulated":
        return
    # A CPU multiplies float16 too, if slowly.
    ops = make_ops(precision, DEVICE) if unsupported_reason(row, DEVICE) is None else FloatingOps(row, DEVICE)
    G = posed(48, 32).float()
    options = SPEC.make_options(
        {"steps": 2, "degrees": (17,), "lower": 0.05, "normalisation": normalisation, "safety": 1.01}
    )
    U = true_factor(G)
    for scale in (1.0, 1e8, 1e-8, 1e30, 1e-30):
        X = SPEC.function(Operands(A=G * scale), ops, options)
        assert X.dtype == torch.float32
        assert distance(X, U) < 0.02


@pytest.mark.parametrize("degrees", [(5,), (17,)])
def test_rank_one_stays_in_the_range_of_float16(degrees: tuple[Degree, ...]) -> None:
    """||A||_F = r for ||X||_F = r^(1/2), and r^2 is beyond it."""
    ops = FloatingOps(get_precision("fp16"), DEVICE)
    G = torch.ones(320, 320, device=DEVICE)
    options = SPEC.make_options({"steps": 2, "degrees": degrees, "lower": 0.1, "normalisation": "schatten8"})
    X = SPEC.function(Operands(A=G), ops, options)
    assert torch.linalg.matrix_norm(X - 1.0 / 320.0) < 0.1


@pytest.mark.parametrize("normalisation", NORMALISATIONS)
def test_zero_gives_zero(normalisation: Normalisation) -> None:
    zero = torch.zeros(2, 24, 40, device=DEVICE)
    for degrees in MIXES:
        values = {"steps": 3, "degrees": degrees, "normalisation": normalisation}
        assert torch.equal(run(SPEC, "fp32", zero, **values), zero)


def test_one_graph_for_torch_compile() -> None:
    ops, A = make_ops("fp32", DEVICE), posed(48, 32).float()
    options = SPEC.make_options({"steps": 2, "degrees": (9, 17), "normalisation": "schatten8"})
    torch.compiler.reset()
    compiled = torch.compile(lambda G: SPEC.function(Operands(A=G), ops, options), fullgraph=True, backend="eager")
    assert torch.equal(compiled(A), SPEC.function(Operands(A=A), ops, options))


# --- what they save ---------------------------------------------------------------------------------------------------


def test_costs_in_products() -> None:
    """2 to 3.5 products of 2 n^3 for a step at n x n; at aspect 4: 6.5 to 8 of 2 m^3."""
    for degree, square, wide in ((5, 2.0, 6.5), (9, 2.5, 7.0), (17, 3.0, 7.5), (33, 3.5, 8.0)):
        options = SPEC.make_options({"steps": 2, "degrees": (degree,)})
        for n, products in ((256, square), (1024, wide)):
            flops = SPEC.flops(Workload(m=256, n=n, precision="fp16", batch=3), options)
            assert flops == 3 * 2 * products * 2 * 256**3


@on_a_cpu
@pytest.mark.parametrize("shape", [(256, 256), (192, 768)], ids=str)
def test_two_steps_of_degree_33_are_as_near_as_three_of_5_17_17(shape: tuple[int, int]) -> None:
    """7 products for 8, at aspect 4 16 for 21.5; log-spaced singular values, kappa 100 (2026-11-23)."""
    G = posed(*shape, kappa=100.0).float()
    U = true_factor(G)
    assert SPEC.make_options(TWO).recipe("fp16_emulated").steps[1].degree == 33
    three = distance(run(SPEC, "fp16_emulated", G, **LONG), U)
    assert distance(run(SPEC, "fp16_emulated", G, **TWO), U) <= 1.05 * three


@on_a_cpu
def test_the_pair_keeps_every_spectrum_and_refuses_bfloat16() -> None:
    """Largest singular value of the result: 1.14 at most in float16, as between 0.0036 and 0.06 in exact arithmetic."""
    pair = get_method("polar", "newton_schulz")
    ramp = torch.linspace(1e-3, 1.0, 64)
    for G in (
        torch.eye(64),
        torch.diag(ramp),
        torch.ones(64, 64),
        posed(64, 64, kappa=1e4).float(),
        ramp[:, None] * ramp,
    ):
        X = run(pair, "fp16_emulated", G, coefficients="squares_pair")
        assert float(torch.linalg.matrix_norm(X.double(), 2)) <= 1.15
    for coarse in ("bf16_emulated", "int8_sim"):
        with pytest.raises(InvalidInputError, match="needs products in fp16 or finer"):
            run(pair, coarse, torch.eye(64), coefficients="squares_pair")


@on_a_cpu
def test_without_a_safety_factor_the_same_steps_leave_their_interval() -> None:
    """Wide Gaussian: half of the rounding of a step pushes singular values above 1, where the next one is steep."""
    G = torch.randn(256, 1024, generator=torch.Generator().manual_seed(0))
    exact = run(SPEC, "fp64", G.double(), **LONG)
    safe = distance(run(SPEC, "fp16_emulated", G, **LONG), exact)
    assert safe < 0.003
    assert distance(run(SPEC, "fp16_emulated", G, **LONG, safety=1.0), exact) > 5.0 * safe
