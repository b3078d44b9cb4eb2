"""The errors that methods of few bits are seen to keep, which `iroot.planning` states and asks options for."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from iroot.precision import get_precision
from iroot.registry import MethodSpec, Workload

SCHEDULE_SHARE = 0.2
"""The schedule's share of rtol: further steps cost a few products, and rounding needs the rest."""
_GRADED_CUSHION = 0.05
"""Of graded schedules. Half of the eigenvalues small, float16, p = 3, kappa 5.3e3, n = 512: 1.02e-3 with a cushion of
0.032 and 5.4e-4 with the next larger one, 0.2; 9.0e-4 with 0.053 at p = 4, n = 1024 (CPU emulation, 2026-11)."""
_LINEAR_CUSHION = 0.1
"""The same at p = 1, where the noise of a step is not tamed by a root. Wishart + 1e-3 I, n = 128, float16,
applied to 16 columns: 1.05e-3 with a cushion of 0.043 and 4.2e-4 with the next larger one. Diagonal matrices, whose
rounding does not average out, bfloat16, kappa 1e3, bound 1e4: 2.5 times the tier with 0.05 and below it with 0.1 (CPU
emulation, 2026-11)."""
SPLIT_CUSHION = 0.03
"""Of coupled schedules in two words, for a small residual: 1.4e-3 with it and 2.1e-2 without at p = 8, kappa 1e4, a
bound of 1e-6 and a target of 6e-5 (log-spaced, n = 512, fp16x3, CPU emulation, 2026-11)."""


@dataclass(frozen=True, kw_only=True)
class Tier:
    """The error a graded iteration is seen to keep; its own statement, made for verification, is three times as large.

    Largest of five spectra (log-spaced, power law, one or half or all but one of the eigenvalues small) and p = 1, 2,
    3, 4, 8, in units of `error`, with the cushions above, float16: 0.56 at kappa 1e3 (n = 96 and 256), 0.91 at 5.3e3,
    0.74 at 1e4 (n = 96 to 1024), 3.7 at 1e5; bfloat16: 0.9 at 1e3, 2.7 at 1e4 (n = 96). Applied to Gaussian columns the
    same, and for `hybrid` up to 1.6 and 4.8 at kappa 1e4 (CPU emulation with exact sums, 2026-11).

    Tensor cores cut their sums, and an isolated smallest eigenvalue, one or a few of n, shows all of it: from kappa
    about 3e3 on that is more than the tier. One eigenvalue small, p = 1, 2, 3, 4, 8, float16, n = 512, sums as short as
    `iroot.graded_steps.sum_for` has them: 2.2, 1.1, 1.0, 0.77 and 0.17 times 1e-3 at kappa 1e4, where the tier is
    1e-3, and 12, 6.9, 4.5, 2.6 and 0.97 times 1e-3 at 1e5, where it is 4e-3; a tenth of them small: at most 1.3e-3 and
    1.8e-3 (emulation that gives the errors of an H100 for sums of 128 to 512 columns, 2026-11-23). Sums of K columns
    throughout, as the library's products have 256, add c K kappa, c = 4.9e-9, 2.3e-9 and 4.9e-10 for p = 1, 2, 4
    (H100, K = 128 to 512, kappa 1e3 to 1e5, n = 512 to 2048, 2026-11-23). `Result.estimated_error`, which compares with
    float64, shows either.

    Attributes:
        error: kept up to condition number `kappa`; it grows as kappa^growth from there to `largest_kappa`.
        easy_kappa: three quarters of `error` are kept up to here.
        far_kappa: from `largest_kappa` to here `far_error` (kappa / far_kappa)^0.93 p^-0.85 are kept by sums whose
            trace is exact, and nothing beyond.
    """

    error: float
    kappa: float
    largest_kappa: float
    easy_kappa: float = 0.0
    growth: float = 0.6
    far_kappa: float = 0.0
    far_error: float = 0.0

    def is_far(self, lower: float) -> bool:
        """Whether a bound is beyond `largest_kappa`."""
        return 1.0 / lower > self.largest_kappa * (1.0 + 1e-9)

    def at(self, lower: float, n: int) -> float | None:
        """The error at this bound and size, None where it is far.

        What sums of at most 512 columns lose does not grow with n up to 2048: float16, kappa 1e4, p = 2, log-spaced:
        6.7e-4 at n = 512, 7.0e-4 at 1024, 7.1e-4 at 2048, 7.5e-4 at 4096 (H100, 2026-11).
        """
        if self.is_far(lower):
            return None
        kappa = 1.0 / lower
        error = self.error * (0.75 if kappa <= self.easy_kappa else 1.0)
        return error * math.pow(max(1.0, kappa / self.kappa), self.growth) * math.pow(max(1.0, n / 2048.0), 0.25)

    def far(self, lower: float, n: int, p: int) -> float | None:
        """The error at a bound beyond `largest_kappa` where sums have an exact trace, None beyond `far_kappa`.

        Largest of eight spectra, with one eigenvalue small where nothing else is said, p = 1, 2, 3, 4, 8, sums as short
        as `iroot.graded_steps.sum_for` has them, n = 512: 9.7e-2, 4.9e-2, 3.3e-2, 2.2e-2 and (half of them small)
        6.4e-3 at kappa 1e6; 1.7e-2, 9.2e-3, 6.4e-3, 4.0e-3 and (half) 1.7e-3 at 2e5; 1.2e-2, 6.9e-3, 4.5e-3, 2.6e-3 and
        (a tenth) 1.5e-3 at 1e5. At 1e6 half: 2.4e-2, 1.6e-2, 1.2e-2, 1.3e-2; log-spaced: 1.9e-3, 1.3e-3, 9.8e-4,
        1.1e-3 (CPU emulation, 2026-11-23; with 512 columns in every step it gives 0.34, 0.18 and 0.066 for one small, p
        = 1, 2, 4, kappa 2e5, and 6.8e-3, 4.2e-3 and 2.0e-3 log-spaced at 1e6, and an H100 0.34, 0.18 and 0.066, 7.3e-3,
        3.7e-3 and 1.9e-3).
        """
        kappa = 1.0 / lower
        if kappa > self.far_kappa:
            return None
        at_one = self.far_error * math.pow(kappa / self.far_kappa, 0.93) * math.pow(max(1.0, n / 2048.0), 0.25)
        return at_one * math.pow(p, -0.85)


