"""Sampled inputs for the search of polar coefficients: their singular values after normalisation, in float64."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from iroot.coefficients import MadeFor
from iroot.errors import InvalidInputError, UnknownNameError
from iroot.minimax import Array

Purpose = Literal["search", "held out"]
_PURPOSES: tuple[Purpose, ...] = ("search", "held out")
"""Their inputs come from different random streams, so a seed of one is not a seed of the other."""

LEVY_ALPHA = 1.5


def _normal(generator: np.random.Generator, m: int, n: int) -> Array:
    return generator.standard_normal((m, n))


def _uniform(generator: np.random.Generator, m: int, n: int) -> Array:
    return generator.uniform(-1.0, 1.0, (m, n))


def _levy(generator: np.random.Generator, m: int, n: int) -> Array:
    """Chambers, Mallows and Stuck 1976; without a clip: normalised spectra have no range to leave."""
    alpha = LEVY_ALPHA
    angle = generator.uniform(-0.5 * math.pi, 0.5 * math.pi, (m, n))
    weight = generator.standard_exponential((m, n))
    tail = (np.cos((1.0 - alpha) * angle) / weight) ** ((1.0 - alpha) / alpha)
    entries: Array = np.sin(alpha * angle) / np.cos(angle) ** (1.0 / alpha) * tail
    return entries


def _bernoulli(generator: np.random.Generator, m: int, n: int) -> Array:
    return generator.integers(0, 2, (m, n)).astype(np.float64)


KINDS: dict[str, Callable[[np.random.Generator, int, int], Array]] = {
    "normal": _normal,  # N(0, 1)
    "uniform": _uniform,  # on [-1, 1]
    "levy": _levy,  # symmetric alpha-stable, alpha = 1.5: heavy tails
    "bernoulli": _bernoulli,  # 0 or 1, so that the mean makes one large singular value
}


@dataclass(frozen=True, kw_only=True)
class Label:
    """Which input a spectrum belongs to."""

    kind: str
    m: int
    n: int
    sample: int


@dataclass(frozen=True, kw_only=True)
class Spectra:
    """Singular values of several inputs, end to end.

    Attributes:
        values: (N,) all of them.
        starts: (S,) where each input's begin.
    """

    labels: tuple[Label, ...]
    values: Array
    starts: np.ndarray[tuple[int], np.dtype[np.intp]]


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Which inputs to draw.

    Attributes:
        kinds: names of `KINDS`.
        shapes: (m, n) each.
        samples: seeds of each kind and shape.
        seed: of the random streams.
    """

    kinds: tuple[str, ...]
    shapes: tuple[tuple[int, int], ...]
    samples: int
    seed: int = 0

    def __post_init__(self) -> None:
        for kind in self.kinds:
            if kind not in KINDS:
                raise UnknownNameError("kind of input", kind, KINDS)
        if not self.kinds or not self.shapes or any(min(shape) < 2 for shape in self.shapes):
            raise InvalidInputError(
                f"give at least one kind and one shape of 2 x 2 or more, got {self.kinds} and {self.shapes}"
            )
        if self.samples < 1 or self.seed < 0:
            raise InvalidInputError(f"samples must be >= 1 and seed >= 0, got {self.samples} and {self.seed}")


def draw(sample: Sample, made_for: MadeFor, purpose: Purpose) -> Spectra:
    """The spectra of a sample; equal arguments give equal values."""
    labels = tuple(
        Label(kind=kind, m=m, n=n, sample=i)
        for kind in sample.kinds
        for m, n in sample.shapes
        for i in range(sample.samples)
    )
    spectra = [_spectrum(label, sample.seed, made_for, purpose) for label in labels]
    starts = np.concatenate([[0], np.cumsum([len(spectrum) for spectrum in spectra])[:-1]]).astype(np.intp)
    return Spectra(labels=labels, values=np.concatenate(spectra), starts=starts)


def _spectrum(label: Label, seed: int, made_for: MadeFor, purpose: Purpose) -> Array:
    stream = (_PURPOSES.index(purpose), seed, sorted(KINDS).index(label.kind), label.m, label.n, label.sample)
    G = KINDS[label.kind](np.random.default_rng(stream), label.m, label.n)
    return normalised_singular_values(G if label.m <= label.n else G.T, made_for)


def normalised_singular_values(G: Array, made_for: MadeFor) -> Array:
    """Singular values of G (m x n, m <= n) after the normalisation that `iroot.methods` applies in exact arithmetic."""
    if made_for == "aol":
        rows = np.abs(G @ G.T).sum(1)
        scales = 1.0 / np.sqrt(np.where(rows > 0.0, rows, 1.0))
        values: Array = np.linalg.svd(G * scales[:, None], compute_uv=False)
        return values
    sigma: Array = np.linalg.svd(G, compute_uv=False)
    frobenius = float(np.linalg.norm(sigma))
    if made_for == "frobenius" or frobenius == 0.0:
        return _over(sigma, frobenius or 1.0)
    gram = float(np.linalg.norm(sigma**2)) ** 0.5
    if made_for == "gram":
        return _over(sigma, gram)
    A = G @ G.T
    squared = A @ A
    bound = min(
        gram, _row_sum(A) ** 0.5, float(np.linalg.norm(squared)) ** 0.25, _row_sum(squared) ** 0.25
    )  # as `iroot.methods._polar` takes it
    return _over(sigma, bound)


def _over(sigma: Array, bound: float) -> Array:
    scaled: Array = sigma / bound
    return scaled


def _row_sum(A: Array) -> float:
    return float(np.abs(A).sum(1).max())
