"""Launches of the word kernels with random words: what the Gluon kernels' tests have in common.

Imported after a test has chosen Triton's interpreter, where it needs it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from iroot.kernels.graded_root import promoted
from iroot.kernels.operands import empty_aligned
from iroot.kernels.tiling import Tiling, schedule
from iroot.kernels.word_launch import SQUARE, Call, Inputs, Outputs, Word, new_word
from iroot.kernels.words import PRODUCT, QUADRATIC, UPDATE

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")

QUADRATIC_CALL = Call(kind=QUADRATIC.value, chebyshev=(1.1, -0.7, 0.4), mid=0.5, radius=0.55)
UPDATE_CALL = Call(kind=UPDATE.value, linear=0.8, both=True)
APPEND = Call(kind=PRODUCT.value, factor=0.9)


@dataclass(frozen=True, kw_only=True)
class Form:
    """One launch; its result is a word, or final."""

    call: Call
    inputs: Inputs
    tiling: Tiling
    final: bool = False

    def outputs(self) -> Outputs:
        """Memory without a number in it."""
        M = self.inputs.M
        if self.final:
            X = empty_aligned((M.word.shape[0], M.n, M.n), torch.float32, M.word.device).fill_(torch.nan)
            return Outputs(final=X, scale=torch.full(M.shift.shape, 1.7, device=M.word.device), p=2)
        result = new_word(M.word, self.tiling, rest=self.call.kind == UPDATE.value)
        sums = result.sums
        for A in (result.word, result.shift, sums.norm, sums.with_p, sums.with_v, result.rest, result.errors):
            if A is not None:
                A.fill_(torch.nan)
        return Outputs(word=result)


def words(batch: int, n: int, dtype: torch.dtype, tiling: Tiling) -> list[Word]:
    """Four with entries of about n^(-1/2); all as Y is. Sums that a scalar takes are exact in every order."""
    generator = torch.Generator(device=DEVICE).manual_seed(n)

    def word() -> Word:
        A = torch.randn(batch, n, n, generator=generator, device=DEVICE) * (0.25 / n**0.5)
        R = A.tril() + A.tril(-1).mT
        like = new_word(torch.empty(batch, n, n, dtype=dtype, device=DEVICE), tiling, rest=True)
        assert like.rest is not None
        assert like.errors is not None
        like.word.copy_(R)
        like.rest.copy_(R)
        like.errors.copy_(2.0**-12 * torch.randint(-4, 4, like.errors.shape, generator=generator, device=DEVICE))
        like.shift.copy_(0.6 + 0.1 * torch.rand(batch, generator=generator, device=DEVICE))
        return like

    return [word() for _ in range(4)]


def forms(batch: int, n: int, dtype: torch.dtype, tiling: Tiling) -> dict[str, Form]:
    """Every product that a root is made of, and three more."""
    X, B, Y, V = words(batch, n, dtype, tiling)
    tiles = len(schedule(n, 1, tiling.block, tiling.tail))
    trace = torch.arange(batch * tiles, device=DEVICE).reshape(batch, tiles).remainder(7).sub(3).float()
    update = Inputs(M=Y, N=B, trace=trace)
    cut = replace(tiling, warps=8) if tiling.block == 128 else tiling  # room for a second accumulator
    return {
        f"update{k}": Form(call=UPDATE_CALL, inputs=update, tiling=promoted(cut, k)) for k in (512, 128, 64, 32, 0)
    } | {
        "quadratic": Form(call=QUADRATIC_CALL, inputs=Inputs(M=Y, N=Y, trace=trace), tiling=tiling),
        "square": Form(call=SQUARE, inputs=Inputs(M=B, N=B, trace=trace), tiling=tiling),
        "square beside V": Form(call=SQUARE, inputs=Inputs(M=B, N=B, trace=trace, partner=V), tiling=tiling),
        "product beside V": Form(call=SQUARE, inputs=Inputs(M=X, N=B, trace=trace, partner=V), tiling=tiling),
        "X B": Form(call=APPEND, inputs=Inputs(M=X, N=B, trace=None), tiling=tiling),
        "(X B + B X) / 2": Form(
            call=replace(APPEND, both=True), inputs=Inputs(M=X, N=B, trace=None), tiling=tiling
        ),
        "final": Form(call=APPEND, inputs=Inputs(M=X, N=B, trace=None), tiling=tiling, final=True),
    }  # fmt: skip
