"""One frame of a sequence: what a model makes of it, and the numbers and pictures that are kept."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from pipeline.cameras import Cameras
from pipeline.data.normalise.warp import Warp, apply_homography
from pipeline.data.photo.framing import outline_of
from pipeline.data.photo.photo import Photo
from pipeline.data.pictures import pixels_of, prepare_view
from pipeline.data.scenes import Scene
from pipeline.errors import DataError
from pipeline.gaussians import Gaussians
from pipeline.pruning import Pruning
from pipeline.reconstruction.reconstructor import Reconstruction, Reconstructor
from pipeline.reconstruction.sequence.folder import Pictures, Record
from pipeline.reconstruction.sequence.panels import labelled, with_crop
from pipeline.reconstruction.turntable import turntable_around
from pipeline.splatting.rendering import render

Taken = tuple[Record, Gaussians, Pictures]
Pixels = UInt8[np.ndarray, "height width 3"]


@dataclass(frozen=True)
class Similarity:
    """A world X' = scale · (X − centre) of the recording's X, as `data normalise` notes it; else that world itself."""

    scale: float = 1.0
    centre: tuple[float, float, float] = (0.0, 0.0, 0.0)

    @classmethod
    def of(cls, scene: Scene) -> Similarity:
        """Of a scene's notes."""
        warp = Warp.of(scene)
        if warp is None:
            return cls()
        x, y, z = warp.centre.tolist()
        return cls(warp.scale, (x, y, z))

    @classmethod
    def mean(cls, some: Sequence[Similarity]) -> Similarity:
        """The one in the middle of several: of their centres, and of the logarithms of their scales."""
        x, y, z = np.mean([one.centre for one in some], axis=0).tolist()
        return cls(math.exp(float(np.mean([math.log(one.scale) for one in some]))), (x, y, z))

    def to_source(self) -> tuple[tuple[float, ...], ...]:
        """4×4, from this world to the recording's."""
        rows = np.diag([1 / self.scale] * 3 + [1.0])
        rows[:3, 3] = self.centre
        return tuple(tuple(row) for row in rows.tolist())

    def onto(self, other: Similarity) -> Similarity:
        """From this world to another of the same recording."""
        apart = self.scale * (np.array(other.centre) - np.array(self.centre))
        x, y, z = apart.tolist()
        return Similarity(other.scale / self.scale, (x, y, z))


