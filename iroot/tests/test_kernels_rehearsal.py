"""Kernels of one call compile together, before the first is launched."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from iroot.tests.fresh_process import printed

# No GPU is needed to compile for one, and one process either compiles kernels or interprets them.
OFFLINE = """
import torch, triton, triton.language as tl
from triton.backends.compiler import GPUTarget

class Hopper:
    get_current_target = staticmethod(lambda: GPUTarget("cuda", 90, 32))
    get_current_device = staticmethod(lambda: 0)
    get_current_stream = staticmethod(lambda device: 0)

triton.runtime.driver.set_active(Hopper())
from iroot.kernels.rehearsal import on_grid, rehearsal
from iroot.kernels.word_launch import begin

compiled = []
triton.knobs.compilation.listener = lambda **event: compiled.append(event["src"].fn.__name__)

@triton.jit
def wrong_kernel(x):
    tl.static_assert(False)

@triton.jit
def right_kernel(x):
    tl.store(x, 1.0)

A, one = torch.full((1, 128, 128), torch.nan), torch.ones(1)
for _ in range(2):
    with rehearsal():
        begin(A, None, 0.0, torch.float16)
        on_grid(wrong_kernel, (1,))(one)
        on_grid(right_kernel, (1,))(one)
    print(sorted(compiled))
assert one.item() == 1.0
try:
    on_grid(wrong_kernel, (1,))(one)
except triton.CompilationError:
    print("told")
"""


WHOLE_ROOT = """
import threading, torch, triton
from iroot.graded_steps import WordStep
from iroot.kernels.graded_root import GradedPlan, graded_root
from iroot.kernels.tiling import GRADED_TILINGS

threads = []
triton.knobs.compilation.listener = lambda **_: threads.append(threading.current_thread())
small = GRADED_TILINGS[-1]
steps = [WordStep(chebyshev=(1.5, -0.5, 0.0), mid=0.5, radius=0.5, at_zero=2.0)] * 3
A, scale = torch.eye(128, device="cuda"), torch.ones(1, 1, device="cuda")
X = graded_root(A, scale, steps, p=2, plan=GradedPlan(tiling=small, update=small))
assert X.isfinite().all()
print(len(threads))
print(threading.main_thread() in threads)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="Triton is for Linux")
def test_launches_compile_and_those_that_cannot_do_not_stop_the_others(tmp_path: Path) -> None:
    kernels = str(["begin_kernel", "right_kernel"])
    assert printed(OFFLINE, tmp_path) == [kernels, kernels, "told"]  # the second rehearsal had nothing to compile


@pytest.mark.gpu
def test_a_call_compiles_nothing_between_its_launches(tmp_path: Path) -> None:
    compiled, by_main_thread = printed(WHOLE_ROOT, tmp_path)
    assert int(compiled) >= 6  # quadratic from either word, square, update, X B and the last product
    assert by_main_thread == "False"
