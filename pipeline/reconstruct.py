"""Trained models at work: one picture to six views; posed views to Gaussians, a turntable and a comparison."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image

from pipeline import kinds, metrics
from pipeline.cameras import FACELIFT_FOV_DEGREES, Cameras, circle
from pipeline.data.batch import Batch
from pipeline.data.incoming.lists import listed_splits
from pipeline.data.incoming.names import named
from pipeline.data.incoming.photos import read_photo
from pipeline.data.loader import Loader
from pipeline.data.pictures import pixels_of, sheet, write_png
from pipeline.data.recording.video import write_video
from pipeline.data.scenes import CAMERAS_FILE, MANIFEST_FILE, open_dataset, write_scene
from pipeline.errors import DataError
from pipeline.files import whole
from pipeline.gaussians import Gaussians
from pipeline.gslrm.stage import preview
from pipeline.machine.devices import best_device, require_device
from pipeline.precision import autocast, evaluated_in
from pipeline.splatting.rendering import Rendering, render

TURNTABLE_VIEWS, TURNTABLE_FPS = 120, 30
_GIF_EVERY = 3
_ZOOM = 2  # of the small views in a strip
_CHUNK = 8  # views whose pictures are floats at once


@dataclass(frozen=True)
class Reconstruction:
    """Gaussians of one scene, the views they came from, and renders of those and the held-out ones."""

    gaussians: Gaussians
    batch: Batch
    rendering: Rendering

    @property
    def held_out_psnr(self) -> float:
        """PSNR in dB of the views the model was not shown, full frame on white."""
        inputs = self.batch.num_input_views
        return float(metrics.psnr(self.rendering.images[0, inputs:], self.batch.images[0, inputs:]).mean())


class Reconstructor:
    """A checkpoint, loaded once, applied to scenes."""

    def __init__(self, folder: str | Path, device: str | None = None) -> None:
        """device: cpu, cuda or cuda:N; the best of this machine, if None. Raises MachineError."""
        device = best_device() if device is None else require_device(device)
        loaded = kinds.load(folder, device, kind="gslrm")
        self.model, self.recipe, self.device = loaded.model, loaded.recipe, device

    def __call__(self, scene: str | Path) -> Reconstruction:
        """Reconstruct a scene folder from the recipe's number of input views. Raises DataError as `scene_folder`."""
        dataset = open_dataset(scene_folder(Path(scene)), verify=False)
        with tempfile.TemporaryDirectory(prefix="mouselift-") as cache, torch.no_grad():
            batch = Loader(dataset, "test", self.recipe.data, Path(cache)).evaluation_batch(0).to(self.device)
            with autocast(self.device, evaluated_in(self.recipe.train.precision, self.device)):
                gaussians = self.model(batch.input_images, batch.input_cameras)
            rendering = render(gaussians, batch.cameras)
        return Reconstruction(gaussians[0], batch, rendering)


def scene_folder(path: Path) -> Path:
    """The one scene that a folder is or holds. Raises DataError for a file, and for a folder of none or of several."""
    if path.is_file():
        raise DataError(f"{path}: expected a scene folder, got a file — for a picture, name stage 1 with --views too.")
    if not path.is_dir() or (path / CAMERAS_FILE).is_file():
        return path  # where nothing is, opening it says so
    if (path / MANIFEST_FILE).is_file() or listed_splits(path, None) is not None:
        folders = [scene.folder for scene in open_dataset(path, verify=False).scenes.values()]
    else:
        folders = [cameras.parent for cameras in sorted(path.glob(f"[!.]*/{CAMERAS_FILE}"))]
    if not folders:
        raise DataError(
            f"{path}: expected a scene folder with {CAMERAS_FILE}, got a folder without — for a picture, name the "
            "picture itself, and stage 1 with --views."
        )
    if len(folders) > 1:
        choice = named([str(folder) for folder in folders])
        raise DataError(f"{path}: expected one scene, got a dataset of {len(folders)} — name one of them: {choice}.")
    return folders[0]


