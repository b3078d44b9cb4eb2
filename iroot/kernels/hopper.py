"""Where the Gluon kernels can run. Gluon is experimental: this module and what it imports do without its names."""

from __future__ import annotations

from functools import lru_cache

import torch
import triton

from iroot.kernels.families import HOPPER

_GLUON_TRITON = "3.6"


@lru_cache(maxsize=8)
def lacks_gluon(device: torch.device) -> str:
    """Why kernels in Gluon cannot run on `device`; empty where they can."""
    if device.type != "cuda" or triton.knobs.runtime.interpret:
        return "Gluon has no interpreter"
    capability = torch.cuda.get_device_capability(device)
    if capability != HOPPER.capability:
        return f"it is for compute capability {HOPPER.capability}, this GPU has {capability}"
    if triton.__version__.split(".")[:2] != _GLUON_TRITON.split("."):
        return f"it is for Triton {_GLUON_TRITON}, this is {triton.__version__}"
    return ""
