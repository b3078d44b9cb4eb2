"""The order in which a launch measures its cases, and the fingerprint by which two launches of one order are known.

Medians depend on what is measured before a case: on one H100 a case's launches differ by 0.6 % (standard deviation, 88
graph cases, 2026-11-22) from order to order alone, as much as by their own noise. Two launches of one order share that
part of their error, and a comparison of such launches is rid of it (`harness.launch_blocks`).
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Mapping, Sequence
from itertools import groupby

from harness.records import EXTERNAL, PlannedCase, RunRecord


def launch_order(cases: Sequence[PlannedCase], *, seed: int, launch: int) -> tuple[PlannedCase, ...]:
    """The cases in the random order of one launch: a function of the seed, the launch and the set of cases alone."""
    order = sorted(cases, key=lambda planned: planned.case.case_id)
    random.Random(f"{seed}/{launch}").shuffle(order)
    return tuple(order)


def order_fingerprint(launch: int, processes: Sequence[Sequence[str]]) -> str:
    """16 hex digits that stand for a launch's number and its case ids as measured, process by process."""
    text = json.dumps([launch, [list(process) for process in processes]], separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def measured_orders(run: RunRecord, measured: Mapping[int, Mapping[str, int]]) -> dict[int, str]:
    """Timed launch -> fingerprint of the order it went through; empty for samples of another program.

    Derived, not recorded: a launch measures in `launch_order` and leaves out what it does not measure (cases that
    failed in the quality pass); where a process died, or a launch was resumed, a new one goes on in the same order.

    Args:
        measured: launch -> case_id -> the worker process that measured the case.
    """
    if any(planned.case.task == EXTERNAL for planned in run.cases):
        return {}
    found = {}
    for launch, process_of in sorted(measured.items()):
        if launch < 1:
            continue
        order = [planned.case.case_id for planned in launch_order(run.cases, seed=run.seed, launch=launch)]
        went_through = [case_id for case_id in order if case_id in process_of]
        processes = [list(ids) for _, ids in groupby(went_through, key=process_of.__getitem__)]
        found[launch] = order_fingerprint(launch, processes)
    return found
