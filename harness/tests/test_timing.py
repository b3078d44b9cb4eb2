"""Times are right, groups are long enough, and work that did not happen is caught."""

from __future__ import annotations

import gc
import math
import statistics
import time
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from harness.errors import MeasurementError
from harness.execution import CaptureFailedError, GraphExecutor, SharedGraphExecutor, executable
from harness.records import Mode, TimingPolicy
from harness.timing import CheckFailedError, NonfiniteResultError, Samples, Stopwatch
from iroot.registry import Operands

CPU = torch.device("cpu")
FAST = TimingPolicy(samples=5, min_sample_s=1e-3, warmup_s=1e-3, input_sets=3)
INPUTS = [Operands(A=torch.full((4, 4), float(value))) for value in (1, 2, 3)]


def stopwatch(call: Callable[[Operands], Tensor], *, policy: TimingPolicy = FAST) -> Stopwatch:
    return Stopwatch(call, INPUTS[: policy.input_sets], mode=Mode.EAGER, policy=policy, device=CPU)


def measure(call: Callable[[Operands], Tensor], *, policy: TimingPolicy = FAST) -> Samples[None]:
    return stopwatch(call, policy=policy).measure(lambda: None)


def double(operands: Operands) -> Tensor:
    return 2 * operands.A


def test_a_sleep_is_timed_right() -> None:
    def sleeper(operands: Operands) -> Tensor:
        time.sleep(3e-3)
        return double(operands)

    samples = measure(sleeper)
    assert samples.calls_per_sample == 1
    assert len(samples.samples_s) == 5
    assert min(samples.samples_s) >= 3e-3
    assert statistics.median(samples.samples_s) < 8e-3
    assert samples.timed_s == pytest.approx(sum(samples.samples_s))


def test_short_calls_are_grouped_until_a_sample_is_long_enough() -> None:
    long_enough = []
    for _ in range(3):  # calls are counted once: other programs may end, and the machine be faster, right after that
        watch = stopwatch(double)
        samples = watch.measure(lambda: None)
        assert watch.calls_per_sample == samples.calls_per_sample > 20
        length = statistics.median(samples.samples_s) * samples.calls_per_sample
        long_enough.append(length > 0.5 * FAST.min_sample_s)
    assert any(long_enough)
    assert samples.timed_s == pytest.approx(samples.calls_per_sample * sum(samples.samples_s))


def test_calls_rotate_among_the_input_sets() -> None:
    seen: list[float] = []

    def spy(operands: Operands) -> Tensor:
        seen.append(float(operands.A[0, 0]))
        return double(operands)

    watch = stopwatch(spy)
    seen.clear()
    watch.measure(lambda: seen.append(-1.0))
    assert seen[-1] == -1.0  # observed after the last sample
    timed = seen[-1 - 5 * watch.calls_per_sample : -1]
    assert timed[:6] == [1.0, 2.0, 3.0, 1.0, 2.0, 3.0]
    assert timed == [1.0 + index % 3 for index in range(len(timed))]


def test_first_call_includes_what_only_the_first_call_does() -> None:
    calls: list[int] = []

    def compiles(operands: Operands) -> Tensor:
        if not calls:
            time.sleep(0.02)
        calls.append(1)
        return double(operands)

    watch = stopwatch(compiles)
    assert 0.02 <= watch.first_call_s < 0.5
    assert watch.peak_bytes is None
    assert max(watch.measure(lambda: None).samples_s) < 0.02


def test_one_input_set_is_enough() -> None:
    policy = FAST.model_copy(update={"input_sets": 1})
    assert len(measure(double, policy=policy).samples_s) == 5


def test_cold_samples_hold_one_call() -> None:
    policy = FAST.model_copy(update={"cold": True})
    samples = measure(double, policy=policy)
    assert samples.calls_per_sample == 1
    assert max(samples.samples_s) < 5e-3  # overwriting 128 MiB takes longer and is not part of it


def test_warmup_goes_on_for_its_time() -> None:
    calls: list[float] = []

    def sleeper(operands: Operands) -> Tensor:
        calls.append(time.perf_counter())
        time.sleep(4e-3)
        return double(operands)

    watch = stopwatch(sleeper, policy=FAST.model_copy(update={"warmup_s": 0.1}))
    watch.measure(lambda: None)
    first_call, first_timed = calls[0], calls[-5]
    assert first_timed - first_call > 0.08


def test_a_result_handed_out_again_is_caught() -> None:
    kept: dict[int, Tensor] = {}

    def memoised(operands: Operands) -> Tensor:
        return kept.setdefault(operands.A.data_ptr(), double(operands))

    watch = stopwatch(memoised)
    with pytest.raises(CheckFailedError, match=r"input set 0 must equal the first one .* got relative distance nan"):
        watch.measure(lambda: None)


def test_the_result_of_another_input_is_caught() -> None:
    first = double(INPUTS[0])
    with pytest.raises(CheckFailedError, match="two different inputs are equal in every bit"):
        stopwatch(lambda operands: first.clone())


