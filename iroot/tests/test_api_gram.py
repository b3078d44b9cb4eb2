"""solve_gram_spd against float64, over sides, roots, reuse, and every way a call can end."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import iroot
from iroot import InvalidInputError, Termination, Workspace
from iroot.methods._gram import GramOptions


def posed(m: int, n: int, kappa: float, *, seed: int = 0, batch: tuple[int, ...] = (), size: float = 2.0) -> Tensor:
    """G with squared singular values size^2 (1 ... 1 / kappa), in float64."""
    generator = torch.Generator().manual_seed(seed)
    r = min(m, n)
    U, V = (torch.linalg.qr(torch.randn(*batch, d, r, generator=generator, dtype=torch.float64)).Q for d in (m, n))
    G: Tensor = (U * (size * torch.logspace(0, -0.5 * math.log10(kappa), r, dtype=torch.float64))) @ V.mT
    return G


def columns(n: int, k: int, *, seed: int = 0, batch: tuple[int, ...] = ()) -> Tensor:
    generator = torch.Generator().manual_seed(seed + 99)
    return torch.randn(*batch, n, k, generator=generator, dtype=torch.float64)


def exact(G: Tensor, B: Tensor, p: int, eps: float, side: str = "right") -> Tensor:
    """By a full SVD, where the methods work with Gram matrices."""
    H = G.double() if side == "right" else G.double().mT
    _, sigma, Vh = torch.linalg.svd(H, full_matrices=True)
    values = torch.zeros(*H.shape[:-2], H.shape[-1], dtype=torch.float64)
    values[..., : sigma.shape[-1]] = sigma**2
    Z: Tensor = Vh.mT @ ((values + eps)[..., :, None] ** (-1.0 / p) * (Vh @ B.double()))
    return Z


def distance(Z: Tensor, truth: Tensor) -> float:
    return float((torch.linalg.matrix_norm(Z.double() - truth) / torch.linalg.matrix_norm(truth)).max())


@settings(max_examples=20)
@given(
    m=st.integers(1, 24), n=st.integers(1, 24), k=st.integers(1, 6), p=st.sampled_from((1, 2, 3, 4, 8)),
    side=st.sampled_from(("right", "dual")), exponent=st.floats(1.0, 4.0),
    rtol=st.sampled_from((1e-2, 3e-3, 1e-6, 1e-9)), seed=st.integers(0, 5),
)  # fmt: skip
def test_the_value_is_the_root_of_the_damped_gram_matrix_applied(
    m: int, n: int, k: int, p: int, side: str, exponent: float, rtol: float, seed: int
) -> None:
    G = posed(m, n, 10.0**exponent, seed=seed)
    B = columns(n if side == "right" else m, k, seed=seed)
    eps = 4.0 * 10.0**-exponent
    result = iroot.solve_gram_spd(G, B, p, side=side, eps=eps, rtol=rtol)
    assert result.value.shape == B.shape
    assert result.bounds.source == "measured"
    assert result.bounds.lower <= eps / (4.0 + eps) * (1.0 + 1e-9)
    # rtol is relative to ||X||: a few columns may be unlucky in their direction.
    error = distance(result.value, exact(G, B, p, eps, side))
    assert error <= 3.0 * rtol
    assert result.estimated_error == pytest.approx(error, rel=1e-3, abs=1e-11)
    assert result.termination is (Termination.CONVERGED if error <= rtol else Termination.ABOVE_RTOL)


def test_auto_takes_the_cheapest_of_the_three_ways() -> None:
    wide, tall = posed(16, 200, 100.0), posed(200, 16, 100.0)
    assert iroot.solve_gram_spd(wide, columns(200, 32), 2, eps=0.01).method == "dual"
    assert iroot.solve_gram_spd(tall, columns(16, 32), 2, eps=0.01).method in ("dense", "dual")
    flat = posed(100, 120, 4.0)
    assert iroot.solve_gram_spd(flat, columns(120, 1), 2, eps=1.0).method == "chebyshev"
    assert iroot.solve_gram_spd(flat, columns(120, 1), 2, eps=1e-9, rtol=1e-9).method == "svd"


def test_what_no_method_serves_in_the_named_precision_is_still_computed() -> None:
    """Not by Chebyshev's polynomial, whose degree would be out of reach."""
    G, B = posed(40, 24, 1e6), columns(24, 2)
    result = iroot.solve_gram_spd(G, B, 1, eps=4e-6, rtol=1e-3, precision="fp16_emulated")
    assert (result.method, result.stated_accuracy) == ("dense", None)
    assert result.termination in (Termination.CONVERGED, Termination.ABOVE_RTOL)


