"""Stage 1 when it is not in training: loaded, evaluated, checked."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from pipeline import checkpoint
from pipeline.data.scenes import SPLITS, Dataset
from pipeline.recipe import Recipe
from pipeline.stages import Evaluation, Stage


class MVDiffusionKind:
    """Stage 1."""

    def train(self, recipe: Recipe, device: torch.device, dataset: Dataset) -> Stage:
        from pipeline.mvdiffusion.stage import MVDiffusionStage

        return MVDiffusionStage(recipe, device, dataset)

    def load(self, recipe: Recipe, folder: Path, device: torch.device | str) -> nn.Module:
        from pipeline.mvdiffusion.release import read_release
        from pipeline.mvdiffusion.stage import settings_of

        return read_release(folder, settings_of(recipe)[0].sampling, device)

    def evaluate(
        self, model: nn.Module, recipe: Recipe, dataset: Dataset, split: str, cache: Path, limit: int | None = None
    ) -> Evaluation:
        from pipeline.evaluate import lpips_network
        from pipeline.mvdiffusion.evaluate import evaluate
        from pipeline.mvdiffusion.release import ViewGenerator

        assert isinstance(model, ViewGenerator)
        return evaluate(model, recipe, dataset, split, cache, limit, lpips_network(next(model.parameters()).device))

    def facts(self, folder: Path) -> dict[str, str]:
        from pipeline.mvdiffusion.release import facts_of

        return facts_of(folder)

    def check(self, recipe: Recipe, dataset: Dataset, cache: Path) -> None:
        from pipeline.mvdiffusion.stage import prompts_of, settings_of, starting_pipeline
        from pipeline.mvdiffusion.views import ViewSets, rig_of

        config, _ = settings_of(recipe)
        for split in SPLITS:
            ViewSets(dataset, split, recipe.data, cache)
        pipe = starting_pipeline(recipe)
        prompts_of(config, pipe, rig_of(dataset, recipe.data))
        if recipe.train.init_from is not None:
            checkpoint.load_weights(pipe.unet, recipe.train.init_from)
