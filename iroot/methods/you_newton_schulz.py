"""Opponent: the five-step coefficient set of Jiacheng You, on library products.

In bfloat16, captured in a CUDA graph, this is what a user gets from cuBLAS alone, and what times of polar methods are
set against: X = G / (||G||_F + 1e-7); per step A = X X^T, B = b A + c A A, X = a X + B X, one GEMM each.
"""

from __future__ import annotations

import torch
from torch import Tensor

from iroot.coefficients import named_table
from iroot.methods._polar import Recipe, polar_bytes, polar_factor, polar_flops
from iroot.odd_steps import quintics
from iroot.ops import Ops
from iroot.precision import FLOATING, QUANTISED
from iroot.registry import MethodSpec, NoOptions, Operands, register

_TABLE = named_table("jiacheng_you")
_RECIPE = Recipe(steps=quintics(_TABLE.take(5)), epsilon=1e-7, norm_dtype=torch.float32)


def you_newton_schulz(operands: Operands, ops: Ops, options: NoOptions) -> Tensor:
    """Approximate polar factor of operands.A (..., m, n).

    Orthogonality error on Gaussian input in bfloat16: 0.17 at 1024 x 1024, 0.20 at 2048 x 2048, 0.035 at 2048 x 8192
    (H100).
    """
    return polar_factor(operands, ops, _RECIPE)


register(
    MethodSpec(
        name="you_newton_schulz",
        task="polar",
        function=you_newton_schulz,
        precisions=FLOATING + QUANTISED,
        flops=lambda workload, options: polar_flops(workload, _RECIPE),
        bytes_moved=lambda workload, options: polar_bytes(workload),
        accuracy=lambda workload, options: None,  # its source states none
        summary="five quintics tuned together, Frobenius norm: the recipe that Muon users run today",
        citation=_TABLE.source,
        role="opponent",
        backend="torch",
    )
)
