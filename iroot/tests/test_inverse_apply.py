"""Every registered inverse_apply method against float64 eigenvalues."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from iroot.errors import InvalidInputError, UnsupportedError
from iroot.methods._spd import Interval
from iroot.methods.apply_chebyshev import ChebyshevOptions, find_polynomial
from iroot.ops import make_ops
from iroot.precision import get_precision, unsupported_reason
from iroot.registry import MethodSpec, Operands, Workload, get_method, methods

CPU = torch.device("cpu")
SPECS = list(methods("inverse_apply"))
SERVED = [
    pytest.param(spec, precision, id=f"{spec.name}-{precision}")
    for spec, precision in ((spec, name) for spec in SPECS for name in spec.precisions)
    if unsupported_reason(get_precision(precision), CPU) is None
]


def posed(n: int, k: int, kappa: float, *, batch: tuple[int, ...] = (), seed: int = 0) -> tuple[Tensor, Tensor]:
    """A with eigenvalues 3 ... 3 / kappa and a B of very unequal columns, in float64."""
    generator = torch.Generator().manual_seed(seed)
    Q, _ = torch.linalg.qr(torch.randn(*batch, n, n, generator=generator, dtype=torch.float64))
    eigenvalues = 3.0 * torch.logspace(0, -torch.log10(torch.tensor(kappa)).item(), n, dtype=torch.float64)
    A = (Q * eigenvalues) @ Q.mT
    B = torch.randn(*batch, n, k, generator=generator, dtype=torch.float64)
    return (A + A.mT) / 2, B * torch.logspace(3, 1, k, dtype=torch.float64)


def exact(A: Tensor, B: Tensor, p: int, eps: float = 0.0) -> Tensor:
    values, V = torch.linalg.eigh(A.double())
    Z: Tensor = V @ ((values + eps)[..., :, None] ** (-1.0 / p) * (V.mT @ B.double()))
    return Z


def distance(Z: Tensor, reference: Tensor) -> float:
    return float((torch.linalg.matrix_norm(Z.double() - reference) / torch.linalg.matrix_norm(reference)).max())


def run(spec: MethodSpec, precision: str, operands: Operands) -> Tensor:
    ops = make_ops(precision, CPU)
    with ops.arithmetic():
        return spec.function(operands, ops, spec.options())


def dtype_of(precision: str) -> torch.dtype:
    return torch.float64 if precision == "fp64" else torch.float32


@pytest.mark.parametrize(("spec", "precision"), SERVED)
@pytest.mark.parametrize("kappa", [30.0, 300.0])
@pytest.mark.parametrize("k", [1, 24])
def test_error_is_within_the_stated_accuracy(spec: MethodSpec, precision: str, kappa: float, k: int) -> None:
    n, lower = 32, 0.99 / kappa
    for p in spec.roots or (1, 2, 3, 8):
        workload = Workload(m=n, n=n, k=k, p=p, precision=precision, lower=lower)
        stated = spec.accuracy(workload, spec.options())
        if stated is None:
            assert get_precision(precision).unit_roundoff * kappa / p > 0.02, "too easy to state nothing"
            continue
        A, B = (M.to(dtype_of(precision)) for M in posed(n, k, kappa, seed=p))
        Z = run(spec, precision, Operands(A=A, B=B, p=p, lower=lower))
        assert distance(Z, exact(A, B, p)) <= stated


@pytest.mark.parametrize(("spec", "precision"), SERVED)
def test_batch_layout_dtype_and_untouched_input(spec: MethodSpec, precision: str) -> None:
    dtype = dtype_of(precision)
    A, B = (M.to(dtype) for M in posed(20, 6, 30.0, batch=(2, 2)))
    strided = torch.zeros(2, 2, 6, 20, dtype=dtype).mT
    strided.copy_(B)
    assert not strided.is_contiguous()
    before = A.clone(), strided.clone()
    p = 2 if spec.roots is None else spec.roots[0]
    workload = Workload(m=20, n=20, k=6, batch=4, p=p, precision=precision, lower=0.033)
    stated = spec.accuracy(workload, spec.options())
    assert stated is not None
    Z = run(spec, precision, Operands(A=A, B=strided, p=p, eps=0.01, lower=0.033))
    assert torch.equal(A, before[0])
    assert torch.equal(strided, before[1])
    assert (Z.shape, Z.dtype) == ((2, 2, 20, 6), dtype)
    assert distance(Z, exact(A, B, p, 0.01)) <= stated


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
def test_zero_columns_unknown_spectrum_and_wrong_shapes(spec: MethodSpec) -> None:
    A, B = posed(16, 3, 20.0)
    precision = "fp64" if "fp64" in spec.precisions else "fp16_emulated"
    p = 2 if spec.roots is None else spec.roots[0]
    Z = run(spec, precision, Operands(A=A, B=B, p=p, eps=0.1))
    assert distance(Z, exact(A, B, p, 0.1)) < (1e-3 if precision == "fp64" else 3e-3)
    assert torch.equal(run(spec, precision, Operands(A=A, B=0.0 * B, p=p, lower=0.04)), 0.0 * B)
    for wrong in (None, B[:4]):
        with pytest.raises(InvalidInputError, match=r"B must be \(..., n, k\)"):
            run(spec, precision, Operands(A=A, B=wrong, p=p, lower=0.04))


def test_both_ways_of_coupled_pe_agree_and_cost_what_is_stated() -> None:
    spec = get_method("inverse_apply", "coupled_pe")
    A, B = posed(32, 32, 300.0)
    wide = run(spec, "fp64", Operands(A=A, B=B, p=3, lower=0.0033))
    narrow = run(spec, "fp64", Operands(A=A, B=B[:, :2].contiguous(), p=3, lower=0.0033))
    assert distance(wide[:, :2], narrow) < 1e-10

    def flops(k: int) -> float:
        return spec.flops(Workload(m=32, n=32, k=k, p=3, precision="fp64", lower=0.0033), spec.options())

    # A wide block costs 2 n^2 per further column, a narrow one that per step; where they meet neither is dearer.
    assert flops(64) - flops(63) == 2 * 32**2
    steps = (flops(2) - flops(1)) / (2 * 32**2)
    assert steps == round(steps) > 1
    assert max(flops(k + 1) - flops(k) for k in range(1, 64)) <= steps * 2 * 32**2


@pytest.mark.parametrize(("p", "per_root_of_kappa"), [(1, 3.8), (2, 2.9), (4, 2.3)])
def test_chebyshev_degree_for_a_thousandth(p: int, per_root_of_kappa: float) -> None:
    best = find_polynomial(p, Interval(lower=1e-3, headroom=0.0), ChebyshevOptions())
    assert best.error <= 1e-3
    assert best.degree == pytest.approx(per_root_of_kappa * 1e3**0.5, rel=0.07)


def test_chebyshev_refuses_a_degree_out_of_reach() -> None:
    spec = get_method("inverse_apply", "chebyshev")
    A, B = posed(16, 2, 20.0)
    options = spec.make_options({"max_degree": 10})
    with pytest.raises(UnsupportedError, match="above max_degree=10; raise target"):
        spec.function(Operands(A=A, B=B, p=2, lower=1e-4), make_ops("fp64", CPU), options)
    with pytest.raises(InvalidInputError, match="max_degree must be"):
        spec.make_options({"max_degree": 0})


def test_cholesky_serves_p_1_and_definite_matrices_only() -> None:
    spec = get_method("inverse_apply", "cholesky")
    A, B = posed(24, 5, 1e4)
    assert spec.roots == (1,)
    assert distance(run(spec, "fp64", Operands(A=A, B=B, p=1, eps=0.1)), exact(A, B, 1, 0.1)) < 1e-12
    with pytest.raises(InvalidInputError, match="p = 1, got p=2"):
        run(spec, "fp64", Operands(A=A, B=B, p=2))
    assert bool(run(spec, "fp64", Operands(A=A - torch.eye(24), B=B, p=1)).isnan().all())
    work = Workload(m=30, n=30, k=5, batch=2, p=1, precision="fp64")
    assert spec.flops(work, spec.options()) == 2 * (9000 + 2 * 900 * 5)


def test_cholesky_of_a_stack_is_nan_where_a_matrix_is_not_positive_definite() -> None:
    stack = torch.stack([torch.eye(4), torch.diag(torch.tensor([1.0, 2.0, -3.0, 4.0])), 2.0 * torch.eye(4)])
    for name in ("cholesky", "cholesky_reused"):
        spec = get_method("inverse_apply", name)
        Z = spec.function(Operands(A=stack, B=torch.ones(3, 4, 1), p=1), make_ops("fp32", CPU), spec.options())
        assert Z[:, 0, 0].tolist() == pytest.approx([1.0, math.nan, 0.5], nan_ok=True)
        assert bool(Z[1].isnan().all())


def test_a_kept_factor_follows_the_matrix_and_not_its_address() -> None:
    spec = get_method("inverse_apply", "cholesky_reused")
    A, B = posed(24, 5, 1e3)
    for eps in (0.0, 0.1, 0.0):
        assert distance(run(spec, "fp64", Operands(A=A, B=B, p=1, eps=eps)), exact(A, B, 1, eps)) < 1e-10
    A.mul_(3.0)
    assert distance(run(spec, "fp64", Operands(A=A, B=B, p=1)), exact(A, B, 1)) < 1e-10
    for seed in range(20):  # more than are kept, and memory that is used again
        A, B = posed(24, 5, 1e3, seed=seed)
        assert distance(run(spec, "fp64", Operands(A=A, B=B, p=1)), exact(A, B, 1)) < 1e-10
    with torch.inference_mode():
        changing = A.clone()
        for scale in (1.0, 2.0):
            changing.mul_(scale)
            Z = run(spec, "fp64", Operands(A=changing, B=B, p=1))
            assert distance(Z, exact(changing, B, 1)) < 1e-10
    assert bool(run(spec, "fp64", Operands(A=A - torch.eye(24), B=B, p=1)).isnan().all())
    with pytest.raises(InvalidInputError, match="p = 1, got p=2"):
        run(spec, "fp64", Operands(A=A, B=B, p=2))


def test_later_calls_do_no_factorisation() -> None:
    spec = get_method("inverse_apply", "cholesky_reused")
    A, B = posed(24, 5, 1e3)
    names: list[str] = []

    class Calls(TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            names.append(getattr(func, "__name__", ""))
            return func(*args, **(kwargs or {}))

    for count in (1, 1, 1):
        with Calls():
            run(spec, "fp64", Operands(A=A, B=B, p=1))
        assert names.count("linalg_cholesky_ex") == count
    work = Workload(m=30, n=30, k=5, batch=2, p=1, precision="fp64")
    assert spec.flops(work, spec.options()) == 2 * 2 * 900 * 5
