"""A planted truth for each thing that can become of a kernel."""

from __future__ import annotations

import pytest

from harness.kernel_change import kernel_change, short_name
from harness.records import CaseSummary, KernelChange, LaunchedKernel
from harness.tests.sides import Side, judge

PRODUCT = "iroot.kernels.symmetric._symmetric_kernel"


def kernel(
    *, name: str = PRODUCT, code: str = "a", block: int = 128, stages: int = 3, launches: int = 10
) -> LaunchedKernel:
    configuration = (("BLOCK", block), ("DTYPE", "bf16"), ("num_stages", stages), ("num_warps", 4))
    return LaunchedKernel(
        name=name, code_hash=code * 64, hashed="binary", configuration=configuration, launches=launches
    )


def side(*kernels: LaunchedKernel) -> CaseSummary:
    return Side(changes={"kernels": kernels}).summary()


def test_equal_kernels_are_the_same() -> None:
    assert kernel_change(side(kernel()), side(kernel())) == KernelChange(same=True)


def test_their_order_says_nothing() -> None:
    one, other = kernel(), kernel(block=64, code="b")
    assert kernel_change(side(one, other), side(other, one)) == KernelChange(same=True)


@pytest.mark.parametrize(
    ("after", "text"),
    [
        (kernel(code="b", block=64, stages=4), "symmetric: BLOCK 128 → 64, num_stages 3 → 4"),
        (kernel(code="b"), "symmetric: other code, same configuration"),
        (kernel(launches=12), "symmetric: launched 12 times a call instead of 10"),
        (kernel(code="b", block=64, launches=8), "symmetric: BLOCK 128 → 64, launched 8 times a call instead of 10"),
    ],
)
def test_what_changed_is_named(after: LaunchedKernel, text: str) -> None:
    assert kernel_change(side(after), side(kernel())) == KernelChange(same=False, changes=(text,))


def test_kernels_that_came_and_went_are_named() -> None:
    fused = kernel(name="iroot.kernels.fused._graded_step_kernel")
    change = kernel_change(side(fused), side(kernel()))
    assert change is not None
    assert change.changes == ("symmetric: no longer launched", "graded step: launched, and was not before")


def test_another_number_of_configurations_is_listed() -> None:
    change = kernel_change(side(kernel(block=64, code="b"), kernel(block=32, code="c")), side(kernel()))
    assert change is not None
    assert change.changes == ("symmetric: 1 configuration → 2 configurations (BLOCK 64, BLOCK 32)",)


def test_one_of_two_configurations_changed() -> None:
    same = kernel(block=64, code="b")
    change = kernel_change(side(kernel(stages=4, code="c"), same), side(kernel(), same))
    assert change is not None
    assert change.changes == ("symmetric: num_stages 3 → 4",)


@pytest.mark.parametrize(
    ("candidate", "reference"),
    [
        (None, (kernel(),)),
        ((kernel(),), None),
        ((), ()),
        ((kernel(),), (kernel().model_copy(update={"hashed": "source"}),)),
    ],
)
def test_nothing_is_said_of_what_is_not_known(
    candidate: tuple[LaunchedKernel, ...] | None, reference: tuple[LaunchedKernel, ...] | None
) -> None:
    sides = (Side(changes={"kernels": kernels}).summary() for kernels in (candidate, reference))
    assert kernel_change(*sides) is None


def test_names_are_short() -> None:
    assert short_name("iroot.kernels.multiply_add._multiply_add_kernel") == "multiply add"
    assert short_name("scale") == "scale"


def test_the_row_of_a_regression_holds_the_hint() -> None:
    before, after = kernel(), kernel(code="b", stages=4)
    row = judge(Side(time=1.1, changes={"kernels": (after,)}), Side(changes={"kernels": (before,)}))
    assert row.kernels == KernelChange(same=False, changes=("symmetric: num_stages 3 → 4",))
    again = judge(Side(time=1.1, changes={"kernels": (before,)}), Side(changes={"kernels": (before,)}))
    assert again.kernels == KernelChange(same=True)
