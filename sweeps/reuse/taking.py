"""Gives a trial the result that another sweep of the home has, as if it had been trained here, at no cost.

The reports are copied into the journal, so that everything that is derived from it stands on this sweep alone. Its
checkpoint is written first, by links where that can be, and its end last: a trial that a kill left in between begins
to take anew, or is trained where the other sweep is gone.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Collection, Iterator, Mapping
from functools import partial
from pathlib import Path

from pipeline import checkpoint
from pipeline.checkpoint import CheckpointInfo, Content
from pipeline.errors import CheckpointError, PipelineError
from pipeline.files import link_or_copy, whole_folder
from pipeline.recipe import Recipe
from sweeps.book.journal import (
    TAKEN_FROM,
    CheckpointReleased,
    Event,
    GaussiansKept,
    Journal,
    Reported,
    State,
    TrialClosed,
    TrialOpened,
)
from sweeps.book.ledger import Ledger
from sweeps.book.record import PROTOCOL, TARGETS
from sweeps.book.trial import Trial
from sweeps.datasets import data_tags
from sweeps.home import Home
from sweeps.reuse.known_results import DATA, Known, KnownResults

_RUN = f"{TAKEN_FROM}.run_id"
_OF_ITS_MACHINE = ("time/", "system/")  # metrics of what it cost there
_log = logging.getLogger(__name__)


class Taking:
    """Takes results for the trials of one sweep. made_by: the tags of code and machine that its trials get."""

    def __init__(
        self, home: Home, journal: Journal, known: KnownResults, made_by: Mapping[str, str], release_folder: Path
    ) -> None:
        self._home, self._journal, self._made_by = home, journal, dict(made_by)
        self._known = known
        self._folder = release_folder

    def events(self, ledger: Ledger, trial: Trial, recipe: Recipe) -> list[Event]:
        """What makes a trial that has not begun COMPLETE, in order; nothing where no other sweep has its result."""
        tags = data_tags(recipe, self._home.cache)
        for known in self._known.find(recipe, tags[DATA], ledger.tags):
            try:
                return list(self._taken(trial, recipe, known, tags | self._made_by))
            except (PipelineError, OSError) as error:  # another sweep may have it too; else it is trained
                _log.warning("t%04d: the result of %s cannot be taken: %s", trial.number, known.origin, error)
        return []

    def _taken(self, trial: Trial, recipe: Recipe, known: Known, tags: dict[str, str]) -> Iterator[Event]:
        number, name = trial.number, f"t{trial.number:04d}"
        released = _released(checkpoint.inspect(known.released), recipe, self._folder / name)
        gaussians = None
        if known.gaussians is not None:
            gaussians = self._folder.with_name("gaussians") / name
            with whole_folder(gaussians) as folder:
                link(known.gaussians, folder)
        run = {_RUN: known.run_id} if known.run_id else {}
        tags |= {TAKEN_FROM: known.origin} | run
        yield TrialOpened(number, "", trial.attempt + 1, trial.params, recipe.params, recipe.fingerprint, tags)
        for report in known.reports:
            if report.step > trial.last_step:  # else it was copied before a kill
                yield copied(number, report, known.journal, self._journal)
        yield CheckpointReleased(number, str(released))
        if gaussians is not None:
            yield GaussiansKept(number, str(gaussians))
        yield TrialClosed(number, State.COMPLETE, f"taken from {known.origin}")


def copied(number: int, report: Reported, source: Journal, target: Journal, also: tuple[str, ...] = ()) -> Reported:
    """A report of another sweep as one of trial `number` here, with its blobs; what it cost there is left out. Of its
    tags those stay that tell how it was measured, and those that begin with one of `also`.
    """

    def kept(blob: str) -> str:
        return target.keep(blob, source.blob(blob).read_bytes())

    metrics = {name: value for name, value in report.metrics.items() if not name.startswith(_OF_ITS_MACHINE)}
    images = {name: kept(blob) for name, blob in report.images.items()}
    scenes = None if report.scenes is None else kept(report.scenes)
    tags = {tag: value for tag, value in report.tags.items() if tag in (PROTOCOL, TARGETS) or tag.startswith(also)}
    return Reported(number, report.step, metrics, images, tags, scenes)


def _released(info: CheckpointInfo, recipe: Recipe, target: Path) -> Path:
    """The checkpoint in a folder of this sweep, with its recipe: the data may lie elsewhere than they did there."""
    if info.recipe.fingerprint != recipe.fingerprint:
        wanted, came = recipe.fingerprint[:12], info.recipe.fingerprint[:12]
        raise CheckpointError(f"{info.folder}: expected a checkpoint of recipe {wanted}, got {came} — train it again.")
    return rewritten(info, recipe, target, leave_out=[checkpoint.TRAINING])


def rewritten(info: CheckpointInfo, recipe: Recipe, target: Path, leave_out: Collection[str] = ()) -> Path:
    """A checkpoint in another folder, by links where that can be, with another recipe."""
    own = {checkpoint.WEIGHTS, checkpoint.RECIPE, checkpoint.INDEX, *leave_out}
    attachments = {path.name: partial(link, path) for path in info.folder.iterdir() if path.name not in own}
    weights = info.folder / checkpoint.WEIGHTS
    return checkpoint.write(target, Content(weights, recipe, info.step, info.metrics, None, attachments))


def link(source: Path, target: Path) -> None:
    """Give a file, or all files of a folder, second names; `target` may be an empty folder."""
    if source.is_dir():
        shutil.copytree(source, target, copy_function=link_or_copy, dirs_exist_ok=True)
    else:
        link_or_copy(source, target)