def test_the_dual_side_is_the_right_side_of_the_transpose() -> None:
    G, B = posed(12, 30, 50.0, batch=(2,)), columns(12, 3, batch=(2,))
    dual = iroot.solve_gram_spd(G, B, 4, side="dual")
    right = iroot.solve_gram_spd(G.mT.contiguous(), B, 4)
    torch.testing.assert_close(dual.value, right.value, rtol=1e-5, atol=1e-6)
    assert distance(dual.value, exact(G, B, 4, 0.0, "dual")) <= 3e-3


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_dtype_layout_and_input_are_kept(dtype: torch.dtype) -> None:
    G, B = posed(20, 12, 30.0, batch=(2,)).to(dtype), columns(12, 3, batch=(2,)).to(dtype)
    strided = torch.zeros(2, 12, 20, dtype=dtype).mT
    strided.copy_(G)
    before = strided.clone(), B.clone()
    result = iroot.solve_gram_spd(strided, B, 2, eps=0.1)
    assert torch.equal(strided, before[0])
    assert torch.equal(B, before[1])
    assert (result.value.dtype, result.value.shape) == (dtype, (2, 12, 3))
    assert distance(result.value, exact(G, B, 2, 0.1)) <= max(3e-3, 2 * torch.finfo(dtype).eps)


def test_empty_zero_and_given_bounds() -> None:
    assert iroot.solve_gram_spd(torch.zeros(0, 4, 3), torch.zeros(0, 3, 2), 2).value.shape == (0, 3, 2)
    assert iroot.solve_gram_spd(torch.ones(4, 3), torch.zeros(3, 0), 2).value.shape == (3, 0)
    B = columns(5, 2)
    damped = iroot.solve_gram_spd(torch.zeros(3, 5, dtype=torch.float64), B, 2, eps=0.25)
    assert distance(damped.value, 2.0 * B) < 3e-3
    given = iroot.solve_gram_spd(posed(9, 5, 20.0), B, 2, lower=0.04)
    assert given.bounds.source == "given"
    assert given.termination is Termination.CONVERGED


# --- reuse ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("p", "method"), [(1, "cholesky"), (2, "coupled_pe"), (4, "coupled_pe")])
def test_many_applications_pay_for_a_factor_that_is_kept(p: int, method: str) -> None:
    G, workspace = posed(60, 40, 1e3), Workspace()
    first = iroot.solve_gram_spd(G, columns(40, 4), p, eps=1e-2, reuse=100, workspace=workspace)
    assert first.method == method
    assert first.termination is Termination.CONVERGED
    for seed in range(3):
        B = columns(40, 4, seed=seed)
        again = iroot.solve_gram_spd(G, B, p, eps=1e-2, reuse=100, workspace=workspace)
        assert again.method == method
        assert distance(again.value, exact(G, B, p, 1e-2)) <= 3e-3
    assert len(workspace) == 1


def test_a_changed_matrix_is_factorised_anew() -> None:
    G, B, workspace = posed(30, 20, 100.0), columns(20, 2), Workspace()
    for scale in (1.0, 2.0, 0.5):
        G.mul_(scale)
        result = iroot.solve_gram_spd(G, B, 2, eps=0.05, reuse=1000, workspace=workspace)
        assert distance(result.value, exact(G, B, 2, 0.05)) <= 3e-3
    other = posed(30, 20, 100.0, seed=7)
    result = iroot.solve_gram_spd(other, B, 2, eps=0.05, reuse=1000, workspace=workspace)
    assert distance(result.value, exact(other, B, 2, 0.05)) <= 3e-3


