"""The two kinds of model, and a checkpoint as a model at work: the only place that knows both stages."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from pipeline import checkpoint
from pipeline.checkpoint import CheckpointInfo
from pipeline.recipe import Recipe
from pipeline.stages import Kind


@dataclass(frozen=True)
class LoadedCheckpoint:
    """A model in evaluation mode, and what the folder that it came from says of itself."""

    model: nn.Module
    info: CheckpointInfo

    @property
    def recipe(self) -> Recipe:
        return self.info.recipe

    @property
    def step(self) -> int:
        return self.info.step

    @property
    def sha256(self) -> str:
        """Of the weights."""
        return self.info.sha256


def load(
    source: str | Path | CheckpointInfo, device: torch.device | str = "cpu", kind: str | None = None
) -> LoadedCheckpoint:
    """Build a checkpoint's model and load its weights strictly. Raises CheckpointError.

    source: a folder, whose files are hashed once, or what `checkpoint.inspect` has said of one, which is taken as
    proof. kind: the only one that will do.
    """
    info = source if isinstance(source, CheckpointInfo) else checkpoint.inspect(source)
    if kind is not None:
        info.expect_kind(kind)
    return LoadedCheckpoint(kind_of(info.recipe).load(info.recipe, info.folder, device), info)


def kind_of(recipe: Recipe) -> Kind:
    """The kind that a recipe's model belongs to; what it needs is imported when this is called."""
    if recipe.model.kind == "gslrm":
        from pipeline.gslrm.kind import GSLRMKind

        return GSLRMKind()
    from pipeline.mvdiffusion.kind import MVDiffusionKind

    return MVDiffusionKind()
