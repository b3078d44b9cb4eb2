"""Fixtures that several test files share."""

from __future__ import annotations

import importlib
import sys

import pytest

from harness.tests.in_process import PLANTED, InProcessLauncher
from iroot import registry


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The planted method is registered in this process for the length of one test: others loop over the registry."""
    list(registry.methods())  # whatever else is loaded on first use stays
    monkeypatch.setattr(registry, "_METHODS", dict(registry._METHODS))
    monkeypatch.delitem(sys.modules, PLANTED, raising=False)
    importlib.import_module(PLANTED)


@pytest.fixture
def one_process(planted: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Launches run in this process, and the planted method with them."""
    monkeypatch.setattr("harness.runner.Launcher", InProcessLauncher)
