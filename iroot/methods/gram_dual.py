"""(G^T G + eps I)^(-1/p) B through the smaller of the two Gram matrices."""

from __future__ import annotations

import math
from dataclasses import replace

from torch import Tensor

from iroot.errors import InvalidInputError
from iroot.methods import _coupled, _gram, _spd, gram_dense
from iroot.methods._gram import GramOptions
from iroot.methods.coupled_pe import planned_schedule
from iroot.ops import Ops
from iroot.precision import SPLIT
from iroot.registry import MethodSpec, Operands, Workload, register


def gram_dual(operands: Operands, ops: Ops, options: GramOptions) -> Tensor:
    """Z = f(G^T G) B from S = G G^T (m x m), m < n, f(x) = (x + eps)^(-1/p); for m >= n as `dense`.

    f(G^T G) = f(0) I + G^T g(S) G with g(x) = (f(x) - f(0)) / x, exact for every f (Higham 2008, Functions of
    Matrices, theorem 1.35). With a = ((x + eps) / eps)^(-1/p) in (0, 1], x = eps (a^(-p) - 1) and
    1 - a^p = (1 - a)(1 + a + ... + a^(p-1)), so

        g(x) = -eps^(-1/p) / eps * a^p / (1 + a + ... + a^(p-1)),

    where nothing cancels and nothing is divided by x: S may be singular. For p = 1 it is Woodbury's formula
    (I - G^T (S + eps I)^(-1) G) B / eps. For p > 1 a root a(S) is formed, a^p is applied to the block, and the sum,
    whose condition number is at most p, is inverted on it.

    f(0) B - G^T (...) cancels where B lies in the span of large singular vectors: the error is relative to
    eps^(-1/p) ||B||, which is about ||Z|| (n / (n - m))^(1/2) for a B without preferred direction, and it grows as unit
    roundoff * kappa.

    Raises:
        InvalidInputError: eps = 0 and m < n: f(0) is infinite; or the operands do not fit.
    """
    G, B = _gram.gram_operands(operands)
    if G.shape[-2] >= G.shape[-1]:
        return gram_dense.gram_dense(operands, ops, options)
    p, eps = _spd.root(operands), operands.eps
    if eps <= 0.0:
        raise InvalidInputError(
            f"eps must be > 0 where G has fewer rows than columns, got eps={eps} with G {tuple(G.shape)}: G^T G is "
            "singular; damp it"
        )
    # S + eps I has every eigenvalue of G^T G + eps I but eps, where m < n: the same `lower` holds.
    S = Operands(A=_gram.gram(G.mT), B=G @ B, p=p, eps=eps, lower=operands.lower)
    return pushed_through(G, B, middle(S, ops, options), p, eps).to(operands.A.dtype)


def pushed_through(G: Tensor, B: Tensor, block: Tensor, p: int, eps: float) -> Tensor:
    """f(0) (B - G^T block / eps): Z, where `block` is M G B."""
    at_zero: float = eps ** (-1.0 / p)
    Z: Tensor = (B - (G.mT @ block) / eps) * at_zero
    return Z


def middle(S: Operands, ops: Ops, options: GramOptions) -> Tensor:
    """M W with M = a^p (I + a + ... + a^(p-1))^(-1), a = ((S + eps I) / eps)^(-1/p); S.A = G G^T and S.B = W."""
    p, eps, W = _spd.root(S), S.eps, _spd.right_hand_side(S)
    if p == 1:
        return _gram.run_inner("inverse_apply", S, ops, options) * eps
    root = Operands(A=S.A, p=p, eps=eps, lower=S.lower)
    scale: float = eps ** (1.0 / p)
    a = _gram.run_inner("inverse_root", root, ops, options) * scale
    for _ in range(p):
        W = a @ W
    total = Operands(A=_geometric_sum(ops, a, p), B=W, p=1, lower=0.9 / p)
    return _gram.run_inner("inverse_apply", total, ops, options)


