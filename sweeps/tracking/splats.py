"""The page of a trial's Gaussians: made of the folder that its kept checkpoints left, one step each."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from pathlib import Path

from pipeline.cameras import Cameras
from pipeline.errors import DataError
from pipeline.previews import Preview, read_preview
from sweeps.tracking.pages import Pages, Shown

SPLAT = "splat.html"  # on a trial's run, and beside the picture of a version
_STEP = re.compile(r"step-(\d+)")
_MOST_STEPS = 8
_log = logging.getLogger(__name__)


def splat_of(pages: Pages, folder: Path, title: str, best: int | None = None) -> str:
    """The page of the Gaussians in `folder`. best: the step that is the trial's best.

    Raises DataError where there are none that can be read.
    """
    found = list(_steps(folder))
    if not found:
        raise DataError(f"{folder}: expected Gaussians of kept checkpoints, got none that can be read — restore it.")
    shown = [Shown(f"{step:,}{' (best)' if step == best else ''}", preview.gaussians) for step, preview in found]
    inputs = next((preview.inputs for _, preview in reversed(found) if preview.inputs is not None), None)
    return pages.splat(title, shown, inputs, note_of(found[-1][1].scene, inputs))


def note_of(scene: str, inputs: Cameras | None, split: str = "val") -> str:
    """What is seen, in one line."""
    of = f"{scene or 'the first scene'} of {split}"
    return of if inputs is None else f"{of}, made of {len(inputs.c2w)} views"


def _steps(folder: Path) -> Iterator[tuple[int, Preview]]:
    """The steps of a folder, in order: the last few, where there are many."""
    matches = [(match, path) for path in folder.glob("step-*") if (match := _STEP.fullmatch(path.name))]
    for step, path in sorted((int(match[1]), path) for match, path in matches)[-_MOST_STEPS:]:
        try:
            yield step, read_preview(path)
        except DataError as error:
            _log.warning("%s is not shown in %s: %s", path.name, SPLAT, error)
