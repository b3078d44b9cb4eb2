"""Every registered gram_apply method against float64 singular values."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from iroot.errors import InvalidInputError, UnknownNameError, UnsupportedError
from iroot.ops import make_ops
from iroot.precision import get_precision, unsupported_reason
from iroot.registry import MethodSpec, Operands, Workload, get_method, methods

CPU = torch.device("cpu")
SPECS = list(methods("gram_apply"))
SERVED = [
    pytest.param(spec, precision, id=f"{spec.name}-{precision}")
    for spec, precision in ((spec, name) for spec in SPECS for name in spec.precisions)
    if unsupported_reason(get_precision(precision), CPU) is None
]
EPS = 0.01


def posed(m: int, n: int, k: int, *, batch: tuple[int, ...] = (), seed: int = 0) -> tuple[Tensor, Tensor]:
    """G with squared singular values 1 ... 1e-2, and Gaussian columns, in float64."""
    generator = torch.Generator().manual_seed(seed)
    r = min(m, n)
    U, V = (
        torch.linalg.qr(torch.randn(*batch, size, r, generator=generator, dtype=torch.float64)).Q for size in (m, n)
    )
    sigma = torch.logspace(0, -1, r, dtype=torch.float64)
    return (U * sigma) @ V.mT, torch.randn(*batch, n, k, generator=generator, dtype=torch.float64)


def exact(G: Tensor, B: Tensor, p: int, eps: float) -> Tensor:
    """By a full SVD, where the methods work with Gram matrices."""
    _, sigma, Vh = torch.linalg.svd(G.double(), full_matrices=True)
    values = torch.zeros(*G.shape[:-2], G.shape[-1], dtype=torch.float64)
    values[..., : sigma.shape[-1]] = sigma**2
    Z: Tensor = Vh.mT @ ((values + eps)[..., :, None] ** (-1.0 / p) * (Vh @ B.double()))
    return Z


def distance(Z: Tensor, reference: Tensor) -> float:
    return float((torch.linalg.matrix_norm(Z.double() - reference) / torch.linalg.matrix_norm(reference)).max())


def run(spec: MethodSpec, precision: str, operands: Operands, **values: object) -> Tensor:
    ops = make_ops(precision, CPU)
    with torch.no_grad(), ops.arithmetic():
        return spec.function(operands, ops, spec.make_options(values))


@pytest.mark.parametrize(("spec", "precision"), SERVED)
@pytest.mark.parametrize(("m", "n"), [(24, 40), (40, 24), (24, 24), (1, 12)])
def test_error_is_within_the_stated_accuracy(spec: MethodSpec, precision: str, m: int, n: int) -> None:
    dtype = torch.float64 if precision == "fp64" else torch.float32
    lower = 0.99 * EPS / (1.0 + EPS)
    for p in (1, 2, 3, 6, 8):
        workload = Workload(m=m, n=n, k=5, p=p, precision=precision, lower=lower)
        stated = spec.accuracy(workload, spec.options())
        if stated is None:
            assert get_precision(precision).unit_roundoff / EPS / p > 0.02, "too easy to state nothing"
            continue
        G, B = (M.to(dtype) for M in posed(m, n, 5, seed=p))
        Z = run(spec, precision, Operands(A=G, B=B, p=p, eps=EPS, lower=lower))
        assert distance(Z, exact(G, B, p, EPS)) <= stated


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
def test_batch_layout_dtype_and_untouched_input(spec: MethodSpec) -> None:
    G, B = (M.float() for M in posed(12, 20, 6, batch=(2, 2)))
    strided = torch.zeros(2, 2, 20, 12).mT
    strided.copy_(G)
    before = strided.clone(), B.clone()
    Z = run(spec, "fp32", Operands(A=strided, B=B, p=2, eps=EPS, lower=0.009))
    assert torch.equal(strided, before[0])
    assert torch.equal(B, before[1])
    assert (Z.shape, Z.dtype) == ((2, 2, 20, 6), torch.float32)
    assert distance(Z, exact(G, B, 2, EPS)) < 1e-3
    for i in range(2):
        alone = run(spec, "fp32", Operands(A=G[i, 0], B=B[i, 0], p=2, eps=EPS, lower=0.009))
        assert distance(alone, Z[i, 0].double()) < 1e-4


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
@pytest.mark.parametrize(("m", "n"), [(10, 16), (16, 10)])
def test_zero_columns_unknown_spectrum_and_wrong_shapes(spec: MethodSpec, m: int, n: int) -> None:
    G, B = posed(m, n, 3)
    Z = run(spec, "fp64", Operands(A=G, B=B, p=2, eps=EPS))
    assert distance(Z, exact(G, B, 2, EPS)) < 1e-3
    assert torch.equal(run(spec, "fp64", Operands(A=G, B=0.0 * B, p=3, eps=EPS)), 0.0 * B)
    for wrong in (None, B[:4], B[None]):
        with pytest.raises(InvalidInputError, match=r"B must be \(..., n, k\) for G"):
            run(spec, "fp64", Operands(A=G, B=wrong, p=2, eps=EPS))


def test_undamped_tall_matrices_are_served() -> None:
    G, B = posed(40, 12, 3)
    for spec in SPECS:
        Z = run(spec, "fp64", Operands(A=G, B=B, p=2, lower=0.0099))
        assert distance(Z, exact(G, B, 2, 0.0)) < 1e-3


@settings(max_examples=20)
@given(m=st.integers(1, 12), n=st.integers(2, 24), p=st.integers(1, 9), seed=st.integers(0, 50))
def test_the_push_through_identity_is_exact_for_every_root(m: int, n: int, p: int, seed: int) -> None:
    """Also for a singular G G^T, and for columns in the span of G^T, where f(0) B cancels."""
    G, B = posed(m, n, 2, seed=seed)
    G[m // 2] = 0.0
    B[:, 0] = G.mT @ torch.ones(m, dtype=torch.float64)
    Z = run(get_method("gram_apply", "dual"), "fp64", Operands(A=G, B=B, p=p, eps=EPS, lower=0.0099))
    assert float((Z - exact(G, B, p, EPS)).abs().max()) < 1e-10 * EPS ** (-1.0 / p) * float(B.abs().max())


def test_the_dual_needs_damping_where_the_gram_matrix_is_singular() -> None:
    G, B = posed(6, 9, 2)
    with pytest.raises(InvalidInputError, match=r"eps must be > 0 where G has fewer rows than columns, got eps=0.0"):
        run(get_method("gram_apply", "dual"), "fp64", Operands(A=G, B=B, p=2, lower=0.01))


def test_each_method_is_the_cheapest_somewhere() -> None:
    def flops(name: str, m: int, n: int, k: int, lower: float) -> float:
        spec = get_method("gram_apply", name)
        return spec.flops(Workload(m=m, n=n, k=k, p=2, precision="fp32", lower=lower), spec.options())

    assert flops("chebyshev", 512, 1024, 1, 0.1) < min(flops(name, 512, 1024, 1, 0.1) for name in ("dense", "dual"))
    assert flops("dual", 64, 1024, 64, 1e-4) < min(flops(name, 64, 1024, 64, 1e-4) for name in ("dense", "chebyshev"))
    assert flops("dense", 1024, 128, 64, 1e-4) < flops("chebyshev", 1024, 128, 64, 1e-4)
    assert flops("dense", 1024, 128, 64, 1e-4) == flops("dual", 1024, 128, 64, 1e-4)
    # 4 m n k per degree, and no product of m x n with n x n.
    assert (flops("chebyshev", 512, 1024, 3, 0.1) - flops("chebyshev", 512, 1024, 2, 0.1)) % (4 * 512 * 1024) == 0


def test_the_gram_matrix_is_handed_to_the_method_that_was_named() -> None:
    G, B = (M.float() for M in posed(40, 24, 3))
    posed_as = Operands(A=G, B=B, p=2, lower=0.0099)
    dense = get_method("gram_apply", "dense")
    assert torch.equal(run(dense, "fp32", posed_as, inner="eigh"), _applied("eigh", "fp32", G, B))
    assert torch.equal(run(dense, "fp16_emulated", posed_as), _applied("graded_pe", "fp16_emulated", G, B))
    assert torch.equal(run(dense, "fp32", posed_as), _applied("coupled_pe", "fp32", G, B))
    with pytest.raises(UnknownNameError, match="did you mean 'coupled_pe'"):
        dense.make_options({"inner": "coupled_p"})
    with pytest.raises(InvalidInputError, match="inner method eigh must serve precision 'fp16_emulated'"):
        run(dense, "fp16_emulated", posed_as, inner="eigh")


def _applied(name: str, precision: str, G: Tensor, B: Tensor) -> Tensor:
    return run(get_method("inverse_apply", name), precision, Operands(A=G.mT @ G, B=B, p=2, lower=0.0099))


def test_chebyshev_refuses_a_degree_out_of_reach_and_wrong_options() -> None:
    G, B = posed(16, 12, 2)
    spec = get_method("gram_apply", "chebyshev")
    with pytest.raises(UnsupportedError, match="above max_degree=10; raise target"):
        run(spec, "fp64", Operands(A=G, B=B, p=2, eps=1e-4, lower=1e-4), max_degree=10)
    with pytest.raises(InvalidInputError, match="max_degree must be"):
        spec.make_options({"max_degree": 0})
    with pytest.raises(UnknownNameError, match="did you mean 'lanczos'"):
        spec.make_options({"scaling": "lanczoz"})


@pytest.mark.parametrize("scaling", ["frobenius", "col_norm", "row_norm", "power_iteration", "block_power", "lanczos"])
def test_every_normalisation_leads_to_the_same_result(scaling: str) -> None:
    G, B = posed(20, 30, 2)
    spec = get_method("gram_apply", "chebyshev")
    Z = run(spec, "fp64", Operands(A=7.0 * G, B=B, p=2, eps=0.49, lower=0.0098), scaling=scaling, target=1e-6)
    assert distance(Z, exact(7.0 * G, B, 2, 0.49)) < 1e-5
