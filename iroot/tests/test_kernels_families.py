"""The rows of GPU families, and that the model takes its figures from them."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

if not torch.cuda.is_available():  # read when kernels are defined, which other tests of this process run
    os.environ["TRITON_INTERPRET"] = "1"
from iroot import triton_ops
from iroot.kernels.families import FAMILIES, HOPPER, KIB, find_family, is_served
from iroot.kernels.tiling import TILINGS, Tiling, choose_tiling, makespan
from iroot.precision import get_precision

PLAIN, TAIL, SMALL, SMALL_TAIL = TILINGS

# No GPU is needed to compile for one, and one process either compiles kernels or interprets them.
COMPILED = """
import torch, triton
from triton.backends.compiler import GPUTarget

class Hopper:
    get_current_target = staticmethod(lambda: GPUTarget("cuda", 90, 32))
    get_current_device = staticmethod(lambda: 0)
    get_current_stream = staticmethod(lambda device: 0)

triton.runtime.driver.set_active(Hopper())
from iroot.kernels.multiply_add import SEARCHED_BLOCKINGS, multiply_add
from iroot.kernels.rehearsal import rehearsal
from iroot.kernels.symmetric import symmetric_product
from iroot.kernels.tiling import SEARCHED_TILINGS

def tell(**event):
    metadata = event["metadata"]
    print((metadata if isinstance(metadata, dict) else metadata._asdict())["shared"])

triton.knobs.compilation.listener = tell
A = torch.zeros(256, 256, dtype=torch.bfloat16)
tiling, blocking = SEARCHED_TILINGS[-1], SEARCHED_BLOCKINGS[-1]
with rehearsal():
    symmetric_product(A, A, tiling=tiling)
    multiply_add(A, A, A, blocking=blocking)
print(tiling.shared_bytes, blocking.shared_bytes)
"""


def test_hopper_alone_is_served(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [each.name for each in FAMILIES if each.served] == ["hopper"]
    assert len({each.capability for each in FAMILIES}) == len(FAMILIES)
    assert find_family((9, 0)) is HOPPER
    assert find_family((7, 5)) is None
    for capability, expected in (((9, 0), True), ((8, 0), False), ((10, 0), False), ((12, 0), False), ((7, 5), False)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, found=capability: found)
        assert is_served(capability) == expected
        assert triton_ops.serves(get_precision("bf16"), torch.device("cuda", 0)) == expected


@pytest.mark.parametrize("tiling", TILINGS, ids=str)
def test_two_programs_share_a_multiprocessor_of_an_h100(tiling: Tiling) -> None:
    assert HOPPER.resident(tiling.shared_bytes) == 2


@pytest.mark.skipif(sys.platform != "linux", reason="Triton is for Linux")
def test_programs_have_the_shared_memory_that_the_model_counts(tmp_path: Path) -> None:
    script = tmp_path / "compiled.py"
    script.write_text(COMPILED)
    environment = {**os.environ, "TRITON_CACHE_DIR": str(tmp_path), "TRITON_INTERPRET": "0"}
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, check=False, timeout=100, env=environment
    )
    assert done.returncode == 0, done.stderr
    *compiled, tiling, blocking = done.stdout.split()
    assert sorted(compiled) == sorted([tiling, blocking])


def test_shared_memory_decides_how_many_programs_there_are() -> None:
    assert PLAIN.shared_bytes == 96 * KIB + 24
    assert TAIL.shared_bytes == 108 * KIB + 24
    resident = {each.name: [each.resident(tiling.shared_bytes) for tiling in TILINGS] for each in FAMILIES}
    assert resident["ampere"] == [1, 1, 1, 1]
    assert resident["ada"] == resident["ampere-ga10x"] == resident["blackwell-gb20x"] == [1, 0, 1, 0]
    assert resident["blackwell"] == resident["hopper"]
    assert HOPPER.resident(HOPPER.program_bytes) == 1
    assert HOPPER.resident(HOPPER.program_bytes + 1) == 0


def test_the_model_counts_with_the_family() -> None:
    ada = find_family((8, 9))
    assert ada is not None
    # n = 2048 has 118 tiles with tails, on 132 processors one wave; without room for tails there are 136.
    assert choose_tiling(2048, 1, processors=132) == TAIL
    assert choose_tiling(2048, 1, processors=132, family=ada) in (PLAIN, SMALL)
    # 300 tiles on 132 processors: three rounds, whether programs share a processor or follow one another.
    assert makespan(3000, 1, PLAIN, processors=132) == makespan(3000, 1, PLAIN, processors=132, family=ada) == 3.0
    one = replace(HOPPER, most_resident=1)
    assert makespan(2048, 1, PLAIN, processors=132, family=one) == 2.0
