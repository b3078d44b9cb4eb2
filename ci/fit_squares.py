"""Fits the steps of degree 33 in four squares that `iroot.squares` ships; prints a line for each ratio, writes a table.

    python ci/fit_squares.py iroot/shipped/squares.toml
    python ci/fit_squares.py OUT.toml --start iroot/shipped/squares.toml

At each ratio it minimises log(e / (1 - e)) + WEIGHT log(amplification), e = max |1 - s q(s^2)| over [ratio, 1]: a tenth
less amplification may cost 0.1 WEIGHT of e or, where e is near 1, of 1 - e. Without --start it first finds a step at
FIRST_RATIO by least squares from random numbers. The ratios are then gone through up and down, each from its own best
and from its neighbours', until none improves. The seed is fixed, so one machine gives one table.
"""

from __future__ import annotations

import argparse
import platform
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w
from numpy.polynomial import chebyshev
from scipy.optimize import least_squares, minimize

from iroot.minimax import Array, unit_minimax
from iroot.squares import SCHEMA, Squares, read_squares
from iroot.table_files import Provenance, Versions

RATIOS = tuple(round(0.001 * 10 ** (k / 24.0), 8) for k in range(65))
"""0.001 to 0.464, spacing 1.10."""
WEIGHT = 0.25
"""Over [0.003, 1] 0.01 gives an error of 0.8499 and an amplification of 227, 0.25 gives 0.8544 and 125."""
SEED = 0
FIRST_RATIO = 0.1
STARTS = 40
SWEEPS = 12

_GAIN = 1e-4  # of the objective; less is no improvement
_SLSQP_STEPS = 30
_BOXES = 12
_RADIUS = 0.1  # of the first box, in units of the numbers
_PERTURBATION = 0.02
IS_SHIFT = np.arange(12) == 2  # t_I among the numbers

# While fitting, the maxima in the amplification are power means over few values: corners stop the search.
POWER = 12.0
SAMPLES = np.concatenate([[0.0], np.geomspace(3e-3, 1.0, 23)])
FINE_SAMPLES = np.union1d(np.linspace(0.0, 1.0, 401), np.geomspace(1e-3, 0.1, 40))


@dataclass(frozen=True, kw_only=True)
class Nodes:
    """Z, T, L, M and M^2 + b_L L + b_Z Z + a at points of [0, 1]."""

    Z: Array
    T: Array
    L: Array
    M: Array
    q: Array


@dataclass(frozen=True, kw_only=True)
class Found:
    """Numbers in the order of `iroot.squares`, t_S ... a, and the objective they reach."""

    numbers: Array
    objective: float


def nodes(numbers: Array, s: Array) -> Nodes:
    """The polynomials of a step at singular values s."""
    Z: Array = 2.0 * s * s - 1.0
    T: Array = numbers[0] * Z * Z + numbers[1] * Z + numbers[2]
    L: Array = T * T + numbers[3] * T + numbers[4] * Z + numbers[5]
    M: Array = L * L + numbers[6] * T + numbers[7] * Z + numbers[8]
    return Nodes(Z=Z, T=T, L=L, M=M, q=M * M + numbers[9] * L + numbers[10] * Z + numbers[11])


def jacobian(numbers: Array, at: Nodes) -> Array:
    """dq / d numbers, (12, points), of a step with t_I = 0; zero for t_I."""
    dT, dL, dM, dq = (np.zeros((12, len(at.Z))) for _ in range(4))
    dT[0], dT[1] = at.Z * at.Z, at.Z
    dL += (2.0 * at.T + numbers[3]) * dT
    dL[3], dL[4], dL[5] = at.T, at.Z, 1.0
    dM += 2.0 * at.L * dL + numbers[6] * dT
    dM[6], dM[7], dM[8] = at.T, at.Z, 1.0
    dq += 2.0 * at.M * dM + numbers[9] * dL
    dq[9], dq[10], dq[11] = at.L, at.Z, 1.0
    return dq


def shifted(free: Array) -> Array:
    """The numbers of a step given as those of one with t_I = 0, and t_I in its place.

    q is the same for every t_I: in these unknowns the search has a straight way where the numbers have a curved one.
    """
    numbers = free.copy()
    t_I, l_T = free[2], free[3]
    numbers[3] -= 2.0 * t_I
    numbers[5] += t_I * t_I - l_T * t_I
    numbers[8] -= free[6] * t_I
    return numbers


