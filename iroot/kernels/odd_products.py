"""Odd steps of degree 5, 9, 17 and 33 in fused products, launch by launch: for matrices and stacks that fill the GPU.

Beside two passes over G that normalise it, a step takes one launch per product, and a first step one more, without a
product, for the `schatten8` bound:

    degree 5:   A,  B,  X'
    degree 9:   Z,  T,  B,  X'
    degree 17:  Z,  T,  (L, R),  B,  X'
    degree 33:  Z,  T,  L,  R,  B,  X'

in the notation of `iroot.odd_steps`. A first step with a bound of its own keeps A = X X^T instead of Z, with the mean
diagonal of A at 1, and puts Z = stretch u A + shift I into every sum; u = 1 / bound^2 stays on the device, and what u
is taken from was left, tile by tile, by the kernel that wrote A or A^2. Nothing waits for the host.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial

import torch
from torch import Tensor

from iroot.errors import InvalidInputError
from iroot.kernels.multiply_add import Blocking, choose_blocking
from iroot.kernels.operands import OPERAND_DTYPES, TRITON_DTYPES, processors
from iroot.kernels.rehearsal import rehearse
from iroot.kernels.step_passes import Squared, apply, combine, normalised
from iroot.kernels.sum_launch import square_sums, symmetric_sums
from iroot.kernels.symmetric_sum import UNSCALED, Matrices, Scaling, SumTerms
from iroot.kernels.tiling import GRADED_TILINGS, Tiling, choose_tiling
from iroot.odd_steps import FROBENIUS, Addends, OddStep, StepBound


@dataclass(frozen=True, kw_only=True)
class ProductPlan:
    """How the symmetric products and the full ones are cut."""

    tiling: Tiling
    blocking: Blocking


@lru_cache(maxsize=1024)
def choose_product_plan(m: int, n: int, batches: int, *, processors: int) -> ProductPlan:
    """Those whose busiest multiprocessor has least to do."""
    return ProductPlan(
        tiling=choose_tiling(m, batches, processors=processors, choices=GRADED_TILINGS),
        blocking=choose_blocking(m, n, batches, processors=processors),
    )


def odd_products(
    G: Tensor,
    steps: Sequence[OddStep],
    *,
    bound: StepBound = FROBENIUS,
    dtype: torch.dtype,
    plan: ProductPlan | None = None,
) -> Tensor:
    """X <- X q(X X^T) for every step, from X = G / bound; a zero matrix gives zero.

    ||G||_F is summed in float64, and every matrix of a step is rounded once to `dtype` from float32 sums. The first
    call of a shape must not be recorded in a CUDA graph: it compiles the kernels and uploads their tiles.

    Args:
        G: (..., m, n) bfloat16, float16 or float32, any strides.
        steps: at least one.
        bound: what G is divided by.
        dtype: of the operands and the result, bfloat16 or float16.
        plan: kernel configurations; by default `choose_product_plan`'s.

    Returns:
        (..., m, n) in `dtype`, a view into rows padded to 64 bytes, or of a tall G its transpose.

    Raises:
        InvalidInputError: G or dtype is not of these dtypes, G has no rows or columns, or there are no steps.
    """
    if G.ndim < 2 or 0 in G.shape[-2:] or G.dtype not in TRITON_DTYPES or dtype not in OPERAND_DTYPES:
        raise InvalidInputError(
            "odd steps need (..., m, n) bfloat16, float16 or float32 with m, n >= 1 and products in bfloat16 or "
            f"float16, got {tuple(G.shape)} {G.dtype} and {dtype}"
        )
    if not steps:
        raise InvalidInputError("odd steps need at least one step, got none")
    if G.shape[-2] > G.shape[-1]:
        return odd_products(G.mT, steps, bound=bound, dtype=dtype, plan=plan).mT
    if G.numel() == 0:
        return torch.empty_like(G, dtype=dtype)
    matrix = G.reshape(-1, *G.shape[-2:])
    batches, m, n = matrix.shape
    chosen = plan or choose_product_plan(m, n, batches, processors=processors(G.device))
    iteration = _Iteration(bound, chosen)
    run = partial(iteration.run, matrix, steps, dtype)
    forms = tuple(step.degree for step in steps)
    rehearse(("odd_products", matrix.shape, matrix.stride(), G.dtype, dtype, forms, bound.norm, chosen), run, G.device)
    return run().reshape(G.shape) if G.ndim != 3 else run()


@dataclass(frozen=True, kw_only=True)
class _Basis:
    """Z, or what it is a polynomial of: Z = stretch u A + shift I.

    Attributes:
        A: (batches, n, n).
        square: what A A and A are multiplied by in sums: u^2 and u, or nothing.
        later: what A is multiplied by in sums with other products.
        unit: (batches,) float32, u; None where it is 1.
        root: u^(1/2) as far as the host knows it.
        squared: A^2 for a u that is taken from it; None: u is known before A A is written.
    """

    A: Tensor
    stretch: float = 1.0
    shift: float = 0.0
    square: Scaling = UNSCALED
    later: Scaling = UNSCALED
    unit: Tensor | None = None
    root: float = 1.0
    squared: Squared | None = None

    def terms(self, terms: SumTerms) -> SumTerms:
        """The same sum with A in Z's place."""
        return replace(terms, Z=terms.Z * self.stretch, identity=terms.identity + terms.Z * self.shift)

    def quadratic(self, terms: SumTerms) -> SumTerms:
        """P Z^2 + Z Z + I with A^2 and A in their places."""
        linear = 2.0 * terms.P * self.shift + terms.Z
        constant = (terms.P * self.shift + terms.Z) * self.shift + terms.identity
        return SumTerms(P=terms.P * self.stretch**2, Z=linear * self.stretch, identity=constant)


