"""Which method, precision and number of steps serve a call: the choice behind `method="auto"`.

A choice is admitted where the error it states for the problem's spectral bound is at most `rtol`. On a GPU the admitted
one with the least expected time wins (`iroot.costs`); on a CPU the first precision that has one decides, float32 before
float64, and in it the fewest FLOP.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any

import torch

from iroot.costs import is_graded, seconds
from iroot.errors import InvalidInputError, UnsupportedError
from iroot.precision import get_precision, unsupported_reason
from iroot.registry import MethodSpec, Workload, get_method

ASSUMED_LOWER = {"inverse_root": 1e-6, "inverse_apply": 1e-6, "gram_apply": 1e-6, "solve": 1e-3, "polar": 1e-3}
"""Smallest over largest eigenvalue (singular value) where nothing is known; the roots' is that of the methods."""

_AUTO = {
    "inverse_root": ("coupled_pe", "graded_pe"),
    "inverse_apply": ("coupled_pe", "chebyshev", "graded_pe", "hybrid"),
    "gram_apply": ("chebyshev", "dense", "dual"),
    "solve": ("coupled_pe", "lu"),
    "polar": ("polar_express",),
}
_DIRECT = {"inverse_root": "eigh", "inverse_apply": "eigh", "gram_apply": "svd", "solve": "lu", "polar": "svd"}
_PRECISIONS = {"cpu": ("fp32", "fp64"), "cuda": ("bf16", "fp16", "tf32", "bf16x3", "fp16x3", "fp32", "fp64")}
"""The most exact last. A CPU emulates 16-bit products, more slowly than it multiplies float32."""

_SCHEDULE_SHARE = 0.2
"""The schedule's share of rtol: further steps cost a few products, and rounding needs the rest."""
_GRADED_CUSHION = 0.05
"""Of graded schedules. Half of the eigenvalues small, float16, p = 3, kappa 5.3e3, n = 512: 1.02e-3 with a cushion of
0.032 and 5.4e-4 with the next larger one, 0.2; 9.0e-4 with 0.053 at p = 4, n = 1024 (CPU emulation, 2026-11)."""
_LINEAR_CUSHION = 0.1
"""The same at p = 1, where the noise of a step is not tamed by a root. Wishart + 1e-3 I, n = 128, float16,
applied to 16 columns: 1.05e-3 with a cushion of 0.043 and 4.2e-4 with the next larger one. Diagonal matrices, whose
rounding does not average out, bfloat16, kappa 1e3, bound 1e4: 2.5 times the tier with 0.05 and below it with 0.1 (CPU
emulation, 2026-11)."""
_SPLIT_CUSHION = 0.03
"""Of coupled schedules in two words, for a small residual: 1.4e-3 with it and 2.1e-2 without at p = 8, kappa 1e4, a
bound of 1e-6 and a target of 6e-5 (log-spaced, n = 512, fp16x3, CPU emulation, 2026-11)."""
_MAX_AUTO_DEGREE = 200
"""A Chebyshev degree above this is not considered: its Remez exchange would take longer than the call."""
_MAX_POLAR_STEPS = 25
SMALLEST_SINGULAR = 1e-6
"""Of the normalised matrix; no Polar Express schedule is made for less."""


@dataclass(frozen=True, kw_only=True)
class Tier:
    """The error a graded iteration is seen to keep; its own statement, made for verification, is three times as large.

    Largest of five spectra (log-spaced, power law, one or half or all but one of the eigenvalues small) and p = 1, 2,
    3, 4, 8, in units of `error`, with the cushions above, float16: 0.56 at kappa 1e3 (n = 96 and 256), 0.91 at 5.3e3,
    0.74 at 1e4 (n = 96 to 1024), 3.7 at 1e5; bfloat16: 0.9 at 1e3, 2.7 at 1e4 (n = 96). Applied to Gaussian columns the
    same, and for `hybrid` up to 1.6 and 4.8 at kappa 1e4 (CPU emulation, 2026-11).

    Attributes:
        error: kept up to condition number `kappa`; it grows as kappa^growth from there to `largest_kappa`, and nothing
            is kept beyond.
        easy_kappa: three quarters of `error` are kept up to here.
    """

    error: float
    kappa: float
    largest_kappa: float
    easy_kappa: float = 0.0
    growth: float = 0.6

    def at(self, lower: float, n: int) -> float | None:
        """The error at this bound and size, None beyond the tier.

        Tensor cores truncate their sums; promoted every 256 or 512 columns they do not grow with n up to 2048: float16,
        kappa 1e4, p = 2, log-spaced: 6.7e-4 at n = 512, 7.0e-4 at 1024, 7.1e-4 at 2048, 7.5e-4 at 4096 (H100, 2026-11).
        """
        kappa = 1.0 / lower
        if kappa > self.largest_kappa * (1.0 + 1e-9):
            return None
        error = self.error * (0.75 if kappa <= self.easy_kappa else 1.0)
        return error * math.pow(max(1.0, kappa / self.kappa), self.growth) * math.pow(max(1.0, n / 2048.0), 0.25)


