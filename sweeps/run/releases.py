"""The best checkpoint of each trial that is COMPLETE, put where MLflow and users get it, by a thread of its own.

A checkpoint may come from a store that takes minutes; the driver hears its other trials meanwhile.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from queue import Queue

from sweeps.errors import SweepError
from sweeps.home import Home
from sweeps.run.checkpoints import Checkpoints
from sweeps.space.objective import Objective


class Releases:
    """Those of one session of a sweep, in `folder`/t0003 and so on.

    released: called from the thread with a trial's number and its folder, never after `close`.
    """

    def __init__(
        self, home: Home, sweep: str, objective: Objective, folder: Path, released: Callable[[int, Path], None]
    ) -> None:
        self._home, self._sweep, self._objective, self._folder = home, sweep, objective, folder
        self._released = released
        self._wanted: Queue[int | None] = Queue()
        self._writing = threading.Lock()
        self._closed = False
        self._error: SweepError | OSError | None = None
        self._thread = threading.Thread(target=self._work, name="releases", daemon=True)

    def add(self, number: int) -> None:
        """Release the best checkpoint of a trial, as soon as those before it are."""
        if self._thread.ident is None:
            for left in self._folder.glob(".t*"):  # by a process that was killed
                shutil.rmtree(left, ignore_errors=True)
            self._thread.start()
        self._wanted.put(number)

    def finish(self) -> None:
        """Wait for all of them. Raises what stood in the way of the first that could not be released."""
        if self._thread.ident is not None:
            self._wanted.put(None)
            self._thread.join()
        if self._error is not None:
            raise self._error

    def close(self, patience: float) -> None:
        """End within so many seconds; what is not released by then is left to the next session."""
        if self._thread.is_alive():
            self._wanted.put(None)
            self._thread.join(patience)
        with self._writing:
            self._closed = True

    def _work(self) -> None:
        while (number := self._wanted.get()) is not None:
            try:
                folder = self._release(number)
                with self._writing:
                    if folder is not None and not self._closed:
                        self._released(number, folder)
            except (SweepError, OSError) as error:
                self._error = self._error or error

    def _release(self, number: int) -> Path | None:
        trial = Checkpoints(self._home.checkpoints, self._sweep, number)
        return trial.release(self._objective, self._folder / f"t{number:04d}")
