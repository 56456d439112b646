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
from sweeps.cli.terminal import printable

if TYPE_CHECKING:
    from collections.abc import Callable

    from sweeps.book.record import SweepRecord, TrialRecord

WIDE = 120  # columns of a terminal, from which on params stand beside the figures
ROWS_SHOWN = 20  # of a sweep with more trials, unless all are asked for
_COLUMNS = ("trial", "state", "step", "best", "at", "last", "took", "params")
_FIGURES = ("step", "best", "at", "last", "took")


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

    def tables(self, width: int) -> list[Table]:
        """A row for each shown trial: best and last objective, the step of the best, the time that it was busy, and its
        params with the reason of its end; these in a table of their own where `width` leaves no room beside.
        """
        objective = self.record.ledger.objective
        is_wide = width >= WIDE
        best = "best" if objective is None else f"best {objective.metric}"
        rows = [self._row(found) for found in self.shown]
        if is_wide:
            return [_table([best if column == "best" else column for column in _COLUMNS], rows)]
        figures = _table([best if column == "best" else column for column in _COLUMNS[:-1]], [row[:-1] for row in rows])
        return [figures, _table([_COLUMNS[0], _COLUMNS[-1]], [[row[0], row[-1]] for row in rows])]

    def _row(self, found: TrialRecord) -> list[Text]:
        trial, longest = found.trial, max_steps(self.record.ledger)
        name = Text(f"t{trial.number:04d}")
        if self.address is not None and trial.run_id is not None:
            name.stylize(Style(link=self.address(trial.run_id)))
        step = f"{max(0, trial.last_step)}" + ("" if longest is None else f"/{longest}")
        at = "" if trial.best_step is None else str(trial.best_step)
        took = duration(found.busy_seconds) if found.busy_seconds else ""
        confirms = "" if trial.confirms is None else f"confirms t{trial.confirms:04d}"
        said = " — ".join(part for part in (confirms, describe(trial.params), " ".join(found.reason.split())) if part)
        cells = (step, figure(trial.best_value), at, figure(trial.last_value), took, said)
        return [name, Text(trial.state, style=STYLES.get(trial.state, "")), *(Text(printable(cell)) for cell in cells)]


def _table(columns: list[str], rows: list[list[Text]]) -> Table:
    table = Table(box=None, pad_edge=False)
    for column in columns:
        is_figure = column.partition(" ")[0] in _FIGURES
        table.add_column(
            column, justify="right" if is_figure else "left", no_wrap=column != _COLUMNS[-1], overflow="fold"
        )
    for row in rows:
        table.add_row(*row)
    return table


def figure(value: float | None) -> str:
    """An objective, to three decimals."""
    return "" if value is None else f"{value:.3f}"
