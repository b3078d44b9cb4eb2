"""Schedules: the published composition is reproduced, ranges are true, step counts are the known ones."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.polynomial import chebyshev

from iroot.errors import InvalidInputError
from iroot.minimax import _Reference, unit_minimax
from iroot.schedules import Design, Schedule, compose, compose_steps, count_products, power_products, schedule_for


def _transfer(schedule: Schedule, a: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """x a^(1/p) and y after all steps, for the scalar inputs a."""
    y, x = a.copy(), np.ones_like(a)
    for step in schedule.steps:
        z = (2.0 * y - step.upper - step.lower) / (step.upper - step.lower)
        q = chebyshev.chebval(z, step.chebyshev)
        x, y = x * q, y * q**step.p
    return x * a ** (1.0 / schedule.design.p), y


# Steps and products to 1e-3 with quadratic minimax steps, for kappa 1e2, 1e3, 1e4, 1e6, 1e8.
TABLE = {
    1: ((4, 10), (5, 13), (6, 16), (8, 22), (10, 28)),
    2: ((3, 9), (4, 13), (5, 17), (6, 21), (8, 29)),
    3: ((3, 11), (4, 16), (5, 21), (6, 26), (7, 31)),
    4: ((3, 11), (4, 16), (4, 16), (6, 26), (7, 31)),
    8: ((3, 13), (3, 13), (4, 19), (5, 25), (6, 31)),
}


@pytest.mark.parametrize("p", sorted(TABLE))
def test_step_and_product_counts(p: int) -> None:
    for kappa, expected in zip((1e2, 1e3, 1e4, 1e6, 1e8), TABLE[p], strict=True):
        schedule = compose(Design(p=p, lower=1.0 / kappa), target=1e-3)
        assert (len(schedule.steps), schedule.products) == expected


@settings(max_examples=40)
@given(
    p=st.integers(1, 9),
    exponent=st.floats(0.1, 11.9),
    degree=st.sampled_from([1, 2, 3, 4, 8]),
    cushion=st.sampled_from([0.0, 0.01, 0.1]),
    safety=st.sampled_from([1.0, 1.01, 1.05]),
    headroom=st.sampled_from([0.0, 0.05]),
)
def test_stated_error_and_ranges_hold_at_every_scalar(
    p: int, exponent: float, degree: int, cushion: float, safety: float, headroom: float
) -> None:
    design = Design(p=p, lower=10.0**-exponent, degrees=(degree,), cushion=cushion, safety=safety, headroom=headroom)
    schedule = compose(design, target=1e-4)
    a = np.geomspace(design.lower, 1.0 + headroom, 4000)
    root, y = _transfer(schedule, a)
    assert np.max(np.abs(1.0 - root)) <= schedule.error * (1 + 1e-7) + 1e-12
    last = schedule.steps[-1]
    assert y.min() >= last.low**p * (1 - 1e-9)
    assert y.max() <= last.high**p * (1 + 1e-9)


def test_monomial_coefficients_equal_the_chebyshev_form() -> None:
    for step in compose(Design(p=3, lower=1e-4, degrees=(2, 4)), target=1e-3).steps:
        for y in (step.lower, 0.3, step.upper):
            expected = sum(c * y**k for k, c in enumerate(step.monomial))
            assert step.at(y) == pytest.approx(expected, rel=1e-9)


def test_chosen_cushion_keeps_the_step_count_and_the_target() -> None:
    design = Design(p=2, lower=1e-4)
    plain, cushioned = compose(design, target=1e-3), schedule_for(design, target=1e-3)
    assert len(cushioned.steps) == len(plain.steps)
    assert cushioned.error <= 1e-3
    assert cushioned.design.cushion == pytest.approx(0.095, abs=0.005)


def test_min_cushion_adds_steps() -> None:
    design = Design(p=2, lower=1e-6)
    assert schedule_for(design, target=1e-3).design.cushion < 1e-3
    wide = schedule_for(design, target=1e-3, min_cushion=0.03)
    assert wide.design.cushion >= 0.03
    assert len(wide.steps) == 7


def test_steps_after_convergence_are_the_taylor_limit() -> None:
    last = compose_steps(Design(p=2, lower=0.5), steps=12).steps[-1]
    np.testing.assert_allclose(last.monomial, (15 / 8, -10 / 8, 3 / 8), rtol=1e-8)


def test_product_counts_by_hand() -> None:
    assert [power_products(p) for p in (1, 2, 3, 4, 8)] == [0, 1, 2, 2, 3]
    # p = 2, three quadratic steps: three squares, two updates of Y (B^2, Y B^2), two of X.
    assert count_products(2, (2, 2, 2)) == 9


@pytest.mark.parametrize(
    "change",
    [{"p": 0}, {"lower": 1e-13}, {"lower": 1.0}, {"degrees": ()}, {"degrees": (9,)}, {"cushion": 1.0}, {"safety": 0.9},
     {"headroom": -0.1}],
)  # fmt: skip
def test_wrong_designs_are_refused(change: dict[str, object]) -> None:
    values: dict[str, object] = {"p": 2, "lower": 1e-3, **change}
    with pytest.raises(InvalidInputError, match="must be"):
        Design(**values)  # type: ignore[arg-type]


def test_wrong_requests_are_refused() -> None:
    with pytest.raises(InvalidInputError, match="target"):
        compose(Design(p=2, lower=0.1), target=2.0)
    with pytest.raises(InvalidInputError, match="needs more than 60 steps"):
        schedule_for(Design(p=1, lower=1e-12, degrees=(1,)), target=1e-15)


@pytest.mark.parametrize("p", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("exponent", [1, 2, 3, 4, 5, 6])
@pytest.mark.parametrize(
    ("safety", "target", "min_cushion"), [(1.0, 1e-3, 0.0), (1.005, 2e-4, 0.03), (1.08, 2e-4, 0.2)]
)
def test_a_search_solves_few_systems(
    monkeypatch: pytest.MonkeyPatch, p: int, exponent: int, safety: float, target: float, min_cushion: float
) -> None:
    """What a first call with a bound costs on the host: 73 systems of 4 unknowns in the mean of these, 219 at most."""
    solved = _count_systems(monkeypatch)
    schedule_for(Design(p=p, lower=10.0**-exponent, safety=safety), target=target, min_cushion=min_cushion)
    assert 0 < len(solved) <= 240


def test_steps_at_the_cushion_share_one_polynomial(monkeypatch: pytest.MonkeyPatch) -> None:
    solved = _count_systems(monkeypatch)
    schedule = compose_steps(Design(p=2, lower=1e-12, cushion=0.1), steps=8)
    assert all(step.true_lower / step.true_upper < 0.1 for step in schedule.steps)
    assert 0 < len(solved) <= 4


@pytest.mark.parametrize(("p", "exponent", "min_cushion"), [(1, 5, 0.03), (2, 6, 0.03), (2, 4, 0.2), (8, 3, 0.2)])
def test_the_cushion_is_the_largest_and_the_steps_the_fewest(p: int, exponent: int, min_cushion: float) -> None:
    design, target = Design(p=p, lower=10.0**-exponent, safety=1.005), 2e-4
    found = schedule_for(design, target=target, min_cushion=min_cushion)
    count, cushion = len(found.steps), found.design.cushion

    def error(cushion: float, steps: int) -> float:
        return compose(replace(design, cushion=cushion), target=target, max_steps=steps).error

    assert cushion >= min_cushion
    assert error(cushion, count) <= target
    assert cushion == 0.5 or error(1.011 * cushion, count) > target
    assert all(error(trial, count - 1) > target for trial in np.geomspace(min_cushion, 0.5, 20))


def _count_systems(monkeypatch: pytest.MonkeyPatch) -> list[None]:
    """One entry for each system that is solved from here on, with nothing remembered."""
    solved: list[None] = []
    levelled = _Reference.levelled

    def counted(reference: _Reference) -> tuple[np.ndarray, float]:
        solved.append(None)
        return levelled(reference)

    unit_minimax.cache_clear()
    schedule_for.cache_clear()
    monkeypatch.setattr(_Reference, "levelled", counted)
    return solved
