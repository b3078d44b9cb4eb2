"""Launches every Triton kernel of `iroot/kernels/` at small shapes with tails; exit code 1 if one is wrong or missing.

    python ci/kernel_launches.py                                          six shapes each, every configuration
    compute-sanitizer --tool memcheck python ci/kernel_launches.py        or racecheck, initcheck, synccheck
    TRITON_INTERPRET=1 python ci/kernel_launches.py --device cpu          without a GPU, two smaller shapes

Every tensor is an allocation of its own, so that a sanitizer sees an access next to one. The problems and what is
allowed are `ci/kernel_checks.py`'s. A kernel that some module launches and none of them does is missing, unless the
device cannot run it, which is said.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import os
import pkgutil
import sys
import time
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from pathlib import Path

os.environ.setdefault("PYTORCH_NO_CUDA_MEMORY_CACHING", "1")  # read at the first allocation
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the tree may not be installed on the GPU machine

import torch
import triton
from kernel_checks import CHECKS, unable
from kernel_shapes import Found
from torch import Tensor

import iroot.kernels
from harness.kernel_trace import KernelTrace
from iroot.registry import Operands


def entry_kernels() -> set[str]:
    """What modules of `iroot.kernels` launch: `kernel[grid](...)`, `on_grid(kernel, grid)(...)` and all *_kernel."""
    found = set()
    for info in pkgutil.iter_modules(iroot.kernels.__path__):
        module = importlib.import_module(f"iroot.kernels.{info.name}")
        names = {name for name in vars(module) if name.endswith("_kernel")}
        for node in ast.walk(ast.parse(inspect.getsource(module))):
            if not isinstance(node, ast.Call):
                continue
            launched = node.func.value if isinstance(node.func, ast.Subscript) else None
            if isinstance(node.func, ast.Name) and node.func.id == "on_grid":
                launched = node.args[0]
            if isinstance(launched, ast.Name):
                names.add(launched.id)
        functions = (getattr(getattr(module, name, None), "fn", None) for name in names)
        found |= {f"{function.__module__}.{function.__qualname__}" for function in functions if function is not None}
    return found


def check(name: str, device: torch.device) -> tuple[set[str], bool]:
    """Launch one group of kernels and print a line for each; what was launched, and whether a result was wrong."""
    trace = KernelTrace()
    found: list[Found] = []
    begin = time.perf_counter()

    def launch(operands: Operands) -> Tensor:
        found.extend(CHECKS[name](device))
        return operands.A

    trace.traced(launch)(Operands(A=torch.empty(0)))
    share = max(each.share for each in found)
    launches: dict[str, int] = {}
    for kernel in trace.kernels or ():
        launches[kernel.name] = launches.get(kernel.name, 0) + kernel.launches
    for kernel_name, count in launches.items():
        verdict = f"largest error {share:.2f} of what is allowed" if share <= 1.0 else "WRONG"
        short = kernel_name.removeprefix("iroot.kernels.")
        elapsed = time.perf_counter() - begin
        print(f"{short:38s} {count:4d} launches, {len(found):3d} results: {verdict}  ({elapsed:.1f} s)", flush=True)
    return set(launches), not share <= 1.0


def main() -> int:
    """Launch and check; returns the exit code."""
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--only", choices=sorted(CHECKS), action="append", help="these kernels alone (repeatable)")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no further kernels after this time")
    arguments = parser.parse_args()
    if arguments.device == "cpu" and not triton.knobs.runtime.interpret:
        parser.error("--device cpu needs Triton's interpreter; set TRITON_INTERPRET=1 in the environment")
    device = torch.device(arguments.device)
    begin, wrong = time.perf_counter(), False
    launched: set[str] = set()
    left_out: tuple[str, ...] = ()
    for name in arguments.only or CHECKS:
        reason = unable(name, device)
        if reason:
            print(f"{name}: left out, {reason}")
            left_out += (f"iroot.kernels.{name}.",)
            continue
        if time.perf_counter() - begin >= arguments.seconds:
            print(f"{name}: not begun, {arguments.seconds:g} s are over")
            wrong = True
            continue
        kernels, failed = check(name, device)
        launched |= kernels
        wrong |= failed
    missing = [] if arguments.only else sorted(entry_kernels() - launched)
    missing = [kernel for kernel in missing if not kernel.startswith(left_out)]
    for kernel in missing:
        print(f"{kernel}: never launched; add it to CHECKS")
    return 1 if wrong or missing else 0


if __name__ == "__main__":
    sys.exit(main())