def test_a_result_that_drifts_is_caught() -> None:
    calls: list[int] = []

    def drifting(operands: Operands) -> Tensor:
        calls.append(1)
        return (2 + 0.1 * (len(calls) > 3)) * operands.A

    watch = stopwatch(drifting)
    with pytest.raises(CheckFailedError, match=r"got relative distance 0\.05"):
        watch.measure(lambda: None)


def test_rounding_noise_is_no_failure() -> None:
    noise = torch.Generator().manual_seed(0)

    def noisy(operands: Operands) -> Tensor:
        return double(operands) * (1 + 1e-5 * torch.randn(4, 4, generator=noise))

    assert len(measure(noisy).samples_s) == 5


def test_an_alias_of_the_input_is_refused_and_the_input_survives() -> None:
    with pytest.raises(CheckFailedError, match="shares memory with an input"):
        stopwatch(lambda operands: operands.A.mT)
    assert torch.equal(INPUTS[0].A, torch.ones(4, 4))


def test_a_nonfinite_first_result_is_named() -> None:
    with pytest.raises(NonfiniteResultError):
        stopwatch(lambda operands: operands.A * math.nan)


def test_eager_calls_are_not_wrapped() -> None:
    assert executable(double, Mode.EAGER) is double
    assert executable(double, Mode.GRAPH) is double


class Overlaid:
    """Results as graphs of one pool have them: the first launch's work lies where the results of the others are."""

    def __init__(self, replays: list[int], count: int) -> None:
        self._graphs = [self.Graph(self, index) for index in range(count)]
        self.values = [0.0] * count
        self.replays = replays

    class Graph:
        def __init__(self, owner: Overlaid, index: int) -> None:
            self._owner, self._index = owner, index

        def replay(self) -> None:
            owner, index = self._owner, self._index
            owner.values[index + 1 :] = [math.inf] * (len(owner.values) - index - 1)
            owner.values[index] = float(index)
            owner.replays.append(index)

    complete = GraphExecutor.complete


@pytest.mark.parametrize(
    ("launches", "extra"), [(1, []), (2, []), (3, []), (4, [1, 2]), (10, [1, 2]), (11, [2]), (30, []), (31, [1, 2])]
)
def test_after_any_number_of_replays_all_results_stand(launches: int, extra: list[int]) -> None:
    replays: list[int] = []
    overlaid = Overlaid(replays, 3)
    for launch in range(launches):
        overlaid._graphs[launch % 3].replay()
    replays.clear()
    overlaid.complete(launches)  # type: ignore[misc]
    assert replays == extra
    written = min(launches, 3)
    assert overlaid.values[:written] == [float(index) for index in range(written)]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
