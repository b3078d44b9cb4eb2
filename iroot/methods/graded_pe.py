"""Inverse p-th root with 16-bit products and float32-class answers: the linear term of the Y update kept exact."""

from __future__ import annotations

import math

from torch import Tensor

from iroot.graded_steps import word_steps
from iroot.methods import _spd
from iroot.methods._graded import Graded, GradedOptions, find_schedule, step_products
from iroot.ops import Ops
from iroot.precision import get_precision
from iroot.registry import MethodSpec, Operands, Workload, register
from iroot.scaling import get_scaling
from iroot.schedules import Schedule

WORDS = ("bf16", "fp16", "fp8_e4m3", "bf16_emulated", "fp16_emulated", "fp8_e4m3_emulated")
"""Precisions whose operands are one word of at most 16 bits."""

__all__ = ["WORDS", "GradedOptions", "accuracy", "flops", "fused_root", "graded_pe", "planned_schedule"]


def graded_pe(operands: Operands, ops: Ops, options: GradedOptions) -> Tensor:
    """X = (A + eps I)^(-1/p) by B = q_t(Y), X <- X B, Y <- a^p Y + sym(Y W), W = B^p - a^p I, a = q_t(0).

    `iroot/methods/_graded.py` says why this succeeds in 16 bits where a coupled iteration fails.

    Error in float16, p = 2: 1e-3 for kappa 1e2 to 1e4 and 4e-3 to 1e5, on tensor cores more where a few eigenvalues are
    small and all others large (`iroot.tiers.Tier`); the residual X^p A - I is larger than that suggests (up to 2).
    Error in FP8 E4M3, log-spaced spectra: 5.3e-2 for kappa 1e1 to 1e3, 0.2 at 1e4, divergence from 1e5 on; with half of
    the eigenvalues small 8e-2 at kappa 300 and 0.33 at 1e3 (p = 1, 2, 4, n = 64 to 320, CPU emulation, 2026-11).
    """
    p = _spd.root(operands)
    fused = fused_root(operands, ops, options)
    if fused is not None:
        return fused
    A = _spd.damped(operands)
    scale = get_scaling(options.scaling).function(A, ops)
    schedule = find_schedule(
        _spd.interval_of(operands, scale, options.scaling), p, ops.precision.unit_roundoff, options
    )
    X, taken_off = Graded(ops, options.promote_k).inverse_root(A / scale, schedule)
    return _spd.restore(X, scale * taken_off**p, p, operands.A.dtype)


def fused_root(operands: Operands, ops: Ops, options: GradedOptions) -> Tensor | None:
    """`graded_pe` by kernels that do all the elementwise work in their epilogues; None where `ops` has none."""
    p = _spd.root(operands)
    if options.scaling != "square" or options.promote_k == 0:
        return None
    scale = ops.square_bound(operands.A, eps=operands.eps)
    if scale is None:
        return None
    schedule = find_schedule(
        _spd.interval_of(operands, scale, options.scaling), p, ops.precision.unit_roundoff, options
    )
    steps = word_steps(schedule, promote_k=options.promote_k)
    return ops.graded_root(operands.A, scale, steps, p=p, eps=operands.eps)


def planned_schedule(workload: Workload, options: GradedOptions) -> Schedule:
    """The schedule that a call with this workload uses."""
    assert workload.p is not None
    interval = _spd.known_interval(workload.lower, workload.n, options.scaling)
    return find_schedule(interval, workload.p, get_precision(workload.precision).unit_roundoff, options)


def flops(workload: Workload, options: GradedOptions) -> float:
    """Z^2, the powers of B and X B have symmetric results, n^3 each; Y W is a full product, 2 n^3."""
    assert workload.p is not None
    steps = len(planned_schedule(workload, options).steps)
    products = step_products(steps, workload.p, last=True) + steps - 1
    return _spd.symmetric_products(workload, products + get_scaling(options.scaling).products)


def accuracy(workload: Workload, options: GradedOptions) -> float | None:
    """Schedule error plus u (4 + 0.006 kappa^(1/2)) + 0.015 u^2 kappa, u the unit roundoff; None above 0.3.

    About three times what is measured at n = 48 to 300 (CPU, p = 1, 2, 3, 4, 8): 1.5 u at kappa 1e4; 5 u in float16 and
    28 u in bfloat16 at kappa 1e6. A tensor core's sum over all of n loses further digits: times n / 512 above that.
    For FP8 E4M3 None from kappa 680 on. Measured up to there: 0.9 u with log-spaced eigenvalues, and with half of them
    small 1.3 u at kappa 300 and 2.8 u at 600 (n = 128 and 320, 2026-11).
    """
    if workload.lower is None:
        return None
    u, kappa = get_precision(workload.precision).unit_roundoff, 1.0 / workload.lower
    rounding = u * (4.0 + 0.006 * math.sqrt(kappa)) + 0.015 * u * u * kappa
    error = planned_schedule(workload, options).error + rounding * max(1.0, workload.n / 512.0)
    return error if error <= 0.3 else None


register(
    MethodSpec(
        name="graded_pe",
        task="inverse_root",
        function=graded_pe,
        options=GradedOptions,
        precisions=WORDS,
        flops=flops,
        bytes_moved=_spd.root_bytes,
        accuracy=accuracy,
        steps=lambda workload, options: len(planned_schedule(workload, options).steps),
        summary="coupled minimax iteration with an exact linear term: 16- or 8-bit products, float32 iterates",
        citation="this project; minimax steps as in Amsel et al., The Polar Express, 2025, arXiv 2505.16932",
    )
)
