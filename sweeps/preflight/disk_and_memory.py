"""Whether a sweep fits: its checkpoints on the disk, its trials in memory."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import psutil

from pipeline.files import free_bytes, nearest_existing
from pipeline.machine.outputs import require_folder, require_locks
from sweeps.errors import StudyError, counted
from sweeps.home import Home, is_served
from sweeps.preflight.dry_run_messages import Measured
from sweeps.space.space import SearchSpace

_CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class DiskNeed:
    """What a sweep puts on a disk at most: the kept checkpoints of every trial, and the releases of complete ones.

    Sizes are bytes. variable: the environment variable that says where `folder` is. While a trial writes a checkpoint,
    the oldest one that it keeps is still there, so each running trial needs room for one more.
    """

    variable: str
    folder: Path
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
        parts = []
        if self.kept:
            parts.append(f"{counted(self.kept, 'checkpoint')} of {_bytes(self.checkpoint)}")
        if self.copies:
            copies = "a release" if self.copies == 1 else f"{self.copies} releases"
            parts.append(f"{copies} of {_bytes(self.release)}")
        return f"{_bytes(self.total)} for {counted(self.trials, 'trial')} × ({' + '.join(parts)})"


def require_home(home: Home) -> str:
    """What was found. Raises OutputError where the home, or a folder in it, cannot be written to or knows no locks."""
    for folder in (home.root, home.journals, home.artifacts, home.ray, home.cache):
        require_folder(folder, "MOUSELIFT_HOME")
    require_locks(home.root, "MOUSELIFT_HOME")
    return str(home.root)


def require_checkpoints(home: Home) -> str:
    """What was found. Raises StudyError or OutputError where checkpoints cannot be written."""
    if home.keeps_in_store:
        from sweeps.run.checkpoints import try_out

        try_out(home.checkpoints)
    else:
        require_folder(Path(home.checkpoints), "MOUSELIFT_CHECKPOINTS")
    return home.checkpoints


def disk_needs(space: SearchSpace, home: Home, measured: Measured) -> list[DiskNeed]:
    """The need of each disk if no trial is stopped early. Checkpoints may have a disk of their own, or be in S3.

    A tracking store that is no server keeps its copy of a release in the home, too.
    """
    copies = 1 if is_served(home.tracking_uri) else 2
    count, kept = space.most_trials, space.retention.best + space.retention.last
    concurrent = min(count, space.trials.concurrent)
    sizes = measured.checkpoint, measured.release
    whole = DiskNeed("MOUSELIFT_HOME", home.root, count, concurrent, kept, copies, *sizes)
    releases = replace(whole, kept=0, concurrent=0)
    if home.keeps_in_store:
        return [releases]
    folder = Path(home.checkpoints)
    if _disk(folder) == _disk(home.root):
        return [whole]
    return [replace(whole, variable="MOUSELIFT_CHECKPOINTS", folder=folder, copies=0), releases]


def require_disk(space: SearchSpace, need: DiskNeed) -> str:
    """What was found. Raises StudyError when the disk has less."""
    free = free_bytes(need.folder)
    if free < need.total:
        raise StudyError(
            f"{space.name}: expected {need} free at {need.folder}, got {_bytes(free)} — lower trials.count, make room, "
            f"or set {need.variable} to a larger disk."
        )
    return f"{need} at most; {_bytes(free)} free"


def require_memory(space: SearchSpace, measured: Measured, available: int) -> str:
    """What was found. Raises StudyError when as many of the largest trial as run at a time do not fit.

    available: `available_bytes` of this machine, measured before the sweep takes any.
    """
    trials = space.trials
    if measured.memory_total is not None:
        share = measured.memory_total * min(1.0, trials.taken_gpus)
        if measured.memory > share:
            raise StudyError(
                f"{space.name}: expected the largest trial to fit {_bytes(share)}, its share of the GPU at trials.gpus "
                f"{trials.taken_gpus:g}, got {_bytes(measured.memory)} — raise trials.gpus, or lower train.batch_size, "
                "data.num_views or data.image_size."
            )
        return f"{_bytes(measured.memory)} of a trial's {_bytes(share)} on the GPU"
    concurrent = min(trials.count, trials.concurrent)
    if measured.memory * concurrent > available:
        raise StudyError(
            f"{space.name}: expected memory for {counted(concurrent, 'trial')} at a time of {_bytes(measured.memory)} "
            f"each, got {_bytes(available)} — lower trials.concurrent, train.batch_size or data.image_size."
        )
    return f"{counted(concurrent, 'trial')} × {_bytes(measured.memory)}; {_bytes(available)} free"


def available_bytes() -> int:
    """Memory that processes can still have: the machine's, or what a container's limit leaves."""
    available = int(psutil.virtual_memory().available)
    limit, used = _CGROUP / "memory.max", _CGROUP / "memory.current"
    if not (limit.is_file() and used.is_file()) or limit.read_text("ascii").strip() == "max":
        return available
    statistics = dict(line.split() for line in (_CGROUP / "memory.stat").read_text("ascii").splitlines())
    held = int(used.read_text("ascii")) - int(statistics["inactive_file"])  # the system drops those pages when asked
    return max(0, min(available, int(limit.read_text("ascii")) - held))


def _disk(folder: Path) -> int:
    return nearest_existing(folder).stat().st_dev


def _bytes(number: float) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6)):
        if number >= size:
            return f"{number / size:.3g} {unit}" if number < 100 * size else f"{number / size:.0f} {unit}"
    return f"{number / 1e3:.0f} kB"
