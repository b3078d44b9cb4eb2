"""Tests are the same everywhere: the same examples every time, no deadlines, no tables of whoever runs them."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

settings.register_profile("repeatable", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("repeatable")

# What kernels take must not depend on the tables that the user of this machine has tuned.
os.environ["IROOT_KERNEL_TABLE"] = "none"
