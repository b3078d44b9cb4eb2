"""Opponent: Polar Express with the coefficients its authors publish, as their code uses them.

X = G / (1.01 ||G||_F + 1e-7); the first five steps of the table, each deflated by 1.01 (their code spares only the last
entry of the table, the eighth, so a five-step run is deflated throughout).
"""

from __future__ import annotations

import torch
from torch import Tensor

from iroot.coefficients import deflate, named_table
from iroot.methods._polar import Recipe, polar_bytes, polar_factor, polar_flops
from iroot.odd_steps import quintics
from iroot.ops import Ops
from iroot.precision import FLOATING, QUANTISED
from iroot.registry import MethodSpec, NoOptions, Operands, register

_TABLE = named_table("polar_express")
_RECIPE = Recipe(
    steps=quintics(tuple(deflate(triple, _TABLE.safety) for triple in _TABLE.coefficients[:5])),
    margin=_TABLE.safety,
    epsilon=1e-7,
    norm_dtype=torch.float32,
)


def polar_express_published(operands: Operands, ops: Ops, options: NoOptions) -> Tensor:
    """Approximate polar factor of operands.A (..., m, n), made for singular values in [1e-3, 1] after normalisation."""
    return polar_factor(operands, ops, _RECIPE)


register(
    MethodSpec(
        name="polar_express_published",
        task="polar",
        function=polar_express_published,
        precisions=FLOATING + QUANTISED,
        flops=lambda workload, options: polar_flops(workload, _RECIPE),
        bytes_moved=lambda workload, options: polar_bytes(workload),
        accuracy=lambda workload, options: None,  # its source states none for five steps
        summary="the published Polar Express table, first five steps, Frobenius norm",
        citation=_TABLE.source,
        role="opponent",
        backend="torch",
    )
)
