"""Hopper's kernels in Gluon, which has no interpreter, against Triton's for the same results: `kernel_checks.py`'s.

Their modules are imported where they are known to run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import cycle

import torch
from kernel_shapes import Found, Shape, differing, distance, shapes
from torch import Tensor

from iroot.kernels.balanced_tiles import shares_of
from iroot.kernels.device_tiles import device_programs
from iroot.kernels.graded_root import promoted
from iroot.kernels.multiply_add import BLOCKINGS, triton_multiply_add
from iroot.kernels.operands import empty_aligned, empty_rows, operand
from iroot.kernels.split_product import BLOCKINGS as SPLIT_BLOCKINGS
from iroot.kernels.split_product import Factors, posed, triton_split
from iroot.kernels.split_words import split
from iroot.kernels.symmetric_sum import UNSCALED, Matrices, Scaling, SumTerms, triton_sums
from iroot.kernels.tiling import GRADED_TILINGS, Tiling
from iroot.kernels.wide_tiles import slots_of
from iroot.kernels.word_launch import SQUARE, Call, Inputs, Outputs, Word, new_word, triton_launch
from iroot.kernels.words import PRODUCT, QUADRATIC, UPDATE

_BOTH = (SumTerms(P=0.7, T=-1.3, Z=0.6, identity=0.25), SumTerms(P=-0.4, T=0.9, Z=1.1, identity=-0.5))
_ONE, _OTHER = _BOTH[:1], _BOTH[1:]

_Launch = tuple[Matrices, tuple[SumTerms, ...], Scaling]


def gluon_sums(device: torch.device) -> Iterator[Found]:
    """Hopper's sums bit for bit against Triton's: all addends, results, scalings, and sums of squares."""
    from iroot.kernels.hopper_sum import hopper_sums

    for shape, tiling in zip(shapes(device), cycle(GRADED_TILINGS[:2]), strict=False):
        drawn = _DrawnSums(shape)
        forms = [(Matrices(M=drawn.S, N=drawn.S, **each), count) for each in drawn.addends for count in (_ONE, _BOTH)]
        launches = [(matrices, sums, UNSCALED) for matrices, sums in forms]
        yield from drawn.compared(hopper_sums, [*launches, *drawn.scaled(_BOTH)], tiling)


def gluon_small_sums(device: torch.device) -> Iterator[Found]:
    """Those in tiles of 64 x 64, one for each program and on the diagonal in pairs, as far as 132 tiles and beyond."""
    from iroot.kernels.hopper_small_sum import hopper_small_sums

    for shape in (*shapes(device), *(replace(shape, n=1000) for shape in shapes(device)[:2])):
        drawn = _DrawnSums(shape)
        factors = ((drawn.S, drawn.S), (drawn.S, padded(drawn.S, shape)))
        forms = [Matrices(M=M, N=N, **each) for each in drawn.addends for M, N in factors]
        launches = [(matrices, sums, UNSCALED) for matrices, sums in zip(forms, cycle((_ONE, _BOTH)), strict=False)]
        yield from drawn.compared(hopper_small_sums, [*launches, *drawn.scaled(_ONE)], GRADED_TILINGS[2])


def gluon_balanced_sums(device: torch.device) -> Iterator[Found]:
    """Those with M = N in equal shares, whose fourth blocks are another tile's, or nobody's."""
    from iroot.kernels.hopper_balanced import hopper_balanced_sums

    for shape in (*shapes(device), *(replace(shape, n=520) for shape in shapes(device)[:2])):
        drawn = _DrawnSums(shape)
        forms = [(Matrices(M=drawn.S, N=drawn.S, **each), count) for each in drawn.addends for count in (_ONE, _BOTH)]
        launches = [(matrices, sums, UNSCALED) for matrices, sums in forms]
        taken = [*launches, *drawn.scaled(_BOTH)]
        yield from drawn.compared(hopper_balanced_sums, taken, GRADED_TILINGS[0], parts=2 * shares_of(shape.n))


def gluon_wide_sums(device: torch.device) -> Iterator[Found]:
    """Those with M = N in slots of 128 x 256; the last two shapes give programs several, in many steps and in few."""
    from iroot.kernels.hopper_wide import hopper_wide_sums

    many = Shape(n=520, batch=18, dtype=torch.float16, turned=False, device=device)
    for shape in (*shapes(device), many, replace(many, n=130, batch=150)):
        drawn = _DrawnSums(shape)
        forms = [(Matrices(M=drawn.S, N=drawn.S, **each), count) for each in drawn.addends for count in (_ONE, _BOTH)]
        launches = [(matrices, sums, UNSCALED) for matrices, sums in forms]
        taken = [*launches, *drawn.scaled(_BOTH)]
        yield from drawn.compared(hopper_wide_sums, taken, GRADED_TILINGS[0], parts=2 * slots_of(shape.n))


class _DrawnSums:
    """Operands of sums of one shape. Norms are whole numbers, whose sums are the same in any order."""

    def __init__(self, shape: Shape) -> None:
        X, *others = (shape.draw(shape.n, shape.n, seed=seed) for seed in range(4))
        self.shape = shape
        self.X = padded(X, shape)
        self.S, self.T, self.Z = (padded(M + M.mT, shape) for M in others)
        self.addends: tuple[dict[str, Tensor], ...] = ({}, {"T": self.T}, {"Z": self.Z}, {"T": self.T, "Z": self.Z})

    def scaled(self, last: tuple[SumTerms, ...]) -> list[_Launch]:
        """A launch of every scaling, in the order in which a step has them; the last one leaves `last`."""
        X, S, T, Z, batch, device = self.X, self.S, self.T, self.Z, self.shape.batch, self.shape.device
        unit, norms = torch.full((batch,), 0.5, device=device), torch.full((batch, 9), 3.0, device=device)
        return [
            (Matrices(M=X, N=X), _OTHER, Scaling(kind="limited", norms=1e4 * norms)),
            (Matrices(M=S, N=S, Z=Z), _BOTH, Scaling(kind="first", norms=norms, unit=unit, margin=1.1)),
            (Matrices(M=S, N=S, T=T, Z=Z), last, Scaling(kind="later", unit=unit)),
        ]

    def compared(
        self,
        kernel: Callable[..., None],
        launches: list[_Launch],
        tiling: Tiling,
        *,
        parts: int | None = None,
    ) -> Iterator[Found]:
        """Every launch by `kernel` and by Triton's, and the sums of squares that a Gram product leaves.

        parts: sums of squares of a matrix; None: one for every tile.
        """
        n, batch, dtype, device = self.shape.n, self.shape.batch, self.shape.dtype, self.shape.device
        for matrices, sums, scaling in launches:
            found, expected = ([empty_rows((batch, n, n), dtype, device) for _ in sums] for _ in range(2))
            kernel(matrices, sums, tiling, found, scaling=scaling)
            triton_sums(matrices, sums, tiling, expected, scaling=scaling)
            yield from (differing(D, E.cpu()) for D, E in zip(found, expected, strict=True))
        parts = parts or device_programs(n, 1, tiling.block, tiling.tail, device).shape[0]
        squares, D = torch.empty(batch, parts, device=device), empty_rows((batch, n, n), dtype, device)
        kernel(Matrices(M=self.X, N=self.X), (SumTerms(),), tiling, [D], squares=squares)
        yield distance(squares.sum(-1)[:, None, None], D.cpu().double().square().sum((-2, -1), keepdim=True), 1e-5)


def gluon_products(device: torch.device) -> Iterator[Found]:
    """Hopper's products with an addend bit for bit against Triton's: tiles of 256 and 128 columns, with u and without.

    The last two shapes give a program several tiles, in steps of the depth that are many and that are too few.
    """
    from iroot.kernels.hopper_apply import hopper_apply

    many = Shape(n=520, batch=14, dtype=torch.float16, turned=False, device=device)
    for shape in (*shapes(device), many, replace(many, n=130, batch=150)):
        n, batch = shape.n, shape.batch
        sides = ((n, shape.depth), (shape.depth, n + 8), (n, n + 8))
        A, B, C = (padded(shape.draw(*side, seed=seed), shape) for seed, side in enumerate(sides))
        for blocking in BLOCKINGS[:2]:
            for unit in (None, torch.linspace(0.5, 2.0, batch, device=device)):
                found, expected = (empty_rows((batch, n, n + 8), shape.dtype, device) for _ in range(2))
                hopper_apply((A, B, C), found, (0.5, -2.0), columns=blocking.columns, unit=unit)
                triton_multiply_add(
                    operand(A), operand(B.mT), operand(C), expected, (0.5, -2.0), blocking=blocking, unit=unit
                )
                yield differing(found, expected.cpu())


def gluon_small_products(device: torch.device) -> Iterator[Found]:
    """Those in tiles of 64 columns, and their second and third operands asked for ahead, which are complete by then."""
    from iroot.kernels.hopper_small_apply import hopper_small_apply

    for shape in shapes(device):
        n, batch = shape.n, shape.batch
        sides = ((n, shape.depth), (shape.depth, n + 8), (n, n + 8))
        A, B, C = (padded(shape.draw(*side, seed=seed), shape) for seed, side in enumerate(sides))
        for blocking in BLOCKINGS[2:]:
            for unit in (None, torch.linspace(0.5, 2.0, batch, device=device)):
                found, expected = (empty_rows((batch, n, n + 8), shape.dtype, device) for _ in range(2))
                triton_multiply_add(
                    operand(A), operand(B.mT), operand(C), expected, (0.5, -2.0), blocking=blocking, unit=unit
                )
                for ahead in (True, False):
                    hopper_small_apply(
                        (A, B, C), found, (0.5, -2.0), rows=blocking.rows, unit=unit, ahead=ahead
                    )  # fmt: skip
                    yield differing(found, expected.cpu())


def padded(A: Tensor, shape: Shape) -> Tensor:
    """A on the device, as the products before would have left it."""
    batch, m, n = A.shape
    return empty_rows((batch, m, n), shape.dtype, shape.device).copy_(A)


def gluon_words(device: torch.device) -> Iterator[Found]:
    """Hopper's products of words: words, R and shifts bit for bit, sums to rounding; every kind and length of sums.

    Sums that scalars are taken from are whole numbers, or such by a power of two.
    """
    from iroot.kernels.hopper_words import hopper_word

    lengths = cycle((512, 128, 64, 32))
    for shape, tiling in zip(shapes(device), cycle(GRADED_TILINGS[:2]), strict=False):
        for call, inputs in word_products(shape, tiling):
            of_update = call.kind == UPDATE.value
            cut = promoted(replace(tiling, warps=8), next(lengths)) if of_update else tiling
            found, expected = (new_word(inputs.M.word, cut, rest=of_update) for _ in range(2))
            hopper_word(call, inputs, Outputs(word=found), cut)
            triton_launch(call, inputs, Outputs(word=expected), cut)
            yield from same_words(found, expected, beside=inputs.partner is not None)
        found_final, expected_final = finals_by(hopper_word, shape, tiling)
        yield differing(found_final, expected_final.cpu())


def finals_by(kernel: Callable[..., None], shape: Shape, tiling: Tiling) -> tuple[Tensor, Tensor]:
    """A root's last product, in float32: by `kernel` and by Triton's."""
    X, B = drawn_word(shape, tiling, seed=0), drawn_word(shape, tiling, seed=1)
    scale = torch.full((shape.batch,), 1.7, device=shape.device)
    found, expected = (empty_aligned((shape.batch, shape.n, shape.n), torch.float32, shape.device) for _ in range(2))
    for launch, final in ((kernel, found), (triton_launch, expected)):
        outputs = Outputs(final=final, scale=scale, p=2)
        launch(Call(kind=PRODUCT.value, factor=0.9), Inputs(M=X, N=B, trace=None), outputs, tiling)
    return found, expected


def gluon_split(device: torch.device) -> Iterator[Found]:
    """Hopper's products of two words each bit for bit: square and not, B stored either way, with C and without."""
    from iroot.kernels.hopper_split import hopper_split

    wide, narrow = (blocking for blocking in SPLIT_BLOCKINGS if blocking.rows == 128)
    for shape, blocking in zip(shapes(device), cycle((wide, narrow)), strict=False):
        for n in (shape.n, shape.n + 72):
            sides = ((shape.n, shape.depth), (shape.depth, n), (shape.n, n))
            A, B, C = (shape.draw(*side, seed=seed).to(device) for seed, side in enumerate(sides))
            left, right, turned = (split(M, shape.dtype) for M in (A, B, B.mT.contiguous().mT))
            for words, addend, promote_k in ((right, C, 128), (right, None, 0), (turned, C, 0), (turned, None, 128)):
                found, expected = (
                    posed(left, words, addend, empty_aligned((shape.batch, shape.n, n), torch.float32, device),
                          Factors(alpha=0.7, beta=-1.3, identity=0.3), promote_k)
                    for _ in range(2)
                )  # fmt: skip
                hopper_split(found, blocking)
                triton_split(expected, blocking, "all")
                yield differing(found.D, expected.D.cpu())


