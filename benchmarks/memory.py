"""What a piece of work adds to the memory of a fresh process."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

Prepare = Callable[..., Callable[[], object]]


def peak_mib(prepare: Prepare, *arguments: Any) -> float:
    """Resident MiB above what was there before, at its highest, of the work that `prepare(*arguments)` returns."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_peak_here, prepare, *arguments).result()


def _peak_here(prepare: Prepare, *arguments: Any) -> float:
    work = prepare(*arguments)
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts again from here
    before = _high_water_kib()
    work()
    return (_high_water_kib() - before) / 1024


def _high_water_kib() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
