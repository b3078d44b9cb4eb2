"""Forming an inverse root once and applying it to the blocks of several calls.

Three kinds of factor: the root X; for p = 1 the Cholesky factor; for a wide G the m x m matrix between G^T and G.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from iroot.calls import Call, Computed, Kind, account, beside_failures, find_bounds, run
from iroot.errors import InvalidInputError
from iroot.fitting import eps_scale, fitted
from iroot.methods._gram import GramOptions
from iroot.methods.cholesky import factorised
from iroot.methods.gram_dual import middle, pushed_through
from iroot.ops import Ops, make_ops
from iroot.planning import Choice, Demand, choose
from iroot.registry import MethodSpec, NoOptions, Operands, Workload, get_method
from iroot.result import Bounds, Result
from iroot.workspace import Workspace, check_workspace


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How a factor is made: `method` of `inverse_root`, or `cholesky`, or `dual`.

    Attributes:
        stated: the largest error that it states, or None.
        flops: of making it.
        applied: of applying it once.
    """

    method: str
    precision: str
    options: object
    workload: Workload
    stated: float | None
    steps: int | None
    flops: float
    applied: float


@dataclass(frozen=True, kw_only=True, eq=False)
class Factor:
    """An inverse root X, the Cholesky factor L of A = L L^T, or M of `gram_dual.middle`, of one unchanged tensor.

    Attributes:
        source: the caller's matrix, kept so that no other can take its place in memory.
        version: its count of in-place changes.
        value: (..., n, n), for M (..., m, m), in float32 or float64.
        scale: what the matrix was multiplied by, (..., 1, 1): of a float64 one brought into float32's range.
    """

    source: Tensor = field(repr=False)
    version: int
    value: Tensor = field(repr=False)
    scale: Tensor | None = field(repr=False)
    plan: Plan
    bounds: Bounds

    def serves(self, A: Tensor) -> bool:
        """Whether A is the tensor that the factor was made of, or a view like it, unchanged since."""
        mine = self.source
        same_memory = (A.data_ptr(), A.shape, A.stride(), A.dtype) == (
            mine.data_ptr(), mine.shape, mine.stride(), mine.dtype
        )  # fmt: skip
        return same_memory and A.device == mine.device and A._version == self.version

    def apply(self, B: Tensor, call: Call) -> Tensor:
        """X B, L^(-T) L^(-1) B, or f(0) (B - G^T M G B / eps), in the factor's dtype or, for float64, in that."""
        assert call.workload.p is not None
        if B.dtype != torch.float64 or self.value.dtype == torch.float64:
            return self._applied(B.to(self.value.dtype), call)
        columns = fitted(B)
        factor = 1.0 / columns.scale if self.scale is None else self.scale ** (1.0 / call.workload.p) / columns.scale
        return self._applied(columns.A, call).double() * factor

    def _applied(self, B: Tensor, call: Call) -> Tensor:
        with _exact(self.value).arithmetic():
            if self.plan.method == "cholesky":
                return torch.cholesky_solve(B, self.value)
            if self.plan.method == "dual":
                assert call.workload.p is not None
                G = self.source.to(self.value.dtype)
                return pushed_through(G, B, self.value @ (G @ B), call.workload.p, call.damping.eps)
            return self.value @ B


def run_reused(call: Call, kind: Kind, A: Tensor, B: Tensor, workspace: Workspace | None, check_finite: bool) -> Result:
    """As `calls.run`, by a factor in the workspace where `call.reuse` applications pay for it.

    Raises:
        InvalidInputError: there is no workspace to keep it, or changes of A could not be seen.
    """
    check_workspace(workspace)
    if workspace is None:
        raise InvalidInputError(
            f"reuse > 1 needs a workspace, which keeps the factor, got reuse={call.reuse} and workspace=None; pass "
            "workspace=iroot.Workspace() and keep it"
        )
    if A.is_inference():
        raise InvalidInputError(
            "reuse > 1 must see changes of the matrix, got a tensor made in inference mode, which counts none; clone "
            "it outside of torch.inference_mode, or leave reuse at 1"
        )
    if call.method != "auto" or call.options is not None or call.shape.numel() == 0:
        return run(call, kind, A, B, workspace, check_finite)
    entry = workspace.entry(call)
    with torch.no_grad():
        factor = entry.factor
        if factor is None or not factor.serves(A) or check_finite:
            bounds = find_bounds(call, kind, A, B, entry, check_finite)
            plan = plan_factor(call, bounds)
            if plan is None:
                return run(replace(call, lower=bounds.lower), kind, A, B, workspace, False)
            if factor is None or not factor.serves(A):
                factor = _form(call, kind, plan, A, bounds)
                entry.factor = factor
        value = factor.apply(B, call).to(call.dtype)
    plan = factor.plan
    return Result(
        value=value, method=plan.method, precision=plan.precision, rtol=call.rtol, stated_accuracy=plan.stated,
        bounds=factor.bounds, steps=plan.steps, diagnose=account(call, kind, A, B, Computed(value=value), None),
    )  # fmt: skip


def plan_factor(call: Call, bounds: Bounds) -> Plan | None:
    """The cheapest factor that keeps rtol, or None where `reuse` direct applications cost fewer FLOP."""
    asked = replace(call.workload, lower=bounds.lower)
    assert asked.k is not None
    direct = choose(
        Demand(task=call.task, workload=asked, device=call.device, rtol=call.rtol, method="auto",
               precision=call.precision, options=None)
    )  # fmt: skip
    if call.task == "gram_apply" and call.precision == "auto" and eps_scale(call.damping.eps) != 1.0:
        call = replace(call, precision="fp64")  # the squares of G are not for float32
    plans = [_root_plan(call, asked)]
    if call.precision in ("auto", "fp32", "fp64"):
        if asked.p == 1:
            plans.append(_cholesky_plan(call, asked))
        if call.task == "gram_apply" and asked.m < asked.n and call.damping.eps > 0.0:
            plans.append(_dual_plan(call, asked))
    best = min(plans, key=lambda plan: plan.flops + call.reuse * plan.applied)
    return best if best.flops + call.reuse * best.applied < call.reuse * direct.flops else None


