"""How long a sweep's sessions ran and its trials were busy, added up from the journal's events, over all sessions.

Time in which nothing ran counts nowhere: between sessions, and from the last word of a driver that died until the
sweep was found and closed.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import NamedTuple

from sweeps.book import journal as events
from sweeps.book.journal import Event

DIED = "its driver died"  # how the reason of a sweep begins that was closed for its driver, later than it ended


class Timed(NamedTuple):
    """Seconds in which so many steps were made, summed over so many stretches."""

    seconds: float = 0.0
    steps: int = 0
    stretches: int = 0

    def plus(self, seconds: float, steps: int) -> Timed:
        """One stretch more."""
        return Timed(self.seconds + max(0.0, seconds), self.steps + max(0, steps), self.stretches + 1)


class _Attempt(NamedTuple):
    """An attempt that runs: when it was last heard of, and the step that it reported then."""

    number: int
    heard: float
    step: int | None = None


@dataclass(frozen=True)
class Spending:
    """Seconds up to the last event; `at` adds what has passed since then.

    trials: of each trial that began, from its opening to its last report or end, summed over its attempts. first: of
    first attempts, until their first report, with the steps until then. later: of all attempts, from report to report.
    """

    session_seconds: float = 0.0
    trials: dict[int, float] = field(default_factory=dict)
    first: Timed = field(default_factory=Timed)
    later: Timed = field(default_factory=Timed)
    _heard: float | None = None  # unix seconds of the last event of a session that is not closed
    _busy: dict[int, _Attempt] = field(default_factory=dict)  # by trial

    def after(self, event: Event) -> Spending:
        """The same with one more event."""
        match event:
            case events.SweepOpened():  # a session before it that has no end ended with its last event
                return replace(self, _heard=event.time, _busy={})
            case events.SweepClosed() if event.reason.startswith(DIED):
                return replace(self, _heard=None, _busy={})
            case events.SweepClosed():
                return replace(self._until(event.time), _heard=None)._all_ended(event.time)
            case events.TrialClosed() if event.reason.startswith(DIED):
                return self
            case events.TrialOpened() if event.is_copied:  # it was trained, and paid for, elsewhere
                return replace(self, trials={event.trial: 0.0, **self.trials})._until(event.time)
            case events.TrialOpened():
                busy = {**self._busy, event.trial: _Attempt(event.attempt, event.time)}
                return replace(self, trials={event.trial: 0.0, **self.trials}, _busy=busy)._until(event.time)
            case events.Reported():
                return self._reported(event)._until(event.time)
            case events.AttemptFailed() | events.TrialClosed():
                ended = self._trial_until(event.trial, event.time)
                rest = {number: one for number, one in self._busy.items() if number != event.trial}
                return replace(ended, _busy=rest)._until(event.time)
        return self._until(event.time)

    def at(self, now: float | None) -> tuple[float, float]:
        """Seconds of sessions, and of trials summed over them, at `now` in unix seconds; None: at the last event."""
        if now is None or self._heard is None:
            return self.session_seconds, sum(self.trials.values())
        running = sum(max(0.0, now - one.heard) for one in self._busy.values())
        return self.session_seconds + max(0.0, now - self._heard), sum(self.trials.values()) + running

    def _until(self, time: float) -> Spending:
        if self._heard is None:  # a release, or a run that was opened late
            return self
        return replace(self, session_seconds=self.session_seconds + max(0.0, time - self._heard), _heard=time)

    def _reported(self, event: events.Reported) -> Spending:
        if (before := self._busy.get(event.trial)) is None:
            return self
        seconds, timed = event.time - before.heard, self._trial_until(event.trial, event.time)
        busy = {**self._busy, event.trial: _Attempt(before.number, event.time, event.step)}
        if before.step is not None:
            return replace(timed, _busy=busy, later=self.later.plus(seconds, event.step - before.step))
        if before.number == 1:  # a later one begins at a checkpoint, of which the journal does not say the step
            return replace(timed, _busy=busy, first=self.first.plus(seconds, event.step))
        return replace(timed, _busy=busy)

    def _trial_until(self, number: int, time: float) -> Spending:
        if number not in self._busy:
            return self
        seconds = self.trials.get(number, 0.0) + max(0.0, time - self._busy[number].heard)
        return replace(self, trials={**self.trials, number: seconds})

    def _all_ended(self, time: float) -> Spending:
        ended = self
        for number in self._busy:
            ended = ended._trial_until(number, time)
        return replace(ended, _busy={})
