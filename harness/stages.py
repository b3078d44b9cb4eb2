"""The gate's two stages on arrays: which cases the first leaves open, and how the second decides them.

The second stage decides on its own launches alone. What the first found may choose the cases and the order in which
they are tested: the two are independent, so the second's error rate stays what it is.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from harness.stats import ALPHA, Estimate, Flags, FloatLike, Floats, holm, p_slower

ROUTE_P = 0.10
"""A case looks slower if its raw p for "ratio <= 1" is below this and its effect exceeds tau / 2."""


@dataclass(frozen=True, kw_only=True, eq=False)
class GateDecision:
    """Stage 2 of the gate: exactly one of the three flags per routed case, none for the others.

    Attributes:
        adjusted_p: Holm-adjusted p for "ratio <= 1 + tau" over the routed cases, NaN for the others.
        regressed: surely slower than 1 + tau.
        passed: surely not slower than 1 + tau.
        undecided: neither.
    """

    adjusted_p: Floats
    regressed: Flags
    passed: Flags
    undecided: Flags


def looks_slower(estimate: Estimate, tau: FloatLike) -> Flags:
    """Cases of the first stage that are suspected: raw p < 0.10 for "ratio <= 1" and effect > tau / 2."""
    return np.asarray((p_slower(estimate) < ROUTE_P) & (np.expm1(estimate.log_ratio) > np.asarray(tau) / 2))


def route_stage1(estimate: Estimate, tau: FloatLike) -> Flags:
    """Cases of the gate's first stage that must be measured again.

    Those that look slower and those whose upper bound is above 1 + tau; a case without an interval is routed too. The
    others are surely not slower than 1 + tau and pass.
    """
    surely_not_slower = estimate.high < np.log1p(tau)
    return np.asarray(looks_slower(estimate, tau) | ~surely_not_slower)


def holm_in_turn(p: Floats, first: Flags) -> Floats:
    """Holm over the cases of `first`; the others, by Holm too, only once every one of `first` is rejected.

    Serial gatekeeping (Westfall and Krishen 2001) keeps the family-wise rate of the whole: if a true hypothesis of
    `first` is wrongly rejected, that is Holm's error over `first`; else none of the others is rejected, unless every
    hypothesis of `first` is false, and then Holm's error over the others is the only one.

    Args:
        p: raw; NaN is outside the family. Last axis: the cases.
        first: chosen without the data behind `p`; where it is empty this is `stats.holm`.
    """
    suspected, rest = holm(np.where(first, p, np.nan)), holm(np.where(first, np.nan, p))
    gate = np.where(first, np.where(np.isnan(p), 1.0, suspected), 0.0).max(axis=-1, keepdims=True)
    return np.where(first, suspected, np.maximum(rest, gate))


def decide_stage2(
    fresh: Estimate, tau: FloatLike, *, routed: Flags | None = None, suspected: Flags | None = None
) -> GateDecision:
    """Decide the routed cases on their fresh pairs alone, Holm-corrected over the routed cases, suspects first.

    Args:
        fresh: estimate from the second stage's launches, never those of the first.
        tau: minimum effect.
        routed: which entries (last axis: the family) were routed; None means all of `fresh`.
        suspected: those of them that looked slower in the first stage; None: all alike.
    """
    family = np.ones(fresh.log_ratio.shape, dtype=np.bool_) if routed is None else routed
    first = np.zeros_like(family) if suspected is None else suspected & family
    raw = np.where(np.isfinite(fresh.se), p_slower(fresh, tau), 1.0)
    adjusted = holm_in_turn(np.where(family, raw, np.nan), first)
    regressed = family & (adjusted < ALPHA)
    passed = family & ~regressed & (fresh.high < np.log1p(tau))
    return GateDecision(
        adjusted_p=adjusted, regressed=regressed, passed=passed, undecided=family & ~regressed & ~passed
    )
