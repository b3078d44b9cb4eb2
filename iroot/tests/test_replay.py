"""Recordings on a CPU: repeated calls allocate nothing and give, bit for bit, what a call without them gives."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

import iroot
from iroot import InvalidInputError, Result, Termination, Workspace
from iroot.replay import CannotRecordError, record_memory

ROOTS = [
    ("coupled_pe", "fp32"), ("coupled_pe", "fp64"), ("coupled_pe", "fp16_emulated"), ("coupled_newton", "fp32"),
    ("graded_pe", "fp16_emulated"), ("graded_pe", "bf16_emulated"), ("newton_db", "fp32"), ("uncoupled_pe", "fp32"),
]  # fmt: skip
APPLIES = [("coupled_pe", "fp32"), ("chebyshev", "fp32"), ("graded_pe", "fp16_emulated"), ("hybrid", "fp16_emulated")]
POLARS = [
    ("newton_schulz", "fp32"), ("newton_schulz", "bf16_emulated"), ("newton_schulz", "fp8_e4m3_emulated"),
    ("polar_express", "fp32"), ("polar_express", "fp64"), ("polar_express", "fp16_emulated"),
    ("gram_newton_schulz", "fp32"), ("aol", "fp32"),
]  # fmt: skip


def posed(seed: int, batch: tuple[int, ...] = (), dtype: torch.dtype = torch.float32) -> Tensor:
    """A (..., 20, 20) with eigenvalues within [0.05, 5]."""
    generator = torch.Generator().manual_seed(seed)
    G = torch.randn(*batch, 20, 40, generator=generator, dtype=torch.float64)
    return (G @ G.mT / 40 + 0.05 * torch.eye(20, dtype=torch.float64)).to(dtype)


def allocations(call: Callable[[], object]) -> list[tuple[str, int]]:
    """What the CPU's allocator gave during a call."""
    call()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as observed:
        call()
    return [(event.name, event.self_cpu_memory_usage) for event in observed.events() if event.self_cpu_memory_usage > 0]


def check(call: Callable[[Tensor, Workspace | None], Result], batch: tuple[int, ...]) -> None:
    """Later calls allocate nothing and equal a call without a workspace."""
    workspace, A = Workspace(), posed(0, batch)
    call(A, workspace)
    assert allocations(lambda: call(A, workspace)) == []
    other = posed(1, batch)
    assert torch.equal(call(other, workspace).value, call(other, None).value)
    assert allocations(lambda: call(other, None)) != []


@pytest.mark.parametrize("batch", [(), (2, 3)])
@pytest.mark.parametrize(("method", "precision"), ROOTS)
def test_a_repeated_root_allocates_nothing(method: str, precision: str, batch: tuple[int, ...]) -> None:
    check(
        lambda A, workspace: iroot.inverse_root(
            A, 2, eps=0.01, eps_relative=1e-4, lower=1e-3, method=method, precision=precision, workspace=workspace
        ),
        batch,
    )


@pytest.mark.parametrize(("method", "precision"), APPLIES)
def test_a_repeated_apply_allocates_nothing(method: str, precision: str) -> None:
    B = torch.randn(20, 3, generator=torch.Generator().manual_seed(9))
    check(
        lambda A, workspace: iroot.solve_spd(
            A, B, 2, eps=0.01, lower=1e-3, method=method, precision=precision, workspace=workspace
        ),
        (),
    )


@pytest.mark.parametrize("batch", [(), (2,)])
@pytest.mark.parametrize(("method", "precision"), POLARS)
def test_a_repeated_polar_factor_allocates_nothing(method: str, precision: str, batch: tuple[int, ...]) -> None:
    check(lambda A, workspace: iroot.polar(A[..., :14], method=method, precision=precision, workspace=workspace), batch)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_auto_in_every_dtype(dtype: torch.dtype) -> None:
    workspace, A = Workspace(), posed(0, dtype=dtype)
    iroot.inverse_root(A, 4, eps=0.1, workspace=workspace)
    assert allocations(lambda: iroot.inverse_root(A, 4, eps=0.1, workspace=workspace)) == []
    result = iroot.inverse_root(posed(2, dtype=dtype), 4, eps=0.1, workspace=workspace)
    assert (result.value.dtype, result.termination) == (dtype, Termination.CONVERGED)


def test_a_value_is_overwritten_and_an_old_verdict_refused() -> None:
    workspace = Workspace()
    first = iroot.inverse_root(posed(0), 2, eps=0.1, workspace=workspace)
    kept = first.value.clone()
    second = iroot.inverse_root(posed(1), 2, eps=0.1, workspace=workspace)
    assert second.value.data_ptr() == first.value.data_ptr()
    assert torch.equal(first.value, second.value)
    assert not torch.equal(kept, second.value)
    assert second.termination is Termination.CONVERGED
    with pytest.raises(InvalidInputError, match="got one that a later call has overwritten"):
        _ = first.termination


