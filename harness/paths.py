"""Where things lie: the project's root, the store, baselines, reports and run folders.

The project root is the nearest ancestor of the working directory, else of this package, that holds a `pyproject.toml`
of the project `iroot` and a folder `baselines/`. So `iroot` measures and promotes into the checkout it is called in,
and an editable installation finds its own checkout from anywhere else.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from harness.errors import UsageError

PROJECT_NAME = "iroot"

_RUN_ID = re.compile(r"\d{8}-\d{6}-\w[\w.+-]*-[0-9a-f]{4}", re.ASCII)
_LIKE_RUN_ID = re.compile(r"\d{8}-\d{6}-", re.ASCII)
_RUN_NAME = re.compile(r"\w[\w.+-]{0,99}", re.ASCII)
RESERVED_NAMES = ("latest", "baseline")
"""Words that commands take in the place of a run."""


def project_root() -> Path:
    """The checkout to work in. Raises UsageError where neither the working directory nor this package is inside one."""
    for start in (Path.cwd(), Path(__file__).resolve().parent):
        for folder in (start, *start.parents):
            if _is_project(folder):
                return folder
    raise UsageError(
        f"no {PROJECT_NAME} checkout (pyproject.toml named {PROJECT_NAME}, with baselines/) at or above {Path.cwd()}; "
        "change into one, or name the files with --store and --root"
    )


def _is_project(folder: Path) -> bool:
    file = folder / "pyproject.toml"
    if not (file.is_file() and (folder / "baselines").is_dir()):
        return False
    try:
        content = tomllib.loads(file.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError):
        return False
    project = content.get("project")
    return isinstance(project, dict) and project.get("name") == PROJECT_NAME


def default_store() -> Path:
    """The DuckDB file that commands use unless told otherwise: `benchmark_results/iroot.duckdb`."""
    return project_root() / "benchmark_results" / "iroot.duckdb"


def baselines_root() -> Path:
    """The folder of official baselines, `<machine class>/<manifest>/` below it."""
    return project_root() / "baselines"


def reports_root() -> Path:
    """The folder of published reports."""
    return project_root() / "reports"


def runs_root(store: Path) -> Path:
    """The folder that holds the run folders of a store."""
    return store.parent / "runs"


def run_folder(store: Path, run_id: str) -> Path:
    """The folder of one run's shards, logs and report. Raises UsageError on a malformed id, so no path can escape."""
    return runs_root(store) / check_run_id(run_id)


def check_run_id(run_id: str) -> str:
    """Return `run_id` if it is one this program makes or a name given to imported samples, else raise UsageError."""
    if is_measured_run_id(run_id):
        return run_id
    if run_id in RESERVED_NAMES or _LIKE_RUN_ID.match(run_id) or not _RUN_NAME.fullmatch(run_id):
        raise UsageError(
            "a run id looks like 20250131-235959-quick-0a1b; an imported run's name has at most 100 letters, digits, "
            f"'_', '.', '+' or '-' and is not one of {', '.join(RESERVED_NAMES)}; got {run_id!r}"
        )
    return run_id


def is_measured_run_id(name: str) -> bool:
    """Whether `name` has the form of the ids that measured runs get: time, manifest, four hex digits."""
    return _RUN_ID.fullmatch(name) is not None
