"""Minimax quintics: the published composition is reproduced, safety spares the last step."""

from __future__ import annotations

import numpy as np
import pytest

from iroot.coefficients import OddQuintic, deflate, named_table
from iroot.errors import InvalidInputError
from iroot.odd_steps import OddStep
from iroot.polar_schedules import polar_schedule

PUBLISHED_CUSHION = 0.02407327424182761


def triples(steps: tuple[OddStep, ...]) -> list[OddQuintic]:
    return [(step.constant, step.inner.Z, step.inner.S) for step in steps]


def test_composition_reproduces_the_published_polar_express_list() -> None:
    ours = polar_schedule(1e-3, steps=8, cushion=PUBLISHED_CUSHION)
    published = named_table("polar_express").coefficients
    np.testing.assert_allclose(np.array(triples(ours[:7])), published[:7], rtol=1e-10)
    np.testing.assert_allclose(np.array(triples(ours[7:])), published[7:8], rtol=1e-7)


def test_safety_deflates_all_but_the_last_step() -> None:
    plain = polar_schedule(0.5, steps=1)
    assert polar_schedule(0.5, steps=1, safety=1.05) == plain
    first = polar_schedule(0.5, steps=2, safety=1.05)[:1]
    (triple,) = triples(plain)
    np.testing.assert_allclose(np.array(triples(first)), np.array([deflate(triple, 1.05)]), rtol=1e-12)


def test_wrong_requests_are_refused() -> None:
    with pytest.raises(InvalidInputError, match="exactly one"):
        polar_schedule(0.1, steps=3, target=1e-2)
    with pytest.raises(InvalidInputError, match="lower must be in"):
        polar_schedule(1.5, steps=3)
