"""Small problems for every kernel of `iroot/kernels/`, and how far off its results may be: `ci/kernel_launches.py`'s.

Results are compared with float64, or bit for bit with the library where the kernel promises that. Operands and
references are made on the CPU, so that a sanitizer looks at little but these kernels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import cycle

import torch
from gluon_checks import (
    gluon_balanced_sums,
    gluon_products,
    gluon_small_products,
    gluon_small_sums,
    gluon_small_words,
    gluon_split,
    gluon_sums,
    gluon_wide_sums,
    gluon_words,
)
from kernel_shapes import Found, Shape, differing, distance, shapes
from torch import Tensor

from iroot.coefficients import named_table
from iroot.graded_steps import word_steps
from iroot.kernels.graded_root import GradedPlan, graded_root, square_bound
from iroot.kernels.hopper import lacks_gluon
from iroot.kernels.multiply_add import BLOCKINGS, Blocking, multiply_add
from iroot.kernels.odd_persistent import STEP_TILES, StepPlan, StepTiles, persistent_odd_steps, reference_odd_steps
from iroot.kernels.odd_products import ProductPlan, odd_products
from iroot.kernels.operands import processors
from iroot.kernels.quantise import FORMAT_NAMES, Rounded, Source, quantise_together
from iroot.kernels.quantise_rows import quantise_rows
from iroot.kernels.scaled_result import scaled_result, shifted_result
from iroot.kernels.split_product import BLOCKINGS as SPLIT_BLOCKINGS
from iroot.kernels.split_product import split_gram, split_product
from iroot.kernels.split_words import split
from iroot.kernels.symmetric import Terms, symmetric_product
from iroot.kernels.tiling import (
    FP8_TILINGS,
    GRADED_TILINGS,
    INT8_TILINGS,
    PROMOTED,
    TF32_TILINGS,
    TILINGS,
    Tiling,
)
from iroot.odd_steps import FROBENIUS, Degree, OddStep, StepBound, quintics
from iroot.polar_schedules import polar_schedule
from iroot.precision import get_precision
from iroot.quantize import FORMATS, find_scale, power_of_two_scale, quantise
from iroot.scaled_ops import ShiftedSum
from iroot.schedules import Design, schedule_for

FP8 = torch.float8_e4m3fn
TINY = Tiling(block=32, tail=16, block_k=16, warps=4, stages=2)
TINY_BLOCKING = Blocking(rows=16, columns=32, block_k=16, warps=4, stages=2)


def symmetric(device: torch.device) -> Iterator[Found]:
    """Gram matrices and quadratics, every tiling."""
    tilings = cycle((TINY, replace(TINY, promote_k=32)) if device.type == "cpu" else (*TILINGS, *PROMOTED))
    for shape, tiling in zip(shapes(device), tilings, strict=False):
        A = shape.place(shape.draw(shape.n, shape.depth))
        wide = A.cpu().double()
        allowed = torch.finfo(shape.dtype).eps
        yield distance(symmetric_product(A, A, tiling=tiling), wide @ wide.mT, allowed)
        S = shape.draw(shape.n, shape.n)
        S = shape.place(S + S.mT)
        wide = S.cpu().double()
        exact = 0.7 * wide @ wide - 1.3 * wide + 0.4 * torch.eye(shape.n)
        terms = Terms(alpha=0.7, beta=-1.3, gamma=0.4)
        yield distance(symmetric_product(S, S, S, terms=terms, tiling=tiling), exact, allowed)


def symmetric_by_dtype(device: torch.device) -> Iterator[Found]:
    """Gram matrices of float32 (as TF32), FP8 and int8 operands, every tiling; quadratics of float32."""
    tiny = (TINY, replace(TINY, promote_k=16))
    for dtype, tilings in ((torch.float32, TF32_TILINGS), (FP8, FP8_TILINGS), (torch.int8, INT8_TILINGS)):
        for shape, tiling in zip(shapes(device), cycle(tiny if device.type == "cpu" else tilings), strict=False):
            drawn = shape.draw(shape.n, shape.depth) * shape.depth**0.5
            A = shape.place(drawn if dtype.is_floating_point else (40.0 * drawn).clamp(-127.0, 127.0), dtype)
            wide = A.cpu().double()
            D = symmetric_product(A, A, tiling=tiling)
            if dtype == torch.int8:
                yield differing(D, (wide @ wide.mT).int())
                continue
            # Tensor cores keep 14 bits of a sum of FP8 products.
            yield distance(D, wide @ wide.mT, 2.0**-11 if dtype == torch.float32 else 2.0**-12)
            if dtype == torch.float32:
                S = shape.draw(shape.n, shape.n)
                S = shape.place(S + S.mT, dtype)
                wide = S.cpu().double()
                terms = Terms(alpha=0.7, beta=-1.3, gamma=0.4)
                D = symmetric_product(S, S, S, terms=terms, tiling=tiling)
                yield distance(D, 0.7 * wide @ wide - 1.3 * wide + 0.4 * torch.eye(shape.n), 2.0**-11)


def fused_addition(device: torch.device) -> Iterator[Found]:
    """0.5 A B - 2 C, every blocking."""
    blockings = cycle((TINY_BLOCKING,) if device.type == "cpu" else BLOCKINGS)
    for shape, blocking in zip(shapes(device), blockings, strict=False):
        sides = ((shape.n, shape.depth), (shape.depth, shape.n + 8), (shape.n, shape.n + 8))
        A, B, C = (shape.place(shape.draw(*side, seed=seed)) for seed, side in enumerate(sides))
        exact = 0.5 * A.cpu().double() @ B.cpu().double() - 2.0 * C.cpu().double()
        D = multiply_add(A, B, C, alpha=0.5, beta=-2.0, blocking=blocking)
        yield distance(D, exact, torch.finfo(shape.dtype).eps)


def split_words(device: torch.device) -> Iterator[Found]:
    """A B + C and A A^T in two words, every blocking; the diagonal of a square result on its own."""
    blockings = cycle((TINY_BLOCKING,) if device.type == "cpu" else SPLIT_BLOCKINGS)
    for shape, blocking in zip(shapes(device), blockings, strict=False):
        sides = ((shape.n, shape.depth), (shape.depth, shape.n), (shape.n, shape.n))
        A, B, C = (shape.place(shape.draw(*side, seed=seed), torch.float32) for seed, side in enumerate(sides))
        exact = A.cpu().double() @ B.cpu().double() + C.cpu().double()
        D = split_product(split(A, shape.dtype), split(B, shape.dtype), C, blocking=blocking)
        unit = get_precision("fp16x3" if shape.dtype is torch.float16 else "bf16x3").unit_roundoff
        # The interpreter cuts bfloat16 words off instead of rounding them.
        yield distance(D, exact, (16 if shape.interpreted else 4) * unit)
        found, right = (M.diagonal(dim1=-2, dim2=-1)[..., None] for M in (D, exact))
        yield distance(found, right, 2.0**-22)
        # Its tiles are not wider than high.
        lower = replace(blocking, rows=max(blocking.rows, blocking.columns))
        D = split_gram(split(A, shape.dtype), blocking=lower)
        yield distance(D, A.cpu().double() @ A.cpu().double().mT, (16 if shape.interpreted else 4) * unit)
        yield differing(D, D.mT.cpu())


def graded(device: torch.device) -> Iterator[Found]:
    """Inverse square roots by graded steps and the bound before them, every tiling and length of sums."""
    schedule = schedule_for(Design(p=2, lower=0.9e-2), target=1e-3, min_cushion=0.03)
    plain = Tiling(block=64, tail=0, block_k=64, warps=4, stages=2)
    tilings = (replace(TINY, block_k=32), plain) if device.type == "cpu" else GRADED_TILINGS
    sums = cycle((64, 96, 512))
    for shape, tiling, promote_k in zip(shapes(device), cycle(tilings), sums, strict=False):
        Q = torch.linalg.qr(shape.draw(shape.n, shape.n).double()).Q
        values = torch.logspace(0, -2, shape.n, dtype=torch.float64)
        A = shape.place((Q * values) @ Q.mT, torch.float32)
        warps = 8 if tiling.block == 128 else 4
        plan = GradedPlan(tiling=tiling, update=replace(tiling, warps=warps))
        steps = word_steps(schedule, promote_k=promote_k)
        scale = torch.full((shape.batch, 1, 1), 1.05, device=device)
        X = graded_root(A, scale, steps, p=2, dtype=shape.dtype, plan=plan)
        allowed = 3e-3 if shape.dtype is torch.float16 else 2e-2
        yield distance(X, (Q * values**-0.5) @ Q.mT, allowed)
        square = A.cpu().double() @ A.cpu().double()
        exact = torch.minimum(torch.linalg.matrix_norm(square), square.abs().sum(-1).amax(-1)).sqrt()[:, None, None]
        yield distance(square_bound(A, dtype=shape.dtype), exact, 2e-3 if shape.dtype is torch.float16 else 1e-2)


def per_matrix(device: torch.device) -> Iterator[Found]:
    """A symmetric operand less a multiple of I beside a rectangular one, and scales that are powers of two."""
    for shape, name in zip(shapes(device), cycle(FORMAT_NAMES), strict=False):
        left, right = quantising_sources(shape, name)
        for rounded, source in zip(quantise_together(left, right), (left, right), strict=True):
            yield from quantised_right(rounded, source, lambda M, source: None)
        (rounded,) = quantise_together(right, scales="powers of two")
        yield from quantised_right(rounded, right, lambda M, source: power_of_two_scale(M, source.number_format))


def per_row(device: torch.device) -> Iterator[Found]:
    """The same operands with a scale for each row."""
    for shape, name in zip(shapes(device), cycle(FORMAT_NAMES), strict=False):
        left, right = quantising_sources(shape, name)
        for rounded, source in zip(quantise_rows(left, right), (left, right), strict=True):
            yield from quantised_right(rounded, source, lambda M, source: find_scale(M, source.number_format, "row"))


def quantising_sources(shape: Shape, name: str) -> tuple[Source, Source]:
    """A matrix with a large diagonal, and one of other sides and the other layout."""
    S = shape.draw(shape.n, shape.n) + 3.0 * torch.eye(shape.n)
    B = shape.draw(shape.depth, shape.n, seed=1).mT
    dtype = torch.bfloat16 if shape.dtype is torch.bfloat16 else torch.float32  # float16 is not quantised
    left = Source(matrix=shape.place(S, dtype), number_format=FORMATS[name], shifted=True)
    return left, Source(matrix=B.to(dtype).to(shape.device), number_format=FORMATS[name])


def quantised_right(
    rounded: Rounded, source: Source, scale_of: Callable[[Tensor, Source], Tensor | None]
) -> Iterator[Found]:
    """mu against the mean of the diagonal; for that mu, values and scales against the library's, bit for bit."""
    M = source.matrix.cpu().float().contiguous()
    diagonal = M.diagonal(dim1=-2, dim2=-1)
    if rounded.mu is not None:
        mu = rounded.mu.cpu()
        yield distance(mu, diagonal.double().mean(-1)[..., None, None], 1e-6)
        diagonal -= mu[..., 0]
    number_format = source.number_format
    expected = quantise(M, number_format, dtype=number_format.dtype or torch.int8, scale=scale_of(M, source))
    yield differing(rounded.quantised.scale, expected.scale)
    yield differing(rounded.quantised.values, expected.values)


