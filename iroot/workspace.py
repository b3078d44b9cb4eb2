"""What repeated calls of one shape reuse."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from iroot.capture import record
from iroot.errors import InvalidInputError
from iroot.replay import CannotRecordError, record_memory
from iroot.result import Bounds

if TYPE_CHECKING:
    from iroot.reuse import Factor

Call = Callable[..., Tensor]

WARM_UPS = 2
"""Eager calls before a capture: cuBLAS creates its workspaces, and kernels are compiled, outside of it."""


class Recording(Protocol):
    """A call that can be done again on other operands, in the memory of the first time."""

    def replay(self, operands: tuple[Tensor, ...]) -> Tensor:
        """The value, in the recording's own memory; nothing is allocated."""
        ...


@dataclass(frozen=True, kw_only=True)
class GraphRecording:
    """A CUDA graph with the memory it reads and writes."""

    graph: torch.cuda.CUDAGraph
    inputs: tuple[Tensor, ...]
    output: Tensor

    def replay(self, operands: tuple[Tensor, ...]) -> Tensor:
        """Copy the operands in and start the recorded work; nothing is allocated."""
        for static, tensor in zip(self.inputs, operands, strict=True):
            static.copy_(tensor)
        self.graph.replay()
        return self.output


@dataclass(kw_only=True)
class Entry:
    """What is kept for one kind of call.

    Attributes:
        factor: of the matrix of the latest calls, where it is reused.
        recordable: no recording has been refused.
        calls: counts them, so that a `Result` knows when its value is gone.
    """

    bounds: Bounds | None = None
    factor: Factor | None = None
    recording: Recording | None = None
    recordable: bool = True
    calls: int = 0


class Workspace:
    """State that repeated calls of one kind share: same function, shape, dtype, device and arguments.

    * The spectral bound measured in the first call, with a factor 2 to spare: later calls do not synchronise with the
      host. A matrix whose eps / lambda_max has fallen by more than that needs `clear()`; `Result.termination` tells.
    * For methods that can be captured, a recording of the whole call, on CUDA a CUDA graph, on a CPU the list of its
      operations on fixed memory (`iroot.replay`): a later call copies the operands into the recording's memory and
      repeats it; it allocates no tensor. `Result.value` is the recording's own memory, overwritten by the next call of
      the same kind: clone what is to be kept.
    * The factor of a matrix for whose several applications it pays (`reuse` of `solve_spd` and `solve_gram_spd`), and
      that matrix.
    * For other methods (decompositions) the value and what leads to it are new memory at every call.

    Not thread-safe: use one per thread and stream.
    """

    def __init__(self) -> None:
        self._entries: dict[Hashable, Entry] = {}

    def __len__(self) -> int:
        """Kinds of call held."""
        return len(self._entries)

    def clear(self) -> None:
        """Forget every bound and factor, and free every recording."""
        self._entries.clear()

    def entry(self, key: Hashable) -> Entry:
        """The state of one kind of call; of the library's functions only."""
        return self._entries.setdefault(key, Entry())


def check_workspace(workspace: object) -> None:
    """Raise InvalidInputError unless `workspace` is None or a Workspace."""
    if workspace is not None and not isinstance(workspace, Workspace):
        raise InvalidInputError(f"workspace must be a Workspace or None, got {type(workspace).__name__}")


def recording(entry: Entry, call: Call, operands: tuple[Tensor, ...]) -> Recording | None:
    """That of the entry, made at its first call; None where a replay could not repeat the call."""
    if entry.recording is None and entry.recordable:
        try:
            entry.recording = record_graph(call, operands) if operands[0].is_cuda else record_memory(call, operands)
        except CannotRecordError:
            entry.recordable = False
    return entry.recording


def record_graph(call: Call, operands: tuple[Tensor, ...]) -> GraphRecording:
    """Capture `call(*operands)` on copies of the operands; the graph has a memory pool of its own.

    Raises:
        RuntimeError: the call did what cannot be recorded; everything recorded before it stays usable.
    """
    # Graph memory must outlive the caller's inference mode, and be writable after it.
    with torch.inference_mode(False), torch.no_grad(), torch.cuda.device(operands[0].device):
        inputs = tuple(torch.empty(tensor.shape, dtype=tensor.dtype, device=tensor.device) for tensor in operands)
        for static, tensor in zip(inputs, operands, strict=True):
            static.copy_(tensor)
        device = inputs[0].device
        side = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(side):
            for _ in range(WARM_UPS):
                call(*inputs)
            graph = torch.cuda.CUDAGraph()
            output = record(graph, lambda: call(*inputs))
        torch.cuda.current_stream(device).wait_stream(side)
    return GraphRecording(graph=graph, inputs=inputs, output=output)
