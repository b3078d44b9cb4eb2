"""The precision table: the arithmetic plan of a method, one row each.

A row says in which number format the operands of every matrix product are, in which dtype the iterates are stored
between products, and how the product is executed. Products accumulate in float32 (float64 for `fp64`, int32 for
`int8`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from iroot.errors import UnknownNameError

Execution = Literal["native", "emulated", "simulated"]
Granularity = Literal["tensor", "row", "block"]


@dataclass(frozen=True, kw_only=True)
class Precision:
    """One arithmetic plan.

    Attributes:
        name: the id used in manifests, cases and reports.
        operand: number format of product operands.
        storage: torch dtype the iterates and results are held in (emulated formats live in float32).
        unit_roundoff: largest relative rounding error of `operand` (for integers: half a step of a full-scale value).
        execution: `native` uses the machine's own unit; `emulated` rounds operands to the format and multiplies in
            float32; `simulated` quantises, multiplies in `storage` and applies the scales to the product.
        capability: lowest CUDA compute capability that has the unit, or None where no GPU unit is needed.
        cpu: whether a CPU has it.
        summary: one line for reports.
        words: numbers of the operand format that an operand's entry is split into.
        scales: of a quantised operand: one for the matrix, one for each row of the left and column of the right
            operand, or one for 1 x 128 blocks of those (`quantize.BLOCK`).
    """

    name: str
    operand: str
    storage: torch.dtype
    unit_roundoff: float
    execution: Execution
    capability: tuple[int, int] | None
    cpu: bool
    summary: str
    words: int = 1
    scales: Granularity = "tensor"

    @property
    def products(self) -> int:
        """Products of words that a product takes: 1, or for two words hi hi + hi lo + lo hi."""
        return 2 * self.words - 1


_ROWS = (
    Precision(name="fp64", operand="float64", storage=torch.float64, unit_roundoff=2.0**-53, execution="native",
              capability=(6, 0), cpu=True, summary="float64 throughout; the reference"),
    Precision(name="fp32", operand="float32", storage=torch.float32, unit_roundoff=2.0**-24, execution="native",
              capability=(3, 5), cpu=True, summary="float32 throughout, TF32 off"),
    Precision(name="tf32", operand="tfloat32", storage=torch.float32, unit_roundoff=2.0**-11, execution="native",
              capability=(8, 0), cpu=False, summary="float32 storage, TF32 tensor-core products"),
    Precision(name="bf16", operand="bfloat16", storage=torch.bfloat16, unit_roundoff=2.0**-8, execution="native",
              capability=(8, 0), cpu=False, summary="bfloat16 operands and storage, float32 accumulation"),
    Precision(name="fp16", operand="float16", storage=torch.float16, unit_roundoff=2.0**-11, execution="native",
              capability=(7, 0), cpu=False, summary="float16 operands and storage, float32 accumulation"),
    Precision(name="bf16x3", operand="bfloat16", storage=torch.float32, unit_roundoff=2.0**-16, execution="native",
              capability=(8, 0), cpu=False, words=2,
              summary="float32 storage, operands split into two bfloat16 words, three products in float32"),
    Precision(name="fp16x3", operand="float16", storage=torch.float32, unit_roundoff=2.0**-22, execution="native",
              capability=(7, 0), cpu=False, words=2,
              summary="float32 storage, operands split into two scaled float16 words, three products in float32"),
    Precision(name="fp8_e4m3", operand="float8_e4m3fn", storage=torch.bfloat16, unit_roundoff=2.0**-4,
              execution="native", capability=(8, 9), cpu=False,
              summary="FP8 E4M3 operands with per-tensor scales, bfloat16 storage"),
    Precision(name="fp8_e5m2", operand="float8_e5m2", storage=torch.bfloat16, unit_roundoff=2.0**-3,
              execution="native", capability=(8, 9), cpu=False,
              summary="FP8 E5M2 left operand, E4M3 right operand, per-tensor scales, bfloat16 storage"),
    Precision(name="int8", operand="int8", storage=torch.bfloat16, unit_roundoff=0.5 / 127, execution="native",
              capability=(7, 5), cpu=False, summary="INT8 operands with per-tensor scales, int32 accumulation"),
    Precision(name="int8_sim", operand="int8", storage=torch.bfloat16, unit_roundoff=0.5 / 127,
              execution="simulated", capability=(8, 0), cpu=True,
              summary="operands rounded to 255 levels per tensor, product in bfloat16 (float32 on a CPU)"),
    Precision(name="int4_sim", operand="int4", storage=torch.bfloat16, unit_roundoff=0.5 / 7, execution="simulated",
              capability=(8, 0), cpu=True,
              summary="operands rounded to 15 levels per tensor, product in bfloat16 (float32 on a CPU)"),
    Precision(name="bf16_emulated", operand="bfloat16", storage=torch.float32, unit_roundoff=2.0**-8,
              execution="emulated", capability=None, cpu=True,
              summary="operands and iterates rounded to bfloat16, products in float32"),
    Precision(name="fp16_emulated", operand="float16", storage=torch.float32, unit_roundoff=2.0**-11,
              execution="emulated", capability=None, cpu=True,
              summary="operands and iterates rounded to float16, products in float32"),
    Precision(name="bf16x3_emulated", operand="bfloat16", storage=torch.float32, unit_roundoff=2.0**-16,
              execution="emulated", capability=None, cpu=True, words=2,
              summary="bf16x3, its 16-bit words multiplied in float32"),
    Precision(name="fp16x3_emulated", operand="float16", storage=torch.float32, unit_roundoff=2.0**-22,
              execution="emulated", capability=None, cpu=True, words=2,
              summary="fp16x3, its 16-bit words multiplied in float32"),
    Precision(name="fp8_e4m3_emulated", operand="float8_e4m3fn", storage=torch.float32, unit_roundoff=2.0**-4,
              execution="emulated", capability=None, cpu=True,
              summary="operands rounded to FP8 E4M3 with per-tensor scales, iterates to bfloat16, products in float32"),
    Precision(name="fp8_e5m2_emulated", operand="float8_e5m2", storage=torch.float32, unit_roundoff=2.0**-3,
              execution="emulated", capability=None, cpu=True,
              summary="left operand rounded to FP8 E5M2, right to E4M3, per-tensor scales, products in float32"),
    Precision(name="fp8_e4m3_row", operand="float8_e4m3fn", storage=torch.bfloat16, unit_roundoff=2.0**-4,
              execution="native", capability=(9, 0), cpu=False, scales="row",
              summary="FP8 E4M3 operands with a scale per row or column, bfloat16 storage"),
    Precision(name="fp8_e4m3_row_emulated", operand="float8_e4m3fn", storage=torch.float32, unit_roundoff=2.0**-4,
              execution="emulated", capability=None, cpu=True, scales="row",
              summary="operands rounded to FP8 E4M3 with a scale per row or column, products in float32"),
    Precision(name="fp8_e4m3_block_sim", operand="float8_e4m3fn", storage=torch.bfloat16, unit_roundoff=2.0**-4,
              execution="simulated", capability=(8, 9), cpu=True, scales="block",
              summary="FP8 E4M3 operands with a scale per 1 x 128 block, products in bfloat16 (float32 on a CPU)"),
    Precision(name="int8_block_sim", operand="int8", storage=torch.bfloat16, unit_roundoff=0.5 / 127,
              execution="simulated", capability=(8, 0), cpu=True, scales="block",
              summary="255 levels with a scale per 1 x 128 block, products in bfloat16 (float32 on a CPU)"),
)  # fmt: skip

PRECISIONS: dict[str, Precision] = {row.name: row for row in _ROWS}

FLOATING = ("fp64", "fp32", "tf32", "bf16", "fp16", "bf16_emulated", "fp16_emulated")
"""Precisions that every matmul-only method serves."""

SPLIT = ("bf16x3", "fp16x3", "bf16x3_emulated", "fp16x3_emulated")
"""Precisions with operands split into two words; served by the iterations that converge to the exact result."""

QUANTISED = (
    "fp8_e4m3", "fp8_e5m2", "int8", "int8_sim", "int4_sim", "fp8_e4m3_emulated", "fp8_e5m2_emulated",
)  # fmt: skip
"""Precisions with scaled operands; served by the polar methods and `gemm`."""

FINELY_SCALED = ("fp8_e4m3_row", "fp8_e4m3_row_emulated", "fp8_e4m3_block_sim", "int8_block_sim")
"""Precisions with a scale per row or per block; served by `newton_schulz` and `polar_express`."""


def get_precision(name: str) -> Precision:
    """Return the row called `name`; raises UnknownNameError with the nearest valid name."""
    try:
        return PRECISIONS[name]
    except KeyError:
        raise UnknownNameError("precision", name, PRECISIONS) from None


def unsupported_reason(
    precision: Precision, device: torch.device, capability: tuple[int, int] | None = None
) -> str | None:
    """Why `device` cannot run `precision`, or None if it can.

    Args:
        capability: CUDA compute capability of `device`, which then need not be there; None: it is asked.
    """
    if device.type == "cpu":
        if precision.cpu:
            return None
        twin = f"{precision.name}_emulated"
        hint = f"; '{twin}' runs here" if twin in PRECISIONS else ""
        return f"no {precision.operand} matrix unit on a CPU{hint}"
    if precision.capability is None:
        return f"emulation is for machines without the unit; use '{precision.name.removesuffix('_emulated')}'"
    have = capability or torch.cuda.get_device_capability(device)
    if have < precision.capability:
        need = ".".join(map(str, precision.capability))
        return f"{precision.operand} needs compute capability {need}, this GPU has {have[0]}.{have[1]}"
    return None
