"""Delivers a growing journal, in a thread, to a receiver that may not answer. No trial waits, no event is lost.

A file for each receiver, beside the journal, says how much has been delivered. It is written after each batch. After a
kill between the two the batch is sent again, so the receiver must be able to take an event twice.
"""

from __future__ import annotations

import contextlib
import json
import logging
import threading
import time
from collections.abc import Callable, Iterable
from itertools import islice
from typing import Self

from pipeline.config import one_line
from pipeline.files import write_whole
from sweeps.book.journal import Event, Journal
from sweeps.book.ledger import Ledger, fold, read
from sweeps.errors import SweepError

Send = Callable[[Ledger, Iterable[Event]], Ledger]
DELIVERED = "delivered.json"  # MLflow's, which `sweep status` reads
_BATCH_EVENTS = 200
_POLL_SECONDS = 0.5
_LONGEST_PAUSE_SECONDS = 30.0
_MOST_REFUSALS = 3
_log = logging.getLogger(__name__)


def delivered(journal: Journal, file: str = DELIVERED) -> int:
    """How many bytes of a journal the receiver of this file has; none where the file is missing or damaged, for what
    arrives twice changes nothing.
    """
    try:
        return int(json.loads((journal.folder / file).read_bytes())["offset"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return 0


class UnansweredError(Exception):
    """The receiver did not take a batch, which is sent again."""


class RefusedError(UnansweredError):
    """The receiver refuses a batch. An event that it refuses alone, several times, is left out."""


class Delivery:
    """Delivers `journal` to what `connect` gives: a function of the ledger so far and the events after it.

    `receiver` is its name in log messages; `clock` gives unix seconds; `file` keeps how much was delivered.
    """

    def __init__(
        self,
        journal: Journal,
        receiver: str,
        connect: Callable[[], Send],
        clock: Callable[[], float] = time.time,
        file: str = DELIVERED,
    ) -> None:
        self._journal = journal
        self._receiver = receiver
        self._connect = connect
        self._clock = clock
        self._file = file
        self._closing, self._abandoned = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"delivery to {receiver}", daemon=True)
        self._damage: SweepError | None = None
        self._arrived = False
        self.trouble = ""  # why the receiver does not take the news, while it does not
        self.left_out = 0  # events that it refused

    def start(self) -> Self:
        """Begin after the last event that was delivered."""
        if not (self._journal.folder / self._file).exists():
            self._store(0)  # from now on it is known that something is to be delivered
        self._thread.start()
        return self

    def close(self, timeout: float = 60.0, patience: float | None = None) -> bool:
        """Deliver what the journal holds, for at most `timeout` seconds. Returns whether everything arrived.

        patience: seconds for a receiver that does not take the news; as long as it takes them, it has `timeout`.
        The next delivery of this journal sends what did not arrive.
        Raises StudyError when the journal is damaged.
        """
        self._closing.set()
        if self._thread.ident is not None:
            self._join(timeout, timeout if patience is None else patience)
        self._abandoned.set()
        if self._damage is not None:
            raise self._damage
        return self._arrived

    def _join(self, timeout: float, patience: float) -> None:
        began = time.monotonic()
        while self._thread.is_alive() and (left := began + timeout - time.monotonic()) > 0:
            self._thread.join(min(left, _POLL_SECONDS))
            if self.trouble and time.monotonic() - began >= patience:
                return

    def idle(self) -> None:
        """Called about twice a second, between batches, from the delivery's thread."""

    def caught_up(self, seconds: float) -> None:
        """Called when the receiver takes events again, after it has not for so many seconds."""

    def _run(self) -> None:
        try:
            self._deliver_all()
        except SweepError as error:
            self._damage = error

    def _deliver_all(self) -> None:
        """Send batch after batch; after a failure event by event, until one arrives."""
        offset = delivered(self._journal, self._file)
        ledger, send, trouble = read(self._journal, until=offset), None, _Trouble(self._receiver)
        while not self._abandoned.is_set():
            last_round = self._closing.is_set()
            batch = list(islice(self._journal.events(offset), 1 if trouble.failures else _BATCH_EVENTS))
            if not batch and last_round:
                self._arrived = True
                return
            if not batch:
                self.idle()
                self._closing.wait(_POLL_SECONDS)
                continue
            try:
                send = send or self._connect()
                ledger = send(ledger, [event for _, event in batch])
            except UnansweredError as error:
                send = None  # the receiver may have changed meanwhile: connect again
                self.trouble = one_line(error)
                trouble.note(error, self._clock())
                if trouble.refusals <= _MOST_REFUSALS:
                    self._abandoned.wait(trouble.pause)
                    continue
                _log.error("%s refuses %s, which is left out: %s", self._receiver, batch[0][1], error)
                ledger = fold(ledger, batch[0][1])
                self.left_out += 1
            self.trouble = ""
            waited = trouble.end(self._clock())
            if waited:
                self.caught_up(waited)
            offset = batch[-1][0]
            self._store(offset)

    def _store(self, offset: int) -> None:
        with contextlib.suppress(OSError):  # with a full disk, the batch is only sent twice
            write_whole(self._journal.folder / self._file, json.dumps({"offset": offset}))


def undelivered(journal: Journal, file: str = DELIVERED) -> int:
    """How many events of a journal its receiver lacks."""
    return sum(1 for _ in journal.events(delivered(journal, file)))


def pause_after(failures: int, first: float, longest: float) -> float:
    """Seconds to wait before the next try: twice as many after each failure in a row."""
    return min(longest, first * 2 ** min(failures - 1, 10))


class _Trouble:
    """How often in a row the receiver did not take a batch, and the seconds to wait before the next try."""

    def __init__(self, receiver: str) -> None:
        self.failures = self.refusals = 0
        self._receiver = receiver
        self._since = 0.0

    @property
    def pause(self) -> float:
        """In seconds."""
        return pause_after(self.failures, _POLL_SECONDS, _LONGEST_PAUSE_SECONDS)

    def note(self, error: UnansweredError, now: float) -> None:
        if not self.failures:
            self._since = now
            _log.warning("%s does not take the news, which wait: %s", self._receiver, error)
        self.failures += 1
        self.refusals = self.refusals + 1 if isinstance(error, RefusedError) else 0

    def end(self, now: float) -> float:
        """The receiver took a batch. Returns for how many seconds it had not."""
        waited = now - self._since if self.failures else 0.0
        if waited:
            _log.info("%s takes the news again after %.0f s.", self._receiver, waited)
        self.failures = self.refusals = 0
        return waited