def gluon_small_words(device: torch.device) -> Iterator[Found]:
    """Hopper's products of words in tiles of 64 x 64: shifts bit for bit, all else to the order of float32 sums."""
    from iroot.kernels.hopper_small_words import hopper_small_word

    tiling, lengths = GRADED_TILINGS[2], cycle((512, 128, 64, 32))
    for shape in shapes(device):
        for call, inputs in word_products(shape, tiling):
            of_update = call.kind == UPDATE.value
            cut = promoted(tiling, next(lengths)) if of_update else tiling
            found, expected = (new_word(inputs.M.word, cut, rest=of_update) for _ in range(2))
            triton_launch(call, inputs, Outputs(word=expected), cut)
            hopper_small_word(call, inputs, Outputs(word=found), cut)
            yield from alike_words(found, expected)
        found_final, expected_final = finals_by(hopper_small_word, shape, tiling)
        yield distance(found_final, expected_final.cpu().double(), 1e-6)


def alike_words(found: Word, expected: Word) -> Iterator[Found]:
    """Words, R and sums of which a few elements round differently."""
    yield differing(found.shift, expected.shift.cpu())
    yield differing(found.word, found.word.mT.cpu())
    yield distance(found.word, expected.word.cpu().double(), 0.1 * torch.finfo(found.word.dtype).eps)
    if found.rest is not None and expected.rest is not None:
        yield distance(found.rest.tril(), expected.rest.cpu().double().tril(), 1e-6)
    if found.errors is not None and expected.errors is not None:
        lost = (found.errors.cpu().double() - expected.errors.cpu().double()).abs()
        yield Found(error=lost.nan_to_num(nan=float("inf")).max().item(), allowed=1e-5)
    # A word's last bit differs now and then, where the words before it were the same.
    size = expected.sums.norm.cpu().double().amax()
    for mine, right in ((found.sums.norm, expected.sums.norm), (found.sums.with_p, expected.sums.with_p)):
        off = ((mine.cpu().double() - right.cpu().double()).abs() / size).nan_to_num(nan=float("inf"))
        yield Found(error=off.max().item(), allowed=1e-4)


