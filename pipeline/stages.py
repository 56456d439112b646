"""The types by which the rest of the house knows the two stages: training, evaluation, what a checkpoint holds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor, nn

from pipeline.checkpoint import CheckpointInfo
from pipeline.data.batch import Batch
from pipeline.data.loader import Loader
from pipeline.data.scenes import Dataset
from pipeline.metrics import Protocol as MetricsProtocol
from pipeline.progress import Tell, silent
from pipeline.recipe import Recipe
from pipeline.training.processes import World


@dataclass(frozen=True)
class Evaluation:
    """Figures of one model on one split.

    metrics: `<split>/psnr` and so on for held-out views, `<split>/input/…` for input views, means over scenes;
    scenes: the same per scene, under plain names.
    """

    metrics: dict[str, float]
    protocol: MetricsProtocol
    scenes: list[dict[str, float | str]]


@dataclass(frozen=True)
class Validation:
    """An evaluation, the picture that shows it, and what a checkpoint of that step keeps of it: file name -> how it is
    written, by a thread, while training goes on.
    """

    evaluation: Evaluation
    picture: UInt8[np.ndarray, "height width 3"]
    attachments: Mapping[str, Any]


class Stage(Protocol):
    """A model in training, with the frozen networks it needs, on one device."""

    @property
    def model(self) -> nn.Module:
        """What the optimizer trains."""

    def loader(self, dataset: Dataset, split: str, cache: Path) -> Loader:
        """Batches of a split; refuses a dataset that the stage cannot train on."""

    def losses(self, batch: Batch, step: int, chance: Sequence[torch.Generator]) -> dict[str, Tensor]:
        """Every term that counts at this optimizer step, unweighted; a scene's chance comes from its generator."""

    def pools(self, batch: Batch, step: int) -> Mapping[str, Tensor]:
        """For each term that is a mean over some pixels of the batch: how many they are, on the batch's device.

        The same terms in every batch of a step; those that are not named are means over scenes.
        """

    def weights(self, step: int) -> dict[str, float]:
        """What each of those terms counts."""

    def updated(self) -> None:
        """Called after each step that the optimizer has taken."""

    def validate(self, dataset: Dataset, cache: Path, limit: int, world: World) -> Validation:
        """Figures of the first so many scenes of `val`, the same in every process; the picture is the leader's."""

    def deployed_model(self) -> nn.Module:
        """The model, as it is at this step, whose weights a checkpoint holds under FaceLift's names. They may be those
        of the training itself, which its next step changes: copy them before.
        """

    def attachments(self) -> Mapping[str, Any]:
        """What every checkpoint holds beside weights: file or folder name -> how it is written, by a thread, while
        training goes on.
        """

    def state(self) -> dict[str, Any]:
        """What training goes on from, beside the deployed weights and the optimizer. The caller copies it at once."""

    def resume(self, folder: Path, state: Mapping[str, Any]) -> None:
        """Take up a checkpoint of the same recipe."""


class Finding(NamedTuple):
    """One thing that was looked into before training, by its name, and what was found."""

    check: str
    found: str


class Kind(Protocol):
    """What can be done with a kind of model that is not in training."""

    draws: bool  # whether it makes Gaussians; its training draws them, for which a GPU needs kernels of gsplat's

    def train(self, recipe: Recipe, device: torch.device, dataset: Dataset) -> Stage:
        """A stage about to train, with the weights that the recipe starts from."""

    def load(self, recipe: Recipe, folder: Path, device: torch.device | str) -> nn.Module:
        """The model of a checkpoint folder in evaluation mode; its weights strictly. Raises CheckpointError."""

    def evaluate(
        self,
        model: nn.Module,
        recipe: Recipe,
        dataset: Dataset,
        split: str,
        cache: Path,
        limit: int | None = None,
        tell: Tell = silent,
        refine_steps: int = 0,
    ) -> Evaluation:
        """Score a loaded model on a split, where it is. tell: hears of each scene. refine_steps: of Gaussians on their
        input views, of a kind that draws.
        """

    def facts(self, info: CheckpointInfo) -> dict[str, str]:
        """What a checkpoint says of its model that a registry should tell: such as its rig. Hashes no file."""

    def check(self, recipe: Recipe, dataset: Dataset | None, cache: Path) -> Iterator[Finding]:
        """Look into weights, files and data; raise what would have stopped the training before its first step.

        Without a dataset: only what can be told without one.
        """
