"""The dataset that a recipe trains on: the one at `data.root`, or a normalised variant of it, made once and shared."""

from __future__ import annotations

from pathlib import Path

from filelock import FileLock

from pipeline.data.normalise.normalise import VERSION, method_of, normalise
from pipeline.data.scenes import MANIFEST_FILE, Dataset, open_dataset
from pipeline.recipe import DataConfig


def prepared(data: DataConfig, cache: Path, verify: bool = False) -> Dataset:
    """The dataset that `data` names, normalised into `cache` where it asks for that and the cache has it not yet.

    A variant is made at data.image_size, so that its pixels are resampled once. The first process makes it while
    the others wait. verify: hash the files again. Raises DataError.
    """
    source = open_dataset(str(data.root), verify)
    if data.normalise is None:
        return source
    zoom = "" if data.zoom is None else f"-zoom{data.zoom!r}"
    name = f"{source.digest[:16]}-{data.normalise}{zoom}-{data.image_size}-{VERSION}"
    folder = cache / "variants" / name
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f".{name}.lock")):
        if not (folder / MANIFEST_FILE).is_file():
            method = method_of(data.normalise, size=data.image_size, zoom=data.zoom)
            for _ in normalise(source, folder, method):
                pass
        return open_dataset(folder, verify)
