"""`ci/fit_pair.py`: its derivatives, that it finds nothing better than what is shipped, and a file it writes."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from iroot.minimax import Array
from iroot.squares import PAIR_FILE, pair, read_squares

FOLDER = str(Path(__file__).parent)


@pytest.fixture(scope="module")
def fit() -> ModuleType:
    sys.path.insert(0, FOLDER)
    try:
        return importlib.import_module("fit_pair")
    finally:
        sys.path.remove(FOLDER)


def stored(fit: ModuleType) -> Array:
    return np.concatenate([fit.unshifted(fit.as_numbers(step)) for step in pair()])


def test_derivatives_are_those_of_differences(fit: ModuleType) -> None:
    conditions, free = fit.Conditions(10), 1.01 * stored(fit)
    _, found = conditions.room(free, 0.02)
    for k, step in enumerate(1e-6 * np.eye(25)):
        up, down = (conditions.room(free + sign * step[:24], 0.02 + sign * step[24])[0] for sign in (1.0, -1.0))
        np.testing.assert_allclose(found[:, k], (up - down) / 2e-6, rtol=1e-4, atol=1e-4)


def test_the_shipped_pair_meets_its_conditions_and_cannot_be_improved_by_a_hundredth(
    fit: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fit, "ROUNDS", 3)
    conditions, free = fit.Conditions(fit.DENSE), stored(fit)
    shipped = fit.judged(free, conditions)
    assert shipped.missed <= fit.SPARED
    again = fit.improved(free)
    assert again.merit >= 0.99 * shipped.merit
    assert again.bulk >= 0.99 * shipped.bulk
    # A start that is worse is improved: the search does search.
    perturbed = free * (1.0 + 0.001 * np.random.default_rng(1).normal(size=24))
    assert fit.improved(perturbed).merit < 0.5 * fit.judged(perturbed, conditions).merit


def test_a_pair_is_written_from_a_start(
    fit: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(fit, "ROUNDS", 1)
    assert fit.main([str(tmp_path / "out.toml"), "--start", str(PAIR_FILE)]) == 0
    first, second = read_squares(tmp_path / "out.toml")
    assert first.ratio == pair()[0].ratio
    assert second.ratio == pytest.approx(pair()[1].ratio, rel=0.01)
    assert f"ratio {second.ratio:.6f}" in capsys.readouterr().out


def test_what_misses_a_condition_is_not_written(
    fit: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(fit, "STARTS", fit.STARTS[:1])
    monkeypatch.setattr(fit, "ROUNDS", 1)
    assert fit.main([str(tmp_path / "out.toml")]) == 1
    assert not (tmp_path / "out.toml").exists()
    assert "a condition is missed by" in capsys.readouterr().err
