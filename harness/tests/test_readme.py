"""The README is true: its commands run, its manifest plans, its method registers, and the paths it names exist.

Commands run for real against this checkout, on the CPU and with a store of their own; those that measure take one
launch, and `ab` narrows its manifest to one task: what they print is the same. A process spends 1.9 s on importing
torch, half of this file's time (2026-11), so of each kind one starts processes: the first command has its own, as a
reader's would, and the first `bench run` and `ab` have one for every launch. The rest is done in this process.
"""

from __future__ import annotations

import functools
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from harness.cli import main
from harness.errors import ExitCode
from harness.manifest import load_manifest
from harness.paths import project_root
from harness.sweep import plan
from harness.tests.in_process import InProcessLauncher

ROOT = project_root()
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
VERDICTS = (ExitCode.OK, ExitCode.FAILED_CHECK, ExitCode.UNDECIDED)
"""What `ab` and `compare` end with is a finding about this machine at this moment."""

LEAST = {
    "bench run": ("--launches", "1", "--device", "cpu"),
    "bench ab": ("--pairs", "1", "--filter", "task=polar", "--device", "cpu"),
    "verify": ("--precision", "fp32", "--device", "cpu"),
}
"""Appended to commands: the last of an option that is given twice counts."""


@functools.cache
def readme() -> str:
    return (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return [body for name, body in BLOCK.findall(readme()) if name == language]


def block(language: str) -> str:
    (body,) = blocks(language)
    return body


def commands() -> list[list[str]]:
    """Every command line of the `sh` blocks, comments removed."""
    lines = [line for body in blocks("sh") for line in body.splitlines()]
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def complete(words: list[str], store: Path) -> list[str]:
    """The words of an `iroot` command, with what makes it short and keeps its store apart."""
    name = " ".join(words[:2] if words[0] == "bench" else words[:1])
    own_store = ["--store", str(store)] if words[0] == "bench" and words[1] != "baseline" else []
    return [*words, *LEAST.get(name, ()), *own_store]


def in_own_process(words: list[str]) -> tuple[int, str, str]:
    """Exit code, output and errors of `iroot WORDS`."""
    command = [sys.executable, "-m", "harness", *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, encoding="utf-8", timeout=300)
    return done.returncode, done.stdout, done.stderr


def in_this_process(words: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    """Exit code, output and errors of `iroot WORDS`."""
    code = main(words)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def needs_git(words: list[str]) -> bool:
    """Whether a command names a revision: a copied tree has none."""
    return words[:2] == ["bench", "ab"]


@pytest.mark.usefixtures("planted")
@pytest.mark.timeout(600)  # 24 s on a quiet machine of two cores; a busy one takes twice as long
def test_every_command_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In order and on one store: later commands read what earlier ones measured."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "1")
    runs = 0
    ours = [words[1:] for words in commands() if words[0] == "iroot"]
    assert {"env", "verify"} <= {words[0] for words in ours}
    assert {"run", "ab", "compare", "report", "runs", "baseline"} <= {w[1] for w in ours if w[0] == "bench"}
    for number, words in enumerate(ours):
        if needs_git(words) and not (ROOT / ".git").exists():
            continue
        command = complete(words, tmp_path / "readme.duckdb")
        measures = words[:2] == ["bench", "run"] and "--dry-run" not in words
        with monkeypatch.context() as patched:
            if measures and runs:
                patched.setattr("harness.runner.Launcher", InProcessLauncher)
            code, out, err = in_this_process(command, capsys) if number else in_own_process(command)
        runs += measures
        allowed = VERDICTS if words[1:2] in (["ab"], ["compare"]) else (ExitCode.OK,)
        assert code in allowed, f"iroot {shlex.join(words)}: {code}\n{err}"
        assert "error:" not in err
        assert "Traceback" not in err
        assert out.strip(), f"iroot {shlex.join(words)} says nothing"


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="a copied tree has no git to ask what it ignores")
def test_files_that_commands_write_here_leave_the_tree_clean() -> None:
    """A dirty tree is no source of an official baseline, and a table tried out must not make it one."""
    written = re.findall(r"^iroot tune (?:schedule|polar) (\S+)", readme(), re.MULTILINE)  # kernels: to the cache
    assert len(written) >= 2
    for path in written:
        assert subprocess.run(["git", "-C", str(ROOT), "check-ignore", "--quiet", path]).returncode == 0, path


def test_other_commands_are_targets_of_the_makefile() -> None:
    others = [words for words in commands() if words[0] != "iroot"]
    assert [words[0] for words in others] == ["make", "make"]
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert {words[1] for words in others} <= targets


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_the_manifest_is_valid_and_plans_cases(tmp_path: Path, device: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(block("toml"), encoding="utf-8")
    manifest = load_manifest(str(path))
    assert (manifest.name, manifest.launches) == ("mine", 6)
    cases = plan(manifest, device_kind="cuda" if device == "cuda" else "cpu", filter=None)
    swept = [planned.case for planned in cases if not planned.control]
    assert {case.p for case in swept} == {2, 4}
    assert {case.method for case in swept} == {"coupled_pe", "coupled_newton"}
    assert len(swept) == len(set(swept)) >= 16


def test_the_excerpt_is_the_published_report() -> None:
    section = readme().partition("## What a report says")[2].partition("\n## ")[0]
    quoted = [line for line in section.splitlines() if line.startswith("|")]
    published = (ROOT / "reports" / "h100-production.md").read_text(encoding="utf-8").splitlines()
    assert len(quoted) >= 10
    assert [line for line in quoted if line not in published] == []


DEFINITIONS = """
def flops(workload, options):
    return 6.0 * workload.batch * workload.n**3

def bytes_moved(workload, options):
    return 8.0 * workload.batch * workload.n**2

def accuracy(workload, options):
    return 1e-2

"""

CHECK = """
from iroot.registry import Workload, get_method
from harness.verify import plan_checks
spec = get_method("inverse_root", "halley")
assert spec.function is halley and spec.roots == (2,)
assert spec.flops(Workload(m=4, n=4, precision="fp32", p=2), spec.make_options({})) == 384.0
assert {attempt.p for attempt in plan_checks("cpu", method="halley", precision="fp32")} == {2}
print("registered")
"""


def test_the_method_of_the_readme_registers_and_is_found(tmp_path: Path) -> None:
    source = block("python")
    compile(source, "README.md", "exec")
    script = tmp_path / "halley.py"
    script.write_text(DEFINITIONS + source + CHECK, encoding="utf-8")
    done = subprocess.run([sys.executable, str(script)], cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert (done.returncode, done.stdout) == (0, "registered\n"), done.stderr


def test_paths_and_links_exist() -> None:
    prose = BLOCK.sub("", readme())
    links = [target for target in re.findall(r"\]\(([^)#]+)\)", prose) if "://" not in target]
    layout = readme().split("## Layout")[1]
    folders = re.findall(r"`([a-z_]+(?:/[a-z_]+)*/)`", layout)
    assert "harness/" in folders
    for path in (*links, *folders, "iroot/methods/"):
        assert (ROOT / path).exists(), path


def test_shipped_manifests_are_the_ones_it_names() -> None:
    sentence = readme().split("Shipped:")[1].split(".")[0]
    named = set(re.findall(r"`([a-z]+)`", sentence))
    assert named == {path.stem for path in (ROOT / "harness" / "manifests").glob("*.toml")}