def _formed(call: Call, asked: Workload) -> float:
    """FLOP of the Gram matrix, m n^2."""
    return asked.batch * float(asked.m) * asked.n**2 if call.task == "gram_apply" else 0.0


def _applied(asked: Workload) -> float:
    """FLOP of a product n x n x k, or two triangular solves."""
    assert asked.k is not None
    return asked.batch * 2.0 * float(asked.n) ** 2 * asked.k


def _root_plan(call: Call, asked: Workload) -> Plan:
    square = replace(asked, m=asked.n, k=None)
    choice = choose(
        Demand(task="inverse_root", workload=square, device=call.device, rtol=call.rtol, method="auto",
               precision=call.precision, options=None)
    )  # fmt: skip
    return Plan(method=choice.spec.name, precision=choice.precision, options=choice.options, workload=choice.workload,
                stated=choice.stated, steps=choice.steps, flops=_formed(call, asked) + choice.flops,
                applied=_applied(asked))  # fmt: skip


def _cholesky_plan(call: Call, asked: Workload) -> Plan:
    square = replace(asked, m=asked.n)
    choice = _exact_choice(call, get_method("inverse_apply", "cholesky"), square, NoOptions())
    flops = choice.spec.flops(replace(choice.workload, k=0), choice.options)
    return Plan(method="cholesky", precision=choice.precision, options=choice.options, workload=choice.workload,
                stated=choice.stated, steps=None, flops=_formed(call, asked) + flops,
                applied=_applied(asked))  # fmt: skip


def _dual_plan(call: Call, asked: Workload) -> Plan:
    # A part of rtol for the schedules of a root and an inverse.
    options = GramOptions(target=max(0.1 * call.rtol, 1e-14))
    choice = _exact_choice(call, get_method("gram_apply", "dual"), asked, options)
    assert asked.k is not None
    ends = asked.batch * 4.0 * asked.m * asked.n
    # M is the middle applied to the identity; the products with G are those of each application.
    made = choice.spec.flops(replace(choice.workload, k=asked.m), options) - ends * asked.m
    return Plan(method="dual", precision=choice.precision, options=options, workload=choice.workload,
                stated=choice.stated, steps=choice.steps, flops=made,
                applied=asked.k * (ends + asked.batch * 2.0 * float(asked.m) ** 2))  # fmt: skip


def _exact_choice(call: Call, spec: MethodSpec, asked: Workload, options: object) -> Choice:
    """The method in float32 where that keeps rtol, else in float64; or as the caller names it."""
    names = ("fp32", "fp64") if call.precision == "auto" else (call.precision,)
    for precision in names:
        workload = replace(asked, precision=precision)
        stated = spec.accuracy(workload, options)
        if stated is not None and stated <= call.rtol:
            break
    return Choice(spec=spec, precision=precision, options=options, workload=workload, stated=stated)


def _form(call: Call, kind: Kind, plan: Plan, A: Tensor, bounds: Bounds) -> Factor:
    """The factor of the damped matrix; NaN where a Cholesky factor does not exist: the termination says why."""
    assert kind.form is not None
    dtype = torch.float64 if plan.precision == "fp64" else torch.float32
    ops = make_ops(plan.precision, call.device)
    unmade = Factor(source=A, version=A._version, value=A, scale=None, plan=plan, bounds=bounds)
    if plan.method == "dual":
        with ops.arithmetic():
            return replace(unmade, value=_middle(call, plan, A.to(dtype), ops))
    wide = torch.promote_types(dtype, call.dtype)
    with _exact(torch.empty(0, dtype=wide, device=call.device)).arithmetic():
        matrix = kind.form(call, A, wide)
    if wide != dtype:
        scaled = fitted(matrix)
        matrix, unmade = scaled.A, replace(unmade, scale=scaled.scale)
    with ops.arithmetic():
        return replace(unmade, value=_factorised(call, plan, matrix, ops))


def _factorised(call: Call, plan: Plan, matrix: Tensor, ops: Ops) -> Tensor:
    """L or X."""
    if plan.method == "cholesky":
        return factorised(matrix)
    spec = get_method("inverse_root", plan.method)
    posed = Operands(A=matrix, p=call.workload.p, lower=plan.workload.lower)

    def attempt(A: Tensor) -> Tensor:
        return spec.function(replace(posed, A=A), ops, plan.options)

    try:
        return attempt(matrix)
    except torch.linalg.LinAlgError:  # type: ignore[attr-defined]
        return beside_failures(attempt, matrix, matrix.shape, matrix.dtype)


def _middle(call: Call, plan: Plan, G: Tensor, ops: Ops) -> Tensor:
    """M of f(0) (I - G^T M G / eps), in the dtype of G."""
    assert isinstance(plan.options, GramOptions)
    eye = torch.eye(G.shape[-2], dtype=G.dtype, device=G.device).expand(*G.shape[:-1], G.shape[-2])
    S = Operands(A=G @ G.mT, B=eye, p=call.workload.p, eps=call.damping.eps, lower=plan.workload.lower)
    return middle(S, ops, plan.options)


def _exact(like: Tensor) -> Ops:
    """The operations in a factor's own dtype: a product in TF32 would undo it."""
    return make_ops("fp64" if like.dtype == torch.float64 else "fp32", like.device, "torch")
