"""Earlier states of a baseline: in a folder, or in a git revision."""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

from harness.baseline_files import LAUNCHES, METADATA, QUALITY, BaselineContent, from_folder
from harness.checksums import SUMS
from harness.errors import UsageError


def state_before(folder: Path, side: str) -> BaselineContent:
    """The baseline in the folder `side`, or what `folder` held in the git revision `side`.

    Raises:
        UsageError: `side` is neither, or the revision does not hold this baseline.
        BaselineError: it is damaged.
    """
    if (Path(side) / METADATA).is_file():
        return from_folder(Path(side))
    with tempfile.TemporaryDirectory() as scratch:
        for name in (LAUNCHES, QUALITY, METADATA, SUMS):
            (Path(scratch) / name).write_bytes(_committed(folder, side, name))
        return from_folder(Path(scratch))


def _committed(folder: Path, revision: str, name: str) -> bytes:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), "show", "--end-of-options", f"{revision}:./{name}"],
            capture_output=True,
            check=False,
        )
    except OSError as error:
        raise UsageError(f"--against {revision}: no folder of a baseline, and git cannot be run: {error}") from error
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        raise UsageError(
            f"--against {revision}: neither a folder of a baseline nor a git revision that holds this one"
            + (f" ({said[0]})" if said else "")
        )
    return done.stdout
