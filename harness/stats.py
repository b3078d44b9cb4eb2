"""Launches -> estimate, interval, test. Pure functions on arrays; imports nothing of the project.

The unit of statistics is the launch: the median of one launch is one observation, and times enter as logarithms, so
that every effect is a ratio. The last axis of an input array counts launches and NaN stands for a launch that a case
does not have; all other axes count cases, and every result has their shape. Effects on the log scale become fractions
by `expm1`. A minimum effect `tau` is a fraction too: the tolerated band is 1/(1 + tau) .. 1 + tau, symmetric on the log
scale, so that swapping the sides turns a slowdown into the same speed-up (1/(1 + tau) is 1 - tau up to tau^2).

Fewer than `MIN_LAUNCHES` launches on a side give an estimate without standard error, interval or test (NaN).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy import special

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]
FloatLike = float | Floats

MIN_LAUNCHES = 3
"""With two launches the 95 % interval is 12.7 standard errors wide on either side: nothing to decide on."""

ALPHA = 0.05
"""Level of every one-sided test."""

POWER = 0.8
"""Probability with which a slowdown of tau + MDE is called."""

MAX_PAIRS = 1000
"""More pairs nobody measures: a case that needs them needs a larger threshold, or a quieter machine."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Estimate:
    """log(candidate / reference) per case, with what a t-test needs.

    Attributes:
        log_ratio: mean difference of log times; below 0 the candidate is faster.
        se: its standard error, NaN with fewer than MIN_LAUNCHES launches on a side.
        df: degrees of freedom of `se`.
        n: launches of the candidate (pairs, for a paired estimate).
        n_ref: launches of the reference.
        confidence: of the two-sided interval `low` .. `high`.
    """

    log_ratio: Floats
    se: Floats
    df: Floats
    n: Integers
    n_ref: Integers
    confidence: float = 0.95

    @property
    def low(self) -> Floats:
        """Lower end of the two-sided interval of the log ratio."""
        return self.log_ratio - self._half_width

    @property
    def high(self) -> Floats:
        """Upper end of the two-sided interval of the log ratio."""
        return self.log_ratio + self._half_width

    @cached_property
    def mde(self) -> Floats:
        """Minimum detectable effect (t_{1-alpha} + t_{0.8}) se, on the log scale.

        The smallest slowdown called with power 0.8 is tau + MDE. For L pairs se = s_d / sqrt(L), for independent
        launches se = sqrt(s_B^2 / L_B + s_A^2 / L_A). The exact figure, by the noncentral t, is up to 1.1 % smaller.
        """
        return np.asarray((t_quantile(1 - ALPHA, self.df) + t_quantile(POWER, self.df)) * self.se)

    @cached_property
    def _half_width(self) -> Floats:
        return np.asarray(t_quantile((1 + self.confidence) / 2, self.df) * self.se)


def launch_median(samples_s: Sequence[float] | Floats) -> float:
    """exp(median(log sample)): the one figure that a launch contributes, in seconds.

    Raises:
        ValueError: no samples, or a sample that is not a positive finite time.
    """
    samples = np.asarray(samples_s, dtype=np.float64)
    if samples.size == 0:
        raise ValueError("a launch median needs at least one sample, got none")
    if not (np.isfinite(samples).all() and (samples > 0).all()):
        raise ValueError(f"samples must be positive finite seconds, got {samples.min()} .. {samples.max()}")
    return float(np.exp(np.median(np.log(samples))))


def geometric_mean(times_s: npt.ArrayLike) -> Floats:
    """exp(mean(log time)) over the launches, in seconds; NaN where there is none."""
    _, mean, _ = _moments(_log(times_s))
    return np.asarray(np.exp(mean))


def paired(candidate_s: npt.ArrayLike, reference_s: npt.ArrayLike, *, confidence: float = 0.95) -> Estimate:
    """Estimate from pairs of neighbouring launches: the mean of d_i = log B_i - log A_i.

    Args:
        candidate_s: (..., L) launch medians in seconds, NaN where absent.
        reference_s: same shape; entry i was measured next to entry i of the candidate.
        confidence: of the two-sided interval.
    """
    candidate, reference = _log(candidate_s), _log(reference_s)
    if candidate.shape != reference.shape:
        raise ValueError(f"paired sides must have one shape, got {candidate.shape} and {reference.shape}")
    n, mean, variance = _moments(candidate - reference)
    with np.errstate(invalid="ignore", divide="ignore"):
        se = np.where(n >= MIN_LAUNCHES, np.sqrt(variance / n), np.nan)
    df = np.where(n >= MIN_LAUNCHES, n - 1.0, np.nan)
    return Estimate(log_ratio=mean, se=se, df=df, n=n, n_ref=n, confidence=confidence)


