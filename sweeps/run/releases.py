"""Releases the best checkpoint of each COMPLETE trial, and the Gaussians of each that has ended, for MLflow and users.

It works in a thread: a store may need minutes for a checkpoint, and the reports of other trials do not wait for it.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from queue import Queue

from sweeps.errors import OutageError
from sweeps.home import Home
from sweeps.run.checkpoints import Checkpoints
from sweeps.space.objective import Aims

_log = logging.getLogger(__name__)


class Releases:
    """The releases of one session of a sweep, in `folder`/t0003 and so on.

    released, kept: are called from the thread with a trial's number and the folder of its checkpoint, and of its
    Gaussians, never after `close`.
    """

    def __init__(
        self,
        home: Home,
        sweep: str,
        aims: Aims,
        folder: Path,
        released: Callable[[int, Path], None],
        kept: Callable[[int, Path], None],
    ) -> None:
        self._home, self._sweep, self._aims, self._folder = home, sweep, aims, folder
        self._released, self._gaussians_kept = released, kept
        self._wanted: Queue[tuple[int, bool] | None] = Queue()
        self._writing = threading.Lock()
        self._closed = False
        self._done = threading.Event()  # joined, a thread counts as ended when a signal comes meanwhile (Python 3.11)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="releases", daemon=True)

    def add(self, number: int, with_checkpoint: bool = True) -> None:
        """Release the Gaussians of a trial, and before them its best checkpoint, after what was added before."""
        if self._thread.ident is None:
            for left in self._folder.glob(".t*"):  # by a process that was killed
                shutil.rmtree(left, ignore_errors=True)
            self._thread.start()
        self._wanted.put((number, with_checkpoint))

    def finish(self, seconds: float) -> bool:
        """Wait for all of them, so many seconds at most; whether they are done.

        Raises what stood in the way of the first that could not be released.
        """
        self._wanted.put(None)
        if self._thread.ident is not None and not self._done.wait(seconds):
            return False
        if self._error is not None:
            raise self._error
        return True

    def close(self, patience: float) -> None:
        """End within so many seconds; what is not released by then is left to the next session."""
        self._wanted.put(None)
        if self._thread.ident is not None:
            self._done.wait(patience)
        with self._writing:
            self._closed = True

    def _work(self) -> None:
        while (wanted := self._wanted.get()) is not None:
            number, with_checkpoint = wanted
            with contextlib.ExitStack() as stack:
                stack.push(self._kept)
                if with_checkpoint:
                    self._say(self._released, number, self._release(number))
                self._say(self._gaussians_kept, number, self._gaussians(number))
        self._done.set()

    def _say(self, tell: Callable[[int, Path], None], number: int, folder: Path | None) -> None:
        with self._writing:
            if folder is not None and not self._closed:
                tell(number, folder)

    def _kept(self, _: object, error: BaseException | None, __: object) -> bool:
        """An error of one release does not end the others. `finish` raises it."""
        self._error = self._error or error
        return True

    def _release(self, number: int) -> Path | None:
        trial = Checkpoints(self._home.checkpoints, self._sweep, number)
        return trial.release(self._aims, self._folder / f"t{number:04d}")

    def _gaussians(self, number: int) -> Path | None:
        """They are looked at, and nothing else depends on them: what stands in the way ends no sweep."""
        try:
            trial = Checkpoints(self._home.checkpoints, self._sweep, number)
            return trial.previews(self._folder.with_name("gaussians") / f"t{number:04d}")
        except (OutageError, OSError) as error:
            _log.warning("t%04d: its Gaussians are not kept to be looked at: %s", number, error)
            return None
