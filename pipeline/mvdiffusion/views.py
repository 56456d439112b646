"""Scenes as sets of views: which view stands in which slot, the rig that labels the slots, and the framing."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from pipeline.cameras import Cameras
from pipeline.config import one_line
from pipeline.data.batch import HostBatch
from pipeline.data.loader import Loader, Views
from pipeline.data.photo.framing import Framing
from pipeline.data.rings import ring_order, slots
from pipeline.data.scenes import Dataset, Scene
from pipeline.errors import CheckpointError, DataError
from pipeline.files import write_whole
from pipeline.recipe import DataConfig
from pipeline.text.json_file import read_json

_GREYS = (1.0, 0.0, 0.5)
_FRAMED_VIEWS = 256  # are enough for a mean and its bounds, and are read in seconds


class ViewSets(Loader):
    """Batches whose views stand in slot order, the reference in slot 0 and the only input.

    Raises DataError for scenes with other than data.num_views views, and where there is only one scene: its other
    views cannot be kept from training.
    """

    def __init__(self, dataset: Dataset, split: str, config: DataConfig, cache: Path, seed: int = 0) -> None:
        if dataset.manifest.held_out_from_training:
            raise DataError(
                f"{dataset.root}: expected a dataset of several scenes, got one, whose views are all shown in "
                "training — name a dataset."
            )
        for scene in dataset.split(split):
            if len(scene.files) != config.num_views:
                raise DataError(
                    f"{scene.folder}: expected data.num_views {config.num_views} views, one for each slot, got "
                    f"{len(scene.files)} — choose scenes of as many views."
                )
        super().__init__(dataset, split, config, cache, seed)
        if config.background != "white" and not self.has_masks:
            raise DataError(
                f"{self.scenes[0].folder}: expected images with alpha, which data.background {config.background} "
                "needs, got RGB — add masks, or set it to white."
            )
        rings = [_ring(dataset, scene, config) for scene in self.scenes]
        self._rings = {scene.name: ring for scene, ring in zip(self.scenes, rings, strict=True)}
        first = slots_of(rings[0], config)
        self.inputs, self.held_out = first[:1], first[1:]

    def order(self, scene: Scene) -> tuple[int, ...]:
        """A scene's views in slot order, from the fixed reference."""
        return slots_of(self._rings[scene.name], self.config)

    def evaluation_batch(self, index: int) -> HostBatch:
        """Scene `index` of the split, seen from the fixed reference."""
        order = self.order(self.scenes[index])
        return self._batch([self.scenes[index]], [Views(order[:1], order[1:])], None)

    def _sample_views(self, scene: Scene, inputs: int, rng: np.random.Generator) -> Views:
        ring = self._rings[scene.name]
        order = slots_of(ring, self.config)
        if self.config.view_sampling == "ring_random":
            order = slots(ring, int(rng.choice(ring)))
        return Views(order[:inputs], order[inputs:])

    def _batch(
        self, scenes: Sequence[Scene], views: Sequence[Views], generators: Sequence[np.random.Generator] | None
    ) -> HostBatch:
        batch = super()._batch(scenes, views, generators)
        if generators is None or self.config.background == "white":
            return batch
        return replace(batch, background=torch.stack([_colour(self.config.background, rng) for rng in generators]))


def _ring(dataset: Dataset, scene: Scene, config: DataConfig) -> tuple[int, ...]:
    if config.view_sampling == "fixed":
        return tuple(range(len(scene.files)))
    return dataset.manifest.view_order or ring_order(scene.cameras)


def slots_of(ring: Sequence[int], config: DataConfig) -> tuple[int, ...]:
    """The views in slot order from the fixed reference: the ring's first, or the files as they are."""
    return tuple(ring) if config.view_sampling == "fixed" else slots(ring, ring[0])


