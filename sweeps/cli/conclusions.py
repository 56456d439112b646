"""How conclusions of a sweep stand in a terminal, and in `--json`."""

from __future__ import annotations

from typing import Any

import typer

from sweeps.book.record import SweepRecord
from sweeps.cli import terminal
from sweeps.conclusions.comparisons import CONFIDENCE, Comparisons, difference_in_words
from sweeps.conclusions.confirmations import sentences
from sweeps.conclusions.importance import Importance
from sweeps.conclusions.pareto import Front
from sweeps.errors import counted


def show_comparisons(found: Comparisons) -> None:
    """What the runs of a plan tell, a row each, and by which rule."""
    rows = [
        [one.verdict, one.effect, one.against, *difference_in_words(one), str(len(one.seeds)), str(one.scenes), one.why]
        for one in found.comparisons
    ]
    interval = f"{CONFIDENCE:.0%} interval"
    columns = ["verdict", "setting", "against", f"Δ {found.metric}", interval, "seeds", "scenes", "why"]
    terminal.table_or_blocks(columns, rows)
    for line in (f"Step {found.step}. {found.rule}", *found.notes):
        typer.echo(line, err=True)


def show_front(found: Front) -> None:
    """The trials between which several objectives leave the choice, and which of them is the knee."""
    rows = [
        [
            f"t{trial.number:04d}",
            *(f"{value:.4g}" for value in found.values(trial)),
            str(trial.best_step),
            "knee" if trial.number == found.knee else "",
        ]
        for trial in found.trials
    ]
    if rows:
        terminal.table(["front", *(one.metric for one in found.objectives), "at", ""], rows)
    for line in found.notes:
        typer.echo(line, err=True)


def show_confirmed(record: SweepRecord) -> None:
    """What the best of a search reached with other seeds, a row each, and who won by that."""
    rows = [
        [
            f"t{one.trial:04d}",
            str(one.place),
            f"{one.found:.4g}",
            "" if one.mean is None else f"{one.mean:.4g}",
            f"{min(one.values):.4g} to {max(one.values):.4g}" if len(one.values) > 1 else "",
            f"{len(one.values)} of {one.seeds}",
        ]
        for one in record.ledger.confirmed
    ]
    if rows:
        terminal.table(["confirmed", "place in the search", "there", "mean", "least to most", "seeds"], rows)
    for line in sentences(record):
        typer.echo(line, err=True)


def plain(found: Importance) -> dict[str, Any]:
    """An importance as `--json` prints it, beside the status."""
    named = {"importance": found.shares, "importance_spread": found.spread, "importance_chance": found.chance}
    of = {"importance_trials": found.trials, "importance_step": found.step, "importance_partial": found.partial}
    return named | of | {"importance_note": found.note}


def show_importance(found: Importance) -> None:
    """What mattered in a search, a row for each setting."""
    rows = [
        [path, f"{share:.2f}", _span(found.spread[path]), _span(found.chance[path]), _judged(found, path)]
        for path, share in found.shares.items()
    ]
    if rows:
        n = f"{counted(found.trials, 'trial')}, step {found.step}"
        terminal.table(["setting", "importance", f"spread of {n}", "by chance", ""], rows)
    if found.note:
        typer.echo(f"importance: {found.note}", err=True)


def _span(ends: tuple[float, float]) -> str:
    return f"{ends[0]:.2f} to {ends[1]:.2f}"


def _judged(found: Importance, path: str) -> str:
    among = f", of {counted(found.partial[path], 'trial')} that have it" if path in found.partial else ""
    return f"{'matters' if found.is_told(path) else 'not told from chance'}{among}"
