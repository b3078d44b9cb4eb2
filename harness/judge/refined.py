"""Roots and polar factors that owe their digits to exactly summed residuals, not to the factors they began with.

A decomposition in float64 errs by u kappa, and so would a reference by the same decomposition: measured against it,
`eigh` and `svd` in float64 would be exact. Here their results are corrected by Newton's method with residuals of pairs
of float64 (`harness.judge.pairs`) until the correction vanishes, whatever they were to begin with.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from harness.judge.pairs import Pair, add_product, identity_pair, pair, product

STEPS = 10
"""A step squares the relative error, or gains a factor u kappa: two for condition numbers up to 1e8."""

SETTLED = 2.0**-56
"""Relative size of a correction that is an eighth of float64's rounding: its successor cannot be seen."""


@dataclass(frozen=True, kw_only=True)
class RefinedReference:
    """A (damped) and A^(-1/p) as pairs of float64; the root is accurate to 2^-56 of its norm or better."""

    matrix: Pair
    root: Pair
    p: int

    def applied_root(self, B: Tensor) -> Pair:
        """A^(-1/p) B."""
        return product(self.root, pair(B))

    def inverted_root(self, Z: Tensor) -> Pair:
        """A^(1/p) Z = A^(-(p-1)/p) A Z, in p products with as many columns as Z has."""
        image = product(self.matrix, pair(Z))
        for _ in range(self.p - 1):
            image = product(self.root, image)
        return image

    def residual(self, X: Tensor) -> Tensor:
        """I - X^p A."""
        return root_residual(self.matrix, pair(X), self.p)


def damped(A: Tensor, eps: float) -> Pair:
    """A + eps I (..., n, n), unrounded."""
    return pair(A).plus(eps * torch.eye(A.shape[-1], dtype=A.dtype, device=A.device))


def damped_gram(G: Tensor, eps: float) -> Pair:
    """G^T G + eps I (..., n, n), to about 2^-80: rounded to float64, it would move the smallest eigenvalue."""
    gram = product(pair(G.mT), pair(G))
    return gram.plus(eps * torch.eye(G.shape[-1], dtype=G.dtype, device=G.device))


def refined_root(A: Pair, p: int, *, eigenvalues: Tensor, eigenvectors: Tensor) -> RefinedReference | None:
    """A^(-1/p) as a pair, from an eigendecomposition of A in float64; None where the corrections do not vanish.

    Newton's method for X^p A = I in the basis V of the eigenvectors, where its linear equation is diagonal: with
    R = V^T (I - X^p A) V and x = lambda^(-1/p), the correction is V E V^T,
    E_ij = R_ij / (lambda_j sum_k x_i^k x_j^(p-1-k)). X (I - X^p A) / p, its form for an X that commutes with A, would
    amplify what does not commute.

    Args:
        A: (..., n, n) symmetric positive definite.
        p: the root, >= 1.
        eigenvalues: (..., n) of A, positive.
        eigenvectors: (..., n, n).
    """
    V, x = eigenvectors, eigenvalues ** (-1 / p)
    left, right = x.unsqueeze(-1), x.unsqueeze(-2)
    derivative = sum((left**k * right ** (p - 1 - k) for k in range(p)), torch.zeros_like(V))
    scale = derivative * eigenvalues.unsqueeze(-2)
    X = pair(_symmetric((V * right) @ V.mT))
    for _ in range(STEPS):
        correction = _symmetric(V @ ((V.mT @ root_residual(A, X, p) @ V) / scale) @ V.mT)
        X, size = X.plus(correction), _relative_size(correction, X.high)
        if size <= SETTLED:
            return RefinedReference(matrix=A, root=X, p=p)
        if not size < 1:
            return None
    return None


def root_residual(A: Pair, X: Pair, p: int) -> Tensor:
    """I - X^p A (..., n, n) in float64, to about 2^-80 of |X|^p |A|."""
    return add_product(identity_pair(A.high), -_power(X, p), A).high


def refined_polar(G: Tensor, U: Tensor) -> Pair | None:
    """The polar factor of G (..., m, n) as a pair, from an approximate one; None where the corrections do not vanish.

    A step of Newton's method, for m >= n: with H = U^T G, D = I - U^T U and T the part of G outside the range of U,
    U + U (D / 2 + W) + T H^(-1). The skew W turns H symmetric: W H + H W = H' - H'^T, H' = (I + D / 2) H. D, T and
    H - H^T are summed as pairs; float64 and H = Q diag(h) Q^T suffice for the corrections. G is not squared, so a
    condition number of 1e8 is no obstacle; a singular G has no unique factor, and gives None.
    """
    if G.shape[-2] < G.shape[-1]:
        wide = refined_polar(G.mT, U.mT)
        return None if wide is None else wide.mT
    X = pair(U)
    for _ in range(STEPS):
        correction = _polar_correction(G, X)
        if correction is None:
            return None
        X, size = X.plus(correction), _relative_size(correction, X.high)
        if size <= SETTLED:
            return X
        if not size < 1:
            return None
    return None


def _polar_correction(G: Tensor, U: Pair) -> Tensor | None:
    H = product(U.mT, pair(G))
    D = add_product(identity_pair(H.high), -U.mT, U).high
    T = add_product(pair(G), -U, H).high - U.high @ (D @ H.high)
    h, Q = torch.linalg.eigh(_symmetric(H.high))
    if not bool((h > 0).all()):
        return None
    asymmetry = H.plus(-H.high.mT).plus(-H.low.mT).high + 0.5 * (D @ H.high - H.high @ D)
    W = Q.mT @ asymmetry @ Q / (h.unsqueeze(-1) + h.unsqueeze(-2))
    correction: Tensor = U.high @ (0.5 * D + Q @ W @ Q.mT) + ((T @ Q) / h.unsqueeze(-2)) @ Q.mT
    return correction


def _power(X: Pair, p: int) -> Pair:
    """X^p by binary powers."""
    if p == 1:
        return X
    half = _power(X, p // 2)
    square = product(half, half)
    return product(square, X) if p % 2 else square


def _symmetric(A: Tensor) -> Tensor:
    return 0.5 * (A + A.mT)


def _relative_size(correction: Tensor, X: Tensor) -> float:
    """The largest of a batch (NaN where one is NaN)."""
    return float((torch.linalg.matrix_norm(correction) / torch.linalg.matrix_norm(X)).max())
