"""The lock of a registered model: one process at a time changes its aliases, whichever machine it runs on.

MLflow has no compare-and-swap: the last writer of an alias wins. So a process that changes one takes its turn first, by
two locks, and makes sure of them again before each write.

- **The store's own lock**, where the tracking URI is a database: a file lock beside the file of SQLite, an advisory
  lock inside PostgreSQL. It ends with the process that holds it, at once, and cannot be taken from a living one.
- **A tag lock**, a tag `lease.<token>` = `<ticket> <beat> …` that every process writes on the registered model itself,
  so that processes which reach one store by different ways (its database here, an MLflow server there) exclude each
  other too. It is Lamport's bakery: announce, take a ticket above all that are seen, wait for all lower ones. It needs
  reads that see every finished write, which MLflow on one database gives, however many workers the server has; it does
  not need a clock that others share. A tag that stays the same for SILENCE_SECONDS *as the waiting process itself
  measures* is taken to be a dead process's and removed. One that was written under a store's own lock which the waiting
  process now holds is dead for certain, and removed at once.

What this guarantees. Processes that change a model's aliases with mouselift do so one at a time:

- where all of them name the same SQLite file on one machine: without exception. Where all of them name the same
  PostgreSQL database: as long as it does not drop a holder's connection between its last look and the write that
  follows. After a kill the next one goes on at once;
- through an MLflow server, another database, or by different ways into one store: as long as no holder is stopped, and
  no request of its held up, for more than half of SILENCE_SECONDS between its last look at its tag and the write that
  follows; one that finds it was away longer gives up before it writes. After a kill the next one waits SILENCE_SECONDS.

A change that is made without mouselift takes no turn: it is found afterwards and entered in the history. The heartbeats
by which the runs of a dead sweep are found are another matter: see `sweeps/tracking/mlflow_heartbeats.py`.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fcntl import LOCK_EX, flock
from pathlib import Path
from typing import NamedTuple, Protocol, Self

import sqlalchemy
from sqlalchemy.exc import SQLAlchemyError

from sweeps.errors import RegistryError
from sweeps.home import store_file

SILENCE_SECONDS = 60.0  # after which a tag's owner is taken to be dead
POLL_SECONDS = 0.5
_PATIENCE_SECONDS = 10.0  # of waiting before a line says for whom
_PREFIX = "lease."  # of the tags; processes of earlier releases read it, too
_log = logging.getLogger(__name__)


class Tags(Protocol):
    """The tags of one registered model. Methods raise ConnectionError for a store that is away."""

    def read(self) -> dict[str, str]:
        """Every tag, all as they were at one moment."""
        ...

    def write(self, key: str, value: str) -> None: ...

    def erase(self, key: str) -> None:
        """Remove a tag, whether or not it is there."""
        ...


@contextlib.contextmanager
def take_turn(tracking_uri: str, name: str, tags: Tags, who: str) -> Iterator[Turn]:
    """Wait until it is this process's turn to change the registered model `name`, and hold it for the block."""
    with _own_lock(tracking_uri, name) as own, TagLock(tags, name, own.route, who).held() as tag:
        yield Turn(own, tag)


class _OwnLock(NamedTuple):
    """What a store's own lock is called in tags, and how to ask whether it is still held."""

    route: str
    check: Callable[[], None]


@dataclass(frozen=True)
class Turn:
    """The right to change one registered model, as long as both locks are held."""

    own: _OwnLock
    tag: TagLock

    def check(self) -> None:
        """Make sure of them once more. Raises RegistryError when one was lost."""
        self.own.check()
        self.tag.check()


def _own_lock(tracking_uri: str, name: str) -> contextlib.AbstractContextManager[_OwnLock]:
    file = store_file(tracking_uri)
    if file is not None:
        return _file_lock(file.resolve(), name)
    if tracking_uri.startswith("postgresql"):
        return _advisory_lock(tracking_uri, name)
    return contextlib.nullcontext(_OwnLock("", lambda: None))


@contextlib.contextmanager
def _file_lock(store: Path, name: str) -> Iterator[_OwnLock]:
    """A lock beside the store's file, so homes that share the store share it; it ends with the process."""
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    with store.with_name(f"{store.name}.{digest}.turn").open("wb") as file:
        flock(file, LOCK_EX)
        yield _OwnLock(f"file@{socket.gethostname()}", lambda: None)


@contextlib.contextmanager
def _advisory_lock(tracking_uri: str, name: str) -> Iterator[_OwnLock]:
    """PostgreSQL's, for one transaction, so that a pooler in front of it keeps the connection together."""
    number = int.from_bytes(hashlib.sha256(f"mouselift:{name}".encode()).digest()[:8], "big", signed=True)
    engine = sqlalchemy.create_engine(tracking_uri, poolclass=sqlalchemy.NullPool)

    def check() -> None:
        try:
            connection.execute(sqlalchemy.text("SELECT 1"))
        except SQLAlchemyError as error:
            raise _lost(name, "the database closed the connection that held the lock") from error

    with engine.connect() as connection:
        connection.execute(sqlalchemy.text("SET LOCAL idle_in_transaction_session_timeout = 0"))
        connection.execute(sqlalchemy.text("SET LOCAL lock_timeout = 0"))
        connection.execute(sqlalchemy.text("SELECT pg_advisory_xact_lock(:number)"), {"number": number})
        try:
            yield _OwnLock("postgresql", check)
        finally:
            with contextlib.suppress(SQLAlchemyError):  # a lost connection has no lock to give back
                connection.rollback()


