"""Odd steps in fused products against float64, on the GPU, or without one in Triton's interpreter."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from torch import Tensor

from iroot.coefficients import named_table
from iroot.errors import InvalidInputError
from iroot.odd_steps import OddStep, StepBound, odd_step, quintic, step_in_squares
from iroot.schedules import Design, compose_steps
from iroot.squares import pair
from iroot.tests.fresh_process import printed

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
if DEVICE.type == "cpu":  # read when the kernels are defined, and again when they run
    os.environ["TRITON_INTERPRET"] = "1"
from iroot.kernels import odd_products as odd_products_module  # noqa: E402
from iroot.kernels import sum_launch  # noqa: E402
from iroot.kernels.multiply_add import BLOCKINGS, Blocking  # noqa: E402
from iroot.kernels.odd_persistent import reference_odd_steps  # noqa: E402
from iroot.kernels.odd_products import (  # noqa: E402
    ProductPlan,
    choose_product_plan,
    odd_products,
)
from iroot.kernels.operands import empty_rows  # noqa: E402
from iroot.kernels.step_passes import Squared, combine  # noqa: E402
from iroot.kernels.sum_launch import square_sums, symmetric_sums  # noqa: E402
from iroot.kernels.symmetric_sum import Matrices, Scaling, SumTerms  # noqa: E402
from iroot.kernels.tiling import GRADED_TILINGS, Tiling, schedule  # noqa: E402

PLAIN, TAIL, SMALL = GRADED_TILINGS
TINY = Tiling(block=32, tail=16, block_k=32, warps=4, stages=2)
FEW = Blocking(rows=64, columns=128, block_k=64, warps=4, stages=2)
PLANS = {
    "plain": ProductPlan(tiling=PLAIN, blocking=BLOCKINGS[1]),
    "small": ProductPlan(tiling=SMALL, blocking=FEW),
    "tiny": ProductPlan(tiling=TINY, blocking=FEW),
}
NORMS = ("frobenius", "gram", "schatten8")
HALF, BRAIN, SINGLE = torch.float16, torch.bfloat16, torch.float32
YOU = tuple(map(quintic, named_table("jiacheng_you").take(5)))


def steps(*degrees: int, lower: float) -> tuple[OddStep, ...]:
    inner = tuple({5: 2, 9: 4, 17: 8, 33: 16}[degree] for degree in degrees)
    design = Design(p=2, lower=lower**2, degrees=inner)
    return tuple(odd_step(step) for step in compose_steps(design, steps=len(degrees)).steps)


def schedule_of(*degrees: int) -> tuple[OddStep, ...]:
    return steps(*degrees, lower=0.02)


def bound_of(norm: str, margin: float = 1.01) -> StepBound:
    return StepBound(norm=norm, margin=margin)  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def _poisoned_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.empty returns NaN, so that an element nobody writes shows."""
    empty = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *size, **options: empty(*size, **options).fill_(torch.nan))


def gaussian(*shape: int, dtype: torch.dtype = HALF) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape))).to(dtype).to(DEVICE)


def conditioned(*shape: int, smallest: float = 0.1, dtype: torch.dtype = HALF) -> Tensor:
    """Singular values from `smallest` to 1: rounding is then all that the result's error is made of."""
    U, _, V = torch.linalg.svd(gaussian(*shape, dtype=torch.float32).double(), full_matrices=False)
    values = torch.linspace(smallest, 1.0, U.shape[-1], dtype=torch.float64, device=DEVICE)
    A: Tensor = (U * values) @ V
    return A.to(dtype)


def symmetric(n: int, dtype: torch.dtype = HALF) -> Tensor:
    A = gaussian(2, n, n, dtype=SINGLE)
    twice: Tensor = (A + A.mT) / (3.0 * n**0.5)
    return twice.to(dtype)


def smallest_with_wide_tiles(tiling: Tiling) -> int:
    """And a block that is not full; two blocks for a tiling without a tail."""
    counts = range(tiling.block + 8, 8 * tiling.block, tiling.block)
    return next(
        n for n in counts if not tiling.tail or any(tile.wide for tile in schedule(n, 1, tiling.block, tiling.tail))
    )


