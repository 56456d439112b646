"""Scene folders and dataset folders: read, write, hash.

A scene is FaceLift's: `images/cam_000.png…` and `opencv_cameras.json`. A dataset adds `dataset.yaml`, whose lists
are relative to it. FaceLift's own lists and a single scene folder are read too, by the rules of `_derive_splits`.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import yaml
from jaxtyping import Float
from PIL import Image

from pipeline import config
from pipeline.cameras import Cameras, rigid_inverse
from pipeline.data.hashes import hashes_of
from pipeline.data.incoming.lists import SPLITS, listed_splits
from pipeline.data.incoming.names import CAMERAS_FILE, MANIFEST_FILE
from pipeline.data.incoming.picture import read_picture
from pipeline.errors import DataError, RecipeError
from pipeline.files import whole_folder, write_whole
from pipeline.machine.version import VERSION
from pipeline.recipe import Count, strict
from pipeline.text.json_file import read_json

IMAGE_FILE = "images/cam_{:03d}.png"  # where FaceLift's camera files name no image
NORMALISED_KEYS = {"scale", "centre", "homographies", "source_c2w", "source_fxfycxcy", "source_size"}
GEOMETRY_VERSION = 2  # counts up when the gate may come to another verdict; older verdicts are then made anew
PNG_LEVEL = 3  # half the time of zlib's default for a tenth more bytes


@strict
@dataclass(frozen=True, kw_only=True)
class Unmeasured:
    """A view of which `data check` could say nothing, why, and in how many scenes: the first of them by name."""

    view: Count
    why: Literal["mask fills the frame", "mask is another view's", "mask is too small", "no tangent"]
    scenes: Count
    first: str


@strict
@dataclass(frozen=True, kw_only=True)
class Geometry:
    """What `data check` found: whether the cameras fit the images, and by how much they do not.

    reprojection_px_p95: of an image 512 px wide; silhouette_iou: of the worst view; both None where nothing was
    measured. views: those that disagree; scenes: how many were looked at; at_odds: those that stand out on their
    own; extent: largest |coordinate| of the object. version: of the rules it was found by.
    measured_views, tangents: how many views and how many tangents of pairs the verdict rests on; unmeasured: the
    views that keep it `unknown`.
    """

    version: Count
    verdict: Literal["exact", "approximate", "inconsistent", "unknown"]
    reprojection_px_p95: float | None
    measured_by: Literal["transform chain", "silhouettes"]
    silhouette_iou: float | None
    views: tuple[Count, ...] = ()
    scenes: Count
    at_odds: tuple[str, ...] = ()
    extent: float
    measured_views: Count = 0
    tangents: Count = 0
    unmeasured: tuple[Unmeasured, ...] = ()


@strict
@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a dataset is and how it came to be."""

    name: str
    parent: str | None = None  # digest of the dataset or recording it was made from
    transforms: tuple[dict[str, Any], ...] = ()  # the chain of operations with their parameters
    camera_scheme: str = "opencv"
    unit: Literal["scene", "mm"] = "scene"  # of the world: FaceLift's, or the calibration's millimetres
    rig: str | None = None
    view_order: tuple[Count, ...] | None = None
    splits: dict[str, tuple[str, ...]]  # split -> scene folders, relative to the manifest
    geometry: Geometry | None = None  # of exactly the content that `digest` names
    held_out_from_training: bool = False  # a dataset of one scene: its held-out views are never trained on
    software: str = field(default_factory=lambda: f"mouselift {VERSION}")
    digest: str | None = None


@dataclass(frozen=True)
class Notes:
    """What a scene's camera file may say beside its cameras.

    frame: of the recording it was taken from; keypoints: x, y in pixels (image corner at 0) and confidence;
    normalised: how `data normalise` made it from its source, as plain values.
    """

    frame: int | None = None
    keypoints: Float[np.ndarray, "view joint 3"] | None = None
    normalised: dict[str, Any] | None = None


@dataclass(frozen=True)
class Scene:
    """One scene: V image files and their cameras [V] in float64, at the images' own size."""

    name: str
    folder: Path
    files: tuple[str, ...]
    cameras: Cameras
    notes: Notes = Notes()

    @property
    def paths(self) -> list[Path]:
        return [self.folder / file for file in self.files]

    def image(self, view: int) -> Image.Image:
        """RGBA or RGB of the size that its camera says. Raises DataError naming the file."""
        return read_image(self.paths[view], (self.cameras.width, self.cameras.height))


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
        return self._hashed(remember=(self.root / MANIFEST_FILE).is_file())  # nothing is left in folders of others

    def _hashed(self, remember: bool) -> str:
        scenes = {name: self.scenes[name] for name in sorted(self.scenes)}
        files = [(n, path) for n, scene in scenes.items() for path in (scene.folder / CAMERAS_FILE, *scene.paths)]
        hashes = hashes_of(self.root, [path for _, path in files], remember)
        lines = [f"{name}/{path.name} {found}\n" for (name, path), found in zip(files, hashes, strict=True)]
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    def split_digest(self, name: str) -> str:
        """Hash of which scenes a split holds, on this data."""
        listed = "\n".join([self.digest, *self.manifest.splits[name]])
        return hashlib.sha256(listed.encode()).hexdigest()


