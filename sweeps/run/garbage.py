"""Collecting garbage: checkpoints of a home that no trial, promotion or alias can need again."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sweeps.book.journal import Journal
from sweeps.book.ledger import Ledger, ledger_of
from sweeps.home import Home
from sweeps.run.checkpoints import Checkpoints
from sweeps.space.objective import Aims, Objective


@dataclass(frozen=True)
class Garbage:
    """A checkpoint that can go: its trial, step and size, and why."""

    sweep: str
    trial: int
    step: int
    bytes: int
    reason: str


def collect(home: Home, sweep: str | None = None, dry_run: bool = False) -> list[Garbage]:
    """Remove what `garbage` finds in one sweep, or in all; with `dry_run` only return it. Running sweeps are left out.

    Raises StudyError for a sweep that does not exist.
    """
    names = [sweep] if sweep is not None else sorted(folder.name for folder in home.journals.glob("*"))
    found: list[Garbage] = []
    for name in names:
        ledger = ledger_of(home, name)
        if Journal(home.journal(name)).is_being_written:
            continue
        for item in garbage(home, ledger):
            found.append(item)
            if not dry_run:
                Checkpoints(home.checkpoints, name, item.trial).remove(item.step)
        if not dry_run:
            _sweep_up(home, name)
    return found


def garbage(home: Home, ledger: Ledger) -> Iterator[Garbage]:
    """The checkpoints that can go: all of trials that have ended, all but the best and last of those that may go on.

    The best trial of the sweep keeps its best. Releases, which MLflow and the registry have, are other files.
    """
    aims = ledger.aims or Aims((Objective(),))
    retention = ledger.space.get("retention", {"best": 1, "last": 1})
    best = ledger.best.number if ledger.best is not None else None
    for trial in ledger.trials.values():
        kept = Checkpoints(home.checkpoints, ledger.name, trial.number)
        if not trial.state.is_final or trial.lacks_release:
            steps, reason = kept.surplus(aims, retention["best"], retention["last"]), "neither best nor last"
        else:
            stays = kept.best(aims)[: retention["best"]] if trial.number == best else []
            steps = [item.step for item in kept.all() if item not in stays]
            reason = "not the best step" if trial.number == best else f"the trial is {trial.state}"
        for step in steps:
            yield Garbage(ledger.name, trial.number, step, kept.size(step), reason)


def _sweep_up(home: Home, sweep: str) -> None:
    """Remove half-written and damaged folders, and Ray's files, of a sweep that does not run."""
    shutil.rmtree(home.ray / sweep, ignore_errors=True)
    if "://" in home.checkpoints:
        return
    for folder in (Path(home.checkpoints) / sweep).glob("t*/.*"):
        shutil.rmtree(folder, ignore_errors=True)
