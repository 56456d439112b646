"""Stage 2 as the loop sees it: a model, the loss terms of a batch, previews."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pipeline import checkpoint, losses, vgg
from pipeline.data.batch import Batch
from pipeline.data.loader import Loader
from pipeline.data.pictures import sheet
from pipeline.data.scenes import Dataset
from pipeline.errors import DataError
from pipeline.gaussians import Gaussians
from pipeline.gslrm.evaluate import evaluate, lpips_network, titles_of
from pipeline.gslrm.model import GSLRM
from pipeline.licence import inherited
from pipeline.previews import Preview
from pipeline.pruning import PRUNINGS
from pipeline.recipe import LossConfig, Recipe, gslrm_parts
from pipeline.splatting.rendering import Rendering, draw
from pipeline.stages import Validation
from pipeline.training.processes import World


class GSLRMStage:
    """GS-LRM with the frozen networks its losses need, on one device."""

    def __init__(self, recipe: Recipe, device: torch.device) -> None:
        self.recipe = recipe
        self.device = device
        config, self._loss = gslrm_parts(recipe)
        self.model = GSLRM(config).to(device)
        self.model.freeze(recipe.optim.freeze)
        self._networks = loss_networks(self._loss, device)
        self._lpips = lpips_network(device)

    def loader(self, dataset: Dataset, split: str, cache: Path) -> Loader:
        """Batches of a split. Raises DataError where the losses need what the dataset has not."""
        loader = Loader(dataset, split, self.recipe.data, cache, self.recipe.train.seed)
        check_dataset(self._loss, loader)
        return loader

    def losses(self, batch: Batch, step: int, chance: Sequence[torch.Generator] = ()) -> dict[str, Tensor]:  # noqa: ARG002
        """Every loss term that counts at this optimizer step, unweighted, by its recipe name; nothing is drawn."""
        gaussians = self.model(batch.input_images, batch.input_cameras)
        rendering = draw(gaussians, batch.cameras)
        return {name: self._term(name, rendering, gaussians, batch) for name in self.weights(step)}

    def weights(self, step: int) -> dict[str, float]:
        return losses.weights_at(self._loss, step)

    def pools(self, batch: Batch, step: int) -> Mapping[str, Tensor]:
        """Pixels of the foreground for a masked mse, of what lies around it for background."""
        weights, pixels = self.weights(step), {}
        if self._loss.masked and "mse" in weights:
            pixels["mse"] = (_masks(batch) > losses.FOREGROUND).sum()
        if "background" in weights:
            pixels["background"] = (_masks(batch) < losses.FOREGROUND).sum()
        return pixels

    def updated(self) -> None:
        """Nothing follows an optimizer step."""

    def validate(self, dataset: Dataset, cache: Path, limit: int, world: World) -> Validation:
        """Figures of `val`, with the first scene's picture and Gaussians."""
        evaluation = evaluate(self.model, self.recipe, dataset, "val", cache, self.device, limit, self._lpips, world)
        batch, kept = evaluation.batch, PRUNINGS["default"](evaluation.gaussians[0]).to("cpu")
        shown = Preview(kept, batch.input_cameras[0].to("cpu"), batch.scenes[0])
        return Validation(evaluation, preview(batch, evaluation.rendering), shown.writers)

    def deployed_model(self) -> nn.Module:
        return self.model

    def attachments(self) -> Mapping[str, Any]:
        """The licence of the weights that training started from, where they have one."""
        return inherited(self.recipe.train.init_from)

    def state(self) -> dict[str, Any]:
        return {}

    def resume(self, folder: Path, state: Mapping[str, Any]) -> None:  # noqa: ARG002 — the weights are all there is
        checkpoint.load_weights(self.model, folder)

    def _term(self, name: str, rendering: Rendering, gaussians: Gaussians, batch: Batch) -> Tensor:
        loss = self._loss
        rendered = rendering.images.clamp(0, 1) if loss.clamp else rendering.images
        mask = batch.masks if loss.masked else None
        match name:
            case "mse" | "ssim":
                return getattr(losses, name)(rendered, batch.images, mask)
            case "perceptual" | "lpips":
                return getattr(losses, name)(rendered, batch.images, self._networks[name])
            case "background":
                return losses.background(rendered, _masks(batch))
            case "alpha":
                return losses.alpha(rendering.alphas, _masks(batch))
            case _:
                return self._geometric_term(name, gaussians, batch, mask)

    def _geometric_term(self, name: str, gaussians: Gaussians, batch: Batch, mask: Tensor | None) -> Tensor:
        means = self.model.means_per_pixel(gaussians, batch.input_cameras)
        rays = batch.input_cameras.rays()
        origins, directions = rays.origins.movedim(-1, 2), rays.directions.movedim(-1, 2)
        if name == "pointsdist":
            return losses.pointsdist(means, origins)
        inputs = None if mask is None else mask[:, : batch.num_input_views]
        return losses.pixelalign(means, origins, directions, inputs)


def check_dataset(loss: LossConfig, loader: Loader) -> None:
    """Refuse a dataset that the losses cannot use. Raises DataError."""
    needs = needing_masks(loss)
    if needs and not loader.has_masks:
        raise DataError(
            f"{loader.scenes[0].folder}: expected images with alpha, which {needs[0]} needs, got RGB — "
            f"add masks, or switch {needs[0]} off."
        )


def needing_masks(loss: LossConfig) -> list[str]:
    """The settings of a loss that only images with alpha can serve."""
    return [f"loss.{name}" for name in ("background", "alpha", "masked") if getattr(loss, name)]


def preview(batch: Batch, rendering: Rendering) -> np.ndarray:
    """The first scene as one picture, a column per view: given, rendered, error x3, mask if any, rendered opacity.

    Each view's title says whether it was an input, and its PSNR; input views carry a line below them. uint8 RGB.
    """
    target, rendered = batch.images[0], rendering.images[0].clamp(0, 1)
    error = (1 - 3 * (target - rendered).abs().mean(1, keepdim=True)).clamp(0, 1).expand_as(target)
    opacity = rendering.alphas[0].expand_as(target)
    masks = [] if batch.masks is None else [batch.masks[0].expand_as(target)]
    rows = torch.stack([target, rendered, error, *masks, opacity]).detach().cpu()
    rows[:, : batch.num_input_views, :, -1:] = torch.tensor([0.10, 0.45, 0.85])[:, None, None]
    names = ["given", "rendered", "error x3", *(["mask"] if masks else []), "opacity"]
    return sheet(rows, names=names, titles=titles_of(batch, rendering))


def _masks(batch: Batch) -> Tensor:
    assert batch.masks is not None, "check_dataset was not called"
    return batch.masks


def loss_networks(loss: LossConfig, device: torch.device) -> dict[str, nn.Module]:
    """The frozen networks that some terms need, by the term's name."""
    networks: dict[str, nn.Module] = {}
    if loss.perceptual:
        networks["perceptual"] = vgg.load_perceptual(Path(str(loss.perceptual_weights))).to(device)
    if loss.lpips:
        networks["lpips"] = vgg.load_lpips().to(device)
    return networks
