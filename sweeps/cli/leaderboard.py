"""The trials of a sweep as a table: best first, with what each was, reached and took."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.style import Style
from rich.table import Table
from rich.text import Text

from pipeline.progress import duration
from sweeps.book.remaining import max_steps
from sweeps.cli.progress import STYLES, describe

if TYPE_CHECKING:
    from collections.abc import Callable

    from sweeps.book.record import SweepRecord, TrialRecord

WIDE = 100  # columns of a terminal
ROWS_SHOWN = 20  # of a sweep with more trials, unless all are asked for
_COLUMNS = ("trial", "state", "step", "best", "at", "last", "took", "params")


@dataclass(frozen=True)
class Leaderboard:
    """What is shown of a sweep's trials. address: of the page of a run in MLflow's UI, where it is known."""

    record: SweepRecord
    address: Callable[[str], str] | None = None
    rows: int | None = ROWS_SHOWN

    @property
    def shown(self) -> list[TrialRecord]:
        """The best trials, and all that run."""
        ranked = self.record.ranked
        first = ranked[: self.rows]
        return first + [found for found in ranked[len(first) :] if found.trial.state == "RUNNING"]

    @property
    def left_out(self) -> int:
        """How many trials are not shown."""
        return len(self.record.trials) - len(self.shown)

    def table(self, is_wide: bool = True) -> Table:
        """A row for each shown trial: best and last objective, the step of the best, and the time that it was busy.

        is_wide: there is room for the objective's name in one line.
        """
        objective = self.record.ledger.objective
        metric = "" if objective is None else f"{' ' if is_wide else chr(10)}{objective.metric}"
        table = Table(box=None, pad_edge=False)
        for column in _COLUMNS:
            justify = "right" if column in ("step", "best", "at", "last", "took") else "left"
            head = f"best{metric}" if column == "best" else column
            table.add_column(head, justify=justify, no_wrap=column != "params", overflow="fold")  # type: ignore[arg-type]
        for found in self.shown:
            table.add_row(*self._row(found))
        return table

    def _row(self, found: TrialRecord) -> list[Text]:
        trial, longest = found.trial, max_steps(self.record.ledger)
        name = Text(f"t{trial.number:04d}")
        if self.address is not None and trial.run_id is not None:
            name.stylize(Style(link=self.address(trial.run_id)))
        step = f"{max(0, trial.last_step)}" + ("" if longest is None else f"/{longest}")
        at = "" if trial.best_step is None else str(trial.best_step)
        took = duration(found.busy_seconds) if found.busy_seconds else ""
        said = " — ".join(part for part in (describe(trial.params), " ".join(trial.reason.split())) if part)
        cells = (step, figure(trial.best_value), at, figure(trial.last_value), took, said)
        return [name, Text(trial.state, style=STYLES.get(trial.state, "")), *map(Text, cells)]


def figure(value: float | None) -> str:
    """An objective, to three decimals."""
    return "" if value is None else f"{value:.3f}"
