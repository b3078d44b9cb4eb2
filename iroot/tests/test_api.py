"""inverse_root, solve_spd and polar against float64, over p, dtype, layout and every way a call can end."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.overrides import TorchFunctionMode

import iroot
from iroot import InvalidInputError, PolarExpressOptions, ScheduleOptions, Termination, Workspace
from iroot.planning import Demand, choose
from iroot.registry import Workload

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
HOST_READS = ("tolist", "item", "__bool__", "__float__", "__int__", "__index__", "cpu", "numpy", "equal", "nonzero")


def orthonormal(n: int, seed: int, batch: tuple[int, ...] = ()) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    Q: Tensor = torch.linalg.qr(torch.randn(*batch, n, n, generator=generator, dtype=torch.float64)).Q
    return Q


def posed(n: int, kappa: float, *, seed: int = 0, batch: tuple[int, ...] = (), largest: float = 3.0) -> Tensor:
    """A with eigenvalues largest ... largest / kappa, log-spaced, in float64."""
    Q = orthonormal(n, seed, batch)
    A = (Q * (largest * torch.logspace(0, -math.log10(kappa), n, dtype=torch.float64))) @ Q.mT
    symmetric: Tensor = (A + A.mT) / 2
    return symmetric


def exact(A: Tensor, p: int, eps: float = 0.0) -> Tensor:
    values, V = torch.linalg.eigh(A.double())
    X: Tensor = (V * (values + eps)[..., None, :] ** (-1.0 / p)) @ V.mT
    return X


def distance(X: Tensor, reference: Tensor) -> float:
    return float((torch.linalg.matrix_norm(X.double() - reference) / torch.linalg.matrix_norm(reference)).max())


class HostReads(TorchFunctionMode):
    """Records the calls that make a GPU's host wait."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_function__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        name = getattr(func, "__name__", "")
        if name in HOST_READS:
            self.names.append(name)
        return func(*args, **(kwargs or {}))


@contextlib.contextmanager
def host_reads() -> Iterator[list[str]]:
    with HostReads() as mode:
        yield mode.names


# --- values -----------------------------------------------------------------------------------------------------------


@settings(max_examples=12)
@given(
    n=st.integers(1, 24),
    p=st.sampled_from((1, 2, 3, 4, 8)),
    exponent=st.floats(0.0, 6.0),
    rtol=st.sampled_from((1e-1, 3e-3, 1e-5, 1e-9)),
    seed=st.integers(0, 5),
)
def test_x_to_the_p_times_a_is_the_identity(n: int, p: int, exponent: float, rtol: float, seed: int) -> None:
    A = posed(n, 10.0**exponent, seed=seed)
    result = iroot.inverse_root(A, p, rtol=rtol, lower=0.99 * 10.0**-exponent)
    error = distance(result.value, exact(A, p))
    assert error <= rtol
    assert result.termination is Termination.CONVERGED
    assert result.estimated_error == pytest.approx(error, rel=1e-3, abs=1e-12)
    # X = X* (I + E) with E commuting: the residual is p E, over the spread of X's eigenvalues.
    residual = torch.linalg.matrix_norm(torch.linalg.matrix_power(result.value, p) @ A - torch.eye(n)) / n**0.5
    assert float(residual) <= 2.0 * p * rtol * (1.0 + rtol) ** p * 10.0**exponent


@settings(max_examples=12)
@given(
    shape=st.tuples(st.integers(1, 20), st.integers(1, 20)),
    exponent=st.floats(0.0, 3.0),
    rtol=st.sampled_from((0.2, 1e-2, 1e-5, 1e-11)),
    seed=st.integers(0, 5),
)
def test_u_t_u_is_the_identity(shape: tuple[int, int], exponent: float, rtol: float, seed: int) -> None:
    m, n = shape
    r = min(m, n)
    sigma = 7.0 * torch.logspace(0, -exponent, r, dtype=torch.float64)
    W, V = orthonormal(m, seed)[:, :r], orthonormal(n, seed + 1)[:, :r]
    result = iroot.polar((W * sigma) @ V.mT, rtol=rtol)
    U = result.value if m >= n else result.value.mT
    departure = float(torch.linalg.matrix_norm(U.mT @ U - torch.eye(r)) / r**0.5)
    assert departure <= rtol
    assert result.termination is Termination.CONVERGED
    assert result.estimated_error == pytest.approx(departure, rel=1e-6, abs=1e-13)
    assert distance(result.value, W @ V.mT) <= rtol + 1e-3


