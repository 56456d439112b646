"""The processes of Ray that a sweep on this machine cannot do without.

When one of them dies, Ray neither tells its driver nor ends: trials fail for no fault of theirs, or nothing happens
any more. A cluster's own are none of ours: what becomes of a driver that loses them, Ray decides.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable

import psutil

_NEEDED = ("raylet", "gcs_server")
_SECONDS = 10.0


class Vitals:
    """Of the Ray that this process has started; of none when it joined a cluster.

    earlier: processes that this one had started before.
    """

    def __init__(self, earlier: Iterable[psutil.Process] = ()) -> None:
        self._earlier = {process.pid for process in earlier}
        self._needed = {name: child for child in psutil.Process().children() if (name := _name(child)) in _NEEDED}

    @property
    def lost(self) -> str:
        """Which has ended; empty while all live."""
        return next((name for name, process in self._needed.items() if not _lives(process)), "")

    def end_children(self) -> None:
        """Kill what Ray left: all of it, when it has lost a process and would not end when asked; else what trials that
        were killed had started, which Ray makes children of this process.
        """
        left = [child for child in children() if child.pid not in self._earlier]
        for child in left:
            with contextlib.suppress(psutil.Error):
                child.kill()
        psutil.wait_procs(left, _SECONDS)


def children() -> list[psutil.Process]:
    """Every process that this one has started, and those that they have."""
    return list(psutil.Process().children(recursive=True))


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def _name(process: psutil.Process) -> str:
    try:
        return str(process.name())
    except psutil.Error:
        return ""
