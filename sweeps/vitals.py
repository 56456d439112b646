"""The processes of Ray that a sweep on this machine cannot do without.

When one of them dies, Ray neither tells its driver nor ends: trials fail for no fault of theirs, or nothing happens
any more. A cluster's own are none of ours: what becomes of a driver that loses them, Ray decides.
"""

from __future__ import annotations

import contextlib

import psutil

_NEEDED = ("raylet", "gcs_server")
_RAY = ("ray::", "/ray/")
_SECONDS = 10.0


class Vitals:
    """Of the Ray that this process has started; of none when it joined a cluster."""

    def __init__(self) -> None:
        self._needed = {name: child for child in psutil.Process().children() if (name := _name(child)) in _NEEDED}

    @property
    def lost(self) -> str:
        """Which has ended; empty while all live."""
        return next((name for name, process in self._needed.items() if not _lives(process)), "")


def end_children() -> None:
    """Kill what is left of a Ray that has lost a process: it would not end when asked."""
    left = [child for child in psutil.Process().children(recursive=True) if any(word in _words(child) for word in _RAY)]
    for child in left:
        with contextlib.suppress(psutil.Error):
            child.kill()
    psutil.wait_procs(left, _SECONDS)


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def _words(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def _name(process: psutil.Process) -> str:
    try:
        return str(process.name())
    except psutil.Error:
        return ""
