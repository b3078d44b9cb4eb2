"""The kernels of the split precisions against float64 and the torch backend, or in Triton's interpreter."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from iroot.errors import InvalidInputError

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
if DEVICE.type == "cpu":  # read when the kernels are defined, and again when they run
    os.environ["TRITON_INTERPRET"] = "1"
from iroot import triton_split_ops  # noqa: E402
from iroot.kernels.exact_diagonal import exact_diagonal, split_pair  # noqa: E402
from iroot.kernels.families import is_served  # noqa: E402
from iroot.kernels.multiply_add import Blocking  # noqa: E402
from iroot.kernels.split_product import (  # noqa: E402
    BLOCKINGS,
    Factors,
    choose_blocking,
    product_of_words,
    split_gram,
    split_product,
)
from iroot.kernels.split_words import split  # noqa: E402
from iroot.ops import make_ops  # noqa: E402
from iroot.precision import get_precision  # noqa: E402
from iroot.scaling import get_scaling  # noqa: E402
from iroot.split_ops import SplitOps, Words  # noqa: E402
from iroot.triton_split_ops import TritonSplitOps  # noqa: E402

H100 = 132
TINY = Blocking(rows=16, columns=32, block_k=16, warps=4, stages=2)
TESTED = (TINY, Blocking(rows=32, columns=16, block_k=32, warps=4, stages=2)) if DEVICE.type == "cpu" else BLOCKINGS
GRAM_TESTED = tuple(blocking for blocking in TESTED if blocking.rows % blocking.columns == 0)
if DEVICE.type == "cpu":
    GRAM_TESTED += (Blocking(rows=16, columns=16, block_k=16, warps=4, stages=2),)
PRECISIONS = {torch.float16: "fp16x3", torch.bfloat16: "bf16x3"}
# The interpreter cuts bfloat16 words off instead of rounding them: twice the error of an operand.
SLACK = {torch.float16: 1.0, torch.bfloat16: 4.0 if DEVICE.type == "cpu" else 1.0}


def gaussian(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape))).to(DEVICE)


def by_torch(A: Tensor, dtype: torch.dtype) -> Words:
    return SplitOps(get_precision(PRECISIONS[dtype]), DEVICE).split(A)


def error(D: Tensor, exact: Tensor) -> float:
    return float((D.double() - exact).norm() / exact.norm())


@pytest.mark.parametrize("size", [1e-35, 1e-3, 1.0, 1e20])
@pytest.mark.parametrize("shape", [(70, 33), (1, 1), (3, 40, 136), (2, 2, 5, 300)], ids=str)
def test_words_are_those_of_the_torch_backend(shape: tuple[int, ...], size: float) -> None:
    A = gaussian(*shape) * size
    ours, theirs = split(A, torch.float16), by_torch(A, torch.float16)
    assert ours.inverse is not None
    assert theirs.inverse is not None
    assert torch.equal(ours.inverse, theirs.inverse)
    assert torch.equal(ours.hi, theirs.hi)
    assert torch.equal(ours.lo, theirs.lo)


@pytest.mark.parametrize("dtype", list(PRECISIONS))
def test_words_stand_for_their_matrix(dtype: torch.dtype) -> None:
    A = gaussian(2, 50, 70)
    words = split(A, dtype)
    held = words.hi.double() + words.lo.double()
    held = held if words.inverse is None else held * words.inverse.double()
    digits = 2.0**-23 if dtype is torch.float16 else 2.0**-17
    assert ((held - A.double()).abs() <= SLACK[dtype] * digits * A.double().abs() + 2.0**-39 * A.abs().max()).all()


@pytest.mark.parametrize("layout", ["transposed", "strided", "padded", "zero"])
def test_layouts_of_what_is_split(layout: str) -> None:
    A = gaussian(48, 64)
    A = {"transposed": A.mT.contiguous().mT, "strided": gaussian(96, 128)[::2, ::2], "padded": gaussian(48, 80)[:, 16:],
         "zero": torch.zeros_like(A)}[layout]  # fmt: skip
    ours, theirs = split(A, torch.float16), by_torch(A, torch.float16)
    assert torch.equal(ours.hi, theirs.hi)
    assert torch.equal(ours.lo, theirs.lo)
    assert ours.hi.shape == A.shape


@pytest.mark.filterwarnings("ignore:invalid value")  # of the interpreter's NumPy
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_stays_so(bad: float) -> None:
    A = gaussian(20, 32)
    A[3, 4] = bad
    D = split_product(split(A, torch.float16), split(gaussian(32, 24), torch.float16), blocking=TESTED[0])
    assert not D[3].isfinite().any()


@pytest.mark.parametrize("dtype", list(PRECISIONS))
@pytest.mark.parametrize("blocking", TESTED, ids=str)
@pytest.mark.parametrize(
    ("shape", "promote_k"),
    [((40, 100, 33), 40), ((1, 1, 1), 16), ((3, 24, 48, 20), 0), ((2, 2, 20, 16, 33), 16)],
    ids=str,
)
def test_matches_float64(shape: tuple[int, ...], promote_k: int, blocking: Blocking, dtype: torch.dtype) -> None:
    *batch, m, k, n = shape
    A, B, C = (gaussian(*batch, *size) for size in ((m, k), (k, n), (m, n)))
    given = (split(A, dtype), split(B, dtype))
    u = get_precision(PRECISIONS[dtype]).unit_roundoff
    for addend in (C, None):
        D = split_product(*given, addend, alpha=0.5, beta=-2.0, promote_k=promote_k, blocking=blocking)
        exact = 0.5 * A.double() @ B.double() - (2.0 * C.double() if addend is not None else 0.0)
        bound = SLACK[dtype] * 2 * u * A.double().abs() @ B.double().abs() + k * 2.0**-23
        assert (D.shape, D.dtype) == (exact.shape, torch.float32)
        assert ((D.double() - exact).abs() <= bound + 2.0**-22 * C.double().abs() + 2.0**-22 * exact.abs()).all()


@pytest.mark.parametrize("transposed", ["A", "B", "C", "all"])
def test_transposed_operands(transposed: str) -> None:
    operands = {"A": gaussian(40, 24), "B": gaussian(24, 56), "C": gaussian(40, 56)}
    for name in operands if transposed == "all" else transposed:
        operands[name] = operands[name].mT.contiguous().mT
    A, B, C = operands.values()
    D = split_product(split(A, torch.float16), split(B, torch.float16), C, blocking=TESTED[0])
    assert error(D, A.double() @ B.double() + C.double()) < 2.0**-21


@pytest.mark.filterwarnings("ignore:invalid value")  # of the interpreter's NumPy
@pytest.mark.parametrize("bad", [1.0, float("inf"), float("nan")])
@pytest.mark.parametrize("shape", [(130, 40, 70), (3, 33, 20, 33), (1, 1, 1)], ids=str)
def test_a_product_says_how_large_its_entries_are(shape: tuple[int, ...], bad: float) -> None:
    *batch, m, k, n = shape
    A, B, C = (gaussian(*batch, *size) for size in ((m, k), (k, n), (m, n)))
    C[..., m // 2, n // 2] *= bad
    factors = Factors(alpha=0.5, beta=-2.0, identity=40.0)
    words = (split(A, torch.float16), split(B, torch.float16))
    D = product_of_words(*words, C, factors, measure=True)
    assert D.largest is not None
    expected = torch.linalg.vector_norm(D.matrix.reshape(-1, m, n), ord=float("inf"), dim=(-2, -1))
    assert torch.equal(D.largest.amax(-1).nan_to_num(nan=7.0), expected.nan_to_num(nan=7.0))
    plain = split_product(*words, C, alpha=0.5, beta=-2.0)
    if m == n:
        plain.diagonal(dim1=-2, dim2=-1).add_(40.0)
    assert torch.equal(D.matrix.nan_to_num(nan=7.0), plain.nan_to_num(nan=7.0))
    anew, known = split(D.matrix, torch.float16), split(D.matrix, torch.float16, D.largest)
    for mine, right in ((known.hi, anew.hi), (known.lo, anew.lo), (known.inverse, anew.inverse)):
        assert mine is not None
        assert right is not None
        assert torch.equal(mine.nan_to_num(nan=7.0), right.nan_to_num(nan=7.0))


def test_no_pass_for_the_largest_entry_of_a_product(monkeypatch: pytest.MonkeyPatch) -> None:
    """The norm is of A alone, and of what was changed in place; the root is the same to the last bit."""
    A = gaussian(40, 40)
    A = A @ A.mT / 100.0 + torch.eye(40, device=DEVICE)
    ops, norms = TritonSplitOps(get_precision("fp16x3"), DEVICE), []
    norm = torch.linalg.vector_norm

    def noted(M: Tensor, **given: object) -> object:
        norms.append(M.shape)
        return norm(M, **given)

    def step() -> Tensor:
        B = ops.symmetric_quadratic(A, 0.5, -1.5, 0.7)
        Y = ops.symmetric_matmul(A, ops.symmetric_matmul(B, B))
        return ops.matmul(Y, B.mul_(2.0))

    expected = step()
    monkeypatch.setattr(torch.linalg, "vector_norm", noted)
    with ops.arithmetic():
        assert torch.equal(step(), expected)
    assert len(norms) == 2


def summed(diagonal: Tensor) -> Tensor:
    """The parts of a diagonal one after the other, as its readers add them."""
    total = torch.zeros_like(diagonal[:, 0])
    for part in diagonal.unbind(1):
        total += part
    return total


@pytest.mark.parametrize("shape", [(1, 1), (70, 300), (3, 20, 33), (2, 2, 9, 1100)], ids=str)
@pytest.mark.parametrize("layout", ["rows", "columns", "strided"])
def test_diagonals_of_products(shape: tuple[int, ...], layout: str) -> None:
    A, B = gaussian(*shape), gaussian(*shape[:-2], shape[-1], shape[-2])
    if layout == "columns":
        A, B = A.mT.contiguous().mT, B.mT.contiguous().mT
    elif layout == "strided":
        A, B = gaussian(*shape[:-1], 2 * shape[-1])[..., ::2], gaussian(*B.shape[:-1], 2 * shape[-2])[..., 1::2]
    exact = (A.double() * B.double().mT).sum(-1).reshape(-1, shape[-2])
    size = (A.double() * B.double().mT).abs().sum(-1).reshape(-1, shape[-2])
    assert ((summed(exact_diagonal(A, B)).double() - exact).abs() <= 2.0**-22 * size).all()


def assert_same_words(ours: Words, theirs: Words) -> None:
    assert (ours.inverse is None) == (theirs.inverse is None)
    assert ours.inverse is None or theirs.inverse is None or torch.equal(ours.inverse, theirs.inverse)
    assert torch.equal(ours.hi, theirs.hi)
    assert torch.equal(ours.lo, theirs.lo)
    assert ours.hi.stride() == theirs.hi.stride()
    assert ours.matrix is theirs.matrix


@pytest.mark.parametrize("dtype", list(PRECISIONS))
@pytest.mark.parametrize("known", ["neither", "left", "right", "both"])
@pytest.mark.parametrize("shape", [(1, 1), (70, 300), (3, 20, 33), (2, 2, 9, 600)], ids=str)
def test_one_pass_leaves_the_words_of_both_and_the_diagonal(
    shape: tuple[int, ...], known: str, dtype: torch.dtype
) -> None:
    A, B = gaussian(*shape), 1e3 * gaussian(*shape[:-2], shape[-1], shape[-2])
    left, right = split(A, dtype), split(B, dtype)
    given = (left if known in ("left", "both") else None, right if known in ("right", "both") else None)
    largest = A.abs().flatten(0, -3).amax(-1) if A.ndim > 2 else A.abs().amax(-1)[None]
    pair = split_pair(A, B, dtype, words=given, largest=(largest, None))
    assert_same_words(pair.left, left)
    assert_same_words(pair.right, right)
    assert torch.equal(pair.diagonal, exact_diagonal(A, B))


@pytest.mark.parametrize("layout", ["square", "columns", "strided"])
def test_one_pass_over_what_is_stored_otherwise(layout: str) -> None:
    A = gaussian(2, 48, 48)
    B = {"square": A, "columns": A.mT, "strided": gaussian(2, 96, 96)[:, ::2, ::2]}[layout]
    pair = split_pair(A, B, torch.float16, words=(None, None), largest=(None, None))
    assert_same_words(pair.left, split(A, torch.float16))
    assert_same_words(pair.right, split(B, torch.float16))
    assert (pair.left is pair.right) == (layout == "square")
    assert torch.equal(pair.diagonal, exact_diagonal(A, B))


@pytest.mark.parametrize("dtype", list(PRECISIONS))
@pytest.mark.parametrize("blocking", TESTED, ids=str)
def test_a_square_result_has_the_exact_diagonal(blocking: Blocking, dtype: torch.dtype) -> None:
    """Tiles are wider than high, or higher than wide; what two words leave out is off the diagonal only."""
    A, B, C = gaussian(2, 77, 40), gaussian(2, 40, 77), gaussian(2, 77, 77)
    D = split_product(split(A, dtype), split(B, dtype), C, alpha=0.5, beta=-2.0, blocking=blocking).double()
    exact = 0.5 * A.double() @ B.double() - 2.0 * C.double()
    assert error(D.diagonal(dim1=-2, dim2=-1), exact.diagonal(dim1=-2, dim2=-1)) < 2.0**-23
    assert error(D, exact) < 4 * SLACK[dtype] * get_precision(PRECISIONS[dtype]).unit_roundoff
    E = split_product(split(A, dtype), split(B, dtype), blocking=blocking)
    assert torch.equal(E.diagonal(dim1=-2, dim2=-1), summed(exact_diagonal(A, B)))


def test_a_gram_matrix_of_one_split() -> None:
    G = gaussian(2, 40, 56)
    words = split(G, torch.float16)
    assert error(split_product(words, words.mT, blocking=TESTED[0]), G.double() @ G.double().mT) < 2.0**-21


@pytest.mark.parametrize(("dtype", "layout"), [(torch.float16, "columns"), (torch.bfloat16, "rows")])
@pytest.mark.parametrize("blocking", GRAM_TESTED, ids=str)
@pytest.mark.parametrize("shape", [(1, 5), (33, 40), (2, 77, 24), (2, 2, 64, 16), (100, 16)], ids=str)
def test_a_gram_matrix_by_its_lower_triangle(
    shape: tuple[int, ...], blocking: Blocking, dtype: torch.dtype, layout: str
) -> None:
    """Every entry is stored, the lower ones as the full product has them."""
    G = gaussian(*shape)
    words = split(G if layout == "rows" else G.mT.contiguous().mT, dtype)
    D = split_gram(words, alpha=-0.5, promote_k=16, blocking=blocking)
    full = split_product(words, words.mT, alpha=-0.5, promote_k=16, blocking=blocking)
    assert torch.equal(D, D.mT)
    assert torch.equal(D.tril(), full.tril())
    assert (
        error(D, -0.5 * G.double() @ G.double().mT) < 4 * SLACK[dtype] * get_precision(PRECISIONS[dtype]).unit_roundoff
    )


def test_bad_operands() -> None:
    A, B = split(gaussian(8, 4), torch.float16), split(gaussian(4, 6), torch.float16)
    with pytest.raises(InvalidInputError, match=r"A must be float32 .* got torch\.float16"):
        split(gaussian(8, 4).half(), torch.float16)
    with pytest.raises(InvalidInputError, match=r"got torch\.float32 and torch\.float64"):
        split(gaussian(8, 4), torch.float64)
    with pytest.raises(InvalidInputError, match=r"got \(8, 4\) torch\.float16 and \(8, 4\) torch\.float16"):
        split_product(A, A)
    with pytest.raises(InvalidInputError, match="tiles must be as high as wide"):
        split_gram(A, blocking=TINY)
    with pytest.raises(InvalidInputError, match=r"C must be float32 \(8, 6\), got torch\.float32 \(6, 8\)"):
        split_product(A, B, gaussian(6, 8))


def test_empty_result() -> None:
    empty = Words(hi=torch.zeros(0, 4).half(), lo=torch.zeros(0, 4).half(), inverse=None, matrix=torch.zeros(0, 4))
    assert split_product(empty, split(gaussian(4, 6), torch.float16)).shape == (0, 6)


@pytest.mark.parametrize(
    ("n", "batches", "rows", "columns"),
    [(512, 1, 64, 64), (1024, 1, 128, 64), (2048, 1, 128, 128), (1024, 16, 128, 128)],
)
def test_small_matrices_take_small_tiles(n: int, batches: int, rows: int, columns: int) -> None:
    blocking = choose_blocking(n, n, batches, processors=H100)
    assert (blocking.rows, blocking.columns) == (rows, columns)


@pytest.mark.parametrize(
    ("n", "batches", "rows", "columns"),
    [(512, 1, 64, 64), (1024, 1, 128, 64), (2048, 1, 64, 64), (1024, 16, 128, 128)],
)
def test_gram_matrices_take_the_tiles_that_fill_waves(n: int, batches: int, rows: int, columns: int) -> None:
    """n = 2048 has 136 tiles of 128 x 128, two waves, and 528 of 64 x 64, four waves at 0.39."""
    blocking = choose_blocking(n, n, batches, processors=H100, tiles="lower")
    assert (blocking.rows, blocking.columns) == (rows, columns)


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every launch of a kernel, by name."""
    made: list[str] = []
    for name in ("split", "split_pair", "split_gram", "product_of_words"):
        kernel = getattr(triton_split_ops, name)

        def counted(
            *operands: object, name: str = name, kernel: Callable[..., object] = kernel, **given: object
        ) -> object:
            made.append(name)
            return kernel(*operands, **given)

        monkeypatch.setattr(triton_split_ops, name, counted)
    return made