def open_dataset(root: str | Path, verify: bool = True, data_root: Path | None = None) -> Dataset:
    """Open a dataset folder, a folder of FaceLift lists, a folder of scenes, or one scene folder.

    verify: compare the content with the manifest's digest; off where it was just done.
    data_root: where the absolute paths of a list written on another machine are found again.
    Raises DataError naming the file for a missing folder, image or camera, and for a camera that is none.
    """
    root = Path(root)
    if not root.is_dir():
        raise DataError(f"{root}: expected a dataset folder, found none — check data.root.")
    manifest = _read_manifest(root) if (root / MANIFEST_FILE).is_file() else _derive_manifest(root, data_root)
    scenes = {name: read_scene(root / name, name) for names in manifest.splits.values() for name in names}
    if not scenes:
        raise DataError(f"{root}: expected scenes in its splits, got none — list some.")
    dataset = Dataset(root, manifest, scenes)
    if verify and manifest.digest is not None and manifest.digest != dataset.content_digest:
        raise DataError(
            f"{root}: expected the content of digest {manifest.digest[:12]}, got {dataset.content_digest[:12]} — "
            f"files were changed after {MANIFEST_FILE} was written; restore them, or let `mouselift data check` judge "
            "what is there now."
        )
    return dataset


def read_scene(folder: Path, name: str = ".") -> Scene:
    """Read and check one scene's cameras and see that every image it names exists. Raises DataError.

    name: how its dataset lists it; a scene that is listed nowhere is called as its folder.
    """
    path = folder / CAMERAS_FILE
    if not path.is_file():
        raise DataError(f"{folder}: expected a scene with {CAMERAS_FILE}, found none — check the list or data.root.")
    content = read_json(path, DataError)
    try:
        frames = content["frames"]
        files = tuple(str(f.get("file_path", IMAGE_FILE.format(view))) for view, f in enumerate(frames))
        _check_shapes(path, [frame["w2c"] for frame in frames])
        w2c = torch.tensor([frame["w2c"] for frame in frames], dtype=torch.float64)
        numbers = [[frame[key] for key in ("fx", "fy", "cx", "cy")] for frame in frames]
        fxfycxcy = torch.tensor(numbers, dtype=torch.float64)
        sizes = {(int(frame["w"]), int(frame["h"])) for frame in frames}
        notes = _read_notes(content)
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise DataError(
            f"{path}: expected frames of w h fx fy cx cy w2c file_path, got a fault at {error} — write them."
        ) from None
    if len(sizes) != 1:
        came = " and ".join(f"{width}×{height}" for width, height in sorted(sizes)) or "no views"
        raise DataError(f"{path}: expected views of one size, got {came} — split the scene.")
    for file in files:
        if not (folder / file).is_file():
            raise DataError(f"{folder / file}: expected an image that {CAMERAS_FILE} names, found none — restore it.")
    width, height = sizes.pop()
    cameras = Cameras(rigid_inverse(w2c), fxfycxcy, width, height)  # one that is not rigid stays so, and is refused
    cameras.check(str(path))
    return Scene(folder.resolve().name if name == "." else name, folder, files, cameras, notes)


def _check_shapes(path: Path, matrices: list[Any]) -> None:
    for view, matrix in enumerate(matrices):
        if (shape := np.shape(matrix)) != (4, 4):
            came = "×".join(map(str, shape)) or "one value"
            raise DataError(f"{path}: view {view}: expected a w2c of 4×4, got {came} — add the row 0 0 0 1.")


def read_image(path: Path, size: tuple[int, int]) -> Image.Image:
    """Decode one image of `size` (width, height) to RGBA or RGB. Raises DataError naming the file."""
    decoded = read_picture(path, posed=True)
    if decoded.size != size:
        raise DataError(
            f"{path}: expected {size[0]}×{size[1]} as its camera says, got {decoded.width}×{decoded.height} — "
            "restore the file."
        )
    return decoded


def write_scene(folder: Path, images: np.ndarray, cameras: Cameras, notes: Notes = Notes()) -> None:
    """Write a scene whole: images uint8 [V, H, W, 4] with straight alpha, cameras [V]; replaces an older one."""
    if images.shape != (len(cameras.c2w), cameras.height, cameras.width, 4) or images.dtype != np.uint8:
        raise DataError(
            f"{folder}: expected uint8 RGBA [V, H, W, 4] of the cameras' size, got {images.shape} — convert them."
        )
    with whole_folder(folder) as temporary:
        (temporary / "images").mkdir()
        for i, image in enumerate(images):
            Image.fromarray(image).save(temporary / IMAGE_FILE.format(i), compress_level=PNG_LEVEL)
        (temporary / CAMERAS_FILE).write_text(cameras_text(folder.name, cameras, notes), encoding="utf-8")