def word_products(shape: Shape, tiling: Tiling) -> Iterator[tuple[Call, Inputs]]:
    """Every product that a graded root is made of but the last one; updates with sums of four lengths."""
    X, B, Y, V = (drawn_word(shape, tiling, seed=seed) for seed in range(4))
    tiles = device_programs(shape.n, 1, tiling.block, tiling.tail, shape.device).shape[0]
    trace = torch.arange(shape.batch * tiles).reshape(shape.batch, tiles).remainder(7).sub(3).float().to(shape.device)
    quadratic = Call(kind=QUADRATIC.value, chebyshev=(1.1, -0.7, 0.4), mid=0.5, radius=0.55)
    update, append = Call(kind=UPDATE.value, linear=0.8, both=True), Call(kind=PRODUCT.value, factor=0.9)
    yield quadratic, Inputs(M=Y, N=Y, trace=trace)
    yield SQUARE, Inputs(M=B, N=B, trace=trace)
    yield SQUARE, Inputs(M=B, N=B, trace=trace, partner=V)
    yield SQUARE, Inputs(M=X, N=B, trace=trace, partner=V)
    yield append, Inputs(M=X, N=B, trace=None)
    yield replace(append, both=True), Inputs(M=X, N=B, trace=None)
    for _ in range(4):
        yield update, Inputs(M=Y, N=B, trace=trace)


