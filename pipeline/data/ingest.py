"""What the user already has becomes a dataset: FaceLift's folders and lists, with masks found where there are none."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from pipeline.data.foreground import RULE, rgba_of
from pipeline.data.scenes import CAMERAS_FILE, IMAGE_FILE, Dataset, Scene, cameras_text, write_scene
from pipeline.data.unfinished import derived
from pipeline.files import link_or_copy, whole_folder

VERSION = 2  # raise it when the same source gives other scenes


def ingest(source: Dataset, out: Path) -> Iterator[int]:
    """Write a dataset of the source's scenes and splits to `out`; yields how many are done, last after its check.

    Scenes with alpha are linked (copied across file systems), those without get it by `foreground.RULE`.
    Raises DataError for a scene that two folders call the same, for RGB off a white background, for a folder of
    another plan.
    """
    step = {"kind": "ingest", "version": VERSION, "masks": f"own alpha, or by rule: {RULE}"}
    yield from derived(source, out, step, _take)


def _take(scene: Scene, folder: Path) -> None:
    images = [scene.image(view) for view in range(len(scene.files))]
    if all(image.mode == "RGBA" for image in images):
        _link(scene, folder)
        return
    pictures = np.stack([rgba_of(image, str(path)) for image, path in zip(images, scene.paths, strict=True)])
    write_scene(folder, pictures, scene.cameras, scene.notes)


def _link(scene: Scene, folder: Path) -> None:
    """The scene's own images, without their bytes where the file system can do that, under FaceLift's names."""
    with whole_folder(folder) as temporary:
        (temporary / "images").mkdir()
        for view, path in enumerate(scene.paths):
            link_or_copy(path.resolve(), temporary / IMAGE_FILE.format(view))
        (temporary / CAMERAS_FILE).write_text(cameras_text(folder.name, scene.cameras, scene.notes), encoding="utf-8")
