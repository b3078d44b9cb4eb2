"""Every registered inverse_root method against float64 eigenvalues, over p, precision, batch and layout."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from iroot.errors import InvalidInputError, UnknownNameError
from iroot.methods.coupled_newton import newton_steps
from iroot.ops import make_ops
from iroot.precision import get_precision, unsupported_reason
from iroot.registry import MethodSpec, Operands, Workload, get_method, methods

CPU = torch.device("cpu")
TASKS = ("inverse_root", "inverse_apply")
SPECS = [spec for spec in methods("inverse_root") if spec.role != "opponent"]
SERVED = [
    pytest.param(spec, precision, id=f"{spec.name}-{precision}")
    for spec, precision in ((spec, name) for spec in SPECS for name in spec.precisions)
    if unsupported_reason(get_precision(precision), CPU) is None
]


def posed(n: int, kappa: float, *, batch: tuple[int, ...] = (), seed: int = 0) -> Tensor:
    """A with eigenvalues 3 ... 3 / kappa, log-spaced, in float64."""
    generator = torch.Generator().manual_seed(seed)
    Q, _ = torch.linalg.qr(torch.randn(*batch, n, n, generator=generator, dtype=torch.float64))
    eigenvalues = 3.0 * torch.logspace(0, -torch.log10(torch.tensor(kappa)).item(), n, dtype=torch.float64)
    A = (Q * eigenvalues) @ Q.mT
    symmetric: Tensor = (A + A.mT) / 2
    return symmetric


def exact(A: Tensor, p: int, eps: float = 0.0) -> Tensor:
    values, V = torch.linalg.eigh(A.double())
    X: Tensor = (V * (values + eps)[..., None, :] ** (-1.0 / p)) @ V.mT
    return X


def distance(X: Tensor, reference: Tensor) -> float:
    return float((torch.linalg.matrix_norm(X.double() - reference) / torch.linalg.matrix_norm(reference)).max())


def run(spec: MethodSpec, precision: str, operands: Operands) -> Tensor:
    ops = make_ops(precision, CPU)
    with ops.arithmetic():
        return spec.function(operands, ops, spec.options())


def dtype_of(precision: str) -> torch.dtype:
    return torch.float64 if precision == "fp64" else torch.float32


@pytest.mark.parametrize(("spec", "precision"), SERVED)
@pytest.mark.parametrize("kappa", [30.0, 1e3])
def test_error_is_within_the_stated_accuracy(spec: MethodSpec, precision: str, kappa: float) -> None:
    n = 32
    lower = 0.99 / kappa
    for p in spec.roots or (1, 2, 3, 4, 8):
        stated = spec.accuracy(Workload(m=n, n=n, p=p, precision=precision, lower=lower), spec.options())
        if stated is None:
            assert get_precision(precision).unit_roundoff * kappa / p > 0.02, "too easy to state nothing"
            continue
        A = posed(n, kappa, seed=p).to(dtype_of(precision))
        assert distance(run(spec, precision, Operands(A=A, p=p, lower=lower)), exact(A, p)) <= stated


@pytest.mark.parametrize(("spec", "precision"), SERVED)
def test_batch_layout_dtype_and_untouched_input(spec: MethodSpec, precision: str) -> None:
    dtype = dtype_of(precision)
    A = posed(20, 30.0, batch=(2, 3)).to(dtype)
    padded = torch.zeros(2, 3, 20, 41, dtype=dtype)
    padded[..., 1:21] = A
    strided = padded[..., 1:21]
    assert not strided.is_contiguous()
    before = padded.clone()
    p = 2 if spec.roots is None else spec.roots[0]
    lower = 0.99 / 30.0
    X = run(spec, precision, Operands(A=strided, p=p, eps=0.01, lower=lower))
    assert torch.equal(padded, before)
    assert (X.shape, X.dtype) == ((2, 3, 20, 20), dtype)
    stated = spec.accuracy(Workload(m=20, n=20, batch=6, p=p, precision=precision, lower=lower), spec.options())
    assert stated is not None
    assert distance(X, exact(A, p, 0.01)) <= stated
    for i, j in itertools.product(range(2), range(3)):
        alone = run(spec, precision, Operands(A=A[i, j].contiguous(), p=p, eps=0.01, lower=lower))
        assert distance(alone, X[i, j].double()) <= 2 * stated


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
def test_unknown_spectrum_with_and_without_damping(spec: MethodSpec) -> None:
    A = posed(32, 100.0)
    p = 2 if spec.roots is None else spec.roots[0]
    for eps in (0.0, 0.05):
        X = run(spec, "fp64" if "fp64" in spec.precisions else "fp16_emulated", Operands(A=A, p=p, eps=eps))
        assert distance(X, exact(A, p, eps)) < (1e-9 if "fp64" in spec.precisions else 0.05)


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
def test_result_is_symmetric_and_scales(spec: MethodSpec) -> None:
    precision = "fp32" if "fp32" in spec.precisions else "fp16_emulated"
    A = posed(32, 100.0).float()
    p = 2 if spec.roots is None else spec.roots[0]
    X = run(spec, precision, Operands(A=A, p=p, lower=0.0099))
    assert torch.equal(X, X.mT)
    # A power of two in A is exact all the way: 2^(2 k) A has the root 2^-k X for p = 2.
    scaled = run(spec, precision, Operands(A=A * 4.0**p, p=p, lower=0.0099))
    assert distance(scaled * 4.0, X.double()) < 1e-5 if precision == "fp32" else 1e-2


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
def test_counts_are_positive_and_scale(spec: MethodSpec) -> None:
    options = spec.options()
    p = 2 if spec.roots is None else spec.roots[0]
    precision = spec.precisions[0]

    def workload(n: int, batch: int) -> Workload:
        return Workload(m=n, n=n, batch=batch, p=p, precision=precision, lower=1e-3)

    assert spec.flops(workload(64, 6), options) == pytest.approx(6 * spec.flops(workload(64, 1), options))
    assert spec.flops(workload(64, 1), options) >= 5 * 64**3
    word = 8 if precision == "fp64" else 4
    assert spec.bytes_moved(workload(64, 1), options) == 2 * 64 * 64 * word


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
def test_wrong_operands_are_refused(spec: MethodSpec) -> None:
    precision = "fp32" if "fp32" in spec.precisions else spec.precisions[-1]
    with pytest.raises(InvalidInputError, match="p must be an integer >= 1"):
        run(spec, precision, Operands(A=torch.eye(4), p=None, lower=0.5))
    with pytest.raises(InvalidInputError, match="square in its last two dimensions"):
        run(spec, precision, Operands(A=torch.ones(4, 3), p=2, lower=0.5))


@pytest.mark.parametrize("degrees", [(1,), (2,), (3,), (4,), (5,), (6,), (7,), (8,), (2, 4, 8)])
@pytest.mark.parametrize("p", [1, 2, 3, 5])
def test_coupled_pe_of_every_degree_and_odd_roots(degrees: tuple[int, ...], p: int) -> None:
    spec = get_method("inverse_root", "coupled_pe")
    A = posed(24, 1e3)
    ops = make_ops("fp64", CPU)
    options = spec.make_options({"degrees": list(degrees), "target": 1e-9})
    X = spec.function(Operands(A=A, p=p, lower=0.99e-3), ops, options)
    assert distance(X, exact(A, p)) < 1.01e-9


@pytest.mark.parametrize("name", ["coupled_pe", "uncoupled_pe", "newton_db"])
@pytest.mark.parametrize("p", [1, 2, 4, 8])
def test_cheapest_degrees_reach_the_target_with_fewer_products(name: str, p: int) -> None:
    spec = get_method("inverse_root", name)
    if spec.roots is not None and p not in spec.roots:
        assert (name, p) == ("newton_db", 1)
        return
    A = posed(24, 1e3)
    quadratic, cheapest = (
        spec.make_options({"target": 1e-6, "degrees": degrees, "min_cushion": 0.03}) for degrees in ([2], "cheapest")
    )
    X = spec.function(Operands(A=A, p=p, lower=0.99e-3), make_ops("fp64", CPU), cheapest)
    assert distance(X, exact(A, p)) < 3e-6
    workload = Workload(m=24, n=24, p=p, precision="fp64", lower=0.99e-3)
    assert spec.flops(workload, cheapest) < 0.9 * spec.flops(workload, quadratic)
    assert spec.accuracy(workload, cheapest) is not None


def test_cheapest_degrees_are_a_constant_for_torch_compile() -> None:
    spec, ops, A = get_method("inverse_root", "coupled_pe"), make_ops("fp32", CPU), posed(24, 30.0).float()
    options = spec.make_options({"degrees": "cheapest"})
    torch.compiler.reset()
    compiled = torch.compile(
        lambda A: spec.function(Operands(A=A, p=2, lower=0.033), ops, options), fullgraph=True, backend="eager"
    )
    assert torch.equal(compiled(A), spec.function(Operands(A=A, p=2, lower=0.033), ops, options))


@pytest.mark.parametrize("scaling", ["frobenius", "trace", "gershgorin", "square", "power_iteration"])
def test_coupled_pe_with_every_scaling(scaling: str) -> None:
    spec = get_method("inverse_root", "coupled_pe")
    A = posed(32, 1e3)
    options = spec.make_options({"scaling": scaling, "target": 1e-9})
    X = spec.function(Operands(A=A, p=4, lower=0.99e-3), make_ops("fp64", CPU), options)
    assert distance(X, exact(A, 4)) < 1e-8


@pytest.mark.parametrize(
    ("p", "lower", "target", "steps"), [(2, 1e-2, 1e-3, 8), (1, 1e-4, 1e-3, 17), (8, 1e-8, 1e-3, 20)]
)
def test_newton_steps_of_the_scalar_recursion(p: int, lower: float, target: float, steps: int) -> None:
    assert newton_steps(p, lower, target) == steps


def test_newton_refuses_a_target_out_of_reach() -> None:
    with pytest.raises(InvalidInputError, match="needs more than 200 steps"):
        newton_steps(1, 1e-80, 1e-3)


@pytest.mark.parametrize("p", [1, 2, 3, 4, 8])
def test_alternating_sides_keep_the_uncoupled_iteration_together(p: int) -> None:
    # With one fixed side the errors are 3e-2 (p = 2) and 8e-4 (p = 4), with X^p A above 1.
    spec = get_method("inverse_root", "uncoupled_pe")
    A = posed(48, 1e4).float()
    X = run(spec, "fp32", Operands(A=A, p=p, lower=0.99e-4))
    assert distance(X, exact(A, p)) < 2e-3


def test_opponents_miss_the_posed_problem_as_published() -> None:
    A = posed(64, 1e4).float()
    reference = exact(A, 2)
    ranges = {"dash_newton_db": (0.2, 0.5), "dash_coupled_newton": (0.15, 0.4), "floored_pe": (0.9, 1.0)}
    for name, (smallest, largest) in ranges.items():
        spec = get_method("inverse_root", name)
        assert spec.role == "opponent"
        assert smallest < distance(run(spec, "fp32", Operands(A=A, p=2, lower=1e-4)), reference) < largest
        assert spec.flops(Workload(m=64, n=64, p=2, precision="fp32"), spec.options()) > 10 * 64**3
        assert spec.accuracy(Workload(m=64, n=64, p=2, precision="fp32", lower=0.5), spec.options()) is None


def test_opponents_converge_where_their_steps_suffice() -> None:
    A = posed(32, 4.0).double()
    for name, p in (("dash_newton_db", 2), ("dash_newton_db", 4), ("dash_coupled_newton", 4)):
        X = run(get_method("inverse_root", name), "fp64", Operands(A=A, p=p, lower=0.2))
        assert distance(X, exact(A, p)) < 1e-8
    floored = run(get_method("inverse_root", "floored_pe"), "fp64", Operands(A=A, p=2, lower=0.2))
    shift = 0.05 * float(A.abs().sum(-1).amax())
    assert distance(floored, exact(A, 2, shift)) < 0.02


@pytest.mark.parametrize(
    ("method", "values"),
    [
        ("coupled_pe", {"target": 2.0}), ("coupled_pe", {"degrees": [9]}), ("coupled_pe", {"degrees": "cheap"}),
        ("coupled_pe", {"safety": 0.5}),
        ("coupled_pe", {"min_cushion": 0.9}), ("coupled_pe", {"scaling": "frobenious"}),
        ("coupled_newton", {"target": 0.0}), ("floored_pe", {"steps": 0}), ("floored_pe", {"floor": 0.0}),
        ("dash_newton_db", {"steps": 0}), ("dash_newton_db", {"scale_factor": 0.5}),
    ],
)  # fmt: skip
def test_wrong_options_are_refused(method: str, values: dict[str, object]) -> None:
    with pytest.raises((InvalidInputError, UnknownNameError), match=r"must be|did you mean 'frobenius'"):
        get_method("inverse_root", method).make_options(values)


@pytest.mark.parametrize("p", [1, 2, 3, 4, 6, 8])
def test_graded_products_hold_a_thousandth_where_the_coupled_form_fails(p: int) -> None:
    A = posed(64, 1e4).float()
    reference = exact(A, p)
    operands = Operands(A=A, p=p, lower=0.99e-4)
    graded = distance(run(get_method("inverse_root", "graded_pe"), "fp16_emulated", operands), reference)
    coupled = distance(run(get_method("inverse_root", "coupled_pe"), "fp16_emulated", operands), reference)
    assert graded < 1.2e-3
    assert coupled > 10 * graded


def test_graded_root_of_kappa_1e6_stays_within_float16() -> None:
    # p = 1: X reaches 1e6, float16 ends at 65504.
    A = posed(64, 1e6).float()
    X = run(get_method("inverse_root", "graded_pe"), "fp16_emulated", Operands(A=A, p=1, lower=0.9e-6))
    assert distance(X, exact(A, 1)) < 8e-3


@pytest.mark.parametrize(
    "spec", [spec for spec in methods() if spec.capturable and spec.task in TASKS], ids=lambda s: s.name
)
def test_one_graph_for_torch_compile(spec: MethodSpec) -> None:
    precision = "fp32" if "fp32" in spec.precisions else "fp16_emulated"
    ops, options = make_ops(precision, CPU), spec.options()
    A = posed(24, 30.0).float()
    operands = Operands(A=A, B=A[:, :3] if spec.task == "inverse_apply" else None, p=2, lower=0.033)
    torch.compiler.reset()
    compiled = torch.compile(
        lambda A, B: spec.function(Operands(A=A, B=B, p=2, lower=0.033), ops, options), fullgraph=True, backend="eager"
    )
    assert torch.equal(compiled(operands.A, operands.B), spec.function(operands, ops, options))


@pytest.mark.parametrize("p", [1, 2, 3])
def test_newton_schulz_is_the_unscaled_affine_iteration(p: int) -> None:
    """Its steps written out, with the Frobenius norm for the bound."""
    spec, A = get_method("inverse_root", "newton_schulz"), posed(24, 50.0)
    s = float(torch.linalg.matrix_norm(A))
    X, Y = torch.eye(24, dtype=torch.float64), A / s
    steps = newton_steps(p, 0.019 / 24**0.5, 1e-3, largest=1.0)
    for _ in range(steps):
        B = ((p + 1) * torch.eye(24, dtype=torch.float64) - Y) / p
        X, Y = X @ B, Y @ torch.linalg.matrix_power(B, p)
    options = spec.make_options({"target": 1e-3, "scaling": "frobenius"})
    found = spec.function(Operands(A=A, p=p, lower=0.019), make_ops("fp64", CPU), options)
    assert distance(found, X * s ** (-1.0 / p)) < 1e-10
    assert distance(found, exact(A, p)) < 1e-3
    workload = Workload(m=24, n=24, p=p, precision="fp64", lower=0.019)
    assert spec.steps is not None
    assert spec.steps(workload, options) == steps
    assert steps >= newton_steps(p, 0.019 / 24**0.5, 1e-3)
