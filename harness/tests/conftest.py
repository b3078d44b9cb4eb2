"""Fixtures that several test files share."""

from __future__ import annotations

import importlib
import sys

import pytest

from harness.tests.in_process import PLANTED, InProcessLauncher, plan_in_process
from iroot import registry


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The planted method is registered in this process for the length of one test: others loop over the registry."""
    register_planted(monkeypatch)


def register_planted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Until `monkeypatch` is undone."""
    list(registry.methods())  # whatever else is loaded on first use stays
    monkeypatch.setattr(registry, "_METHODS", dict(registry._METHODS))
    monkeypatch.delitem(sys.modules, PLANTED, raising=False)
    importlib.import_module(PLANTED)


@pytest.fixture
def one_process(planted: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Launches run in this process, and the planted method with them."""
    monkeypatch.setattr("harness.runner.Launcher", InProcessLauncher)


@pytest.fixture
def planned_here(one_process: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cases of arms are planned in this process, too: all of them hold the library under test."""
    monkeypatch.setattr("harness.arm_plan._ask", plan_in_process)