class _Iteration:
    """The steps of one call."""

    def __init__(self, bound: StepBound, plan: ProductPlan) -> None:
        self._bound = bound
        self._tiling = plan.tiling
        self._blocking = plan.blocking

    def run(self, G: Tensor, steps: Sequence[OddStep], dtype: torch.dtype) -> Tensor:
        """X of G (batches, m, n), m <= n."""
        X = normalised(G, self._bound, dtype)
        basis_of: Callable[[Tensor, OddStep], _Basis] = self._first_basis
        for step in steps:
            basis = basis_of(X, step)
            B = self._polynomial(step, basis)
            factors = (basis.root, basis.root * step.constant)
            X = apply(B, X, factors, self._blocking, unit=basis.unit)
            basis_of = self._basis
        return X

    def _basis(self, X: Tensor, step: OddStep) -> _Basis:
        terms = SumTerms(P=step.stretch, identity=step.shift)
        (Z,) = symmetric_sums(Matrices(M=X, N=X), (terms,), self._tiling)
        return _Basis(A=Z)

    def _first_basis(self, X: Tensor, step: OddStep) -> _Basis:
        """A = X X^T with ||X||_F = m^(1/2), divided by the square of the bound wherever it is used."""
        batches, m, _ = X.shape
        norm, margin = self._bound.norm, self._bound.margin
        if norm == "frobenius":
            (A,) = symmetric_sums(Matrices(M=X, N=X), (SumTerms(),), self._tiling)
            return _Basis(A=A, stretch=step.stretch / m, shift=step.shift, root=m**-0.5)
        unit = torch.empty(batches, dtype=torch.float32, device=X.device)
        A, norms = self._with_norms(X, UNSCALED)
        later = Scaling(kind="later", unit=unit)
        first = Scaling(kind="first", norms=norms, unit=unit, margin=margin)
        basis = _Basis(A=A, stretch=step.stretch, shift=step.shift, square=first, later=later, unit=unit)
        if norm == "gram":
            return basis
        square, square_norms = self._with_norms(A, Scaling(kind="limited", norms=norms))
        return replace(basis, squared=Squared(A=A, square=square, norms=norms, square_norms=square_norms))

    def _with_norms(self, M: Tensor, scaling: Scaling) -> tuple[Tensor, Tensor]:
        """M M^T and its sums of squares, (batches, sums): as many as the kernel leaves that M's shape has."""
        product = Matrices(M=M, N=M)
        norms = torch.empty(len(M), square_sums(product, self._tiling), dtype=torch.float32, device=M.device)
        (found,) = symmetric_sums(product, (SumTerms(),), self._tiling, scaling=scaling, squares=norms)
        return found, norms

    def _polynomial(self, step: OddStep, basis: _Basis) -> Tensor:
        """B = q(X X^T) - a I."""
        T = self._quadratic(basis, SumTerms(P=step.inner.S, Z=step.inner.Z, identity=step.inner.identity))
        if step.degree == 5:
            return T
        matrices = Matrices(M=T, N=T, T=T, Z=basis.A)
        if step.degree == 17:
            L, R = self._sums(basis, matrices, (_terms(step.left), _terms(step.right)))
            matrices = replace(matrices, M=L, N=R)
        if step.degree == 33:
            (L,) = self._sums(basis, matrices, (_terms(step.left),))
            (R,) = self._sums(basis, replace(matrices, M=L, N=L), (_terms(step.right),))
            matrices = replace(matrices, M=R, N=R, T=L)
        (B,) = self._sums(basis, matrices, (replace(_terms(step.last), P=step.sign),))
        return B

    def _quadratic(self, basis: _Basis, terms: SumTerms) -> Tensor:
        """P Z^2 + Z Z + I."""
        rewritten = basis.quadratic(terms)
        if basis.squared is not None:
            assert basis.unit is not None
            return combine(basis.squared, rewritten, basis.unit, margin=self._bound.margin)
        matrices = _read(Matrices(M=basis.A, N=basis.A, Z=basis.A), (rewritten,))
        (T,) = symmetric_sums(matrices, (rewritten,), self._tiling, scaling=basis.square)
        return T

    def _sums(self, basis: _Basis, matrices: Matrices, sums: tuple[SumTerms, ...]) -> tuple[Tensor, ...]:
        return symmetric_sums(
            _read(matrices, sums), tuple(map(basis.terms, sums)), self._tiling, scaling=basis.later
        )  # fmt: skip


def _read(matrices: Matrices, sums: tuple[SumTerms, ...]) -> Matrices:
    """Without the addends that no sum has."""
    return replace(
        matrices,
        T=matrices.T if any(terms.T for terms in sums) else None,
        Z=matrices.Z if any(terms.Z for terms in sums) else None,
    )


def _terms(addends: Addends) -> SumTerms:
    return SumTerms(T=addends.T, Z=addends.Z, identity=addends.identity)
