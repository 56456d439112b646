"""Stage 1 when it is not in training: loaded, evaluated, checked."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from pipeline import checkpoint
from pipeline.checkpoint import CheckpointInfo
from pipeline.data.scenes import SPLITS, Dataset
from pipeline.progress import Tell, silent
from pipeline.recipe import (
    DataConfig,
    DenoisingConfig,
    MVDiffusionConfig,
    OptimConfig,
    Recipe,
    TrainConfig,
    mvdiffusion_parts,
)
from pipeline.stages import Evaluation, Finding, Stage


class MVDiffusionKind:
    """Stage 1."""

    draws = False

    def train(self, recipe: Recipe, device: torch.device, dataset: Dataset) -> Stage:
        from pipeline.mvdiffusion.stage import MVDiffusionStage

        return MVDiffusionStage(recipe, device, dataset)

    def load(self, recipe: Recipe, folder: Path, device: torch.device | str) -> nn.Module:
        from pipeline.mvdiffusion.deployed import read_deployed
        from pipeline.mvdiffusion.sampler import sampling_dtype

        sampling, precision = mvdiffusion_parts(recipe)[0].sampling, recipe.train.precision
        return read_deployed(folder, sampling, device, precision, sampling_dtype(recipe, device))

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
        assert not refine_steps, "refused before a model is loaded"
        from pipeline.gslrm.evaluate import lpips_network
        from pipeline.mvdiffusion.deployed import ViewGenerator
        from pipeline.mvdiffusion.evaluate import evaluate

        assert isinstance(model, ViewGenerator)
        lpips = lpips_network(next(model.parameters()).device)
        return evaluate(model, recipe, dataset, split, cache, limit, lpips, tell=tell)

    def facts(self, info: CheckpointInfo) -> dict[str, str]:
        from pipeline.mvdiffusion.deployed import facts_of

        return facts_of(info)

    def check(self, recipe: Recipe, dataset: Dataset | None, cache: Path) -> Iterator[Finding]:
        from pipeline.mvdiffusion.prompts import check_embeddings, make_prompts, read_prompts
        from pipeline.mvdiffusion.stage import chosen_modules
        from pipeline.mvdiffusion.views import ViewSets, rig_of

        if dataset is not None:
            sets = {split: ViewSets(dataset, split, recipe.data, cache) for split in SPLITS}
            scenes = ", ".join(f"{len(found.scenes)} {split}" for split, found in sets.items())
            yield Finding("images", f"scenes: {scenes}; at {recipe.data.image_size} px")
        (config, _), network = mvdiffusion_parts(recipe), _loaded_once(_weights_of(recipe))
        chosen_modules(network.modules, config.trainable)
        start = recipe.train.init_from or config.base
        if start is not None:
            yield Finding("checkpoint keys", f"{network.tensors} of {network.tensors} in {Path(start).name}")
        size = f"{config.num_views} × {network.width}"
        if config.prompts is not None:
            read_prompts(config.prompts, config.num_views, network.width)
            yield Finding("prompt width", f"{size} in {Path(config.prompts).name}")
        elif config.base is not None:
            cameras = None
            if config.prompt_style == "from_camera":
                if dataset is None:
                    return
                cameras = rig_of(dataset, recipe.data).cameras
            made = make_prompts(Path(config.base), config.prompt_style, cameras)
            check_embeddings("model.prompt_style", made.embeddings, config.num_views, network.width)
            yield Finding("prompt width", f"{size} by {config.prompt_style}")


def _weights_of(recipe: Recipe) -> Recipe:
    """The recipe with only that left in it which decides what weights are read: a sweep's trials share them."""
    config, loss = mvdiffusion_parts(recipe)
    kept = MVDiffusionConfig(base=config.base, num_views=config.num_views, scratch=config.scratch)
    data = DataConfig(image_size=recipe.data.image_size, num_views=config.num_views, num_input_views=1)
    train = TrainConfig(max_steps=1, batch_size=1, init_from=recipe.train.init_from)
    asked = DenoisingConfig(prediction=loss.prediction)
    return Recipe(name=recipe.name, model=kept, data=data, loss=asked, optim=OptimConfig(lr=1.0), train=train)


class Network(NamedTuple):
    """What a recipe is held against: the text channels of a UNet, its tensors, and its modules that have weights."""

    width: int
    tensors: int
    modules: tuple[str, ...]


@lru_cache(maxsize=4)
def _loaded_once(recipe: Recipe) -> Network:
    """See that everything a run starts from can be read and fits; what its UNet is like."""
    from pipeline.mvdiffusion.stage import modules_with_weights, starting_pipeline

    pipe = starting_pipeline(recipe)
    if recipe.train.init_from is not None:
        checkpoint.load_weights(pipe.unet, recipe.train.init_from)
    unet = pipe.unet
    width, tensors = int(unet.config.cross_attention_dim), len(unet.state_dict())
    return Network(width, tensors, modules_with_weights(unet))
