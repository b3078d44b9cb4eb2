"""Opponent: Muon's original Newton-Schulz, one quintic (3.4445, -4.7750, 2.0315) applied five times.

The recipe as published: X = G / (||G||_F + 1e-7); per step A = X X^T, B = b A + c A A, X = a X + B X.
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

_TABLE = named_table("keller_jordan")
_RECIPE = Recipe(steps=quintics(_TABLE.take(5)), epsilon=1e-7, norm_dtype=torch.float32)


def jordan_newton_schulz(operands: Operands, ops: Ops, options: NoOptions) -> Tensor:
    """Approximate polar factor of operands.A (..., m, n): singular values in [0.68, 1.13], small ones below."""
    return polar_factor(operands, ops, _RECIPE)


register(
    MethodSpec(
        name="jordan_newton_schulz",
        task="polar",
        function=jordan_newton_schulz,
        precisions=FLOATING + QUANTISED,
        flops=lambda workload, options: polar_flops(workload, _RECIPE),
        bytes_moved=lambda workload, options: polar_bytes(workload),
        accuracy=lambda workload, options: None,  # its source states none
        summary="Muon's quintic, five times, Frobenius norm",
        citation=_TABLE.source,
        role="opponent",
        backend="torch",
    )
)
