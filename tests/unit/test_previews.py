"""What a checkpoint keeps to be looked at: Gaussians of one scene and the cameras of their views."""

from __future__ import annotations

import json

import pytest
import torch

from pipeline.cameras import facelift_ring
from pipeline.errors import DataError
from pipeline.previews import Preview, read_preview
from tests.unit.test_gaussians import random_gaussians


def written(folder):
    shown = Preview(random_gaussians(7), facelift_ring(32, 3), "scene_000020")
    for name, write in shown.writers.items():
        write(folder / name)
    return shown


def test_gaussians_cameras_and_scene_come_back(tmp_path):
    shown, read = written(tmp_path), read_preview(tmp_path)
    assert (read.gaussians.count, read.scene) == (7, "scene_000020")
    assert (read.inputs.width, read.inputs.height) == (32, 32)
    torch.testing.assert_close(read.inputs.c2w, shown.inputs.c2w.float())
    torch.testing.assert_close(read.inputs.fxfycxcy, shown.inputs.fxfycxcy.float())


def test_gaussians_of_before_have_no_cameras(tmp_path):
    written(tmp_path)
    (tmp_path / "preview.json").unlink()
    read = read_preview(tmp_path)
    assert (read.gaussians.count, read.inputs, read.scene) == (7, None, "")


@pytest.mark.parametrize("harm", [{"c2w": 3}, {"fxfycxcy": [[1.0]]}, {"width": "wide"}])
def test_damaged_cameras_are_refused_by_name(tmp_path, harm):
    written(tmp_path)
    path = tmp_path / "preview.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | harm))
    with pytest.raises(DataError, match=r"preview\.json: expected cameras of a preview|cameras: expected c2w"):
        read_preview(tmp_path)
