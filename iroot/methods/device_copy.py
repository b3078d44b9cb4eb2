"""Control: a device-to-device copy, bound by memory bandwidth, code this project does not own."""

from __future__ import annotations

from torch import Tensor

from iroot.methods._operands import require_matrix
from iroot.ops import Ops
from iroot.precision import get_precision
from iroot.registry import MethodSpec, NoOptions, Operands, Workload, register


def device_copy(operands: Operands, ops: Ops, options: NoOptions) -> Tensor:
    """A copy of operands.A (..., m, n) in new memory."""
    return require_matrix(operands).clone()


def _bytes(workload: Workload, options: NoOptions) -> float:
    """Read once, written once."""
    return 2.0 * workload.batch * workload.m * workload.n * get_precision(workload.precision).storage.itemsize


register(
    MethodSpec(
        name="device_copy",
        task="copy",
        function=device_copy,
        precisions=("fp64", "fp32", "bf16", "fp16"),
        flops=lambda workload, options: 0.0,
        bytes_moved=_bytes,
        accuracy=lambda workload, options: 0.0,
        summary="A.clone()",
        citation="torch.Tensor.clone",
        role="control",
        backend="torch",
    )
)
