"""The torch backend for operands with scales: FP8, INT8 and their simulations.

Both operands of a product are quantised on the spot, A ~ s_A A^ and B ~ s_B B^ (`iroot/quantize.py`), and

    alpha A B + beta C  ~  alpha s_A s_B (A^ B^) + beta C.

A symmetric operand of an iteration is close to a multiple of I, and its diagonal would use up the grid. So a multiple
of I is split off exactly and the rest quantised. Orthogonality error of `newton_schulz`, 5 steps, Gaussian 1024 x 1024,
CPU emulation, 2026-11 (bfloat16: 0.085): E4M3 0.105 with the split and 0.59 without, E5M2 0.133 and 921, INT8 0.088
and 1.6e10. INT4 diverges either way.

Finer scales (`Precision.scales`) replace the split in part and add nothing to it. The same figures: E4M3 per row 0.111
with the split and 0.155 without, per block of 128 columns 0.110 and 0.149; INT8 per block 0.086 and 0.215. With 5 steps
of `polar_express` (bfloat16: 0.199): E4M3 per matrix 0.242 and 4e4, per row 0.249 and 0.271, per block 0.248 and 0.268;
INT8 per block 0.200 and 640. They are for operands whose rows differ in size.

The iterates themselves are bfloat16 (on a CPU, for the emulated formats, float32 tensors of bfloat16 values).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from iroot.errors import UnsupportedError
from iroot.precision import Precision
from iroot.quantize import BLOCK, FORMATS, NumberFormat, Quantised, dequantise, find_scale, power_of_two_scale, quantise
from iroot.torch_ops import TorchOps, wide_product


@dataclass(frozen=True, kw_only=True)
class ShiftedSum:
    """alpha P + (constant + linear mu) C, and with `diagonal` = (a, c) + (a - c mu^2) I; P is a product, mu a trace."""

    alpha: float = 1.0
    constant: float = 0.0
    linear: float = 0.0
    diagonal: tuple[float, float] | None = None


class ScaledOps(TorchOps):
    """Quantise, multiply, rescale. Subclasses say in which dtype the grid values travel and who multiplies them."""

    def __init__(self, precision: Precision, device: torch.device) -> None:
        super().__init__(precision, device)
        self._left = FORMATS[precision.operand]
        # Tensor cores offer no E5M2 x E5M2 product: the right operand is E4M3 (torch._scaled_mm refuses the other).
        self._right = FORMATS["float8_e4m3fn"] if precision.operand == "float8_e5m2" else self._left

    def cast(self, A: Tensor) -> Tensor:
        """A rounded to bfloat16, in the storage dtype."""
        return A.to(torch.bfloat16).to(self.storage)

    def cast_word(self, A: Tensor) -> Tensor:
        """A rounded to the grid of the left operand, its scale a power of two: exact in bfloat16 and float32."""
        return dequantise(self._word(A)).to(self.storage)

    def matmul_wide(self, A: Tensor, B: Tensor) -> Tensor:
        """A B of quantised operands, in float32; words on the grid already, or parts of them, are multiplied exactly.

        A word that the products round again is another one in each of them: the error of `graded_pe` in E4M3 is then
        0.81 instead of 0.051 (half of the eigenvalues 1e-2, p = 1, target 7e-3, n = 128, CPU emulation, 2026-11).
        """
        return self._wide_product(*self._word_pair(A, B.mT))

    def gram(self, G: Tensor) -> Tensor:
        """G G^T, symmetric; G is quantised once where both operands have one format."""
        return self._result(*self._pair(G, G))

    def symmetric_matmul(self, A: Tensor, B: Tensor) -> Tensor:
        """A B for A, B symmetric: B^T stands for B, which saves a transposing copy."""
        return self._result(*self._pair(A, B))

    def symmetric_apply(self, S: Tensor, X: Tensor, *, beta: float) -> Tensor:
        """beta X + S X as (beta + mu) X + (S - mu I) X, mu = trace(S) / m, exact but for the last product."""
        mu, left, right = self._shifted_pair(S, X.mT)
        return self._shifted_sum(X, mu, left, right, ShiftedSum(constant=beta, linear=1.0))

    def symmetric_quadratic(self, A: Tensor, a: float, b: float, c: float) -> Tensor:
        """a I + b A + c A^2 as (b + 2 c mu) A + (a - c mu^2) I + c (A - mu I)^2, mu = trace(A) / m."""
        mu, left, right = self._shifted_pair(A, A)
        return self._shifted_sum(A, mu, left, right, ShiftedSum(alpha=c, constant=b, linear=2.0 * c, diagonal=(a, c)))

    def _multiply_add(self, A: Tensor, B: Tensor, C: Tensor | None, alpha: float, beta: float) -> Tensor:
        return self._result(*self._pair(A, B.mT), C=C, alpha=alpha, beta=beta)

    def _result(
        self, left: Quantised, right: Quantised, *, C: Tensor | None = None, alpha: float = 1.0, beta: float = 0.0
    ) -> Tensor:
        product = self._product(left, right)
        if C is not None:
            return self.cast(torch.add(C * beta, product, alpha=alpha))
        return self.cast(product if alpha == 1.0 else product * alpha)

    def _shifted_sum(self, C: Tensor, mu: Tensor, left: Quantised, right: Quantised, terms: ShiftedSum) -> Tensor:
        """The sum for P = left right."""
        result = torch.mul(C, mu * terms.linear + terms.constant)
        result = result.add_(self._product(left, right), alpha=terms.alpha)
        if terms.diagonal is not None:
            a, c = terms.diagonal
            result.diagonal(dim1=-2, dim2=-1).add_((a - c * mu * mu).squeeze(-1))
        return self.cast(result)

    def _pair(self, A: Tensor, B: Tensor) -> tuple[Quantised, Quantised]:
        """A and B^T as operands: contiguous rows of A and of B, the layout the FP8 and INT8 units read."""
        left = self._quantise(A, self._left)
        if A is B and self._left is self._right:
            return left, left.mT
        return left, self._quantise(B, self._right).mT

    def _word(self, A: Tensor) -> Quantised:
        """A with a power of two as its scale, in any dtype that holds the grid."""
        return quantise(A, self._left, dtype=torch.float32, scale=power_of_two_scale(A, self._left))

    def _word_pair(self, A: Tensor, B: Tensor) -> tuple[Quantised, Quantised]:
        """As `_pair`, with scales that are powers of two."""
        left = self._quantise(A, self._left, power_of_two_scale(A, self._left))
        return left, self._quantise(B, self._right, power_of_two_scale(B, self._right)).mT

    def _shifted_pair(self, S: Tensor, B: Tensor) -> tuple[Tensor, Quantised, Quantised]:
        """mu = trace(S) / m, and S - mu I and B^T as operands; B is S stands for B = S - mu I."""
        mu, rest = _split_diagonal(S)
        return mu, *self._pair(rest, rest if B is S else B)

    def _quantise(self, A: Tensor, number_format: NumberFormat, scale: Tensor | None = None) -> Quantised:
        A = A.contiguous()
        if scale is None:
            scale = find_scale(A, number_format, self.precision.scales)
        return quantise(A, number_format, dtype=self._carrier(number_format.dtype), scale=scale)

    @abstractmethod
    def _carrier(self, grid: torch.dtype | None) -> torch.dtype:
        """The dtype grid values are multiplied in; `grid` is the format's own dtype, or None for integers."""

    @abstractmethod
    def _product(self, left: Quantised, right: Quantised) -> Tensor:
        """s_A s_B (A^ B^)."""

    def _wide_product(self, left: Quantised, right: Quantised) -> Tensor:
        """s_A s_B (A^ B^) in float32."""
        return self._product(left, right).to(torch.float32)