def results(device: torch.device) -> Iterator[Found]:
    """alpha P and 0.7 P + (1.4 mu - 1.3) C + (0.3 - 0.7 mu^2) I, from bfloat16 and from int32 products."""
    for shape in shapes(device):
        P = 100.0 * shape.draw(shape.n, shape.n)
        C = shape.draw(shape.n, shape.n, seed=1)
        mu = torch.linspace(0.5, 2.0, shape.batch)[:, None, None]
        scales = (1e-2 * mu, 0.5 + mu)
        terms = ShiftedSum(alpha=0.7, constant=-1.3, linear=1.4, diagonal=(0.3, 0.7))
        for dtype in (torch.bfloat16, torch.int32):
            given = None if dtype is torch.bfloat16 else (scales[0].to(device), scales[1].to(device))
            product, addend = P.to(dtype).to(device), shape.place(C, torch.bfloat16)
            wide = product.cpu().double() * (1.0 if given is None else scales[0] * scales[1])
            yield distance(scaled_result(product, given, alpha=0.5), 0.5 * wide, 2.0**-8)
            exact = 0.7 * wide + (1.4 * mu - 1.3) * addend.cpu().double() + (0.3 - 0.7 * mu * mu) * torch.eye(shape.n)
            yield distance(shifted_result(product, addend, mu.to(device), terms, scales=given), exact, 2.0**-8)


