"""The search of polar coefficients: seeded, resumable to the last digit, never worse than its start, safe on [0, 1]."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from iroot.coefficients import named_table
from iroot.errors import InvalidInputError, UnknownNameError
from iroot.methods._polar import Recipe, polar_factor
from iroot.methods.aol import AolOptions, aol
from iroot.odd_steps import quintics
from iroot.ops import make_ops
from iroot.registry import Operands
from iroot.table_files import find_table
from iroot.tuning import PolarSearch, Settings, State, held_out, orthogonality, read_state, run, write_state
from iroot.tuning_inputs import KINDS, Sample, Spectra, draw, normalised_singular_values

CPU = torch.device("cpu")
SAMPLE = Sample(kinds=("normal", "bernoulli"), shapes=((12, 12), (8, 20)), samples=1)
SETTINGS = Settings(sample=SAMPLE, made_for="aol", start="turbo_muon", steps=2, population=2)


def searched(settings: Settings, generations: int, path: Path) -> State:
    return run(PolarSearch(settings), generations=generations, state_file=path, observe=lambda state: None)


def test_resumed_is_uninterrupted(tmp_path: Path) -> None:
    whole = searched(SETTINGS, 8, tmp_path / "whole")
    for generations in (1, 4, 8):
        resumed = searched(SETTINGS, generations, tmp_path / "parts")
        assert resumed.generation == generations
    np.testing.assert_array_equal(resumed.population, whole.population)
    np.testing.assert_array_equal(resumed.values, whole.values)
    assert (tmp_path / "parts").read_bytes() == (tmp_path / "whole").read_bytes()


def test_an_interrupted_search_keeps_its_last_generation(tmp_path: Path) -> None:
    def interrupt(state: State) -> None:
        if state.generation == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(PolarSearch(SETTINGS), generations=8, state_file=tmp_path / "s", observe=interrupt)
    assert read_state(tmp_path / "s", SETTINGS).generation == 3
    whole = searched(SETTINGS, 6, tmp_path / "whole")
    np.testing.assert_array_equal(searched(SETTINGS, 6, tmp_path / "s").population, whole.population)


def test_seeds_repeat_and_differ(tmp_path: Path) -> None:
    first, again = (searched(SETTINGS, 3, tmp_path / name) for name in "ab")
    assert first.best() == again.best()
    assert searched(replace(SETTINGS, seed=1), 3, tmp_path / "c").best() != first.best()


def test_the_search_improves_on_its_start_within_its_ranges(tmp_path: Path) -> None:
    settings = replace(SETTINGS, population=4)
    search = PolarSearch(settings)
    begun = search.begin()
    start = search.objective(np.array([np.ravel(settings.start_coefficients())]).T)
    assert begun.values[0] == start[0]
    end = searched(settings, 40, tmp_path / "s")
    assert end.best_value < 0.8 * float(start[0])
    for value, (low, high) in zip(np.ravel(end.best()), settings.ranges(), strict=True):
        assert low <= value <= high
    s = np.linspace(0.0, 1.0, 500)
    for a, b, c in end.best():
        s = a * s + b * s**3 + c * s**5
    assert s.min() >= 0.0
    assert s.max() <= 1.3


def test_orthogonality_is_that_of_the_method() -> None:
    """The spectra's figure against `aol` and the scalar normalisations run on the matrix, in float64."""
    G = np.random.default_rng(0).standard_normal((16, 24))
    ops, table = make_ops("fp64", CPU), named_table("turbo_muon")
    for made_for in ("aol", "square", "gram", "frobenius"):
        values = normalised_singular_values(G, made_for)
        spectra = Spectra(labels=(), values=values, starts=np.array([0]))
        expected = float(orthogonality(np.array([table.take()]), spectra)[0, 0])
        operands = Operands(A=torch.from_numpy(G))
        if made_for == "aol":
            U = aol(operands, ops, AolOptions())
        else:
            U = polar_factor(operands, ops, Recipe(steps=quintics(table.take()), normalisation=made_for))  # type: ignore[arg-type]
        found = torch.linalg.matrix_norm(U @ U.mT - torch.eye(16, dtype=torch.float64)) / 4.0
        assert float(found) == pytest.approx(expected, rel=1e-6)