@pytest.mark.parametrize("p", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("batch", [(), (2,)])
def test_of_a_wide_matrix_the_small_one_is_kept(p: int, batch: tuple[int, ...]) -> None:
    """With p = 1 too: the Cholesky factor would be n x n."""
    G, workspace = posed(10, 150, 1e3, batch=batch), Workspace()
    for seed in range(3):
        B = columns(150, 4, seed=seed, batch=batch)
        result = iroot.solve_gram_spd(G, B, p, eps=4e-3, reuse=30, rtol=1e-5, workspace=workspace)
        assert result.method == "dual"
        assert distance(result.value, exact(G, B, p, 4e-3)) <= 1e-5
        assert result.termination is Termination.CONVERGED
    kept = [entry.factor for entry in workspace._entries.values()]
    assert [factor.value.shape for factor in kept if factor is not None] == [(*batch, 10, 10)]


def test_few_applications_do_not_pay() -> None:
    """By FLOP, one call that forms X costs more than one that applies its factors."""
    G, B, workspace = posed(60, 40, 1e4), columns(40, 1), Workspace()
    result = iroot.solve_gram_spd(G, B, 2, eps=4e-3, reuse=2, method="dense", workspace=workspace)
    assert result.method == "dense"
    assert all(entry.factor is None for entry in workspace._entries.values())
    G, B = posed(100, 100, 4.0), columns(100, 1)
    result = iroot.solve_gram_spd(G, B, 2, eps=0.05, reuse=2, workspace=workspace)
    assert result.method == "chebyshev"
    assert distance(result.value, exact(G, B, 2, 0.05)) <= 3e-3


def test_the_factor_of_solve_spd_is_kept_too() -> None:
    G = posed(40, 40, 300.0)
    A, workspace = G.mT @ G, Workspace()
    for seed in range(3):
        B = columns(40, 2, seed=seed)
        for p, method in ((1, "cholesky"), (2, "coupled_pe")):
            result = iroot.solve_spd(A, B, p, eps_relative=1e-4, reuse=50, workspace=workspace)
            assert (result.method, result.termination) == (method, Termination.CONVERGED)
    A.diagonal().sub_(10.0)
    spoiled = iroot.solve_spd(A, columns(40, 2), 1, eps=1e-3, reuse=50, workspace=Workspace())
    assert spoiled.termination is Termination.NOT_POSITIVE_DEFINITE
    assert not bool(spoiled.value.isfinite().any())


# --- what is refused --------------------------------------------------------------------------------------------------


def test_wrong_calls_name_the_remedy() -> None:
    G, B = posed(6, 9, 10.0), columns(9, 2)
    cases: list[tuple[str, dict[str, object]]] = [
        (r"side must be 'right' \(G\^T G\) or 'dual' \(G G\^T\), got 'left'", {"side": "left"}),
        (r"B must be \(..., m, k\).*for side='dual', got G \(6, 9\) and B \(9, 2\)", {"side": "dual"}),
        (r"eps must be finite and >= 0, got -1.0", {"eps": -1.0}),
        (r"eps must be > 0 where the Gram matrix is singular.*has rank 6 at most; damp it", {"eps": 0.0}),
        (r"reuse must be an integer >= 1, .* got 0", {"reuse": 0}),
        (r"reuse > 1 needs a workspace, .* pass workspace=iroot.Workspace\(\)", {"reuse": 5}),
        (r"p must be an integer >= 1, got 2.5", {"p": 2.5}),
        (r"lower must be in \(0, 1\]", {"lower": 0.0}),
        (r"B must be \(..., n, k\).*a single column is B\[..., None\]", {"B": B[:, 0]}),
        (r"G and B must have one dtype, got torch.float64 and torch.float32", {"B": B.float()}),
        (r"G and B must be on one device, got cpu and meta; move B", {"B": B.to("meta")}),
        (r"G must be real", {"G": G.to(torch.complex64)}),
        (r"G and B must be finite, got NaN or infinity", {"B": B * torch.nan, "check_finite": True}),
        (r"G must not be zero where it is not damped", {"G": 0.0 * G.mT, "B": B[:6], "eps": 0.0}),
        (r"options need a method given by name", {"options": iroot.ChebyshevOptions()}),
    ]
    for message, changes in cases:
        arguments: dict[str, object] = {"G": G, "B": B, "p": 2, "eps": 0.1} | changes
        with pytest.raises(InvalidInputError, match=message):
            iroot.solve_gram_spd(**arguments)  # type: ignore[arg-type]
    with pytest.raises(InvalidInputError, match="reuse > 1 must see changes"), torch.inference_mode():
        iroot.solve_gram_spd(G.clone(), B, 2, eps=0.1, reuse=3, workspace=Workspace())


def test_nan_and_bounds_that_do_not_hold_are_reported() -> None:
    G, B = posed(12, 8, 1e4), columns(8, 2)
    G[2, 3] = torch.nan
    assert iroot.solve_gram_spd(G, B, 2, eps=0.1).termination is Termination.NOT_FINITE
    hard = iroot.solve_gram_spd(posed(40, 30, 1e6), columns(30, 2), 2, lower=0.3)
    assert hard.termination is Termination.ABOVE_RTOL
    assert hard.estimated_error > 3e-3


@pytest.mark.parametrize(("method", "shape"), [("dense", (20, 12)), ("dual", (12, 40)), ("chebyshev", (20, 12))])
@pytest.mark.parametrize("p", [1, 4])
def test_recorded_calls_follow_their_operands(method: str, shape: tuple[int, int], p: int) -> None:
    workspace = Workspace()
    for seed in range(4):
        G, B = posed(*shape, 20.0, seed=seed), columns(shape[1], 3, seed=seed)
        result = iroot.solve_gram_spd(G, B, p, eps=0.1, method=method, workspace=workspace)
        assert result.bounds.source == ("workspace" if seed else "measured")
        assert distance(result.value, exact(G, B, p, 0.1)) <= 3e-3
        assert result.termination is Termination.CONVERGED
    assert len(workspace) == 1


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("method", ["dense", "chebyshev"])
def test_a_replayed_call_on_a_gpu_allocates_nothing(method: str, precision: str) -> None:
    workspace = Workspace()
    for seed in range(3):
        G, B = posed(256, 512, 30.0, seed=seed).float().cuda(), columns(512, 16, seed=seed).float().cuda()
        torch.cuda.synchronize()
        before = torch.cuda.memory_stats()["allocation.all.allocated"]
        result = iroot.solve_gram_spd(
            G, B, 2, eps=0.2, rtol=1e-2, lower=0.045, method=method, precision=precision, workspace=workspace
        )
        if seed:
            assert torch.cuda.memory_stats()["allocation.all.allocated"] == before
        assert distance(result.value.cpu(), exact(G.cpu(), B.cpu(), 2, 0.2)) <= 1e-2


@pytest.mark.gpu
@pytest.mark.parametrize("p", [1, 2])
def test_a_factor_on_a_gpu_is_kept(p: int) -> None:
    G, workspace = posed(64, 1024, 1e3).float().cuda(), Workspace()
    for seed in range(2):
        B = columns(1024, 8, seed=seed).float().cuda()
        result = iroot.solve_gram_spd(G, B, p, eps=4e-3, reuse=100, workspace=workspace)
        assert distance(result.value.cpu(), exact(G.cpu(), B.cpu(), p, 4e-3)) <= 3e-3


@pytest.mark.parametrize("kappa", [1e2, 5e3])
@pytest.mark.parametrize("m", [64, 160])
def test_the_tiers_of_16_bit_products_hold_for_a_gram_matrix_that_is_formed(m: int, kappa: float) -> None:
    """m = 64: half of the damped eigenvalues are eps; m = 160: log-spaced."""
    n, eps = 128, 4.0 / kappa
    G = posed(m, n, 10.0 if m < n else kappa, seed=3)
    B = columns(n, 16)
    for precision, rtol in (("fp16_emulated", 1e-2), ("fp16_emulated", 2.5e-3), ("bf16_emulated", 5e-2)):
        for p in (1, 2, 4):
            result = iroot.solve_gram_spd(
                G, B, p, eps=eps, rtol=rtol, method="dense", precision=precision, lower=eps / (4.0 + eps)
            )  # fmt: skip
            assert result.stated_accuracy is not None
            assert distance(result.value, exact(G, B, p, eps)) <= result.stated_accuracy <= rtol, (precision, p)


def test_the_callers_own_options_are_stated_by_the_method() -> None:
    options = GramOptions(target=1e-3)
    result = iroot.solve_gram_spd(
        posed(32, 64, 10.0), columns(64, 4), 2, eps=0.1, method="dense", precision="fp16_emulated", options=options
    )  # fmt: skip
    assert result.stated_accuracy is not None
    assert result.stated_accuracy > 2e-3
    own = iroot.solve_gram_spd(
        posed(32, 64, 10.0), columns(64, 4), 2, eps=0.1, method="dense", precision="fp16_emulated",
        options=GramOptions(inner="coupled_pe"),
    )  # fmt: skip
    assert own.estimated_error <= (own.stated_accuracy or 1.0)