TIERS = {
    ("graded_pe", "bf16"): Tier(error=8e-3, kappa=1e3, largest_kappa=1e4),
    ("graded_pe", "fp16"): Tier(
        error=1e-3, kappa=1.2e4, largest_kappa=1e5, easy_kappa=1.1e3, growth=0.65, far_kappa=1.2e6, far_error=0.125
    ),
    ("hybrid", "bf16"): Tier(error=2.4e-2, kappa=1e3, largest_kappa=1e4),
    ("hybrid", "fp16"): Tier(error=2e-3, kappa=8e3, largest_kappa=1e5),
}
"""`hybrid` rounds once more per degree of its polynomial. A Gram matrix that is formed is served by `graded_pe`."""

_COUPLED_GROWTH = 0.25
_LARGEST_COUPLED = 0.1
"""Of the rounding of `coupled_pe` in one word: (2 + growth kappa / p) unit roundoffs, up to this error.

Largest of the spectra above, p = 1, 2, 3, 4, 8, n = 96 to 512, less the schedule's error: 0.24 kappa / p at kappa 1e3
in float16 and at 1e2 in bfloat16 (half of the eigenvalues small; the same at every n; CPU emulation, 2026-11).
Log-spaced, p = 2, float16: 5.8e-2 at n = 512 and 5.6e-2 at 1024, kappa 1e4; 2.4e-3 at 256 and 2.3e-3 at 2048, kappa 1e2
(H100, 2026-11): a tenth of it, and no growth with n.
"""

_SPLIT_GROWTH = {"bf16x3": 0.15, "fp16x3": 0.27}
"""Of the error of `coupled_pe` in two 16-bit words, in unit roundoffs times kappa / p and (n / 128)^(1/2).

Largest of the spectra above, two seeds, p = 1, 2, 3, 4, 8, kappa 1e3 to 1e5: bf16x3 0.13 at n = 96; fp16x3 0.21 at n =
96, 0.28 at 256, 0.31 at 512, and 0.27 and 0.32 with sums cut as tensor cores cut theirs (CPU emulation, 2026-11). That
is with half of the eigenvalues small; a third of it with log-spaced ones.
"""


@dataclass(frozen=True, kw_only=True)
class Care:
    """Cushions of a graded schedule, as a share of the above ones, and the rounding with them, in tiers."""

    cushion: float
    rounding: float


CARES = (
    Care(cushion=1.0, rounding=1.0),
    Care(cushion=0.5, rounding=3.0),
    Care(cushion=0.25, rounding=4.0),
    Care(cushion=0.125, rounding=5.0),
)
"""Where rtol leaves room. The largest distance to the same steps in exact arithmetic, in tiers: 1.2, 1.4 and 1.9 with a
half, a quarter and an eighth of the cushion, of five spectra, prescribed and diagonal, bounds up to ten times too
loose, targets of 0.004 to 0.09, p = 1, 2, 3, 4, 8, kappa 30 to 1e5 (float16; 0.8 in bfloat16; n = 128, CPU emulation,
2026-11)."""
_ROOM_USED = 0.95
"""Of what rounding leaves of rtol, by the schedule."""