def persistent_odd(device: torch.device) -> Iterator[Found]:
    """Steps of degree 17, 9 and 5 in one kernel, every bound and configuration; loads by threads or copy engine."""
    degrees: tuple[Degree, ...] = (17, 5) if device.type == "cpu" else (17, 9, 5)
    steps = polar_schedule(0.02, steps=len(degrees), degrees=degrees)
    tiny = StepTiles(block=32, rows=32, columns=32, block_k=32, warps=4, stages=2, loads="copy_engine")
    both = (replace(tiles, loads=loads) for tiles in STEP_TILES for loads in ("threads", "copy_engine"))
    configurations = cycle((tiny,) if device.type == "cpu" else both)
    for shape, tiles, bound in zip(shapes(device), configurations, cycle((SCHATTEN8, FROBENIUS, GRAM)), strict=False):
        G = shape.place(shape.draw(shape.n, shape.depth))
        # Interpreted programs run one after the other and cannot wait for each other.
        plan = StepPlan(tiles=tiles, groups=1, programs=1 if shape.interpreted else processors(device))
        X = persistent_odd_steps(G, steps, bound=bound, plan=plan)
        yield odd_right(X, G, steps, bound, slack=1.3)


def separate_odd(device: torch.device) -> Iterator[Found]:
    """The same steps by a launch per product: every degree first, every bound, tiling and blocking."""
    published = quintics(named_table("jiacheng_you").take(2))
    # Rounding to bfloat16 can take most of what steps for singular values from 0.003 give: they are for float16.
    schedules: tuple[tuple[tuple[OddStep, ...], StepBound, torch.dtype | None], ...] = (
        (polar_schedule(3e-3, steps=3, degrees=(5, 17, 17)), SCHATTEN8, torch.float16),
        (polar_schedule(6e-3, steps=2, degrees=(33,), safety=1.03), SCHATTEN8, torch.float16),
        (polar_schedule(0.018, steps=2, degrees=(9, 17)), SCHATTEN8, None),
        (polar_schedule(0.2, steps=1, degrees=(17,)), GRAM, None),
        (published, GRAM, None),
        (published, FROBENIUS, None),
    )
    interpreted = device.type == "cpu"
    tilings = cycle((replace(TINY, block_k=32),) if interpreted else GRADED_TILINGS)
    blockings = cycle((Blocking(rows=32, columns=32, block_k=32, warps=4, stages=2),) if interpreted else BLOCKINGS)
    # Interpreted, the two shapes share the schedules out.
    taken = cycle((schedules[::2], schedules[1::2]) if interpreted else (schedules,))
    for shape, tiling, blocking, those in zip(shapes(device), tilings, blockings, taken, strict=False):
        G = shape.place(shape.draw(shape.n, shape.depth))
        plan = ProductPlan(tiling=tiling, blocking=blocking)
        for steps, bound, dtype in those:
            X = odd_products(G, steps, bound=bound, dtype=dtype or shape.dtype, plan=plan)
            # Here G is rounded as it enters, which neither the persistent kernel nor the reference does.
            yield odd_right(X, G, steps, bound, slack=2.0)


