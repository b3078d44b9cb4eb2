"""Kernels of one call compile together, before the first is launched."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

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


@pytest.mark.skipif(sys.platform != "linux", reason="Triton is for Linux")
def test_launches_compile_and_those_that_cannot_do_not_stop_the_others(tmp_path: Path) -> None:
    script = tmp_path / "offline.py"
    script.write_text(OFFLINE)
    environment = {**os.environ, "TRITON_CACHE_DIR": str(tmp_path), "TRITON_INTERPRET": "0"}
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, check=False, timeout=100, env=environment
    )
    assert done.returncode == 0, done.stderr
    kernels = str(["begin_kernel", "right_kernel"])
    assert done.stdout.splitlines() == [kernels, kernels, "told"]  # the second rehearsal had nothing to compile


@pytest.mark.gpu
def test_a_call_compiles_nothing_between_its_launches(monkeypatch: pytest.MonkeyPatch) -> None:
    triton = pytest.importorskip("triton")
    from iroot.graded_steps import WordStep
    from iroot.kernels.graded_root import GradedPlan, graded_root
    from iroot.kernels.tiling import Tiling

    threads: list[threading.Thread] = []
    monkeypatch.setattr(triton.knobs.compilation, "listener", lambda **_: threads.append(threading.current_thread()))
    unusual = Tiling(block=64, tail=0, block_k=32, warps=4, stages=2)  # in no other test
    steps = [WordStep(chebyshev=(1.5, -0.5, 0.0), mid=0.5, radius=0.5, at_zero=2.0)] * 3
    A, scale = torch.eye(128, device="cuda"), torch.ones(1, 1, device="cuda")
    X = graded_root(A, scale, steps, p=2, plan=GradedPlan(tiling=unusual, update=unusual))
    assert bool(X.isfinite().all())
    assert len(threads) >= 6  # quadratic from either word, square, update, X B and the last product
    assert threading.main_thread() not in threads
