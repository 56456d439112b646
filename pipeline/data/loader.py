"""Scenes to batches: which views, decoded once; compositing is the work of the device they go to.

Decoded frames live in one memory-mapped uint8 file per dataset and size, shared by every trial on a machine.
A batch is a function of (seed, step): a resumed run sees exactly the batches it would have seen.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from pipeline.cameras import Cameras
from pipeline.data.batch import HostBatch
from pipeline.data.pictures import prepare_view
from pipeline.data.scenes import Dataset, Scene, read_image
from pipeline.errors import DataError
from pipeline.files import whole
from pipeline.recipe import DataConfig

# FaceLift asks for p·q >= 0.5 of positions 2.7 away, so its neighbours lie within 86°, not within 60°.
OVERLAP_COSINE = 0.5 / 2.7**2
READING = 2  # raise it when the same files give other frames


class Views(NamedTuple):
    """View indices of one scene: what the model sees, and what its renders are compared with."""

    inputs: tuple[int, ...]
    targets: tuple[int, ...]


class Loader:
    """Batches of one split of a dataset.

    cache: folder for decoded frames. Raises DataError when a scene has too few views, or a file is broken.
    """

    def __init__(self, dataset: Dataset, split: str, config: DataConfig, cache: Path, seed: int = 0) -> None:
        self.config = config
        self.seed = seed
        self.scenes = dataset.split(split)
        self.num_views = len(_shortest(dataset).files)
        _check_views(dataset, config, self.num_views)
        self.held_out, self.inputs = held_out_views(self.num_views, config)
        never = self.held_out if dataset.manifest.held_out_from_training else ()
        self.trainable = tuple(view for view in range(self.num_views) if view not in never)
        if split == "train":
            _check_trainable(dataset, config, self.trainable)
        self._frames = decoded_frames(dataset, config.image_size, cache)
        self._cameras = {s.name: s.cameras.resize(config.image_size, config.image_size) for s in self.scenes}
        if split == "train" and _jitters(config) and not self.has_masks:
            raise DataError(
                f"{self.scenes[0].folder}: expected images with alpha, so that data.brightness and data.contrast "
                "change the foreground alone, got RGB — add masks, or set both to [1.0, 1.0]."
            )

    @property
    def has_masks(self) -> bool:
        return self._frames.has_alpha

    def training_batch(self, step: int, batch_size: int, pieces: int = 1) -> HostBatch:
        """The batch of forward-backward pass `step` (from 0): shuffled anew each epoch, its jitter drawn.

        pieces: of so many a pass is made, where processes share it; `step` then counts pieces.
        """
        picks = [self._shuffled(step * batch_size + i) for i in range(batch_size)]
        generators = [np.random.default_rng((self.seed, 1, step * batch_size + i)) for i in range(batch_size)]
        inputs = self._number_of_inputs(step // pieces)
        views = [self._sample_views(scene, inputs, rng) for scene, rng in zip(picks, generators, strict=True)]
        return self._batch(picks, views, generators)

    def evaluation_batch(self, index: int) -> HostBatch:
        """Scene `index` of the split with its fixed input views first, then its held-out views."""
        return self._batch([self.scenes[index]], [Views(self.inputs, self.held_out)], None)

    def _shuffled(self, index: int) -> Scene:
        epoch, position = divmod(index, len(self.scenes))
        order = np.random.default_rng((self.seed, 0, epoch)).permutation(len(self.scenes))
        return self.scenes[order[position]]

    def _number_of_inputs(self, index: int) -> int:
        """Of all scenes of pass `index`, however many processes share it."""
        most = self.config.num_input_views
        fewest = most if self.config.min_input_views is None else self.config.min_input_views
        return int(np.random.default_rng((self.seed, 2, index)).integers(fewest, most, endpoint=True))

    def _sample_views(self, scene: Scene, inputs: int, rng: np.random.Generator) -> Views:
        rest = self.config.num_views - inputs
        if self.config.view_sampling == "fixed":
            return Views(self.trainable[:inputs], self.trainable[inputs : inputs + rest])
        order = [self.trainable[i] for i in rng.permutation(len(self.trainable))]
        if self.config.view_sampling == "overlap":
            order = order[:inputs] + _overlapping_first(scene.cameras, order[:inputs], order[inputs:])
        return Views(tuple(order[:inputs]), tuple(order[inputs : inputs + rest]))

    def _batch(
        self, scenes: Sequence[Scene], views: Sequence[Views], generators: Sequence[np.random.Generator] | None
    ) -> HostBatch:
        indices = [[*v.inputs, *v.targets] for v in views]
        cameras = [self._cameras[s.name][i] for s, i in zip(scenes, indices, strict=True)]
        mirrored, jitter = (False,) * len(scenes), None
        if generators is not None:
            cameras, mirrored = _turned(cameras, self.config, generators)
            jitter = _jitter(self.config, generators) if _jitters(self.config) else None
        size = self.config.image_size
        stacked = Cameras(torch.stack([c.c2w for c in cameras]), torch.stack([c.fxfycxcy for c in cameras]), size, size)
        return HostBatch(
            frames=torch.from_numpy(self._frames.views([scene.name for scene in scenes], indices)),
            cameras=stacked.to(torch.float32),
            num_input_views=len(views[0].inputs),
            scenes=tuple(scene.name for scene in scenes),
            mirrored=mirrored,
            jitter=jitter,
        )


def held_out_views(num_views: int, config: DataConfig) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """(held-out views, input views) of every evaluation, both spread evenly over the views in order.

    The held-out ones depend on num_held_out_views alone, so recipes with other inputs are scored on the same.
    """
    held_out = _spread(range(num_views), config.num_held_out_views)
    rest = [view for view in range(num_views) if view not in held_out]
    return held_out, _spread(rest, config.num_input_views)


@dataclass(frozen=True)
class Frames:
    """Every view of every scene, premultiplied uint8 [view, 4, size, size], memory-mapped."""

    array: np.ndarray
    starts: dict[str, int]
    has_alpha: bool

    def views(
        self, scenes: Sequence[str], indices: Sequence[Sequence[int]]
    ) -> UInt8[np.ndarray, "scene view channel size size"]:
        """These views of each scene, read in one go; without alpha, only the colours."""
        rows = [[self.starts[scene] + i for i in chosen] for scene, chosen in zip(scenes, indices, strict=True)]
        planes = self.array if self.has_alpha else self.array[:, :3]
        return planes[rows]


def decoded_frames(dataset: Dataset, size: int, cache: Path) -> Frames:
    """The dataset's frames at size×size, decoded into `cache` by the first process that needs them."""
    scenes = [dataset.scenes[name] for name in sorted(dataset.scenes)]
    counts = np.cumsum([0] + [len(scene.files) for scene in scenes])
    starts = {scene.name: int(start) for scene, start in zip(scenes, counts, strict=False)}
    stem = cache / f"planes-{dataset.digest[:16]}-{size}-{READING}"
    opaque, coloured = stem.with_suffix(".rgb.npy"), stem.with_suffix(".rgba.npy")
    if not _is_whole(opaque) and not _is_whole(coloured):
        cache.mkdir(parents=True, exist_ok=True)
        _decode(scenes, counts, size, opaque, coloured)
    has_alpha = coloured.exists()
    return Frames(np.load(coloured if has_alpha else opaque, mmap_mode="r"), starts, has_alpha)