def test_held_out_inputs_are_others() -> None:
    normal = replace(SAMPLE, kinds=("normal",))
    np.testing.assert_array_equal(draw(normal, "aol", "search").values, draw(normal, "aol", "search").values)
    assert not np.isin(draw(normal, "aol", "search").values, draw(normal, "aol", "held out").values).any()
    table = named_table("turbo_muon")
    rows = held_out(table.take(), table.take(), SAMPLE, "aol")
    assert [row.kind for row in rows] == list(SAMPLE.kinds)
    for row in rows:
        assert (row.mean, row.worst) == (row.start_mean, row.start_worst)
        assert 0.0 < row.mean <= row.worst < 1.0


def test_kinds_have_their_moments() -> None:
    drawn = {kind: KINDS[kind](np.random.default_rng(0), 300, 300) for kind in KINDS}
    assert drawn["normal"].std() == pytest.approx(1.0, abs=0.01)
    assert drawn["uniform"].std() == pytest.approx(1.0 / math.sqrt(3.0), abs=0.01)
    assert drawn["bernoulli"].mean() == pytest.approx(0.5, abs=0.01)
    # Tails of an alpha-stable law: P(|x| > t) = 2 C t^-alpha, C = Gamma(alpha) sin(pi alpha / 2) / pi.
    tail = 2.0 * math.gamma(1.5) * math.sin(0.75 * math.pi) / math.pi * 30.0**-1.5
    assert float((np.abs(drawn["levy"]) > 30.0).mean()) == pytest.approx(tail, rel=0.25)


def test_state_files_of_other_searches_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "s"
    write_state(path, SETTINGS, PolarSearch(SETTINGS).begin())
    with pytest.raises(InvalidInputError, match="got one with others; remove it to begin anew"):
        read_state(path, replace(SETTINGS, spread=0.2))
    path.write_text("{")
    with pytest.raises(InvalidInputError, match="must be a state file"):
        read_state(path, SETTINGS)
    path.write_text(path.read_text().replace("{", '{"settings": 1}'))
    with pytest.raises(InvalidInputError, match="must be a state file"):
        read_state(path, SETTINGS)


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"start": "turbo_moon"}, UnknownNameError, "did you mean 'turbo_muon'"),
        ({"made_for": "aoll"}, UnknownNameError, "did you mean 'aol'"),
        ({"objective": "median"}, UnknownNameError, "did you mean 'mean'"),
        ({"steps": 0}, InvalidInputError, "steps must be from 1 to 12"),
        ({"spread": 0.0}, InvalidInputError, "spread must be in"),
        ({"population": 0}, InvalidInputError, "population must be"),
        ({"seed": -1}, InvalidInputError, "seed must be"),
    ],
)
def test_wrong_settings_are_refused(change: dict[str, object], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        replace(SETTINGS, **change)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"kinds": ("normall",)}, UnknownNameError, "did you mean 'normal'"),
        ({"shapes": ((1, 5),)}, InvalidInputError, "one shape of 2 x 2 or more"),
        ({"samples": 0}, InvalidInputError, "samples must be >= 1"),
    ],
)
def test_wrong_samples_are_refused(change: dict[str, object], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        replace(SAMPLE, **change)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_the_shipped_aol_table_beats_the_published_one(kind: str) -> None:
    """Mean orthogonality over inputs of neither its search nor its own held-out check."""
    sample = Sample(kinds=(kind,), shapes=((96, 96), (224, 224), (112, 448)), samples=4, seed=7)
    (row,) = held_out(find_table("aol_4").take(), find_table("turbo_muon").take(), sample, "aol")
    assert row.mean < row.start_mean