@settings(max_examples=8)
@given(
    n=st.sampled_from((1, 2, 24)), k=st.integers(1, 30), p=st.sampled_from((1, 4)),
    exponent=st.sampled_from((0.5, 4.0)),
    rtol=st.sampled_from((3e-3, 1e-7)), seed=st.integers(0, 5),
)  # fmt: skip
def test_the_apply_is_the_root_times_b(n: int, k: int, p: int, exponent: float, rtol: float, seed: int) -> None:
    A = posed(n, 10.0**exponent, seed=seed)
    # Every direction at full size: an error relative to X is then one relative to Z.
    B = orthonormal(max(n, k), seed + 9)[:n, :k]
    result = iroot.solve_spd(A, B, p, rtol=rtol, lower=0.99 * 10.0**-exponent)
    assert result.value.shape == (n, k)
    if k >= n:
        assert distance(result.value, exact(A, p) @ B) <= rtol
        assert result.termination is Termination.CONVERGED


def test_the_apply_takes_the_cheaper_way_in_each_regime() -> None:
    easy, hard = posed(64, 3.0), posed(64, 1e4)
    B = orthonormal(64, 3)[:, :2]
    assert iroot.solve_spd(easy, B, 1, lower=0.3).method == "chebyshev"
    assert iroot.solve_spd(hard, B, 1, lower=1e-4).method == "coupled_pe"
    assert iroot.solve_spd(hard, B, 1, lower=1e-4, precision="fp16_emulated", rtol=5e-3).method == "hybrid"
    assert iroot.solve_spd(hard, hard, 1, lower=1e-4, precision="fp16_emulated", rtol=5e-3).method == "graded_pe"


@pytest.mark.parametrize("kappa", [30.0, 1e3, 1e5])
@pytest.mark.parametrize("p", [1, 2, 3, 4, 8])
def test_the_tiers_of_16_bit_products_hold(p: int, kappa: float) -> None:
    logspace = torch.logspace(0, -math.log10(kappa), 96, dtype=torch.float64)
    one_large = torch.tensor([1.0] + [1.0 / kappa] * 95, dtype=torch.float64)
    for seed, spectrum in enumerate((logspace, one_large)):
        Q = orthonormal(96, seed)
        A = (Q * spectrum) @ Q.mT
        for precision, rtol in (("fp16_emulated", 1e-3), ("bf16_emulated", 8e-3)):
            result = iroot.inverse_root(A, p, rtol=rtol, method="graded_pe", precision=precision, lower=1 / kappa)
            if kappa <= 1e3:
                assert result.stated_accuracy == (pytest.approx(8.375e-4) if precision == "fp16_emulated" else rtol)
            if result.stated_accuracy is None:
                assert precision == "bf16_emulated"
                assert kappa > 1e4
            else:
                assert distance(result.value, exact(A, p)) <= result.stated_accuracy <= 5 * rtol


@pytest.mark.parametrize("lower", [1e-14, 1e-9, 0.5, 1.0])
def test_every_bound_and_rtol_has_a_choice(lower: float) -> None:
    A = posed(6, 1.5)
    for rtol in (1e-14, 0.5):
        for p in (1, 17):
            assert iroot.inverse_root(A, p, rtol=rtol, lower=lower).estimated_error <= max(rtol, 1e-10)
            assert iroot.solve_spd(A, A[:, :1], p, rtol=rtol, lower=lower).value.isfinite().all()
        U = iroot.polar(A, rtol=rtol, lower=lower)
        # 2/3 is the truth: a bound above it is taken at its word, and no step is left over.
        assert U.termination is Termination.CONVERGED or lower == 1.0
        assert U.value.isfinite().all()


