"""`iroot tune kernels` as a user calls it, on a GPU that is not there: its times are planted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from harness import environment
from harness.cli import main, tune_kernels
from iroot.errors import InvalidInputError
from iroot.kernels import tables
from iroot.kernels.table_file import read_kernel_table
from iroot.tests.planted_tables import GPU, PlantedBench

BEST = {"gram": "64+16 k64 w4 s4", "quadratic": "128+0 k64 w8 s4", "apply": "64x64 k64 w4 s4"}


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PlantedBench:
    """What the command finds instead of a GPU; the user's cache is in the test's folder."""
    planted = PlantedBench(us=lambda case, choice: 8.0 if str(choice) == BEST[case.kind] else 10.0)
    monkeypatch.setattr(tune_kernels, "_bench", lambda: (planted, GPU))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(tables, "gpu_name", lambda device: GPU)
    monkeypatch.setenv(tables.VARIABLE, "mine.json")  # which is still to be written
    environment.software_identity.cache_clear()
    monkeypatch.chdir(tmp_path)
    return planted


def tuned(*arguments: str) -> int:
    return main(["tune", "kernels", *arguments])


def shown(capsys: pytest.CaptureFixture[str]) -> Any:
    return json.loads(capsys.readouterr().out)


def test_the_table_in_the_cache_names_its_origin(bench: PlantedBench, capsys: pytest.CaptureFixture[str]) -> None:
    assert tuned("--shapes", "512,2x512x1024", "--dtype", "bf16,fp16") == 0
    out = capsys.readouterr()
    path = tables.cached_file(GPU)
    assert path.name == "kernels_planted_gpu_1tb.json"
    table = read_kernel_table(path)
    assert (table.identity, table.provenance.processors) == (tables.present_identity(GPU), 132)
    assert table.provenance.command == "iroot tune kernels --shapes 512,2x512x1024 --dtype bf16,fp16"
    assert table.provenance.timed == "planted; 5 rounds"
    assert table.provenance.torch == torch.__version__
    assert len(table.provenance.source_hash) == 64
    assert len(table.entries) == 12
    assert {each.chosen for each in table.entries} == set(BEST.values())
    assert "12 products, another configuration than the model's for 12" in out.out
    assert "used from the next process on" in out.out
    assert "shape 12/12: apply 2 x 512 x 1024, depth 512, float16: 64x64 k64 w4 s4" in out.err


def test_the_same_command_goes_on_and_others_add(bench: PlantedBench, capsys: pytest.CaptureFixture[str]) -> None:
    assert tuned("--shapes", "512", "--out", "mine.json", "--seconds", "0", "--json") == 0
    assert shown(capsys) == {"file": "mine.json", "left": 3, "shapes": []}
    assert not Path("mine.json").exists()
    assert tuned("--shapes", "512", "--out", "mine.json") == 0
    assert "IROOT_KERNEL_TABLE=mine.json uses it" in capsys.readouterr().out.replace("\n", " ")
    assert len(bench.prepared) == 3
    assert tuned("--shapes", "512,1024", "--out", "mine.json", "--json") == 0
    found = shown(capsys)
    assert (found["left"], len(found["shapes"]), len(bench.prepared)) == (0, 6, 6)
    gram = found["shapes"][0]
    assert (gram["shape"]["kind"], gram["chosen"], gram["default"]) == ("gram", BEST["gram"], "64+0 k128 w4 s3")
    assert gram["candidates"][0] == {"configuration": gram["default"], "rounds_us": [10.0] * 5, "fault": ""}
    # A quadratic is of a square: the one of 512 x 2048 is known already.
    assert tuned("--shapes", "512x2048", "--out", "mine.json") == 0
    assert [case.kind for case in bench.prepared[6:]] == ["gram", "apply"]


def test_a_table_that_no_longer_holds(bench: PlantedBench, capsys: pytest.CaptureFixture[str]) -> None:
    path = tables.cached_file(GPU)
    path.parent.mkdir(parents=True)
    for file in (path, Path("mine.json")):
        file.write_text("{}")
    assert tuned("--shapes", "512", "--out", "mine.json") == 2
    assert "mine.json: schema must be 'iroot-kernels/1'" in capsys.readouterr().err
    assert Path("mine.json").read_text() == "{}"
    assert tuned("--shapes", "512") == 0
    assert f"begun anew: {path}: schema must be" in capsys.readouterr().err
    assert len(read_kernel_table(path).entries) == 3


def test_a_default_that_is_wrong_is_reported(bench: PlantedBench, capsys: pytest.CaptureFixture[str]) -> None:
    bench.wrong = lambda case, choice: "two calls differ" if str(choice) == "64+0 k128 w4 s3" else ""
    assert tuned("--shapes", "512", "--out", "mine.json") == 0
    text = "gram 512 x 512, depth 512, bfloat16: the model's 64+0 k128 w4 s3 is out of the question: two calls differ"
    assert text in capsys.readouterr().err


def test_ctrl_c_says_how_to_go_on(bench: PlantedBench, capsys: pytest.CaptureFixture[str]) -> None:
    def us(case: object, choice: object) -> float:
        if len(bench.prepared) == 2:
            raise KeyboardInterrupt
        return 1.0

    bench.us = us
    assert tuned("--shapes", "512", "--out", "mine.json") == 130
    assert "kept in mine.json; the same command goes on from there" in capsys.readouterr().err
    assert len(read_kernel_table(Path("mine.json")).entries) == 1


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--shapes", "512,big"], "--shapes must be N, MxN or BATCHxMxN separated by commas, got 'big'"),
        (["--shapes", "1x2x3x4"], "got '1x2x3x4'"),
        (["--shapes", "0"], "sizes of a shape must be >= 1, got 1 x 0 x 0"),
        (["--dtype", "bf61"], "dtype must be one of bf16, fp16, got 'bf61'"),
        (["--out", "mine.toml"], "a kernel table must end in .json, got mine.toml"),
        (["--out", "no/mine.json"], "no folder no; make it first"),
    ],
)
def test_wrong_use(
    bench: PlantedBench, arguments: list[str], text: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert tuned(*arguments) == 2
    assert text in capsys.readouterr().err
    assert bench.prepared == []
    assert list(tmp_path.iterdir()) == []


def test_without_a_gpu_the_remedy_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert tuned() == 2
    text = capsys.readouterr().err
    assert "needs an NVIDIA GPU, this machine has none that torch can use; run it on the GPU that the table is" in text
    assert "the configurations of the model are used, which need no search" in text
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA A100")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (8, 0))
    assert tuned() == 2
    assert "that the kernels serve (hopper), got NVIDIA A100 of compute capability 8.0" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_a_table_of_this_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "mine.json"
    assert tuned("--shapes", "512", "--out", str(path), "--json") == 0
    assert [each["shape"]["rows"] for each in shown(capsys)["shapes"]] == [512] * 3
    monkeypatch.setenv(tables.VARIABLE, str(path))
    tables._sources.cache_clear()
    used = tables.used(torch.device("cuda", 0))
    tables._sources.cache_clear()
    assert used is not None
    assert used.startswith("mine.json sha256:")
    path.write_text("{")
    with pytest.raises(InvalidInputError, match=r"IROOT_KERNEL_TABLE must name a table.*mine\.json"):
        tables.used(torch.device("cuda", 0))
    tables._sources.cache_clear()
