"""Photos of one mouse each: the pictures of a folder, a file, or one view of every scene of a dataset."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass
from pathlib import Path

from pipeline.data.hashes import hashes_of
from pipeline.data.incoming.names import check_names, named
from pipeline.data.incoming.picture import SUFFIXES
from pipeline.data.photo.cutout import Cutting
from pipeline.data.photo.masks import mask_for
from pipeline.data.photo.photo import read_photo
from pipeline.data.scenes import CAMERAS_FILE, MANIFEST_FILE, SPLITS, open_dataset, tenths
from pipeline.errors import DataError
from pipeline.files import sha256_of

_NO_CUTTING = Cutting()
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pictures:
    """Single views by the name of the scene that each becomes, in splits; digest: of their content and their masks'."""

    paths: dict[str, Path]
    splits: dict[str, tuple[str, ...]]
    digest: str


def read_pictures(source: Path, view: int = 0, cutting: Cutting = _NO_CUTTING) -> Pictures:
    """The pictures of a folder or file, or view `view` of every scene of a dataset, each looked at as by `read_photo`.

    What a folder holds beside pictures is left out, and named on the log. Raises DataError naming the picture, and
    where two would become scenes of one name.
    """
    is_dataset = any((source / name).is_file() for name in (MANIFEST_FILE, CAMERAS_FILE))
    if is_dataset and cutting.mask is not None:
        raise DataError(f"{source}: expected no mask beside a dataset, whose views have alpha, got one — leave it.")
    pictures = _of_dataset(source, view) if is_dataset else _of_folder(source, cutting)
    for path in pictures.paths.values():
        read_photo(path, cutting=cutting)
    return pictures


def _of_dataset(source: Path, view: int) -> Pictures:
    dataset = open_dataset(source, verify=False)
    for scene in dataset.scenes.values():
        if view >= len(scene.files):
            raise DataError(f"{scene.folder}: expected a view {view}, got {len(scene.files)} views — name another.")
    names = {name: scene.folder.resolve().name for name, scene in dataset.scenes.items()}
    check_names(source, names)
    paths = {names[name]: scene.paths[view] for name, scene in dataset.scenes.items()}
    splits = {split: tuple(names[name] for name in some) for split, some in dataset.manifest.splits.items()}
    return Pictures(paths, splits, dataset.digest)


def _of_folder(source: Path, cutting: Cutting) -> Pictures:
    paths = [source] if source.is_file() else pictures_in(source) if source.is_dir() else []
    if not paths:
        raise DataError(f"{source}: expected pictures ({', '.join(SUFFIXES)}) or a dataset, found none — check it.")
    check_names(source, {path.name: path.stem for path in paths})
    cutting.require_masks(len(paths))
    hashes = hashes_of(source if source.is_dir() else source.parent, paths, remember=False)
    lines = "".join(f"{path.stem} {found}\n" for path, found in zip(paths, hashes, strict=True))
    if (mask := cutting.mask) is not None:
        lines += "".join(f"{path.stem} mask {sha256_of(mask_for(mask, str(path)))}\n" for path in paths)
    names = tuple(sorted(path.stem for path in paths))
    splits = tenths(names) if len(names) >= len(SPLITS) else {"train": names, "val": (), "test": ()}
    return Pictures({path.stem: path for path in paths}, splits, hashlib.sha256(lines.encode()).hexdigest())


def pictures_in(folder: Path) -> list[Path]:
    """Its pictures by their suffix, in order; what else is there is named on the log."""
    reasons = {path: _why_left_out(path) for path in sorted(folder.iterdir())}
    left_out = [f"{path.name} ({why})" for path, why in reasons.items() if why is not None]
    if left_out:
        _log.warning("%s: left out %s", folder, named(left_out))
    return [path for path, why in reasons.items() if why is None]


def _why_left_out(path: Path) -> str | None:
    if path.name.startswith("."):
        return "hidden"
    if not path.exists():
        return "a link to nothing"
    if not path.is_file():
        return "a folder" if path.is_dir() else "no file"
    return None if path.suffix.lower() in SUFFIXES else "no picture by its suffix"
