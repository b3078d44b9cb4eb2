"""Reference: A^(-1) B by a Cholesky factor that is kept from call to call."""

from __future__ import annotations

import threading
import weakref
from collections import OrderedDict
from dataclasses import dataclass

import torch
from torch import Tensor

from iroot.errors import InvalidInputError
from iroot.methods import _spd
from iroot.methods.cholesky import accuracy, factorised
from iroot.ops import Ops
from iroot.registry import MethodSpec, NoOptions, Operands, Workload, register

KEPT = 8
"""Factors held at most, the least recently used one goes first."""


@dataclass(frozen=True, kw_only=True, eq=False)
class _Kept:
    """The factor of one tensor, as long as that lives and is not changed in place."""

    source: weakref.ref[Tensor]
    version: int
    L: Tensor


class _Factors:
    """Cholesky factors of the tensors of recent calls."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[int, float, torch.dtype], _Kept] = OrderedDict()
        self._lock = threading.Lock()

    def factor(self, operands: Operands, dtype: torch.dtype) -> Tensor:
        """L of A + eps I = L L^T, made where A is new or has changed."""
        A = operands.A
        if A.is_inference():
            return factorised(_spd.damped(operands).to(dtype))  # it counts no changes
        key = (id(A), operands.eps, dtype)
        with self._lock:
            found = self._kept.get(key)
            if found is not None and found.source() is A and found.version == A._version:
                self._kept.move_to_end(key)
                return found.L
        L = factorised(_spd.damped(operands).to(dtype))
        with self._lock:
            self._kept[key] = _Kept(source=weakref.ref(A), version=A._version, L=L)
            self._kept.move_to_end(key)
            for old in [each for each, kept in self._kept.items() if kept.source() is None]:
                del self._kept[old]
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        return L


_FACTORS = _Factors()


def cholesky_reused(operands: Operands, ops: Ops, options: NoOptions) -> Tensor:
    """Z = L^(-T) (L^(-1) B) from A + eps I = L L^T in the dtype of `ops`, p = 1; L is kept while A is the same tensor.

    A changed in place, another eps or another precision makes a new factor. Error and NaN are those of `cholesky`.

    Raises:
        InvalidInputError: p is not 1.
    """
    if _spd.root(operands) != 1:
        raise InvalidInputError(
            f"cholesky_reused solves A Z = B, p = 1, got p={operands.p}; use eigh or hybrid for other roots"
        )
    B = _spd.right_hand_side(operands).to(ops.storage)
    return torch.cholesky_solve(B, _FACTORS.factor(operands, ops.storage)).to(operands.A.dtype)


def flops(workload: Workload, options: NoOptions) -> float:
    """2 n^2 k for the two triangular solves: the calls after the first."""
    return workload.batch * 2.0 * float(workload.n) ** 2 * (workload.k or 0)


register(
    MethodSpec(
        name="cholesky_reused",
        task="inverse_apply",
        function=cholesky_reused,
        roots=(1,),
        precisions=("fp64", "fp32"),
        flops=flops,
        bytes_moved=_spd.apply_bytes,
        accuracy=accuracy,
        capturable=False,
        role="reference",
        summary="two triangular solves with the Cholesky factor of an earlier call, p = 1",
        citation="Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., 2002, chapter 10",
    )
)