class SimulatedScaledOps(ScaledOps):
    """Grid values multiplied as bfloat16 on a GPU (exact: at most 8 significant bits) and as float32 on a CPU.

    With a scale per block of K, the sum over each block is scaled and added to the others in float32.
    """

    def _carrier(self, grid: torch.dtype | None) -> torch.dtype:
        return torch.float32 if self.device.type == "cpu" else torch.bfloat16

    def _product(self, left: Quantised, right: Quantised) -> Tensor:
        blocks = left.scale.shape[-1]
        if blocks == 1:
            return torch.matmul(left.values, right.values) * (left.scale * right.scale)
        pairs = zip(torch.split(left.values, BLOCK, dim=-1), torch.split(right.values, BLOCK, dim=-2), strict=True)
        return torch.stack(
            [
                wide_product(a, b) * (left.scale[..., j : j + 1] * right.scale[..., j : j + 1, :])
                for j, (a, b) in enumerate(pairs)
            ]
        ).sum(0)


class Float8Ops(ScaledOps):
    """FP8 tensor cores through torch._scaled_mm, without fast accumulation.

    A product is rounded to bfloat16, but for `matmul_wide`.
    """

    def _carrier(self, grid: torch.dtype | None) -> torch.dtype:
        assert grid is not None
        return grid

    def _product(self, left: Quantised, right: Quantised) -> Tensor:
        return self._float8_product(left, right, torch.bfloat16)

    def _wide_product(self, left: Quantised, right: Quantised) -> Tensor:
        return self._float8_product(left, right, torch.float32)

    def _float8_product(self, left: Quantised, right: Quantised, result: torch.dtype) -> Tensor:
        (m, k), n = left.values.shape[-2:], right.values.shape[-1]
        if k % 16 or n % 16:
            raise UnsupportedError(
                f"{self.precision.name}: an FP8 product needs its inner and right dimensions divisible by 16, got "
                f"({m} x {k}) times ({k} x {n}); pad the matrix or use bf16"
            )
        return _each_matrix(partial(_float8_product, result=result), left, right)


