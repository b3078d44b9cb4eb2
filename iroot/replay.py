"""A call on a CPU recorded as a list of operations on fixed memory, and run again without allocating.

What a CUDA graph is to a GPU: while a call runs once, every operation below autograd is noted with the memory it reads
and writes. Then each intermediate is given a place, shared by those that never live at the same time, and a replay
repeats the operations with `out=` into those places. Views cost nothing: they are made once.

A call is refused where that cannot be the same again: it reads a value on the host, calls an operation without an
`out=` form, or writes to memory it has not made. The first replay must give the recorded value, bit for bit.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

_aten = torch.ops.aten
_COPIES = (_aten._to_copy.default, _aten.clone.default)
"""Their `out=` forms allocate; `copy_` into the result does the same."""
_WIDE = (torch.float32, torch.float64)
"""A constant stands for a number beside these alone: beside 16-bit operands it would be rounded, unlike a number."""
_FILLS = {_aten.ones_like.default: 1.0, _aten.zeros_like.default: 0.0}


class CannotRecordError(Exception):
    """The call does something that a replay could not repeat; the message says what."""


@dataclass(frozen=True, kw_only=True)
class _Place:
    """A tensor as a part of numbered memory."""

    memory: int
    dtype: torch.dtype
    size: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int

    @property
    def elements(self) -> int:
        """Number of entries."""
        return math.prod(self.size)


@dataclass(frozen=True, kw_only=True)
class _Step:
    """One operation; its arguments hold places where the call had tensors."""

    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    @property
    def memories(self) -> set[int]:
        """What it reads or writes."""
        return {leaf.memory for leaf in tree_leaves((self.args, self.kwargs)) if isinstance(leaf, _Place)}


@dataclass(frozen=True, kw_only=True)
class MemoryRecording:
    """The operations of one call on memory that it owns."""

    steps: tuple[tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]], ...]
    inputs: tuple[Tensor, ...]
    output: Tensor

    def replay(self, operands: tuple[Tensor, ...]) -> Tensor:
        """Copy the operands in and repeat the operations; nothing is allocated."""
        with torch.no_grad():
            for static, tensor in zip(self.inputs, operands, strict=True):
                static.copy_(tensor)
            for function, args, kwargs in self.steps:
                function(*args, **kwargs)
        return self.output


def record_memory(call: Callable[..., Tensor], operands: tuple[Tensor, ...]) -> MemoryRecording:
    """Run `call(*operands)` once on copies of the operands and record it.

    Raises:
        CannotRecordError: a replay could not repeat the call, or did not.
    """
    # The memory must outlive the caller's inference mode and be writable after it.
    with torch.inference_mode(False), torch.no_grad():
        inputs = tuple(torch.empty(t.shape, dtype=t.dtype).copy_(t) for t in operands)
        recorder = _Recorder(inputs)
        with recorder:
            value = call(*inputs)
        recording = recorder.recording(inputs, value)
        expected = value.clone()
        try:
            again = recording.replay(operands)
        except RuntimeError as error:
            raise CannotRecordError(f"an operation refuses fixed memory: {error}") from error
    if not torch.equal(again.nan_to_num(nan=1.5), expected.nan_to_num(nan=1.5)):
        raise CannotRecordError("the replay gave another value")
    return recording


@dataclass
class _Lifetimes:
    """Which memory is given (inputs, constants) and how many bytes the rest takes."""

    given: dict[int, torch.UntypedStorage] = field(default_factory=dict)
    made: dict[int, int] = field(default_factory=dict)


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes every operation. Memory is numbered when it first appears; an address may come again as new memory."""

    def __init__(self, inputs: Sequence[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._numbers: dict[int, int] = {}
        self._count = 0
        self._memory = _Lifetimes()
        self._steps: list[_Step] = []
        self._kept: list[Tensor] = []
        for tensor in inputs:
            self._give(tensor)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        self._note(func, args, kwargs, result)
        return result

    def recording(self, inputs: tuple[Tensor, ...], value: Tensor) -> MemoryRecording:
        """The steps on memory of their own."""
        output = self._place(value)
        storages = self._memory.given | self._arena(output.memory)

        def tensor(place: _Place) -> Tensor:
            empty = torch.empty(0, dtype=place.dtype)
            return empty.set_(storages[place.memory], place.offset, place.size, place.stride)

        steps = tuple((step.function, *tree_map_only(_Place, tensor, (step.args, step.kwargs))) for step in self._steps)
        return MemoryRecording(steps=steps, inputs=inputs, output=tensor(output))

    def _note(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
        operands = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        results = [result] if isinstance(result, Tensor) else list(result) if isinstance(result, tuple | list) else []
        if not operands and not results:
            return  # a question about types
        if torch.Tag.inplace_view in func.tags or not results or not all(isinstance(r, Tensor) for r in results):
            raise CannotRecordError(f"{func} has no form that a replay could repeat")
        places = tree_map_only(Tensor, self._place, (args, kwargs))
        if func._schema.is_mutable:
            if self._numbers[_address(results[0])] in self._memory.given:
                raise CannotRecordError(f"{func} writes to memory that the call has not made")
            self._change(func, places, results[0].dtype)
        elif not operands:
            self._give(results[0])  # a constant
        elif not {_address(r) for r in results} & set(map(_address, operands)):
            self._make(func, places, results)

    def _make(self, func: Any, places: tuple[Any, ...], results: list[Tensor]) -> None:
        """Note an operation whose results are new memory."""
        outs = [self._new(result) for result in results]
        args, kwargs = places
        if func in _COPIES:
            self._steps.append(_Step(function=_aten.copy_.default, args=(outs[0], args[0]), kwargs={}))
        elif func in _FILLS:
            self._steps.append(_Step(function=_aten.fill_.Scalar, args=(outs[0], _FILLS[func]), kwargs={}))
        elif func is _aten.rsub.Scalar and results[0].dtype in _WIDE:
            number = self._constant(args[1], results[0].dtype)
            rest = {"alpha": args[2] if len(args) > 2 else 1, "out": outs[0]}
            self._steps.append(_Step(function=_aten.sub.out, args=(number, args[0]), kwargs=rest))
        elif func is _aten.mean.dim and results[0].dtype in _WIDE:
            # mean.out wraps the count. It is the same sum and the same division.
            count = self._constant(args[0].elements // outs[0].elements, results[0].dtype)
            self._steps.append(_Step(function=_aten.sum.IntList_out, args=args, kwargs={**kwargs, "out": outs[0]}))
            self._steps.append(_Step(function=_aten.div_.Tensor, args=(outs[0], count), kwargs={}))
        else:
            form = _out_form(func)
            names = [argument.name for argument in form._schema.arguments if argument.is_out]
            given = {**kwargs, **dict(zip(names, outs, strict=True))}
            self._steps.append(_Step(function=form, args=self._fixed(func, args, results[0].dtype), kwargs=given))

    def _change(self, func: Any, places: tuple[Any, ...], dtype: torch.dtype) -> None:
        """Note an operation that writes to memory which the call has made."""
        args, kwargs = places
        common = functools.reduce(torch.promote_types, (p.dtype for p in _tensors(args) if p.size), dtype)
        if torch.Tag.pointwise not in func.tags or common == dtype:
            self._steps.append(_Step(function=func, args=self._fixed(func, args, dtype), kwargs=kwargs))
            return
        # Computed in a wider dtype than what is written to: there, and rounded once.
        wide = self._converted(args[0], common)
        self._steps.append(_Step(function=func, args=self._fixed(func, (wide, *args[1:]), common), kwargs=kwargs))
        self._steps.append(_Step(function=_aten.copy_.default, args=(args[0], wide), kwargs={}))

    def _new(self, tensor: Tensor) -> _Place:
        self._numbers[_address(tensor)] = self._count
        self._memory.made[self._count] = tensor.untyped_storage().nbytes()
        self._count += 1
        return self._place(tensor)

    def _fixed(self, func: Any, args: tuple[Any, ...], dtype: torch.dtype) -> tuple[Any, ...]:
        """The arguments in a form that makes an operation with a result of `dtype` allocate nothing.

        A number in the place of a tensor would be wrapped into one, and an operand of a narrower dtype converted, in
        new memory at every call.
        """
        if any(torch.promote_types(operand.dtype, dtype) != dtype for operand in _tensors(args)):
            return args
        converts = torch.Tag.pointwise in func.tags or func is _aten.linalg_vector_norm.default
        found: list[Any] = []
        for value, argument in zip(args, func._schema.arguments, strict=False):
            if isinstance(value, int | float) and isinstance(argument.type, torch.TensorType) and dtype in _WIDE:
                found.append(self._constant(value, dtype))
            elif converts and isinstance(value, _Place) and value.size and _narrower(value.dtype, dtype):
                found.append(self._converted(value, dtype))
            else:
                found.append(value)
        return tuple(found)

    def _constant(self, value: float, dtype: torch.dtype) -> _Place:
        return self._give(torch.tensor(value, dtype=dtype))

    def _converted(self, value: _Place, dtype: torch.dtype) -> _Place:
        copy = torch.empty(value.size, dtype=dtype)
        self._kept.append(copy)  # its address stays its own while the call is recorded
        place = self._new(copy)
        self._steps.append(_Step(function=_aten.copy_.default, args=(place, value), kwargs={}))
        return place

    def _place(self, tensor: Tensor) -> _Place:
        if _address(tensor) not in self._numbers:
            self._give(tensor)
        return _Place(
            memory=self._numbers[_address(tensor)], dtype=tensor.dtype, size=tuple(tensor.shape),
            stride=tensor.stride(), offset=int(tensor.storage_offset()),
        )  # fmt: skip

    def _give(self, tensor: Tensor) -> _Place:
        """Number memory that is kept as it is: inputs and constants."""
        self._kept.append(tensor)
        self._numbers[_address(tensor)] = self._count
        self._memory.given[self._count] = tensor.untyped_storage()
        self._count += 1
        return self._place(tensor)

    def _arena(self, output: int) -> dict[int, torch.UntypedStorage]:
        """Storage for all memory that the call makes; equal sizes whose lives do not meet share one."""
        last = {memory: index for index, step in enumerate(self._steps) for memory in step.memories}
        last[output] = len(self._steps)
        storages: dict[int, torch.UntypedStorage] = {}
        free: dict[int, list[torch.UntypedStorage]] = {}
        for index, step in enumerate(self._steps):
            for memory in sorted(step.memories & self._memory.made.keys()):
                size = self._memory.made[memory]
                if memory not in storages:
                    available = free.get(size)
                    storages[memory] = available.pop() if available else torch.UntypedStorage(size)  # type: ignore[no-untyped-call]
            for memory in step.memories & self._memory.made.keys():
                if last[memory] == index:
                    free.setdefault(self._memory.made[memory], []).append(storages[memory])
        return storages


def _address(tensor: Tensor) -> int:
    if tensor.device.type != "cpu" or tensor.untyped_storage().nbytes() == 0:
        raise CannotRecordError(f"only memory of the CPU can be recorded, got {tensor.device}, {tuple(tensor.shape)}")
    return tensor.untyped_storage().data_ptr()


def _tensors(args: Any) -> list[_Place]:
    return [leaf for leaf in tree_leaves(args) if isinstance(leaf, _Place)]


def _narrower(one: torch.dtype, other: torch.dtype) -> bool:
    return one != other and one.is_floating_point and other.is_floating_point


def _out_form(func: Any) -> Any:
    """The overload with the same arguments and results to write to."""
    wanted = [(argument.name, str(argument.type)) for argument in func._schema.arguments]
    for name in func.overloadpacket.overloads():
        candidate = getattr(func.overloadpacket, name)
        arguments = candidate._schema.arguments
        outs = sum(argument.is_out for argument in arguments)
        if outs == len(func._schema.returns) and [(a.name, str(a.type)) for a in arguments if not a.is_out] == wanted:
            return candidate
    raise CannotRecordError(f"{func} has no form that writes to given memory")
