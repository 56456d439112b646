"""One row of a table of figures, and how its time and memory are taken."""

from __future__ import annotations

import gc
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.gpu.settings import GIB, Settings

Work = Callable[[], object]


@dataclass(frozen=True)
class Row:
    """A figure. floor: the least that is possible, or the most for a rate; at_most: what is asked for.

    reference: what an H200 gave on 2026-11-26, before this benchmark was there.
    """

    what: str
    median: float | None = None
    unit: str = ""
    n: int | None = None  # runs
    spread: float | None = None  # the highest less the lowest
    peak_gib: float | None = None
    floor: float | None = None
    reference: float | None = None
    reference_peak_gib: float | None = None
    at_most: float | None = None
    at_most_gib: float | None = None
    note: str = ""

    @property
    def holds(self) -> bool | None:
        """Whether the figure is what is asked for; None where nothing is."""
        pairs = [(self.median, self.at_most), (self.peak_gib, self.at_most_gib)]
        asked = [value <= limit for value, limit in pairs if value is not None and limit is not None]
        return all(asked) if asked else None

    @property
    def values(self) -> dict[str, Any]:
        """The row for JSON, which has no NaN and no infinity: the note says which figure was none."""
        found = asdict(self)
        lost = [name for name, value in found.items() if isinstance(value, float) and not math.isfinite(value)]
        said = [*([self.note] if self.note else []), *(f"{name} is {found[name]}" for name in lost)]
        return found | dict.fromkeys(lost) | {"note": "; ".join(said)}

    @property
    def cells(self) -> dict[str, Any]:
        """The row as columns of a table; those that say nothing are left out."""
        columns = {name.replace("_gib", " GiB").replace("_", " "): value for name, value in asdict(self).items()}
        found = {name: value for name, value in columns.items() if value not in (None, "")}
        return found | ({} if self.holds is None else {"holds": "yes" if self.holds else "NO"})


@dataclass(frozen=True)
class Measured:
    """Seconds of each run, and GiB of the device's memory at the most; None where the device counts none."""

    seconds: list[float]
    peak_gib: float | None

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    def row(self, what: str, unit: str = "ms", scale: float = 1e3, **more: Any) -> Row:
        """The time of a run as a row, `scale` units a second."""
        times = [scale * seconds for seconds in self.seconds]
        spread = max(times) - min(times)
        return Row(what, statistics.median(times), unit, len(times), spread, self.peak_gib, **more)


def measured(settings: Settings, work: Work, repeats: int | None = None, warm_up: int = 1) -> Measured:
    """Time `work` by CUDA's events, or by the clock on a CPU, after `warm_up` runs that are not counted."""
    for _ in range(warm_up):
        work()
    if not settings.cuda:
        return Measured([_by_clock(work) for _ in range(repeats or settings.repeats)], None)
    import torch

    gc.collect()  # what was measured before
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    seconds = [_by_events(work) for _ in range(repeats or settings.repeats)]
    return Measured(seconds, torch.cuda.max_memory_allocated() / GIB)


def _by_clock(work: Work) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _by_events(work: Work) -> float:
    import torch

    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    work()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / 1e3


def or_out_of_memory(what: str, work: Callable[[], Row]) -> Row:
    """The row, or one that says that the card is too small; what was allocated is given back."""
    import torch

    try:
        return work()
    except torch.OutOfMemoryError as error:
        reason = f"out of memory: {str(error).splitlines()[0]}"
    torch.cuda.empty_cache()
    return Row(what, note=reason)
