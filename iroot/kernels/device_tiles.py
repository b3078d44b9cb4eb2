"""The tiles of a launch on its device: uploaded once."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from iroot.kernels.tiling import schedule
from iroot.kernels.wide_tiles import wide_schedule


@lru_cache(maxsize=256)
def device_programs(n: int, batches: int, block: int, tail: int, device: torch.device) -> Tensor:
    """`tiling.schedule` on `device`, (programs, 4) int32; not for the first time inside a graph capture."""
    return torch.tensor(schedule(n, batches, block, tail), dtype=torch.int32, device=device)


@lru_cache(maxsize=256)
def device_slots(n: int, batches: int, device: torch.device) -> Tensor:
    """`wide_tiles.wide_schedule` on `device`, (slots, 4) int32; not for the first time inside a graph capture."""
    return torch.tensor(wide_schedule(n, batches), dtype=torch.int32, device=device)