def error(X: Tensor, exact: Tensor) -> float:
    return float(((X.double() - exact).norm(dim=(-2, -1)) / exact.norm(dim=(-2, -1))).max())


def allowed(G: Tensor, taken: tuple[OddStep, ...], bound: StepBound, dtype: torch.dtype) -> float:
    """1.3 times the error of one rounding per matrix; the interpreter cuts bfloat16 off instead, up to a step lower."""
    exact = reference_odd_steps(G.double(), taken, bound=bound)
    rounding = error(reference_odd_steps(G, taken, bound=bound, dtype=dtype), exact)
    cut = dtype is BRAIN and DEVICE.type == "cpu"
    return max(5.0 * rounding, 0.03) if cut else max(1.3 * rounding, 1e-3)


@pytest.mark.parametrize("tiling", [PLAIN, SMALL, TINY if DEVICE.type == "cpu" else TAIL], ids=str)
@pytest.mark.parametrize(("names", "twice"), [("", False), ("Z", False), ("TZ", True), ("TZ", False)])
def test_sums_match_float64(names: str, twice: bool, tiling: Tiling) -> None:
    """Every number of addends, one result or two, with slices of every width; both exactly symmetric."""
    n = smallest_with_wide_tiles(tiling)
    M = symmetric(n)
    N = (0.5 * M.double() @ M.double() + M.double()).to(HALF)
    N = torch.tril(N) + torch.tril(N, -1).mT
    addends = {name: symmetric(n).roll(k + 1, dims=0) for k, name in enumerate(names)}
    both = (SumTerms(P=0.7, T=2.0, Z=-0.25, identity=0.5), SumTerms(P=-1.0, T=0.25, Z=1.5, identity=-2.0))
    taken = both if twice else both[:1]
    results = symmetric_sums(Matrices(M=M, N=N, **addends), taken, tiling)
    product = M.double() @ N.double()
    product = product.tril() + product.tril(-1).mT
    for terms, result in zip(taken, results, strict=True):
        exact = terms.P * product + terms.identity * torch.eye(n, dtype=torch.float64, device=DEVICE)
        for name, addend in addends.items():
            exact += getattr(terms, name) * addend.double()
        assert error(result, exact) < 3e-4
        assert torch.equal(result, result.mT)
        assert result.stride(1) * result.element_size() % 64 == 0


@pytest.mark.parametrize("tiling", [TINY] if DEVICE.type == "cpu" else [PLAIN, TAIL, SMALL], ids=str)
def test_sums_of_squares_and_scalars(tiling: Tiling) -> None:
    """What `first` leaves, `later` takes; `limited` keeps squares of large matrices in float16's range."""
    n = smallest_with_wide_tiles(tiling)
    X = 20.0 * gaussian(2, n, n)
    X[1] *= 0.01
    count = square_sums(Matrices(M=X, N=X), tiling)
    norms, unit = torch.empty(2, count, device=DEVICE), torch.empty(2, device=DEVICE)
    (A,) = symmetric_sums(Matrices(M=X, N=X), (SumTerms(P=0.02),), tiling, squares=norms)
    total = A.double().square().sum((-2, -1))
    assert torch.allclose(norms.double().sum(-1), total, rtol=1e-5)
    limited = Scaling(kind="limited", norms=norms)
    (square,) = symmetric_sums(Matrices(M=A, N=A), (SumTerms(),), tiling, scaling=limited)
    tau = (3e4 / total).clamp(max=1.0)[:, None, None]
    assert tau[0] < 1e-3
    assert tau[1] == 1.0
    assert error(square, tau * (A.double() @ A.double())) < 3e-4
    first = Scaling(kind="first", norms=norms, unit=unit, margin=1.1)
    both = (SumTerms(P=2.0, Z=3.0, identity=1.0), SumTerms(P=1.0, Z=-1.0))
    results = symmetric_sums(Matrices(M=A, N=A, Z=A), both, tiling, scaling=first)
    u = 1.0 / (1.21 * total.sqrt())
    assert torch.allclose(unit.double(), u, rtol=1e-5)
    Y = u[:, None, None] * A.double()
    assert error(results[0], 2.0 * Y @ Y + 3.0 * Y + torch.eye(n, device=DEVICE)) < 3e-4
    assert error(results[1], Y @ Y - Y) < 5e-4
    (last,) = symmetric_sums(
        Matrices(M=results[0], N=results[0], Z=A), (SumTerms(Z=3.0),), tiling, scaling=Scaling(kind="later", unit=unit)
    )
    assert error(last, results[0].double() @ results[0].double() + 3.0 * Y) < 3e-4


