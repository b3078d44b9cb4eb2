"""Named tables: as published, deflated as their sources say, near one on their interval."""

from __future__ import annotations

import numpy as np
import pytest

from iroot.coefficients import NAMED_TABLES, named_table
from iroot.errors import InvalidInputError, UnknownNameError


def test_named_tables() -> None:
    assert set(NAMED_TABLES) == {"keller_jordan", "jiacheng_you", "polar_express", "turbo_muon"}
    assert named_table("keller_jordan").take(7) == ((3.4445, -4.7750, 2.0315),) * 7
    taken = named_table("polar_express").take(10)
    assert taken[0][0] == pytest.approx(8.28721201814563 / 1.01)
    assert taken[0][2] == pytest.approx(17.300387312530933 / 1.01**5)
    assert taken[-1] == (1.875, -1.25, 0.375)
    with pytest.raises(InvalidInputError, match="has 5 steps, got steps=6"):
        named_table("jiacheng_you").take(6)
    with pytest.raises(UnknownNameError, match="did you mean 'polar_express'"):
        named_table("polar_expres")


@pytest.mark.parametrize("name", sorted(NAMED_TABLES))
def test_named_tables_map_their_interval_near_one(name: str) -> None:
    table = named_table(name)
    s = np.geomspace(table.lower or 3e-2, 1.0, 2000)
    for a, b, c in table.take():
        s = a * s + b * s**3 + c * s**5
    assert s.min() > 0.65
    assert s.max() < 1.25
