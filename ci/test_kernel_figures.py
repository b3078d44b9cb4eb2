"""`ci/kernel_figures.py` on a report in the form of `ncu --csv --page raw`, also from a stand-in for ncu."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

SCRIPT = Path(__file__).with_name("kernel_figures.py")

# Names, units, one row for each launch; progress and a warning around them, thousands with commas, counters missing.
REPORT = """\
==PROF== Connected to process 4242 (/usr/bin/python3.12)
==PROF== Profiling "begin_kernel" - 0: 0%....50%....100% - 9 passes
==PROF== Disconnected from process 4242
"ID","Process ID","Process Name","Host Name","Kernel Name","Context","Stream","Block Size","Grid Size","Device","CC",\
"gpu__time_duration.sum","launch__registers_per_thread","launch__shared_mem_per_block","lts__throughput.avg.pct_of_\
peak_sustained_elapsed","sm__inst_executed_pipe_tensor.avg.pct_of_peak_sustained_active","sm__pipe_tensor_cycles_\
active.avg.pct_of_peak_sustained_active","sm__throughput.avg.pct_of_peak_sustained_elapsed"
"","","","","","","","","","","","ns","register/thread","byte/block","%","%","%","%"
"0","4242","python3.12","127.0.0.1","begin_kernel","1","13","(128, 1, 1)","(256, 1, 1)","0","9.0",\
"4,128","40","1,536","12.34","n/a","n/a","33.50"
==WARNING== Launch 1 took long
"1","4242","python3.12","127.0.0.1","word_kernel","1","13","(128, 1, 1)","(136, 1, 1)","0","9.0",\
"21,500.00","250","99,328","55.55","(!) nan","71.26","60.00"
"""
HEAD = "| workload | kernel | µs | SM % | tensor % | L2 % | DRAM % | warps % | registers | shared KiB |"
ROWS = [
    "| a | begin_kernel | 4.1 | 34 | – | 12 | – | – | 40 | 1.5 |",
    "| a | word_kernel | 21.5 | 60 | 71 | 56 | – | – | 250 | 97.0 |",
]


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("kernel_figures", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_a_report_becomes_rows(script: ModuleType) -> None:
    assert script.Workload(prepare=lambda: print).rows("a", script.parse(REPORT)) == ROWS


@pytest.mark.parametrize("unit", [("ns", "21,500"), ("usecond", "21.5"), ("ms", "0.0215"), ("second", "0.0000215")])
def test_units_are_scaled(script: ModuleType, unit: tuple[str, str]) -> None:
    name, text = unit
    assert script.Value(text=text, unit=name).number == pytest.approx(21.5)
    assert script.Value(text="2.048", unit="Kbyte/block").number == pytest.approx(2.0)


def test_parts_of_a_call(script: ModuleType) -> None:
    parts = script.Workload(prepare=lambda: print, parts=("W",), skip=1)
    assert parts.rows("b", script.parse(REPORT)) == [ROWS[1].replace("a | word_kernel", "b | W")]
    late = script.Workload(prepare=lambda: print, parts=("W", "Y"), skip=1)
    assert late.rows("b", script.parse(REPORT)) == []


@pytest.mark.parametrize(
    "text", ["", "==ERROR== ERR_NVGPUCTRPERM - no permission\n", REPORT[: REPORT.index('"0",')], '"ID",\n']
)
def test_a_report_without_launches(script: ModuleType, text: str) -> None:
    assert script.parse(text) == []


def test_metrics_asked_for_are_those_that_are_listed(script: ModuleType) -> None:
    listed = "Device NVIDIA H100\ngpu__time_duration  Counter  ns\nsm__inst_executed_pipe_tensor  Counter  inst  # of\n"
    asked = script.wanted(listed)
    assert "sm__inst_executed_pipe_tensor.avg.pct_of_peak_sustained_active" in asked
    assert not any(name.startswith("sm__pipe_tensor") for name in asked)
    assert {"gpu__time_duration.sum", "launch__registers_per_thread"} <= set(asked)
    assert len(script.wanted("")) == len(script.COLUMNS)


NCU = """\
#!{python}
import pathlib, sys
given = sys.argv[1:]
if "--query-metrics" in given:
    print("gpu__time_duration Counter")
elif given[-1] == "gram-1024":
    pathlib.Path(given[given.index("--log-file") + 1]).write_text({report!r}, encoding="utf-8")
else:
    sys.exit("no device")
"""


def test_the_table_and_a_workload_that_fails(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ncu = tmp_path / "ncu"
    ncu.write_text(NCU.format(python=sys.executable, report=REPORT), encoding="utf-8")
    ncu.chmod(0o755)
    monkeypatch.setattr(script.torch.cuda, "get_device_name", lambda: "a GPU")
    monkeypatch.setattr(sys, "argv", ["kernel_figures.py", "--ncu", str(ncu), "--only", "gram-1024", "graded-1024"])
    assert script.main() == 1
    printed = capsys.readouterr()
    table = printed.out.splitlines()[2:]
    assert table[0] == HEAD
    assert table[2:4] == [row.replace("| a |", "| gram-1024 |") for row in ROWS]
    assert table[4] == "| graded-1024 | – |" + " – |" * 8
    assert "graded-1024\nncu ended with 1\nno device" in printed.err
    monkeypatch.setattr(sys, "argv", ["kernel_figures.py", "--ncu", str(ncu), "--only", "gram-1024"])
    assert script.main() == 0


@pytest.mark.gpu
@pytest.mark.skipif(
    not torch.cuda.is_available() or torch.cuda.get_device_capability() != (9, 0), reason="needs a Hopper GPU"
)
def test_every_workload_runs(script: ModuleType) -> None:
    """Without ncu, whose range of profiling is then an empty one."""
    for name in script.WORKLOADS:
        script.run(name)
