"""Lets a trial go on from where another sweep of the home left the same one: at an earlier end, or stopped before it.

What it reported there becomes this trial's first attempt. Its checkpoints come before that, each with this trial's own
recipe: those that a kill leaves without their reports are replaced by the trial's own.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from pipeline import checkpoint
from pipeline.errors import CheckpointError, PipelineError
from pipeline.recipe import Recipe
from sweeps.book.journal import CONTINUED_FROM, Event, Journal, TrialOpened, TrialProposed
from sweeps.book.ledger import Ledger, fold_all
from sweeps.book.trial import Trial
from sweeps.datasets import data_tags
from sweeps.home import Home
from sweeps.reuse.known_results import DATA, KnownResults, Made
from sweeps.reuse.taking import copied, rewritten

_log = logging.getLogger(__name__)


class Kept(Protocol):
    """A checkpoint in its place."""

    @property
    def step(self) -> int:
        """The optimizer step after which it was written."""


class Store(Protocol):
    """The checkpoints of one trial, as `sweeps/run/checkpoints.py` has them."""

    def all(self) -> Sequence[Kept]:
        """Those in their place, by step."""

    def fetched(self, step: int) -> AbstractContextManager[Path]:
        """One of them as a local folder. Raises CheckpointError where it is damaged."""

    def workspace(self) -> AbstractContextManager[Path]:
        """A folder to write in."""

    def keep(self, folder: Path) -> None:
        """Move a checkpoint that was written there into its place."""


class Continuing:
    """Finds first steps for the trials of one sweep. made_by: the tags of code and machine that its trials get.
    store: gives the checkpoints of a trial of a sweep.
    """

    def __init__(
        self,
        home: Home,
        journal: Journal,
        known: KnownResults,
        made_by: Mapping[str, str],
        store: Callable[[str, int], Store],
    ) -> None:
        self._home, self._journal, self._known, self._made_by = home, journal, known, dict(made_by)
        self._store = store

    def events(self, ledger: Ledger, trial: Trial, recipe: Recipe) -> list[Event]:
        """The first attempt of a trial, with its reports, after its checkpoints are in their place; nothing where no
        other sweep has any of it.
        """
        tags = data_tags(recipe, self._home.cache)
        for made in self._known.begun(recipe, tags[DATA], ledger.tags):
            try:
                if steps := self._steps(ledger, made, recipe.train.max_steps):
                    self._bring(made, trial.number, recipe, steps)
                    tags |= self._made_by | {CONTINUED_FROM: made.origin}
                    return self._copied(trial, recipe, made, steps[-1], tags)
            except (PipelineError, OSError) as error:
                _log.warning("t%04d: does not go on from %s: %s", trial.number, made.origin, error)
        return []

    def _steps(self, ledger: Ledger, made: Made, end: int) -> list[int]:
        """The checkpoints to bring: one to go on from, and the best before it, which would be released if no later one
        were better. Empty where they are not kept.
        """
        kept = [one.step for one in self._store(made.journal.folder.name, made.number).all() if one.step < end]
        for last in reversed(kept):
            best = _best_step(ledger, made, last)
            if best is None or best in kept:
                return [step for step in kept if step in (best, last)]
        return []

    def _bring(self, made: Made, number: int, recipe: Recipe, steps: Iterable[int]) -> None:
        theirs, own = self._store(made.journal.folder.name, made.number), self._store(self._journal.folder.name, number)
        with own.workspace() as workspace:
            for step in steps:
                with theirs.fetched(step) as folder:
                    if not (folder / checkpoint.TRAINING).is_file():
                        raise CheckpointError(f"{folder}: expected {checkpoint.TRAINING} in it, found none.")
                    own.keep(rewritten(checkpoint.inspect(folder), recipe, workspace / folder.name))

    def _copied(self, trial: Trial, recipe: Recipe, made: Made, last: int, tags: dict[str, str]) -> list[Event]:
        attempt, number = trial.attempt + 1, trial.number
        opened = TrialOpened(number, "", attempt, trial.params, recipe.params, recipe.fingerprint, tags)
        reports = [report for report in made.reports if report.step <= last]
        return [opened, *(copied(number, report, made.journal, self._journal) for report in reports)]


def _best_step(ledger: Ledger, made: Made, last: int) -> int | None:
    """Where a trial that reported so far has its best, by the aims of this sweep."""
    number = made.number
    reports = (report for report in made.reports if report.step <= last)
    judged = fold_all(Ledger(aims=ledger.aims, objective=ledger.objective), [TrialProposed(number, {}), *reports])
    return judged.trials[number].best_step
