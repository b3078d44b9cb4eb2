"""What each arm of an A/B can measure, asked of the arm's own registry.

Run as a module (`python -m harness.arm_plan REQUEST.json`) it plans a manifest with the library it imports. A revision
may lack a method that the manifest names: the other arm's plan then stands in, reduced to the cases this arm serves.
"""

from __future__ import annotations

import importlib
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from harness.arms import Arm
from harness.errors import MeasurementError, UsageError
from harness.filters import flag_filter
from harness.records import Case, PlannedCase, Record, SoftwareIdentity

if TYPE_CHECKING:
    from harness.manifest import DeviceKind, Manifest

PLAN_LIMIT_S = 180.0


class PlanRequest(Record):
    """Work for the planning process: a manifest, or cases to reduce to those the library serves."""

    manifest_toml: str
    origin: str
    device_kind: str
    candidates: tuple[PlannedCase, ...] | None = None
    imports: tuple[str, ...] = ()
    """Modules that register methods of one's own."""
    answer: str
    """Path of the file to write."""


class PlanAnswer(Record):
    """The cases, or why the manifest does not fit this library."""

    cases: tuple[PlannedCase, ...] = ()
    error: str | None = None


def plan_arms(
    a: Arm,
    b: Arm,
    manifest: Manifest,
    *,
    device_kind: DeviceKind,
    filter: str | None,
    imports: tuple[str, ...] = (),
) -> tuple[tuple[PlannedCase, ...], tuple[PlannedCase, ...]]:
    """The cases of both arms; a case that only one registry holds appears on that side only.

    The filter is applied to both plans together: what it names may be held by one registry alone.

    Raises:
        UsageError: the manifest fits neither arm, the filter does not parse, no case is left on either side, or the
            filter names what neither side has.
        MeasurementError: a planning process failed.
    """
    from harness.sweep import narrowed  # not above: an arm's own library need not hold all that planning imports

    wanted = None if filter is None else flag_filter("--filter", filter)
    request = PlanRequest(
        manifest_toml=manifest.to_toml(),
        origin=manifest.origin,
        device_kind=device_kind,
        imports=imports,
        answer="",
    )
    with ThreadPoolExecutor(2) as pool:  # an answer takes seconds of imports
        asked_a, asked_b = pool.submit(_ask, a, request), pool.submit(_ask, b, request) if a != b else None
        answer_a = asked_a.result()
        answer_b = asked_b.result() if asked_b else answer_a
    if answer_a.error and answer_b.error:
        raise UsageError(answer_b.error)
    declared = {planned.case.case_id: planned for answer in (answer_b, answer_a) for planned in answer.cases}
    plans = [_settled(arm, answer, declared.values(), request) for arm, answer in ((a, answer_a), (b, answer_b))]
    cases_a, cases_b = narrowed(plans, wanted, name=f"{manifest.name} on {device_kind}")
    return cases_a, cases_b


def serves(arm: Arm, planned: PlannedCase, manifest: Manifest, *, imports: tuple[str, ...] = ()) -> bool:
    """Whether the arm's registry holds a case's method, for its precision and root.

    Raises:
        MeasurementError: the process that asks it failed: the arm's library cannot be imported, for instance.
    """
    request = PlanRequest(
        manifest_toml=manifest.to_toml(),
        origin=manifest.origin,
        device_kind="cpu",  # not asked for: the case is planned already
        candidates=(planned,),
        imports=imports,
        answer="",
    )
    return _ask(arm, request).cases != ()


def software_of(arm: Arm) -> SoftwareIdentity:
    """The versions an arm is measured with, asked of its interpreter where that is not the running one.

    Raises:
        MeasurementError: the interpreter cannot say: it lacks torch, for instance.
    """
    from harness import environment

    if arm.interpreter == sys.executable:
        return environment.software_identity()
    code = "from harness.environment import software_identity as found; print(found().model_dump_json())"
    done = subprocess.run(
        [arm.interpreter, "-P", "-c", code],
        env=arm.environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PLAN_LIMIT_S,
    )
    if done.returncode != 0:
        raise MeasurementError(f"{arm.interpreter} does not say its versions:\n{done.stderr.strip()[-2000:]}")
    return SoftwareIdentity.model_validate_json(done.stdout.splitlines()[-1])


def _settled(
    arm: Arm, answer: PlanAnswer, declared: Iterable[PlannedCase], request: PlanRequest
) -> tuple[PlannedCase, ...]:
    if answer.error is None:
        return answer.cases
    return _ask(arm, request.model_copy(update={"candidates": tuple(declared)})).cases


def _ask(arm: Arm, request: PlanRequest) -> PlanAnswer:
    with tempfile.TemporaryDirectory() as folder:
        answer, question = Path(folder, "answer.json"), Path(folder, "request.json")
        question.write_text(request.model_copy(update={"answer": str(answer)}).model_dump_json())
        done = subprocess.run(
            [*arm.command("harness.arm_plan"), str(question)],
            env=arm.environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PLAN_LIMIT_S,
        )
        if done.returncode != 0 or not answer.exists():
            raise MeasurementError(f"{arm.label}: its library cannot be planned:\n{done.stderr.strip()[-2000:]}")
        return PlanAnswer.model_validate_json(answer.read_text())


def _answer(request: PlanRequest) -> PlanAnswer:
    for module in request.imports:
        importlib.import_module(module)
    if request.candidates is not None:
        return PlanAnswer(cases=tuple(planned for planned in request.candidates if _serves(planned.case)))
    from harness.manifest import parse_manifest
    from harness.sweep import plan

    try:
        manifest = parse_manifest(request.manifest_toml, origin=request.origin)
        device_kind: DeviceKind = "cuda" if request.device_kind == "cuda" else "cpu"
        return PlanAnswer(cases=plan(manifest, device_kind=device_kind))
    except UsageError as error:
        return PlanAnswer(error=str(error))


def _serves(case: Case) -> bool:
    """Whether this process's registry holds the case's method, for its precision and root."""
    from iroot.errors import UnknownNameError
    from iroot.registry import get_method

    try:
        spec = get_method(case.task, case.method)
        spec.make_options(dict(case.options))
    except UnknownNameError:
        return False
    return case.precision in spec.precisions and (spec.roots is None or case.p in spec.roots)


if __name__ == "__main__":
    asked = PlanRequest.model_validate_json(Path(sys.argv[1]).read_text())
    Path(asked.answer).write_text(_answer(asked).model_dump_json())
