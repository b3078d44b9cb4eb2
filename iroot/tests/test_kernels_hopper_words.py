"""Gluon's products of words bit for bit against Triton's, on a Hopper GPU; without one, when they are taken."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
if DEVICE.type == "cpu":  # read when the kernels are defined, and again when they run
    os.environ["TRITON_INTERPRET"] = "1"
import triton  # noqa: E402

from iroot.graded_steps import word_steps  # noqa: E402
from iroot.kernels import word_launch  # noqa: E402
from iroot.kernels.graded_root import graded_root, promoted  # noqa: E402
from iroot.kernels.hopper import lacks_gluon  # noqa: E402
from iroot.kernels.rehearsal import on_grid, rehearse  # noqa: E402
from iroot.kernels.tiling import GRADED_TILINGS, Tiling  # noqa: E402
from iroot.kernels.word_launch import (  # noqa: E402
    SQUARE,
    Call,
    Inputs,
    Outputs,
    is_for_gluon,
    new_word,
    takes_gluon,
    triton_launch,
)
from iroot.schedules import Design, schedule_for  # noqa: E402
from iroot.tests.word_forms import APPEND, QUADRATIC_CALL, UPDATE_CALL, Form, forms  # noqa: E402

PLAIN, TAIL, SMALL = GRADED_TILINGS
HALF, BRAIN = torch.float16, torch.bfloat16
runs_gluon = pytest.mark.skipif(bool(lacks_gluon(DEVICE)), reason=lacks_gluon(DEVICE) or "it runs")


def form(call: Call, tiling: Tiling = TAIL, *, square: bool = False, partner: bool = False, n: int = 2048) -> Form:
    """Shapes without memory."""
    like = torch.empty(1, n, n, dtype=HALF, device="meta")
    M, N, V = (new_word(like, tiling, rest=True) for _ in range(3))
    inputs = Inputs(M=M, N=M if square else N, trace=None, partner=V if partner else None)
    return Form(call=call, inputs=inputs, tiling=tiling)


def taken(form: Form) -> bool:
    return takes_gluon(form.call, form.inputs, form.outputs(), form.tiling)


def test_what_a_root_takes_has_a_kernel() -> None:
    for tiling in (PLAIN, TAIL, *(promoted(TAIL, k) for k in (512, 256, 128, 64, 48, 32, 0))):
        assert taken(form(UPDATE_CALL, tiling))
    assert taken(form(QUADRATIC_CALL, square=True))
    for partner in (False, True):
        assert taken(form(SQUARE, square=True, partner=partner))
        assert taken(form(APPEND, partner=partner))
    assert taken(replace(form(APPEND), final=True))


def test_other_tiles_sums_and_operands_have_none() -> None:
    for tiling in (replace(SMALL, tail=16), replace(TAIL, tail=64), promoted(TAIL, 16), replace(TAIL, promote_k=96)):
        assert not taken(form(UPDATE_CALL, tiling))
    assert not taken(replace(form(QUADRATIC_CALL, square=True), final=True))  # a root of one step
    assert not taken(form(QUADRATIC_CALL))
    assert not taken(form(UPDATE_CALL, square=True))
    assert not taken(form(QUADRATIC_CALL, square=True, partner=True))
    assert not taken(form(UPDATE_CALL, partner=True))
    assert not taken(replace(form(APPEND, partner=True), final=True))


def test_every_tile_of_a_root_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    def dispatched(n: int, tiling: Tiling) -> bool:
        each = form(UPDATE_CALL, tiling, n=n)
        return is_for_gluon(each.call, each.inputs, each.outputs(), each.tiling)

    shapes = ((2048, TAIL), (2048, PLAIN), (1536, PLAIN), (1024, SMALL))  # 118, 136, 78, 136 tiles
    assert not any(dispatched(*shape) for shape in shapes)  # for want of a Hopper GPU
    monkeypatch.setattr(word_launch, "lacks_gluon", lambda device: "")
    assert all(dispatched(*shape) for shape in shapes)


def by_both(form: Form) -> tuple[Outputs, Outputs]:
    from iroot.kernels.hopper_words import hopper_word

    found, expected = form.outputs(), form.outputs()
    hopper_word(form.call, form.inputs, found, form.tiling)
    triton_launch(form.call, form.inputs, expected, form.tiling)
    return found, expected


def close(found: Tensor, expected: Tensor, size: Tensor) -> bool:
    """Sums tile by tile, to 1e-6 of the largest of `size`: terms cancel in most sums, not in a word's with itself."""
    return bool(((found - expected).abs() <= 1e-6 * size.amax(-1, keepdim=True)).all())


def right(form: Form, found: Outputs, expected: Outputs) -> bool:
    """Results to the last bit, sums to rounding."""
    if form.final:
        assert found.final is not None
        assert expected.final is not None
        return torch.equal(found.final, found.final.mT) and torch.equal(found.final, expected.final)
    D, E = found.word, expected.word
    assert D is not None
    assert E is not None
    good = torch.equal(D.word, D.word.mT) and torch.equal(D.word, E.word) and torch.equal(D.shift, E.shift)
    size = E.sums.norm
    good &= close(D.sums.norm, size, size) and close(D.sums.with_p, E.sums.with_p, size)
    if form.inputs.partner is not None:
        good &= close(D.sums.with_v, E.sums.with_v, size)
    if D.rest is not None and E.rest is not None:
        good &= torch.equal(D.rest.tril(), E.rest.tril())
    if D.errors is not None and E.errors is not None:
        good &= close(D.errors, E.errors, size)
    return good