class TestOnGpu:
    """CUDA graphs, events and compiled calls on a real device."""

    device = torch.device("cuda:0")

    def inputs(self, n: int = 2048) -> list[Operands]:
        return [Operands(A=torch.randn(n, n, device=self.device)) for _ in range(3)]

    def watch(self, call: Callable[[Operands], Tensor], mode: Mode, policy: TimingPolicy = FAST) -> Stopwatch:
        with torch.cuda.stream(torch.cuda.Stream(self.device)):  # type: ignore[no-untyped-call]
            return Stopwatch(call, self.inputs(), mode=mode, policy=policy, device=self.device)

    def run(self, call: Callable[[Operands], Tensor], mode: Mode, policy: TimingPolicy = FAST) -> Samples[None]:
        with torch.cuda.stream(torch.cuda.Stream(self.device)):  # type: ignore[no-untyped-call]
            watch = Stopwatch(call, self.inputs(), mode=mode, policy=policy, device=self.device)
            return watch.measure(lambda: None)

    @pytest.mark.parametrize("mode", [Mode.GRAPH, Mode.EAGER])
    @pytest.mark.parametrize("cold", [False, True])
    def test_a_large_product_takes_the_same_time_in_every_mode(self, mode: Mode, cold: bool) -> None:
        samples = self.run(lambda operands: operands.A @ operands.A, mode, FAST.model_copy(update={"cold": cold}))
        flops_per_s = 2 * 2048**3 / statistics.median(samples.samples_s)
        assert 1e12 < flops_per_s < 1e15

    def test_peak_memory_is_that_of_one_call(self) -> None:
        watch = self.watch(lambda operands: (operands.A @ operands.A) @ operands.A, Mode.EAGER)
        assert watch.peak_bytes == 2 * 2048 * 2048 * 4

    def test_capture_failures_are_named(self) -> None:
        def synchronises(operands: Operands) -> Tensor:
            return operands.A * operands.A[0, 0].item()

        with pytest.raises(CaptureFailedError, match="cannot be recorded in a CUDA graph"):
            self.watch(synchronises, Mode.GRAPH)

    def test_a_failed_capture_leaves_the_process_usable(self) -> None:
        def synchronises(operands: Operands) -> Tensor:
            return operands.A * operands.A[0, 0].item()

        for _ in range(2):
            with pytest.raises(CaptureFailedError):
                self.watch(synchronises, Mode.GRAPH)
            assert not torch.equal(*(torch.randn(4, device=self.device) for _ in range(2)))
            assert len(self.run(double, Mode.GRAPH).samples_s) == FAST.samples
        self.assert_later_cases_take_no_memory()

    def test_a_graph_that_records_no_work_is_caught(self) -> None:
        kept: dict[int, Tensor] = {}

        def memoised(operands: Operands) -> Tensor:
            torch.zeros(1, device=self.device)  # a graph without any kernel would only be warned about
            return kept.setdefault(operands.A.data_ptr(), double(operands))

        with pytest.raises(CheckFailedError, match="nan"):
            self.run(memoised, Mode.GRAPH)

    @pytest.mark.parametrize("samples", [9, 10, 11])
    def test_results_of_earlier_sets_survive_any_number_of_samples(self, samples: int) -> None:
        """One graph's temporaries lie where a later one's result does: 16 x 1024 in float32 failed at ten samples."""
        policy = TimingPolicy(samples=samples, min_sample_s=1e-6, warmup_s=0.0, input_sets=3)

        def with_temporaries(operands: Operands) -> Tensor:
            first = operands.A @ operands.A
            second = first @ operands.A
            del first
            return second @ operands.A

        assert len(self.run(with_temporaries, Mode.GRAPH, policy).samples_s) == samples

    SHARED = FAST.model_copy(update={"min_graph_s": 2e-4})

    @pytest.mark.parametrize("n", [64, 2048])
    def test_short_calls_share_a_graph(self, n: int) -> None:
        """A product of 64 x 64 takes 2 to 3 us in a graph of many; a graph that holds it alone takes more to replay."""
        seconds, calls = {}, {}
        for name, policy in (("alone", FAST), ("shared", self.SHARED)):
            with torch.cuda.stream(torch.cuda.Stream(self.device)):  # type: ignore[no-untyped-call]
                watch = Stopwatch(
                    lambda operands: operands.A @ operands.A,
                    self.inputs(n),
                    mode=Mode.GRAPH,
                    policy=policy,
                    device=self.device,
                )
                samples = watch.measure(lambda: None)
            assert samples.calls_per_sample == watch.calls_per_sample
            assert samples.timed_s == pytest.approx(samples.calls_per_sample * sum(samples.samples_s))
            assert max(samples.samples_s) * samples.calls_per_sample > 0.5 * FAST.min_sample_s
            seconds[name], calls[name] = statistics.median(samples.samples_s), watch._executor.calls
        assert calls["alone"] == 1
        if n == 64:
            assert calls["shared"] >= 30
            assert calls["shared"] % 3 == 0
            assert seconds["shared"] < seconds["alone"]
        else:  # 0.35 ms
            assert calls["shared"] == 1

    def test_a_shared_graph_leaves_every_result_standing(self) -> None:
        inputs = self.inputs(32)
        with torch.cuda.stream(torch.cuda.Stream(self.device)):  # type: ignore[no-untyped-call]
            for operands in inputs:
                double(operands)
            shared = SharedGraphExecutor(double, inputs, rotations=5, last=double)
            for result in shared.results():
                result.fill_(math.nan)
            shared.launch(0)
            torch.cuda.synchronize()
        assert (shared.period, shared.calls) == (1, 15)
        for operands, result in zip(inputs, shared.results(), strict=True):
            assert torch.equal(result, 2 * operands.A)

    def test_a_shared_graph_does_the_work_of_every_call(self) -> None:
        kept: dict[int, Tensor] = {}

        def memoised(operands: Operands) -> Tensor:
            if not torch.cuda.is_current_stream_capturing():
                return double(operands)
            torch.zeros(1, device=self.device)
            return kept.setdefault(operands.A.data_ptr(), double(operands))

        with pytest.raises(MeasurementError, match="a tensor of its own, got one that an earlier call returned"):
            self.run(memoised, Mode.GRAPH, self.SHARED.model_copy(update={"min_graph_s": 0.01}))

    def test_graphs_of_later_cases_reuse_the_pool(self) -> None:
        self.assert_later_cases_take_no_memory()

    def assert_later_cases_take_no_memory(self) -> None:
        """On one stream, as in a worker: the allocator hands no memory that one stream has freed to another."""
        with torch.cuda.stream(torch.cuda.Stream(self.device)):  # type: ignore[no-untyped-call]
            reserved = []
            for _ in range(5):
                watch = Stopwatch(double, self.inputs(), mode=Mode.GRAPH, policy=FAST, device=self.device)
                watch.measure(lambda: None)
                del watch
                gc.collect()
                reserved.append(torch.cuda.memory_reserved(self.device))
        # The second case is the first that finds the memory of one before it, the pool's and the inputs'.
        assert reserved[2:] == reserved[1:2] * 3
