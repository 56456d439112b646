"""Scene folders and dataset folders: read, write, hash.

A scene is FaceLift's: `images/cam_000.png…` and `opencv_cameras.json`. A dataset adds `dataset.yaml`, whose lists
are relative to it. FaceLift's own lists and a single scene folder are read too, by the rules of `_derive_splits`.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from PIL import Image

from pipeline import config
from pipeline.cameras import Cameras
from pipeline.errors import DataError, RecipeError
from pipeline.recipe import Count, strict

CAMERAS_FILE = "opencv_cameras.json"
MANIFEST_FILE = "dataset.yaml"
SPLITS = ("train", "val", "test")


@strict
@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a dataset is and how it came to be."""

    name: str
    parent: str | None = None  # digest of the dataset or recording it was made from
    transforms: tuple[dict[str, Any], ...] = ()  # the chain of operations with their parameters
    camera_scheme: str = "opencv"
    rig: str | None = None
    view_order: tuple[Count, ...] | None = None
    splits: dict[str, tuple[str, ...]]  # split -> scene folders, relative to the manifest
    held_out_from_training: bool = False  # a dataset of one scene: its held-out views are never trained on
    software: str = field(default_factory=lambda: f"mouselift {version('mouselift')}")
    digest: str | None = None


@dataclass(frozen=True)
class Scene:
    """One scene: V image files and their cameras [V] in float64, at the images' own size."""

    name: str
    folder: Path
    files: tuple[str, ...]
    cameras: Cameras

    @property
    def paths(self) -> list[Path]:
        return [self.folder / file for file in self.files]


@dataclass(frozen=True)
class Dataset:
    """Scenes in splits; every scene was read and checked when the dataset was opened."""

    root: Path
    manifest: Manifest
    scenes: dict[str, Scene]

    @property
    def name(self) -> str:
        return self.manifest.name

    def split(self, name: str) -> list[Scene]:
        """The scenes of `train`, `val` or `test`. Raises DataError when the dataset has none there."""
        if name not in self.manifest.splits:
            raise DataError(f"{self.root}: expected a split {name}, got {', '.join(self.manifest.splits)} — add it.")
        if not self.manifest.splits[name]:
            raise DataError(f"{self.root}: expected scenes in split {name}, got none — add some.")
        return [self.scenes[scene] for scene in self.manifest.splits[name]]

    @property
    def digest(self) -> str:
        """The manifest's digest, or the content's where there is no manifest."""
        return self.manifest.digest or self.content_digest

    @cached_property
    def content_digest(self) -> str:
        """Hash of every camera file and image; the same wherever the folder lies."""
        total = hashlib.sha256()
        for name in sorted(self.scenes):
            scene = self.scenes[name]
            for path in [scene.folder / CAMERAS_FILE, *scene.paths]:
                total.update(f"{name}/{path.name} {_sha256(path)}\n".encode())
        return total.hexdigest()

    def split_digest(self, name: str) -> str:
        """Hash of which scenes a split holds, on this data."""
        listed = "\n".join([self.digest, *self.manifest.splits[name]])
        return hashlib.sha256(listed.encode()).hexdigest()


def open_dataset(root: str | Path, verify: bool = True) -> Dataset:
    """Open a dataset folder, a folder of FaceLift lists, a folder of scenes, or one scene folder.

    verify: hash every file again and compare with the manifest's digest; off where it was just done.
    Raises DataError naming the file for a missing folder, image or camera, and for a camera that is none.
    """
    root = Path(root)
    if not root.is_dir():
        raise DataError(f"{root}: expected a dataset folder, found none — check data.root.")
    manifest = _read_manifest(root) if (root / MANIFEST_FILE).is_file() else _derive_manifest(root)
    scenes = {name: read_scene(root / name, name) for names in manifest.splits.values() for name in names}
    dataset = Dataset(root, manifest, scenes)
    if verify and manifest.digest is not None and manifest.digest != dataset.content_digest:
        raise DataError(
            f"{root}: expected the content of digest {manifest.digest[:12]}, got {dataset.content_digest[:12]} — "
            f"files were changed after {MANIFEST_FILE} was written; make the dataset again."
        )
    return dataset


def read_scene(folder: Path, name: str = ".") -> Scene:
    """Read and check one scene's cameras and see that every image it names exists. Raises DataError.

    name: how its dataset lists it; a scene that is listed nowhere is called as its folder.
    """
    path = folder / CAMERAS_FILE
    if not path.is_file():
        raise DataError(f"{folder}: expected a scene with {CAMERAS_FILE}, found none — check the list or data.root.")
    try:
        frames = json.loads(path.read_text())["frames"]
        files = tuple(str(frame["file_path"]) for frame in frames)
        w2c = torch.tensor([frame["w2c"] for frame in frames], dtype=torch.float64)
        numbers = [[frame[key] for key in ("fx", "fy", "cx", "cy")] for frame in frames]
        fxfycxcy = torch.tensor(numbers, dtype=torch.float64)
        sizes = {(int(frame["w"]), int(frame["h"])) for frame in frames}
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: expected frames of w h fx fy cx cy w2c file_path, got a fault at {error}.") from None
    if len(sizes) != 1 or w2c.shape[1:] != (4, 4):
        raise DataError(
            f"{path}: expected views of one size with 4×4 w2c, got sizes {sorted(sizes)} — split the scene."
        )
    for file in files:
        if not (folder / file).is_file():
            raise DataError(f"{folder / file}: expected an image that {CAMERAS_FILE} names, found none — restore it.")
    width, height = sizes.pop()
    cameras = Cameras(_rigid_inverse(w2c), fxfycxcy, width, height)
    cameras.check(str(path))
    return Scene(folder.resolve().name if name == "." else name, folder, files, cameras)


