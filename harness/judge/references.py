"""Truth for the tensors actually posed, so that no method is charged for the rounding of its inputs.

In float64 for precisions of 24 bits or fewer. What judges methods in float64 is refined with exactly summed residuals
(`harness.judge.refined`): the same decomposition in the same arithmetic would find no error in them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from harness.errors import MeasurementError
from harness.judge.cache import TensorCache
from harness.judge.pairs import pair, product
from harness.judge.problems import posed_format
from harness.judge.refined import RefinedReference, damped, damped_gram, refined_polar, refined_root
from harness.judge.solutions import solution
from harness.records import Case
from iroot.precision import get_precision
from iroot.registry import TASKS, Operands

REFINED_BELOW = 1e-12
"""Unit roundoff below which the errors of a float64 reference could be taken for the method's."""

SVD_LIMIT = 256
"""Up to this smaller dimension the polar factor comes from an SVD, above it from `polar_iteration`."""

CERTIFIED = 1e-12
"""Orthogonality, asymmetry of U^T G and ||G - U H|| / ||G|| that `polar_iteration` must reach, else an SVD is done."""


@dataclass(frozen=True, kw_only=True)
class SpectralReference:
    """A, or G^T G, = V diag(eigenvalues) V^T in float64; every root follows."""

    eigenvalues: Tensor
    eigenvectors: Tensor

    def power(self, exponent: float, eps: float) -> Tensor:
        """(A + eps I)^exponent."""
        return torch.matmul(self.eigenvectors * self._powers(exponent, eps).unsqueeze(-2), self.eigenvectors.mT)

    def apply_power(self, exponent: float, eps: float, B: Tensor) -> Tensor:
        """(A + eps I)^exponent B."""
        inner = torch.matmul(self.eigenvectors.mT, B) * self._powers(exponent, eps).unsqueeze(-1)
        return torch.matmul(self.eigenvectors, inner)

    def _powers(self, exponent: float, eps: float) -> Tensor:
        return (self.eigenvalues + eps) ** exponent


@dataclass(frozen=True, kw_only=True)
class DirectReference:
    """The result itself: the polar factor, the solution, the product, the copy.

    Attributes:
        value: rounded to float64.
        low: what the rounding lost, where more than float64 is known.
    """

    value: Tensor
    low: Tensor | None = None


Reference = SpectralReference | RefinedReference | DirectReference


def reference(case: Case, operands: Operands, *, seed: int, cache: TensorCache) -> Reference:
    """The truth for `operands`, posed for `case` from problem seed `seed`.

    Factorisations are kept in `cache` and shared by all methods, precisions of one posed format and roots p; refined
    roots by all methods. Where a refinement does not settle (condition numbers near 1e16, singular G), the float64
    reference stands, and the errors of methods in float64 are below what can be told.

    Raises:
        MeasurementError: A + eps I is not positive definite in float64, so that it has no root; or as `solution`.
    """
    A = operands.A
    posed_in = posed_format(TASKS[case.task].operand, case.precision, A.device).name
    key = (case.problem, case.m, case.n, case.batch, posed_in, seed, A.device)
    refined = get_precision(case.precision).unit_roundoff < REFINED_BELOW
    if TASKS[case.task].operand in ("spd", "gram"):
        spectral = cache.get(("eigh", case.task == "gram_apply", *key), lambda: _eigh(_symmetric(case, A)))
        smallest = float(spectral.eigenvalues.min()) + operands.eps
        if smallest <= 0:
            raise MeasurementError(
                f"problem '{case.problem}' posed at {case.shape_id} must be positive definite, "
                f"got eigenvalue {smallest:.3e}"
            )
        if not refined:
            return spectral
        of_root = ("root", operands.p, operands.eps, case.task == "gram_apply", *key)
        return cache.get(of_root, lambda: _refined_root(case, operands, spectral)) or spectral
    if case.task == "polar":
        build = _refined_polar if refined else _plain_polar
        return cache.get(("polar", *key), lambda: build(A.double(), operands.lower))
    if case.task == "solve":
        assert operands.B is not None
        B = operands.B.double()
        return cache.get(("solve", case.k, *key), lambda: DirectReference(value=solution(A.double(), B)))
    factor = A.mT if case.task == "syrk" else operands.B
    if factor is None:
        return DirectReference(value=A.double())
    if refined:
        exact = product(pair(A.double()), pair(factor.double()))
        return DirectReference(value=exact.high, low=exact.low)
    return DirectReference(value=torch.matmul(A.double(), factor.double()))


def _refined_root(case: Case, operands: Operands, spectral: SpectralReference) -> RefinedReference | None:
    assert operands.p is not None
    build = damped_gram if case.task == "gram_apply" else damped
    return refined_root(
        build(operands.A.double(), operands.eps),
        operands.p,
        eigenvalues=spectral.eigenvalues + operands.eps,
        eigenvectors=spectral.eigenvectors,
    )


