"""Images made anew from a source: one homography and one antialiased resampling per view, and the way back."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from scipy.linalg import rq
from torch import Tensor
from torch.nn import functional as F

from pipeline.cameras import Cameras
from pipeline.data.gate.geometry import triangulate
from pipeline.data.scenes import CAMERAS_FILE, Scene
from pipeline.errors import DataError

MAX_SUBSAMPLES = 24  # per target pixel and axis

Array = np.ndarray


@dataclass(frozen=True)
class Warp:
    """How a scene's views came from their source.

    homographies: [V, 3, 3], source pixels to target pixels, both with centres at +0.5. source: the cameras [V] that
    took the pictures. scale, centre: the target's world is X' = scale · (X − centre); axes are kept.
    size: width, height of the target.
    """

    homographies: Float[Tensor, "view 3 3"]
    source: Cameras
    scale: float
    centre: Float[Tensor, " 3"]
    size: tuple[int, int]

    @classmethod
    def of(cls, scene: Scene) -> Warp | None:
        """The warp that `data normalise` noted in a scene, or None where a scene was not made by it."""
        noted = scene.notes.normalised
        if noted is None:
            return None
        try:
            c2w, fxfycxcy, homographies, centre = (
                torch.tensor(noted[key], dtype=torch.float64)
                for key in ("source_c2w", "source_fxfycxcy", "homographies", "centre")
            )
            source = Cameras(c2w, fxfycxcy, *map(int, noted["source_size"]))
            size = (scene.cameras.width, scene.cameras.height)
            return cls(homographies, source, float(noted["scale"]), centre, size)
        except (TypeError, ValueError) as error:
            path = scene.folder / CAMERAS_FILE
            raise DataError(
                f"{path}: expected normalised as `data normalise` writes it, got {error} — normalise anew."
            ) from None

    def after(self, before: Warp | None) -> Warp:
        """The way from the first source, when this warp's own source came about by `before`."""
        if before is None:
            return self
        return Warp(
            self.homographies @ before.homographies,
            before.source,
            self.scale * before.scale,
            before.centre + self.centre / before.scale,
            self.size,
        )

    def as_plain(self) -> dict[str, Any]:
        """What `of` reads."""
        return {
            "scale": self.scale,
            "centre": self.centre.tolist(),
            "homographies": self.homographies.tolist(),
            "source_c2w": self.source.c2w.tolist(),
            "source_fxfycxcy": self.source.fxfycxcy.tolist(),
            "source_size": [self.source.width, self.source.height],
        }

    @cached_property
    def cameras(self) -> Cameras:
        """The cameras that the target's pixels really have, in the source's world: H·K·R taken apart again."""
        source = self.source.to(torch.float64)
        rotation = source.w2c[:, :3, :3]
        parts = [rq(matrix.numpy()) for matrix in self.homographies @ source.K @ rotation]
        signs = [np.diag(np.sign(np.diag(k))) for k, _ in parts]
        intrinsics = torch.from_numpy(np.stack([k @ sign for (k, _), sign in zip(parts, signs, strict=True)]))
        turned = torch.from_numpy(np.stack([sign @ r for (_, r), sign in zip(parts, signs, strict=True)]))
        intrinsics = intrinsics / intrinsics[:, 2:, 2:]
        c2w = source.c2w.clone()
        c2w[:, :3, :3] = (turned * torch.linalg.det(turned)[:, None, None].sign()).mT
        fxfycxcy = torch.stack([intrinsics[:, i, j] for i, j in ((0, 0), (1, 1), (0, 2), (1, 2))], -1)
        return Cameras(c2w, fxfycxcy, self.size[0], self.size[1])

    def residuals(self, points: Float[Tensor, "n 3"], stored: Cameras) -> Float[Tensor, "view n"]:
        """Reprojection error in target pixels of points [n, 3] (source world) under the cameras a scene stores.

        Each point is photographed as its pixels really came about; the stored cameras then have to explain where it
        is seen by some point of their own. 0 when they were moved as the pixels were.
        """
        return triangulate(stored, self.cameras.project(points)[0])[1]


def apply_homography(
    homographies: Float[Tensor, "view 3 3"], pixels: Float[Tensor, "view n 2"]
) -> Float[Tensor, "view n 2"]:
    """Pixels [V, n, 2] moved by their view's homography: u' = H·u."""
    moved = torch.cat([pixels, torch.ones_like(pixels[..., :1])], -1) @ homographies.mT
    return moved[..., :2] / moved[..., 2:]