_TIERS = {
    ("graded_pe", "bf16"): Tier(error=8e-3, kappa=1e3, largest_kappa=1e4),
    ("graded_pe", "fp16"): Tier(error=1e-3, kappa=1.2e4, largest_kappa=1e5, easy_kappa=1.1e3, growth=0.65),
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
class Demand:
    """What is asked of a choice; hashable, so that equal calls are planned once.

    Attributes:
        workload: the sizes; its `precision` is not read, its `lower` is None where nothing is known.
        method, precision: names, or `auto`.
        options: of the named method, or None for those that `rtol` asks for.
        capability: CUDA compute capability to plan for, of a device that need not be there; None: that of `device`.
    """

    task: str
    workload: Workload
    device: torch.device
    rtol: float
    method: str
    precision: str
    options: Any
    capability: tuple[int, int] | None = None

    def asked_capability(self) -> tuple[int, int]:
        """`capability`, or that of the CUDA device."""
        return self.capability or torch.cuda.get_device_capability(self.device)


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A method with its precision and options, and the error it states (None: it states none)."""

    spec: MethodSpec
    precision: str
    options: Any
    workload: Workload
    stated: float | None

    @property
    def flops(self) -> float:
        """FLOP of one call."""
        return self.spec.flops(self.workload, self.options)

    @property
    def steps(self) -> int | None:
        """Steps of the iteration, where the method says."""
        return None if self.spec.steps is None else self.spec.steps(self.workload, self.options)


@lru_cache(maxsize=1024)
def choose(demand: Demand) -> Choice:
    """The fastest choice that states an error <= rtol; where none does, the one that states the smallest.

    Raises:
        UnknownNameError: no such method or precision.
        InvalidInputError: the method does not serve the precision, the root or the options.
        UnsupportedError: the device does not run the precision.
    """
    best: Choice | None = None
    for group in _candidates(demand):
        choices = [choice for choice in group if choice is not None]
        admitted = [choice for choice in choices if choice.stated is not None and choice.stated <= demand.rtol]
        if admitted:
            return min(admitted, key=lambda choice: _cost(choice, demand))
        # Of equals the last, slowest and most exact one.
        best = min((*reversed(choices), *([best] if best else [])), key=_stated_or_infinite, default=best)
    assert best is not None
    return best


def _cost(choice: Choice, demand: Demand) -> tuple[float, float]:
    """FLOP on a CPU, expected seconds on a GPU; of equal ones the more accurate is the cheaper."""
    if demand.device.type == "cpu":
        return choice.flops, _stated_or_infinite(choice)
    expected = seconds(choice.spec, choice.workload, choice.options, capability=demand.asked_capability())
    return expected, _stated_or_infinite(choice)


def _stated_or_infinite(choice: Choice) -> float:
    return math.inf if choice.stated is None else choice.stated


def _candidates(demand: Demand) -> Iterator[list[Choice | None]]:
    """Groups of choices: one per precision on a CPU, all in one on a GPU; the direct method in one at the end.

    Within a group from the fastest precision to the slowest, most exact one.
    """
    names = _AUTO[demand.task] if demand.method == "auto" else (demand.method,)
    specs = [_served(get_method(demand.task, name), demand) for name in names]
    groups = (
        [_choice(spec, precision, demand) for spec in specs if precision in spec.precisions]
        for precision in _precisions(demand, specs)
    )
    yield from groups if demand.device.type == "cpu" else [[choice for group in groups for choice in group]]
    if demand.method == "auto":
        direct = get_method(demand.task, _DIRECT[demand.task])
        names = ("fp32", "fp64") if demand.precision == "auto" else (demand.precision,)
        yield [_choice(direct, name, demand) for name in names if name in direct.precisions]


def _served(spec: MethodSpec, demand: Demand) -> MethodSpec:
    """`spec`; raises InvalidInputError where it does not serve what was asked for by name."""
    p = demand.workload.p
    if p is not None and spec.roots is not None and p not in spec.roots:
        raise InvalidInputError(f"{spec.name} serves p = {', '.join(map(str, spec.roots))}, got {p}; use method='auto'")
    if demand.options is not None and not isinstance(demand.options, spec.options):
        raise InvalidInputError(
            f"options of {spec.name} must be {spec.options.__name__}, got {type(demand.options).__name__}"
        )
    return spec


def _precisions(demand: Demand, specs: list[MethodSpec]) -> tuple[str, ...]:
    """The precisions to try; those named must be served and must run."""
    served = {name for spec in specs for name in spec.precisions}
    if demand.precision == "auto":
        names = _PRECISIONS[demand.device.type]
        return tuple(name for name in names if name in served and not _refusal(name, demand))
    reason = _refusal(demand.precision, demand)
    if reason is not None:
        raise UnsupportedError(f"precision '{demand.precision}' cannot run on {demand.device}: {reason}")
    if demand.precision not in served:
        raise InvalidInputError(
            f"{', '.join(spec.name for spec in specs)} must run in one of {', '.join(sorted(served))}, "
            f"got precision '{demand.precision}'"
        )
    return (demand.precision,)


def _refusal(precision: str, demand: Demand) -> str | None:
    return unsupported_reason(get_precision(precision), demand.device, demand.capability)


def _choice(spec: MethodSpec, precision: str, demand: Demand) -> Choice | None:
    """One choice with the options that rtol asks for; None where the method refuses the problem."""
    asked = demand.workload
    lower = ASSUMED_LOWER[demand.task] if asked.lower is None else asked.lower
    workload = Workload(m=asked.m, n=asked.n, precision=precision, batch=asked.batch, k=asked.k, p=asked.p, lower=lower)
    try:
        options = demand.options
        if options is None:
            polar = demand.task == "polar"
            options = _polar_options(spec, workload, demand.rtol) if polar else _options(spec, demand, precision)
        stated = _stated(spec, workload, options)
    except (UnsupportedError, InvalidInputError):
        if demand.method != "auto":
            raise
        return None
    return Choice(spec=spec, precision=precision, options=options, workload=workload, stated=stated)


def _options(spec: MethodSpec, demand: Demand, precision: str) -> Any:
    """The defaults, with the schedule's target from rtol."""
    known = {field.name for field in fields(spec.options)}
    values: dict[str, Any] = {}
    if "target" in known:
        values["target"] = max(_SCHEDULE_SHARE * demand.rtol, 1e-14)
    if "check" in known:
        values["check"] = demand.rtol
    if is_graded(spec, precision):
        values["min_cushion"] = _graded_cushion(demand.workload)
    elif spec.name == "coupled_pe" and "min_cushion" in known and get_precision(precision).words == 2:
        values["min_cushion"] = _SPLIT_CUSHION
    if spec.name == "chebyshev" and demand.method == "auto":
        values["max_degree"] = _MAX_AUTO_DEGREE
    return spec.make_options(values)


def _stated(spec: MethodSpec, workload: Workload, options: Any) -> float | None:
    if spec.task == "polar":
        return polar_orthogonality(spec, workload, options)
    base = workload.precision.removesuffix("_emulated")
    tier = _TIERS.get(("graded_pe" if spec.name == "dense" else spec.name, base))
    if tier is not None and _as_planned(spec, workload, options):
        assert workload.lower is not None
        kept = tier.at(workload.lower, workload.n)
        if kept is None:
            return None
        # The tier was measured with its share for the schedule: a coarser target adds to it.
        kept += max(0.0, float(options.target) - _SCHEDULE_SHARE * kept)
        return kept + _formed_rounding(workload) if spec.name == "dense" else kept
    if spec.name == "coupled_pe" and spec.task != "solve":
        if get_precision(workload.precision).words == 2:
            return _split_error(workload, options)
        seen = _coupled_error(workload, options) if base in ("bf16", "fp16", "tf32") else None
        if seen is not None:
            return seen
    stated: float | None = spec.accuracy(workload, options)
    return stated


def _graded_cushion(workload: Workload) -> float:
    return _LINEAR_CUSHION if workload.p == 1 else _GRADED_CUSHION


def _as_planned(spec: MethodSpec, workload: Workload, options: Any) -> bool:
    """Whether options, which may be the caller's, are as careful as those that the tiers were measured with."""
    if spec.name == "dense" and (options.inner is not None or options.target is None):
        return False
    return options.min_cushion is not None and options.min_cushion >= _graded_cushion(workload)


def _formed_rounding(workload: Workload) -> float:
    """Of the Gram matrix."""
    from iroot.methods._gram import gram_rounding

    return gram_rounding(workload)


def _coupled_error(workload: Workload, options: Any) -> float | None:
    """What coupled iterations in one word of 8 or 11 bits are seen to keep; None beyond what was seen."""
    from iroot.methods.coupled_pe import planned_schedule

    assert workload.lower is not None
    assert workload.p is not None
    rounding = 2.0 + _COUPLED_GROWTH / (workload.lower * workload.p)
    rounding *= get_precision(workload.precision).unit_roundoff * math.sqrt(max(1.0, workload.n / 2048.0))
    error = planned_schedule(workload, options).error + rounding
    return error if error <= _LARGEST_COUPLED else None


def _split_error(workload: Workload, options: Any) -> float:
    """What coupled iterations in two words are seen to keep: the schedule's error and the rounding above."""
    from iroot.methods.coupled_pe import planned_schedule

    assert workload.lower is not None
    assert workload.p is not None
    growth = _SPLIT_GROWTH[workload.precision.removesuffix("_emulated")]
    noise = (8.0 + growth / (workload.lower * workload.p)) * math.sqrt(max(1.0, workload.n / 128.0))
    return planned_schedule(workload, options).error + get_precision(workload.precision).unit_roundoff * noise


def _polar_options(spec: MethodSpec, workload: Workload, rtol: float) -> Any:
    """Polar Express with the fewest steps that leave rounding its part of rtol; defaults for the other methods."""
    if spec.name != "polar_express":
        return spec.options()
    budget = max(rtol - _polar_rounding(workload), 0.5 * rtol)
    lower = _smallest_singular(workload)
    for steps in range(1, _MAX_POLAR_STEPS + 1):
        options = spec.make_options({"steps": steps, "lower": lower})
        if _composition_orthogonality(workload, options) <= budget:
            break
    return options


def _smallest_singular(workload: Workload) -> float:
    """sigma_min over the bound that G is divided by, which may be (rank)^(1/4) times sigma_max."""
    assert workload.lower is not None
    return min(max(workload.lower / math.pow(min(workload.m, workload.n), 0.25), SMALLEST_SINGULAR), 0.9)


def _polar_rounding(workload: Workload) -> float:
    """What rounding adds to ||U U^T - I||_F / sqrt(r)."""
    return 16.0 * get_precision(workload.precision).unit_roundoff


def _composition_orthogonality(workload: Workload, options: Any) -> float:
    """max |s^2 - 1| = 2 e + e^2 for a composition that leaves the singular values within e of 1."""
    from iroot.methods._polar import composition_error

    recipe = options.recipe(workload.precision)
    error = float(composition_error(recipe.coefficients, _smallest_singular(workload) / recipe.margin))
    return error * (2.0 + error)


def polar_orthogonality(spec: MethodSpec, workload: Workload, options: Any) -> float | None:
    """What ||U U^T - I||_F / sqrt(r) is at most; None where it is not known.

    The composition's part plus 16 u, where u / lower <= 1/2: above that, rounding mixes small singular values with
    large ones and some are lost. 0.3 instead of 0.01 in bfloat16 at kappa 1e3 (u / lower = 4; half of the singular
    values small, 128 x 128, CPU emulation, 2026-11).
    """
    assert workload.lower is not None
    if get_precision(workload.precision).unit_roundoff > 0.5 * workload.lower:
        return None
    if spec.name == "svd":
        return _polar_rounding(workload) * math.sqrt(max(workload.m, workload.n))
    if spec.name != "polar_express" or _smallest_singular(workload) <= SMALLEST_SINGULAR:
        return None
    return _composition_orthogonality(workload, options) + _polar_rounding(workload)
