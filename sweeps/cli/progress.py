"""What a sweep looks like while it runs: a live table in a terminal, a line per event anywhere else."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from sweeps.book.journal import AttemptFailed, Event, Reported, SweepClosed, SweepOpened, TrialClosed, TrialOpened
from sweeps.book.ledger import Ledger, Trial, fold
from sweeps.errors import counted

STYLES = {
    "COMPLETE": "green",
    "PRUNED": "yellow",
    "FAIL": "red",
    "KILLED": "magenta",
    "RUNNING": "cyan",
    "WAITING": "blue",
}
_ROWS_SHOWN = 20


class Screen(Console):
    """The standard error. A sweep outlives who reads it: Ctrl-C ends the `tee` behind a pipe before the sweep."""

    def __init__(self) -> None:
        super().__init__(stderr=True)

    def on_broken_pipe(self) -> None:
        """Say nothing more, where rich would end the process."""
        self.quiet = True


class Progress:
    """A listener that keeps the ledger and shows it on `console` (the standard error).

    earlier: what is known of the sweep from sessions before this one.
    """

    def __init__(self, console: Console, max_steps: int, earlier: Ledger | None = None) -> None:
        self._console, self._max_steps = console, max_steps
        self._ledger = earlier or Ledger()
        self._live: Live | None = None
        self._started = time.monotonic()

    @contextlib.contextmanager
    def shown(self) -> Iterator[Progress]:
        """Draw the live table for as long as the block lasts, if there is a terminal to draw on."""
        if not self._console.is_terminal:
            yield self
            return
        with Live(console=self._console, get_renderable=self._table, refresh_per_second=2) as self._live:
            yield self

    def __call__(self, event: Event) -> None:
        """Take one event in; without a live table, say it."""
        self._ledger = fold(self._ledger, event)
        if self._live is None:
            line = self._line(event)
            if line:
                self._console.print(line, highlight=False, soft_wrap=True)

    def _line(self, event: Event) -> str:
        seconds = f"[{time.monotonic() - self._started:6.1f} s]"
        match event:
            case SweepOpened():
                ended = len(self._ledger.trials) - len(self._ledger.open) - self._ledger.count("KILLED")
                so_far = f" ({ended} ended)" if self._ledger.trials else ""
                planned = counted(self._ledger.planned, "trial")
                return f"{seconds} sweep {event.sweep}: recipe {event.recipe}, {planned}{so_far}"
            case TrialOpened():
                again = f" again, attempt {event.attempt}" if event.attempt > 1 else ""
                return f"{seconds} t{event.trial:04d} starts{again}: {describe(event.params)}"
            case AttemptFailed(action="retry" | "halve"):
                return f"{seconds} t{event.trial:04d} broke ({event.action}): {event.cause}: {event.reason}"
            case Reported():
                return self._report_line(seconds, event)
            case TrialClosed():
                return f"{seconds} t{event.trial:04d} {event.state}{': ' + event.reason if event.reason else ''}"
            case SweepClosed():
                return f"{seconds} sweep {event.state}{': ' + event.reason if event.reason else ''}"
        return ""

    def _report_line(self, seconds: str, event: Reported) -> str:
        if event.tags.get("checkpointing", "").startswith("paused"):
            return f"{seconds} t{event.trial:04d} step {event.step}: no checkpoint; {event.tags['checkpointing']}"
        objective = self._ledger.objective
        if objective is None or objective.metric not in event.metrics:
            return ""
        figure = f"{objective.metric} {event.metrics[objective.metric]:.3f}"
        return f"{seconds} t{event.trial:04d} step {event.step}/{self._max_steps}: {figure}"

    def _table(self) -> RenderableType:
        metric = self._ledger.objective.metric if self._ledger.objective else "objective"
        table = Table(box=None, pad_edge=False)
        for column in ("trial", "state", "step", f"best {metric}", "params"):
            table.add_column(column, no_wrap=column != "params")
        trials = sorted(self._ledger.trials.values(), key=lambda trial: trial.number)[-_ROWS_SHOWN:]
        for trial in trials:
            table.add_row(*self._row(trial))
        done = len(self._ledger.trials) - len(self._ledger.open)
        elapsed = time.monotonic() - self._started
        planned = counted(self._ledger.planned, "trial")
        return Group(Text(f"{self._ledger.name}: {done}/{planned}, {elapsed:.0f} s"), table)

    def _row(self, trial: Trial) -> list[RenderableType]:
        value = "" if trial.best_value is None else f"{trial.best_value:.3f}"
        step = f"{max(0, trial.last_step)}/{self._max_steps}"
        state = Text(trial.state, style=STYLES.get(trial.state, ""))
        return [f"t{trial.number:04d}", state, step, value, describe(trial.params)]


def describe(params: dict[str, Any]) -> str:
    """What the sampler chose, short: `lr=0.0012 num_input_views=4`."""
    return " ".join(f"{path.rpartition('.')[2]}={_short(value)}" for path, value in sorted(params.items()))


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value).lower() if isinstance(value, bool) else str(value)