def unpaired(candidate_s: npt.ArrayLike, reference_s: npt.ArrayLike, *, confidence: float = 0.95) -> Estimate:
    """Estimate from independent launches of either side, with unequal variances (Welch 1947).

    se^2 = s_B^2 / L_B + s_A^2 / L_A; df by Welch-Satterthwaite.

    Args:
        candidate_s: (..., L_B) launch medians in seconds, NaN where absent.
        reference_s: (..., L_A) likewise, the same leading axes.
        confidence: of the two-sided interval.
    """
    n, mean, variance = _moments(_log(candidate_s))
    n_ref, mean_ref, variance_ref = _moments(_log(reference_s))
    enough = (n >= MIN_LAUNCHES) & (n_ref >= MIN_LAUNCHES)
    with np.errstate(invalid="ignore", divide="ignore"):
        own, other = np.asarray(variance / n), np.asarray(variance_ref / n_ref)
        df = _satterthwaite(own, np.asarray(n - 1.0), other, np.asarray(n_ref - 1.0))
    return Estimate(
        log_ratio=mean - mean_ref,
        se=np.where(enough, np.sqrt(own + other), np.nan),
        df=np.where(enough, df, np.nan),
        n=n,
        n_ref=n_ref,
        confidence=confidence,
    )


def blocked(candidate_s: npt.ArrayLike, reference_s: npt.ArrayLike, *, confidence: float = 0.95) -> Estimate:
    """Estimate from launches of one order each on both sides: paired, d_k = log B_k - mean_r log A_kr.

    What launch k does to all runs alike leaves with the difference. An offset of a whole run stays in every d_k: `se`
    does not hold it, whoever decides must (`prediction_margin`).

    Args:
        candidate_s: (..., L) launch medians in seconds, NaN where absent.
        reference_s: (..., L, R) of the R runs of the reference in the same launch; all NaN where the launch is absent.
        confidence: of the two-sided interval.
    """
    reference = np.asarray(reference_s, dtype=np.float64)
    estimate = paired(candidate_s, geometric_mean(reference), confidence=confidence)
    both = np.isfinite(np.asarray(candidate_s, dtype=np.float64))[..., None] & np.isfinite(reference)
    return replace(estimate, n_ref=np.asarray(both.sum(axis=(-2, -1))))


def further_run(runs_s: npt.ArrayLike) -> Estimate:
    """What `blocked` would say of one more run like these, compared with them: log ratio 0, and its standard error.

    se^2 = s^2 (1 + 1/R) / L, where s^2 is what launch k and run r leave of log A_kr, on (L - 1)(R - 1) degrees of
    freedom; df are those of the test, L - 1.

    Args:
        runs_s: (..., L, R) launch medians in seconds of R >= 2 runs, none absent.
    """
    logs = _log(runs_s)
    launches, runs = logs.shape[-2:]
    if runs < 2 or launches < MIN_LAUNCHES:
        raise ValueError(f"needs at least 2 runs of {MIN_LAUNCHES} launches, got {runs} of {launches}")
    centred = logs - logs.mean(axis=-1, keepdims=True)
    rest = centred - centred.mean(axis=-2, keepdims=True)
    variance = np.asarray((rest**2).sum(axis=(-2, -1)) / ((launches - 1) * (runs - 1)))
    shape = np.ones_like(variance)
    return Estimate(
        log_ratio=0.0 * shape,
        se=np.sqrt(variance * (1 + 1 / runs) / launches),
        df=(launches - 1) * shape,
        n=np.full(shape.shape, launches),
        n_ref=np.full(shape.shape, launches * runs),
    )


def pool_controls(controls: Estimate) -> Estimate:
    """One estimate of the machine's own change from several control kernels: mean log ratio, weighted by 1 / se^2.

    A control that is itself too noisy to say anything must not drown the cases it is to correct: a copy on a small CPU
    gave ratios of 0.27 to 0.85 on identical code (2026-11). Controls share launches, so their errors are correlated to
    an unknown degree: the standard error is the weighted mean of theirs, an upper bound under any correlation; df is
    the smallest.
    """
    weights = _control_weights(controls)
    return Estimate(
        log_ratio=np.asarray(weights @ controls.log_ratio),
        se=np.asarray(weights @ controls.se),
        df=np.asarray(controls.df.min()),
        n=np.asarray(controls.n.min()),
        n_ref=np.asarray(controls.n_ref.min()),
        confidence=controls.confidence,
    )


