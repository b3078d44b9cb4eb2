"""What a call launches is seen, with code and configuration, on the GPU or in Triton's interpreter."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from harness import kernel_trace
from harness.kernel_trace import KernelTrace, binary_hash
from harness.records import (
    Case,
    CaseResult,
    LaunchedKernel,
    Mode,
    Outcome,
    PlannedCase,
    TimingPolicy,
    WorkPlan,
    read_events,
)
from harness.timing import Stopwatch
from harness.worker import work
from iroot import registry
from iroot.registry import MethodSpec, Operands, Workload, register

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
if DEVICE.type == "cpu":  # read when kernels are defined, and again when they run
    os.environ["TRITON_INTERPRET"] = "1"
from iroot.kernels.multiply_add import BLOCKINGS, Blocking, multiply_add  # noqa: E402
from iroot.kernels.symmetric import symmetric_product  # noqa: E402
from iroot.kernels.tiling import TILINGS, Tiling  # noqa: E402

TILED = Tiling(block=32, tail=16, block_k=16, warps=4, stages=2) if DEVICE.type == "cpu" else TILINGS[1]
PLACE = "cpu" if DEVICE.type == "cpu" else "cuda:0"
BLOCKED = Blocking(rows=16, columns=16, block_k=16, warps=4, stages=2) if DEVICE.type == "cpu" else BLOCKINGS[2]
INPUTS = Operands(A=torch.eye(48, dtype=torch.float16, device=DEVICE))


def twice_and_once(operands: Operands) -> Tensor:
    G = symmetric_product(operands.A, operands.A, tiling=TILED)
    G = symmetric_product(G, G, tiling=TILED)
    return multiply_add(G, G, G, blocking=BLOCKED)


def seen_in(call: Callable[[Operands], Tensor]) -> tuple[LaunchedKernel, ...]:
    trace = KernelTrace()
    assert trace.kernels is None
    assert torch.equal(trace.traced(call)(INPUTS), call(INPUTS))
    assert trace.kernels is not None
    return trace.kernels


def test_every_launch_is_seen_with_its_configuration() -> None:
    product, sum_ = seen_in(twice_and_once)
    assert (product.name, product.launches) == ("iroot.kernels.symmetric._symmetric_kernel", 2)
    assert (sum_.name, sum_.launches) == ("iroot.kernels.multiply_add._multiply_add_kernel", 1)
    chosen = dict(product.configuration)
    assert [chosen[name] for name in ("BLOCK", "TAIL", "BLOCK_K")] == [TILED.block, TILED.tail, TILED.block_k]
    assert (chosen["num_warps"], chosen["num_stages"], chosen["DTYPE"]) == (TILED.warps, TILED.stages, "fp16")
    assert dict(sum_.configuration)["ROWS"] == BLOCKED.rows
    expected = "source" if DEVICE.type == "cpu" else "binary"
    assert {kernel.hashed for kernel in (product, sum_)} == {expected}
    assert product.code_hash != sum_.code_hash
    assert LaunchedKernel.model_validate_json(product.model_dump_json()) == product


def test_another_tile_is_another_configuration_and_the_same_source() -> None:
    small = Tiling(block=16, tail=0, block_k=16, warps=4, stages=2) if DEVICE.type == "cpu" else TILINGS[2]
    (tiled,) = seen_in(lambda operands: symmetric_product(operands.A, operands.A, tiling=TILED))
    (other,) = seen_in(lambda operands: symmetric_product(operands.A, operands.A, tiling=small))
    assert tiled.configuration != other.configuration
    assert (tiled.code_hash == other.code_hash) is (DEVICE.type == "cpu")


def test_torch_alone_launches_nothing() -> None:
    assert seen_in(lambda operands: operands.A @ operands.A) == ()


def test_triton_is_as_before_after_a_call_that_raises() -> None:
    from triton.runtime.interpreter import InterpretedFunction
    from triton.runtime.jit import JITFunction

    before = JITFunction.run, InterpretedFunction.run

    def raises(operands: Operands) -> Tensor:
        assert (JITFunction.run, InterpretedFunction.run) != before
        raise RuntimeError("planted")

    with pytest.raises(RuntimeError, match="planted"):
        KernelTrace().traced(raises)(INPUTS)
    assert (JITFunction.run, InterpretedFunction.run) == before


def test_the_stopwatch_sees_a_later_call_and_wraps_no_timed_one() -> None:
    from triton.runtime.interpreter import InterpretedFunction
    from triton.runtime.jit import JITFunction

    untouched = JITFunction.run, InterpretedFunction.run
    wrapped: list[bool] = []

    def prepares(operands: Operands) -> Tensor:
        """The first call alone launches the product, as a backend does that compiles for calls to come."""
        if not wrapped:
            symmetric_product(operands.A, operands.A, tiling=TILED)
        wrapped.append((JITFunction.run, InterpretedFunction.run) != untouched)
        return multiply_add(operands.A, operands.A, operands.A, blocking=BLOCKED)

    policy = TimingPolicy(samples=5, min_sample_s=1e-6, warmup_s=0.0, input_sets=1)
    watch = Stopwatch(prepares, [INPUTS], mode=Mode.EAGER, policy=policy, device=DEVICE)
    assert watch.kernels is not None
    assert [kernel.name.rpartition(".")[2] for kernel in watch.kernels] == ["_multiply_add_kernel"]
    watch.measure(lambda: None)
    assert wrapped[:2] == [False, True]
    assert not any(wrapped[2:])


@pytest.fixture
def tiled(monkeypatch: pytest.MonkeyPatch) -> PlannedCase:
    """A registered method that launches the two kernels above, for the length of one test."""

    def nothing(workload: Workload, options: Any) -> None:
        return None

    def zero(workload: Workload, options: Any) -> float:
        return 0.0

    list(registry.methods())
    monkeypatch.setattr(registry, "_METHODS", dict(registry._METHODS))
    register(
        MethodSpec(
            name="tiled",
            task="copy",
            function=lambda operands, ops, options: twice_and_once(Operands(A=(operands.A / 32).half())).float(),
            precisions=("fp32",),
            flops=zero,
            bytes_moved=zero,
            accuracy=nothing,
            summary="Two kernels",
            citation="none: planted for tests",
        )
    )
    case = Case(task="copy", method="tiled", precision="fp32", m=32, n=32, problem="gaussian", mode=Mode.EAGER)
    return PlannedCase(case=case, timing=TimingPolicy(samples=5, min_sample_s=1e-6, warmup_s=0.0, input_sets=2))


def test_a_worker_writes_the_kernels_of_a_timed_launch(tiled: PlannedCase, tmp_path: Path) -> None:
    shard = tmp_path / "shard.jsonl"
    plan = WorkPlan(run_id="r", launch=1, device=PLACE, threads=1, cases=(tiled,), shard=str(shard))
    assert work(plan, startup_s=0.0) == 0
    with shard.open() as file:
        (result,) = (event for event in read_events(file) if isinstance(event, CaseResult))
    assert result.outcome is Outcome.OK, result.error
    assert result.kernels is not None
    assert [(kernel.name.rpartition(".")[2], kernel.launches) for kernel in result.kernels] == [
        ("_symmetric_kernel", 2),
        ("_multiply_add_kernel", 1),
    ]


@pytest.mark.gpu
@pytest.mark.skipif(DEVICE.type == "cpu", reason="needs a CUDA GPU")
def test_a_captured_graph_shows_its_kernels() -> None:
    policy = TimingPolicy(samples=5, min_sample_s=1e-4, warmup_s=0.0, input_sets=1)
    with torch.cuda.stream(torch.cuda.Stream()):  # type: ignore[no-untyped-call]
        watch = Stopwatch(twice_and_once, [INPUTS], mode=Mode.GRAPH, policy=policy, device=DEVICE)
    assert watch.kernels is not None
    assert [(kernel.launches, kernel.hashed) for kernel in watch.kernels] == [(2, "binary"), (1, "binary")]


def test_the_hash_of_a_binary_is_of_its_code_alone(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "harness.tests.cubins", str(tmp_path)], check=True, timeout=60)
    binaries = {path.stem: path.read_bytes() for path in tmp_path.glob("*.cubin")}
    hashes = {name: binary_hash(binary) for name, binary in binaries.items()}
    assert binaries["one"] != binaries["moved"]
    assert hashes["one"] == hashes["moved"]
    assert len({hashes[name] for name in ("one", "factor", "warps")}) == 3


def test_a_compiled_kernel_is_hashed_once_for_all_its_launches(monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[bytes] = []

    def numbered(binary: bytes) -> str:
        hashed.append(binary)
        return f"hash {len(hashed)}"

    monkeypatch.setattr(kernel_trace, "binary_hash", numbered)

    class Compiled:
        def __init__(self, kernel: bytes) -> None:
            self.kernel = kernel

    first, second = Compiled(b"one"), Compiled(b"two")
    found = [kernel_trace._compiled_hash(compiled) for compiled in (first, first, second, first)]
    assert found == ["hash 1", "hash 1", "hash 2", "hash 1"]
    assert hashed == [b"one", b"two"]


def test_a_binary_that_is_no_elf_file_is_hashed_whole() -> None:
    assert binary_hash(b"words of another machine") == hashlib.sha256(b"words of another machine").hexdigest()
