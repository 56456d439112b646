"""The process that takes two real steps of a recipe, as its parent sees it. What runs in it is `dry_run_steps`.

The steps have a process of their own because its memory, on the GPU too, is free again when it ends. This module
imports no torch, so that the process and its parent can import torch at the same time. The parent removes the files
of a process that crashes.
"""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path

from sweeps.errors import StudyError
from sweeps.own_process import set_up, signals_blocked
from sweeps.preflight.dry_run_messages import STEPS, Fault, Job, Measured

_LONGEST_SECONDS = 1800.0  # of one configuration, before it is called hung
_LOG_SHOWN = 300  # characters of a crash's last line
_BEGIN = """
import json, sys
sys.path[:] = json.loads(sys.argv[1])
from multiprocessing.connection import Connection
from pathlib import Path
from sweeps.preflight.dry_run_process import serve
serve(Connection(int(sys.argv[2])), Path(sys.argv[3]))
"""


class DryRunProcess:
    """The process, which takes jobs one after the other; started early, it imports while others work."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None
        self._cleanup = contextlib.ExitStack()

    def __enter__(self) -> DryRunProcess:
        return self

    def __exit__(self, *error: object) -> None:
        """End the process, whatever it is doing, and take its files away."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._cleanup.close()

    def start(self) -> None:
        """Begin; a second call does nothing.

        Not by multiprocessing, which would import the main module again there, and so run a script without
        `if __name__ == "__main__"` once more.
        """
        if self._process is not None:
            return
        self._folder = Path(self._cleanup.enter_context(tempfile.TemporaryDirectory(prefix="mouselift-")))
        self._connection, other = Pipe()
        self._cleanup.callback(self._connection.close)
        words = [json.dumps(sys.path), str(other.fileno()), str(self._folder)]
        with (self._folder / "log").open("wb") as log, other, signals_blocked():  # the parent hears them
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", _BEGIN, *words],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[other.fileno()],
            )

    def send(self, jobs: Iterable[Job]) -> None:
        """Have the jobs done, one after the other; none is waited for."""
        self.start()
        assert self._connection is not None
        with contextlib.suppress(ConnectionError):  # `receive` says what became of the process
            for job in jobs:
                self._connection.send(job)

    def receive(self, where: str) -> Measured:
        """The outcome of the next job that was sent. Raises StudyError, which begins with `where`."""
        assert self._connection is not None
        try:
            if not self._connection.poll(_LONGEST_SECONDS):
                raise StudyError(
                    f"{where}: expected {STEPS} steps within {_LONGEST_SECONDS / 60:g} min, got none — it hangs, or "
                    "is too large for this machine; lower train.batch_size, data.num_views or data.image_size."
                )
            outcome: Measured | Fault = self._connection.recv()
        except (EOFError, ConnectionError):
            raise StudyError(f"{where}: {self._end_of_process()}") from None
        if isinstance(outcome, Fault):
            raise StudyError(f"{where}: {outcome.text}")
        return outcome

    def _end_of_process(self) -> str:
        assert self._process is not None
        code = self._process.wait() or None  # none is known while Ray starts: it has the system throw exit codes away
        log = (self._folder / "log").read_text(encoding="utf-8", errors="replace")
        lines = [line.strip() for line in log.splitlines()]
        if code is None and any(line.startswith("Traceback ") for line in lines):
            code = 1
        if code is None or code < 0:
            killed = "a signal" if code is None else signal.Signals(-code).name
            return (
                f"expected {STEPS} steps, got a process that was ended by {killed} — memory may have run out; lower "
                "train.batch_size, data.num_views or data.image_size."
            )
        last = next((line for line in reversed(lines) if line), "nothing in its log")[:_LOG_SHOWN]
        return f"expected {STEPS} steps, got a process that ended with {code} — {last}"


def serve(connection: Connection, folder: Path) -> None:
    """The process's whole life: what it finds goes to the connection."""
    set_up()
    from sweeps.preflight.dry_run_steps import attempt, warm_up

    warm_up()
    while True:
        try:
            job: Job = connection.recv()
        except EOFError:
            return
        connection.send(attempt(job, folder))
