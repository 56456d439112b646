"""Garbage collection and signals of a process: set in commands, dry runs and workers, left alone in a script's own."""

from __future__ import annotations

import gc
import threading

_LOOKED_AT = 100_000, 20, 20  # objects made, and rounds, before Python looks through a generation of them


def look_for_garbage_seldom() -> None:
    """For a process of ours, before its imports.

    Imports make half a million objects that stay. Looking through them on the way takes a third of their time.
    """
    gc.set_threshold(*_LOOKED_AT)


def takes_signals() -> bool:
    """Whether this thread may say what a signal does; of a Python process only the main thread may."""
    return threading.current_thread() is threading.main_thread()
