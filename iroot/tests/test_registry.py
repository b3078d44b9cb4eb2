"""What holds for every registered method, and the import-time promises of the package."""

from __future__ import annotations

import importlib
import inspect
import math
import subprocess
import sys
from dataclasses import fields, is_dataclass
from pathlib import Path

import pytest

import iroot
from iroot.errors import InvalidInputError, UnknownNameError
from iroot.precision import PRECISIONS
from iroot.registry import TASKS, MethodSpec, NoOptions, Workload, get_method, methods, register

SPECS = tuple(methods())
EACH = pytest.mark.parametrize("spec", SPECS, ids=lambda spec: f"{spec.task}-{spec.name}")


def workloads(spec: MethodSpec) -> list[Workload]:
    """A small and a batched workload per root and precision, with a spectrum that every method serves."""
    task = TASKS[spec.task]
    roots = (spec.roots or (1, 2, 3, 8)) if task.has_root else (None,)
    n = 64
    return [
        Workload(
            m=n if task.operand == "spd" else m, n=n, precision=precision, batch=batch, p=p,
            k=8 if task.has_columns else None, lower=lower,
        )
        for p in roots
        for precision in spec.precisions
        for m, batch, lower in ((48, 1, 1e-2), (96, 3, 0.1))
    ]  # fmt: skip


@EACH
def test_costs_are_finite_and_positive(spec: MethodSpec) -> None:
    options = spec.options()
    for workload in workloads(spec):
        flops, moved = spec.flops(workload, options), spec.bytes_moved(workload, options)
        assert math.isfinite(flops)
        assert flops > 0 or (spec.task == "copy" and flops == 0)
        assert math.isfinite(moved)
        assert moved > 0


@EACH
def test_costs_are_proportional_to_the_batch(spec: MethodSpec) -> None:
    options = spec.options()
    shape = {"m": 64, "n": 64, "precision": spec.precisions[0], "p": 2, "k": 8, "lower": 0.01}
    one, four = Workload(**shape), Workload(**shape, batch=4)  # type: ignore[arg-type]
    assert spec.flops(four, options) == pytest.approx(4 * spec.flops(one, options))
    assert spec.bytes_moved(four, options) == pytest.approx(4 * spec.bytes_moved(one, options))


@EACH
def test_stated_accuracy_is_none_or_a_fraction(spec: MethodSpec) -> None:
    for workload in workloads(spec):
        stated = spec.accuracy(workload, spec.options())
        assert stated is None or 0.0 <= stated < 1.0


@EACH
def test_record_is_complete(spec: MethodSpec) -> None:
    assert spec.precisions
    assert len(set(spec.precisions)) == len(spec.precisions)
    assert set(spec.precisions) <= set(PRECISIONS)
    assert all(p >= 1 for p in spec.roots or ())
    assert spec.summary.strip()
    assert "\n" not in spec.summary
    assert spec.citation.strip()
    assert get_method(spec.task, spec.name) is spec


@EACH
def test_options_are_frozen_documented_and_have_defaults(spec: MethodSpec) -> None:
    options = spec.options()
    assert is_dataclass(options)
    assert options == spec.make_options({})
    assert hash(options) == hash(spec.options())
    documentation = inspect.getdoc(spec.options) or ""
    for field in fields(spec.options):
        assert field.name in documentation, f"{spec.options.__name__}.{field.name} is not documented"


@EACH
def test_function_is_documented_in_its_own_file(spec: MethodSpec) -> None:
    assert inspect.getdoc(spec.function)
    module = inspect.getmodule(spec.function)
    assert module is not None
    assert module.__name__.startswith("iroot.methods.")
    assert module.__doc__


@EACH
def test_unknown_option(spec: MethodSpec) -> None:
    with pytest.raises(UnknownNameError, match=f"unknown option of {spec.task}/{spec.name} 'no_such_option'"):
        spec.make_options({"no_such_option": 1})


@EACH
def test_a_misspelt_method_suggests_the_nearest(spec: MethodSpec) -> None:
    with pytest.raises(UnknownNameError, match=f"did you mean '{spec.name}'") as caught:
        get_method(spec.task, spec.name + "x")
    assert caught.value.nearest == spec.name


@EACH
def test_a_second_registration_is_refused(spec: MethodSpec) -> None:
    with pytest.raises(InvalidInputError, match=f"{spec.task}/{spec.name} is registered already"):
        register(spec)


def test_unknown_task() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'polar'"):
        get_method("polr", "svd")


def test_every_method_file_registers() -> None:
    folder = Path(importlib.import_module("iroot.methods").__path__[0])
    files = {path.stem for path in folder.glob("*.py") if not path.stem.startswith("_")}
    modules = {(inspect.getmodule(spec.function) or sys).__name__.rpartition(".")[2] for spec in SPECS}
    assert files - modules == set()


def test_every_task_has_a_method() -> None:
    assert {spec.task for spec in SPECS} == set(TASKS)


def test_every_option_record_is_public() -> None:
    """The functions take it as `options=`."""
    records = {spec.options.__name__: spec.options for spec in SPECS if spec.options is not NoOptions}
    assert records.keys() <= set(iroot.__all__)
    assert {name: getattr(iroot, name) for name in records} == records


def test_all_is_exact() -> None:
    """Every public name can be had, most of them on first use, and nothing else is public."""
    assert all(getattr(iroot, name) is not None for name in iroot.__all__)
    others = {"TYPE_CHECKING", "annotations"}
    public = {name for name in vars(iroot) if not name.startswith("_") and not inspect.ismodule(getattr(iroot, name))}
    assert (public - others) | {"__version__"} == set(iroot.__all__)
    assert dir(iroot) == sorted(set(iroot.__all__))
    with pytest.raises(AttributeError, match="module 'iroot' has no attribute 'inverse_rot'"):
        iroot.inverse_rot  # noqa: B018


def test_import_takes_little_beyond_torch() -> None:
    """Under 0.3 s by design; 1 s here, because a shared machine stutters."""
    code = "import time, torch; start = time.perf_counter(); import iroot; print(time.perf_counter() - start)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=100)
    assert float(done.stdout) < 1.0


def test_import_loads_no_torch_no_method_and_no_harness() -> None:
    heavy = ("torch", "numpy", "iroot.methods", "harness")
    code = f"import sys, iroot; print(*sorted(m for m in sys.modules if m.startswith({heavy})))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=100)
    assert done.stdout.split() == []