class Studio:
    """Makes frames, one after the other, and photographs them for both videos.

    around: the cameras whose mean distance and elevation the turntable keeps. frames: once round takes so many.
    world: of scenes, the one that all are brought to, or None to leave each as it is.
    """

    def __init__(
        self,
        reconstructor: Reconstructor,
        around: Cameras,
        frames: int,
        pruning: Pruning,
        size: int | None,
        world: Similarity | None = None,
    ) -> None:
        self.reconstructor, self.pruning, self.world = reconstructor, pruning, world
        self.size = size or max(256, reconstructor.gaussians.recipe.data.image_size)
        self.turntable = turntable_around(around.to(torch.float32), self.size, frames).to(reconstructor.device)

    def photo(self, photo: Photo, number: int, place: int, time: float, noise: int) -> Taken:
        """A frame of a video. noise: the number that decides its noise. Raises DataError where nothing comes of it."""
        result = self.reconstructor.photo(photo, noise, render=False)
        gaussians, camera = self._kept(result, photo.where), result.batch.cameras[0, :1]
        rgba = prepare_view(photo.framed, camera.width)
        source = np.dstack([pixels_of(photo.image(camera.width)), rgba[..., 3:]])
        beside = [
            ("source", with_crop(photo.picture, photo.crop, self.size)),
            ("as the model sees it", pixels_of(photo.image(self.size))),
        ]
        pictures = self._pictures(gaussians, camera, source, beside, place, number, time)
        centre, px = _centre(gaussians, camera)
        left, top, side = map(float, photo.crop)  # whole numbers would come back as others from the record
        zoom = side / camera.width
        outline = outline_of(photo.alpha)
        record = Record(
            number,
            time,
            count=gaussians.count,
            centre=centre,
            centre_px=(left + zoom * px[0], top + zoom * px[1]),
            animal_px=None if outline is None else outline.mass,
            crop=(left, top, side),
            cut_by=photo.cut_by,
            changes=photo.changes,
        )
        return record, gaussians, pictures

    def scene(self, scene: Scene, number: int, place: int, time: float) -> Taken:
        """A frame of a recording by several cameras; its first view is the source's camera. Raises DataError."""
        result = self.reconstructor.scene(scene, render=False)
        own = Similarity.of(scene)
        gaussians, camera = self._kept(result, scene.name), result.batch.cameras[0, :1]
        centre_px = _of_source(scene, _centre(gaussians, camera)[1], camera.width)
        if self.world is not None:
            step = own.onto(self.world)
            gaussians, camera = _moved(gaussians, step), camera.transform(step.scale, centre=step.centre)
        image = pixels_of(result.batch.images[0, 0])
        alpha = None if result.batch.masks is None else _bytes(result.batch.masks[0, 0])
        source = np.dstack([image, np.zeros_like(image[..., :1]) if alpha is None else alpha])
        outline = None if alpha is None else outline_of(alpha[..., 0])
        beside = [("source, first camera", _enlarged(image, self.size))]
        pictures = self._pictures(gaussians, camera, source, beside, place, number, time)
        record = Record(
            number,
            time,
            count=gaussians.count,
            centre=_centre(gaussians, camera)[0],
            centre_px=centre_px,
            animal_px=None if outline is None else _of_source(scene, outline.mass, camera.width),
            to_source=(own if self.world is None else self.world).to_source(),
        )
        return record, gaussians, pictures

    def _kept(self, result: Reconstruction, where: str) -> Gaussians:
        gaussians = self.pruning(result.gaussians)
        if not gaussians.count:
            raise DataError(f"{where}: expected Gaussians, got none that the pruning keeps — prune less.")
        return gaussians

    def _pictures(
        self,
        gaussians: Gaussians,
        camera: Cameras,
        source: UInt8[np.ndarray, "size size 4"],
        beside: Sequence[tuple[str, Pixels]],
        place: int,
        number: int,
        time: float,
    ) -> Pictures:
        with torch.inference_mode():
            small = render(gaussians, camera)
            large = render(gaussians, camera.resize(self.size, self.size)).images
            turned = render(gaussians, self.turntable[place : place + 1]).images
        made = np.dstack([pixels_of(small.images[0]), _bytes(small.alphas[0])])
        shown = [*beside, ("Gaussians, same camera", pixels_of(large[0]))]
        name, panel = shown[0]
        fixed = labelled([(f"{name}, frame {number}, {time:.2f} s", panel), *shown[1:]])
        return Pictures(fixed, pixels_of(turned[0]), source, made)


def _centre(gaussians: Gaussians, camera: Cameras) -> tuple[tuple[float, float, float], tuple[float, float]]:
    """The mean place of Gaussians by opacity, and the pixel at which a camera [1] shows it."""
    weights = gaussians.opacities.double()
    mean = (weights[:, None] * gaussians.means.double()).sum(0) / weights.sum()
    x, y, z = mean.tolist()
    u, v = camera[0].to(torch.float64).project(mean[None])[0][0].tolist()
    return (x, y, z), (u, v)


def _moved(gaussians: Gaussians, step: Similarity) -> Gaussians:
    centre = gaussians.means.new_tensor(step.centre)
    return replace(gaussians, means=step.scale * (gaussians.means - centre), scales=step.scale * gaussians.scales)


def _of_source(scene: Scene, pixel: tuple[float, float], width: int) -> tuple[float, float]:
    """A pixel of a scene's first view, seen `width` wide, as one of the recording's first camera."""
    zoom, warp = scene.cameras.width / width, Warp.of(scene)
    own = torch.tensor([[pixel]], dtype=torch.float64) * zoom
    if warp is not None:
        own = apply_homography(torch.linalg.inv(warp.homographies[:1]), own)
    u, v = own[0, 0].tolist()
    return u, v


def _bytes(values: Float[Tensor, "1 height width"]) -> UInt8[np.ndarray, "height width 1"]:
    return (values.clamp(0, 1) * 255).round().byte().movedim(0, -1).cpu().numpy()


def _enlarged(picture: Pixels, size: int) -> Pixels:
    return np.asarray(Image.fromarray(picture).resize((size, size), Image.Resampling.LANCZOS))