def graded_variants(
    spec: MethodSpec, workload: Workload, rtol: float, *, exact_trace: bool
) -> Iterator[tuple[float, float]]:
    """Targets and least cushions of graded schedules that keep rtol, the most careful first; none beyond the tier.

    Args:
        exact_trace: of sums, as the fused kernels' and a CPU's.
    """
    kept = _kept(spec, workload, exact_trace=exact_trace)
    if kept is None:
        return
    formed = _formed_rounding(spec, workload)
    for care in _cares(spec, workload):
        room = rtol - formed - care.rounding * kept
        target = max(SCHEDULE_SHARE * rtol, _ROOM_USED * room)
        if care is CARES[0] or target <= room:
            yield target, care.cushion * graded_cushion(workload)


def graded_error(spec: MethodSpec, workload: Workload, options: Any, *, exact_trace: bool) -> float | None:
    """What a graded iteration with these options, which may be the caller's, keeps; None beyond what was seen."""
    kept, care = _kept(spec, workload, exact_trace=exact_trace), _care(spec, workload, options)
    if kept is None or care is None:
        return None
    # The tier was measured with its share for the schedule: a coarser target adds to it.
    beyond = max(0.0, float(options.target) - SCHEDULE_SHARE * kept)
    return care.rounding * kept + beyond + _formed_rounding(spec, workload)


def has_tier(spec: MethodSpec, workload: Workload, options: Any) -> bool:
    """Whether errors of this method in this precision and with these options were measured."""
    return _tier(spec, workload) is not None and _care(spec, workload, options) is not None


def _kept(spec: MethodSpec, workload: Workload, *, exact_trace: bool) -> float | None:
    """By the most careful schedule, None without a tier or beyond it."""
    tier = _tier(spec, workload)
    assert workload.lower is not None
    assert workload.p is not None
    if tier is None:
        return None
    near = tier.at(workload.lower, workload.n)
    return near if near is not None or not exact_trace else tier.far(workload.lower, workload.n, workload.p)


def graded_cushion(workload: Workload) -> float:
    """Of the most careful schedule."""
    return _LINEAR_CUSHION if workload.p == 1 else _GRADED_CUSHION


def _tier(spec: MethodSpec, workload: Workload) -> Tier | None:
    name = "graded_pe" if spec.name == "dense" else spec.name
    return TIERS.get((name, workload.precision.removesuffix("_emulated")))


def _cares(spec: MethodSpec, workload: Workload) -> tuple[Care, ...]:
    """Those that were measured: of `hybrid`, whose polynomial rounds too, and far bounds only the most careful one."""
    tier = _tier(spec, workload)
    assert workload.lower is not None
    return CARES[:1] if spec.name == "hybrid" or tier is None or tier.is_far(workload.lower) else CARES


def _care(spec: MethodSpec, workload: Workload, options: Any) -> Care | None:
    """The most careful one that the options reach."""
    if spec.name == "dense" and (options.inner is not None or options.target is None):
        return None
    cushion = options.min_cushion
    if cushion is None:
        if spec.name == "dense":
            return None
        from iroot.methods._graded import default_cushion

        assert workload.p is not None
        cushion = default_cushion(workload.p)
    # A quotient of decimals may end one bit below its share.
    share = cushion / graded_cushion(workload) * (1.0 + 1e-9)
    return next((care for care in _cares(spec, workload) if share >= care.cushion), None)


def _formed_rounding(spec: MethodSpec, workload: Workload) -> float:
    """Of the Gram matrix, where one is formed."""
    from iroot.methods._gram import gram_rounding

    return gram_rounding(workload) if spec.name == "dense" else 0.0


def coupled_error(workload: Workload, options: Any) -> float | None:
    """What coupled iterations in one word of 8 or 11 bits are seen to keep; None beyond what was seen."""
    from iroot.methods.coupled_pe import planned_schedule

    assert workload.lower is not None
    assert workload.p is not None
    rounding = 2.0 + _COUPLED_GROWTH / (workload.lower * workload.p)
    rounding *= get_precision(workload.precision).unit_roundoff * math.sqrt(max(1.0, workload.n / 2048.0))
    error = planned_schedule(workload, options).error + rounding
    return error if error <= _LARGEST_COUPLED else None


def split_error(workload: Workload, options: Any) -> float:
    """What coupled iterations in two words are seen to keep: the schedule's error and the rounding above."""
    from iroot.methods.coupled_pe import planned_schedule

    assert workload.lower is not None
    assert workload.p is not None
    growth = _SPLIT_GROWTH[workload.precision.removesuffix("_emulated")]
    noise = (8.0 + growth / (workload.lower * workload.p)) * math.sqrt(max(1.0, workload.n / 128.0))
    return planned_schedule(workload, options).error + get_precision(workload.precision).unit_roundoff * noise