class Int8Ops(ScaledOps):
    """INT8 tensor cores through torch._int_mm: exact int32 sums (for inner dimensions up to 2^31 / 127^2 = 133 152)."""

    def _carrier(self, grid: torch.dtype | None) -> torch.dtype:
        return torch.int8

    def _product(self, left: Quantised, right: Quantised) -> Tensor:
        return self._sums(left, right) * (left.scale * right.scale)

    def _sums(self, left: Quantised, right: Quantised) -> Tensor:
        """A^ B^ in int32."""
        (m, k), n = left.values.shape[-2:], right.values.shape[-1]
        if m <= 16 or k % 8 or n % 8:
            raise UnsupportedError(
                f"{self.precision.name}: an INT8 product needs more than 16 rows and its inner and right dimensions "
                f"divisible by 8, got ({m} x {k}) times ({k} x {n}); pad the matrix or use bf16"
            )
        return _each_matrix(_int8_product, left, right)


def _split_diagonal(A: Tensor) -> tuple[Tensor, Tensor]:
    """mu = trace(A) / m, (..., 1, 1), and A - mu I, both float32."""
    rest = A.to(torch.float32, copy=True)
    diagonal = rest.diagonal(dim1=-2, dim2=-1)
    mu = diagonal.mean(-1, keepdim=True)
    diagonal.sub_(mu)
    return mu.unsqueeze(-1), rest


def _float8_product(left: Quantised, right: Quantised, *, result: torch.dtype) -> Tensor:
    # The unit takes one scale for each operand, or one for each row of the left and column of the right one.
    one = right.scale.numel() == 1
    return torch._scaled_mm(
        left.values,
        right.values,
        scale_a=left.scale.reshape(()) if one else left.scale,
        scale_b=right.scale.reshape(()) if one else right.scale,
        out_dtype=result,
        use_fast_accum=False,
    )


def _int8_product(left: Quantised, right: Quantised) -> Tensor:
    return torch._int_mm(left.values, right.values)


def _each_matrix(product: Callable[[Quantised, Quantised], Tensor], left: Quantised, right: Quantised) -> Tensor:
    """Apply a product of 2-D operands to every matrix of a batch; neither unit has a batched call in torch."""
    *batch, m, _ = left.values.shape
    if not batch:
        return product(left, right)
    pairs = zip(_matrices(left), _matrices(right), strict=True)
    return torch.stack([product(a, b) for a, b in pairs]).reshape(*batch, m, right.values.shape[-1])


def _matrices(batch: Quantised) -> Iterator[Quantised]:
    """The matrices one by one. cuBLASLt wants each scale at a multiple of 16 bytes: a slice of a vector is refused."""
    if batch.scale.shape[-2:] != (1, 1):
        yield from (
            Quantised(v, s.clone())
            for v, s in zip(batch.values.flatten(0, -3), batch.scale.flatten(0, -3), strict=True)
        )
        return
    values, scales = batch.values.flatten(0, -3), batch.scale.reshape(-1, 1).expand(-1, 4).contiguous()
    yield from (Quantised(v, s[:1, None]) for v, s in zip(values.unbind(), scales.unbind(), strict=True))


def make_scaled_ops(precision: Precision, device: torch.device) -> ScaledOps:
    """The operations of a quantised precision that `device` is known to support."""
    if precision.execution != "native":
        return SimulatedScaledOps(precision, device)
    return Int8Ops(precision, device) if precision.name == "int8" else Float8Ops(precision, device)
