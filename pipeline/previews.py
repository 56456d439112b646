"""The Gaussians of one validation scene that a checkpoint keeps, with the cameras of the views they were made of.

preview.ply         the Gaussians, less those that nobody would see
preview.json        the scene's name, and c2w, fxfycxcy, width and height of its input cameras
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from pipeline import checkpoint
from pipeline.cameras import Cameras
from pipeline.config import one_line
from pipeline.errors import DataError
from pipeline.files import write_whole
from pipeline.gaussians import Gaussians
from pipeline.text.json_file import read_json

FILES = (checkpoint.PREVIEW, checkpoint.PREVIEW_CAMERAS)


@dataclass(frozen=True)
class Preview:
    """One scene. inputs: its input cameras [V]; None of checkpoints that were written before they were kept."""

    gaussians: Gaussians
    inputs: Cameras | None = None
    scene: str = ""

    @property
    def writers(self) -> Mapping[str, Callable[[Path], object]]:
        """What a checkpoint keeps of it: file name -> what writes it."""
        return {checkpoint.PREVIEW: self.gaussians.save_ply, checkpoint.PREVIEW_CAMERAS: self._write_cameras}

    def _write_cameras(self, path: Path) -> None:
        assert self.inputs is not None
        numbers = {"c2w": self.inputs.c2w.tolist(), "fxfycxcy": self.inputs.fxfycxcy.tolist()}
        size = {"width": self.inputs.width, "height": self.inputs.height}
        write_whole(path, json.dumps({"scene": self.scene, **size, **numbers}))


def read_preview(folder: Path) -> Preview:
    """What a folder keeps; its PLY has to be there. Raises DataError for files that are missing or damaged."""
    gaussians = Gaussians.load_ply(folder / checkpoint.PREVIEW)
    path = folder / checkpoint.PREVIEW_CAMERAS
    if not path.is_file():
        return Preview(gaussians)
    values = read_json(path, DataError)
    try:
        c2w, fxfycxcy = (torch.tensor(values[key], dtype=torch.float32) for key in ("c2w", "fxfycxcy"))
        inputs = Cameras(c2w, fxfycxcy, int(values["width"]), int(values["height"]))
        return Preview(gaussians, inputs, str(values["scene"]))
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: expected cameras of a preview, got {one_line(error)} — train again.") from None
