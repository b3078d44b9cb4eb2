"""What the methods for (G^T G + eps I)^(-1/p) B share: operands, the Gram matrix, and the method they hand it to."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from iroot.errors import InvalidInputError
from iroot.methods import _spd
from iroot.methods._operands import require_matrix
from iroot.ops import Ops
from iroot.options import check_target
from iroot.precision import get_precision
from iroot.registry import MethodSpec, Operands, Workload, get_method

SIXTEEN_BITS = ("bf16", "fp16", "bf16_emulated", "fp16_emulated")


@dataclass(frozen=True, kw_only=True)
class GramOptions:
    """What happens to the Gram matrix.

    Attributes:
        inner: name of the method it is handed to, of `inverse_apply` (`dual` with p > 1: also of `inverse_root`); None:
            `graded_pe` for 16-bit products, else `coupled_pe`.
        target: error of that method's schedule; None: its own default.
        min_cushion: smallest cushion of that schedule; None: its own default.
    """

    inner: str | None = None
    target: float | None = None
    min_cushion: float | None = None

    def __post_init__(self) -> None:
        check_target(self.target)
        if self.inner is not None:
            get_method("inverse_apply", self.inner)


def run_inner(task: str, operands: Operands, ops: Ops, options: GramOptions) -> Tensor:
    """(A + eps I)^(-1/p), applied to B for `inverse_apply`, by the inner method."""
    precision = ops.precision.name
    return inner_spec(task, precision, options).function(operands, ops, inner_options(task, precision, options))


def inner_name(precision: str, options: GramOptions) -> str:
    """The inner method's name."""
    return options.inner or ("graded_pe" if precision in SIXTEEN_BITS else "coupled_pe")


def inner_options(task: str, precision: str, options: GramOptions) -> Any:
    """The inner method's options.

    Raises:
        InvalidInputError: it does not serve the precision.
    """
    spec = inner_spec(task, precision, options)
    known = {field.name for field in fields(spec.options)}
    asked = {"target": options.target, "min_cushion": options.min_cushion}
    return spec.make_options({key: value for key, value in asked.items() if value is not None and key in known})


def inner_spec(task: str, precision: str, options: GramOptions) -> MethodSpec:
    """The record of the inner method for one task; raises as `inner_options`."""
    spec = get_method(task, inner_name(precision, options))
    if precision not in spec.precisions:
        raise InvalidInputError(
            f"inner method {spec.name} must serve precision '{precision}', it serves {', '.join(spec.precisions)}"
        )
    return spec


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The costs and the statement of one call of the inner method."""

    flops: float
    accuracy: float | None
    steps: int


def inner_plan(task: str, workload: Workload, options: GramOptions) -> Plan:
    """What the inner method says of `workload`, that of the Gram matrix."""
    spec = inner_spec(task, workload.precision, options)
    values = inner_options(task, workload.precision, options)
    return Plan(flops=spec.flops(workload, values), accuracy=spec.accuracy(workload, values),
                steps=0 if spec.steps is None else spec.steps(workload, values))  # fmt: skip


def gram_operands(operands: Operands) -> tuple[Tensor, Tensor]:
    """G (..., m, n) and B (..., n, k) in float32, or float64 for float64 input.

    Raises:
        InvalidInputError: they do not fit.
    """
    G, B = require_matrix(operands), operands.B
    if B is None or B.ndim != G.ndim or B.shape[:-2] != G.shape[:-2] or B.shape[-2] != G.shape[-1]:
        raise InvalidInputError(
            f"B must be (..., n, k) for G {tuple(G.shape)}, got {None if B is None else tuple(B.shape)}"
        )
    wide = torch.promote_types(G.dtype, torch.float32)
    return G.to(wide), B.to(wide)


def gram(G: Tensor) -> Tensor:
    """G^T G in G's own float32 or float64: 16-bit words of G would move its small eigenvalues by u kappa^(1/2).

    Inside `ops.arithmetic()` these are float32 products, in TF32 for `tf32` alone.
    """
    return G.mT @ G


def square(workload: Workload, size: int) -> Workload:
    """The workload of the inner method on a Gram matrix size x size."""
    return replace(workload, m=size, n=size)


def gram_flops(workload: Workload) -> float:
    """m n min(m, n): the smaller Gram matrix, symmetric."""
    return float(workload.batch) * workload.m * workload.n * min(workload.m, workload.n)


def gram_bytes(workload: Workload, options: object) -> float:
    """G and B read once and Z written once, in the dtype of the posed problem."""
    columns = workload.k or 0
    return workload.batch * float(workload.n) * (workload.m + 2.0 * columns) * _spd.word_bytes(workload)


def gram_rounding(workload: Workload) -> float:
    """What forming G^T G adds to the relative error: its rounding, seen from the smallest eigenvalue.

    float32 and float64: 4 u kappa / p max(1, m / 256)^(1/2), where a tenth is measured. TF32 rounds G: singular values
    move by at most 0.86 u sigma_max, so the smallest eigenvalue by 1.72 u kappa^(1/2) of itself.
    """
    assert workload.p is not None
    assert workload.lower is not None
    if workload.precision == "tf32":
        return 2.0 * get_precision("tf32").unit_roundoff / math.sqrt(workload.lower) / workload.p
    u = 2.0**-53 if workload.precision == "fp64" else 2.0**-24
    return 4.0 * u / (workload.lower * workload.p) * math.sqrt(max(1.0, workload.m / 256.0))
