"""Six-view scenes from single pictures, by a trained multi-view model, labelled with the rig that the model carries.

The cameras of the source are never copied: a generated view shows what the model's own training targets showed from
that slot, whatever photographed its input.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from scipy.ndimage import binary_fill_holes
from torch import Tensor

from pipeline.data.gate.checks import checked
from pipeline.data.hashes import hashes_of
from pipeline.data.pictures import pixels_of, view_on_white
from pipeline.data.scenes import (
    CAMERAS_FILE,
    MANIFEST_FILE,
    SPLITS,
    Manifest,
    decoded_file,
    open_dataset,
    tenths,
    write_manifest,
    write_scene,
)
from pipeline.data.unfinished import writing
from pipeline.errors import DataError

if TYPE_CHECKING:
    from pipeline.mvdiffusion.deployed import ViewGenerator

VERSION = 1  # raise it when the same plan gives other scenes
NOT_WHITE = 0.1  # of a channel: what a generated picture, which has no alpha, counts as foreground
RULE = f"foreground is where a channel is below {1 - NOT_WHITE}, holes filled"
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


@dataclass(frozen=True)
class Pictures:
    """Single views by the name of the scene that each becomes, in splits; digest: of their content."""

    paths: dict[str, Path]
    splits: dict[str, tuple[str, ...]]
    digest: str


def read_pictures(source: Path, view: int = 0) -> Pictures:
    """The pictures of a folder or file, or view `view` of every scene of a dataset. Raises DataError."""
    if any((source / name).is_file() for name in (MANIFEST_FILE, CAMERAS_FILE)):
        dataset = open_dataset(source, verify=False)
        for scene in dataset.scenes.values():
            if view >= len(scene.files):
                raise DataError(f"{scene.folder}: expected a view {view}, got {len(scene.files)} views — name another.")
        paths = {scene.folder.resolve().name: scene.paths[view] for scene in dataset.scenes.values()}
        folders = {name: scene.folder.resolve().name for name, scene in dataset.scenes.items()}
        splits = {split: tuple(folders[name] for name in some) for split, some in dataset.manifest.splits.items()}
        return Pictures(paths, splits, dataset.digest)
    files = [source] if source.is_file() else sorted(source.glob("*")) if source.is_dir() else []
    paths = {path.stem: path for path in files if path.suffix.lower() in SUFFIXES}
    if not paths:
        raise DataError(f"{source}: expected pictures ({', '.join(SUFFIXES)}) or a dataset, found none — check it.")
    hashes = hashes_of(source if source.is_dir() else source.parent, list(paths.values()), remember=False)
    lines = "".join(f"{name} {found}\n" for name, found in zip(paths, hashes, strict=True))
    names = tuple(sorted(paths))
    splits = tenths(names) if len(names) >= len(SPLITS) else {"train": names, "val": (), "test": ()}
    return Pictures(paths, splits, hashlib.sha256(lines.encode()).hexdigest())


def generate(
    pictures: Pictures, out: Path, model: ViewGenerator, provenance: Mapping[str, Any], batch_size: int = 4
) -> Iterator[int]:
    """Write a scene of generated views per picture to `out`; yields how many are done, last after the gate's check.

    provenance: what tells this model and its sampling from others; another one does not continue the folder. A scene
    with a view that shows nothing is left out, and the manifest names it. Raises DataError for a picture that is not
    square or none, for a folder of another plan, and where nothing could be generated.
    """
    rig, names = model.rig, sorted(pictures.paths)
    plan = {"kind": "generated", "version": VERSION, "masks": RULE, "rig": rig.name, **provenance}
    with writing(out, plan | {"source": pictures.digest}, "generated scenes"):
        waiting = [(number, name) for number, name in enumerate(names) if not (out / name).is_dir()]
        done = len(names) - len(waiting)
        yield done
        for start in range(0, len(waiting), batch_size):
            part = waiting[start : start + batch_size]
            images = torch.stack([read_picture(pictures.paths[name], model.image_size) for _, name in part])
            with torch.inference_mode():
                generated = model(images, [number for number, _ in part])
            for (_, name), views in zip(part, generated, strict=True):
                rgba = with_masks(views)
                if rgba[..., 3].any((1, 2)).all():
                    write_scene(out / name, rgba, rig.cameras)
            done += len(part)
            yield done
        written = [name for name in names if (out / name).is_dir()]
        if not written:
            raise DataError(f"{out}: expected views that show something, got none — look at the model's own previews.")
        transforms = (plan | {"left_out": sorted({*names} - {*written})},)
        splits = {split: tuple(n for n in some if n in written) for split, some in pictures.splits.items()}
        order = tuple(-slot % len(rig.cameras.c2w) for slot in range(len(rig.cameras.c2w)))
        manifest = Manifest(
            name=out.name, parent=pictures.digest, transforms=transforms, rig=rig.name, view_order=order, splits=splits
        )
        checked(write_manifest(out, manifest))


def read_picture(path: Path, size: int) -> Float[Tensor, "3 size size"]:
    """A square picture on white in 0…1. Raises DataError."""
    picture = decoded_file(path)
    if picture.width != picture.height:
        raise DataError(f"{path}: expected a square picture, got {picture.width}×{picture.height} — crop it.")
    return view_on_white(picture, size)


def with_masks(views: Float[Tensor, "view 3 height width"]) -> UInt8[np.ndarray, "view height width 4"]:
    """Generated views with alpha by `RULE`."""
    masks = (views.amin(1) < 1 - NOT_WHITE).cpu().numpy()
    alpha = np.stack([binary_fill_holes(mask) for mask in masks]).astype(np.uint8) * 255
    return np.concatenate([pixels_of(views), alpha[..., None]], axis=-1)
