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

from iroot import polar_plans, tiers
from iroot.costs import SMALLEST_FUSED, is_graded, seconds
from iroot.errors import InvalidInputError, UnsupportedError
from iroot.kernels.families import is_served
from iroot.odd_steps import DEGREES, Degree
from iroot.precision import PRECISIONS, get_precision, unsupported_reason
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

_MAX_AUTO_DEGREE = 200
"""A Chebyshev degree above this is not considered: its Remez exchange would take longer than the call."""


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

    @property
    def exact_trace(self) -> bool:
        """Whether graded products keep their trace: in fused kernels, and on a CPU, whose sums are not cut.

        Not in a graph that is captured, or a call that is compiled, before the shape was ever met: `iroot.triton_ops`.
        """
        fused = self.workload.n >= SMALLEST_FUSED
        return self.device.type == "cpu" or (fused and is_served(self.asked_capability()))


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


def _cost(choice: Choice, demand: Demand) -> tuple[float, float, float]:
    """FLOP on a CPU, expected seconds on a GPU; of equal ones the finer format, then the smaller error, is cheaper."""
    exactness = get_precision(choice.precision).unit_roundoff, _stated_or_infinite(choice)
    if demand.device.type == "cpu":
        return choice.flops, *exactness
    return seconds(choice.spec, choice.workload, choice.options, capability=demand.asked_capability()), *exactness


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
        found = tuple(name for name in names if name in served and not _refusal(name, demand))
        if not found and demand.method != "auto":
            here = ", ".join(name for name in PRECISIONS if name in served and not _refusal(name, demand)) or "none"
            raise UnsupportedError(
                f"{demand.method} must be given a precision by name on {demand.device}, got 'auto'; it runs in {here}"
            )
        return found
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
            options = _options(spec, workload, demand)
        stated = _stated(spec, workload, options, exact_trace=demand.exact_trace)
    except (UnsupportedError, InvalidInputError):
        if demand.method != "auto":
            raise
        return None
    return Choice(spec=spec, precision=precision, options=options, workload=workload, stated=stated)


def _options(spec: MethodSpec, workload: Workload, demand: Demand) -> Any:
    """The defaults, with the schedule's target from rtol."""
    if demand.task == "polar":
        return polar_plans.polar_options(spec, workload, demand.rtol, degrees=_polar_degrees(workload, demand))
    if is_graded(spec, workload.precision) and spec.name != "hybrid":
        graded = _graded_options(spec, workload, demand)
        if graded is not None:
            return graded
    known = {field.name for field in fields(spec.options)}
    values: dict[str, Any] = {}
    if "target" in known:
        values["target"] = max(tiers.SCHEDULE_SHARE * demand.rtol, 1e-14)
    if "check" in known:
        values["check"] = demand.rtol
    if is_graded(spec, workload.precision):
        values["min_cushion"] = tiers.graded_cushion(workload)
    elif spec.name == "coupled_pe" and "min_cushion" in known and get_precision(workload.precision).words == 2:
        values["min_cushion"] = tiers.SPLIT_CUSHION
    if spec.name == "chebyshev" and demand.method == "auto":
        values["max_degree"] = _MAX_AUTO_DEGREE
    return spec.make_options(values)


def _polar_degrees(workload: Workload, demand: Demand) -> tuple[Degree, ...]:
    """Higher ones than 5 where their sums cost little: in the epilogues of kernels, or on a CPU."""
    if demand.device.type == "cpu":
        return DEGREES
    large = min(workload.m, workload.n) >= SMALLEST_FUSED and workload.precision in ("bf16", "fp16")
    return DEGREES if large and is_served(demand.asked_capability()) else DEGREES[:1]


def _graded_options(spec: MethodSpec, workload: Workload, demand: Demand) -> Any:
    """The fewest steps that keep rtol, and of those the most careful schedule; None beyond the tier."""
    assert spec.steps is not None
    variants = [
        spec.make_options({"target": target, "min_cushion": cushion})
        for target, cushion in tiers.graded_variants(spec, workload, demand.rtol, exact_trace=demand.exact_trace)
    ]
    if not variants:
        return None
    fewest = spec.steps(workload, variants[-1])
    # The last one seldom has fewer than the first: those between are then not searched for.
    return next(options for options in variants if spec.steps(workload, options) <= fewest)


def _stated(spec: MethodSpec, workload: Workload, options: Any, *, exact_trace: bool) -> float | None:
    if spec.task == "polar":
        return polar_plans.polar_orthogonality(spec, workload, options)
    if tiers.has_tier(spec, workload, options):
        return tiers.graded_error(spec, workload, options, exact_trace=exact_trace)
    base = workload.precision.removesuffix("_emulated")
    if spec.name == "coupled_pe" and spec.task != "solve":
        if get_precision(workload.precision).words == 2:
            return tiers.split_error(workload, options)
        seen = tiers.coupled_error(workload, options) if base in ("bf16", "fp16", "tf32") else None
        if seen is not None:
            return seen
    stated: float | None = spec.accuracy(workload, options)
    return stated
