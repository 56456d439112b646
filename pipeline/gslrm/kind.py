"""GS-LRM when it is not in training: loaded, evaluated, checked. Loading needs no renderer, which is imported late."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn

from pipeline import checkpoint
from pipeline.checkpoint import CheckpointInfo
from pipeline.data.loader import Loader
from pipeline.data.scenes import SPLITS, Dataset
from pipeline.gslrm.facelift import check_weights, network
from pipeline.gslrm.model import GSLRM
from pipeline.progress import Tell, silent
from pipeline.recipe import Recipe, gslrm_parts
from pipeline.stages import Evaluation, Finding, Stage


class GSLRMKind:
    """Stage 2."""

    draws = True

    def train(self, recipe: Recipe, device: torch.device, dataset: Dataset) -> Stage:  # noqa: ARG002
        from pipeline.gslrm.stage import GSLRMStage

        stage = GSLRMStage(recipe, device)
        if recipe.train.init_from is not None:
            checkpoint.load_weights(stage.model, recipe.train.init_from)
        return stage

    def load(self, recipe: Recipe, folder: Path, device: torch.device | str) -> nn.Module:
        weights = checkpoint.read_tensors(folder)
        return network(gslrm_parts(recipe)[0], checkpoint.weights_file(folder), weights).to(device)

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
        from pipeline.gslrm.evaluate import evaluate, lpips_network

        assert isinstance(model, GSLRM)
        device = next(model.parameters()).device
        network = lpips_network(device)
        return evaluate(
            model, recipe, dataset, split, cache, device, limit, network, tell=tell, refine_steps=refine_steps
        )

    def facts(self, info: CheckpointInfo) -> dict[str, str]:  # noqa: ARG002
        return {}

    def check(self, recipe: Recipe, dataset: Dataset | None, cache: Path) -> Iterator[Finding]:
        from pipeline.gslrm.stage import check_dataset, loss_networks, needing_masks

        config, loss = gslrm_parts(recipe)
        if recipe.train.init_from is not None:
            source = recipe.train.init_from
            count = check_weights(config, source, checkpoint.weights_file(source).stat().st_mtime_ns)
            yield Finding("checkpoint keys", f"{count} of {count} in {Path(source).name}")
        if dataset is None:
            return
        networks = loss_networks(loss, torch.device("cpu"))
        if networks:
            yield Finding("loss networks", ", ".join(networks))
        loaders = [Loader(dataset, split, recipe.data, cache) for split in SPLITS]
        scenes = ", ".join(f"{len(loader.scenes)} {split}" for loader, split in zip(loaders, SPLITS, strict=True))
        yield Finding("images", f"scenes: {scenes}; at {recipe.data.image_size} px")
        for loader in loaders:
            check_dataset(loss, loader)
        yield from (Finding("masks", f"{setting} has them") for setting in needing_masks(loss))