@pytest.mark.parametrize("dtype", list(PRECISIONS))
def test_one_step_agrees_with_the_torch_backend(dtype: torch.dtype, launches: list[str]) -> None:
    """Every operation of the protocol, on matrices of different sizes in one batch."""
    precision, results = get_precision(PRECISIONS[dtype]), []
    for ops in (TritonSplitOps(precision, DEVICE), SplitOps(precision, DEVICE)):
        X = gaussian(2, 24, 40) / torch.tensor([1.0, 1e3], device=DEVICE).reshape(2, 1, 1)
        A = ops.gram(X)
        B = ops.symmetric_quadratic(A, 0.5, -1.5, 0.7)
        results.append((A, B, ops.symmetric_apply(B, X, beta=2.0), ops.symmetric_matmul(B, B), ops.matmul_wide(B, X)))
    # What is not square has no diagonal to go with its words.
    counts = [launches.count(name) for name in ("split", "split_pair", "split_gram", "product_of_words")]
    assert counts == [1 + 2 + 2, 2, 1, 4]
    for ours, theirs in zip(*results, strict=True):
        assert error(ours, theirs.double()) < SLACK[dtype] * 4 * precision.unit_roundoff


@pytest.mark.parametrize("dtype", list(PRECISIONS))
def test_the_bound_of_a_spectrum_takes_one_half_product(dtype: torch.dtype, launches: list[str]) -> None:
    """In 16 bits, and raised by what they may move it."""
    G = gaussian(2, 140, 200)
    A, ops = G @ G.mT / 200.0, TritonSplitOps(get_precision(PRECISIONS[dtype]), DEVICE)
    bound = get_scaling("square").function(A, ops)
    assert launches == []
    composed = get_scaling("square").function(A, SplitOps(get_precision(PRECISIONS[dtype]), DEVICE))
    largest = torch.linalg.eigvalsh(A.double())[:, -1, None, None]
    assert (largest <= bound).all()
    assert (((bound / composed) - 1.0).abs() < 4e-3).all()
    assert ops.square_bound(A[:, :20, :20], eps=0.0) is None
    assert ops.square_bound(A.double(), eps=0.0) is None


