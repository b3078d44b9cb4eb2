"""A launcher without worker processes: the worker's own code, in this process. For tests that run many launches."""

from __future__ import annotations

from harness import worker
from harness.launcher import LaunchRequest, Observer
from harness.records import WorkPlan


class InProcessLauncher:
    """Takes the place of `harness.launcher.Launcher`; a case that hangs or dies takes the test with it."""

    def __init__(self, request: LaunchRequest, observer: Observer) -> None:
        self._request = request

    def run(self) -> None:
        """Measure the launch's cases."""
        request = self._request
        plan = WorkPlan(
            run_id=request.run_id,
            launch=request.launch,
            device=request.device,
            threads=request.threads,
            cases=request.cases,
            shard=str(request.shard),
            injection=request.arm.injection,
        )
        assert worker.work(plan) == 0
