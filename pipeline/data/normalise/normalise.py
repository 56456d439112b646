"""Scenes in FaceLift's frame: world Z-up, the object at the origin, 2.7 away, 50° wide.

A method is a small class that says, per scene, where each source pixel goes and what the cameras are then. Pixels
are resampled once, from the source image to the target. What is exact stays exact: an image operation changes K, a
turn about the camera's centre is a homography, one similarity moves the world, and nothing moves one camera
relative to another, except in the two methods that say so.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from pipeline.cameras import FACELIFT_DISTANCE, Cameras, focal_pixels, look_at
from pipeline.config import did_you_mean
from pipeline.data.foreground import rgba_of
from pipeline.data.gate.geometry import Silhouette, meeting_point
from pipeline.data.gate.scene_check import centre_of, check_views, outlines_of, rms_over_views
from pipeline.data.normalise.warp import Warp, apply_homography, resample
from pipeline.data.scenes import Dataset, Notes, Scene, write_scene
from pipeline.data.unfinished import derived
from pipeline.errors import DataError, DegenerateViewsError

VERSION = 2  # raise it when the same method makes other pixels or cameras
FILL = 0.94  # of half the frame, what the object may reach
LEGACY_ALPHA = 10  # of 255; the mask of pixel_based lies above it
LEGACY_RATIO = 0.3  # √(mask pixels / pixels) that pixel_based gives every view


@dataclass(frozen=True)
class Seen:
    """A source scene as a method sees it: its cameras in float64, its outlines and where the object is.

    alphas: [V, H, W] bytes. centre: [3] in the scene's world, triangulated from the masks' centres of mass.
    rig_centre: where the optical axes of the whole rig meet. unit: of the world.
    """

    cameras: Cameras
    alphas: UInt8[np.ndarray, "view height width"]
    outlines: tuple[Silhouette, ...]
    centre: Float[Tensor, " 3"]
    rig_centre: Float[Tensor, " 3"]
    unit: str


class Method(Protocol):
    """How scenes are normalised; its fields are its parameters."""

    kind: ClassVar[str]
    exact: ClassVar[bool]
    size: int

    def warp(self, seen: Seen) -> tuple[Warp, Cameras]:
        """Where pixels go, and the cameras [V] of the target."""


@dataclass(frozen=True, kw_only=True)
class ObjectCentred:
    """Exact. Each camera turned about its own centre towards the object, upright, with FaceLift's K; one similarity
    per scene brings the object to the origin and the mean distance to 2.7.

    zoom: factor on the focal length, lowered for a scene that it would clip.
    """

    kind: ClassVar[str] = "object_centred"
    exact: ClassVar[bool] = True
    size: int = 512
    zoom: float = 1.0

    def warp(self, seen: Seen) -> tuple[Warp, Cameras]:
        return _turned(seen, self.size, lambda fitting: min(self.zoom, fitting))


@dataclass(frozen=True, kw_only=True)
class ZoomExact:
    """Exact. As object_centred, magnified as far as the frame holds the object in every view, K scaled with it.

    zoom: factor on FaceLift's focal length; None: the largest that clips nothing, scene by scene.
    """

    kind: ClassVar[str] = "zoom_exact"
    exact: ClassVar[bool] = True
    size: int = 512
    zoom: float | None = None

    def warp(self, seen: Seen) -> tuple[Warp, Cameras]:
        return _turned(seen, self.size, lambda fitting: fitting if self.zoom is None else min(self.zoom, fitting))


@dataclass(frozen=True, kw_only=True)
class FaceLiftRig:
    """Approximate. As object_centred, then every camera moved along its axis to exactly 2.7, the image zoomed by
    distance / 2.7 to make up for it; what perspective leaves over is stored per scene, in pixels.
    """

    kind: ClassVar[str] = "facelift_rig"
    exact: ClassVar[bool] = False
    size: int = 512

    def warp(self, seen: Seen) -> tuple[Warp, Cameras]:
        warp, cameras = _turned(seen, self.size, lambda fitting: min(1.0, fitting))
        zoom = cameras.centres.norm(dim=-1) / FACELIFT_DISTANCE
        homographies = _about_middle(zoom, self.size) @ warp.homographies
        c2w = cameras.c2w.clone()
        c2w[:, :3, 3] /= zoom[:, None]
        return replace(warp, homographies=homographies), replace(cameras, c2w=c2w)


@dataclass(frozen=True, kw_only=True)
class RigAffine:
    """Exact. Each image shifted and scaled so that its principal point is the middle and its focal length
    FaceLift's; one similarity for the whole rig, so cameras are the same in every frame: right for 4D.
    """

    kind: ClassVar[str] = "rig_affine"
    exact: ClassVar[bool] = True
    size: int = 512

    def warp(self, seen: Seen) -> tuple[Warp, Cameras]:
        target = _facelift_intrinsics(len(seen.cameras.c2w), self.size)
        scale = target[:, :2] / seen.cameras.fxfycxcy[:, :2]
        shift = target[:, 2:] - scale * seen.cameras.fxfycxcy[:, 2:]
        cameras = Cameras(seen.cameras.c2w, target, self.size, self.size)
        return _moved(seen.cameras, _affine(scale, shift), cameras, seen.rig_centre)


@dataclass(frozen=True, kw_only=True)
class PixelBased:
    """The seed's method, inconsistent: each view moved and scaled by itself until the mask's centroid is the middle
    and √(mask pixels / pixels) is 0.3, cameras copied. For training that consumes no camera.

    A recording in millimetres first gets the labels its converter gave it: FaceLift's K over any image, and T
    scaled so that the mean |T| is 2.7.
    """

    kind: ClassVar[str] = "pixel_based"
    exact: ClassVar[bool] = False
    size: int = 512

    def warp(self, seen: Seen) -> tuple[Warp, Cameras]:
        views = len(seen.cameras.c2w)
        places = [np.argwhere(alpha > LEGACY_ALPHA)[:, ::-1] + 0.5 for alpha in seen.alphas]
        centroid = torch.from_numpy(np.stack([place.mean(0) for place in places]))
        area = torch.tensor([len(place) for place in places], dtype=torch.float64)
        scale = (LEGACY_RATIO * self.size / area.sqrt())[:, None].expand(views, 2)
        homographies = _affine(scale, self.size / 2 - scale * centroid)
        labels = Cameras(seen.cameras.c2w, _facelift_intrinsics(views, self.size), self.size, self.size)
        if seen.unit == "mm":
            return _moved(seen.cameras, homographies, labels, torch.zeros(3, dtype=torch.float64))
        warp = Warp(homographies, seen.cameras, 1.0, torch.zeros(3, dtype=torch.float64), (self.size, self.size))
        return warp, seen.cameras.resize(self.size, self.size)


METHODS: dict[str, type[Any]] = {
    method.kind: method for method in (ObjectCentred, RigAffine, ZoomExact, FaceLiftRig, PixelBased)
}


def method_of(kind: str, **params: Any) -> Method:
    """The method of that name with these parameters (None: its default). Raises DataError for an unknown one."""
    if kind not in METHODS:
        advice = did_you_mean(kind, METHODS) or " — choose one."
        raise DataError(f"--method {kind}: expected one of {', '.join(METHODS)}, got an unknown one{advice}")
    given = {name: value for name, value in params.items() if value is not None}
    strange = [name for name in given if name not in METHODS[kind].__dataclass_fields__]
    if strange:
        raise DataError(f"--{strange[0]}: expected a parameter of {kind}, got one it has not — leave it out.")
    if not 0 < given.get("zoom", 1.0) < math.inf or given.get("size", 1) < 1:
        raise DataError(f"{kind}: expected size and zoom above 0, got {given} — raise it.")
    return METHODS[kind](**given)  # type: ignore[no-any-return]


def normalise(source: Dataset, out: Path, method: Method) -> Iterator[int]:
    """Write the normalised dataset to `out`; yields how many of its scenes are done, last after its geometry check.

    Scenes are written whole, so a second call continues an interrupted one. Raises DataError for a folder of
    another plan, an empty mask, a camera that cannot be turned, a full disk.
    """
    step = {"kind": "normalise", "version": VERSION, "method": method.kind, **asdict(method)}  # type: ignore[call-overload]
    scenes = [source.scenes[name] for name in sorted(source.scenes)]
    try:
        rig_centre, unit = meeting_point(scenes[0].cameras), source.manifest.unit
    except DegenerateViewsError as error:
        raise DataError(f"{scenes[0].folder}: {error}") from None
    if method.kind == RigAffine.kind:
        _check_one_rig(source, scenes)

    def write(scene: Scene, folder: Path) -> None:
        normalise_scene(scene, folder, method, rig_centre, unit)

    yield from derived(source, out, step, write, camera_scheme=method.kind, unit="scene")


def normalise_scene(scene: Scene, folder: Path, method: Method, rig_centre: Float[Tensor, " 3"], unit: str) -> None:
    """Write one scene anew. Raises DataError for an empty mask and a full disk."""
    images = [rgba_of(scene.image(view), str(path)) for view, path in enumerate(scene.paths)]
    seen = look(scene, np.stack([image[..., 3] for image in images]), rig_centre, unit)
    warp, cameras = method.warp(seen)
    target = (method.size, method.size)
    written = np.stack([resample(i, h, target) for i, h in zip(images, warp.homographies, strict=True)])
    keypoints = scene.notes.keypoints
    if keypoints is not None:
        moved = apply_homography(warp.homographies, torch.from_numpy(keypoints[..., :2]))
        keypoints = np.concatenate([moved.numpy(), keypoints[..., 2:]], -1)
    noted = {"method": method.kind, "source": scene.name, **warp.after(Warp.of(scene)).as_plain()}
    notes = Notes(scene.notes.frame, keypoints, noted)
    if not method.exact:
        made = Scene(scene.name, folder, scene.files, cameras, notes)
        residuals = check_views(made, written[..., 3]).chain
        assert residuals is not None
        noted["residual_px_p95"] = round(float(rms_over_views(residuals).quantile(0.95)), 4)
    write_scene(folder, written, cameras, notes)


def look(
    scene: Scene, alphas: UInt8[np.ndarray, "view height width"], rig_centre: Float[Tensor, " 3"], unit: str
) -> Seen:
    """Find the object in a source scene. Raises DataError for an empty mask."""
    outlines = outlines_of(scene, alphas)
    cameras = scene.cameras.to(torch.float64)
    try:
        centre = centre_of(outlines, cameras)
    except DegenerateViewsError as error:
        raise DataError(f"{scene.folder}: {error}") from None
    return Seen(cameras, alphas, outlines, centre, rig_centre, unit)


def _check_one_rig(source: Dataset, scenes: list[Scene]) -> None:
    first = scenes[0].cameras
    for scene in scenes:
        cameras = scene.cameras
        same = cameras.c2w.shape == first.c2w.shape and (cameras.width, cameras.height) == (first.width, first.height)
        if not (same and torch.allclose(cameras.c2w, first.c2w) and torch.allclose(cameras.fxfycxcy, first.fxfycxcy)):
            raise DataError(
                f"{source.root}: rig_affine: expected the same cameras in every scene, got others in {scene.name} than "
                f"in {scenes[0].name} — choose object_centred, which asks for no common rig."
            )


# ---------------------------------------------------------------- what methods are made of


def _turned(seen: Seen, size: int, zoom_of: Callable[[float], float]) -> tuple[Warp, Cameras]:
    """Every camera turned about its own centre to look at the object; `zoom_of` is given the largest that fits."""
    source = seen.cameras
    target = _facelift_intrinsics(len(source.c2w), size)
    c2w = look_at(source.centres, seen.centre.expand_as(source.centres))
    cameras = Cameras(c2w, target, size, size)
    homographies = cameras.K @ cameras.w2c[:, :3, :3] @ source.c2w[:, :3, :3] @ torch.linalg.inv(source.K)
    reached = max(
        float((apply_homography(h[None], outline.outline[None])[0] - size / 2).abs().max())
        for h, outline in zip(homographies, seen.outlines, strict=True)
    )
    zoom = torch.full((len(target),), zoom_of(FILL * size / 2 / reached), dtype=torch.float64)
    intrinsics = torch.cat([target[:, :2] * zoom[:, None], target[:, 2:]], -1)
    zoomed = replace(cameras, fxfycxcy=intrinsics)
    return _moved(source, _about_middle(zoom, size) @ homographies, zoomed, seen.centre)


def _moved(
    source: Cameras, homographies: Float[Tensor, "view 3 3"], cameras: Cameras, centre: Float[Tensor, " 3"]
) -> tuple[Warp, Cameras]:
    """The world moved and scaled as one: `centre` to the origin, the mean distance from it to 2.7."""
    scale = FACELIFT_DISTANCE / float((source.centres - centre).norm(dim=-1).mean())
    warp = Warp(homographies, source, scale, centre, (cameras.width, cameras.height))
    return warp, cameras.transform(scale, centre=centre)


def _facelift_intrinsics(views: int, size: int) -> Float[Tensor, "view 4"]:
    focal = focal_pixels(size)
    return torch.tensor([focal, focal, size / 2, size / 2], dtype=torch.float64).repeat(views, 1)


def _affine(scale: Float[Tensor, "view 2"], shift: Float[Tensor, "view 2"]) -> Float[Tensor, "view 3 3"]:
    """Homographies of u' = scale · u + shift."""
    matrix = torch.zeros(len(scale), 3, 3, dtype=torch.float64)
    matrix[:, 0, 0], matrix[:, 1, 1], matrix[:, 2, 2] = scale[:, 0], scale[:, 1], 1.0
    matrix[:, :2, 2] = shift
    return matrix


def _about_middle(zoom: Float[Tensor, " view"], size: int) -> Float[Tensor, "view 3 3"]:
    both = zoom[:, None].expand(-1, 2)
    return _affine(both, (1 - both) * size / 2)