def drawn_word(shape: Shape, tiling: Tiling, *, seed: int) -> Word:
    """shift I + word, symmetric, with R and what its diagonal lost."""
    A = 0.25 * shape.draw(shape.n, shape.n, seed=seed)
    R = A.tril() + A.tril(-1).mT
    drawn = new_word(torch.empty(R.shape, dtype=shape.dtype, device=shape.device), tiling, rest=True)
    assert drawn.rest is not None
    assert drawn.errors is not None
    drawn.word.copy_(R)
    drawn.rest.copy_(R)
    drawn.errors.copy_(2.0**-12 * torch.arange(drawn.errors.numel()).reshape(drawn.errors.shape))
    drawn.shift.copy_(torch.linspace(0.6, 0.7, shape.batch))
    return drawn


def same_words(found: Word, expected: Word, *, beside: bool) -> Iterator[Found]:
    """`beside`: their sums with a third word too."""
    yield differing(found.word, expected.word.cpu())
    yield differing(found.shift, expected.shift.cpu())
    if found.rest is not None and expected.rest is not None:
        yield differing(found.rest.tril(), expected.rest.cpu().tril())
    sums = [(found.sums.norm, expected.sums.norm), (found.sums.with_p, expected.sums.with_p)]
    if beside:
        sums.append((found.sums.with_v, expected.sums.with_v))
    if found.errors is not None and expected.errors is not None:
        sums.append((found.errors, expected.errors))
    # Terms cancel in most sums, but not in a word's with itself.
    size = expected.sums.norm.cpu().double().amax()
    for mine, right in sums:
        off = ((mine.cpu().double() - right.cpu().double()).abs() / size).nan_to_num(nan=float("inf"))
        yield Found(error=off.max().item(), allowed=1e-6)
