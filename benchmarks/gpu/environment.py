"""What the processes of `benchmarks.gpu` find in their environment, asked without loading CUDA."""

from __future__ import annotations

import os

from benchmarks.gpu.settings import Settings
from pipeline.machine.cpus import usable_cpus

TESTS_AT_ONCE = 5
_CORES_OF_TESTS = 3  # that a file of tests takes, Ray's workers included
_JOBS_SHARE = 0.75  # of the cores that compile gsplat; the rest keep the card busy meanwhile


def of_processes(settings: Settings) -> dict[str, str]:
    """Additions: how many compile, and that tests run on a CPU where the benchmark does."""
    found = {"MAX_JOBS": str(max(1, int(usable_cpus() * _JOBS_SHARE)))} if "MAX_JOBS" not in os.environ else {}
    if not settings.cuda:
        found["MOUSELIFT_GPU_TESTS"] = "cpu"
    return found


def of_tests(settings: Settings) -> dict[str, str]:
    """The same, and threads enough for a file of tests beside the others."""
    return of_processes(settings) | {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "2")}


def at_once() -> int:
    """How many files of tests run side by side."""
    return max(1, min(TESTS_AT_ONCE, usable_cpus() // _CORES_OF_TESTS))
