"""What `--dry-run` shows: the cases and the time they are expected to take."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from rich.console import Console

from harness.cli.devices import device_kind
from harness.estimate import Estimate, call_seconds, estimate, launch_seconds, unsupported_here
from harness.report.format import count as counted
from harness.report.format import duration
from harness.sweep import expand

if TYPE_CHECKING:
    from harness.runner import RunRequest


def print_plan(request: RunRequest, console: Console) -> None:
    """One line per case (estimated time of a call, id, marks), then what was left out and the estimated total."""
    kind = device_kind(request.device)
    for planned in request.cases:
        marks = [name for name in ("control",) if planned.control]
        marks += [f"expect {planned.expect}"] if planned.expect != "ok" else []
        marks += ["advisory"] if not planned.gates and not planned.control else []
        unsupported = unsupported_here(planned.case, kind)
        marks += [f"unsupported: {unsupported}"] if unsupported else []
        text = f"{duration(call_seconds(planned.case, kind)):>8}  {planned.case.case_id}"
        console.print(text + (f"  ({', '.join(marks)})" if marks else ""), markup=False, soft_wrap=True)
    for reason, count in sorted(_left_out(request).items()):
        console.print(f"left out: {reason} ({count})", style="dim", markup=False, soft_wrap=True)
    total = _estimate(request)
    per_task = Counter(planned.case.task for planned in request.cases if not planned.control)
    tasks = ", ".join(f"{task} {count}" for task, count in per_task.items())
    controls = sum(planned.control for planned in request.cases)
    console.print(f"{request.manifest.name} on {request.device}: {tasks}, controls {controls}", soft_wrap=True)
    console.print(
        f"about {duration(total.total_s)}: quality pass {duration(total.quality_s)}, "
        f"{counted(request.launches, 'launch', 'launches')} of {duration(total.launch_s)}"
        + (_COMPILING if kind == "cuda" else ""),
        soft_wrap=True,
    )


_COMPILING = "; where kernels are not compiled yet, up to half a second a case more in the quality pass"
"""220 cases from n = 1024 on: 135 s for an expected 58 s on a fresh machine (H100, Triton 3.6, 2026-11-23)."""


def plan_json(request: RunRequest) -> dict[str, Any]:
    """The same for programs."""
    kind, total = device_kind(request.device), _estimate(request)
    return {
        "manifest": request.manifest.name,
        "manifest_hash": request.manifest.manifest_hash,
        "device": request.device,
        "launches": request.launches,
        "estimated_total_s": round(total.total_s, 3),
        "estimated_launch_s": round(total.launch_s, 3),
        "estimated_quality_s": round(total.quality_s, 3),
        "left_out": _left_out(request),
        "cases": [
            {
                "case_id": planned.case.case_id,
                "unsupported": unsupported_here(planned.case, kind),
                "estimated_call_s": call_seconds(planned.case, kind),
                "estimated_launch_s": launch_seconds(planned, kind),
                **planned.model_dump(mode="json"),
            }
            for planned in request.cases
        ],
    }


def _estimate(request: RunRequest) -> Estimate:
    return estimate(request.cases, launches=request.launches, device_kind=device_kind(request.device))


def _left_out(request: RunRequest) -> dict[str, int]:
    if request.resume:
        return {}
    return expand(request.manifest, device_kind=device_kind(request.device), filter=request.filter).left_out
