"""`ci/kernel_launches.py` in Triton's interpreter: every kernel is launched and right, and what is not is told.

In processes of their own: whether kernels are interpreted is decided where they are first imported.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

# One kernel of all, and a result of known error beside its own.
PLANTED = """
import math, sys
import kernel_launches
from kernel_checks import CHECKS
from kernel_shapes import Found

kernels = kernel_launches.entry_kernels()
kernel_launches.entry_kernels = lambda: kernels | {"iroot.kernels.new.new_kernel"}
right = CHECKS["multiply_add"]
CHECKS.clear()
for error in (1.0, 1.1, math.nan):
    CHECKS["multiply_add"] = lambda device: [*right(device), Found(error=error, allowed=1.0)]
    sys.argv[1:] = ["--device", "cpu", "--only", "multiply_add"]
    print("exit code", kernel_launches.main())
CHECKS["multiply_add"] = right
for arguments in ([], ["--seconds", "0"]):
    sys.argv[1:] = ["--device", "cpu", *arguments]
    print("exit code", kernel_launches.main())
kernel_launches.triton.knobs.runtime.interpret = False
kernel_launches.main()
"""


def run(*command: str) -> subprocess.CompletedProcess[str]:
    environment = dict(os.environ) | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    inherited = os.environ.get("PYTHONPATH", "")
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(ROOT / "ci"), *([inherited] if inherited else [])])
    return subprocess.run(
        [sys.executable, *command], env=environment, cwd=ROOT, capture_output=True, text=True, check=False, timeout=100
    )


def test_every_kernel_is_launched_and_right() -> None:
    """Who adds a kernel adds a problem for it to `ci/kernel_checks.py`."""
    done = run("ci/kernel_launches.py", "--device", "cpu")
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    for name in (
        "hopper_apply",
        "hopper_balanced",
        "hopper_sum",
        "hopper_small_apply",
        "hopper_small_sum",
        "hopper_split",
        "hopper_small_words",
        "hopper_wide",
        "hopper_words",
    ):
        lines.remove(f"{name}: left out, Gluon has no interpreter")
    for line in lines:
        assert re.fullmatch(r"\w+\.\w+ +\d+ launches, +\d+ results: largest error 0\.\d\d of what is .*", line)
    names = {line.split()[0] for line in lines}
    assert len(names) >= 20
    assert {"symmetric._symmetric_kernel", "words.word_kernel", "quantise_rows._quantise_rows_kernel"} <= names
    assert {"odd_kernel.steps_kernel", "symmetric_sum.sum_kernel", "step_passes.combine_kernel"} <= names


def test_what_is_wrong_missing_or_late_is_told() -> None:
    done = run("-c", PLANTED)
    lines = done.stdout.splitlines()
    ends = [index for index, line in enumerate(lines) if line.startswith("exit code")]
    assert [int(lines[end].split()[-1]) for end in ends] == [0, 1, 1, 1, 1], done.stdout + done.stderr
    assert ["WRONG" in lines[end - 1] for end in ends[:3]] == [False, True, True]
    missing = lines[ends[2] + 1 : ends[3]]
    assert "iroot.kernels.new.new_kernel: never launched; add it to CHECKS" in missing
    assert "iroot.kernels.symmetric._symmetric_kernel: never launched; add it to CHECKS" in missing
    assert not any("multiply_add_kernel: never" in line for line in missing)
    for name in ("hopper_sum.hopper_sum_kernel", "hopper_words.hopper_word_kernel"):
        assert f"iroot.kernels.{name}: never launched; add it to CHECKS" in missing
    assert done.returncode == 2
    assert "set TRITON_INTERPRET=1" in done.stderr
