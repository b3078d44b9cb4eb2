"""Polar methods that iterate on the Gram matrix of the small side; what all polar methods share is in test_polar."""

from __future__ import annotations

import pytest

from iroot.errors import InvalidInputError, UnknownNameError
from iroot.ops import make_ops
from iroot.registry import Workload, get_method
from iroot.tests.test_polar import DEVICE, distance, posed, run, true_factor

EMULATED = pytest.mark.skipif(DEVICE.type == "cuda", reason="emulated precisions are for machines without the unit")


@pytest.mark.parametrize("restarts", [(), (1,), (2,), (1, 2, 3, 4)])
@pytest.mark.parametrize("shape", [(24, 40), (40, 24), (2, 16, 16)], ids=str)
def test_gram_newton_schulz_is_newton_schulz_in_exact_arithmetic(
    shape: tuple[int, ...], restarts: tuple[int, ...]
) -> None:
    A = posed(*shape, kappa=30.0)
    standard = run(get_method("polar", "newton_schulz"), "fp64", A)
    assert distance(run(get_method("polar", "gram_newton_schulz"), "fp64", A, restarts=restarts), standard) < 1e-9


@EMULATED
def test_a_restart_keeps_bfloat16_from_diverging() -> None:
    A = make_ops("bf16_emulated", DEVICE).cast(posed(64, 128, kappa=100.0))
    spec, U = get_method("polar", "gram_newton_schulz"), true_factor(A)
    assert distance(run(spec, "bf16_emulated", A, restarts=()), U) > 0.2
    assert distance(run(spec, "bf16_emulated", A), U) < 0.06
    assert distance(run(get_method("polar", "newton_schulz"), "bf16_emulated", A), U) < 0.06


def test_gram_newton_schulz_costs() -> None:
    """Five steps, one restart, aspect 4: 19 units of 2 r^3, against 32.5 of the standard form; aspect 1: as many."""
    spec = get_method("polar", "gram_newton_schulz")
    for m, n in ((2048, 8192), (8192, 2048)):
        assert spec.flops(Workload(m=m, n=n, precision="bf16"), spec.options()) == 19 * 2 * 2048**3
    assert spec.flops(Workload(m=64, n=64, batch=3, precision="bf16"), spec.options()) == 3 * 10 * 2 * 64**3


@pytest.mark.parametrize(
    ("values", "error", "text"),
    [
        ({"restarts": (0,)}, InvalidInputError, r"within 1 to 4, got \(0,\)"),
        ({"restarts": (3, 2)}, InvalidInputError, "restarts must ascend"),
        ({"steps": 2.5}, InvalidInputError, "steps must be an integer"),
        ({"coefficients": "you"}, UnknownNameError, "coefficient table"),
    ],
)
def test_wrong_options(values: dict[str, object], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        get_method("polar", "gram_newton_schulz").make_options(values)


def test_restarts_may_come_as_a_list() -> None:
    options = get_method("polar", "gram_newton_schulz").make_options({"restarts": [1, 3]})
    assert options.restarts == (1, 3)