def _colour(background: str, rng: np.random.Generator) -> Tensor:
    """One colour for all views of an object."""
    grey = [_GREYS[rng.integers(len(_GREYS))]] * 3
    return torch.tensor(grey if background == "three_choices" else rng.random(3).tolist())


# ---------------------------------------------------------------- the rig


@dataclass(frozen=True)
class Rig:
    """The cameras that the slots of a model stand for, [V] in slot order at the model's image size.

    name: of the dataset's rig; spread_px: how far its scenes put the origin's neighbourhood apart, 0 where they share
    their cameras.
    """

    name: str
    cameras: Cameras
    spread_px: float


def rig_of(dataset: Dataset, config: DataConfig) -> Rig:
    """What views generated by a model that was trained on this dataset must be labelled with."""
    scenes = dataset.split("train")
    orders = [list(slots_of(_ring(dataset, scene, config), config)) for scene in scenes]
    rigs = [
        scene.cameras.resize(config.image_size, config.image_size)[order]
        for scene, order in zip(scenes, orders, strict=True)
    ]
    corners = torch.tensor([[x, y, z] for x in (-0.5, 0.5) for y in (-0.5, 0.5) for z in (-0.5, 0.5)]).double()
    pixels = torch.stack([rig.to(torch.float64).project(corners.expand(len(rig.c2w), 8, 3))[0] for rig in rigs])
    away = (pixels - pixels.mean(0)).norm(dim=-1).amax((1, 2))
    nearest = int(away.argmin())
    return Rig(dataset.manifest.rig or dataset.name, rigs[nearest], float(away.max()))


def write_rig(rig: Rig, path: Path) -> None:
    """Write a rig whole, as JSON."""
    size = {"width": rig.cameras.width, "height": rig.cameras.height}
    numbers = {"c2w": rig.cameras.c2w.double().tolist(), "fxfycxcy": rig.cameras.fxfycxcy.double().tolist()}
    write_whole(path, json.dumps({"name": rig.name, "spread_px": rig.spread_px, **size, **numbers}))


def read_rig(path: Path) -> Rig:
    """Raises CheckpointError when the file is missing or damaged."""
    values = read_json(path, CheckpointError)
    try:
        c2w, fxfycxcy = (torch.tensor(values[key], dtype=torch.float64) for key in ("c2w", "fxfycxcy"))
        cameras = Cameras(c2w, fxfycxcy, int(values["width"]), int(values["height"]))
        return Rig(str(values["name"]), cameras, float(values["spread_px"]))
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: expected a model's rig, got {one_line(error)} — save it again.") from None


# ---------------------------------------------------------------- the framing


def framing_of(dataset: Dataset, config: DataConfig) -> Framing | None:
    """How much of the frame the object fills in the views that a model of this dataset is shown; None without masks.

    Of a large dataset, some of its views, evenly spread.
    """
    shown = [
        (scene, view) for scene in dataset.split("train") for view in _references(_ring(dataset, scene, config), config)
    ]
    step = math.ceil(len(shown) / _FRAMED_VIEWS)
    images = [scene.image(view) for scene, view in shown[::step]]
    if any(image.mode != "RGBA" for image in images):
        return None
    return Framing.measured(np.asarray(image.getchannel("A")) for image in images)


def _references(ring: Sequence[int], config: DataConfig) -> tuple[int, ...]:
    """The views of a scene that training shows the model."""
    return tuple(ring) if config.view_sampling == "ring_random" else slots_of(ring, config)[:1]


def write_framing(framing: Framing, path: Path) -> None:
    """Write a framing whole, as JSON."""
    write_whole(path, json.dumps(asdict(framing)))


def read_framing(path: Path) -> Framing:
    """Raises CheckpointError when the file is missing or damaged."""
    try:
        return TypeAdapter(Framing).validate_python(read_json(path, CheckpointError))
    except ValidationError as error:
        raise CheckpointError(f"{path}: expected a model's framing, got {one_line(error)} — save it again.") from None
