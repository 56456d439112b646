"""What a user may hand over: photos, folders of them, videos, scenes and datasets, told apart by what they hold.

Imports no torch, but where a dataset has to be opened: what is refused is refused at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pipeline.data.incoming.lists import listed_splits
from pipeline.data.incoming.names import CAMERAS_FILE, MANIFEST_FILE, check_names, named
from pipeline.errors import DataError, counted
from pipeline.machine import contents

_MODELS = ("pair.json", "checkpoint.json", "model_index.json")
_RECORDING = ("videos_undist", "simpleclick_undist")


@dataclass(frozen=True)
class Input:
    """One thing to be made into Gaussians, and what its results are called."""

    kind: Literal["photo", "scene", "sequence"]
    path: Path
    name: str

    @property
    def needs_views(self) -> bool:
        """Whether views are to be generated of it: of a photo, and of frames that are none of a dataset's scenes."""
        is_of_scenes = self.kind == "scene" or (self.path.is_dir() and _is_dataset(self.path))
        return self.kind == "photo" or not is_of_scenes


def read_inputs(paths: Sequence[Path], split: str | None = None, sequence: bool = False) -> list[Input]:
    """Every photo, scene and sequence that these paths are or hold, in order, once.

    split: of datasets, whose scenes are taken. sequence: a folder's pictures, and a dataset's scenes, are the frames of
    one sequence. What a folder holds beside pictures is named on the log. Raises DataError for what is nothing of all
    this, and where two would be written under one name.
    """
    inputs = list(dict.fromkeys(one for path in paths for one in _of(path, split, sequence)))
    if split is not None and all(one.kind == "photo" for one in inputs):
        raise DataError(f"--split {split}: expected a dataset among what is to be reconstructed, got none — leave it.")
    if len(inputs) > 1:
        check_names(paths[0] if len(paths) == 1 else Path("inputs"), {str(one.path): one.name for one in inputs})
    return inputs


def _of(path: Path, split: str | None, sequence: bool) -> Iterator[Input]:
    if path.is_dir():
        yield from _of_folder(path, split, sequence)
    elif path.is_file() and contents.described(path) == contents.VIDEO:
        yield Input("sequence", path, path.stem)
    elif path.is_file():
        yield Input("photo", path, path.stem)
    else:
        came = "a link to nothing" if path.is_symlink() else "none"
        raise DataError(f"{path}: expected a photo, a video, a scene or a folder of them, got {came} — check the path.")


def _of_folder(folder: Path, split: str | None, sequence: bool) -> Iterator[Input]:
    name = folder.resolve().name
    if (folder / CAMERAS_FILE).is_file():
        yield Input("scene", folder, name)
    elif _is_dataset(folder):
        if sequence and split is not None:
            raise DataError(
                f"--split {split}: expected all scenes of {folder} as frames of one sequence, got a split of them — "
                "leave it, or leave --sequence."
            )
        if sequence:
            yield Input("sequence", folder, name)
        else:
            yield from (Input("scene", scene, scene.resolve().name) for scene in _scenes(folder, split))
    elif found := [file for file in _MODELS if (folder / file).is_file()]:
        raise DataError(f"{folder}: expected a photo or a scene, got a model ({found[0]}) — name it with --model.")
    elif any((folder / part).is_dir() for part in _RECORDING):
        raise DataError(
            f"{folder}: expected scenes, got a recording — `mouselift data convert` makes scenes of it, and `mouselift "
            "data normalise` brings them into the models' frame."
        )
    elif sequence:
        yield Input("sequence", folder, name)
    else:
        yield from (Input("photo", path, path.stem) for path in _photos(folder))


def _is_dataset(folder: Path) -> bool:
    return (
        (folder / MANIFEST_FILE).is_file()
        or next(folder.glob(f"[!.]*/{CAMERAS_FILE}"), None) is not None
        or listed_splits(folder, None) is not None
    )


def _scenes(folder: Path, split: str | None) -> list[Path]:
    """The scenes of a split, or the only one that a dataset has. Raises DataError for several without a split."""
    has_splits = (folder / MANIFEST_FILE).is_file() or listed_splits(folder, None) is not None
    if not has_splits and split is None:
        scenes = [cameras.parent for cameras in sorted(folder.glob(f"[!.]*/{CAMERAS_FILE}"))]
        splits = "train, val, test"
    else:
        from pipeline.data.scenes import open_dataset

        dataset = open_dataset(folder, verify=False)
        splits = ", ".join(dataset.manifest.splits)
        scenes = [scene.folder for scene in (dataset.scenes.values() if split is None else dataset.split(split))]
    if split is None and len(scenes) > 1:
        raise DataError(
            f"{folder}: expected one scene, or a dataset with --split, got a dataset of {counted(len(scenes), 'scene')}"
            f" — add --split ({splits}), or name one of them: {named([str(scene) for scene in scenes])}."
        )
    return scenes


def _photos(folder: Path) -> list[Path]:
    from pipeline.data.photo.folders import pictures_in

    photos = pictures_in(folder)
    if not photos:
        videos = [path.name for path in sorted(folder.iterdir()) if _is_video(path)]
        came, what = (f"videos ({named(videos)})", "name one of them") if videos else ("none", "check the path")
        raise DataError(f"{folder}: expected photos, scenes with {CAMERAS_FILE} or a dataset, got {came} — {what}.")
    return photos


def _is_video(path: Path) -> bool:
    return path.is_file() and contents.described(path) == contents.VIDEO