@pytest.mark.gpu
@runs_gluon
@pytest.mark.parametrize(
    ("n", "batch", "tiling", "dtype"),
    [(1000, 1, TAIL, HALF), (1000, 1, PLAIN, HALF), (512, 3, TAIL, HALF), (512, 3, PLAIN, BRAIN),
     (1000, 1, TAIL, BRAIN), (1050, 2, TAIL, HALF), (130, 2, PLAIN, HALF), (2048, 1, TAIL, HALF)],
    ids=str,
)  # fmt: skip
def test_bit_for_bit_with_tritons_kernel(n: int, batch: int, tiling: Tiling, dtype: torch.dtype) -> None:
    """Every form, with rows, columns and tiles that are not full; four launches, each the same."""
    every = forms(batch, n, dtype, tiling)
    rehearse(("test_bit_for_bit", n, tiling, dtype), lambda: [by_both(each) for each in every.values()], DEVICE)
    wrong = [name for name, each in every.items() for _ in range(4) if not right(each, *by_both(each))]
    assert wrong == []


@pytest.mark.gpu
@runs_gluon
def test_sums_of_a_word_are_those_of_its_entries() -> None:
    """Of elements as they are stored, both triangles; each form's P is N, and a quadratic's is Y."""
    for name, each in forms(1, 1000, HALF, TAIL).items():
        if each.final:
            continue
        D = by_both(each)[0].word
        assert D is not None
        beside = {"norm": (D.sums.norm, D), "with_p": (D.sums.with_p, each.inputs.N)}
        if each.inputs.partner is not None:
            beside["with_v"] = (D.sums.with_v, each.inputs.partner)
        for which, (sums, other) in beside.items():
            products = D.word.double() * other.word.double()
            off = (sums.double().sum(-1) - products.sum((-2, -1))).abs() / products.abs().sum((-2, -1))
            assert float(off.max()) < 1e-6, (name, which)


def posed(n: int, p: int, kappa: float = 1e4) -> tuple[Tensor, Tensor]:
    """A log-spaced matrix with lambda_max = 1, and its inverse p-th root in float64."""
    generator = torch.Generator().manual_seed(n)
    Q = torch.linalg.qr(torch.randn(n, n, generator=generator, dtype=torch.float64).to(DEVICE)).Q
    exponents = torch.linspace(0.0, -1.0, n, dtype=torch.float64, device=DEVICE)
    values = kappa**exponents
    return ((Q * values) @ Q.mT).float(), (Q * values ** (-1.0 / p)) @ Q.mT


@pytest.mark.gpu
@runs_gluon
@pytest.mark.parametrize("p", [1, 2, 4])
def test_whole_roots(monkeypatch: pytest.MonkeyPatch, p: int) -> None:
    """Scalars come from sums in another order: a word's rounding turns out differently now and then."""
    A, exact = posed(2048, p)
    steps = word_steps(schedule_for(Design(p=p, lower=0.9e-4), target=2e-4, min_cushion=0.03))
    roots = []
    for reason in ("Triton's turn", ""):
        monkeypatch.setattr(word_launch, "lacks_gluon", lambda device, reason=reason: reason)
        X = graded_root(A, torch.full((1, 1), 1.02, device=DEVICE), steps, p=p)
        assert torch.equal(X, X.mT)
        assert (X.double() - exact).norm() < 1e-3 * exact.norm()
        roots.append(X.double())
    assert (roots[1] - roots[0]).norm() < 1e-3 * exact.norm()


@pytest.mark.gpu
@runs_gluon
def test_taken_in_graphs_and_compiled_before_its_launch(monkeypatch: pytest.MonkeyPatch) -> None:
    from iroot.kernels import hopper_words

    A, exact = posed(1536, 3)
    scale = torch.full((1, 1), 1.02, device=DEVICE)
    steps = word_steps(schedule_for(Design(p=3, lower=0.9e-4), target=2e-4, min_cushion=0.03))
    launches: list[object] = []

    def noted(kernel: object, grid: tuple[int, ...]) -> Callable[..., object]:
        launches.append(kernel)
        return on_grid(kernel, grid)

    monkeypatch.setattr(hopper_words, "on_grid", noted)
    threads: list[threading.Thread] = []
    monkeypatch.setattr(triton.knobs.compilation, "listener", lambda **_: threads.append(threading.current_thread()))

    def run() -> Tensor:
        return graded_root(A, scale, steps, p=3)

    expected = run()
    assert threading.main_thread() not in threads
    # Rehearsed and launched: B in every step; W in two products, X B and Y in all but the last, X in the last.
    inner = len(steps) - 1
    assert launches == [hopper_words.hopper_word_kernel] * 2 * (len(steps) + 4 * inner)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = run()
    for _ in range(3):
        captured.fill_(torch.nan)
        graph.replay()
        assert torch.equal(captured, expected)
    assert (expected.double() - exact).norm() < 1e-3 * exact.norm()
