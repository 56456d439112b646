"""Notices: a line to a mailbox, a chat or a phone when a sweep ended, failed, stalled, or has a new best.

Where they go is read from the environment alone. An address holds a secret, and a space is stored in the journal, in
MLflow and in reports: so a space names the variables, and nothing here shows an address.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from sweeps.book.journal import AttemptFailed, Event, State, SweepClosed, SweepOpened, TrialClosed
from sweeps.book.ledger import Ledger, fold
from sweeps.book.remaining import spending_in_words
from sweeps.errors import StudyError, counted

if TYPE_CHECKING:
    from apprise import Apprise

VARIABLE = "MOUSELIFT_NOTIFY"  # addresses for every sweep, apart by blanks
_GAP_SECONDS = 60.0  # between two messages to one service; the latest of those that came meanwhile is sent
_LAST_SECONDS = 5.0  # that the end of a sweep waits for its last message
_LOOK_SECONDS = 15.0  # between two looks whether a sweep has stalled
_LONGEST = 900  # characters of a message: services cut off longer ones
_log = logging.getLogger(__name__)
Send = Callable[[str, str], bool]
Listener = Callable[[Event], None]


@dataclass(frozen=True)
class Address:
    """Where notices go. place: the variable that says it, which is all that may be shown of it."""

    place: str
    url: str = field(repr=False)


def addresses(names: Iterable[str], environment: Mapping[str, str]) -> list[Address]:
    """Those of the variables that a space names, and of MOUSELIFT_NOTIFY. Raises StudyError for one that is not set."""
    named = list(dict.fromkeys(names))
    for name in named:
        if not environment.get(name, "").strip():
            raise StudyError(
                f"notify: expected an address in the environment variable {name}, got none — export it, or drop {name} "
                "from the space."
            )
    places = list(dict.fromkeys([*named, VARIABLE]))
    found = [(place, url) for place in places for url in environment.get(place, "").split()]
    return [Address(place, url) for place, url in {url: (place, url) for place, url in reversed(found)}.values()][::-1]


def senders(found: Iterable[Address]) -> list[tuple[str, Send]]:
    """What sends a text, with a name that may be shown.

    Raises StudyError without apprise, and for an address that it does not understand.
    """
    found = list(found)
    if not found:
        return []
    try:
        import apprise
    except ImportError:
        raise StudyError(
            f"{found[0].place}: expected the package apprise for notices, found none — pip install "
            "'mouselift[notify]', or unset it."
        ) from None
    logging.getLogger("apprise").setLevel(logging.CRITICAL + 1)  # its messages repeat addresses
    made: list[tuple[str, Send]] = []
    for address in found:
        service, to = apprise.Apprise.instantiate(address.url), apprise.Apprise()
        if not isinstance(service, apprise.NotifyBase) or not to.add(service):
            raise StudyError(
                f"{address.place}: expected addresses that apprise understands, such as mailto://…, slack://… or "
                "ntfy://…, apart by blanks, got another — see github.com/caronc/apprise for the form of yours."
            )
        made.append((f"{service.service_name} of {address.place}", partial(_send, to)))
    return made


def _send(to: Apprise, title: str, text: str) -> bool:
    """Whether the service took it. One that does not answer is given up after some seconds."""
    return bool(to.notify(title=title, body=text, body_format="text"))


def described(names: Iterable[str], environment: Mapping[str, str]) -> str:
    """Who hears of a sweep, by what may be shown; empty for nobody. Raises StudyError as a sweep would."""
    return ", ".join(name for name, _ in senders(addresses(names, environment)))


@contextlib.contextmanager
def announced(
    listen: Listener, names: Iterable[str], environment: Mapping[str, str], earlier: Ledger, stall_seconds: float
) -> Iterator[Listener]:
    """The listener, that also has notices sent, as long as the block lasts; itself, where nobody is to be told.

    earlier: what sessions before this one knew of the sweep. stall_seconds: without any event, after which it stalls.
    """
    found = senders(addresses(names, environment))
    if not found:
        yield listen
        return
    notices = Notices([Service(name, send) for name, send in found], earlier, stall_seconds)

    def heard(event: Event) -> None:
        notices(event)
        listen(event)

    with contextlib.ExitStack() as stack:
        stack.callback(notices.close)
        stack.push(notices.broke)
        yield heard


class Notices:
    """Hears the events of a sweep, and has `services` told what a person wants to know. clock: gives unix seconds."""

    def __init__(
        self,
        services: list[Service],
        earlier: Ledger,
        stall_seconds: float,
        clock: Callable[[], float] = time.time,
        look_seconds: float = _LOOK_SECONDS,
    ) -> None:
        self._services, self._ledger, self._clock = services, earlier, clock
        self._stall_seconds, self._look_seconds = stall_seconds, min(look_seconds, stall_seconds)
        self._heard, self._runs, self._has_stalled = clock(), False, False
        self._lock, self._over = threading.Lock(), threading.Event()
        self._watcher = threading.Thread(target=self._watch, name="notices", daemon=True)
        self._watcher.start()

    def __call__(self, event: Event) -> None:
        with self._lock:
            best = self._ledger.best if isinstance(event, TrialClosed) else None
            self._ledger = fold(self._ledger, event)
            self._heard, self._has_stalled = self._clock(), False
            self._runs = self._ledger.state == State.RUNNING
            text = told(event, self._ledger, None if best is None else best.number)
        if text:
            self._post(text)

    def look(self) -> None:
        """Tell, once, that nothing was heard for too long."""
        with self._lock:
            silent = self._clock() - self._heard
            stalls = self._runs and not self._has_stalled and silent > self._stall_seconds
            self._has_stalled = self._has_stalled or stalls
            ended = f"{self._ledger.ended} of {counted(self._ledger.planned, 'trial')} ended"
        if stalls:
            self._post(f"stalled: nothing was reported for {silent / 60:.0f} min; {ended}")

    def broke(self, _: object, error: BaseException | None, __: object) -> None:
        """An error ended the session before a listener could hear of its end."""
        if error is None:
            return
        with self._lock:
            runs, self._runs = self._runs, False
        if runs:
            self._post(f"FAIL: its driver ended by {type(error).__name__}")

    def close(self) -> None:
        """Wait for the last messages, some seconds at most."""
        self._over.set()
        deadline = time.monotonic() + _LAST_SECONDS
        for service in self._services:
            service.finish()
        for service in self._services:
            service.close(deadline - time.monotonic())

    def _watch(self) -> None:
        while not self._over.wait(self._look_seconds):
            self.look()

    def _post(self, text: str) -> None:
        for service in self._services:
            service.post(f"mouselift {self._ledger.name}", text[:_LONGEST])


class Service:
    """Sends messages from a thread of its own, `gap` seconds apart; of those that wait the latest is sent.

    One that does not take a message is told of once, on the log, and asked again with the next message.
    """

    def __init__(self, name: str, send: Send, gap: float = _GAP_SECONDS) -> None:
        self._name, self._send, self._gap = name, send, gap
        self._waiting: tuple[str, str] | None = None
        self._changed, self._finishing, self._complained = threading.Condition(), False, False
        self._thread = threading.Thread(target=self._work, name="notice", daemon=True)
        self._thread.start()

    def post(self, title: str, text: str) -> None:
        """Have this sent, in place of what still waits."""
        with self._changed:
            self._waiting = title, text
            self._changed.notify()

    def finish(self) -> None:
        """What waits is the last, and is sent at once."""
        with self._changed:
            self._finishing = True
            self._changed.notify()

    def close(self, seconds: float) -> None:
        """Wait so long at most for the last message."""
        self._thread.join(max(0.0, seconds))
        if self._thread.is_alive():
            self._complain("did not answer")

    def _work(self) -> None:
        free = time.monotonic()
        while (message := self._next(free)) is not None:
            taken = False
            with contextlib.ExitStack() as stack:
                stack.push(_is_fault)
                taken = self._send(*message)
            if not taken:
                self._complain("did not take it")
            free = time.monotonic() + self._gap

    def _next(self, free: float) -> tuple[str, str] | None:
        """The message to be sent, at `free` at the earliest; None when there is none to come."""
        with self._changed:
            while not self._finishing and (self._waiting is None or time.monotonic() < free):
                self._changed.wait(None if self._waiting is None else free - time.monotonic())
            message, self._waiting = self._waiting, None
            return message

    def _complain(self, how: str) -> None:
        if not self._complained:
            self._complained = True
            _log.warning("notices: %s %s — the sweep goes on; this is said once.", self._name, how)


def _is_fault(_: object, error: BaseException | None, __: object) -> bool:
    """Of one of a hundred services: it is told of without its words, which may hold an address."""
    return isinstance(error, Exception)


def told(event: Event, ledger: Ledger, best: int | None = None) -> str:
    """What a person is told of an event, the ledger being that after it; empty for most. best: the best trial before
    an end, which the runs that confirm it may have changed.
    """
    match event:
        case SweepOpened():
            return ""
        case AttemptFailed(cause="hang"):
            then = "it is tried again" if event.action == "retry" else "it has failed"
            return f"t{event.trial:04d} stalled: {event.reason}; {then}"
        case TrialClosed() if _is_new_best(event, ledger, best):
            return f"new best: {_best(ledger)}; {_so_far(ledger)}"
        case SweepClosed():
            reason = f": {event.reason}" if event.reason else ""
            spent = spending_in_words(ledger, None)
            parts = [f"{event.state}{reason}", _so_far(ledger), _best(ledger, "best ")]
            parts += [f"spent {spent}"] if spent else []
            return "; ".join(part for part in parts if part)
    return ""


def _is_new_best(event: TrialClosed, ledger: Ledger, before: int | None) -> bool:
    best = ledger.best
    if best is None or best.state != State.COMPLETE:
        return False
    confirms = ledger.trials[event.trial].confirms is not None
    return best.number != before if confirms else best.number == event.trial


def _best(ledger: Ledger, before: str = "") -> str:
    best = ledger.best
    if best is None or best.best_value is None or ledger.objective is None:
        return ""
    said = f"{before}{ledger.objective.metric} {best.best_value:.4g} (t{best.number:04d}, step {best.best_step})"
    confirmed = ledger.confirmation_of(best.number)
    return said if confirmed is None else f"{said}, with other seeds {confirmed.by_seeds}"


def _so_far(ledger: Ledger) -> str:
    failed = f", {ledger.count(State.FAIL)} of them FAIL" if ledger.count(State.FAIL) else ""
    return f"{ledger.ended} of {counted(ledger.planned, 'trial')} ended{failed}"