def _plain_polar(G: Tensor, lower: float | None) -> DirectReference:
    return DirectReference(value=polar_factor(G, lower))


def _refined_polar(G: Tensor, lower: float | None) -> DirectReference:
    plain = polar_factor(G, lower)
    exact = refined_polar(G, plain)
    return DirectReference(value=plain) if exact is None else DirectReference(value=exact.high, low=exact.low)


def _symmetric(case: Case, A: Tensor) -> Tensor:
    """A, or A^T A, in float64, where the squared condition number is still far from 1e16."""
    wide = A.double()
    return wide.mT @ wide if case.task == "gram_apply" else wide


def _eigh(A: Tensor) -> SpectralReference:
    eigenvalues, eigenvectors = torch.linalg.eigh(A.double())
    return SpectralReference(eigenvalues=eigenvalues, eigenvectors=eigenvectors)


def polar_factor(G: Tensor, lower: float | None = None) -> Tensor:
    """The polar factor of G (..., m, n) float64: orthonormal rows (m <= n) or columns (m >= n).

    Small problems by SVD; larger ones by matrix products alone, kept only if certified: about 50 products, where an SVD
    of a large matrix runs at a small fraction of a GPU's speed. `lower` is a hint: sigma_min >= lower * sigma_max.
    """
    if min(G.shape[-2:]) > SVD_LIMIT:
        tall = G if G.shape[-2] >= G.shape[-1] else G.mT
        U = polar_iteration(tall, lower if lower is not None else 1e-8)
        if polar_certified(tall, U):
            return U if G.shape[-2] >= G.shape[-1] else U.mT
    left, _, right = torch.linalg.svd(G, full_matrices=False)
    return torch.matmul(left, right)


def polar_iteration(G: Tensor, lower: float) -> Tensor:
    """Polar factor of G (..., m, n), m >= n, by scaled Newton-Schulz steps in float64.

    X <- a X (3 I - a^2 X^T X) / 2 with a = sqrt(3 / (1 + l + l^2)) for singular values in [l, 1] (Chen and Chow 2014,
    "A stable scaling of Newton-Schulz for improving the sign function computation of a Hermitian matrix"). l is held at
    0.1 or above: the optimal step for a tiny l would send 1 to l and lose the digits of the largest singular values. So
    the lower end grows by up to 2.46 per step; values below `lower` follow at 1.5 per step, for at most 40 more steps.
    """
    gram = torch.matmul(G.mT, G)
    norms = torch.minimum(gram.abs().sum(-1).amax(-1), torch.linalg.matrix_norm(gram))
    X = G / norms.sqrt()[..., None, None]
    low, extra = 0.5 * lower, 0
    while extra < 40:
        edge = max(low, 0.1)
        scale = math.sqrt(3 / (1 + edge + edge * edge)) if low < 1 else 1.0
        low = min(_cubic(scale * low), _cubic(scale))
        gram = torch.matmul(X.mT, X)
        if low > 1 - 1e-9:
            extra += 1
            if float(distance_to_identity(gram).max()) < 1e-14 * math.sqrt(G.shape[-1]):
                break
        X = torch.matmul(X, torch.diag_embed(torch.full_like(gram[..., 0], 1.5 * scale)) - 0.5 * scale**3 * gram)
    return X


def _cubic(x: float) -> float:
    return 0.5 * x * (3 - x * x)


def polar_certified(G: Tensor, U: Tensor) -> bool:
    """Whether U is the polar factor of G (..., m, n), m >= n, to `CERTIFIED`.

    Sufficient: U^T U = I, H = U^T G symmetric positive semidefinite (Cholesky of H shifted by the tolerance), G = U H.
    """
    H = torch.matmul(U.mT, G)
    size = torch.linalg.matrix_norm(H)
    asymmetry = torch.linalg.matrix_norm(H - H.mT) / size
    remainder = torch.linalg.matrix_norm(G - torch.matmul(U, H)) / size
    orthogonality = distance_to_identity(torch.matmul(U.mT, U))
    worst = float(torch.stack([asymmetry, remainder, orthogonality]).max())
    if not worst <= CERTIFIED:
        return False
    shift = torch.diag_embed((CERTIFIED * size)[..., None].expand(H.shape[:-1]))
    _, info = torch.linalg.cholesky_ex(0.5 * (H + H.mT) + shift)
    return bool((info == 0).all())


def distance_to_identity(A: Tensor) -> Tensor:
    """||A - I||_F / sqrt(n) of each matrix."""
    eye = torch.eye(A.shape[-1], dtype=A.dtype, device=A.device)
    distance: Tensor = torch.linalg.matrix_norm(A - eye) / math.sqrt(A.shape[-1])
    return distance
