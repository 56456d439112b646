"""Handing a growing journal on, in a thread, to somebody who may not answer: nobody waits, nothing is lost.

What has been delivered stands beside the journal in `delivered.json`, written after each batch. A kill
between the two sends the batch again: the receiver must be able to take an event twice.
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

from sweeps.book.journal import Event, Journal
from sweeps.book.ledger import Ledger, fold, read
from sweeps.errors import SweepError

Send = Callable[[Ledger, Iterable[Event]], Ledger]
_DELIVERED = "delivered.json"
_BATCH_EVENTS = 200
_POLL_SECONDS = 0.5
_LONGEST_PAUSE_SECONDS = 30.0
_MOST_REFUSALS = 3
_log = logging.getLogger(__name__)


def delivered(journal: Journal) -> int:
    """How many bytes of a journal its receiver has."""
    path = journal.folder / _DELIVERED
    return int(json.loads(path.read_text())["offset"]) if path.is_file() else 0


class UnansweredError(Exception):
    """The receiver did not take a batch; it is sent again."""


class RefusedError(UnansweredError):
    """The receiver finds a batch wrong; an event refused alone, time and again, is left out."""


class Drain:
    """Delivers `journal` to what `connect` gives: a function of the ledger so far and the events after it.

    `receiver` is its name in log messages; `clock` gives unix seconds.
    """

    def __init__(
        self,
        journal: Journal,
        receiver: str,
        connect: Callable[[], Send],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._journal = journal
        self._receiver = receiver
        self._connect = connect
        self._clock = clock
        self._delivered = journal.folder / _DELIVERED
        self._closing, self._abandoned = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="drain", daemon=True)
        self._damage: SweepError | None = None
        self._arrived = False

    def start(self) -> Self:
        """Begin where an earlier drain of this journal stopped."""
        self._thread.start()
        return self

    def close(self, timeout: float = 60.0) -> bool:
        """Deliver what the journal holds, for at most `timeout` seconds; whether everything arrived.

        What did not arrive is delivered by the next drain of this journal.
        Raises StudyError when the journal is damaged.
        """
        self._closing.set()
        self._thread.join(timeout)
        self._abandoned.set()
        if self._damage is not None:
            raise self._damage
        return self._arrived

    def idle(self) -> None:
        """Called about twice a second, between batches, from the drain's thread."""

    def caught_up(self, seconds: float) -> None:
        """Called when the receiver takes the news again after so long a time."""

    def _run(self) -> None:
        try:
            self._deliver_all()
        except SweepError as error:
            self._damage = error

    def _deliver_all(self) -> None:
        """Batch after batch; after a failure event by event, until one gets through."""
        offset = delivered(self._journal)
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
                trouble.note(error, self._clock())
                if trouble.refusals <= _MOST_REFUSALS:
                    self._abandoned.wait(trouble.pause)
                    continue
                _log.error("%s refuses %s, which is left out: %s", self._receiver, batch[0][1], error)
                ledger = fold(ledger, batch[0][1])
            waited = trouble.end(self._clock())
            if waited:
                self.caught_up(waited)
            offset = batch[-1][0]
            self._store(offset)

    def _store(self, offset: int) -> None:
        unfinished = self._delivered.with_name(f".{self._delivered.name}")
        with contextlib.suppress(OSError):  # a full disk: what follows is sent again, and changes nothing
            unfinished.write_text(json.dumps({"offset": offset}))
            unfinished.replace(self._delivered)


class _Trouble:
    """How often in a row the receiver did not take a batch, and how long to wait before it is asked again."""

    def __init__(self, receiver: str) -> None:
        self.failures = self.refusals = 0
        self._receiver = receiver
        self._since = 0.0

    @property
    def pause(self) -> float:
        """In seconds."""
        return min(_LONGEST_PAUSE_SECONDS, _POLL_SECONDS * 2 ** min(self.failures - 1, 10))

    def note(self, error: UnansweredError, now: float) -> None:
        if not self.failures:
            self._since = now
            _log.warning("%s does not take the news, which wait: %s", self._receiver, error)
        self.failures += 1
        self.refusals = self.refusals + 1 if isinstance(error, RefusedError) else 0

    def end(self, now: float) -> float:
        """The receiver answered; for how many seconds it had not."""
        waited = now - self._since if self.failures else 0.0
        if waited:
            _log.info("%s takes the news again after %.0f s.", self._receiver, waited)
        self.failures = self.refusals = 0
        return waited
