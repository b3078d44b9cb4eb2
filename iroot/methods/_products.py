"""Cost and error of a plain product C = A B, A (m, n), B (n, k), and of the Gram product C = G G^T, G (m, n)."""

from __future__ import annotations

from iroot.precision import get_precision
from iroot.registry import Workload


def product_columns(workload: Workload) -> int:
    """k; a product without it is square on the right, k = n."""
    return workload.n if workload.k is None else workload.k


def product_flops(workload: Workload) -> float:
    """2 m n k, times the precision's products."""
    products = workload.batch * get_precision(workload.precision).products
    return 2.0 * products * workload.m * workload.n * product_columns(workload)


def product_bytes(workload: Workload) -> float:
    """A and B read once, C written once."""
    m, n, k = workload.m, workload.n, product_columns(workload)
    return float(workload.batch * (m * n + n * k + m * k) * get_precision(workload.precision).storage.itemsize)


def product_accuracy(workload: Workload) -> float | None:
    """4 u + sqrt(n) u_sum relative to ||C||_F, u_sum = 2^-24 (2^-53 in fp64), for factors that do not cancel.

    Rounding both operands and the result costs at most 3 u of ||A||_F ||B||_F / sqrt(n), which is ||C||_F where B is
    independent of A (expected value; Gaussian B); the second term is the sum's. Integer grids state nothing:
    their step follows the largest element, so a heavy tail decides the error.
    """
    precision = get_precision(workload.precision)
    if precision.operand.startswith("int"):
        return None
    u = precision.unit_roundoff
    return 4.0 * u + float(workload.n**0.5) * min(u, 2.0**-24)


def gram_flops(workload: Workload) -> float:
    """m^2 n, half of a plain product, times the precision's products."""
    products = workload.batch * get_precision(workload.precision).products
    return float(products) * workload.m**2 * workload.n


def gram_bytes(workload: Workload) -> float:
    """G read once, C written once."""
    m, n = workload.m, workload.n
    return float(workload.batch * (m * n + m * m) * get_precision(workload.precision).storage.itemsize)


def gram_accuracy(workload: Workload) -> float | None:
    """As `product_accuracy`, relative to ||C||_F >= ||G||_F^2 / sqrt(m), for roundings of G that do not line up."""
    return product_accuracy(workload)