class _Entry(NamedTuple):
    """A tag of this lock as it is read; ticket 0 means that its owner is still choosing one."""

    ticket: int
    beat: int
    route: str
    who: str

    @staticmethod
    def parse(text: str) -> _Entry:
        ticket, beat, route, who = text.split(" ", 3)
        return _Entry(int(ticket), int(beat), route, who)

    def __str__(self) -> str:
        return f"{self.ticket} {self.beat} {self.route} {self.who}"


class TagLock:
    """The lock in a model's tags, renewed by a thread; see the module for how it works and what it guarantees.

    route: the store's own lock that this process holds meanwhile, or nothing. `seconds`, `poll` and `clock` are
    SILENCE_SECONDS, POLL_SECONDS and a steady clock.
    """

    def __init__(
        self,
        tags: Tags,
        name: str,
        route: str,
        who: str,
        seconds: float | None = None,
        poll: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._tags, self._name, self._clock = tags, name, clock
        self._seconds = SILENCE_SECONDS if seconds is None else seconds
        self._poll = POLL_SECONDS if poll is None else poll
        self._key = f"{_PREFIX}{secrets.token_hex(8)}"
        self._entry = _Entry(0, 0, route or "-", who)
        self._alive_at = clock()
        self._writing = threading.Lock()
        self._done = threading.Event()
        self._keeper = threading.Thread(target=self._keep, name=f"lock of {name}", daemon=True)

    @contextlib.contextmanager
    def held(self) -> Iterator[Self]:
        """Wait for the turn and keep it for the block."""
        try:
            self._take()
            self._keeper.start()
            yield self
        finally:
            self._done.set()
            if self._keeper.ident is not None:
                self._keeper.join()
            with contextlib.suppress(ConnectionError):  # others remove it once it is old
                self._tags.erase(self._key)

    def check(self) -> None:
        """Raises RegistryError when the lock is no longer this process's."""
        if self._key not in self._read():
            raise _lost(self._name, "another process took this one for dead")
        self._require_alive()

    def _take(self) -> None:
        self._alive_at = self._clock()
        self._write(self._entry)
        self._beat(1 + max((entry.ticket for entry in self._read().values()), default=0))
        seen: dict[str, tuple[_Entry, float]] = {}
        started, told = self._clock(), False
        while ahead := self._ahead(seen):
            if not told and self._clock() - started > _PATIENCE_SECONDS:
                told = True
                _log.warning("%s: waiting for %s to finish changing it", self._name, ahead.who)
            time.sleep(self._poll)
            if self._clock() - self._alive_at > self._seconds / 6:
                self._beat()

    def _ahead(self, seen: dict[str, tuple[_Entry, float]]) -> _Entry | None:
        """A process whose turn comes first, once dead ones' tags are removed; `seen`: what was read, since when."""
        entries, now, first = self._read(), self._clock(), None
        if self._key not in entries:
            raise _lost(self._name, "another process took this one for dead")
        mine = entries.pop(self._key)
        for key, entry in entries.items():
            if entry.ticket and (entry.ticket, key) > (mine.ticket, self._key):
                continue
            known, since = seen.get(key, (None, now))
            seen[key] = (entry, since if known == entry else now)
            ours = entry.route == mine.route != "-"
            if ours or (known == entry and now - since > self._seconds):
                self._tags.erase(key)
            else:
                first = entry
        return first

    def _beat(self, ticket: int | None = None) -> None:
        self._require_alive()
        with self._writing:
            entry = self._entry._replace(beat=self._entry.beat + 1, ticket=ticket or self._entry.ticket)
            self._write(entry)

    def _write(self, entry: _Entry) -> None:
        """Write the tag. It counts as renewed just before the request, and not at all if that took too long."""
        before = self._clock()
        self._tags.write(self._key, str(entry))
        self._entry = entry
        if self._clock() - before <= self._seconds / 2:
            self._alive_at = before

    def _require_alive(self) -> None:
        away = self._clock() - self._alive_at
        if away > self._seconds / 2:
            raise _lost(self._name, f"this process was away for {away:.0f} s")

    def _keep(self) -> None:
        """Renew the tag until it is given back or lost; a renewal that fails is tried again at the next beat."""
        while not self._done.wait(self._seconds / 6):
            try:
                if self._key not in self._read():
                    return
                self._beat()
            except RegistryError:
                return
            except ConnectionError as error:
                _log.debug("%s: the lock was not renewed: %s", self._name, error)

    def _read(self) -> dict[str, _Entry]:
        return {key: _Entry.parse(text) for key, text in self._tags.read().items() if key.startswith(_PREFIX)}


def _lost(name: str, why: str) -> RegistryError:
    return RegistryError(
        f"{name}: expected to keep the turn to change it, got none any more: {why} — run the command again."
    )
