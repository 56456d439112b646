"""What a version holds: one checkpoint, or a pair of them; how each is proven and scored."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline import checkpoint
from pipeline.checkpoint import CheckpointInfo
from pipeline.data.scenes import Dataset
from pipeline.errors import CheckpointError
from pipeline.progress import Tell, silent
from pipeline.recipe import DataConfig, Precision, Recipe
from pipeline.reconstruction.models import GAUSSIANS, VIEWS, Pair, is_pair, read_pair

if TYPE_CHECKING:
    from pipeline.reconstruction.evaluate import PairEvaluation


@dataclass(frozen=True)
class PairInfo:
    """A pair's folder, and the proof that every hash of both checkpoints was compared with its file."""

    pair: Pair
    views: CheckpointInfo
    gaussians: CheckpointInfo

    @property
    def folder(self) -> Path:
        return self.pair.folder

    @property
    def sha256(self) -> str:
        return self.pair.sha256

    @property
    def step(self) -> int:
        return self.gaussians.step

    @property
    def recipe(self) -> Recipe:
        """Of GS-LRM, whose Gaussians are what is scored."""
        return self.gaussians.recipe

    @property
    def scored(self) -> DataConfig:
        """How a scene's views are put into slots for its figures, at the size of GS-LRM's."""
        return replace(self.views.recipe.data, image_size=self.gaussians.recipe.data.image_size, background="white")


Held = CheckpointInfo | PairInfo


def inspect(folder: Path) -> Held:
    """What a folder holds, each file hashed once. Raises CheckpointError."""
    if not is_pair(folder):
        return checkpoint.inspect(folder)
    found = PairInfo(read_pair(folder), checkpoint.inspect(folder / VIEWS), checkpoint.inspect(folder / GAUSSIANS))
    for said, info in ((found.pair.views, found.views), (found.pair.gaussians, found.gaussians)):
        if said.sha256 != info.sha256:
            wanted, came = said.sha256[:12], info.sha256[:12]
            raise CheckpointError(f"{info.folder}: expected weights {wanted} of the pair, got {came} — pull it again.")
    return found


def kind_name(held: Held) -> str:
    """The kind of a checkpoint's model, or `pair`."""
    return "pair" if isinstance(held, PairInfo) else held.recipe.model.kind


def score_pair(
    info: PairInfo,
    data: DataConfig,
    dataset: Dataset,
    split: str,
    cache: Path,
    device: str,
    precision: Precision | None = None,
    tell: Tell = silent,
    refine_steps: int = 0,
) -> PairEvaluation:
    """A pair's figures end to end. data: how views are put into slots, and the size of the figures."""
    from pipeline.reconstruction.evaluate import evaluate_pair  # what draws is needed here alone
    from pipeline.reconstruction.models import load_gaussians, load_views
    from pipeline.reconstruction.reconstructor import Reconstructor

    gaussians = load_gaussians(info.folder, device)
    if precision is not None:
        train = replace(gaussians.recipe.train, precision=precision)
        gaussians = replace(gaussians, recipe=replace(gaussians.recipe, train=train))
    views, given = load_views(info.folder, device), info.pair.given
    pair = Reconstructor(gaussians, views, device, given=given, refine_steps=refine_steps)
    return evaluate_pair(pair, data, dataset, split, cache, tell=tell)
