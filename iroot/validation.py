"""Checks of what callers pass. None reads a tensor's values, so none synchronises with the device."""

from __future__ import annotations

import math
import operator

import torch
from torch import Tensor

from iroot.errors import InvalidInputError

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
DEVICES = ("cpu", "cuda")
SIDES = ("right", "dual")
SMALLEST_RTOL = 1e-14
LARGEST_RTOL = 0.5


def check_spd(A: Tensor) -> None:
    """Raise InvalidInputError unless A is a dense real floating-point tensor (..., n, n) without gradients."""
    check_tensor(A, "A")
    if A.ndim < 2 or A.shape[-1] != A.shape[-2]:
        raise InvalidInputError(
            f"A must be square in its last two dimensions, got {tuple(A.shape)}; for the Gram matrix of G pass G @ G.mT"
        )
    check_device(A)


def check_square(A: Tensor) -> None:
    """Raise InvalidInputError unless A is a dense real floating-point tensor (..., n, n) without gradients."""
    check_tensor(A, "A")
    if A.ndim < 2 or A.shape[-1] != A.shape[-2]:
        raise InvalidInputError(
            f"A must be square in its last two dimensions, got {tuple(A.shape)}; least squares are not served"
        )
    check_device(A)


def check_rectangular(G: Tensor) -> None:
    """Raise InvalidInputError unless G is a dense real floating-point tensor (..., m, n) without gradients."""
    check_tensor(G, "G")
    if G.ndim < 2:
        raise InvalidInputError(
            f"G must have at least two dimensions, got {tuple(G.shape)}; reshape it to (m, n), for a vector to (1, n)"
        )
    check_device(G)


def check_columns(A: Tensor, B: Tensor) -> None:
    """Raise InvalidInputError unless B is (..., n, k) and fits A (..., n, n) in batch, dtype and device."""
    check_tensor(B, "B")
    if B.ndim != A.ndim or B.shape[:-1] != A.shape[:-1]:
        raise InvalidInputError(
            f"B must be (..., n, k) with the batch dimensions and the n of A, got A {tuple(A.shape)} and "
            f"B {tuple(B.shape)}; a single column is B[..., None], a shared B is expanded with B.expand(...)"
        )
    check_alike(A, B, "A")


def check_gram_columns(G: Tensor, B: Tensor, side: str) -> None:
    """Raise InvalidInputError unless `side` is right or dual and B is (..., n, k) or (..., m, k) for G (..., m, n)."""
    if side not in SIDES:
        raise InvalidInputError(f"side must be 'right' (G^T G) or 'dual' (G G^T), got {side!r}")
    check_tensor(B, "B")
    rows, name = (G.shape[-1], "n") if side == "right" else (G.shape[-2], "m")
    if B.ndim != G.ndim or B.shape[:-2] != G.shape[:-2] or B.shape[-2] != rows:
        raise InvalidInputError(
            f"B must be (..., {name}, k) with the batch dimensions and the {name} of G (..., m, n) for side='{side}', "
            f"got G {tuple(G.shape)} and B {tuple(B.shape)}; a single column is B[..., None]"
        )
    check_alike(G, B, "G")


def check_alike(A: Tensor, B: Tensor, name: str) -> None:
    """Raise InvalidInputError unless A, called `name`, and B are on one device and of one dtype."""
    if B.device != A.device:
        raise InvalidInputError(
            f"{name} and B must be on one device, got {A.device} and {B.device}; move B with B.to({name}.device)"
        )
    if B.dtype != A.dtype:
        raise InvalidInputError(
            f"{name} and B must have one dtype, got {A.dtype} and {B.dtype}; convert B with B.to({name}.dtype)"
        )


def check_tensor(A: Tensor, name: str) -> None:
    """Raise InvalidInputError unless A is a dense tensor of a served dtype that does not require gradients."""
    if not isinstance(A, Tensor):
        raise InvalidInputError(
            f"{name} must be a torch.Tensor, got {type(A).__name__}; convert it with torch.as_tensor({name})"
        )
    if A.is_complex():
        raise InvalidInputError(f"{name} must be real, got {A.dtype}; complex matrices are not served")
    if A.dtype not in DTYPES:
        raise InvalidInputError(
            f"{name} must be float64, float32, bfloat16 or float16, got {A.dtype}; convert it, as with {name}.float()"
        )
    if A.layout is not torch.strided:
        raise InvalidInputError(f"{name} must be dense, got {A.layout}; convert it with {name}.to_dense()")
    if A.requires_grad:
        raise InvalidInputError(
            f"{name} must not require gradients, got requires_grad=True; there is no backward pass: "
            f"pass {name}.detach()"
        )


def check_device(A: Tensor) -> None:
    """Raise InvalidInputError unless A is on a CPU or a CUDA device."""
    if A.device.type not in DEVICES:
        raise InvalidInputError(f"tensors must be on a CPU or a CUDA device, got {A.device}; move them with .to()")


def check_root(p: int) -> int:
    """p as an int. Raises InvalidInputError unless it is an integer >= 1."""
    try:
        root = 0 if isinstance(p, bool) else operator.index(p)
    except TypeError:
        root = 0
    if root < 1:
        raise InvalidInputError(
            f"p must be an integer >= 1, got {p!r}; A^(-1/p) is computed, so p=2 is the inverse square root"
        )
    return root


def check_damping(eps: float, eps_relative: float) -> None:
    """Raise InvalidInputError unless both are finite numbers >= 0."""
    for name, value in (("eps", eps), ("eps_relative", eps_relative)):
        if not _is_number(value) or not 0.0 <= value < math.inf:
            raise InvalidInputError(f"{name} must be finite and >= 0, got {value!r}; it is added to the diagonal of A")


def check_reuse(reuse: int) -> int:
    """`reuse` as an int. Raises InvalidInputError unless it is an integer >= 1."""
    try:
        count = 0 if isinstance(reuse, bool) else operator.index(reuse)
    except TypeError:
        count = 0
    if count < 1:
        raise InvalidInputError(
            f"reuse must be an integer >= 1, the number of calls expected with this matrix, got {reuse!r}"
        )
    return count


def check_rtol(rtol: float) -> None:
    """Raise InvalidInputError unless rtol is in [1e-14, 0.5]."""
    if not _is_number(rtol) or not SMALLEST_RTOL <= rtol <= LARGEST_RTOL:
        raise InvalidInputError(
            f"rtol must be in [{SMALLEST_RTOL}, {LARGEST_RTOL}], got {rtol!r}; None chooses it from the dtype"
        )


def check_lower(lower: float | None) -> None:
    """Raise InvalidInputError unless lower is None or in (0, 1]."""
    if lower is not None and (not _is_number(lower) or not 0.0 < lower <= 1.0):
        raise InvalidInputError(
            f"lower must be in (0, 1], smallest over largest eigenvalue, got {lower!r}; None where it is unknown"
        )


def _is_number(value: object) -> bool:
    return isinstance(value, float | int) and not isinstance(value, bool)
