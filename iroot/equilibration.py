"""Diagonal scalings of a square matrix that a linear system undoes exactly: A Z = B is (D A E) (E^(-1) Z) = D B.

Every scale is a power of two, so that scaling and undoing round nothing. They belong to p = 1 alone: for p > 1 the root
of a rescaled matrix is not the rescaled root (`iroot.scaling` has the bounds that come of them there).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from iroot.errors import UnknownNameError

RUIZ_SWEEPS = 4


@dataclass(frozen=True, kw_only=True)
class Equilibrated:
    """C = D A E.

    Attributes:
        C: (..., n, n).
        rows: (..., n, 1), the diagonal of D.
        columns: (..., n, 1), the diagonal of E.
    """

    C: Tensor
    rows: Tensor
    columns: Tensor


def none(A: Tensor) -> Equilibrated:
    """A itself."""
    ones = torch.ones_like(A[..., :1])
    return Equilibrated(C=A, rows=ones, columns=ones)


def row_norm(A: Tensor) -> Equilibrated:
    """Rows of equal Euclidean norm to within a factor 2.

    The condition number is then at most 2 n^(1/2) times the least that scaling rows can reach (van der Sluis 1969,
    Numer. Math. 14; Higham 2002, theorem 7.5; the 2 is for rounding to powers of two).
    """
    # Over the largest entry of each row: squares of float32 values leave float32's range.
    largest = A.abs().amax(-1, keepdim=True)
    safe = torch.where(largest > 0.0, largest, 1.0)
    rows = _powers_of_two(safe * torch.linalg.vector_norm(A / safe, dim=-1, keepdim=True), -2)
    return Equilibrated(C=A * rows, rows=rows, columns=torch.ones_like(rows))


def ruiz(A: Tensor) -> Equilibrated:
    """Rows and columns with largest entries alike, in four sweeps from both sides (Ruiz 2001, RAL-TR-2001-034)."""
    C = A
    rows = columns = torch.ones_like(A[..., :1])
    for _ in range(RUIZ_SWEEPS):
        size = C.abs()
        # Square roots of both sides at once: a single large entry is shared between its row and its column.
        d = _powers_of_two(size.amax(-1, keepdim=True).sqrt(), -2)
        e = _powers_of_two(size.amax(-2, keepdim=True).sqrt(), -1)
        C = C * d * e
        rows, columns = rows * d, columns * e.mT
    return Equilibrated(C=C, rows=rows, columns=columns)


def _powers_of_two(size: Tensor, dim: int) -> Tensor:
    """Powers of two near 1 / size, with one and the same factor along `dim` for sizes within 2^(1/2) of the largest.

    Rounding each 1 / size by itself would tear apart rows on either side of a boundary, and make a well-conditioned
    matrix up to twice as bad. A size of 0, or one that is not finite, counts as the largest.
    """
    limits = torch.finfo(size.dtype)
    usable = (size > 0.0) & size.isfinite()
    largest = torch.where(usable, size, 0.0).amax(dim, keepdim=True)
    largest = torch.where(largest > 0.0, largest, 1.0).clamp(4.0 * limits.tiny, 0.25 * limits.max)
    level = largest.log2()
    below = level - torch.where(usable, size, largest).clamp(4.0 * limits.tiny, 0.25 * limits.max).log2()
    return torch.ldexp(torch.ones_like(size), (below.round() - level.round()).to(torch.int32))


EQUILIBRATIONS: dict[str, Callable[[Tensor], Equilibrated]] = {"none": none, "row_norm": row_norm, "ruiz": ruiz}


def get_equilibration(name: str) -> Callable[[Tensor], Equilibrated]:
    """Return the scaling called `name`; raises UnknownNameError with the nearest valid name."""
    try:
        return EQUILIBRATIONS[name]
    except KeyError:
        raise UnknownNameError("equilibration", name, EQUILIBRATIONS) from None
