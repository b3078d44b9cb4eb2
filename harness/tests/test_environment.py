"""Machine classes, throttle reasons, source identity and fitness."""

from __future__ import annotations

import os
import subprocess
import warnings
from dataclasses import replace
from pathlib import Path, PurePosixPath

import pytest
import torch

from harness import environment
from harness.environment import (
    Fitness,
    cpu_class,
    decode_reasons,
    fitness,
    gpu_class,
    hash_sources,
    is_source,
    machine_identity,
    machine_state,
    physical_cores,
    software_identity,
    source_identity,
)
from harness.records import MachineState
from iroot.kernels import tables
from iroot.kernels.table_file import write_kernel_table
from iroot.tests.planted_tables import GPU, entry, gram, planted_table


@pytest.mark.parametrize(
    ("model", "memory_bytes", "expected"),
    [
        ("NVIDIA H100 80GB HBM3", 85_000_000_000, "nvidia-h100-80gb-hbm3"),
        ("NVIDIA L4", 23 * 2**30, "nvidia-l4-23gb"),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", 10**10, "nvidia-h100-80gb-hbm3-mig-1g-10gb"),
    ],
)
def test_gpu_class(model: str, memory_bytes: int, expected: str) -> None:
    assert gpu_class(model, memory_bytes) == expected


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("AMD EPYC 7763 64-Core Processor", "cpu-amd-epyc-7763-2c"),
        ("Intel(R) Xeon(R) CPU E5-2686 v4 @ 2.30GHz", "cpu-intel-xeon-e5-2686-v4-2c"),
        ("AMD EPYC", "cpu-amd-epyc-2c"),
    ],
)
def test_cpu_class(model: str, expected: str) -> None:
    assert cpu_class(model, 2) == expected


def test_throttle_reasons_have_names() -> None:
    assert decode_reasons(0) == ()
    assert decode_reasons(0x1 | 0x4) == ("gpu_idle", "sw_power_cap")
    assert decode_reasons(0x8 | 0x40 | 0x200) == ("hw_slowdown", "hw_thermal_slowdown", "0x200")
    assert "sw_power_cap" not in environment.DISTURBING_REASONS


def test_identity_of_this_cpu() -> None:
    machine = machine_identity("cpu")
    assert machine.kind == "cpu"
    assert machine.threads == 1
    assert machine.machine_class == cpu_class(machine.model, physical_cores())
    assert machine.differences(machine_identity("cpu")) == ()
    assert software_identity().torch == torch.__version__
    assert machine_state("cpu").sm_clock_mhz is None


def test_sources_are_python_schemas_manifests_and_templates_without_tests() -> None:
    for path in ("iroot/ops.py", "harness/store/schema/0001_initial.sql", "harness/manifests/quick.toml",
                 "harness/report/templates/run.md.j2", "iroot/shipped/kernels_gpu.json"):  # fmt: skip
        assert is_source(PurePosixPath(path)), path
    for path in ("iroot/tests/test_ops.py", "harness/x.txt", "ci/run.py", "pyproject.toml", "iroot/__pycache__/a.pyc"):
        assert not is_source(PurePosixPath(path)), path


def test_hash_depends_on_path_and_content_and_not_on_order() -> None:
    files = {"iroot/a.py": b"1", "iroot/b.py": b"2"}
    assert hash_sources(files) == hash_sources(dict(reversed(files.items())))
    assert hash_sources(files) != hash_sources({"iroot/a.py": b"12", "iroot/b.py": b""})
    assert hash_sources(files) != hash_sources({"iroot/a.py": b"1", "iroot/c.py": b"2"})