@pytest.mark.parametrize(
    ("shape", "source", "dtype", "degrees", "plan", "norm"),
    [
        ((96, 96), HALF, HALF, (5, 17), "small", "schatten8"),
        ((96, 96), SINGLE, HALF, (5, 9), "plain", "gram"),
        ((96, 288), BRAIN, BRAIN, (9,), "plain", "schatten8"),
        ((200, 200), SINGLE, HALF, (17,), "plain", "gram"),
        ((160, 160), BRAIN, HALF, (17,), "plain", "frobenius"),
        ((3, 40, 120), SINGLE, BRAIN, (9, 17), "small", "gram"),
        ((112, 100), HALF, HALF, (17,), "tiny", "schatten8"),
        ((3, 50, 40), HALF, HALF, (9, 5), "small", "frobenius"),
        ((96, 96), HALF, HALF, (33, 33), "small", "schatten8"),
        ((112, 100), SINGLE, HALF, (33,), "tiny", "gram"),
        ((2, 50, 70), BRAIN, HALF, (5, 33), "small", "frobenius"),
    ],
    ids=str,
)
def test_matches_float64(
    shape: tuple[int, ...], source: torch.dtype, dtype: torch.dtype, degrees: tuple[int, ...], plan: str, norm: str
) -> None:
    """Every degree first and last, tails of rows, columns and tiles, stacks, and a tall stack."""
    G, taken, bound = conditioned(*shape, dtype=source), schedule_of(*degrees), bound_of(norm)
    X = odd_products(G, taken, bound=bound, dtype=dtype, plan=PLANS[plan])
    assert (X.shape, X.dtype) == (G.shape, dtype)
    assert error(X, reference_odd_steps(G.double(), taken, bound=bound)) <= allowed(G, taken, bound, dtype)


def test_published_quintics_on_a_gaussian() -> None:
    G, bound = gaussian(96, 96, dtype=BRAIN), StepBound(epsilon=1e-7)
    X = odd_products(G, YOU, bound=bound, dtype=HALF, plan=PLANS["small"])
    assert error(X, reference_odd_steps(G.double(), YOU, bound=bound)) <= allowed(G, YOU, bound, HALF)


def test_repeated_and_strided_calls_agree_to_the_last_bit() -> None:
    G, taken, plan = gaussian(2, 30, 50), schedule_of(9), PLANS["small"]
    bound = bound_of("schatten8")
    X = odd_products(G, taken, bound=bound, dtype=HALF, plan=plan)
    strided = torch.zeros(2, 60, 150, dtype=HALF, device=DEVICE)[:, ::2, ::3].copy_(G)
    for same in (G, G.mT.contiguous().mT, strided):
        assert torch.equal(X, odd_products(same, taken, bound=bound, dtype=HALF, plan=plan))
    assert torch.equal(X, odd_products(G.mT, taken, bound=bound, dtype=HALF, plan=plan).mT)
    assert torch.equal(X[1], odd_products(G[1], taken, bound=bound, dtype=HALF, plan=plan))
    assert torch.equal(X[None], odd_products(G[None], taken, bound=bound, dtype=HALF, plan=plan))


@pytest.mark.parametrize(
    ("norm", "degree"),
    [("frobenius", 17), ("gram", 5), ("gram", 17), ("schatten8", 5), ("schatten8", 9), ("schatten8", 33)],
)
def test_zero_stays_zero_beside_another_matrix(degree: int, norm: str) -> None:
    G = torch.stack([torch.zeros(40, 50, dtype=HALF, device=DEVICE), conditioned(40, 50)])
    X = odd_products(G, schedule_of(degree), bound=bound_of(norm), dtype=HALF, plan=PLANS["small"])
    assert not X[0].any()
    assert torch.equal(X[1], odd_products(G[1], schedule_of(degree), bound=bound_of(norm), dtype=HALF,
                                          plan=PLANS["small"]))  # fmt: skip


