"""The CPUs that this process may use. Imports no library."""

from __future__ import annotations

import os
from pathlib import Path


def usable_cpus(quota: Path = Path("/sys/fs/cgroup/cpu.max")) -> int:
    """The CPUs that this process may use, at least 1: a scheduler or container may give it fewer than the machine has.

    quota: of the control group (version 2), microseconds of CPU time in so many of the clock, or `max`.
    """
    allowed = len(os.sched_getaffinity(0))
    granted, _, period = quota.read_text(encoding="ascii").partition(" ") if quota.is_file() else ("max", "", "")
    return allowed if granted == "max" else max(1, min(allowed, int(granted) // int(period)))
