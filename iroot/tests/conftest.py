"""Tests marked `gpu` run where there is a CUDA GPU and are skipped elsewhere."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from iroot.tests.interpreter import patch_once_a_launch

# Matrices here are small, and several test processes share the cores: threads of their own make them wait for each
# other (2 cores, load 11: 120 s instead of 10 s).
torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    skip = pytest.mark.skip(reason="needs a CUDA GPU")
    for item in items:
        if "gpu" in item.keywords:
            item.add_marker(skip)


@pytest.fixture(autouse=True, scope="session")
def _quick_interpreter() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as monkeypatch:
        patch_once_a_launch(monkeypatch)
        yield
