"""What the user already has becomes a dataset: FaceLift's folders and lists, with masks found where there are none."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np

from pipeline.data.checks import checked
from pipeline.data.claim import writing
from pipeline.data.foreground import RULE, mask_from_background
from pipeline.data.scenes import CAMERAS_FILE, Dataset, Scene, read_image, write_manifest, write_scene
from pipeline.errors import DataError

VERSION = 1  # raise it when the same source gives other scenes


def ingest(source: Dataset, out: Path) -> Iterator[int]:
    """Write a dataset of the source's scenes and splits to `out`; yields how many are done, last after its check.

    Scenes with alpha are linked (copied across file systems), those without get it by `foreground.RULE`.
    Raises DataError for a scene that two folders call the same, for RGB off a white background, for a folder of
    another plan.
    """
    names = {name: source.scenes[name].folder.resolve().name for name in source.scenes}
    if len(set(names.values())) < len(names):
        twice = next(name for name in names.values() if list(names.values()).count(name) > 1)
        raise DataError(f"{source.root}: expected scenes of different names, got {twice} twice — rename one.")
    step = {"kind": "ingest", "version": VERSION, "masks": f"own alpha, or by rule: {RULE}"}
    splits = {split: tuple(names[name] for name in some) for split, some in source.manifest.splits.items()}
    with writing(out, step | {"source": source.digest}, "scenes"):
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            done = pool.map(lambda name: _take(source.scenes[name], out / names[name]), sorted(names))
            for count, _ in enumerate(done, start=1):
                yield count
        manifest = replace(
            source.manifest,
            name=out.name,
            parent=source.digest,
            transforms=(*source.manifest.transforms, step),
            splits=splits,
            geometry=None,
            digest=None,
        )
        checked(write_manifest(out, manifest))


def _take(scene: Scene, folder: Path) -> None:
    if (folder / CAMERAS_FILE).is_file():
        return
    size = (scene.cameras.width, scene.cameras.height)
    images = [read_image(path, size) for path in scene.paths]
    if all(image.mode == "RGBA" for image in images):
        _link(scene, folder)
        return
    alphas = [
        mask_from_background(np.asarray(i.convert("RGB")), str(p)) for i, p in zip(images, scene.paths, strict=True)
    ]
    pictures = [np.dstack([np.asarray(i.convert("RGB")), a]) for i, a in zip(images, alphas, strict=True)]
    write_scene(folder, np.stack(pictures), scene.cameras, scene.notes)


def _link(scene: Scene, folder: Path) -> None:
    """The scene's own files, without their bytes where the file system can do that; the camera file last."""
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}")
    shutil.rmtree(temporary, ignore_errors=True)
    for file in (*scene.files, CAMERAS_FILE):
        target = temporary / file
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link((scene.folder / file).resolve(), target)
        except OSError:
            shutil.copy2(scene.folder / file, target)
    temporary.replace(folder)
