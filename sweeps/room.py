"""Whether a sweep fits: its checkpoints on the disk, its trials in memory."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import psutil

from pipeline.config import one_line
from sweeps.dry_run import Measured
from sweeps.errors import StudyError
from sweeps.home import Home, is_served
from sweeps.space import SearchSpace

_CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class DiskNeed:
    """What the checkpoints of a sweep occupy at most: every trial with its kept ones and, complete, its releases.

    Bytes. While a checkpoint is written, the oldest kept one is still there.
    """

    trials: int
    concurrent: int
    kept: int
    copies: int  # of each release
    checkpoint: int
    release: int

    @property
    def total(self) -> int:
        of_each = self.kept * self.checkpoint + self.copies * self.release
        return self.trials * of_each + self.concurrent * self.checkpoint

    def __str__(self) -> str:
        copies = "a release" if self.copies == 1 else f"{self.copies} releases"
        return (
            f"{_bytes(self.total)} for {_count(self.trials, 'trial')} × ({self.kept} checkpoints of "
            f"{_bytes(self.checkpoint)} + {copies} of {_bytes(self.release)})"
        )


def require_home(home: Home) -> str:
    """What was found. Raises StudyError where the home cannot be written to."""
    folder = nearest_existing(home.root)
    try:
        with tempfile.TemporaryFile(dir=folder) as file:  # without a name where the system can: nothing to forget
            file.write(b"0" * 4096)
    except OSError as error:
        raise StudyError(
            f"MOUSELIFT_HOME: expected a folder that can be written to, got {one_line(error)} for {folder} — mend it."
        ) from None
    return str(home.root)


def disk_need(space: SearchSpace, home: Home, measured: Measured) -> DiskNeed:
    """At most: no trial is stopped early. A store that is no server keeps its copy of a release in the home, too."""
    copies = 1 if is_served(home.tracking_uri) else 2
    count, kept = space.trials.count, space.retention.best + space.retention.last
    return DiskNeed(count, min(count, space.trials.concurrent), kept, copies, measured.checkpoint, measured.release)


def require_disk(space: SearchSpace, home: Home, need: DiskNeed) -> str:
    """What was found. Raises StudyError when the home's disk has less."""
    free = free_bytes(home.root)
    if free < need.total:
        raise StudyError(
            f"{space.name}: expected {need} free at {home.root}, got {_bytes(free)} — lower trials.count, make room, "
            "or set MOUSELIFT_HOME to a larger disk."
        )
    return f"{need} at most; {_bytes(free)} free"


def require_memory(space: SearchSpace, measured: Measured) -> str:
    """What was found. Raises StudyError when the largest trials, as many as run at a time, do not fit."""
    trials = space.trials
    if measured.memory_total is not None:
        share = measured.memory_total * min(1.0, trials.gpus)
        if measured.memory > share:
            raise StudyError(
                f"{space.name}: expected the largest trial to fit {_bytes(share)}, its share of the GPU at trials.gpus "
                f"{trials.gpus:g}, got {_bytes(measured.memory)} — raise trials.gpus, or lower train.batch_size, "
                "data.num_views or data.image_size."
            )
        return f"{_bytes(measured.memory)} of a trial's {_bytes(share)} on the GPU"
    concurrent, available = min(trials.count, trials.concurrent), available_bytes()
    if measured.memory * concurrent > available:
        raise StudyError(
            f"{space.name}: expected memory for {_count(concurrent, 'trial')} at a time of {_bytes(measured.memory)} "
            f"each, got {_bytes(available)} — lower trials.concurrent, train.batch_size or data.image_size."
        )
    return f"{_count(concurrent, 'trial')} × {_bytes(measured.memory)}; {_bytes(available)} free"


def free_bytes(folder: Path) -> int:
    """Free space where the folder is, or would be made."""
    return shutil.disk_usage(nearest_existing(folder)).free


def nearest_existing(path: Path) -> Path:
    """The path itself, or the nearest of its parents that exists."""
    return next(folder for folder in (path, *path.parents) if folder.exists())


def available_bytes() -> int:
    """Memory that processes can still have: the machine's, or what a container's limit leaves."""
    available = int(psutil.virtual_memory().available)
    limit, used = _CGROUP / "memory.max", _CGROUP / "memory.current"
    if not (limit.is_file() and used.is_file()) or limit.read_text().strip() == "max":
        return available
    statistics = dict(line.split() for line in (_CGROUP / "memory.stat").read_text().splitlines())
    held = int(used.read_text()) - int(statistics["inactive_file"])  # the system drops those pages when asked
    return max(0, min(available, int(limit.read_text()) - held))


def _bytes(number: float) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6)):
        if number >= size:
            return f"{number / size:.3g} {unit}" if number < 100 * size else f"{number / size:.0f} {unit}"
    return f"{number / 1e3:.0f} kB"


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"
