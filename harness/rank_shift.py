"""How much larger one sample is than another, by ranks: for times with outliers, where a mean says nothing.

Pure functions; imports nothing of the project.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product
from statistics import median


@dataclass(frozen=True, kw_only=True)
class Shift:
    """A difference of location.

    Attributes:
        estimate: median of all pairwise differences (Hodges, Lehmann 1963).
        low, high: bounds by the Mann-Whitney distribution, each exceeded with probability `level` at most whatever the
            common shape of the two samples; None where they are too small for any bound.
    """

    estimate: float
    low: float | None
    high: float | None


def rank_shift(sample: Sequence[float], other: Sequence[float], *, level: float) -> Shift:
    """How far `sample` lies above `other`.

    Args:
        sample, other: independent, of any size but 0.
        level: of each one-sided bound; 0.05 takes at least three values on each side.

    Raises:
        ValueError: a sample is empty.
    """
    if not sample or not other:
        raise ValueError(f"both samples must hold a value, got {len(sample)} and {len(other)}")
    differences = sorted(mine - theirs for mine, theirs in product(sample, other))
    cut = _outside(len(sample), len(other), level)
    return Shift(
        estimate=median(differences),
        low=differences[cut - 1] if cut else None,
        high=differences[-cut] if cut else None,
    )


@cache
def _outside(n: int, m: int, level: float) -> int:
    """The largest c with P(U < c) <= level, U the Mann-Whitney statistic of equal distributions; 0 if there is none."""
    total, below = math.comb(n + m, n), 0
    for c, ways in enumerate(_ways(n, m), 1):
        below += ways
        if below > level * total * (1 + 1e-12):  # 1/20 <= 0.05 must hold
            return c - 1
    return n * m


@cache
def _ways(n: int, m: int) -> tuple[int, ...]:
    """How many of the C(n + m, n) orders have U = 0, 1, ..., n m: the Gaussian binomial coefficient.

    f(n, m, u) = f(n - 1, m, u - m) + f(n, m - 1, u), by which sample holds the largest value (Mann, Whitney 1947).
    """
    row: list[tuple[int, ...]] = [(1,) for _ in range(m + 1)]
    for size in range(1, n + 1):
        grown: list[tuple[int, ...]] = [(1,)]
        for other in range(1, m + 1):
            largest_mine, largest_theirs = row[other], grown[other - 1]
            ways = [0] * (size * other + 1)
            for u, count in enumerate(largest_mine):
                ways[u + other] += count
            for u, count in enumerate(largest_theirs):
                ways[u] += count
            grown.append(tuple(ways))
        row = grown
    return row[m]