@pytest.mark.parametrize("kappa", [1e3, 1e5])
@pytest.mark.parametrize("name", ["graded_pe", "hybrid"])
def test_the_tiers_hold_for_the_apply(name: str, kappa: float) -> None:
    A = posed(96, kappa, seed=4)
    B = torch.randn(96, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    for p in (1, 2, 4):
        result = iroot.solve_spd(A, B, p, rtol=3e-3, method=name, precision="fp16_emulated", lower=1 / kappa)
        assert result.stated_accuracy is not None
        assert distance(result.value, exact(A, p) @ B) <= result.stated_accuracy <= 1e-2


# --- what a call accepts ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_dtype_device_and_input_are_kept(dtype: torch.dtype) -> None:
    A = posed(24, 30.0, batch=(2,)).to(dtype)
    B, G = torch.ones(2, 24, 3, dtype=dtype), torch.randn(2, 24, 40).to(dtype)
    kept = [tensor.clone() for tensor in (A, B, G)]
    results = (
        iroot.inverse_root(A, 2, eps=0.1, eps_relative=1e-3),
        iroot.solve_spd(A, B, 2, eps=0.1, eps_relative=1e-3),
        iroot.polar(G),
    )
    assert all(torch.equal(tensor, copy) for tensor, copy in zip((A, B, G), kept, strict=True))
    for result, shape in zip(results, ((2, 24, 24), (2, 24, 3), (2, 24, 40)), strict=True):
        assert (result.value.dtype, result.value.shape, result.value.device) == (dtype, shape, A.device)
        assert result.termination is Termination.CONVERGED, result


def test_layouts_agree() -> None:
    A = posed(20, 30.0, batch=(3,)).float()
    padded = torch.zeros(3, 20, 41)
    padded[..., 1:21] = A
    expected = iroot.inverse_root(A, 2, lower=0.03).value
    for other in (padded[..., 1:21], A.mT, A.permute(1, 2, 0).contiguous().permute(2, 0, 1)):
        torch.testing.assert_close(iroot.inverse_root(other, 2, lower=0.03).value, expected, rtol=0, atol=1e-5)
    shared = iroot.inverse_root(A[:1].expand(3, 20, 20), 2, eps=0.1).value
    torch.testing.assert_close(shared[2], shared[0], rtol=0, atol=1e-6)
    G = torch.randn(20, 30, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(iroot.polar(G.mT).value, iroot.polar(G).value.mT, rtol=0, atol=1e-5)


def test_empty_batches_and_columns() -> None:
    for result, shape in (
        (iroot.inverse_root(torch.zeros(0, 5, 5), 2), (0, 5, 5)),
        (iroot.inverse_root(torch.zeros(2, 0, 0), 2, check_finite=True), (2, 0, 0)),
        (iroot.solve_spd(torch.eye(5), torch.zeros(5, 0), 2), (5, 0)),
        (iroot.polar(torch.zeros(0, 4, 5), workspace=Workspace()), (0, 4, 5)),
    ):
        assert result.value.shape == shape
        assert (result.method, result.steps, result.termination) == ("none", 0, Termination.CONVERGED)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_gradient_modes(mode: type) -> None:
    workspace = Workspace()
    with mode():
        A = posed(12, 10.0)
        result = iroot.inverse_root(A, 2, eps=0.1, workspace=workspace)
        assert result.termination is Termination.CONVERGED
    assert not result.value.requires_grad
    again = iroot.inverse_root(posed(12, 10.0), 2, eps=0.1, workspace=workspace)
    assert torch.equal(again.value, result.value)


# --- damping and bounds -----------------------------------------------------------------------------------------------


def test_absolute_and_relative_damping_add_up() -> None:
    A = posed(16, 1e8, batch=(2,)) * torch.tensor([1.0, 100.0]).double()[:, None, None]
    norm = torch.linalg.matrix_norm(A, keepdim=True)
    damped = A + (0.01 + 1e-3 * norm) * torch.eye(16)
    result = iroot.inverse_root(A, 2, eps=0.01, eps_relative=1e-3, rtol=1e-8)
    assert distance(result.value, exact(damped, 2)) <= 1e-8
    assert result.estimated_error <= 1e-8
    assert result.bounds.source == "measured"


@pytest.mark.parametrize("seed", range(4))
def test_the_measured_bound_is_below_the_truth_and_not_far(seed: int) -> None:
    A = posed(48, 1e9, seed=seed, batch=(3,))
    for eps in (1e-5, 1e-3, 0.1):
        truth = eps / (3.0 + eps)
        measured = iroot.inverse_root(A, 2, eps=eps).bounds.lower
        # 1.25 on the estimate of lambda_max, and 10^(1/8) of rounding.
        assert truth / 1.7 <= measured <= truth * 1.0001


def test_bounds_say_where_they_come_from() -> None:
    A = posed(16, 30.0)
    assert iroot.inverse_root(A, 2).bounds == iroot.Bounds(lower=1e-6, source="assumed")
    assert iroot.inverse_root(A, 2, lower=0.03).bounds == iroot.Bounds(lower=0.03, source="given")
    assert iroot.inverse_root(A, 2, eps=1e-14).bounds.source == "assumed"
    assert iroot.polar(A).bounds == iroot.Bounds(lower=1e-3, source="assumed")


def test_at_most_one_host_synchronisation() -> None:
    A, B, G = posed(16, 30.0).float(), torch.ones(16, 2), torch.randn(8, 16)
    workspace = Workspace()
    with host_reads() as unknown:
        iroot.inverse_root(A, 2, eps=0.1)
    with host_reads() as checked:
        iroot.solve_spd(A, B, 2, eps=0.1, check_finite=True)
    assert unknown == checked == ["tolist"]
    with host_reads() as none:
        iroot.inverse_root(A, 2, eps=0.1, eps_relative=0.1, lower=0.01)
        iroot.solve_spd(A, B, 2, eps=0.1, lower=0.01)
        iroot.polar(G)
        iroot.polar(G.bfloat16(), precision="fp16_emulated")
    assert none == []
    with host_reads() as first:
        iroot.inverse_root(A, 2, eps=0.1, workspace=workspace)
    with host_reads() as later:
        iroot.inverse_root(A, 2, eps=0.1, workspace=workspace)
    assert first == ["tolist", "equal"]  # a recording on a CPU checks its first replay
    assert later == []
    assert iroot.inverse_root(A, 2, lower=0.01).termination is Termination.CONVERGED


def test_the_readme_runs(capsys: pytest.CaptureFixture[str]) -> None:
    section = (Path(iroot.__file__).parents[1] / "README.md").read_text().partition("## Use it as a library")[2]
    names: dict[str, object] = {}
    exec(section.partition("```py\n")[2].partition("```")[0], names)
    printed = capsys.readouterr().out
    assert "method='coupled_pe', precision='fp32', rtol=0.01" in printed
    assert "converged" in printed
    assert isinstance(names["X"], Tensor)


# --- how a call ends --------------------------------------------------------------------------------------------------


def test_not_positive_definite_is_reported_with_its_negative_part() -> None:
    A = posed(16, 30.0)
    indefinite = A - 0.5 * torch.eye(16)
    result = iroot.inverse_root(torch.stack([A, indefinite]), 2)
    assert result.termination is Termination.NOT_POSITIVE_DEFINITE
    assert result.negative_part == pytest.approx(0.4, rel=1e-9)
    assert result.estimated_error == math.inf
    negative = iroot.inverse_root(-A, 2, eps=0.1)
    assert negative.termination is Termination.NOT_POSITIVE_DEFINITE
    assert negative.negative_part == pytest.approx(2.9, rel=1e-9)
    damped = iroot.inverse_root(indefinite, 2, eps=0.6, lower=0.05)
    assert damped.termination is Termination.CONVERGED
    assert damped.negative_part == 0.0


def test_singular_is_not_positive_definite() -> None:
    Q = orthonormal(16, 0)[:, :4]
    result = iroot.inverse_root(Q @ Q.mT, 2)
    assert result.termination is Termination.NOT_POSITIVE_DEFINITE
    assert result.negative_part == pytest.approx(0.0, abs=1e-14)
    assert iroot.inverse_root(Q @ Q.mT, 2, eps=1e-4).termination is Termination.CONVERGED


def test_a_zero_matrix_gives_a_multiple_of_the_identity() -> None:
    A = torch.stack([torch.zeros(8, 8), posed(8, 10.0).float()])
    result = iroot.inverse_root(A, 2, eps=0.04)
    torch.testing.assert_close(result.value[0], 5.0 * torch.eye(8), rtol=3e-3, atol=1e-6)
    assert result.termination is Termination.CONVERGED
    hidden = iroot.inverse_root(torch.zeros(8, 8), 2, lower=0.5)
    assert hidden.termination is Termination.NOT_POSITIVE_DEFINITE


def test_a_matrix_beyond_the_bound_is_not_silently_wrong() -> None:
    result = iroot.inverse_root(posed(16, 1e6), 2, lower=0.1)
    assert result.termination is Termination.ABOVE_RTOL
    assert result.estimated_error > 0.1
    rank_deficient = iroot.polar(torch.ones(4, 4))
    assert rank_deficient.termination is Termination.ABOVE_RTOL
    assert rank_deficient.estimated_error == pytest.approx(0.75**0.5, rel=1e-2)
    assert rank_deficient.negative_part is None


def test_nan_and_overflow_are_reported() -> None:
    A = posed(8, 10.0)
    broken = A.clone()
    broken[0, 0] = math.nan
    assert iroot.inverse_root(broken, 2, eps=0.1).termination is Termination.NOT_FINITE
    assert iroot.polar(broken).termination is Termination.NOT_FINITE
    for method in ("eigh", "coupled_newton"):
        result = iroot.inverse_root(broken, 2, method=method, lower=0.1)
        assert result.termination is Termination.NOT_FINITE
        assert not result.value.isfinite().all()
    assert iroot.polar(broken, method="svd").termination is Termination.NOT_FINITE
    # 1 / 1e-6 does not fit float16.
    small = (1e-6 * torch.eye(4)).half()
    assert iroot.inverse_root(small, 1, lower=0.5).termination is Termination.NOT_FINITE


def test_extreme_scales() -> None:
    for scale in (1e-30, 1e30):
        A = (posed(16, 30.0) * scale).float()
        assert iroot.inverse_root(A, 2, eps=0.01 * scale).termination is Termination.CONVERGED
        assert iroot.inverse_root(A, 2, eps_relative=0.01).termination is Termination.CONVERGED
    G = torch.randn(16, 24, generator=torch.Generator().manual_seed(1))
    for scale in (1e-30, 1e30):
        for precision in ("fp32", "fp16_emulated"):
            assert iroot.polar(G * scale, precision=precision, rtol=0.1).termination is Termination.CONVERGED


def test_an_rtol_that_the_dtype_cannot_hold_is_reported() -> None:
    result = iroot.inverse_root(posed(16, 30.0).bfloat16(), 2, lower=0.03, rtol=1e-5)
    assert result.stated_accuracy is not None
    assert result.stated_accuracy <= 1e-5
    assert result.termination is Termination.ABOVE_RTOL
    assert 1e-4 < result.estimated_error < 4e-3


def test_a_verdict_on_changed_operands_is_refused() -> None:
    A = posed(8, 10.0)
    result = iroot.inverse_root(A, 2, eps=0.1)
    A.mul_(2.0)
    with pytest.raises(InvalidInputError, match="got operands modified in place since the call"):
        _ = result.termination


# --- the choice -------------------------------------------------------------------------------------------------------


def test_the_choice_follows_rtol() -> None:
    A = posed(32, 1e4)
    names = [
        (result.method, result.precision)
        for result in (iroot.inverse_root(A, 2, rtol=rtol, lower=1e-4) for rtol in (1e-2, 2e-3, 1e-6))
    ]
    assert names == [("coupled_pe", "fp32"), ("coupled_pe", "fp32"), ("coupled_pe", "fp64")]
    steps = [iroot.inverse_root(A, 2, rtol=rtol, lower=1e-4).steps or 0 for rtol in (0.3, 1e-2, 1e-6, 1e-9)]
    assert steps == sorted(steps)
    assert steps[0] < steps[-1]


@pytest.mark.parametrize(
    ("rtol", "kappa", "capability", "expected"),
    [
        (8e-3, 1e4, (9, 0), ("graded_pe", "fp16")),
        (1e-3, 1e3, (9, 0), ("graded_pe", "fp16")),
        (5e-3, 1e5, (9, 0), ("graded_pe", "fp16")),
        (3e-4, 1e3, (9, 0), ("coupled_pe", "fp64")),
        (6e-4, 1e2, (8, 9), ("coupled_pe", "bf16x3")),
        (3e-4, 1e3, (8, 9), ("coupled_pe", "fp32")),
        (1e-6, 1e4, (9, 0), ("coupled_pe", "fp64")),
        (0.2, 3.0, (9, 0), ("graded_pe", "fp16")),
    ],
)
def test_the_tiers_of_a_gpu(
    rtol: float, kappa: float, capability: tuple[int, int], expected: tuple[str, str]
) -> None:  # fmt: skip
    workload = Workload(m=512, n=512, precision="auto", p=2, lower=1 / kappa)
    choice = choose(
        Demand(
            task="inverse_root", workload=workload, device=torch.device("cuda:7"), rtol=rtol, method="auto",
            precision="auto", options=None, capability=capability,
        )
    )  # fmt: skip
    assert (choice.spec.name, choice.precision) == expected


def test_what_is_named_is_used() -> None:
    A, G = posed(16, 30.0), torch.randn(8, 16, generator=torch.Generator().manual_seed(2))
    options = ScheduleOptions(target=1e-2, degrees=(3,))
    result = iroot.inverse_root(A, 2, method="uncoupled_pe", precision="fp64", options=options, lower=0.03)
    assert (result.method, result.precision) == ("uncoupled_pe", "fp64")
    assert 1e-5 < result.estimated_error <= 1e-2
    fixed = iroot.polar(G, method="polar_express", options=PolarExpressOptions(steps=3), lower=0.05)
    assert fixed.steps == 3
    assert iroot.polar(G, method="newton_schulz", precision="bf16_emulated").stated_accuracy is None


# --- workspaces -------------------------------------------------------------------------------------------------------


def test_a_workspace_keeps_one_bound_per_kind_of_call() -> None:
    workspace = Workspace()
    A = posed(16, 1e6)
    first = iroot.inverse_root(A, 2, eps=0.01, workspace=workspace)
    second = iroot.inverse_root(A * 1.5, 2, eps=0.01, workspace=workspace)
    assert (first.bounds.source, second.bounds.source) == ("measured", "workspace")
    assert first.bounds.lower == second.bounds.lower == iroot.inverse_root(A, 2, eps=0.01).bounds.lower / 2
    assert second.termination is Termination.CONVERGED
    assert len(workspace) == 1
    iroot.inverse_root(A.float(), 2, eps=0.01, workspace=workspace)
    iroot.inverse_root(A, 4, eps=0.01, workspace=workspace)
    assert len(workspace) == 3
    workspace.clear()
    assert len(workspace) == 0
    assert iroot.inverse_root(A, 2, eps=0.01, workspace=workspace).bounds.source == "measured"


def test_a_bad_first_matrix_leaves_no_bound() -> None:
    workspace = Workspace()
    A = posed(8, 10.0)
    iroot.inverse_root(A * math.nan, 2, eps=0.1, workspace=workspace)
    assert iroot.inverse_root(A, 2, eps=0.1, workspace=workspace).bounds.source == "measured"


@pytest.mark.gpu
def test_a_replayed_call_allocates_nothing_and_is_the_same() -> None:
    workspace = Workspace()
    A = posed(256, 1e3).float().cuda()
    values = [iroot.inverse_root(A, 2, lower=1e-3, workspace=workspace).value.clone() for _ in range(2)]
    torch.cuda.synchronize()
    before = torch.cuda.memory_stats()["allocation.all.allocated"]
    result = iroot.inverse_root(A, 2, lower=1e-3, workspace=workspace)
    assert torch.cuda.memory_stats()["allocation.all.allocated"] == before
    assert torch.equal(result.value, values[0])
    assert torch.equal(values[1], values[0])
    assert result.termination is Termination.CONVERGED
    stale = iroot.inverse_root(A, 2, lower=1e-3, workspace=workspace)
    iroot.inverse_root(A, 2, lower=1e-3, workspace=workspace)
    with pytest.raises(InvalidInputError, match="got one that a later call has overwritten"):
        _ = stale.termination
