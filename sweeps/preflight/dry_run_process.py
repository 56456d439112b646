"""The process that takes two real steps of a recipe, as its parent sees it. What runs in it is `dry_run_steps`.

The steps have a process of their own because its memory, on the GPU too, is free again when it ends. This module
imports no torch, so that the process and its parent can import torch at the same time. The parent removes the files
of a process that crashes.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import tempfile
from collections.abc import Iterable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from sweeps.errors import StudyError
from sweeps.preflight.dry_run_messages import STEPS, Fault, Job, Measured

_LONGEST_SECONDS = 1800.0  # of one configuration, before it is called hung
_LOG_SHOWN = 300  # characters of a crash's last line


class DryRunProcess:
    """The process, which takes jobs one after the other; started early, it imports while others work."""

    def __init__(self) -> None:
        self._process: Any = None
        self._connection: Connection | None = None
        self._cleanup = contextlib.ExitStack()

    def __enter__(self) -> DryRunProcess:
        return self

    def __exit__(self, *error: object) -> None:
        """End the process, whatever it is doing, and take its files away."""
        if self._process is not None and self._process.is_alive():
            self._process.kill()
            self._process.join()
        self._cleanup.close()

    def start(self) -> None:
        """Begin; a second call does nothing."""
        if self._process is not None:
            return
        self._folder = Path(self._cleanup.enter_context(tempfile.TemporaryDirectory(prefix="mouselift-")))
        context = multiprocessing.get_context("spawn")  # forked, CUDA and threads would be half there
        self._connection, other = context.Pipe()
        self._cleanup.callback(self._connection.close)
        self._process = context.Process(target=_serve, args=(other, str(self._folder)), name="dry-run", daemon=True)
        masked = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])  # Ctrl-C is for the parent to hear
        try:
            self._process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, masked)
        other.close()

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
        self._process.join()
        code = self._process.exitcode  # None while Ray starts: it has the system throw exit codes away
        log = self._folder / "log"
        lines = [line.strip() for line in log.read_text(errors="replace").splitlines()] if log.is_file() else []
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


def _serve(connection: Connection, folder: str) -> None:
    """The process's whole life: what it prints goes to a log, what it finds to the connection."""
    log = os.open(Path(folder) / "log", os.O_WRONLY | os.O_CREAT)
    os.dup2(log, 1)
    os.dup2(log, 2)
    from sweeps.preflight.dry_run_steps import attempt, warm_up

    warm_up()
    while True:
        try:
            job: Job = connection.recv()
        except EOFError:
            return
        connection.send(attempt(job, Path(folder)))