def unshifted(numbers: Array) -> Array:
    """The inverse of `shifted`."""
    free = numbers.copy()
    t_I = numbers[2]
    free[3] += 2.0 * t_I
    free[5] += t_I * t_I + numbers[3] * t_I
    free[8] += numbers[6] * t_I
    return free


def rounding(numbers: Array, s: Array, power: float) -> float:
    """The amplification of `iroot.squares` times 1 + error; maxima are means of this power, infinity for the maxima.

    The two-point derivative of a square V^2 is V(s_i) + V(s_j), of a sum the sum, of a chain the product.
    """
    at = nodes(numbers, s)
    Z, T, L, M = (np.add.outer(each, each) for each in (at.Z, at.T, at.L, at.M))
    L_T, T_Z = T + numbers[3], numbers[0] * Z + numbers[1]
    by_L = M * L + numbers[9]
    by_T = by_L * L_T + M * numbers[6]
    by_Z = by_T * T_Z + by_L * numbers[4] + M * numbers[7] + numbers[10]
    larger = np.maximum.outer(s, s)
    pairs = ((by_Z, at.Z), (by_T, at.T), (by_L, at.L), (M, at.M), (np.ones_like(M), at.q - numbers[11]))
    terms = [_largest(slope * larger, power) * _largest(value, 2.0 * power) for slope, value in pairs]
    return float(np.linalg.norm(terms))


def _largest(values: Array, power: float) -> float:
    """The power mean over the largest eighth of the values, about; it is near their maximum and smooth."""
    size = np.abs(values)
    top = float(size.max())
    if np.isinf(power) or top == 0.0:
        return top
    return top * float((np.sum((size / top) ** power) / 8.0) ** (1.0 / power))


