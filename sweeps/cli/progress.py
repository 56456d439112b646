"""What a sweep looks like while it runs: a live table in a terminal, a line per event anywhere else."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, TextIO, cast

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from pipeline.progress import LINE_SECONDS, LastingError, duration
from sweeps.book.journal import (
    AttemptFailed,
    Event,
    Reported,
    SweepClosed,
    SweepOpened,
    TrialClosed,
    TrialOpened,
)
from sweeps.book.ledger import Ledger, fold
from sweeps.book.remaining import seconds_left, steps_left
from sweeps.book.trial import Trial
from sweeps.errors import counted

STYLES = {
    "COMPLETE": "green",
    "PRUNED": "yellow",
    "FAIL": "red",
    "KILLED": "magenta",
    "RUNNING": "cyan",
    "WAITING": "blue",
}
_ROWS_SHOWN, _BAR_WIDTH = 20, 60


class Screen(Console):
    """The standard error. A sweep outlives who reads it: see `LastingError`."""

    def __init__(self) -> None:
        super().__init__(file=cast("TextIO", LastingError()))


class Progress:
    """A listener that keeps the ledger and shows it on `console` (the standard error).

    earlier: what is known of the sweep from sessions before this one. clock: gives seconds.
    """

    def __init__(
        self,
        console: Console,
        max_steps: int,
        earlier: Ledger | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._console, self._max_steps, self._clock = console, max_steps, clock
        self._ledger = earlier or Ledger()
        self._live: Live | None = None
        self._started = self._said = clock()
        self._pace = _Pace()

    @contextlib.contextmanager
    def shown(self) -> Iterator[Progress]:
        """Draw the live table for as long as the block lasts, if there is a terminal to draw on."""
        if not self._console.is_terminal:
            yield self
            return
        to_terminal = sys.stdout.isatty()  # a result that goes elsewhere stays there
        live = Live(
            console=self._console, get_renderable=self._table, refresh_per_second=2, redirect_stdout=to_terminal
        )
        with live as self._live:
            yield self

    def __call__(self, event: Event) -> None:
        """Take one event in; without a live table, say it."""
        self._pace.add(event, self._ledger)
        self._ledger = fold(self._ledger, event)
        if self._live is None:
            line = self._line(event)
            if line:
                seconds = f"[{self._clock() - self._started:6.1f} s]"
                self._console.print(f"{seconds} {line}", highlight=False, soft_wrap=True, markup=False)

    def _line(self, event: Event) -> str:
        match event:
            case SweepOpened():
                so_far = f" ({self._ledger.ended} ended)" if self._ledger.trials else ""
                planned = counted(self._ledger.planned, "trial")
                return f"sweep {event.sweep}: recipe {event.recipe}, {planned}{so_far}"
            case TrialOpened() if event.is_copied:
                return ""  # its end, or that it goes on, follows at once
            case TrialOpened():
                return self._start_line(event)
            case AttemptFailed(action="retry" | "halve"):
                return f"t{event.trial:04d} broke ({event.action}): {event.cause}: {event.reason}"
            case Reported():
                return self._report_line(event)
            case TrialClosed():
                return self._closed_line(event)
            case SweepClosed():
                return f"sweep {event.state}{': ' + event.reason if event.reason else ''}"
        return ""

    def _start_line(self, event: TrialOpened) -> str:
        trial = self._ledger.trials[event.trial]
        how = f"starts again, attempt {event.attempt}" if event.attempt > 1 else "starts"
        if trial.steps_elsewhere and event.attempt == 2:  # the first was made there
            how = f"goes on from step {trial.steps_elsewhere} of {trial.continued_from}"
        what = "" if trial.confirms is None else f", to confirm t{trial.confirms:04d}"
        return f"t{event.trial:04d} {how}{what}: {describe(event.params)}"

    def _report_line(self, event: Reported) -> str:
        """Of a report without a checkpoint: why. Of any other, now and then: how far the trial and the sweep are."""
        if event.tags.get("checkpointing", "").startswith("paused"):
            return f"t{event.trial:04d} step {event.step}: no checkpoint; {event.tags['checkpointing']}"
        now = self._clock()
        if now - self._said < LINE_SECONDS:
            return ""
        self._said = now
        parts = [f"t{event.trial:04d} step {event.step}/{self._max_steps}"]
        objective, best = self._ledger.objective, self._best
        if objective is not None and best is not None:
            parts.append(f"best {objective.metric} {best.best_value:.3f} (t{best.number:04d}, step {best.best_step})")
        return "; ".join([*parts, self._so_far()])

    @property
    def _best(self) -> Trial | None:
        """Whatever its state, so that it never falls back; once the best are confirmed, the one that won."""
        judged = [trial for trial in self._ledger.ranked if trial.best_value is not None]
        allowed = [trial for trial in judged if not self._ledger.unmet(trial)]
        return self._ledger.best if self._ledger.confirmed else next(iter(allowed), None)

    def _closed_line(self, event: TrialClosed) -> str:
        """How a trial ended, with the best that it reached, and how far the sweep is."""
        said = f"t{event.trial:04d} {event.state}{': ' + event.reason if event.reason else ''}"
        trial, objective = self._ledger.trials[event.trial], self._ledger.objective
        if objective is not None and trial.best_value is not None:
            said += f"; {objective.metric} {trial.best_value:.3f} at step {trial.best_step}"
        return f"{said}; {self._so_far()}" if self._ledger.planned > 1 else said

    def _so_far(self) -> str:
        """`3 of 12 trials ended, about 4 min left`."""
        done = f"{self._ledger.ended} of {counted(self._ledger.planned, 'trial')} ended"
        left = seconds_left(self._ledger, self._pace.busy, self._pace.steps)
        return done if left is None else f"{done}, about {duration(left)} left"

    def _table(self) -> RenderableType:
        metric = self._ledger.objective.metric if self._ledger.objective else "objective"
        table = Table(box=None, pad_edge=False)
        for column in ("trial", "state", "step", f"best {metric}", "last", "params"):
            table.add_column(column, no_wrap=column != "params", overflow="fold")
        trials = sorted(self._ledger.trials.values(), key=lambda trial: trial.number)[-_ROWS_SHOWN:]
        for trial in trials:
            table.add_row(*self._row(trial))
        elapsed = duration(self._clock() - self._started)
        head = Text(f"{self._ledger.name}: {self._so_far()}, {elapsed} so far")
        return Group(head, ProgressBar(total=1.0, completed=self._share_done(), width=_BAR_WIDTH), table)

    def _share_done(self) -> float:
        """Of the steps of the whole sweep, as far as they are known."""
        left, ended = steps_left(self._ledger), self._ledger.trials.values()
        done = sum(max(0, trial.last_step) for trial in ended)
        return 0.0 if not left and not done else done / (done + (left or 0.0))

    def _row(self, trial: Trial) -> list[RenderableType]:
        best, last = ("" if value is None else f"{value:.3f}" for value in (trial.best_value, trial.last_value))
        step = f"{max(0, trial.last_step)}/{self._max_steps}"
        state = Text(trial.state, style=STYLES.get(trial.state, ""))
        return [f"t{trial.number:04d}", state, step, best, last, Text(describe(trial.params))]


class _Pace:
    """The steps that this session's trials made, and the seconds that they were busy, summed over them."""

    def __init__(self) -> None:
        self.busy, self.steps = 0.0, 0
        self._last: dict[int, float] = {}  # trial -> when it was last heard of

    def add(self, event: Event, before: Ledger) -> None:
        """Take in an event. before: the ledger without it."""
        match event:
            case TrialOpened() if not event.is_copied:
                self._last[event.trial] = event.time
            case Reported() if event.trial in self._last:
                self.busy += max(0.0, event.time - self._last[event.trial])
                self.steps += max(0, event.step - max(0, before.trials[event.trial].last_step))
                self._last[event.trial] = event.time


def describe(params: dict[str, Any]) -> str:
    """What the sampler chose, short: `lr=0.0012 num_input_views=4`."""
    return " ".join(f"{path.rpartition('.')[2]}={_short(value)}" for path, value in sorted(params.items()))


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value).lower() if isinstance(value, bool) else str(value)
