"""Stage 2 as the loop sees it: a model, the loss terms of a batch, previews."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pipeline import losses, vgg
from pipeline.data.loader import Batch, Loader
from pipeline.errors import DataError
from pipeline.gaussians import Gaussians
from pipeline.gslrm.model import GSLRM
from pipeline.recipe import LossConfig, Recipe
from pipeline.render import Rendering, render


class GSLRMStage:
    """GS-LRM with the frozen networks its losses need, on one device."""

    def __init__(self, recipe: Recipe, device: torch.device) -> None:
        self.recipe = recipe
        self.device = device
        self.model = GSLRM(recipe.model).to(device)
        self.model.freeze(recipe.optim.freeze)
        self._networks = _loss_networks(recipe, device)

    def losses(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """Every loss term that counts at this optimizer step, unweighted, by its recipe name."""
        gaussians = self.model(batch.input_images, batch.input_cameras)
        rendering = render(gaussians, batch.cameras)
        return {
            name: self._term(name, rendering, gaussians, batch) for name in losses.weights_at(self.recipe.loss, step)
        }

    def _term(self, name: str, rendering: Rendering, gaussians: Gaussians, batch: Batch) -> Tensor:
        loss = self.recipe.loss
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

    @torch.no_grad()
    def reconstruct(self, batch: Batch) -> tuple[Gaussians, Rendering]:
        """Gaussians of the batch's input views, and renders of all its views."""
        gaussians = self.model(batch.input_images, batch.input_cameras)
        return gaussians, render(gaussians, batch.cameras)


def check_dataset(loss: LossConfig, loader: Loader) -> None:
    """Refuse a dataset that the losses cannot use. Raises DataError."""
    needs = [name for name in ("background", "alpha") if getattr(loss, name)] + ["masked"] * loss.masked
    if needs and not loader.has_masks:
        raise DataError(
            f"{loader.scenes[0].folder}: expected images with alpha, which loss.{needs[0]} needs, got RGB — "
            f"add masks, or switch loss.{needs[0]} off."
        )


def preview(batch: Batch, rendering: Rendering) -> np.ndarray:
    """The first scene as one picture, a column per view: target, render, error ×3, mask, rendered opacity.

    Input views carry a line below them. uint8 RGB, at least 96 px per view.
    """
    target, rendered = batch.images[0], rendering.images[0].clamp(0, 1)
    error = (1 - 3 * (target - rendered).abs().mean(1, keepdim=True)).clamp(0, 1).expand_as(target)
    opacity = rendering.alphas[0].expand_as(target)
    mask = torch.ones_like(target) if batch.masks is None else batch.masks[0].expand_as(target)
    rows = torch.stack([target, rendered, error, mask, opacity]).detach().cpu()
    rows[:, : batch.num_input_views, :, -1:] = torch.tensor([0.10, 0.45, 0.85])[:, None, None]
    zoom = max(1, -(-96 // rows.shape[-1]))
    picture = rows.permute(0, 3, 1, 4, 2).flatten(2, 3).flatten(0, 1)
    picture = picture.repeat_interleave(zoom, 0).repeat_interleave(zoom, 1)
    return (picture * 255).round().byte().numpy()


def _masks(batch: Batch) -> Tensor:
    assert batch.masks is not None, "check_dataset was not called"
    return batch.masks


def _loss_networks(recipe: Recipe, device: torch.device) -> dict[str, torch.nn.Module]:
    networks: dict[str, torch.nn.Module] = {}
    if recipe.loss.perceptual:
        networks["perceptual"] = vgg.load_perceptual(Path(str(recipe.loss.perceptual_weights))).to(device)
    if recipe.loss.lpips:
        networks["lpips"] = vgg.load_lpips().to(device)
    return networks