def error_points(ratio: float, count: int = 160) -> Array:
    """Points of [ratio, 1], dense where the error of a polynomial in s^2 oscillates."""
    cosine = np.cos(np.pi * np.arange(count + 1.0) / count)
    squares = np.sqrt(0.5 * (1.0 + ratio * ratio) + 0.5 * (1.0 - ratio * ratio) * cosine)
    return np.unique(np.clip(np.append(squares, np.geomspace(ratio, 1.0, count // 4)), ratio, 1.0))


def _watched(numbers: Array, ratio: float) -> Array:
    """A grid of [ratio, 1] that sees the error to 1 %, and where it is largest at present to 1e-6."""
    dense = error_points(ratio, 4000)
    size = _error_size(numbers, dense)
    peaks = dense[1:-1][(size[1:-1] >= size[:-2]) & (size[1:-1] >= size[2:])]
    return np.union1d(error_points(ratio, 160), peaks)


def largest_error(numbers: Array, ratio: float) -> float:
    """max |1 - s q(s^2)| over [ratio, 1] to 1e-11 of itself: each peak of a grid is refined three times."""
    s = error_points(ratio, 800)
    size = _error_size(numbers, s)
    largest = float(size.max())
    top = 1 + np.flatnonzero((size[1:-1] >= size[:-2]) & (size[1:-1] >= size[2:]))
    if not len(top):  # no number, or far from a step
        return largest
    low, high = s[top - 1], s[top + 1]
    for _ in range(3):
        finer = np.linspace(low, high, 41)
        size = _error_size(numbers, finer)
        middle, column = np.clip(size.argmax(axis=0), 1, 39), np.arange(len(top))
        low, high = finer[middle - 1, column], finer[middle + 1, column]
        largest = max(largest, float(size.max()))
    return largest


def _error_size(numbers: Array, s: Array) -> Array:
    size: Array = np.abs(1.0 - s * nodes(numbers, s).q)
    return size


def judged(numbers: Array, ratio: float) -> Found:
    """What the numbers reach; an infinite objective where they are of no use."""
    with np.errstate(all="ignore"):
        error = largest_error(numbers, ratio)
        if not error < 1.0:
            return Found(numbers=numbers, objective=np.inf)
        amplification = rounding(numbers, SAMPLES, POWER) / (1.0 + error)
        return Found(numbers=numbers, objective=float(np.log(error / (1.0 - error)) + WEIGHT * np.log(amplification)))


def improved(start: Array, ratio: float) -> Found:
    """The better of the start and what sequential quadratic programming makes of it, within growing or shrinking boxes.

    Without a box its first step may lead to numbers of 1e20, from which it does not return.
    """
    best, radius = judged(start, ratio), _RADIUS
    for _ in range(_BOXES):
        found = judged(_step(best.numbers, ratio, radius), ratio)
        gain = best.objective - found.objective
        if gain > 0.0:
            best = found
        if gain > 0.1 * _GAIN:
            radius *= 2.0
        elif radius < 0.1 * _RADIUS:
            break
        else:
            radius *= 0.25
    return best


def _step(start: Array, ratio: float, radius: float) -> Array:
    """The best numbers found no further than `radius` of their sizes from the start.

    The unknowns are the numbers, in units of their sizes, and the logit of the bound e on the error.
    """
    s = _watched(start, ratio)
    free = unshifted(start)
    unit = np.maximum(np.abs(free), 0.1)
    bound = min(float(_error_size(start, s).max()), 0.999)

    def of_error(logit: float) -> float:
        return float(1.0 / (1.0 + np.exp(-logit)))

    def objective(x: Array) -> float:
        growth = rounding(shifted(x[:-1] * unit), SAMPLES, POWER) / (1.0 + of_error(x[-1]))
        return float(x[-1] + WEIGHT * np.log(growth))

    def slope(x: Array) -> Array:
        here = objective(x)
        return np.array([(objective(x + d) - here) / 1e-7 for d in 1e-7 * np.eye(len(x))])

    def unshifted_at(numbers: Array) -> Nodes:
        return nodes(np.where(IS_SHIFT, 0.0, numbers), s)

    def room(x: Array) -> Array:
        shortfall = 1.0 - s * unshifted_at(x[:-1] * unit).q
        e = of_error(x[-1])
        return np.concatenate([e - shortfall, e + shortfall]) / bound

    def room_slope(x: Array) -> Array:
        numbers = x[:-1] * unit
        by_number = (s * jacobian(numbers, unshifted_at(numbers)) * unit[:, None]).T
        e = of_error(x[-1])
        by_logit = np.full((len(s), 1), e * (1.0 - e))
        return np.block([[by_number, by_logit], [-by_number, by_logit]]) / bound

    within: Any = {"type": "ineq", "fun": room, "jac": room_slope}
    options: Any = {"maxiter": _SLSQP_STEPS, "ftol": 1e-8}
    first = np.append(free / unit, np.log(bound / (1.0 - bound)))
    with np.errstate(all="ignore"):
        end = minimize(
            objective, first, jac=slope, method="SLSQP", bounds=[(x - radius, x + radius) for x in first],
            constraints=[within], options=options,
        )  # fmt: skip
    return shifted(end.x[:-1] * unit) if np.all(np.isfinite(end.x)) else start


def from_scratch(ratio: float) -> Found:
    """The best of STARTS steps fitted from random numbers to the best polynomial of degree 16 by least squares."""
    generator = np.random.default_rng(SEED)
    square = ratio * ratio
    s = error_points(ratio, 60)
    z = (2.0 * s * s - 1.0 - square) / (1.0 - square)
    wanted = s * chebyshev.chebval(z, unit_minimax(2, square, 16).chebyshev)

    def filled(eleven: Array) -> Array:
        result: Array = np.insert(eleven, 2, 0.0)
        return result

    def misfit(eleven: Array) -> Array:
        result: Array = s * nodes(filled(eleven), s).q - wanted
        return result

    def misfit_slope(eleven: Array) -> Array:
        free = filled(eleven)
        result: Array = (s * jacobian(free, nodes(free, s)))[~IS_SHIFT].T
        return result

    best: Found | None = None
    for _ in range(STARTS):
        first = generator.normal(size=11)
        with np.errstate(all="ignore"):
            end = least_squares(misfit, first, jac=misfit_slope, max_nfev=400)
        if np.isfinite(judged(filled(end.x), ratio).objective):
            found = improved(filled(end.x), ratio)
            best = found if best is None or found.objective < best.objective else best
    assert best is not None, f"none of {STARTS} starts reached an error below 1"
    return best


def continued(first: Found, ratio: float) -> list[Found]:
    """A step for each of RATIOS, from that of the neighbour nearer to `ratio`."""
    middle = int(np.argmin(np.abs(np.log(RATIOS) - np.log(ratio))))
    steps = {middle: improved(first.numbers, RATIOS[middle])}
    for k in range(middle + 1, len(RATIOS)):
        steps[k] = improved(steps[k - 1].numbers, RATIOS[k])
    for k in range(middle - 1, -1, -1):
        steps[k] = improved(steps[k + 1].numbers, RATIOS[k])
    return [steps[k] for k in range(len(RATIOS))]


def swept(steps: Sequence[Found]) -> list[Found]:
    """The steps improved from their own numbers, perturbed ones and their neighbours', until none gains."""
    found, generator = list(steps), np.random.default_rng(SEED)
    stale = set(range(len(found)))
    for sweep in range(SWEEPS):
        order = sorted(stale, reverse=sweep % 2 == 1)
        stale = set()
        for k in order:
            own = found[k]
            near = [found[j].numbers for j in (k - 1, k + 1) if 0 <= j < len(found)]
            perturbed = own.numbers * (1.0 + _PERTURBATION * generator.normal(size=12))
            tried = [improved(start, RATIOS[k]) for start in (own.numbers, perturbed, *near)]
            found[k] = min(own, *tried, key=lambda each: each.objective)
            if found[k].objective < own.objective - _GAIN:
                stale |= {j for j in (k - 1, k, k + 1) if 0 <= j < len(found)}
        print(f"sweep {sweep + 1}: {len(order)} ratios tried, {len(stale)} left", file=sys.stderr, flush=True)
        if not stale:
            break
    return found


def as_squares(step: Found, ratio: float) -> Squares:
    """The numbers to 12 digits, with what they reach so."""
    numbers = np.array([float(f"{value:.12g}") for value in step.numbers])
    error = largest_error(numbers, ratio)
    amplification = rounding(numbers, FINE_SAMPLES, np.inf) / (1.0 + error)
    t_S, t_Z, t_I, l_T, l_Z, l_I, m_T, m_Z, m_I, b_L, b_Z, a = numbers.tolist()
    return Squares(
        ratio=ratio, error=float(f"{error:.12g}"),
        amplification=float(f"{amplification:.6g}"), inner=(t_S, t_Z, t_I), left=(l_T, l_Z, l_I),
        right=(m_T, m_Z, m_I), last=(b_L, b_Z), constant=a,
    )  # fmt: skip


def as_numbers(step: Squares) -> Array:
    """The inverse of `as_squares`."""
    return np.array([*step.inner, *step.left, *step.right, *step.last, step.constant])


def write(path: Path, entries: Iterable[Squares], weight: float, made: Provenance) -> None:
    """Write a table that `iroot.squares.read_squares` reads; the file is replaced at once."""
    values = {
        "schema": SCHEMA,
        "weight": weight,
        "entry": [asdict(entry) for entry in entries],
        "provenance": asdict(made),
    }
    part = path.with_name(path.name + ".part")
    part.write_text(tomli_w.dumps(values), encoding="utf-8")
    part.replace(path)


def provenance(script: str, words: Sequence[str]) -> Provenance:
    """Of a table that this run of `ci/script` writes."""
    return Provenance(
        command=" ".join(("python", f"ci/{script}", *words)),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        versions=Versions(
            python=platform.python_version(), numpy=version("numpy"), scipy=version("scipy"), iroot=version("iroot")
        ),
    )


def _line(entry: Squares) -> str:
    best = unit_minimax(2, entry.ratio**2, 16).error
    return (
        f"ratio {entry.ratio:.6f}  error {entry.error:.6f} (degree 16: {best:.6f})  "
        f"amplification {entry.amplification:6.1f}  slope {entry.slope:5.2f}"
    )


def main(words: Sequence[str]) -> int:
    """Fit, print, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("output", type=Path, metavar="OUT.toml", help="the table to write")
    parser.add_argument("--start", type=Path, metavar="FILE.toml", help="a table to improve; else from random numbers")
    options = parser.parse_args(words)
    started = time.perf_counter()
    if options.start is None:
        steps = continued(from_scratch(FIRST_RATIO), FIRST_RATIO)
    else:
        stored = read_squares(options.start)
        near = [min(stored, key=lambda entry: abs(np.log(entry.ratio / ratio))) for ratio in RATIOS]
        steps = [improved(as_numbers(entry), ratio) for entry, ratio in zip(near, RATIOS, strict=True)]
    entries = [as_squares(step, ratio) for step, ratio in zip(swept(steps), RATIOS, strict=True)]
    for entry in entries:
        print(_line(entry))
    write(options.output, entries, WEIGHT, provenance("fit_squares.py", words))
    print(f"{time.perf_counter() - started:.0f} s", file=sys.stderr)
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
