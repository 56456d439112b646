"""One scene from cameras all around it, as frames and as a GIF."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from pipeline.cameras import FACELIFT_FOV_DEGREES, Cameras, circle
from pipeline.data.pictures import pixels_of
from pipeline.files import whole
from pipeline.gaussians import Gaussians
from pipeline.progress import Tell, silent, told
from pipeline.splatting.rendering import render

TURNTABLE_VIEWS, TURNTABLE_FPS = 120, 30
GIF_EVERY = 3
_CHUNK = 8  # views whose pictures are floats at once


def turntable_around(cameras: Cameras, size: int, views: int = TURNTABLE_VIEWS) -> Cameras:
    """Cameras once round the origin at the mean distance, elevation and field of view of the given ones [V]."""
    distance = float(cameras.centres.norm(dim=-1).mean())
    elevation = float(torch.asin((cameras.centres[:, 2] / cameras.centres.norm(dim=-1)).clamp(-1, 1)).mean())
    azimuth = torch.linspace(0, 2 * torch.pi, views + 1, dtype=torch.float64)[:-1] - torch.pi / 2
    widest = float(torch.rad2deg(2 * torch.atan(cameras.width / 2 / cameras.fxfycxcy[:, 0])).mean())
    focal = size / 2 / np.tan(np.radians(min(widest, FACELIFT_FOV_DEGREES)) / 2)
    around = circle(azimuth, elevation, distance, float(focal), size)
    return around.to(cameras.c2w.device).to(cameras.c2w.dtype)


def render_frames(
    gaussians: Gaussians, cameras: Cameras, tell: Tell = silent
) -> UInt8[np.ndarray, "views height width 3"]:
    """One scene from every camera [V], on white, a few views at a time, which `tell` hears of."""
    with torch.no_grad():
        starts = range(0, len(cameras.c2w), _CHUNK)
        heard = told(starts, "turntable", len(starts), tell)
        chunks = [pixels_of(render(gaussians, cameras[start : start + _CHUNK]).images) for start in heard]
    return np.concatenate(chunks)


def beside(
    given: Float[Tensor, "3 side side"], frames: UInt8[np.ndarray, "n height width 3"]
) -> Iterator[UInt8[np.ndarray, "height twice 3"]]:
    """Frames, one by one, with the picture that they were made of to their left, as large as they are."""
    size = frames.shape[1:3]
    shown = pixels_of(F.interpolate(given[None].cpu(), size, mode="bicubic", antialias=True)[0])
    for frame in frames:
        yield np.concatenate([shown, frame], axis=1)


def write_gif(frames: Iterable[UInt8[np.ndarray, "height width 3"]], path: Path) -> None:
    """A looping GIF, for places that show no video."""
    pictures = [Image.fromarray(frame).quantize(128) for frame in frames]
    pause = round(1000 * GIF_EVERY / TURNTABLE_FPS)
    with whole(path) as temporary:
        pictures[0].save(temporary, "GIF", save_all=True, append_images=pictures[1:], duration=pause, loop=0)