def imagine(picture: Path, checkpoint_folder: Path, out: Path, device: str | None = None) -> tuple[Path, Path]:
    """Six views of one picture by a stage-1 checkpoint: the scene `out`/views, under the model's own cameras, and
    `out`/views.png: the picture, then the views in slot order.

    device: as for `Reconstructor`. Raises DataError for what is no photo (`photos.check_photo`) and for a view that
    shows nothing, and MachineError.
    """
    from pipeline.data.generate import with_masks  # stage 1 is needed here alone

    device = best_device() if device is None else require_device(device)
    model: Any = kinds.load(checkpoint_folder, device, kind="mvdiffusion").model
    image = read_photo(picture, model.image_size)
    with torch.inference_mode():
        views = model(image[None].to(device), [0])[0].cpu()
    rgba = with_masks(views)
    if not rgba[..., 3].any((1, 2)).all():
        raise DataError(f"{picture}: expected six views that show something, got an empty one — train stage 1 longer.")
    out.mkdir(parents=True, exist_ok=True)
    scene, strip = out / "views", out / "views.png"
    write_scene(scene, rgba, model.rig.cameras)
    write_png(sheet(torch.cat([image[None], views])[None], _ZOOM * model.image_size), strip)
    return scene, strip


def write_outputs(
    result: Reconstruction, out: Path, size: int | None = None, sh_degree: int | None = None
) -> list[Path]:
    """Write `gaussians.ply`, `turntable.mp4`, `turntable.gif` and `comparison.png` to `out`; each file whole.

    size: pixels of the turntable's frames (default: at least 256). sh_degree: of the PLY, as `Gaussians.save_ply`.
    """
    out.mkdir(parents=True, exist_ok=True)
    gaussians = result.gaussians.pruned()
    cameras = turntable_around(result.batch.cameras[0], size or max(256, result.batch.cameras.width))
    frames = render_frames(gaussians, cameras)
    paths = [out / name for name in ("gaussians.ply", "turntable.mp4", "turntable.gif", "comparison.png")]
    gaussians.save_ply(paths[0], sh_degree)
    write_video(frames, paths[1], TURNTABLE_FPS)
    write_gif(frames[::_GIF_EVERY], paths[2])
    write_png(preview(result.batch, result.rendering), paths[3])
    return paths


def turntable_around(cameras: Cameras, size: int, views: int = TURNTABLE_VIEWS) -> Cameras:
    """Cameras once round the origin at the mean distance, elevation and field of view of the given ones [V]."""
    distance = float(cameras.centres.norm(dim=-1).mean())
    elevation = float(torch.asin((cameras.centres[:, 2] / cameras.centres.norm(dim=-1)).clamp(-1, 1)).mean())
    azimuth = torch.linspace(0, 2 * torch.pi, views + 1, dtype=torch.float64)[:-1] - torch.pi / 2
    widest = float(torch.rad2deg(2 * torch.atan(cameras.width / 2 / cameras.fxfycxcy[:, 0])).mean())
    focal = size / 2 / np.tan(np.radians(min(widest, FACELIFT_FOV_DEGREES)) / 2)
    around = circle(azimuth, elevation, distance, float(focal), size)
    return around.to(cameras.c2w.device).to(cameras.c2w.dtype)


def render_frames(gaussians: Gaussians, cameras: Cameras) -> UInt8[np.ndarray, "views height width 3"]:
    """One scene from every camera [V], on white, a few views at a time."""
    with torch.no_grad():
        starts = range(0, len(cameras.c2w), _CHUNK)
        chunks = [pixels_of(render(gaussians, cameras[start : start + _CHUNK]).images) for start in starts]
    return np.concatenate(chunks)


def write_gif(frames: UInt8[np.ndarray, "n height width 3"], path: Path) -> None:
    """A looping GIF, for places that show no video."""
    pictures = [Image.fromarray(frame).quantize(128) for frame in frames]
    pause = round(1000 * _GIF_EVERY / TURNTABLE_FPS)
    with whole(path) as temporary:
        pictures[0].save(temporary, "GIF", save_all=True, append_images=pictures[1:], duration=pause, loop=0)