def unable(name: str, device: torch.device) -> str:
    """Why a group of CHECKS cannot run on `device`; empty where it can."""
    return lacks_gluon(device) if name.startswith("hopper_") else ""


def odd_right(X: Tensor, G: Tensor, steps: tuple[OddStep, ...], bound: StepBound, *, slack: float) -> Found:
    """Against the same steps in float64; allowed is `slack` times what the library loses that rounds like a kernel."""
    exact = reference_odd_steps(G.cpu().double(), steps, bound=bound)
    rounded = distance(reference_odd_steps(G.cpu(), steps, bound=bound, dtype=X.dtype), exact, 1.0).error
    if X.device.type == "cpu" and X.dtype is torch.bfloat16:
        slack = 8.0  # the interpreter cuts bfloat16 off instead of rounding it, in every step
    return distance(X, exact, slack * max(rounded, 5e-4))


GRAM, SCHATTEN8 = StepBound(norm="gram", margin=1.01), StepBound(norm="schatten8", margin=1.01)
CHECKS: dict[str, Callable[[torch.device], Iterator[Found]]] = {
    "symmetric": symmetric, "symmetric_by_dtype": symmetric_by_dtype, "multiply_add": fused_addition,
    "split_product": split_words, "graded_root": graded,
    "quantise": per_matrix, "quantise_rows": per_row, "scaled_result": results,
    "odd_persistent": persistent_odd, "odd_products": separate_odd, "hopper_sum": gluon_sums,
    "hopper_words": gluon_words, "hopper_apply": gluon_products, "hopper_small_sum": gluon_small_sums,
    "hopper_split": gluon_split, "hopper_small_apply": gluon_small_products,
    "hopper_small_words": gluon_small_words, "hopper_balanced": gluon_balanced_sums,
    "hopper_wide": gluon_wide_sums,
}  # fmt: skip
"""By the module of `iroot.kernels` that launches them, where they can be left out."""