@pytest.mark.parametrize("norm", ["gram", "schatten8"])
def test_rank_one_in_float16(norm: str) -> None:
    """||A||_F = m = 256 and ||A^2||_F = m^2 = 65536, beyond float16."""
    u, v = (gaussian(256, k + 1, dtype=SINGLE)[:, k] for k in range(2))
    G, taken = torch.outer(u, v).to(HALF), steps(5, 9, lower=0.3)
    X = odd_products(G, taken, bound=bound_of(norm), dtype=HALF, plan=PLANS["plain"])
    exact = reference_odd_steps(G.double(), taken, bound=bound_of(norm))
    assert error(X, exact) < 0.01
    assert float(exact.norm()) == pytest.approx(1.0, abs=0.2)


@pytest.mark.parametrize(
    ("dtype", "size"),
    [(HALF, 60000.0), (HALF, 2.0**-24), (BRAIN, 2.0**125), (BRAIN, 2.0**-126), (SINGLE, 1e-37), (SINGLE, 3e38)],
)
def test_extreme_scales(dtype: torch.dtype, size: float) -> None:
    """The scale of signs alone is a power of their size: the result is that of signs."""
    signs = gaussian(2, 40, 48, dtype=SINGLE).sign()
    taken, bound = schedule_of(9), bound_of("schatten8")
    X = odd_products((signs * size).to(dtype), taken, bound=bound, dtype=HALF, plan=PLANS["small"])
    assert error(X, reference_odd_steps(signs.double(), taken, bound=bound)) < 2e-3


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_what_is_not_finite_shows() -> None:
    for bad in (torch.nan, torch.inf):
        G = gaussian(40, 48)
        G[3, 4] = bad
        X = odd_products(G, schedule_of(9), bound=bound_of("schatten8"), dtype=HALF, plan=PLANS["small"])
        assert not X.isfinite().any()


