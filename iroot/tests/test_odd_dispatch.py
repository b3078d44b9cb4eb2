"""Which kernels of odd steps a call takes, and that all of them and the library's products agree."""

from __future__ import annotations

import os
from typing import Literal

import pytest
import torch
from torch import Tensor

from iroot.errors import InvalidInputError
from iroot.methods._polar import NORMALISATIONS, Normalisation, Recipe, polar_factor
from iroot.odd_steps import FROBENIUS
from iroot.ops import make_ops
from iroot.polar_schedules import polar_schedule
from iroot.precision import get_precision
from iroot.registry import Operands
from iroot.tests.test_polar import DEVICE, distance, posed

if DEVICE.type == "cpu":  # read when the kernels are defined, and again when they run
    os.environ["TRITON_INTERPRET"] = "1"

from iroot import triton_ops
from iroot.kernels.odd_persistent import persistent_odd_steps
from iroot.triton_ops import TritonOps

RECIPE = Recipe(
    steps=polar_schedule(0.05, steps=2, degrees=(5, 17), safety=1.02), normalisation="schatten8", margin=1.02
)
KERNELS = ("persistent_odd_steps", "odd_products")


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The kernels that were taken, by name; small matrices take them too."""
    taken: list[str] = []

    def counted(name: str) -> None:
        kernel = getattr(triton_ops, name)

        def run(G: Tensor, *args: object, **options: object) -> Tensor:
            taken.append(name)
            result: Tensor = kernel(G, *args, **options)
            return result

        monkeypatch.setattr(triton_ops, name, run)

    for name in KERNELS:
        counted(name)
    monkeypatch.setattr(triton_ops, "SMALLEST_FUSED", 16)
    return taken


def large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_ops, "suits_persistent", lambda *sizes: False)


@pytest.mark.parametrize(("launches", "kernel"), [("counted", KERNELS[0]), ("free", KERNELS[1])])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_every_dtype_of_g_takes_them(
    launches: Literal["counted", "free"], kernel: str, dtype: torch.dtype, calls: list[str]
) -> None:
    """Eagerly the first call prepares the other kernels for captures."""
    ops = TritonOps(get_precision("fp16"), DEVICE, launches=launches)
    G = posed(2, 40, 32).to(dtype)
    X = polar_factor(Operands(A=G), ops, RECIPE)
    exact = polar_factor(Operands(A=G.double()), make_ops("fp64", DEVICE), RECIPE)
    assert X.shape == G.shape
    assert X.dtype == dtype
    assert distance(X, exact) < (0.003 if dtype != torch.bfloat16 else 0.006)
    assert calls == ([KERNELS[1], kernel] if launches == "counted" else [kernel])


def test_eager_calls_with_degree_33_take_a_launch_per_product(calls: list[str]) -> None:
    """The one kernel has degrees to 17; the library's calls would be four times as many."""
    recipe = Recipe(steps=polar_schedule(0.02, steps=2, degrees=(5, 33), safety=1.02), normalisation="schatten8")
    G = posed(2, 40, 32).half()
    X = polar_factor(Operands(A=G), TritonOps(get_precision("fp16"), DEVICE), recipe)
    exact = polar_factor(Operands(A=G.double()), make_ops("fp64", DEVICE), recipe)
    assert distance(X, exact) < 0.003
    assert calls == [KERNELS[1]]
    with pytest.raises(InvalidInputError, match="of degree 17 at most, got 33"):
        persistent_odd_steps(G, recipe.steps)


@pytest.mark.parametrize("launches", ["counted", "free"])
def test_a_scale_beyond_float16(launches: Literal["counted", "free"], calls: list[str]) -> None:
    ops = TritonOps(get_precision("fp16"), DEVICE, launches=launches)
    G = posed(16, 24).float()
    plain = polar_factor(Operands(A=G), ops, RECIPE)
    for scale in (1e8, 1e-8):
        assert distance(polar_factor(Operands(A=G * scale), ops, RECIPE), plain.double()) < 0.002
    assert calls[-2:] == [KERNELS[0 if launches == "counted" else 1]] * 2


@pytest.mark.parametrize("normalisation", NORMALISATIONS)
def test_only_the_row_sums_have_no_kernel(normalisation: Normalisation, calls: list[str]) -> None:
    recipe = Recipe(steps=RECIPE.steps[:1], normalisation=normalisation, margin=1.02)
    polar_factor(Operands(A=posed(32, 32).half()), TritonOps(get_precision("fp16"), DEVICE, launches="free"), recipe)
    assert calls == ([] if normalisation == "square" else [KERNELS[1]])


def test_eager_calls_of_large_matrices_prepare_the_capture(calls: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Products that do not outlast their launches are the library's, but for the first call, which compiles."""
    large(monkeypatch)
    ops, G = TritonOps(get_precision("fp16"), DEVICE), posed(32, 32).half()
    first, second = (ops.odd_steps(G, RECIPE.steps[:1], FROBENIUS) for _ in range(2))
    assert first is None
    assert second is None
    assert calls == [KERNELS[1]]
    monkeypatch.setattr(ops, "_capturing", lambda: True)
    assert ops.odd_steps(G, RECIPE.steps[:1], FROBENIUS) is not None
    assert ops.odd_steps(G.bfloat16(), RECIPE.steps[:1], FROBENIUS) is None


def test_what_no_kernel_takes(calls: list[str]) -> None:
    ops = TritonOps(get_precision("fp16"), DEVICE)
    for G in (posed(8, 40).half(), posed(32, 32), posed(32, 32).half().requires_grad_()):
        assert ops.odd_steps(G, RECIPE.steps, FROBENIUS) is None
    assert not calls