def control_disagreement(controls: Estimate) -> float:
    """Largest distance of a control from the pooled controls beyond its own interval, on the log scale.

    What the correction can leave in a case that follows one of the controls alone.
    """
    half_width = controls.high - controls.log_ratio
    excess = np.abs(controls.log_ratio - _control_weights(controls) @ controls.log_ratio) - half_width
    return float(np.maximum(excess, 0.0).max())


def _control_weights(controls: Estimate) -> Floats:
    """Weights 1 / se^2, summing to one; equal where a standard error is unknown or zero."""
    variances = np.square(controls.se)
    if not np.all(np.isfinite(variances) & (variances > 0)):
        variances = np.ones_like(controls.log_ratio)
    inverse = 1.0 / variances
    weights: Floats = inverse / inverse.sum()
    return weights


def corrected(estimate: Estimate, by: Estimate) -> Estimate:
    """`estimate` minus the machine's own change `by`; variances add, df by Welch-Satterthwaite."""
    df = _satterthwaite(estimate.se**2, estimate.df, by.se**2, by.df)
    return Estimate(
        log_ratio=estimate.log_ratio - by.log_ratio,
        se=np.sqrt(estimate.se**2 + by.se**2),
        df=df,
        n=estimate.n,
        n_ref=estimate.n_ref,
        confidence=estimate.confidence,
    )


def p_slower(estimate: Estimate, tau: FloatLike = 0.0) -> Floats:
    """One-sided p of H0 "ratio <= 1 + tau": small means surely slower by more than tau."""
    return _upper_tail(estimate.log_ratio - np.log1p(tau), estimate)


def p_faster(estimate: Estimate, tau: FloatLike = 0.0) -> Floats:
    """One-sided p of H0 "ratio >= 1 / (1 + tau)": small means surely faster by more than tau."""
    return _upper_tail(-estimate.log_ratio - np.log1p(tau), estimate)


def is_unchanged(estimate: Estimate, tau: FloatLike) -> Flags:
    """The interval lies inside 1/(1 + tau) .. 1 + tau, and MDE <= tau."""
    margin = np.log1p(tau)
    return np.asarray((estimate.high < margin) & (estimate.low > -margin) & (estimate.mde <= margin))


def pairs_to_decide(log_ratio: float, spread: float, tau: float, *, family: int = 1) -> int | None:
    """Fewest pairs after which the ratio seen would be judged, were it and the spread seen the true ones.

    L pairs give se = s_d / sqrt(L). Within the minimum effect: `is_unchanged`, so MDE <= log(1 + tau) and the interval
    inside. Beyond it: the excess over log(1 + tau) is at least t_{1 - alpha / family} se, Holm's first step.

    Args:
        log_ratio: the effect seen.
        spread: s_d, standard deviation of the log differences of the pairs.
        tau: minimum effect.
        family: cases tested with this one.

    Returns:
        None if MAX_PAIRS would not do: the effect is next to tau, or the spread is hopeless.
    """
    margin, effect = np.log1p(tau), abs(log_ratio)
    pairs = np.arange(MIN_LAUNCHES, MAX_PAIRS + 1)
    se = spread / np.sqrt(pairs)
    if effect < margin:
        mde = (_quantiles_of_pairs(1 - ALPHA) + _quantiles_of_pairs(POWER)) * se
        enough = (mde <= margin) & (_quantiles_of_pairs(0.975) * se < margin - effect)
    else:
        enough = _quantiles_of_pairs(1 - ALPHA / family) * se < effect - margin
    return int(pairs[enough.argmax()]) if enough.any() else None


@lru_cache(maxsize=64)
def _quantiles_of_pairs(probability: float) -> Floats:
    """t quantiles for MIN_LAUNCHES .. MAX_PAIRS pairs: most undecided cases of a comparison ask for the same ones."""
    return t_quantile(probability, np.arange(MIN_LAUNCHES - 1, MAX_PAIRS, dtype=np.float64))


