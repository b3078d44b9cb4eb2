"""The cost model against times of an H100, and the choices that follow from it."""

from __future__ import annotations

import pytest
import torch

from iroot.costs import seconds
from iroot.planning import Choice, Demand, choose
from iroot.registry import Workload, get_method

HOPPER, AMPERE, ADA = (9, 0), (8, 0), (8, 9)
MEASURED = [
    ("inverse_root", "graded_pe", "fp16", 2, 512, 1, None, 1e4, 87e-6),
    ("inverse_root", "graded_pe", "fp16", 2, 1024, 1, None, 1e4, 183e-6),
    ("inverse_root", "graded_pe", "fp16", 2, 1024, 16, None, 1e4, 1613e-6),
    ("inverse_root", "graded_pe", "fp16", 2, 2048, 1, None, 5e3, 597e-6),
    ("inverse_root", "graded_pe", "fp16", 2, 1024, 1, None, 1e2, 122e-6),
    ("inverse_root", "coupled_pe", "fp16", 2, 1024, 1, None, 1e2, 144e-6),
    ("inverse_root", "coupled_pe", "fp16", 2, 1024, 1, None, 1e4, 202e-6),
    ("inverse_root", "coupled_pe", "fp16", 2, 1024, 16, None, 1e4, 1556e-6),
    ("inverse_root", "coupled_pe", "fp64", 2, 256, 1, None, 4.75e3, 144e-6),
    ("inverse_root", "coupled_pe", "tf32", 2, 1024, 1, None, 1e4, 411e-6),
    ("inverse_root", "coupled_pe", "bf16x3", 2, 1024, 1, None, 1e4, 390e-6),
    ("inverse_root", "coupled_pe", "fp16x3", 2, 1024, 1, None, 1e4, 427e-6),
    ("inverse_root", "coupled_pe", "fp32", 2, 2048, 1, None, 1e4, 7653e-6),
    ("inverse_apply", "graded_pe", "fp16", 2, 1024, 1, 64, 1e2, 204e-6),
    ("inverse_apply", "coupled_pe", "fp16", 2, 2048, 1, 256, 1e2, 365e-6),
    ("inverse_apply", "hybrid", "fp16", 2, 1024, 1, 64, 1e2, 1068e-6),
    ("inverse_apply", "chebyshev", "fp16", 2, 1024, 1, 64, 1e2, 1081e-6),
    ("polar", "polar_express", "fp16", None, 1024, 1, None, 1e3, 88e-6),
    ("polar", "polar_express", "bf16", None, 1024, 16, None, 1e3, 758e-6),
    ("polar", "polar_express", "bf16", None, 4096, 1, None, 1e3, 1910e-6),
    ("polar", "polar_express", "fp64", None, 1024, 1, None, 1e3, 723e-6),
]
"""Task, method, precision, p, n, batch, k, condition number, seconds (medians of the launches' medians):
`reports/h100-production.md`, 2026-11."""


@pytest.mark.parametrize(("task", "method", "precision", "p", "n", "batch", "k", "kappa", "measured"), MEASURED)
def test_the_model_is_within_a_sixth_of_the_measured_times(
    task: str,
    method: str,
    precision: str,
    p: int | None,
    n: int,
    batch: int,
    k: int | None,
    kappa: float,
    measured: float,
) -> None:
    spec = get_method(task, method)
    workload = Workload(m=n, n=n, precision=precision, batch=batch, k=k, p=p, lower=0.95 / kappa)
    assert seconds(spec, workload, spec.options(), capability=HOPPER) == pytest.approx(measured, rel=1 / 6)


def plan(
    task: str, rtol: float, lower: float | None, *, n: int = 1024, k: int | None = None, p: int | None = 2,
    capability: tuple[int, int] = HOPPER, precision: str = "auto", method: str = "auto",
) -> Choice:  # fmt: skip
    workload = Workload(m=n, n=n, precision="auto", k=k, p=p, lower=lower)
    return choose(
        Demand(
            task=task, workload=workload, device=torch.device("cuda"), rtol=rtol, method=method, precision=precision,
            options=None, capability=capability,
        )
    )  # fmt: skip


def test_a_device_that_is_not_there_can_be_planned_for() -> None:
    choice = plan("inverse_root", 1e-3, 0.95e-4)
    assert (choice.spec.name, choice.precision) == ("graded_pe", "fp16")
    assert choice.stated is not None
    assert 7e-4 < choice.stated <= 1e-3
    old = plan("inverse_root", 1e-3, 0.95e-4, capability=(7, 0))
    assert old.precision in ("fp16", "fp16x3", "fp32", "fp64")


def test_of_equally_fast_choices_the_more_accurate_one_wins() -> None:
    assert plan("inverse_root", 1e-1, 1e-3).precision == "fp16"


def test_graded_steps_are_chosen_where_they_are_as_many_and_faster() -> None:
    """kappa 1e2, n = 1024: 140 us for 176 in four steps; applied to columns it is the other way round, 222 for 178."""
    assert plan("inverse_root", 1e-2, 0.95e-2).spec.name == "graded_pe"
    assert plan("inverse_apply", 1e-2, 0.95e-2, k=64).spec.name == "coupled_pe"


def test_without_fused_kernels_a_graded_root_costs_more() -> None:
    spec = get_method("inverse_root", "graded_pe")
    workload = Workload(m=1024, n=1024, precision="fp16", p=2, lower=0.95e-4)
    fused, apart = (seconds(spec, workload, spec.options(), capability=c) for c in (HOPPER, AMPERE))
    assert apart == pytest.approx(1329e-6, rel=0.2)
    assert apart > 5 * fused


def test_float64_is_not_chosen_for_speed_where_it_has_no_tensor_cores() -> None:
    for task, k, p in (("inverse_root", None, 2), ("inverse_apply", 64, 2), ("polar", None, None)):
        assert plan(task, 1e-4, 0.1, k=k, p=p, capability=ADA).precision != "fp64"


def test_a_system_is_planned_in_two_words() -> None:
    """A task without a root has no statement of the roots' kind."""
    choice = plan("solve", 1e-3, 0.1, k=16, p=None, method="coupled_pe", precision="fp16x3")
    assert choice.precision == "fp16x3"
    assert choice.stated is not None
    assert plan("solve", 1e-3, 0.1, k=16, p=None).spec.name == "lu"