@pytest.mark.parametrize("shape", [(3, 2000, 4096), (4, 1152, 4096), (1, 4096, 4096), (1, 2048, 8192)], ids=str)
def test_every_product_has_room_for_its_own_sums_of_squares(
    shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """X X^T and A A may have different kernels on a Hopper GPU, which leave different numbers of sums."""
    found = []

    def noted(
        matrices: Matrices, sums: tuple[SumTerms, ...], tiling: Tiling, *, squares: Tensor, **options: Scaling
    ) -> tuple[Tensor, ...]:
        found.append((tuple(squares.shape), (shape[0], square_sums(matrices, tiling))))
        return tuple(torch.empty(*shape[:2], shape[1], dtype=HALF, device="meta") for _ in sums)

    monkeypatch.setattr(sum_launch, "lacks_gluon", lambda device: "")
    monkeypatch.setattr(sum_launch, "processors", lambda device: 132)
    monkeypatch.setattr(odd_products_module, "symmetric_sums", noted)
    batch, m, n = shape
    plan = choose_product_plan(m, n, batch, processors=132)
    X = torch.empty(shape, dtype=HALF, device="meta")
    basis = odd_products_module._Iteration(bound_of("schatten8"), plan)._first_basis(X, schedule_of(17)[0])
    assert len(found) == 2
    assert all(allocated == needed for allocated, needed in found)
    assert basis.squared is not None
    assert basis.squared.square_norms.shape[-1] == found[1][1][1]


def test_sums_of_squares_of_two_products_have_their_own_numbers() -> None:
    """3 of A, 7 of tau A^2, of each of two matrices; tau is 1 / 2 and 1 by the former."""
    n, margin = 24, 1.1
    A, square = (empty_rows((2, n, n), HALF, DEVICE).copy_(symmetric(n)) for _ in range(2))
    totals, square_totals = torch.tensor([6e4, 1e4], device=DEVICE), torch.tensor([81.0, 16.0], device=DEVICE)
    norms, square_norms = (
        torch.softmax(gaussian(2, count, dtype=SINGLE), -1) * total[:, None]
        for count, total in ((3, totals), (7, square_totals))
    )
    unit = torch.empty(2, device=DEVICE)
    known = Squared(A=A, square=square, norms=norms, square_norms=square_norms)
    T = combine(known, SumTerms(P=0.5, Z=-2.0, identity=0.25), unit, margin=margin)
    tau = torch.tensor([0.5, 1.0], dtype=torch.float64, device=DEVICE)
    u = 1.0 / (margin**2 * (square_totals.double().sqrt() / tau).sqrt())
    assert torch.allclose(unit.double(), u, rtol=1e-5)
    u, tau = u[:, None, None], tau[:, None, None]
    exact = 0.5 * u**2 / tau * square.double() - 2.0 * u * A.double() + 0.25 * torch.eye(n, device=DEVICE)
    assert error(T, exact) < 1e-3


def test_an_empty_stack_and_bad_operands() -> None:
    assert odd_products(gaussian(0, 4, 5), YOU, dtype=BRAIN).dtype is BRAIN
    with pytest.raises(InvalidInputError, match=r"got \(8, 4\) torch\.float64"):
        odd_products(gaussian(8, 4).double(), YOU, dtype=HALF)
    with pytest.raises(InvalidInputError, match=r"and torch\.float32"):
        odd_products(gaussian(8, 4), YOU, dtype=SINGLE)
    with pytest.raises(InvalidInputError, match=r"got \(0, 4\) torch\.float16"):
        odd_products(gaussian(0, 4), YOU, dtype=HALF)
    with pytest.raises(InvalidInputError, match="at least one step"):
        odd_products(gaussian(8, 4), (), dtype=HALF)


@pytest.mark.parametrize(
    ("m", "n", "batches", "tiling"), [(2048, 2048, 1, TAIL), (4096, 4096, 1, PLAIN), (256, 256, 1, SMALL)]
)
def test_plans(m: int, n: int, batches: int, tiling: Tiling) -> None:
    assert choose_product_plan(m, n, batches, processors=132).tiling == tiling


@pytest.mark.gpu
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(
    "shape", [(768, 768), (1000, 1000), (2048, 2048), (1024, 4096), (3, 1024, 1024), (3, 2000, 4096)], ids=str
)
@pytest.mark.parametrize("in_squares", [False, True])
def test_on_the_gpu(shape: tuple[int, ...], norm: str, in_squares: bool) -> None:
    """Twenty calls in a row, each against the first."""
    G, bound = gaussian(*shape), bound_of(norm)
    taken = tuple(map(step_in_squares, pair())) if in_squares else steps(5, 17, 17, lower=0.003)
    first = odd_products(G, taken, bound=bound, dtype=HALF)
    assert error(first, reference_odd_steps(G.double(), taken, bound=bound)) <= allowed(G, taken, bound, HALF)
    assert all(torch.equal(odd_products(G, taken, bound=bound, dtype=HALF), first) for _ in range(20))


WHOLE_FACTOR = """
import threading, torch, triton
from iroot.kernels.multiply_add import Blocking
from iroot.kernels.odd_products import ProductPlan, odd_products
from iroot.kernels.tiling import Tiling
from iroot.odd_steps import StepBound, odd_step
from iroot.schedules import Design, compose_steps

threads = []
triton.knobs.compilation.listener = lambda **_: threads.append(threading.current_thread())
plan = ProductPlan(
    tiling=Tiling(block=32, tail=0, block_k=32, warps=4, stages=2),
    blocking=Blocking(rows=64, columns=64, block_k=32, warps=4, stages=2),
)
steps = compose_steps(Design(p=2, lower=4e-4, degrees=(4, 8)), steps=2).steps
G = torch.randn(192, 256, device="cuda")
bound = StepBound(norm="schatten8")
X = odd_products(G, tuple(map(odd_step, steps)), bound=bound, dtype=torch.float16, plan=plan)
assert X.isfinite().all()
print(len(threads))
print(threading.main_thread() in threads)
"""


@pytest.mark.gpu
def test_a_call_compiles_nothing_between_its_launches(tmp_path: Path) -> None:
    compiled, by_main_thread = printed(WHOLE_FACTOR, tmp_path)
    assert int(compiled) >= 9
    assert by_main_thread == "False"
