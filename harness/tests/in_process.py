"""A launcher without worker processes: the worker's own code, in this process. For tests that run many launches."""

from __future__ import annotations

import sys

from harness import worker
from harness.launcher import LaunchRequest, Observer
from harness.records import WorkPlan

PLANTED = "harness.tests.planted_methods"


class InProcessLauncher:
    """Takes the place of `harness.launcher.Launcher`; a case that hangs or dies takes the test with it."""

    def __init__(self, request: LaunchRequest, observer: Observer) -> None:
        self._request = request

    def run(self) -> None:
        """Measure the launch's cases."""
        request = self._request
        # A worker process would import the arm's own library; here only what is planted in it counts.
        vars(sys.modules[PLANTED])["PLANTED"] = request.arm.library / "iroot" / "PLANTED"
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