def test_inference_mode_first_and_layouts_later() -> None:
    workspace, A = Workspace(), posed(0)
    with torch.inference_mode():
        iroot.inverse_root(posed(3), 2, lower=1e-3, workspace=workspace)
    expected = iroot.inverse_root(A, 2, lower=1e-3).value
    assert torch.equal(iroot.inverse_root(A, 2, lower=1e-3, workspace=workspace).value, expected)
    padded = torch.zeros(20, 41)
    padded[:, 1:21] = A
    assert torch.equal(iroot.inverse_root(padded[:, 1:21], 2, lower=1e-3, workspace=workspace).value, expected)
    with torch.inference_mode():
        assert torch.equal(iroot.inverse_root(A.clone(), 2, lower=1e-3, workspace=workspace).value, expected)


def test_decompositions_are_not_recorded() -> None:
    workspace, A = Workspace(), posed(0)
    first = iroot.inverse_root(A, 2, method="eigh", workspace=workspace)
    second = iroot.inverse_root(posed(1), 2, method="eigh", workspace=workspace)
    assert second.value.data_ptr() != first.value.data_ptr()
    assert first.termination is Termination.CONVERGED


# --- the recorder -----------------------------------------------------------------------------------------------------


def test_memory_is_shared_by_what_never_lives_together() -> None:
    def chain(A: Tensor) -> Tensor:
        for _ in range(12):
            A = A @ A
        return A

    recording = record_memory(chain, (0.1 * posed(0),))
    held = {place.untyped_storage().data_ptr() for _, _, kwargs in recording.steps for place in kwargs.values()}
    assert len(recording.steps) == 12
    assert len(held) == 2


def test_views_mutations_and_constants_are_repeated_on_new_operands() -> None:
    def mixed(A: Tensor, B: Tensor) -> Tensor:
        index = torch.arange(1, 21, dtype=A.dtype)
        X = (A / 3.0 + torch.full((20, 20), 0.25)).mT.clone()
        X.diagonal().sub_(index)
        norm = torch.linalg.vector_norm(A, dim=(-2, -1), keepdim=True, dtype=torch.float64)
        X = X.mul_(norm).addmm_(A, B, alpha=2.0) + A.diagonal().mean(-1, keepdim=True)
        return torch.where(X > 0.5, 1.0 - X, X[:, :1].expand(20, 20))

    recording = record_memory(mixed, (posed(0), posed(1)))
    for seed in (2, 3):
        operands = (posed(seed), posed(seed + 10))
        assert torch.equal(recording.replay(operands), mixed(*operands))


def test_operands_of_several_dtypes_are_converted_as_a_call_does() -> None:
    def narrow(A: Tensor) -> Tensor:
        X = A.to(torch.bfloat16)
        X.mul_(A.abs().amax((-2, -1), keepdim=True).rsqrt())  # computed in float32, rounded once
        return (X * 1.1).float() - A * 0.3 + X

    recording = record_memory(narrow, (posed(0),))
    assert torch.equal(recording.replay((posed(5),)), narrow(posed(5)))


def host_read(A: Tensor) -> Tensor:
    return A * float(A.sum())


def branch(A: Tensor) -> Tensor:
    return A if bool(A.sum() > 0) else -A


def writes_its_input(A: Tensor) -> Tensor:
    return A.add_(1.0)


def changes_shape_in_place(A: Tensor) -> Tensor:
    return A.clone().unsqueeze_(0)


def random(A: Tensor) -> Tensor:
    return torch.rand_like(A) + A


COUNTER = torch.zeros(1)


def keeps_state(A: Tensor) -> Tensor:
    COUNTER.add_(1.0)
    return A + COUNTER


@pytest.mark.parametrize(
    "call", [host_read, branch, writes_its_input, changes_shape_in_place, random, keeps_state], ids=lambda c: c.__name__
)
def test_what_a_replay_could_not_repeat_is_refused(call: Callable[[Tensor], Tensor]) -> None:
    with pytest.raises(CannotRecordError):
        record_memory(call, (posed(0),))


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_repeated_call_on_a_gpu_allocates_nothing(precision: str) -> None:
    workspace, B = Workspace(), torch.ones(20, 3, device="cuda")

    def each(A: Tensor) -> list[Result]:
        return [
            iroot.inverse_root(A, 2, lower=1e-2, rtol=0.1, precision=precision, workspace=workspace),
            iroot.solve_spd(A, B, 2, lower=1e-2, rtol=0.1, precision=precision, workspace=workspace),
            iroot.polar(A, rtol=0.1, precision=precision, workspace=workspace),
        ]

    first, second = posed(0).cuda(), posed(1).cuda()
    each(first)
    torch.cuda.synchronize()
    before = torch.cuda.memory_stats()["allocation.all.allocated"]
    results = each(second)
    assert torch.cuda.memory_stats()["allocation.all.allocated"] == before
    assert [result.termination for result in results] == [Termination.CONVERGED] * 3
