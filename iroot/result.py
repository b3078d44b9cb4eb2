"""What a call of the library returns: the value, how it was computed, and, on request, how good it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property
from typing import Literal

from torch import Tensor

BoundSource = Literal["given", "measured", "workspace", "assumed"]


class Termination(Enum):
    """How a call ended; for a batch, the worst of its matrices.

    Attributes:
        CONVERGED: the error is at most the requested `rtol`.
        ABOVE_RTOL: the value is finite and its error is above `rtol`: the matrix is worse conditioned than the bound
            in use, or no method serves this `rtol`.
        NOT_POSITIVE_DEFINITE: the (damped) matrix has an eigenvalue that is not positive; there is no such root.
        NOT_FINITE: the input or the value holds NaN or infinity.
        SINGULAR: the matrix of `solve_nonspd` has no inverse, to the digits of float64.
        FELL_BACK: the error is at most `rtol`, by a factorisation: the iteration would not contract, or failed its
            residual check, for at least one matrix.
    """

    CONVERGED = "converged"
    ABOVE_RTOL = "above_rtol"
    NOT_POSITIVE_DEFINITE = "not_positive_definite"
    NOT_FINITE = "not_finite"
    SINGULAR = "singular"
    FELL_BACK = "fell_back"


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """The spectral bound that method, precision and steps were chosen for.

    Attributes:
        lower: smallest over largest eigenvalue of the damped matrix (`polar`: singular value) is taken to be at least
            this.
        source: `given` by the caller, `measured` in this call (its one host synchronisation), kept by the `workspace`
            from an earlier call, or `assumed` because nothing is known.
    """

    lower: float
    source: BoundSource


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """What float64 says of a value. `negative_part` is None where the task has no positive definite operand."""

    termination: Termination
    estimated_error: float
    negative_part: float | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Result:
    """The value of one call and the account of it.

    `termination`, `estimated_error` and `negative_part` are computed in float64 when one of them is first read, from
    the caller's operands, which must not have changed since: reading costs a synchronisation and far more than the call
    itself (an eigendecomposition for the roots, one product for `polar`). Reading none of them costs nothing; a result
    that is kept keeps its operands in memory.

    Attributes:
        value: in the dtype and on the device of the input.
        method, precision: names of the registry and of the precision table that served the call.
        rtol: the error that was asked for.
        stated_accuracy: the largest error that the choice states within `bounds`, before `value` is rounded to its
            dtype; None where it states nothing.
        bounds: what was known of the spectrum.
        steps: of the iteration; None for direct methods and for those that do not say.
        fell_back: a factorisation gave the value, of at least one matrix, in place of the method (`solve_nonspd`).
    """

    value: Tensor = field(repr=False)
    method: str
    precision: str
    rtol: float
    stated_accuracy: float | None
    bounds: Bounds
    steps: int | None
    fell_back: bool = False
    diagnose: Callable[[], Diagnosis] = field(repr=False)

    @cached_property
    def _diagnosis(self) -> Diagnosis:
        return self.diagnose()

    @property
    def termination(self) -> Termination:
        """How the call ended."""
        return self._diagnosis.termination

    @property
    def estimated_error(self) -> float:
        """Roots: ||X - X*||_F / ||X*||_F against float64; `polar`: ||U U^T - I||_F / sqrt(r), r = min(m, n)."""
        return self._diagnosis.estimated_error

    @property
    def negative_part(self) -> float | None:
        """max(0, -lambda_min) of the damped matrix in float64; None for `polar`."""
        return self._diagnosis.negative_part