def _is_whole(frames: Path) -> bool:
    """Whether decoded frames are there, and not cut off."""
    try:
        np.load(frames, mmap_mode="r")
    except (OSError, ValueError, EOFError):
        return False
    return True


def _decode(scenes: Sequence[Scene], counts: np.ndarray, size: int, opaque: Path, coloured: Path) -> None:
    """Write the frames whole; the file's name says whether they have alpha. Refuses a mixture of both."""
    shape = (int(counts[-1]), 4, size, size)

    def decode(job: tuple[int, Path, tuple[int, int]]) -> bool:
        index, path, native = job
        image = read_image(path, native)
        frames[index] = prepare_view(image, size).transpose(2, 0, 1)
        return image.mode == "RGBA"

    jobs = [
        (int(start) + i, path, (scene.cameras.width, scene.cameras.height))
        for scene, start in zip(scenes, counts, strict=False)
        for i, path in enumerate(scene.paths)
    ]
    first = read_image(*jobs[0][1:]).mode == "RGBA"
    with whole(coloured if first else opaque) as temporary:
        frames = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.uint8, shape=shape)
        with ThreadPoolExecutor() as pool:
            with_alpha = list(pool.map(decode, jobs))
        if any(with_alpha) and not all(with_alpha):
            path = jobs[with_alpha.index(False)][1]
            raise DataError(f"{path}: expected alpha as in other images of the dataset, got none — add its mask.")
        frames.flush()


