"""A cache of tensors bounded by bytes, least recently used out first."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


def tensor_bytes(value: object) -> int:
    """Bytes of a tensor, or of the tensors among a dataclass's fields."""
    if isinstance(value, Tensor):
        return value.numel() * value.element_size()
    if is_dataclass(value):
        return sum(tensor_bytes(getattr(value, field.name)) for field in fields(value))
    return 0


class TensorCache:
    """Values made of tensors, by key. A value larger than `capacity_bytes` is built and returned, but not kept."""

    def __init__(self, capacity_bytes: int) -> None:
        self.capacity_bytes = capacity_bytes
        self.used_bytes = 0
        self._values: OrderedDict[Hashable, Any] = OrderedDict()

    @classmethod
    def for_device(cls, device: torch.device, *, gpu_share: float = 0.1) -> TensorCache:
        """A cache of a share of the GPU's memory, or of 512 MiB on a CPU."""
        if device.type == "cuda":
            return cls(int(gpu_share * torch.cuda.get_device_properties(device).total_memory))
        return cls(512 * 2**20)

    def get(self, key: Hashable, build: Callable[[], T]) -> T:
        """The value of `key`, built on a miss."""
        if key in self._values:
            self._values.move_to_end(key)
            found: T = self._values[key]
            return found
        value = build()
        size = tensor_bytes(value)
        if size <= self.capacity_bytes:
            self._values[key] = value
            self.used_bytes += size
            while self.used_bytes > self.capacity_bytes:
                _, dropped = self._values.popitem(last=False)
                self.used_bytes -= tensor_bytes(dropped)
        return value

    def clear(self) -> None:
        """Drop everything."""
        self._values.clear()
        self.used_bytes = 0
