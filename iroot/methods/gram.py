"""The Gram product G G^T in any precision of the table: half of its entries are computed, the others mirrored."""

from __future__ import annotations

from torch import Tensor

from iroot.methods._products import gram_accuracy, gram_bytes, gram_flops
from iroot.ops import Ops
from iroot.precision import FLOATING, QUANTISED, SPLIT
from iroot.registry import MethodSpec, NoOptions, Operands, register


def gram(operands: Operands, ops: Ops, options: NoOptions) -> Tensor:
    """operands.A (..., m, n) times its transpose, (..., m, m); quantisation included where the precision has it.

    Raises:
        UnsupportedError: the size is one that the FP8 or INT8 unit cannot multiply.
    """
    return ops.gram(ops.cast(operands.A)).to(operands.A.dtype)


register(
    MethodSpec(
        name="gram",
        task="syrk",
        function=gram,
        precisions=FLOATING + SPLIT + QUANTISED,
        flops=lambda workload, options: gram_flops(workload),
        bytes_moved=lambda workload, options: gram_bytes(workload),
        accuracy=lambda workload, options: gram_accuracy(workload),
        summary="G G^T as the polar methods form it: one triangle by Triton where that is faster, else a plain product",
        citation="Dongarra et al. 1990, A set of level 3 basic linear algebra subprograms (SYRK)",
    )
)
