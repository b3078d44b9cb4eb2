"""The iterates that a convergence report looks at: against the scalar recurrence, and against the method itself."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from iroot.coefficients import named_table
from iroot.errors import InvalidInputError, UnknownNameError
from iroot.iterates import TRACED, trace, trace_quintics
from iroot.methods.coupled_pe import planned_schedule
from iroot.ops import make_ops
from iroot.options import ScheduleOptions
from iroot.registry import Operands, Workload, get_method
from iroot.spectrum import spectral_state

CPU = torch.device("cpu")
N, KAPPA = 24, 1e3
SPECTRUM = torch.logspace(-math.log10(KAPPA), 0, N, dtype=torch.float64)


def posed(p: int) -> Operands:
    """Eigenvalues 1e-3 ... 1, log-spaced, in float64."""
    Q = torch.linalg.qr(torch.randn(N, N, generator=torch.Generator().manual_seed(p), dtype=torch.float64)).Q
    A = (Q * SPECTRUM) @ Q.mT
    return Operands(A=(A + A.mT) / 2, p=p, lower=0.99 / KAPPA)


def eigenvalues(Y: Tensor) -> Tensor:
    values: Tensor = torch.linalg.eigvalsh(0.5 * (Y + Y.mT).double())
    return values


def close(found: Tensor, expected: Tensor, tolerance: float = 1e-9) -> None:
    torch.testing.assert_close(found.sort().values, expected.sort().values, rtol=tolerance, atol=1e-12)


@pytest.mark.parametrize("p", [1, 2, 3, 8])
def test_a_schedule_follows_the_scalar_recurrence(p: int) -> None:
    options = ScheduleOptions(target=1e-3, degrees=(2, 4, 8))
    found = trace("coupled_pe", posed(p), make_ops("fp64", CPU), options)
    y = SPECTRUM * float(eigenvalues(found.iterates[0])[-1])
    steps = planned_schedule(Workload(m=N, n=N, p=p, precision="fp64", lower=0.99 / KAPPA), options).steps
    assert len(found.iterates) == len(found.exact) == len(found.products) == len(steps) + 1
    for t, Y in enumerate(found.iterates):
        close(eigenvalues(Y), y)
        close(found.exact[t], y)
        if t < len(steps):
            y = torch.tensor([float(v) * steps[t].at(float(v)) ** p for v in y], dtype=torch.float64)
    assert float((1.0 - y ** (1 / p)).abs().max()) <= 1e-3


@pytest.mark.parametrize("p", [1, 2, 4])
@pytest.mark.parametrize(("method", "largest"), [("coupled_newton", None), ("newton_schulz", 1.0)])
def test_inverse_newton_follows_the_scalar_recurrence(method: str, largest: float | None, p: int) -> None:
    found = trace(method, posed(p), make_ops("fp64", CPU))
    y = SPECTRUM * float(eigenvalues(found.iterates[0])[-1])
    assert float(y[-1]) <= (0.5 * (p + 1) if largest is None else largest)
    for Y, exact in zip(found.iterates, found.exact, strict=True):
        close(eigenvalues(Y), y)
        close(exact, y)
        y = y * ((p + 1 - y) / p) ** p


def test_a_table_is_run_with_its_own_quintics() -> None:
    quintics = named_table("polar_express").take(6)
    found = trace_quintics(quintics, posed(2), make_ops("fp64", CPU))
    sigma = SPECTRUM.sqrt() * float(eigenvalues(found.iterates[0])[-1]) ** 0.5
    for (a, b, c), Y in zip((*quintics, (0.0, 0.0, 0.0)), found.iterates, strict=True):
        close(eigenvalues(Y), sigma.square())
        sigma = a * sigma + b * sigma**3 + c * sigma**5


@pytest.mark.parametrize("method", TRACED)
def test_the_iterates_are_those_of_the_method(method: str) -> None:
    """X^p A has the spectrum of the last iterate; products end at what the method's own FLOP formula counts."""
    precision = "fp16_emulated" if method == "graded_pe" else "fp32"
    spec, operands, ops = get_method("inverse_root", method), posed(2), make_ops(precision, CPU)
    operands = Operands(A=operands.A.float(), p=2, lower=operands.lower)
    options = spec.make_options({"target": 0.05})
    found = trace(method, operands, ops, options)
    X = spec.function(operands, ops, options).double()
    last, of_x = spectral_state(found.iterates[-1]), eigenvalues(X @ operands.A.double() @ X)
    assert last is not None
    tolerance = 2e-3 if method == "graded_pe" else 1e-4
    assert (last.smallest, last.largest) == pytest.approx((float(of_x[0]), float(of_x[-1])), abs=tolerance)
    workload = Workload(m=N, n=N, p=2, precision=precision, lower=operands.lower)
    assert found.products[-1] * N**3 == spec.flops(workload, options)
    assert list(found.products) == sorted(found.products)


def test_rounding_shows_in_the_iterates_alone() -> None:
    operands = Operands(A=posed(2).A.float(), p=2, lower=0.99 / KAPPA)
    found = trace("coupled_pe", operands, make_ops("bf16_emulated", CPU))
    rounded, exact = spectral_state(found.iterates[-1]), spectral_state(found.exact[-1])
    assert rounded is not None
    assert exact is not None
    assert exact.radius < 3e-3
    assert rounded.radius > 3 * exact.radius


def test_the_state_of_a_planted_spectrum() -> None:
    state = spectral_state(torch.diag(torch.tensor([0.5, 0.95, 1.005, 2.0])))
    assert state is not None
    assert (state.smallest, state.largest, state.radius) == (0.5, 2.0, 1.0)
    assert state.log_ratio == pytest.approx(math.log(4.0))
    assert (state.within_10, state.within_1) == (0.5, 0.25)
    indefinite = spectral_state(torch.tensor([-1.0, 1.0]))
    assert indefinite is not None
    assert indefinite.log_ratio is None
    assert spectral_state(torch.tensor([[math.nan]])) is None


def test_what_has_no_iterate_is_refused() -> None:
    ops = make_ops("fp32", CPU)
    with pytest.raises(UnknownNameError, match=r"unknown method with a coupled iterate 'coupled_p'; did you mean"):
        trace("coupled_p", posed(2), ops)
    with pytest.raises(InvalidInputError, match=r"graded_pe must run in one of .*16.*, got precision 'fp32'"):
        trace("graded_pe", posed(2), ops)
    with pytest.raises(InvalidInputError, match="must be run with p = 2, got p = 4"):
        trace_quintics(named_table("polar_express").take(2), posed(4), ops)
