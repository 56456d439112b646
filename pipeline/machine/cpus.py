"""The CPUs that this process may use, and their kind. Imports no library."""

from __future__ import annotations

import os
import platform
from pathlib import Path


def usable_cpus(quota: Path = Path("/sys/fs/cgroup/cpu.max")) -> int:
    """The CPUs that this process may use, at least 1: a scheduler or container may give it fewer than the machine has.

    quota: of the control group (version 2), microseconds of CPU time in so many of the clock, or `max`.
    """
    allowed = len(os.sched_getaffinity(0))
    granted, _, period = quota.read_text(encoding="ascii").partition(" ") if quota.is_file() else ("max", "", "")
    return allowed if granted == "max" else max(1, min(allowed, int(granted) // int(period)))


def cpu_kind(info: Path = Path("/proc/cpuinfo")) -> str:
    """The name that the CPU gives itself, with its family and model, which tell more on a virtual machine; its
    architecture where it gives none. info: what the system says of it.
    """
    lines = info.read_text(encoding="utf-8", errors="replace").splitlines() if info.is_file() else []
    said = {key.strip(): " ".join(value.split()) for key, _, value in (line.partition(":") for line in lines)}
    words = [said.get("model name") or platform.machine()]
    words += [f"{word} {said[key]}" for key, word in (("cpu family", "family"), ("model", "model")) if key in said]
    return ", ".join(words)
