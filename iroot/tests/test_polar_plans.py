"""Sequences of degrees that an rtol asks for: as cheap as any, true to what they state."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from iroot.methods._polar import EXCESS, composition_error
from iroot.minimax import unit_minimax
from iroot.odd_steps import DEGREES, Degree
from iroot.ops import make_ops
from iroot.planning import Demand, choose
from iroot.polar_plans import (
    _LEAST,
    _growth,
    _least_orthogonality,
    _steps,
    polar_options,
    polar_orthogonality,
    smallest_singular,
)
from iroot.polar_schedules import polar_schedule
from iroot.registry import Operands, Workload, get_method
from iroot.squares import squares_for, tabulated
from iroot.tests.test_polar import DEVICE, distance, orthogonality, posed, rotations, true_factor

SPEC = get_method("polar", "polar_express")
HOPPER, ADA = (9, 0), (8, 9)


def square(n: int, precision: str, lower: float) -> Workload:
    return Workload(m=n, n=n, precision=precision, lower=lower)


@pytest.mark.parametrize("degree", DEGREES)
def test_the_bounds_that_spare_schedules_are_bounds(degree: Degree) -> None:
    for lower in (1e-3, 0.01, 0.03, 0.046, 0.05, 0.1, 0.2, 0.5, 0.9):
        error = squares_for(lower).error if degree == 33 else unit_minimax(2, lower**2, degree // 2).error
        assert error >= _LEAST[degree] * ((1 - lower) / (1 + lower)) ** ((degree + 1) // 2)
    assert 0.66 * degree < _growth(degree) < 0.86 * degree


def test_those_of_the_table_are_bounds_at_each_of_its_ratios() -> None:
    for entry in tabulated():
        assert entry.error >= _LEAST[33] * ((1 - entry.ratio) / (1 + entry.ratio)) ** 17
        assert entry.amplification <= 1.01 * EXCESS[33] * entry.slope


def test_no_sequence_with_degree_33_is_spared_that_would_do() -> None:
    for lower, count in itertools.product((3e-4, 0.004, 0.02, 0.05, 0.2), (1, 2, 3)):
        for degrees in itertools.combinations_with_replacement(DEGREES, count):
            if degrees[-1] == 33:
                error = composition_error(_steps(degrees, lower, 1.01), lower)
                assert _least_orthogonality(degrees, lower) <= error * (2.0 + error)


@pytest.mark.parametrize(("lower", "rtol"), [(1e-3, 0.1), (1e-3, 0.01), (0.05, 0.02), (0.3, 0.1)])
def test_as_cheap_as_any_of_all_sequences(lower: float, rtol: float) -> None:
    workload = square(512, "fp32", lower)
    options = polar_options(SPEC, workload, rtol)
    smallest = smallest_singular(workload, "schatten8")
    stated = polar_orthogonality(SPEC, workload, options)
    assert stated is not None
    assert stated <= rtol
    for count in range(1, 5):
        for degrees in itertools.combinations_with_replacement(DEGREES, count):
            values = {"steps": count, "degrees": degrees}
            if SPEC.flops(workload, SPEC.make_options(values)) >= SPEC.flops(workload, options):
                continue
            steps = polar_schedule(smallest, steps=count, degrees=degrees, cushion=0.02407, safety=1.01)
            error = composition_error(steps, smallest / 1.01)
            assert error * (2.0 + error) > 0.99 * rtol, degrees


def test_fewer_products_than_with_quintics_alone() -> None:
    """n = 1024, nothing known: 11 and 11.5 products for 12 and 14."""
    for rtol, products, quintic_products in ((0.1, 11.0, 12.0), (0.01, 11.5, 14.0)):
        workload = square(1024, "fp16", 1e-3)
        unit = 2 * 1024**3
        assert SPEC.flops(workload, polar_options(SPEC, workload, rtol)) == products * unit
        assert SPEC.flops(workload, polar_options(SPEC, workload, rtol, degrees=(5,))) == quintic_products * unit


def test_of_equally_cheap_sequences_the_one_that_ends_in_the_lower_degree() -> None:
    """(9, 17) and (5, 33) take 5.5 products, at aspect 4 14.5; both would do."""
    for columns in (1024, 4096):
        workload = Workload(m=1024, n=columns, precision="fp16", lower=0.1)
        assert polar_options(SPEC, workload, 0.03).degrees == (9, 17)
        other = SPEC.make_options({"steps": 2, "degrees": (5, 33)})
        assert SPEC.flops(workload, other) == SPEC.flops(workload, polar_options(SPEC, workload, 0.03))


def test_high_degrees_are_for_kernels_on_a_gpu() -> None:
    def degrees(precision: str, capability: tuple[int, int]) -> tuple[int, ...]:
        demand = Demand(
            task="polar", workload=Workload(m=1024, n=1024, precision="auto", lower=0.01), device=torch.device("cuda"),
            rtol=0.01, method="polar_express", precision=precision, options=None, capability=capability,
        )  # fmt: skip
        found: tuple[int, ...] = choose(demand).options.degrees
        return found

    assert max(degrees("fp16", HOPPER)) == 17
    assert degrees("fp16", ADA) == degrees("fp32", HOPPER) == (5,)


def test_rounding_that_a_steep_step_would_amplify_is_stated() -> None:
    """What bfloat16 pushes above 1 before a step of degree 17 is lost, and float16 with a safety factor keeps."""
    values = {"steps": 3, "degrees": (5, 17, 17), "lower": 0.003, "cushion": 0.0, "normalisation": "schatten8"}
    safe, bare = SPEC.make_options(values), SPEC.make_options({**values, "safety": 1.0})
    fp16, bf16 = square(256, "fp16", 0.01), square(256, "bf16", 0.01)
    exact = polar_orthogonality(SPEC, square(256, "fp64", 0.01), safe)
    stated = polar_orthogonality(SPEC, fp16, safe)
    assert exact is not None
    assert stated is not None
    assert stated < 0.5
    for workload, options in ((fp16, bare), (bf16, bare), (bf16, safe)):
        assert polar_orthogonality(SPEC, workload, options) is None
        assert SPEC.accuracy(workload, options) is None


def test_what_a_steep_last_step_rounds_is_not_stated() -> None:
    """One step of degree 33 made for 0.05: bfloat16 adds 0.28 to an orthogonality error of 0.32 (2026-11-23)."""
    options = SPEC.make_options({"steps": 1, "degrees": (33,), "lower": 0.05, "normalisation": "schatten8"})
    assert polar_orthogonality(SPEC, square(48, "bf16", 0.5), options) is None
    stated = polar_orthogonality(SPEC, square(48, "fp16", 0.5), options)
    assert stated is not None
    assert stated < 0.35


def matrices(lower: float) -> Iterator[Tensor]:
    yield posed(96, 96, kappa=1.0 / lower)
    for angle in (0.05, 0.2404, 0.5261):
        yield rotations(96, angle, lower)
    halves = torch.ones(96, dtype=torch.float64, device=DEVICE)
    halves[48:] = lower
    U, _, Vh = torch.linalg.svd(posed(96, 96, seed=1))
    yield (U * halves) @ Vh


@pytest.mark.skipif(DEVICE.type == "cuda", reason="emulated precisions are for machines without the unit")
@pytest.mark.parametrize("precision", ["fp16_emulated", "bf16_emulated"])
@pytest.mark.parametrize(
    ("degrees", "made_for"),
    [
        ((5, 17, 17), 0.02),
        ((17, 17), 0.02),
        ((9, 17), 0.02),
        ((9, 9, 9), 0.02),
        ((17,), 0.2),
        ((33,), 0.1),
        ((33, 33), 0.05),
        ((5, 33), 0.02),
        ((17, 33), 0.02),
        ((33, 17), 0.2),
        ((33, 5), 0.05),
        ((17, 5), 0.05),
    ],
    ids=str,
)
def test_the_distance_that_is_stated_holds(degrees: tuple[Degree, ...], made_for: float, precision: str) -> None:
    ops, stated = make_ops(precision, DEVICE), 0
    for normalisation, lower in itertools.product(("schatten8", "frobenius"), (0.5, 0.1, 0.02)):
        options = SPEC.make_options(
            {"steps": len(degrees), "degrees": degrees, "lower": made_for, "normalisation": normalisation}
        )
        limit = SPEC.accuracy(square(96, precision, lower), options)
        orthogonal = polar_orthogonality(SPEC, square(96, precision, lower), options)
        if limit is None and (orthogonal is None or orthogonal > 0.6):
            continue
        stated += limit is not None
        for G in matrices(1.02 * lower):
            A = ops.cast(G)
            X = SPEC.function(Operands(A=A), ops, options)
            assert limit is None or distance(X, true_factor(A)) <= limit
            assert orthogonal is None or orthogonality(X) <= orthogonal
    assert stated > 0 or precision == "bf16_emulated"


@pytest.mark.skipif(DEVICE.type == "cuda", reason="emulated precisions are for machines without the unit")
@pytest.mark.parametrize("degrees", [DEGREES, (33,)], ids=str)
@pytest.mark.parametrize(("precision", "rtols"), [("fp16_emulated", (0.3, 0.1, 0.006)), ("bf16_emulated", (0.3, 0.1))])
def test_what_is_stated_holds(precision: str, rtols: tuple[float, ...], degrees: tuple[Degree, ...]) -> None:
    ops = make_ops(precision, DEVICE)
    u = ops.precision.unit_roundoff
    for lower, rtol in itertools.product((2.0 * u, 16.0 * u), rtols):
        workload = square(96, precision, lower)
        options = polar_options(SPEC, workload, rtol, degrees=degrees)
        stated = polar_orthogonality(SPEC, workload, options)
        assert stated is not None
        assert stated <= rtol
        assert degrees == (33,) or math.prod(options.degrees) > 5 or precision == "bf16_emulated"
        for G in matrices(1.02 * lower):
            X = SPEC.function(Operands(A=ops.cast(G)), ops, options)
            assert orthogonality(X) <= stated
