"""`ci/gate.sh` in a repository of its own: what judges is the base, exit codes pass through, nothing is left behind."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from harness.paths import project_root
from harness.waivers import load_waivers

JUDGED_BY = """
name = "tiny"
[[sweep]]
task = "copy"
method = "device_copy"
precision = "fp32"
n = 8
problem = "gaussian"
"""


def git(repository: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false")
    done = subprocess.run(["git", *identity, *arguments], cwd=repository, check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two commits: the base; and a candidate that deletes the manifest and breaks both the harness and the library."""
    root, here = tmp_path_factory.mktemp("clone"), project_root()
    for name in ("iroot", "harness", "ci"):
        shutil.copytree(here / name, root / name, ignore=shutil.ignore_patterns("__pycache__", "tests"))
    shutil.copy(here / "pyproject.toml", root)
    (root / "baselines").mkdir()
    (root / "baselines" / "README.md").write_text("none\n")
    (root / "tiny.toml").write_text(JUDGED_BY)
    git(root, "init", "--quiet", "--initial-branch=main")
    git(root, "add", "--all")
    git(root, "commit", "--quiet", "-m", "base")
    git(root, "tag", "base")
    (root / "tiny.toml").unlink()
    (root / "iroot" / "__init__.py").write_text("raise ImportError('the candidate')\n")
    (root / "harness" / "__init__.py").write_text("raise ImportError('not the harness that judges')\n")
    git(root, "commit", "--quiet", "--all", "-m", "candidate")
    return root


def gate(repository: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("GITHUB_", "GATE_"))}
    return subprocess.run(
        ["bash", "ci/gate.sh", *arguments],
        cwd=repository,
        env=environment | {"PYTHON": sys.executable},
        capture_output=True,
        text=True,
    )


def test_the_base_judges_and_exit_codes_pass_through(repository: Path) -> None:
    """Only the candidate's library is at fault: base's manifest and harness were found and used."""
    done = gate(repository, "base", "HEAD", "tiny.toml", "--device", "cpu")
    assert done.returncode == 4, done.stderr
    assert "its library cannot be planned" in done.stderr
    assert "ImportError: the candidate" in done.stderr
    assert git(repository, "worktree", "list", "--porcelain").count("worktree ") == 1
    assert (repository / "benchmark_results" / "gate" / "result.json").exists()


def test_wrong_use_is_exit_2(repository: Path) -> None:
    assert gate(repository).returncode == 2
    done = gate(repository, "base", "no-such-revision")
    assert (done.returncode, done.stderr) == (2, "error: no such revision: no-such-revision\n")
    assert gate(repository, "base", "HEAD", "none.toml", "--device", "cpu").returncode == 2


def test_the_workflow_keeps_forks_and_write_tokens_from_the_gpu_runner() -> None:
    workflow = (project_root() / ".github" / "workflows" / "ci.yml").read_text()
    head, _, jobs = workflow.partition("\njobs:\n")
    gate_job = jobs[jobs.index("\n  gate:") : jobs.index("\n  comment:")]
    assert "\npermissions:\n  contents: read\n" in head
    assert "permissions:" not in gate_job
    assert "github.event.action == 'labeled' && github.event.label.name == 'gpu'" in gate_job
    assert (
        "github.event.action != 'labeled' && github.event.pull_request.head.repo.full_name == github.repo" in gate_job
    )
    assert "self-hosted" in gate_job
    assert "ref:" not in gate_job


def test_the_waiver_file_and_the_example_in_it_can_be_read(tmp_path: Path) -> None:
    shipped = project_root() / "ci" / "waivers.toml"
    load_waivers(shipped)
    example = shipped.read_text().partition("#\n")[2]
    (copy := tmp_path / "waivers.toml").write_text(re.sub(r"(?m)^# ?", "", example))
    (waiver,) = load_waivers(copy)
    assert (waiver.verdict, waiver.up_to) == (("regressed", "trade"), 1.10)
