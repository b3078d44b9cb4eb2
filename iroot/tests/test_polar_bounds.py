"""The scalar bound from G G^T and its square: a true bound, tight on Gaussian input, and what it saves."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from iroot.methods._polar import Recipe, polar_factor
from iroot.odd_steps import quintics
from iroot.ops import make_ops
from iroot.precision import get_precision, unsupported_reason
from iroot.registry import Operands, Workload, get_method
from iroot.tests.test_polar import DEVICE, distance, orthogonality, posed, true_factor

SPEC = get_method("polar", "polar_express")
THREE_STEPS = {"steps": 3, "lower": 0.03, "cushion": 0.0, "safety": 1.0, "normalisation": "square"}
SERVED = [name for name in SPEC.precisions if unsupported_reason(get_precision(name), DEVICE) is None]


def run(precision: str, A: Tensor, **values: object) -> Tensor:
    ops = make_ops(precision, DEVICE)
    with ops.arithmetic():
        return SPEC.function(Operands(A=A), ops, SPEC.make_options(values))


def scaled(G: Tensor, precision: str) -> Tensor:
    """G over the bound: one linear `quintic`."""
    recipe = Recipe(steps=quintics(((1.0, 0.0, 0.0),)), normalisation="square")
    return polar_factor(Operands(A=G), make_ops(precision, DEVICE), recipe)


def spectra(size: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    G = torch.randn(size, size, generator=generator, dtype=torch.float64).to(DEVICE)
    spikes = G.clone()
    spikes[:, 0] *= 30.0
    return {"gaussian": G, "spike": spikes, "one": torch.ones_like(G), "flat": posed(size, size, kappa=1.0)}


@pytest.mark.parametrize("precision", ["fp64", "fp32", "bf16_emulated", "fp16_emulated"])
def test_never_below_the_largest_singular_value(precision: str) -> None:
    if unsupported_reason(get_precision(precision), DEVICE) is not None:
        return
    for name, G in spectra(96).items():
        A = make_ops(precision, DEVICE).cast(G)
        largest = float(torch.linalg.matrix_norm(scaled(A, precision).double(), 2))
        u = get_precision(precision).unit_roundoff
        assert largest <= 1.0 + 2.0 * u + 96 * min(u, 2.0**-24), name
        assert largest >= (1.0 - 4.0 * u) * 96**-0.125, name


def test_tight_where_the_frobenius_norm_is_not() -> None:
    G = spectra(256)["gaussian"]
    largest = float(torch.linalg.matrix_norm(scaled(G, "fp64"), 2))
    assert 1.0 / largest < 1.45
    assert float(torch.linalg.matrix_norm(G) / torch.linalg.matrix_norm(G, 2)) > 7.0


@pytest.mark.skipif(DEVICE.type == "cuda", reason="emulated precisions are for machines without the unit")
def test_three_steps_reach_what_five_reach_from_the_frobenius_norm() -> None:
    """Gaussian 1024 x 1024, bfloat16."""
    A = make_ops("bf16_emulated", DEVICE).cast(torch.randn(1024, 1024, generator=torch.Generator().manual_seed(0)))
    three = orthogonality(run("bf16_emulated", A, **THREE_STEPS))
    five = orthogonality(run("bf16_emulated", A, normalisation="frobenius"))
    assert three < 0.19
    assert three < 0.9 * five


@pytest.mark.parametrize("precision", SERVED)
@pytest.mark.parametrize("shape", [(32, 80), (80, 32), (2, 2, 32, 48)], ids=str)
def test_the_polar_factor_is_unchanged(precision: str, shape: tuple[int, ...]) -> None:
    A = make_ops(precision, DEVICE).cast(posed(*shape))
    X = run(precision, A, normalisation="square")
    assert (X.shape, X.dtype) == (A.shape, A.dtype)
    stated = SPEC.accuracy(
        Workload(m=shape[-2], n=shape[-1], precision=precision, lower=0.24),
        SPEC.make_options({"normalisation": "square"}),
    )
    if stated is not None:
        assert distance(X, true_factor(A)) <= stated
    elif precision != "int4_sim":
        assert distance(X, true_factor(A)) < 0.35


@pytest.mark.parametrize("scale", [1e-30, 1e-4, 1e30])
def test_scale_zero_and_non_finite_input(scale: float) -> None:
    A = posed(24, 40).float()
    torch.testing.assert_close(
        run("fp32", A * scale, normalisation="square"), run("fp32", A, normalisation="square"), rtol=0, atol=1e-3
    )
    zero = torch.zeros(2, 24, 40, device=DEVICE)
    assert torch.equal(run("fp32", zero, normalisation="square"), zero)
    A[1, 2] = math.nan
    assert not run("fp32", A, normalisation="square").isfinite().any()


def test_one_graph_for_torch_compile() -> None:
    ops, options, A = make_ops("fp32", DEVICE), SPEC.make_options(THREE_STEPS), posed(48, 32).float()
    torch.compiler.reset()
    compiled = torch.compile(lambda G: SPEC.function(Operands(A=G), ops, options), fullgraph=True, backend="eager")
    assert torch.equal(compiled(A), SPEC.function(Operands(A=A), ops, options))


@pytest.mark.skipif(DEVICE.type == "cuda", reason="emulated precisions are for machines without the unit")
def test_the_shipped_three_steps() -> None:
    """By name alone: steps and normalisation are the table's."""
    spec, ops = get_method("polar", "newton_schulz"), make_ops("bf16_emulated", DEVICE)
    options = spec.make_options({"coefficients": "square_3"})
    assert (options.recipe().normalisation, len(options.recipe().steps)) == ("square", 3)
    A = ops.cast(torch.randn(1024, 1024, generator=torch.Generator().manual_seed(0)))
    assert orthogonality(spec.function(Operands(A=A), ops, options)) < 0.19


@pytest.mark.gpu
@pytest.mark.parametrize("precision", SERVED)
def test_capture_in_a_cuda_graph(precision: str) -> None:
    from iroot.tests.test_ops import capture

    ops, options = make_ops(precision, DEVICE), SPEC.make_options(THREE_STEPS)
    A = ops.cast(torch.randn(256, 128, generator=torch.Generator().manual_seed(0)).to(DEVICE))
    with ops.arithmetic():
        expected = SPEC.function(Operands(A=A), ops, options)
        replayed = capture(lambda: SPEC.function(Operands(A=A), ops, options))
    torch.testing.assert_close(replayed, expected, rtol=0, atol=0, equal_nan=True)