def holm(p: Floats) -> Floats:
    """Holm's step-down adjustment (1979) along the last axis; NaN entries are outside the family and stay NaN."""
    values = np.asarray(p, dtype=np.float64)
    order = np.argsort(values, axis=-1)  # NaN sorts last
    family = np.isfinite(values).sum(axis=-1, keepdims=True)
    ranked = np.take_along_axis(values, order, axis=-1) * (family - np.arange(values.shape[-1]))
    stepped = np.minimum(np.maximum.accumulate(ranked, axis=-1), 1.0)
    adjusted = np.empty_like(values)
    np.put_along_axis(adjusted, order, stepped, axis=-1)
    return np.where(np.isfinite(values), adjusted, np.nan)


def clopper_pearson(hits: int, trials: int, *, confidence: float = 0.95) -> tuple[float, float]:
    """Exact two-sided interval of a proportion (Clopper and Pearson 1934)."""
    if not 0 <= hits <= trials or trials == 0:
        raise ValueError(f"needs 0 <= hits <= trials and trials > 0, got {hits} of {trials}")
    tail = (1 - confidence) / 2
    low = special.betaincinv(hits, trials - hits + 1, tail) if hits else 0.0
    high = special.betaincinv(hits + 1, trials - hits, 1 - tail) if hits < trials else 1.0
    return float(low), float(high)


def prediction_margin(spread: float, runs: int) -> float:
    """How far a further run may lie above the mean of `runs` earlier ones: t(0.95, m-1) s sqrt(1 + 1/m), log scale.

    Args:
        spread: standard deviation s of log time between the runs.
        runs: their number m >= 2 (3 runs give 3.4 s).
    """
    if runs < 2:
        raise ValueError(f"a spread between runs needs at least 2 runs, got {runs}")
    return float(t_quantile(1 - ALPHA, runs - 1) * spread * np.sqrt(1 + 1 / runs))


def interleaved(pairs: int, *, first: Literal["A", "B"] = "A") -> tuple[Literal["A", "B"], ...]:
    """Order of launches A B B A A B B A …; `first="B"` gives the reversed order of the gate's second stage.

    With an even number of pairs a linear drift cancels in the mean of d_i.
    """
    second: Literal["A", "B"] = "B" if first == "A" else "A"
    order: list[Literal["A", "B"]] = []
    for pair in range(pairs):
        order += [first, second] if pair % 2 == 0 else [second, first]
    return tuple(order)


def t_quantile(probability: float, df: FloatLike) -> Floats:
    """Quantile of Student's t; NaN where df is NaN.

    Cases share a handful of df (equal numbers of pairs), and `stdtrit` costs 0.8 us each: once per distinct df.
    """
    distinct, place = np.unique(np.asarray(df, dtype=np.float64), return_inverse=True)
    return np.asarray(special.stdtrit(distinct, probability)[place].reshape(np.shape(df)))


def normal_quantile(probability: float) -> float:
    """Quantile of the standard normal distribution, for a spread that is known rather than estimated."""
    return float(special.ndtri(probability))


def _log(times_s: npt.ArrayLike) -> Floats:
    times = np.asarray(times_s, dtype=np.float64)
    if (times <= 0).any() or np.isinf(times).any():
        raise ValueError("launch medians must be positive finite seconds, or NaN where a launch is absent")
    return np.log(times)


def _moments(values: Floats) -> tuple[Integers, Floats, Floats]:
    """Count, mean and variance (ddof 1) over the last axis, NaN ignored; NaN where too few."""
    present = np.isfinite(values)
    n = np.asarray(present.sum(axis=-1))
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.asarray(np.where(present, values, 0.0).sum(axis=-1) / n)
        deviation = np.where(present, values - mean[..., None], 0.0)
        variance = np.asarray((deviation**2).sum(axis=-1) / np.where(n > 1, n - 1, np.nan))
    return n, mean, variance


def _satterthwaite(own: Floats, own_df: Floats, other: Floats, other_df: Floats) -> Floats:
    """Degrees of freedom of own + other; by the share of either, so that tiny variances do not underflow.

    Two zero variances (times below the clock's resolution) count as equal ones.
    """
    total = own + other
    with np.errstate(invalid="ignore", divide="ignore"):
        share = np.where(total > 0, own / total, np.where(total == 0, 0.5, np.nan))
        return np.asarray(1.0 / (share**2 / own_df + (1 - share) ** 2 / other_df))


def _upper_tail(excess: Floats, estimate: Estimate) -> Floats:
    """P(T >= excess / se); without any spread the sign of the excess decides."""
    with np.errstate(invalid="ignore", divide="ignore"):
        tail = special.stdtr(estimate.df, -excess / estimate.se)
    certain = np.where(excess > 0, 0.0, 1.0)
    return np.asarray(np.where(estimate.se == 0, certain, tail))