def test_source_identity_of_a_checkout_and_of_a_copy(tmp_path: Path) -> None:
    root = tmp_path / "checkout"
    (root / "iroot" / "tests").mkdir(parents=True)
    (root / "iroot" / "a.py").write_text("a = 1\n")
    copied = source_identity(root)
    assert (copied.revision, copied.dirty) == (None, None)

    def git(*arguments: str) -> None:
        subprocess.run(["git", "-C", str(root), "-c", "user.name=t", "-c", "user.email=t@t", *arguments],
                       check=True, capture_output=True)  # fmt: skip

    git("init", "-q")
    unborn = source_identity(root)
    assert (unborn.revision, unborn.dirty) == (None, None)
    (root / ".gitignore").write_text("*.log\n")
    git("add", ".")
    git("commit", "-qm", "x")
    clean = source_identity(root)
    assert clean.dirty is False
    assert clean.revision is not None
    assert len(clean.revision) == 40
    assert clean.source_hash == copied.source_hash
    (root / "run.log").write_text("ignored")
    assert source_identity(root).dirty is False
    (root / "iroot" / "tests" / "test_a.py").write_text("")
    untracked = source_identity(root)
    assert (untracked.dirty, untracked.source_hash) == (True, clean.source_hash)
    (root / "iroot" / "a.py").write_text("a = 2\n")
    assert source_identity(root).source_hash != clean.source_hash
    assert source_identity(root / "iroot").revision is None


def test_fitness_warns_of_a_busy_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getloadavg", lambda: (1e3, 0.0, 0.0))
    assert fitness("cpu")[0].level == "warning"
    monkeypatch.setattr(os, "getloadavg", lambda: (0.0, 0.0, 0.0))
    assert fitness("cpu")[0].level == "ok"


def test_throttling_is_an_error_and_a_power_cap_is_not() -> None:
    state = MachineState(throttle_reasons=("hw_thermal_slowdown", "sw_power_cap"))
    assert environment._throttle_fitness(state.throttle_reasons).level == "error"
    assert environment._throttle_fitness(("sw_power_cap",)) == Fitness(
        level="ok", text="clocks are not throttled (sw_power_cap)"
    )
    assert environment._process_fitness(2).level == "warning"
    assert environment._process_fitness(0).level == "ok"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_identity_and_state_of_this_gpu() -> None:
    machine, state = machine_identity("cuda:0"), machine_state("cuda:0")
    assert machine.kind == "cuda"
    assert machine.sm_count is not None
    assert machine.uuid is not None
    assert state.sm_clock_mhz is not None
    assert state.temperature_c is not None


def test_kernel_tables_in_use_are_part_of_the_software(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = software_identity()
    assert plain.kernel_table is None
    assert "kernel_table" not in plain.model_dump_json()  # as stores and older versions know it
    planted = planted_table(entry(gram(2048), "64+0 k64 w4 s4"))
    write_kernel_table(tmp_path / "good.json", planted)
    write_kernel_table(tmp_path / "old.json", replace(planted, identity=replace(planted.identity, triton="2.0")))
    monkeypatch.setattr(tables, "gpu_name", lambda device: GPU)
    found = []
    for name in ("none", "good.json", "old.json"):
        monkeypatch.setenv(tables.VARIABLE, name if name == "none" else str(tmp_path / name))
        tables._sources.cache_clear()
        software_identity.cache_clear()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            found.append((software_identity().kernel_table, environment._table_fitness("cuda:0")))
    tables._sources.cache_clear()
    software_identity.cache_clear()
    (no, no_fitness), (good, good_fitness), (old, old_fitness) = found
    assert (no, old) == (None, None)
    assert good is not None
    assert good.startswith("good.json sha256:")
    assert no_fitness[0].text.startswith("kernel configurations are the model's")
    assert good_fitness == (Fitness(level="ok", text=f"kernel table {good}"),)
    assert (old_fitness[0].level, "measured with Triton 2.0" in old_fitness[0].text) == ("warning", True)
    tuned = plain.model_copy(update={"kernel_table": good})
    assert tuned.differences(plain) == (f"kernel_table: {good} != None",)
    assert type(plain).model_validate_json(tuned.model_dump_json()) == tuned
