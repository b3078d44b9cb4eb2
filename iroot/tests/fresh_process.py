"""Python as new: nothing compiled before, in memory or on disk."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def printed(code: str, cache: Path) -> list[str]:
    """The lines that `code` prints in a process of its own, whose compiled kernels are kept in `cache` alone."""
    cache.mkdir(exist_ok=True)
    script = cache / "script.py"  # Triton reads the source of kernels from a file
    script.write_text(code)
    environment = {**os.environ, "TRITON_CACHE_DIR": str(cache), "TRITON_INTERPRET": "0"}
    command = [sys.executable, str(script)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=100, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()