def resample(
    image: UInt8[Array, "height width 4"], homography: Float[Tensor, "3 3"], size: tuple[int, int]
) -> UInt8[Array, "h w 4"]:
    """Straight RGBA seen through a homography (source to target pixels), at `size` (width, height).

    Colour is premultiplied before it is mixed. Each target pixel is the mean of a grid of bilinear samples that stand
    about a source pixel apart (at most MAX_SUBSAMPLES² of them), so that a smaller picture does not alias; only the
    mask's window is computed.
    """
    target = np.zeros((size[1], size[0], 4), np.uint8)
    rows, columns = (np.flatnonzero(image[..., 3].any(axis)) for axis in (1, 0))
    if not len(rows):
        return target
    box = (columns[0] - 1, rows[0] - 1, columns[-1] + 2, rows[-1] + 2)
    left, top, right, bottom = _window(homography, box, size)
    if right <= left or bottom <= top:
        return target
    per_axis = _subsamples(homography, (left, top, right, bottom))
    grid = _grid(homography, (left, top, right, bottom), per_axis) - torch.tensor([max(0, box[0]), max(0, box[1])])
    source = image[max(0, box[1]) : box[3], max(0, box[0]) : box[2]]
    target[top:bottom, left:right] = sample(source, grid, per_axis)
    return target


def sample(
    image: UInt8[Array, "height width 4"], places: Float[Tensor, "rows columns 2"], per_axis: int
) -> UInt8[Array, "h w 4"]:
    """Straight RGBA of per_axis² bilinear samples a pixel, at the source pixels `places` (image corner at 0).

    Colour is premultiplied before it is mixed; beyond the image there is nothing.
    """
    source = torch.from_numpy(image).float()
    source = torch.cat([source[..., :3] * source[..., 3:] / 255, source[..., 3:]], -1)
    at = (2 * places / torch.tensor([source.shape[1], source.shape[0]]) - 1).float()
    sampled = F.grid_sample(source.permute(2, 0, 1)[None], at[None], align_corners=False)
    mixed = F.avg_pool2d(sampled, per_axis)[0].permute(1, 2, 0).numpy()
    alpha = mixed[..., 3:]
    colour = np.where(alpha > 0.5, mixed[..., :3] * 255 / np.maximum(alpha, 1e-6), 0)
    return np.rint(np.clip(np.concatenate([colour, alpha], -1), 0, 255)).astype(np.uint8)


def _window(
    homography: Float[Tensor, "3 3"], box: tuple[int, int, int, int], size: tuple[int, int]
) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of the target pixels that a box of source pixels reaches."""
    left, top, right, bottom = box
    corners = torch.tensor([[left, top], [right, top], [left, bottom], [right, bottom]], dtype=torch.float64)
    moved = apply_homography(homography[None], corners[None])[0]
    low = (moved.amin(0).floor() - 1).clamp(min=0)
    high = torch.minimum(moved.amax(0).ceil() + 1, torch.tensor(size, dtype=torch.float64))
    return int(low[0]), int(low[1]), int(high[0]), int(high[1])


def _subsamples(homography: Float[Tensor, "3 3"], window: tuple[int, int, int, int]) -> int:
    """Samples per target pixel and axis that stand at most a source pixel apart anywhere in the window, if so many
    are allowed.
    """
    left, top, right, bottom = window
    at = torch.tensor([[left, top], [right, top], [left, bottom], [right, bottom]], dtype=torch.float64)
    back = torch.linalg.inv(homography)[None]
    here = apply_homography(back, at[None])
    steps = [
        float((apply_homography(back, (at + torch.tensor(step))[None]) - here).norm(dim=-1).max())
        for step in ([1.0, 0.0], [0.0, 1.0])
    ]
    return min(MAX_SUBSAMPLES, max(1, math.ceil(max(steps) - 1e-6)))


def _grid(homography: Float[Tensor, "3 3"], window: tuple[int, int, int, int], per_axis: int) -> Float[Tensor, "h w 2"]:
    """Source pixels of the samples of a window of target pixels."""
    left, top, right, bottom = window
    x = left + (torch.arange((right - left) * per_axis, dtype=torch.float64) + 0.5) / per_axis
    y = top + (torch.arange((bottom - top) * per_axis, dtype=torch.float64) + 0.5) / per_axis
    v, u = torch.meshgrid(y, x, indexing="ij")
    pixels = torch.stack([u, v], -1).reshape(1, -1, 2)
    return apply_homography(torch.linalg.inv(homography)[None], pixels)[0].reshape(len(y), len(x), 2)
