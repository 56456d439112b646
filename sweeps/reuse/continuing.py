"""Lets a trial go on from where another sweep of the home left the same one: at an earlier end, or stopped before it.

What it reported there becomes this trial's first attempt. Its checkpoints come before that, each with this trial's own
recipe: those that a kill leaves without their reports are replaced by the trial's own.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from pipeline import checkpoint
from pipeline.checkpoint import CheckpointInfo
from pipeline.errors import CheckpointError, PipelineError
from pipeline.recipe import Recipe, TrainConfig
from sweeps.book.journal import CONTINUED_FROM, Event, Journal, TrialOpened
from sweeps.book.ledger import Ledger
from sweeps.book.provenance import MACHINE
from sweeps.book.trial import Trial
from sweeps.datasets import data_tags
from sweeps.errors import OutageError
from sweeps.home import Home
from sweeps.reuse.known_results import DATA, KnownResults, Made
from sweeps.reuse.taking import copied, rewritten
from sweeps.space.objective import Aims

_WHOLE = "the trial is made from its first step"
_log = logging.getLogger(__name__)


class Stored(Protocol):
    """A checkpoint in its place."""

    @property
    def step(self) -> int:
        """The optimizer step after which it was written."""


class Store(Protocol):
    """The checkpoints of one trial, as `sweeps/run/checkpoints.py` has them."""

    def all(self) -> Sequence[Stored]:
        """Those in their place, by step."""

    def fetched(self, step: int) -> AbstractContextManager[Path]:
        """One of them as a local folder. Raises CheckpointError where it is damaged."""

    def workspace(self) -> AbstractContextManager[Path]:
        """A folder to write in."""

    def keep(self, folder: Path) -> None:
        """Move a checkpoint that was written there into its place."""


class Continuing:
    """Finds first steps for the trials of one sweep. made_by: the tags of code and machine that its trials get.
    store: gives the checkpoints of a trial of a sweep. One that does not answer is asked once.
    """

    def __init__(
        self,
        home: Home,
        journal: Journal,
        known: KnownResults,
        aims: Aims,
        made_by: Mapping[str, str],
        store: Callable[[str, int], Store],
    ) -> None:
        self._home, self._journal, self._known, self._aims = home, journal, known, aims
        self._made_by, self._store = dict(made_by), store
        self._is_away = False

    def events(self, ledger: Ledger, trial: Trial, recipe: Recipe) -> list[Event]:
        """The first attempt of a trial, with its reports, after its checkpoints are in their place; nothing where no
        other sweep has any of it.
        """
        tags = data_tags(recipe, self._home.cache)
        for made in [] if self._is_away else self._known.begun(recipe, tags[DATA], ledger.tags):
            try:
                steps = self._steps(made, recipe.train)
                self._bring(made, trial.number, recipe, steps)
                return self._copied(trial, recipe, made, steps[-1], tags)
            except (PipelineError, OSError, OutageError) as error:
                _log.warning("t%04d: does not go on from %s: %s", trial.number, made.origin, error)
                self._is_away = isinstance(error, OutageError)
            if self._is_away:
                break
        return []

    def _steps(self, made: Made, config: TrainConfig) -> list[int]:
        """The checkpoints to bring: one to go on from, and the best before it, which would be released if no later one
        were better. Raises CheckpointError where they are not kept.

        At the last step of a shorter trial there are figures, whatever the step; of a longer one they have to be due.
        """
        told = {report.step for report in made.reports}  # a kill may leave a checkpoint whose report nobody heard
        store = self._store(made.journal.folder.name, made.number)
        kept = [one.step for one in store.all() if one.step in told]
        due = [step for step in kept if step < made.max_steps or step % config.validate_every == 0]
        for last in reversed([step for step in due if step < config.max_steps]):
            best = self._best(made, last, config.checkpoint_every or config.validate_every)
            if best is None or best in kept:
                return [step for step in kept if step in (best, last)]
        raise CheckpointError(
            f"expected a checkpoint to go on from, and the best before it, got those of steps {kept or 'none'} — "
            f"{_WHOLE}."
        )

    def _best(self, made: Made, last: int, every: int) -> int | None:
        """Of the steps up to `last` at which a checkpoint was due."""
        metric = self._aims.first.metric
        due = [report for report in made.reports if report.step <= last and report.step % every == 0]
        judged = [report for report in due if math.isfinite(report.metrics.get(metric, math.nan))]
        first = min(judged, key=lambda report: (*self._aims.place(report.metrics), -report.step), default=None)
        return None if first is None else first.step

    def _bring(self, made: Made, number: int, recipe: Recipe, steps: Iterable[int]) -> None:
        theirs, own = self._store(made.journal.folder.name, made.number), self._store(self._journal.folder.name, number)
        with own.workspace() as workspace:
            for step in steps:
                with theirs.fetched(step) as folder:
                    own.keep(self._rewritten(made, step, checkpoint.inspect(folder), recipe, workspace / folder.name))

    def _rewritten(self, made: Made, step: int, info: CheckpointInfo, recipe: Recipe, target: Path) -> Path:
        """A checkpoint with another recipe, whole. Another home's sweep of that name may have left it in the store, and
        its own sweep may be removing it.
        """
        metric = self._aims.first.metric
        told = next((report.metrics.get(metric) for report in made.reports if report.step == step), None)
        if (info.step, info.recipe.fingerprint, info.metrics.get(metric)) != (step, made.fingerprint, told):
            raise CheckpointError(f"{info.folder}: expected its checkpoint, got that of another training — {_WHOLE}.")
        written = checkpoint.inspect(rewritten(info, recipe, target))
        lacks = {name for name in info.hashes if name != checkpoint.RECIPE} - written.hashes.keys()
        if lacks or checkpoint.TRAINING not in written.hashes:
            missing = ", ".join(sorted(lacks)) or checkpoint.TRAINING
            raise CheckpointError(f"{info.folder}: expected all its files, got none of {missing} — {_WHOLE}.")
        return target

    def _copied(self, trial: Trial, recipe: Recipe, made: Made, last: int, tags: Mapping[str, str]) -> list[Event]:
        attempt, number = trial.attempt + 1, trial.number
        run = {f"{CONTINUED_FROM}.run_id": made.run_id} if made.run_id else {}
        tags = {**tags, **self._made_by, CONTINUED_FROM: made.origin, **run}
        opened = TrialOpened(number, "", attempt, trial.params, recipe.params, recipe.fingerprint, tags)
        reports = [report for report in made.reports if report.step <= last]
        return [opened, *(copied(number, report, made.journal, self._journal, also=(MACHINE,)) for report in reports)]