def _geometric_sum(ops: Ops, a: Tensor, p: int) -> Tensor:
    """I + a + ... + a^(p-1), p >= 2: sum(2 q) = (I + a^q) sum(q), sum(q + 1) = I + a sum(q)."""
    if p == 2:
        return _coupled.combine(ops, (a,), (1.0,), 1.0)
    if p % 2:
        return _coupled.combine(ops, (ops.symmetric_matmul(a, _geometric_sum(ops, a, p - 1)),), (1.0,), 1.0)
    factor = _coupled.combine(ops, (_coupled.power(ops, a, p // 2),), (1.0,), 1.0)
    return ops.symmetric_matmul(factor, _geometric_sum(ops, a, p // 2))


def _sum_products(p: int) -> int:
    """Products n x n x n of `_geometric_sum`."""
    if p == 2:
        return 0
    if p % 2:
        return 1 + _sum_products(p - 1)
    half = p // 2
    return 1 + half.bit_length() - 1 + half.bit_count() - 1 + _sum_products(half)


def flops(workload: Workload, options: GramOptions) -> float:
    """The Gram matrix, the inner methods on it, and products with G and a."""
    if workload.m >= workload.n:
        return gram_dense.flops(workload, options)
    assert workload.p is not None
    assert workload.k is not None
    small, p = _gram.square(workload, workload.m), workload.p
    total = _gram.gram_flops(workload) + workload.batch * 4.0 * workload.m * workload.n * workload.k
    total += sum(plan.flops for plan in _planned(workload, options))
    if p > 1:
        total += workload.batch * p * 2.0 * float(workload.m) ** 2 * workload.k
        total += _spd.symmetric_products(small, _sum_products(p))
    return total


def _planned(workload: Workload, options: GramOptions) -> tuple[_gram.Plan, ...]:
    """Of the inner methods on the m x m matrix: the inverse applied, or the root and the inverted sum."""
    small = _gram.square(workload, workload.m)
    if workload.p == 1:
        return (_gram.inner_plan("inverse_apply", small, options),)
    assert workload.p is not None
    total = replace(small, p=1, lower=0.9 / workload.p)
    return _gram.inner_plan("inverse_root", small, options), _gram.inner_plan("inverse_apply", total, options)


def accuracy(workload: Workload, options: GramOptions) -> float | None:
    """The schedule's error of the root p times, its rounding once, the inverted sum, the rounding of the Gram matrix.

    A relative error d of a(x) moves f(x) - f(0) by at most p d f(0), in m of n directions; ||Z|| is at least that of
    the n - m others, f(0) ||B|| (1 - m / n)^(1/2) for a B without preferred direction: the factor (m / (n - m))^(1/2).
    Rounding reaches the smallest x, where x g(x) is small: a sixth of the statement was measured (float32 and two-word
    products, kappa 1e2 to 1e5, p = 1 to 8, CPU, 2026-11).
    """
    if workload.m >= workload.n:
        return gram_dense.accuracy(workload, options)
    first, *others = (plan.accuracy for plan in _planned(workload, options))
    if first is None or workload.lower is None:
        return None
    assert workload.p is not None
    error = first + (workload.p - 1) * _schedule_error(workload, options, first) + _gram.gram_rounding(workload)
    for stated in others:
        if stated is None:
            return None
        error += stated
    error *= max(1.0, math.sqrt(workload.m / (workload.n - workload.m)))
    return error if error <= 0.3 else None


def _schedule_error(workload: Workload, options: GramOptions, otherwise: float) -> float:
    """Of the root, where it comes from `coupled_pe`."""
    if _gram.inner_name(workload.precision, options) != "coupled_pe":
        return otherwise
    small = _gram.square(workload, workload.m)
    return planned_schedule(small, _gram.inner_options("inverse_root", workload.precision, options)).error


def steps(workload: Workload, options: GramOptions) -> int:
    """Those of the inner method on the smaller Gram matrix."""
    if workload.m >= workload.n:
        return gram_dense.steps(workload, options)
    return _planned(workload, options)[0].steps


register(
    MethodSpec(
        name="dual",
        task="gram_apply",
        function=gram_dual,
        options=GramOptions,
        precisions=("fp64", "fp32", "tf32", *SPLIT),
        flops=flops,
        bytes_moved=_gram.gram_bytes,
        accuracy=accuracy,
        steps=steps,
        summary="push-through: a function of the m x m Gram matrix, m < n; Woodbury's formula for p = 1",
        citation="Higham, Functions of Matrices, 2008, theorem 1.35; Woodbury 1950 (p = 1)",
    )
)