@pytest.mark.gpu
@pytest.mark.parametrize("name", list(PRECISIONS.values()))
def test_a_hopper_gpu_has_the_kernels_unless_the_library_is_asked_for(name: str) -> None:
    A = gaussian(1024, 1024)
    ours, library = make_ops(name, DEVICE), make_ops(name, DEVICE, "torch")
    assert isinstance(ours, TritonSplitOps) == is_served(torch.cuda.get_device_capability(DEVICE))
    assert isinstance(library, SplitOps)
    assert not isinstance(library, TritonSplitOps)
    exact, u = A.double() @ A.double(), get_precision(name).unit_roundoff
    with ours.arithmetic():
        assert max(error(ops.matmul(A, A), exact) for ops in (ours, library)) < 2 * u


def test_calls_that_are_compiled_or_recorded_stay_in_the_library() -> None:
    ops, A = TritonSplitOps(get_precision("fp16x3"), DEVICE), gaussian(16, 16)
    assert torch.equal(torch.compile(ops.matmul, backend="eager", fullgraph=True)(A, A), by_library(A))
    A.requires_grad_()
    assert ops.matmul(A, A).requires_grad


def by_library(A: Tensor) -> Tensor:
    return SplitOps(get_precision("fp16x3"), DEVICE).matmul(A, A)
