"""Bounds by ranks: against scipy's Mann-Whitney distribution, and by how often they hold."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from harness.rank_shift import _outside, _ways, rank_shift


@pytest.mark.parametrize(("n", "m"), [(1, 1), (2, 5), (3, 3), (6, 6), (6, 18)])
def test_the_distribution_is_scipys(n: int, m: int) -> None:
    ways = _ways(n, m)
    assert sum(ways) == math.comb(n + m, n)
    assert len(ways) == n * m + 1
    for u in range(0, n * m + 1, max(1, n * m // 4)):
        # The samples are chosen so that exactly u of the n m pairs are in order.
        ours = sum(ways[: u + 1]) / sum(ways)
        values = [m + 0.5] * n
        left = u
        for index in range(n):
            take = min(m, left)
            values[index], left = take + 0.5 + 1e-6 * index, left - take
        theirs = stats.mannwhitneyu(values, range(1, m + 1), alternative="less", method="exact")
        assert theirs.statistic == u
        assert ours == pytest.approx(theirs.pvalue, rel=1e-12)


def test_three_values_on_each_side_are_the_fewest() -> None:
    assert (_outside(3, 3, 0.05), _outside(2, 3, 0.05), _outside(6, 6, 0.05)) == (1, 0, 8)
    shift = rank_shift([5.0, 6.0, 7.0], [1.0, 2.0, 3.0], level=0.05)
    assert (shift.estimate, shift.low, shift.high) == (4.0, 2.0, 6.0)
    without = rank_shift([5.0, 6.0], [1.0, 2.0, 3.0], level=0.05)
    assert (without.estimate, without.low, without.high) == (3.5, None, None)


def test_swapped_sides_give_the_mirror_image() -> None:
    sample, other = [0.3, 0.1, 0.9, 0.45], [1.1, 0.2, 0.8, 2.0, 0.7]
    there, back = rank_shift(sample, other, level=0.05), rank_shift(other, sample, level=0.05)
    assert there.estimate == pytest.approx(-back.estimate)
    assert there.low is not None
    assert there.low == pytest.approx(-(back.high or 0.0))


def test_one_wild_value_does_not_move_the_bounds_away() -> None:
    calm = [1.0, 1.1, 0.9, 1.05, 0.95, 1.0]
    wild = rank_shift([30.0, *(2 * value for value in calm[1:])], calm, level=0.05)
    assert wild.low is not None
    assert wild.low > 0.7


def test_bounds_are_exceeded_as_often_as_stated() -> None:
    """Skewed and heavy-tailed alike: exponential and Cauchy samples, 1500 each; 3 standard errors of 5 % are 1.7 %."""
    generator = np.random.default_rng(7)
    for draw in (generator.exponential, generator.standard_cauchy):
        pairs = [(draw(size=6).tolist(), draw(size=6).tolist()) for _ in range(1500)]
        lows = [rank_shift(sample, other, level=0.05).low for sample, other in pairs]
        beyond = sum(low is not None and low > 0 for low in lows) / len(lows)
        assert 0.03 < beyond <= 0.067
    assert stats.mannwhitneyu(range(6), range(6), method="exact").pvalue == 1.0


def test_an_empty_sample_is_refused() -> None:
    with pytest.raises(ValueError, match="got 0 and 1"):
        rank_shift([], [1.0], level=0.05)
