"""Triton's interpreter without what it repeats: it patches the language anew at every call of a device function."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest


def patch_once_a_launch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Functions of one module find the language patched by the first of a launch: a fifth less time (Triton 3.9).

    A launch takes its patches back; the calls within it have nothing to take back or to add. Where no test has loaded
    the interpreter there is nothing to do: loading it here would come before TRITON_INTERPRET is set.
    """
    interpreter = sys.modules.get("triton.runtime.interpreter")
    if interpreter is None:
        return
    patched: set[int] = set()
    patch: Callable[..., object] = interpreter._patch_lang
    launch: Callable[..., None] = interpreter.GridExecutor.__call__

    def patch_once(fn: Callable[..., object]) -> object:
        module = id(fn.__globals__)
        if module in patched:
            return None
        patched.add(module)
        return patch(fn)

    def launch_anew(self: object, *args: object, **kwargs: object) -> None:
        patched.clear()
        launch(self, *args, **kwargs)

    monkeypatch.setattr(interpreter, "_patch_lang", patch_once)
    monkeypatch.setattr(interpreter.GridExecutor, "__call__", launch_anew)