def read_image(path: Path, size: tuple[int, int]) -> Image.Image:
    """Decode one image of `size` (width, height) to RGBA or RGB. Raises DataError naming the file."""
    try:
        with Image.open(path) as image:
            image.load()
            decoded = image.convert("RGBA" if "A" in image.getbands() or "transparency" in image.info else "RGB")
    except (OSError, SyntaxError, ValueError) as error:
        raise DataError(f"{path}: expected an image, got {config.one_line(error)} — restore the file.") from None
    if decoded.size != size:
        raise DataError(
            f"{path}: expected {size[0]}×{size[1]} as its camera says, got {decoded.width}×{decoded.height}."
        )
    return decoded


def write_scene(folder: Path, images: np.ndarray, cameras: Cameras) -> None:
    """Write a scene whole: images uint8 [V, H, W, 4] with straight alpha, cameras [V]; replaces an older one."""
    if images.shape != (len(cameras.c2w), cameras.height, cameras.width, 4) or images.dtype != np.uint8:
        raise DataError(f"{folder}: expected uint8 RGBA [V, H, W, 4] of the cameras' size, got {images.shape}.")
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}")
    (temporary / "images").mkdir(parents=True)
    w2c = cameras.to(torch.float64).w2c
    frames = []
    for i, image in enumerate(images):
        file = f"images/cam_{i:03d}.png"
        Image.fromarray(image).save(temporary / file)
        intrinsics = dict(zip(("fx", "fy", "cx", "cy"), cameras.fxfycxcy[i].double().tolist(), strict=True))
        frames.append(
            {"w": cameras.width, "h": cameras.height, **intrinsics, "w2c": w2c[i].tolist(), "file_path": file}
        )
    (temporary / CAMERAS_FILE).write_text(json.dumps({"id": folder.name, "frames": frames}, indent=1))
    if folder.exists():
        shutil.rmtree(folder)
    temporary.replace(folder)


def write_manifest(root: Path, manifest: Manifest) -> Dataset:
    """Write `dataset.yaml` with the digest of the scenes it lists, and open what was written."""
    scenes = {name: read_scene(root / name, name) for names in manifest.splits.values() for name in names}
    values = config.as_plain(manifest) | {"digest": Dataset(root, manifest, scenes).content_digest}
    temporary = root / f".{MANIFEST_FILE}.{os.getpid()}"
    temporary.write_text(yaml.safe_dump(values, sort_keys=False))
    temporary.replace(root / MANIFEST_FILE)
    return open_dataset(root)


def _read_manifest(root: Path) -> Manifest:
    path = root / MANIFEST_FILE
    try:
        return config.decode(config.load_layers(path, root.parent), Manifest)
    except RecipeError as error:
        raise DataError(str(error)) from None


def _derive_manifest(root: Path) -> Manifest:
    """The manifest of a folder that has none: the rules are in `_derive_splits`."""
    if (root / CAMERAS_FILE).is_file():
        return Manifest(name=root.name, splits=dict.fromkeys(SPLITS, (".",)), held_out_from_training=True)
    return Manifest(name=root.name, splits=_derive_splits(root))


def _derive_splits(root: Path) -> dict[str, tuple[str, ...]]:
    """FaceLift's `*train*.txt` and `*val*.txt`, or else the scene folders in order: a tenth each for val and test.

    A val list without a test list is cut in two: the first half stays val, the second becomes test.
    """
    lists = {split: _read_list(root, split) for split in SPLITS}
    if lists["train"] and lists["val"]:
        train, val, test = lists["train"], lists["val"], lists["test"]
        if not test:
            half = max(1, len(val) // 2)
            val, test = val[:half], val[half:] or val
        return {"train": train, "val": val, "test": test}
    names = tuple(sorted(folder.parent.name for folder in root.glob(f"*/{CAMERAS_FILE}")))
    if len(names) < len(SPLITS):
        raise DataError(f"{root}: expected {MANIFEST_FILE}, lists or at least 3 scene folders, got {len(names)}.")
    tenth = max(1, len(names) // 10)
    return {"train": names[: -2 * tenth], "val": names[-2 * tenth : -tenth], "test": names[-tenth:]}


def _read_list(root: Path, split: str) -> tuple[str, ...]:
    """Scene folders of a FaceLift list; absolute paths of another machine are found again by name beside the list."""
    files = sorted(root.glob(f"*{split}*.txt"))
    if len(files) > 1:
        raise DataError(f"{root}: expected one list for {split}, got {', '.join(f.name for f in files)} — keep one.")
    lines = [line.strip() for line in files[0].read_text().splitlines() if line.strip()] if files else []
    return tuple(_relocated(root, line) for line in lines)


def _relocated(root: Path, line: str) -> str:
    path = Path(line)
    if not path.is_absolute():
        return line
    return os.path.relpath(path, root) if path.is_dir() else path.name


def _rigid_inverse(w2c: torch.Tensor) -> torch.Tensor:
    """c2w of rigid w2c [V, 4, 4]; a w2c that is not rigid stays so, and `Cameras.check` refuses it."""
    c2w = w2c.clone()
    c2w[:, :3, :3] = w2c[:, :3, :3].mT
    c2w[:, :3, 3:] = -w2c[:, :3, :3].mT @ w2c[:, :3, 3:]
    return c2w


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
