"""After a capture that failed, the process is as usable as before it."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from iroot.capture import record
from iroot.workspace import record_graph

N = 2048
MATRIX_BYTES = 4 * N * N

pytestmark = pytest.mark.gpu


@pytest.fixture
def device() -> Iterator[torch.device]:
    """With nothing in the allocator's cache, on a stream that can be captured."""
    device = torch.device("cuda", torch.cuda.current_device())
    gc.collect()
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    with torch.cuda.stream(torch.cuda.Stream(device)):  # type: ignore[no-untyped-call]
        yield device


def synchronises(A: Tensor) -> Tensor:
    return (A @ A) * A[0, 0].item()


def doubles(A: Tensor) -> Tensor:
    return 2 * A


def recorded(A: Tensor) -> tuple[torch.cuda.CUDAGraph, Tensor]:
    graph = torch.cuda.CUDAGraph()
    return graph, record(graph, lambda: doubles(A))


def fail(A: Tensor) -> None:
    synchronises(A)  # cuBLAS makes its workspace outside of a capture
    with pytest.raises(RuntimeError, match="captur"):
        record(torch.cuda.CUDAGraph(), lambda: synchronises(A))
    assert not torch.cuda.is_current_stream_capturing()
    assert gc.isenabled()


def test_random_numbers_and_further_captures(device: torch.device) -> None:
    A = torch.randn(N, N, device=device)
    fail(A)
    B = torch.randn(N, N, device=device)
    assert not torch.equal(A, B)
    graph, result = recorded(B)
    result.fill_(torch.nan)
    graph.replay()
    assert torch.equal(result, 2 * B)


def test_graphs_recorded_before_are_replayed_and_go_on_drawing(device: torch.device) -> None:
    graph = torch.cuda.CUDAGraph()
    drawn = record(graph, lambda: torch.rand(1000, device=device))
    graph.replay()
    first = drawn.clone()
    fail(torch.ones(N, N, device=device))
    graph.replay()
    assert not torch.equal(drawn, first)
    assert 0.4 < drawn.mean().item() < 0.6


def test_tensors_of_two_streams_are_taken_back(device: torch.device) -> None:
    """The allocator asks whether the second stream is done with them only while it knows of no capture."""
    fail(torch.ones(N, N, device=device))
    side = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    reserved = []
    for _ in range(8):  # more than the cache holds of this size
        A = torch.empty(N, N, device=device)
        A.record_stream(side)
        del A
        torch.cuda.synchronize()
        reserved.append(torch.cuda.memory_reserved(device))
    assert reserved == reserved[:1] * 8


def test_the_memory_of_failed_captures_is_given_back(device: torch.device) -> None:
    A = torch.ones(N, N, device=device)
    fail(A)
    gc.collect()
    torch.cuda.empty_cache()
    before = torch.cuda.memory_reserved(device)
    for _ in range(3):
        fail(A)
    gc.collect()
    torch.cuda.empty_cache()
    assert torch.cuda.memory_reserved(device) - before < MATRIX_BYTES


def test_an_error_of_the_call_itself_is_raised(device: torch.device) -> None:
    def refuses() -> Tensor:
        raise ValueError("not today")

    with pytest.raises(ValueError, match="not today"):
        record(torch.cuda.CUDAGraph(), refuses)
    A = torch.randn(N, N, device=device)
    graph, result = recorded(A)
    graph.replay()
    assert torch.equal(result, 2 * A)


def test_a_workspace_after_a_recording_that_failed(device: torch.device) -> None:
    A = torch.randn(N, N, device=device)
    with pytest.raises(RuntimeError, match="captur"):
        record_graph(synchronises, (A,))
    B = torch.randn(N, N, device=device)
    recording = record_graph(doubles, (B,))
    assert torch.equal(recording.replay((A,)), 2 * A)
    assert torch.equal(recording.replay((B,)), 2 * B)
