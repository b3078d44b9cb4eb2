"""Search of polar coefficients by differential evolution (Storn and Price, J. Global Optim. 11, 1997).

For input whose rows were rescaled (AOL) no interval describes the spectrum and no minimax theory applies; the same is
true wherever the mean over typical inputs counts and not the worst point of an interval. So the coefficients of a few
quintics are searched that leave sampled spectra as near to 1 as possible, in exact arithmetic:

    orthogonality(input) = (mean over its singular values s of (f(s)^2 - 1)^2)^(1/2)

with f the composition. A composition that leaves [0, 1.3] for some s in [0, 1.02], every step being inflated by 1 %, is
penalised, so that a table stays safe on spectra it was not searched on and under 16-bit rounding.

Each generation is one call of SciPy's `differential_evolution` with its own random stream. Nothing but the population
passes from one to the next, so a search that is interrupted and resumed ends where an uninterrupted one does.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from scipy.optimize import Bounds, differential_evolution

from iroot.coefficients import MadeFor, OddQuintic
from iroot.errors import InvalidInputError, UnknownNameError
from iroot.minimax import Array
from iroot.table_files import HeldOut, find_table
from iroot.tuning_inputs import Sample, Spectra, draw

Objective = Literal["mean", "worst"]

_GUARD = np.linspace(0.0, 1.02, 200)
_INFLATION = 1.01
_LARGEST_RESULT = 1.3
_PENALTY = 10.0
# What a trial may reach on the way: larger values are as bad, and their powers would overflow.
_CLIP = 1e3


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What decides a search, apart from its length.

    Attributes:
        start: a table by name or file; its coefficients are one member of the first population.
        steps: of the composition: the first of the start's, its last one repeated.
        made_for: the normalisation of the inputs.
        spread: every coefficient c of the start is searched in c -+ spread |c|.
        objective: of the orthogonality errors, the mean, or the largest mean of one kind and shape.
        population: members per coefficient.
        seed: of the search; the sample has its own.
    """

    sample: Sample
    made_for: MadeFor
    start: str
    steps: int
    objective: Objective = "mean"
    spread: float = 0.5
    population: int = 15
    seed: int = 0

    def __post_init__(self) -> None:
        if self.made_for not in get_args(MadeFor):
            raise UnknownNameError("normalisation", self.made_for, get_args(MadeFor))
        if self.objective not in get_args(Objective):
            raise UnknownNameError("objective", self.objective, get_args(Objective))
        if not 1 <= self.steps <= 12:
            raise InvalidInputError(f"steps must be from 1 to 12, got {self.steps}")
        if not 0.0 < self.spread <= 2.0:
            raise InvalidInputError(f"spread must be in (0, 2], got {self.spread}")
        if self.population < 1 or self.population * 3 * self.steps < 5:
            raise InvalidInputError(f"population must be >= 1 and give 5 members, got {self.population}")
        if self.seed < 0:
            raise InvalidInputError(f"seed must be >= 0, got {self.seed}")
        find_table(self.start)

    def start_coefficients(self) -> tuple[OddQuintic, ...]:
        """The coefficients that the ranges surround."""
        given = find_table(self.start).take()
        return tuple(given[min(t, len(given) - 1)] for t in range(self.steps))

    def ranges(self) -> tuple[tuple[float, float], ...]:
        """(low, high) of each coefficient, in order."""
        flat = np.ravel(self.start_coefficients())
        reach = self.spread * np.maximum(np.abs(flat), 1e-3)
        return tuple(zip((flat - reach).tolist(), (flat + reach).tolist(), strict=True))


@dataclass(frozen=True, kw_only=True)
class State:
    """Where a search is.

    Attributes:
        generation: how many were made.
        population: (members, 3 steps) coefficients.
        values: (members,) their objective.
    """

    generation: int
    population: Array
    values: Array

    @property
    def best_value(self) -> float:
        """The smallest objective."""
        return float(self.values.min())

    def best(self) -> tuple[OddQuintic, ...]:
        """The coefficients with the smallest objective."""
        flat = self.population[int(self.values.argmin())].tolist()
        return tuple((flat[i], flat[i + 1], flat[i + 2]) for i in range(0, len(flat), 3))


