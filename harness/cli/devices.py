"""The `--device` option: names and what they mean on this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.errors import UsageError

if TYPE_CHECKING:
    from harness.manifest import DeviceKind


def device_name(device: str | None) -> str:
    """`cpu` or `cuda:INDEX`; None is this machine's default. Raises UsageError for anything else."""
    if device is None:
        from harness.environment import default_device

        return default_device()
    if device == "cuda":
        return "cuda:0"
    kind, _, index = device.partition(":")
    if device != "cpu" and not (kind == "cuda" and index.isdecimal()):
        raise UsageError(f"--device: must be cpu, cuda or cuda:INDEX, got '{device}'")
    return device


def device_kind(device: str) -> DeviceKind:
    """`cuda` or `cpu`."""
    return "cpu" if device == "cpu" else "cuda"


def require_device(device: str) -> None:
    """Raise UsageError if this machine has no such device."""
    import torch

    if device == "cpu":
        return
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if int(device.partition(":")[2]) >= count:
        have = f"has cuda:0 to cuda:{count - 1}" if count else "has no usable CUDA device"
        raise UsageError(f"--device: '{device}' was asked for, this machine {have}; use --device cpu")
