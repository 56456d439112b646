"""GS-LRM when it is not in training: loaded, evaluated, checked. Loading needs no renderer, which is imported late."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from pipeline import checkpoint
from pipeline.data.loader import Loader
from pipeline.data.scenes import SPLITS, Dataset
from pipeline.gslrm.model import GSLRM
from pipeline.recipe import GSLRMConfig, LossConfig, Recipe
from pipeline.stages import Evaluation, Stage


class GSLRMKind:
    """Stage 2."""

    def train(self, recipe: Recipe, device: torch.device, dataset: Dataset) -> Stage:  # noqa: ARG002
        from pipeline.gslrm.stage import GSLRMStage

        stage = GSLRMStage(recipe, device)
        if recipe.train.init_from is not None:
            checkpoint.load_weights(stage.model, recipe.train.init_from)
        return stage

    def load(self, recipe: Recipe, folder: Path, device: torch.device | str) -> nn.Module:
        model = GSLRM(settings_of(recipe)[0])
        checkpoint.load_weights(model, folder / checkpoint.WEIGHTS)
        return model.to(device).eval()

    def evaluate(
        self, model: nn.Module, recipe: Recipe, dataset: Dataset, split: str, cache: Path, limit: int | None = None
    ) -> Evaluation:
        from pipeline.evaluate import evaluate, lpips_network

        assert isinstance(model, GSLRM)
        device = next(model.parameters()).device
        return evaluate(model, recipe, dataset, split, cache, device, limit, lpips_network(device))

    def facts(self, folder: Path) -> dict[str, str]:  # noqa: ARG002
        return {}

    def check(self, recipe: Recipe, dataset: Dataset, cache: Path) -> None:
        from pipeline.gslrm.stage import check_dataset, loss_networks

        config, loss = settings_of(recipe)
        if recipe.train.init_from is not None:
            checkpoint.check_weights(config, recipe.train.init_from)
        loss_networks(loss, torch.device("cpu"))
        for split in SPLITS:
            check_dataset(loss, Loader(dataset, split, recipe.data, cache))


def settings_of(recipe: Recipe) -> tuple[GSLRMConfig, LossConfig]:
    """The parts of a recipe that are of this kind, which its rules have seen to."""
    assert isinstance(recipe.model, GSLRMConfig) and isinstance(recipe.loss, LossConfig)
    return recipe.model, recipe.loss
