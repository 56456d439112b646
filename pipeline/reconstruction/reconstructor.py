"""Trained models at work: one picture to six views; posed views to Gaussians."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pipeline import kinds, metrics
from pipeline.data.batch import Batch
from pipeline.data.foreground import all_shown, cut_out
from pipeline.data.incoming.lists import listed_splits
from pipeline.data.incoming.names import named
from pipeline.data.incoming.photos import read_photo
from pipeline.data.loader import Loader
from pipeline.data.pictures import pixels_of, sheet, write_png
from pipeline.data.scenes import CAMERAS_FILE, MANIFEST_FILE, open_dataset, write_scene
from pipeline.errors import DataError
from pipeline.gaussians import Gaussians
from pipeline.machine.devices import best_device, require_device
from pipeline.precision import autocast, evaluated_in
from pipeline.splatting.rendering import Rendering, render

_ZOOM = 2  # of the small views in a strip


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
    device = best_device() if device is None else require_device(device)
    model: Any = kinds.load(checkpoint_folder, device, kind="mvdiffusion").model
    image = read_photo(picture, model.image_size)
    with torch.inference_mode():
        views = model(image[None].to(device), [0])[0].cpu()
    rgba = cut_out(pixels_of(views))
    if not all_shown(rgba):
        raise DataError(f"{picture}: expected six views that show something, got an empty one — train stage 1 longer.")
    out.mkdir(parents=True, exist_ok=True)
    scene, strip = out / "views", out / "views.png"
    write_scene(scene, rgba, model.rig.cameras)
    write_png(sheet(torch.cat([image[None], views])[None], _ZOOM * model.image_size), strip)
    return scene, strip