class PolarSearch:
    """A search over drawn inputs; `begin`, then `advance` as often as wanted."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._spectra = draw(settings.sample, settings.made_for, "search")
        self._groups = _groups(self._spectra)

    def begin(self) -> State:
        """The first population: a Latin hypercube over the ranges, and the start."""
        low, high = np.array(self.settings.ranges()).T
        members, width = self.settings.population * len(low), len(low)
        generator = np.random.default_rng((self.settings.seed, 0))
        cells = np.stack([generator.permutation(members) for _ in range(width)], axis=1)
        population = low + (high - low) * (cells + generator.random((members, width))) / members
        population[0] = np.ravel(self.settings.start_coefficients())
        return State(generation=0, population=population, values=self.objective(population.T))

    def advance(self, state: State) -> State:
        """One generation; no member's objective grows."""
        low, high = np.array(self.settings.ranges()).T

        def objective(columns: Array) -> Array:
            # SciPy evaluates the population it is given once more: half of all the work.
            known = columns.shape == state.population.T.shape and np.allclose(columns.T, state.population, 1e-12, 0.0)
            return state.values if known else self.objective(columns)

        vectorised: Any = objective  # SciPy's types know one point at a time
        result = differential_evolution(
            vectorised,
            Bounds(low, high),
            init=state.population,
            maxiter=1,
            tol=0.0,
            atol=0.0,
            rng=np.random.default_rng((self.settings.seed, state.generation + 1)),
            polish=False,
            updating="deferred",
            vectorized=True,
        )
        population: Array = np.array(result.population)
        values: Array = np.array(result.population_energies)
        return State(generation=state.generation + 1, population=population, values=values)

    def objective(self, columns: Array) -> Array:
        """(3 steps, members) coefficients -> (members,) what is minimised."""
        triples = np.ascontiguousarray(columns.T).reshape(columns.shape[1], -1, 3)
        errors = orthogonality(triples, self._spectra)
        means = np.stack([errors[:, group].mean(1) for group in self._groups], axis=1)
        value = means.mean(1) if self.settings.objective == "mean" else means.max(1)
        guarded = _compose(triples, _GUARD, _INFLATION)
        outside = np.maximum(guarded.max(1) - _LARGEST_RESULT, 0.0) + np.maximum(-guarded.min(1), 0.0)
        total: Array = value + _PENALTY * outside
        return total


def run(search: PolarSearch, *, generations: int, state_file: Path, observe: Callable[[State], None]) -> State:
    """Search for `generations` in all, from `state_file` where there is one; it is written after each generation.

    Raises:
        InvalidInputError: the file belongs to another search, or is none.
    """
    state = read_state(state_file, search.settings) if state_file.exists() else search.begin()
    observe(state)
    while state.generation < generations:
        state = search.advance(state)
        write_state(state_file, search.settings, state)
        observe(state)
    return state


def write_state(path: Path, settings: Settings, state: State) -> None:
    """Keep a state, every digit of it; the file is replaced at once, so that an interruption leaves a whole one."""
    values = {
        "settings": asdict(settings),
        "generation": state.generation,
        "population": state.population.tolist(),
        "values": state.values.tolist(),
    }
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(values), encoding="utf-8")
    part.replace(path)


def read_state(path: Path, settings: Settings) -> State:
    """The state in `path`; raises InvalidInputError unless it was written with the same settings."""
    remedy = "remove it to begin anew, or name another with --state"
    try:
        values: Any = json.loads(path.read_text(encoding="utf-8"))
        kept, generation = values["settings"], int(values["generation"])
        population, found = np.array(values["population"], dtype=float), np.array(values["values"], dtype=float)
    except (OSError, ValueError, TypeError, KeyError, json.JSONDecodeError) as error:
        raise InvalidInputError(f"{path} must be a state file of `iroot tune polar` ({error}); {remedy}") from None
    if kept != json.loads(json.dumps(asdict(settings))):
        raise InvalidInputError(f"{path} must be of a search with these settings, got one with others; {remedy}")
    width = 3 * settings.steps
    if population.shape != (settings.population * width, width) or found.shape != population.shape[:1]:
        raise InvalidInputError(f"{path} must hold {settings.population * width} members; {remedy}")
    return State(generation=generation, population=population, values=found)


def orthogonality(triples: Array, spectra: Spectra) -> Array:
    """(members, steps, 3) coefficients -> (members, inputs): ||U U^T - I||_F / sqrt(rank) in exact arithmetic."""
    squared = (_compose(triples, spectra.values, 1.0) ** 2 - 1.0) ** 2
    sizes = np.diff(np.append(spectra.starts, len(spectra.values)))
    errors: Array = np.sqrt(np.add.reduceat(squared, spectra.starts, axis=1) / sizes)
    return errors


def held_out(
    table: tuple[OddQuintic, ...], start: tuple[OddQuintic, ...], sample: Sample, made_for: MadeFor
) -> tuple[HeldOut, ...]:
    """Both compositions on inputs that no search sees, kind by kind."""
    spectra = draw(sample, made_for, "held out")
    found, before = (orthogonality(np.array([triples]), spectra)[0] for triples in (table, start))
    rows = []
    for kind in sample.kinds:
        chosen = np.array([label.kind == kind for label in spectra.labels])
        rows.append(
            HeldOut(
                kind=kind, mean=float(found[chosen].mean()), worst=float(found[chosen].max()),
                start_mean=float(before[chosen].mean()), start_worst=float(before[chosen].max()),
            )
        )  # fmt: skip
    return tuple(rows)


def _compose(triples: Array, s: Array, inflation: float) -> Array:
    """(members, len(s)): every composition at every s, each step times `inflation`."""
    result = np.empty((len(triples), len(s)))
    # Member by member: 5000 values stay in the cache, 180 times as many do not (four times slower).
    for values, steps in zip(result, triples, strict=True):
        values[:] = s
        for a, b, c in steps * inflation:
            square = values * values
            factor = c * square
            factor += b
            factor *= square
            factor += a
            values *= factor
            np.clip(values, -_CLIP, _CLIP, out=values)
    return result


def _groups(spectra: Spectra) -> tuple[np.ndarray[tuple[int], np.dtype[np.intp]], ...]:
    """The inputs of each kind and shape."""
    keys = [(label.kind, label.m, label.n) for label in spectra.labels]
    return tuple(np.array([i for i, key in enumerate(keys) if key == group]) for group in dict.fromkeys(keys))
