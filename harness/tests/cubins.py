"""Compiles a small kernel for an H100, in a process of its own: Triton's interpreter changes the language for good.

python -m harness.tests.cubins FOLDER
"""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from typing import Any

SOURCE = """
def scale(x, y, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(y + i, FACTOR * tl.load(x + i, mask=i < n), mask=i < n)
"""


def cubin(path: Path, *, factor: float = 2.0, head: str = "", warps: int = 4) -> bytes:
    """The kernel, written to `path`, compiled for compute capability 9.0; that takes no GPU."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource
    from triton.runtime.jit import JITFunction

    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"import triton.language as tl\n{head}{SOURCE.replace('FACTOR', str(factor))}")
    spec = importlib.util.spec_from_file_location("planted_kernel", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    signature = {"x": "*fp32", "y": "*fp32", "n": "i32", "BLOCK": "constexpr"}
    source = ASTSource(fn=JITFunction(module.scale), signature=signature, constexprs={"BLOCK": 1024})
    compiled: Any = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": warps})
    binary: bytes = compiled.kernel
    return binary


def main(folder: Path) -> None:
    """Write one `NAME.cubin` each: the kernel, the same elsewhere and further down, and two that differ."""
    os.environ.pop("TRITON_INTERPRET", None)
    os.environ |= {"TRITON_CACHE_DIR": str(folder / "cache"), "TRITON_DEFAULT_FP_FUSION": "1"}
    place = folder / "one" / "kernel.py"
    (folder / "one.cubin").write_bytes(cubin(place))
    (folder / "moved.cubin").write_bytes(cubin(folder / "elsewhere" / "kernel.py", head="# a comment\n# another\n"))
    (folder / "factor.cubin").write_bytes(cubin(place, factor=3.0))
    (folder / "warps.cubin").write_bytes(cubin(place, warps=8))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