def _spread(views: Sequence[int], count: int) -> tuple[int, ...]:
    """`count` of the views, evenly spaced, from the middle of each stretch."""
    return tuple(views[int((i + 0.5) * len(views) / count)] for i in range(count))


def _overlapping_first(cameras: Cameras, inputs: Sequence[int], rest: Sequence[int]) -> list[int]:
    """The other views, those that see what some input sees before those that do not."""
    towards = torch.nn.functional.normalize(cameras.centres, dim=-1)
    seen = (towards @ towards[list(inputs)].mT).amax(-1) >= OVERLAP_COSINE
    return sorted(rest, key=lambda view: not bool(seen[view]))


def _turned(
    cameras: list[Cameras], config: DataConfig, generators: Sequence[np.random.Generator]
) -> tuple[list[Cameras], tuple[bool, ...]]:
    """Cameras of scenes mirrored and turned as wholes, and whether each scene's images must be mirrored too."""
    mirrored = []
    for i, rng in enumerate(generators):
        chosen, angle = rng.random() < 0.5, rng.uniform(0, 2 * math.pi)
        mirrored.append(config.mirror and chosen)
        if mirrored[-1]:
            cameras[i] = cameras[i].mirror()
        if config.rotate:
            cameras[i] = cameras[i].transform(1.0, _about_z(angle))
    return cameras, tuple(mirrored)


def _about_z(angle: float) -> Float[Tensor, "3 3"]:
    c, s = math.cos(angle), math.sin(angle)
    return torch.tensor([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]], dtype=torch.float64)


def _jitter(config: DataConfig, generators: Sequence[np.random.Generator]) -> Float[Tensor, "batch 2"]:
    """Factors of brightness and contrast, one draw per scene."""
    return torch.tensor([[rng.uniform(*config.brightness), rng.uniform(*config.contrast)] for rng in generators])


def _jitters(config: DataConfig) -> bool:
    return (config.brightness, config.contrast) != ((1.0, 1.0), (1.0, 1.0))


def _check_views(dataset: Dataset, config: DataConfig, num_views: int) -> None:
    needed = config.num_input_views + config.num_held_out_views
    if needed > num_views:
        raise DataError(
            f"{_shortest(dataset).folder}: expected at least {needed} views (data.num_input_views "
            f"{config.num_input_views} + data.num_held_out_views {config.num_held_out_views}), got {num_views} — "
            "lower one of them."
        )


def _check_trainable(dataset: Dataset, config: DataConfig, trainable: Sequence[int]) -> None:
    if config.num_views > len(trainable):
        raise DataError(
            f"{_shortest(dataset).folder}: expected at least data.num_views {config.num_views} views to train on, "
            f"got {len(trainable)} — lower data.num_views."
        )


def _shortest(dataset: Dataset) -> Scene:
    return min(dataset.scenes.values(), key=lambda scene: len(scene.files))