def cameras_text(name: str, cameras: Cameras, notes: Notes = Notes()) -> str:
    """What a scene's camera file says of cameras [V] whose images are called as FaceLift calls them."""
    w2c, size = cameras.to(torch.float64).w2c, {"w": cameras.width, "h": cameras.height}
    frames = []
    for i in range(len(w2c)):
        intrinsics = dict(zip(("fx", "fy", "cx", "cy"), cameras.fxfycxcy[i].double().tolist(), strict=True))
        keypoints = {} if notes.keypoints is None else {"keypoints": notes.keypoints[i].tolist()}
        frames.append(size | intrinsics | {"w2c": w2c[i].tolist(), "file_path": IMAGE_FILE.format(i)} | keypoints)
    notes_kept = {key: value for key in ("frame", "normalised") if (value := getattr(notes, key)) is not None}
    return json.dumps({"id": name, **notes_kept, "frames": frames}, indent=1)


def write_manifest(root: Path, manifest: Manifest) -> Dataset:
    """Write `dataset.yaml` with the digest of the scenes it lists, and open what was written."""
    scenes = {name: read_scene(root / name, name) for names in manifest.splits.values() for name in names}
    values = config.as_plain(manifest) | {"digest": Dataset(root, manifest, scenes)._hashed(remember=True)}
    write_whole(root / MANIFEST_FILE, yaml.safe_dump(values, sort_keys=False))
    return open_dataset(root)


def _read_manifest(root: Path) -> Manifest:
    path = root / MANIFEST_FILE
    try:
        layers = config.load_layers(path, root.parent)
        _refuse_newer(path, layers.values.get("geometry"))
        manifest = config.decode(layers, Manifest)
    except RecipeError as error:
        raise DataError(str(error)) from None
    found = manifest.geometry
    if found is not None and found.verdict in ("exact", "approximate") and not found.tangents:
        # Said without evidence, by the first rules or by hand: nobody's word until the gate has looked again.
        return replace(manifest, geometry=replace(found, verdict="unknown", version=0))
    return manifest


def _refuse_newer(path: Path, geometry: object) -> None:
    """Raise DataError for a verdict by rules that this program does not know."""
    version = geometry.get("version") if isinstance(geometry, dict) else None
    if isinstance(version, int) and version > GEOMETRY_VERSION:
        raise DataError(
            f"{path}: expected a verdict on geometry by rules up to version {GEOMETRY_VERSION}, got version {version} "
            "of a newer mouselift — update this one, or take `geometry` out of the file and have it checked again."
        )


def _derive_manifest(root: Path, data_root: Path | None) -> Manifest:
    """The manifest of a folder that has none: the rules are in `_derive_splits`."""
    if (root / CAMERAS_FILE).is_file():
        return Manifest(name=root.name, splits=dict.fromkeys(SPLITS, (".",)), held_out_from_training=True)
    return Manifest(name=root.name, splits=_derive_splits(root, data_root))


def _derive_splits(root: Path, data_root: Path | None) -> dict[str, tuple[str, ...]]:
    """FaceLift's `*train*.txt` and `*val*.txt`, or else the scene folders in order: a tenth each for val and test.

    A val list without a test list is cut in two: the first half stays val, the second becomes test.
    """
    lists = listed_splits(root, data_root)
    if lists is not None:
        train, val, test = (lists[split] for split in SPLITS)
        if not test:
            half = max(1, len(val) // 2)
            val, test = val[:half], val[half:] or val
        return {"train": train, "val": val, "test": test}
    names = tuple(sorted(path.parent.name for path in root.glob(f"[!.]*/{CAMERAS_FILE}")))
    if len(names) < len(SPLITS):
        raise DataError(
            f"{root}: expected {MANIFEST_FILE}, lists or at least 3 scene folders, got {len(names)} — name the folder "
            "above the scenes, or one scene."
        )
    return tenths(names)


def tenths(names: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    """Three or more scenes in splits: a tenth each for val and test, the last in order."""
    tenth = max(1, len(names) // 10)
    return {"train": names[: -2 * tenth], "val": names[-2 * tenth : -tenth], "test": names[-tenth:]}


def _read_notes(content: dict[str, Any]) -> Notes:
    frame, normalised = content.get("frame"), content.get("normalised")
    if normalised is not None and not set(dict(normalised)) >= NORMALISED_KEYS:
        raise ValueError(f"normalised without {', '.join(sorted(NORMALISED_KEYS - set(normalised)))}")
    keypoints = [view.get("keypoints") for view in content["frames"]]
    known = None if None in keypoints else np.asarray(keypoints, dtype=np.float64)
    if known is not None and (known.ndim != 3 or known.shape[2] != 3):
        raise ValueError(f"keypoints of shape {known.shape}, not [view, joint, 3]")
    return Notes(None if frame is None else int(frame), known, normalised)
