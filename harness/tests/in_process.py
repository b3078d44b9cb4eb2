"""A launcher without worker processes: the worker's own code, in this process. For tests that run many launches."""

from __future__ import annotations

import sys

from harness import arm_plan, worker
from harness.arm_plan import PlanAnswer, PlanRequest
from harness.arms import Arm
from harness.launcher import LaunchRequest, Observer
from harness.records import WorkPlan
from harness.standby import Standby

PLANTED = "harness.tests.planted_methods"


def plan_in_process(arm: Arm, request: PlanRequest) -> PlanAnswer:
    """Takes the place of `harness.arm_plan._ask`, for arms whose registries are this process's."""
    return arm_plan._answer(request)


class InProcessLauncher:
    """Takes the place of `harness.launcher.Launcher`; a case that hangs or dies takes the test with it."""

    def __init__(self, request: LaunchRequest, observer: Observer, workers: Standby) -> None:
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
        assert worker.work(plan, startup_s=0.0) == 0
