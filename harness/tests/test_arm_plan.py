"""What each arm of an A/B can measure, asked of real libraries that differ."""

from __future__ import annotations

import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import iroot
from harness import environment
from harness.arm_plan import plan_arms, serves, software_of
from harness.arms import Arm, current_arm, resolve_arm
from harness.errors import MeasurementError, UsageError
from harness.manifest import Manifest, parse_manifest
from harness.runner import measured_source
from harness.sweep import plan

EVERY_METHOD = """
name = "tiny"
[[sweep]]
task = "inverse_root"
method = "role:method"
precision = "fp32"
p = 2
n = 8
problem = "wishart"
"""
CONTROLS = {"cublas", "device_copy"}
ONE_METHOD = EVERY_METHOD.replace("role:method", "newton_db")


@pytest.fixture(scope="module")
def older(tmp_path_factory: pytest.TempPathFactory) -> Arm:
    """This library before newton_db was added."""
    folder = tmp_path_factory.mktemp("older")
    source = Path(iroot.__file__).parent
    shutil.copytree(source, folder / "iroot", ignore=shutil.ignore_patterns("tests", "__pycache__"))
    (folder / "iroot" / "methods" / "newton_db.py").unlink()
    return resolve_arm(str(folder), repository=folder, exports=folder / "exports")


def manifest(text: str) -> Manifest:
    return parse_manifest(text, origin="tiny.toml")


def names(cases: tuple[object, ...]) -> set[str]:
    return {planned.case.method for planned in cases}  # type: ignore[attr-defined]


def test_each_arm_plans_by_its_own_registry(older: Arm) -> None:
    cases_a, cases_b = plan_arms(older, current_arm(), manifest(EVERY_METHOD), device_kind="cpu", filter=None)
    assert names(cases_b) - names(cases_a) == {"newton_db"}
    assert names(cases_a) < names(cases_b)


def test_a_method_that_one_arm_lacks_is_planned_for_the_other(older: Arm) -> None:
    cases_a, cases_b = plan_arms(older, current_arm(), manifest(ONE_METHOD), device_kind="cpu", filter=None)
    assert "newton_db" not in names(cases_a)
    assert "newton_db" in names(cases_b)
    assert names(cases_a) == CONTROLS, "which both arms hold"


def test_whether_an_arm_serves_a_case_is_asked_of_its_own_library(older: Arm, tmp_path: Path) -> None:
    one = manifest(ONE_METHOD)
    planned = next(each for each in plan(one, device_kind="cpu") if each.case.method == "newton_db")
    assert not serves(older, planned, one)
    (tmp_path / "iroot").mkdir()
    (tmp_path / "iroot" / "__init__.py").write_text("raise ImportError('planted')\n")
    with pytest.raises(MeasurementError, match="its library cannot be planned"):
        serves(resolve_arm(str(tmp_path), repository=tmp_path, exports=tmp_path / "exports"), planned, one)


def test_a_manifest_that_fits_neither_arm_is_refused_with_its_reason(older: Arm) -> None:
    with pytest.raises(UsageError, match=r"tiny.toml: sweep\[0\].method: unknown 'newton_db'"):
        plan_arms(older, older, manifest(ONE_METHOD), device_kind="cpu", filter=None)


@pytest.mark.parametrize(
    ("filter", "message"),
    [
        ("n=99", r"--filter 'n=99' keeps none of the \d+ cases of tiny on cpu: no case has n '99'; they have: 8"),
        (
            "p=2,method=coupled_pe|nwton_db",
            "--filter 'p=2,method=coupled_pe|nwton_db', tiny on cpu: no case has method 'nwton_db'; "
            "did you mean 'newton_db'",
        ),
        ("taks=polar", "--filter: unknown key 'taks'"),
    ],
)
def test_a_filter_that_names_what_neither_arm_has(older: Arm, filter: str, message: str) -> None:
    with pytest.raises(UsageError, match="^" + message.replace("|", r"\|")):
        plan_arms(older, current_arm(), manifest(EVERY_METHOD), device_kind="cpu", filter=filter)


def test_a_filter_may_name_what_one_arm_lacks(older: Arm) -> None:
    """Either way round: what only the reference has is missing, what only the candidate has is new."""
    wanted = "method=coupled_newton|newton_db"
    for a, b in ((older, current_arm()), (current_arm(), older)):
        plans = plan_arms(a, b, manifest(EVERY_METHOD), device_kind="cpu", filter=wanted)
        found = {arm.label: names(cases) - CONTROLS for arm, cases in zip((a, b), plans, strict=True)}
        assert found == {older.label: {"coupled_newton"}, current_arm().label: {"coupled_newton", "newton_db"}}
    alone, _ = plan_arms(older, current_arm(), manifest(EVERY_METHOD), device_kind="cpu", filter="method=newton_db")
    assert names(alone) == CONTROLS


def test_the_versions_of_an_arm_are_those_of_its_interpreter(tmp_path: Path) -> None:
    """An environment that differs in triton's version alone."""
    found = tmp_path / "site" / "triton-99.9.9.dist-info"
    found.mkdir(parents=True)
    (found / "METADATA").write_text("Metadata-Version: 2.1\nName: triton\nVersion: 99.9.9\n")
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH={tmp_path / "site"}:$PYTHONPATH exec {sys.executable} "$@"\n')
    python.chmod(0o755)
    here = environment.software_identity()
    assert software_of(current_arm()) == here
    other = software_of(replace(current_arm(), interpreter=str(python)))
    assert other == here.model_copy(update={"triton": "99.9.9"})
    python.write_text("#!/bin/sh\nexit 1\n")
    with pytest.raises(MeasurementError, match="does not say its versions"):
        software_of(replace(current_arm(), interpreter=str(python)))


def test_a_folder_is_recorded_by_its_own_sources(older: Arm) -> None:
    here, there = measured_source(current_arm()), measured_source(older)
    assert measured_source(replace(current_arm(), label="A/A")) == here == measured_source(None)
    assert (there.revision, there.dirty) == (None, None)
    assert there.source_hash != here.source_hash
