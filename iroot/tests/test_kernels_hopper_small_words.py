"""Gluon's products of words in tiles of 64 x 64 beside Triton's and float64, on a Hopper GPU; without one, dispatch."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest
import torch
from torch import Tensor

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
if DEVICE.type == "cpu":  # read when the kernels are defined, and again when they run
    os.environ["TRITON_INTERPRET"] = "1"

from iroot.graded_steps import word_steps  # noqa: E402
from iroot.kernels import word_launch  # noqa: E402
from iroot.kernels.graded_root import graded_root, promoted  # noqa: E402
from iroot.kernels.hopper import lacks_gluon  # noqa: E402
from iroot.kernels.rehearsal import rehearse  # noqa: E402
from iroot.kernels.tiling import GRADED_TILINGS  # noqa: E402
from iroot.kernels.word_launch import (  # noqa: E402
    Inputs,
    Outputs,
    is_for_gluon,
    lets_in,
    new_word,
    takes_gluon,
    triton_launch,
)
from iroot.schedules import Design, schedule_for  # noqa: E402
from iroot.tests.word_forms import UPDATE_CALL, Form, forms  # noqa: E402

SMALL = GRADED_TILINGS[2]
runs_gluon = pytest.mark.skipif(bool(lacks_gluon(DEVICE)), reason=lacks_gluon(DEVICE) or "it runs")


def test_small_tiles_have_every_form(monkeypatch: pytest.MonkeyPatch) -> None:
    """With every length of sums that an update can have; taken where the GPU can run them."""
    like = torch.empty(1, 1024, 1024, dtype=torch.float16, device="meta")
    M, N = (new_word(like, SMALL, rest=True) for _ in range(2))
    each = Form(call=UPDATE_CALL, inputs=Inputs(M=M, N=N, trace=None), tiling=SMALL)
    for k in (512, 256, 128, 64, 32, 0):
        assert takes_gluon(each.call, each.inputs, each.outputs(), promoted(SMALL, k))
    for tiling in (promoted(SMALL, 16), replace(SMALL, tail=16), replace(SMALL, block=32)):
        assert not takes_gluon(each.call, each.inputs, each.outputs(), tiling)
    for lack in ("", "no Hopper GPU"):
        monkeypatch.setattr(word_launch, "lacks_gluon", lambda device, lack=lack: lack)
        assert is_for_gluon(each.call, each.inputs, each.outputs(), SMALL) is not bool(lack)


def test_small_passes_let_the_next_kernel_in() -> None:
    assert [lets_in(*shape) for shape in ((1, 1024), (4, 512), (2, 1024), (1, 2048))] == [True, True, False, False]


def by_both(form: Form) -> tuple[Outputs, Outputs]:
    from iroot.kernels.hopper_small_words import hopper_small_word

    found, expected = form.outputs(), form.outputs()
    hopper_small_word(form.call, form.inputs, found, form.tiling)
    triton_launch(form.call, form.inputs, expected, form.tiling)
    return found, expected


def close(found: Tensor, expected: Tensor, size: Tensor) -> bool:
    """Sums tile by tile, to 1e-4 of the largest of `size`: a word's last bit differs now and then.

    One on the diagonal is 2e-5 of a tile's sum of squares.
    """
    return bool(((found - expected).abs() <= 1e-4 * size.amax(-1, keepdim=True)).all())


def alike(found: Tensor, expected: Tensor, unit: float) -> bool:
    """To `unit` of each element, a little more near zero: at most one step of its last bit."""
    return bool(((found.double() - expected.double()).abs() <= unit * expected.double().abs() + 1e-6).all())


def right(form: Form, found: Outputs, expected: Outputs) -> bool:
    """Results to the last bit but one, scalars to the last, sums to rounding."""
    if form.final:
        assert found.final is not None
        assert expected.final is not None
        return torch.equal(found.final, found.final.mT) and alike(found.final, expected.final, 1e-5)
    D, E = found.word, expected.word
    assert D is not None
    assert E is not None
    good = torch.equal(D.word, D.word.mT) and torch.equal(D.shift, E.shift)
    good &= alike(D.word, E.word, torch.finfo(E.word.dtype).eps)
    # Words alike to the last float32 bits of their sums are the same in all but a few elements.
    good &= float((D.word != E.word).double().mean()) < 0.02
    size = E.sums.norm
    good &= close(D.sums.norm, size, size) and close(D.sums.with_p, E.sums.with_p, size)
    if form.inputs.partner is not None:
        good &= close(D.sums.with_v, E.sums.with_v, size)
    if D.rest is not None and E.rest is not None:
        good &= alike(D.rest.tril(), E.rest.tril(), 1e-5)
    if D.errors is not None and E.errors is not None:
        good &= close(D.errors, E.errors, size)
    return good


@pytest.mark.gpu
@runs_gluon
@pytest.mark.parametrize(
    ("n", "batch", "dtype"),
    [(1024, 1, torch.float16), (1000, 1, torch.bfloat16), (520, 2, torch.float16), (130, 2, torch.float16),
     (40, 1, torch.float16)],
    ids=str,
)  # fmt: skip
def test_beside_tritons_kernel(n: int, batch: int, dtype: torch.dtype) -> None:
    """Every form, with tiles that are not full and a group without a step; four launches, each the same to the bit."""
    every = forms(batch, n, dtype, SMALL)
    rehearse(("test_small", n, dtype), lambda: [by_both(each) for each in every.values()], DEVICE)
    for name, each in every.items():
        found, expected = by_both(each)
        assert right(each, found, expected), name
        first = found.final if found.word is None else found.word.word
        assert first is not None
        for _ in range(3):
            again = by_both(each)[0]
            later = again.final if again.word is None else again.word.word
            assert later is not None
            assert torch.equal(first, later), name


@pytest.mark.gpu
@runs_gluon
@pytest.mark.parametrize("p", [1, 2, 3, 4])
def test_whole_roots(monkeypatch: pytest.MonkeyPatch, p: int) -> None:
    n, kappa = 1000, 1e4
    generator = torch.Generator().manual_seed(n)
    Q = torch.linalg.qr(torch.randn(n, n, generator=generator, dtype=torch.float64).to(DEVICE)).Q
    values = kappa ** torch.linspace(0.0, -1.0, n, dtype=torch.float64, device=DEVICE)
    A, exact = ((Q * values) @ Q.mT).float(), (Q * values ** (-1.0 / p)) @ Q.mT
    steps = word_steps(schedule_for(Design(p=p, lower=0.9e-4), target=2e-4, min_cushion=0.03))
    for lack in ("", "Triton's kernel is asked for"):
        monkeypatch.setattr(word_launch, "lacks_gluon", lambda device, lack=lack: lack)
        X = graded_root(A, torch.full((1, 1), 1.02, device=DEVICE), steps, p=p)
        assert torch.equal(X, X.mT)
        assert (X.double() - exact).norm() < 1e-3 * exact.norm()
